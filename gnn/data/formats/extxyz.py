"""Frames in extended XYZ, through ase.

Per atom: ``REF_forces`` (eV/Å), and the multipoles ``REF_charges`` (e), ``REF_dipoles`` (e Å) and
``REF_quadrupoles`` (e Å², nine columns) where they are known. In the comment line: ``REF_energy``
(eV), ``REF_dipole`` (e Å, about the origin of the coordinates), ``total_charge`` (e), ``run``,
``name``, ``config_type``, ``head`` (the level of theory), and for the point charges, which are not
atoms of the frame, ``MM_positions`` (Å), ``MM_charges`` (e) and ``MM_forces`` (eV/Å) as JSON lists.
The optional ``energy_unit``, ``length_unit`` and ``charge_unit`` must be eV, Å and e; without them
a file is taken to be in these units. ``formal_charges`` (e) are one whole number for each atom in a
column, or, as they are written here, a JSON list of their shares as of ``System.charges``.

Where something repeats, ``Lattice`` holds the lattice vectors (Å) and ``pbc`` which of them repeat;
``REF_stress`` (eV/Å³, in ASE's sign, as nine numbers or as xx yy zz yz xz xy) is the stress, or
``REF_virial`` (or ``REF_virials``, ``virials``, ``virial``; eV) minus the stress times the volume.
A lattice without ``pbc`` is read as one of three periodic directions, as ase does. Dipoles in a
cell are not read.

What is not there under such a name is taken from ase's own results (``energy``, ``forces``,
``dipole``, ``charges``, ``stress``), and the total charge is found as :mod:`gnn.data.charge` says.
A label whose weight is 0 (``config_energy_weight=0``, as MACE writes it) is not read. Runs may
have names, which are numbered. What else looks like a label, a charge or a unit is named
in a warning. Coordinates have 8 decimals.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gnn.data.common import ATOMIC_LABELS, LABELS, UNITS, wanted_names
from gnn.data.formats.names import Remarks, is_gradient, run_numbers
from gnn.data.formats.xyz_image import DEFAULT_KEYS, Image
from gnn.data.formats.xyz_text import Lines, check_text, parse_comment, safe_text, with_symbols
from gnn.data.systems import OPTIONAL_FIELDS, Frame


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
        image = atoms(
            numbers=system.numbers,
            positions=system.positions,
            cell=system.cell,
            pbc=system.periodic,
        )
        info: dict[str, Any] = {DEFAULT_KEYS["charge"]: system.charge}
        info[DEFAULT_KEYS["run"]] = frame.run
        info |= {key: spellings[0] for key, spellings in UNITS.items()}
        info["length_unit"] = "Angstrom"  # keeps the file plain ASCII
        if frame.name:
            info[DEFAULT_KEYS["name"]] = safe_text(DEFAULT_KEYS["name"], frame.name)
        for key in ("group", "head"):
            if text := getattr(frame, key):
                info[DEFAULT_KEYS[key]] = safe_text(DEFAULT_KEYS[key], text)
        if frame.energy is not None:
            info[DEFAULT_KEYS["energy"]] = frame.energy
        if frame.dipole is not None:
            info[DEFAULT_KEYS["dipole"]] = frame.dipole
        if frame.stress is not None:
            info[DEFAULT_KEYS["stress"]] = json.dumps(frame.stress.ravel().tolist())
        # Lists as text: ase would reshape, transpose or squeeze arrays of 1, 3 or 9 numbers.
        if system.charges is not None:
            info[DEFAULT_KEYS["formal_charges"]] = json.dumps(system.charges.tolist())
        if system.n_mm:
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
    run_names: dict[str, int] | None = None,
) -> list[Frame]:
    """Read frames; see :func:`gnn.data.read_frames`."""
    named = dict(keys or {})
    unknown = sorted(set(named) - set(DEFAULT_KEYS))
    if unknown:
        raise ValueError(
            f"keys: unknown quantity {unknown[0]!r}; known are {', '.join(DEFAULT_KEYS)}"
        )
    required = set(require)
    if not required <= set(LABELS):
        wrong = sorted(required - set(LABELS))[0]
        raise ValueError(f"require: unknown label {wrong!r}; known are {', '.join(LABELS)}")
    if is_gradient(named.get("forces", "")):
        raise ValueError(
            f"keys: forces are minus the gradient, and {named['forces']!r} looks like a gradient: "
            "store its negative under another name"
        )
    remarks = Remarks(path)
    keys = DEFAULT_KEYS | named
    images = _images(path, remarks, keys)
    texts = [str(image.info.get(keys["run"], "")).strip() for image in images]
    runs = run_numbers(texts, remarks, {} if run_names is None else run_names)
    read = [
        Image(f"{path}, frame {i}", i, image, keys, named, required, remarks)
        for i, image in enumerate(images)
    ]
    frames = [image.frame(run) for image, run in zip(read, runs, strict=True)]
    _check_named(read, named, remarks)
    for quantity in LABELS:
        origins = Counter(r.sources[quantity] for r in read if quantity in r.sources)
        if len(origins) > 1:  # of several calculations, perhaps
            told = ", ".join(f"{key!r} in {count}" for key, count in origins.items())
            remarks.add(None, (quantity, "origins"), f"{quantity} is read from {told} frames")
    remarks.warn(len(frames), stacklevel=3)
    return frames if names is None else _only(path, frames, names)


def _images(path: Path, remarks: Remarks, keys: Mapping[str, str]) -> list[Any]:
    """Return what ase reads, or a ValueError that says what is wrong."""
    texts = (keys["name"], keys["group"], DEFAULT_KEYS["group"], keys["head"])
    read = partial(
        _ase("ase.io").read,
        index=":",
        format="extxyz",
        properties_parser=partial(parse_comment, texts=texts, run=keys["run"]),
    )
    try:
        try:
            with Lines(path) as lines:
                images = read(lines)
        except KeyError:  # a species unknown to ase
            text, changed = with_symbols(path)
            images = read(text)
            told = ", ".join(f"{old!r} as {new}" for old, new in changed.items())
            remarks.add(None, "species", f"species are read so: {told}")
    except Exception as error:  # ase raises errors of many types for a malformed file
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: cannot be read as extended XYZ: {error}") from error
    if not images:
        empty = " (its first line is empty)" if path.stat().st_size else ""
        raise ValueError(f"{path}: holds no frames{empty}")
    if not any("comment" in image.info and image.pbc.any() for image in images):
        # otherwise the file has separate lines for a cell
        check_text(path, [len(image) for image in images], remarks)
    return images


def _check_named(read: Sequence[Image], named: Mapping[str, str], remarks: Remarks) -> None:
    """Refuse a key that was named and that no frame has; tell where only some have it."""
    for quantity in named:
        without = [image for image in read if image.lacks(quantity)]
        if without and not any(quantity in image.sources for image in read):
            raise ValueError(without[0].missing(quantity))
        if quantity in LABELS:
            for image in without:
                told = f"no {named[quantity]!r} for {quantity}"
                remarks.add(image.number, ("named", quantity), told)


def _only(path: Path, frames: list[Frame], names: Iterable[str]) -> list[Frame]:
    wanted = wanted_names(path, names, (frame.name for frame in frames))
    return [frame for frame in frames if frame.name in wanted]
