"""Molecular dynamics with a committee: its spread in the log, the warning, the stop."""

import csv
import itertools
import re

import numpy as np
import pytest
import torch

pytest.importorskip("openmm", reason="needs the package openmm (extra 'engines')")

from gnn import load_model
from gnn.cli import main
from gnn.engines.boxes.shipped import shipped_box
from gnn.engines.runs.analysis import read_log
from gnn.engines.runs.settings import Settings
from gnn.engines.spread import SPREAD_COLUMNS, Spread
from gnn.training.checkpoint import save_model
from gnn.training.committee import Committee, perturb

STEPS = "--steps", 12, "--interval", 2, "--checkpoint-interval", 4


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The box that ships, and a committee of the model that ships and one that is perturbed."""
    folder = tmp_path_factory.mktemp("box")
    shipped_box(folder)
    members = [load_model(), load_model()]
    perturb(members[1], 0.02, seed=1)
    save_model(folder / "committee.pt", Committee(members, {"forces": 2.0}))
    return folder


def md(files, output, *options, model="committee.pt"):
    box = "--prmtop", files / "solute.prmtop", "--coordinates", files / "solute.rst7"
    plain = "--equilibration", "0", "--platform", "CPU", "--threads", "1", "--seed", "3"
    named = ("--model", files / model) if model else ()
    return main([str(a) for a in ("md", *box, *plain, *named, "--output", output, *options)])


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert md(files, folder, *STEPS) == 0
    return folder


def disagree_from(monkeypatch, call):
    """From a call of the model on, let the spread of all forces be 2 eV/Å."""
    calls, original = itertools.count(1), Committee.forward

    def forward(self, *arguments, **options):
        output = original(self, *arguments, **options)
        if next(calls) >= call:
            output["forces_std"] = torch.full_like(output["forces_std"], 2.0)
        return output

    monkeypatch.setattr(Committee, "forward", forward)


def assert_same_log(one, other):
    first, second = read_log(one / "log.csv"), read_log(other / "log.csv")
    assert first.keys() == second.keys()
    for name in first.keys() - {"ns_per_day"}:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_the_spread_of_forces_is_that_of_the_most_doubtful_atom():
    spread = Spread(stop=1.5)
    forces = torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.3], [1.0, 1.0, 1.0]])
    spread({"energy_std": torch.tensor([0.25], requires_grad=True), "forces_std": 0.5 * forces})
    assert spread.energy == 0.25 and spread.force == pytest.approx(0.5 * 3**0.5)
    assert spread.row() == dict(zip(SPREAD_COLUMNS, ("0.25", "0.866025"), strict=True))
    spread({"energy_std": torch.zeros(1), "forces_std": 0.1 * forces})
    assert spread.largest == pytest.approx(0.5 * 3**0.5) and not spread.exceeded
    with pytest.raises(ValueError, match=r"forces is 1.73 eV/Å, above --stop-spread 1.5"):
        spread({"energy_std": torch.zeros(1), "forces_std": forces})
    assert spread.exceeded


def test_the_log_has_columns_for_a_committee(whole, capsys):
    log = read_log(whole / "log.csv")
    assert list(log)[-2:] == list(SPREAD_COLUMNS)
    energy, force = (log[name] for name in SPREAD_COLUMNS)
    assert np.all((energy > 1e-4) & (energy < 1)) and np.all((force > 1e-3) & (force < 1))
    assert len(set(force)) == len(force)


def test_one_model_has_no_such_columns(files, tmp_path, capsys):
    short = "--steps", 2, "--interval", 2, "--checkpoint-interval", 2
    assert md(files, tmp_path, *short, model=None) == 0
    assert "spread" not in capsys.readouterr().out
    assert not set(read_log(tmp_path / "log.csv")) & set(SPREAD_COLUMNS)


def test_a_warning_comes_once(files, whole, tmp_path, capsys):
    assert md(files, tmp_path, *STEPS, "--warn-spread", 1e-4) == 0
    captured = capsys.readouterr()
    assert captured.err.count("the members of the committee disagree") == 1
    assert "above --warn-spread 0.0001" in captured.err
    printed = " ".join(captured.out.split())
    assert "committee of 2: the spread is scaled" in printed and "QM forces × 2" in printed
    assert "not calibrated: energy, MM forces, dipole" in printed
    assert "spread of the committee, median and largest: energy 0.0" in printed
    assert_same_log(tmp_path, whole)  # the limit has no influence


def test_a_stop_keeps_the_last_good_state(files, whole, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        disagree_from(patch, 14)
        assert md(files, tmp_path, *STEPS, "--stop-spread", 1) == 1
    captured = capsys.readouterr()
    line = captured.err.strip().splitlines()[-1]
    found = re.search(
        r"^anisole: the run stopped at step (\d+), \d+ K, .*: the members of the committee "
        r"disagree: the spread of the forces is 2 eV/Å, above --stop-spread 1 \(step (\d+) is "
        r"kept in (.*)\); step \1 is in (.*failed.pdb)$", line,
    )  # fmt: skip
    assert found and int(found[2]) in (4, 8) and int(found[2]) <= int(found[1]) < 12, line
    assert (tmp_path / "failed.pdb").is_file() and "trajectory, log, picture" in captured.out
    assert read_log(tmp_path / "log.csv")[SPREAD_COLUMNS[1]].max() < 1
    # it goes on from there without a limit, and with another one
    assert md(files, tmp_path, *STEPS, "--stop-spread", 1.5, "--resume") == 0
    assert f"going on from step {found[2]}" in capsys.readouterr().out
    assert_same_log(tmp_path, whole)


def test_a_start_that_is_doubtful(files, tmp_path, capsys):
    assert md(files, tmp_path, *STEPS, "--stop-spread", 1e-4) == 1
    captured = capsys.readouterr()
    assert "stopped at step 0" in captured.err and "is kept in" not in captured.err
    assert not (tmp_path / "checkpoint.npz").exists() and (tmp_path / "failed.pdb").is_file()


def test_a_log_of_before_keeps_its_columns(files, tmp_path, monkeypatch):
    import gnn.engines.runs.dynamics as dynamics

    short = "--interval", 2, "--checkpoint-interval", 2
    with monkeypatch.context() as patch:
        patch.setattr(dynamics, "SPREAD_COLUMNS", ())
        assert md(files, tmp_path, "--steps", 2, *short) == 0
    assert md(files, tmp_path, "--steps", 4, *short, "--resume") == 0
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 4 and {len(row) for row in rows} == {8}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--stop-spread", 1), "need a committee as the model, got one AMP"),
        (
            ("--warn-spread", 1, "--classical"),
            "a committee as the model, got the force field alone",
        ),
    ],
)
def test_limits_need_a_committee(files, tmp_path, capsys, options, words):
    assert md(files, tmp_path, *STEPS, *options, model=None) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", ["warn_spread", "stop_spread"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_limits_are_positive(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: should be"):
        Settings(steps=10, **{name: value})
