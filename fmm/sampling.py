"""What a tolerance refers to: the field at a few targets by direct sums, and norms made of it."""

import numpy as np

from fmm.geometry import Geometry
from fmm.near import near_field
from multipoles.indexing import n_components, order_slice
from multipoles.radial import Kernel

SIZE = 64
MORE = 256


class Probe:
    """Targets drawn at random at which the whole field is known.

    Parameters
    ----------
    geometry : Geometry
        Points and tree.
    moments : ndarray, shape (n_sources, channels, n_components(K))
        In tree order.
    near : ndarray, shape (n_targets, channels, n_components(order))
        The near field, in tree order.
    order : int
        Highest output order.
    kernel : Kernel
        Radial kernel.
    reach : float
        Distance from which on it may be taken for 1/r.
    """

    def __init__(
        self,
        geometry: Geometry,
        moments: np.ndarray,
        near: np.ndarray,
        order: int,
        kernel: Kernel,
        reach: float,
    ) -> None:
        self._geometry, self._moments, self._near, self._order = geometry, moments, near, order
        self._kernel, self._reach = kernel, reach
        self.places = self._spread(SIZE, seed=0)
        self._chosen = np.zeros(len(self.places), bool)
        if reach > 0:
            # what is close is damped and does not cover the errors of few pairs any more
            corners = self._in_corners(SIZE)
            self.places = np.concatenate([self.places, corners])
            self._chosen = np.append(self._chosen, np.ones(len(corners), bool))
        self._far = self._exact(self.places)
        self.enlarged = False

    def enlarge(self) -> None:
        """Draw more targets: errors gather in the corners of boxes, few targets miss them."""
        places = self._spread(MORE, seed=1)
        self.places = np.concatenate([self.places, places])
        self._chosen = np.append(self._chosen, np.zeros(len(places), bool))
        self._far = np.concatenate([self._far, self._exact(places)])
        self.enlarged = True

    def norms(self) -> np.ndarray:
        """Return the root mean square of the whole field per output order.

        The near field is known everywhere, the far field only here; near pairs make the tail of
        the distribution, so that this mean converges much faster than that of the whole.
        """
        drawn = ~self._chosen
        inside, far = self._near_at(self.places[drawn]), self._far[drawn]
        squares = []
        for k, whole in enumerate(self._near_squares()):
            part = order_slice(k)
            here = _mean_square((inside + far)[..., part])
            rest = here - _mean_square(inside[..., part])
            squares.append(max(whole + rest, 0.25 * here))
        return np.maximum(np.sqrt(squares), np.finfo(np.float64).tiny)

    def errors(self, far: np.ndarray) -> np.ndarray:
        """Return the root mean square error of a far field at `places`, per output order.

        Targets chosen for their place stand for themselves, those drawn for all others.
        """
        difference = far - self._far
        drawn, chosen = difference[~self._chosen], difference[self._chosen]
        share = len(chosen) / max(self._near.shape[0], 1)
        parts = [order_slice(k) for k in range(self._order + 1)]
        squares = [
            _mean_square(drawn[..., part]) + share * _mean_square(chosen[..., part])
            for part in parts
        ]
        return np.sqrt(squares)

    def _spread(self, size: int, seed: int) -> np.ndarray:
        """Return some places, one drawn in each of equal parts of the curve."""
        n = self._near.shape[0]
        size = min(size, n)
        inside = np.random.default_rng(seed).random(size)
        return ((np.arange(size) + inside) * (n / size)).astype(np.int64)

    def _exact(self, places: np.ndarray) -> np.ndarray:
        """Return the far field at some places, ascending or not."""
        order = np.argsort(places)
        found = self._sum(places[order]) - self._near_at(places[order])
        out = np.empty_like(found)
        out[order] = found
        return out

    def _near_at(self, places: np.ndarray) -> np.ndarray:
        """Return the near field at some places."""
        return self._near[places]

    def _near_squares(self) -> list[float]:
        """Return the mean square of the near field per output order."""
        parts = [order_slice(k) for k in range(self._order + 1)]
        return [_mean_square(self._near[..., part]) for part in parts]

    def _in_corners(self, size: int) -> np.ndarray:
        """Return the places of the targets that are farthest from the centres of their leaves."""
        tree, targets = self._geometry.tree, self._geometry.targets
        ranges = tree.target_range
        leaves = np.flatnonzero((tree.n_children == 0) & (ranges[:, 1] > ranges[:, 0]))
        leaves = leaves[np.argsort(ranges[leaves, 0])]
        leaf = np.repeat(leaves, ranges[leaves, 1] - ranges[leaves, 0])
        distance = ((targets - tree.centre[leaf]) ** 2).sum(axis=1) / tree.edge[leaf] ** 2
        size = min(size, len(distance))
        return np.argpartition(distance, len(distance) - size)[len(distance) - size :]

    def _sum(self, places: np.ndarray) -> np.ndarray:
        """Return the whole field at ascending places."""
        geometry, moments = self._geometry, self._moments
        targets, sources = geometry.points(moments.dtype)
        tree, n_roots = geometry.tree, geometry.tree.level_starts[1]
        counts, senders = senders_of(
            places, tree.system[:n_roots], tree.target_range[:n_roots], tree.source_range[:n_roots]
        )
        ends = np.cumsum(counts)
        exact = np.zeros((len(places), moments.shape[1], n_components(self._order)), moments.dtype)
        near_field(
            np.ascontiguousarray(targets[places]), sources, moments, self._order,
            np.stack([ends - counts, ends], axis=1), np.arange(len(counts) + 1),
            np.ascontiguousarray(senders), exact, kernel=self._kernel, reach=self._reach,
        )  # fmt: skip
        return exact


def senders_of(
    places: np.ndarray, system: np.ndarray, targets: np.ndarray, sources: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many of some places are of each system, and the range of its sources.

    Parameters
    ----------
    places : ndarray
        Ascending places of targets; systems without any are left out.
    system : ndarray, shape (n_roots,)
        Of the boxes of level 0.
    targets, sources : ndarray, shape (n_roots, 2)
        What they hold.
    """
    # points of one system lie together
    starts = np.flatnonzero(np.diff(system, prepend=-1))
    far = np.iinfo(np.int64).max

    def least(ranges: np.ndarray) -> np.ndarray:
        occupied = ranges[:, 1] > ranges[:, 0]
        return np.minimum.reduceat(np.where(occupied, ranges[:, 0], far), starts)

    ends = np.maximum.reduceat(sources[:, 1], starts)
    senders = np.stack([np.minimum(least(sources), ends), ends], axis=1)
    begin = least(targets)
    begin, senders = begin[begin < far], senders[begin < far]
    used, counts = np.unique(np.searchsorted(begin, places, side="right") - 1, return_counts=True)
    return counts, senders[used]


def _mean_square(values: np.ndarray) -> float:
    """Return the mean over points of the sum of squares over components."""
    flat = values.reshape(len(values), values[:1].size)
    return float(np.einsum("ni,ni->", flat, flat, dtype=np.float64)) / max(len(values), 1)
