"""Lists: every pair of points meets exactly once, and by the means its distance allows."""

from itertools import pairwise, product

import clouds
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmm.tree.build import build_tree
from fmm.tree.curve import sort_points
from fmm.tree.lists import REACH, build_lists


def _tree(targets, sources, leaf_size, root_grid=1, batches=(None, None)):
    return build_tree(sort_points(targets, sources, *batches, root_grid=root_grid), leaf_size)


def _levels(tree):
    return np.repeat(np.arange(len(tree.level_starts) - 1), np.diff(tree.level_starts))


def _rows(starts):
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))


def _pairs(lists, kind):
    """Return targets and sources of one kind."""
    if kind == "near":
        return _rows(lists.near_starts), lists.near_boxes
    return getattr(lists, f"{kind}_targets"), getattr(lists, f"{kind}_sources")


KINDS = ("near", "m2l", "m2p", "p2l")


def _meetings(tree, lists):
    """Return how often every (target, source), in tree order, is in one of the lists.

    A pair of boxes counts in a rectangle, which is the double sum of what is put at its corners.
    """
    shape = len(tree.target_permutation) + 1, len(tree.source_permutation) + 1
    corners = np.zeros(shape, np.int64)
    for kind in KINDS:
        targets, sources = _pairs(lists, kind)
        for i, j in product((0, 1), (0, 1)):
            at = tree.target_range[targets, i], tree.source_range[sources, j]
            np.add.at(corners, at, (-1) ** (i + j))
    return corners.cumsum(axis=0).cumsum(axis=1)[:-1, :-1]


def _received(tree, lists, weights):
    """Return what a Green's function of one brings to every target, modulo 2^64.

    Near sources by their ranges, all others up the tree, across, and down again.
    """
    sums = np.append(np.uint64(0), np.cumsum(weights[tree.source_permutation]))
    multipoles = np.diff(sums[tree.source_range], axis=1)[:, 0]
    local = np.zeros(len(tree.parent), np.uint64)
    for kind in KINDS[1:]:
        targets, sources = _pairs(lists, kind)
        np.add.at(local, targets, multipoles[sources])
    ranges = np.diff(sums[lists.near_ranges], axis=1)[:, 0]
    np.add.at(local, _rows(lists.near_range_starts), ranges)
    for first, last in pairwise(tree.level_starts[1:]):
        local[first:last] += local[tree.parent[first:last]]
    out = np.zeros(len(tree.target_permutation), np.uint64)
    for leaf in np.flatnonzero(tree.n_children == 0):
        out[tree.target_permutation[slice(*tree.target_range[leaf])]] = local[leaf]
    return out


def _twin(tree, m2p_least, p2l_least):
    """Return the lists as sets of pairs, from the definitions and all pairs of boxes."""
    n_targets = np.diff(tree.target_range, axis=1)[:, 0]
    n_sources = np.diff(tree.source_range, axis=1)[:, 0]
    level, leaf = _levels(tree), tree.n_children == 0
    size = 1 << (level.max() - level)
    low = tree.anchor * size[:, None]
    high = low + size[:, None]
    touch = ((low[:, None] <= high) & (low <= high[:, None])).all(axis=2)
    # a root touches what is above any other root
    above = np.where(np.minimum.outer(level, level) > 0, touch[tree.parent][:, tree.parent], True)
    same = (tree.system[:, None] == tree.system) & (n_targets[:, None] > 0) & (n_sources > 0)
    sets = {
        "near": same & touch & leaf[:, None] & leaf,
        "m2l": same & (level[:, None] == level) & ~touch & above,
        "m2p": same & leaf[:, None] & (level[:, None] < level) & ~touch & touch[:, tree.parent],
        "p2l": same & leaf & (level[:, None] > level) & ~touch & touch[tree.parent],
    }
    sets["near"] |= sets["m2p"] & (n_sources < m2p_least)
    sets["m2p"] &= n_sources >= m2p_least
    for box, source in np.argwhere(sets["p2l"] & (n_targets < p2l_least)[:, None]):
        inside = (tree.target_range[:, 0] >= tree.target_range[box, 0]) & (
            tree.target_range[:, 1] <= tree.target_range[box, 1]
        )
        sets["near"][inside & leaf & (n_targets > 0), source] = True
    sets["p2l"] &= (n_targets >= p2l_least)[:, None]
    return {kind: set(map(tuple, np.argwhere(found).tolist())) for kind, found in sets.items()}


@pytest.mark.parametrize("root_grid", [1, 3, 5])
@pytest.mark.parametrize("least", [1, 30])
@pytest.mark.parametrize("shape", list(clouds.SHAPES))
def test_every_pair_meets_once(shape, least, root_grid):
    x = clouds.SHAPES[shape](700, np.random.default_rng(0))
    tree = _tree(x, x, 6, root_grid)
    assert (_meetings(tree, build_lists(tree, least, least)) == 1).all()


@pytest.mark.parametrize("root_grid", [1, 3, 5])
@pytest.mark.parametrize("shape", list(clouds.DEEP))
def test_every_pair_meets_once_in_deep_trees(shape, root_grid):
    x = clouds.DEEP[shape](500, np.random.default_rng(0))
    s = clouds.DEEP[shape](350, np.random.default_rng(1))
    for sources in (x, s):
        tree = _tree(x, sources, 5, root_grid)
        for least in (1, 20):
            assert (_meetings(tree, build_lists(tree, least, least)) == 1).all()


def test_every_pair_meets_once_where_anchors_are_longest():
    rng = np.random.default_rng(5)
    # in the last of five cells along an axis, whose keys leave room for 58 levels
    x = np.concatenate([-rng.random((200, 3)), -2e-18 * rng.random((60, 3)), np.zeros((1, 3))])
    tree = _tree(x, x, 1, 5)
    assert len(tree.level_starts) - 2 == 58 and tree.anchor.max() > 2**60
    for least in (1, 10):
        assert (_meetings(tree, build_lists(tree, least, least)) == 1).all()


@pytest.mark.parametrize("shape", list(clouds.DEEP))
def test_constant_brings_every_source_once_in_deep_trees(shape):
    x = clouds.DEEP[shape](5000, np.random.default_rng(2))
    weights = np.random.default_rng(3).integers(0, 2**64, len(x), np.uint64)
    for leaf_size, root_grid in ((8, 1), (60, 5)):
        tree = _tree(x, x, leaf_size, root_grid)
        assert (_received(tree, build_lists(tree, 9, 9), weights) == weights.sum()).all()


@pytest.mark.parametrize("shape", ["outlier at 1e+17", "nested at 0", "nested at -0.7"])
def test_expansions_meet_apart_in_deep_trees(shape):
    x = clouds.DEEP[shape](700, np.random.default_rng(4))
    tree = _tree(x, x, 5, 5)
    lists = build_lists(tree, 1, 1)
    for kind in KINDS[1:]:
        a, b = _pairs(lists, kind)
        gap = np.abs(tree.centre[a] - tree.centre[b]).max(axis=-1)
        gap -= 0.5 * (tree.edge[a] + tree.edge[b])
        assert len(a) and (gap > (1 - 1e-6) * np.minimum(tree.edge[a], tree.edge[b])).all()


@pytest.mark.parametrize("kind", ["far apart", "nested", "touching"])
def test_every_pair_of_different_points_meets_once(kind):
    x, s = clouds.apart(kind, 500, np.random.default_rng(1))
    points = sort_points(x, s)
    for one in (points, points.transposed()):
        tree = build_tree(one, 5)
        assert (_meetings(tree, build_lists(tree, 4, 4)) == 1).all()


@pytest.mark.parametrize("n", [1, 2, 40, 5000])
@pytest.mark.parametrize("shape", list(clouds.SHAPES))
def test_constant_brings_every_source_once(shape, n):
    rng = np.random.default_rng(2)
    x = clouds.SHAPES[shape](n, rng)
    s = clouds.SHAPES[shape](2 * n, rng)
    for sources in (x, s):
        weights = rng.integers(0, 2**64, len(sources), np.uint64)
        for leaf_size, root_grid, m2p_least, p2l_least in [(8, 1, 5, 9), (70, 3, 40, 30)]:
            tree = _tree(x, sources, leaf_size, root_grid)
            found = _received(tree, build_lists(tree, m2p_least, p2l_least), weights)
            assert (found == weights.sum()).all()


def test_points_of_one_system_meet():
    rng = np.random.default_rng(3)
    x, batch = rng.random((371, 3)), np.repeat([0, 1, 4], [150, 1, 220])
    s, senders = rng.random((200, 3)), np.repeat([1, 2, 10**15], [90, 60, 50])
    for root_grid in (1, 4):
        for sources, other in ((x, batch), (s, senders)):
            tree = _tree(x, sources, 8, root_grid, (batch, other))
            same = batch[tree.target_permutation][:, None] == other[tree.source_permutation]
            np.testing.assert_array_equal(_meetings(tree, build_lists(tree, 10, 10)), same)


@pytest.mark.parametrize(
    ("shape", "leaf_size", "root_grid"),
    [("uniform", 2, 2), ("sphere", 5, 5), ("plummer", 4, 1), ("line", 6, 4)],
)
def test_lists_are_those_of_the_definitions(shape, leaf_size, root_grid):
    rng = np.random.default_rng(4)
    x, s = clouds.SHAPES[shape](400, rng), clouds.SHAPES[shape](500, rng)
    batches = np.repeat([0, 1], [250, 150]), np.repeat([0, 1], [400, 100])
    tree = _tree(x, s, leaf_size, root_grid, batches)
    for least in ((1, 1), (5, 3), (10**6, 10**6)):
        lists, expected = build_lists(tree, *least), _twin(tree, *least)
        for kind in KINDS:
            targets, sources = _pairs(lists, kind)
            found = list(zip(targets.tolist(), sources.tolist(), strict=True))
            assert set(found) == expected[kind]
            assert len(found) == len(set(found))
    # the cases are not empty
    assert all(_twin(tree, 1, 1).values())


def test_boxes_that_meet_by_expansions_are_apart():
    x = clouds.SHAPES["plummer"](3000, np.random.default_rng(5))
    tree = _tree(x, x, 10)
    lists = build_lists(tree, 1, 1)
    for kind in KINDS[1:]:
        a, b = _pairs(lists, kind)
        assert len(a)
        # along the axis where they are farthest there is room for the smaller one
        between = np.abs(tree.centre[a] - tree.centre[b]).max(axis=-1)
        gap = between - 0.5 * (tree.edge[a] + tree.edge[b])
        assert (gap > (1 - 1e-9) * np.minimum(tree.edge[a], tree.edge[b])).all()
    m2p, p2l = _pairs(lists, "m2p"), _pairs(lists, "p2l")
    assert (tree.edge[m2p[0]] > tree.edge[m2p[1]]).all()
    assert (tree.edge[p2l[0]] < tree.edge[p2l[1]]).all()
    assert (np.diff(m2p[0]) >= 0).all() and (np.diff(p2l[0]) >= 0).all()


@pytest.mark.parametrize("root_grid", [1, 5])
def test_codes_are_shifts_of_boxes(root_grid):
    x = np.random.default_rng(6).random((3000, 3))
    tree = _tree(x, x, 10, root_grid)
    lists = build_lists(tree, 1, 1)
    targets, sources = _pairs(lists, "m2l")
    shift = tree.anchor[targets] - tree.anchor[sources]
    codes = (shift + REACH) @ (81, 9, 1)
    np.testing.assert_array_equal(codes, _rows(lists.m2l_starts))
    assert (np.diff(codes * len(tree.parent) + targets) > 0).all()
    level = _levels(tree)
    np.testing.assert_array_equal(level[targets], level[sources])
    assert np.abs(shift[level[targets] == 0]).max(initial=0) == (4 if root_grid == 5 else 0)
    assert np.abs(shift[level[targets] > 0]).max() == 3


def test_merged_ranges_hold_the_near_sources():
    x = clouds.SHAPES["sphere"](1500, np.random.default_rng(7))
    tree = _tree(x, x, 12, 3)
    lists = build_lists(tree, 20, 20)
    places = np.arange(len(x))
    for box in range(len(tree.parent)):
        boxes = lists.near_boxes[slice(*lists.near_starts[box : box + 2])]
        expected = [places[slice(*tree.source_range[b])] for b in boxes]
        ranges = lists.near_ranges[slice(*lists.near_range_starts[box : box + 2])]
        found = np.concatenate([places[slice(*r)] for r in ranges] or [[]])
        np.testing.assert_array_equal(found, np.sort(np.concatenate(expected or [[]])))
        assert (ranges[1:, 0] > ranges[:-1, 1]).all()


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
    tree = _tree(x, s, leaf_size, root_grid)
    assert (_meetings(tree, build_lists(tree, least, least)) == 1).all()
