"""Is what was learned in small boxes true in larger ones? Salt water, labelled by AMOEBA.

    python benchmarks/periodic_boxes.py generate  # boxes and labels by OpenMM (extra `engines`)
    python benchmarks/periodic_boxes.py           # train and test; both go on where they stopped

Boxes of 24 waters and two pairs of Na+ and Cl-, and of eight times the volume; in half of the runs
a wave pulled cations and anions apart while geometries were made. Models of equal size learn from
the small boxes: one local, whose atoms see each other along edges of 4 Å only, one with the
electrostatics of the atoms' multipoles, and one that also has the field of their states.
Boxes go to runs/periodic_boxes/, tables and a picture to benchmarks/results/periodic_boxes*.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _experiments import Table, of_size, settings, train
from _output import pyplot, write_picture, write_table
from numpy.typing import NDArray

from gnn import Frame, load_model
from gnn.data import read_frames, write_frames
from gnn.potential import Potential
from gnn.training import checkpoint

FOLDER = Path(__file__).resolve().parent.parent / "runs" / "periodic_boxes"
FILES = {1: FOLDER / "small.h5", 8: FOLDER / "large.h5"}
TRAINED = 20  # runs of small boxes that are trained on
# pull on the ions in kJ/mol, run by run; in boxes twice as long the same field is twice the pull
PULLS = {1: (0.0, 10.0, 0.0, 20.0) * 7, 8: (0.0, 20.0, 0.0, 40.0) * 2}
FRAMES = {1: 12, 8: 5}  # of a run
STEPS = {1: (4000, 400), 8: (4000, 1000)}  # of a run's beginning, and between frames
MODELS: dict[str, dict[str, Any]] = {
    "local": {"electrostatics": None, "long_range": None},
    "electrostatics": {"electrostatics": {}, "long_range": None},
    "long-range": {"electrostatics": {}, "long_range": {}},
}
PARAMETERS = 90_000
COMMON = {"order": 2, "channels": 8, "cutoff": 4.0}
LABELS = ("at rest", "pulled apart")
PANELS = {
    "energy_rmse": "energy, RMSE / meV/atom",
    "forces_rmse": "forces, RMSE / meV/Å",
    "stress_rmse": "stress, RMSE / meV/Å³",
}
COLORS = {"local": "#e07a5f", "electrostatics": "#009e73", "long-range": "#01497c"}


# --- boxes ----------------------------------------------------------------------------------------


def generate(copies: int) -> None:
    """Make the runs that the file lacks."""
    from _boxes import EDGE, Dynamics, Labels

    frames = [*read_frames(FILES[copies])] if FILES[copies].exists() else []
    missing = [run for run in range(len(PULLS[copies])) if run not in {f.run for f in frames}]
    labels = Labels(copies) if missing else None
    for run in missing:
        started = time.perf_counter()
        rng = np.random.default_rng([copies, run])
        edges = EDGE * (1 + 0.02 * rng.uniform(-1, 1, 3)) * copies ** (1 / 3)
        pull, wave = PULLS[copies][run], rng.permutation([0, 0, 1])
        dynamics = Dynamics(copies, seed=run + 1)
        places = dynamics.snapshots(np.diag(edges), pull, wave, FRAMES[copies], *STEPS[copies], rng)
        for positions in places:
            remarks = {"run": run, "name": "brine", "group": LABELS[pull > 0]}
            frames.append(labels.label(np.diag(edges), positions, **remarks))
        write_frames(FILES[copies], frames)
        seconds = time.perf_counter() - started
        print(f"{FILES[copies].stem}: run {run}, pull {pull:g}, {seconds:.1f} s", flush=True)


def sets() -> dict[tuple[str, str], list[Frame]]:
    """Return the frames to test on, by size of the box and what ions did."""
    small, large = (read_frames(FILES[copies]) for copies in FILES)
    small = [frame for frame in small if frame.run >= TRAINED]
    return {
        (size, label): [frame for frame in frames if frame.group == label]
        for size, frames in (("small", small), ("large", large))
        for label in LABELS
    }


# --- training and tests -------------------------------------------------------------------------


def trained(name: str, steps: int, seed: int) -> Potential:
    """Return a model from its file, or train it."""
    path = FOLDER / f"{name}_{steps}_{seed}.pt"
    if path.exists():
        return load_model(path)
    training = [frame for frame in read_frames(FILES[1]) if frame.run < TRAINED]
    options = of_size(PARAMETERS, **COMMON | MODELS[name])
    config = settings(steps, len(training), options, training={"batch_size": 2, "seed": seed})
    model, trainer = train(config, training)
    checkpoint.save_model(path, model)
    size = sum(p.numel() for p in model.parameters())
    print(f"{name}: {size} parameters, {trainer.step} steps, {trainer.elapsed:.0f} s", flush=True)
    return model


def differences(model: Potential, frame: Frame) -> dict[str, NDArray]:
    """Return errors in meV per atom, meV/Å and meV/Å³."""
    (found,) = model.evaluate([frame.system], stress=True, unknown="ignore")
    return {
        "energy": 1e3 * np.array([found["energy"] - frame.energy]) / frame.system.n_atoms,
        "forces": 1e3 * (found["forces"] - frame.forces),
        "stress": 1e3 * (found["stress"] - frame.stress),
    }


def spread(frame: Frame, mean: float) -> dict[str, NDArray]:
    """Return what a model would be off by that knows the mean energy of an atom only."""
    per_atom = np.array([frame.energy / frame.system.n_atoms - mean])
    return {"energy": 1e3 * per_atom, "forces": 1e3 * frame.forces, "stress": 1e3 * frame.stress}


def summary(found: Sequence[Mapping[str, NDArray]]) -> dict[str, str]:
    """Return root mean square errors of frames, and the mean error of the energy."""
    joined = {name: np.concatenate([np.ravel(f[name]) for f in found]) for name in found[0]}
    row = {f"{name}_rmse": f"{np.sqrt((x**2).mean()):.4g}" for name, x in joined.items()}
    return row | {"energy_mean": f"{joined['energy'].mean():.4g}"}


def apart(frame: Frame) -> float:
    """Return how far ions are ordered in the longest waves: 1 if cations and anions face."""
    u = frame.system.positions @ np.linalg.inv(frame.system.cell)
    charge = np.select([frame.system.numbers == 11, frame.system.numbers == 17], [1, -1])
    waves = charge @ np.exp(2j * np.pi * u)
    return float(np.abs(waves).max() / np.abs(charge).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["generate", "train"], default="train")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if arguments.what == "generate":
        for copies in FILES:
            generate(copies)
        return
    report({name: trained(name, arguments.steps, arguments.seed) for name in MODELS})


def report(models: Mapping[str, Potential]) -> None:
    """Test all models; write tables of errors, of sets and of single frames."""
    columns = ("frames", "energy_rmse", "energy_mean", "forces_rmse", "stress_rmse")
    table = Table("periodic_boxes", ("model", "box", "ions"), columns, True)
    single: list[tuple] = []
    found = sets()
    every = [frame for frames in found.values() for frame in frames]
    mean = float(np.mean([frame.energy / frame.system.n_atoms for frame in every]))
    for name, model in [*models.items(), ("spread", None)]:
        for key, frames in found.items():
            off = [differences(model, f) if model else spread(f, mean) for f in frames]
            table.fill((name, *key), lambda off=off: [summary(off) | {"frames": len(off)}])
            for frame, error in zip(frames, off, strict=True):
                force = np.sqrt((error["forces"] ** 2).mean())
                numbers = apart(frame), error["energy"][0], force
                single.append((name, *key, *(f"{x:.4f}" for x in numbers)))
    columns = ("model", "box", "ions", "apart", "energy", "forces")
    write_table("periodic_boxes_frames", columns, single)
    draw(table, single)


def draw(table: Table, single: Sequence[tuple]) -> None:
    """Draw errors of all sets, and of the energies of large boxes against the order of ions."""
    if (plt := pyplot()) is None:
        return
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.6))
    of = [(size, label) for size in ("small", "large") for label in LABELS]
    for axis, (column, title) in zip(axes, PANELS.items(), strict=False):
        for i, (name, color) in enumerate(COLORS.items()):
            heights = [table.value(column, model=name, box=b, ions=ions) for b, ions in of]
            axis.bar(np.arange(4) + 0.27 * (i - 1), heights, 0.25, color=color, label=name)
        axis.set(title=title, xticks=range(4))
        axis.set_xticklabels([f"{size}\n{label}" for size, label in of], fontsize=8)
    for name, color in COLORS.items():
        rows = [row for row in single if row[:2] == (name, "large")]
        order, error = (np.array([float(row[k]) for row in rows]) for k in (3, 4))
        axes[3].plot(order, error, "o", color=color, ms=4)
    axes[3].axhline(0, color="black", lw=0.6)
    axes[3].set(title="large boxes: energy error, meV/atom", xlabel="order of ions")
    axes[0].legend(frameon=False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    write_picture("periodic_boxes", figure)


if __name__ == "__main__":
    main()
