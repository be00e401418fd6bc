"""Plans on ranks of MPI: processes that `mpiexec` starts, and what becomes of them if one dies."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# beside the interpreter, where a wheel puts it, or anywhere
FOUND = shutil.which("mpiexec", path=sysconfig.get_path("scripts")) or shutil.which("mpiexec")
pytestmark = pytest.mark.skipif(
    FOUND is None or importlib.util.find_spec("mpi4py") is None,
    reason="mpi4py or mpiexec is not installed (extra mpi)",
)
HEAD = """
    import numpy as np, os, signal, sys
    from mpi4py import MPI
    import fmm.distributed
    rank = MPI.COMM_WORLD.rank
    rng = np.random.default_rng(rank)
    x, charges = rng.random((400, 3)), rng.standard_normal((400, 1))
    plan = fmm.distributed.FMM(x, tolerance=1e-5)
"""


def mpiexec(n, *command, timeout=120):
    """Return what a run on n ranks gave."""
    flags = ["--allow-run-as-root", "--oversubscribe"] if _is_open_mpi() else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [FOUND, *flags, "-n", str(n), sys.executable, *command], capture_output=True, text=True,
        timeout=timeout, env=environment, cwd=ROOT,
    )  # fmt: skip


def _is_open_mpi():
    version = subprocess.run([FOUND, "--version"], capture_output=True, text=True, check=False)
    return "open" in (version.stdout + version.stderr).lower()


def script(path, body):
    """Write a script that makes a plan and does something with it."""
    path.write_text(textwrap.dedent(HEAD) + textwrap.dedent(body))
    return str(path)


def test_fields_of_two_processes(tmp_path):
    body = """
    import multipoles as mp
    found = plan.field(charges)
    comm = MPI.COMM_WORLD
    all_x, all_q = (np.concatenate(comm.allgather(a)) for a in (x, charges))
    expected = mp.field(x, all_x, all_q, 1)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    plan.rebuild(1.0 - x)
    again = np.linalg.norm(plan.field(charges)[:, 0] - expected[:, 0])
    assert error < 1e-5 and again < 1e-5 * np.linalg.norm(expected[:, 0]), (error, again)
    assert plan.report().everywhere == (800, 800)
    print("right")
    """
    run = mpiexec(2, script(tmp_path / "fields.py", body))
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("right") == 2


@pytest.mark.parametrize(
    ("death", "told"),
    [
        ("raise RuntimeError('lost')", "rank 1 of 2 ended by RuntimeError"),
        pytest.param("plan.field(charges, order='two')", "rank 1 of 2", marks=pytest.mark.slow),
        ("os.kill(os.getpid(), signal.SIGKILL)", ""),
    ],
    ids=["raises", "asks for something else", "killed"],
)
def test_a_rank_that_dies_ends_the_run(tmp_path, death, told):
    body = f"""
    if rank == 1:
        {death}
    plan.field(charges)
    plan.field(charges)
    """
    run = mpiexec(2, script(tmp_path / "dies.py", body))
    assert run.returncode != 0
    assert told in run.stderr + run.stdout
