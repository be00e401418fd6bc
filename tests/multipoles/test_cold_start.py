"""What a fresh process pays: imports, and the first call with machine code in the cache."""

import os
import subprocess
import sys

import pytest

FIRST_CALL = """
import time
import numpy as np
import multipoles as mp
x = np.random.default_rng(0).random((10, 3))
m = mp.pack(charges=np.ones(10))
start = time.process_time()
mp.field(x, x, m)
print(time.process_time() - start)
"""

IMPORT = """
import sys, time
start = time.process_time()
import multipoles, fmm
print(time.process_time() - start)
heavy = {"torch", "ase", "openmm", "h5py", "matplotlib", "numba.cuda"} & set(sys.modules)
assert not heavy, heavy
assert not multipoles.interactions.direct_cpu.field_of_slots.signatures, "compiled at import"
"""

CALL_TIME = """
import time
import numpy as np
import multipoles as mp
x = np.random.default_rng(0).random((10, 3))
m = mp.pack(charges=np.ones(10))
mp.field(x, x, m)
times = []
for _ in range(2000):
    start = time.process_time()
    mp.field(x, x, m)
    times.append(time.process_time() - start)
print(sorted(times)[len(times) // 2])
"""


def seconds(script, tries=3):
    """Return the least processor time that `script` prints; others share the machine."""
    best = float("inf")
    for _ in range(tries):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        best = min(best, float(done.stdout.split()[-1]))
    return best


def test_import_is_quick_and_brings_no_torch():
    assert seconds(IMPORT) < 0.7


def test_first_call_with_a_warm_cache():
    assert seconds(FIRST_CALL, tries=4) < 1.0


def test_a_small_call_costs_little():
    assert seconds(CALL_TIME) < 60e-6


@pytest.mark.parametrize("module", ["multipoles", "fmm"])
def test_no_torch_in_a_fresh_process(module):
    script = f"import sys, {module}; assert 'torch' not in sys.modules; print(0)"
    assert seconds(script, tries=1) == 0
