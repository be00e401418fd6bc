"""What all file formats of frames share: labels, units, locks."""

import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gnn import units

#: Labels a frame can have.
LABELS = ("energy", "forces", "mm_forces", "dipole", "stress")

#: Multipoles of the atoms that a frame can have beside its labels; nothing is trained on them.
ATOMIC_LABELS = ("charges", "dipoles", "quadrupoles")

#: Attributes that name the units of a file, and the spellings accepted for eV, Å and e.
UNITS = {
    "energy_unit": ("eV", "ev", "electronvolt"),
    "length_unit": ("Å", "Å", "A", "angstrom", "Angstrom", "Ångström"),
    "charge_unit": ("e", "elementary charge"),
}

_FACTORS = {
    "hartree": "HARTREE",
    "ha": "HARTREE",
    "eh": "HARTREE",
    "a.u.": "HARTREE",
    "au": "HARTREE",
    "kcal/mol": "KCAL_PER_MOL",
    "kj/mol": "KJ_PER_MOL",
    "bohr": "BOHR",
    "a0": "BOHR",
    "nm": "NANOMETER",
    "nanometer": "NANOMETER",
}


def is_hdf5(path: Path) -> bool:
    """Tell whether the name of a file is that of an HDF5 file."""
    return path.suffix.lower() in (".h5", ".hdf5")


def text_of(value: Any) -> str:
    """Return an attribute of an HDF5 file as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def wanted_names(where: Any, names: Iterable[str], found: Iterable[str]) -> set[str]:
    """Return the molecules that are asked for, after a check that all of them were found.

    Raises
    ------
    ValueError
        If one is missing; names it, `where` it was looked for, and what was found.
    """
    wanted, there = {names} if isinstance(names, str) else set(names), set(found)
    if not wanted <= there:
        missing = ", ".join(map(repr, sorted(wanted - there)))
        raise ValueError(f"{where}: no molecule {missing}; found {', '.join(sorted(there))}")
    return wanted


def is_isolated(group: str) -> bool:
    """Tell whether a frame's group says that it is an atom alone, as ``IsolatedAtom`` does."""
    plain = re.sub(r"[\s_-]", "", group).lower()
    return plain in ("isolatedatom", "isolatedatoms")


def check_unit(where: str | Path, key: str, value: Any) -> None:
    """Refuse a unit other than eV, Å or e.

    Parameters
    ----------
    where
        File, or file and frame, for the message.
    key
        "energy_unit", "length_unit" or "charge_unit".
    value
        What the file says.

    Raises
    ------
    ValueError
        If the unit is another one; the message says how to convert.
    """
    unit = text_of(value)
    if unit in UNITS[key]:
        return
    wanted = UNITS[key][0]
    affected = {
        "energy_unit": "energies and forces",
        "length_unit": "positions and dipoles (and divide forces)",
        "charge_unit": "charges and dipoles",
    }[key]
    name = _FACTORS.get(unit.lower())
    if name is None or (key == "length_unit") != (name in ("BOHR", "NANOMETER")):
        factor = f"the value of one {unit} in {wanted}"
    else:
        factor = f"{getattr(units, name):.10g} (gnn.units.{name})"
    raise ValueError(
        f"{where}: {key} is {unit!r}, but frames are in eV, Å and e: multiply {affected} by "
        f"{factor}, then set {key} to {wanted!r}"
    )


def check_other_unit(where: str, key: str, value: Any) -> None:
    """Refuse a known unit other than eV, Å or e under a key that does not name its quantity.

    Raises
    ------
    ValueError
        If it is one.
    """
    text = str(value).lower()
    for name, constant in _FACTORS.items():
        if re.search(rf"(?<![a-z]){re.escape(name)}(?![a-z])", text):
            raise ValueError(
                f"{where}: {key} is {value!r}, but frames are in eV, Å and e: convert the values "
                f"with gnn.units.{constant}, then leave {key!r} out"
            )


@contextmanager
def locked(path: Path, refusal: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock on a file against other processes; it ends with this process.

    Parameters
    ----------
    path
        File to lock, made when missing; on a file system without locks nothing is locked.
    refusal
        Message for the one that comes second.
    wait
        Wait for the other process instead.

    Raises
    ------
    OSError
        If another process holds the lock and this one does not wait.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise OSError(refusal) from None
    except NotImplementedError:  # ENOSYS
        pass
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    try:
        yield
    finally:
        lock.release()
