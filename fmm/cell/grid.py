"""The grid of root boxes that fills a cell: of one shape, as near to cubes as the cell allows.

Expansions converge as they do in cubes only if boxes are about as long as wide, so a long cell is
cut into several root boxes, and of a skewed lattice a cell of up to four times the volume is taken
whose angles are nearer to right ones. Geometry only.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product

import numpy as np

from multipoles.lattice.cell import Cell, cell_of

#: Most root boxes: those of a level meet each other by a matrix for every difference of places.
MOST_BOXES = 150
# half the diagonal of boxes over half the distance of the nearest that do not touch: sqrt(3)/2 of
# cubes; above one expansions need not converge
_CUBE, _WORST = 3**0.5 / 2, 1.0
# how much worse this may be for a cell of a copy less
_COPY = 0.03
# and of half as many boxes
_BOXES = 0.015
_COPIES = 4
# where boxes begin, in boxes: off the planes of lattices, since points in corners make the largest
# errors
_OFFSET = np.array([-0.0131, -0.0173, -0.0117])
# of a cell, within which two points may be one
_NEXT = 1e-12
# of a box, that free directions reach beyond the points
_MARGIN = 0.01


class NoGrid(ValueError):
    """Boxes of a cell do not serve the fast multipole method; other sums can do what is asked."""


@dataclass(frozen=True, eq=False)
class CellGrid:
    """Root boxes of a cell, and where they lie.

    Parameters
    ----------
    cell : Cell
        The reduced cell of the lattice.
    vectors : ndarray, shape (3, 3)
        Lattice vectors of the cell that is cut into boxes, then, along what is free, the vectors of
        all boxes together.
    counts : tuple of int
        Boxes along each.
    origin : ndarray, shape (3,)
        Corner of the first.
    copies : ndarray, shape (n_copies, 3)
        Lattice vectors whose images of the reduced cell make up this one; the first is zero.
    multiple : int
        How many times as many boxes there are as in the coarsest grid.
    """

    cell: Cell
    vectors: np.ndarray
    counts: tuple[int, int, int]
    origin: np.ndarray
    copies: np.ndarray
    multiple: int = 1

    @property
    def n_periodic(self) -> int:
        """How many directions repeat."""
        return self.cell.n_periodic

    @cached_property
    def box(self) -> np.ndarray:
        """Vectors of a root box as rows."""
        rows: np.ndarray = self.vectors / np.array(self.counts)[:, None]
        return rows

    @cached_property
    def edge(self) -> float:
        """Edge of a cube of the volume of root boxes: the unit of their expansions."""
        rows = self.box
        if np.array_equal(rows, rows[0, 0] * np.eye(3)) and rows[0, 0] > 0:
            return float(rows[0, 0])
        return float(abs(np.linalg.det(rows)) ** (1 / 3))

    @cached_property
    def shape(self) -> np.ndarray:
        """Vectors of a root box in units of `edge`."""
        rows: np.ndarray = self.box / self.edge
        return rows

    @cached_property
    def is_cubic(self) -> bool:
        """Whether boxes are cubes along the axes, of edge `edge`."""
        return np.array_equal(self.shape, np.eye(3))

    @cached_property
    def least_height(self) -> float:
        """Least distance of opposite faces of a root box."""
        return float(1 / np.linalg.norm(np.linalg.inv(self.box), axis=0).max())

    @cached_property
    def lattice(self) -> np.ndarray:
        """What the image of a box is moved by, for each whole number: zero along what is free."""
        rows = self.vectors.copy()
        rows[self.n_periodic :] = 0.0
        return rows

    @cached_property
    def periods(self) -> np.ndarray:
        """Boxes after which each direction repeats; zero along what is free."""
        periods = np.array(self.counts)
        periods[self.n_periodic :] = 0
        return periods

    def placed(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """Return points moved into the cell, coordinates in it, and whether some may be images.

        Points that lie in the cell stay as they are, to the last bit. No two of those from 0 to 1
        along what repeats are images of each other.
        """
        wide = np.asarray(points, np.float64)
        inverse, d = np.linalg.inv(self.vectors), self.n_periodic
        fraction = (wide - self.origin) @ inverse
        steps = -np.floor(fraction)
        steps[:, d:] = 0.0
        inside = np.clip(fraction + steps, 0.0, 1.0 - 2.0**-50)
        if not steps.any():
            return wide, inside, False
        given = fraction[:, :d] + (self.origin @ inverse)[:d]
        apart = given.min() >= 0 and given.max() < 1 - _NEXT
        return wide + steps @ self.vectors, inside, not apart

    def finer(self, multiple: int) -> "CellGrid":
        """Return the grid with so many times as many boxes along each direction."""
        a, b, c = (multiple * count for count in self.counts)
        given = self.cell, self.vectors, (a, b, c), self.origin, self.copies
        return CellGrid(*given, self.multiple * multiple)


def grid_of(cell: Cell, *points: np.ndarray) -> CellGrid:
    """Return the coarsest grid of a cell that holds some points.

    Raises
    ------
    NoGrid
        If boxes cannot be made near enough to cubes, or are too many.
    """
    d = cell.n_periodic
    made = _cut(cell.vectors[:d].tobytes(), d)
    vectors, counts, copies = made
    boxes = vectors / np.array(counts)[:, None]
    origin = _OFFSET[:d] @ boxes
    across = cell.vectors[d:]
    if d < 3:
        length = float(np.exp(np.log(np.linalg.norm(boxes, axis=1)).mean()))
        along = np.concatenate([p @ across.T for p in points if len(p)] or [np.zeros((1, 3 - d))])
        low, high = along.min(axis=0), along.max(axis=0)
        number = np.maximum(np.ceil((high - low) / length + 2 * _MARGIN), 1).astype(int)
        slack = number * length - (high - low)
        vectors = np.concatenate([vectors, across * (number * length)[:, None]])
        counts = counts + tuple(number.tolist())
        origin = origin + (low - 0.5 * slack) @ across
    if np.prod(counts) > MOST_BOXES:
        raise NoGrid(
            f"cell: cut into boxes about as long as wide it has {' x '.join(map(str, counts))} of "
            f"them, expected {MOST_BOXES} at most: its directions are too different for the fast "
            "multipole method; use fmm.Mesh or multipoles.field"
        )
    a, b, c = counts
    return CellGrid(cell, vectors, (a, b, c), origin, copies)


@lru_cache(maxsize=16)
def _cut(rows: bytes, d: int) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
    """Return vectors of a cell of the lattice, how they are cut into boxes, and its copies."""
    reduced = np.frombuffer(rows).reshape(d, 3)
    best: tuple[float, np.ndarray, tuple[int, ...], np.ndarray] | None = None
    for index in range(1, _COPIES + 1):
        if best is not None and best[0] <= _CUBE + _COPY * (index - 1):
            break
        for choice in _sublattices(d, index):
            vectors = choice @ reduced
            if index > 1:
                vectors = _reduced(vectors, d)
            for counts in _divisions(vectors):
                boxes = vectors / np.array(counts)[:, None]
                worst = _slowness(boxes) + _COPY * (index - 1) + _BOXES * np.log2(np.prod(counts))
                if best is None or worst < best[0] - 1e-9:
                    best = worst, vectors, counts, _images_inside(vectors, reduced, index)
    assert best is not None
    if _slowness(best[1] / np.array(best[2])[:, None]) > _WORST:
        raise NoGrid(
            "cell: expected one that can be cut into boxes about as long as wide, got one whose "
            "boxes are so skewed that expansions do not converge; use fmm.Mesh or multipoles.field"
        )
    return best[1:]


def _sublattices(d: int, index: int) -> list[np.ndarray]:
    """Return a basis of every lattice of `index` times the volume (Hermite normal forms)."""
    found = []
    for diagonal in product(range(1, index + 1), repeat=d):
        if np.prod(diagonal) != index:
            continue
        below = [(i, j) for i in range(d) for j in range(i)]
        for values in product(*(range(diagonal[j]) for _, j in below)):
            matrix = np.diag(diagonal).astype(np.float64)
            for (i, j), value in zip(below, values, strict=True):
                matrix[i, j] = value
            found.append(matrix)
    return found


def _reduced(vectors: np.ndarray, d: int) -> np.ndarray:
    """Return the shortest vectors of a lattice."""
    rows = np.zeros((3, 3))
    rows[:d] = vectors
    return cell_of(rows, tuple(i < d for i in range(3))).vectors[:d]


def _divisions(vectors: np.ndarray) -> list[tuple[int, ...]]:
    """Return ways to cut vectors into pieces of about one length: few pieces."""
    lengths = np.linalg.norm(vectors, axis=1)
    found: list[tuple[int, ...]] = []
    for pieces in (1, 2, 3):
        counts = np.maximum(np.round(pieces * lengths / lengths.min()), 1).astype(int)
        counts //= np.gcd.reduce(counts)
        entry = tuple(counts.tolist())
        if entry not in found and (not found or np.prod(counts) <= 64):
            found.append(entry)
    return found


def _slowness(boxes: np.ndarray) -> float:
    """Return half the diagonal of boxes over half the distance of the nearest that do not touch."""
    d = len(boxes)
    if d < 3:
        # what is free is cut at right angles, into lengths like these
        length = np.exp(np.log(np.linalg.norm(boxes, axis=1)).mean())
        normal = np.linalg.svd(boxes)[2][d:]
        boxes = np.concatenate([boxes, length * normal])
    signs = np.array(list(product((-1, 1), repeat=3)))
    codes = np.array([c for c in product(range(-3, 4), repeat=3) if max(map(abs, c)) > 1])
    diagonal = np.linalg.norm(signs @ boxes, axis=1).max()
    return float(diagonal / np.linalg.norm(codes @ boxes, axis=1).min())


def _images_inside(vectors: np.ndarray, reduced: np.ndarray, index: int) -> np.ndarray:
    """Return the lattice vectors that lie in a cell of `index` times the volume, zero first."""
    span = range(-_COPIES, _COPIES + 1)
    steps = np.array(list(product(span, repeat=len(reduced))), np.float64) @ reduced
    fraction = np.linalg.lstsq(vectors.T, steps.T, rcond=None)[0].T
    inside = ((fraction > -1e-9) & (fraction < 1 - 1e-9)).all(axis=1)
    found = steps[inside]
    found = found[np.argsort((found**2).sum(axis=1), kind="stable")]
    assert len(found) == index
    found[0] = 0.0
    return found
