"""One frame of an extended XYZ file: which of its keys hold which quantity."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from gnn.data.charge import find_charge
from gnn.data.common import LABELS, UNITS, check_other_unit, check_unit, is_isolated
from gnn.data.formats.names import Remarks, around, not_used, unmapped
from gnn.data.systems import Frame, System

#: Key of each quantity in a file, unless the caller names another.
DEFAULT_KEYS = {
    "energy": "REF_energy",
    "forces": "REF_forces",
    "dipole": "REF_dipole",
    "mm_positions": "MM_positions",
    "mm_charges": "MM_charges",
    "mm_forces": "MM_forces",
    "charge": "total_charge",
    "formal_charges": "formal_charges",
    "run": "run",
    "name": "name",
    "group": "config_type",
    "head": "head",
    "charges": "REF_charges",
    "dipoles": "REF_dipoles",
    "quadrupoles": "REF_quadrupoles",
    "stress": "REF_stress",
    "virial": "REF_virial",
}

#: Results of ase that are read where there is no such key.
ASE_RESULTS = {
    "energy": ("energy", "free_energy"),
    "forces": ("forces",),
    "dipole": ("dipole",),
    "charges": ("charges",),
    "stress": ("stress",),
}
_VIRIALS = ("REF_virials", "virials", "virial")  # as others call it
#: Weights of labels as MACE writes them; with 0 a label is there for the form's sake only.
_WEIGHTS = {
    name: f"config_{key}_weight"
    for name, key in {
        "energy": "energy", "forces": "forces", "dipole": "dipole", "stress": "stress",
        "virial": "virials",
    }.items()
}  # fmt: skip
_WHOLE_WEIGHT = "config_weight"
_SPINS = ("spin", "total_spin", "multiplicity", "spin_multiplicity", "mult")
_VOIGT = [0, 5, 4, 5, 1, 3, 4, 3, 2]  # places of xx … zz among xx yy zz yz xz xy
_ROUNDING = 1e-6  # largest difference in eV, eV/Å, e Å or e between two values of one quantity


class Image:
    """One frame as ase read it, and where in it each quantity is.

    Parameters
    ----------
    where, number
        File and frame, for messages.
    image
        Atoms of ase.
    keys, named
        Key of each quantity, and those that the caller named.
    required
        Labels that must be there.
    remarks
        Of the file; what is not used is added.
    """

    def __init__(
        self,
        where: str,
        number: int,
        image: Any,
        keys: Mapping[str, str],
        named: Mapping[str, str],
        required: set[str],
        remarks: Remarks,
    ):
        self.where, self.number, self.image, self.keys = where, number, image, keys
        self.named, self.required, self.remarks = named, required, remarks
        self.results: Mapping[str, Any] = {} if image.calc is None else image.calc.results
        self.sources: dict[str, str] = {}  # of each quantity, the key it was read from
        self.group = self._group()
        self.surrounded = False
        self.off = self._without_weight()

    def frame(self, run: int) -> Frame:
        """Return the frame, after a check of everything in it."""
        self._check_units()
        for quantity in ("charge", "run", "name"):
            if quantity in self.named and self.keys[quantity] not in self.image.info:
                raise ValueError(self.missing(quantity))
        if "head" in self.named and not (self._head() or is_isolated(self.group)):
            raise ValueError(self.missing("head"))
        try:
            formal = self._get("formal_charges", (-1,))
            spread = self.keys["formal_charges"] in self.image.info  # as it is written here
            system = System(
                self._numbers(),
                self.image.positions,
                self._charge(),
                self._get("mm_positions", (-1, 3)),
                self._get("mm_charges", (-1,)),
                charges=None if spread else formal,
                cell=self.image.cell.array if self.image.pbc.any() else None,
                periodic=self.image.pbc,
            )
            system = system.with_charges(formal) if spread else system
            frame = Frame(
                system,
                self._get("energy", ()),
                self._get("forces", (-1, 3)),
                self._get("mm_forces", (-1, 3)),
                self._dipole(system),
                run,
                str(self.image.info.get(self.keys["name"], "")),
                self._get("charges", (-1,)),
                self._get("dipoles", (-1, 3)),
                self._get("quadrupoles", (-1, 3, 3)),
                self.group,
                self._stress(system),
                self._head(),
            )
        except (ValueError, TypeError) as error:
            if str(error).startswith(self.where):
                raise
            raise type(error)(f"{self.where}: {error}") from error
        self.surrounded = system.n_mm > 0
        for quantity in LABELS:
            if quantity in self.required and self.lacks(quantity, marked=True):
                raise ValueError(self.missing(quantity))
        self._remark_on_labels(frame)
        return frame

    def lacks(self, quantity: str, marked: bool = False) -> bool:
        """Return whether a quantity is missing; isolated atoms lack labels only if `marked`."""
        if quantity == "dipole" and self.image.pbc.any():
            return marked  # not defined in a cell
        if quantity in self.sources or quantity in ("charge", "run", "name", "group", "head"):
            return False  # checked in `frame`, or by the split
        if quantity in self.off:
            return marked  # there, but not meant to be read
        if quantity == "mm_forces":
            return self.surrounded
        return marked or not is_isolated(self.group)

    def _get(self, quantity: str, shape: tuple[int, ...]) -> Any:
        """Return a quantity by its key, else ase's own result."""
        if quantity in self.off:
            return None
        key, stores = self.keys[quantity], (self.image.arrays, self.image.info, self.results)
        own = () if quantity in self.named else ASE_RESULTS.get(quantity, ())
        given = [(key, store[key]) for store in stores if key in store]
        given += [(name, self.results[name]) for name in own if name in self.results]
        for name, value in given:
            if value is True:  # a key without a value, as ase writes None
                self.remarks.add(self.number, ("empty", name), f"{name!r} has no value")
        found = [(k, _array(self.where, k, v, shape)) for k, v in given if v is not True]
        if not found:
            return None
        (self.sources[quantity], value), *others = found
        if self.sources[quantity] == "free_energy" != key:
            self.remarks.add(self.number, "free", "the energy is read from 'free_energy'")
        for name, other in others:
            if other.shape == value.shape:
                apart = float(np.abs(other - value).max(initial=0.0))
                if apart > _ROUNDING:
                    self.remarks.add(
                        self.number,
                        (quantity, name),
                        f"{quantity}: {self.sources[quantity]!r} is read; {name!r} is another, by "
                        f"up to {apart:.3g}",
                    )
        return value

    def _dipole(self, system: System) -> Any:
        dipole = self._get("dipole", (-1,))
        if dipole is None or not system.in_cell:
            return dipole
        told = "the dipole is not read: in a cell it depends on which images are counted"
        self.remarks.add(self.number, "dipole in cell", told)
        return None

    def _stress(self, system: System) -> Any:
        """Return the stress (3, 3) as it is stored, or minus the virial over the volume."""
        if system.cell is None:
            return None
        stress = self._get("stress", (-1,))
        virial = self._get("virial", (-1,))
        others = () if self.named.keys() | self.off >= {"virial"} else _VIRIALS
        for key in others if virial is None else ():
            if key in self.image.info:
                virial = _array(self.where, key, self.image.info[key], (-1,))
                self.sources["virial"] = key
                break
        if stress is not None:
            found = _matrix(self.where, self.sources["stress"], stress)
        if virial is None:
            return None if stress is None else found
        volume = abs(np.linalg.det(system.cell))
        if volume == 0:
            raise ValueError(
                f"{self.where}: {self.sources['virial']!r} is a stress times a volume, and the "
                "lattice vectors span none"
            )
        of_virial = -_matrix(self.where, self.sources["virial"], virial) / volume
        if stress is None:
            self.sources["stress"] = self.sources["virial"]
            return of_virial
        apart = float(np.abs(of_virial - found).max())
        if apart > _ROUNDING:
            told = f"stress: {self.sources['stress']!r} is read; {self.sources['virial']!r}"
            told += f" is of another, by up to {apart:.3g} eV/Å³"
            self.remarks.add(self.number, ("stress", "virial"), told)
        return found

    def missing(self, quantity: str) -> str:
        """Say that a quantity is not there, and what is."""
        image = self.image
        return (
            f"{self.where}: no {self.keys[quantity]!r} for {quantity}; found in the comment line: "
            f"{', '.join(image.info) or 'nothing'}; per atom: {', '.join(image.arrays)}; "
            f"read as results: {', '.join(self.results) or 'none'}. Name the key of your file: "
            f'keys={{"{quantity}": ...}}'
        )

    def _charge(self) -> int:
        stores = {**self.results, **self.image.arrays}
        if "charges" in self.named and self.named["charges"] in stores:
            stores["charges"] = stores.pop(self.named["charges"])
        charge, unused = find_charge(self.image.info, stores, self.keys["charge"])
        for name, text in unused.items():
            if name not in self.keys.values():
                self.remarks.add(self.number, ("charge", name), text)
        return charge

    def _group(self) -> str:
        """Return the value of the key that groups frames; isolated atoms are always called so."""
        kind = str(self.image.info.get(DEFAULT_KEYS["group"], ""))
        return kind if is_isolated(kind) else str(self.image.info.get(self.keys["group"], ""))

    def _head(self) -> str:
        return str(self.image.info.get(self.keys["head"], ""))

    def _without_weight(self) -> set[str]:
        """Return the labels whose weight is 0; other weights than 1 are named as not used."""
        weights = {key: self.image.info.get(key, 1) for key in (_WHOLE_WEIGHT, *_WEIGHTS.values())}
        zero = {key for key, weight in weights.items() if str(weight).rstrip("0") in ("", "0.")}
        for key, weight in weights.items():
            if key in zero:
                told = f"what {key}=0 weighs is not read"
                self.remarks.add(self.number, ("no weight", key), told)
            elif str(weight).removesuffix(".0") != "1":
                told = f"{key}={weight!s:.20} is not used: labels weigh alike, or nothing (0)"
                self.remarks.add(self.number, ("weight", key), told)
        off = {name for name, key in _WEIGHTS.items() if _WHOLE_WEIGHT in zero or key in zero}
        # the energy of an atom alone is no label, but the constant of an element
        return off - {"energy"} if is_isolated(self.group) else off

    def _numbers(self) -> np.ndarray:
        numbers: np.ndarray = self.image.numbers
        if len(numbers) and not numbers.any():
            raise ValueError(
                f"{self.where}: no species: expected a column 'species' of symbols or 'Z' of "
                f"atomic numbers, found {', '.join(self.image.arrays)}"
            )
        return numbers

    def _check_units(self) -> None:
        for key, value in self.image.info.items():
            plain = key.lower().removesuffix("s")
            if plain in UNITS:
                check_unit(self.where, plain, value)
            elif "unit" in plain:
                check_other_unit(self.where, key, value)
                told = f"{key}={value!s:.20} is not used: everything is read in eV, Å and e"
                self.remarks.add(self.number, ("unit", key), told)

    def _remark_on_labels(self, frame: Frame) -> None:
        """Name what looks like a label and was not read, and labels of two origins."""
        image, read = self.image, {*self.keys.values(), *self.sources.values(), *UNITS}
        info = {k: v for k, v in {**image.info, **self.results}.items() if k not in read}
        arrays = {k: v for k, v in image.arrays.items() if k not in read}
        for quantity in ("energy", "forces", "dipole"):
            if getattr(frame, quantity) is None and quantity not in self.off:
                text = unmapped(quantity, info, arrays, len(image))
                if text:
                    self.remarks.add(self.number, (quantity, "unmapped"), text)
        charges = around([*info, *arrays])
        if charges:
            keys = ", ".join(
                self.keys[name] for name in ("mm_positions", "mm_charges", "mm_forces")
            )
            told = f"{', '.join(charges)} looks like charges around the atoms and is not read"
            self.remarks.add(self.number, "around", f"{told}: the keys are {keys}")
        for key in _SPINS:
            if str(image.info.get(key, 1)).removesuffix(".0") not in ("0", "1"):
                told = f"{key}={image.info[key]!s:.20} is not used: a model has one energy surface"
                self.remarks.add(self.number, ("spin", key), told)
        weights = (_WHOLE_WEIGHT, *_WEIGHTS.values())
        unused = [key for key in not_used([*info, *arrays]) if key not in weights]
        stresses = [key for key in unused if "stress" in key.lower()]
        if stresses and frame.system.in_cell and frame.stress is None:
            told = f"stress: none is read, though {stresses[0]!r} is there: if it is in eV/Å³, name"
            told += f' it: keys={{"stress": "{stresses[0]}"}} in Python, stress={stresses[0]} after'
            told += " --keys on the command line"
            self.remarks.add(self.number, ("stress", "unmapped"), told)
            unused = [key for key in unused if key not in stresses]
        if unused:
            told = f"not used by models of this package: {', '.join(unused)}"
            self.remarks.add(self.number, "not used", told)
        origins = {name: self.sources.get(name, "") for name in ("energy", "forces")}
        if all(origins.values()) and len({key in self.results for key in origins.values()}) > 1:
            told = f"energy is read from {origins['energy']!r}, forces from {origins['forces']!r}"
            self.remarks.add(self.number, "origins", f"{told}: are they of one calculation?")


def _array(where: str, key: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of a value as ase returns it: an array, a number, or a JSON text."""
    try:
        if isinstance(value, str):
            value = json.loads(value)
        if np.asarray(value).dtype.kind == "b":
            raise TypeError("true or false")
        return np.asarray(value, dtype=np.float64).reshape(shape)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{where}: {key!r} should hold numbers of shape "
            f"{str(shape).replace('-1', 'any')}, got {str(value)[:60]!r}"
        ) from error


def _matrix(where: str, key: str, values: np.ndarray) -> np.ndarray:
    """Return the matrix of nine numbers, or of six in the order xx yy zz yz xz xy."""
    if values.size not in (6, 9):
        raise ValueError(
            f"{where}: {key!r} should hold nine numbers, or six (xx yy zz yz xz xy), got "
            f"{values.size}"
        )
    return (values if values.size == 9 else values[_VOIGT]).reshape(3, 3)
