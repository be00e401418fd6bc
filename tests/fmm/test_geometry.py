"""What a plan is laid out on: points as given, leaves of a size that pays, near work in tiles."""

from functools import partial

import clouds
import numpy as np
import pytest

import fmm
import multipoles as mp
from fmm import choice
from fmm.cost import expected_work
from fmm.layout import Outline
from fmm.leaves import arrange, cheaper
from fmm.near import near_field
from fmm.steps_cpu import HostSteps
from fmm.tree.curve import sort_points
from fmm.tree.geometry import MOST_TARGETS, TILE, Geometry

NO_BATCHES = None, None
_work = partial(expected_work, tolerance=1e-6, source_order=0, order=1, channels=1)


def _arranged(targets, sources, leaf_size=None, batches=NO_BATCHES) -> Geometry:
    return arrange(HostSteps(), targets, sources, batches, _work(len(sources)), leaf_size)


@pytest.mark.parametrize("offset", [0.0, 1e7])
def test_points_are_the_callers(offset):
    x = (np.random.default_rng(0).random((200, 3)) + offset).astype(np.float32)
    geometry = _arranged(x, x, 20)
    for dtype in (np.float32, np.float64):
        targets, sources = geometry.points(np.dtype(dtype))
        assert targets is sources and sources.dtype == dtype
        np.testing.assert_array_equal(sources, x[geometry.tree.source_permutation])
        np.testing.assert_array_equal(geometry.unsorted()[1], x)


def test_near_sums_are_those_of_the_direct_sum():
    # neighbours 1e-9 apart at 1, and an outlier: nothing of that may be rounded away
    rng = np.random.default_rng(1)
    x = np.concatenate([1 + 1e-9 * rng.random((60, 3)), [[1e8, 0, 0]]])
    q = rng.standard_normal((61, 1))
    exact = mp.field(x, x, q, 1)
    found = fmm.FMM(x, tolerance=1e-12, leaf_size=100).field(q)
    np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-13 * np.abs(exact).max())


def _pairs(near, n):
    """Return how often each target meets each source."""
    targets, starts, ranges = near
    count = np.zeros((n, n), np.int64)
    for (begin, end), first, last in zip(targets, starts[:-1], starts[1:], strict=True):
        for start, stop in ranges[first:last]:
            count[begin:end, start:stop] += 1
    return count


def test_leaves_of_many_targets_are_cut_into_tiles():
    rng = np.random.default_rng(2)
    # one full leaf beside small ones, with several ranges of sources
    x = np.concatenate([rng.random((200, 3)), np.full((700, 3), 0.3), np.full((513, 3), 0.31)])
    geometry = _arranged(x, x, 40)
    leaves = geometry.tree.target_range[geometry.tree.n_children == 0]
    assert np.diff(leaves, axis=1).max() > 2 * TILE
    targets, starts, _ = geometry.near
    held = targets[:, 1] - targets[:, 0]
    assert held.max() <= TILE and len(targets) == len(leaves) + 2 + 2
    assert np.diff(starts).max() > 1
    whole = np.zeros((len(x), len(x)), np.int64)
    lists, tree = geometry.lists, geometry.tree
    for box in np.flatnonzero(tree.n_children == 0):
        for start, stop in lists.near_ranges[slice(*lists.near_range_starts[box : box + 2])]:
            whole[slice(*tree.target_range[box]), start:stop] += 1
    np.testing.assert_array_equal(_pairs(geometry.near, len(x)), whole)
    assert geometry.n_near_pairs == whole.sum()


@pytest.mark.parametrize("n", [MOST_TARGETS, MOST_TARGETS + 1, 2000])
def test_one_leaf_in_tiles_sums_all_pairs(n):
    x = np.random.default_rng(3).random((n, 3))
    geometry = _arranged(x, x, n)
    targets, starts, ranges = geometry.near
    assert len(targets) == (1 if n <= MOST_TARGETS else -(-n // TILE))
    assert targets[0, 0] == 0 and targets[-1, 1] == n
    assert (targets[1:, 0] == targets[:-1, 1]).all() and geometry.n_near_pairs == n * n
    ordered, q = geometry.sources, np.ones((n, 1, 1))
    out = np.full((n, 1, 4), np.nan)
    near_field(ordered, ordered, q, 1, (targets, starts, ranges), out)
    np.testing.assert_allclose(out[:, 0], mp.field(ordered, ordered, q[:, 0], 1), rtol=1e-9)


@pytest.mark.parametrize("root_grid", [1, 5])
def test_direct_sums_of_the_same_points(root_grid):
    rng = np.random.default_rng(4)
    batch, other = np.repeat([0, 4, 9], [700, 1, 60]), np.repeat([4, 5, 9], [30, 8, 90])
    x, s = rng.random((761, 3)), rng.random((128, 3))
    geometry = _arranged(x, s, 10, (batch, other))
    if root_grid > 1:
        points = sort_points(x, s, batch, other, root_grid)
        ordered = s[points.source_permutation], x[points.target_permutation]
        geometry = Geometry(points, *ordered, 10, 5)
    direct = geometry.direct()
    assert geometry.has_far_field and not direct.has_far_field
    assert direct.sources is geometry.sources and direct.targets is geometry.targets
    assert len(direct.tree.parent) == 4 and direct.n_leaves == 4
    assert direct.n_near_pairs == 1 * 30 + 60 * 90
    assert len(direct.tree.level_starts) == 2
    for system, box in zip(direct.tree.system, range(4), strict=True):
        mine = direct.tree.target_permutation[slice(*direct.tree.target_range[box])]
        assert set(batch[mine].tolist()) <= {[0, 4, 5, 9][system]}
    back = direct.transposed.direct()
    assert back.n_near_pairs == direct.n_near_pairs and back.targets is direct.sources


def test_few_targets_are_summed_directly():
    s = np.random.default_rng(5).random((300_000, 3))
    for n in (1, 20, 200):
        for targets, sources in ((s[:n] + 0.1, s), (s, s[:n] + 0.1)):
            geometry = _arranged(targets, sources)
            assert not geometry.has_far_field and len(geometry.tree.parent) == 1
    # and many are not
    assert _arranged(s[:100_000] + 0.1, s).has_far_field


@pytest.mark.parametrize("shape", ["uniform", "plummer", "two clusters"])
def test_many_points_on_a_gpu_get_a_tree(shape):
    def arranged(n):
        x = clouds.SHAPES[shape](n, np.random.default_rng(8))
        work = expected_work(n, 1e-4, 0, 1, 1)._replace(processor="cuda float32")
        return arrange(HostSteps(), x, x, NO_BATCHES, work, None)

    assert not arranged(10_000).has_far_field
    # all pairs would take 8 ms, and launches 0.3 ms
    assert arranged(100_000).has_far_field


def test_trees_that_ask_for_another_look_at_errors():
    def outline(x):
        return Outline.of(_arranged(x, x, 20))

    rng = np.random.default_rng(9)
    x = rng.random((4000, 3))
    first = outline(x)
    assert first.like(outline(x + 1e-3 * rng.standard_normal(x.shape)))
    assert not first.like(outline(1.2 * x))
    # corners stay, and half of the points come together
    assert not first.like(outline(np.where(np.arange(4000)[:, None] < 2000, x, 0.2 * x)))
    assert not first.like(Outline(np.ones(2), first.n_near_pairs))


@pytest.mark.parametrize("n", [1, 20, 3000])
def test_no_sources_or_no_targets(n):
    x, none = np.random.default_rng(6).random((n, 3)), np.empty((0, 3))
    found = fmm.FMM(none, x).field(np.empty((0, 2, 4)))
    np.testing.assert_array_equal(found, mp.field(x, none, np.empty((0, 2, 4)), 1))
    assert found.shape == (n, 2, 4) and not found.any()
    assert fmm.FMM(x, none).field(np.ones((n, 1))).shape == (0, 4)


def test_direct_sums_are_taken_where_the_tree_does_not_pay():
    x = np.random.default_rng(7).random((500, 3))
    work = _work(500)
    small = _arranged(x, x, 4)
    assert cheaper(small, work).n_near_pairs == 500**2
    large = _arranged(x, x, 400)
    assert cheaper(large.direct(), work).n_near_pairs == 500**2


@pytest.mark.parametrize("shape", list(clouds.DEEP))
def test_leaves_of_uneven_points_pay(shape):
    n = 12_000
    x = clouds.DEEP[shape](n, np.random.default_rng(8))
    even = np.random.default_rng(8).random((n, 3))
    work = _work(n)
    geometry, plain = _arranged(x, x), _arranged(even, even)
    seconds = [
        choice.seconds(g, work, (work.degree,) * (len(g.tree.level_starts) - 1))
        for g in (geometry, plain)
    ]
    assert seconds[0] < 2 * seconds[1]


@pytest.mark.parametrize("size", [1e-3, 1e-8, 1e-12])
def test_small_boxes_ask_for_more_exponents(size):
    x = clouds._cluster(size, 0.0)(2000, np.random.default_rng(11))
    geometry = _arranged(x, x, 50)
    largest = np.finfo(np.float32).max ** 0.5
    for source_order in range(5):
        powers = geometry.tree.edge.min() ** -float(max(source_order, 2))
        assert geometry.fits_single(source_order, 1) == (powers < largest)
    assert _arranged(x[:0], x[:0]).fits_single(4, 4)


@pytest.mark.parametrize("middle", [0.0, 0.7])
@pytest.mark.parametrize("size", [1e-2, pytest.param(1e-6, marks=pytest.mark.slow), 1e-10])
def test_fields_in_clusters_keep_the_tolerance(size, middle):
    rng = np.random.default_rng(9)
    x = rng.random((4000, 3))
    x[2000:] = middle + size * (x[2000:] - 0.5)
    q = rng.standard_normal((4000, 1))
    plan = fmm.FMM(x, tolerance=1e-10, leaf_size=100)
    found, exact = plan.field(q), mp.field(x, x, q, 1)
    # a few targets miss by more than those that a plan samples: not by digits of coordinates
    assert (clouds.errors(found, exact, 1) < 4e-10).all()
    report = plan.report()
    # as deep as the cluster is small, and a far field inside it
    assert report.n_levels > 2 - np.log2(size) and report.near_pairs < 0.5 * 4000**2


@pytest.mark.parametrize("distance", ["100", "1e+08", "1e+17"])
def test_a_distant_point_costs_little(distance):
    x = clouds.DEEP[f"outlier at {distance}"](20_000, np.random.default_rng(10))
    plan = fmm.FMM(x, tolerance=1e-4)
    moments = np.ones((len(x), 1))
    found = plan.field(moments)
    some = np.append(np.arange(0, len(x), 500), len(x) - 1)
    exact = mp.field(x[some], x, moments, 1)
    assert (clouds.errors(found[some], exact, 1) < 1e-4).all()
    assert plan.report().near_pairs < 0.3 * len(x) ** 2


@pytest.mark.parametrize("shape", sorted(clouds.SHAPES))
def test_moved_points_have_the_lists_of_a_new_tree(shape):
    rng = np.random.default_rng(4)
    x = clouds.SHAPES[shape](3000, rng)
    others = rng.permutation(x)[:1500] + 1e-3
    for targets, sources in ((x, x), (others, x)):
        geometry = _arranged(targets, sources, 20)
        assert geometry.lists
        known = geometry._transfers
        for size in (0.0, 1e-6, 1e-3, 0.3):
            new = sources + size * rng.standard_normal(sources.shape)
            at = new if targets is sources else targets + size
            moved = geometry.moved(at, new, NO_BATCHES)
            fresh = Geometry(
                moved.sorted_points, moved.sources, moved.targets, 20, moved.least, moved.smallest
            )
            for name, expected in vars(fresh.lists).items():
                np.testing.assert_array_equal(getattr(moved.lists, name), expected, name)
            if size == 0.0:  # nothing is found anew where boxes are the same
                assert moved._transfers.targets is known.targets
            geometry = moved
