"""What must hold of the host's half on a GPU; run in a process of its own, with the stub driver.

python cases.py     prints, as JSON, what each case says: null, or how it failed
"""

import ctypes
import json
import re
import sys
import threading
import traceback
import types
import warnings
import weakref

import numba
import numpy as np

import multipoles as mp
from multipoles.compiled import cuda_kernels, driver
from multipoles.compiled.cuda_kernels import cuda
from multipoles.cuda import device, dlpack
from multipoles.cuda import direct as direct_cuda
from multipoles.cuda.device import NumbaSpace
from multipoles.cuda.graphs import Repeated

_LIBRARY = ctypes.CDLL("libcuda.so.1")
_LIBRARY.stub_calls.restype = ctypes.c_long


def calls(name):
    return _LIBRARY.stub_calls(name.encode())


class OfStream(NumbaSpace):
    """Numba's arrays on a stream of their own."""

    def __init__(self):
        super().__init__()
        self.stream = driver.new_stream(0)


def a_driver_that_runs_nothing_is_found_out():
    assert (cuda_kernels.why_unusable() or "").startswith("a kernel that writes 1 wrote")


def a_toolkit_that_is_missing_is_named():
    from numba.cuda.cudadrv import nvvm

    kept, nvvm._nvvm = nvvm._nvvm, None
    cuda_kernels._probe.cache_clear()
    try:
        reason = cuda_kernels.why_unusable()
    finally:
        nvvm._nvvm = kept
        cuda_kernels._probe.cache_clear()
    assert "Numba cannot compile for it" in reason and "libNVVM" in reason, reason
    assert ".[cuda]" in reason


def a_sum_is_compiled_and_launched():
    x = cuda.to_device(np.random.default_rng(0).random((300, 3)).astype(np.float32))
    q = cuda.to_device(np.ones((300, 1), np.float32))
    before, waits = calls("launch"), calls("synchronize")
    out = mp.field(x, x, q, 1)
    assert out.shape == (300, 4) and calls("launch") > before
    assert calls("synchronize") == waits, "the call waited for the device"


def a_grid_that_no_device_takes_is_refused_before_the_launch():
    out = cuda.to_device(np.zeros(1, np.float32))
    for blocks in (2**31, (1, 2**16), (1, 1, 2**16)):
        try:
            cuda_kernels._probe()(0, np.float32, blocks, 1, 1.0, out)
        except ValueError as error:
            assert "expected a grid of at most" in str(error)
        else:
            raise AssertionError(blocks)


def constants_are_waited_for_once_on_every_other_stream():
    one, two = OfStream(), OfStream()
    records, waits = calls("record"), calls("wait")
    first = one.constant("of the stub", lambda: np.arange(3))
    assert (calls("record"), calls("wait")) == (records + 1, waits)
    assert one.constant("of the stub", lambda: np.arange(3)) is first
    assert calls("wait") == waits
    for _ in range(2):
        assert two.constant("of the stub", lambda: np.arange(3)) is first
        assert (calls("record"), calls("wait")) == (records + 1, waits + 1)


def a_space_that_moves_waits_for_its_last_stream():
    one, two = OfStream(), OfStream()
    old, records, waits = one.stream, calls("record"), calls("wait")
    one.move_to(one)
    assert (calls("record"), calls("wait")) == (records, waits)
    one.move_to(two)
    assert (calls("record"), calls("wait")) == (records + 1, waits + 1)
    assert one.stream == two.stream != old


def neighbours_are_found_once_and_waited_for():
    from multipoles.cuda.neighbours import DeviceNeighbours

    one, two = OfStream(), OfStream()
    neighbours = DeviceNeighbours(5, 7)
    first, waits = neighbours.ranges(one), calls("wait")
    assert neighbours.ranges(two) is first and calls("wait") == waits + 1


@cuda_kernels.kernels
def taking(columns):
    def loop(a, b, c, d, e, f, g, h):
        if d and b + g > c:
            a[0, columns] += e[0] + f[0, 0, 0] + h[0, 0]

    return loop


def packed_by_numba(kernel, dtype, arguments):
    """Return the words that Numba gives the driver for a kernel that is compiled for one list."""
    ((kinds, compiled),) = kernel.of(dtype).overloads.items()
    words = []
    for kind, value in zip(kinds, arguments, strict=True):
        given = cuda.as_cuda_array(value, sync=False) if hasattr(value, "words") else value
        given = dtype.type(value) if isinstance(value, float) else given
        compiled._prepare_args(kind, given, 0, [], words)
    simple = (bytes(w) for w in words if isinstance(w, ctypes._SimpleCData))
    return b"".join(
        (next(simple) if isinstance(w, ctypes._SimpleCData) else int(w).to_bytes(8, "little"))
        .ljust(8, b"\0")
        for w in words
    )  # fmt: skip


def arguments_are_packed_as_numba_packs_them():
    space, sent, kept = NumbaSpace(), [], driver.launch
    arguments = (
        space.empty((3, 5), np.float32), 7, -2.5, True, space.empty((4,), np.int64),
        space.empty((2, 3, 4), np.float64), np.int64(-1), cuda.to_device(np.zeros((2, 2))),
    )  # fmt: skip
    driver.launch = lambda *given: sent.append(given[-1])
    try:
        for dtype in map(np.dtype, (np.float32, np.float64)):
            kernel = cuda_kernels.Launch(taking(0).function, (__name__, "taking", (0,)))
            real = dtype.name
            kinds = ("float32[2]", "int64", real, "bool", "int64[1]", "float64[3]", "int64")
            kinds = *kinds, "float64[2]"
            kernel(0, dtype, 1, 1, *arguments)
            kernel.compiled(dtype, kinds)  # by Numba, where the launch found it on the disk
            assert sent[-1] == packed_by_numba(kernel, dtype, arguments)
            text = kernel.ptx(dtype, kinds, (9, 0))
            assert 8 * len(re.findall(r"\.param \.", text)) == len(sent[-1])
    finally:
        driver.launch = kept


def work_that_is_repeated_becomes_one_launch():
    space = NumbaSpace()
    given = space.upload(np.ones((5, 1, 1)))

    def work(array):
        half = space.empty((5,), np.float64)
        for _ in range(3):
            half = space.empty((5,), np.float64)
            direct_cuda.fill(space, half, 2.0)
        return direct_cuda.fill(space, space.empty((5, 1, 1), np.float64), 1.0), "rest"

    repeated, found = Repeated(space, work), []
    for _ in range(5):
        launches, graphs = calls("launch"), calls("graph")
        out, rest = repeated(given)
        found.append((calls("launch") - launches, calls("graph") - graphs))
        assert out.shape == (5, 1, 1) and rest == "rest" and out.pointer != given.pointer
    assert found == [(4, 0), (4, 0), (4, 1), (0, 1), (0, 1)], found


def what_cannot_be_noted_is_done_as_it_comes_and_said_once():
    space = NumbaSpace()
    given, sizes = space.upload(np.ones(5)), iter(range(1, 100))
    for work, reason in (
        (lambda array: (space.upload(space.download(array)), None), "waits for the device"),
        (lambda array: (space.empty((1000 * next(sizes),), np.float64), None), "more than the"),
    ):
        repeated = Repeated(space, work)
        repeated(given), repeated(given)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for _ in range(3):
                repeated(given)
        assert len(said) == 1 and reason in str(said[0].message), [str(w.message) for w in said]
        assert not space._is_noting and int(space.stream) == 0 and space._arena is None


def work_goes_to_the_device_of_its_stream_whatever_others_do():
    spaces = []
    for number in range(2):
        driver.work_on(number)
        spaces.append(NumbaSpace())
    assert spaces[0].key != spaces[1].key and spaces[0].stream != spaces[1].stream
    for space, number in ((spaces[0], 0), (spaces[1], 1), (spaces[0], 0)):
        for task in (
            lambda space=space: space.upload(np.zeros(3)),
            lambda space=space: space.zeros((3,), np.float64),
            lambda space=space: direct_cuda.fill(space, space.empty((3,), np.float64), 1.0),
        ):
            driver.work_on(1 - number)  # as other libraries do
            task()
            assert _LIBRARY.stub_device() == number
            assert driver.device() == 1 - number, "the caller's own device is another now"
    driver.work_on(0)


def results_for_jax_keep_their_memory():
    jax = types.ModuleType("jax")
    jax.dlpack = types.SimpleNamespace(from_dlpack=lambda given: given.__dlpack__(stream=1))
    sys.modules["jax"] = jax
    array = NumbaSpace().upload(np.arange(6.0).reshape(2, 3))
    pointer, seen = array.pointer, weakref.ref(array.owner)
    waits = calls("synchronize")
    capsule = device.JaxSpace().give(array)
    assert calls("synchronize") == waits + 1, "inputs may be freed while they are read"
    tensor = dlpack._Tensor.from_address(dlpack._pointer_of(capsule))
    assert tensor.data == pointer and tensor.device.kind == dlpack.CUDA
    assert [tensor.shape[i] for i in range(tensor.ndim)] == [2, 3]
    del array
    assert seen() is not None, "the memory went while JAX held it"
    del capsule
    assert seen() is None, "the memory stays for ever"


def arrays_of_jax_are_waited_for():
    owner, waited = cuda.to_device(np.arange(3.0)), []

    class Array:
        __module__ = "jaxlib.xla_extension"
        __cuda_array_interface__ = owner.__cuda_array_interface__

        def block_until_ready(self):
            waited.append(True)

    assert device.view(Array()).shape == (3,) and waited == [True]


def a_thread_that_never_worked_on_a_device_gives_memory_back():
    """Other libraries end what they were lent in threads of their own."""
    arrays = [NumbaSpace().upload(np.zeros(300)) for _ in range(2)]
    arrays[0].owner.lend()
    frees = calls("free")
    thread = threading.Thread(target=arrays.clear)
    thread.start(), thread.join()
    assert calls("free") == frees + 2


def memory_that_was_lent_is_waited_for_before_it_goes():
    """The driver does not: of memory of a pool it takes for granted that all is done."""
    space = NumbaSpace()
    array, own = space.upload(np.zeros(300)), space.upload(np.zeros(300))
    given = space.give(array)
    waits, frees = calls("synchronize"), calls("free")
    del own
    assert (calls("synchronize"), calls("free")) == (waits, frees + 1)
    del array, given
    assert (calls("synchronize"), calls("free")) == (waits + 1, frees + 2)


def memory_that_was_lent_stays_while_work_is_noted():
    space, stream = NumbaSpace(), driver.new_stream(0)
    array = space.upload(np.zeros(300))
    array.owner.lend()
    frees = calls("free")
    driver.begin_capture(stream)
    del array
    assert calls("free") == frees
    driver.drop_graph(driver.end_capture(stream))
    assert calls("free") == frees + 1


def the_device_of_a_thread_is_that_of_before_when_memory_goes():
    driver.work_on(0)
    array = NumbaSpace().upload(np.zeros(300))
    driver.work_on(1)
    del array
    assert driver.device() == 1
    driver.work_on(0)


def constants_that_are_there_are_used_in_a_capture_of_others():
    one, two = OfStream(), OfStream()
    first = one.constant("before the capture", lambda: np.arange(3))
    driver.begin_capture(two.stream)
    try:
        assert two.constant("before the capture", lambda: np.arange(3)) is first
        try:
            two.constant("in the capture", lambda: np.arange(3))
        except driver.DriverError as error:
            assert "do the same once before" in str(error)
        else:
            raise AssertionError("a graph would read memory of the host that is gone")
    finally:
        driver.drop_graph(driver.end_capture(two.stream))


def marks_are_made_by_threads_that_never_worked_on_a_device():
    said = []
    thread = threading.Thread(target=lambda: said.append(driver.Event(0)))
    thread.start(), thread.join()
    assert said


def numbers_and_truths_of_numpy_are_packed():
    out = cuda.to_device(np.zeros((2, 2)))
    one = cuda.to_device(np.zeros(1))
    three, two = cuda.to_device(np.zeros((1, 1, 1))), cuda.to_device(np.zeros((1, 1)))
    sent, kept = [], driver.launch
    driver.launch = lambda *given: sent.append(given[-1])
    try:
        for dtype, most in ((np.float32, np.float32(np.inf)), (np.float64, np.float64(1e39))):
            taking(0)(
                0, dtype, 1, 1, out, 1e39, np.float32(2), np.bool_(True), one, three, np.int32(1),
                two,
            )  # fmt: skip
            assert np.asarray(most).tobytes() in sent[-1]
    finally:
        driver.launch = kept


def kernels_that_a_device_refuses_are_compiled_again():
    import os
    import tempfile

    from multipoles.compiled import cache, launching

    with tempfile.TemporaryDirectory() as folder:
        numba.config.CACHE_DIR, before = folder, numba.config.CACHE_DIR
        try:
            out, probe = cuda.to_device(np.zeros(1)), cuda_kernels._probe()
            files = cache.cache_for(probe.function)._cache_file
            saved, kept = [], cache._Files.save

            def save(self, key, data):
                saved.append(key)
                kept(self, key, (b"of another toolkit", data[1]) if len(saved) == 1 else data)

            cache._Files.save = save
            for _ in range(3):
                launching._code.clear()
                probe(0, np.float64, 1, 1, 1.0, out)
            cache._Files.save = kept
            assert len(saved) == 2, saved
            assert files.load(saved[0])[0].startswith(b"\x7fELF") and os.listdir(folder)
        finally:
            numba.config.CACHE_DIR = before


def what_a_kernel_is_made_of_names_it():
    from multipoles.compiled.launching import _fingerprint

    def made(table, factor=1.0):
        def function(x, times=factor):
            return table[x] * times

        return function

    tables = [np.zeros(3000), np.zeros(3000), np.full(3000, 1e-12)]
    tables[1][1500] = 1.0
    names = [_fingerprint(made(table)) for table in tables] + [_fingerprint(made(tables[0], 2.0))]
    assert len(set(names)) == 4 and _fingerprint(made(np.zeros(3000))) == names[0]


def numbers_that_torch_has_yet_to_negate_are_negated():
    try:
        import torch
    except ImportError:
        return

    class Own(torch.Tensor):
        pass

    seen = device.view(torch._neg_view(torch.ones(3)))
    assert list((ctypes.c_float * 3).from_address(seen.pointer)) == [-1.0] * 3
    assert device._library(torch.ones(3).as_subclass(Own)) == "torch"


class _OfCupy:
    """A stream, or a device, of what stands for CuPy."""

    def __init__(self, number):
        self.ptr = number

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def streams_of_cupy_that_were_left_wait_for_what_was_done_on_others():
    """Its memory goes to later work of the stream on which it was made, once it is dropped."""
    cupy, current = types.ModuleType("cupy"), [_OfCupy(int(driver.new_stream(0)))]
    cupy.cuda = types.SimpleNamespace(Device=_OfCupy, get_current_stream=lambda: current[0])

    class Array:
        __module__ = "cupy"

        def __init__(self):
            self.data, self.device = types.SimpleNamespace(ptr=0), types.SimpleNamespace(id=0)

        def reshape(self, *shape):
            return self

        def __getitem__(self, part):
            return self

    cupy.empty = lambda shape, dtype: Array()
    sys.modules["cupy"] = cupy
    try:
        space = device.space_of(Array())
        waits = calls("wait")
        space.give(space.empty((3,), np.float64))
        assert calls("wait") == waits
        current[0] = _OfCupy(int(driver.new_stream(0)))
        space.move_to(device.space_of(Array()))
        assert int(space.stream) == current[0].ptr and calls("wait") == waits + 1
        space.give(space.empty((3,), np.float64))
        assert calls("wait") == waits + 2
    finally:
        del sys.modules["cupy"]


def streams_that_other_libraries_name_are_waited_for():
    owner, stream = cuda.to_device(np.arange(3.0)), cuda.stream()

    class Array:
        __cuda_array_interface__ = owner.__cuda_array_interface__ | {
            "version": 3,
            "stream": int(stream.handle),
        }

    waits = calls("synchronize")
    device.view(Array())
    assert calls("synchronize") == waits + 1


def main():
    module, found = sys.modules[__name__], {}
    plain = ((n, f) for n, f in vars(module).items() if isinstance(f, types.FunctionType))
    for name in [n for n, f in plain if n != "main" and not f.__code__.co_argcount]:
        try:
            getattr(module, name)()
            found[name] = None
        except Exception:
            found[name] = traceback.format_exc()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
