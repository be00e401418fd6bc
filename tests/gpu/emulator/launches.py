"""Launches of kernels on the CPU, and how they come here instead of to a device."""

import ctypes
import hashlib
import importlib
import os
import pickle
import pkgutil
import shutil
import struct
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
from emulator import copies
from numba.core import types
from numba.core.registry import cpu_target

from multipoles.compiled import cuda_kernels

HERE = Path(__file__).resolve().parent


class EmulationError(RuntimeError):
    """A kernel did what a device does not allow."""


@dataclass
class Options:
    """How kernels run.

    Attributes
    ----------
    shuffled : int
        Not zero: blocks, and threads between their barriers, run in a random order of this seed.
    checked : bool
        Indices are checked, and addresses of wide loads.
    """

    shuffled: int = 0
    checked: bool = False


@dataclass
class Statistics:
    """What was done so far: kernels and seconds of compiling, launches and seconds of running."""

    compiled: int = 0
    compiling: float = 0.0
    launches: int = 0
    running: float = 0.0
    by_kernel: Counter = None


statistics = Statistics(by_kernel=Counter())


class _Report(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in "code site other_site returned waiting a b c".split()),
        ("thread", ctypes.c_int32 * 3),
        ("block", ctypes.c_int32 * 3),
    ]


_library = None


def library():
    """Return the library that runs blocks, built once for each state of its source."""
    global _library
    if _library is not None:
        return _library
    source = HERE / "blocks.c"
    name = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    path = Path(tempfile.gettempdir(), f"anisole-emulator-{name}.so")
    if not path.exists():
        made = path.with_suffix(f".{os.getpid()}")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", made, source], check=True)
        made.replace(path)
    _library = ctypes.CDLL(str(path))
    _library.emulator_run.argtypes = (
        ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32 * 3, ctypes.c_int32 * 3, ctypes.c_char_p,
        ctypes.c_int64, ctypes.c_uint64, ctypes.POINTER(_Report),
    )  # fmt: skip
    if _library.emulator_open():
        raise OSError("the emulator's memory cannot be mapped at its address")
    return _library


def compiler():
    """Return the C compiler, if there is one."""
    return shutil.which("gcc")


# --- machine code, kept for other processes -------------------------------------------------------


@dataclass
class Code:
    """A compiled kernel."""

    address: int
    poison: bytes
    keep: object


_codes = {}


def code_of(launch, dtype, kinds, checked):
    """Return a kernel for arguments of some types."""
    key = launch, dtype, kinds, checked
    if key not in _codes:
        begun = time.perf_counter()
        _codes[key] = _loaded(launch, dtype, kinds, checked) or _compiled(
            launch, dtype, kinds, checked
        )
        statistics.compiling += time.perf_counter() - begun
    return _codes[key]


def _compiled(launch, dtype, kinds, checked):
    made, poison = copies.entry(launch.function, dtype, kinds, checked)
    statistics.compiled += 1
    if (path := _file(launch, dtype, kinds, checked)) is not None:
        data = made._library.serialize_using_object_code(), made.native_name, poison
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(pickle.dumps(data))
        temporary.replace(path)
    return Code(made.address, poison, made)


def _loaded(launch, dtype, kinds, checked):
    path = _file(launch, dtype, kinds, checked)
    if path is None or not path.exists():
        return None
    data, name, poison = pickle.loads(path.read_bytes())
    found = cpu_target.target_context.codegen().unserialize_library(data)
    return Code(found.get_pointer_to_function(name), poison, found)


def _file(launch, dtype, kinds, checked):
    """Return the file of a kernel's machine code; None for one that is no part of the library."""
    if launch.origin[0].partition(".")[0] not in ("multipoles", "fmm", "gnn"):
        return None
    sizes = [vars(importlib.import_module(launch.origin[0])).get("THREADS"), _device_sizes]
    key = repr((launch.origin, dtype.name, kinds, checked, sizes, numba.__version__, _state()))
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    return Path(tempfile.gettempdir(), f"anisole-emulated-{_state()}", name)


def _state(kept=[]):  # noqa: B006
    """Return a name for the state of the library's sources and of these."""
    if not kept:
        digest = hashlib.sha256()
        root = HERE.parents[2]
        folders = [root / "multipoles", root / "fmm", root / "gnn" / "operators", HERE]
        for folder in folders:
            for path in sorted(folder.rglob("*.py")):
                digest.update(path.read_bytes())
        kept.append(digest.hexdigest()[:16])
    return kept[0]


# --- launches -------------------------------------------------------------------------------------


def run(launch, dtype, blocks, threads, *arguments, options=None):
    """Run a kernel on memory of this process.

    Parameters
    ----------
    launch : Launch or tuple
        Of `multipoles.compiled.cuda_kernels`, or its origin: module, factory, arguments.
    dtype : dtype
        Type of the kernel's numbers.
    blocks, threads : int or tuple of int
    *arguments
        Arrays (of NumPy, of Numba or of its simulator, in C order), integers and floats.
    options : Options, optional

    Raises
    ------
    EmulationError
        If threads wait for ever, or, with `checked`, at an index out of bounds.
    """
    if isinstance(launch, tuple):
        module, factory, made_with = launch
        launch = getattr(importlib.import_module(module), factory)(*made_with)
    options, dtype = options or Options(), np.dtype(dtype)
    kinds, packed = [], b""
    for argument in arguments:
        kind, data = _packed(argument, dtype)
        kinds.append(kind)
        packed += data
    code = code_of(launch, dtype, tuple(kinds), options.checked)
    memory, report = ctypes.create_string_buffer(packed, len(packed) + 8), _Report()
    begun = time.perf_counter()
    failed = library().emulator_run(
        code.address, ctypes.addressof(memory), _three(blocks), _three(threads), code.poison,
        len(code.poison), options.shuffled, ctypes.byref(report),
    )  # fmt: skip
    spent = time.perf_counter() - begun
    statistics.launches += 1
    statistics.running += spent
    statistics.by_kernel[launch.origin] += spent
    if failed < 0:
        raise EmulationError(f"{launch.origin}: expected at most 1024 threads, got {threads}")
    if failed:
        raise EmulationError(_said(launch, threads, report))


def _three(sizes):
    sizes = sizes if isinstance(sizes, tuple) else (sizes,)
    return (ctypes.c_int32 * 3)(*map(int, sizes), *[1] * (3 - len(sizes)))


def _packed(argument, dtype):
    """Return the type of an argument and its bytes."""
    if isinstance(argument, bool | np.bool_):
        return types.boolean, struct.pack("q", argument)
    if isinstance(argument, int):
        return types.int64, struct.pack("q", argument)
    if isinstance(argument, float | np.floating):
        value = dtype.type(argument)
        return numba.from_dtype(dtype), value.tobytes().ljust(8, b"\0")
    if isinstance(argument, np.generic):
        return numba.from_dtype(argument.dtype), argument.tobytes().ljust(8, b"\0")
    pointer, shape, kind = _memory(argument)
    data = struct.pack(f"q{len(shape)}q", pointer, *shape)
    return types.Array(numba.from_dtype(np.dtype(kind)), len(shape), "C"), data


def _memory(array):
    """Return pointer, shape and type of an array, which must be in C order."""
    array = getattr(array, "_ary", array)
    if isinstance(array, np.ndarray):
        if not array.flags.c_contiguous:
            raise TypeError(f"kernels take arrays in C order, got strides {array.strides}")
        return array.ctypes.data, array.shape, array.dtype
    found = array.__cuda_array_interface__
    if found.get("strides") is not None:
        raise TypeError(f"kernels take arrays in C order, got strides {found['strides']}")
    return found["data"][0] or 0, tuple(found["shape"]), np.dtype(found["typestr"])


def _said(launch, threads, report):
    place = f"thread {tuple(report.thread)} of block {tuple(report.block)}"
    where = f"{'.'.join(map(str, launch.origin[:2]))}{launch.origin[2]}, {place}"
    file = Path(launch.function.__code__.co_filename).name
    line = f"{file} or a function it calls, line {report.site}"
    if report.code == 1:
        others = f", others wait at line {report.other_site}" if report.other_site else ""
        return (
            f"{where}: waits at a barrier ({line}) for threads that do not come: {report.waiting} "
            f"of {threads} are there, {report.returned} have returned{others}"
        )
    if report.code == 2:
        length = f"of {report.c} along axis {report.a}" if report.c else "of a load or a store"
        return f"{where}: index {report.b} {length} ({line})"
    if report.code == 3:
        return f"{where}: address {report.a:#x} is no multiple of {report.b} ({line})"
    return f"{where}: lane {report.a} takes from lane {report.b}, which is not there ({line})"


@contextmanager
def installed(options=None, before=None):
    """Let all launches of the library run here.

    Parameters
    ----------
    options : Options, optional
        May be changed meanwhile.
    before : callable, optional
        Called with the launch's method and its arguments before each: the stub driver's count.
    """
    kept = cuda_kernels.Launch.__call__

    def launch(self, stream, dtype, blocks, threads, *arguments):
        if not np.all(blocks):
            return
        cuda_kernels.check_grid(blocks)
        if before is not None:
            before(kept, self, stream, dtype, blocks, threads, *arguments)
        run(self, dtype, blocks, threads, *arguments, options=options)

    cuda_kernels.Launch.__call__ = launch
    try:
        yield statistics
    finally:
        cuda_kernels.Launch.__call__ = kept


# --- sizes of blocks ------------------------------------------------------------------------------

# modules that ask whether arrays are the simulator's; all others ask for the sizes of blocks
_OF_ARRAYS = (
    "multipoles.cuda.device",
    "multipoles.cuda.dlpack",
    "gnn.operators._field_cuda",
    "gnn.operators._edge_cuda",
    "gnn.operators.gpu",
)
_device_sizes = not cuda_kernels.SIMULATED


def device_sizes():
    """Import all modules with kernels so that blocks have the sizes of a device.

    Arrays stay the simulator's. To be called before any of them is imported.
    """
    global _device_sizes
    if not cuda_kernels.SIMULATED:
        return
    import fmm.cuda
    import gnn.operators
    import multipoles.cuda

    cuda_kernels.SIMULATED = False
    for package in (multipoles.cuda, fmm.cuda, gnn.operators):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(found.name)
    cuda_kernels.SIMULATED = _device_sizes = True
    for name in _OF_ARRAYS:
        module = importlib.import_module(name)
        if hasattr(module, "SIMULATED"):
            module.SIMULATED = True
