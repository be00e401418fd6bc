"""The driver's calls: memory, streams, events, code and graphs, by numbers alone.

What Numba offers for them wraps every array and every launch in objects that cost more time than
the call; here a pointer, a stream and a function are integers. A call that fails raises
`DriverError`, which names it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache, wraps
from typing import Any, TypeVar

import numpy as np
from cuda.bindings import driver as _driver

_MOST_WORDS = 512  # words of 8 bytes that the arguments of a kernel may take: 4 kB


Called = TypeVar("Called", bound=Callable[..., Any])


class DriverError(RuntimeError):
    """A call of the driver failed; what was launched before may be the cause."""


def _checked(name: str, found: tuple[Any, ...]) -> Any:
    status, *rest = found
    if status != _driver.CUresult.CUDA_SUCCESS:
        raise DriverError(
            f"{name} failed: {_driver.CUresult(status).name}; the driver tells of faults late, so "
            "look at what was launched before, too"
        )
    return rest[0] if rest else None


def call(name: str, *arguments: Any) -> Any:
    """Return what a function of the driver returns beside its status."""
    return _checked(name, getattr(_driver, name)(*arguments))


# --- devices --------------------------------------------------------------------------------------


@cache
def _begin() -> None:
    """Let the driver begin; nothing else works before."""
    call("cuInit", 0)


@cache
def _primary(device: int) -> int:
    """Return the context that all libraries share on a device; it is never given back."""
    _begin()
    return int(call("cuDevicePrimaryCtxRetain", call("cuDeviceGet", device)))


def work_on(device: int) -> None:
    """Let what this thread launches go to a device by its number."""
    context = _primary(device)
    if int(call("cuCtxGetCurrent")) != context:
        call("cuCtxSetCurrent", context)


@contextmanager
def _working_on(device: int) -> Iterator[None]:
    """Let this thread work on a device, and then on that on which it did before, if on any."""
    before = int(call("cuCtxGetCurrent"))
    work_on(device)
    try:
        yield
    finally:
        if before != _primary(device):
            call("cuCtxSetCurrent", before)


def passing(function: Called) -> Called:
    """Let a call change the device on which the thread works until it is done.

    Other libraries make what their users ask for on the current device of the thread.
    """

    @wraps(function)
    def wrapper(*args: Any) -> Any:
        if is_alone():
            return function(*args)
        before = int(call("cuCtxGetCurrent"))
        try:
            return function(*args)
        finally:
            if before and int(call("cuCtxGetCurrent")) != before:
                call("cuCtxSetCurrent", before)

    return wrapper  # type: ignore[return-value]


def of_stream(stream: int) -> int:
    """Return the number of the device that a stream is of; the current one if it does not say."""
    return stream.device if isinstance(stream, Stream) else device()


def device(stream: int = 0) -> int:
    """Return the number of the device that a stream is of, on which this thread works from now on.

    That on which it works already, or the first, if the stream does not say. See `passing`.
    """
    _begin()
    _stream(stream)
    if not int(call("cuCtxGetCurrent")):
        work_on(0)
    return 0 if _count() == 1 else int(call("cuCtxGetDevice"))


def device_of(pointer: int) -> int:
    """Return the number of the device that memory is of; where there is none, as `device`."""
    if not pointer or _count() == 1:
        return device()
    kind = _driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    device()
    return int(call("cuPointerGetAttribute", kind, pointer))


def is_alone() -> bool:
    """Return whether there is one device only."""
    return _count() == 1


@cache
def _count() -> int:
    _begin()
    return int(call("cuDeviceGetCount"))


@cache
def capability(device: int) -> tuple[int, int]:
    """Return the compute capability of a device."""
    kinds = _driver.CUdevice_attribute
    major, minor = (
        kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
        kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
    )
    return tuple(int(call("cuDeviceGetAttribute", kind, device)) for kind in (major, minor))  # type: ignore[return-value]


class Stream(int):
    """The driver's handle of a stream, and the device that it is of; 0 is the default one.

    Libraries change the device of a thread as they like, so whoever launches on a stream of this
    kind lets the thread work on its device first, and then on that on which it did.
    """

    device: int

    def __new__(cls, handle: int, device: int) -> "Stream":
        """Return the stream of a handle."""
        made = super().__new__(cls, handle)
        made.device = device
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and (int(self), self.device) == (int(other), other.device)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((int(self), self.device))


# --- memory ---------------------------------------------------------------------------------------


@cache
def _pooled(device: int) -> bool:
    """Return whether the device has pools of memory; what is given back to them stays there."""
    kind = _driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED
    if not int(call("cuDeviceGetAttribute", kind, device)):
        return False
    pool = call("cuDeviceGetDefaultMemPool", device)
    keep = _driver.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
    call("cuMemPoolSetAttribute", pool, keep, _driver.cuuint64_t(2**64 - 1))
    return True


@passing
def allocate(size: int, stream: int) -> int:
    """Return memory of so many bytes for what is launched on a stream from now on."""
    there = _stream(stream)
    if _pooled(device()):
        return int(call("cuMemAllocAsync", size, there))
    return int(call("cuMemAlloc", size))


def release(pointer: int, stream: int, device: int, is_lent: bool) -> None:
    """Give memory of a device back, for what is launched on a stream from now on.

    Memory that was lent to others, whose streams are not known, goes when the device has done all
    it has to do: the driver does not wait by itself for what comes from its pool. Any thread may
    call, also one of another library that never worked on a device.
    """
    if is_lent:
        _postponed.append((pointer, device))
        _release_postponed()
        return
    with _working_on(device):
        if _pooled(device):
            call("cuMemFreeAsync", pointer, _handle(int(stream)))
        else:
            call("cuMemFree", pointer)


_captures: list[int] = []
_postponed: list[tuple[int, int]] = []


def _release_postponed() -> None:
    """Free memory that was lent once its device is done; not while work is noted.

    To wait for the device would spoil that.
    """
    while _postponed and not _captures:
        pointer, device = _postponed.pop()
        with _working_on(device):
            call("cuCtxSynchronize")
            call("cuMemFree", pointer)


@cache
def _reads_late(device: int) -> bool:
    """Return whether a device reads pageable memory of the host itself, when its turn comes."""
    kinds = _driver.CUdevice_attribute
    kind = kinds.CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES
    return bool(int(call("cuDeviceGetAttribute", kind, device)))


@passing
def copy_up(pointer: int, array: np.ndarray, stream: int) -> None:
    """Copy an array of the host, whose memory may change afterwards, to the device."""
    if is_noted(stream):
        raise DriverError(
            f"expected no copy of {array.nbytes} bytes from the host while work is captured for a "
            "graph, which would read that memory again at each replay; do the same once before"
        )
    call("cuMemcpyHtoDAsync", pointer, array.ctypes.data, array.nbytes, _stream(stream))
    if _reads_late(device(stream)):
        synchronize(stream)


@passing
def copy_down(array: np.ndarray, pointer: int, stream: int) -> None:
    """Fill an array of the host; waits for it."""
    call("cuMemcpyDtoHAsync", array.ctypes.data, pointer, array.nbytes, _stream(stream))
    call("cuStreamSynchronize", _stream(stream))


@passing
def copy_across(there: int, here: int, size: int, stream: int) -> None:
    """Copy bytes on the device."""
    call("cuMemcpyDtoDAsync", there, here, size, _stream(stream))


@passing
def clear(pointer: int, size: int, stream: int) -> None:
    """Set bytes to zero."""
    call("cuMemsetD8Async", pointer, 0, size, _stream(stream))


# --- streams and events ---------------------------------------------------------------------------


def _stream(stream: int) -> Any:
    """Return a stream as the bindings take it; the thread works on its device from now on."""
    if isinstance(stream, Stream) and _count() > 1:
        work_on(stream.device)
    return _handle(int(stream))


@lru_cache(maxsize=64)
def _handle(number: int) -> Any:
    return _driver.CUstream(number)


@passing
def new_stream(beside: int) -> Stream:
    """Return a stream of the same device as another that does not wait for the default one."""
    _stream(beside)
    flag = _driver.CUstream_flags.CU_STREAM_NON_BLOCKING
    return Stream(int(call("cuStreamCreate", flag)), device())


@passing
def drop_stream(stream: int) -> None:
    """Let a stream go when it has done what it has to do."""
    call("cuStreamDestroy", _stream(stream))


def is_noted(stream: int) -> bool:
    """Return whether what is launched on a stream is captured for a graph, by whomever."""
    if not int(stream):  # the default one cannot be
        return False
    none = _driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE
    return bool(call("cuStreamIsCapturing", _stream(stream)) != none)


@passing
def synchronize(stream: int) -> None:
    """Wait for all that was launched on a stream."""
    call("cuStreamSynchronize", _stream(stream))


class Event:
    """A mark on a stream, which others can wait for; without a time."""

    @passing
    def __init__(self, stream: int) -> None:
        device(stream)  # of which an event must be, too
        self._event = call("cuEventCreate", _driver.CUevent_flags.CU_EVENT_DISABLE_TIMING)
        call("cuEventRecord", self._event, _stream(stream))

    @passing
    def wait(self, stream: int) -> None:
        """Let what is launched on a stream from now on wait for the mark, on the device."""
        # work that is captured may not wait for what is not; what is done needs no waiting
        if is_noted(stream) and self._has_come():
            return
        call("cuStreamWaitEvent", _stream(stream), self._event, 0)

    def _has_come(self) -> bool:
        """Return whether the mark has come; asked so that no capture is spoilt."""
        exchange = "cuThreadExchangeStreamCaptureMode"
        before = call(exchange, _driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED)
        try:
            return not _driver.cuEventQuery(self._event)[0]
        finally:
            call(exchange, before)

    def __del__(self) -> None:
        if _driver is not None and hasattr(self, "_event"):
            _driver.cuEventDestroy(self._event)


# --- code -----------------------------------------------------------------------------------------


def load(cubin: bytes, name: str) -> Any:
    """Return a kernel of machine code on the current device; it stays loaded.

    It is there at once: else the driver might load it, and wait for the device, while work is
    noted, and what does not suit the device would be found out at the first launch.
    """
    library = call("cuLibraryLoadData", cubin, [], [], 0, [], [], 0)
    return call("cuKernelGetFunction", call("cuLibraryGetKernel", library, name.encode()))


class _Arguments(threading.local):
    """Memory for the arguments of a launch, 8 bytes each, and pointers to them; of one thread."""

    def __init__(self) -> None:
        self._words = np.zeros(_MOST_WORDS, np.uint64)
        first = self._words.ctypes.data
        self._pointers = first + 8 * np.arange(_MOST_WORDS, dtype=np.uint64)
        self.bytes = memoryview(self._words).cast("B")  # type: ignore[arg-type]
        self.pointers = int(self._pointers.ctypes.data)


_arguments = _Arguments()
_launch: Callable[..., Any] = _driver.cuLaunchKernel


def launch(
    kernel: Any, blocks: tuple[int, int, int], threads: tuple[int, int, int], stream: int,
    words: bytes,
) -> None:  # fmt: skip
    """Launch a kernel with arguments of 8 bytes each, which the driver copies."""
    there = _arguments
    there.bytes[: len(words)] = words
    found = _launch(kernel, *blocks, *threads, 0, _handle(int(stream)), there.pointers, 0)
    if found[0]:
        _checked("cuLaunchKernel", found)


# --- graphs ---------------------------------------------------------------------------------------


@passing
def begin_capture(stream: int) -> None:
    """Let what is launched on a stream be noted, not run; what other streams do goes on."""
    relaxed = _driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    call("cuStreamBeginCapture", _stream(stream), relaxed)
    _captures.append(int(stream))


@passing
def end_capture(stream: int) -> Any:
    """Return what was noted since `begin_capture`."""
    _captures.remove(int(stream))
    try:
        return call("cuStreamEndCapture", _stream(stream))
    finally:
        _release_postponed()


def drop_graph(noted: Any) -> None:
    """Let go what `end_capture` returned."""
    call("cuGraphDestroy", noted)


class Graph:
    """What was noted, ready to be launched.

    Parameters
    ----------
    noted
        As `end_capture` returns it; goes.
    """

    def __init__(self, noted: Any) -> None:
        try:
            self._ready = call("cuGraphInstantiate", noted, 0)
        finally:
            drop_graph(noted)

    @passing
    def launch(self, stream: int) -> None:
        """Launch all of it on a stream."""
        call("cuGraphLaunch", self._ready, _stream(stream))

    def __del__(self) -> None:
        if _driver is not None and hasattr(self, "_ready"):
            _driver.cuGraphExecDestroy(self._ready)
