"""What a tolerance refers to: the field at a few targets by direct sums, and norms made of it."""

import numpy as np

from fmm.geometry import Geometry
from fmm.near import near_field
from fmm.tree import Tree
from multipoles.indexing import n_components, order_slice

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
    """

    def __init__(
        self, geometry: Geometry, moments: np.ndarray, near: np.ndarray, order: int
    ) -> None:
        self._geometry, self._moments, self._near, self._order = geometry, moments, near, order
        self.places, self._far = self._draw(SIZE, seed=0)
        self.enlarged = False

    def enlarge(self) -> None:
        """Draw more targets: errors gather in the corners of boxes, few targets miss them."""
        places, far = self._draw(MORE, seed=1)
        self.places = np.concatenate([self.places, places])
        self._far = np.concatenate([self._far, far])
        self.enlarged = True

    def norms(self) -> np.ndarray:
        """Return the root mean square of the whole field per output order.

        The near field is known everywhere, the far field only here; near pairs make the tail of
        the distribution, so that this mean converges much faster than that of the whole.
        """
        inside = self._near[self.places]
        squares = []
        for k in range(self._order + 1):
            part = order_slice(k)
            here = _mean_square((inside + self._far)[..., part])
            rest = here - _mean_square(inside[..., part])
            squares.append(max(_mean_square(self._near[..., part]) + rest, 0.25 * here))
        return np.maximum(np.sqrt(squares), np.finfo(np.float64).tiny)

    def errors(self, far: np.ndarray) -> np.ndarray:
        """Return the root mean square error of a far field at `places`, per output order."""
        difference = far - self._far
        parts = [order_slice(k) for k in range(self._order + 1)]
        return np.sqrt([_mean_square(difference[..., part]) for part in parts])

    def _draw(self, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return some places, one in each of equal parts of the curve, and the far field there."""
        geometry, moments = self._geometry, self._moments
        targets, sources = geometry.points(moments.dtype)
        n = len(targets)
        size = min(size, n)
        inside = np.random.default_rng(seed).random(size)
        places = ((np.arange(size) + inside) * (n / size)).astype(np.int64)
        begin, senders = _systems(geometry.tree)
        owner = np.searchsorted(begin, places, side="right") - 1
        used, counts = np.unique(owner, return_counts=True)
        ends = np.cumsum(counts)
        exact = np.zeros((size, moments.shape[1], n_components(self._order)), moments.dtype)
        near_field(
            np.ascontiguousarray(targets[places]), sources, moments, self._order,
            np.stack([ends - counts, ends], axis=1), np.arange(len(used) + 1),
            np.ascontiguousarray(senders[used]), exact,
        )  # fmt: skip
        return places, exact - self._near[places]


def _systems(tree: Tree) -> tuple[np.ndarray, np.ndarray]:
    """Return the first target, and the range of sources, of every system that has targets."""
    first, last = tree.level_starts[:2]
    # points of one system lie together
    starts = np.flatnonzero(np.diff(tree.system[first:last], prepend=-1))
    far = np.iinfo(np.int64).max

    def least(ranges: np.ndarray) -> np.ndarray:
        occupied = ranges[:, 1] > ranges[:, 0]
        return np.minimum.reduceat(np.where(occupied, ranges[:, 0], far), starts)

    targets, sources = tree.target_range[first:last], tree.source_range[first:last]
    ends = np.maximum.reduceat(sources[:, 1], starts)
    senders = np.stack([np.minimum(least(sources), ends), ends], axis=1)
    begin = least(targets)
    return begin[begin < far], senders[begin < far]


def _mean_square(values: np.ndarray) -> float:
    """Return the mean over points of the sum of squares over components."""
    flat = values.reshape(len(values), -1)
    return float(np.einsum("ni,ni->", flat, flat, dtype=np.float64)) / max(len(values), 1)
