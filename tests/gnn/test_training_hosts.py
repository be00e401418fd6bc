"""Frames divided by file among processes, and runs that lose one of them or are told to stop."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_training_parallel import ROOT, assert_close, torchrun, weights
from tiny import MODEL, methanol, read_log, tiny_config, tiny_model

from gnn.cli import main
from gnn.data import write_frames
from gnn.data.streaming import stream_frames
from gnn.training.loop import Trainer
from gnn.training.parallel import Ranks
from gnn.training.run import run_training
from gnn.training.sharing import Shares
from gnn.training.stopping import TRY_AGAIN, Stopped


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three files of unlike size."""
    folder, frames = tmp_path_factory.mktemp("files"), methanol()
    parts = frames[::2], frames[1::4], frames[3::4]
    for k, part in enumerate(parts):
        write_frames(folder / f"{k}.h5", part)
    return [folder / f"{k}.h5" for k in range(3)]


#: Of weights after many steps. One of them, a constant of antisymmetric transfers, has no effect:
#: its gradient is rounding, which Adam scales up (5e-10 after 80 steps).
_ROUNDING = 1e-8


def write_config(path, files, **training):
    content = {
        "data": {"source": [str(file) for file in files], "stream": True, "stream_block": 3},
        "model": MODEL,
        "training": {
            "epochs": 3, "batch_size": 5, "warmup_steps": 3, "validate_every": 1,
            "checkpoint_every": 2, "threads": 1, "dtype": "float64",
        } | training,
        "output": str(path.with_suffix("")),
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content))
    return path


# --- the division -----------------------------------------------------------------------------


def test_frames_of_several_files_take_turns(files):
    frames = stream_frames(files, block=2, held=2)
    orders = [np.concatenate(frames.order(np.random.default_rng([0, e]))) for e in (0, 0, 1)]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).any()
    for order in orders:
        assert sorted(order.tolist()) == list(range(24))  # all of them once
        of = frames.file_of()[order]
        for start in range(0, 24, 4):  # of each file its share: two, one and one
            counts = np.bincount(of[start : start + 4], minlength=3)
            assert (np.abs(counts - [2, 1, 1]) <= 1).all()


def test_each_process_reads_its_own_files(files):
    """Batches are the same for any number of processes, which together work on all of each."""
    whole = stream_frames(files, block=3, held=2)
    batches = Trainer(tiny_model(), tiny_config(batch_size=6), whole)._batches()
    seen: list = []
    for rank in range(2):
        frames = stream_frames(files, block=3, held=2)
        shares = Shares(Ranks(rank, 2), frames)
        owner = shares.owner_of(frames)
        trainer = Trainer(tiny_model(), tiny_config(batch_size=6), frames)
        for one, other in zip(batches, trainer._batches(), strict=True):
            np.testing.assert_array_equal(one, other)
            seen += trainer.loader[shares.of_batch(one, owner)]
        reads = [store.reads > 0 for store in frames._store.stores]
        assert reads == [[True, False, False], [False, True, True]][rank]
        (line,) = shares.lines(frames, 6)
        assert "3 files are divided among 2 processes" in line
        assert "12 to 12 frames, the largest share of atoms 1.00 times the mean" in line
        assert set(shares.mine(frames)) == set(np.flatnonzero(owner == rank))
    assert len(seen) == 24


def test_what_is_lost_or_uneven_is_said(files):
    frames = stream_frames(files)
    (lost,) = Shares(Ranks(), frames).lines(frames, 7)
    assert "3 steps of 7 frames; 3 of 24, others each time" in lost
    (few,) = Shares(Ranks(0, 4), frames).lines(frames, 6)
    assert "3 files cannot be divided among 4 processes: each reads all" in few
    with pytest.warns(UserWarning, match=r"1\.50 times the mean number of atoms"):
        Shares(Ranks(0, 3), frames).lines(frames, 6)
    assert Shares(Ranks(1, 2), methanol()).lines(methanol(), 6) == []  # in memory


# --- stop and go on -----------------------------------------------------------------------------


def _stopped(trainer, steps):
    """Train until a signal comes in a step, as from a scheduler."""
    step = trainer._train_step

    def told(*arguments):
        if trainer.step == steps:
            trainer.ranks.signals.name = "SIGUSR1"
        return step(*arguments)

    trainer._train_step = told
    with pytest.raises(Stopped) as stop:
        trainer.run()
    return str(stop.value)


def test_a_run_goes_on_within_an_epoch(files, tmp_path):
    def trainer(folder):
        frames = stream_frames(files, block=3, held=2)
        config = tiny_config(batch_size=6, epochs=3, checkpoint_every=3, validate_every=1)
        return Trainer(tiny_model(), config, frames, methanol()[:4], folder)

    trainer(tmp_path / "whole").run()
    assert _stopped(trainer(tmp_path / "parts"), 6) == "epoch 2, after 3 of its 4 steps"
    again = trainer(tmp_path / "parts")
    again.resume()
    assert (again.step, again.position) == (7, 3)
    again.run()
    assert_close(weights(tmp_path / "whole"), weights(tmp_path / "parts"), 0.0)
    for one, two in zip(read_log(tmp_path / "whole"), read_log(tmp_path / "parts"), strict=True):
        assert one["train_loss"] == two["train_loss"]  # of all steps of the epoch


def test_the_clock_saves_within_an_epoch(files, tmp_path):
    frames = stream_frames(files, block=3, held=2)
    config = tiny_config(batch_size=6, epochs=9, checkpoint_every=9, checkpoint_seconds=1e-9)
    trainer, saved = Trainer(tiny_model(), config, frames, folder=tmp_path), []
    trainer.save = lambda: saved.append((trainer.epoch, trainer.position))
    trainer.run(max_epochs=1)
    assert saved[:4] == [(0, 1), (0, 2), (0, 3), (0, 4)]


def _train(config, *more):
    return subprocess.Popen(
        [sys.executable, "-m", "gnn", "train", str(config), "--no-blind", *more],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def _until(path: Path, process):
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_scheduler_ends_a_run_and_has_it_again(name, files, tmp_path):
    alone = write_config(tmp_path / "alone.yaml", files, epochs=40)
    assert main(["train", str(alone), "--no-blind"]) == 0
    config = write_config(tmp_path / "run.yaml", files, epochs=40)
    first = _train(config, "--go-on")
    _until(tmp_path / "run" / "last.pt", first)
    first.send_signal(getattr(signal, name))
    told = first.communicate(timeout=100)[0]
    assert first.returncode == TRY_AGAIN, told
    assert "stopped by a signal (epoch" in told and "--go-on" in told
    note = tmp_path / "run" / "unfinished"
    assert note.read_text().startswith(f"{name}: epoch")
    second = _train(config, "--go-on")
    told = second.communicate(timeout=300)[0]
    assert second.returncode == 0 and not note.exists()
    assert "what followed is done again" in told
    assert_close(weights(tmp_path / "alone"), weights(tmp_path / "run"), 0.0)


def test_a_second_run_is_told_how_it_would_go_on(files, tmp_path, capsys):
    config = write_config(tmp_path / "run.yaml", files, epochs=1)
    assert main(["train", str(config), "--no-blind", "--go-on"]) == 0
    assert main(["train", str(config), "--no-blind"]) == 2
    assert "--resume (--go-on," in capsys.readouterr().err
    assert main(["train", str(config), "--no-blind", "--go-on"]) == 0
    assert "nothing is left to train" in capsys.readouterr().out
    assert main(["train", str(config), "--resume", "--go-on"]) == 2


# --- several processes ----------------------------------------------------------------------------


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_weights(files, tmp_path):
    for count in (1, 2, 3):
        config = write_config(tmp_path / f"{count}.yaml", files)
        done = torchrun("train", str(config), "--no-blind", processes=count)
        assert done.returncode == 0, done.stderr
        assert count == 1 or f"3 files are divided among {count} processes" in done.stdout
        assert_close(weights(tmp_path / "1"), weights(tmp_path / str(count)), 1e-10)


def _workers(agent):
    """Return the processes that a torchrun has started."""
    return [
        int(stat.parent.name)
        for stat in Path("/proc").glob("[0-9]*/stat")
        if stat.read_text().rpartition(")")[2].split()[1] == str(agent.pid)
    ]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds workers in /proc")
def test_a_lost_worker_changes_nothing(files, tmp_path):
    """One of two is killed in the middle; both are started anew, and come to the same end."""
    alone = write_config(tmp_path / "alone.yaml", files, epochs=40)
    assert main(["train", str(alone), "--no-blind"]) == 0
    config = write_config(tmp_path / "run.yaml", files, epochs=40)
    agent = subprocess.Popen(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
            "--max-restarts", "2", "--master-port", str(21000 + os.getpid() % 20000),
            "-m", "gnn", "train", str(config), "--no-blind",
        ],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    _until(tmp_path / "run" / "last.pt", agent)
    os.kill(_workers(agent)[-1], signal.SIGKILL)
    told, errors = agent.communicate(timeout=400)
    assert agent.returncode == 0, errors
    assert "lost the others" in errors and "goes on in epoch" in told
    assert_close(weights(tmp_path / "alone"), weights(tmp_path / "run"), _ROUNDING)
    losses = [read_log(tmp_path / name)[-1]["train_loss"] for name in ("alone", "run")]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-10)


def test_a_process_that_torchrun_started_anew_goes_on(files, tmp_path, monkeypatch):
    from gnn.training.config import load_config

    config = load_config(write_config(tmp_path / "run.yaml", files, epochs=1))
    lines: list = []
    from rich.console import Console

    run_training(config, Console(quiet=True))
    with pytest.raises(ValueError, match="holds a training run already"):
        run_training(config, Console(quiet=True))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    run_training(config, Console(quiet=True), say=lines.append)
    assert any("trained" in line for line in lines)


# --- the scripts of the documentation -------------------------------------------------------------

SCRIPTS = sorted((ROOT / "docs" / "slurm").glob("*.sh"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_well_formed(script):
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


_SRUN = 'while [[ $1 == --* ]]; do shift; done\nexec "$@"\n'
_SCONTROL = 'case $1 in show) echo localhost ;; *) echo "$@" >>"$REQUEUED" ;; esac\n'


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_script_saves_and_queues_again(files, tmp_path):
    """With stand-ins for the commands of SLURM on one node."""
    alone = write_config(tmp_path / "alone.yaml", files, epochs=40)
    assert main(["train", str(alone), "--no-blind"]) == 0
    config = write_config(tmp_path / "run.yaml", files, epochs=40)
    programs = tmp_path / "bin"
    programs.mkdir()
    torchrun = f'exec {sys.executable} -m torch.distributed.run "$@" --no-blind\n'
    for name, text in (("srun", _SRUN), ("scontrol", _SCONTROL), ("torchrun", torchrun)):
        (programs / name).write_text(f"#!/bin/bash\n{text}")
        (programs / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}", "REQUEUED": str(tmp_path / "requeued"),
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "x", "SLURM_CPUS_PER_TASK": "2", "PROCESSES": "2",
    }  # fmt: skip
    words = ["bash", str(ROOT / "docs" / "slurm" / "train.sh"), str(config), str(tmp_path / "run")]
    job = subprocess.Popen(words, cwd=ROOT, env=environment)
    _until(tmp_path / "run" / "last.pt", job)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=200) == 0
    assert (tmp_path / "requeued").read_text() == f"requeue {os.getpid()}\n"
    assert subprocess.run(words, cwd=ROOT, env=environment, timeout=300).returncode == 0
    assert (tmp_path / "requeued").read_text().count("requeue") == 1
    assert_close(weights(tmp_path / "alone"), weights(tmp_path / "run"), _ROUNDING)
