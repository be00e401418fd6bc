"""Kernels for the CPU: how they are compiled, and how they are spread over threads.

No other module calls Numba's compiler, so a change of its options is a change of this file. Where
machine code is kept is the matter of `multipoles.compiled.cache`; kernels for the GPU come from
`multipoles.compiled.cuda_kernels`.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from numba.core.compiler_lock import global_compiler_lock
from numpy.typing import NDArray

from multipoles import checks
from multipoles.compiled.cache import cache_for
from multipoles.compiled.notice import listen

# "fast" arithmetic but for NaN and infinity: coincident points make infinities that are masked
FASTMATH = {"contract", "reassoc", "nsz", "arcp", "afn"}

# numba's type stubs do not know all of these options
_njit: Any = numba.njit
_config: Any = numba.config

# error_model="numpy" keeps divisions free of branches; kernels run without the interpreter's lock
# nothing calls them by C's conventions, and that wrapper takes a tenth of the time to compile
_OPTIONS: dict[str, Any] = {
    "nogil": True, "fastmath": FASTMATH, "error_model": "numpy", "no_cfunc_wrapper": True,
}  # fmt: skip
_INLINE: dict[str, Any] = _OPTIONS | {"forceinline": True, "no_cpython_wrapper": True}


def jit(function: Callable[..., Any]) -> Any:
    """Compile lazily, cache on disk, run without the interpreter's lock."""
    return _cached(_compiled(_OPTIONS, function))


def _compiled(options: dict[str, Any], function: Callable[..., Any]) -> Any:
    """Return what compiles a function, whatever ``NUMBA_DISABLE_JIT`` says.

    Kernels work on vectors of LLVM, which plain Python does not know: with the variable set they
    are compiled all the same, and all else that Numba decorates is left to it.
    """
    name_by_constants(function)
    if not _config.DISABLE_JIT:
        return _njit(**options)(function)
    with _enabled():
        dispatcher = _njit(**options)(function)
    # what Numba's own library adds to a function is decorated while that is compiled
    dispatcher.compile = _enabled()(dispatcher.compile)
    return dispatcher


def name_by_constants(function: Callable[..., Any]) -> None:
    """Let the name of a function that is made in a function tell the constants it is made of.

    Machine code calls other machine code by name: that of the function, of its types, and a number
    which each process counts anew. Kernels from the files of several processes may meet in one; of
    two that are equal but for their constants, one would silently be taken for the other.
    """
    cells = [_told(cell.cell_contents) for cell in function.__closure__ or ()]
    if cells:
        digest = hashlib.sha256(repr(cells).encode()).hexdigest()[:16]
        function.__qualname__ = f"{function.__qualname__}_{digest}"


def _told(cell: Any) -> Any:
    """Return what tells a constant or a function, in every process the same."""
    if isinstance(cell, int | str | float | tuple | type(None)):
        return cell
    return getattr(getattr(cell, "py_func", cell), "__qualname__", type(cell).__qualname__)


@contextmanager
def _enabled() -> Iterator[None]:
    before = _config.DISABLE_JIT
    _config.DISABLE_JIT = 0
    try:
        yield
    finally:
        _config.DISABLE_JIT = before


def _cached(dispatcher: Any) -> Any:
    """Let a dispatcher keep its machine code in our files instead of Numba's."""
    dispatcher._cache = cache_for(dispatcher.py_func)
    return dispatcher


def inline(function: Callable[..., Any]) -> Any:
    """Compile a scalar function that LLVM inlines into every kernel that calls it.

    It cannot be called from Python.
    """
    return _compiled(_INLINE, function)


def bare(function: Callable[..., Any]) -> Any:
    """Compile a loop like `jit`, without counting references to arrays.

    Counting costs an atomic operation for every array passed to a helper, more than a pair. Such a
    loop may read and write arrays and views of them but make none: scratch comes from outside.
    """
    return _cached(_compiled(_OPTIONS | {"_nrt": False}, function))


def bare_inline(function: Callable[..., Any]) -> Any:
    """Compile a helper of `bare` loops that LLVM inlines; it cannot be called from Python."""
    return _compiled(_INLINE | {"_nrt": False}, function)


listen()  # to what is compiled, so that a first call of seconds is explained

_pool: ThreadPoolExecutor | None = None
_threads: int | None = None
_lock = threading.Lock()
# more than any machine has cores: a slip, not a wish
_MOST_THREADS = 4096


def set_num_threads(threads: int) -> None:
    """Set how many threads the kernels use (default: ``NUMBA_NUM_THREADS``, or all cores).

    Sums of other threads that have begun end with the number they began with.

    Raises
    ------
    TypeError
        If `threads` is no integer.
    ValueError
        If it is less than one, or more than 4096.
    """
    global _pool, _threads
    threads = checks.order(threads, "threads", maximum=_MOST_THREADS, minimum=1)
    with _lock:
        if _pool is not None and threads != _threads:
            # what was submitted still runs; nothing is submitted without the lock
            _pool.shutdown(wait=False)
            _pool = None
        _threads = threads


def get_num_threads() -> int:
    """Return how many threads the kernels use."""
    return _threads if _threads is not None else int(_config.NUMBA_NUM_THREADS)


_serial: ContextVar[bool] = ContextVar("serial", default=False)


@contextmanager
def serial() -> Iterator[None]:
    """Keep what runs inside on the calling thread."""
    token = _serial.set(True)
    try:
        yield
    finally:
        _serial.reset(token)


def processor() -> str:
    """Return the name of the processor that kernels are compiled for."""
    return str(_config.CPU_NAME or llvmlite.binding.get_host_cpu_name())


def run_chunks(
    task: Callable[[int, int], Any], n: int, work: float, grain: float = 2e5
) -> list[Any]:
    """Call ``task(start, stop)`` on consecutive ranges that cover 0..n, in threads where it pays.

    Kernels release the interpreter's lock, so Python threads are enough; unlike an OpenMP region
    they survive a fork and need no threading layer.

    Parameters
    ----------
    task : callable
        Works on the range [start, stop) and writes only what belongs to it.
    n : int
        Number of items.
    work : float
        Estimated cost of all items, in pair interactions.
    grain : float
        Least cost worth a thread of its own.

    Returns
    -------
    list
        What the calls returned, in order of their ranges.
    """
    threads = min(get_num_threads(), n, int(work // grain))
    if threads <= 1 or _serial.get():
        return [task(0, n)]
    chunks = min(n, 4 * threads)
    bounds = [n * i // chunks for i in range(chunks + 1)]
    return [future.result() for future in _submit(task, bounds)]


def run_ranges(task: Callable[..., Any], ranges: Sequence[tuple[int, ...]]) -> list[Any]:
    """Call ``task(*range)`` for each of some ranges, in threads where there are several.

    For tasks that write to arrays of their own, which are to be no more than there are threads.
    """
    if len(ranges) == 1:
        return [task(*ranges[0])]
    # the decision for threads is made: work without bound, one range for each
    found = run_chunks(
        lambda start, stop: [task(*ranges[i]) for i in range(start, stop)], len(ranges), 1e18
    )
    return [item for chunk in found for item in chunk]


def equal_ranges(work: NDArray[Any], total: float, grain: float = 2e5) -> list[tuple[int, int]]:
    """Return ranges of items of about as much work together, as many as threads pay.

    Parameters
    ----------
    work : ndarray, shape (n,)
        Work of each item, in any unit.
    total : float
        Estimated cost of all items, in pair interactions.
    grain : float
        Least cost worth a thread of its own.
    """
    parts = 1 if _serial.get() else min(get_num_threads(), int(total // grain))
    if parts <= 1:
        return [(0, len(work))]
    ends = np.cumsum(work)
    shares = np.arange(1, parts) * (ends[-1] / parts)
    bounds = [0, *np.searchsorted(ends, shares).tolist(), len(work)]
    return [(a, b) for a, b in pairwise(bounds) if a < b]


def add_up(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the sum of arrays like one another, in threads where it pays; the first is spent."""
    total = parts[0].reshape(-1)
    if len(parts) > 1:
        others = [part.reshape(-1) for part in parts[1:]]

        def task(start: int, stop: int) -> None:
            for other in others:
                total[start:stop] += other[start:stop]

        run_chunks(task, len(total), float(len(others) * len(total)))
    return parts[0]


def _submit(task: Callable[[int, int], Any], bounds: list[int]) -> list[Future[Any]]:
    """Give all ranges to one pool, which nobody shuts down meanwhile."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(get_num_threads(), thread_name_prefix="multipoles")
        return [_pool.submit(task, a, b) for a, b in pairwise(bounds)]


def _forget_pool() -> None:
    """Let a forked child, which inherits no threads, make its own."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
    # a fork while another thread compiles would leave the child a lock that nobody opens
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
