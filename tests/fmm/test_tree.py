"""Tree: boxes hold their points, along the curve, and are divided where they hold many."""

from fractions import Fraction
from itertools import pairwise

import clouds
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmm.tree.build import build_tree
from fmm.tree.curve import MAX_LEVELS, occupancy, sort_points


def _tree(targets, sources, leaf_size, root_grid=1, batches=(None, None)):
    return build_tree(sort_points(targets, sources, *batches, root_grid=root_grid), leaf_size)


def _check_boxes(tree, targets, sources, leaf_size):
    for box in range(len(tree.parent)):
        _check_children(tree, box)
    most = np.zeros(len(tree.parent), np.int64)
    differ = np.zeros(len(tree.parent))
    assert (tree.anchor >= 0).all()
    for ranges, order, points in (
        (tree.target_range, tree.target_permutation, targets),
        (tree.source_range, tree.source_permutation, sources),
    ):
        assert sorted(order) == list(range(len(points)))
        roots = ranges[: tree.level_starts[1]]
        assert (roots[1:, 0] == roots[:-1, 1]).all()
        assert roots[0, 0] == 0 and roots[-1, 1] == len(points)
        for box, range_ in enumerate(ranges):
            inside = points[order[slice(*range_)]]
            reach = np.abs(inside - tree.centre[box]).max(initial=0)
            room = 1e-9 * tree.edge[box] + 1e-12 * np.abs(points).max(initial=0)
            assert reach <= tree.edge[box] / 2 + room + np.finfo(float).tiny
            if len(inside):
                differ[box] = max(differ[box], np.ptp(inside, axis=0).max())
        most = np.maximum(most, ranges[:, 1] - ranges[:, 0])
    assert (most > 0).all()
    leaf = tree.n_children == 0
    assert (most[~leaf] > leaf_size).all()
    # too many for a leaf only if nothing tells them apart: 15 levels or more
    crowded = leaf & (most > leaf_size)
    finest = tree.edge.max(initial=0) / 2**15 + np.finfo(float).tiny
    assert (differ[crowded] <= finest).all()


def _levels(tree):
    return np.repeat(np.arange(len(tree.level_starts) - 1), np.diff(tree.level_starts))


def _check_children(tree, box):
    children = slice(tree.first_child[box], tree.first_child[box] + tree.n_children[box])
    if children.start == children.stop:
        return
    level = np.searchsorted(tree.level_starts, box, side="right")
    assert tree.level_starts[level] <= children.start
    assert children.stop <= tree.level_starts[level + 1]
    assert (tree.parent[children] == box).all()
    assert (tree.system[children] == tree.system[box]).all()
    assert (tree.anchor[children] >> 1 == tree.anchor[box]).all()
    assert (tree.edge[children] == tree.edge[box] / 2).all()
    # the translations' shift, to the last bit; not `centre - centre`, which may be rounded
    quarters = (2 * (tree.anchor[children] & 1) - 1) * tree.edge[box] / 4
    assert (tree.centre[children] == tree.centre[box] + quarters).all()
    assert (tree.centre[children] - quarters == tree.centre[box]).all()
    octants = (tree.anchor[children] & 1) @ (4, 2, 1)
    assert (np.diff(octants) > 0).all()
    for ranges in (tree.target_range, tree.source_range):
        mine = ranges[children]
        assert mine[0, 0] == ranges[box, 0] and mine[-1, 1] == ranges[box, 1]
        assert (mine[1:, 0] == mine[:-1, 1]).all()


@pytest.mark.parametrize("root_grid", [1, 3, 5])
@pytest.mark.parametrize("shape", list(clouds.SHAPES))
def test_boxes_hold_their_points(shape, root_grid):
    rng = np.random.default_rng(0)
    x, s = clouds.SHAPES[shape](700, rng), clouds.SHAPES[shape](400, rng)
    tree = _tree(x, x, 6, root_grid)
    _check_boxes(tree, x, x, 6)
    assert tree.target_permutation is tree.source_permutation
    assert tree.target_range is tree.source_range
    _check_boxes(_tree(x, s, 9, root_grid), x, s, 9)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 120),
    m=st.integers(1, 120),
    leaf_size=st.integers(1, 20),
    root_grid=st.integers(1, 5),
    scale=st.sampled_from([1e-320, 1e-300, 1e-9, 1.0, 1e200]),
    offset=st.sampled_from([0.0, 1.0, -1e5]),
    decimals=st.integers(0, 12),
    seed=st.integers(0, 2**31),
)
def test_boxes_hold_any_points(n, m, leaf_size, root_grid, scale, offset, decimals, seed):
    rng = np.random.default_rng(seed)
    x, s = (scale * (np.round(rng.random((k, 3)), decimals) + offset) for k in (n, m))
    _check_boxes(_tree(x, s, leaf_size, root_grid), x, s, leaf_size)


@pytest.mark.parametrize("root_grid", [1, 3, 5])
@pytest.mark.parametrize("shape", [*clouds.SHAPES, *clouds.DEEP])
def test_centres_and_edges_are_exact(shape, root_grid):
    x = (clouds.SHAPES | clouds.DEEP)[shape](300, np.random.default_rng(1))
    points = sort_points(x, x, root_grid=root_grid)
    tree = build_tree(points, 4)
    origin, edge = [Fraction(x) for x in points.origin[0]], Fraction(points.edge[0])
    odd = edge.numerator // (edge.numerator & -edge.numerator)
    assert odd.bit_length() <= 10
    for box, level in enumerate(_levels(tree)):
        assert Fraction(tree.edge[box]) == edge / 2 ** int(level)
        for axis in range(3):
            place = int(tree.anchor[box, axis]) + Fraction(1, 2)
            assert Fraction(tree.centre[box, axis]) == origin[axis] + place * edge / 2 ** int(level)


@pytest.mark.parametrize("shape", list(clouds.DEEP))
def test_deep_trees_hold_their_points(shape):
    x = clouds.DEEP[shape](300, np.random.default_rng(2))
    tree = _tree(x, x, 6)
    for box in range(len(tree.parent)):
        _check_children(tree, box)
    assert len(tree.level_starts) - 2 <= MAX_LEVELS
    held = np.diff(tree.target_range, axis=1)[:, 0]
    for box in np.flatnonzero(tree.n_children == 0):
        inside = x[tree.target_permutation[slice(*tree.target_range[box])]]
        room = 4 * np.spacing(np.abs(inside))
        assert (np.abs(inside - tree.centre[box]) <= tree.edge[box] / 2 + room).all()
        if held[box] > 6 and len(np.unique(inside, axis=0)) > 1:
            # too small for centres of children to be numbers, or below the last level
            digits = np.abs(tree.centre[box]).max() / tree.edge[box]
            assert digits > 2.0**40 or tree.edge[box] < 2.0**-58 * tree.edge[0]


@pytest.mark.parametrize(
    ("shape", "levels"),
    [("outlier at 100", 7), ("outlier at 1e+08", 27), ("outlier at 1e+17", 57),
     ("cluster of 1e-10 at 0", 34), ("cluster of 1e-16 at 0", 54), ("cluster of 1e-10 at 0.7", 34),
     ("nested at 0", 40), ("nested at -0.7", 40)],
)  # fmt: skip
def test_deep_trees_tell_points_apart(shape, levels):
    x = clouds.DEEP[shape](3000, np.random.default_rng(3))
    tree = _tree(x, x, 30)
    assert levels < len(tree.level_starts) - 1 <= MAX_LEVELS + 1
    assert np.diff(tree.target_range, axis=1)[tree.n_children == 0].max() <= 30


def test_points_of_one_key_keep_their_order():
    x = np.random.default_rng(4).random((50, 3))
    for y in (np.repeat(x, 6, axis=0), np.tile(x, (40, 1)), np.tile(1e-15 * x, (40, 1)) + 1):
        points = sort_points(y, y)
        equal = (points.source_keys[:, 1:] == points.source_keys[:, :-1]).all(axis=0)
        assert equal.any()
        assert (np.diff(points.source_permutation)[equal] > 0).all()


def test_boxes_are_divided_though_the_levels_left_do_not_tell_points_apart():
    # two clusters in boxes that touch: two halvings more, and there is room between them
    x = np.random.default_rng(6).random((40, 3)) * 0.01
    x[20:] += 30
    points = sort_points(x, x)
    tree = build_tree(points, 5, smallest=points.edge[0] / 8)
    assert len(tree.level_starts) - 1 == 4 and list(np.diff(tree.level_starts)) == [1, 2, 2, 2]


def test_systems_larger_than_numbers_are_refused():
    x = np.array([[-1.7e308, 0, 0], [1.7e308, 0, 0]])
    with pytest.raises(ValueError, match=r"expected systems that extend over less than 1.6e308"):
        sort_points(x, x)


def test_many_systems_have_deep_trees_of_their_own():
    rng = np.random.default_rng(5)
    batch = np.repeat(np.arange(300), 40)
    x = rng.random((len(batch), 3)) * np.where(rng.random(len(batch)) < 0.8, 1e-9, 1)[:, None]
    tree = _tree(x, x, 10, 5, (batch, batch))
    assert np.diff(tree.target_range, axis=1)[tree.n_children == 0].max() <= 10
    for box in range(len(tree.parent)):
        _check_children(tree, box)


def test_roots_are_wider_than_rounding():
    x = np.full((2, 3), 1e15)
    x[1] += np.spacing(1e15)
    tree = _tree(x, x, 5)
    assert tree.edge[0] >= 64 * np.spacing(1e15)
    _check_boxes(tree, x, x, 5)


def test_points_exchanged_have_the_same_boxes():
    x, s = clouds.apart("nested", 500, np.random.default_rng(1))
    points = sort_points(x, s)
    tree, back = build_tree(points, 5), build_tree(points.transposed(), 5)
    np.testing.assert_array_equal(back.target_range, tree.source_range)
    np.testing.assert_array_equal(back.source_range, tree.target_range)
    np.testing.assert_array_equal(back.centre, tree.centre)


def test_systems_have_roots_of_their_own():
    rng = np.random.default_rng(2)
    batch, other = np.repeat([0, 5, 10**15], [100, 1, 200]), np.repeat([3, 5], [50, 60])
    x, s = rng.random((301, 3)) + batch[:, None] % 7, rng.random((110, 3))
    tree = _tree(x, s, 8, 2, (batch, other))
    # numbered without gaps: 0 is system 0, 1 is 3, 2 is 5, 3 is 10**15
    expected = np.searchsorted([0, 3, 5, 10**15], batch), np.searchsorted([0, 3, 5], other)
    for box, system in enumerate(tree.system):
        assert (
            expected[0][tree.target_permutation[slice(*tree.target_range[box])]] == system
        ).all()
        assert (
            expected[1][tree.source_permutation[slice(*tree.source_range[box])]] == system
        ).all()
    assert list(np.unique(tree.system)) == [0, 1, 2, 3]
    _check_boxes(tree, x, s, 8)


def test_one_set_of_points_in_two_partitions():
    x = np.random.default_rng(3).random((60, 3))
    batch, other = np.repeat([0, 1], 30), np.repeat([0, 1], [20, 40])
    tree = _tree(x, x, 5, batches=(batch, other))
    for box, system in enumerate(tree.system):
        assert (batch[tree.target_permutation[slice(*tree.target_range[box])]] == system).all()
        assert (other[tree.source_permutation[slice(*tree.source_range[box])]] == system).all()


def test_no_points_no_boxes():
    none = np.empty((0, 3))
    tree = _tree(none, none, 5)
    assert len(tree.parent) == 0 and list(tree.level_starts) == [0, 0]
    empty = np.empty(0, np.int64)
    assert len(_tree(none, none, 5, batches=(empty, empty)).parent) == 0


def test_coincident_points_stay_together():
    x = np.full((300, 3), 2.5)
    tree = _tree(x, x, 10)
    assert len(tree.parent) == 1 and tree.edge[0] == 1
    x = np.repeat(np.random.default_rng(0).random((20, 3)), 50, axis=0)
    tree = _tree(x, x, 10)
    sizes = np.diff(tree.target_range, axis=1)[tree.n_children == 0, 0]
    assert (sizes == 50).all() and len(tree.parent) < 400


def test_occupancy_counts_boxes():
    x = np.random.default_rng(0).random((4000, 3))
    boxes, crowding = occupancy(sort_points(x, x))
    assert boxes[0] == 1 and boxes[1] == 8 and 55 < boxes[2] <= 64
    assert (crowding > 0.99).all() and crowding[1] < 1.05
    heaped = clouds.SHAPES["plummer"](4000, np.random.default_rng(0))
    points = sort_points(heaped, heaped)
    boxes, crowding = occupancy(points)
    assert crowding.max() > 5
    # as in the twin: points counted box by box
    places = np.floor((heaped - points.origin) / points.edge * 2.0**3)
    counts = np.unique(places, axis=0, return_counts=True)[1]
    assert boxes[3] == len(counts)
    np.testing.assert_allclose(crowding[3], (counts**2).sum() / 4000 / counts.mean())


def test_occupancy_of_deep_trees_counts_boxes():
    x = clouds.DEEP["cluster of 1e-10 at 0"](400, np.random.default_rng(0))
    x[:210] = x[210]
    points = sort_points(x, x)
    boxes, crowding = occupancy(points)
    assert len(boxes) == points.n_levels + 1
    tree = build_tree(points, 1)
    for level, (first, last) in enumerate(pairwise(tree.level_starts)):
        held = np.diff(tree.source_range[first:last], axis=1)[:, 0]
        # leaves of one point or place have no boxes below them
        above = (tree.n_children == 0)[:first]
        held = np.append(held, np.diff(tree.source_range[:first], axis=1)[above, 0])
        assert boxes[level] == len(held)
        np.testing.assert_allclose(crowding[level], (held**2).sum() * len(held) / 400**2)


def test_elongated_systems_get_few_root_boxes():
    x = np.random.default_rng(0).random((500, 3)) * [10.0, 1.0, 1.0]
    assert _tree(x, x, 1000, root_grid=5).level_starts[1] == 5
