"""Frames with different labels: what is said of them, constants of the energy, whole runs."""

import csv
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from tiny import MODEL, methanol, tiny_model

from gnn import Frame, System
from gnn.cli import main
from gnn.data import read_frames, write_frames
from gnn.data.streaming import stream_frames
from gnn.training.frames.labels import check_labelled, label_lines
from gnn.training.report.metrics import without_surroundings

OH = [[0.0, 0, 0], [0.97, 0, 0]]


def _bare(frame):
    return Frame(frame.system, run=frame.run, name=frame.name)


def test_one_line_where_all_frames_have_the_same_labels():
    frames = methanol()
    parts = {"train": frames[:4], "validate": [], "test": frames[4:6]}
    assert label_lines(parts) == ["labels: energy, forces, mm_forces, dipole in all frames"]
    vacuum = [without_surroundings(replace(frame, dipole=None)) for frame in frames[:2]]
    assert label_lines({"train": vacuum}) == [
        "labels: energy, forces in all frames; mm_forces, dipole in none"
    ]
    # a frame in vacuum lacks nothing beside embedded ones
    assert label_lines({"train": [without_surroundings(frames[0]), frames[1]]}) == [
        "labels: energy, forces, mm_forces, dipole in all frames"
    ]


@pytest.mark.parametrize("streamed", [False, True])
def test_frames_with_each_label_are_counted_for_each_part(streamed, tmp_path):
    frames = methanol()
    mixed = [replace(f, forces=None, mm_forces=None) for f in frames[:2]] + frames[2:5]
    mixed.append(without_surroundings(replace(frames[5], energy=None)))
    if streamed:
        write_frames(tmp_path / "data.h5", mixed)
        mixed = stream_frames(tmp_path / "data.h5")
    assert label_lines({"train": mixed, "test": frames[6:8]}) == [
        "labels: dipole in all frames",
        "label energy: in 5 of 6 to train, 2 of 2 to test",
        "label forces: in 4 of 6 to train, 2 of 2 to test",
        "label mm_forces: in 3 of 5 to train, 2 of 2 to test with charges around them",
    ]


def test_frames_to_compare_with_need_a_label():
    frames = methanol()[:3]
    check_labelled([_bare(frames[0]), frames[1]], "here")
    with pytest.raises(ValueError, match=r"here: frame 0 has no energy, .*nor has any of the 2"):
        check_labelled([_bare(frame) for frame in frames[:2]], "here")


# --- the constant part of the energy --------------------------------------------------------------


def test_energies_that_the_others_do_not_determine_are_named():
    frames = methanol()[:4]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_model([*frames, _bare(frames[0])])  # methanol's is known by the others
    ion = Frame(System([8, 1], OH, -1), forces=np.zeros((2, 3)))
    with pytest.warns(UserWarning, match=r"2 frames have no energy.*\{1: 1, 8: 1\}, charge -1"):
        tiny_model([*frames, ion, ion])
    with pytest.warns(UserWarning, match="no frame has an energy"):
        model = tiny_model([replace(frame, energy=None) for frame in frames])
    assert model.elements == [1, 6, 8] and not model.baseline.any()


def test_frames_without_energies_do_not_move_the_constants():
    frames = methanol()[:6]
    mixed = [replace(f, energy=None) if i % 2 else f for i, f in enumerate(frames)]
    model, same = tiny_model(frames[::2]), tiny_model(mixed)
    torch.testing.assert_close(model.baseline, same.baseline, rtol=1e-12, atol=1e-12)
    model.baseline += 1.0
    shifted = model.baseline.clone()
    with pytest.warns(UserWarning, match="no frame has an energy"):
        model.refit_baseline([replace(frame, energy=None) for frame in frames])
    assert torch.equal(model.baseline, shifted)  # not zero: nothing is known of a better one
    model.refit_baseline(mixed)
    misses = [
        result["energy"] - frame.energy
        for result, frame in zip(model.evaluate(frames[::2]), frames[::2], strict=True)
    ]
    assert abs(np.mean(misses)) < 1e-5


def test_a_new_fit_keeps_the_constants_of_elements_that_it_does_not_see():
    model = tiny_model()
    model.baseline[7], model.known[7] = -1488.0, True
    model.refit_baseline(methanol()[:3])
    assert model.baseline[7] == -1488.0 and 7 in model.elements


# --- a whole run ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def partly(tmp_path_factory):
    """Two molecules, of which half the frames have no forces, and one of the two no dipoles."""
    frames = []
    for i, frame in enumerate(methanol()):
        other = i % 2 == 1
        frame = replace(frame, name="other" if other else "meoh", run=100 * (i // 8))
        frame = replace(frame, dipole=None) if other else frame
        frames.append(replace(frame, forces=None) if i % 4 < 2 else frame)
    path = tmp_path_factory.mktemp("partly") / "data.h5"
    write_frames(path, frames)
    return path


def test_a_run_says_who_has_which_label_and_shows_numbers_for_all(partly, tmp_path, capsys):
    content = {
        "data": {"source": str(partly)},
        "model": MODEL,
        "training": {"epochs": 1, "batch_size": 4, "validate_every": 1, "threads": 1},
        "output": str(tmp_path / "run"),
    }
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(content))
    assert main(["train", str(config)]) == 0
    out = capsys.readouterr().out
    assert "labels: energy, mm_forces in all frames\n" in out
    assert "label forces: in 4 of 8 to train, 4 of 8 to validate, 4 of 8 to test\n" in out
    assert "F –" not in out and "4 of 8" in out.split("Frames that have the label")[1]
    for folder in (tmp_path / "run", tmp_path / "run" / "blind"):
        with open(folder / "log.csv", newline="") as file:
            assert float(next(csv.DictReader(file))["validation_forces_rmse"]) > 0

    best, out = str(tmp_path / "run" / "best.pt"), tmp_path / "out"
    capsys.readouterr()
    assert main(["evaluate", best, str(partly), "--output", str(out)]) == 0
    assert "12 of 24" in capsys.readouterr().out
    with open(out / "errors.csv", newline="") as file:
        rows = {row["molecule"]: row for row in csv.DictReader(file)}
    assert [rows[n]["forces_frames"] for n in ("meoh", "other", "all")] == ["6", "6", "12"]
    assert [rows[n]["dipole_frames"] for n in ("meoh", "other", "all")] == ["12", "0", "12"]
    assert float(rows["all"]["forces_rmse"]) > 0 and rows["other"]["dipole_rmse"] == ""
    assert "energy_frames" not in rows["all"]
    # frames of another kind altogether
    unlabelled = tmp_path / "bare.h5"
    write_frames(unlabelled, [_bare(frame) for frame in read_frames(partly)[:2]])
    assert main(["evaluate", best, str(unlabelled)]) == 2
    assert "nor has any of the 2 frames" in capsys.readouterr().err


def test_forces_on_charges_alone_train_a_model_but_no_blind_twin(tmp_path, capsys):
    data, config = tmp_path / "data.h5", tmp_path / "run.yaml"
    write_frames(data, [replace(f, energy=None, forces=None, dipole=None) for f in methanol()])
    content = {
        "data": {"source": str(data)},
        "model": MODEL,
        "training": {"epochs": 1, "batch_size": 8, "validate_every": 1, "threads": 1},
        "output": str(tmp_path / "run"),
    }
    config.write_text(yaml.safe_dump(content))
    assert main(["train", str(config)]) == 0
    said = capsys.readouterr()
    assert "no blind twin" in said.out and "no frame has an energy" in said.err
    assert "labels: mm_forces in all frames; energy, forces, dipole in none" in said.out
