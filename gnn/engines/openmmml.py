"""Our models in OpenMM-ML (`openmmml`): potentials ``anisole`` and ``amp-bms``, an embedding.

    MLPotential("anisole").createSystem(topology)
    MLPotential("anisole").createMixedSystem(topology, system, atoms, embedding="electrostatic")

What is computed is what `gnn.engines.openmm.create_system` computes; here it gets the names that
OpenMM-ML expects. The package finds this module by its entry points.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gnn.data.systems import System
from gnn.engines._models import ready_model
from gnn.engines.devices import in_its_thread
from gnn.engines.embedding.embedding import Embedding
from gnn.engines.embedding.topology import zone_of
from gnn.engines.openmm import QMMMForce, create_system
from gnn.potential import Potential
from gnn.units import KJ_PER_MOL, NANOMETER

try:
    from openmmml import mlpotential
except ImportError as error:
    raise ImportError(
        "gnn.engines.openmmml needs the package openmmml: in a checkout, pip install '.[engines]'"
    ) from error

#: Names of OpenMM-ML for floating-point types.
PRECISIONS = {None: None, "single": "float32", "double": "float64"}
ELECTROSTATIC = "electrostatic"
_LAMBDA = "lambda_interpolate"
_OURS = ("charge", "charges", "cutoff", "switch_width", "modelPath", "precision")


class ModelPotential(mlpotential.MLPotentialImpl):
    """A model of this package as a potential of OpenMM-ML.

    Parameters
    ----------
    model : Potential, path of a checkpoint, name of a model, or None
        None: the one that ships.

    Raises
    ------
    OSError, ValueError
        If it cannot be read.
    """

    def __init__(self, model: Any = None):
        self.model = ready_model(model)

    def getSupportedEmbeddings(self) -> list[str]:
        """Return what is beside the embeddings of OpenMM-ML: ``"electrostatic"``."""
        return [ELECTROSTATIC]

    def getMLLongRange(self) -> bool:
        """Return that images of a part of a system do not act on it: it is computed by itself."""
        return False

    def addForces(
        self,
        topology: Any,
        system: Any,
        atoms: Iterable[int] | None,
        forceGroup: int,
        charge: int = 0,
        charges: Mapping[int, int] | Sequence[int] | None = None,
        precision: str | None = None,
        linkAtomDistances: Any = None,
    ) -> None:
        """Add the force of some atoms by themselves, or of the whole system.

        Parameters
        ----------
        topology : openmm.app.Topology
            Of the whole system. A whole system with a box is periodic: its atoms interact with all
            of their images.
        system : openmm.System
            Takes the force.
        atoms : iterable of int or None
            None: all atoms.
        forceGroup : int
            Of the force.
        charge : int
            Total charge of the atoms in e.
        charges : dict or sequence of int, optional
            Formal charges of molecules; see `gnn.engines.openmm.create_system`.
        precision : {"single", "double"}, optional
            Type in which the model computes. None: that of its weights.
        linkAtomDistances : list, optional
            For OpenMM-ML's mechanical embedding, which puts the link atoms in their places.

        Raises
        ------
        ValueError
            If an atom has no element, the model does not know it, or takes no cells and needs to.
        """
        import openmm

        model = ready_model(self.model, _dtype(precision))
        chosen = list(range(topology.getNumAtoms())) if atoms is None else list(atoms)
        part = _part_of(topology, chosen)
        boxed = topology.getPeriodicBoxVectors() is not None
        periodic = boxed or system.usesPeriodicBoundaryConditions()
        zone = zone_of(part, range(len(chosen)), charge, charges, model.charges == "local")
        if atoms is None and periodic:
            force = openmm.PythonForce(CellForce(model, zone.numbers, charge, zone.formal))
        else:
            force = openmm.PythonForce(QMMMForce(Embedding(model, zone), periodic))
        force.setForceGroup(forceGroup)
        force.setName("ModelForce")
        force.setUsesPeriodicBoundaryConditions(periodic)
        if atoms is not None:
            force.setParticles(chosen)
        system.addForce(force)

    def createMixedSystem(
        self,
        topology: Any,
        system: Any,
        atoms: Iterable[int],
        forceGroup: int,
        interpolate: bool,
        embedding: str,
        returnInfo: bool = False,
        precision: str | None = None,
        **options: Any,
    ) -> Any:
        """Return a system in which the model sees the charges around its atoms.

        Parameters
        ----------
        topology : openmm.app.Topology
            Of the whole system.
        system : openmm.System
            All of it by a force field.
        atoms : iterable of int
            Those of the model.
        forceGroup : int
            Of the model's force (of the interpolation, where there is one).
        interpolate : bool
            Give contexts the parameter ``lambda_interpolate``: 0 is the force field, 1 (at first)
            the mixed system.
        embedding : str
            ``"electrostatic"``.
        returnInfo : bool
            Has no meaning here: particles stay as they are.
        precision : {"single", "double"}, optional
            Type in which the model computes. None: that of its weights.
        **options
            Of `gnn.engines.openmm.create_system`: ``charge``, ``cutoff``, …
        """
        mixed = _embedded(self.model, topology, system, list(atoms), precision, options)
        _of_group(mixed, forceGroup)
        return _interpolated(system, mixed, forceGroup) if interpolate else mixed


class Electrostatics(mlpotential.Embedding):
    """Electrostatic embedding for potentials that see no charges: the interaction is our model's.

    The energy of the atoms is that of any potential of OpenMM-ML, to which comes what our model
    says of them among the charges less what it says of them alone: electrostatics and polarisation.
    """

    def createMixedSystem(
        self,
        potential: Any,
        topology: Any,
        system: Any,
        atoms: Iterable[int],
        forceGroup: int,
        interpolate: bool,
        returnInfo: bool = False,
        **options: Any,
    ) -> Any:
        """Return the mixed system.

        Parameters
        ----------
        potential : MLPotentialImpl
            Computes the atoms among themselves.
        topology, system, atoms, forceGroup, interpolate, returnInfo
            As in `ModelPotential.createMixedSystem`.
        **options
            ``modelPath`` (a checkpoint for the interaction; None: the model that ships),
            ``charge``, ``charges``, ``cutoff``, ``switch_width`` and ``precision`` as there. Charge
            and precision go to the potential, too, and so does what is not among these.
        """
        import openmm

        shared = {name: options[name] for name in ("charge", "precision") if name in options}
        own = {name: options.pop(name) for name in _OURS if name in options}
        model, precision = own.pop("modelPath", None), own.pop("precision", None)
        ours, chosen = ModelPotential(model), list(atoms)
        mixed = _embedded(ours.model, topology, system, chosen, precision, dict(own))
        alone = openmm.System()
        formal = {name: own[name] for name in ("charge", "charges") if name in own}
        ours.addForces(topology, alone, chosen, forceGroup, precision=precision, **formal)
        less = openmm.CustomCVForce("-alone")
        less.addCollectiveVariable("alone", copy.deepcopy(alone.getForce(0)))
        less.setName("ModelAlone")
        mixed.addForce(less)
        before = mixed.getNumForces()
        potential.addForces(topology, mixed, chosen, forceGroup, **shared, **options)
        _of_group(mixed, forceGroup, from_force=before - 1)
        return _interpolated(system, mixed, forceGroup) if interpolate else mixed


class CellForce(QMMMForce):
    """What `openmm.PythonForce` calls for a whole box: atoms among all of their images.

    Parameters
    ----------
    model : Potential
        One that takes cells.
    numbers
        Atomic numbers, (n,).
    charge
        Total charge of the box in e.
    formal
        Each atom's share of the charge of its molecule, (n,), or None.

    Raises
    ------
    ValueError
        If the model takes no cells.
    """

    def __init__(self, model: Potential, numbers: Any, charge: int, formal: Any):
        if not model.takes_cells:
            raise ValueError(
                f"the topology has a box, and {type(model).__name__} computes no periodic systems: "
                "take the box away (topology.setPeriodicBoxVectors(None)), or let a force field "
                "compute what surrounds the molecule (createMixedSystem)"
            )
        self.model, self.numbers, self.charge, self.formal = model, numbers, charge, formal

    def _evaluate(self, state: Any) -> tuple[float, np.ndarray]:
        positions = np.asarray(state.getPositions(asNumpy=True)._value) * NANOMETER
        cell = np.asarray(state.getPeriodicBoxVectors(asNumpy=True)._value) * NANOMETER
        system = System(self.numbers, positions, self.charge, charges=self.formal, cell=cell)
        (found,) = in_its_thread(self.model.baseline.device, self.model.evaluate, [system])
        return found["energy"] / KJ_PER_MOL, found["forces"] * (NANOMETER / KJ_PER_MOL)


def _dtype(precision: str | None) -> str | None:
    if precision not in PRECISIONS:
        raise ValueError(f"expected precision to be 'single' or 'double', got {precision!r}")
    return PRECISIONS[precision]


def _part_of(topology: Any, atoms: Sequence[int]) -> Any:
    """Return a topology of some atoms and the bonds among them.

    The mechanical embedding of OpenMM-ML caps each cut bond by a hydrogen without a bond, and
    appends these to the atoms in the order of the cut bonds: they are bonded here.
    """
    from openmm import app

    every = list(topology.atoms())
    missing = [i for i in atoms if every[i].element is None]
    if missing:
        raise ValueError(
            f"atom {missing[0]} ({every[missing[0]].name}) has no element: the model computes "
            "atoms only (of water with virtual sites, take a force field for the water)"
        )
    part = app.Topology()
    residue = part.addResidue("ML", part.addChain())
    new = {i: part.addAtom(every[i].name, every[i].element, residue) for i in atoms}
    cut = []
    for bond in topology.bonds():
        inside = [atom.index for atom in bond if atom.index in new]
        if len(inside) == 2:
            part.addBond(*(new[i] for i in inside))
        elif inside:
            cut.append(inside[0])
    caps = [i for i in atoms if every[i].residue.name.startswith("V")] if cut else []
    if cut and (len(caps) != len(cut) or list(atoms[-len(cut) :]) != caps):
        raise ValueError(
            f"{len(cut)} bonds of the atoms {str(list(atoms))[:60]} are cut, and {len(caps)} link "
            "atoms are there to cap them"
        )
    for inner, cap in zip(cut, caps, strict=True):
        part.addBond(new[inner], new[cap])
    return part


def _embedded(
    model: Potential,
    topology: Any,
    system: Any,
    atoms: list[int],
    precision: str | None,
    options: dict[str, Any],
) -> Any:
    """Return the system of `create_system`, with constraints as they were.

    OpenMM-ML takes those of the atoms away itself, unless a user wants to keep them.
    """
    ready = ready_model(model, _dtype(precision))
    mixed = create_system(topology, system, atoms, ready, **options)
    inside = set(atoms)
    for k in range(system.getNumConstraints()):
        first, second, distance = system.getConstraintParameters(k)
        if first in inside and second in inside:
            mixed.addConstraint(first, second, distance)
    return mixed


def _of_group(system: Any, group: int, from_force: int | None = None) -> None:
    """Put Python forces, and all forces from a number on, into a group."""
    import openmm

    for k, force in enumerate(system.getForces()):
        late = from_force is not None and k >= from_force
        if late or isinstance(force, openmm.PythonForce):
            force.setForceGroup(group)


def _interpolated(classical: Any, mixed: Any, group: int) -> Any:
    """Return the mixed system with a parameter that leads from the classical one to it.

    Forces that both have stay as they are; of the others there are both, one of them times the
    parameter, the other times what is missing to 1.
    """
    import openmm

    between = openmm.CustomCVForce("")
    between.setName("Interpolation")
    between.setForceGroup(group)
    between.addGlobalParameter(_LAMBDA, 1.0)
    texts = [{_text(force) for force in system.getForces()} for system in (mixed, classical)]
    both = texts[0] & texts[1]
    for system, factor in ((mixed, _LAMBDA), (classical, f"(1-{_LAMBDA})")):
        for k in reversed(range(system.getNumForces())):
            force = system.getForce(k)
            # those of no strength tell what is a molecule, and must be seen from outside
            if _text(force) in both or force.getName() == "QMMolecules":
                continue
            name = f"term{between.getNumCollectiveVariables()}"
            between.addCollectiveVariable(name, copy.deepcopy(force))
            between.setEnergyFunction(f"{between.getEnergyFunction()}+{factor}*{name}".lstrip("+"))
            if system is mixed:
                mixed.removeForce(k)
    mixed.addForce(between)
    return mixed


def _text(force: Any) -> str:
    """Return what two forces have in common that are the same; the model's are like no other."""
    import openmm

    ours = isinstance(force, openmm.PythonForce | openmm.CustomCVForce)
    return f"{id(force)}" if ours else openmm.XmlSerializer.serialize(force)
