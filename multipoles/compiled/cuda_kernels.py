"""The door to numba.cuda: kernels for the GPU from the sources of the CPU loops.

Scalar functions are written once. `multipoles.compiled.jit` compiles them for the CPU; here their
Python sources are copied with helpers and constants exchanged (`retargeted`): helpers by their
copies, numbers by numbers of the kernel's own type, for a bare ``1.0`` would promote float32 to
float64. Integers promote too, so shared functions never multiply an integer with a real number.

`multipoles.compiled.cuda_access` has the functions for kernels that read and write arrays; nothing
else imports numba.cuda.

With ``NUMBA_ENABLE_CUDASIM=1`` in the environment the same kernels run in Numba's simulator, one
thread at a time, on small cases and without a GPU; `launched` remembers what ran, and `ptx`
compiles it in a process without the simulator.
"""

import dis
import re
import sys
import threading
from collections.abc import Callable
from functools import cache, wraps
from types import CellType, CodeType, FunctionType
from typing import Any

import numpy as np
from numba import config, cuda

from multipoles.compiled.emit import typed

SIMULATED = bool(config.ENABLE_CUDASIM)


def _register_numpy() -> None:
    """Let numba-cuda register the functions of NumPy that it knows, one of which may be gone.

    numba-cuda to 0.30.4, which takes no more additions, names `numpy.row_stack`; NumPy 2.5 has
    dropped it, and without this no kernel compiles there. The name stands during the import only.
    """
    if hasattr(np, "row_stack"):
        return

    def row_stack(arrays: Any) -> Any:
        return np.vstack(arrays)

    names = vars(np)
    names["row_stack"] = row_stack
    try:
        import numba.cuda.np.arrayobj  # noqa: F401
    finally:
        del names["row_stack"]


def _share_arrays_safely() -> None:
    """Let threads of the simulator find a shared array one after another.

    Its own way lets two threads that come at once make an array each.
    """
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    lock, found_by = threading.Lock(), FakeCUDAShared.array

    def array(self: Any, shape: Any, dtype: Any, alignment: Any = None) -> Any:
        if not isinstance(shape, tuple) and shape == 0:
            return found_by(self, shape, dtype)
        frame = sys._getframe(1)
        with lock:
            key = frame.f_code, frame.f_lasti
            if key not in self._allocations:
                self._allocations[key] = np.empty(shape, dtype)
            return self._allocations[key]

    FakeCUDAShared.array = array


if SIMULATED:
    _share_arrays_safely()
else:
    _register_numpy()
    from multipoles.compiled import launching


class Real:
    """Stands in kernels for the type of their numbers, where an array is made."""


REAL = Real()
Grid = tuple[int, int, int]
_NUMBERS = {np.dtype(np.float32): np.float32, np.dtype(np.float64): np.float64}
_substitutes: list[tuple[Any, "Device"]] = []
launched: dict[tuple[Any, ...], "Launch"] = {}
"""Kernel of the GPU, type of numbers and types of arguments of every launch in the simulator."""


# --- copies of functions for the GPU --------------------------------------------------------------


def retargeted(function: Callable[..., Any], dtype: np.dtype) -> FunctionType:
    """Return a copy of a function for kernels whose numbers have one type.

    Parameters
    ----------
    function : function
        In Python; may call functions decorated by `multipoles.compiled.jit`, by `device` below or
        by `emit.emitted`, as globals or from its closure, but not as attributes of modules.
    dtype : dtype
        float32 or float64.
    """
    dtype = np.dtype(dtype)
    scope = dict(function.__globals__)
    for name in _names(function.__code__) & scope.keys():
        scope[name] = _converted(scope[name], dtype)
    cells = tuple(
        CellType(_converted(cell.cell_contents, dtype)) for cell in function.__closure__ or ()
    )
    copy = FunctionType(
        _typed(function.__code__, dtype), scope, function.__name__, function.__defaults__, cells
    )
    copy.__qualname__, copy.__module__ = function.__qualname__, function.__module__
    return copy


def _names(code: CodeType) -> set[str]:
    """Return the globals that the code reads; names of attributes may be the same as others."""
    found = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return found.union(*map(_names, inner))


def _typed(code: CodeType, dtype: np.dtype) -> CodeType:
    constants = tuple(
        _typed(c, dtype) if isinstance(c, CodeType) else _number(c, dtype) for c in code.co_consts
    )
    return code.replace(co_consts=constants)


def _number(value: Any, dtype: np.dtype) -> Any:
    if isinstance(value, tuple):
        return tuple(_number(item, dtype) for item in value)
    return _NUMBERS[dtype](value) if isinstance(value, float) else value


def _converted(value: Any, dtype: np.dtype) -> Any:
    """Return what stands for a global or a variable of the closure in the copy."""
    for original, other in _substitutes:
        if value is original:
            return other.of(dtype)
    if isinstance(value, Real):
        return dtype.type if SIMULATED else _numba_type(dtype)
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        with np.errstate(over="ignore"):  # of a table that is longer than float32 can use
            return value.astype(dtype)
    if isinstance(value, Device):
        return value.of(dtype)
    if hasattr(value, "plain"):
        return _emitted(value.plain)
    if hasattr(value, "py_func"):
        return _device_copy(value.py_func, dtype)
    return _number(value, dtype)


@cache
def _device_copy(function: Callable[..., Any], dtype: np.dtype) -> Any:
    copy = retargeted(function, dtype)
    # the simulator runs plain Python; on the device a call that is not inlined at this level
    # would need a device to compile for
    return copy if SIMULATED else cuda.jit(device=True, inline="always")(copy)


class Device:
    """A function for kernels only: it may use `cuda` (thread indices, barriers, atomics)."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def of(self, dtype: np.dtype) -> Any:
        """Return the function for one type of numbers."""
        return _device_function(self.function, np.dtype(dtype))


@cache
def _device_function(function: Callable[..., Any], dtype: np.dtype) -> Any:
    copy = retargeted(function, dtype)
    return cuda.jit(device=True, inline="always")(copy)


device = Device


def substitute(original: Any, function: Device) -> None:
    """Let kernels call a function of their own where shared sources call another, of vectors."""
    _substitutes.append((original, function))


# --- functions that are not copied ----------------------------------------------------------------


@cache
def _emitted(plain: Callable[..., Any]) -> Any:
    """Return for kernels what `emit.emitted` returns for loops on the CPU."""
    if SIMULATED:
        return lambda orders, lists: tuple(tuple(out) for out in plain(orders, *lists))

    from numba.cuda import cgutils, types
    from numba.cuda.extending import intrinsic

    return intrinsic(typed(plain, types, cgutils))


class Access(Device):
    """A function for kernels that reads or writes consecutive numbers of an array as a tuple.

    Negative places are no places from the end, as an index is to Numba: telling them apart would
    cost more than the arithmetic of a pair.
    """

    def __init__(
        self, function: Callable[..., Any], intrinsic: Callable[[], Any], aligned: int = 1
    ) -> None:
        super().__init__(function)
        self._intrinsic = intrinsic
        self.aligned = aligned  # places are multiples of it

    def of(self, dtype: np.dtype) -> Any:
        """Return the function; it serves arrays of all types."""
        return self.function if SIMULATED else self._intrinsic()


class _Rsqrt(Device):
    """1/sqrt of a positive number, by the device's own instruction."""

    def of(self, dtype: np.dtype) -> Any:
        if SIMULATED:
            return self.function
        return cuda.libdevice.rsqrtf if dtype == np.float32 else cuda.libdevice.rsqrt


positive_rsqrt: Any = _Rsqrt(lambda r2: type(r2)(1.0) / np.sqrt(r2) if r2 > 0 else r2)


@device
def rsqrt(r2: Any) -> Any:
    """Return 1/sqrt(r2), and zero where r2 is zero: coincident points contribute nothing."""
    root = positive_rsqrt(r2)
    return root if r2 > 0.0 else 0.0


def simulated(array: np.ndarray) -> Any:
    """Return an array of the host as the simulator's kernels take it, on the same memory."""
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

    return FakeCUDAArray(array)


# --- kernels --------------------------------------------------------------------------------------

# most blocks along each axis of a grid, on every device
MOST_BLOCKS = (2**31 - 1, 2**16 - 1, 2**16 - 1)


def check_grid(blocks: Any) -> None:
    """Refuse, with a ValueError, a grid of more blocks than a device takes."""
    grid = blocks if isinstance(blocks, tuple) else (blocks,)
    if any(n > most for n, most in zip(grid, MOST_BLOCKS, strict=False)):
        raise ValueError(
            f"expected a grid of at most {MOST_BLOCKS} blocks, got {grid}: give fewer points or "
            "channels at a time"
        )


def why_unusable() -> str | None:
    """Return why kernels cannot run on a device in this process, or None if they can.

    A driver without the toolkit's parts is no reason to look for the simulator: what is missing
    is named. The answer of a device is that of a kernel that ran.
    """
    if SIMULATED:
        return "NUMBA_ENABLE_CUDASIM is set: kernels run in the simulator"
    try:
        cuda.current_context()
    except Exception as error:  # no driver, one too old, no device, all devices taken
        return f"the driver gives Numba no device: {_one_line(error)}"
    try:
        _probe().compiled(np.dtype(np.float32), ("float32", "float32[1]"))
        out = cuda.to_device(np.zeros(1, np.float32))
        _probe()(0, np.float32, 1, 1, 1.0, out)
        found = float(out.copy_to_host()[0])
    except Exception as error:  # libnvvm, libdevice or nvJitLink missing or of another version
        return (
            f"there is a device, but Numba cannot compile for it: {_one_line(error)} (the parts "
            "come with pip install '.[cuda]' in a checkout)"
        )
    return None if found == 1 else f"a kernel that writes 1 wrote {found:g}"


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


class Launch:
    """A loop for the GPU, compiled when first launched with numbers of a type.

    Parameters
    ----------
    function : function
        Takes arrays, integers and real numbers, no tuples; returns nothing. See `retargeted`.
        Its attribute `bounds`, if there is one, says how many threads a block has at most, and how
        many blocks a multiprocessor should hold at once: what registers are left to a thread.
    origin : tuple
        Module, name, and arguments of the factory that made it (see `kernels`).
    """

    def __init__(self, function: Callable[..., Any], origin: tuple[Any, ...]) -> None:
        self.function, self.origin = function, origin
        self.bounds: tuple[int, int] | None = getattr(function, "bounds", None)
        self._compiled: dict[Any, Any] = {}

    def __call__(self, stream: Any, dtype: Any, blocks: Any, threads: Any, *args: Any) -> None:
        """Launch on a stream; nothing happens if there are no blocks.

        Parameters
        ----------
        stream : int
            The driver's handle; 0 for the default one.
        dtype : dtype
            Type of the kernel's numbers.
        blocks, threads : int or tuple of int
            The grid, and the threads of each block.
        *args
            Arrays on the device, integers, and floats, which become of type `dtype`.
        """
        grid = _three(blocks)
        if 0 in grid:
            return
        check_grid(grid)
        if SIMULATED:
            self._simulate(grid, _three(threads), np.dtype(dtype), args)
        else:
            launching.launch(self, stream, np.dtype(dtype), grid, _three(threads), args)

    def _simulate(self, grid: Grid, threads: Grid, dtype: np.dtype, args: tuple[Any, ...]) -> None:
        real = _NUMBERS[dtype]
        args = tuple(real(a) if isinstance(a, float | np.floating) else a for a in args)
        launched[(*self.origin, dtype.name, tuple(map(_type_name, args)))] = self
        self.of(dtype)[grid, threads](*args)

    def of(self, dtype: np.dtype) -> Any:
        """Return what Numba compiles, for one type of numbers."""
        if dtype not in self._compiled:
            options = {} if SIMULATED else {"launch_bounds": self.bounds}
            compile_ = cuda.jit(fastmath=True, **options)
            self._compiled[dtype] = compile_(retargeted(self.function, dtype))
        return self._compiled[dtype]

    def compiled(self, dtype: np.dtype, arguments: tuple[str, ...]) -> tuple[bytes, str]:
        """Return machine code for the current device, and the name of the kernel in it.

        Parameters
        ----------
        dtype : dtype
            Type of the kernel's numbers.
        arguments : tuple of str
            As `launched` holds them.
        """
        kernel = self.of(dtype).compile(tuple(map(_type_of_name, arguments)))
        return bytes(kernel._codelibrary.get_cubin().code), str(kernel.entry_name)

    def ptx(self, dtype: Any, arguments: tuple[str, ...], capability: tuple[int, int]) -> str:
        """Return the assembly for arguments of named types, without a device.

        Parameters
        ----------
        dtype : dtype
            Type of the kernel's numbers.
        arguments : tuple of str
            As `launched` holds them, such as ``"float32[2]"`` and ``"int64"``.
        capability : tuple of int
            Compute capability, such as (9, 0).
        """
        copy = retargeted(self.function, np.dtype(dtype))
        kinds = tuple(map(_type_of_name, arguments))
        text = str(cuda.compile_ptx(copy, kinds, cc=capability, fastmath=True, device=False)[0])
        if self.bounds is None:
            return text
        threads, blocks = self.bounds
        bounds = f".maxntid {threads}\n.minnctapersm {blocks}"
        return re.sub(r"(\.entry [^{]*?\))\s*\{", rf"\1\n{bounds}\n{{", text, count=1)


def _three(sizes: Any) -> Grid:
    """Return sizes along three axes."""
    if not isinstance(sizes, tuple):
        return int(sizes), 1, 1
    x, y, z = (*sizes, 1, 1)[:3]
    return int(x), int(y), int(z)


def kernels(factory: Callable[..., Callable[..., Any]]) -> Callable[..., Launch]:
    """Turn a factory of loops, called with integers, into one of launches, made once each.

    The integers (orders, the code of a radial kernel) are constants of the loops.
    """

    @cache
    @wraps(factory)
    def make(*args: int) -> Launch:
        return Launch(factory(*args), (factory.__module__, factory.__qualname__, args))

    return make


@kernels
def _probe() -> Callable[..., Any]:
    def loop(value: Any, out: Any) -> None:
        out[0] = value

    return loop


def _type_name(argument: Any) -> str:
    if hasattr(argument, "shape") and hasattr(argument, "strides") and argument.shape != ():
        return f"{np.dtype(argument.dtype).name}[{len(argument.shape)}]"
    if isinstance(argument, np.generic):
        return argument.dtype.name
    return {bool: "bool", int: "int64"}[type(argument)]


def _type_of_name(name: str) -> Any:
    from numba.cuda import types

    kind, _, rest = name.partition("[")
    scalar = _numba_type(np.dtype(kind))
    return types.Array(scalar, int(rest[:-1]), "C") if rest else scalar


def _numba_type(dtype: np.dtype) -> Any:
    from numba.cuda import types

    return types.boolean if dtype == np.bool_ else getattr(types, dtype.name)
