"""How launches of the library come to the emulator instead of to a device or to the simulator."""

import ctypes
import traceback
from contextlib import contextmanager

import numba
import numpy as np
from numba.core import config, types

from emulator.code import code_of, statistics
from emulator.launches import Options, run, run_packed
from multipoles.compiled import cuda_kernels


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
            run_packed(kernel, code, *sizes, words, options)
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
