"""Arrays of other libraries: who lies on a GPU, and what DLPack says of them."""

import ctypes

import numpy as np
import pytest

import multipoles as mp
from multipoles.checks import on_device
from multipoles.cuda.dlpack import Imported


class ByDlpack:
    """An array that offers DLPack only, said to lie on a device of some kind."""

    def __init__(self, array, kind=2):
        self.array, self.kind = array, kind

    def __dlpack__(self):
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return self.kind, 0


class ByInterface:
    @property
    def __cuda_array_interface__(self):
        return {"shape": (1, 3)}


def test_who_lies_on_a_gpu():
    assert on_device(ByDlpack(np.zeros(3))) and on_device(ByInterface())
    for array in (np.zeros(3), [1.0], 2.0, None, ByDlpack(np.zeros(3), kind=1)):
        assert not on_device(array)


def test_torch_tensors_of_the_cpu_are_arrays():
    torch = pytest.importorskip("torch")
    x = torch.arange(12.0).reshape(4, 3)
    assert not on_device(x)
    assert mp.field(x, x, torch.ones(4, 1)).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_dlpack_is_read_without_a_copy(dtype):
    array = np.arange(24, dtype=dtype).reshape(4, 6)[1:, ::2]
    seen = Imported(ByDlpack(array)).__cuda_array_interface__
    address, read_only = seen["data"]
    assert not read_only and address == array.ctypes.data
    assert seen["shape"] == array.shape and np.dtype(seen["typestr"]) == dtype
    assert seen["strides"] == array.strides
    first = ctypes.cast(address, ctypes.POINTER(np.ctypeslib.as_ctypes_type(dtype)))
    assert first[0] == array[0, 0]


def test_an_imported_array_keeps_its_memory():
    imported = Imported(ByDlpack(np.full(1000, 7.0)))
    np.full(1000, 1.0)  # would take memory that was given back
    address = imported.__cuda_array_interface__["data"][0]
    assert ctypes.cast(address, ctypes.POINTER(ctypes.c_double))[999] == 7.0


def test_numbers_that_are_not_known():
    with pytest.raises(TypeError, match="expected an array of integers or real numbers"):
        Imported(ByDlpack(np.zeros(3, np.complex128)))
