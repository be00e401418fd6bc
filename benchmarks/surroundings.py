"""Do surroundings matter? Five ways to treat them, on held-out molecular-dynamics runs.

* vacuum: trained on the same geometries without surroundings; they do nothing.
* mechanical: the vacuum model, and fixed charges on the atoms, fitted for each molecule to the
  forces on the surrounding charges of the training frames (the best that fixed charges can do).
* electrostatics: polarisation-free; the field does work on multipoles, no field in the messages.
* messages: the field enters the messages, and does no work on multipoles.
* both: this package's default.

Each for every shipped molecule alone and for all in one model (charges -1, 0, +1), with the same
number of optimisation steps. Prints a table; writes benchmarks/results/surroundings.{csv,png}.
Runs that are in the CSV already are not repeated; --fresh repeats them. About 40 minutes.
"""

import argparse
from dataclasses import replace

import numpy as np
from _experiments import (
    ERRORS,
    PANELS,
    Table,
    errors,
    first_frames,
    settings,
    train,
)
from _output import label_decades, pyplot, write_picture

import multipoles as mp
from gnn.data import split_by_run
from gnn.units import COULOMB

WAYS = {
    "vacuum": {"surroundings": {"in_messages": False}},
    "mechanical": None,
    "electrostatics": {"surroundings": {"in_messages": False}},
    "messages": {"surroundings": {"in_energy": False}},
    "both": {},
}
NAMES = {
    "meoh": "methanol", "mam": "methylammonium", "oac": "acetate", "acoh": "acetic acid",
    "all": "all, one model",
}  # fmt: skip
COLORS = ("#9aa5b1", "#d4a373", "#61a5c2", "#e9c46a", "#01497c")


def bare(frame):
    """Return the frame without its surroundings, labelled as before."""
    system = replace(frame.system, mm_positions=None, mm_charges=None)
    return replace(frame, system=system, mm_forces=None)


def field_of_surroundings(frame) -> np.ndarray:
    """Return potential and gradient of the point charges at the atoms, (n, 4)."""
    system = frame.system
    moments = COULOMB * system.mm_charges[:, None]
    return mp.field(system.positions, system.mm_positions, moments, 1, kernel=mp.Coulomb())


def fixed_charges(frames) -> dict[str, np.ndarray]:
    """Return per molecule the charges that fit the forces on the surroundings best.

    The total charge of the molecule is kept.
    """
    found = {}
    for name in sorted({f.name for f in frames}):
        mine = [f for f in frames if f.name == name]
        n, total = mine[0].system.n_atoms, mine[0].system.charge
        normal, right = np.zeros((n + 1, n + 1)), np.zeros(n + 1)
        for frame in mine:
            s = frame.system
            columns = []
            for atom in range(n):
                unit = np.array([[COULOMB]])
                at = s.positions[atom : atom + 1]
                slope = mp.field(s.mm_positions, at, unit, 1, kernel=mp.Coulomb())[:, 1:]
                columns.append((-s.mm_charges[:, None] * slope).ravel())
            matrix = np.array(columns)
            normal[:n, :n] += matrix @ matrix.T
            right[:n] += matrix @ frame.mm_forces.ravel()
        scale = np.trace(normal) / n
        normal[n, :n] = normal[:n, n] = scale
        right[n] = scale * total
        found[name] = np.linalg.solve(normal, right)[:n]
    return found


def mechanical(model, training, frames) -> list[dict]:
    """Return predictions of a vacuum model with fixed charges, and a constant per molecule."""

    def embedded(items, charges):
        results = model.evaluate([bare(f) for f in items])
        for frame, result in zip(items, results, strict=True):
            q, field, system = charges[frame.name], field_of_surroundings(frame), frame.system
            result["energy"] += float(q @ field[:, 0])
            result["forces"] = result["forces"] - q[:, None] * field[:, 1:]
            moments = COULOMB * q[:, None]
            back = mp.field(system.mm_positions, system.positions, moments, 1, kernel=mp.Coulomb())
            result["mm_forces"] = -system.mm_charges[:, None] * back[:, 1:]
        return results

    charges = fixed_charges(training)
    return shifted(embedded(frames, charges), frames, embedded(training, charges), training)


def shifted(results, frames, seen, training) -> list[dict]:
    """Remove the mean error of the energy on the training frames, for each molecule."""
    misses: dict[str, list[float]] = {}
    for frame, result in zip(training, seen, strict=True):
        misses.setdefault(frame.name, []).append(result["energy"] - frame.energy)
    for frame, result in zip(frames, results, strict=True):
        result["energy"] -= float(np.mean(misses[frame.name]))
        result.pop("dipole", None)
    return results


def vacuum(model, training, frames) -> list[dict]:
    """Return predictions of a vacuum model, and a constant per molecule."""

    def alone(items):
        results = model.evaluate([bare(f) for f in items])
        for frame, result in zip(items, results, strict=True):
            result["mm_forces"] = np.zeros_like(frame.mm_forces)
        return results

    return shifted(alone(frames), frames, alone(training), training)


def runs(name: str, steps: int, seed: int, frames, frames_in_vacuum):
    """Yield the way and its predictions on the test frames, for one molecule or all."""
    chosen = [i for i, f in enumerate(frames) if name in (f.name, "all")]
    training, _, test = split_by_run([frames[i] for i in chosen])
    inside, _, _ = split_by_run([frames_in_vacuum[i] for i in chosen])
    for way, options in WAYS.items():
        if way == "mechanical":
            continue
        frames_of_way = inside if way == "vacuum" else training
        config = settings(steps, len(training), options, training={"seed": seed})
        model, _ = train(config, frames_of_way)
        if way == "vacuum":
            yield "vacuum", vacuum(model, training, test), test
            yield "mechanical", mechanical(model, training, test), test
        else:
            yield way, model.evaluate(test), test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true")
    arguments = parser.parse_args()
    frames, inside = first_frames(), first_frames(vacuum=True)
    table = Table("surroundings", ("molecule", "steps", "seed", "way", "of"), ERRORS,
                  arguments.fresh)  # fmt: skip
    for name in NAMES:

        def compute(name=name):
            for way, results, test in runs(name, arguments.steps, arguments.seed, frames, inside):
                parts = [None, *sorted({f.name for f in test})] if name == "all" else [None]
                for part in parts:
                    yield {"way": way, "of": part or name} | errors(results, test, part)

        table.fill((name, arguments.steps, arguments.seed), compute)
    report(table, arguments.steps)
    draw(table, arguments.steps)


def report(table: Table, steps: int) -> None:
    print("\nErrors on held-out runs: energy MAE / meV, RMSE of QM and MM forces / meV/Å")
    print(f"{'':>16}" + "".join(f"{way:>22}" for way in WAYS))
    for name, title in NAMES.items():
        cells = []
        for way in WAYS:
            where = {"molecule": name, "of": name, "way": way, "steps": steps}
            columns = ("energy_mae", "forces_rmse", "mm_forces_rmse")
            e, f, m = (table.value(column, **where) for column in columns)
            cells.append(f"{e:8.1f} {f:6.1f} {m:6.2f}")
        print(f"{title:>16}" + "".join(cells))


def draw(table: Table, steps: int) -> None:
    if (plt := pyplot()) is None:
        return
    figure, axes = plt.subplots(1, 3, figsize=(14, 3.6))
    places = np.arange(len(NAMES))
    for axis, (column, title) in zip(axes, PANELS, strict=True):
        for i, (way, color) in enumerate(zip(WAYS, COLORS, strict=True)):
            values = [table.value(column, molecule=n, of=n, way=way, steps=steps) for n in NAMES]
            axis.bar(places + 0.16 * (i - 2), values, 0.15, color=color, label=way)
        axis.set(title=title, yscale="log")
        axis.set_xticks(
            places,
            [t.replace("ylamm", "yl-\namm").replace(" ", "\n") for t in NAMES.values()],
            fontsize=8,
        )
        label_decades(axis)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(low, 6 * high)
    figure.tight_layout()
    write_picture("surroundings", figure)


if __name__ == "__main__":
    main()
