"""A QM system with its surrounding point charges, and a frame: a system with labels."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from gnn.data.images import check_field, checked_cell, image_pairs, lattice_of
from gnn.data.parts import given_charges, parts_of
from gnn.data.values import atomic_numbers, float_array, plain_array, run_number, total_charge
from multipoles.lattice.cell import Cell

#: Components of an external field up to its third derivatives.
FIELD_COMPONENTS = (1, 4, 10, 20)
#: What a system may hold beyond atoms and point charges.
OPTIONAL_FIELDS = ("mm_dipoles", "mm_quadrupoles", "uniform_field", "external_field")
#: Two particles closer than this (Å) are taken for a mistake in the input.
TOO_CLOSE = 1e-3

_RESOLUTION = 1e-3  # Å; largest spacing of floating-point numbers accepted in positions
_DENSE_LIMIT = 200_000  # distances held at once before a k-d tree is used instead
_ROUNDING = 1e-6  # e; largest difference of two sums of charges


class _NotStated(int):
    """The charge of a system whose caller has not said it: zero, or that of its `charges`."""


_NOT_STATED = _NotStated(0)


def _closest(first: NDArray[Any], second: NDArray[Any] | None) -> tuple[float, int, int]:
    """Return the smallest distance of two point sets (None: within the first), and its indices."""
    points = first if second is None else second
    if len(first) * len(points) > _DENSE_LIMIT:
        neighbour = 2 if second is None else 1
        distance, index = cKDTree(first).query(points, k=[neighbour])
        j = int(np.argmin(distance[:, 0]))
        return float(distance[j, 0]), int(index[j, 0]), j
    squared = ((first[:, None, :] - points[None, :, :]) ** 2).sum(-1)
    if second is None:
        np.fill_diagonal(squared, np.inf)
    i, j = divmod(int(np.argmin(squared)), len(points))
    return float(np.sqrt(squared[i, j])), i, j


@dataclass(frozen=True, eq=False)
class System:
    """Atoms treated quantum-mechanically, and the point charges around them.

    Arrays may be NumPy arrays, sequences or torch tensors; they are copied.

    Parameters
    ----------
    numbers
        Atomic numbers, shape (n,), 1..94.
    positions
        Positions of the atoms in Å, shape (n, 3).
    charge
        Total charge of the atoms in e, a whole number. Not given: the sum of `charges`, else 0.
    mm_positions
        Positions of the surrounding point charges in Å, shape (m, 3). None: there are none.
    mm_charges
        Their charges in e, shape (m,).
    mm_dipoles, mm_quadrupoles
        Their dipoles in e Å, shape (m, 3), and quadrupoles in e Å², shape (m, 3, 3), symmetric,
        in the convention Q = 1/2 sum q r r (a traceless Buckingham quadrupole divided by 3).
        None: zero.
    uniform_field
        Electric field in V/Å, shape (3,), the same everywhere; its potential is -F.x, zero at
        the origin of the coordinates.
    external_field
        Any other electrostatic potential at the atoms, shape (n, 1), (n, 4), (n, 10) or (n, 20):
        potential in V, gradient in V/Å, second and third derivatives, packed as by
        `multipoles.field`. Away from the given positions it is taken to be its Taylor polynomial,
        from which forces follow.
    charges
        Formal charges where there are several parts, which are molecules and ions as
        `gnn.data.parts.parts_of` tells them apart: a dictionary ``{part: charge}``, parts being
        numbered by their first atoms, or one number for each atom, of which the sum over each part
        counts. They are kept as each atom's even share of its part's charge, (n,). None: models
        with local charges derive them from the bonds.
    cell
        Lattice vectors in Å as rows, (3, 3): atoms and charges repeat, and positions may lie
        anywhere. Rows of directions that do not repeat have no meaning, but for the volume by
        which a stress is divided. None: free space.
    periodic
        Which directions repeat: a bool, or three. Not given: all three, if there is a cell.

    Raises
    ------
    ValueError
        If a shape or value is wrong, two atoms coincide, a point charge lies on an atom (or on
        an image of one), `charges` are not whole for each part or do not add up to `charge`, the
        lattice vectors that repeat span no volume, or a uniform field lies along them.
    TypeError
        If an array does not hold real numbers.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    charge: int = _NOT_STATED
    mm_positions: NDArray[np.float64] = None  # type: ignore[assignment]
    mm_charges: NDArray[np.float64] = None  # type: ignore[assignment]
    mm_dipoles: NDArray[np.float64] | None = None
    mm_quadrupoles: NDArray[np.float64] | None = None
    uniform_field: NDArray[np.float64] | None = None
    external_field: NDArray[np.float64] | None = None
    charges: NDArray[np.float64] | None = None
    cell: NDArray[np.float64] | None = None
    periodic: tuple[bool, bool, bool] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if (self.mm_positions is None) != (self.mm_charges is None):
            given, missing = "mm_positions", "mm_charges"
            if self.mm_positions is None:
                given, missing = missing, given
            raise ValueError(f"{given} is given without {missing}: pass both or neither")
        numbers = atomic_numbers(self.numbers)
        positions = float_array("positions", self.positions, (len(numbers), 3))
        _check_resolution(plain_array(self.positions))
        mm_positions = np.zeros((0, 3)) if self.mm_positions is None else self.mm_positions
        mm_positions = float_array("mm_positions", mm_positions, (None, 3))
        mm_charges = np.zeros(0) if self.mm_charges is None else self.mm_charges
        mm_charges = float_array("mm_charges", mm_charges, (len(mm_positions),))
        cell, periodic = checked_cell(self.cell, self.periodic)
        lattice = lattice_of(cell, periodic)
        _check_distances(positions, mm_positions, lattice)
        charges, charge = self.charges, self.charge
        if charges is not None:
            if not isinstance(charges, Mapping):
                charges = float_array("charges", charges, (len(numbers),))
            charges = given_charges(numbers, parts_of(numbers, positions, lattice), charges)
            charge = round(charges.sum()) if charge is _NOT_STATED else total_charge(charge)
            _check_sum(charges, charge)
        # The dataclass is frozen: its fields are set here, and in `with_charges`.
        for name, value in {
            "numbers": numbers,
            "positions": positions,
            "charge": total_charge(charge),
            "charges": charges,
            "mm_positions": mm_positions,
            "mm_charges": mm_charges,
            "cell": cell,
            "periodic": periodic,
            **self._checked_fields(len(numbers), len(mm_positions)),
        }.items():
            object.__setattr__(self, name, value)
        if self.uniform_field is not None:
            check_field(self.uniform_field, lattice)

    def _checked_fields(self, n_atoms: int, n_mm: int) -> dict[str, NDArray[np.float64]]:
        """Return the optional multipoles and fields, checked and copied."""
        shapes: dict[str, tuple[int | None, ...]] = {
            "mm_dipoles": (n_mm, 3),
            "mm_quadrupoles": (n_mm, 3, 3),
            "uniform_field": (3,),
            "external_field": (n_atoms, None),
        }
        given = {
            name: float_array(name, getattr(self, name), shape)
            for name, shape in shapes.items()
            if getattr(self, name) is not None
        }
        quadrupoles, external = given.get("mm_quadrupoles"), given.get("external_field")
        if quadrupoles is not None and not np.allclose(quadrupoles, quadrupoles.swapaxes(1, 2)):
            raise ValueError("mm_quadrupoles: expected symmetric matrices")
        if external is not None and external.shape[1] not in FIELD_COMPONENTS:
            raise ValueError(
                f"external_field: expected {n_atoms} rows of 1, 4, 10 or 20 components (potential, "
                f"gradient, second and third derivatives), got shape {external.shape}"
            )
        return given

    def with_charges(self, charges: Any) -> Self:
        """Return this system with the given shares of charge, each as it is.

        The constructor spreads formal charges over the parts that it finds. This is for charges
        that are spread already and have to stay where they are while bonds form and break, as in
        molecular dynamics.

        Parameters
        ----------
        charges
            Charge of each atom in e, (n,), adding up to that of the system. None: they are to be
            derived from the bonds.

        Raises
        ------
        ValueError
            If the shape is wrong, or the sum.
        """
        if charges is not None:
            charges = float_array("charges", charges, (self.n_atoms,))
            _check_sum(charges, self.charge)
        system = copy.copy(self)
        object.__setattr__(system, "charges", charges)
        return system

    @property
    def n_atoms(self) -> int:
        """Number of QM atoms n."""
        return len(self.numbers)

    @property
    def n_mm(self) -> int:
        """Number of surrounding point charges m."""
        return len(self.mm_charges)

    @property
    def in_cell(self) -> bool:
        """Whether atoms and charges repeat in some direction."""
        return self.cell is not None

    @cached_property
    def lattice(self) -> Cell | None:
        """The cell of shortest vectors; None in free space."""
        return lattice_of(self.cell, self.periodic)

    def __repr__(self) -> str:
        repeats = "".join(axis for axis, yes in zip("abc", self.periodic, strict=True) if yes)
        return f"System(n_atoms={self.n_atoms}, charge={self.charge:+d}, n_mm={self.n_mm}" + (
            f", periodic={repeats!r})" if repeats else ")"
        )


def _check_sum(charges: NDArray[np.float64], charge: int) -> None:
    if abs(charges.sum() - charge) > _ROUNDING * len(charges):
        raise ValueError(
            f"charges: they add up to {charges.sum():g} e, but the total charge is {charge}"
        )


def _check_resolution(positions: NDArray[Any]) -> None:
    """Refuse positions too far from the origin for their type to resolve interatomic distances."""
    kind = positions.dtype if positions.dtype.kind == "f" else np.dtype(np.float64)
    largest = np.abs(positions).max(initial=0).astype(kind)
    step = float(np.spacing(largest))
    if step > _RESOLUTION:
        raise ValueError(
            f"positions: coordinates go up to {largest:.3g} Å, where numbers of type {kind} are "
            f"{step:.2g} Å apart: move the atoms to near the origin before they are rounded"
        )


def _check_distances(
    positions: NDArray[Any], mm_positions: NDArray[Any], lattice: Cell | None
) -> None:
    if lattice is not None:
        _check_images(positions, mm_positions, lattice)
        return
    if len(positions) > 1:
        distance, i, j = _closest(positions, None)
        if distance < TOO_CLOSE:
            raise ValueError(_two_atoms(i, j, distance))
    if len(mm_positions):
        distance, i, j = _closest(positions, mm_positions)
        if distance < TOO_CLOSE:
            raise ValueError(_charge_on_atom(i, j, distance))


def _two_atoms(i: int, j: int, distance: float) -> str:
    return (
        f"atoms {min(i, j)} and {max(i, j)} are at one place (distance {distance:.2g} Å): "
        "check the positions and that they are in Å"
    )


def _charge_on_atom(i: int, j: int, distance: float) -> str:
    return (
        f"MM charge {j} lies on atom {i} (distance {distance:.2g} Å): leave the QM atoms "
        "out of mm_positions and mm_charges, and check that positions are in Å"
    )


def _check_images(positions: NDArray[Any], mm_positions: NDArray[Any], lattice: Cell) -> None:
    """Refuse atoms, and charges and atoms, that coincide in a cell."""
    for others, told in ((positions, _two_atoms), (mm_positions, _charge_on_atom)):
        pairs = image_pairs(positions, others, lattice, TOO_CLOSE, coincident=True)
        if not len(pairs.targets):
            continue
        distances = pairs.lengths(positions, others, lattice)
        k = int(np.argmin(distances))
        message = told(int(pairs.targets[k]), int(pairs.sources[k]), float(distances[k]))
        raise ValueError(f"{message}; in a cell, atoms on opposite faces are one atom")


@dataclass(frozen=True, eq=False)
class Frame:
    """A system with its labels; a label that is not known is None.

    Parameters
    ----------
    system
        The atoms and their surroundings.
    energy
        Energy in eV of the atoms in the field of the point charges, without the energy of the
        point charges among themselves.
    forces
        Forces on the atoms in eV/Å, shape (n, 3).
    mm_forces
        Forces on the point charges in eV/Å, shape (m, 3); None where there are no charges.
    dipole
        Dipole of the atoms in e Å, shape (3,), about the origin of the frame's coordinates.
    run
        Number of the molecular-dynamics run the frame comes from.
    name
        Name of the molecule.
    charges, dipoles, quadrupoles
        Multipoles of the atoms, such as those of MBIS: e, shape (n,); e Å, (n, 3); and e Å²,
        (n, 3, 3), in the convention Q = 1/2 sum q r r.
    group
        Group that the file puts the frame in (``config_type``), or the value of the key by which
        frames are split.
    stress
        Stress of the cell in eV/Å³, (3, 3), symmetric: the derivative of the energy by a strain
        of positions and cell over the volume, as in ASE; negative under pressure.
    head
        Level of theory of the labels, where a file holds several (MACE's ``head``).

    Raises
    ------
    ValueError
        If a label has the wrong shape or is not finite, `run` is no whole number, a stress is not
        symmetric or has no cell, or a dipole has a cell, in which it is not defined.
    TypeError
        If `system` is not a System, `name`, `group` or `head` not a string, or `run` no number.
    """

    system: System
    energy: float | None = None
    forces: NDArray[np.float64] | None = None
    mm_forces: NDArray[np.float64] | None = None
    dipole: NDArray[np.float64] | None = None
    run: int = 0
    name: str = ""
    charges: NDArray[np.float64] | None = None
    dipoles: NDArray[np.float64] | None = None
    quadrupoles: NDArray[np.float64] | None = None
    group: str = ""
    stress: NDArray[np.float64] | None = None
    head: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.system, System):
            raise TypeError(f"system: expected a System, got {type(self.system).__name__}")
        for text in ("name", "group", "head"):
            if not isinstance(getattr(self, text), str):
                kind = type(getattr(self, text)).__name__
                raise TypeError(f"{text}: expected a string, got {kind}")
            if "\0" in getattr(self, text):
                raise ValueError(f"{text}: no file keeps the null character in it")
        system = self.system
        shapes: dict[str, tuple[int, ...]] = {
            "energy": (),
            "forces": (system.n_atoms, 3),
            "mm_forces": (system.n_mm, 3),
            "dipole": (3,),
            "charges": (system.n_atoms,),
            "dipoles": (system.n_atoms, 3),
            "quadrupoles": (system.n_atoms, 3, 3),
            "stress": (3, 3),
        }
        labels = {
            name: float_array(name, getattr(self, name), shape)
            for name, shape in shapes.items()
            if getattr(self, name) is not None
        }
        if system.n_mm == 0:  # forces on no charges are checked, but are no label
            labels.pop("mm_forces", None)
            object.__setattr__(self, "mm_forces", None)
        _check_labels_of_cell(system, labels)
        for name, value in labels.items():
            object.__setattr__(self, name, float(value) if name == "energy" else value)
        object.__setattr__(self, "run", run_number(self.run))


def _check_labels_of_cell(system: System, labels: Mapping[str, NDArray[np.float64]]) -> None:
    """Refuse a stress without a cell, one that is not symmetric, and a dipole in a cell."""
    if system.in_cell and "dipole" in labels:
        raise ValueError(
            "dipole: that of a system in a cell depends on which images are counted: expected "
            "none, or a system without a cell"
        )
    if "stress" not in labels:
        return
    stress = labels["stress"]
    if not system.in_cell:
        raise ValueError("stress: expected a system with a cell, got one in free space")
    if not np.allclose(stress, stress.T, rtol=1e-3, atol=1e-6 + 1e-3 * float(np.abs(stress).max())):
        raise ValueError(f"stress: expected a symmetric matrix, got {stress.tolist()}")
