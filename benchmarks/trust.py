"""What a model says where it was not trained: the examples of a sceptical user, before and after.

    python benchmarks/trust.py                    # the model that ships
    python benchmarks/trust.py --model best.pt --before former.pt
    python benchmarks/trust.py --only water       # examples with this in their names

Before: a model without walls and without knowledge of its training data, which answers anything.
After: the same model, or another one, that knows how far its data reach: it holds atoms apart
where they end, and says when an input lies outside. Reference energies of N-methylacetamide (level
of theory of the shipped frames) are among those of `novelty.py`. Prints a table; writes
benchmarks/results/trust.csv.
"""

import argparse
import copy
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from _output import read_table, write_table

from gnn import AMP, Frame, System, load_model
from gnn.commands._common import console
from gnn.data import load_shipped, read_frames
from gnn.data.extent import extent_of
from gnn.potential import Potential
from gnn.training.report.tables import escape, plain_table
from gnn.units import KCAL_PER_MOL

LABELLED = Path(__file__).parent / "data" / "novelty.h5"
AMIDE = "methylacetamide"
FAR = 1000.0  # Å
_LONGEST = 200  # characters of what is said

WATER = System([8, 1, 1], [[0, 0, 0.117], [0, 0.757, -0.468], [0, -0.757, -0.468]])
# one half of the dimer of formic acid in the S22 set; the other is its image in the origin
_HALF = np.array(
    [
        [-1.888896, -0.179692, 0], [-1.493280, 1.073689, 0], [-1.170435, -1.166590, 0],
        [-2.979488, -0.258829, 0], [-0.498833, 1.107195, 0],
    ]
)  # fmt: skip
FORMIC_DIMER = System([6, 8, 8, 1, 1] * 2, np.concatenate([_HALF, -_HALF]))


# --- systems --------------------------------------------------------------------------------------


@cache
def solute(name: str) -> System:
    """Return a molecule of the shipped frames, without the water around it."""
    system = load_shipped([name])[0].system
    return System(system.numbers, system.positions - system.positions.mean(0), system.charge)


def pair_at(first: System, second: System, distance: float) -> System:
    """Return two molecules with their centres at a distance in Å."""
    return System(
        np.concatenate([first.numbers, second.numbers]),
        np.concatenate([first.positions, second.positions + np.array([distance, 0, 0])]),
        first.charge + second.charge,
    )


def hydroxyl(system: System) -> tuple[int, int, int]:
    """Return carbon, oxygen and the hydrogen at it of methanol."""
    carbon, oxygen = (int(np.flatnonzero(system.numbers == z)[0]) for z in (6, 8))
    gaps = np.linalg.norm(system.positions - system.positions[oxygen], axis=1)
    hydrogen = min(np.flatnonzero(system.numbers == 1), key=lambda i: gaps[i])
    return carbon, oxygen, int(hydrogen)


def with_bond(system: System, i: int, moving: Sequence[int], distance: float) -> System:
    """Return a molecule in which the first of some moving atoms is at a distance from atom i."""
    line = system.positions[moving[0]] - system.positions[i]
    positions = system.positions.copy()
    positions[list(moving)] += (distance / np.linalg.norm(line) - 1) * line
    return System(system.numbers, positions, system.charge)


def nearest(positions: np.ndarray) -> float:
    gaps = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    return float(gaps[np.triu_indices(len(gaps), 1)].min())


def energy(model: Potential, system: System) -> float:
    return float(model.evaluate([system], forces=False)[0]["energy"])


# --- examples: each returns what a user would see -------------------------------------------------


def energy_of(system: System) -> Callable[[Potential], str]:
    return lambda model: f"{energy(model, system):.1f} eV"


def optimised_water(model: Potential) -> str:
    atoms = attached(model, WATER)
    relax(atoms, 200)
    length = np.linalg.norm(atoms.positions[1:] - atoms.positions[0], axis=1).min()
    return f"shorter O–H {length:.2f} Å, {atoms.get_potential_energy():.1f} eV"


def charged_methanol(model: Potential) -> str:
    system = solute("meoh")
    return f"{energy(model, System(system.numbers, system.positions, 7)):.1f} eV"


def pressed_hydroxyl(model: Potential) -> str:
    system = solute("meoh")
    _, oxygen, hydrogen = hydroxyl(system)
    near, far = (energy(model, with_bond(system, oxygen, [hydrogen], r)) for r in (0.3, 0.97))
    return f"costs {near - far:.1f} eV"


def pressed_carbon(model: Potential) -> str:
    system = solute("meoh")
    carbon, oxygen, hydrogen = hydroxyl(system)
    near, far = (
        energy(model, with_bond(system, carbon, [oxygen, hydrogen], r)) for r in (0.7, 1.42)
    )
    return f"{near - far:+.1f} eV above the minimum"


def formic_dimer(model: Potential) -> str:
    atoms = attached(model, FORMIC_DIMER)
    start = atoms.get_potential_energy()
    steps = relax(atoms, 300)
    change = (atoms.get_potential_energy() - start) / KCAL_PER_MOL
    return f"{change:.3g} kcal/mol in {steps} steps, nearest atoms {nearest(atoms.positions):.2f} Å"


def hot_gas(model: Potential) -> str:
    return smallest_of_run(model, solute("meoh"), 1000.0, 2000)


def mixed_zone(model: Potential) -> str:
    methanol = solute("meoh")
    _, oxygen, _ = hydroxyl(methanol)
    outward = methanol.positions[oxygen] / np.linalg.norm(methanol.positions[oxygen])
    # the water's hydrogens point away
    water = WATER.positions - WATER.positions[0]
    turned = np.outer(water[:, 2], -outward) + np.outer(water[:, 1], normal_to(outward))
    system = System(
        [*methanol.numbers, *WATER.numbers],
        np.concatenate([methanol.positions, methanol.positions[oxygen] + 2.9 * outward + turned]),
    )
    return smallest_of_run(model, system, 300.0, 100)


def normal_to(vector: np.ndarray) -> np.ndarray:
    other = np.cross(vector, np.eye(3)[abs(vector).argmin()])
    return other / np.linalg.norm(other)


def charge_at(distance: float) -> Callable[[Potential], str]:
    def run(model: Potential) -> str:
        system = solute("meoh")
        _, oxygen, hydrogen = hydroxyl(system)
        line = system.positions[hydrogen] - system.positions[oxygen]
        place = system.positions[hydrogen] + distance * line / np.linalg.norm(line)
        around = {"mm_positions": [place], "mm_charges": [-0.834]}
        near = energy(model, System(system.numbers, system.positions, 0, **around))
        return f"{near - energy(model, system):+.3g} eV"

    return run


def ions(model: Potential) -> str:
    first, second = solute("mam"), solute("oac")
    apart = energy(model, first) + energy(model, second)
    cells = []
    for distance in (5.0, 10.0, FAR):
        (found,) = model.evaluate([pair_at(first, second, distance)], forces=False)
        charge = found["charges"][: first.n_atoms].sum()
        cells.append(f"{found['energy'] - apart:+.3f} eV ({charge:+.2f} e) at {distance:g} Å")
    return ", ".join(cells)


def far_molecules(model: Potential) -> str:
    first, second = solute("meoh"), solute("oac")
    whole, *parts = model.evaluate([pair_at(first, second, FAR), first, second])
    off = whole["energy"] - sum(part["energy"] for part in parts)
    forces = np.concatenate([part["forces"] for part in parts])
    return f"{off:+.2g} eV, forces off by {abs(whole['forces'] - forces).max():.2g} eV/Å"


def unseen_amide(model: Potential) -> str:
    frames = [frame for frame in read_frames(LABELLED) if frame.name == AMIDE]
    found = model.evaluate(frames)
    off = np.array([r["energy"] - f.energy for r, f in zip(found, frames, strict=True)])
    forces = np.concatenate([r["forces"] - f.forces for r, f in zip(found, frames, strict=True)])
    constant = f"{1e3 * off.std():.0f} meV" if len(frames) > 1 else "–"
    return (
        f"energy {off.mean():+.2f} eV, {constant} after a constant, "
        f"forces {np.sqrt((forces**2).mean()):.2f} eV/Å"
    )


EXAMPLES: dict[str, Callable[[Potential], str]] = {
    "water": energy_of(WATER),
    "water, optimised": optimised_water,
    "H2": energy_of(System([1, 1], [[0, 0, 0], [0, 0, 0.74]])),
    "O2": energy_of(System([8, 8], [[0, 0, 0], [0, 0, 1.21]])),
    "methanol, charge +7": charged_methanol,
    "methanol, O–H 0.97 to 0.3 Å": pressed_hydroxyl,
    "methanol, C–O 0.7 Å": pressed_carbon,
    "formic acid dimer, BFGS": formic_dimer,
    "methanol, 1000 K, 2000 steps": hot_gas,
    "charge -0.834 e at 1.0 Å of H(O)": charge_at(1.0),
    "charge -0.834 e at 0.8 Å of H(O)": charge_at(0.8),
    "methanol and a water, 100 steps": mixed_zone,
    "methylammonium + acetate": ions,
    "methanol + acetate at 1000 Å": far_molecules,
    "N-methylacetamide": unseen_amide,
}


# --- optimisation and dynamics --------------------------------------------------------------------


def attached(model: Potential, system: System):
    """Return a molecule as ase.Atoms with a model attached."""
    from ase import Atoms

    from gnn.engines.ase import AMPCalculator

    calculator = AMPCalculator(model, charge=system.charge)
    return Atoms(system.numbers, system.positions, calculator=calculator)


def relax(atoms, steps: int) -> int:
    from ase.optimize import BFGS

    optimiser = BFGS(atoms, logfile=None)
    optimiser.run(fmax=0.01, steps=steps)
    return optimiser.nsteps


def smallest_of_run(model: Potential, system: System, temperature: float, steps: int) -> str:
    """Return the smallest distance of atoms in a run at a temperature, or how it ended."""
    from ase import units
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

    atoms, random = attached(model, system), np.random.default_rng(0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=random)
    run = Langevin(
        atoms,
        0.5 * units.fs,
        temperature_K=temperature,
        friction=0.01 / units.fs,
        rng=random,
        fixcm=False,
    )
    smallest = nearest(atoms.positions)
    for step in range(steps):
        try:
            run.run(1)
        except ValueError as error:
            return f"fails at step {step}: {first_line(error)}, nearest atoms {smallest:.2f} Å"
        smallest = min(smallest, nearest(atoms.positions))
    return f"nearest atoms {smallest:.2f} Å, {atoms.get_temperature():.0f} K at the end"


# --- the table ------------------------------------------------------------------------------------


def first_line(error: BaseException) -> str:
    text = (str(error).splitlines() or [""])[0] or type(error).__name__
    return text if len(text) <= _LONGEST else text[: _LONGEST - 2] + " …"


def answered(model: Potential, example: Callable[[Potential], str]) -> tuple[str, str]:
    """Return what an example gives, and what is said: an error or warnings."""
    model = copy.deepcopy(model)  # warns once, of what it has not warned of before
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            cell, refusal = example(model), ""
        except Exception as error:
            cell, refusal = "refused", f"{type(error).__name__}: {first_line(error)}"
    said = list(dict.fromkeys(first_line(w.message) for w in told if ours(w)))
    return cell, "; ".join([refusal] * bool(refusal) + said)


def ours(warning: warnings.WarningMessage) -> bool:
    """Return whether a warning is for users, and not about the use of a library."""
    return issubclass(warning.category, UserWarning | RuntimeWarning)


def without_knowledge(model: Potential) -> Potential:
    """Return a model without walls, and without a domain."""
    former = copy.deepcopy(model)
    former.domain = None
    if isinstance(former, AMP):
        former.border = None
    return former


def with_knowledge(model: Potential, frames: Sequence[Frame]) -> Potential:
    """Return a model that knows what it was trained on, if it did not: the shipped frames."""
    without = isinstance(model, AMP) and model.extent is None
    if isinstance(model, AMP) and without:
        model.set_extent(extent_of(frames))
    if without or model.domain is None:
        model.set_domain(frames)  # bounds the changes of node features, too
    return model


def rows(before: Potential, after: Potential, only: str = "") -> list[dict[str, str]]:
    found = []
    for name, example in EXAMPLES.items():
        if only in name:
            start = time.perf_counter()
            former, _ = answered(before, example)
            now, said = answered(after, example)
            found.append({"example": name, "before": former, "after": now, "said": said})
            print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)
    return found


def committee_row() -> dict[str, str]:
    """Return what `committee.py` found of a committee that starts from the model that ships."""
    row = {"example": "spread of a committee by --from", "before": "–", "after": "–"}
    for found in read_table("committee"):
        if (found["start"], found["quantity"], found["expected"]) == (
            "shipped",
            "forces",
            "0.6827",
        ):
            for when in ("before", "after"):
                row[when] = f"one sigma holds {100 * float(found[when]):.0f} % of force errors"
            return row | {"said": f"scaled by {found['factor']} on validation"}
    return row | {"said": "run benchmarks/committee.py"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="checkpoint (default: the one that ships)")
    parser.add_argument("--before", help="checkpoint (default: the same, without walls and domain)")
    parser.add_argument("--only", default="", help="examples with this in their names")
    arguments = parser.parse_args()
    former = load_model(arguments.before or arguments.model)
    after = with_knowledge(load_model(arguments.model), load_shipped())
    found = rows(without_knowledge(former), after, arguments.only)
    if not arguments.only:
        found.append(committee_row())
    table = plain_table("Where it was not trained")
    columns = ("example", "before", "after", "said")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in found:
        table.add_row(*(escape(row[column]) for column in columns))
    console().print(table)
    if not arguments.only:
        print(f"written: {write_table('trust', columns, found)}")


if __name__ == "__main__":
    main()
