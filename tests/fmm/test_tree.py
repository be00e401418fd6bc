"""Tree and lists: boxes hold their points, and every pair of points meets exactly once."""

import clouds
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmm.lists import REACH, build_lists
from fmm.tree import build_tree, occupancy, sort_points


def _plan(targets, sources, leaf_size, root_grid=1, batches=(None, None)):
    points = sort_points(targets, sources, *batches, root_grid=root_grid)
    return points, build_tree(points, leaf_size)


def _members(range_):
    return np.arange(range_[0], range_[1])


def _meetings(tree, lists):
    """Return how often every (target, source), in tree order, is in one of the lists."""
    shape = len(tree.target_order), len(tree.source_order)
    count = np.zeros(shape, np.int64)

    def add(target, source):
        count[np.ix_(_members(target), _members(source))] += 1

    t, s = tree.target_range, tree.source_range
    for box in range(len(tree.parent)):
        for source in lists.near_boxes[lists.near_starts[box] : lists.near_starts[box + 1]]:
            add(t[box], s[source])
    for kind in ("m2l", "m2p", "p2l"):
        pairs = (getattr(lists, f"{kind}_targets"), getattr(lists, f"{kind}_sources"))
        for target, source in zip(*pairs, strict=True):
            add(t[target], s[source])
    return count


def _check_boxes(tree, targets, sources, leaf_size):
    level = np.repeat(np.arange(len(tree.level_starts) - 1), np.diff(tree.level_starts))
    for ranges, order, points in (
        (tree.target_range, tree.target_order, targets),
        (tree.source_range, tree.source_order, sources),
    ):
        assert sorted(order) == list(range(len(points)))
        for box, range_ in enumerate(ranges):
            inside = points[order[range_[0] : range_[1]]]
            reach = np.abs(inside - tree.centre[box]).max(initial=0)
            assert reach <= tree.edge[box] / 2 * (1 + 1e-9) + 1e-12 * abs(points).max()
            first, n = tree.first_child[box], tree.n_children[box]
            if n:
                children = slice(first, first + n)
                assert (tree.parent[children] == box).all()
                assert (level[children] == level[box] + 1).all()
                assert (tree.anchor[children] >> 1 == tree.anchor[box]).all()
                assert ranges[first, 0] == range_[0] and ranges[first + n - 1, 1] == range_[1]
                assert (ranges[first : first + n - 1, 1] == ranges[first + 1 : first + n, 0]).all()
            elif range_[1] - range_[0] > leaf_size:
                # too many for a leaf only if nothing tells them apart
                assert np.ptp(inside, axis=0).max() <= 1e-4 * abs(np.ptp(points, axis=0)).max()


@pytest.mark.parametrize("root_grid", [1, 3, 5])
@pytest.mark.parametrize("least", [1, 30])
@pytest.mark.parametrize("shape", list(clouds.SHAPES))
def test_every_pair_meets_once(shape, least, root_grid):
    rng = np.random.default_rng(0)
    x = clouds.SHAPES[shape](700, rng)
    points, tree = _plan(x, x, 6, root_grid)
    _check_boxes(tree, x, x, 6)
    assert (_meetings(tree, build_lists(tree, least, least)) == 1).all()
    assert points.target_order is points.source_order


@pytest.mark.parametrize("kind", ["far apart", "nested", "touching"])
def test_every_pair_of_different_points_meets_once(kind):
    rng = np.random.default_rng(1)
    x, s = clouds.apart(kind, 500, rng)
    points, tree = _plan(x, s, 5)
    _check_boxes(tree, x, s, 5)
    lists = build_lists(tree, 4, 4)
    assert (_meetings(tree, lists) == 1).all()
    back = build_tree(points.transposed(), 5)
    assert (_meetings(back, build_lists(back, 4, 4)) == 1).all()
    np.testing.assert_array_equal(back.target_range, tree.source_range)


def test_points_of_one_system_meet():
    rng = np.random.default_rng(2)
    batch = np.repeat([0, 1, 4], [150, 1, 220])
    x = rng.random((len(batch), 3))
    _, tree = _plan(x, x, 8, batches=(batch, batch))
    same = batch[tree.target_order][:, None] == batch[tree.source_order]
    np.testing.assert_array_equal(_meetings(tree, build_lists(tree, 10, 10)), same)


def test_boxes_that_meet_by_expansions_are_apart():
    rng = np.random.default_rng(3)
    x = clouds.SHAPES["plummer"](3000, rng)
    _, tree = _plan(x, x, 10)
    lists = build_lists(tree, 1, 1)

    def gap(a, b):
        """Distance of two boxes along the axis where they are farthest, in edges of the smaller."""
        between = np.abs(tree.centre[a] - tree.centre[b]).max(axis=-1)
        edges = tree.edge[a], tree.edge[b]
        return (between - 0.5 * (edges[0] + edges[1])) / np.minimum(*edges)

    assert len(lists.m2l_targets) and len(lists.m2p_targets) and len(lists.p2l_targets)
    assert (gap(lists.m2l_targets, lists.m2l_sources) > 1 - 1e-9).all()
    assert (gap(lists.m2p_targets, lists.m2p_sources) > 1 - 1e-9).all()
    assert (gap(lists.p2l_targets, lists.p2l_sources) > 1 - 1e-9).all()
    assert (tree.edge[lists.m2p_targets] > tree.edge[lists.m2p_sources]).all()


def test_codes_are_shifts_of_boxes():
    rng = np.random.default_rng(4)
    x = rng.random((2000, 3))
    _, tree = _plan(x, x, 10)
    lists = build_lists(tree, 1, 1)
    shift = tree.anchor[lists.m2l_targets] - tree.anchor[lists.m2l_sources]
    codes = (shift + REACH) @ (81, 9, 1)
    expected = np.repeat(np.arange(len(lists.m2l_starts) - 1), np.diff(lists.m2l_starts))
    np.testing.assert_array_equal(codes, expected)
    # within a code by target
    order = codes * len(tree.parent) + lists.m2l_targets
    assert (np.diff(order) >= 0).all()


def test_merged_ranges_hold_the_near_sources():
    rng = np.random.default_rng(5)
    x = clouds.SHAPES["sphere"](1500, rng)
    _, tree = _plan(x, x, 12, 3)
    lists = build_lists(tree, 20, 20)
    for box in range(len(tree.parent)):
        boxes = lists.near_boxes[lists.near_starts[box] : lists.near_starts[box + 1]]
        expected = np.sort(np.concatenate([_members(tree.source_range[b]) for b in boxes] or [[]]))
        ranges = lists.near_ranges[slice(*lists.near_range_starts[box : box + 2])]
        found = np.concatenate([_members(r) for r in ranges] or [[]])
        np.testing.assert_array_equal(found, expected)
        assert (ranges[1:, 0] > ranges[:-1, 1]).all()


def test_coincident_points_stay_together():
    x = np.full((300, 3), 2.5)
    _, tree = _plan(x, x, 10)
    assert len(tree.parent) == 1
    x = np.repeat(np.random.default_rng(0).random((20, 3)), 50, axis=0)
    _, tree = _plan(x, x, 10)
    sizes = np.diff(tree.target_range, axis=1)[tree.n_children == 0, 0]
    assert (sizes == 50).all() and len(tree.parent) < 400


def test_occupancy_counts_boxes():
    x = np.random.default_rng(0).random((4000, 3))
    boxes, crowding = occupancy(sort_points(x, x))
    assert boxes[0] == 1 and boxes[1] == 8 and 55 < boxes[2] <= 64
    assert (crowding > 0.99).all() and crowding[1] < 1.05
    heaped = clouds.SHAPES["plummer"](4000, np.random.default_rng(0))
    assert occupancy(sort_points(heaped, heaped))[1].max() > 5


def test_elongated_systems_get_few_root_boxes():
    x = np.random.default_rng(0).random((500, 3)) * [10.0, 1.0, 1.0]
    _, tree = _plan(x, x, 1000, root_grid=5)
    assert tree.level_starts[1] == 5


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 150),
    m=st.integers(0, 150),
    leaf_size=st.integers(1, 40),
    root_grid=st.integers(1, 5),
    least=st.integers(1, 50),
    spread=st.sampled_from([0.0, 1e-9, 1e-3, 1.0, 1e6]),
    seed=st.integers(0, 2**31),
)
def test_any_points_meet_once(n, m, leaf_size, root_grid, least, spread, seed):
    rng = np.random.default_rng(seed)
    x = np.round(rng.random((n, 3)), 2)
    s = rng.random((m, 3)) * spread + 0.3
    _, tree = _plan(x, s, leaf_size, root_grid)
    assert (_meetings(tree, build_lists(tree, least, least)) == 1).all()
