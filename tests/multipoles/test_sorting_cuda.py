"""Running sums and stable sorting on the GPU against NumPy."""

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("numba.cuda")

from multipoles.compiled.cuda_kernels import SIMULATED
from multipoles.cuda import digits, library
from multipoles.cuda.device import CupySpace, NumbaSpace, TorchSpace
from multipoles.cuda.sorting import argsort, running_sum

pytestmark = pytest.mark.cuda
# none, one, about a chunk, and so many that chunks have several tiles
SIZES = [0, 1, 63, 64, 65, 300] if SIMULATED else [0, 1, 2047, 2048, 2049, 5_000_000]


@pytest.mark.parametrize("n", SIZES)
def test_running_sum(n):
    space = NumbaSpace()
    counts = np.random.default_rng(n).integers(0, 9, n)
    found = space.download(running_sum(space, space.upload(counts)))
    np.testing.assert_array_equal(found, np.append(0, np.cumsum(counts)))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", [4, 33])
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


class _Owned:
    """Numbers of the simulator's memory under the name of whoever owns them."""

    def __init__(self, array, owner):
        self.array, self.owner = array, owner
        self.dtype, self.size, self.shape = array.dtype, array.size, array.shape


@pytest.mark.parametrize("name", ["torch", "cupy"])
def test_a_library_sorts_as_we_do(name, monkeypatch):
    """CPU tensors stand for those of a device, NumPy for CuPy."""
    torch = pytest.importorskip("torch")
    here = NumbaSpace()
    stable = SimpleNamespace(ndarray=np.ndarray, argsort=partial(np.argsort, kind="stable"))

    class Theirs(TorchSpace if name == "torch" else CupySpace):
        def __init__(self):
            self.torch, self.cupy, self._stream = torch, stable, nullcontext()

        def new(self, shape, dtype):
            return here.new(shape, dtype)

        def give(self, array):
            array = getattr(array, "array", array)._ary
            return torch.from_numpy(array) if name == "torch" else array

    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    values = np.random.default_rng(3).integers(0, 40, 100)
    keys = here.upload(values)
    space = Theirs()
    order, ordered = argsort(space, _Owned(keys, space.give(keys)))
    np.testing.assert_array_equal(here.download(order), np.argsort(values, kind="stable"))
    np.testing.assert_array_equal(here.download(ordered), np.sort(values))
    monkeypatch.setattr(library, "ENABLED", False)
    order, _ = argsort(space, keys)
    np.testing.assert_array_equal(here.download(order), np.argsort(values, kind="stable"))


def test_arrays_that_a_library_does_not_own_are_sorted_here():
    keys = NumbaSpace().upload(np.arange(3))
    assert library.sorter(NumbaSpace(), keys) is None
    assert library.sorter(TorchSpace.__new__(TorchSpace), NumbaSpace().upload(keys[:0])) is None


@pytest.mark.parametrize("held, crowded", [(3, 0), (4, 1)])
def test_keys_that_share_leading_bits_are_settled(held, crowded):
    """As many as may, with ties; one more is told."""
    space, n = NumbaSpace(), 90
    rng = np.random.default_rng(held)
    leading = np.append(rng.permutation(n - held) + 1, np.zeros(held, np.int64))
    keys = leading << 20 | np.append(rng.integers(0, 1 << 20, n - held), [7, 3, 7, 1][:held])
    sent = digits.Digits(space, n, 8)
    sent.numbers.copy_to_device(leading << digits.INDEX | np.arange(n))
    counts = [np.bincount(leading[i : i + sent.chunk], minlength=digits.DIGITS)
              for i in range(0, n, sent.chunk)]  # fmt: skip
    sent.counts.copy_to_device(np.concatenate(counts).astype(np.int32))
    told = space.zeros((1,), np.int64)
    order, ordered = digits.settled(space, space.upload(keys), sent, 3, told)
    assert space.download(told)[0] == crowded
    if not crowded:
        np.testing.assert_array_equal(space.download(order), np.argsort(keys, kind="stable"))
        np.testing.assert_array_equal(space.download(ordered), np.sort(keys))


def test_more_numbers_than_an_index_counts_are_refused():
    with pytest.raises(ValueError, match=r"fewer than 2\^31 numbers.*2147483648"):
        digits.Digits(NumbaSpace(), 1 << 31, 8)
