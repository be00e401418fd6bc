"""Can a proton be handed over? H3O+ and H2O with charges that are local.

    python benchmarks/proton_transfer.py generate   # labels by PySCF (extra `data`), continued
    python benchmarks/proton_transfer.py            # train and test

Frames of H3O+ and H2O at B3LYP/6-31G*, the proton anywhere between the two oxygens or the two far
apart, with isolated monomers. One small model with local charges learns them. Along a path at a
fixed distance of the oxygens the proton goes from one water to the other: printed are energies,
the charges of the two moieties, and how far the answer depends on which of the two molecules the
charge was given to. Writes benchmarks/results/proton_transfer{,_path}.csv and the picture.
"""

import argparse
from pathlib import Path

import numpy as np
from _experiments import Table, errors, settings, train
from _output import pyplot, write_picture

from gnn import Frame, System
from gnn.data import read_frames, write_frames

DATA = Path(__file__).parent / "data" / "proton_transfer.h5"
LEVEL = "B3LYP/6-31G*"
TRAINING, TEST, PATH = 100, 200, 300  # run numbers
NUMBERS = [8, 1, 1, 8, 1, 1, 1]  # a water, a water, and the proton between them
PATH_DISTANCE = 2.8  # Å, of the oxygens along the path
BOND = 0.98  # Å
MODEL = {"channels": 6, "features": 32, "network": {"hidden": 32}}


# --- labels -------------------------------------------------------------------------------------


def geometry(distance: float, place: float, rng: np.random.Generator | None = None) -> np.ndarray:
    """Return positions of two waters and a proton between their oxygens.

    `place` goes from 0, the proton at the first oxygen, to 1, at the second. With a generator the
    waters are turned about the axis, and all atoms displaced at random.
    """
    turns = (0.0, 0.5 * np.pi) if rng is None else rng.uniform(0, 2 * np.pi, 2)
    axis = np.array([0, 0, 1.0])
    made = []
    for oxygen, inwards, turn in ((0.0, 1, turns[0]), (distance, -1, turns[1])):
        away = np.deg2rad(115.0)  # angle of O-H to the axis inwards
        made.append([0, 0, oxygen])
        for phase in (turn, turn + np.deg2rad(125.0)):
            sideways = np.array([np.cos(phase), np.sin(phase), 0])
            bond = np.sin(away) * sideways + np.cos(away) * inwards * axis
            made.append([0, 0, oxygen] + BOND * bond)
    made.append([0, 0, BOND + place * (distance - 2 * BOND)])
    positions = np.array(made)
    return positions if rng is None else positions + 0.04 * rng.standard_normal(positions.shape)


def dimer(distance: float, place: float, rng: np.random.Generator | None = None) -> System:
    return System(NUMBERS, geometry(distance, place, rng), 1)


def monomers(rng: np.random.Generator) -> list[System]:
    """Return H3O+ and H2O apart."""
    positions = geometry(5.0, 0.0, rng)
    ion, water = [0, 1, 2, 6], [3, 4, 5]
    return [System([8, 1, 1, 1], positions[ion], 1), System([8, 1, 1], positions[water], 0)]


def generate() -> None:
    from gnn.data.making.labelling import label

    rng = np.random.default_rng(20261128)

    made: list[tuple[System, str, int]] = []
    for i, place in enumerate(rng.permutation(200)[:100]):
        system = dimer(rng.uniform(2.3, 3.4), (place + 0.5) / 200, rng)
        made.append((system, "near", TRAINING if i < 85 else TEST))
    made += [(dimer(PATH_DISTANCE, p), "path", PATH) for p in np.linspace(0.0, 1.0, 9)]
    for _ in range(4):
        made += zip(monomers(rng), ("H3O", "H2O"), (TRAINING, TRAINING), strict=True)
    made += [(dimer(1 / rng.uniform(1 / 9, 1 / 3.4), 0, rng), "far", TRAINING) for _ in range(8)]
    frames = read_frames(DATA) if DATA.exists() else []
    for system, name, run in made[len(frames) :]:
        labels, _ = label(system, LEVEL)
        labels.pop("mm_forces")
        frames.append(Frame(system, **labels, name=name, run=run))
        if len(frames) % 5 == 0 or len(frames) == len(made):
            print(f"{len(frames)} of {len(made)} frames", flush=True)
            write_frames(DATA, frames)


# --- training and the path ----------------------------------------------------------------------


def given_to(system: System, oxygen: int) -> System:
    """Return the system with its charge on the molecule of one oxygen and the proton."""
    ion = [oxygen, oxygen + 1, oxygen + 2, 6]
    shares = np.zeros(7)
    shares[ion] = 0.25
    return system.with_charges(shares)


def path(model, frames: list[Frame]) -> list[dict[str, float]]:
    """Return a row for each place of the proton; energies in meV, relative to the first frame."""
    systems = [frame.system for frame in frames]
    ways = {
        "model": model.evaluate(systems),
        "given_to_first": model.evaluate([given_to(s, 0) for s in systems]),
        "given_to_second": model.evaluate([given_to(s, 3) for s in systems]),
    }
    zero = ways["model"][0]["energy"]
    rows = []
    for i, frame in enumerate(frames):
        charges = ways["model"][i]["charges"]
        x = frame.system.positions
        row = {
            "proton": np.linalg.norm(x[6] - x[0]),
            "reference": 1e3 * (frame.energy - frames[0].energy),
        }
        row |= {name: 1e3 * (results[i]["energy"] - zero) for name, results in ways.items()}
        moieties = {"first": [0, 1, 2], "proton": [6], "second": [3, 4, 5]}
        row |= {f"charge_{name}": charges[atoms].sum() for name, atoms in moieties.items()}
        rows.append({name: round(float(value), 4) for name, value in row.items()})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["generate", "train"], default="train")
    parser.add_argument("--steps", type=int, default=4000)
    arguments = parser.parse_args()
    if arguments.what == "generate":
        generate()
        return
    everything = read_frames(DATA)
    training = [f for f in everything if f.run == TRAINING]
    if not any(f.run == PATH for f in everything):
        raise SystemExit("the path has no labels yet: continue with `generate`")
    config = settings(arguments.steps, len(training), MODEL, loss={"energy": 10.0})
    model, trainer = train(config, training)
    print(f"{len(training)} frames, {trainer.step} steps, {trainer.elapsed:.0f} s")
    test = [f for f in everything if f.run == TEST]
    found = errors(model.evaluate(test), test)
    rows = path(model, [f for f in everything if f.run == PATH])
    between = [abs(row["given_to_first"] - row["given_to_second"]) for row in rows]
    table = Table("proton_transfer", ("what",), ("value", "unit"), True)
    for what, value, unit in (
        ("training frames", len(training), ""),
        ("steps", trainer.step, ""),
        ("test energy MAE", found["energy_mae"], "meV"),
        ("test force RMSE", found["forces_rmse"], "meV/Å"),
        ("barrier, reference", max(row["reference"] for row in rows), "meV"),
        ("barrier, model", max(row["model"] for row in rows), "meV"),
        ("history, largest", round(max(between), 3), "meV"),
        ("history, proton half way", round(between[len(rows) // 2], 3), "meV"),
    ):
        table.fill((what,), lambda value=value, unit=unit: [{"value": value, "unit": unit}])
    scan = Table("proton_transfer_path", ("proton",), tuple(rows[0])[1:], True)
    for row in rows:
        scan.fill((row["proton"],), lambda row=row: [row])
    draw(rows)


def draw(rows: list[dict[str, float]]) -> None:
    if (plt := pyplot()) is None:
        return
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    x = [row["proton"] for row in rows]
    left.plot(x, [row["reference"] for row in rows], "o", color="black", label=LEVEL)
    for name, label in (
        ("given_to_first", "charge given to the first"),
        ("given_to_second", "charge given to the second"),
    ):
        left.plot(x, [row[name] for row in rows], label=label)
    left.set(xlabel="O–H distance / Å", ylabel="energy / meV")
    for name in ("first", "proton", "second"):
        right.plot(x, [row[f"charge_{name}"] for row in rows], label=name)
    right.set(xlabel="O–H distance / Å", ylabel="charge / e")
    for axis in (left, right):
        axis.legend(
            frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8, ncols=3
        )
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    write_picture("proton_transfer", figure)


if __name__ == "__main__":
    main()
