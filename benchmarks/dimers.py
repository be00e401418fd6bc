"""Is it long-range? Dimers from 3 to 25 Å: trained below 8 Å, tested beyond.

    python benchmarks/dimers.py generate      # labels by PySCF (extra `data`), some minutes
    python benchmarks/dimers.py               # train and test; the labels are in the repository

An ion pair (NH4+ and Cl-), an ion and a dipole (NH4+ and water) and two dipoles (water), in random
orientation, at RHF/6-31G*. Models of equal size learn all three at once, with isolated monomers:
one local, whose atoms see each other along edges of 5 Å only, one with the electrostatics of the
atoms' multipoles, and one that also has the field of their states (`long_range`, whose monopoles
are free, as all were when the table was made).
Prints tables of errors within and beyond the distances of training, and exponents of power laws
along scans of fixed orientation; writes benchmarks/results/dimers{,_scan}.csv and dimers.png.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _experiments import Table, errors, settings, train
from _output import pyplot, write_picture

from gnn import Frame, System
from gnn.data import read_frames, write_frames

DATA = Path(__file__).parent / "data" / "dimers.h5"
LEVEL = "HF/6-31G*"
SEEN = 8.0  # Å, largest distance in training
KINDS = {"ion pair": ("NH4", "Cl"), "ion-dipole": ("NH4", "H2O"), "dipole-dipole": ("H2O", "H2O")}
POWERS = {"ion pair": -1, "ion-dipole": -2, "dipole-dipole": -3}
TRAINING, WITHIN, BEYOND, SCAN = 100, 200, 300, 400  # run numbers
MODELS = {
    "local": {"long_range": None, "electrostatics": None},
    "electrostatics": {"long_range": None, "electrostatics": {}},
    "long-range": {"long_range": {"monopoles": "free"}, "electrostatics": {}},
}
COLORS = {"local": "#e07a5f", "electrostatics": "#009e73", "long-range": "#01497c"}

_T = 1.02 / np.sqrt(3)
MONOMERS = {  # atomic numbers, positions about the centre of charge, charge
    "NH4": ([7, 1, 1, 1, 1],
            _T * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]), 1),
    "Cl": ([17], np.zeros((1, 3)), -1),
    "H2O": ([8, 1, 1], np.array([[0, 0, 0.0], [0.757, 0, 0.586], [-0.757, 0, 0.586]]), 0),
}  # fmt: skip


# --- labels -------------------------------------------------------------------------------------


def monomer(name: str, rng: np.random.Generator | None) -> System:
    """Return a monomer, distorted and turned at random if there is a generator."""
    from scipy.spatial.transform import Rotation

    numbers, positions, charge = MONOMERS[name]
    if rng is not None:
        positions = positions + 0.03 * rng.standard_normal(positions.shape)
        positions = positions @ Rotation.from_quat(rng.normal(size=4)).as_matrix().T
    return System(numbers, positions, charge)


def labelled(parts: list[System], name: str, run: int) -> Frame:
    """Label a dimer, or a monomer; far ions stay ions: the parts' densities are the guess."""
    from scipy.linalg import block_diag

    from gnn.data.making.labelling import label

    guess = None
    if len(parts) > 1:
        guess = block_diag(*(label(part, LEVEL)[1] for part in parts))
    joined = joined_system(parts)
    labels, _ = label(joined, LEVEL, guess=guess)
    labels.pop("mm_forces")
    return Frame(joined, **labels, name=name, run=run)


def joined_system(parts: list[System]) -> System:
    return System(
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.positions for part in parts]),
        sum(part.charge for part in parts),
    )


def moved(system: System, shift) -> System:
    return System(system.numbers, system.positions + shift, system.charge)


def random_dimers(kind: str, count: int, low: float, high: float, rng) -> Iterator[list[System]]:
    """Yield dimers at distances uniform in 1/r, none of them too close."""
    made = 0
    while made < count:
        first, second = (monomer(name, rng) for name in KINDS[kind])
        distance = 1 / rng.uniform(1 / high, 1 / low)
        second = moved(second, [0, 0, distance])
        gap = np.linalg.norm(first.positions[:, None] - second.positions[None], axis=2).min()
        if gap > 1.6:
            made += 1
            yield [first, second]


def scan(kind: str) -> Iterator[list[System]]:
    """Yield dimers of undistorted monomers along z, the axis of the water's dipole."""
    first, second = (monomer(name, None) for name in KINDS[kind])
    for distance in np.geomspace(4.0, 25.0, 13):
        yield [first, moved(second, [0, 0, distance])]


def generate(per_kind: int) -> None:
    rng = np.random.default_rng(20260722)
    frames: list[Frame] = []
    for name in MONOMERS:
        count = 1 if name == "Cl" else 30
        made = [monomer(name, None), *(monomer(name, rng) for _ in range(count - 1))]
        frames += [labelled([m], name, TRAINING) for m in made]
    for kind in KINDS:
        parts = ((TRAINING, per_kind, 2.6, SEEN), (WITHIN, 40, 2.6, SEEN), (BEYOND, 60, SEEN, 25.0))
        for run, count, low, high in parts:
            for pair in random_dimers(kind, count, low, high, rng):
                frames.append(labelled(pair, kind, run))
        frames += [labelled(pair, kind, SCAN) for pair in scan(kind)]
        print(f"{kind}: {len(frames)} frames in all", flush=True)
        DATA.parent.mkdir(exist_ok=True)
        write_frames(DATA, frames)


# --- training and tests -------------------------------------------------------------------------


def distance(frame: Frame) -> float:
    """Return the distance of the two monomers' first atoms."""
    size = len(MONOMERS[KINDS[frame.name][0]][0])
    return float(np.linalg.norm(frame.system.positions[size] - frame.system.positions[0]))


def apart(frame: Frame) -> list[System]:
    """Return the two monomers of a dimer, each alone."""
    one, two = (MONOMERS[name] for name in KINDS[frame.name])
    size, system = len(one[0]), frame.system
    return [
        System(system.numbers[:size], system.positions[:size], one[2]),
        System(system.numbers[size:], system.positions[size:], two[2]),
    ]


def interaction(model, frames: list[Frame]) -> np.ndarray:
    """Return the model's energy of dimers less that of their monomers, in eV."""
    whole = np.array([r["energy"] for r in model.evaluate([f.system for f in frames])])
    alone = model.evaluate([part for frame in frames for part in apart(frame)])
    return whole - np.array([r["energy"] for r in alone]).reshape(-1, 2).sum(1)


def reference_interaction(frames: list[Frame], everything: list[Frame]) -> np.ndarray:
    """Return the interaction energies of scans, whose monomers are the undistorted ones."""
    alone = {name: next(f.energy for f in everything if f.name == name) for name in MONOMERS}
    return np.array([f.energy - sum(alone[m] for m in KINDS[f.name]) for f in frames])


def exponent(distances: np.ndarray, energies: np.ndarray) -> float:
    """Return the slope of log |E| against log r beyond the distances of training."""
    far = distances > SEEN
    size = np.abs(energies[far])
    if (size < 1e-7).any():
        return float("nan")
    return float(np.polyfit(np.log(distances[far]), np.log(size), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["generate", "train"], default="train")
    parser.add_argument("--per-kind", type=int, default=120, help="training dimers of a kind")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.what == "generate":
        generate(arguments.per_kind)
        return
    everything = read_frames(DATA)
    training = [f for f in everything if f.run == TRAINING]
    models = {}
    for name, options in MODELS.items():
        config = settings(
            arguments.steps, len(training), options, training={"seed": arguments.seed},
            loss={"energy": 10.0},
        )  # fmt: skip
        models[name], trainer = train(config, training)
        size = sum(p.numel() for p in models[name].parameters())
        print(f"{name}: {size} parameters, {trainer.step} steps, {trainer.elapsed:.0f} s")
    report(models, everything)


def report(models: dict, everything: list[Frame]) -> None:
    columns = ("energy_mae", "forces_rmse")
    table = Table("dimers", ("model", "kind", "where"), columns, True)
    places = {"within": WITHIN, "beyond": BEYOND}
    for name, model in models.items():
        for kind in KINDS:
            for where, run in places.items():
                part = [f for f in everything if f.name == kind and f.run == run]
                found = errors(model.evaluate(part), part)
                row = {column: found[column] for column in columns}
                table.fill((name, kind, where), lambda row=row: [row])
    scans = Table("dimers_scan", ("kind", "distance"), ("reference", *models), True)
    print(f"\nExponent of |E| against r beyond {SEEN:g} Å")
    curves = {}
    for kind in KINDS:
        frames = [f for f in everything if f.name == kind and f.run == SCAN]
        r, true = np.array([distance(f) for f in frames]), reference_interaction(frames, everything)
        found = {name: interaction(model, frames) for name, model in models.items()}
        curves[kind] = r, true, found
        cells = "  ".join(f"{name} {exponent(r, e):6.2f}" for name, e in found.items())
        print(f"{kind:>14}: theory {POWERS[kind]:3d}  RHF {exponent(r, true):6.2f}  {cells}")
        for i, x in enumerate(r):
            row = {"reference": true[i]} | {name: e[i] for name, e in found.items()}
            row = {key: f"{value:.7f}" for key, value in row.items()}
            scans.fill((kind, f"{x:.3f}"), lambda row=row: [row])
    draw(curves)


def draw(curves: dict) -> None:
    if (plt := pyplot()) is None:
        return
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6))
    for axis, (kind, (r, true, found)) in zip(axes, curves.items(), strict=True):
        axis.axvspan(r.min() * 0.9, SEEN, color="#f1f1f1", lw=0)
        axis.loglog(r, 1e3 * np.abs(true), "o", color="black", label="RHF", ms=5)
        for name, energies in found.items():
            axis.loglog(r, 1e3 * np.abs(energies), "-", color=COLORS[name], label=name, lw=2)
        power = POWERS[kind]
        axis.set(title=f"{kind}: $r^{{{power}}}$", xlabel="distance / Å", xlim=(r.min() * 0.9, 28))
        axis.set_ylim(1e3 * np.abs(true).min() / 5, 1e3 * np.abs(true).max() * 3)
        axis.set_xticks([4, 6, 8, 12, 16, 25], ["4", "6", "8", "12", "16", "25"])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("|interaction energy| / meV")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    write_picture("dimers", figure)


if __name__ == "__main__":
    main()
