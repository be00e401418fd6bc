"""Arrays on the device as kernels take them: pointer, shape, type, and who owns the memory."""

from contextlib import suppress
from math import prod
from typing import Any

import numpy as np

from multipoles.compiled import driver
from multipoles.compiled.launching import packed_array


class DeviceArray:
    """Numbers on the device, row after row.

    Parameters
    ----------
    pointer : int
        Of the first number.
    shape : tuple of int
    dtype : dtype
    owner : object
        Lives as long as the memory may be used.
    offset : int
        Numbers of the owner before the first of these.
    contiguous : bool
        Whether rows follow one another; no kernel takes others.
    """

    __slots__ = (
        "_words", "contiguous", "dtype", "kind", "offset", "owner", "pointer", "shape", "size",
    )  # fmt: skip
    __cuda_ndarray__ = True

    def __init__(
        self,
        pointer: int,
        shape: tuple[int, ...],
        dtype: np.dtype,
        owner: Any,
        offset: int = 0,
        contiguous: bool = True,
    ) -> None:
        self.pointer, self.shape, self.dtype = pointer, shape, dtype
        self.owner, self.offset, self.contiguous = owner, offset, contiguous
        self.size = prod(shape)
        self.kind = dtype, len(shape)
        self._words: bytes | None = None

    @property
    def words(self) -> bytes:
        """What a kernel is given, see `launching.packed_array`."""
        if not self.contiguous:
            raise ValueError("expected an array whose rows follow one another; copy it")
        if self._words is None:
            self._words = packed_array(self.pointer, self.shape, self.dtype.itemsize)
        return self._words

    def is_c_contiguous(self) -> bool:
        """Return whether rows follow one another."""
        return self.contiguous

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers."""
        return self.size * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape, "typestr": self.dtype.str, "data": (self.pointer, False),
            "strides": None, "version": 2,
        }  # fmt: skip

    def __len__(self) -> int:
        return self.shape[0]

    def reshape(self, *shape: Any) -> "DeviceArray":
        """Return the same numbers in another shape, of which one length may be -1."""
        wanted = tuple(shape[0]) if isinstance(shape[0], tuple) else shape
        if -1 in wanted:
            others = prod(n for n in wanted if n != -1)
            wanted = tuple(self.size // others if n == -1 else n for n in wanted)
        if prod(wanted) != self.size:
            raise ValueError(f"expected a shape of {self.size} numbers, got {wanted}")
        return DeviceArray(
            self.pointer, wanted, self.dtype, self.owner, self.offset, self.contiguous
        )

    def __getitem__(self, part: int | slice) -> "DeviceArray":
        """Return one row, or consecutive rows."""
        row = prod(self.shape[1:])
        if isinstance(part, slice):
            first, end, step = part.indices(self.shape[0])
            if step != 1:
                raise IndexError(f"expected consecutive rows, got {part}")
            shape = max(end - first, 0), *self.shape[1:]
        else:
            first, shape = part + self.shape[0] * (part < 0), self.shape[1:]
            if not 0 <= first < self.shape[0]:
                raise IndexError(f"expected a row of {self.shape[0]}, got {part}")
        pointer = self.pointer + first * row * self.dtype.itemsize
        return DeviceArray(pointer, shape, self.dtype, self.owner, self.offset + first * row)

    def copy_to_device(self, source: Any, stream: int = 0) -> None:
        """Take the numbers of an array of the host or of the device, of the same shape and type."""
        if tuple(source.shape) != self.shape or source.dtype != self.dtype:
            raise ValueError(
                f"expected {self.dtype} of shape {self.shape}, got {source.dtype} of shape "
                f"{tuple(source.shape)}"
            )
        if self.size == 0:
            return
        if isinstance(source, DeviceArray):
            driver.copy_across(self.pointer, source.pointer, self.nbytes, stream)
        else:
            driver.copy_up(self.pointer, np.ascontiguousarray(source), stream)

    def copy_to_host(self, stream: int = 0) -> np.ndarray:
        """Return a copy on the host; waits for what the stream has to do before."""
        out = np.empty(self.shape, self.dtype)
        if self.size:
            driver.copy_down(out, self.pointer, stream)
        return out


class Memory:
    """Memory of the driver's pool, which goes back to it with the last array.

    Parameters
    ----------
    size : int
        Bytes.
    stream : int
        For work of which stream.
    """

    __slots__ = ("__weakref__", "_device", "_is_lent", "_stream", "pointer")

    def __init__(self, size: int, stream: int) -> None:
        self._stream, self._is_lent = stream, False
        self.pointer = driver.allocate(size, stream) if size else 0
        self._device = driver.of_stream(stream)

    def lend(self) -> None:
        """Let others use it on streams of theirs: before it goes, all of them are waited for."""
        self._is_lent = True

    def __del__(self) -> None:
        pointer: int = getattr(self, "pointer", 0)
        if pointer and driver is not None:
            with suppress(driver.DriverError):  # at the end of the process the driver may be gone
                driver.release(pointer, self._stream, self._device, self._is_lent)
