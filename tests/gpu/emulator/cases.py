"""What must hold in the emulator; run in a process of its own, with blocks of a device's size.

python cases.py NAME ...     prints, as JSON, what each case says: null, or how it failed
"""

import json
import sys
import traceback

import numpy as np

import emulator

emulator.device_sizes()

from numba import cuda  # noqa: E402

import fmm  # noqa: E402
import multipoles as mp  # noqa: E402
from multipoles.compiled.cuda_access import loader  # noqa: E402
from multipoles.compiled.cuda_kernels import REAL, Launch  # noqa: E402
from multipoles.cuda import sorting  # noqa: E402
from multipoles.cuda.device import NumbaSpace  # noqa: E402

RANDOM = np.random.default_rng


def launched(loop, threads, *arguments, blocks=1, **options):
    """Run a kernel of these cases."""
    launch = Launch(loop, (__name__, loop.__qualname__, ()))
    emulator.run(
        launch, np.float32, blocks, threads, *arguments, options=emulator.Options(**options)
    )


def refused(loop, threads, *arguments, **options):
    """Return how a kernel is refused."""
    try:
        launched(loop, threads, *arguments, **options)
    except emulator.EmulationError as error:
        return str(error)
    raise AssertionError("nothing was said")


# --- kernels of the library -----------------------------------------------------------------------


def keys_are_sorted():
    keys = RANDOM(0).integers(0, 1 << 20, 20_000)
    with emulator.installed():
        permutation, in_order = sorting.argsort(NumbaSpace(), cuda.to_device(keys), 20)
    expected = np.argsort(keys, kind="stable")
    assert np.array_equal(permutation.copy_to_host(), expected)
    assert np.array_equal(in_order.copy_to_host(), keys[expected])


def direct_sum_is_right():
    x, q = RANDOM(0).random((700, 3)), RANDOM(1).standard_normal((700, 1))
    there, charges = (cuda.to_device(a.astype(np.float32)) for a in (x, q))
    with emulator.installed():
        found = mp.field(there, there, charges, 1).copy_to_host()
    assert error(found, mp.reference.field(x, x, q, 1)) < 1e-5


# --- what is found --------------------------------------------------------------------------------


def _reversed(with_barrier):
    def loop(out):
        shared = cuda.shared.array(128, REAL)
        i = cuda.threadIdx.x
        shared[i] = i
        if with_barrier:
            cuda.syncthreads()
        out[cuda.blockIdx.x, i] = shared[127 - i]

    return loop


def missing_barriers_show():
    found, right = (np.zeros((3, 128), np.float32) for _ in range(2))
    launched(_reversed(False), 128, found, blocks=3)
    launched(_reversed(True), 128, right, blocks=3, shuffled=5)
    assert np.array_equal(right, np.tile(np.arange(127.0, -1, -1), (3, 1)))
    assert np.isnan(found).sum() == 3 * 64


def missing_barriers_show_in_another_order():
    def loop(out):
        shared = cuda.shared.array(128, REAL)
        i = cuda.threadIdx.x
        shared[i] = i
        out[i] = shared[i - 1] if i > 0 else 0.0

    first, second = np.zeros(128, np.float32), np.zeros(128, np.float32)
    launched(loop, 128, first)
    launched(loop, 128, second, shuffled=5)
    assert not np.isnan(first).any() and np.isnan(second).any()


def barriers_that_not_all_reach_are_refused():
    def loop(out):
        i = cuda.threadIdx.x
        if i >= out.shape[0]:
            return
        cuda.syncthreads()
        out[i] = 1.0

    said = refused(loop, 128, np.zeros(100, np.float32))
    assert "waits at a barrier" in said and "100 of 128 are there, 28 have returned" in said, said


def indices_out_of_bounds_are_found():
    def loop(out):
        i = cuda.grid(1)
        out[i] = 1.0

    out = np.zeros(200, np.float32)
    said = refused(loop, 128, out[:130], blocks=2, checked=True)
    assert "thread (2, 0, 0) of block (1, 0, 0): index 130 of 130" in said, said
    launched(loop, 128, np.zeros(256, np.float32), blocks=2, checked=True)


def loads_that_are_not_aligned_are_found():
    load = loader(4, 4)

    def loop(values, first, out):
        out[0] = load(values, first)[0]

    values, out = np.arange(16, dtype=np.float32), np.zeros(1, np.float32)
    values = values if values.ctypes.data % 16 == 0 else values[2:]
    launched(loop, 1, values, 4, out, checked=True)
    assert "is no multiple of 16" in refused(loop, 1, values, 5, out, checked=True)
    assert "index -4 of a load" in refused(loop, 1, values, -4, out, checked=True)


def shared_memory_has_a_limit():
    def loop(out):
        shared = cuda.shared.array(49153, np.int8)
        out[0] = shared[0]

    try:
        launched(loop, 1, np.zeros(1, np.float32))
    except Exception as error:
        assert "expected at most 49152 bytes of shared memory, got 49153" in str(error), error
    else:
        raise AssertionError("nothing was said")


# --- what threads do together ---------------------------------------------------------------------


def warps_exchange():
    def loop(out):
        i, all_lanes = cuda.threadIdx.x, 0xFFFFFFFF
        x = np.float32(i)
        out[0, i] = cuda.shfl_sync(all_lanes, x, 3)
        out[1, i] = cuda.shfl_up_sync(all_lanes, x, 1)
        out[2, i] = cuda.shfl_down_sync(all_lanes, x, 4)
        out[3, i] = cuda.shfl_xor_sync(all_lanes, i, 16)
        out[4, i] = cuda.popc(cuda.ballot_sync(all_lanes, i % 3 == 0))
        out[5, i] = cuda.laneid + cuda.warpsize
        cuda.syncwarp()
        out[6, i] = cuda.any_sync(all_lanes, i == 40) + 2 * cuda.all_sync(all_lanes, i < 32)
        out[7, i] = cuda.syncthreads_count(i < 10)

    i = np.arange(64)
    lane, first = i % 32, i - i % 32
    for seed in (0, 3):
        out = np.zeros((8, 64), np.float32)
        launched(loop, 64, out, shuffled=seed)
        assert np.array_equal(out[0], first + 3)
        assert np.array_equal(out[1], np.where(lane > 0, i - 1, i))
        assert np.array_equal(out[2], np.where(lane < 28, i + 4, i))
        assert np.array_equal(out[3], i ^ 16)
        assert np.array_equal(out[4], np.full(64, 11))
        assert np.array_equal(out[5], lane + 32)
        assert np.array_equal(out[6], np.where(i < 32, 2, 1))
        assert np.array_equal(out[7], np.full(64, 10))


def lanes_that_do_not_take_part_are_found():
    def loop(out):
        i = cuda.threadIdx.x
        if i < 16:
            out[i] = cuda.shfl_down_sync(0xFFFF, np.float32(i), 8)

    said = refused(loop, 32, np.zeros(32, np.float32))
    assert "lane 8 takes from lane 16" in said, said


def atomics_return_what_was_there():
    def loop(counts, seen):
        i = cuda.grid(1)
        seen[i] = cuda.atomic.add(counts, 0, 1)
        cuda.atomic.max(counts, 1, i)
        cuda.atomic.min(counts, 2, -i)

    counts, seen = np.zeros(3, np.int64), np.zeros(512, np.int32)
    launched(loop, 128, counts, seen, blocks=4, shuffled=9)
    assert counts.tolist() == [512, 511, -511]
    assert np.array_equal(np.sort(seen), np.arange(512))


# --- whole plans (slow) ---------------------------------------------------------------------------


def error(found, right):
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def cloud(kind, n):
    rng = RANDOM(0)
    if kind == "uniform":
        return rng.random((n, 3)).astype(np.float32)
    direction = rng.standard_normal((n // 3, 3))
    sphere = 0.5 + 0.4 * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    cluster = 0.2 + 0.01 * rng.standard_normal((n // 3, 3))
    return np.concatenate([sphere, cluster, rng.random((n - 2 * (n // 3), 3))]).astype(np.float32)


def planned(kind, n, options=None, **plan_options):
    x, q = cloud(kind, n), RANDOM(1).standard_normal((n, 1)).astype(np.float32)
    with emulator.installed(options):
        plan = fmm.FMM(cuda.to_device(x), tolerance=1e-4, **plan_options)
        found = plan.field(cuda.to_device(q), 1).copy_to_host()
    return x, q, found


def a_plan_is_right(kind="uniform", **plan_options):
    x, q, found = planned(kind, 100_000, **plan_options)
    chosen = RANDOM(2).choice(len(x), 300, replace=False)
    right = mp.field(*(a.astype(np.float64) for a in (x[chosen], x, q)), 1)
    for part in (slice(0, 1), slice(1, 4)):
        # of all targets: those with a close neighbour have most of the norm
        off, all_ = found[chosen, part] - right[:, part], found[:, part]
        assert np.sqrt(np.mean(off**2) / np.mean(all_**2)) < 1e-4


def a_plan_of_clusters_is_right():
    # left to itself it would sum all pairs
    a_plan_is_right("clustered", leaf_size=200)


def a_plan_does_not_depend_on_the_order_of_threads():
    _, _, found = planned("uniform", 50_000)
    for seed in (1, 2):
        assert np.array_equal(planned("uniform", 50_000, emulator.Options(shuffled=seed))[2], found)


def a_plan_stays_within_its_arrays():
    planned("uniform", 50_000, emulator.Options(checked=True))


def main():
    found = {}
    for name in sys.argv[1:]:
        try:
            globals()[name]()
            found[name] = None
        except Exception:
            found[name] = traceback.format_exc()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
