"""What a tolerance refers to: the field at a few targets by direct sums, and norms made of it."""

from typing import NamedTuple

import numpy as np

from fmm.geometry import Geometry
from fmm.near import near_field
from fmm.tree import Tree
from multipoles.indexing import n_components, order_slice

SIZE = 48


class Sample(NamedTuple):
    """Some targets (places in tree order) and the exact field there (n, channels, components)."""

    places: np.ndarray
    exact: np.ndarray


def draw(geometry: Geometry, moments: np.ndarray, order: int) -> Sample:
    """Return the exact field, in the dtype of moments, at some targets spread over the tree."""
    targets, sources = geometry.points(moments.dtype)
    n = len(targets)
    # one of each of equal parts of the curve, at random: points may be in regular order
    size = min(SIZE, n)
    inside = np.random.default_rng(0).random(size)
    places = ((np.arange(size) + inside) * (n / size)).astype(np.int64)
    begin, senders = _systems(geometry.tree)
    owner = np.searchsorted(begin, places, side="right") - 1
    used, counts = np.unique(owner, return_counts=True)
    ends = np.cumsum(counts)
    exact = np.zeros((len(places), moments.shape[1], n_components(order)), moments.dtype)
    near_field(
        np.ascontiguousarray(targets[places]), sources, moments, order,
        np.stack([ends - counts, ends], axis=1), np.arange(len(used) + 1),
        np.ascontiguousarray(senders[used]), exact,
    )  # fmt: skip
    return Sample(places, exact)


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


def norms(sample: Sample, near: np.ndarray, order: int) -> np.ndarray:
    """Return the root mean square of the whole field per output order.

    The near field is known everywhere, the whole only at the sample; near pairs make the tail of
    the distribution, so that the mean of the difference converges much faster than that of the
    field.
    """
    inside = near[sample.places]
    found = []
    for k in range(order + 1):
        part = order_slice(k)
        everywhere = _mean_square(near[..., part])
        rest = _mean_square(sample.exact[..., part]) - _mean_square(inside[..., part])
        found.append(max(everywhere + rest, 0.25 * _mean_square(sample.exact[..., part])))
    return np.sqrt(np.array(found))


def errors(found: np.ndarray, sample: Sample, order: int) -> np.ndarray:
    """Return the root mean square error of the field found at the sample, per output order."""
    difference = found - sample.exact
    return np.sqrt([_mean_square(difference[..., order_slice(k)]) for k in range(order + 1)])


def _mean_square(values: np.ndarray) -> float:
    """Return the mean over points of the sum of squares over components."""
    flat = values.reshape(len(values), -1)
    return float(np.einsum("ni,ni->", flat, flat, dtype=np.float64)) / max(len(values), 1)
