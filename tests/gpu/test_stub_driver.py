"""The host's half of the GPU on a driver that pretends: compiled, linked, launched, counted."""

import json
import re
import subprocess
import sys

import pytest

pytest.importorskip("numba_cuda", reason="compiling needs numba-cuda (extra `cuda`)")
from stub.build import HERE, compiler, environment

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(compiler() is None, reason="the stub driver needs gcc on Linux"),
]
CASES = re.findall(r"^def (\w+)\(\):\n", (HERE / "cases.py").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def said():
    run = subprocess.run(
        [sys.executable, str(HERE / "cases.py")], env=environment(), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


@pytest.mark.parametrize("case", [name for name in CASES if name != "main"])
def test_case(said, case):
    assert said[case] is None, said[case]


@pytest.mark.slow
def test_sum_and_plan_with_kernels_run_by_the_emulator():
    run = subprocess.run(
        [sys.executable, str(HERE / "whole.py")], env=environment(), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert int(run.stdout.split()[-1]) > 1


@pytest.mark.slow
def test_replayed_evaluations_are_those_kernel_by_kernel():
    run = subprocess.run(
        [sys.executable, str(HERE / "replayed.py")],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
