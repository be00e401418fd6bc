"""Training, validation and test frames of one file, in the way that the file allows.

By molecular-dynamics run where frames name enough of them (:mod:`gnn.data.splits`), by the value
of a key, or by frame. Frames next to each other in a file are mostly neighbours in time, nearly
the same geometry. So a split by frame holds out one stretch of neighbours of each molecule for
each set: no way of choosing single frames leaves fewer of them beside a training frame.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gnn.data.splits import SETS, checked_fractions, share_kind, split_indices
from gnn.data.streaming import Header
from gnn.data.systems import Frame

#: Values of a key that name a set.
NAMES_OF_SETS = {
    "train": ("train", "training"),
    "validation": ("valid", "validation", "val", "dev"),
    "test": ("test", "testing"),
}
#: Share of the training frames held out to validate on, where no others are given.
HELD_OUT = 0.1

Share = float | Sequence[int] | Sequence[str] | None
_FEWEST = 3  # runs, frames or values: one for each set
_ADVICE = (
    "one stretch of each molecule's frames is held out for each set; their ends have neighbours in "
    "training: better name runs, a key or files (data.split)"
)


class Partition(NamedTuple):
    """Indices of the frames of each set, and a line that says how and why they were chosen."""

    train: list[int]
    validation: list[int]
    test: list[int]
    remark: str


def partition(
    frames: Sequence[Frame | Header],
    train: Share = None,
    validation: Share = None,
    test: Share = None,
    *,
    by: str | None = None,
    seed: int = 0,
) -> Partition:
    """Split frames, or what is known of them, into a training, a validation and a test set.

    Parameters
    ----------
    frames
        The frames, in the order of their file.
    train, validation, test
        All None; fractions that add up to 1; or lists, of runs or blocks (numbers) or of values
        of the key (text), of which one may be None and takes the rest.
    by
        "run", "block", "frame", or "group" for the frames' `group`. None: by group where lists
        hold text, by run where every molecule has at least three runs, by frame for the others.
    seed
        Chooses among equally good splits.

    Returns
    -------
    Partition

    Raises
    ------
    ValueError
        If there are too few frames, runs or values, or a list names what is not there.
    TypeError
        If fractions and lists are mixed, or lists are given for a split by frame.
    """
    shares: dict[str, Any] = {"train": train, "validation": validation, "test": test}
    if not frames:
        raise ValueError("expected at least one frame to split, got none")
    kinds = {share_kind(key, share) for key, share in shares.items()}
    items = [item for share in shares.values() if _is_list(share) for item in share]
    if by is None and any(isinstance(item, str) for item in items):
        by = "group"
    if by == "group":
        return _by_group(frames, shares, seed)
    places = [(frame.name, frame.run) for frame in frames]
    if by in ("run", "block") or (by is None and "list" in kinds):
        parts = split_indices(places, **shares, by=by or "run", seed=seed)
        return Partition(*parts, _told_of_runs(places, by or "run"))
    if "list" in kinds:
        raise TypeError("train, validation, test: a split by frame takes fractions, not lists")
    _fractions(shares)
    fewest = _FEWEST if by is None else len(frames) + 1
    poor = {name for name, own in _runs_of(frames).items() if len(own) < fewest}
    return _by_run_or_frame(frames, shares, poor, by is not None, seed)


def hold_out(frames: Sequence[Frame | Header], seed: int = 0) -> Partition:
    """Take a tenth of the training frames to validate on: whole runs, or else stretches."""
    runs = _runs_of(frames)
    if min(map(len, runs.values())) > 1:
        rng = np.random.default_rng(seed)
        chosen = set()
        for name, own in runs.items():
            count = max(1, round(HELD_OUT * len(own)))
            chosen |= {(name, run) for run in rng.permutation(sorted(own))[:count].tolist()}
        sets: list[list[int]] = [[], []]
        for i, frame in enumerate(frames):
            sets[(frame.name, frame.run) in chosen].append(i)
        how = "whole runs"
    else:
        fractions = {"train": 1 - HELD_OUT, "validation": HELD_OUT, "test": 0.0}
        sets = _stretches(frames, range(len(frames)), fractions, seed)[:2]
        how = "stretches of neighbours"
        _keep_elements(frames, sets, set(range(len(frames))))
    kept, held = map(sorted, sets)
    if not kept or not held:
        raise ValueError(
            f"{len(frames)} training frame{'s' * (len(frames) > 1)} can spare none to validate on: "
            "name a file (data.valid), or give more frames"
        )
    return Partition(kept, held, [], f"{len(held)} of {len(frames)} in {how}")


def _runs_of(frames: Sequence[Frame | Header]) -> dict[str, set[int]]:
    """Return the runs of each molecule."""
    runs: dict[str, set[int]] = {}
    for frame in frames:
        runs.setdefault(frame.name, set()).add(frame.run)
    return runs


# --- by frame -------------------------------------------------------------------------------------


def _by_run_or_frame(
    frames: Sequence[Frame | Header],
    shares: dict[str, Any],
    poor: set[str],
    asked: bool,
    seed: int,
) -> Partition:
    """Split by run, and molecules that have too few runs by frame."""
    places = [(frame.name, frame.run) for frame in frames]
    rich = [i for i, frame in enumerate(frames) if frame.name not in poor]
    rest = [i for i, frame in enumerate(frames) if frame.name in poor]
    if not rest:
        return Partition(*split_indices(places, **shares, seed=seed), _told_of_runs(places, "run"))
    sets: list[list[int]] = [[], [], []]
    if rich:
        parts = split_indices([places[i] for i in rich], **shares, seed=seed)
        sets = [[rich[i] for i in part] for part in parts]
    fractions = _fractions(shares)
    for part, new in zip(sets, _stretches(frames, rest, fractions, seed), strict=True):
        part.extend(new)
    moved = _keep_elements(frames, sets, set(rest))
    if not all(sets):
        raise ValueError(
            f"{len(frames)} frame{'s' * (len(frames) > 1)} cannot make a training, a validation "
            "and a test set: give more frames, or a file for each set (data.train, valid, test)"
        )
    ways = "run and by frame" if rich else "frame"
    remark = f"split by {ways}: {_why(frames, poor, asked)}; {_ADVICE}"
    if moved:
        remark += f"; {moved} held-out frames went to training, for elements only they have"
    train, validation, test = (sorted(part) for part in sets)
    return Partition(train, validation, test, remark)


def _why(frames: Sequence[Frame | Header], poor: set[str], asked: bool) -> str:
    """Return why frames are not split by run."""
    if asked:
        return "as the configuration says"
    runs = {frame.run for frame in frames if frame.name in poor}
    own = {frame.name for frame in frames}
    who = "the frames" if poor == own else ", ".join(sorted(name or "unnamed" for name in poor))
    if runs == {0}:
        return f"{who} name no runs"
    return f"{who} are of {len(runs)} run{'s' * (len(runs) > 1)}, and a split by run needs three"


def _told_of_runs(places: Sequence[tuple[str, int]], by: str) -> str:
    number = len(set(places))
    whole = "blocks of runs stay" if by == "block" else "each stays"
    return f"split by {by}: the frames are of {number} molecular-dynamics runs, and {whole} whole"


def _stretches(
    frames: Sequence[Frame | Header], chosen: Sequence[int], fractions: dict[str, float], seed: int
) -> list[list[int]]:
    """Hold out a stretch for each set of every molecule's frames; few frames are drawn together."""
    rng = np.random.default_rng(seed)
    sets: list[list[int]] = [[], [], []]
    pool: list[int] = []
    for own in _molecules(frames, chosen).values():
        if len(own) < _FEWEST:
            pool += own
        else:
            _cut(np.roll(own, -int(rng.integers(len(own)))), fractions, sets)
    _cut(rng.permutation(np.array(pool, dtype=np.int64)), fractions, sets)
    return sets


def _molecules(frames: Sequence[Frame | Header], chosen: Sequence[int]) -> dict[Any, list[int]]:
    molecules: dict[Any, list[int]] = {}
    for i in chosen:
        system = frames[i].system
        key = frames[i].name, frames[i].group, system.numbers.tobytes(), system.charge
        molecules.setdefault(key, []).append(i)
    return molecules


def _cut(order: NDArray[np.int64], fractions: dict[str, float], sets: list[list[int]]) -> None:
    """Assign the first frames to test, the next to validation, the rest to training."""

    def share(key: str, most: int) -> int:
        wanted = max(1, round(fractions[key] * len(order))) if fractions[key] > 0 else 0
        return max(0, min(wanted, most))

    first = share("test", len(order) - 2)
    second = share("validation", len(order) - first - 1)
    tests, validations, rest = np.split(order, [first, first + second])
    for part, new in zip(sets, (rest, validations, tests), strict=True):
        part.extend(new.tolist())


def _keep_elements(
    frames: Sequence[Frame | Header], sets: list[list[int]], movable: set[int]
) -> int:
    """Move frames with an element that training lacks into training; return how many."""

    def elements(i: int) -> set[int]:
        return set(frames[i].system.numbers.tolist())

    known = set().union(*(elements(i) for i in sets[0]))
    moved = 0
    for part in sets[1:]:
        for i in list(part):
            if i in movable and not elements(i) <= known:
                part.remove(i)
                sets[0].append(i)
                known |= elements(i)
                moved += 1
    return moved


# --- by the value of a key ------------------------------------------------------------------------


def _by_group(frames: Sequence[Frame | Header], shares: dict[str, Any], seed: int) -> Partition:
    """Put frames where the value of their key says, or hold out whole values."""
    bare = [i for i, frame in enumerate(frames) if not frame.group]
    if bare:
        raise ValueError(
            f"a split by key: {len(bare)} of {len(frames)} frames have no such key (the first is "
            f"frame {bare[0]}); name one that all have (data.split.key)"
        )
    values = list(dict.fromkeys(frame.group for frame in frames))
    kinds = {share_kind(key, share) for key, share in shares.items()}
    if "list" in kinds:
        place = _by_values(values, shares)
        why = "as the configuration says"
    elif kinds == {"none"} and all(_set_of(value) for value in values):
        place = {value: _set_of(value) for value in values}
        why = "its values name the sets"
    else:
        place = _whole_values(values, frames, shares, seed)
        why = "each value is whole in one set"
    sets = {key: [i for i, frame in enumerate(frames) if place[frame.group] == key] for key in SETS}
    if not sets["train"]:
        raise ValueError(f"the training set is empty: no frame has a key of {', '.join(values)}")
    told = [f"{k} {', '.join(v for v in values if place[v] == k)}" for k in SETS if sets[k]]
    remark = f"split by key: {why} ({'; '.join(told)})"
    return Partition(sets["train"], sets["validation"], sets["test"], remark)


def _set_of(value: str) -> str:
    found = [key for key, names in NAMES_OF_SETS.items() if value.lower() in names]
    return found[0] if found else ""


def _by_values(values: list[str], shares: dict[str, Any]) -> dict[str, str]:
    """Assign values to sets by lists; a set without a list takes the rest."""
    open_sets = [key for key, share in shares.items() if share is None]
    owner: dict[str, str] = {}
    for key, share in shares.items():
        if share is not None and not _is_list(share):
            raise TypeError("train, validation, test: expected three lists, not a mixture")
        for value in () if share is None else map(str, share):
            if owner.setdefault(value, key) != key:
                raise ValueError(f"{value!r} is in two sets: {owner[value]} and {key}")
    unknown = [value for value in owner if value not in values]
    if unknown:
        raise ValueError(f"no frame has the key {unknown[0]!r}; there are {', '.join(values)}")
    if len(open_sets) > 1:
        raise ValueError(f"name the values of at least two sets; {', '.join(open_sets)} are open")
    rest = open_sets[0] if open_sets else ""
    return {value: owner.get(value, rest) for value in values}


def _whole_values(
    values: list[str], frames: Sequence[Frame | Header], shares: dict[str, Any], seed: int
) -> dict[str, str]:
    if len(values) < _FEWEST:
        raise ValueError(
            f"a split by key needs at least 3 values, one for each set, or values such as train, "
            f"valid and test; found {', '.join(values)}"
        )
    number: Callable[[str], int] = values.index
    places = [("", number(frame.group)) for frame in frames]
    shared = _fractions(shares)
    train, validation, test = (shared[key] for key in SETS)
    parts = split_indices(places, train, validation, test, seed=seed)
    return {frames[i].group: key for key, part in zip(SETS, parts, strict=True) for i in part}


def _fractions(shares: dict[str, Any]) -> dict[str, float]:
    """Return the fractions that are given, or the default ones where none is."""
    given = {key: share for key, share in shares.items() if share is not None}
    if 0 < len(given) < len(shares):
        told = ", ".join(f"{key} {share}" for key, share in given.items())
        raise TypeError(f"train, validation, test: expected three fractions or none, got {told}")
    return checked_fractions(given or None)


def _is_list(share: Any) -> bool:
    return isinstance(share, Sequence | np.ndarray) and not isinstance(share, str | bytes)
