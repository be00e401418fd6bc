"""Checkpoints: round trip, files that are none, and writing whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import methanol, tiny_model

from gnn import load_model
from gnn.data import load_shipped, split_shipped
from gnn.training import checkpoint
from gnn.training.report.metrics import compare


def _assert_equal_predictions(a, b):
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for key in x:
            np.testing.assert_array_equal(x[key], y[key], key)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip(tmp_path, dtype):
    model, frames = tiny_model(dtype=dtype), methanol()[:2]
    path = tmp_path / "new" / "folder" / "model.pt"
    checkpoint.save_model(path, model, epoch=3)
    assert torch.load(path, weights_only=True)["epoch"] == 3
    loaded = load_model(path)
    assert loaded.dtype == dtype and loaded.elements == [1, 6, 8] and not loaded.training
    assert loaded.config() == model.config()
    assert loaded.baseline.dtype == torch.float64
    _assert_equal_predictions(model.evaluate(frames), loaded.evaluate(frames))


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x80\x02", bytes(range(256)) * 20, b"PK\x03\x04" + 100 * b"x"],
    ids=["empty", "text", "pickle", "bytes", "zip"],
)
def test_file_of_another_kind(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pt is not a checkpoint of anisole"):
        load_model(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_checkpoint(tmp_path, share):
    path = tmp_path / "model.pt"
    checkpoint.save_model(path, tiny_model())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"model\.pt is not a checkpoint of anisole"):
        load_model(path)


@pytest.mark.parametrize("content", [{"weights": torch.zeros(3)}, torch.zeros(3), [1, 2]])
def test_checkpoint_of_another_program(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="lacks format 'anisole-model'"):
        load_model(tmp_path / "other.pt")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    torch.save({"format": checkpoint.FORMAT, "x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_model(tmp_path / "evil.pt")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["version", "config", "dtype", "state_dict"])
def test_missing_part(tmp_path, key):
    content = checkpoint.model_state(tiny_model())
    del content[key]
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=f"{key} is missing"):
        load_model(tmp_path / "model.pt")


def test_newer_version(tmp_path):
    content = checkpoint.model_state(tiny_model()) | {"version": checkpoint.VERSION + 1}
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="update anisole"):
        load_model(tmp_path / "model.pt")


@pytest.mark.parametrize("change", [{"channels": 5}, {"colour": "red"}, {"order": 9}])
def test_weights_that_do_not_fit(tmp_path, change):
    content = checkpoint.model_state(tiny_model())
    content["config"] = content["config"] | change
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt do not fit"):
        load_model(tmp_path / "model.pt")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*none\.pt"):
        load_model(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_model(tmp_path)  # a folder


@pytest.mark.parametrize("failure", [OSError("no space left"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch, failure):
    path = tmp_path / "model.pt"
    checkpoint.save_model(path, tiny_model())
    before = path.read_bytes()

    def half_written(path, content):
        with path.open("wb") as file:
            file.write(content[:1000])
        raise failure

    monkeypatch.setattr(Path, "write_bytes", half_written)
    with pytest.raises(type(failure)):
        checkpoint.save_model(path, tiny_model(seed=1))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_the_shipped_model_is_small_and_right_on_frames_it_never_saw():
    assert checkpoint.SHIPPED.stat().st_size < 5e6
    model = load_model()
    _, _, test = split_shipped(load_shipped())
    apart = ("stretched", "hot@800", "torn@800", "beside@450")  # no snapshots of a force field
    frames = [frame for frame in test if frame.group not in apart][::10]
    comparison = compare(model.evaluate(frames), frames)
    energy, forces, mm = (comparison.errors(n) for n in ("energy", "forces", "mm_forces"))
    assert energy.mae < 20 and forces.rmse < 60 and mm.ratio < 0.03
    four = [frame for frame in test if frame.group == "first"][::10]
    comparison = compare(model.evaluate(four), four)
    energy, forces, mm = (comparison.errors(n) for n in ("energy", "forces", "mm_forces"))
    assert energy.mae < 4 and forces.rmse < 30 and mm.ratio < 0.01
    assert model.elements == [1, 6, 7, 8, 16]
