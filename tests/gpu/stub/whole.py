"""A direct sum and plans on the real host path, on the stub driver; the emulator runs the kernels.

python whole.py
"""

import ctypes
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import emulator
from numba import cuda

import fmm
import multipoles as mp

N = 20_000
TOLERANCE = 1e-3


def calls(name):
    return ctypes.CDLL("libcuda.so.1").stub_calls(name.encode())


def error(found, chosen, right):
    """Return the larger of the errors of potentials and gradients, relative to all targets'."""
    return max(
        float(np.sqrt(np.mean((found[chosen] - right)[:, p] ** 2) / np.mean(found[:, p] ** 2)))
        for p in (slice(0, 1), slice(1, 4))
    )


def main():
    rng = np.random.default_rng(0)
    x, q = rng.random((N, 3), np.float32), rng.standard_normal((N, 1), np.float32)
    there, charges = cuda.to_device(x), cuda.to_device(q)
    chosen = rng.choice(N, 300, replace=False)

    def right_at(points):
        return mp.field(*(a.astype(np.float64) for a in (points[chosen], points, q)), 1)

    few = mp.field(cuda.to_device(x[chosen]), there, charges, 1).copy_to_host()
    assert error(few, slice(None), right_at(x)) < 1e-5
    plan = fmm.FMM(there, tolerance=TOLERANCE, leaf_size=50)
    first = plan.field(charges, 1).copy_to_host()
    off = error(first, chosen, right_at(x))
    assert off < TOLERANCE, off
    replayed = calls("graph")
    for factor in (1.0, 2.0, 1.0, 2.0):
        again = plan.field(cuda.to_device(np.float32(factor) * q), 1).copy_to_host()
        assert np.array_equal(again, np.float32(factor) * first), factor
    assert calls("graph") > replayed, "evaluations were not replayed"
    moved = x + rng.normal(0, 0.01, x.shape).astype(np.float32)
    plan.rebuild(cuda.to_device(moved))
    found = plan.field(charges, 1).copy_to_host()
    off = error(found, chosen, right_at(moved))
    assert off < TOLERANCE, off
    print("levels", len(plan._layout.geometry.tree.level_starts) - 1)


if __name__ == "__main__":
    with emulator.on_driver():
        main()
