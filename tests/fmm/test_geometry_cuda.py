"""What a plan is laid out on, on the GPU: tiles and direct sums are those of the CPU."""

import numpy as np
import pytest

pytest.importorskip("numba.cuda")

from test_tree_cuda import SPACE

import fmm
import multipoles as mp
from fmm.cost import expected_work
from fmm.cuda import curve as curve_cuda
from fmm.cuda import geometry as geometry_cuda
from fmm.cuda.steps import DeviceSteps
from fmm.leaves import arrange
from fmm.tree import curve, geometry

pytestmark = pytest.mark.cuda


def _both(x, s, leaf_size, batches=(None, None), root_grid=1):
    """Return the same geometry on CPU and GPU."""
    points = curve.sort_points(x, s, *batches, root_grid=root_grid)
    here = geometry.Geometry(points, *geometry.along_curve(points, x, s), leaf_size, 3)
    there_s = SPACE.upload(s)
    there_x = there_s if x is s else SPACE.upload(x)
    there_batches = [None if b is None else SPACE.upload(b) for b in batches]
    found = curve_cuda.sort_points(SPACE, there_x, there_s, *there_batches, root_grid=root_grid)
    ordered = geometry_cuda.along_curve(SPACE, found, there_x, there_s)
    return here, geometry_cuda.DeviceGeometry(SPACE, found, *ordered, leaf_size, 3)


def _compare(here, there):
    for found, expected in zip(there.near, here.near, strict=True):
        np.testing.assert_array_equal(SPACE.download(found), expected)
    for name in ("n_near_pairs", "n_leaves", "n_across", "has_far_field"):
        assert getattr(there, name) == getattr(here, name), name


def test_leaves_of_many_targets_are_cut_into_tiles():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.random((20, 3)), np.full((530, 3), 0.3)])
    s = np.concatenate([rng.random((15, 3)), np.full((30, 3), 0.31)])
    here, there = _both(x, s, 12)
    assert np.diff(here.near[0], axis=1).max() <= geometry.TILE < 530
    _compare(here, there)
    ranges = here.tree.target_range[here.tree.n_children == 0]
    ranges = ranges[ranges[:, 1] > ranges[:, 0]]
    np.testing.assert_array_equal(SPACE.download(there.leaf_targets), ranges)


@pytest.mark.parametrize("root_grid", [1, 3])
def test_direct_sums_of_the_same_points(root_grid):
    rng = np.random.default_rng(1)
    batch, other = np.repeat([0, 4], [20, 9]), np.repeat([4, 5], [12, 8])
    here, there = _both(rng.random((29, 3)), rng.random((20, 3)), 4, (batch, other), root_grid)
    direct = there.direct()
    assert direct.sources is there.sources and not direct.has_far_field
    _compare(here.direct(), direct)
    _compare(here.direct().transposed, direct.transposed)


@pytest.mark.parametrize("kind", ["far from zero", "cluster"])
def test_points_are_the_callers(kind):
    """Not rounded again about the middle of their root, where a cluster at zero loses digits."""
    x = np.random.default_rng(2).random((30, 3))
    x = x + 1e7 if kind == "far from zero" else x * np.repeat([1e-6, 1.0], 15)[:, None]
    x = x.astype(np.float32)
    sources, targets = SPACE.upload(x), SPACE.upload(x)
    work = expected_work(30, 0.1, 0, 1, 1)
    there = arrange(DeviceSteps(sources), targets, sources, (None, None), work, 5)
    order = SPACE.download(there.tree.target_permutation)
    for dtype in (np.float32, np.float64):
        targets, _ = there.points(np.dtype(dtype))
        assert targets.dtype == dtype
        np.testing.assert_array_equal(SPACE.download(targets), x[order])


def test_expansions_see_small_boxes_far_from_zero():
    # float32 expansions: a cluster of 1e-9 at 1 is a point in float32
    rng = np.random.default_rng(3)
    x = 1 + 1e-9 * rng.random((30, 3))
    q = rng.standard_normal((30, 1))
    plan = fmm.FMM(SPACE.upload(x), tolerance=0.05, leaf_size=4)
    found = SPACE.download(plan.field(SPACE.upload(q)))
    exact = mp.field(x, x, q, 1)
    assert max(plan.report().degrees) > 0
    assert np.linalg.norm(found - exact) < 0.05 * np.linalg.norm(exact)
