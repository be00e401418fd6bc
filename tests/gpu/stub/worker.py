"""Runs, in Numba's simulator, the kernels that another process launched through the stub driver.

    python worker.py SOCKET     with NUMBA_ENABLE_CUDASIM=1, and the other process's STUB_ARENA

Blocks have the threads that a device would get, each of them a thread of Python: slow.
"""

import ctypes
import importlib
import mmap
import os
import pkgutil
import sys
import traceback
from multiprocessing.connection import Listener

import numpy as np

import fmm.cuda
import multipoles.cuda
from multipoles.compiled import cuda_kernels

ARENA, SIZE = 0x700000000000, 1 << 32
_FIXED_NORESERVE = 0x10 | 0x4000


def import_kernels():
    """Import all kernels with the sizes of blocks that they have on a device."""
    cuda_kernels.SIMULATED = False
    for package in (multipoles.cuda, fmm.cuda):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(found.name)
    cuda_kernels.SIMULATED = True


def open_arena():
    """Map the memory of the stub driver where the other process has it."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    )  # fmt: skip
    file = os.open(os.environ["STUB_ARENA"], os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(file, SIZE)
    kind = mmap.MAP_SHARED | _FIXED_NORESERVE
    at = libc.mmap(ARENA, SIZE, mmap.PROT_READ | mmap.PROT_WRITE, kind, file, 0)
    assert at == ARENA


def argument(sent):
    """Return an argument of a kernel: an array at its address, or a number."""
    if not isinstance(sent, tuple):
        return sent
    pointer, shape, kind = sent
    dtype = np.dtype(kind)
    n = int(np.prod(shape))
    if n == 0:
        return cuda_kernels.simulated(np.empty(shape, dtype))
    memory = (ctypes.c_char * (n * dtype.itemsize)).from_address(pointer)
    return cuda_kernels.simulated(np.frombuffer(memory, dtype).reshape(shape))


def main():
    sys.setswitchinterval(1e-5)  # threads wait for each other by turns
    import_kernels()
    open_arena()
    with Listener(sys.argv[1], "AF_UNIX") as door, door.accept() as caller:
        while True:
            try:
                (module, name, made_with), dtype, blocks, threads, arguments = caller.recv()
            except EOFError:
                return
            try:
                kernel = getattr(importlib.import_module(module), name)(*made_with)
                kernel.of(np.dtype(dtype))[blocks, threads](*map(argument, arguments))
                caller.send(None)
            except BaseException:
                caller.send(traceback.format_exc())


if __name__ == "__main__":
    main()
