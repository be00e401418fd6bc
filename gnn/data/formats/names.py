"""Names in files: labels without a key, named runs; and the remarks that are collected on them."""

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gnn.data.values import run_number

_UNITS = {"energy": "eV", "forces": "eV/Å", "dipole": "e Å"}
_ENERGY = re.compile(
    r".*energ(y|ies).*|e|e_?tot.*|.*_?toten.*|e_?pot|pe|u0?|scf.*|e0|e\(.*\)|e[_-].+|.+[_-]e|e(pbe|b3|hf|mp|cc).*",
    re.IGNORECASE,
)
_FORCES = re.compile(r".*forc.*|.*frc.*|f|f[_-].+|.+[_-]f|totfor", re.IGNORECASE)
_GRADIENT = re.compile(r".*grad.*", re.IGNORECASE)
_DIPOLE = re.compile(r".*dip.*|mu|.+[_-]mu", re.IGNORECASE)
_AROUND = re.compile(r"(mm|pc)[_-]?(pos|ch|q|f).*|.*point_?charge.*", re.IGNORECASE)
_NOT_USED = re.compile(r".*(stress|virial|magmom|polari[sz]ab).*|energies", re.IGNORECASE)


class Remarks:
    """Collects remarks on the frames of a file, and gives each kind once, with a count.

    Parameters
    ----------
    where
        The file, for the message.
    """

    def __init__(self, where: Any):
        self.where = where
        self._found: dict[Any, tuple[str, list[int]]] = {}

    def add(self, frame: int | None, kind: Any, text: str) -> None:
        """Remember a remark on a frame or the file; of one kind, the first one's text is shown."""
        self._found.setdefault(kind, (text, []))[1].extend([] if frame is None else [frame])

    def warn(self, n_frames: int, stacklevel: int) -> None:
        """Give one warning for each kind of remark."""
        for text, frames in self._found.values():
            if len(frames) > 1:
                which = "all" if len(frames) == n_frames else f"{len(frames)} of {n_frames}"
                text += f" ({which} frames, first in frame {frames[0]})"
            elif frames:
                text += f" (frame {frames[0]})"
            warnings.warn(f"{self.where}: {text}", stacklevel=stacklevel + 1)


def run_numbers(texts: Sequence[str], remarks: Remarks, known: dict[str, int]) -> list[int]:
    """Return a number for each frame's run; names are numbered in order of appearance.

    Names that are `known` keep their number, and new ones are added to them.
    """
    numbers = {"": 0}
    names = []
    for i, text in enumerate(texts):
        try:
            number = int(text) if text.strip("+-").isdecimal() else float(text)
        except ValueError:
            names += [text] if text else []
            continue
        try:
            numbers[text] = run_number(number)
        except ValueError as error:
            raise ValueError(f"{remarks.where}, frame {i}: {error}") from None
    first = max(*numbers.values(), *known.values(), 0) + 1
    new = [name for name in dict.fromkeys(names) if name not in known]
    known |= {name: first + k for k, name in enumerate(new)}
    numbers |= known
    if names:
        told = [f"{name} = {numbers[name]}" for name in dict.fromkeys(names)]
        rest = f", … ({len(told)} runs)" if len(told) > 6 else ""
        remarks.add(None, "run", f"names of runs are numbered: {', '.join(told[:6])}{rest}")
    nameless = texts.count("")
    if 0 < nameless < len(texts):
        count = f"{nameless} of {len(texts)} frames"
        remarks.add(None, "no run", f"{count} name no run; they count as one, run 0")
    return [numbers[text] for text in texts]


def is_gradient(name: str) -> bool:
    """Whether a name is that of a gradient, the negative of forces."""
    return bool(_GRADIENT.fullmatch(name)) and not _FORCES.fullmatch(name)


def unmapped(
    quantity: str, info: Mapping[str, Any], arrays: Mapping[str, Any], n_atoms: int
) -> str | None:
    """Return a sentence on values that look like a label which was not found.

    Parameters
    ----------
    quantity
        "energy", "forces" or "dipole".
    info, arrays
        What a file holds of a frame as a whole and of each atom, without what was read.
    n_atoms
        Number of atoms.

    Returns
    -------
    str or None
        Which names, and how to map them. None: there are none.
    """
    if quantity == "energy":
        candidates = [k for k, v in info.items() if _is_number(v) and _named(k, _ENERGY)]
    elif quantity == "dipole":
        candidates = [k for k, v in info.items() if _size(v) == 3 and _named(k, _DIPOLE)]
    else:
        many = {k: v for k, v in {**info, **arrays}.items() if _size(v) == 3 * n_atoms}
        candidates = [k for k in many if _named(k, _FORCES)]
        gradients = [k for k in many if is_gradient(k)]
        if gradients and not candidates:
            return (
                f"forces: none are read; {_list(gradients)} looks like a gradient, which is minus "
                "the forces: store its negative as REF_forces, in eV/Å"
            )
    if not candidates:
        return None
    key, unit = candidates[0], _UNITS[quantity]
    return (
        f"{quantity}: none is read, though {_list(candidates)} is there: if it is in {unit}, name "
        f'it: keys={{"{quantity}": "{key}"}} in Python, data: keys: {{{quantity}: {key}}} in a '
        f"configuration, --keys {quantity}={key} on the command line"
    )


def not_used(names: Any) -> list[str]:
    """Return the names of quantities that no model of this package has."""
    return [name for name in names if _NOT_USED.fullmatch(name)]


def around(names: Any) -> list[str]:
    """Return those of some names that look like charges around the atoms."""
    return [name for name in names if _AROUND.fullmatch(name)]


def _named(name: str, pattern: re.Pattern[str]) -> bool:
    known = ("mm_", "ref_mm") + (() if pattern is _ENERGY else ("ener",))
    lower = name.lower()
    return bool(pattern.fullmatch(name)) and "unit" not in lower and not lower.startswith(known)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or value is None:
        return False
    if isinstance(value, str):  # with its unit, perhaps
        return bool(re.match(r"\s*[+-]?\d+(\.\d*)?([eE][+-]?\d+)?\b", value))
    return _size(value) == 1


def _size(value: Any) -> int:
    """Return how many numbers a value holds, 0 where it holds something else."""
    try:
        array = np.asarray(value)
    except ValueError:
        return 0
    return array.size if array.dtype.kind in "iuf" else 0


def _list(names: list[str]) -> str:
    return ", ".join(map(repr, names[:4])) + (", …" if len(names) > 4 else "")
