"""Plane waves of boxes: the structure factors of moments, and fields made of waves.

Every system of a batch has a box and waves of its own, numbered by three whole numbers m: all of
no more than some length, one of m and -m. Points come in fractional coordinates u, moments and
fields as derivatives by these (`wave_loops`).

    structure factor   S_m = Σ_j exp(-2πi m·u_j) Σ_γ (-2πi m)^γ M_jγ
    synthesis          Φ_γ(u) = Re Σ_m c_m (2πi m)^γ exp(2πi m·u)

Each is the adjoint of the other, and their derivatives by u are the same with an order more.
"""

from functools import cached_property, lru_cache
from itertools import accumulate, pairwise

import numpy as np

from multipoles import indexing
from multipoles.compiled.jit import get_num_threads, run_chunks
from multipoles.lattice import wave_loops
from multipoles.lattice.rows import by_system
from multipoles.layout import aligned
from multipoles.polynomials import monomial_matrices

_FLOAT = np.dtype(np.float64)
# numbers of a block of points
_PHASES = 2e5


class Waves:
    """The waves of all systems of a batch, one after another.

    Parameters
    ----------
    limits : array_like of int, shape (n_systems, 3)
        Greatest numbers along each axis.
    inverses : ndarray, shape (n_systems, 3, 3)
        Of each box, u = x @ inverse.
    longest : float
        Length of the longest wave; infinite for all within the limits.
    """

    def __init__(self, limits: np.ndarray, inverses: np.ndarray, longest: float = np.inf) -> None:
        self.limits = np.ascontiguousarray(limits, np.int64)
        self.inverses = np.ascontiguousarray(inverses)
        a, b, _ = self.limits.T + 1
        starts = np.concatenate([[0], np.cumsum(a * b)])
        self._depth = np.full(int(starts[-1]), -1, np.int64)
        # a number behind each box takes what has no place
        self._sizes = np.prod(2 * self.limits + 1, axis=1) + 1
        self._starts = np.stack([starts, np.zeros_like(starts)], axis=1)
        given = self.limits, self.inverses, float(longest), self._depth, self._starts
        self._starts_known: dict[int, np.ndarray] = {}
        self._longest_table = int((2 * self.limits + 1).sum(axis=1).max())
        #: m of all waves (n_waves, 3), and where those of each system start, (n_systems + 1,)
        self.numbers, self._places, self.ends = wave_loops.list_waves(*given)

    @cached_property
    def vectors(self) -> np.ndarray:
        """Wave vectors k = 2π inverse m, (n_waves, 3)."""
        numbers = self.numbers.astype(np.float64)
        return 2 * np.pi * by_system(numbers, self.inverses, self.ends, transposed=True)

    @property
    def systems(self) -> np.ndarray:
        """The system of each wave."""
        return np.repeat(np.arange(len(self.limits)), np.diff(self.ends))

    def structure_factors(self, u: np.ndarray, moments: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Return the structure factors of moments, complex, (channels, n_waves).

        Parameters
        ----------
        u : ndarray, shape (n, 3)
            Fractional coordinates, system after system.
        moments : ndarray, shape (n, channels, n_components(K))
            In fractional coordinates, see `fractional_moments`.
        ends : ndarray of int, shape (n_systems + 1,)
            First point of each system.
        """
        channels, order = moments.shape[1], indexing.order_of(moments.shape[2])
        starts = self._starts_of(channels)
        boxes = np.zeros(int(starts[-1, 1]))
        # a block's phases stay in cache, however long the box
        most = int(_PHASES / self._longest_table)
        width = min(_whole(min(most, wave_loops.MOST * wave_loops.LANES)), _whole(len(u)))
        squares = (order + 1) ** 2 * width
        sizes = moments.shape[2] * width, squares, (order + 1) * width
        items = self._parts()
        given = u, moments, ends, self.limits, self._depth, starts, _powers(order)

        def task(first: int, last: int) -> None:
            scratch = self._scratch(order, width, sizes)
            wave_loops.boxes_of_sources(first, last, items, *given, scratch, width, boxes)

        run_chunks(task, len(items), self._work(ends, order) * channels)
        out = np.empty((channels, len(self.numbers)), np.complex128)
        wave_loops.waves_of_boxes(boxes, starts, *self._of_waves, out)
        return out

    def synthesis(
        self, u: np.ndarray, coefficients: np.ndarray, order: int, ends: np.ndarray
    ) -> np.ndarray:
        """Return the field made of waves, (n, channels, n_components(order)), derivatives by u.

        Parameters
        ----------
        u : ndarray, shape (n, 3)
            Fractional coordinates, system after system.
        coefficients : ndarray, complex, shape (channels, n_waves)
            Of the waves.
        order : int
            Highest derivative.
        ends : ndarray of int, shape (n_systems + 1,)
            First point of each system.
        """
        channels, components = len(coefficients), indexing.n_components(order)
        starts = self._starts_of(channels)
        boxes = np.zeros(int(starts[-1, 1]))
        wave_loops.boxes_of_waves(coefficients, starts, *self._of_waves, boxes)
        width = wave_loops.BLOCK * wave_loops.LANES
        sizes = components * width, (order + 1) ** 2 * width, width
        items = _blocks(ends, width)
        out = np.empty((len(u), channels, components))
        given = u, boxes, self.limits, self._depth, starts, _powers(order)

        def task(first: int, last: int) -> None:
            scratch = self._scratch(order, width, sizes)
            wave_loops.fields_of_boxes(first, last, items, *given, scratch, out)

        run_chunks(task, len(items), self._work(ends, order) * channels)
        return out

    @property
    def _of_waves(self) -> tuple[np.ndarray, ...]:
        return self.numbers, self._places, self.ends, self._sizes

    def _starts_of(self, channels: int) -> np.ndarray:
        """Return where each system starts in `depth`, and its boxes."""
        if channels not in self._starts_known:
            starts = self._starts.copy()
            np.cumsum(channels * self._sizes, out=starts[1:, 1])
            self._starts_known[channels] = starts
        return self._starts_known[channels]

    def _scratch(self, order: int, width: int, sizes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        rows = self._longest_table * (order + 1)
        ends = list(accumulate((rows * width, *sizes), initial=0))
        room = aligned(ends[-1], _FLOAT)  # widths are whole vectors: all parts are aligned
        return tuple(room[start:end] for start, end in pairwise(ends))

    def _work(self, ends: np.ndarray, order: int) -> float:
        """Return the cost of a sum in pairs of charges."""
        return 0.1 * (order + 1) * float((ends[1:] - ends[:-1]) @ (self.ends[1:] - self.ends[:-1]))

    def _parts(self) -> np.ndarray:
        """Return systems, or where these are too few for all threads, parts of their boxes."""
        rows, count = 2 * self.limits[:, 0] + 1, len(self.limits)
        if count == 1 and get_num_threads() == 1:
            return np.array([[0, 0, rows[0]]])
        pieces = max(4 * get_num_threads() // count, 1) if get_num_threads() > 1 else 1
        parts = np.arange(pieces + 1) * rows[:, None] // pieces
        system = np.repeat(np.arange(count), pieces)
        return np.stack([system, parts[:, :-1].ravel(), parts[:, 1:].ravel()], axis=1)


def _whole(n: int) -> int:
    """Return a number of points that fills vectors."""
    return max(-(-n // wave_loops.LANES), 1) * wave_loops.LANES


def _blocks(ends: np.ndarray, size: int) -> np.ndarray:
    """Return system, first point and one after the last of blocks of points."""
    if len(ends) == 2:
        first = np.arange(ends[0], ends[1], size)
        return np.stack([np.zeros_like(first), first, np.minimum(first + size, ends[1])], axis=1)
    counts = -(-np.diff(ends) // size)
    system = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(system)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = ends[:-1][system] + place * size
    return np.stack([system, first, np.minimum(first + size, ends[1:][system])], axis=1)


@lru_cache
def _powers(order: int) -> np.ndarray:
    return np.ascontiguousarray(indexing.multi_indices(order), np.int64)


def fractional_moments(
    moments: np.ndarray, inverse: np.ndarray, ends: np.ndarray | None = None
) -> np.ndarray:
    """Return moments in coordinates u = x @ inverse, so that M·k^α = M'·(2πm)^α.

    Parameters
    ----------
    moments : ndarray, shape (n, channels, components)
        System after system.
    inverse : ndarray, shape (3, 3), or (n_systems, 3, 3)
        Of one system, or of each.
    ends : ndarray of int, optional
        First point of each system.
    """
    return _by_orders(moments, inverse, ends, False)


def cartesian_field(
    phi: np.ndarray, inverse: np.ndarray, ends: np.ndarray | None = None
) -> np.ndarray:
    """Return derivatives by x of what is given by derivatives by u = x @ inverse."""
    return _by_orders(phi, inverse, ends, True)


def _by_orders(
    packed: np.ndarray, inverse: np.ndarray, ends: np.ndarray | None, transposed: bool
) -> np.ndarray:
    """Return packed numbers with those of each order multiplied by a matrix of their system."""
    if ends is None:
        ends, inverse = np.array([0, len(packed)]), inverse[None]
    out = packed.copy()
    order = indexing.order_of(packed.shape[-1])
    # steps of dynamics in one cell ask for the same again and again
    single = len(inverse) == 1
    matrices = _of_one(inverse.tobytes(), order) if single else monomial_matrices(inverse, order)
    for rank, matrix in enumerate(matrices[1:], start=1):
        here = indexing.order_slice(rank)
        out[..., here] = by_system(packed[..., here], matrix, ends, transposed)
    return out


@lru_cache(maxsize=64)
def _of_one(inverse: bytes, order: int) -> list[np.ndarray]:
    return monomial_matrices(np.frombuffer(inverse).reshape(1, 3, 3), order)
