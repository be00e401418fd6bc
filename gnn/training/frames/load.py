"""From a configuration to training, validation and test frames."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gnn.data.checking.copies import Copies
from gnn.data.heads import head_filter
from gnn.data.partition import Partition, hold_out, partition
from gnn.data.shipped import BLOCKS, UNSEEN
from gnn.data.splits import RUNS_PER_BLOCK, is_of
from gnn.data.streaming import Header, StreamedFrames
from gnn.data.systems import Frame
from gnn.published import by_name
from gnn.training import checkpoint
from gnn.training.config import DataConfig, SplitConfig
from gnn.training.frames.isolated import Isolated, isolated_atoms, single_atoms, without_isolated
from gnn.training.frames.labels import check_labelled, label_lines, label_table
from gnn.training.frames.loader import Frames, headers, take
from gnn.training.frames.sources import SHIPPED, is_surrounded, level_of, open_frames, with_vacuum
from gnn.training.report.metrics import frame_name

Splits = tuple[Frames, Frames, Frames]
_SHOWN = 20  # molecules of which a line each is printed


@dataclass(frozen=True)
class LoadedData:
    """Frames of a training run.

    Parameters
    ----------
    splits
        Training, validation and test frames.
    isolated
        Energies of isolated atoms, which are in none of them.
    lines
        How the frames were split, and why.
    """

    splits: Splits
    isolated: Isolated = field(default_factory=lambda: Isolated({}))
    lines: Sequence[str] = ()


def load_splits(data: DataConfig) -> Splits:
    """Return training, validation and test frames; see `load_data`."""
    return load_data(data).splits


def load_data(data: DataConfig, check: bool = True) -> LoadedData:
    """Return training, validation and test frames, and the energies of isolated atoms.

    The frames of one source are split as `gnn.data.partition.partition` says; where there is a
    file for each set, those are the sets. If none is there to validate on, a part of the training
    frames is held out. With ``vacuum`` the training frames that have surroundings come a second
    time without them, labelled so. With ``stream`` they stay in their file until they are asked
    for.

    Warnings say how many held-out frames have the geometry of a training frame, or are of
    molecules that no training frame has; all frames are read for that. Not if `check` is false,
    as in a process beside another one that warns.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a file holds no frame, or none of a wanted molecule, or a set to check the model on
        holds an element that the training set lacks.
    """
    read = _split_source if data.train is None else _file_for_each_set
    (training, validation, test), isolated, lines = read(data)
    if not len(validation):
        parts = hold_out(list(headers(training)), data.split.seed)
        training, validation = take(training, parts.train), take(training, parts.validation)
        lines.append(f"no frames to validate on are given: held out {parts.remark}")
    if not len(test):
        lines.append(
            "no frames to test on: errors are those on the validation frames, which also "
            "choose the best model"
        )
    if data.max_frames is not None:
        training = take(training, _thin(len(training), data.max_frames))
    if data.vacuum:
        training = with_vacuum(training, data)
    _check_elements(training, validation, test)
    check_labelled(test if len(test) else validation, "frames to test on")
    unseen = UNSEEN if data.source == SHIPPED else ()
    if check:
        _warn_of_overlap(training, validation, test, data.split.test_molecules or unseen)
    _warn_of_single_atoms(training, validation, test)
    return LoadedData((training, validation, test), isolated, lines)


def _split_source(data: DataConfig) -> tuple[list[Frames], Isolated, list[str]]:
    """Split the labelled frames of one source, without isolated atoms, into three sets."""
    source = open_frames(data, data.files()[0])
    source = _of_groups(_of_heads([source], data)[0], data)
    known = list(headers(source))
    isolated = isolated_atoms(known, data.isolated_atoms)
    labelled = np.asarray(label_table(source).any(axis=1))
    kept = without_isolated(known)
    check_labelled(take(source, kept), str(data.source))
    kept = [i for i in kept if labelled[i]]
    parts = _parts_of(data, [known[i] for i in kept])
    sets = [take(source, [kept[i] for i in part]) for part in parts[:3]]
    lines = [parts.remark]
    if not labelled.all():
        count = len(labelled) - np.count_nonzero(labelled)
        lines.append(f"{count} of {len(labelled)} frames have no label and are left out")
    return sets, isolated, lines


def _parts_of(data: DataConfig, known: list[Frame | Header]) -> Partition:
    if not known:
        raise ValueError(f"{data.source} holds no frame but isolated atoms: nothing to train on")
    share = data.split
    if data.source == SHIPPED and not share.given:
        share = _shipped_split(share, known)
    by = "group" if share.key is not None else share.by
    alone = share.test_molecules or []
    if missing := [one for one in alone if not any(is_of(f.name, [one]) for f in known)]:
        raise ValueError(
            f"split.test_molecules: {data.source} holds no molecule {missing[0]!r}; found "
            f"{', '.join(sorted({f.name for f in known}))}"
        )
    rest = [i for i, frame in enumerate(known) if not is_of(frame.name, alone)]
    parts = partition(
        [known[i] for i in rest], share.train, share.validation, share.test, by=by, seed=share.seed
    )
    training, validation, test = ([rest[i] for i in part] for part in parts[:3])
    if not alone:
        return parts
    test = sorted({*range(len(known))} - {*rest} | {*test})
    remark = f"{parts.remark}; tested on alone are all frames of {', '.join(alone)}"
    return Partition(training, validation, test, remark)


def _of_heads(sets: Sequence[Frames], data: DataConfig) -> list[Frames]:
    """Return the frames of one level of theory, or of those that are named."""
    known = [list(headers(frames)) for frames in sets]
    fits = head_filter((one for part in known for one in part), data.heads, "data.head (--head)")
    kept = [[i for i, one in enumerate(part) if fits(one)] for part in known]
    return [
        frames if len(own) == len(part) else take(frames, own)
        for frames, own, part in zip(sets, kept, known, strict=True)
    ]


def _of_groups(frames: Frames, data: DataConfig) -> Frames:
    """Return the frames of the sorts that are wanted."""
    if data.groups is None:
        return frames
    of = [frame.group for frame in headers(frames)]
    if missing := [group for group in data.groups if group not in of]:
        found = ", ".join(sorted({group or "none" for group in of}))
        raise ValueError(f"data.groups: no frame is of group {missing[0]!r}; found {found}")
    return take(frames, [i for i, group in enumerate(of) if group in data.groups])


def _shipped_split(default: SplitConfig, known: list[Frame | Header]) -> SplitConfig:
    """Return the split of the model that ships, or the default one where blocks are missing.

    Molecules that the model never saw are tested on.
    """
    blocks = {frame.run // RUNS_PER_BLOCK for frame in known}
    if not all(blocks.issuperset(numbers) for numbers in BLOCKS.values()):
        return default
    unseen = [name for name in UNSEEN if any(is_of(frame.name, [name]) for frame in known)]
    return SplitConfig(**BLOCKS, by="block", test_molecules=unseen or None)


def _file_for_each_set(data: DataConfig) -> tuple[list[Frames], Isolated, list[str]]:
    """Open the files of each set, and take isolated atoms out of them."""
    named = {key: getattr(data, key) for key in ("train", "valid", "test")}
    files = [[one] if isinstance(one, str) else one for one in named.values()]
    opened = _of_heads([[] if one is None else open_frames(data, one) for one in files], data)
    sets: list[Frames] = []
    everything: list[Frame | Header] = []
    for key, one in zip(named, opened, strict=True):
        if named[key] is None:
            sets.append([])
            continue
        frames = _of_groups(one, data)
        known = list(headers(frames))
        everything += known
        sets.append(take(frames, without_isolated(known)))
        if not len(sets[-1]):
            of_head = f" of head {', '.join(data.heads)}" if data.heads else ""
            raise ValueError(f"data.{key}: {named[key]} holds no frame{of_head} but isolated atoms")
    lines = ["split by file: as the configuration names them"]
    return sets, isolated_atoms(everything, data.isolated_atoms), lines


def load_test_frames(path: str | Path) -> Frames:
    """Return the test frames of the run that wrote a checkpoint, or else its validation frames.

    Raises
    ------
    ValueError
        If the checkpoint does not record the data it was trained on.
    """
    _, validation, test = load_splits(_recorded(path, "no frame is known to be unseen"))
    return test if len(test) else validation


def load_training_frames(path: str | Path) -> tuple[Frames, str]:
    """Return the training frames of the run that wrote a checkpoint, and their level of theory.

    Raises
    ------
    ValueError
        If the checkpoint does not record the data it was trained on.
    """
    data = _recorded(path, "its training frames are not known")
    return load_splits(data)[0], level_of(data)


def _recorded(path: str | Path, consequence: str) -> DataConfig:
    record = None if by_name.published(path) else checkpoint.load(path).get("data")
    if record is None:
        raise ValueError(
            f"{path} does not record the data it was trained on, so {consequence}: name a file of "
            "labelled frames"
        )
    return DataConfig(**record)


def embedded(training: Frames, data: DataConfig) -> Frames:
    """Return the training frames without the vacuum copies that ``data.vacuum`` adds behind them.

    The baselines learn from these: a model that sees no surroundings would otherwise get two
    labels for one geometry, and a mean be one of two kinds of energy.
    """
    if not data.vacuum:
        return training
    if isinstance(training, StreamedFrames):
        copies = int(training.entries[:, 2].sum())
    else:
        copies = sum(is_surrounded(frame) for frame in training)
    return take(training, range(len(training) - copies))


def has_surroundings(frames: Frames) -> bool:
    """Tell whether any of the frames has charges around its atoms, or is in a field."""
    if any(header.system.n_mm for header in headers(frames)):
        return True
    if isinstance(frames, StreamedFrames):
        return frames.has_fields
    return any(map(is_surrounded, frames))


def _check_elements(training: Frames, validation: Frames, test: Frames) -> None:
    known, *others = (elements_of(part) for part in (training, validation, test))
    held_out = others[0] | others[1]
    if held_out - known:
        raise ValueError(
            f"validation or test frames hold elements {sorted(held_out - known)} (atomic numbers) "
            f"that no training frame has ({sorted(known)}): split the data in another way, or "
            "leave these frames out"
        )


def elements_of(frames: Frames) -> set[int]:
    """Return the atomic numbers of all elements in frames."""
    compositions = {header.system.numbers.tobytes() for header in headers(frames)}
    return set(np.frombuffer(b"".join(compositions), dtype=np.int64).tolist())


def _warn_of_overlap(
    training: Frames, validation: Frames, test: Frames, meant: Sequence[str]
) -> None:
    """Warn of held-out frames that are known from training, or of molecules that are not.

    Not of molecules that are `meant` to be in the test set alone.
    """
    copies = Copies()
    copies.add(training)
    for name, part in (("validation", validation), ("test", test)):
        _warn_of_copies(copies, part, name)
        _warn_of_new_molecules(training, part, name, meant)
        copies.add(part)


def _warn_of_copies(copies: Copies, others: Frames, name: str) -> None:
    """Warn where held-out frames were trained or validated on."""
    count = copies.count(others)
    if count:
        warnings.warn(
            f"{count} of {len(others)} {name} frames have the geometry of a frame that is trained "
            f"{'or validated ' if name == 'test' else ''}on: the errors on them are too small",
            stacklevel=4,
        )


def _warn_of_new_molecules(
    training: Frames, others: Frames, name: str, meant: Sequence[str]
) -> None:
    seen = {_molecule(header) for header in headers(training)}
    new = [
        header
        for header in headers(others)
        if _molecule(header) not in seen and not is_of(header.name, meant)
    ]
    if new:
        warnings.warn(
            f"{len(new)} of {len(others)} {name} frames are of molecules that no training frame "
            f"is of (the first: {frame_name(new[0])}): their errors tell of other molecules",
            stacklevel=4,
        )


def _molecule(header: Frame | Header) -> tuple[bytes, int]:
    return np.sort(header.system.numbers).tobytes(), header.system.charge


def _warn_of_single_atoms(*parts: Frames) -> None:
    count, total = sum(single_atoms(headers(part)) for part in parts), sum(map(len, parts))
    if 0 < count < total:
        warnings.warn(
            f"{count} of {total} frames are a single atom with nothing around it, taken for a "
            "molecule: mark isolated atoms by config_type=IsolatedAtom, or name "
            "their energies in data.isolated_atoms",
            stacklevel=3,
        )


def _thin(length: int, count: int) -> list[int]:
    """Keep evenly spaced frames of the whole list, so every run and molecule stays."""
    return [i * length // count for i in range(count)] if count < length else list(range(length))


def summary(splits: Splits) -> list[str]:
    """Return one line per molecule: frames, runs, charge, surroundings; and who has which label."""
    molecules: dict[str, dict] = {}
    for part, frames in enumerate(splits):
        for header in headers(frames):
            system = header.system
            mine = molecules.setdefault(
                frame_name(header), {"counts": [0, 0, 0], "runs": set(), "mm": 0, "system": system}
            )
            mine["counts"][part] += 1
            mine["runs"].add(header.run)
            mine["mm"] += system.n_mm
    lines = []
    for name, mine in sorted(molecules.items())[:_SHOWN]:
        counts, system = mine["counts"], mine["system"]
        around = f"{mine['mm'] / sum(counts):.0f} charges" if mine["mm"] else "vacuum"
        number = len(mine["runs"])
        runs = f" ({number} MD run{'s' * (number > 1)})" if mine["runs"] != {0} else ""
        lines.append(
            f"{name:<6} {len(system.numbers):2d} atoms, charge {system.charge:+.0f}, in "
            f"{around}: {counts[0]} frames to train, {counts[1]} to "
            f"validate, {counts[2]} to test{runs}"
        )
    if len(molecules) > _SHOWN:
        totals = " / ".join(str(len(part)) for part in splits)
        lines.append(
            f"… {len(molecules)} molecules in all: {totals} frames to train / validate / test"
        )
    return lines + label_lines(dict(zip(("train", "validate", "test"), splits, strict=True)))
