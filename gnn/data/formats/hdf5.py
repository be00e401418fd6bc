"""Frames in HDF5: the layout of the shipped data, which users can write themselves.

File attributes (strings): ``energy_unit`` = "eV", ``length_unit`` = "Å", ``charge_unit`` = "e",
required; others are remarks. One group for each molecule (F frames, n atoms, in all M point
charges), named as the molecule unless it has an attribute ``name``, with the attribute
``charge`` (total charge in e), for cells with the attribute ``periodic`` (three bools: which
directions repeat; missing, all do) and the datasets

============== ============ ======== =======================================================
numbers        (n,)         required atomic numbers
positions      (F, n, 3)    required Å
run            (F,)         optional number of the molecular-dynamics run, default 0
mm_ptr         (F+1,)       optional frame i owns point charges mm_ptr[i]:mm_ptr[i+1]
mm_positions   (M, 3)       with ptr Å, all frames one after the other
mm_charges     (M,)         with ptr e
mm_dipoles     (M, 3)       optional e Å
mm_quadrupoles (M, 3, 3)    optional e Å²
uniform_field  (F, 3)       optional V/Å
external_field (F, n, k)    optional V/Å^l, k = 1, 4, 10 or 20
formal_charges (F, n)       optional e: whole numbers, or shares as of ``System.charges``
cell           (F, 3, 3)    optional Å, rows are lattice vectors; missing: free space
energy         (F,)         optional eV
forces         (F, n, 3)    optional eV/Å
mm_forces      (M, 3)       optional eV/Å
dipole         (F, 3)       optional e Å, about the origin of the frame's coordinates
stress         (F, 3, 3)    optional eV/Å³, of cells, in ASE's sign
charges        (F, n)       optional e, of the atoms, such as those of MBIS
dipoles        (F, n, 3)    optional e Å, of the atoms
quadrupoles    (F, n, 3, 3) optional e Å², of the atoms, Q = 1/2 sum q r r
group          (F,)         optional text: what sort of frame it is, see ``Frame.group``
head           (F,)         optional text: level of theory, where there are several
index          (F,)         optional place of each frame in the file's order of frames
vacuum/...                  optional the same labels of the same atoms without charges
============== ============ ======== =======================================================

All floating-point data may be float32 or float64. Energies should be float64.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn.data.charge import find_charge
from gnn.data.common import ATOMIC_LABELS, UNITS, text_of, wanted_names
from gnn.data.formats.hdf5_checks import check_layout, check_units, group_charge, warn_of_others
from gnn.data.formats.hdf5_view import File, check_heaps
from gnn.data.formats.names import Remarks
from gnn.data.systems import Frame, System
from gnn.data.values import run_number

FORMAT = "anisole-frames"
VERSION = 1

DATASET_UNITS = {
    "positions": "Å",
    "mm_positions": "Å",
    "mm_charges": "e",
    "mm_dipoles": "e Å",
    "mm_quadrupoles": "e Å²",
    "uniform_field": "V/Å",
    "external_field": "V/Å^l",
    "formal_charges": "e",
    "cell": "Å",
    "stress": "eV/Å³",
    "energy": "eV",
    "forces": "eV/Å",
    "mm_forces": "eV/Å",
    "dipole": "e Å",
    "charges": "e",
    "dipoles": "e Å",
    "quadrupoles": "e Å²",
}
_PER_FRAME = (
    "run", "group", "head", "index", "uniform_field", "external_field", "formal_charges", "cell",
    "energy", "forces", "dipole", "stress", *ATOMIC_LABELS,
)  # fmt: skip
# bytes that a frame takes in memory beside its numbers, about
_FRAME = 1000
_KNOWN = ("numbers", "run", "group", "head", "mm_ptr", "index", "vacuum", *DATASET_UNITS)


def read_hdf5(
    path: Path, *, names: Iterable[str] | None = None, vacuum: bool = False
) -> list[Frame]:
    """Read frames; see :func:`gnn.data.read_frames`."""
    frames: list[Frame] = []
    order: list[int] = []
    remarks = Remarks(path)
    with open_hdf5(path) as file:
        for key, name in named_groups(path, file, names).items():
            file.allowance.take(f"{path}, group {key!r}", _FRAME * _rows(file[key]))
            new, index = read_group(f"{path}, group {key!r}", file[key], name, vacuum)
            order.extend(range(len(frames), len(frames) + len(new)) if index is None else index)
            frames.extend(new)
    for place, frame in zip(order, frames, strict=True):
        if frame.charges is not None:
            _, uneven = find_charge({"charge": frame.system.charge}, {"charges": frame.charges})
            for text in uneven.values():
                remarks.add(place, "charges", text)
    remarks.warn(len(frames), stacklevel=3)
    return [frames[i] for i in np.argsort(order, kind="stable")]


def _rows(group: Any) -> int:
    return len(group["positions"]) if "positions" in group else 0


def read_remarks(path: Path) -> tuple[dict[str, str], int, int]:
    """Return the remarks of a file, how many groups have vacuum labels, and how many there are."""
    with open_hdf5(path) as file:
        groups = [item for item in file.values() if hasattr(item, "keys")]
        own = {"format", "version", *UNITS}
        remarks = {key: text_of(v) for key, v in file.attrs.items() if key not in own}
        return remarks, sum("vacuum" in group for group in groups), len(groups)


def open_hdf5(path: Path) -> File:
    """Open a file of frames for reading, or raise a ValueError."""
    import h5py

    try:
        check_heaps(path)
        return File(h5py.File(path, "r"), path)
    except (OSError, RuntimeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path}: not an HDF5 file, or damaged ({error})") from error


def named_groups(path: Path, file: Any, names: Iterable[str] | None) -> dict[str, str]:
    """Return key and molecule's name of each wanted group, after a check of the file's units."""
    check_layout(path, file)
    check_units(path, file, VERSION)
    groups = {key: item for key, item in file.items() if hasattr(item, "keys")}
    if not groups:
        raise ValueError(
            f"{path}: expected one group for each molecule, found "
            f"{_listing(file) or 'nothing'} at the top"
        )
    molecules = {key: text_of(group.attrs.get("name", key)) for key, group in groups.items()}
    warn_of_others(path, groups, _KNOWN)
    if names is None:
        return molecules
    wanted = wanted_names(path, names, molecules.values())
    return {key: name for key, name in molecules.items() if name in wanted}


def group_header(where: str, group: Any) -> tuple[NDArray[np.int64], int]:
    """Return atomic numbers and charge of a group, after a check of what each frame needs."""
    numbers: Any = _dataset(where, group, "numbers", (None,))
    if "positions" not in group:
        raise ValueError(f"{where}: dataset 'positions' is missing; found {_listing(group)}")
    charge = group_charge(where, group)
    runs = np.asarray(group["run"][()] if "run" in group else [])
    for run in runs if runs.dtype.kind not in "iu" else ():
        try:
            run_number(run)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{where}: {error}") from None
    return numbers, charge


def check_lengths(where: str, group: Any) -> None:
    """Check that each dataset has a row for every frame or every point charge.

    Raises
    ------
    ValueError
        If one has more or fewer.
    """
    frames = len(group["positions"])
    lengths = dict.fromkeys(_PER_FRAME, frames)
    if "mm_ptr" in group:
        charges = int(_pointer(where, group, frames)[-1])
        lengths |= {name: charges for name in _KNOWN if name.startswith("mm_") and name != "mm_ptr"}
    for part in (group, *([group["vacuum"]] if "vacuum" in group else [])):
        for name, length in lengths.items():
            if name in part and part[name].shape[:1] != (length,):
                raise ValueError(
                    f"{where}: dataset {name!r} has shape {part[name].shape}, expected "
                    f"{length} in the first place"
                )


def _listing(group: Any) -> str:
    return ", ".join(group.keys())


def _dataset(
    where: str, group: Any, name: str, shape: tuple[int | None, ...], required: bool = True
) -> np.ndarray | None:
    """One dataset after a check of its shape and unit; None when missing and not required."""
    if name not in group:
        if not required:
            return None
        raise ValueError(f"{where}: dataset {name!r} is missing; found {_listing(group)}")
    dataset = group[name]
    expected = DATASET_UNITS.get(name, "")
    unit = text_of(dataset.attrs.get("unit", dataset.attrs.get("units", expected)))
    if unit.replace("Å", "Å").replace("Angstrom", "Å").replace("angstrom", "Å") != expected:
        raise ValueError(
            f"{where}: dataset {name!r} has unit {unit!r}, expected {expected!r}: convert its "
            "values (constants in gnn.units) and set the attribute 'unit'"
        )
    if len(shape) != dataset.ndim or any(
        length not in (None, size) for length, size in zip(shape, dataset.shape, strict=True)
    ):
        raise ValueError(
            f"{where}: dataset {name!r} has shape {dataset.shape}, expected "
            + str(shape).replace("None", "any")
        )
    return dataset[()]


def read_group(
    where: str, group: Any, name: str, vacuum: bool
) -> tuple[list[Frame], list[int] | None]:
    """Return the frames of one molecule and, where stored, their places in the file's order."""
    numbers, charge = group_header(where, group)
    positions: Any = _dataset(where, group, "positions", (None, len(numbers), 3))
    count = len(positions)
    index = _dataset(where, group, "index", (count,), required=False)
    run: Any = _dataset(where, group, "run", (count,), required=False)
    run = np.zeros(count, dtype=np.int64) if run is None else run
    kinds, heads = (stored_texts(where, group, count, name) for name in ("group", "head"))
    if vacuum and "vacuum" not in group:
        raise ValueError(f"{where}: has no vacuum labels (group 'vacuum' is missing)")
    surroundings = _no_charges(count) if vacuum else _read_charges(where, group, count)
    fields = {} if vacuum else _read_fields(where, group, count, len(numbers))
    labels = _read_labels(where, group["vacuum"] if vacuum else group, count, len(numbers))
    formal = _dataset(where, group, "formal_charges", (count, len(numbers)), required=False)
    cells = _dataset(where, group, "cell", (count, 3, 3), required=False)
    periodic = stored_periodic(where, group)
    pointer = surroundings.pop("mm_ptr")
    mm_forces = None
    if not vacuum:
        mm_forces = _dataset(where, group, "mm_forces", (pointer[-1], 3), required=False)
    frames = []
    for i in range(count):
        own = slice(pointer[i], pointer[i + 1])
        charges = {key: value[own] for key, value in surroundings.items()}
        given = {key: value[i] for key, value in labels.items()}
        if mm_forces is not None:
            given["mm_forces"] = mm_forces[own]
        try:
            around = charges | {key: value[i] for key, value in fields.items()}
            if cells is not None:
                around |= {"cell": cells[i], "periodic": periodic}
            if "charges" in given:  # a whole sum must be the total charge
                find_charge({"charge": charge}, {"charges": given["charges"]})
            shares = None if formal is None else formal[i]
            if shares is not None and shares.dtype.kind in "iu":
                system = System(numbers, positions[i], charge, **around, charges=shares)
            else:  # spread over parts already
                system = System(numbers, positions[i], charge, **around).with_charges(shares)
            given |= {"name": name, "group": kinds[i], "head": heads[i]}
            frames.append(Frame(system, **given, run=run[i]))
        except (ValueError, TypeError) as error:
            raise type(error)(f"{where}, frame {i}: {error}") from error
    return frames, None if index is None else index.tolist()


def stored_periodic(where: str, group: Any) -> tuple[bool, bool, bool]:
    """Return which directions repeat of the cells of a group: all, where it does not say."""
    if "periodic" not in group.attrs:
        return True, True, True
    given = np.asarray(group.attrs["periodic"])
    if given.shape != (3,) or given.dtype.kind not in "biu" or not np.isin(given, (0, 1)).all():
        raise ValueError(
            f"{where}: attribute 'periodic' should be three bools, got {given.tolist()!r}"
        )
    a, b, c = map(bool, given)
    return a, b, c


def stored_texts(where: str, group: Any, count: int, name: str) -> list[str]:
    """Return "group" or "head" of each frame of a molecule, '' where the file names none."""
    texts: Any = _dataset(where, group, name, (count,), required=False)
    return [""] * count if texts is None else [text_of(text) for text in texts]


def _no_charges(count: int) -> dict[str, Any]:
    return {
        "mm_ptr": np.zeros(count + 1, dtype=np.int64),
        "mm_positions": np.zeros((0, 3)),
        "mm_charges": np.zeros(0),
    }


def _read_charges(where: str, group: Any, count: int) -> dict[str, Any]:
    stored = [name for name in ("mm_ptr", "mm_positions", "mm_charges") if name in group]
    if not stored:
        return _no_charges(count)
    pointer = _pointer(where, group, count)
    total = int(pointer[-1])
    charges = {
        "mm_ptr": pointer,
        "mm_positions": _dataset(where, group, "mm_positions", (total, 3)),
        "mm_charges": _dataset(where, group, "mm_charges", (total,)),
    }
    for name, shape in (("mm_dipoles", (total, 3)), ("mm_quadrupoles", (total, 3, 3))):
        multipoles = _dataset(where, group, name, shape, required=False)
        if multipoles is not None:
            charges[name] = multipoles
    return charges


def _pointer(where: str, group: Any, count: int) -> NDArray[np.int64]:
    pointer: Any = _dataset(where, group, "mm_ptr", (count + 1,))
    if pointer.dtype.kind not in "iu":
        raise ValueError(f"{where}: mm_ptr should hold whole numbers, got {pointer.dtype}")
    pointer = pointer.astype(np.int64)  # differences of unsigned numbers never decrease
    if pointer[0] != 0 or (np.diff(pointer) < 0).any():
        raise ValueError(f"{where}: mm_ptr must begin at 0 and never decrease")
    return pointer


def _read_fields(where: str, group: Any, count: int, n_atoms: int) -> dict[str, np.ndarray]:
    shapes = {"uniform_field": (count, 3), "external_field": (count, n_atoms, None)}
    fields = {name: _dataset(where, group, name, s, required=False) for name, s in shapes.items()}
    return {name: values for name, values in fields.items() if values is not None}


def _read_labels(where: str, group: Any, count: int, n_atoms: int) -> dict[str, Any]:
    shapes = {
        "energy": (count,),
        "forces": (count, n_atoms, 3),
        "dipole": (count, 3),
        "stress": (count, 3, 3),
        "charges": (count, n_atoms),
        "dipoles": (count, n_atoms, 3),
        "quadrupoles": (count, n_atoms, 3, 3),
    }
    labels = {
        name: _dataset(where, group, name, shape, required=False) for name, shape in shapes.items()
    }
    return {name: values for name, values in labels.items() if values is not None}
