"""Arrays on the GPU: taken from any library without a copy, and given back as that library's.

Kernels see Numba's device arrays. Memory comes from the caller's library, whose allocator is
faster than the driver's, and kernels run on the stream that is current there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from multipoles._cuda import SIMULATED, cuda, simulated
from multipoles._dlpack import Imported


class Space(ABC):
    """Where arrays of one library live: its memory and its stream.

    Attributes
    ----------
    stream
        Stream of `numba.cuda` for kernels.
    key
        Names library and device.
    """

    stream: Any = 0
    key: Any = "numba"
    _constants: ClassVar[dict[Any, Any]] = {}

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an uninitialised array on the device, as Numba sees it."""

    @abstractmethod
    def give(self, array: Any) -> Any:
        """Return an array made by `empty` as one of the caller's library."""

    def constant(self, key: Any, make: Callable[[], np.ndarray]) -> Any:
        """Return what `make` returns, on the device; made and copied once for every key."""
        full = self.key, key
        if full not in self._constants:
            self._constants[full] = self.upload(make())
        return self._constants[full]

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


class NumbaSpace(Space):
    """Numba's own arrays, and those of libraries that are not known here."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an uninitialised array on the device."""
        return cuda.device_array(shape, np.dtype(dtype), stream=self.stream)

    def give(self, array: Any) -> Any:
        """Return the array itself."""
        return array


class TorchSpace(Space):
    """Tensors of one device, on torch's current stream."""

    def __init__(self, tensor: Any) -> None:
        import torch

        self.torch, self.device = torch, tensor.device
        _work_on(tensor.device.index)
        self.key = "torch", tensor.device.index
        # torch's default stream is the legacy one, which Numba calls 0
        number = torch.cuda.current_stream(self.device).cuda_stream
        self.stream = cuda.external_stream(number) if number else 0

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an uninitialised tensor, as Numba sees it."""
        kind = getattr(self.torch, np.dtype(dtype).name)
        return view(self.torch.empty(shape, dtype=kind, device=self.device))

    def give(self, array: Any) -> Any:
        """Return the tensor."""
        if array.size == 0:
            kind = getattr(self.torch, np.dtype(array.dtype).name)
            return self.torch.empty(tuple(array.shape), dtype=kind, device=self.device)
        return self.torch.as_tensor(array, device=self.device)


class CupySpace(Space):
    """CuPy's arrays, on its current stream."""

    def __init__(self, array: Any) -> None:
        import cupy

        self.cupy = cupy
        _work_on(array.device.id)
        self.key = "cupy", array.device.id
        number = cupy.cuda.get_current_stream().ptr
        self.stream = cuda.external_stream(number) if number else 0

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an uninitialised array, as Numba sees it."""
        return view(self.cupy.empty(shape, np.dtype(dtype)))

    def give(self, array: Any) -> Any:
        """Return the array of CuPy, which keeps the memory."""
        return self.cupy.asarray(array)


class JaxSpace(NumbaSpace):
    """JAX's arrays, which cannot be written: memory is Numba's, and waits where JAX takes it."""

    def give(self, array: Any) -> Any:
        """Return an array of JAX on the same memory."""
        import jax

        cuda.synchronize()
        return jax.numpy.asarray(array)


_SPACES: dict[str, Any] = {"torch": TorchSpace, "cupy": CupySpace, "jaxlib": JaxSpace}


def _work_on(device: int) -> None:
    """Let kernels of this thread run on a device by its number."""
    if cuda.get_current_device().id != device:
        cuda.select_device(device)


def space_of(array: Any) -> Space:
    """Return the space of an array on the device."""
    kind = _SPACES.get(type(array).__module__.partition(".")[0], NumbaSpace)
    if SIMULATED or kind in (NumbaSpace, JaxSpace):
        return JaxSpace() if kind is JaxSpace else NumbaSpace()
    return kind(array)


def view(array: Any) -> Any:
    """Return an array on the device as Numba sees it; nothing is copied.

    Raises
    ------
    TypeError
        If it offers neither ``__cuda_array_interface__`` nor DLPack.
    """
    if hasattr(array, "detach"):
        array = array.detach()
    if hasattr(array, "__cuda_ndarray__"):
        return array
    if SIMULATED and hasattr(array, "numpy"):
        return simulated(array.numpy())
    if hasattr(array, "__cuda_array_interface__"):
        return cuda.as_cuda_array(array, sync=False)
    if hasattr(array, "__dlpack__"):
        return cuda.as_cuda_array(Imported(array), sync=False)
    raise TypeError(
        "expected an array on a GPU that offers __cuda_array_interface__ or DLPack, got "
        f"{type(array).__name__}"
    )
