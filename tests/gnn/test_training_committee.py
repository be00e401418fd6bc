"""Committees: means with exact forces, spreads, training, resuming, evaluation."""

import csv

import numpy as np
import pytest
import torch
import yaml
from tiny import MODEL, methanol, tiny_model

from gnn import System, load_model
from gnn.cli import main
from gnn.data import write_frames
from gnn.training.checkpoint import save_model
from gnn.training.committee import Committee, resampled
from gnn.training.uncertainty import spread_rows


@pytest.fixture(scope="module")
def committee():
    members = [tiny_model(seed=seed, dtype=torch.float64).eval() for seed in range(3)]
    members[1].baseline += 0.5  # members may differ in their constants, too
    return Committee(members)


def test_results_are_means_and_spreads_of_the_members(committee):
    frames = methanol()[:3]
    found = committee.evaluate(frames)
    opinions = [member.evaluate(frames) for member in committee.members]
    for i, result in enumerate(found):
        for name in ("energy", "forces", "mm_forces", "dipole"):
            values = np.stack([opinion[i][name] for opinion in opinions])
            np.testing.assert_allclose(result[name], values.mean(0), rtol=1e-12)
            np.testing.assert_allclose(result[f"{name}_std"], values.std(0, ddof=1), rtol=1e-10)
        assert result["energy_std"] > 0.1


def test_it_is_a_potential(committee):
    """One evaluation of the mean, as engines do it, is the mean of the evaluations."""
    from gnn.data.batching import collate

    frames = methanol()[:2]
    batch = collate(frames, committee.cutoff, torch.float64)
    output = committee(batch, forces=True, mm_forces=True, mm_potential=True)
    results = committee.evaluate(frames)
    energies = [result["energy"] for result in results]
    np.testing.assert_allclose(output["energy"].detach(), energies, rtol=1e-14)
    forces = np.concatenate([result["forces"] for result in results])
    np.testing.assert_allclose(output["forces"].detach(), forces, atol=1e-12)
    assert output["mm_potential"].shape == (batch.n_mm,)
    assert committee.evaluate(frames, forces=False)[0].keys() >= {"energy", "energy_std"}


def test_forces_are_the_gradient_of_the_mean_energy(committee):
    frame, h = methanol()[0].system, 1e-4
    forces = committee.evaluate([frame])[0]["forces"]
    moved = []
    for sign in (1, -1):
        positions = frame.positions.copy()
        positions[2, 1] += sign * h
        moved.append(System(frame.numbers, positions, 0, frame.mm_positions, frame.mm_charges))
    up, down = (result["energy"] for result in committee.evaluate(moved))
    assert forces[2, 1] == pytest.approx(-(up - down) / (2 * h), abs=1e-6)


def test_it_comes_back_from_its_checkpoint(committee, tmp_path):
    save_model(tmp_path / "committee.pt", committee)
    again = load_model(tmp_path / "committee.pt")
    assert isinstance(again, Committee) and again.elements == committee.elements
    frames = methanol()[:2]
    for one, two in zip(committee.evaluate(frames), again.evaluate(frames), strict=True):
        assert one["energy"] == two["energy"] and one["energy_std"] == two["energy_std"]


def test_members_must_go_together():
    with pytest.raises(ValueError, match="at least two members"):
        Committee([tiny_model()])
    with pytest.raises(ValueError, match="one cutoff"):
        Committee([tiny_model(), tiny_model(cutoff=4.0)])
    with pytest.raises(ValueError, match="one dtype"):
        Committee([tiny_model(), tiny_model().double()])


def test_bootstrap_draws_whole_runs():
    frames = methanol()
    chosen = resampled(frames, seed=1)
    assert len(chosen) == len(frames)
    runs = [frames[i].run for i in chosen]
    assert 1 < len(set(runs)) < len({frame.run for frame in frames})
    assert all(runs.count(run) % 4 == 0 for run in set(runs))
    assert resampled(frames, seed=1) == chosen != resampled(frames, seed=2)


def test_spread_and_error_that_go_together_are_seen():
    """Errors drawn with the standard deviations that the committee names."""
    rng = np.random.default_rng(0)
    frames = methanol()
    results = []
    for frame in frames:
        spread = rng.uniform(0.01, 1.0, frame.forces.shape)
        forces = frame.forces + spread * rng.standard_normal(spread.shape)
        results.append({"forces": forces, "forces_std": spread})
    (row,) = spread_rows(results, frames)
    assert row["quantity"] == "forces" and row["unit"] == "meV/Å"
    assert row["spread"] == pytest.approx(row["rmse"], rel=0.2)
    assert row["within_1"] == pytest.approx(0.68, abs=0.08)
    assert row["within_2"] == pytest.approx(0.95, abs=0.05)
    assert row["correlation"] > 0.3


def test_training_resuming_and_evaluating_a_committee(tmp_path, capsys):
    data = tmp_path / "data.h5"
    write_frames(data, methanol())
    content = {
        "data": {"source": str(data)},
        "model": MODEL,
        "training": {"epochs": 2, "batch_size": 4, "validate_every": 1, "checkpoint_every": 1},
        "output": str(tmp_path / "run"),
    }
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(content))
    arguments = ["train", str(config), "--no-blind", "--committee", "2"]
    assert main(arguments) == 0
    assert "How the members disagree" in capsys.readouterr().out
    folder = tmp_path / "run"
    model = load_model(folder / "committee.pt")
    first, second = (m.state_dict() for m in model.members)
    assert any(not torch.equal(first[k], second[k]) for k in first)

    assert main(arguments) == 2 and "holds a training run already" in capsys.readouterr().err
    # a member that was lost is trained again, to the same weights
    for path in (folder / "member_1").iterdir():
        path.unlink()
    before = (folder / "committee.pt").read_bytes()
    assert main([*arguments, "--resume"]) == 0
    again = load_model(folder / "committee.pt").state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, again[key]), key
    assert before

    capsys.readouterr()
    checkpoint = str(folder / "committee.pt")
    assert main(["evaluate", checkpoint, str(data), "--output", str(tmp_path / "out")]) == 0
    assert "within 1 σ" in capsys.readouterr().out
    with open(tmp_path / "out/spread.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["quantity"] for row in rows] == ["energy", "forces", "mm_forces", "dipole"]
    assert (tmp_path / "out/spread.png").stat().st_size > 5000
    predicted = tmp_path / "out.json"
    assert main(["predict", checkpoint, str(data), "-o", str(predicted)]) == 0
    assert "energy_std" in predicted.read_text()
