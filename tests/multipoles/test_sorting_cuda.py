"""Running sums and stable sorting on the GPU against NumPy."""

import numpy as np
import pytest

pytest.importorskip("numba.cuda")

from multipoles.compiled.cuda_kernels import SIMULATED
from multipoles.cuda.device import NumbaSpace
from multipoles.cuda.sorting import argsort, running_sum

pytestmark = pytest.mark.cuda
# none, one, about one thread's and one block's share, and so many that sums of sums are needed
SIZES = [0, 1, 63, 64, 65, 300] if SIMULATED else [0, 1, 2047, 2048, 2049, 5_000_000]


@pytest.mark.parametrize("n", SIZES)
def test_running_sum(n):
    space = NumbaSpace()
    counts = np.random.default_rng(n).integers(0, 9, n)
    found = space.download(running_sum(space, space.upload(counts)))
    np.testing.assert_array_equal(found, np.append(0, np.cumsum(counts)))


def test_running_sum_of_sums_of_sums():
    space = NumbaSpace()
    n = 64 * 64 + 1 if SIMULATED else 2048**2 + 1
    found = space.download(running_sum(space, space.upload(np.ones(n, np.int64))))
    np.testing.assert_array_equal(found, np.arange(n + 1))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", [4, 9])
def test_argsort_is_stable(n, bits):
    space = NumbaSpace()
    keys = np.random.default_rng(n).integers(0, 2**bits, n)
    order, ordered = argsort(space, space.upload(keys), bits)
    np.testing.assert_array_equal(space.download(order), np.argsort(keys, kind="stable"))
    np.testing.assert_array_equal(space.download(ordered), np.sort(keys))


def test_argsort_takes_all_bits():
    space = NumbaSpace()
    keys = np.array([2**62 + 1, 5, 2**63 - 1, 0, 2**62, 5])
    order, _ = argsort(space, space.upload(keys))
    np.testing.assert_array_equal(space.download(order), [3, 1, 5, 4, 0, 2])


def test_keys_are_left_alone():
    space = NumbaSpace()
    keys = space.upload(np.array([3, 1, 2]))
    argsort(space, keys, 4)
    np.testing.assert_array_equal(space.download(keys), [3, 1, 2])
