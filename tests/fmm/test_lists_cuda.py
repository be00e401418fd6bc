"""The lists made on the GPU are those made on the CPU."""

import numpy as np
import pytest

pytest.importorskip("numba.cuda")

import clouds
from test_tree_cuda import SPACE, both

from fmm.cuda import lists as lists_cuda
from fmm.tree import lists as cpu

pytestmark = pytest.mark.cuda


def _check(targets, sources, leaf_size, least, **choice):
    _, tree, _, there = both(targets, sources, leaf_size, **choice)
    expected = cpu.build_lists(tree, *least)
    found = lists_cuda.build_lists(SPACE, there, *least)
    for name in cpu.Lists.__dataclass_fields__:
        array, wanted = SPACE.download(getattr(found, name)), getattr(expected, name)
        assert array.dtype == wanted.dtype, name
        np.testing.assert_array_equal(array, wanted, err_msg=name)
    return expected


def test_same_lists_as_on_the_cpu():
    x = np.random.default_rng(0).random((30, 3))
    lists = _check(x, x, 3, (1, 1))
    assert len(lists.m2l_targets) > 0


def test_many_root_cells():
    x = np.random.default_rng(0).random((24, 3))
    lists = _check(x, x, 30, (1, 1), root_grid=3)
    assert len(lists.m2l_targets) > 0


def test_boxes_of_all_sizes():
    rng = np.random.default_rng(1)
    s = np.concatenate([rng.random((5, 3)), 0.45 + 0.05 * rng.random((14, 3))])
    x = np.concatenate([rng.random((5, 3)), 0.52 + 0.04 * rng.random((12, 3))])
    lists = _check(x, s, 3, (2, 3))
    assert min(len(lists.m2l_targets), len(lists.m2p_targets), len(lists.p2l_targets)) > 0


def test_systems():
    rng = np.random.default_rng(2)
    batch, other = np.repeat([0, 5, 9], [7, 1, 10]), np.repeat([3, 5, 9], [4, 3, 9])
    _check(rng.random((18, 3)), rng.random((16, 3)), 3, (1, 1), batches=(batch, other))


def test_few_points():
    x = np.random.default_rng(3).random((1, 3))
    _check(x, x, 4, (1, 1))
    _check(x[:0], x, 4, (1, 1))
    _check(x[:0], x[:0], 4, (1, 1))


def test_points_on_a_line():
    x = clouds.SHAPES["line"](30, np.random.default_rng(4))
    _check(x, x, 4, (3, 3))
