"""A run that was stopped or killed continues to the same weights, bit by bit."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from tiny import (
    MODEL,
    assert_same_state,
    methanol,
    read_log,
    tiny_config,
    tiny_model,
    tiny_trainer,
)

from gnn.cli import main
from gnn.data import write_frames
from gnn.training.loop import Trainer
from gnn.training.resume import agree
from gnn.training.schedule import learning_rate

ROOT = Path(__file__).resolve().parents[2]


def _without_clock(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def _assert_same_run(a, b):
    assert_same_state(a.model.state_dict(), b.model.state_dict())
    assert_same_state(a.average.state_dict(), b.average.state_dict())
    assert _without_clock(a.history) == _without_clock(b.history)
    assert (a.epoch, a.step, a.stale, a.best) == (b.epoch, b.step, b.stale, b.best)


@pytest.mark.parametrize(
    ("dtype", "stop"),
    [("float32", 3), ("float64", 4)]
    + [
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [("float32", 1), ("float32", 4), ("float64", 1), ("float64", 3)]
    ],
)
def test_resumed_run_equals_an_uninterrupted_one_bit_by_bit(tmp_path, dtype, stop):
    options = {"epochs": 6, "dtype": dtype, "ema": 0.9, "weight_decay": 1e-3, "batch_size": 5}
    straight = tiny_trainer(tmp_path / "a", **options)
    straight.run()
    tiny_trainer(tmp_path / "b", **options).run(stop)
    other = tiny_model(seed=17, dtype=getattr(torch, dtype))  # what it holds must not matter
    resumed = tiny_trainer(tmp_path / "b", model=other, **options)
    resumed.resume()
    assert resumed.epoch == stop
    resumed.run()
    _assert_same_run(straight, resumed)
    for name in ("last.pt", "best.pt"):
        a, b = (torch.load(tmp_path / x / name, weights_only=True) for x in "ab")
        assert_same_state(a["state_dict"], b["state_dict"])


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    first = tiny_trainer(tmp_path, epochs=3)
    first.run()
    again = tiny_trainer(tmp_path, epochs=3)
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
    tiny_trainer(tmp_path, epochs=2).run(1)
    model = tiny_model(**changed.get("model", {}))
    frames = methanol()
    config = tiny_config(**({"epochs": 2} | changed))
    other = Trainer(model, config, frames[:12], frames[16:20], tmp_path)
    with pytest.raises(ValueError, match=f"another configuration.*section '{section}'"):
        other.resume()


def test_options_of_the_model_are_compared_by_meaning():
    old = tiny_config().model_dump() | {"model": {"hidden": 8, "method": "numba", "steps": 2}}
    new = tiny_config().model_copy(update={"model": {"network": {"hidden": 8}}})
    assert agree(old, new, "last.pt") == []
    new.model["network"]["hidden"] = 9
    with pytest.raises(ValueError, match=r"section 'model': network\.hidden is 9, was 8\)"):
        agree(old, new, "last.pt")


def test_lists_of_blocks_are_compared_too():
    split = {"by": "block", "train": [1, 2, 3], "validation": [5], "test": [4]}
    config = tiny_config(data={"split": split})
    assert agree(config.model_dump(), config, "last.pt") == []
    other = tiny_config(data={"split": split | {"train": [1, 2]}})
    with pytest.raises(ValueError, match=r"split\.train is \[1, 2\], was \[1, 2, 3\]"):
        agree(config.model_dump(), other, "last.pt")


def test_resume_says_what_differs(tmp_path):
    tiny_trainer(tmp_path, epochs=2, learning_rate=1e-3).run(1)
    with pytest.raises(ValueError, match=r"learning_rate is 0\.002, was 0\.001"):
        tiny_trainer(tmp_path, epochs=2, learning_rate=2e-3).resume()


def test_resume_names_all_that_differs(tmp_path):
    tiny_trainer(tmp_path, epochs=2, learning_rate=1e-3).run(1)
    frames = methanol()
    config = tiny_config(epochs=2, clip=3.0, data={"split": {"seed": 3}})
    other = Trainer(tiny_model(), config, frames[:12], frames[16:20], tmp_path)
    with pytest.raises(ValueError) as caught:
        other.resume()
    for told in ("split.seed is 3, was 0", "learning_rate is 0.002, was 0.001", "clip is 3.0, was"):
        assert told in str(caught.value)


def test_a_finished_run_is_given_more_epochs(tmp_path):
    """It goes on as a run would that had been set up so and stands where this one does."""
    tiny_trainer(tmp_path, epochs=3).run()
    longer = tiny_trainer(tmp_path, epochs=6)
    changed, schedule = longer.resume()
    assert changed == "training.epochs is 6 now, was 3"
    # three steps an epoch: the next rate is that of half the schedule
    assert "at epoch 3 it goes from 2e-05 to 0.001 (50 % of the schedule)" in schedule
    weights = [p.detach().clone() for p in longer.model.parameters()]
    longer.run()
    assert longer.epoch == 6 and len(longer.history) == 6
    assert any(
        not torch.equal(a, b) for a, b in zip(weights, longer.model.parameters(), strict=True)
    )
    rates = [row["learning_rate"] for row in longer.history]
    expected = [learning_rate(longer.settings, 3 * k + 2, 3 * (k + 1) / 18) for k in range(3, 6)]
    assert rates[3:] == expected and rates[-1] == pytest.approx(2e-5)
    assert [row["epoch"] for row in read_log(tmp_path)] == list("123456")
    assert (
        torch.load(tmp_path / "last.pt", weights_only=True)["trainer"]["config"]["training"][
            "epochs"
        ]
        == 6
    )  # and may be continued as such


def test_a_run_that_ran_out_of_time_is_given_more(tmp_path):
    first = tiny_trainer(tmp_path, epochs=50, time_limit=1e-3)
    first.run()
    assert first.epoch == 1
    same = tiny_trainer(tmp_path, epochs=50, time_limit=1e-3)
    (line,) = same.resume()
    assert line.startswith("nothing is left to train: ") and "training.time_limit: 0.001" in line
    more = tiny_trainer(tmp_path, epochs=3, time_limit=1e5)
    lines = more.resume()
    assert lines[0] == "training.epochs is 3 now, was 50"
    assert lines[1] == "training.time_limit is 100000.0 now, was 0.001"
    more.run()
    assert more.epoch == 3


def test_patience_may_be_raised(tmp_path):
    first = tiny_trainer(tmp_path, epochs=9, patience=1, validate_every=1)
    first.stale, first.epoch = 1, 2
    first.save()
    same = tiny_trainer(tmp_path, epochs=9, patience=1, validate_every=1)
    (line,) = same.resume()
    assert "1 validations brought no improvement (training.patience: 1)" in line
    more = tiny_trainer(tmp_path, epochs=9, patience=2, validate_every=1)
    assert more.resume() == ["training.patience is 2 now, was 1"] and not more.finished


def test_what_is_harmless_may_change(tmp_path):
    """Threads, and how often is looked and saved: the weights stay those of a straight run."""
    straight = tiny_trainer(tmp_path / "a", epochs=4)
    straight.run()
    tiny_trainer(tmp_path / "b", epochs=4).run(2)
    other = tiny_trainer(tmp_path / "b", epochs=4, threads=2, checkpoint_every=1, validate_every=1)
    lines = other.resume()
    assert sorted(line.split()[0] for line in lines) == [
        "training.checkpoint_every", "training.threads", "training.validate_every",
    ]  # fmt: skip
    other.run()
    assert_same_state(straight.model.state_dict(), other.model.state_dict())


def test_runs_from_before_there_were_other_splits_go_on(tmp_path):
    tiny_trainer(tmp_path, epochs=2).run(1)
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    data = content["trainer"]["config"]["data"]
    data["source"] = "./somewhere/../shipped"  # in other words
    for key in ("train", "valid", "test", "isolated_atoms"):
        del data[key]
    del data["split"]["key"]
    data["split"]["by"] = "run"
    del content["trainer"]["config"]["committee"]["perturbation"]
    content["trainer"]["config"]["committee"]["bootstrap"] = False
    torch.save(content, tmp_path / "last.pt")
    assert tiny_trainer(tmp_path, epochs=2).resume() == []


def test_resume_on_other_data_is_refused(tmp_path):
    tiny_trainer(tmp_path, epochs=2).run(1)
    with pytest.raises(ValueError, match="other training frames"):
        tiny_trainer(tmp_path, epochs=2, frames=methanol()[4:]).resume()
    relabelled = [replace(frame, forces=2 * frame.forces) for frame in methanol()]
    with pytest.raises(ValueError, match="other training frames"):
        tiny_trainer(tmp_path, epochs=2, frames=relabelled).resume()


def test_resume_from_a_bare_model_or_from_nothing(tmp_path):
    trainer = tiny_trainer(tmp_path, epochs=2)
    with pytest.raises(FileNotFoundError, match="nothing to resume in"):
        trainer.resume()
    trainer.run()
    with pytest.raises(ValueError, match="holds a model but no training state"):
        tiny_trainer(epochs=2).resume(tmp_path / "best.pt")


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
        if (folder / "log.csv").exists() and len(read_log(folder)) >= count:
            return
        time.sleep(0.01)
    pytest.fail("the run made no progress")


def test_run_killed_in_the_middle_resumes_to_the_same_weights(tmp_path, capsys):
    epochs = 40
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
        assert_same_state(a["state_dict"], b["state_dict"])
        if name == "last.pt":
            assert_same_state(a["trainer"]["model"], b["trainer"]["model"])
            assert _without_clock(a["trainer"]["history"]) == _without_clock(
                b["trainer"]["history"]
            )
    assert [row["epoch"] for row in read_log(tmp_path / "killed")] == [
        str(k + 1) for k in range(epochs)
    ]
