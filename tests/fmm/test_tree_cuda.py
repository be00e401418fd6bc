"""The tree built on the GPU has the boxes of that built on the CPU."""

import numpy as np
import pytest

pytest.importorskip("numba.cuda")

import clouds

from fmm.cuda import build as tree_cuda
from fmm.cuda import curve as curve_cuda
from fmm.tree import build as tree
from fmm.tree import curve
from multipoles.cuda.device import NumbaSpace

pytestmark = pytest.mark.cuda
SPACE = NumbaSpace()
BOXES = (
    "anchor", "parent", "first_child", "n_children", "system", "target_range", "source_range",
    "centre", "edge",
)  # fmt: skip


def _up(array):
    return None if array is None else SPACE.upload(array)


def both(targets, sources, leaf_size, root_grid=1, batches=(None, None), smallest=0.0):
    """Return the sorted points and trees of CPU and GPU."""
    wide = [np.asarray(x, np.float64) for x in (targets, sources)]
    if targets is sources:
        wide[0] = wide[1]
    points = curve.sort_points(*wide, *batches, root_grid=root_grid)
    s = _up(sources)
    x = s if targets is sources else _up(targets)
    same = batches[0] is batches[1]
    source_batch = _up(batches[1])
    target_batch = source_batch if same else _up(batches[0])
    there = curve_cuda.sort_points(SPACE, x, s, target_batch, source_batch, root_grid)
    return (
        points, tree.build_tree(points, leaf_size, smallest),
        there, tree_cuda.build_tree(SPACE, there, leaf_size, smallest),
    )  # fmt: skip


def check(points, tree, there, found):
    """Compare orders and trees, to the last bit."""
    for kind in ("target", "source"):
        keys = SPACE.download(getattr(there, f"{kind}_keys"))
        np.testing.assert_array_equal(keys, getattr(points, f"{kind}_keys"))
        order = SPACE.download(getattr(found, f"{kind}_permutation"))
        np.testing.assert_array_equal(order, getattr(tree, f"{kind}_permutation"))
    assert (there.bits, there.root_grid) == (points.bits, points.root_grid)
    np.testing.assert_array_equal(there.origin, points.origin)
    np.testing.assert_array_equal(found.level_starts, tree.level_starts)
    for name in BOXES:
        array, expected = SPACE.download(getattr(found, name)), getattr(tree, name)
        assert array.dtype == expected.dtype, name
        np.testing.assert_array_equal(array, expected, err_msg=name)


@pytest.mark.parametrize("shape", list(clouds.SHAPES))
def test_same_boxes_as_on_the_cpu(shape):
    rng = np.random.default_rng(0)
    x = clouds.SHAPES[shape](27, rng)
    check(*both(x, x, 4))


@pytest.mark.parametrize("kind", ["far apart", "nested"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_targets_apart_from_sources(kind, dtype):
    x, s = clouds.apart(kind, 30, np.random.default_rng(1))
    check(*both(x.astype(dtype), s.astype(dtype), 6, root_grid=2))


def test_same_points_share_arrays():
    x = np.random.default_rng(2).random((20, 3))
    *_, found = both(x, x, 5)
    assert found.target_permutation is found.source_permutation
    assert found.target_range is found.source_range


def test_systems_may_have_gaps_and_lack_targets_or_sources():
    rng = np.random.default_rng(3)
    batch, other = np.repeat([0, 5, 10**15], [12, 1, 9]), np.repeat([3, 5], [10, 8])
    x, s = rng.random((22, 3)) + batch[:, None] % 7, rng.random((18, 3))
    check(*both(x, s, 6, 2, (batch, other)))
    check(*both(x, x, 6, 1, (batch, batch)))


def test_batches_must_be_sorted():
    x, batch = SPACE.upload(np.zeros((3, 3))), SPACE.upload(np.array([0, 2, 1]))
    with pytest.raises(ValueError, match=r"source_batch: expected sorted.*\[0 2 1\]"):
        curve_cuda.sort_points(SPACE, x, x, batch, batch)


def test_smallest_boxes_and_points_at_one_place():
    rng = np.random.default_rng(4)
    x = rng.random((20, 3))
    check(*both(x, x, 4, smallest=0.3))
    check(*both(np.repeat(x[:3], 6, axis=0), x, 4))


DEEP = {
    "outlier": lambda x: np.concatenate([x, [[1e8, -2e7, 3e6]]]),
    "cluster at zero": lambda x: np.concatenate([x, -1e-13 * x]),
    "cluster elsewhere": lambda x: np.concatenate([x, 0.7 + 1e-11 * x, 0.7 + 1e-13 * x]),
    "few numbers": lambda x: 1e15 + np.round(40 * x),
}


@pytest.mark.parametrize(
    "kind",
    ["outlier", *(pytest.param(k, marks=pytest.mark.slow) for k in DEEP if k != "outlier")],
)
def test_deep_trees(kind):
    x = DEEP[kind](np.random.default_rng(7).random((30, 3)))
    points, tree, there, found = both(x, x, 6)
    assert len(points.source_keys) == (1 if kind == "few numbers" else 3)
    assert len(tree.level_starts) - 1 > (0 if kind == "few numbers" else 20)
    check(points, tree, there, found)
    for wanted, got in zip(
        curve.occupancy(points), curve_cuda.occupancy(SPACE, there), strict=True
    ):
        np.testing.assert_allclose(got, wanted)


def test_deep_trees_of_systems_targets_and_sources():
    rng = np.random.default_rng(8)
    batch, other = np.repeat([0, 4], [10, 33]), np.repeat([4, 7], [12, 9])
    x = np.concatenate([rng.random((13, 3)), 1e-9 * rng.random((30, 3))])
    s = np.concatenate([-1e-9 * rng.random((12, 3)), rng.random((9, 3))])
    points, *rest = both(x, s, 6, 3, (batch, other))
    assert len(points.target_keys) == 3
    check(points, *rest)


@pytest.mark.parametrize("n", [0, 1])
def test_few_points(n):
    x = np.random.default_rng(5).random((n, 3))
    check(*both(x, x, 4))
    check(*both(x, np.ones((3, 3)), 4))


@pytest.mark.parametrize("shape", ["uniform", "two clusters"])
def test_crowding(shape):
    x = clouds.SHAPES[shape](40, np.random.default_rng(6))
    points, _, there, _ = both(x, x, 20)
    for found, expected in zip(
        curve_cuda.occupancy(SPACE, there), curve.occupancy(points), strict=True
    ):
        np.testing.assert_allclose(found, expected)
