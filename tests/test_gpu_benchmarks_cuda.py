"""The benchmarks of the GPU: cases run in the simulator, rows are kept, obstacles are named."""

import csv
import os
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import gpu_state
import pytest
from source_state import ROOT

pytest.importorskip("numba.cuda")
pytest.importorskip("torch")

pytestmark = pytest.mark.cuda
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def scripts(monkeypatch, tmp_path):
    """The scripts as modules; their tables go to a folder of the test."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _gpu_fmm
    import _output
    import gpu
    import gpu_stages

    monkeypatch.setattr(_output, "RESULTS", tmp_path)
    return SimpleNamespace(gpu=gpu, fmm=_gpu_fmm, gpu_stages=gpu_stages, results=tmp_path)


def table(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_rows_are_written_when_they_are_made(scripts, monkeypatch, capsys):
    import _gpu

    def crashing(place):
        yield _gpu.Row("first", 1, "float32", 0.5, error=1e-6, bound=1e-4)
        assert [row["case"] for row in table(scripts.results / "gpu.csv")] == ["first"]
        yield _gpu.Row("second", 2, "float32", 0.25, target=1.0)
        raise RuntimeError("the device fell off the bus")

    def other(place):
        yield _gpu.Row("third", 3, "float64", 0.5, error=1.0, bound=1e-4)

    monkeypatch.setattr(scripts.gpu, "CASES", {"crashing": crashing, "other": other})
    assert not scripts.gpu.measured(["crashing"], False, "a device")
    assert "fell off the bus" in capsys.readouterr().err
    assert not scripts.gpu.measured(["other"], False, "a device"), "an error too large is a failure"
    rows = table(scripts.results / "gpu.csv")
    assert [(r["group"], r["case"], r["met"], r["right"]) for r in rows] == [
        ("crashing", "first", "", "True"), ("crashing", "second", "True", ""),
        ("other", "third", "", "False"),
    ]  # fmt: skip


def test_a_case_measured_again_replaces_its_own_rows_alone(scripts, monkeypatch):
    import _gpu

    for n in (1, 2):
        cases = {name: lambda _, n=n: [_gpu.Row("case", n, "float32", 0.5)] for name in "ab"}
        monkeypatch.setattr(scripts.gpu, "CASES", cases)
        assert scripts.gpu.measured(["a", "b"] if n == 1 else ["b"], False, "a device")
    rows = table(scripts.results / "gpu.csv")
    assert [(row["group"], row["n"]) for row in rows] == [("a", "1"), ("b", "2")]


@pytest.mark.parametrize("name", ["direct", "batches"])
def test_cases_run_in_the_simulator(scripts, name, capsys):
    assert scripts.gpu.measured([name], True, "simulator"), capsys.readouterr()
    assert not (scripts.results / "gpu.csv").exists(), "the simulator's rows are no results"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fmm", "model", "training", "first", "peers"])
def test_longer_cases_run_in_the_simulator(scripts, name, capsys):
    assert scripts.gpu.measured([name], True, "simulator"), capsys.readouterr()


@pytest.mark.slow
def test_stages_run_in_the_simulator(scripts, monkeypatch, capsys):
    for arguments in ([], ["--once", "30"], ["--checked", "30"]):
        monkeypatch.setattr(sys, "argv", ["gpu_stages.py", "--smoke", *arguments])
        assert scripts.gpu_stages.main() == 0
    said = capsys.readouterr().out
    assert "launches" in said and "leaf size" in said and "difference of plan and direct" in said
    assert "error of a plan of 30 points" in said


def test_what_was_predicted_stands_beside_what_was_measured(scripts, monkeypatch, capsys):
    import _gpu

    monkeypatch.setattr(scripts.gpu, "PREDICTED", {("case", 1): 4.0})
    rows = [_gpu.Row("case", n, "float32", 5e-3) for n in (1, 2)]
    monkeypatch.setattr(scripts.gpu, "CASES", {"some": lambda _: rows})
    assert scripts.gpu.measured(["some"], False, "a device")
    assert capsys.readouterr().out.count("predicted 4 ms") == 1
    found = table(scripts.results / "gpu.csv")
    assert [row["predicted"] for row in found] == ["0.004", ""]


def test_predictions_are_of_rows_that_there_are(scripts):
    names = {
        f"FMM, {name}: {part}"
        for name in (*scripts.fmm.NAMES.values(), scripts.fmm.CLUSTERED)
        for part in (
            "evaluation, first",
            "evaluation",
            "rebuilt and evaluated",
            "plan and evaluation",
        )
    }
    known = {name for name, _ in scripts.gpu.PREDICTED if name.startswith("FMM")}
    assert known <= names


def test_launches_of_kernels_and_graphs_are_counted(scripts, monkeypatch):
    import _gpu

    calls = []
    monkeypatch.setattr(_gpu.Launch, "__call__", lambda self, *rest: calls.append(self))
    monkeypatch.setattr(_gpu.driver.Graph, "launch", lambda self, stream: calls.append(self))
    kernel = _gpu.Launch(lambda: None, ("a.module", "factory", ()))
    graph = object.__new__(_gpu.driver.Graph)
    with _gpu.Launches() as seen:
        kernel(0, "float32", 1, 1)
        graph.launch(0)
    graph.launch(0)
    assert seen.counts == {"a.module.factory": 1, "graph": 1}
    assert calls == [kernel, graph, graph]


def test_other_libraries_that_are_missing_or_fail_are_said_and_left_out(
    scripts, monkeypatch, capsys
):
    import _gpu
    import _gpu_peers

    row = 'row: {"case": "sum", "n": 1, "dtype": "float32", "seconds": 0.5}'
    script = scripts.results / "peers.py"
    script.write_text(
        "import json, sys\n"
        "name = json.loads(sys.argv[1])['name']\n"
        "if name == 'absent': sys.exit('it is not installed')\n"
        f"print('noise')\nprint('{row}', flush=True)\n"
        "if name == 'slow': import time; time.sleep(60)\n"
    )
    monkeypatch.setattr(_gpu_peers, "__file__", str(script))
    monkeypatch.setattr(_gpu_peers, "SECONDS", 2)
    monkeypatch.setattr(_gpu_peers, "SIZES", dict.fromkeys(("absent", "slow", "there"), 1))
    rows = list(_gpu_peers.peers(_gpu.Place(True)))
    assert rows == 2 * [_gpu.Row("sum", 1, "float32", 0.5)], "what was made in time is kept"
    said = capsys.readouterr().out
    assert "absent: left out, it is not installed" in said
    assert "slow: left out, not done after 2 s" in said


def test_times_are_the_least_between_events(scripts, monkeypatch):
    import _gpu
    import torch

    times, ran = iter([3.0, 2.0, 5.0]), []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            pass

        synchronize = record

        def elapsed_time(self, end):
            return next(times)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert _gpu.Place(False).seconds(lambda: ran.append(1), repeats=3, warm=1) == 2e-3
    assert len(ran) == 4


def run_check(*arguments, **environment):
    return subprocess.run(
        ["bash", str(BENCHMARKS / "gpu_check.sh"), *arguments], capture_output=True, text=True,
        env=os.environ | {"PYTHON": sys.executable} | environment,
    )  # fmt: skip


def test_the_check_is_a_script_that_bash_reads():
    subprocess.run(["bash", "-n", str(BENCHMARKS / "gpu_check.sh")], check=True)
    run = run_check("third")
    assert run.returncode == 2
    assert "expected first, second, peers or nothing, got 'third'" in run.stderr


@pytest.mark.skipif(gpu_state.gpu_present(), reason="there is a GPU")
def test_without_a_gpu_the_check_says_so_and_fails(tmp_path):
    run = run_check(OUT=str(tmp_path / "out"), NUMBA_ENABLE_CUDASIM="0")
    assert run.returncode == 1
    assert "No GPU can be used here: the driver gives Numba no device" in run.stdout
    assert "numba-cuda" in (tmp_path / "out" / "summary.txt").read_text()


@pytest.mark.slow
def test_the_whole_check_starts_every_command(tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "carried-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried.py", "")
    run = run_check(OUT=str(tmp_path), GPU_CHECK_TINY="1", WHEELS=str(wheels))
    said = (tmp_path / "summary.txt").read_text()
    assert "carried-1.0-py3-none-any.whl: carried" in said
    # of all that can fail, nothing but the look for a GPU did
    cases = ("fmm", "direct", "first", "model", "batches", "training", "peers")
    tools = ("memory", "races", "counters", "barriers", "unwritten")
    for name in (*(f"times_{case}" for case in cases), "stages", *tools):
        assert f"{name}: status 0" in said, said
    assert run.returncode == 1 and (tmp_path / "logs.tgz").exists()


def test_make_gpu_installs_nothing():
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    run = subprocess.run(
        ["make", "-n", "gpu"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.stdout.split() == ["bash", "benchmarks/gpu_check.sh"]


# --- a GPU that cannot be used --------------------------------------------------------------------


@pytest.mark.parametrize(
    "present, reason, expected",
    [
        (False, "the driver gives Numba no device", "skip"),
        (True, "there is a device, but Numba cannot compile for it: no libnvvm", "fail"),
        (True, None, None),
    ],
)
def test_a_gpu_that_cannot_be_used_is_a_failure(monkeypatch, present, reason, expected):
    from multipoles.compiled import cuda_kernels

    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
    monkeypatch.setattr(gpu_state, "gpu_present", lambda: present)
    monkeypatch.setattr(cuda_kernels, "why_unusable", lambda: reason)
    found = gpu_state.obstacle()
    assert found is None if expected is None else found == (expected, f"needs a GPU: {reason}")


def test_the_simulator_is_a_reason_to_leave_tests_out(monkeypatch):
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    assert gpu_state.obstacle() == ("skip", "needs a GPU: kernels run in the simulator")
