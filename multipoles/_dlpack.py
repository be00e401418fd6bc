"""Arrays of libraries that offer DLPack only, seen by Numba without a copy.

The structures are those of https://dmlc.github.io/dlpack/latest/c_api.html, before version 1.
"""

import ctypes
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
        # the capsule is not renamed, so the exporter frees its description when it goes
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
