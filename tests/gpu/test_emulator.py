"""The emulator of a GPU: kernels on the CPU at the sizes of a device; and whole plans by it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba.cuda", reason="kernels need numba-cuda (extra `cuda`)")
from stub.build import ROOT, compiler

HERE = Path(__file__).resolve().parent
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(compiler() is None, reason="the emulator needs gcc on Linux"),
]
_SOURCE = (HERE / "emulator/cases.py").read_text()
_QUICK, _SLOW = _SOURCE.split("# --- whole plans")
QUICK = [
    name for name in re.findall(r"^def (\w+)\(\):\n", _QUICK, re.MULTILINE)
]  # fmt: skip
SLOW = re.findall(r"^def (a_\w+)\(", _SLOW, re.MULTILINE)


def said_by(cases):
    path = os.pathsep.join((str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")))
    run = subprocess.run(
        [sys.executable, str(HERE / "emulator/cases.py"), *cases],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": path},
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def quickly():
    return said_by(QUICK)


@pytest.mark.parametrize("case", QUICK)
def test_emulator(quickly, case):
    assert quickly[case] is None, quickly[case]


@pytest.fixture(scope="module")
def slowly():
    return said_by(SLOW)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW)
def test_plans(slowly, case):
    assert slowly[case] is None, slowly[case]
