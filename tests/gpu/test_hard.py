"""Plans of points that are hard keep their tolerance on a GPU, with the same bits every time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba.cuda", reason="kernels need numba-cuda (extra `cuda`)")
from stub.build import ROOT, compiler

HERE = Path(__file__).resolve().parent


@pytest.mark.slow
@pytest.mark.cuda
@pytest.mark.skipif(compiler() is None, reason="the emulator needs gcc on Linux")
@pytest.mark.parametrize(
    "cases",
    ["line", "clusters", "half", "one", "far", "few", "systems", "orders", "moments", "kernel"],
)
def test_hard_points(cases):
    path = os.pathsep.join((str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")))
    run = subprocess.run(
        [sys.executable, str(HERE / "hard.py"), "8000", "3", cases],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": path},
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
