"""Is what was learned in small boxes true in larger ones? Rock salt, labelled by AMOEBA.

    python benchmarks/periodic_boxes.py generate  # boxes and labels by OpenMM (extra `engines`)
    python benchmarks/periodic_boxes.py           # train and test; both go on where they stopped

Boxes of 64 ions, displaced at random and by waves of polarisation, and boxes of eight times the
volume with waves twice as long. Models of equal size learn from the small boxes: one local, whose
atoms see each other along edges of 4.5 Å only, one with the electrostatics of the atoms'
multipoles, one that also has the field of their states, and the same with multipoles as narrow as
they are by default. Boxes go to runs/periodic_boxes/, tables and a picture to
benchmarks/results/periodic_boxes*.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _experiments import Table, of_size, settings, train
from _output import label_decades, pyplot, write_picture, write_table
from numpy.typing import NDArray

from gnn import Frame, load_model
from gnn.data import read_frames, write_frames
from gnn.potential import Potential
from gnn.training import checkpoint

FOLDER = Path(__file__).resolve().parent.parent / "runs" / "periodic_boxes"
SMALL, LARGE = 2, 4  # cubes of four pairs along an edge
FILES = {SMALL: FOLDER / "small.h5", LARGE: FOLDER / "large.h5"}
AT_ONCE = 10  # frames of a run
# by run; the small boxes of the first are trained on, with waves in any direction
TRAINED = 20
GROUPS = {
    SMALL: ("random", "waves") * 12,
    LARGE: ("random", "longitudinal", "transverse"),
}
# multipoles as wide as the edges are long: nearer than that, interactions are the network's
WIDE = {"damping": 0.25}
MODELS: dict[str, dict[str, Any]] = {
    "local": {"electrostatics": None, "long_range": None},
    "electrostatics": {"electrostatics": WIDE, "long_range": None},
    "long-range": {"electrostatics": WIDE, "long_range": {"channels": 2}},
    "narrow": {"electrostatics": {}, "long_range": {"channels": 2}},
}
PARAMETERS = 90_000
COMMON = {"order": 2, "channels": 8, "cutoff": 4.5}
# an energy is that of a box of 64 atoms: as it stands it would outweigh the forces
LOSS = {"energy": 0.05, "forces": 1.0, "stress": 100.0}
AMPLITUDES = (0.0, 0.1, 0.2, 0.3, 0.4)  # Å, of waves in a crystal at rest
WAVES = FOLDER / "waves.h5"
KINDS = {"longitudinal": 1.0, "transverse": 0.0}
COLORS = dict(zip(MODELS, ("#e07a5f", "#009e73", "#01497c", "#8ab6d6"), strict=True))
PANELS = {
    "energy_rmse": "energy, RMSE / meV/atom",
    "forces_rmse": "forces, RMSE / meV/Å",
    "stress_rmse": "stress, RMSE / meV/Å³",
}


# --- boxes ----------------------------------------------------------------------------------------


def generate(cubes: int) -> None:
    """Make the runs that the file lacks."""
    from _salt import Labels, displaced

    path, groups = FILES[cubes], GROUPS[cubes]
    frames = [*read_frames(path)] if path.exists() else []
    missing = [run for run in range(len(groups)) if run not in {f.run for f in frames}]
    labels = Labels(cubes) if missing else None
    for run in missing:
        started = time.perf_counter()
        rng = np.random.default_rng([cubes, run])
        for _ in range(AT_ONCE):
            place = displaced(cubes, *wave_of(groups[run], rng), rng)
            frames.append(labels.label(*place, run=run, name="salt", group=groups[run]))
        write_frames(path, frames)
        seconds = time.perf_counter() - started
        print(f"{path.stem}: run {run}, {groups[run]}, {seconds:.1f} s", flush=True)


def wave_of(group: str, rng: np.random.Generator) -> tuple[NDArray | None, float]:
    """Return a wave and the cosine between it and the motion of the ions."""
    if group == "random":
        return None, 0.0
    if group == "waves":  # of all directions in which they are long
        wave = rng.permutation([[0, 0, 1], [0, 1, 1], [1, 1, 1]])[0] * rng.choice([-1, 1], 3)
        return rng.permutation(wave), rng.choice([0.0, 1.0, rng.uniform()])
    return rng.permutation([0, 0, 1]), KINDS[group]


def generate_waves() -> None:
    """Label waves along z in a crystal at rest, by energies alone: runs are kinds and boxes."""
    from _salt import LATTICE, Labels, moved

    frames = []
    for cubes in (SMALL, LARGE):
        labels, cell = Labels(cubes), cubes * LATTICE * np.eye(3)
        for kind, along in KINDS.items():
            for amplitude in AMPLITUDES:
                given = cell, labels.sites, labels.numbers, np.array([0, 0, 1]), along, amplitude
                x = labels.sites @ cell + moved(*given, np.random.default_rng(0))
                frames.append(labels.label(cell, x, stress=False, run=cubes, group=kind))
    write_frames(WAVES, frames)


def sets() -> dict[tuple[str, str], list[Frame]]:
    """Return the frames to test on, by size of the box and how ions are displaced."""
    found: dict[tuple[str, str], list[Frame]] = {}
    for cubes, path in FILES.items():
        for frame in read_frames(path):
            if cubes == LARGE or frame.run >= TRAINED:
                found.setdefault((path.stem, frame.group), []).append(frame)
    return found


# --- training and tests -------------------------------------------------------------------------


def trained(name: str, steps: int, seed: int) -> Potential:
    """Return a model from its file, or train it."""
    path = FOLDER / f"{name.replace(' ', '_')}_{steps}_{seed}.pt"
    if path.exists():
        return load_model(path)
    training = [frame for frame in read_frames(FILES[SMALL]) if frame.run < TRAINED]
    options = of_size(PARAMETERS, **COMMON | MODELS[name])
    more = {"training": {"batch_size": 1, "learning_rate": 4e-3, "seed": seed}, "loss": LOSS}
    model, trainer = train(settings(steps, len(training), options, **more), training)
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


def test(models: Mapping[str, Potential]) -> Table:
    """Test all models on all sets; without any, how far labels spread."""
    columns = ("frames", "energy_rmse", "energy_mean", "forces_rmse", "stress_rmse")
    table = Table("periodic_boxes", ("model", "box", "ions"), columns, True)
    found = sets()
    every = [frame for frames in found.values() for frame in frames]
    mean = float(np.mean([frame.energy / frame.system.n_atoms for frame in every]))
    for key, frames in found.items():
        row = summary([spread(f, mean) for f in frames]) | {"frames": len(frames)}
        table.fill(("spread", *key), lambda row=row: [row])
        for name, model in models.items():
            row = summary([differences(model, f) for f in frames]) | {"frames": len(frames)}
            table.fill((name, *key), lambda row=row: [row])
    return table


def waves(models: Mapping[str, Potential]) -> list[dict[str, Any]]:
    """Return the energies of waves in a crystal at rest, in meV per atom."""
    rows: list[dict[str, Any]] = []
    for frame in read_frames(WAVES):
        row = {"box": "small" if frame.run == SMALL else "large", "wave": frame.group}
        size = 1e3 / frame.system.n_atoms
        row["reference"] = size * frame.energy
        for name, model in models.items():
            (found,) = model.evaluate([frame.system], forces=False, unknown="ignore")
            row[name] = size * found["energy"]
        rows.append(row)
    names = ("reference", *models)
    for start in range(0, len(rows), len(AMPLITUDES)):
        rest = dict(rows[start])
        for row, amplitude in zip(rows[start:], AMPLITUDES, strict=False):
            row |= {"amplitude": amplitude} | {n: f"{row[n] - rest[n]:.3f}" for n in names}
    write_table("periodic_boxes_waves", ("box", "wave", "amplitude", *names), rows)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["generate", "train"], default="train")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if arguments.what == "generate":
        for cubes in FILES:
            generate(cubes)
        if not WAVES.exists():
            generate_waves()
        return
    models = {name: trained(name, arguments.steps, arguments.seed) for name in MODELS}
    draw(test(models), waves(models))


def draw(table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw errors of all sets, and the energies of waves in large boxes."""
    if (plt := pyplot()) is None:
        return
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.8), width_ratios=(1.2, 1.2, 1.2, 1))
    of = list(dict.fromkeys((row["box"], row["ions"]) for row in table.rows))
    for axis, (column, title) in zip(axes, PANELS.items(), strict=False):
        for i, (name, color) in enumerate(COLORS.items()):
            heights = [table.value(column, model=name, box=box, ions=ions) for box, ions in of]
            axis.bar(np.arange(len(of)) + 0.2 * (i - 1.5), heights, 0.19, color=color, label=name)
        axis.set(title=title, yscale="log")
        label_decades(axis)
        axis.set_xticks(range(len(of)), [f"{box}\n{ions}" for box, ions in of], fontsize=6)
    for kind, style in (("longitudinal", "-"), ("transverse", "--")):
        found = [row for row in rows if row["box"] == "large" and row["wave"] == kind]
        for name, color in {**COLORS, "reference": "black"}.items():
            heights = [float(row[name]) for row in found]
            mark = ("o" if style == "-" else "s") if name == "reference" else style
            axes[3].plot(AMPLITUDES, heights, mark, color=color, ms=5, mfc="none")
    axes[3].set(title="long waves, meV/atom", xlabel="amplitude / Å (– –, squares: transverse)")
    axes[0].legend(frameon=False, fontsize=8)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    write_picture("periodic_boxes", figure)


if __name__ == "__main__":
    main()
