"""ASE calculator: a model for `ase.Atoms`, alone or in the field of what surrounds them."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from gnn.data.charge import find_charge
from gnn.data.parts import derived_charges, parts_of
from gnn.data.systems import System
from gnn.data.values import float_array, total_charge
from gnn.engines._models import ready_model
from gnn.engines.spread import Spread
from gnn.potential import Potential
from gnn.training.committee import Committee
from gnn.trust.words import checked_policy

try:
    from ase import Atoms
    from ase.calculators.calculator import Calculator, all_changes
except ImportError as error:
    raise ImportError(
        "gnn.engines.ase needs the package ase: in a checkout, pip install '.[engines]'"
    ) from error

Array = NDArray[np.float64]

#: Shapes of what may surround the atoms (None: any length).
_SURROUNDINGS: dict[str, tuple[int | None, ...]] = {
    "mm_positions": (None, 3),
    "mm_charges": (None,),
    "mm_dipoles": (None, 3),
    "mm_quadrupoles": (None, 3, 3),
    "uniform_field": (3,),
}
#: What ASE has no name for, of models that have it.
_BESIDE = ("novelty", "energy_std", "forces_std", "dipole_std")
_VOIGT = [0, 4, 8, 5, 2, 1]  # xx yy zz yz xz xy in a matrix
_WITHOUT_DERIVATIVES = {"energy", "free_energy", "charges"}


class AMPCalculator(Calculator):
    """Energy, forces, charges and dipole of a molecule by a model of this package.

    Units are ASE's: eV, Å, e. What of the atoms is periodic (``atoms.pbc``) repeats with its
    surroundings, in cells of any size and shape, and has a stress in place of a dipole. The energy
    holds the interaction of the atoms with their surroundings, not that of the surroundings among
    themselves.

    Parameters
    ----------
    model : Potential, path of a checkpoint, or None
        `gnn.AMP`, `gnn.published.AmpBms`, …; None: the model that ships.
    charge : int, optional
        Total charge in e, whatever the atoms say. None: what ``atoms.info["charge"]``,
        ``atoms.info["total_charge"]`` and the sum of the atoms' initial charges say, which must
        agree (:mod:`gnn.data.charge`); 0 where nothing is set.
    charges : dict or array_like, optional
        Formal charges where there are several molecules, ``{part: charge}`` or one for each atom,
        as in `gnn.System`, for models with local charges. None: what the bonds tell.
    mm_positions, mm_charges : array_like, optional
        Point charges around the atoms: positions (m, 3) in Å, charges (m,) in e.
    mm_dipoles, mm_quadrupoles : array_like, optional
        Multipoles at the same positions, (m, 3) in e Å and (m, 3, 3) in e Å², as in `gnn.System`.
    uniform_field : array_like, optional
        Electric field (3,) in V/Å; its potential is zero at the origin of the coordinates.
    external_field : callable, optional
        Any other field: takes positions (n, 3) in Å and returns the potential there in V with its
        derivatives in V/Å^k, (n, 4), (n, 10) or (n, 20), packed as by `multipoles.field`.
    dtype : torch.dtype or str, optional
        Type in which the model computes, such as ``"float64"``. None: that of its weights.
    strict : bool
        Raise a ValueError for atoms outside of what the model was trained on: the same as
        ``unknown="raise"``.
    unknown : {"warn", "ignore", "raise"}, optional
        What to do about such atoms: warn, once for each composition; nothing; or raise. None:
        what the model's attribute of this name says, at first "warn". How far they are outside
        is in ``calc.results["novelty"]`` (n,), where 1 is the edge (see `gnn.trust`).
    warn_spread, stop_spread : float, optional
        Of a committee: spread of the forces in eV/Å (`gnn.engines.spread.Spread`) above which a
        calculation with forces warns, once, or raises `gnn.engines.spread.SpreadExceeded`.

    Raises
    ------
    OSError
        If there is no checkpoint at a path.
    ValueError
        If an array or the charge is wrong; later, with the atoms, what `gnn.System` refuses,
        periodic boundaries of models that know no cells, and elements that the model was not
        trained on; limits of the spread that are not positive, or of a model that is no committee.
    TypeError
        If an argument is of another kind.

    Notes
    -----
    Of a committee, ``calc.results`` also holds the calibrated standard deviations over its members,
    ``energy_std`` in eV and, after a calculation with forces, ``forces_std`` (n, 3) in eV/Å and
    ``dipole_std`` (3,) in e Å.

    Charge and surroundings can be replaced with ``calc.set(mm_positions=…)``, which discards
    the results so far. Charges of parts are worked out for the first positions, and kept while
    elements and total charge stay the same, so that the energy is one smooth function in a
    trajectory; a warning says when the atoms form other parts than at first, and
    ``calc.set(charges=None)`` begins anew.

    `embed` and `get_forces_on_point_charges` are what ASE's QM/MM calculators
    (`ase.calculators.qmmm.EIQMMM`) ask of a QM calculator.
    """

    # of the types that ASE declares
    implemented_properties = [  # noqa: RUF012
        "energy", "free_energy", "forces", "charges", "dipole", "stress",
    ]  # fmt: skip
    default_parameters = dict.fromkeys(("charge", "charges", *_SURROUNDINGS, "external_field"))
    ignored_changes = {"initial_magmoms"}  # noqa: RUF012
    discard_results_on_any_change = True

    def __init__(
        self,
        model: Potential | str | Path | None = None,
        *,
        charge: int | None = None,
        charges: Mapping[int, int] | ArrayLike | None = None,
        mm_positions: ArrayLike | None = None,
        mm_charges: ArrayLike | None = None,
        mm_dipoles: ArrayLike | None = None,
        mm_quadrupoles: ArrayLike | None = None,
        uniform_field: ArrayLike | None = None,
        external_field: Callable[[Array], ArrayLike] | None = None,
        dtype: torch.dtype | str | None = None,
        strict: bool = False,
        unknown: str | None = None,
        warn_spread: float | None = None,
        stop_spread: float | None = None,
    ):
        self.model = ready_model(model, dtype)
        self._spread = _spread_of(self.model, warn_spread, stop_spread)
        self._warn_spread = warn_spread
        if strict or unknown is not None:
            self.model.unknown = checked_policy("raise" if strict else unknown)
        self._embedded = False
        self._found: dict[str, Any] = {}
        self._told: set[str] = set()  # what was warned of
        self._kept: _Kept | None = None
        super().__init__(
            charge=charge,
            charges=charges,
            mm_positions=mm_positions,
            mm_charges=mm_charges,
            mm_dipoles=mm_dipoles,
            mm_quadrupoles=mm_quadrupoles,
            uniform_field=uniform_field,
            external_field=external_field,
        )

    def set(self, **changes: Any) -> dict[str, Any]:
        """Replace the charge or parts of the surroundings; None takes a part away.

        Parameters
        ----------
        **changes
            Charge, charges and surroundings, as in the constructor. Arrays are copied.

        Returns
        -------
        dict
            What was not as before.

        Raises
        ------
        ValueError
            If a name, shape or value is wrong.
        TypeError
            If a value is of another kind.
        """
        unknown = ", ".join(sorted(changes.keys() - self.default_parameters.keys()))
        if unknown:
            raise ValueError(f"cannot set {unknown}, only {', '.join(self.default_parameters)}")
        checked = {name: _checked(name, value) for name, value in changes.items()}
        if "charges" in checked:  # anew, even if they are what they were
            self._kept = None
            self.reset()
        changed: dict[str, Any] = super().set(**checked)
        return changed

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """Return what ASE writes beside results: the model's kind, the charge, a count.

        Not the surroundings themselves, which would be written with every frame of a trajectory.
        """
        charges = self.parameters["mm_charges"]
        return {
            "model": type(self.model).__name__,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "charge": self.parameters["charge"],
            "n_mm": 0 if charges is None else len(charges),
        }

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what changed since the last calculation, a charge in ``atoms.info`` included."""
        changes: list[str] = super().check_state(atoms, tol)
        if not atoms.pbc.any() and "cell" in changes:  # which nothing depends on
            changes.remove("cell")
        if not changes and self._charge(atoms) != self._charge(self.atoms):
            changes.append("charge")
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Iterable[str] = ("energy",),
        system_changes: Iterable[str] = tuple(all_changes),
    ) -> None:
        """Evaluate the model; derivatives are taken only where `properties` need them.

        Raises
        ------
        ValueError
            If the model cannot compute these atoms (see the class), or there are none.
        SpreadExceeded
            If the members of a committee disagree by more than `stop_spread`.
        """
        super().calculate(atoms, properties, system_changes)
        if self.atoms is None:
            raise ValueError("there are no atoms yet: pass them, or attach the calculator to some")
        # ASE's QM/MM asks for the energy and then for all forces, in every step
        derivatives = self._embedded or not _WITHOUT_DERIVATIVES.issuperset(properties)
        # a barostat asks for forces, and then for the stress, in every step
        periodic = bool(self.atoms.pbc.any())
        stress = derivatives and periodic and self._has_stress(self.atoms, properties)
        (self._found,) = self.model.evaluate(
            [self._system(self.atoms)], forces=derivatives, stress=stress
        )
        if self._spread is not None and derivatives:
            self._watch(self._spread)
        wanted = (*self.implemented_properties, *_BESIDE)
        self.results = {name: self._found[name] for name in wanted if name in self._found}
        self.results["free_energy"] = self._found["energy"]
        if "stress" in self.results:
            self.results["stress"] = self.results["stress"].ravel()[_VOIGT]

    def _has_stress(self, atoms: Atoms, properties: Iterable[str]) -> bool:
        """Return whether to compute the stress: where there is one, or an error should say why."""
        in_field = self.parameters["external_field"] is not None
        return "stress" in properties or (bool(atoms.cell.volume) and not in_field)

    def _watch(self, spread: Spread) -> None:
        """Warn once, or raise an error, where the members of a committee disagree."""
        spread(self._found)
        limit = self._warn_spread
        if limit is not None and spread.force > limit and "spread" not in self._told:
            self._told.add("spread")
            warnings.warn(spread.sentence("warn_spread", limit), stacklevel=2)

    def get_atomic_multipoles(self, atoms: Atoms | None = None) -> dict[str, Array]:
        """Return the multipoles of the atoms.

        Returns
        -------
        dict
            ``charges`` (n,) in e, ``dipoles`` (n, 3) in e Å, ``quadrupoles`` (n, 3, 3) in e Å² in
            the convention of `gnn.System`.
        """
        self.get_property("charges", atoms)
        return {name: self._found[name].copy() for name in ("charges", "dipoles", "quadrupoles")}

    def get_forces_on_point_charges(self, atoms: Atoms | None = None) -> Array:
        """Return the forces of the atoms on the surrounding charges, (m, 3) in eV/Å.

        On particles with dipoles or quadrupoles: at fixed orientation.
        """
        self.get_property("forces", atoms)
        forces: Array = self._found["mm_forces"].copy()
        return forces

    def embed(self, charges: ArrayLike, positions: ArrayLike | None = None) -> "PointCharges":
        """Surround the atoms with point charges, in place of all particles so far.

        Parameters
        ----------
        charges : array_like
            In e, (m,).
        positions : array_like, optional
            In Å, (m, 3). None: they come later, by `PointCharges.set_positions`.

        Returns
        -------
        PointCharges
            Through which ASE's QM/MM calculators move the charges and ask for their forces.
        """
        self.set(mm_charges=charges, mm_positions=positions, mm_dipoles=None, mm_quadrupoles=None)
        self._embedded = True
        return PointCharges(self)

    def _charge(self, atoms: Atoms) -> int:
        """Return the total charge of atoms in e."""
        if self.parameters["charge"] is not None:
            return int(self.parameters["charge"])
        charge, unused = find_charge(atoms.info, atoms.arrays)
        for name in unused.keys() - self._told:
            warnings.warn(f"charge of {atoms.get_chemical_formula()}: {unused[name]}", stacklevel=2)
        self._told |= unused.keys()
        return charge

    def _system(self, atoms: Atoms) -> System:
        given = {name: self.parameters[name] for name in _SURROUNDINGS}
        field = self.parameters["external_field"]
        if field is not None:
            given["external_field"] = field(atoms.positions.copy())
        if atoms.pbc.any():
            given |= {"cell": atoms.cell.array, "periodic": tuple(map(bool, atoms.pbc))}
        system = System(atoms.numbers, atoms.positions, self._charge(atoms), **given)
        return self._with_charges(system) if self.model.charges == "local" else system

    def _with_charges(self, system: System) -> System:
        """Give each atom its share of the charge of the part that it belonged to at first."""
        numbers, positions, total = system.numbers, system.positions, system.charge
        lattice, kept = system.lattice, self._kept
        parts = parts_of(numbers, positions, lattice)
        if kept is None or kept.total != total or not np.array_equal(kept.numbers, numbers):
            given = self.parameters["charges"]
            shares = (
                derived_charges(numbers, positions, total, lattice=lattice)
                if given is None
                else replace(system, charges=given).charges
            )
            self._kept = kept = _Kept(numbers, total, parts, shares)
        elif "parts" not in self._told and not np.array_equal(kept.parts, parts):
            self._told.add("parts")
            warnings.warn(
                "the atoms form other molecules than when their charges were worked out: each atom "
                "keeps the share of charge that it had, which is right along a trajectory; for "
                "other structures of the same atoms, calc.set(charges=None) begins anew",
                stacklevel=2,
            )
        return system.with_charges(kept.shares)


class _Kept(NamedTuple):
    """What the charges of parts were worked out from, and each atom's share of them."""

    numbers: NDArray[np.int64]
    total: int
    parts: NDArray[np.int64]
    shares: Any


class PointCharges:
    """The charges around the atoms of a calculator, as ASE's QM/MM calculators handle them.

    Parameters
    ----------
    calculator : AMPCalculator
        Whose surroundings these are.
    """

    def __init__(self, calculator: AMPCalculator):
        self.calculator = calculator

    def set_positions(self, positions: ArrayLike) -> None:
        """Move the charges to positions (m, 3) in Å."""
        self.calculator.set(mm_positions=positions)

    def set_charges(self, charges: ArrayLike) -> None:
        """Replace the charges, (m,) in e."""
        self.calculator.set(mm_charges=charges)

    def get_forces(self, calculator: AMPCalculator) -> Array:
        """Return the forces on the charges after a calculation, (m, 3) in eV/Å."""
        return calculator.get_forces_on_point_charges()


def _spread_of(model: Potential, warn: float | None, stop: float | None) -> Spread | None:
    """Return what notes the spread of a committee, None for other models, after a check."""
    for name, limit in {"warn_spread": warn, "stop_spread": stop}.items():
        if limit is not None and not limit > 0:
            raise ValueError(f"{name}: expected a number > 0 in eV/Å, got {limit!r}")
    if isinstance(model, Committee):
        return Spread(stop, "stop_spread")
    if warn is not None or stop is not None:
        raise ValueError(
            "warn_spread and stop_spread need a committee as the model, got one "
            f"{type(model).__name__}: leave them out, or train one (anisole train --committee)"
        )
    return None


def _checked(name: str, value: Any) -> Any:
    """Return an own copy of a parameter's value, after a check of its kind and shape."""
    if value is None:
        return None
    if name == "charge":
        return total_charge(value)
    if name == "charges":
        if isinstance(value, Mapping):
            return {int(part): total_charge(charge) for part, charge in value.items()}
        return float_array(name, value, (None,))
    if name in _SURROUNDINGS:
        return float_array(name, value, _SURROUNDINGS[name])
    if not callable(value):
        raise TypeError(
            f"{name}: expected a function that takes positions (n, 3) and returns the field "
            f"there, got {type(value).__name__}"
        )
    return value
