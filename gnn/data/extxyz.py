"""Frames in extended XYZ, through ase.

Per atom: ``REF_forces`` (eV/Å), and the multipoles ``REF_charges`` (e), ``REF_dipoles`` (e Å) and
``REF_quadrupoles`` (e Å², nine columns) where they are known. In the comment line: ``REF_energy``
(eV), ``REF_dipole`` (e Å, about the origin of the coordinates), ``total_charge`` (e), ``run``,
``name``, ``config_type``, and for the point charges, which are not atoms of the frame,
``MM_positions`` (Å), ``MM_charges`` (e) and ``MM_forces`` (eV/Å) as JSON lists. The optional
``energy_unit``, ``length_unit`` and ``charge_unit`` must be eV, Å and e; without them a file is
taken to be in these units.
Coordinates have 8 decimals.
"""

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gnn.data.common import ATOMIC_LABELS, LABELS, UNITS, check_unit, is_isolated
from gnn.data.systems import OPTIONAL_FIELDS, Frame, System

#: Key of each quantity in a file, unless the caller names another.
DEFAULT_KEYS = {
    "energy": "REF_energy",
    "forces": "REF_forces",
    "dipole": "REF_dipole",
    "mm_positions": "MM_positions",
    "mm_charges": "MM_charges",
    "mm_forces": "MM_forces",
    "charge": "total_charge",
    "run": "run",
    "name": "name",
    "group": "config_type",
    "charges": "REF_charges",
    "dipoles": "REF_dipoles",
    "quadrupoles": "REF_quadrupoles",
}


def _ase(name: str) -> Any:
    """Import a module of ase, or say how to install it."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            "extended XYZ files need the package ase: pip install ase; HDF5 files (.h5) do without"
        ) from error


def write_extxyz(path: Path, frames: Sequence[Frame]) -> None:
    """Write frames; see :func:`gnn.data.write_frames`, which does so atomically."""
    atoms = _ase("ase").Atoms
    images = []
    for frame in frames:
        system = frame.system
        beyond = [name for name in OPTIONAL_FIELDS if getattr(system, name) is not None]
        if beyond:
            raise ValueError(f"extxyz has no place for {', '.join(beyond)}: write HDF5 (.h5)")
        image = atoms(numbers=system.numbers, positions=system.positions)
        info: dict[str, Any] = {DEFAULT_KEYS["charge"]: system.charge}
        info[DEFAULT_KEYS["run"]] = frame.run
        info |= {key: spellings[0] for key, spellings in UNITS.items()}
        info["length_unit"] = "Angstrom"  # keeps the file plain ASCII
        if frame.name:
            info[DEFAULT_KEYS["name"]] = frame.name
        if frame.group:
            info[DEFAULT_KEYS["group"]] = frame.group
        if frame.energy is not None:
            info[DEFAULT_KEYS["energy"]] = frame.energy
        if frame.dipole is not None:
            info[DEFAULT_KEYS["dipole"]] = frame.dipole
        if system.n_mm:
            # As text: ase would reshape, transpose or squeeze arrays of 1, 3 or 9 numbers.
            info[DEFAULT_KEYS["mm_positions"]] = json.dumps(system.mm_positions.tolist())
            info[DEFAULT_KEYS["mm_charges"]] = json.dumps(system.mm_charges.tolist())
            if frame.mm_forces is not None:
                info[DEFAULT_KEYS["mm_forces"]] = json.dumps(frame.mm_forces.tolist())
        image.info.update(info)
        if frame.forces is not None:
            image.set_array(DEFAULT_KEYS["forces"], frame.forces)
        for name in ATOMIC_LABELS:
            values = getattr(frame, name)
            if values is not None:
                columns = values if values.ndim < 3 else values.reshape(-1, 9)
                image.set_array(DEFAULT_KEYS[name], columns)
        images.append(image)
    _ase("ase.io").write(path, images, format="extxyz")


def read_extxyz(
    path: Path,
    *,
    names: Iterable[str] | None = None,
    keys: Mapping[str, str] | None = None,
    require: Iterable[str] = (),
) -> list[Frame]:
    """Read frames; see :func:`gnn.data.read_frames`."""
    named = dict(keys or {})
    unknown = sorted(set(named) - set(DEFAULT_KEYS))
    if unknown:
        raise ValueError(
            f"keys: unknown quantity {unknown[0]!r}; known are {', '.join(DEFAULT_KEYS)}"
        )
    # Whoever names a key, or requires a label, wants an error when it is not there.
    needed = set(named) | set(require)
    if not set(require) <= set(LABELS):
        wrong = sorted(set(require) - set(LABELS))[0]
        raise ValueError(f"require: unknown label {wrong!r}; known are {', '.join(LABELS)}")
    read = _ase("ase.io").read
    try:
        images = read(path, index=":", format="extxyz")
    except Exception as error:  # ase raises many kinds for a malformed file
        raise ValueError(f"{path}: cannot be read as extended XYZ: {error}") from error
    if not images:
        raise ValueError(f"{path}: holds no frames")
    frames = [
        _read_image(f"{path}, frame {i}", image, DEFAULT_KEYS | named, needed)
        for i, image in enumerate(images)
    ]
    _warn_of_runs(path, [(DEFAULT_KEYS | named)["run"] in image.info for image in images])
    if any(image.pbc.any() for image in images):
        warnings.warn(
            f"{path}: the periodic cell is ignored; molecules must be whole", stacklevel=3
        )
    return frames if names is None else _only(path, frames, names)


def _warn_of_runs(path: Path, named: Sequence[bool]) -> None:
    if 0 < sum(named) < len(named):
        warnings.warn(
            f"{path}: {len(named) - sum(named)} of {len(named)} frames name no run; they count as "
            "one, run 0",
            stacklevel=4,
        )


def _only(path: Path, frames: list[Frame], names: Iterable[str]) -> list[Frame]:
    wanted = {names} if isinstance(names, str) else set(names)
    found = {frame.name for frame in frames}
    if not wanted <= found:
        missing = ", ".join(map(repr, sorted(wanted - found)))
        raise ValueError(f"{path}: no molecule {missing}; found {', '.join(sorted(found))}")
    return [frame for frame in frames if frame.name in wanted]


def _read_image(where: str, image: Any, keys: Mapping[str, str], needed: set[str]) -> Frame:
    calculated = {} if image.calc is None else image.calc.results
    for key in UNITS:
        if key in image.info:
            check_unit(Path(where), key, image.info[key])

    def get(quantity: str, shape: tuple[int, ...]) -> Any:
        for store in (image.arrays, image.info, calculated):
            if keys[quantity] in store:
                return _array(where, keys[quantity], store[keys[quantity]], shape)
        if quantity in needed:
            raise ValueError(
                f"{where}: no {keys[quantity]!r} for {quantity}; found in the comment line: "
                f"{', '.join(image.info) or 'nothing'}; per atom: {', '.join(image.arrays)}; "
                f"read as results: {', '.join(calculated) or 'none'}. Name the key of your file: "
                f'keys={{"{quantity}": ...}}'
            )
        return None

    mm_forces = get("mm_forces", (-1, 3))
    charge = get("charge", ())
    if charge is None and "charge" in image.info:  # the usual key of other programs
        charge = _array(where, "charge", image.info["charge"], ())
    run = get("run", ())
    try:
        system = System(
            image.numbers,
            image.positions,
            0 if charge is None else charge,
            get("mm_positions", (-1, 3)),
            get("mm_charges", (-1,)),
        )
        return Frame(
            system,
            get("energy", ()),
            get("forces", (-1, 3)),
            mm_forces,
            get("dipole", (-1,)),
            0 if run is None else int(run),
            str(image.info.get(keys["name"], "")),
            get("charges", (-1,)),
            get("dipoles", (-1, 3)),
            get("quadrupoles", (-1, 3, 3)),
            _group(image.info, keys["group"]),
        )
    except (ValueError, TypeError) as error:
        if str(error).startswith(where):
            raise
        raise type(error)(f"{where}: {error}") from error


def _group(info: Mapping[str, Any], key: str) -> str:
    """Return the value of the key that groups frames; isolated atoms are always called so."""
    kind = str(info.get(DEFAULT_KEYS["group"], ""))
    return kind if is_isolated(kind) else str(info.get(key, ""))


def _array(where: str, key: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of a value as ase returns it: an array, a number, or a JSON text."""
    try:
        if isinstance(value, str):
            value = json.loads(value)
        return np.asarray(value, dtype=np.float64).reshape(shape)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{where}: {key!r} should hold numbers of shape "
            f"{str(shape).replace('-1', 'any')}, got {str(value)[:60]!r}"
        ) from error
