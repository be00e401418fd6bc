"""Checks of HDF5 files written by other programs: layout, units, charges, unknown names.

Files of other programs and data sets are recognised and refused, since their units and names are
others: ``docs/data.md`` has a recipe for each.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from gnn.data.charge import CHARGE_KEYS, find_charge
from gnn.data.common import LABELS, UNITS, check_unit
from gnn.data.formats.names import Remarks

_SPICE = "SPICE (Hartree and Bohr, gradients for forces)"
_QM7X = "QM7-X (eV and Å, one group for each geometry)"
_ANI = "ANI (Hartree and Å)"
_MACE = "a training file of MACE (no units are stored; usually eV and Å)"

#: Datasets that tell a layout, and whose it is.
LAYOUTS = {
    frozenset({"atomic_numbers", "conformations"}): _SPICE,
    frozenset({"atNUM", "atXYZ"}): _QM7X,
    frozenset({"atomic_numbers", "coordinates"}): _ANI,
    frozenset({"species", "coordinates"}): _ANI,
    frozenset({"config_type", "atomic_numbers", "positions"}): _MACE,
}


def check_layout(path: Path, file: Any) -> None:
    """Refuse a file whose layout is that of another program.

    Raises
    ------
    ValueError
        If it is; says what is missing, and where the recipe is.
    """
    group = _first_with_datasets(file)
    found = set() if group is None else set(group.keys())
    whose = [name for datasets, name in LAYOUTS.items() if datasets <= found]
    if any(key.startswith("config_batch") for key in file):
        whose.append(_MACE)
    if group is None or ("numbers" in found and group.name != "/"):
        return
    if not whose:
        if "positions" in found and group.name != "/":  # which is told where they are read
            return
        raise ValueError(
            f"{path}: no layout that is known: expected 'numbers', 'positions' and the attribute "
            f"'charge' in one group for each molecule, found in group {group.name!r}: "
            f"{', '.join(sorted(found)[:12])}. The page on data describes the layout, and has "
            'recipes for others, under "Files of others"'
        )
    raise ValueError(
        f"{path}: looks like {whose[0]}, which is not read as it is. Found in group "
        f"{group.name!r}: {', '.join(sorted(found)[:12])}; missing are 'numbers' and 'positions' "
        "in one group for each molecule, its attribute 'charge', and the units of the file. The "
        'page on data has a recipe to convert it, under "Files of others"'
    )


def _first_with_datasets(group: Any, depth: int = 4) -> Any:
    """Return the first group, from the top, that holds datasets; None where there is none."""
    children = [group[key] for key in islice(group, 20)]
    if any(hasattr(child, "shape") for child in children):
        return group
    if depth and children:
        return _first_with_datasets(children[0], depth - 1)
    return None


def check_units(path: Path, file: Any, version: int) -> None:
    """Refuse a file of unnamed or other units, or of a later version."""
    missing = [key for key in UNITS if key not in file.attrs]
    if missing:
        raise ValueError(
            f"{path}: the file does not say its units: attributes {', '.join(missing)} are "
            f"missing (found: {', '.join(file.attrs) or 'none'}). If it is in eV, Å and e, set "
            + ", ".join(f"file.attrs[{key!r}] = {UNITS[key][0]!r}" for key in missing)
        )
    for key in UNITS:
        check_unit(path, key, file.attrs[key])
    if int(file.attrs.get("version", version)) > version:
        raise ValueError(
            f"{path}: layout version {file.attrs['version']} is newer than the {version} this "
            "reader knows: update anisole"
        )


def group_charge(where: str, group: Any) -> int:
    """Return the total charge that the attributes of a group state.

    Raises
    ------
    ValueError, TypeError
        If they state none, or as :func:`gnn.data.charge.find_charge`.
    """
    attributes = dict(group.attrs)
    if not attributes.keys() & set(CHARGE_KEYS):
        raise ValueError(
            f"{where}: attribute 'charge' (total charge in e) is missing; found attributes "
            f"{', '.join(attributes) or 'none'}, datasets {', '.join(group.keys())}"
        )
    return _found_charge(where, attributes)[0]


def _found_charge(where: str, attributes: Mapping[str, Any]) -> tuple[int, dict[str, str]]:
    try:
        return find_charge(attributes, {})
    except (ValueError, TypeError) as error:
        raise type(error)(f"{where}: {error}") from None


def warn_of_others(path: Path, groups: Mapping[str, Any], known: Iterable[str]) -> None:
    """Warn of datasets and attributes that look like known quantities but are not read."""
    remarks = Remarks(path)
    for key, group in groups.items():
        others = [repr(name) for name in group if name not in known]
        if others:
            told = f"datasets that are not known and not read: {', '.join(others[:8])}"
            remarks.add(None, "datasets", f"{told} (group {key!r}); labels are {', '.join(LABELS)}")
        attributes = dict(group.attrs)
        if attributes.keys() & set(CHARGE_KEYS):
            _, unused = _found_charge(f"{path}, group {key!r}", attributes)
            for name, text in unused.items():
                remarks.add(None, name, f"group {key!r}: {text}")
    remarks.warn(0, stacklevel=5)
