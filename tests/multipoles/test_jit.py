"""How kernels are compiled where Numba is told not to compile, and spread over threads."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from multipoles.compiled import jit

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import numba
import numpy as np

import multipoles as mp
from multipoles.compiled.jit import inline, jit


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


@pytest.fixture
def threads():
    before = jit.get_num_threads()
    yield
    jit.set_num_threads(before)


def test_sums_in_flight_outlive_a_change_of_threads(threads):
    """Other threads sum while one changes their number; every sum ends with all its parts."""

    def sum_parts(_):
        parts = jit.run_chunks(lambda a, b: sum(range(a, b)), 200, work=1e9)
        return sum(parts)

    jit.set_num_threads(2)
    with ThreadPoolExecutor(4) as callers:
        sums = callers.map(sum_parts, range(1500))
        for k in range(600):
            jit.set_num_threads(2 + k % 3)
        assert set(sums) == {199 * 100}


def test_a_task_may_change_the_number_of_threads(threads):
    jit.set_num_threads(2)
    assert len(jit.run_chunks(lambda a, b: jit.set_num_threads(3), 50, work=1e9)) == 8
    assert jit.get_num_threads() == 3


@pytest.mark.parametrize("wrong", [0, -1, 2**70, 2.0, True, "2", None, float("inf")])
def test_number_of_threads_is_checked(threads, wrong):
    error = ValueError if type(wrong) is int else TypeError
    with pytest.raises(error, match="threads: expected an integer"):
        jit.set_num_threads(wrong)
