"""The trainer: schedule, learning, averaging, stopping, files."""

import math
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import assert_same_state, methanol, read_log, tiny_config, tiny_model, tiny_trainer

from gnn import Frame, load_model
from gnn.data import write_frames
from gnn.data.streaming import stream_frames
from gnn.training import loop
from gnn.training.config import TrainingConfig
from gnn.training.loop import Trainer
from gnn.training.parallel import training_device
from gnn.training.report.log import COLUMNS
from gnn.training.schedule import learning_rate

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
    trainer = tiny_trainer(epochs=4, warmup_steps=1, learning_rate=1e-3, min_learning_rate=1e-5)
    trainer.run()
    rates = [row["learning_rate"] for row in trainer.history]
    expected = [1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + math.cos(math.pi * k / 4)) for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(rates, expected, rtol=1e-9)


def test_a_limit_of_time_anneals_and_ends_the_run(monkeypatch):
    ticks = count()  # the clock of a core that is neither fast nor busy
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: 0.01 * next(ticks)))
    trainer = tiny_trainer(epochs=100_000, time_limit=0.5, warmup_steps=1)
    trainer.run()
    assert trainer.finished and 0.5 <= trainer.elapsed < 5
    rates = [row["learning_rate"] for row in trainer.history]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1 * rates[0]
    assert trainer.history[-1]["validation_loss"] is not None  # the end is always looked at


# --- learning -------------------------------------------------------------------------------------


def test_loss_falls():
    trainer = tiny_trainer(epochs=30, learning_rate=2e-3)
    trainer.run()
    losses = [row["train_loss"] for row in trainer.history]
    assert losses[-1] < 0.5 * losses[0]
    seen = [r["validation_loss"] for r in trainer.history if r["validation_loss"] is not None]
    assert len(seen) == 15 and seen[-1] < 0.5 * seen[0]


def test_validation_loss_is_the_loss_of_the_average_on_the_validation_frames():
    trainer = tiny_trainer(epochs=2)
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
    trainer = tiny_trainer(batch_size=3)
    first = trainer._batches()
    assert sorted(np.concatenate(first)) == list(range(12))
    assert [b.tolist() for b in trainer._batches()] == [b.tolist() for b in first]
    trainer.epoch = 1
    assert [b.tolist() for b in trainer._batches()] != [b.tolist() for b in first]


def test_batch_larger_than_the_data_is_all_of_it():
    assert [len(b) for b in tiny_trainer(batch_size=500)._batches()] == [12]


def test_average_follows_the_weights():
    trainer = tiny_trainer(ema=0.9)
    trainer.step = 1000  # past the short memory of the start
    before = trainer.average.embedding.weight.clone()
    with torch.no_grad():
        trainer.model.embedding.weight.add_(1.0)
    target = trainer.model.embedding.weight
    trainer._update_average()
    expected = 0.9 * before + 0.1 * target
    torch.testing.assert_close(trainer.average.embedding.weight, expected)


def test_no_average_when_its_memory_is_zero():
    trainer = tiny_trainer(ema=0.0)
    trainer.run()
    assert_same_state(trainer.model.state_dict(), trainer.average.state_dict())


def test_average_differs_from_the_weights_and_moves_from_the_start():
    trainer = tiny_trainer(ema=0.99)
    start = trainer.average.embedding.weight.clone()
    trainer.run()
    average = trainer.average.embedding.weight
    assert not torch.equal(average, start)
    assert not torch.equal(average, trainer.model.embedding.weight)


# --- stopping -------------------------------------------------------------------------------------


def test_early_stopping_keeps_the_best(tmp_path, monkeypatch):
    trainer = tiny_trainer(tmp_path, epochs=50, validate_every=1, patience=3)
    losses = iter([5.0, 3.0, 4.0, 3.5, 3.0, 1.0])

    def errors(*_):
        return {"energy": 1e3 * math.sqrt(next(losses))}

    monkeypatch.setattr(loop, "validation_rmse", errors)
    trainer.run()
    assert trainer.epoch == 5 and trainer.finished and trainer.best == pytest.approx(3.0)
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    assert best["epoch"] == 2 and best["validation_loss"] == pytest.approx(3.0)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["trainer"]["epoch"] == 5


def _poison(trainer, steps):
    """Make the loss of some steps NaN."""
    real = loop.weighted_loss

    def poisoned(output, batch, weights, counts):
        loss = real(output, batch, weights, counts)
        return loss * math.nan if steps(trainer.step) else loss

    return poisoned


def test_a_loss_that_is_not_finite_is_skipped(monkeypatch):
    trainer = tiny_trainer(epochs=4)
    monkeypatch.setattr(loop, "weighted_loss", _poison(trainer, lambda step: step == 2))
    trainer.run()
    assert trainer.step == 12 and trainer.skipped == 0
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert all(math.isfinite(row["train_loss"]) for row in trainer.history)


def test_a_skipped_step_changes_nothing(monkeypatch):
    trainer = tiny_trainer()
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    monkeypatch.setattr(loop, "weighted_loss", _poison(trainer, lambda step: True))
    trainer.run(1)
    assert_same_state(before, trainer.model.state_dict())
    assert trainer.skipped == 3 and math.isnan(trainer.history[-1]["train_loss"])


def test_losses_that_stay_not_finite_end_the_run_with_advice(monkeypatch):
    trainer = tiny_trainer(epochs=100)
    monkeypatch.setattr(loop, "weighted_loss", _poison(trainer, lambda step: step >= 5))
    with pytest.raises(FloatingPointError, match=r"20 steps in a row.*lower training.learning_rat"):
        trainer.run()
    assert trainer.step == 25


def test_needs_training_frames_and_labels_to_validate_on():
    with pytest.raises(ValueError, match="at least one training frame"):
        tiny_trainer(frames=methanol()[:0], model=tiny_model())
    frames = methanol()
    bare = [Frame(f.system, run=f.run, name=f.name) for f in frames[:2]]
    with pytest.raises(ValueError, match="validation frames have none of the labels"):
        Trainer(tiny_model(), tiny_config(), frames, bare)
    nothing = dict.fromkeys(("energy", "forces", "mm_forces", "dipole"), 0)
    with pytest.raises(ValueError, match="loss: all weights are zero"):
        Trainer(tiny_model(), tiny_config(loss=nothing), frames[:12], frames[12:])


def _lacking_forces(frames, share, seed=0):
    """Frames of which a share has no forces on the atoms."""
    lacking = np.random.default_rng(seed).permutation(len(frames))[: round(share * len(frames))]
    return [replace(f, forces=None) if i in lacking else f for i, f in enumerate(frames)]


def count_forces(monkeypatch, trainer):
    """Run an epoch; return how many numbers of forces, and how many frames, are in its losses."""
    seen = []
    real = loop.weighted_loss

    def counted(output, batch, weights, counts):
        seen.append((counts["forces"], batch.n_systems))
        return real(output, batch, weights, counts)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "weighted_loss", counted)
        trainer.run(1)
    return np.sum(seen, axis=0).tolist()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("streamed", [False, True])
def test_an_epoch_uses_all_forces_that_are_there(share, streamed, monkeypatch, tmp_path):
    frames = _lacking_forces(methanol()[:20], share)
    there = sum(frame.forces.size for frame in frames if frame.forces is not None)
    assert there == round((1 - share) * 20) * 18
    if streamed:
        write_frames(tmp_path / "data.h5", frames)
        frames = stream_frames(tmp_path / "data.h5", block=3, held=2)
    trainer = Trainer(tiny_model(), tiny_config(batch_size=5), frames, methanol()[20:22])
    assert count_forces(monkeypatch, trainer) == [there, 20]
    assert math.isfinite(trainer.history[0]["train_loss"])


@pytest.mark.parametrize("streamed", [False, True])
def test_only_one_incomplete_batch_of_an_epoch_waits_for_the_next(streamed, tmp_path):
    """Whatever the labels, and wherever the blocks of a file end."""
    frames = _lacking_forces(methanol()[:23], 0.5)
    if streamed:
        write_frames(tmp_path / "data.h5", frames)
        frames = stream_frames(tmp_path / "data.h5", block=3, held=2)
    trainer = Trainer(tiny_model(), tiny_config(batch_size=5), frames)
    for trainer.epoch in range(5):
        batches = trainer._batches()
        assert [len(batch) for batch in batches] == [5] * 4
        assert len(set(np.concatenate(batches).tolist())) == 20  # each at most once


def test_validation_counts_every_label_of_every_frame():
    frames = methanol()
    checked = _lacking_forces(frames[16:20], 0.5)
    checked[0] = replace(checked[0], energy=None)
    trainer = Trainer(tiny_model(), tiny_config(epochs=1, validate_every=1), frames[:8], checked)
    trainer.run()
    row = trainer.history[0]
    results = trainer.average.evaluate(checked)
    total = 0.0
    for name in ("energy", "forces", "mm_forces", "dipole"):
        errors = [
            np.ravel(r[name] - getattr(f, name))
            for r, f in zip(results, checked, strict=True)
            if getattr(f, name) is not None
        ]
        mean = (np.concatenate(errors) ** 2).mean()
        assert row[f"validation_{name}_rmse"] == pytest.approx(1e3 * math.sqrt(mean), rel=1e-6)
        total += getattr(trainer.config.loss, name) * mean
    assert row["validation_loss"] == pytest.approx(total, rel=1e-6)


def test_a_label_that_no_validation_frame_has_is_named():
    frames = methanol()
    bare = [replace(f, forces=None) for f in frames[16:18]]
    with pytest.warns(UserWarning, match="no validation frame has a label of forces"):
        trainer = Trainer(tiny_model(), tiny_config(), frames[:8], bare)
    assert trainer.validated == ["energy", "mm_forces", "dipole"]


def test_frames_without_a_weighted_label_are_left_out_and_counted():
    frames = methanol()[:12]
    bare = [Frame(f.system) for f in methanol()[12:15]]
    # a dipole is a label, but here it has no weight
    bare.append(Frame(frames[0].system, dipole=np.zeros(3)))
    weights = {"dipole": 0.0}
    with pytest.warns(UserWarning, match=r"^4 of 16 training frames are not used.*energy, forces"):
        mixed = Trainer(tiny_model(), tiny_config(loss=weights), bare[:2] + frames + bare[2:])
    plain = Trainer(tiny_model(), tiny_config(loss=weights), frames)
    mixed.run(1)
    plain.run(1)
    assert_same_state(mixed.model.state_dict(), plain.model.state_dict())
    with pytest.raises(ValueError, match="nothing to train on: none of the 4 training frames"):
        Trainer(tiny_model(), tiny_config(loss=weights), bare)


# --- files ----------------------------------------------------------------------------------------


def test_checkpoints_are_models_and_give_the_predictions_of_the_average(tmp_path):
    trainer = tiny_trainer(tmp_path, epochs=4)
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
    assert_same_state(load_model(tmp_path / "best.pt").state_dict(), average.state_dict())
    assert all(row["validation_loss"] is None for row in trainer.history)


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = tiny_trainer(epochs=2)
    trainer.run()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no folder"):
        trainer.save()
    with pytest.raises(ValueError, match="no folder"):
        trainer.resume()


def test_log_has_one_row_per_epoch_also_after_resume(tmp_path):
    tiny_trainer(tmp_path, epochs=6).run(3)
    rows = read_log(tmp_path)
    assert list(rows[0]) == list(COLUMNS) and [r["epoch"] for r in rows] == ["1", "2", "3"]
    with open(tmp_path / "log.csv", "a") as file:  # as a run killed later leaves it
        file.write("4,12,9.9,0.1,1.0,,,,,\n")
    again = tiny_trainer(tmp_path, epochs=6)
    again.resume()
    again.run()
    rows = read_log(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert [float(row["train_loss"]) for row in rows] == [r["train_loss"] for r in again.history]
    assert [bool(row["validation_loss"]) for row in rows] == [False, True] * 3


def test_device():
    assert training_device("cpu").type == "cpu"
    if torch.cuda.is_available():
        assert training_device("auto").type == training_device("cuda").type == "cuda"
    else:
        assert training_device("auto").type == "cpu"
        with pytest.raises(ValueError, match=r"training\.device: cuda was asked for"):
            training_device("cuda")
