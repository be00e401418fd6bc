"""Train the members of a committee, each from weights, in an order or on frames of its own."""

from pathlib import Path
from typing import Any

import numpy as np

from gnn.training.calibration import calibrate
from gnn.training.checkpoint import save_model
from gnn.training.committee import Committee
from gnn.training.config import Config
from gnn.training.fit import fit
from gnn.training.frames.load import LoadedData
from gnn.training.frames.loader import Frames, headers
from gnn.training.parallel import Ranks
from gnn.training.report.metrics import frame_name

#: With fewer runs of a molecule, frames are drawn instead of runs: draws would often be alike.
FEWEST_RUNS = 4


def fit_committee(
    config: Config,
    data: LoadedData,
    console: Any,
    folder: Path,
    *,
    resume: bool = False,
    ranks: Ranks | None = None,
) -> Committee:
    """Train the members one after the other, each in a folder of its own, and join them.

    They differ in the seed of weights and order and, with ``committee.bootstrap``, in the frames
    they learn from; those that start from a checkpoint are perturbed. Members that are there
    already are continued. The spread is calibrated on the validation frames, which none has
    learned from.
    """
    ranks = ranks or Ranks()
    members = []
    for k in range(config.committee.members):
        own = folder / f"member_{k}"
        seed = config.training.seed + k
        training = config.training.model_copy(update={"seed": seed})
        member = config.model_copy(update={"training": training, "output": str(own)})
        chosen = resampled(data.splits[0], seed) if config.bootstrap else None
        go_on = resume and bool(ranks.from_first((own / "last.pt").is_file()))
        label = f"member {k + 1} of {config.committee.members}"
        model, _ = fit(
            member, data, console, own,
            label=label, resume=go_on, ranks=ranks, member=k, chosen=chosen,
        )  # fmt: skip
        members.append(model)
    committee = Committee(members)
    if ranks.first:
        for line in calibrate(committee, data.splits[1]):
            console.print(line, markup=False, soft_wrap=True)
        save_model(folder / "committee.pt", committee, data=config.data.model_dump())
    return committee


def resampled(frames: Frames, seed: int) -> list[int]:
    """Return indices of as many frames as there are, drawn with replacement.

    Of each molecule whole runs are drawn, or single frames where it has fewer than `FEWEST_RUNS`.
    """
    rng = np.random.default_rng([seed, 0])
    # within each molecule, so that none is lost
    return sorted(i for units in _units(frames).values() for i in _drawn(units, rng))


def _units(frames: Frames) -> dict[str, list[list[int]]]:
    """Return what is drawn of each molecule: its runs, or its frames."""
    runs: dict[tuple[str, int], list[int]] = {}
    for i, header in enumerate(headers(frames)):
        runs.setdefault((frame_name(header), header.run), []).append(i)
    kinds: dict[str, list[list[int]]] = {}
    for (name, _), indices in sorted(runs.items()):
        kinds.setdefault(name, []).append(indices)
    return {
        name: own if len(own) >= FEWEST_RUNS else [[i] for indices in own for i in indices]
        for name, own in kinds.items()
    }


def _drawn(units: list[list[int]], rng: np.random.Generator) -> list[int]:
    return [i for k in rng.integers(len(units), size=len(units)) for i in units[k]]


def differences(frames: Frames, perturbation: float, bootstrap: bool, started: bool) -> str:
    """Return in words how the members of a committee differ."""
    ways = ["the order of their frames"]
    if not started:
        ways.insert(0, "their first weights")
    elif perturbation:
        ways.insert(0, f"their first weights (perturbed by {perturbation:g})")
    if bootstrap:
        units = _units(frames)
        single = [name for name, own in units.items() if all(len(unit) == 1 for unit in own)]
        what = "single frames" if len(single) == len(units) else "runs"
        if 0 < len(single) < len(units):
            what += f" (of {', '.join(single)}, which has few runs: frames)"
        ways.append(f"{what} drawn with replacement")
    line = f"the members differ by {', '.join(ways)}"
    if len(ways) == 1:
        line += ": they begin alike on the same frames, so how they disagree says little"
    return line
