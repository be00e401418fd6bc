"""From a configuration to frames, splits and a model."""

from pathlib import Path

import numpy as np
import torch

from gnn.data import load_shipped, read_frames, shipped_path
from gnn.data.splits import split_indices
from gnn.data.streaming import StreamedFrames, stream_frames
from gnn.data.systems import Frame
from gnn.model import AMP
from gnn.potential import Potential
from gnn.training import checkpoint
from gnn.training.config import Config, DataConfig
from gnn.training.feed import Frames, heads, take
from gnn.training.labels import check_labelled, label_lines
from gnn.training.metrics import frame_name

Splits = tuple[Frames, Frames, Frames]


def load_splits(data: DataConfig) -> Splits:
    """Return training, validation and test frames.

    With ``vacuum`` the training frames come a second time without surroundings, labelled so. With
    ``stream`` they stay in their file until they are asked for.

    Raises
    ------
    ValueError
        If the file holds no frame, or none of a wanted molecule, or a set to check the model on
        holds an element that the training set lacks.
    """
    frames = _open(data)
    share = data.split
    parts = split_indices(
        [(head.name, head.run) for head in heads(frames)],
        share.train, share.validation, share.test, by=share.by, seed=share.seed,
    )  # fmt: skip
    chosen, *others = parts
    if data.max_frames is not None:
        chosen = _thin(chosen, data.max_frames)
    training = take(frames, chosen)
    if data.vacuum:
        training = _with_vacuum(training, data)
    validation, test = (take(frames, part) for part in others)
    _check_elements(training, validation, test)
    check_labelled(test if len(test) else validation, "frames to test on")
    return training, validation, test


def _with_vacuum(training: Frames, data: DataConfig) -> Frames:
    if isinstance(training, StreamedFrames):
        return training.with_vacuum()
    kept = {_identity(frame) for frame in training}
    copies = [f for f in _read(data, vacuum=True) if _identity(f) in kept]
    if len(copies) != len(training):
        raise ValueError(
            f"data.vacuum: {len(training) - len(copies)} of {len(training)} training frames "
            "have no vacuum labels"
        )
    return [*training, *copies]


def load_test_frames(path: str | Path) -> Frames:
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


def embedded(training: Frames, data: DataConfig) -> Frames:
    """Return the training frames without the vacuum copies that ``data.vacuum`` adds.

    The baselines learn from these: a model that sees no surroundings would otherwise get two
    labels for one geometry, and a mean be one of two kinds of energy.
    """
    return take(training, range(len(training) // 2)) if data.vacuum else training


def _check_elements(training: Frames, validation: Frames, test: Frames) -> None:
    known, *others = (_elements(part) for part in (training, validation, test))
    found = others[0] | others[1]
    if found - known:
        raise ValueError(
            f"validation or test frames hold elements {sorted(found - known)} (atomic numbers) "
            f"that no training frame has ({sorted(known)}): split the data in another way"
        )


def _elements(frames: Frames) -> set[int]:
    compositions = {head.system.numbers.tobytes() for head in heads(frames)}
    return set(np.frombuffer(b"".join(compositions), dtype=np.int64).tolist())


def _open(data: DataConfig) -> Frames:
    """Return all frames: read, or left in their file where they are to be streamed."""
    if not data.stream:
        return _read(data, vacuum=False)
    path = shipped_path() if data.source == "shipped" else data.source
    return stream_frames(
        path, names=data.molecules, block=data.stream_block, held=data.stream_buffer
    )


def _read(data: DataConfig, vacuum: bool) -> list[Frame]:
    if data.source == "shipped":
        return load_shipped(data.molecules, vacuum=vacuum)
    frames = read_frames(data.source, names=data.molecules, vacuum=vacuum, keys=data.keys)
    if not frames:
        raise ValueError(f"{data.source} holds no frame")
    return frames


def _identity(frame: Frame) -> tuple:
    return frame.name, frame.run, frame.system.positions.tobytes()


def _thin(chosen: list[int], count: int) -> list[int]:
    """Keep evenly spaced frames of the whole list, so every run and molecule stays."""
    if count >= len(chosen):
        return chosen
    return [chosen[i * len(chosen) // count] for i in range(count)]


def build_model(config: Config, training: Frames, last: Path | None = None) -> Potential:
    """Return the model to train, seeded by the config, with a baseline for the training frames.

    Fresh, or that of the checkpoint named by ``start``, whose weights are kept while the constant
    part of its energy is fitted anew: the labels may be of another level of theory. A run to be
    continued has all that in its checkpoint `last`.
    """
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    torch.manual_seed(config.training.seed)
    dtype = getattr(torch, config.training.dtype)
    if last is not None:
        return checkpoint.load_model(last).to(dtype).train()
    if config.start is None:
        model: Potential = AMP(**config.model).to(dtype)
        model.set_baseline(heads(training))
        return model
    model = checkpoint.load_model(config.start).to(dtype).train()
    model.refit_baseline(training)
    return model


def summary(splits: Splits) -> list[str]:
    """Return one line per molecule: frames, runs, charge, surroundings; and who has which label."""
    found: dict[str, dict] = {}
    for part, frames in enumerate(splits):
        for head in heads(frames):
            system = head.system
            mine = found.setdefault(
                frame_name(head), {"counts": [0, 0, 0], "runs": set(), "mm": 0, "system": system}
            )
            mine["counts"][part] += 1
            mine["runs"].add(head.run)
            mine["mm"] += system.n_mm
    lines = []
    for name, mine in sorted(found.items()):
        counts, system = mine["counts"], mine["system"]
        lines.append(
            f"{name:<6} {len(system.numbers):2d} atoms, charge {system.charge:+.0f}, in "
            f"{mine['mm'] / sum(counts):.0f} charges: {counts[0]} frames to train, {counts[1]} to "
            f"validate, {counts[2]} to test ({len(mine['runs'])} MD runs)"
        )
    return lines + label_lines(dict(zip(("train", "validate", "test"), splits, strict=True)))
