"""A data set and a model small enough to train in a test."""

import csv
from functools import cache

import numpy as np
import torch

from gnn import AMP, Frame, System
from gnn.data import load_shipped
from gnn.training.config import Config, parse_config
from gnn.training.loop import Trainer

MODEL = {
    "order": 1, "channels": 4, "features": 8, "steps": 1,
    "network": {"hidden": 8, "edge_features": 8},
}  # fmt: skip
N_MM = 10


def cut(frame: Frame, n_mm: int = N_MM) -> Frame:
    """The frame with its nearest point charges only; the labels stay as they are."""
    system = frame.system
    assert frame.mm_forces is not None  # the shipped frames have all labels
    distances = np.linalg.norm(system.mm_positions - system.positions.mean(0), axis=1)
    near = np.sort(np.argsort(distances)[:n_mm])
    small = System(
        system.numbers,
        system.positions,
        system.charge,
        system.mm_positions[near],
        system.mm_charges[near],
    )
    return Frame(
        small,
        frame.energy,
        frame.forces,
        frame.mm_forces[near],
        frame.dipole,
        run=frame.run,
        name=frame.name,
    )


@cache
def _by_run() -> dict[int, list[Frame]]:
    runs: dict[int, list[Frame]] = {}
    for frame in load_shipped(["meoh"]):
        if frame.group == "first":
            runs.setdefault(frame.run, []).append(frame)
    return {run: [cut(frame) for frame in frames[:4]] for run, frames in runs.items()}


def methanol() -> list[Frame]:
    """Four frames of each of six runs of methanol in three blocks."""
    blocks: dict[int, list[int]] = {}
    for run in sorted(_by_run()):
        blocks.setdefault(run // 100, []).append(run)
    chosen = [run for block in sorted(blocks)[:3] for run in blocks[block][:2]]
    return [frame for run in chosen for frame in _by_run()[run]]


def tiny_config(output="unused", model=None, data=None, loss=None, **training) -> Config:
    settings = {
        "epochs": 4, "batch_size": 4, "warmup_steps": 3, "validate_every": 2,
        "checkpoint_every": 2, "threads": 1,
    }  # fmt: skip
    return parse_config(
        {
            "data": data or {},
            "model": MODEL | (model or {}),
            "loss": loss or {},
            "training": settings | training,
            "output": str(output),
        }
    )


def tiny_model(frames=None, seed=0, dtype=torch.float32, **options) -> AMP:
    torch.manual_seed(seed)
    model = AMP.from_config(MODEL | options).to(dtype)
    model.set_baseline(methanol() if frames is None else frames)
    return model


def tiny_trainer(folder=None, model=None, frames=None, **training):
    frames = methanol() if frames is None else frames
    config = tiny_config(**training)
    dtype = getattr(torch, config.training.dtype)
    return Trainer(model or tiny_model(dtype=dtype), config, frames[:12], frames[16:20], folder)


def assert_same_state(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def read_log(folder):
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))
