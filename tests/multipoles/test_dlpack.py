"""Memory given to other libraries by DLPack stays as long as they hold it."""

import weakref

import numpy as np
import pytest

from multipoles.cuda import dlpack

torch = pytest.importorskip("torch")
CPU = 1, 0


class Owner:
    def __init__(self, dtype=np.float32):
        self.array = np.arange(6).astype(dtype)

    def exported(self, shape=(2, 3)):
        return dlpack.Exported(self, self.array.ctypes.data, shape, self.array.dtype, CPU)


@pytest.mark.parametrize("take", [torch.from_dlpack, np.from_dlpack])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int32])
def test_memory_goes_with_the_last_that_holds_it(take, dtype):
    owner = Owner(dtype)
    seen = weakref.ref(owner)
    taken = take(owner.exported())
    del owner
    assert seen() is not None, "the memory went while it was held"
    assert np.array_equal(np.asarray(taken), np.arange(6).reshape(2, 3))
    part = taken[1]
    del taken
    assert seen() is not None and float(part.sum()) == 12
    del part
    assert seen() is None and not dlpack._lent


def test_a_capsule_that_nobody_takes_holds_nothing():
    owner = Owner()
    seen = weakref.ref(owner)
    capsule = owner.exported().__dlpack__(stream=1, max_version=(1, 0))
    del owner
    assert seen() is not None
    del capsule
    assert seen() is None and not dlpack._lent


def test_where_it_lies_is_told():
    assert Owner().exported().__dlpack_device__() == CPU


def test_what_was_taken_can_be_taken_on():
    owner = Owner()
    found = dlpack.Imported(owner.exported())
    interface = found.__cuda_array_interface__
    assert found.device == CPU and interface["shape"] == (2, 3)
    assert interface["data"][0] == owner.array.ctypes.data and interface["typestr"] == "<f4"


def test_arrays_of_the_host_are_not_taken_for_those_of_a_gpu():
    pytest.importorskip("numba.cuda")
    from multipoles.cuda.device import view

    class HostOnly:
        __dlpack__ = np.zeros(3).__dlpack__

    with pytest.raises(TypeError, match=r"expected an array on a GPU, got a HostOnly on .* kind 1"):
        view(HostOnly())
