"""Every kernel that ran in the simulator before compiles for real GPUs.

Runs last, or after a run that wrote what it launched (``--launches`` there, ``--launched`` here).
Alone, it first runs the tests of the simulator, which takes minutes, and keeps what they launched
for as long as the sources stay the same.
"""

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from ptx_worker import CAPABILITIES, launches, one_of_each
from source_state import ROOT, kept, sources_hash

pytestmark = pytest.mark.cuda
TESTS = ROOT / "tests"
# bytes a thread may put aside for want of registers; arrays that a loop indexes are not counted.
# Numbers of float64 take two registers each: second derivatives of high order have too many
MAX_SPILL = {"float32": 0, "float64": 1024}
# what an assembler says that is older than the compiler, or than the device
TOO_OLD = "Unsupported .version", "is not defined for option"
# kernels of float32 that subtract centres of boxes from points in float64: three differences of
# two loads, each rounded once, and the line that declares their registers
DIFFERENCES = 13
OF_COORDINATES = ("fmm.cuda.expansions.form(", "fmm.cuda.expansions.evaluate(")


FOLDER = kept(f"ptx-{sources_hash()}")


def recorded(path: Path, *tests: str) -> list[list]:
    """Return what tests of the simulator launch, from a file or from a run that writes it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        chosen = ["-m", "cuda and not slow and not gpu", "--ignore=tests/test_ptx.py", *tests]
        part = path.with_suffix(f".{os.getpid()}")
        environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
        environment.pop("PYTEST_XDIST_WORKER", None)
        run = subprocess.run(
            [sys.executable, "-m", "pytest", *chosen, f"--launches={part}"],
            capture_output=True, text=True, cwd=ROOT, env=environment,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
        part.replace(path)
    return json.loads(path.read_text())


def facts_of(
    found: list[list], capabilities=CAPABILITIES, folder: Path | None = None
) -> list[tuple[str, str, dict]]:
    """Return name, type of numbers and facts of every launch and capability."""
    pytest.importorskip("numba_cuda", reason="compiling needs numba-cuda (extra `cuda`)")
    tasks = list(product(found, capabilities))
    run = subprocess.run(
        [sys.executable, "ptx_worker.py", *([str(folder)] if folder else [])],
        input=json.dumps(tasks), capture_output=True, text=True, cwd=TESTS,
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "0", "PYTHONPATH": str(ROOT / "benchmarks")},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return [
        (name_of(*task), task[0][3], facts)
        for task, facts in zip(tasks, json.loads(run.stdout), strict=True)
    ]


def name_of(launch: list, capability: tuple[int, int]) -> str:
    module, factory, arguments, dtype, _ = launch
    inside = ", ".join(map(str, arguments))
    return f"{module}.{factory}({inside}) of {dtype}, sm_{capability[0]}{capability[1]}"


def double_precision(compiled: list[tuple[str, str, dict]]) -> list[tuple[str, int]]:
    """Return the kernels of float32 with instructions of float64 but these, and how many."""
    counts = [(name, f.get("f64", 0)) for name, dtype, f in compiled if dtype == "float32"]
    return [(name, n) for name, n in counts if n > DIFFERENCES * name.startswith(OF_COORDINATES)]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("one of each"),
        pytest.param("all", marks=pytest.mark.slow),
    ],
)
def compiled(request) -> list[tuple[str, str, dict]]:
    path = request.config.getoption("--launched")
    found = json.loads(Path(path).read_text()) if path else launches()
    found = found or recorded(FOLDER / "launches.json")
    assert found, "no kernel ran in the simulator"
    if request.param == "all":
        return facts_of(found, CAPABILITIES, FOLDER)
    return facts_of(one_of_each(found), ((9, 0),), FOLDER)


def test_every_kernel_compiles(compiled):
    assert not [(name, facts["error"]) for name, _, facts in compiled if "error" in facts]


def refused(compiled: list[tuple[str, str, dict]]) -> list[tuple[str, str]]:
    """Return the kernels that the assembler refuses, such as for functions that are nowhere."""
    said = [(name, facts.get("assembler_error", "")) for name, _, facts in compiled]
    return [(name, why) for name, why in said if why and not any(old in why for old in TOO_OLD)]


def test_every_kernel_is_assembled(compiled):
    assert not refused(compiled)


def test_no_double_precision_in_kernels_of_float32(compiled):
    assert not double_precision(compiled)


def test_registers_suffice(compiled):
    known = [(n, dtype, f["spill_stores"]) for n, dtype, f in compiled if "registers" in f]
    if not known:
        pytest.skip("no assembler (ptxas) that takes this compiler's PTX")
    assert not [(n, spilled) for n, dtype, spilled in known if spilled > MAX_SPILL[dtype]]


def test_wide_loads_of_shared_memory_are_aligned(compiled):
    wide = [(name, f["shared_aligned"], f["shared_widest"]) for name, _, f in compiled
            if f.get("shared_widest")]  # fmt: skip
    assert not [found for found in wide if found[1] < found[2]]


# --- what these tests look for is found -----------------------------------------------------------


def test_only_differences_of_coordinates_may_be_of_double_precision():
    names = [
        f"{OF_COORDINATES[0]}2, 1) of float32, sm_90",
        "fmm.cuda.near._near() of float32, sm_90",
    ]
    for n, found in ((0, []), (DIFFERENCES, names[1:]), (DIFFERENCES + 1, names)):
        compiled = [(name, "float32", {"f64": n}) for name in names]
        assert double_precision(compiled) == [(name, n) for name in found]


@pytest.mark.slow
def test_launches_are_recorded_where_none_are_given(tmp_path):
    path = tmp_path / "launches.json"
    found = recorded(path, "tests/multipoles/test_sorting_cuda.py")
    assert "multipoles.cuda.sorting" in {launch[0] for launch in found}
    assert recorded(path, "no such test") == found


@pytest.fixture(scope="module")
def samples() -> dict[str, dict]:
    """Facts of kernels of which they are known, compiled without what NumPy 2.5 dropped."""
    arrays = ["float32[1]", "float32[1]"]
    scalars = ["float32", "float32", "int64", "float32[1]"]
    names = {
        "clean": 2, "promoting": 2, "failing": 2, "calling": 2, "unaligned": 8, "aligned": 8,
    }  # fmt: skip
    found = [["cuda_samples", name, [n], "float32", arrays] for name, n in names.items()]
    found.append(["_gpu", "multiply_add", [16], "float32", scalars])
    facts = [facts for _, _, facts in facts_of(found, ((9, 0),))]
    return dict(zip([*names, "multiply_add"], facts, strict=True))


def test_kernels_compile_with_numpy_2_5(samples):
    assert "error" not in samples["clean"] and samples["clean"]["fma"] == 2


def test_double_precision_and_failures_are_found(samples):
    assert not samples["clean"]["f64"] and samples["promoting"]["f64"]
    assert "error" in samples["failing"]


def test_functions_that_are_nowhere_are_found(samples):
    if "registers" not in samples["clean"]:
        pytest.skip("no assembler (ptxas) that takes this compiler's PTX")
    found = [(name, "float32", facts) for name, facts in samples.items()]
    assert [name for name, _ in refused(found)] == ["calling"]


def test_shared_arrays_start_where_they_are_asked_to(samples):
    assert samples["unaligned"]["shared_aligned"] == 4
    assert samples["aligned"]["shared_aligned"] == samples["aligned"]["shared_widest"] == 16


def test_the_limit_of_the_device_is_measured_by_multiply_adds_alone(samples):
    # others take the same slots: what is measured would be that part too low
    instructions, multiply_adds = samples["multiply_add"]["busiest"]
    assert multiply_adds >= 128 and instructions <= 1.05 * multiply_adds


def test_one_launch_of_each_kernel_is_chosen():
    launched = [
        ["m", "f", [code], dtype, []] for code in (1, 3, 2) for dtype in ("float32", "float64")
    ] + [["m", "g", [], "float64", []]]
    chosen = [(one[1], one[2], one[3]) for one in one_of_each(launched)]
    assert chosen == [("f", [3], "float32"), ("f", [1], "float64"), ("g", [], "float64")]
