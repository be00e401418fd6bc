"""Arrays on the GPU: taken from any library without a copy, and given back as that library's.

Kernels take `DeviceArray`, in the simulator what stands for it. Memory comes from the caller's
library, or from the driver's pool, and kernels run on the stream that is current there. What is
made once and kept carries an event: other streams wait for it, on the device, before they read.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import prod
from typing import Any, ClassVar
from weakref import WeakSet

import numpy as np

from multipoles.compiled.cuda_kernels import SIMULATED, cuda, simulated
from multipoles.cuda.dlpack import CUDA, Exported, Imported

if not SIMULATED:
    from multipoles.compiled import driver
    from multipoles.compiled.launching import row_strides
    from multipoles.cuda.arrays import DeviceArray, Memory


_making = threading.RLock()


class CannotBeNoted(RuntimeError):
    """Work that is noted to be replayed waits for the host, or takes memory it did not take."""


class Space(ABC):
    """Where arrays of one library live: its memory and its stream.

    Attributes
    ----------
    stream : int
        The driver's handle of the stream for kernels; 0 is the default one.
    key
        Names library and device.
    """

    stream: Any = 0
    key: Any = "numba"
    _constants: ClassVar[dict[Any, "_Kept"]] = {}
    _arena: Any = None
    _is_noting = False

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an uninitialised array on the device, as kernels take it."""
        if self._arena is not None:
            return self._arena.take(shape, np.dtype(dtype))
        return self.new(shape, np.dtype(dtype))

    @abstractmethod
    def new(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """Return such an array in memory of the library, whatever `within` says."""

    @contextmanager
    def within(self, arena: Any) -> Iterator[None]:
        """Take memory from an arena, see `multipoles.cuda.graphs`."""
        before, self._arena = self._arena, arena
        try:
            yield
        finally:
            self._arena = before

    @contextmanager
    def noting(self, stream: int) -> Iterator[None]:
        """Launch on a stream that notes, and refuse what cannot be noted."""
        before, self.stream, self._is_noting = self.stream, stream, True
        try:
            yield
        finally:
            self.stream, self._is_noting = before, False

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array of zeros on the device: the driver's memset, no kernel."""
        out = self.empty(shape, dtype)
        if SIMULATED:
            out.copy_to_device(np.zeros(shape, dtype))
        elif out.size:
            driver.clear(out.pointer, out.nbytes, self.stream)
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
        found = kept.get(key)
        if found is None:
            if self._is_noting:
                raise CannotBeNoted(f"it makes what is kept for later: {key}")
            # longer than work in an arena
            with _making, self.within(None):
                # another thread may have made it meanwhile, and have given it to streams
                found = kept.get(key) or kept.setdefault(key, _Kept(self, make()))
        return found.on(self)

    def hold(self, arrays: Any) -> None:
        """Let nobody have the memory of arrays of another stream while they are read on this."""
        return  # memory of one stream, or of none

    def mark(self) -> Any:
        """Return an event that comes when the stream has done what it has to do so far."""
        return _NoEvent() if SIMULATED else driver.Event(self.stream)

    def move_to(self, other: "Space") -> None:
        """Go on on another's stream, which first waits, on the device, for this one.

        Whatever was made here before may be read there, and memory that this space has still to
        fill or read is not given to others before that stream has done with it.
        """
        if other.stream != self.stream:
            self.mark().wait(other.stream)
            self._take_stream(other)

    def _take_stream(self, other: "Space") -> None:
        self.stream = other.stream

    def upload(self, array: np.ndarray) -> Any:
        """Return a copy of an array of the host on the device."""
        if self._is_noting:
            raise CannotBeNoted("it copies from the host")
        out = self.empty(array.shape, array.dtype)
        if array.size:
            out.copy_to_device(np.ascontiguousarray(array), stream=self.stream)
        return out

    def download(self, array: Any) -> np.ndarray:
        """Return a copy on the host; waits for what the stream has to do before."""
        if self._is_noting:
            raise CannotBeNoted("it waits for the device")
        found: np.ndarray = array.copy_to_host(stream=self.stream)
        return found


class _Kept:
    """Arrays made once on a stream, and the event of their being there."""

    def __init__(self, space: Space, arrays: Any) -> None:
        self._arrays, self._event = arrays, space.mark()
        self._known_to = {space.stream}

    def on(self, space: Space) -> Any:
        """Return the arrays for use on a stream, which waits for them the first time."""
        # what is noted runs on streams that were here before
        if space.stream not in self._known_to and not space._is_noting:
            self._event.wait(space.stream)
            space.hold(self._arrays)
            self._known_to.add(space.stream)
        return self._arrays


class _NoEvent:
    """What marks a stream in the simulator, which has none."""

    def wait(self, stream: Any) -> None:
        """Go on."""


class NumbaSpace(Space):
    """Numba's own arrays, and those of libraries that are not known here."""

    def __init__(self, array: Any = None) -> None:
        if not SIMULATED:
            self.key = "numba", driver.device() if array is None else _device_of(array)
            self.stream = driver.Stream(0, self.key[1])

    def new(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """Return an uninitialised array on the device: memory of the driver's pool."""
        if SIMULATED:
            return cuda.device_array(shape, dtype)
        memory = Memory(prod(shape) * dtype.itemsize, self.stream)
        return DeviceArray(memory.pointer, tuple(shape), dtype, memory)

    def give(self, array: Any) -> Any:
        """Return Numba's array on the same memory."""
        if SIMULATED:
            return array
        if isinstance(array.owner, Memory):
            array.owner.lend()
        return cuda.as_cuda_array(array, sync=False)


class TorchSpace(Space):
    """Tensors of one device, on the stream that is torch's current one when this is made."""

    def __init__(self, tensor: Any) -> None:
        import torch

        self.torch, self.device = torch, tensor.device
        self.key = "torch", tensor.device.index
        self._stream = torch.cuda.current_stream(self.device)
        # torch's default stream is the legacy one, which the driver calls 0
        self.stream = driver.Stream(self._stream.cuda_stream, tensor.device.index)
        self._made: WeakSet[Any] = WeakSet()

    def new(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """Return an uninitialised tensor, as kernels take it."""
        tensor = self._empty(shape, dtype)
        self._made.add(tensor)
        return DeviceArray(tensor.data_ptr(), tuple(shape), dtype, tensor)

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        kind = getattr(self.torch, dtype.name)
        if self.torch.cuda.current_stream(self.device) == self._stream:
            return self.torch.empty(shape, dtype=kind, device=self.device)
        # torch gives freed memory to later work of the stream for which it was asked
        with self.torch.cuda.stream(self._stream):
            return self.torch.empty(shape, dtype=kind, device=self.device)

    def _take_stream(self, other: Space) -> None:
        super()._take_stream(other)
        self._stream = other._stream  # type: ignore[attr-defined]
        for tensor in self._made:
            tensor.record_stream(self._stream)

    def hold(self, arrays: Any) -> None:
        """Tell torch that tensors are read on this stream, too."""
        for array in arrays if isinstance(arrays, tuple) else (arrays,):
            tensor = getattr(array, "owner", array)
            if isinstance(tensor, self.torch.Tensor):
                tensor.record_stream(self._stream)

    def give(self, array: Any) -> Any:
        """Return the tensor, or what the array is of it."""
        owner = array.owner
        if array.size == owner.numel():
            return owner.view(array.shape)
        return owner.view(-1)[array.offset : array.offset + array.size].view(array.shape)


class CupySpace(Space):
    """CuPy's arrays, on the stream that is its current one when this is made."""

    def __init__(self, array: Any) -> None:
        import cupy

        self.cupy = cupy
        self.key = "cupy", array.device.id
        with cupy.cuda.Device(array.device.id):
            self._stream = cupy.cuda.get_current_stream()
        self._left: dict[Any, Any] = {}  # streams of before, which must not end
        self.stream = driver.Stream(self._stream.ptr, array.device.id)

    def new(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """Return an uninitialised array, as kernels take it."""
        with self.cupy.cuda.Device(self.key[1]), self._stream:
            made = self.cupy.empty(shape, dtype)
        return DeviceArray(made.data.ptr, tuple(shape), dtype, made)

    def _take_stream(self, other: Space) -> None:
        self._left[self.stream] = self._stream
        super()._take_stream(other)
        self._stream = other._stream  # type: ignore[attr-defined]

    def give(self, array: Any) -> Any:
        """Return the array of CuPy, or what the array is of it."""
        # CuPy gives what was made on streams that were left to later work of these, at once
        for stream in self._left.keys() - {self.stream}:
            self.mark().wait(stream)
        return array.owner.reshape(-1)[array.offset : array.offset + array.size].reshape(
            array.shape
        )


class JaxSpace(NumbaSpace):
    """JAX's arrays, which cannot be written: memory is ours, and waits where JAX takes it."""

    def give(self, array: Any) -> Any:
        """Return an array of JAX on the same memory, which it keeps alive."""
        import jax

        # JAX may reuse the memory of an argument as soon as its caller drops it
        if SIMULATED:
            cuda.synchronize()
        else:
            driver.synchronize(self.stream)
        if array.size == 0:
            return jax.numpy.zeros(tuple(array.shape), array.dtype)
        if not SIMULATED:
            array.owner.lend()
        return jax.dlpack.from_dlpack(exported(array))


def exported(array: Any) -> Exported:
    """Return an array on the device as DLPack offers it to others; it stays as long as they do."""
    place = CUDA, driver.device_of(array.pointer)
    return Exported(array, array.pointer, array.shape, array.dtype, place)


_SPACES: dict[str, Any] = {"torch": TorchSpace, "cupy": CupySpace, "jaxlib": JaxSpace}


def space_of(array: Any) -> Space:
    """Return the space of an array on the device."""
    kind = _SPACES.get(_library(array), NumbaSpace)
    if SIMULATED and kind is not JaxSpace:
        return NumbaSpace()
    return kind(None if SIMULATED else array)


def _device_of(array: Any) -> int:
    """Return the number of an array's device, which is not always that on which a thread works."""
    return driver.device() if driver.is_alone() else driver.device_of(view(array).pointer)


def view(array: Any) -> Any:
    """Return an array on the device as kernels take it; nothing is copied.

    Arrays of libraries whose current stream is not known here are waited for.

    Raises
    ------
    TypeError
        If it offers neither ``__cuda_array_interface__`` nor DLPack, or lies elsewhere.
    """
    if hasattr(array, "detach"):
        array = array.detach()
    if SIMULATED and hasattr(array, "numpy") and not hasattr(array, "__cuda_ndarray__"):
        return simulated(array.numpy())
    if hasattr(array, "__cuda_ndarray__" if SIMULATED else "words"):
        return array
    if not SIMULATED and _library(array) == "torch":
        if array.is_neg():  # the memory holds the numbers with another sign
            array = array.resolve_neg()
        here, dtype = array.is_contiguous(), _dtype_of(str(array.dtype))
        return DeviceArray(array.data_ptr(), tuple(array.shape), dtype, array, contiguous=here)
    found = _offered(array)
    if SIMULATED:
        return cuda.as_cuda_array(found, sync=False)
    return _described(found.__cuda_array_interface__, found)


def _offered(array: Any) -> Any:
    """Return what describes an array by its ``__cuda_array_interface__``, once it is written."""
    if hasattr(array, "block_until_ready"):  # JAX does not say on which stream it works
        array.block_until_ready()
    if hasattr(array, "__cuda_array_interface__"):
        stream = array.__cuda_array_interface__.get("stream")
        # 1 is the default one, on which work of ours waits by itself
        if stream not in (None, 1) and _library(array) != "cupy" and not SIMULATED:
            driver.synchronize(stream)
        return array
    if not hasattr(array, "__dlpack__"):
        raise TypeError(
            "expected an array on a GPU that offers __cuda_array_interface__ or DLPack, got "
            f"{type(array).__name__}"
        )
    found = Imported(array)
    if found.device[0] != CUDA:
        raise TypeError(
            f"expected an array on a GPU, got a {type(array).__name__} on a device of DLPack's "
            f"kind {found.device[0]}"
        )
    return found


def _described(seen: dict[str, Any], owner: Any) -> "DeviceArray":
    """Return the array that an interface describes."""
    dtype, shape = np.dtype(seen["typestr"]), tuple(int(n) for n in seen["shape"])
    strides = seen.get("strides")
    rows = row_strides(shape, dtype.itemsize)
    # the distance along an axis of length one is anything
    contiguous = (
        strides is None
        or 0 in shape
        or all(n == 1 or one == other for n, one, other in zip(shape, strides, rows, strict=True))
    )
    return DeviceArray(int(seen["data"][0] or 0), shape, dtype, owner, contiguous=contiguous)


@lru_cache
def _dtype_of(name: str) -> np.dtype:
    """Return the dtype of NumPy that torch calls so."""
    return np.dtype(name.removeprefix("torch."))


def _library(array: Any) -> str:
    """Return the library that an array is of; of a user's class, that of what it is made of."""
    names = (kind.__module__.partition(".")[0] for kind in type(array).__mro__)
    return next((name for name in names if name in _SPACES), "")
