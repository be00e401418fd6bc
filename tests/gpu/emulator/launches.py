"""Launches of kernels on the CPU: their arguments, and what is said of what they did wrong."""

import ctypes
import hashlib
import importlib
import os
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
from numba.core import types
from source_state import kept

from emulator.code import code_of, statistics

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


class _Report(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in ["code", "site", "other_site", "returned", "waiting", "a", "b", "c"]
        ),
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
    path = kept(f"emulator-{name}.so")
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
    run_packed(launch, code, _three(blocks), _three(threads), ctypes.addressof(memory), options)


def run_packed(launch, code, blocks, threads, words, options):
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
