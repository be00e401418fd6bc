"""QM/MM in OpenMM: a model for some atoms, in the charges of a classical force field.

The model computes the energy of the QM atoms, their electrostatic interaction with the charges
around them included; the force field does the rest: everything among the other atoms, and the
Lennard-Jones interaction between the two. No patched engine: the model is called through
`openmm.PythonForce`.
"""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gnn.data.values import total_charge
from gnn.engines._models import ready_model
from gnn.engines.classical.softcore import ELECTROSTATICS, STERICS, soften
from gnn.engines.classical.splitting import split
from gnn.engines.embedding.embedding import Embedding
from gnn.engines.embedding.frontier import check_reach, links_of
from gnn.engines.embedding.groups import SWITCH_WIDTH
from gnn.engines.embedding.kinds import (
    REACTION_FIELDS,
    checked_electrostatics,
    in_reaction_field,
    prepared,
)
from gnn.engines.embedding.redistribution import NEUTRAL, redistributed, zone_charge
from gnn.engines.embedding.topology import bonds_among, surroundings_of, zone_of
from gnn.potential import Potential
from gnn.units import KJ_PER_MOL, NANOMETER

#: Message of an OpenMMException that stands for a KeyboardInterrupt.
INTERRUPTED = "interrupted by the keyboard"
_SWITCH = 8 / 9  # of the cutoff: where the Lennard-Jones interaction begins to fade


class QMMMForce:
    """What `openmm.PythonForce` calls: the model's energy and forces for one state.

    Parameters
    ----------
    embedding : Embedding
        For all particles of the system.
    periodic : bool
        Whether there is a box.
    """

    def __init__(self, embedding: Embedding, periodic: bool):
        self.embedding, self.periodic, self._told = embedding, periodic, False

    def __call__(self, state: Any) -> tuple[float, np.ndarray]:
        """Return energy in kJ/mol and forces (particles, 3) in kJ/mol/nm.

        OpenMM keeps nothing but the message of an error raised here, so that says all.
        """
        try:
            return self._evaluate(state)
        except KeyboardInterrupt:
            raise RuntimeError(INTERRUPTED) from None
        except ValueError:
            raise
        except Exception as error:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error

    def _evaluate(self, state: Any) -> tuple[float, np.ndarray]:
        positions = np.asarray(state.getPositions(asNumpy=True)._value) * NANOMETER
        self._couple(state)
        box = None
        if self.periodic:
            box = np.asarray(state.getPeriodicBoxVectors(asNumpy=True)._value) * NANOMETER
        energy, forces = self.embedding.energy_forces(positions, box)
        return energy / KJ_PER_MOL, forces * (NANOMETER / KJ_PER_MOL)

    def _couple(self, state: Any) -> None:
        """Scale the charges by the context's parameter, where there is one."""
        given = dict(state.getParameters())
        for name in {ELECTROSTATICS, STERICS} & given.keys():
            if not 0 <= given[name] <= 1:
                raise ValueError(f"expected {name} from 0 to 1, got {given[name]:g}")
        coupling, cores = given.get(ELECTROSTATICS, 1.0), given.get(STERICS, 1.0)
        self.embedding.coupling = coupling
        if coupling and cores < 1 and not self._told:
            self._told = True
            warnings.warn(
                f"{STERICS} is {cores:g} while {ELECTROSTATICS} is {coupling:g}: charges come "
                "nearer to the QM atoms than whole cores let them, where the model knows nothing; "
                f"take {ELECTROSTATICS} to 0 first",
                stacklevel=2,
            )


def create_system(
    topology: Any,
    mm_forcefield: Any,
    qm_atoms: Sequence[int],
    model: Potential | str | Path | None = None,
    *,
    charge: int | None = None,
    charges: Mapping[int, int] | Sequence[int] | None = None,
    link_scheme: str | None = None,
    link_ratio: float | Mapping[tuple[str, str], float] | None = None,
    cutoff: float = 9.0,
    switch_width: float = SWITCH_WIDTH,
    electrostatics: str | None = None,
    dtype: torch.dtype | None = None,
    watch: Callable[[dict[str, torch.Tensor]], None] | None = None,
    alchemical: bool = False,
    prepare: Callable[[Embedding], None] | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> Any:
    """Build an OpenMM system in which a model computes some of the atoms.

    Parameters
    ----------
    topology : openmm.app.Topology
        Of the whole system.
    mm_forcefield : openmm.app.ForceField, AmberPrmtopFile, GromacsTopFile, … or openmm.System
        The classical force field, for all atoms: what can create a system, or a system made
        already, which stays as it is.
    qm_atoms : sequence of int
        Indices of the atoms that the model computes: whole molecules, or parts of which single
        bonds are cut. A hydrogen then ends the zone on each cut bond (a link atom).
    model : Potential, path of a checkpoint, or None
        None: the model that ships.
    charge : int, optional
        Total charge of the QM atoms in e. None: that of the force field, where bonds are cut the
        nearest whole number.
    charges : dict or sequence of int, optional
        Formal charges where there are several QM molecules, ``{molecule: charge}`` or one number
        for each QM atom, for models with local charges. They stay so for the whole run. None: what
        the bonds of the topology tell.
    link_scheme : {"shift", "rcd", "delete", "refuse"}, optional
        Where the charge of an MM atom goes whose bond to a QM atom is cut, see
        `gnn.engines.embedding.redistribution`; "refuse": no bond may be cut. None: "shift", and a
        warning names cut bonds.
    link_ratio : float or dict, optional
        Where the link atom is on the cut bond, as the length of the bond to hydrogen over that of
        the cut bond; by elements of QM and MM atom ``{("C", "C"): 0.71}`` or one for all. None:
        from usual lengths (0.712 for C–C).
    cutoff : float
        The model sees the charges of residues whose centre (of the heavy atoms) is within this
        distance in Å of a QM atom.
    switch_width : float
        Width in Å of the shell below the cutoff in which charges fade away.
    electrostatics : {"periodic", "cutoff", "reaction-field", "reaction-field-published"}, optional
        What becomes of charges as they fade away, and of those beyond: "periodic" lets all of them
        act with all their images, and the QM atoms on themselves by theirs
        (`gnn.engines.embedding.periodic`); "cutoff" leaves them out. The others are those of the
        simulations that AMP-BMS was published with, for that model only: single charges within the
        cutoff, in a reaction field, whose derivatives are consistent with the energy or as
        published (`gnn.published.AmpBms`). None: "periodic" in a periodic box, "cutoff" else.
    dtype : torch.dtype, optional
        Type in which the model computes. None: that of its weights.
    watch : callable, optional
        Called at every evaluation with what the model returns, a dict of tensors (of a committee
        with ``energy_std`` and ``forces_std``); an error that it raises ends the run.
    alchemical : bool
        Give contexts two parameters from 0 to 1, at first 1: ``lambda_electrostatics`` multiplies
        the charges that the model sees, ``lambda_sterics`` takes the Lennard-Jones interaction
        between QM atoms and others away (`gnn.engines.classical.softcore`). With both at 0 the QM
        atoms are in vacuum.
    prepare : callable, optional
        Called once with the `Embedding`, whose ``evaluate`` it may replace.
    device : torch.device or str, optional
        Where the model runs, such as "cuda:0"; None: where it is. That of a context's platform is
        `gnn.engines.devices.device_of`.
    **options
        For ``mm_forcefield.createSystem``. Default: PME with a cutoff of 9 Å where there is a
        box, no cutoff else; rigid water; a smooth end of the Lennard-Jones interaction.

    Returns
    -------
    openmm.System
        Its `PythonForce` is in force group 1. The QM atoms keep their Lennard-Jones parameters,
        have no charge in the force field, and are free of constraints.

    Raises
    ------
    ValueError
        If `qm_atoms` are not atoms of the topology, a bond must not be cut (double, aromatic, of
        an amide, to hydrogen, …), the charge of a whole molecule is not whole, the model does not
        know an element, a force of the force field cannot be split (or softened), `alchemical`
        comes with cut bonds, or the electrostatics does not fit the box or the model.
    TypeError
        If an argument is of another kind.

    Notes
    -----
    The energy is E_MM(others) + E_LJ(QM, others) + E_model(QM | q w): see
    `gnn.engines.embedding.embedding.Embedding` and, for the weights w,
    `gnn.engines.embedding.groups.Groups`. With "periodic", the model feels all other charges as an
    external field, and its own images: `gnn.engines.embedding.periodic`. Where bonds are cut,
    E_MM keeps the terms that `gnn.engines.classical.crossing` names.
    """
    import openmm

    cutoff, switch_width = (_angstrom(length) for length in (cutoff, switch_width))
    charge = None if charge is None else total_charge(charge)
    system = classical_system(topology, mm_forcefield, options)
    atoms = list(topology.atoms())
    if len(atoms) != system.getNumParticles():
        raise ValueError(
            f"expected as many particles as atoms in the topology, got {system.getNumParticles()} "
            f"and {len(atoms)}"
        )
    qm = _checked_atoms(topology, qm_atoms)
    finished = isinstance(mm_forcefield, openmm.System)
    links = links_of(topology, set(qm), link_scheme, link_ratio)
    if alchemical:
        _check_whole(len(links))
    check_reach(links, cutoff - switch_width)
    classical = split(system, topology, set(qm), finished)
    charge = zone_charge(classical, bonds_among(topology, qm), qm, links, charge)
    periodic = system.usesPeriodicBoundaryConditions()
    electrostatics = checked_electrostatics(electrostatics, periodic)
    ready = prepared(ready_model(model, dtype), electrostatics, cutoff)
    ready = ready if device is None else ready.to(device)
    zone = zone_of(topology, qm, charge, charges, ready.charges == "local", links)
    moved = redistributed(link_scheme or "shift", links, zone, qm, classical) if links else None
    surroundings = surroundings_of(topology, set(qm), classical, moved, links)
    if electrostatics in REACTION_FIELDS:
        surroundings, cutoff = in_reaction_field(ready, surroundings, cutoff, switch_width)
    far = electrostatics == "periodic"
    if far and not links:
        _warn_of_charge(charge, float(classical[qm].sum()), float(surroundings.charges.sum()))
    embedding = Embedding(ready, zone, surroundings, cutoff, switch_width, watch, far)
    if embedding.far is not None:
        box = system.getDefaultPeriodicBoxVectors()
        embedding.far.choose(len(zone.numbers), np.array([list(v._value) for v in box]) * NANOMETER)
    if prepare is not None:
        prepare(embedding)
    if alchemical:
        soften(system, set(qm))
    system.addForce(_force(embedding, periodic, {ELECTROSTATICS: 1.0} if alchemical else {}))
    return system


def _check_whole(cut: int) -> None:
    """Refuse to take parts of molecules out of their surroundings."""
    if cut:
        raise ValueError(
            f"alchemical=True takes whole molecules out of their surroundings, and {cut} "
            f"bond{'s' if cut > 1 else ''} of the QM atoms would be cut: what holds them to the "
            "rest has no parameter"
        )


def _force(embedding: Embedding, periodic: bool, parameters: dict[str, float]) -> Any:
    """Return the force of the model, with parameters of the context that it reads."""
    import openmm

    force = openmm.PythonForce(QMMMForce(embedding, periodic), parameters)
    force.setUsesPeriodicBoundaryConditions(periodic)
    force.setForceGroup(1)
    force.setName("QMMMForce")
    return force


def classical_system(topology: Any, mm_forcefield: Any, options: dict[str, Any]) -> Any:
    """Build the system of a force field alone; see `create_system` for arguments and defaults."""
    import openmm
    from openmm import app, unit

    if isinstance(mm_forcefield, openmm.System):
        if options:
            raise ValueError(f"a finished system takes no options, got {', '.join(options)}")
        return copy.deepcopy(mm_forcefield)
    if not hasattr(mm_forcefield, "createSystem"):
        raise TypeError(
            "expected mm_forcefield to be a ForceField, a parameter file of openmm.app or a "
            f"System, got {type(mm_forcefield).__name__}"
        )
    defaults: dict[str, Any] = {"constraints": None, "rigidWater": True}
    if topology.getPeriodicBoxVectors() is not None:
        reach = options.get("nonbondedCutoff", 0.9 * unit.nanometer)
        _check_reach(topology.getPeriodicBoxVectors(), reach)
        defaults |= {"nonbondedMethod": app.PME, "nonbondedCutoff": reach}
        if _fades(mm_forcefield):
            defaults["switchDistance"] = _SWITCH * reach
    needed = [topology] if isinstance(mm_forcefield, app.ForceField) else []
    return mm_forcefield.createSystem(*needed, **(defaults | options))


def _check_reach(box: Any, reach: Any) -> None:
    """Refuse a box too narrow for the force field's own cutoff (nm, or with a unit)."""
    from openmm import unit

    cutoff = reach.value_in_unit(unit.nanometer) if unit.is_quantity(reach) else float(reach)
    narrowest = float(np.diag(box.value_in_unit(unit.nanometer)).min())
    if 2 * cutoff > narrowest:
        raise ValueError(
            f"the box ({10 * narrowest:.1f} Å at its narrowest) is too small for the force field, "
            f"whose own cutoff ({10 * cutoff:g} Å) must stay below half of it: use more solvent"
        )


def _fades(mm_forcefield: Any) -> bool:
    """Return whether there is a Lennard-Jones interaction to switch off (AMOEBA has none)."""
    from openmm import app

    if not isinstance(mm_forcefield, app.ForceField):
        return True
    kinds = {type(generator).__name__ for generator in mm_forcefield.getGenerators()}
    return not kinds.isdisjoint(("NonbondedGenerator", "LennardJonesGenerator"))


def _checked_atoms(topology: Any, qm_atoms: Sequence[int]) -> list[int]:
    """Return the indices sorted, after a check that they are atoms of the topology."""
    given = list(qm_atoms)
    if not all(isinstance(i, Integral) and not isinstance(i, bool | np.bool_) for i in given):
        raise TypeError(
            "expected qm_atoms to be indices (whole numbers, no mask), got "
            f"{', '.join(map(repr, given[:8]))}"
        )
    atoms = sorted(int(i) for i in given)
    count = topology.getNumAtoms()
    if not atoms or len(set(atoms)) != len(atoms) or atoms[0] < 0 or atoms[-1] >= count:
        raise ValueError(
            f"expected qm_atoms to be different indices of the {count} atoms, at least one, got "
            f"{str(given)[:80]}"
        )
    inside = set(atoms)
    for atom in topology.atoms():
        if atom.index in inside and atom.element is None:
            raise ValueError(
                f"QM atom {atom.index} ({atom.name} of {atom.residue.name} {atom.residue.id}) has "
                "no element: the model computes atoms only (leave water with virtual sites to the "
                "force field)"
            )
    return atoms


def _warn_of_charge(zone: int, classical: float, around: float) -> None:
    """Warn where the zone has another charge than in the force field: so has the box."""
    if abs(zone - classical) > NEUTRAL:
        warnings.warn(
            f"the zone has a charge of {zone} e, its atoms in the force field {classical:+.3f} e: "
            f"with periodic electrostatics the box has {zone + around:+.3f} e in all, which a "
            "uniform background makes up for; pass another charge=, or change ions",
            stacklevel=3,
        )


def _angstrom(length: Any) -> float:
    """Return a length in Å, given as a number or with a unit of OpenMM."""
    from openmm import unit

    return float(length.value_in_unit(unit.angstrom) if unit.is_quantity(length) else length)
