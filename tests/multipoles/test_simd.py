"""Vectors in Numba: their arithmetic, and the portable path without AVX-512."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from multipoles.compiled.simd import BYTES, lane_sum, load, rsqrt, splat, store


@numba.njit
def _arithmetic(a, b, out):
    lanes = BYTES // a.itemsize
    x, y = load(a, 0), load(b, 0)
    store(out, 0, x + y)
    store(out, lanes, x - 2.0 * y)
    store(out, 2 * lanes, -x * y / 3)
    store(out, 3 * lanes, 1 / x)
    z = splat(a, 2)
    z += x
    z *= y
    store(out, 4 * lanes, z)
    return lane_sum(x)


@numba.njit
def _rsqrt(a, out):
    for i in range(0, a.shape[0], BYTES // a.itemsize):
        store(out, i, rsqrt(load(a, i)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arithmetic(dtype):
    rng = np.random.default_rng(1)
    lanes = BYTES // np.dtype(dtype).itemsize
    a, b = (rng.uniform(0.5, 2.0, lanes).astype(dtype) for _ in range(2))
    out = np.zeros(5 * lanes, dtype)
    total = _arithmetic(a, b, out)
    expected = [a + b, a - 2 * b, -a * b / 3, 1 / a, (a + 2) * b]
    np.testing.assert_allclose(out.reshape(5, -1), expected, rtol=4 * np.finfo(dtype).eps)
    assert total == pytest.approx(float(a.sum()), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rsqrt_over_the_whole_range(dtype):
    limits = np.finfo(dtype)
    a = np.geomspace(limits.tiny * 4, limits.max / 4, 4096).astype(dtype)
    out = np.empty_like(a)
    _rsqrt(a, out)
    np.testing.assert_allclose(out, 1 / np.sqrt(a.astype(np.longdouble)), rtol=4 * limits.eps)
    zeros = np.zeros(64, dtype)
    _rsqrt(zeros, out[:64])
    assert not out[:64].any()


SCRIPT = """
import sys
import numpy as np, multipoles as mp
rng = np.random.default_rng(0)
results = []
damped = [(0, k) for k in (mp.Yukawa(1.0), mp.Erf(0.7), mp.Erfc(0.7), mp.Thole(0.4))]
for dtype, kinds in ((np.float64, ((0, mp.Coulomb()), (1, mp.Coulomb()), *damped)),
                     (np.float32, ((0, mp.Coulomb()),))):
    x = rng.standard_normal((21, 3)).astype(dtype)
    for order, kernel in kinds:
        m = rng.standard_normal((21, mp.n_components(order))).astype(dtype)
        results.append(mp.field(x, x, m, 1, kernel).ravel())
        if dtype == np.float64 and order and len(sys.argv) > 2:
            results.extend(np.ravel(r) for r in mp.energy_forces(x, m, kernel))
np.save(sys.argv[1], np.concatenate(results).astype(np.float64))
"""
LISTING = """
from multipoles.direct_cpu import charges_of_slots
print("rsqrt14" if any("rsqrt14" in a for a in charges_of_slots.inspect_asm().values()) else "root")
"""
CHARGES = """
import numpy as np, multipoles as mp
mp.field(np.eye(3), np.eye(3), np.ones((3, 1)), 1)
"""


def _run(tmp_path, script, name, cache=None, energies=False, **changes):
    path = tmp_path / f"{name}.npy"
    arguments = [str(path), *(["energies"] if energies else [])]
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1", **changes}
    # machine code read from a cache has no listing
    environment["NUMBA_CACHE_DIR"] = cache or str(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return path, done.stdout.strip()


@pytest.mark.parametrize(
    "energies", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["fields", "energies"]
)
def test_portable_path_gives_the_same(tmp_path, energies):
    portable = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    generic, path = _run(tmp_path, SCRIPT + LISTING, "generic", None, energies, **portable)
    assert path == "root"
    native, _ = _run(tmp_path, SCRIPT, "native", os.environ["NUMBA_CACHE_DIR"], energies)
    generic, native = np.load(generic), np.load(native)
    single = 21 * 4  # the last field is float32
    np.testing.assert_allclose(generic[:-single], native[:-single], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(generic[-single:], native[-single:], rtol=2e-4, atol=2e-4)


def test_processors_with_avx512_take_its_root(tmp_path):
    cpuinfo = Path("/proc/cpuinfo")
    if not (cpuinfo.exists() and " avx512f " in cpuinfo.read_text()):
        pytest.skip("needs a processor with AVX-512")
    assert _run(tmp_path, CHARGES + LISTING, "listing")[1] == "rsqrt14"
