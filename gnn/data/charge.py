"""The total charge of some atoms: one rule for files, for `ase.Atoms` and for engines."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn.data.values import total_charge

#: Names under which a total charge is looked for.
CHARGE_KEYS = ("total_charge", "charge")

_ROUNDING = 1e-2  # largest deviation in e of a sum of atomic charges from a whole number
_PER_ATOM = re.compile(r"(.*_)?charges?|charges_.*", re.IGNORECASE)
_PERHAPS = re.compile(r"(.*_)?q|q_.*|.*charge.*", re.IGNORECASE)
_OTHER_CHARGES = re.compile(r"nuc|core|valence|effective", re.IGNORECASE)
_OTHER_NAMES = {"q", "qtot", "qtotal", "totalq", "netq", "chg", "chrg", "netchg", "totalchg"}


def find_charge(
    info: Mapping[str, Any], arrays: Mapping[str, Any], key: str | None = None
) -> tuple[int, dict[str, str]]:
    """Return the total charge that is stated, or follows from charges of the atoms.

    What counts is ``total_charge`` and ``charge`` of `info`, a key of the caller's, and every
    array with one charge for each atom, such as ASE's initial charges, that adds up to a whole
    number. They must agree. None, and charges of atoms that are all zero, say nothing; where
    nothing is said, the charge is 0.

    Parameters
    ----------
    info
        What is known of the atoms as a whole, such as ``atoms.info``.
    arrays
        What is known of each atom, such as ``atoms.arrays``.
    key
        One more name to look for in `info`.

    Returns
    -------
    charge
        In e.
    remarks
        Sentences on what else looks like a total charge and was not used, by name.

    Raises
    ------
    ValueError
        If two of them differ, one is no whole number, or nothing is stated and the charges of the
        atoms do not add up to a whole number.
    TypeError
        If one is no number at all.
    """
    names = dict.fromkeys([*([key] if key else []), *CHARGE_KEYS])
    stated = {name: _stated(name, info[name]) for name in names if info.get(name) is not None}
    sums = _sums(arrays)
    whole = {name: round(total) for name, total in sums.items() if _is_whole(total)}
    claims = [(f"{name!r} is {charge}", charge) for name, charge in stated.items()]
    claims += [(f"{name!r} of the atoms add up to {q}", q) for name, q in whole.items()]
    if len({charge for _, charge in claims}) > 1:
        raise ValueError(
            f"the total charge is contradictory: {'; '.join(text for text, _ in claims)} (e). "
            "Keep what is right"
        )
    uneven = {name: total for name, total in sums.items() if name not in whole}
    if uneven and not claims:
        name, total = next(iter(uneven.items()))
        raise ValueError(
            f"the {name.replace('_', ' ')} of the atoms add up to {total:g} e, no whole number, "
            'and no total charge is stated: set atoms.info["charge"] (total_charge=… in a file), '
            "or pass charge= to a calculator"
        )
    charge = claims[0][1] if claims else 0
    perhaps = _sums(arrays, _PERHAPS)
    remarks = {
        name: f"{name!r} of the atoms add up to {total:.4g} e, but the total charge is {charge}"
        for name, total in (uneven | perhaps).items()
        if name in uneven or (_is_whole(total) and round(total) != charge)
    }
    return charge, remarks | _unused(info, set(names), charge)


def _stated(name: str, value: Any) -> int:
    try:
        return total_charge(value)
    except (ValueError, TypeError) as error:
        raise type(error)(str(error).replace("charge:", f"{name!r}:", 1)) from None


def _sums(arrays: Mapping[str, Any], names: re.Pattern[str] = _PER_ATOM) -> dict[str, float]:
    """Return the sums of the arrays of atomic charges, except of those that are all zero."""
    charges: dict[str, NDArray[Any]] = {
        name: np.asarray(values)
        for name, values in arrays.items()
        if names.fullmatch(name) and not _OTHER_CHARGES.search(name)
    }
    return {
        name: float(values.sum())
        for name, values in charges.items()
        if values.ndim == 1 and values.dtype.kind in "iuf" and values.any()
    }


def _is_whole(total: float) -> bool:
    return bool(abs(total - np.round(total)) <= _ROUNDING)


def _unused(info: Mapping[str, Any], used: set[str], charge: int) -> dict[str, str]:
    """Return a remark on each value that has a name like a charge's and differs from the charge."""
    others = {
        name: value for name, value in info.items() if name not in used and _like_a_charge(name)
    }
    if re.fullmatch(r"[+-]?\d+\s+\d+", str(info.get("comment"))):  # charge and multiplicity
        others["comment"] = info["comment"]
    return {
        name: f"{name!r} ({str(value)[:40]}) looks like a total charge and is not used, the charge "
        f"is {charge}: name it total_charge, if it is one"
        for name, value in others.items()
        if not _says(value, charge)
    }


def _like_a_charge(name: str) -> bool:
    plain = re.sub(r"[^a-z]", "", name.lower())
    if plain.startswith("mm") or "unit" in plain or _OTHER_CHARGES.search(plain):
        return False
    return "charge" in plain or plain in _OTHER_NAMES


def _says(value: Any, charge: int) -> bool:
    """Return whether a value, or the first of two, is this charge; arrays per atom pass."""
    if isinstance(value, str):
        value = value.split()[0] if value.split() else ""
    elif value is None or np.size(value) > 2:
        return True  # one for each atom, say
    elif np.size(value) == 2:
        value = np.ravel(value)[0]
    try:
        return total_charge(value) == charge
    except (ValueError, TypeError):
        return False
