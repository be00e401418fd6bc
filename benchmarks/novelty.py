"""Does a model know what it does not know? Its novelty beside its errors, near its data and far.

    python benchmarks/novelty.py generate     # labels by PySCF (extra `data`): 4 to 20 s a frame
    python benchmarks/novelty.py              # the labels are in the repository, some minutes
    python benchmarks/committee.py --keep /tmp/committees  # or another one
    python benchmarks/novelty.py --committee /tmp/committees/shipped.pt

The model that ships, with what it knows of its training frames, on frames that it was not trained
on: held-out runs (shipped) and the same without water; "hot" ones, displaced at random; "stretched"
ones, with one bond longer or shorter; "near charge" ones, alone with three charges of which one is
near; molecules as a force field has them; and "unseen" molecules. Prints how many are flagged
(novelty above 1), and how well novelty tells frames whose forces are wrong by more than three times
the usual; then what is said of examples. Held-out runs are those to validate on, by which the
margins of novelty may be chosen, and those to test on, by which they are judged. A committee is
judged by its own errors: how well its spread tells them, beside its novelty. Writes
benchmarks/results/novelty{,_examples}.csv and novelty.png.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _experiments import FOUR, first_set, is_chosen
from _output import pyplot, write_picture, write_table
from scipy.stats import rankdata

from gnn import Frame, System
from gnn.data import load_shipped, read_frames, split_by_run, split_shipped, write_frames
from gnn.data.shipped import UNSEEN
from gnn.data.splits import is_of
from gnn.trust.words import sentence

DATA = Path(__file__).parent / "data" / "novelty.h5"
LEVEL = "B3LYP/6-31G*"
AMPLITUDES = (0.01, 0.02, 0.04, 0.08)  # Å, of the displacements of "hot" frames

_WATER = np.array([[0, 0, 0], [0.7572, 0.5859, 0], [-0.7572, 0.5859, 0]])
_TIP3P = np.array([-0.834, 0.417, 0.417])
# N-methylacetamide: atomic numbers, and positions of a force field
METHYLACETAMIDE = (
    [6, 6, 8, 7, 6, 1, 1, 1, 1, 1, 1, 1],
    [[1.865, 0.232, 0.217], [0.4, 0.328, 0.552], [-0.008, 0.98, 1.507], [-0.42, -0.362, -0.312],
     [-1.854, -0.292, -0.184], [2.193, 1.176, -0.226], [2.429, 0.039, 1.134],
     [2.065, -0.582, -0.485], [-0.034, -0.699, -1.184], [-2.145, -0.348, 0.869],
     [-2.293, -1.125, -0.737], [-2.197, 0.655, -0.607]],
)  # fmt: skip
# SMILES of molecules that were in no training frame of the first model; some are now
SMILES = {
    "water": "O", "formaldehyde": "C=O", "ethanol": "CCO", "methylacetamide": "CC(=O)NC",
    "methylamine": "CN", "formic acid": "O=CO", "propane": "CCC", "ammonium": "[NH4+]",
}  # fmt: skip
STILL_UNSEEN = ("ethanol", "methylacetamide")


# --- frames -------------------------------------------------------------------------------------


def bonds(system: System) -> list[tuple[int, int]]:
    """Return the pairs of atoms closer than bonds are long."""
    gaps = np.linalg.norm(system.positions[:, None] - system.positions[None], axis=2)
    heavy = (system.numbers[:, None] > 1).astype(int) + (system.numbers[None] > 1)
    reach = np.array([0.9, 1.35, 1.75])[heavy]
    return [(int(i), int(j)) for i, j in zip(*np.nonzero(gaps < reach), strict=True) if i < j]


def moved(system: System, positions, **surroundings) -> System:
    """Return the same molecule at other positions, in the same surroundings or in others."""
    given = surroundings or {"mm_positions": system.mm_positions, "mm_charges": system.mm_charges}
    return System(system.numbers, positions, system.charge, **given)


def stretched(system: System, rng: np.random.Generator) -> System:
    """Return a system with one bond, drawn at random, of another length."""
    pairs = bonds(system)
    first, second = pairs[rng.integers(len(pairs))]
    part, ahead = {second}, [second]
    while ahead:
        i = ahead.pop()
        new = {sum(pair) - i for pair in pairs if i in pair and set(pair) != {first, second}}
        ahead += new - part
        part |= new
    positions = system.positions.copy()
    step = (rng.choice([0.75, 0.85, 0.93, 1.07, 1.15, 1.3, 1.5]) - 1) * (
        positions[second] - positions[first]
    )
    positions[sorted(part)] += step
    return moved(system, positions)


def beside(system: System, charges, distances, rng: np.random.Generator) -> System:
    """Return a molecule alone with charges around it, each so far from the nearest atom."""
    places: list = []
    for distance in distances:
        while True:
            direction = rng.standard_normal(3)
            atom = system.positions[rng.integers(system.n_atoms)]
            place = atom + distance * direction / np.linalg.norm(direction)
            others = np.array([*places, *system.positions])
            if np.linalg.norm(others - place, axis=1).min() > distance - 1e-9:
                break
        places.append(place)
    return moved(system, system.positions, mm_positions=places, mm_charges=charges)


def of_smiles(smiles: str) -> System:
    """Return a molecule in a geometry of a force field."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=7)
    AllChem.MMFFOptimizeMolecule(mol)
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    return System(numbers, mol.GetConformer().GetPositions(), Chem.GetFormalCharge(mol))


def structures() -> Iterator[tuple[str, str, System]]:
    """Yield kind, name and system of every frame that is labelled."""
    rng = np.random.default_rng(20261128)
    test = split_by_run(first_set())[2]
    own = {name: [f.system for f in test if f.name == name] for name in FOUR}
    for k in range(5):  # a bit of everything, round by round
        for name in FOUR:
            for amplitude in AMPLITUDES:
                system = own[name][rng.integers(len(own[name]))]
                noise = amplitude * rng.standard_normal(system.positions.shape)
                yield f"hot {amplitude:g}", name, moved(system, system.positions + noise)
            for _ in range(3):
                yield "stretched", name, stretched(own[name][rng.integers(len(own[name]))], rng)
            system = own[name][rng.integers(len(own[name]))]
            for nearest in rng.uniform(0.8, 3.0, 2):
                charges = rng.choice([-0.834, 0.417, 1.0], 3)
                distances = [nearest, *rng.uniform(2.5, 5.0, 2)]
                yield "near charge", name, beside(system, charges, distances, rng)
        for name, smiles in SMILES.items():
            system = of_smiles(smiles)
            shaken = system.positions + 0.03 * rng.standard_normal(system.positions.shape)
            shaken = moved(system, shaken)
            if k % 2:
                shaken = beside(shaken, rng.choice(_TIP3P, 6), rng.uniform(1.9, 4.0, 6), rng)
            yield "unseen", name, shaken


def generate(only: str | None) -> None:
    """Label the frames that are not in the file yet; the number of a run is that of a frame."""
    from gnn.data.making.labelling import NotConverged, label

    frames = read_frames(DATA) if DATA.is_file() else []
    done = {frame.run for frame in frames}
    for i, (kind, name, system) in enumerate(structures()):
        if i in done or (only is not None and kind != only):
            continue
        try:
            labels, _ = label(system, LEVEL)
        except NotConverged as error:
            print(f"{i} {kind} {name}: left out: {error}", flush=True)
            continue
        labels.pop("mm_forces")
        frames.append(Frame(system, **labels, name=name, group=kind, run=i))
        print(f"{i} {kind} {name}: {labels['energy']:.3f} eV", flush=True)
        if len(frames) % 3 == 0:
            write_frames(DATA, frames, attributes={"level": LEVEL})
    write_frames(DATA, frames, attributes={"level": LEVEL})


# --- errors -------------------------------------------------------------------------------------


class Found(NamedTuple):
    """Force errors of some frames (RMSE of each, eV/Å), novelties, and spreads of a committee."""

    errors: np.ndarray
    novelty: np.ndarray
    spread: np.ndarray


def found(model, frames: list[Frame]) -> Found:
    results = model.evaluate(frames, unknown="ignore")
    pairs = zip(results, frames, strict=True)
    errors = [rms(result["forces"] - frame.forces) for result, frame in pairs]
    novelty = [result.get("system_novelty", np.nan) for result in results]
    spread = [rms(result.get("forces_std", np.nan)) for result in results]
    return Found(*map(np.array, (errors, novelty, spread)))


def rms(values) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def joined(parts: list[Found]) -> Found:
    return Found(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def area(score: np.ndarray, bad: np.ndarray) -> float:
    """Return the area under the ROC curve: how often a bad frame has the higher score."""
    if bad.all() or not bad.any() or np.isnan(score).any():
        return float("nan")
    ranks = rankdata(score)[bad]
    return float((ranks.mean() - (bad.sum() + 1) / 2) / (~bad).sum())


def frame_sets() -> dict[str, list[Frame]]:
    """Return the labelled frames of each kind that no model was trained on."""
    frames, alone = load_shipped(), load_shipped(vacuum=True)
    sets = {
        name: [frame for frame in part if not is_chosen(frame)]
        for name, part in (
            ("validation runs", split_shipped(frames)[1]),
            ("test runs", split_shipped(frames)[2]),
            ("without water", split_shipped(alone)[2]),
        )
    }
    for frame in read_frames(DATA):
        kind = "hot" if frame.group.startswith("hot") else frame.group
        if kind == "unseen" and frame.name not in STILL_UNSEEN:
            kind = "of a force field"
        sets.setdefault(kind, []).append(frame)
    sets["unseen"] += [frame for frame in frames if is_of(frame.name, UNSEEN)]
    return sets


def summed_up(of: dict[str, Found]) -> dict[str, Found]:
    """Return what was found of each kind, and of kinds together."""
    made = joined([of[kind] for kind in ("hot", "stretched", "unseen")])
    return of | {"hot, stretched, unseen": made, "all": joined(list(of.values()))}


def usual(of: dict[str, Found]) -> float:
    """Return the median force error of test runs in eV/Å."""
    return float(np.median(of["test runs"].errors))


def compare(committee: str | None) -> None:
    """Print and write errors and novelties of all kinds of frames, and the examples."""
    from gnn import load_model

    model, sets = load_model(), frame_sets()
    of = {kind: found(model, frames) for kind, frames in sets.items()}
    rows = [row(kind, part, usual(of)) for kind, part in summed_up(of).items()]
    print(f"usual force error: {1e3 * usual(of):.1f} meV/Å")
    if committee is not None:
        several = load_model(committee)
        by = {kind: found(several, frames) for kind, frames in sets.items()}
        print(f"of the committee: {1e3 * usual(by):.1f} meV/Å")
        for one, part in zip(rows, summed_up(by).values(), strict=True):
            one |= areas_of_committee(part, usual(by))
    for one in rows:
        print("  ".join(f"{name} {value}" for name, value in one.items()))
    write_table("novelty", list(rows[0]), rows)
    said = []
    for name, system in examples().items():
        said.append({"example": name, **told(model, system)})
        print(f"{name}: {said[-1]['said'] or 'nothing'}", flush=True)
    write_table("novelty_examples", list(said[0]), said)
    draw(of, usual(of))


def told(model, system: System) -> dict[str, str]:
    """Return the novelty of a system, and what is said of it."""
    try:
        result = model.evaluate([system], unknown="ignore", forces=False)[0]
    except ValueError as error:  # an energy that no atoms have
        refusal = str(error).partition(": ")[2].partition(":")[0]
        return {"novelty": "nan", "said": f"refused: {refusal}"}
    words = sentence(system, model.domain, result)
    return {"novelty": f"{result['system_novelty']:.4g}", "said": words}


def row(kind: str, part: Found, usual: float) -> dict[str, str]:
    bad = part.errors > 3 * usual
    return {
        "frames": kind,
        "number": str(len(bad)),
        "force error": f"{1e3 * np.median(part.errors):.1f}",
        "novelty": f"{np.median(part.novelty):.3g}",
        "flagged": f"{100 * (part.novelty > 1).mean():.2f}",
        "wrong": f"{100 * bad.mean():.1f}",
        "wrong and not flagged": f"{100 * (bad & (part.novelty <= 1)).mean():.2f}",
        "roc area": f"{area(part.novelty, bad):.3f}",
        "committee: wrong": "nan",
        "committee: roc area of novelty": "nan",
        "committee: roc area of spread": "nan",
    }


def areas_of_committee(part: Found, usual: float) -> dict[str, str]:
    bad = part.errors > 3 * usual
    return {
        "committee: wrong": f"{100 * bad.mean():.1f}",
        "committee: roc area of novelty": f"{area(part.novelty, bad):.3f}",
        "committee: roc area of spread": f"{area(part.spread, bad):.3f}",
    }


def draw(of: dict[str, Found], usual: float) -> None:
    if (plt := pyplot()) is None:
        return
    figure, axis = plt.subplots(figsize=(6, 4))
    for kind, part in of.items():
        axis.loglog(np.maximum(part.novelty, 0.1), 1e3 * part.errors, ".", label=kind, alpha=0.6)
    axis.axvline(1, color="grey", lw=0.8)
    axis.axhline(3e3 * usual, color="grey", lw=0.8)
    axis.set(xlabel="novelty", ylabel="error of the forces / meV/Å", xlim=(0.1, 1e4))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    write_picture("novelty", figure)


# --- examples -----------------------------------------------------------------------------------


def examples() -> dict[str, System]:
    """Return systems of most of which the first model that shipped knew nothing."""
    frames = first_set()
    methanol, cation, anion = (
        next(f.system for f in frames if f.name == name) for name in ("meoh", "mam", "oac")
    )
    numbers, positions = methanol.numbers, methanol.positions
    carbon, oxygen = (int(np.flatnonzero(numbers == z)[0]) for z in (6, 8))
    away = np.linalg.norm(positions - positions[oxygen], axis=1)
    hydrogen = int(np.flatnonzero((numbers == 1) & (away < 1.3))[0])
    along = (positions[hydrogen] - positions[oxygen]) / away[hydrogen]

    def bond(first: int, length: float, moving: list[int]) -> System:
        vector = positions[moving[0]] - positions[first]
        new = positions.copy()
        new[moving] += vector * (length / np.linalg.norm(vector) - 1)
        return System(numbers, new)

    def charge(distance: float) -> System:
        place = [positions[hydrogen] + distance * along]
        return System(numbers, positions, mm_positions=place, mm_charges=[-0.834])

    def pair(first: System, second: System, shift: float, charge: int) -> System:
        beyond = second.positions + np.array([shift, 0, 0])
        places = np.concatenate([first.positions, beyond])
        return System([*first.numbers, *second.numbers], places, charge)

    collapsed = positions.copy()
    collapsed[hydrogen] = positions[carbon] + [0.18, 0, 0]
    acid = np.array([[0, 0, 0], [1.2, 0, 0], [-0.67, 1.17, 0], [-0.55, -0.95, 0], [-0.05, 1.9, 0]])
    dimer = 0.45 * np.concatenate([acid, [2.9, 1.9, 0] - acid])
    return {
        "methanol in water (trained on)": methanol,
        "water": System([8, 1, 1], _WATER),
        "water, optimised by the model (O–H 0.58 Å)": System([8, 1, 1], 0.606 * _WATER),
        "H2": System([1, 1], [[0, 0, 0], [0, 0, 0.74]]),
        "O2": System([8, 8], [[0, 0, 0], [0, 0, 1.21]]),
        "methanol with charge +7": System(numbers, positions, 7),
        "methanol, C–O 0.7 Å": bond(carbon, 0.7, [oxygen, hydrogen]),
        "methanol, O–H 0.3 Å": bond(oxygen, 0.3, [hydrogen]),
        "formic acid dimer, collapsed": System(2 * [6, 8, 8, 1, 1], dimer),
        "methanol, two atoms 0.18 Å apart": System(numbers, collapsed),
        "charge −0.834 at 1.0 Å from H(O)": charge(1.0),
        "charge −0.834 at 0.8 Å from H(O)": charge(0.8),
        "methylammonium + acetate, 5 Å": pair(cation, anion, 5, 0),
        "methylammonium + acetate, 1000 Å": pair(cation, anion, 1000, 0),
        "methanol + acetate, 1000 Å": pair(methanol, anion, 1000, -1),
        "N-methylacetamide": System(*METHYLACETAMIDE),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["generate", "compare"], default="compare")
    parser.add_argument("--only", help="kind of frames to label, such as unseen")
    parser.add_argument("--committee", metavar="PATH", help="checkpoint of a committee to compare")
    arguments = parser.parse_args()
    if arguments.what == "generate":
        generate(arguments.only)
    else:
        compare(arguments.committee)
