"""Splits of frames by molecular-dynamics run.

Neighbouring frames of a run are correlated, and so, in part, are runs that share a common start.
Such runs form a *block*: their numbers have the same hundreds (run // 100), so runs 300, 301 and
302 are block 3. What is held out are whole runs or whole blocks.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from gnn.data.systems import Frame

#: Runs of one block share run // RUNS_PER_BLOCK.
RUNS_PER_BLOCK = 100

SETS = ("train", "validation", "test")
_DEFAULT_FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}

Share = float | Sequence[int] | None
Split = tuple[list[Frame], list[Frame], list[Frame]]


def split_by_run(
    frames: Sequence[Frame],
    train: Share = None,
    validation: Share = None,
    test: Share = None,
    *,
    by: str = "run",
    seed: int = 0,
) -> Split:
    """Split frames into a training, a validation and a test set by molecular-dynamics run.

    Three forms, each deterministic and each applied to every molecule (`name`) on its own, so
    that in the first two every molecule is in each set:

    * Nothing named: where every molecule has at least three blocks, the last block is the test
      set and the last run of the block before it the validation set (that whole block if it has
      one run). `seed` rotates the blocks. With fewer blocks, fractions 0.7, 0.1, 0.2 of the runs.
      For the shipped data: test = runs 4xx; validation = run 302 of methanol, 301 of
      methylammonium and acetate, 300 of acetic acid; training = the rest of 1xx, 2xx and 3xx.
    * Fractions that add up to 1: of the runs of each molecule, shuffled by `seed`; at least one
      run in each set. With ``by="block"`` of its blocks: single runs put runs that share a start
      into different sets.
    * Lists of numbers: of runs, or of blocks with ``by="block"``. At most one set may be left
      out (None) and takes all other runs; runs in no list are left out if all three are given.

    Parameters
    ----------
    frames
        Frames with `name` and `run` set.
    train, validation, test
        All None, all fractions, or lists of run (or block) numbers.
    by
        "run" or "block": what the numbers name and the fractions count.
    seed
        Chooses among equally good splits.

    Returns
    -------
    train, validation, test : lists of Frame
        In the order given. No run is in two of them.

    Raises
    ------
    ValueError
        If a molecule has too few runs, a number is unknown or in two lists, or a set is empty.
    TypeError
        If fractions and lists are mixed.
    """
    frames = list(frames)
    places = [(frame.name, frame.run) for frame in frames]
    parts = split_indices(places, train, validation, test, by=by, seed=seed)
    first, second, third = ([frames[i] for i in part] for part in parts)
    return first, second, third


def split_indices(
    places: Sequence[tuple[str, int]],
    train: Share = None,
    validation: Share = None,
    test: Share = None,
    *,
    by: str = "run",
    seed: int = 0,
) -> tuple[list[int], list[int], list[int]]:
    """Return which frames `split_by_run` puts into each set, from their names and runs."""
    if not places:
        raise ValueError("expected at least one frame to split, got none")
    if by not in ("run", "block"):
        raise ValueError(f'by: expected "run" or "block", got {by!r}')
    runs: dict[str, list[int]] = {}
    for name, run in sorted(set(places), key=lambda pair: pair[1]):
        runs.setdefault(name, []).append(run)
    runs = {name: runs[name] for name in dict.fromkeys(name for name, _ in places)}
    shares = {"train": train, "validation": validation, "test": test}
    kinds = {share_kind(key, value) for key, value in shares.items()}
    if kinds == {"none"}:
        blocks = min(len({_block(run) for run in own}) for own in runs.values())
        place = _by_blocks(runs, seed) if blocks >= 3 else _by_fraction(runs, None, seed, by)
    elif kinds == {"fraction"}:
        fractions = {k: float(v) for k, v in shares.items()}  # type: ignore[arg-type]
        place = _by_fraction(runs, fractions, seed, by)
    elif kinds <= {"list", "none"}:
        place = _by_lists(runs, shares, by)
    else:
        raise TypeError("train, validation, test: expected three fractions or lists, not a mixture")
    return _gather(places, place)


def is_of(name: str, molecules: Iterable[str]) -> bool:
    """Tell whether a frame's name is that of one of the molecules, alone or with others.

    ``meoh+2h2o`` is methanol with two waters: `gnn.data.making` names frames so.
    """
    return any(name == one or name.startswith(f"{one}+") for one in molecules)


def _block(run: int) -> int:
    return run // RUNS_PER_BLOCK


def share_kind(key: str, share: Share) -> str:
    """Return what a set's share is: "none", a "fraction" or a "list"."""
    if share is None:
        return "none"
    if isinstance(share, str | bytes | bool):
        raise TypeError(f"{key}: expected a fraction or a list of run numbers, got {share!r}")
    if isinstance(share, Sequence | np.ndarray):
        return "list"
    if isinstance(share, int) and share > 1:
        raise TypeError(
            f"{key}: expected a fraction or a list, got {share}; did you mean [{share}]?"
        )
    return "fraction"


def _by_blocks(runs: dict[str, list[int]], seed: int) -> dict[tuple[str, int], str]:
    """Last block to the test set, last run of the one before to the validation set."""
    place = {}
    for name, own in runs.items():
        blocks: dict[int, list[int]] = defaultdict(list)
        for run in own:
            blocks[_block(run)].append(run)
        order = np.roll(sorted(blocks), seed).tolist()
        place.update({(name, run): "train" for run in own})
        place[name, blocks[order[-2]][-1]] = "validation"
        place.update({(name, run): "test" for run in blocks[order[-1]]})
    return place


def _by_fraction(
    runs: dict[str, list[int]], fractions: dict[str, float] | None, seed: int, by: str
) -> dict[tuple[str, int], str]:
    """Shuffled runs (or whole blocks of them) of each molecule, at least one to each set."""
    fractions = checked_fractions(fractions)
    place = {}
    rng = np.random.default_rng(seed)
    for name, own in runs.items():
        number_of = _block if by == "block" else int
        units = sorted({number_of(run) for run in own})
        if len(units) < 3:
            what = "block(s) of runs" if by == "block" else "molecular-dynamics run(s)"
            raise ValueError(
                f"molecule {name!r} has {len(units)} {what} ({_list(units)}); a "
                "split needs at least 3, one for each set. Set the field 'run' of your frames, "
                "split by frame (by: frame), or pass lists of runs for train, validation and test"
            )
        shuffled = rng.permutation(units).tolist()
        n_test = max(1, round(fractions["test"] * len(units)))
        n_validation = max(1, round(fractions["validation"] * len(units)))
        n_test = min(n_test, len(units) - 2)
        n_validation = min(n_validation, len(units) - n_test - 1)
        held_out = {unit: "test" for unit in shuffled[:n_test]}
        held_out |= {unit: "validation" for unit in shuffled[n_test : n_test + n_validation]}
        place.update({(name, run): held_out.get(number_of(run), "train") for run in own})
    return place


def checked_fractions(fractions: dict[str, float] | None) -> dict[str, float]:
    """Return the fractions, or the default ones, after a check that they add up to one."""
    fractions = fractions or _DEFAULT_FRACTIONS
    if min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(
            "train, validation, test: expected fractions > 0 that add up to 1, got "
            + ", ".join(f"{key} {value:g}" for key, value in fractions.items())
        )
    return fractions


def _by_lists(
    runs: dict[str, list[int]], shares: dict[str, Share], by: str
) -> dict[tuple[str, int], str]:
    """Assign runs or blocks to sets by lists; a set without a list takes the rest."""
    unnamed = [key for key, share in shares.items() if share is None]
    if len(unnamed) > 1:
        raise ValueError(f"name the {by}s of at least two sets; {', '.join(unnamed)} are open")
    owner: dict[int, str] = {}
    for key in SETS:
        share = shares[key]
        for number in () if share is None else share:  # type: ignore[union-attr]
            if int(number) != number:
                raise TypeError(f"{key}: expected whole {by} numbers, got {number!r}")
            if owner.setdefault(int(number), key) != key:
                raise ValueError(f"{by} {number} is in two sets: {owner[int(number)]} and {key}")
    number_of = _block if by == "block" else int
    known = {number_of(run) for own in runs.values() for run in own}
    unknown = sorted(set(owner) - known)
    if unknown:
        raise ValueError(f"no {by} {_list(unknown)} in these frames; there are {_list(known)}")
    rest = unnamed[0] if unnamed else ""
    return {
        (name, run): owner.get(number_of(run), rest) for name, own in runs.items() for run in own
    }


def _list(numbers: Sequence[int] | set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _gather(
    places: Sequence[tuple[str, int]], chosen: dict[tuple[str, int], str]
) -> tuple[list[int], list[int], list[int]]:
    sets: dict[str, list[int]] = {key: [] for key in (*SETS, "")}
    for i, place in enumerate(places):
        sets[chosen[place]].append(i)
    empty = [key for key in SETS if not sets[key]]
    if empty:
        raise ValueError(f"the {empty[0]} set is empty: give it at least one run")
    return sets["train"], sets["validation"], sets["test"]
