"""Several processes train as one does; frames from a file train as frames in memory do."""

import errno
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny import MODEL, methanol, read_log, tiny_config, tiny_model

from gnn.cli import main
from gnn.data import collate, read_frames, write_frames
from gnn.data.common import LABELS
from gnn.data.streaming import stream_frames
from gnn.training.checkpoint import load
from gnn.training.config import load_config
from gnn.training.frames.load import load_splits
from gnn.training.loop import Trainer
from gnn.training.loss import label_counts
from gnn.training.parallel import Ranks
from gnn.training.report.metrics import without_surroundings
from gnn.training.setup import build_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.h5"
    write_frames(path, methanol())
    return path


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    """Frames of which some lack energies, forces, or forces on charges; some are in vacuum."""
    frames = methanol()
    for i, frame in enumerate(frames):
        lacking = [n for n, k in (("energy", 3), ("forces", 4), ("mm_forces", 5)) if i % k == 1]
        frame = replace(frame, **dict.fromkeys(lacking))
        frames[i] = without_surroundings(frame) if i % 6 == 2 else frame
    path = tmp_path_factory.mktemp("partial") / "data.h5"
    write_frames(path, frames)
    return path


def write_config(folder, data, **options):
    content = {
        "data": {"source": str(data)} | options.pop("reading", {}),
        "model": MODEL,
        "training": {
            "epochs": 3, "batch_size": 5, "warmup_steps": 3, "validate_every": 1,
            "checkpoint_every": 1, "threads": 1, "dtype": "float64",
        } | options.pop("training", {}),
        "output": str(folder),
    } | options  # fmt: skip
    path = Path(f"{folder}.yaml")
    path.write_text(yaml.safe_dump(content))
    return path


def torchrun(*arguments, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [*command, "--master-port", str(20000 + os.getpid() % 20000), "-m", "gnn", *arguments],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    return done


def weights(folder, name="last.pt"):
    return load(folder / name)["trainer"]["model"]


def assert_close(one, other, tolerance):
    assert one.keys() == other.keys()
    for key, value in one.items():
        if value.is_floating_point():
            here = value.isfinite()  # the extent is infinite for pairs that were not seen
            assert torch.equal(value[~here], other[key][~here]), key
            value, own = value[here], other[key][here]
            size = 1 + value.abs().max() if len(value) else 1
            assert ((value - own).abs() <= tolerance * size).all(), key


@pytest.fixture(scope="module")
def alone(partial, tmp_path_factory):
    """The run of one process, with the frames in memory."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert main(["train", str(write_config(folder, partial)), "--no-blind"]) == 0
    return folder


def test_two_processes_train_like_one(partial, alone, tmp_path):
    """Batches of five are shared three to two, and each process's frames have labels of their own:
    means of means would be wrong."""
    done = torchrun("train", str(write_config(tmp_path / "both", partial)), "--no-blind")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Errors on the held-out frames") == 1  # one of them prints
    assert "2 processes train together" in done.stdout
    assert_close(weights(alone), weights(tmp_path / "both"), 1e-10)
    for one, two in zip(read_log(alone), read_log(tmp_path / "both"), strict=True):
        for name in ("train_loss", "validation_loss", "validation_forces_rmse"):
            assert float(one[name]) == pytest.approx(float(two[name]), rel=1e-10)


@pytest.mark.slow
def test_a_run_begun_with_one_process_goes_on_with_two(partial, alone, tmp_path):
    path = write_config(tmp_path / "begun", partial)
    config = load_config(path)
    training, validation, _ = load_splits(config.data)
    trainer = Trainer(
        build_model(config, training), config, training, validation, tmp_path / "begun"
    )
    trainer.run(max_epochs=1)
    done = torchrun("train", str(path), "--no-blind", "--resume")
    assert done.returncode == 0, done.stderr
    assert_close(weights(alone), weights(tmp_path / "begun"), 1e-10)


def test_shares_of_the_batches_hold_all_labels_that_are_there(partial):
    frames = read_frames(partial)
    trainer = Trainer(tiny_model(), tiny_config(batch_size=6), frames)
    sums: Counter = Counter()
    for indices in trainer._batches():
        for rank in range(2):
            own = trainer.loader[Ranks(rank, 2).share(indices)]
            sums.update(label_counts(collate(own)))
    assert len(frames) == 24
    for name in LABELS:
        assert sums[name] == sum(np.size(v) for f in frames if (v := getattr(f, name)) is not None)


@pytest.mark.slow
def test_a_mistake_ends_all_processes_with_its_message(data, tmp_path):
    config = write_config(tmp_path / "run", tmp_path / "none.h5")
    done = torchrun("train", str(config))
    assert done.returncode != 0
    assert "no file" in done.stderr


def test_a_full_disk_ends_the_run_with_a_message_and_loses_nothing(
    data, tmp_path, monkeypatch, capsys
):
    alone = write_config(tmp_path / "alone", data)
    assert main(["train", str(alone), "--no-blind"]) == 0
    config = write_config(tmp_path / "run", data)
    written, write = [], Path.write_bytes

    def full(path, content):
        written.append(path)
        if len(written) > 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    capsys.readouterr()
    assert main(["train", str(config), "--no-blind"]) == 2
    message = capsys.readouterr().err
    assert "No space left on device" in message and str(tmp_path / "run") in message
    monkeypatch.undo()
    assert {p.suffix for p in (tmp_path / "run").iterdir()} <= {".pt", ".csv"}  # no leftovers
    assert main(["train", str(config), "--no-blind", "--resume"]) == 0
    assert_close(weights(tmp_path / "alone"), weights(tmp_path / "run"), 0.0)


def test_streamed_frames_train_to_the_same_weights(partial, alone, tmp_path):
    config = write_config(tmp_path / "file", partial, reading={"stream": True})
    assert main(["train", str(config), "--no-blind"]) == 0
    assert_close(weights(alone), weights(tmp_path / "file"), 0.0)


def test_streamed_frames_are_those_of_the_file(data):
    frames, streamed = methanol(), stream_frames(data, block=5, held=2)
    assert len(streamed) == len(frames)
    for i in (0, 23, 7, 12, 3):
        np.testing.assert_array_equal(streamed[i].system.positions, frames[i].system.positions)
        np.testing.assert_array_equal(streamed[i].mm_forces, frames[i].mm_forces)
        assert streamed[i].energy == frames[i].energy and streamed[i].run == frames[i].run
    assert [header.energy for header in streamed.headers()] == [frame.energy for frame in frames]
    part = streamed.take([4, 2]).map(lambda frame: frame.energy)
    assert list(part) == [frames[4].energy, frames[2].energy]


def test_only_some_blocks_are_in_memory(data, monkeypatch):
    streamed = stream_frames(data, block=4, held=2)
    reads = []
    order = streamed.order(np.random.default_rng(0))
    assert sorted(np.concatenate(order)) == list(range(24))
    assert [len(part) for part in order] == [8, 8, 8]  # two blocks of four at a time
    import gnn.data.stores as module

    real = module.read_group

    def counted(where, rows, *rest):
        reads.append(where)
        return real(where, rows, *rest)

    monkeypatch.setattr(module, "read_group", counted)
    for part in order:
        for i in part:
            streamed[i]
    assert len(reads) == 6  # each block once, although every frame was asked for at random


def test_streaming_is_for_hdf5(tmp_path):
    path = tmp_path / "frames.xyz"
    path.write_text("")
    with pytest.raises(ValueError, match="only HDF5 files can be streamed"):
        stream_frames(path)
    with pytest.raises(FileNotFoundError, match="no file"):
        stream_frames(tmp_path / "none.h5")


def test_tensorboard_gets_each_step_once(tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs the package tensorboard",
    )
    frames = methanol()

    def trainer():
        config = tiny_config(tensorboard=True, epochs=4, validate_every=1, checkpoint_every=2)
        return Trainer(tiny_model(), config, frames[:12], frames[16:20], tmp_path)

    trainer().run(max_epochs=3)
    # killed in the third epoch: its checkpoint is that of the second
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert state["trainer"]["epoch"] == 3
    again = trainer()
    again.resume()
    again.run()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert "loss/training" in events.Tags()["scalars"]
    steps = [event.step for event in events.Scalars("loss/training")]
    assert steps == [3, 6, 9, 12]
    values = [event.value for event in events.Scalars("loss/validation")]
    logged = [float(row["validation_loss"]) for row in read_log(tmp_path)]
    np.testing.assert_allclose(values, logged, rtol=1e-6)
