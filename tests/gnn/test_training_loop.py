"""The trainer: schedule, learning, averaging, stopping, and exact resume."""

import csv
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny import MODEL, methanol, tiny_config, tiny_model

from gnn import Frame, load_model
from gnn.cli import main
from gnn.data import write_frames
from gnn.training import loop
from gnn.training.config import TrainingConfig
from gnn.training.loop import COLUMNS, Trainer, learning_rate

ROOT = Path(__file__).resolve().parents[2]


def _trainer(folder=None, model=None, frames=None, **training):
    frames = methanol() if frames is None else frames
    config = tiny_config(**training)
    dtype = getattr(torch, config.training.dtype)
    return Trainer(model or tiny_model(dtype=dtype), config, frames[:12], frames[16:20], folder)


def _assert_same_state(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def _without_clock(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def _assert_same_run(a, b):
    _assert_same_state(a.model.state_dict(), b.model.state_dict())
    _assert_same_state(a.average.state_dict(), b.average.state_dict())
    assert _without_clock(a.history) == _without_clock(b.history)
    assert (a.epoch, a.step, a.stale, a.best) == (b.epoch, b.step, b.stale, b.best)


# --- the schedule ---------------------------------------------------------------------------------


def _settings(**options):
    return TrainingConfig(learning_rate=1e-2, min_learning_rate=1e-4, **options)


def test_warm_up_is_linear():
    settings = _settings(warmup_steps=10, schedule="constant")
    rates = [learning_rate(settings, step, 0.0) for step in range(12)]
    np.testing.assert_allclose(rates, [1e-2 * min(1, (s + 1) / 10) for s in range(12)])


@pytest.mark.parametrize(
    ("schedule", "half"),
    [("cosine", (1e-2 + 1e-4) / 2), ("exponential", 1e-3), ("constant", 1e-2)],
)
def test_schedule_runs_from_the_highest_to_the_lowest_rate(schedule, half):
    settings = _settings(warmup_steps=0, schedule=schedule)
    assert learning_rate(settings, 0, 0.0) == pytest.approx(1e-2)
    assert learning_rate(settings, 0, 0.5) == pytest.approx(half)
    end = 1e-2 if schedule == "constant" else 1e-4
    assert learning_rate(settings, 0, 1.0) == pytest.approx(end)
    assert learning_rate(settings, 0, 7.0) == pytest.approx(end)  # past the end


def test_trainer_anneals_over_its_epochs():
    trainer = _trainer(epochs=4, warmup_steps=1, learning_rate=1e-3, min_learning_rate=1e-5)
    trainer.run()
    rates = [row["learning_rate"] for row in trainer.history]
    expected = [1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + math.cos(math.pi * k / 4)) for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(rates, expected, rtol=1e-9)


def test_a_limit_of_time_anneals_and_ends_the_run():
    trainer = _trainer(epochs=100_000, time_limit=0.5, warmup_steps=1)
    trainer.run()
    assert trainer.finished and 0.5 <= trainer.elapsed < 5
    rates = [row["learning_rate"] for row in trainer.history]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1 * rates[0]
    assert trainer.history[-1]["validation_loss"] is not None  # the end is always looked at


# --- learning -------------------------------------------------------------------------------------


def test_loss_falls():
    trainer = _trainer(epochs=30, learning_rate=2e-3)
    trainer.run()
    losses = [row["train_loss"] for row in trainer.history]
    assert losses[-1] < 0.5 * losses[0]
    seen = [r["validation_loss"] for r in trainer.history if r["validation_loss"] is not None]
    assert len(seen) == 15 and seen[-1] < 0.5 * seen[0]


def test_validation_loss_is_the_loss_of_the_average_on_the_validation_frames():
    trainer = _trainer(epochs=2)
    trainer.run()
    frames, weights = methanol()[16:20], trainer.config.loss
    results = trainer.average.evaluate(frames)
    total = 0.0
    for name in ("energy", "forces", "mm_forces", "dipole"):
        errors = [
            np.ravel(r[name] - getattr(f, name)) for r, f in zip(results, frames, strict=True)
        ]
        total += getattr(weights, name) * (np.concatenate(errors) ** 2).mean()
    assert trainer.history[-1]["validation_loss"] == pytest.approx(total, rel=1e-6)


def test_every_frame_of_an_epoch_is_seen_once_and_the_order_changes():
    trainer = _trainer(batch_size=3)
    first = trainer._batches()
    assert sorted(np.concatenate(first)) == list(range(12))
    assert [b.tolist() for b in trainer._batches()] == [b.tolist() for b in first]
    trainer.epoch = 1
    assert [b.tolist() for b in trainer._batches()] != [b.tolist() for b in first]


def test_batch_larger_than_the_data_is_all_of_it():
    assert [len(b) for b in _trainer(batch_size=500)._batches()] == [12]


def test_average_follows_the_weights():
    trainer = _trainer(ema=0.9)
    trainer.step = 1000  # past the short memory of the start
    before = trainer.average.embedding.weight.clone()
    with torch.no_grad():
        trainer.model.embedding.weight.add_(1.0)
    target = trainer.model.embedding.weight
    trainer._update_average()
    expected = 0.9 * before + 0.1 * target
    torch.testing.assert_close(trainer.average.embedding.weight, expected)


def test_no_average_when_its_memory_is_zero():
    trainer = _trainer(ema=0.0)
    trainer.run()
    _assert_same_state(trainer.model.state_dict(), trainer.average.state_dict())


def test_average_differs_from_the_weights_and_moves_from_the_start():
    trainer = _trainer(ema=0.99)
    start = trainer.average.embedding.weight.clone()
    trainer.run()
    average = trainer.average.embedding.weight
    assert not torch.equal(average, start)
    assert not torch.equal(average, trainer.model.embedding.weight)


# --- stopping -------------------------------------------------------------------------------------


def test_early_stopping_keeps_the_best(tmp_path, monkeypatch):
    trainer = _trainer(tmp_path, epochs=50, validate_every=1, patience=3)
    losses = iter([5.0, 3.0, 4.0, 3.5, 3.0, 1.0])

    class Errors:
        def __init__(self, value):
            self.rmse = value

    class Comparison:
        def __init__(self, value):
            self.value = value

        def errors(self, name):
            return Errors(1e3 * math.sqrt(self.value)) if name == "energy" else None

    monkeypatch.setattr(loop, "compare", lambda *_: Comparison(next(losses)))
    trainer.run()
    assert trainer.epoch == 5 and trainer.finished and trainer.best == pytest.approx(3.0)
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    assert best["epoch"] == 2 and best["validation_loss"] == pytest.approx(3.0)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["trainer"]["epoch"] == 5


def _poison(trainer, steps):
    """Make the loss of some steps NaN."""
    real = loop.weighted_loss

    def poisoned(output, batch, weights):
        loss = real(output, batch, weights)
        return loss * math.nan if steps(trainer.step) else loss

    return poisoned


def test_a_loss_that_is_not_finite_is_skipped(monkeypatch):
    trainer = _trainer(epochs=4)
    monkeypatch.setattr(loop, "weighted_loss", _poison(trainer, lambda step: step == 2))
    trainer.run()
    assert trainer.step == 12 and trainer.skipped == 0
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert all(math.isfinite(row["train_loss"]) for row in trainer.history)


def test_a_skipped_step_changes_nothing(monkeypatch):
    trainer = _trainer()
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    monkeypatch.setattr(loop, "weighted_loss", _poison(trainer, lambda step: True))
    trainer.run(1)
    _assert_same_state(before, trainer.model.state_dict())
    assert trainer.skipped == 3 and math.isnan(trainer.history[-1]["train_loss"])


def test_losses_that_stay_not_finite_end_the_run_with_advice(monkeypatch):
    trainer = _trainer(epochs=100)
    monkeypatch.setattr(loop, "weighted_loss", _poison(trainer, lambda step: step >= 5))
    with pytest.raises(FloatingPointError, match=r"20 steps in a row.*lower training.learning_rat"):
        trainer.run()
    assert trainer.step == 25


def test_needs_training_frames_and_labels_to_validate_on():
    with pytest.raises(ValueError, match="at least one training frame"):
        _trainer(frames=methanol()[:0], model=tiny_model())
    frames = methanol()
    bare = [Frame(f.system, run=f.run, name=f.name) for f in frames[:2]]
    with pytest.raises(ValueError, match="validation frames have none of the labels"):
        Trainer(tiny_model(), tiny_config(), frames, bare)


# --- files ----------------------------------------------------------------------------------------


def test_checkpoints_are_models_and_give_the_predictions_of_the_average(tmp_path):
    trainer = _trainer(tmp_path, epochs=4)
    average = trainer.run()
    frames = methanol()[20:22]
    for name in ("last.pt", "best.pt"):
        torch.load(tmp_path / name, weights_only=True)
        loaded = load_model(tmp_path / name)
        if name == "last.pt" or trainer.stale == 0:
            for a, b in zip(average.evaluate(frames), loaded.evaluate(frames), strict=True):
                for key in a:
                    np.testing.assert_array_equal(a[key], b[key])


def test_without_validation_frames_the_last_average_is_the_best(tmp_path):
    trainer = Trainer(tiny_model(), tiny_config(), methanol()[:8], (), tmp_path)
    average = trainer.run()
    _assert_same_state(load_model(tmp_path / "best.pt").state_dict(), average.state_dict())
    assert all(row["validation_loss"] is None for row in trainer.history)


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = _trainer(epochs=2)
    trainer.run()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no folder"):
        trainer.save()
    with pytest.raises(ValueError, match="no folder"):
        trainer.resume()


def _log(folder):
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_log_has_one_row_per_epoch_also_after_resume(tmp_path):
    _trainer(tmp_path, epochs=6).run(3)
    rows = _log(tmp_path)
    assert list(rows[0]) == list(COLUMNS) and [r["epoch"] for r in rows] == ["1", "2", "3"]
    with open(tmp_path / "log.csv", "a") as file:  # as a run killed later leaves it
        file.write("4,12,9.9,0.1,1.0,,,,,\n")
    again = _trainer(tmp_path, epochs=6)
    again.resume()
    again.run()
    rows = _log(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert [float(row["train_loss"]) for row in rows] == [r["train_loss"] for r in again.history]
    assert [bool(row["validation_loss"]) for row in rows] == [False, True] * 3


# --- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_resumed_run_equals_an_uninterrupted_one_bit_by_bit(tmp_path, dtype, stop):
    options = {"epochs": 6, "dtype": dtype, "ema": 0.9, "weight_decay": 1e-3, "batch_size": 5}
    straight = _trainer(tmp_path / "a", **options)
    straight.run()
    _trainer(tmp_path / "b", **options).run(stop)
    other = tiny_model(seed=17, dtype=getattr(torch, dtype))  # what it holds must not matter
    resumed = _trainer(tmp_path / "b", model=other, **options)
    resumed.resume()
    assert resumed.epoch == stop
    resumed.run()
    _assert_same_run(straight, resumed)
    for name in ("last.pt", "best.pt"):
        a, b = (torch.load(tmp_path / x / name, weights_only=True) for x in "ab")
        _assert_same_state(a["state_dict"], b["state_dict"])


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    first = _trainer(tmp_path, epochs=3)
    first.run()
    again = _trainer(tmp_path, epochs=3)
    again.resume()
    again.run()
    _assert_same_run(first, again)


@pytest.mark.parametrize(
    ("section", "changed"),
    [
        ("training", {"learning_rate": 1e-4}),
        ("loss", {"loss": {"energy": 2.0}}),
        ("data", {"data": {"max_frames": 3}}),
        ("model", {"model": {"channels": 5}}),
    ],
)
def test_resume_under_another_configuration_is_refused(tmp_path, section, changed):
    _trainer(tmp_path, epochs=2).run(1)
    model = tiny_model(**changed.get("model", {}))
    frames = methanol()
    config = tiny_config(**({"epochs": 2} | changed))
    other = Trainer(model, config, frames[:12], frames[16:20], tmp_path)
    with pytest.raises(ValueError, match=f"another configuration.*section '{section}'"):
        other.resume()


def test_resume_says_what_differs(tmp_path):
    _trainer(tmp_path, epochs=2, learning_rate=1e-3).run(1)
    with pytest.raises(ValueError, match=r"learning_rate is 0\.002, was 0\.001"):
        _trainer(tmp_path, epochs=2, learning_rate=2e-3).resume()


def test_resume_on_other_data_is_refused(tmp_path):
    _trainer(tmp_path, epochs=2).run(1)
    with pytest.raises(ValueError, match="other training frames"):
        _trainer(tmp_path, epochs=2, frames=methanol()[4:]).resume()


def test_resume_from_a_bare_model_or_from_nothing(tmp_path):
    trainer = _trainer(tmp_path, epochs=2)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        trainer.resume()
    trainer.run()
    with pytest.raises(ValueError, match="holds a model but no training state"):
        _trainer(epochs=2).resume(tmp_path / "best.pt")


def _write_run(tmp_path, name, data, epochs):
    content = {
        "data": {"source": str(data)},
        "model": MODEL,
        "training": {
            "epochs": epochs, "batch_size": 4, "warmup_steps": 3, "validate_every": 2,
            "checkpoint_every": 3, "threads": 1,
        },
        "output": str(tmp_path / name),
    }  # fmt: skip
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _wait_for_rows(folder, count, process, seconds=120.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the run ended early: {process.stderr.read()}")
        if (folder / "log.csv").exists() and len(_log(folder)) >= count:
            return
        time.sleep(0.01)
    pytest.fail("the run made no progress")


def test_run_killed_in_the_middle_resumes_to_the_same_weights(tmp_path, capsys):
    epochs = 60
    data = tmp_path / "data.h5"
    write_frames(data, methanol())
    whole = _write_run(tmp_path, "whole", data, epochs)
    assert main(["train", str(whole), "--no-blind"]) == 0

    config = _write_run(tmp_path, "killed", data, epochs)
    process = subprocess.Popen(
        [sys.executable, "-m", "gnn", "train", str(config), "--no-blind"],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _wait_for_rows(tmp_path / "killed", 7, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    reached = torch.load(tmp_path / "killed" / "last.pt", weights_only=True)["trainer"]["epoch"]
    assert 6 <= reached < epochs
    assert main(["train", str(config), "--no-blind", "--resume"]) == 0

    for name in ("last.pt", "best.pt"):
        a, b = (torch.load(tmp_path / x / name, weights_only=True) for x in ("whole", "killed"))
        _assert_same_state(a["state_dict"], b["state_dict"])
        if name == "last.pt":
            _assert_same_state(a["trainer"]["model"], b["trainer"]["model"])
            assert _without_clock(a["trainer"]["history"]) == _without_clock(
                b["trainer"]["history"]
            )
    assert [row["epoch"] for row in _log(tmp_path / "killed")] == [
        str(k + 1) for k in range(epochs)
    ]
