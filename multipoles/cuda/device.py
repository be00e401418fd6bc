"""Arrays on the GPU: taken from any library without a copy, and given back as that library's.

Kernels see Numba's device arrays. Memory comes from the caller's library, whose allocator is
faster than the driver's, and kernels run on the stream that is current there. What is made once
and kept carries an event: other streams wait for it, on the device, before they read.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, ClassVar
from weakref import WeakSet

import numpy as np

from multipoles.compiled.cuda_kernels import SIMULATED, cuda, simulated
from multipoles.cuda.dlpack import CUDA, Exported, Imported


class Space(ABC):
    """Where arrays of one library live: its memory and its stream.

    Attributes
    ----------
    stream
        Stream of `numba.cuda` for kernels.
    number
        The driver's handle of the stream; 0 is the default one.
    key
        Names library and device.
    """

    stream: Any = 0
    number: int = 0
    key: Any = "numba"
    _constants: ClassVar[dict[Any, "_Kept"]] = {}

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an uninitialised array on the device, as Numba sees it."""

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array of zeros on the device: the driver's memset, no kernel."""
        out = self.empty(shape, dtype)
        if out.size == 0:
            return out
        if SIMULATED:
            out.copy_to_device(np.zeros(shape, dtype))
            return out
        cuda.cudadrv.driver.device_memset(out, 0, out.size * out.dtype.itemsize, stream=self.stream)
        return out

    @abstractmethod
    def give(self, array: Any) -> Any:
        """Return an array made by `empty` as one of the caller's library."""

    def constant(self, key: Hashable, make: Callable[[], np.ndarray]) -> Any:
        """Return what `make` returns, on the device; made and copied once for every key."""
        return self.once(self._constants, (self.key, key), lambda: self.upload(make()))

    def once(self, kept: dict[Any, "_Kept"], key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the arrays that `make` writes on this stream when the key is asked for first.

        Other streams that ask for them later wait, on the device, until they are written.
        """
        if key not in kept:
            kept[key] = _Kept(self, make())
        return kept[key].on(self)

    def mark(self) -> Any:
        """Return an event that comes when the stream has done what it has to do so far."""
        event = cuda.event() if SIMULATED else cuda.event(timing=False)
        event.record(self.stream)
        return event

    def move_to(self, other: "Space") -> None:
        """Go on on another's stream, which first waits, on the device, for this one.

        Whatever was made here before may be read there, and memory that this space has still to
        fill or read is not given to others before that stream has done with it.
        """
        if other.number != self.number:
            self.mark().wait(other.stream)
            self._take_stream(other)

    def _take_stream(self, other: "Space") -> None:
        self.stream, self.number = other.stream, other.number

    def upload(self, array: np.ndarray) -> Any:
        """Return a copy of an array of the host on the device."""
        out = self.empty(array.shape, array.dtype)
        if array.size:
            out.copy_to_device(np.ascontiguousarray(array), stream=self.stream)
        return out

    def download(self, array: Any) -> np.ndarray:
        """Return a copy on the host; waits for what the stream has to do before."""
        found = array.copy_to_host(stream=self.stream)
        if self.stream:
            self.stream.synchronize()
        return found


class _Kept:
    """Arrays made once on a stream, and the event of their being there."""

    def __init__(self, space: Space, arrays: Any) -> None:
        self._arrays, self._event = arrays, space.mark()
        self._known_to = {space.number}

    def on(self, space: Space) -> Any:
        """Return the arrays for use on a stream, which waits for them the first time."""
        if space.number not in self._known_to:
            self._event.wait(space.stream)
            self._known_to.add(space.number)
        return self._arrays


class NumbaSpace(Space):
    """Numba's own arrays, and those of libraries that are not known here."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an uninitialised array on the device."""
        return cuda.device_array(shape, np.dtype(dtype), stream=self.stream)

    def give(self, array: Any) -> Any:
        """Return the array itself."""
        return array


class TorchSpace(Space):
    """Tensors of one device, on the stream that is torch's current one when this is made."""

    def __init__(self, tensor: Any) -> None:
        import torch

        self.torch, self.device = torch, tensor.device
        _work_on(tensor.device.index)
        self.key = "torch", tensor.device.index
        self._stream = torch.cuda.current_stream(self.device)
        # torch's default stream is the legacy one, which Numba calls 0
        self.number = self._stream.cuda_stream
        self.stream = cuda.external_stream(self.number) if self.number else 0
        self._made: WeakSet[Any] = WeakSet()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an uninitialised tensor, as Numba sees it."""
        tensor = self._empty(shape, dtype)
        self._made.add(tensor)
        return cuda.as_cuda_array(tensor, sync=False)

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        made = partial(
            self.torch.empty, shape, dtype=getattr(self.torch, np.dtype(dtype).name),
            device=self.device,
        )  # fmt: skip
        if self.torch.cuda.current_stream(self.device) == self._stream:
            return made()
        # torch gives freed memory to later work of the stream for which it was asked
        with self.torch.cuda.stream(self._stream):
            return made()

    def _take_stream(self, other: Space) -> None:
        super()._take_stream(other)
        self._stream = other._stream  # type: ignore[attr-defined]
        for tensor in self._made:
            tensor.record_stream(self._stream)

    def give(self, array: Any) -> Any:
        """Return the tensor."""
        if array.size == 0:
            return self._empty(tuple(array.shape), array.dtype)
        return self.torch.as_tensor(array, device=self.device)


class CupySpace(Space):
    """CuPy's arrays, on the stream that is its current one when this is made."""

    def __init__(self, array: Any) -> None:
        import cupy

        self.cupy = cupy
        _work_on(array.device.id)
        self.key = "cupy", array.device.id
        self._stream = cupy.cuda.get_current_stream()
        self.number = self._stream.ptr
        self.stream = cuda.external_stream(self.number) if self.number else 0

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an uninitialised array, as Numba sees it."""
        with self._stream:
            return view(self.cupy.empty(shape, np.dtype(dtype)))

    def _take_stream(self, other: Space) -> None:
        super()._take_stream(other)
        self._stream = other._stream  # type: ignore[attr-defined]

    def give(self, array: Any) -> Any:
        """Return the array of CuPy, which keeps the memory."""
        return self.cupy.asarray(array)


class JaxSpace(NumbaSpace):
    """JAX's arrays, which cannot be written: memory is Numba's, and waits where JAX takes it."""

    def give(self, array: Any) -> Any:
        """Return an array of JAX on the same memory, which it keeps alive."""
        import jax

        # JAX may reuse the memory of an argument as soon as its caller drops it
        cuda.synchronize()
        if array.size == 0:
            return jax.numpy.zeros(tuple(array.shape), array.dtype)
        return jax.dlpack.from_dlpack(exported(array))


def exported(array: Any) -> Exported:
    """Return an array on the device as DLPack offers it to others; it stays as long as they do."""
    number = cuda.get_current_device().id
    pointer = int(array.device_ctypes_pointer.value or 0)
    return Exported(array, pointer, tuple(array.shape), np.dtype(array.dtype), (CUDA, number))


_SPACES: dict[str, Any] = {"torch": TorchSpace, "cupy": CupySpace, "jaxlib": JaxSpace}


def _work_on(device: int) -> None:
    """Let kernels of this thread run on a device by its number."""
    if cuda.get_current_device().id != device:
        cuda.select_device(device)


def space_of(array: Any) -> Space:
    """Return the space of an array on the device."""
    kind = _SPACES.get(_library(array), NumbaSpace)
    if SIMULATED or kind in (NumbaSpace, JaxSpace):
        return JaxSpace() if kind is JaxSpace else NumbaSpace()
    return kind(array)


def view(array: Any) -> Any:
    """Return an array on the device as Numba sees it; nothing is copied.

    Arrays of libraries whose current stream is not known here are waited for.

    Raises
    ------
    TypeError
        If it offers neither ``__cuda_array_interface__`` nor DLPack, or lies elsewhere.
    """
    if hasattr(array, "detach"):
        array = array.detach()
    if hasattr(array, "__cuda_ndarray__"):
        return array
    if SIMULATED and hasattr(array, "numpy"):
        return simulated(array.numpy())
    if hasattr(array, "block_until_ready"):  # JAX does not say on which stream it works
        array.block_until_ready()
    if hasattr(array, "__cuda_array_interface__"):
        ours = _SPACES.get(_library(array)) in (TorchSpace, CupySpace)
        return cuda.as_cuda_array(array, sync=not ours)
    if hasattr(array, "__dlpack__"):
        found = Imported(array)
        if found.device[0] != CUDA:
            raise TypeError(
                f"expected an array on a GPU, got a {type(array).__name__} on a device of "
                f"DLPack's kind {found.device[0]}"
            )
        return cuda.as_cuda_array(found, sync=False)
    raise TypeError(
        "expected an array on a GPU that offers __cuda_array_interface__ or DLPack, got "
        f"{type(array).__name__}"
    )


def _library(array: Any) -> str:
    return type(array).__module__.partition(".")[0]
