"""Arrays taken and given by DLPack, without a copy.

The structures are those of https://dmlc.github.io/dlpack/latest/c_api.html, before version 1.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

CUDA = 2
_KINDS = {0: "i", 1: "u", 2: "f"}


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("number", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


def _pointer_of(capsule: Any) -> int:
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return get(capsule, b"dltensor")


class Imported:
    """What DLPack says of an array, as ``__cuda_array_interface__``; keeps the array alive.

    Parameters
    ----------
    array : object
        Has ``__dlpack__``.

    Raises
    ------
    TypeError
        If its numbers are of a kind that NumPy does not know.
    """

    def __init__(self, array: Any) -> None:
        # the capsule is not renamed, so the exporter frees its description with the capsule
        self._owner = array, array.__dlpack__()
        tensor = _Tensor.from_address(_pointer_of(self._owner[1]))
        kind = _KINDS.get(tensor.dtype.code)
        if kind is None or tensor.dtype.lanes != 1:
            raise TypeError(
                "expected an array of integers or real numbers by DLPack, got type code "
                f"{tensor.dtype.code} with {tensor.dtype.lanes} lanes"
            )
        dtype = np.dtype(f"{kind}{tensor.dtype.bits // 8}")
        strides = None
        if tensor.strides:
            strides = tuple(tensor.strides[i] * dtype.itemsize for i in range(tensor.ndim))
        self.device = tensor.device.kind, tensor.device.number
        self.__cuda_array_interface__ = {
            "shape": tuple(tensor.shape[i] for i in range(tensor.ndim)),
            "typestr": dtype.str,
            "data": ((tensor.data or 0) + tensor.byte_offset, False),
            "strides": strides,
            "version": 2,
        }


class Exported:
    """Memory as DLPack offers it; its owner is kept until the consumer calls it done.

    Parameters
    ----------
    owner : object
        Frees the memory when it goes.
    pointer : int
        Address of the first number.
    shape : tuple of int
        Rows lie one after another.
    dtype : dtype
        Integers or real numbers.
    device : tuple of int
        Kind and number, in DLPack's counting.
    """

    def __init__(
        self,
        owner: Any,
        pointer: int,
        shape: tuple[int, ...],
        dtype: np.dtype,
        device: tuple[int, int],
    ) -> None:
        self._owner, self._pointer, self._shape = owner, pointer, shape
        self._dtype, self._device = np.dtype(dtype), device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, **_: Any) -> Any:
        """Return the capsule; what writes the memory must have ended, whatever the stream."""
        n = len(self._shape)
        shape = (ctypes.c_int64 * n)(*self._shape)
        code = next(k for k, kind in _KINDS.items() if kind == self._dtype.kind)
        tensor = _Tensor(
            self._pointer, _Device(*self._device), n, _DataType(code, 8 * self._dtype.itemsize, 1),
            shape, None, 0,
        )  # fmt: skip
        managed = _Managed(tensor, None, _forget)
        address = ctypes.addressof(managed)
        _lent[address] = self._owner, managed, shape
        return _new_capsule(address, b"dltensor", _drop)


# what consumers hold: owner and description, by the description's address
_lent: dict[int, Any] = {}


@_Deleter
def _forget(managed: Any) -> None:
    _lent.pop(ctypes.addressof(managed.contents), None)


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _drop(capsule: int) -> None:
    """End a capsule that nobody consumed; consumers give it another name."""
    if _is_valid(capsule, b"dltensor"):
        _lent.pop(_address_in(capsule, b"dltensor"), None)


def _api(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    # prototypes of their own: a capsule that is going must not be counted as an object
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_is_valid = _api("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_address_in = _api("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_new_capsule = _api(
    "PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, type(_drop)
)
