"""The lists made on the GPU are those made on the CPU."""

import numpy as np
import pytest

pytest.importorskip("numba.cuda")

import clouds
from test_tree_cuda import SPACE, both

from fmm import lists as cpu
from fmm import lists_cuda

pytestmark = pytest.mark.cuda


def _check(targets, sources, leaf_size, least, **choice):
    _, tree, _, there = both(targets, sources, leaf_size, **choice)
    expected = cpu.build_lists(tree, *least)
    found = lists_cuda.build_lists(SPACE, there, *least)
    for name in cpu.Lists.__dataclass_fields__:
        array, wanted = SPACE.download(getattr(found, name)), getattr(expected, name)
        assert array.dtype == wanted.dtype, name
        np.testing.assert_array_equal(array, wanted, err_msg=name)
    codes = np.repeat(np.arange(cpu.N_CODES), np.diff(expected.m2l_starts))
    np.testing.assert_array_equal(SPACE.download(found.m2l_codes), codes)
    return expected


@pytest.mark.parametrize("root_grid", [1, 3])
def test_same_lists_as_on_the_cpu(root_grid):
    x = np.random.default_rng(0).random((60, 3))
    lists = _check(x, x, 3, (1, 1), root_grid=root_grid)
    assert len(lists.m2l_targets) > 0


def test_boxes_of_all_sizes():
    rng = np.random.default_rng(1)
    s = np.concatenate([rng.random((20, 3)), 0.45 + 0.05 * rng.random((30, 3))])
    x = np.concatenate([rng.random((15, 3)), 0.52 + 0.04 * rng.random((20, 3))])
    lists = _check(x, s, 3, (2, 3))
    assert min(len(lists.m2l_targets), len(lists.m2p_targets), len(lists.p2l_targets)) > 0


def test_systems():
    rng = np.random.default_rng(2)
    batch, other = np.repeat([0, 5, 9], [20, 1, 20]), np.repeat([3, 5, 9], [10, 8, 15])
    _check(rng.random((41, 3)), rng.random((33, 3)), 3, (1, 1), batches=(batch, other))


def test_few_points():
    x = np.random.default_rng(3).random((1, 3))
    _check(x, x, 4, (1, 1))
    _check(x[:0], x, 4, (1, 1))
    _check(x[:0], x[:0], 4, (1, 1))


@pytest.mark.parametrize("shape", ["line"])
def test_shapes(shape):
    x = clouds.SHAPES[shape](60, np.random.default_rng(4))
    _check(x, x, 4, (3, 3))
