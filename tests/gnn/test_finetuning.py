"""Training that starts from the weights of a checkpoint."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from tiny import MODEL, methanol, tiny_model

from gnn.cli import main
from gnn.data import write_frames
from gnn.training import checkpoint
from gnn.training.config import parse_config
from gnn.training.setup import build_model


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "start.pt"
    checkpoint.save_model(path, tiny_model(steps=2))
    return path


def test_weights_are_kept_and_the_constant_energy_is_fitted_anew(start):
    """Labels shifted by a constant per element and charge must not matter."""
    old = checkpoint.load_model(start)
    frames = [replace(f, energy=f.energy + 7.0) for f in methanol()]
    model = build_model(parse_config({"start": str(start)}), frames)
    assert model.config() == old.config() and model.training
    for (name, one), (_, two) in zip(model.named_parameters(), old.named_parameters(), strict=True):
        assert torch.equal(one, two), name
    predicted = np.array([r["energy"] for r in model.evaluate(frames)])
    misses = predicted - [f.energy for f in frames]
    assert abs(misses.mean()) < 1e-4  # the mean error is gone
    before = [r["energy"] for r in old.evaluate(frames)]
    np.testing.assert_allclose(misses, before - np.mean(before) - (
        np.array([f.energy for f in frames]) - np.mean([f.energy for f in frames])
    ), atol=2e-3)  # fmt: skip


def test_known_elements_stay_known(start):
    from gnn import Frame, System

    model = checkpoint.load_model(start)
    model.refit_baseline([Frame(System([9, 1], [[0, 0, 0], [0.92, 0, 0]]), energy=-1.0)])
    assert model.elements == [1, 6, 8, 9]


def test_the_architecture_comes_from_the_checkpoint_alone(start):
    with pytest.raises(ValueError, match="leave out the section 'model'"):
        parse_config({"start": str(start), "model": {"order": 1}})


def test_from_the_command_line(start, tmp_path, capsys):
    write_frames(tmp_path / "frames.h5", methanol())
    content = {
        "data": {"source": str(tmp_path / "frames.h5")},
        "training": {"epochs": 2, "batch_size": 4, "threads": 1},
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    call = ["train", str(tmp_path / "run.yaml"), "--no-blind", "--from", str(start)]
    assert main(call) == 0
    tuned = checkpoint.load_model(tmp_path / "run" / "best.pt")
    assert tuned.config() == tiny_model(steps=2).config() != tiny_model().config()
    assert MODEL["steps"] == 1
    missing = str(tmp_path / "none.pt")
    again = ["train", str(tmp_path / "run.yaml"), "--from", missing]
    (tmp_path / "run" / "last.pt").unlink()
    assert main(again) == 2
    assert "no checkpoint at" in capsys.readouterr().err
