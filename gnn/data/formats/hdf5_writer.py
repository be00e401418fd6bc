"""Write frames to HDF5, in the layout that `gnn.data.formats.hdf5` describes."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from gnn.data.common import ATOMIC_LABELS, LABELS, UNITS
from gnn.data.formats.hdf5 import DATASET_UNITS, FORMAT, VERSION
from gnn.data.systems import OPTIONAL_FIELDS, Frame

_COMPRESSION = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
_CHUNK_BYTES = 1 << 20
_SMALL = 4096  # bytes, up to which the index of chunks would take more room than compression saves


def write_hdf5(
    path: Path,
    frames: Sequence[Frame],
    vacuum: Sequence[Frame] | None = None,
    attributes: Mapping[str, str] | None = None,
    dtype: Any = np.float64,
    mm_force_step: float = 0.0,
) -> None:
    """Write frames; see :func:`gnn.data.write_frames`, which does so atomically."""
    import h5py

    if not 0 <= mm_force_step < np.inf:
        raise ValueError(f"mm_force_step: expected a step >= 0 in eV/Å, got {mm_force_step!r}")
    dtype = np.dtype(dtype)
    if dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"dtype: expected float32 or float64, got {dtype}")
    _check_vacuum(frames, vacuum)
    members: dict[tuple[Any, ...], list[int]] = {}
    for index, frame in enumerate(frames):
        key = _kind(frame) + (() if vacuum is None else _kind(vacuum[index]))
        members.setdefault(key, []).append(index)
    indices = [index for group in members.values() for index in group]
    in_order = indices == list(range(len(frames)))
    # In memory first: where a disk is full, the HDF5 library cannot even close its file.
    image = BytesIO()
    with h5py.File(image, "w", libver=("v108", "v108"), track_order=True) as file:
        file.attrs.update({"format": FORMAT, "version": VERSION, **(attributes or {})})
        file.attrs.update({key: spellings[0] for key, spellings in UNITS.items()})
        for rows in members.values():
            group = _new_group(file, frames[rows[0]])
            _write_group(group, [frames[i] for i in rows], dtype, mm_force_step)
            if not in_order:
                group.create_dataset("index", data=np.array(rows))
            if vacuum is not None:
                _write_labels(group.create_group("vacuum"), [vacuum[i] for i in rows], dtype)
    path.write_bytes(image.getbuffer())


def _kind(frame: Frame) -> tuple[Any, ...]:
    """Return what all frames of one group have in common."""
    labels = tuple(
        getattr(frame, label) is not None or (label == "mm_forces" and not frame.system.n_mm)
        for label in (*LABELS, *ATOMIC_LABELS)
    )
    fields = tuple(
        np.shape(getattr(frame.system, name))[-1:] for name in (*OPTIONAL_FIELDS, "charges")
    )
    system = frame.system
    atoms = frame.name, system.numbers.tobytes(), system.charge
    return *atoms, labels, fields, system.in_cell, system.periodic


def _check_vacuum(frames: Sequence[Frame], vacuum: Sequence[Frame] | None) -> None:
    if vacuum is None:
        return
    if len(vacuum) != len(frames):
        raise ValueError(
            f"vacuum: expected one frame for each of the {len(frames)} frames, got {len(vacuum)}"
        )
    for i, (frame, alone) in enumerate(zip(frames, vacuum, strict=True)):
        same = np.array_equal(frame.system.numbers, alone.system.numbers)
        if not same or not np.array_equal(frame.system.positions, alone.system.positions):
            raise ValueError(f"vacuum: frame {i} has other atoms or positions than the frame")
        if not _same_cell(frame, alone):
            raise ValueError(f"vacuum: frame {i} has another cell than the frame")
        if alone.system.n_mm:
            raise ValueError(f"vacuum: frame {i} has {alone.system.n_mm} point charges, expected 0")


def _same_cell(frame: Frame, other: Frame) -> bool:
    one, two = frame.system, other.system
    if one.cell is None or two.cell is None:
        return one.cell is two.cell
    return one.periodic == two.periodic and np.array_equal(one.cell, two.cell)


def _new_group(file: Any, frame: Frame) -> Any:
    """Empty group for frames like this one, under a name not taken yet."""
    base = frame.name.replace("/", "_").strip(". ") or "frames"
    key, number = base, 1
    while key in file:
        number += 1
        key = f"{base}-{number}"
    group = file.create_group(key, track_order=True)
    group.attrs.update({"name": frame.name, "charge": frame.system.charge})
    if frame.system.in_cell:
        group.attrs["periodic"] = np.array(frame.system.periodic)
    return group


def _put(group: Any, name: str, array: np.ndarray) -> None:
    """One compressed dataset, in chunks of about a megabyte, with its unit."""
    rows = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes)) if len(array) else 1
    options = _COMPRESSION | {"chunks": (min(rows, len(array)), *array.shape[1:])}
    dataset = group.create_dataset(name, data=array, **(options if array.nbytes > _SMALL else {}))
    if name in DATASET_UNITS:
        dataset.attrs["unit"] = DATASET_UNITS[name]


def _write_group(group: Any, frames: list[Frame], dtype: np.dtype, mm_force_step: float) -> None:
    systems = [frame.system for frame in frames]
    group.create_dataset("numbers", data=systems[0].numbers)
    _put(group, "run", np.array([frame.run for frame in frames]))
    for name in ("group", "head"):
        texts = [getattr(frame, name) for frame in frames]
        if any(texts):
            group.create_dataset(name, data=texts)
    _put(group, "positions", np.stack([system.positions for system in systems]).astype(dtype))
    if any(system.n_mm for system in systems):
        sizes = [system.n_mm for system in systems]
        _put(group, "mm_ptr", np.concatenate([[0], np.cumsum(sizes)]))
        for name in ("mm_positions", "mm_charges"):
            joined = np.concatenate([getattr(system, name) for system in systems])
            _put(group, name, joined.astype(dtype))
    for name in OPTIONAL_FIELDS:
        if getattr(systems[0], name) is not None:
            join = np.concatenate if name.startswith("mm_") else np.stack
            _put(group, name, join([getattr(s, name) for s in systems]).astype(dtype))
    if systems[0].cell is not None:
        _put(group, "cell", np.stack([np.asarray(system.cell) for system in systems]))
    if systems[0].charges is not None:
        shares = [np.asarray(system.charges) for system in systems]
        _put(group, "formal_charges", np.stack(shares))
    _write_labels(group, frames, dtype)
    forces = [frame.mm_forces for frame in frames if frame.mm_forces is not None]
    if forces:
        joined = np.concatenate(forces)
        if mm_force_step:  # the digits that are gone take no room in a compressed file
            joined = np.round(joined / mm_force_step) * mm_force_step
        _put(group, "mm_forces", joined.astype(dtype))


def _write_labels(group: Any, frames: list[Any], dtype: np.dtype) -> None:
    if frames[0].energy is not None:
        _put(group, "energy", np.array([frame.energy for frame in frames], dtype=np.float64))
    if frames[0].forces is not None:
        _put(group, "forces", np.stack([frame.forces for frame in frames]).astype(dtype))
    if frames[0].dipole is not None:
        _put(group, "dipole", np.stack([frame.dipole for frame in frames]).astype(np.float64))
    if frames[0].stress is not None:
        _put(group, "stress", np.stack([frame.stress for frame in frames]).astype(np.float64))
    for name in ATOMIC_LABELS:
        if getattr(frames[0], name) is not None:
            _put(group, name, np.stack([getattr(frame, name) for frame in frames]).astype(dtype))
