"""Where the errors of the model that ships come from: molecule, training, water, reach, labels.

    python benchmarks/error_sources.py                                # half a minute
    python benchmarks/error_sources.py --more more.h5 --runs 400 800  # and runs of other files
    python benchmarks/error_sources.py --models ships new=best.pt     # another model beside it
    python benchmarks/error_sources.py --labels                       # labels again: minutes

The first set, four solutes in water at 300 K: frames that the model was trained on and runs that it
was not, with the water and with vacuum labels; forces also as a share of their spread. All frames
in water of the force field's dynamics that it was not trained on, within its trained extent
(gnn.data.extent) and beyond, where walls act; other models are asked on the same two sets.
`--more` adds runs of a file of `make_data.py --molecules molecules_more.yaml`. `--labels` takes
two frames of each of three solutes from the test set and says by how much labels change with exact
Coulomb and exchange and with a finer grid (needs the extra `data`). Writes
benchmarks/results/error_sources{,_labels}.csv.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _experiments import ERRORS, FOUR, errors, thinned
from _output import write_table

from gnn import load_model
from gnn.data import Frame, load_shipped, read_frames
from gnn.data.extent import extent_of
from gnn.data.shipped import BLOCKS, UNSEEN
from gnn.data.splits import RUNS_PER_BLOCK, is_of
from gnn.potential import Potential

KINDS = ("first", "water", "water@450", "water@600")
SHIPS = "ships"
FIRST = ("model", "molecule", "frames are", "frames")
SHOWN = ("energy_mae", "forces_rmse", "forces_percent", "mm_forces_rmse")
LABELS = ("molecule", "against", "energy_shift", "energy_scatter", "forces_rmse", "mm_forces_rmse")


def trained(frame: Frame) -> bool:
    return frame.run // RUNS_PER_BLOCK in BLOCKS["train"] and not is_of(frame.name, UNSEEN)


def row(model: Potential, frames: Sequence[Frame], molecule: str, what: str) -> dict[str, Any]:
    found = errors(model.evaluate(frames, unknown="ignore"), frames)
    return {"molecule": molecule, "frames are": what, "frames": len(frames)} | found


def by_molecule(
    model: Potential, other: Sequence[Frame], runs: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Yield errors of each solute on each sort of frames."""
    sorts: dict[str, Callable[[Frame], bool]] = {
        "trained on": trained,
        "held out": lambda frame: frame.run // RUNS_PER_BLOCK in BLOCKS["test"],
    }
    for name in FOUR:
        for water in (True, False):
            own = [f for f in load_shipped([name], vacuum=not water) if f.group == "first"]
            for what, chosen in sorts.items():
                frames = [frame for frame in own if chosen(frame)]
                yield row(model, frames, name, what if water else f"{what}, without water")
        fresh = [frame for frame in other if frame.name == name and frame.run in runs]
        if fresh:
            yield row(model, fresh, name, "runs of their own")


def by_reach(
    model: Potential, reach: Potential, other: Sequence[Frame]
) -> Iterator[dict[str, Any]]:
    """Yield errors of frames in water within the extent of a model and beyond."""
    frames = [f for f in load_shipped() if f.system.n_mm and not trained(f) and f.group in KINDS]
    frames += other
    own = [reach.extent.holds(extent_of([frame], reach.damping)) for frame in frames]
    for wanted, what in ((True, "within the trained extent"), (False, "beyond it")):
        part = [frame for frame, inside in zip(frames, own, strict=True) if inside == wanted]
        if part:
            yield row(model, part, "all", what)


def by_label(count: int = 2) -> Iterator[dict[str, Any]]:
    """Yield by how much labels change when they are computed in other ways."""
    from gnn.data.making.labelling import label

    ways = {
        "Coulomb and exchange fitted": {"density_fit": True},
        "grid of level 5": {"grid_level": 5},
    }
    for name in ("meoh", "oac", "acoh"):
        held = [f for f in load_shipped([name]) if f.group == "first" and f.run >= 400]
        frames = thinned(held, count)
        before = [label(frame.system, "B3LYP/6-31G*")[0] for frame in frames]
        for way, options in ways.items():
            after = [label(frame.system, "B3LYP/6-31G*", **options)[0] for frame in frames]

            def off(key: str, before=before, after=after) -> np.ndarray:
                return 1e3 * np.concatenate(
                    [np.ravel(a[key] - b[key]) for a, b in zip(after, before, strict=True)]
                )

            shifts = off("energy")
            forces, mm_forces = (
                float(np.sqrt(np.mean(off(key) ** 2))) for key in ("forces", "mm_forces")
            )
            yield dict(
                zip(LABELS, (name, way, shifts.mean(), np.ptp(shifts), forces, mm_forces),
                    strict=True)
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", metavar="NAME=CHECKPOINT", default=[SHIPS])
    parser.add_argument("--more", type=Path, metavar="FILE", nargs="+", default=[])
    parser.add_argument("--runs", type=int, nargs="+", default=[], help="of those files")
    parser.add_argument("--labels", action="store_true", help="labels, instead of the model")
    arguments = parser.parse_args()
    if arguments.labels:
        rows = list(by_label())
        for one in rows:
            print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else str(v)
                            for k, v in one.items()))  # fmt: skip
        write_table("error_sources_labels", LABELS, rows)
        return
    other = [f for path in arguments.more for f in read_frames(path) if f.run in arguments.runs]
    given = (text.partition("=") for text in arguments.models)
    models = {name: load_model(path or None) for name, _, path in given}
    first = next(iter(models.values()))
    rows = []
    for name, model in models.items():
        found = [*by_molecule(model, other, arguments.runs), *by_reach(model, first, other)]
        rows += [{"model": name} | one for one in found]
    for one in rows:
        numbers = " ".join(f"{one[key]:9.2f}" for key in SHOWN if key in one)
        head = f"{one['model']:>8} {one['molecule']:>6} {one['frames are']:>28}"
        print(f"{head} {one['frames']:5d} {numbers}")
    write_table("error_sources", (*FIRST, *ERRORS), rows)


if __name__ == "__main__":
    main()
