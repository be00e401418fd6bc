"""How kernels are compiled where Numba is told not to compile."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import numba
import numpy as np

import multipoles as mp
from multipoles._jit import inline, jit


@inline
def square(x):
    return x * x


@jit
def ranks(table, x):
    return square(np.searchsorted(table, x)) + np.sort(table)[0]


@numba.njit
def theirs(x):
    return x


assert ranks(np.arange(5.0), 2.5) == 9.0
assert not hasattr(theirs, "py_func"), "what others decorate is left to the variable"
assert numba.config.DISABLE_JIT == 1
points, charges = np.array([[0.0, 0, 0], [0, 0, 2.0]]), np.array([[1.0], [3.0]])
assert np.allclose(mp.field(points, points, charges, 0)[:, 0], [1.5, 0.5])
"""


def test_numba_disable_jit_leaves_our_kernels_alone(tmp_path):
    """They work on vectors of LLVM, which plain Python does not know."""
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    variables = {"NUMBA_DISABLE_JIT": "1", "NUMBA_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
