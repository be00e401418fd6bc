"""Committees: means with exact forces, spreads, training, resuming, evaluation."""

import csv
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from tiny import MODEL, assert_same_state, methanol, tiny_model

from gnn import System, load_model
from gnn.cli import main
from gnn.data import load_shipped, split_shipped, write_frames
from gnn.data.shipped import UNSEEN
from gnn.data.splits import is_of
from gnn.training.calibration import (
    ONE_SIGMA,
    calibrate,
    calibration_line,
    factor_of,
    reliability,
)
from gnn.training.checkpoint import SHIPPED, save_model
from gnn.training.committee import Committee, draw_undetermined, perturb
from gnn.training.config import PERTURBATION, parse_config
from gnn.training.members import differences, resampled
from gnn.training.report.uncertainty import doubt, spread_rows
from gnn.training.setup import build_model


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


def test_one_atom_without_surroundings(committee):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (result,) = committee.evaluate([System([6], [[0.0, 0, 0]])])
    assert result["mm_forces_std"].shape == (0, 3) and result["energy_std"] > 0
    np.testing.assert_allclose(result["forces_std"], 0, atol=1e-12)


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
    for name in ("forces_std", "mm_forces_std"):
        spreads = np.concatenate([result[name] for result in results])
        np.testing.assert_allclose(output[name].detach(), spreads, rtol=1e-9)
    energy_spreads = [result["energy_std"] for result in results]
    np.testing.assert_allclose(output["energy_std"].detach(), energy_spreads, rtol=1e-9)
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


# --- calibration ----------------------------------------------------------------------------------


def shifted(*energies):
    """A committee whose members differ by constants only: eV per carbon atom, of which is one."""
    members = [tiny_model(dtype=torch.float64).eval() for _ in energies]
    for member, energy in zip(members, energies, strict=True):
        member.baseline[6] += energy
    return Committee(members)


def labelled(committee, errors):
    """Frames whose energies the mean of a committee misses by errors; they have no other label."""
    frames = (methanol() * 2)[: len(errors)]
    found = committee.evaluate(frames)
    return [
        replace(f, energy=r["energy"] - e, forces=None, mm_forces=None, dipole=None)
        for f, r, e in zip(frames, found, errors, strict=True)
    ]


def test_the_factor_by_hand():
    """Members at -1, 0 and 1 eV scatter by 1 eV; of 19 errors the 14th is the first 68 %."""
    committee = shifted(-1.0, 0.0, 1.0)
    frames = labelled(committee, 0.1 * np.arange(1, 20))
    assert committee.evaluate(frames[:1])[0]["energy_std"] == pytest.approx(1.0)
    fitted, refused = calibrate(committee, frames)
    assert committee.factors == {"energy": pytest.approx(1.4)}
    assert "energy × 1.4; not calibrated: QM forces, MM forces, dipole (19 validation" in fitted
    assert "QM forces (no such label)" in refused
    (result,) = committee.evaluate(frames[:1])
    assert result["energy_std"] == pytest.approx(1.4) and not result["forces_std"].any()
    calibrate(committee, frames)  # again: the factor is that of the members, not of what it was
    assert committee.factors == {"energy": pytest.approx(1.4)}


def test_one_sigma_holds_68_percent_of_normal_errors():
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.1, 3.0, 100_000)
    error = 2.5 * spread * rng.standard_normal(len(spread))
    factor = factor_of(spread, error)
    assert factor == pytest.approx(2.5, rel=0.01)
    expected = np.array([0.1, 0.5, ONE_SIGMA, 0.9545, 0.99])
    np.testing.assert_allclose(reliability(factor * spread, error, expected), expected, atol=5e-3)
    assert reliability(spread, error, expected)[2] == pytest.approx(0.3108, abs=5e-3)  # erf(0.28)


def test_spreads_that_no_factor_mends():
    ones = np.ones(30)
    assert factor_of(0 * ones, ones) is None and factor_of(ones, 0 * ones) is None
    assert factor_of(1e-17 * ones, ones) is None  # members that differ by rounding
    assert factor_of(1e-308 * ones, 1e308 * ones) is None
    assert factor_of(np.where(np.arange(30) < 5, 0.0, 1.0), ones) == 1.0  # a few do no harm
    np.testing.assert_array_equal(reliability(0 * ones, ones, np.array([0.5, 0.99])), 0)
    np.testing.assert_array_equal(reliability(0 * ones, 0 * ones, np.array([0.5, 0.99])), 1)


@pytest.mark.parametrize(
    ("energies", "errors", "words"),
    [
        ((0.0, 0.0, 0.0), np.ones(20), "energy (the spread does not go with the errors)"),
        ((0.0, 1.0), np.zeros(20), "energy (the spread does not go with the errors)"),
        ((0.0, 1.0), np.ones(9), "energy (in 9 frames, 10 are needed)"),
        ((0.0, 1.0), [], "energy (no such label), QM forces (no such label)"),
    ],
)
def test_where_no_factor_is_fitted(energies, errors, words):
    committee = shifted(*energies)
    lines = calibrate(committee, labelled(committee, errors))
    assert committee.factors == {} and "the spread is not calibrated" in lines[0]
    assert words in lines[-1]


def test_members_that_hardly_differ_are_named():
    committee = shifted(0.0, 0.01)
    lines = calibrate(committee, labelled(committee, np.ones(20)))
    assert committee.factors["energy"] == pytest.approx(100 * 2**0.5)
    assert "energy: the members differ by less than a tenth of their errors" in lines[-1]


def test_factors_come_back_and_old_committees_say_that_they_have_none(tmp_path):
    committee = shifted(0.0, 1.0)
    save_model(tmp_path / "old.pt", committee)
    content = torch.load(tmp_path / "old.pt", weights_only=True)
    assert content["config"].keys() == {"members"}  # as before there were factors
    old = load_model(tmp_path / "old.pt")
    assert old.factors == {} and "not calibrated" in calibration_line(old)
    committee.factors = {"energy": 2.0}
    save_model(tmp_path / "new.pt", committee)
    new = load_model(tmp_path / "new.pt")
    assert new.factors == {"energy": 2.0}
    frame = methanol()[0]
    (one,), (two,) = old.evaluate([frame]), new.evaluate([frame])
    assert two["energy_std"] == 2 * one["energy_std"] and two["energy"] == one["energy"]
    config = committee.config()
    for wrong, words in (({"energies": 1.0}, "got 'energies'"), ({"energy": 0.0}, "> 0, got 0")):
        with pytest.raises(ValueError, match=words):
            Committee.from_config(config | {"factors": wrong})


# --- how members differ ---------------------------------------------------------------------------


def test_bootstrap_draws_whole_runs():
    frames = methanol()
    chosen = resampled(frames, seed=1)
    assert len(chosen) == len(frames)
    runs = [frames[i].run for i in chosen]
    assert 1 < len(set(runs)) < len({frame.run for frame in frames})
    assert all(runs.count(run) % 4 == 0 for run in set(runs))
    assert resampled(frames, seed=1) == chosen != resampled(frames, seed=2)


def test_few_runs_are_no_reason_to_learn_from_the_same_frames():
    """Of one run, two or three, whole runs drawn would often be the same ones."""
    for runs in (1, 2, 3):
        frames = [replace(f, run=i % runs) for i, f in enumerate(methanol())]
        draws = [resampled(frames, seed=seed) for seed in range(4)]
        assert len({tuple(draw) for draw in draws}) == 4
        assert all(len(draw) == 24 and 10 < len(set(draw)) < 20 for draw in draws)
        assert "single frames drawn" in differences(frames, 0.1, True, True)
    few = replace(methanol()[0], name="other")
    line = differences([*methanol(), few, few], 0.0, True, False)
    assert "runs (of other, which has few runs: frames) drawn with replacement" in line


def test_what_members_do_not_differ_in_is_said():
    frames = methanol()
    assert "first weights (perturbed by 0.1)" in differences(frames, 0.1, False, True)
    alike = differences(frames, 0.0, False, True)
    assert alike.endswith("they begin alike on the same frames, so how they disagree says little")
    assert "begin alike" not in differences(frames, 0.0, False, False)


def test_every_process_begins_with_the_same_member():
    """Weights and frames of a member come from its seed alone, wherever they are drawn."""
    config = parse_config({"start": str(SHIPPED), "committee": {"members": 2}})
    models = []
    for seed in (0, 0, 1):
        config.training.seed = seed
        torch.rand(seed + 3)  # whatever was drawn before
        models.append(build_model(config, methanol()[:4], member=seed).state_dict())
    assert_same_state(*models[:2])
    for name in ("embedding.weight", "baseline", "charge_baseline"):
        assert not torch.equal(models[1][name], models[2][name]), name


def test_noise_is_relative_to_the_weights():
    model, before = tiny_model(), tiny_model()
    perturb(model, 0.05, seed=1)
    for new, old in zip(model.parameters(), before.parameters(), strict=True):
        size = old.square().mean().sqrt()
        if len(old.flatten()) > 60:
            noise = (new - old).std().item()
            assert noise == pytest.approx(0.05 * size.item(), rel=0.3)
    again, other = tiny_model(), tiny_model()
    perturb(again, 0.05, seed=1)
    perturb(other, 0.05, seed=2)
    assert_same_state(model.state_dict(), again.state_dict())
    assert not torch.equal(other.embedding.weight, model.embedding.weight)


def test_constants_that_the_data_leave_open_are_drawn_for_each_member():
    """All energies of methanol stay; that of water, which they do not tell, differs."""
    models = [tiny_model(dtype=torch.float64) for _ in range(4)]
    for seed, model in enumerate(models):
        draw_undetermined(model, methanol(), {}, seed)
    frames = methanol()[:3]
    known = np.array([[r["energy"] for r in m.evaluate(frames)] for m in models])
    np.testing.assert_allclose(known - known[0], 0, atol=1e-8)
    water = [System([8, 1, 1], [[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])]
    assert np.std([m.evaluate(water)[0]["energy"] for m in models]) > 50
    assert np.std([float(m.charge_baseline) for m in models]) > 1  # all frames are neutral


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Four members that started from one checkpoint, and what was printed."""
    folder = tmp_path_factory.mktemp("tuned")
    save_model(folder / "start.pt", tiny_model())
    write_frames(folder / "data.h5", [replace(f, run=0) for f in methanol()])
    training = {"epochs": 1, "batch_size": 4, "threads": 1, "validate_every": 1}
    content = {"data": {"source": str(folder / "data.h5")}, "training": training}
    (folder / "run.yaml").write_text(yaml.safe_dump(content | {"output": str(folder / "run")}))
    call = ["train", str(folder / "run.yaml"), "--no-blind", "--committee", "4"]
    assert main([*call, "--from", str(folder / "start.pt")]) == 0
    return folder, call


def test_members_that_start_from_one_checkpoint_differ(tuned, capsys):
    folder, _ = tuned
    config = parse_config({"start": str(folder / "start.pt"), "committee": {"members": 4}})
    assert config.perturbation == PERTURBATION and config.bootstrap
    starts = []
    for seed in range(2):
        config.training.seed = seed
        starts.append(build_model(config, methanol()))
    one, two = (model.embedding.weight for model in starts)
    assert (one - two).std() > PERTURBATION * one.std()
    fingerprints = {
        torch.load(folder / f"run/member_{k}/last.pt", weights_only=True)["trainer"]["frames"]
        for k in range(4)
    }
    assert len(fingerprints) == 4  # each has learned from frames of its own


def test_the_spread_grows_off_the_data(tuned):
    folder, _ = tuned
    model = load_model(folder / "run/committee.pt")
    frames = methanol()
    water = System([8, 1, 1], [[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    inside = [result["energy_std"] for result in model.evaluate(frames)]
    outside = model.evaluate([water])[0]["energy_std"]
    assert outside > 20 * max(inside) and outside > 10


def test_a_committee_from_a_checkpoint_goes_on_without_naming_it(tuned, capsys):
    """The frames of each member are drawn again as they were."""
    folder, call = tuned
    assert main([*call, "--resume"]) == 0
    captured = capsys.readouterr()
    assert "perturbed by" in captured.out and "nothing is left to train" in captured.out
    other = str(folder / "run/member_0/best.pt")
    assert main([*call, "--resume", "--from", other]) == 2
    assert "section 'start': start is" in capsys.readouterr().err
    text = (folder / "run.yaml").read_text() + "committee: {bootstrap: false}\n"
    (folder / "other.yaml").write_text(text)
    assert main(["train", str(folder / "other.yaml"), *call[2:], "--resume"]) == 2
    assert "section 'committee': bootstrap is False, was None" in capsys.readouterr().err


def test_a_committee_starts_from_a_committee(committee, tmp_path):
    save_model(tmp_path / "old.pt", committee)
    content = {"start": str(tmp_path / "old.pt"), "training": {"dtype": "float64"}}
    with pytest.raises(ValueError, match="is a committee of 3 models"):
        build_model(parse_config(content), methanol())
    members = {"members": 4, "perturbation": 0}
    config = parse_config(content | {"committee": members})
    for k in (0, 2, 3):
        model = build_model(config, methanol(), member=k)
        expected = committee.members[k % 3]
        assert torch.equal(model.embedding.weight, expected.embedding.weight)


def test_a_spread_of_nothing_is_not_taken_for_certainty(tmp_path, capsys):
    alike = Committee([tiny_model(), tiny_model()])
    save_model(tmp_path / "alike.pt", alike)
    write_frames(tmp_path / "data.h5", methanol())
    call = ["evaluate", str(tmp_path / "alike.pt"), str(tmp_path / "data.h5")]
    assert main([*call, "--output", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "the members agree on what is wrong" in captured.err
    assert "energy 0 beside" in captured.err and "nan" not in captured.out
    assert (tmp_path / "out/spread.png").stat().st_size > 5000


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
    assert doubt([row]) == ""
    assert "QM forces 0.1 beside 9 meV/Å" in doubt([row | {"spread": 0.1, "rmse": 9.0}])


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
    printed = " ".join(capsys.readouterr().out.split())
    assert "How the members disagree" in printed
    assert re.search(r"energy \(in \d frames, 10 are needed\)", printed)
    folder = tmp_path / "run"
    model = load_model(folder / "committee.pt")
    first, second = (m.state_dict() for m in model.members)
    assert any(not torch.equal(first[k], second[k]) for k in first)

    assert main(arguments) == 2 and "holds a training run already" in capsys.readouterr().err
    assert main([*arguments[:3], "--resume"]) == 2
    assert f"{folder} holds a committee: say of how many" in capsys.readouterr().err
    # a member that was lost is trained again, to the same weights
    for path in (folder / "member_1").iterdir():
        path.unlink()
    (folder / "committee.pt").unlink()
    assert main([*arguments, "--resume"]) == 0
    again = load_model(folder / "committee.pt").state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, again[key]), key

    capsys.readouterr()
    checkpoint = str(folder / "committee.pt")
    assert main(["evaluate", checkpoint, str(data), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "1 σ" in printed and "the spread is not calibrated" in printed
    with open(tmp_path / "out/spread.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["quantity"] for row in rows] == ["energy", "forces", "mm_forces", "dipole"]
    assert (tmp_path / "out/spread.png").stat().st_size > 5000
    predicted = tmp_path / "out.json"
    assert main(["predict", checkpoint, str(data), "-o", str(predicted)]) == 0
    assert "energy_std" in predicted.read_text()
    assert "the spread is not calibrated" in capsys.readouterr().out


@pytest.mark.slow
def test_a_committee_from_the_model_that_ships_doubts_molecules_it_never_saw():
    frames = load_shipped()
    training, _, test = split_shipped(frames)
    config = parse_config({"start": str(SHIPPED), "committee": {"members": 3}})
    members = []
    for seed in range(3):
        config.training.seed = seed
        members.append(build_model(config, training[::20]).eval())
    committee = Committee(members)
    unseen = [frame for frame in frames if is_of(frame.name, UNSEEN)]
    known, doubted = (
        np.mean([r["energy_std"] for r in committee.evaluate(part, unknown="ignore")])
        for part in ([f for f in test if f.group == "first"][::20], unseen[::4])
    )
    # what is bounded by training is alike in all members, and their doubt the smaller (1.3)
    assert known < 0.1 and doubted > 1.2 * known
