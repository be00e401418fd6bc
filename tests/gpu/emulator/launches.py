"""Launches of kernels on the CPU, and how they come here instead of to a device."""

import ast
import ctypes
import hashlib
import importlib
import inspect
import os
import pickle
import pkgutil
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
from emulator import copies
from numba.core import config, types
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
        root = Path(cuda_kernels.__file__).resolve().parents[2]
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
    memory = ctypes.create_string_buffer(packed, len(packed) + 8)
    _run(launch, code, _three(blocks), _three(threads), ctypes.addressof(memory), options)


def _run(launch, code, blocks, threads, words, options):
    """Run a kernel on arguments packed as for the driver."""
    report, begun = _Report(), time.perf_counter()
    failed = library().emulator_run(
        code.address, words, blocks, threads, code.poison, len(code.poison), options.shuffled,
        ctypes.byref(report),
    )  # fmt: skip
    spent = time.perf_counter() - begun
    statistics.launches += 1
    statistics.running += spent
    statistics.by_kernel[launch.origin] += spent
    if failed < 0:
        raise EmulationError(f"{launch.origin}: expected at most 1024 threads, got {[*threads]}")
    if failed:
        raise EmulationError(_said(launch, threads[0] * threads[1] * threads[2], report))


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
    kind, n = np.dtype(kind), len(shape)
    strides = [int(np.prod(shape[k + 1 :])) * kind.itemsize for k in range(n)]
    size = int(np.prod(shape))
    data = struct.pack(f"{5 + 2 * n}q", 0, 0, size, kind.itemsize, pointer, *shape, *strides)
    return types.Array(numba.from_dtype(kind), n, "C"), data


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
    kept, make = cuda_kernels.Launch.__call__, cuda_kernels.cuda.device_array

    def device_array(*arguments, **named):
        made = make(*arguments, **named)
        # results of memory nobody wrote stand out
        if made.size:
            made._ary.reshape(-1).view(np.uint8)[:] = 0xEE
        return made

    def launch(self, stream, dtype, blocks, threads, *arguments):
        if not np.all(blocks):
            return
        cuda_kernels.check_grid(blocks)
        if before is not None:
            before(kept, self, stream, dtype, blocks, threads, *arguments)
        run(self, dtype, blocks, threads, *arguments, options=options)

    cuda_kernels.Launch.__call__ = launch
    if config.ENABLE_CUDASIM:
        cuda_kernels.cuda.device_array = device_array
    try:
        yield statistics
    finally:
        cuda_kernels.Launch.__call__, cuda_kernels.cuda.device_array = kept, make


@contextmanager
def on_driver(options=None, compiled=False):
    """Let the stub driver (tests/gpu/stub) run what it is given: the host's half is the real one.

    Kernels run as the driver is told: by the packed arguments of a launch, at once or, where they
    are noted for a graph, when that is launched.

    Parameters
    ----------
    options : Options, optional
        May be changed meanwhile.
    compiled : bool
        Whether kernels are compiled for the device, too: it takes seconds for each.
    """
    from multipoles.compiled import driver, launching

    stub, options, known = ctypes.CDLL("libcuda.so.1"), options or Options(), {}
    kept = launching._loaded

    def loaded(kernel, dtype, device, kinds):
        names = tuple(launching._name(kind, dtype) for kind in kinds)
        function = driver.load(*kernel.compiled(dtype, names) if compiled else (b"", "emulated"))
        types_ = tuple(map(_type_of_name, names))
        words = sum(5 + 2 * t.ndim if isinstance(t, types.Array) else 1 for t in types_)
        stub.stub_knows(ctypes.c_void_p(int(function)), words)
        known[int(function)] = kernel, dtype, types_
        return function

    def run_known(function, blocks, threads, words):
        try:
            kernel, dtype, kinds = known[function]
            code = code_of(kernel, dtype, kinds, options.checked)
            sizes = ((ctypes.c_int32 * 3)(*three[:3]) for three in (blocks, threads))
            _run(kernel, code, *sizes, words, options)
            return 0
        except BaseException:  # the driver says that a launch failed; here is why
            traceback.print_exc()
            return 1

    three = ctypes.POINTER(ctypes.c_uint32)
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, three, three, ctypes.c_int64)
    callback = kind(run_known)
    launching._loaded = loaded
    launching._code.clear()
    stub.stub_run(callback)
    try:
        yield statistics
    finally:
        stub.stub_run(None)
        launching._loaded = kept
        launching._code.clear()


def _type_of_name(name):
    kind, _, rest = name.partition("[")
    scalar = numba.from_dtype(np.dtype(kind))
    return types.Array(scalar, int(rest[:-1]), "C") if rest else scalar


# --- sizes of blocks ------------------------------------------------------------------------------

_device_sizes = not cuda_kernels.SIMULATED
# where functions ask whether arrays are the simulator's, and where they ask for sizes of blocks
_OF_ARRAYS = {
    "multipoles.cuda.device", "fmm.cuda.steps", "gnn.operators.gpu", "gnn.operators._edge_cuda",
    "gnn.operators._field_cuda",
}  # fmt: skip
_OF_SIZES = {"fmm.cuda.expansions", "fmm.cuda.translations"}


def device_sizes():
    """Import all modules with kernels so that blocks have the sizes of a device.

    Arrays stay the simulator's. To be called before any of them is imported.
    """
    global _device_sizes
    if _device_sizes:
        return
    import fmm.cuda
    import gnn.operators
    import multipoles.cuda

    packages = multipoles.cuda, fmm.cuda, gnn.operators
    names = [
        found.name
        for package in packages
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    ]
    early = [name for name in names if name in sys.modules and hasattr(sys.modules[name], "THREADS")]
    if early:
        raise RuntimeError(f"to be imported after emulator.device_sizes(): {early}")
    cuda_kernels.SIMULATED = False
    modules = [importlib.import_module(name) for name in names]
    cuda_kernels.SIMULATED = _device_sizes = True
    for module in modules:
        asks = hasattr(module, "SIMULATED") and _asks_in_functions(module)
        if module.__name__ in _OF_ARRAYS:
            module.SIMULATED = True
        elif asks and module.__name__ not in _OF_SIZES:
            raise RuntimeError(
                f"{module.__name__}: a function asks for SIMULATED; whether it means arrays or "
                f"sizes of blocks is to be said in {__file__}"
            )


def _asks_in_functions(module):
    tree = ast.parse(inspect.getsource(module))
    return any(
        isinstance(node, ast.Name) and node.id == "SIMULATED"
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    )
