"""From a configuration to frames, splits and a model."""

from collections.abc import Sequence
from pathlib import Path

import torch

from gnn.data import load_shipped, read_frames, split_by_run
from gnn.data.systems import Frame
from gnn.model import AMP
from gnn.potential import Potential
from gnn.training import checkpoint
from gnn.training.config import Config, DataConfig
from gnn.training.metrics import frame_name

Splits = tuple[list[Frame], list[Frame], list[Frame]]


def load_splits(data: DataConfig) -> Splits:
    """Return training, validation and test frames.

    With ``vacuum`` the training frames come a second time without surroundings, labelled so.

    Raises
    ------
    ValueError
        If the file holds no frame, or none of a wanted molecule, or a set to check the model on
        holds an element that the training set lacks.
    """
    frames = _read(data, vacuum=False)
    share = data.split
    splits = split_by_run(
        frames, share.train, share.validation, share.test, by=share.by, seed=share.seed
    )
    training, validation, test = splits
    if data.max_frames is not None:
        training = _thin(training, data.max_frames)
    if data.vacuum:
        kept = {_identity(frame) for frame in training}
        copies = [f for f in _read(data, vacuum=True) if _identity(f) in kept]
        if len(copies) != len(training):
            raise ValueError(
                f"data.vacuum: {len(training) - len(copies)} of {len(training)} training frames "
                "have no vacuum labels"
            )
        training = training + copies
    _check_elements(training, validation + test)
    return training, validation, test


def load_test_frames(path: str | Path) -> list[Frame]:
    """Return the test frames of the run that wrote a checkpoint.

    Raises
    ------
    ValueError
        If the checkpoint does not say what it was trained on.
    """
    record = checkpoint.load(path).get("data")
    if record is None:
        raise ValueError(
            f"{path} does not record the data it was trained on, so no frame is known to be "
            "unseen: name a file of labelled frames"
        )
    return load_splits(DataConfig(**record))[2]


def embedded(training: Sequence[Frame], data: DataConfig) -> list[Frame]:
    """Return the training frames without the vacuum copies that ``data.vacuum`` adds.

    The baselines learn from these: a model that sees no surroundings would otherwise get two
    labels for one geometry, and a mean be one of two kinds of energy.
    """
    frames = list(training)
    return frames[: len(frames) // 2] if data.vacuum else frames


def _check_elements(training: Sequence[Frame], others: Sequence[Frame]) -> None:
    known, found = (
        {z for f in part for z in f.system.numbers.tolist()} for part in (training, others)
    )
    if found - known:
        raise ValueError(
            f"validation or test frames hold elements {sorted(found - known)} (atomic numbers) "
            f"that no training frame has ({sorted(known)}): split the data in another way"
        )


def _read(data: DataConfig, vacuum: bool) -> list[Frame]:
    if data.source == "shipped":
        return load_shipped(data.molecules, vacuum=vacuum)
    frames = read_frames(
        data.source, names=data.molecules, vacuum=vacuum, keys=data.keys
    )
    if not frames:
        raise ValueError(f"{data.source} holds no frame")
    return frames


def _identity(frame: Frame) -> tuple:
    return frame.name, frame.run, frame.system.positions.tobytes()


def _thin(frames: list[Frame], count: int) -> list[Frame]:
    """Keep evenly spaced frames of the whole list, so every run and molecule stays."""
    if count >= len(frames):
        return frames
    return [frames[i * len(frames) // count] for i in range(count)]


def build_model(config: Config, training: Sequence[Frame]) -> Potential:
    """Return the model to train, seeded by the config, with a baseline for the training frames.

    Fresh, or that of the checkpoint named by ``start``, whose weights are kept while the constant
    part of its energy is fitted anew: the labels may be of another level of theory.
    """
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    torch.manual_seed(config.training.seed)
    dtype = getattr(torch, config.training.dtype)
    if config.start is None:
        model: Potential = AMP(**config.model).to(dtype)
        model.set_baseline(training)
        return model
    model = checkpoint.load_model(config.start).to(dtype).train()
    model.refit_baseline(training)
    return model


def summary(splits: Splits) -> list[str]:
    """Return one line per molecule: how many frames and runs, charge, surroundings."""
    lines = []
    frames = [frame for part in splits for frame in part]
    for name in sorted({frame_name(frame) for frame in frames}):
        mine = [f for f in frames if frame_name(f) == name]
        counts = [sum(frame_name(f) == name for f in part) for part in splits]
        system = mine[0].system
        particles = sum(len(f.system.mm_charges) for f in mine) / len(mine)
        lines.append(
            f"{name:<6} {len(system.numbers):2d} atoms, charge {system.charge:+.0f}, in "
            f"{particles:.0f} charges: {counts[0]} frames to train, {counts[1]} to validate, "
            f"{counts[2]} to test ({len({f.run for f in mine})} MD runs)"
        )
    return lines
