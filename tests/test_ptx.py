"""Every kernel that ran in the simulator before compiles for real GPUs; runs last."""

import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import pytest
from ptx_worker import CAPABILITIES, launches
from source_state import ROOT, sources_hash

pytestmark = pytest.mark.cuda
TESTS = ROOT / "tests"
# bytes a thread may put aside for want of registers; arrays that a loop indexes are not counted.
# Numbers of float64 take two registers each: second derivatives of high order have too many
MAX_SPILL = {"float32": 0, "float64": 1024}


def facts_of(found: list[list], *arguments: str) -> list[tuple[str, str, dict]]:
    """Return name, type of numbers and facts of every launch and capability."""
    pytest.importorskip("numba_cuda", reason="compiling needs numba-cuda (extra `cuda`)")
    run = subprocess.run(
        [sys.executable, "ptx_worker.py", *arguments],
        input=json.dumps(found), capture_output=True, text=True, cwd=TESTS,
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "0"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    tasks = product(found, CAPABILITIES)
    return [
        (name_of(*task), task[0][3], facts)
        for task, facts in zip(tasks, json.loads(run.stdout), strict=True)
    ]


def name_of(launch: list, capability: tuple[int, int]) -> str:
    module, factory, arguments, dtype, _ = launch
    inside = ", ".join(map(str, arguments))
    return f"{module}.{factory}({inside}) of {dtype}, sm_{capability[0]}{capability[1]}"


def double_precision(compiled: list[tuple[str, str, dict]]) -> list[tuple[str, int]]:
    """Return the kernels of float32 that have instructions of float64, and how many."""
    return [(name, f["f64"]) for name, dtype, f in compiled if dtype == "float32" and f.get("f64")]


@pytest.fixture(scope="module")
def compiled() -> list[tuple[str, str, dict]]:
    found = launches()
    if not found:
        pytest.skip("no kernel ran in the simulator before")
    return facts_of(found, str(Path(tempfile.gettempdir(), f"anisole-ptx-{sources_hash()}")))


def test_every_kernel_compiles(compiled):
    assert not [(name, facts["error"]) for name, _, facts in compiled if "error" in facts]


def test_no_double_precision_in_kernels_of_float32(compiled):
    assert not double_precision(compiled)


def test_registers_suffice(compiled):
    known = [(n, dtype, f["spill_stores"]) for n, dtype, f in compiled if "registers" in f]
    if not known:
        pytest.skip("no assembler (ptxas) that takes this compiler's PTX")
    assert not [(n, spilled) for n, dtype, spilled in known if spilled > MAX_SPILL[dtype]]


def test_what_these_tests_look_for_is_found():
    types = ["float32[1]", "float32[1]"]
    clean, promoting, failing = (
        facts_of([["cuda_samples", name, [2], "float32", types]])
        for name in ("clean", "promoting", "failing")
    )
    assert not double_precision(clean) and "error" not in clean[0][2]
    assert len(double_precision(promoting)) == len(CAPABILITIES)
    assert "error" in failing[0][2]
