"""The commands of `fmm.distributed`: what they find, print and return; the model of its traffic."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fmm.distributed import FMM, bench, model, validation
from fmm.distributed import __main__ as command
from fmm.distributed.threads import run

N = 3000


@pytest.mark.parametrize(
    "name", ["uniform", "empty ranks", "moved", "adjoint", "energy and forces"]
)
def test_cases_of_right_sums_are_kept_on_all_ranks(name):
    results = run(3, lambda ranks: validation.validate(ranks, name, N, 1e-4))
    assert all(result.kept for result in results)
    assert len({(result.error, result.n) for result in results}) == 1


def test_a_fault_of_one_rank_fails_on_all(monkeypatch):
    right = FMM.field

    def wrong(self, moments, order=None):
        found = right(self, moments, order)
        if self._ranks.rank == 1:
            found *= 1.01
        return found

    monkeypatch.setattr(FMM, "field", wrong)
    results = run(3, lambda ranks: validation.validate(ranks, "uniform", N, 1e-4))
    assert not any(result.kept for result in results)
    assert "FAILED" in validation.line(results[0])


def test_validate_prints_and_returns_what_it_found(capsys, monkeypatch):
    words = ["validate", "--n", "500", "--tolerance", "1e-3", "--cases", "uniform,sphere"]
    assert run(1, lambda ranks: command.main(words, ranks)) == [0]
    printed = capsys.readouterr().out
    assert printed.count(" ok ") == 2 and "all tolerances kept" in printed
    monkeypatch.setattr(validation.Problem, "error", lambda *_, **__: float("nan"))
    assert run(1, lambda ranks: command.main(words, ranks)) == [1]
    assert "2 FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["validate", "--cases", "cubes"],
        ["validate", "--n", "0"],
        ["bench", "--n", "0"],
        ["predict", "--n", "10", "--ranks", "100"],
    ],
)
def test_what_makes_no_sense_is_refused(words, capsys):
    assert run(1, lambda ranks: command.main(words, ranks)) == [2]
    assert "expected" in capsys.readouterr().err


def test_bench_adds_runs_to_a_file_and_shows_them(tmp_path):
    path = tmp_path / "runs.json"
    for size in (1, 2):
        row = run(size, lambda ranks: bench.measure(ranks, 4000, 1e-3, repeats=1))[0]
        rows = bench.added(path, row)
    assert [r.ranks for r in rows] == [1, 2] and len(json.loads(path.read_text())) == 2
    assert rows[0].n_bytes == 0 < rows[1].n_bytes
    assert bench.table(rows).count("strong") == 2 and "2 ranks" in bench.details(rows[1])
    path.write_text("[{}]")
    with pytest.raises(ValueError, match="expected rows"):
        bench.added(path, row)


# --- the model ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 6])
def test_the_model_foretells_what_ranks_count(size):
    n = 5000 * size

    def work(ranks):
        rng = np.random.default_rng(ranks.rank)
        plan = FMM(rng.random((n // size, 3)), None, 1e-3, comm=ranks)
        plan.field(rng.standard_normal((n // size, 1)))
        geometry = plan._layout.geometry
        return plan.report(), geometry.box_link.received.sum(), len(geometry.merged.top)

    reports, boxes, top = zip(*run(size, work), strict=True)
    expected = model.predict(n, size, 1e-3)
    assert (expected.grid.root, expected.grid.depth + 1) == (
        reports[0].root_grid,
        reports[0].n_levels,
    )
    assert np.mean([r.owned[2] for r in reports]) == pytest.approx(expected.ghosts.mean(), rel=0.1)
    assert np.mean(boxes) == pytest.approx(expected.boxes.sum(axis=1).mean(), rel=0.15)
    assert np.mean(top) == pytest.approx(expected.top, abs=8)


def test_halos_grow_as_surfaces():
    cubes = [model.predict(n * 64, 64, 1e-6, model.Grid(1, k, n * 64 / 8**k))
             for n, k in ((8000, 4), (64000, 5))]  # fmt: skip
    inner = [p.ghosts.max() / p.grid.occupancy for p in cubes]
    assert inner == [6**3 - 4**3, 10**3 - 8**3]  # cubes of 4 and of 8 leaves along an axis
    assert [int(p.boxes[:, -1].max()) for p in cubes] == [8**3 - 4**3, 12**3 - 8**3]
    assert cubes[0].ghosts.max() == pytest.approx(cubes[0].cube)


def test_one_rank_waits_for_nobody():
    alone = model.predict(10**6, 1, 1e-6)
    assert not alone.ghosts.any() and not alone.messages.any()
    assert alone.seconds(model.Network()) == alone.busy().max()


@pytest.mark.slow
def test_the_command_on_ranks_of_mpi():
    pytest.importorskip("mpi4py")
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    if launcher is None:
        pytest.skip("no mpiexec")
    words = [launcher, "-n", "3", sys.executable, "-m", "fmm.distributed", "validate"]
    done = subprocess.run(
        [*words, "--n", "3000", "--tolerance", "1e-4"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" ok ") == len(validation.CASES)
    wrong = subprocess.run([*words, "--cases", "cubes"], capture_output=True, text=True, timeout=60)
    assert wrong.returncode != 0 and wrong.stderr.count("expected some of") == 1
