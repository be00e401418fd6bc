"""Where the error of a far field is expected: what boxes send, how near, and to how many targets.

A level of the tree, a shift between two boxes and a degree have a typical error
(`fmm.error.accuracy`); times what the sending box really holds, it says how much a receiving box
can be wrong. Summed over all pairs that is an estimate of the whole error, from which degrees are
chosen; box by box it says where to measure it (`fmm.error.sampling`). One strong source among
thousands is thus noticed wherever it lies.
"""

from typing import NamedTuple, Protocol

import numpy as np

from fmm.error import accuracy
from fmm.far import harmonics
from fmm.tree.build import Tree
from fmm.tree.curve import upper
from fmm.tree.lists import N_CODES, POINTS, Lists
from multipoles.compiled.jit import bare, run_chunks

# share of the square of a box's total charge that adds to its power: errors of charges of one sign
# add up, though not in full
_COHERENT = 0.1
# errors rise towards the corners of a box, as a power of the distance from its middle
STEEPEST = 12
TYPICAL = 0.6
LEAST, MOST = 0.05, 400.0
# of a leaf's edge: how far from its middle most of its error is
_OUTWARD = 0.35
_TINY = np.finfo(np.float64).tiny


class Boxed(Protocol):
    """What errors are estimated from: a `Geometry`, or as much of one, in arrays of NumPy."""

    @property
    def tree(self) -> Tree:
        """Boxes."""

    @property
    def lists(self) -> Lists:
        """Pairs of boxes that meet by expansions."""

    @property
    def edges(self) -> np.ndarray:
        """Edge of the largest boxes of every level."""

    @property
    def levels(self) -> np.ndarray:
        """Level of every box."""

    @property
    def targets(self) -> np.ndarray:
        """Targets in the order of the tree."""

    @property
    def target_leaves(self) -> np.ndarray:
        """Leaves with targets."""


class HostStrengths:
    """How strong one set of moments is, over all sources and box by box.

    Parameters
    ----------
    moments : ndarray, shape (n_sources, channels, (K + 1)^2)
        By harmonics, in tree order.
    source_order : int
        K.

    Attributes
    ----------
    mean : ndarray, shape (K + 1,)
        Mean over the sources of the square of the moments of each order.
    spread : float
        How many sources of one size would make these means: few if few are strong.
    """

    def __init__(self, moments: np.ndarray, source_order: int) -> None:
        self.source_order = source_order
        self._squares, self._charges = moment_squares(moments, source_order), moments[:, :, 0]
        n = self._total(np.array([len(moments)]))[0]
        self.mean = self._total(self._squares.sum(axis=0)) / max(n, 1)
        size = self._squares[:, 0] if self.mean[0] > 0 else self._squares.sum(axis=1)
        total, squares = self._total(np.array([size.sum(), (size**2).sum()]))
        self.spread = float(total**2 / max(squares, _TINY))

    def weights(self, geometry: Boxed) -> np.ndarray:
        """Return what `accuracy.predicted` asks for."""
        powers = box_powers(geometry, self._of_boxes(geometry, self._squares))
        return pair_weights(geometry, powers)

    def where(self, geometry: Boxed, degrees: tuple[int, ...], norms: np.ndarray) -> "Where":
        """Return where errors are expected, of all output orders alike.

        Parameters
        ----------
        geometry : Boxed
            Points, tree and lists.
        degrees : tuple of int
            Of every level.
        norms : ndarray, shape (order + 1,)
            By which errors of each output order are divided.
        """
        gains = accuracy.gains(geometry.edges, self.source_order, len(norms) - 1, degrees)
        shares = np.where(norms > 0, norms, np.inf)
        gains = (gains / (shares**2)[:, None, None, None]).sum(axis=0)
        degree = max(degrees)
        sums = self._of_boxes(geometry, np.concatenate([self._squares, self._charges], axis=1))
        powers = box_powers(geometry, *np.split(sums, [self.source_order + 1], axis=1))
        leaves, errors = leaf_errors(geometry, powers, gains, degree)
        return Where(leaves, errors, degree)

    def _total(self, sums: np.ndarray) -> np.ndarray:
        """Return sums over the sources of all machines, from those over the sources here."""
        return sums

    def _of_boxes(self, geometry: Boxed, values: np.ndarray) -> np.ndarray:
        """Return the sum over the sources of every box."""
        return _over(geometry.tree.source_range, values)


class Where(NamedTuple):
    """Leaves with targets, ascending, and where among them errors are expected."""

    leaves: np.ndarray
    errors: np.ndarray
    """Mean square error of a target in each, in any unit."""
    degree: int
    """How steeply errors rise towards the corners."""


def moment_squares(moments: np.ndarray, source_order: int) -> np.ndarray:
    """Return the square of every source's moments of each order, without their traces.

    Parameters
    ----------
    moments : ndarray, shape (n, channels, (K + 1)^2)
        By harmonics.

    Returns
    -------
    ndarray, shape (n, K + 1)
        In units in which random packed moments have their own mean square.
    """
    matrix = harmonics.cartesian_map(source_order)
    out = np.empty((len(moments), source_order + 1))
    for j in range(source_order + 1):
        part = moments[:, :, j * j : (j + 1) ** 2]
        rows = matrix[j * j : (j + 1) ** 2]
        unit = (rows**2).sum() / np.count_nonzero(rows.any(axis=0))
        out[:, j] = np.einsum("nck,nck->n", part, part) / unit
    return out


def box_powers(
    geometry: Boxed, squares: np.ndarray, charges: np.ndarray | None = None
) -> np.ndarray:
    """Return what every box holds: the sum of the squares of the moments of each order.

    Parameters
    ----------
    geometry : Boxed
        Points and tree.
    squares : ndarray, shape (n_boxes, K + 1)
        Sums of `moment_squares` over the sources of every box.
    charges : ndarray, shape (n_boxes, channels), optional
        Sums of charges. A share of their square is added: charges of one sign err alike.
    """
    sums = squares.copy()
    if charges is not None:
        sums[:, 0] += _COHERENT * (charges**2).sum(axis=1)
    # errors are estimated with the largest edge of each level: boxes of smaller systems, whose
    # moments have stronger fields for their size, count as if they held more
    ratio = geometry.edges[geometry.levels] / geometry.tree.edge
    if np.any(ratio != 1.0):
        sums *= ratio[:, None] ** (2.0 * np.arange(1, sums.shape[1] + 1))
    return sums


def _over(ranges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the sums of rows over ranges."""
    ends = np.zeros((len(values) + 1, values.shape[1]))
    np.cumsum(values, axis=0, out=ends[1:])
    sums: np.ndarray = ends[ranges[:, 1]] - ends[ranges[:, 0]]
    return sums


def pair_weights(geometry: Boxed, powers: np.ndarray) -> np.ndarray:
    """Return what `accuracy.predicted` asks for: targets times powers, per order, level and code.

    Parameters
    ----------
    geometry : Boxed
        Points, tree and lists.
    powers : ndarray, shape (n_boxes, K + 1)
        See `box_powers`.

    Returns
    -------
    ndarray, shape (K + 1, n_levels, N_CODES)
    """
    lists, levels = geometry.lists, geometry.levels
    targets = np.diff(geometry.tree.target_range, axis=1)[:, 0].astype(np.float64)
    out = np.zeros((powers.shape[1], len(geometry.edges), N_CODES))

    def task(first: int, last: int) -> None:
        pairs = lists.m2l_starts, lists.m2l_targets, lists.m2l_sources
        _weigh(first, last, *pairs, levels, targets, powers, out)

    run_chunks(task, N_CODES, 2.0 * len(lists.m2l_targets) * powers.shape[1])
    for rows, sources, boxes in _mixed(geometry):
        pairs = targets[rows, None] * powers[sources]
        np.add.at(out[:, :, POINTS].T, levels[boxes], pairs)
    return out / max(len(geometry.targets), 1)


def leaf_errors(
    geometry: Boxed, powers: np.ndarray, gains: np.ndarray, degree: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the leaves with targets, ascending, and the mean square error of a target in each.

    Parameters
    ----------
    geometry : Boxed
        Points, tree and lists.
    powers : ndarray, shape (n_boxes, K + 1)
        See `box_powers`.
    gains : ndarray, shape (K + 1, n_levels, N_CODES)
        See `accuracy.gains`, summed over what counts of the output orders.
    degree : int
        Highest of the degrees: how steeply errors rise towards corners.
    """
    tree, lists, levels = geometry.tree, geometry.lists, geometry.levels
    received = np.zeros(len(tree.parent))
    table = np.ascontiguousarray(np.moveaxis(gains, 0, -1))

    def task(first: int, last: int) -> None:
        _receive(
            first, last, lists.m2l_starts, lists.m2l_targets, lists.m2l_sources, levels, table,
            powers, received,
        )  # fmt: skip

    run_chunks(task, len(received), 2.0 * len(lists.m2l_targets) * powers.shape[1])
    for rows, sources, boxes in _mixed(geometry):
        sent = (table[levels[boxes], POINTS] * powers[sources]).sum(axis=1)
        np.add.at(received, rows, sent)
    leaves = geometry.target_leaves
    leaves = leaves[np.argsort(tree.target_range[leaves, 0])]
    return leaves, _down(tree, leaves, received, degree)


def _down(tree: Tree, leaves: np.ndarray, received: np.ndarray, degree: int) -> np.ndarray:
    """Return what leaves and the boxes around them receive, more in corners of these."""
    out: np.ndarray = received[leaves].copy()
    rows, boxes = np.arange(len(leaves)), tree.parent[leaves]
    while True:
        inside = boxes >= 0
        rows, boxes = rows[inside], boxes[inside]
        if not len(rows):
            return out
        away = np.abs(tree.centre[leaves[rows]] - tree.centre[boxes])
        # not in its middle: most of a leaf's error is where it is farthest from that of the box
        away = (away + _OUTWARD * tree.edge[leaves[rows], None]) / tree.edge[boxes, None]
        out[rows] += received[boxes] * towards_corners((away**2).sum(axis=1), degree)
        boxes = tree.parent[boxes]


def towards_corners(squares: np.ndarray, degree: int) -> np.ndarray:
    """Return how much of the mean square error there is at squared distances from the middle."""
    return np.clip((squares / TYPICAL**2) ** min(degree, STEEPEST), LEAST, MOST)


def _mixed(geometry: Boxed) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]:
    """Return receivers and senders where single points meet expansions, and the boxes of these."""
    lists = geometry.lists
    return (
        (lists.m2p_targets, lists.m2p_sources, lists.m2p_sources),
        (lists.p2l_targets, lists.p2l_sources, lists.p2l_targets),
    )


@bare
def _weigh(first, last, starts, targets, sources, levels, n_targets, powers, out):
    for code in range(first, last):
        for i in range(starts[code], starts[code + 1]):
            target, source = targets[i], sources[i]
            for j in range(powers.shape[1]):
                out[j, levels[target], code] += n_targets[target] * powers[source, j]


@bare
def _receive(first, last, starts, targets, sources, levels, table, powers, out):
    """Add what boxes first ... last - 1 receive; the pairs of a code are sorted by target."""
    for code in range(starts.shape[0] - 1):
        begin = upper(targets, starts[code], starts[code + 1], first - 1)
        for i in range(begin, starts[code + 1]):
            target, source = targets[i], sources[i]
            if target >= last:
                break
            for j in range(powers.shape[1]):
                out[target] += table[levels[target], code, j] * powers[source, j]
