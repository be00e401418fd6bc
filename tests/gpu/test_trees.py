"""Trees, lists and sorts of the GPU at the sizes of its blocks are those of the CPU."""

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
@pytest.mark.parametrize("n, seed", [(3000, 0), (30_000, 3)])
def test_trees_and_lists_of_all_shapes(n, seed):
    path = os.pathsep.join((str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")))
    run = subprocess.run(
        [sys.executable, str(HERE / "trees.py"), str(n), str(seed)],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": path},
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
