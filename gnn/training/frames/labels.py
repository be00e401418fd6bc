"""Which frames have which label, and what follows for training."""

import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gnn.data.common import LABELS
from gnn.data.streaming import StreamedFrames
from gnn.training.config import LossConfig
from gnn.training.frames.loader import Frames, headers, take


def label_table(frames: Frames) -> NDArray[np.bool_]:
    """Return which labels each frame has, (n, 5), in the order of `LABELS`."""
    if isinstance(frames, StreamedFrames):
        return frames.labels()
    rows = [[getattr(frame, name) is not None for name in LABELS] for frame in frames]
    return np.array(rows, dtype=bool).reshape(len(rows), len(LABELS))


def has_stress(frames: Frames) -> bool:
    """Return whether any of the frames has a stress to compare with."""
    return bool(label_table(frames)[:, LABELS.index("stress")].any())


def check_labelled(frames: Frames, what: str) -> None:
    """Raise a ValueError where none of the frames has a label to compare with."""
    if len(frames) and not label_table(frames).any():
        raise ValueError(
            f"{what}: frame 0 has no {', '.join(LABELS)}, nor has any of the {len(frames)} frames: "
            "there is nothing to compare with. Are the labels under other names?"
        )


def label_lines(parts: Mapping[str, Frames]) -> list[str]:
    """Say how many frames carry which label: in one line where all have the same ones.

    Parameters
    ----------
    parts : mapping
        Frames by what they are for, such as "train".
    """
    tables = {what: label_table(frames) for what, frames in parts.items() if len(frames)}
    could = {what: np.ones_like(table) for what, table in tables.items()}
    for what, table in could.items():
        # forces on charges are no label where there are none, and only cells have a stress
        systems = [header.system for header in headers(parts[what])]
        in_cell = np.array([system.in_cell for system in systems], dtype=bool)
        table[:, LABELS.index("mm_forces")] = [system.n_mm > 0 for system in systems]
        table[:, LABELS.index("stress")], table[:, LABELS.index("dipole")] = in_cell, ~in_cell
    everywhere, nowhere, lines = [], [], []
    for k, name in enumerate(LABELS):
        counts = {
            what: (table[:, k].sum(), could[what][:, k].sum()) for what, table in tables.items()
        }
        if not any(known for known, _ in counts.values()):
            possible = name not in ("stress", "dipole") or any(of for _, of in counts.values())
            nowhere += [name] * possible
        elif all(known == of for known, of in counts.values()):
            everywhere.append(name)
        else:
            told = ", ".join(f"{known} of {of} to {what}" for what, (known, of) in counts.items())
            which = {"mm_forces": " with charges around them", "stress": " in cells"}.get(name, "")
            lines.append(f"label {name}: in {told}{which}")
    if everywhere or nowhere:
        said = [f"{', '.join(everywhere)} in all frames"] if everywhere else []
        said += [f"{', '.join(nowhere)} in none"] if nowhere else []
        lines.insert(0, f"labels: {'; '.join(said)}")
    return lines


def _weighted(weights: LossConfig) -> np.ndarray:
    """Return which of `LABELS` have a weight in the loss."""
    return np.array([getattr(weights, name) > 0 for name in LABELS])


def with_weighted_labels(training: Frames, weights: LossConfig) -> Frames:
    """Return the frames with a label that has a weight in the loss; warn of the others."""
    useful = (label_table(training) & _weighted(weights)).any(axis=1)
    unused = np.count_nonzero(~useful)
    if not unused:
        return training
    weighted = _weighted(weights)
    weighted[LABELS.index("stress")] &= any(header.system.in_cell for header in headers(training))
    names = ", ".join(LABELS[k] for k in np.flatnonzero(weighted))
    wanted = f"of the labels with a weight in the loss ({names or 'all weights are zero'})"
    if unused == len(training):
        raise ValueError(
            f"nothing to train on: none of the {unused} training frames has any {wanted}"
        )
    warnings.warn(
        f"{unused} of {len(training)} training frames are not used: they have none {wanted}",
        stacklevel=4,
    )
    return take(training, np.flatnonzero(useful).tolist())


def labels_to_validate(training: Frames, validation: Frames, weights: LossConfig) -> list[str]:
    """Return the labels that validation frames have; refuse frames without a weighted label."""
    if not len(training):
        raise ValueError("expected at least one training frame, got none")
    if not len(validation):
        return []
    labelled = np.asarray(label_table(training).any(axis=0))
    weighted = _weighted(weights)
    stress = LABELS.index("stress")
    weighted[stress] &= labelled[stress]  # whose weight nobody sets who has no cells
    if not weighted.any():
        raise ValueError("loss: all weights are zero, so there is nothing to train on")
    trained = labelled & weighted
    there = label_table(validation).any(axis=0)
    if not (there & weighted).any():
        raise ValueError(
            "the validation frames have none of the labels with a weight in the loss, by which "
            "the best weights are chosen"
        )
    missing = [LABELS[k] for k in np.flatnonzero(trained & ~there)]
    if missing:
        warnings.warn(
            f"no validation frame has a label of {', '.join(missing)}: validation loss and best "
            "weights go by the other labels alone",
            stacklevel=4,
        )
    return [LABELS[k] for k in np.flatnonzero(there)]


def tell_without_surroundings(training: Frames, validation: Frames, weights: LossConfig) -> bool:
    """Tell whether a model blind to surroundings has labels to learn from and to be chosen by."""
    weighted = _weighted(weights.model_copy(update={"mm_forces": 0.0}))
    parts = [part for part in (training, validation) if len(part)]
    return all((label_table(part) & weighted).any() for part in parts)
