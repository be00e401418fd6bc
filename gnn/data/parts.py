"""The parts of a system that covalent bonds hold together, and the charge of each."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn.data.checking.atoms import LONGEST, RADII
from gnn.data.elements import formula
from gnn.data.images import image_pairs
from gnn.data.neighbours import neighbour_pairs
from gnn.data.valence import METAL_IONS, charge_of, possible_charges
from multipoles.lattice.cell import Cell

Array = NDArray[np.float64]

_RADII = np.nan_to_num(RADII)
# A hydrogen belongs to one atom, its nearest, so that the far side of a hydrogen bond never counts
# and a stretched bond to hydrogen holds for longer.
_LONGEST_TO_HYDROGEN = 1.8
#: Elements (by atomic number) that form covalent bonds: not alkali and alkaline earth metals, and
#: noble gases.
BONDED = np.ones(len(_RADII), dtype=bool)
BONDED[[*METAL_IONS, 2, 10, 18, 36, 54, 86]] = False
_ROUNDING = 1e-6  # largest deviation in e of the charge of a part from a whole number
_COMBINATIONS = 20_000  # of charges of uncertain parts that are tried


def bonds_of(
    numbers: NDArray[np.int64], positions: Array, lattice: Cell | None = None
) -> NDArray[np.int64]:
    """Return the pairs of atoms (b, 2) that are as near as covalent bonds, sorted.

    Bonds to hydrogen go to its nearest atom only, relative to covalent radii. Alkali and alkaline
    earth metals, and noble gases, have none. In a cell two atoms may have several bonds, to each
    other's images, and an atom bonds to its own.
    """
    radii = _RADII[numbers]
    reach = _LONGEST_TO_HYDROGEN * 2 * float(radii.max())
    senders, receivers, lengths, steps = _edges(positions, reach, lattice)
    ratios = lengths / (radii[senders] + radii[receivers])
    bonded, hydrogen = BONDED[numbers], numbers == 1
    allowed = bonded[senders] & bonded[receivers]
    heavy = allowed & ~(hydrogen[senders] | hydrogen[receivers]) & (ratios < LONGEST)
    nearest = np.flatnonzero(allowed & hydrogen[receivers] & (ratios < _LONGEST_TO_HYDROGEN))
    nearest = nearest[np.lexsort((ratios[nearest], receivers[nearest]))]
    first = np.flatnonzero(np.diff(receivers[nearest], prepend=-1))
    rows = np.concatenate([np.flatnonzero(heavy), nearest[first]])
    # each bond once: both ends name it, as two hydrogens do
    low, high = np.minimum(senders, receivers)[rows], np.maximum(senders, receivers)[rows]
    if lattice is None:
        pairs = np.unique(low * len(numbers) + high)
        return np.stack(np.divmod(pairs, len(numbers)), axis=1)
    step = steps[rows]
    turned = (senders > receivers)[rows] | ((low == high) & _backwards(step))
    step = np.where(turned[:, None], -step, step)
    named = np.concatenate([np.stack([low, high], axis=1), step], axis=1)
    bonds: NDArray[np.int64] = np.unique(named, axis=0)[:, :2]
    return bonds


def _edges(
    positions: Array, reach: float, lattice: Cell | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], Array, NDArray[np.int64]]:
    """Return senders, receivers, lengths and steps of all pairs within reach."""
    if lattice is None:
        senders, receivers = neighbour_pairs(positions, reach)
        lengths = np.linalg.norm(positions[senders] - positions[receivers], axis=1)
        return senders, receivers, lengths, np.empty((0, 3), dtype=np.int64)  # not used
    pairs = image_pairs(positions, positions, lattice, reach)
    return pairs.sources, pairs.targets, pairs.lengths(positions, positions, lattice), pairs.steps


def _backwards(steps: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether the first number that is not zero is negative, (b,)."""
    return (np.sign(steps) @ np.array([9, 3, 1])) < 0


def connected(n_atoms: int, bonds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the part of each atom (n,), numbered by their first atoms."""
    lower = list(range(n_atoms))  # an atom of the same part with a lower number, or itself

    def first(atom: int) -> int:
        while lower[atom] != atom:
            lower[atom] = atom = lower[lower[atom]]
        return atom

    for one, other in bonds.tolist():
        low, high = sorted((first(one), first(other)))
        lower[high] = low
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(first(atom), len(numbers)) for atom in range(n_atoms)])


def parts_of(
    numbers: NDArray[np.int64], positions: Array, lattice: Cell | None = None
) -> NDArray[np.int64]:
    """Return the part of each atom (n,): parts are joined by bonds, numbered by first atoms.

    Parameters
    ----------
    numbers
        Atomic numbers, (n,).
    positions
        In Å, (n, 3).
    lattice
        What repeats, for bonds through the faces of a cell.
    """
    return connected(len(numbers), bonds_of(numbers, positions, lattice))


def given_charges(
    numbers: NDArray[np.int64], parts: NDArray[np.int64], charges: Mapping[int, Any] | Array
) -> Array:
    """Return charges of parts, or of atoms, as each atom's even share of its part's charge, (n,).

    Raises
    ------
    ValueError
        If parts are missing or unknown, or the charges of a part do not add up to a whole number.
    """
    count = int(parts.max()) + 1
    if isinstance(charges, Mapping):
        if set(charges) != set(range(count)):
            raise ValueError(
                f"charges: expected one for each part, {{part: charge}}, got {dict(charges)}; "
                f"there {'is' if count == 1 else 'are'} {_listed(numbers, parts, {})}"
            )
        sums = np.array([float(charges[k]) for k in range(count)])
    else:
        sums = np.bincount(parts, charges, count)
    uneven = np.flatnonzero(~(np.abs(sums - np.round(sums)) < _ROUNDING))
    if uneven.size:
        k = int(uneven[0])
        raise ValueError(
            f"charges: expected formal charges, whole for each part, got {sums[k]:g} e for part "
            f"{_described(numbers, parts, k)}; to keep what is spread over the atoms already, use "
            "System.with_charges"
        )
    return (np.round(sums) / np.bincount(parts))[parts]


def derived_charges(
    numbers: NDArray[np.int64],
    positions: Array,
    total: int,
    bonds: NDArray[np.int64] | None = None,
    lattice: Cell | None = None,
) -> Array:
    """Return each atom's even share of the charge of its part (n,), as bonds tell it.

    A single part has the total charge. Of several, each has the charge that its valences tell;
    where they do not, that which is left if there is one such part, or that which RDKit allows if
    only one choice gives the total.

    Parameters
    ----------
    numbers, positions
        Atomic numbers (n,); positions in Å (n, 3), which are not used if there are bonds.
    total
        Charge of all atoms in e.
    bonds
        Pairs of bonded atoms (b, 2). None: those of `bonds_of`.
    lattice
        What repeats, for bonds through the faces of a cell.

    Raises
    ------
    ValueError
        If no choice or several give the total charge.
    """
    bonds = bonds_of(numbers, positions, lattice) if bonds is None else bonds
    parts = connected(len(numbers), bonds)
    count = int(parts.max()) + 1
    if count == 1:
        return np.full(len(numbers), total / len(numbers))
    molecules = _molecules(numbers, bonds, parts)
    known = {k: charge_of(*molecule) for k, molecule in enumerate(molecules)}
    sure = {k: charge for k, charge in known.items() if charge is not None}
    open_parts = [k for k in known if k not in sure]
    rest = total - sum(sure.values())
    choices, tried = [sure], ""
    if len(open_parts) == 1:
        choices = [sure | {open_parts[0]: rest}]
    elif open_parts:
        allowed = [possible_charges(*molecules[k]) for k in open_parts]
        tried = " and by RDKit" if None not in allowed else " (RDKit is not installed)"
        choices = [
            sure | dict(zip(open_parts, choice, strict=True))
            for choice in _adding_up(allowed, rest)
        ]
    choices = [choice for choice in choices if sum(choice.values()) == total]
    if len(choices) != 1:
        raise ValueError(_refusal(numbers, parts, sure, total, len(choices), tried))
    return (np.array([choices[0][k] for k in range(count)]) / np.bincount(parts))[parts]


def _molecules(
    numbers: NDArray[np.int64], bonds: NDArray[np.int64], parts: NDArray[np.int64]
) -> list[tuple[tuple[int, ...], tuple[tuple[int, int], ...]]]:
    """Return atomic numbers and bonds of each part, its atoms numbered from 0."""
    order = np.argsort(parts, kind="stable")
    sizes = np.bincount(parts)
    starts = np.cumsum(sizes) - sizes
    place = np.empty_like(order)
    place[order] = np.arange(len(order)) - starts[parts[order]]
    own = parts[bonds[:, 0]]
    found = []
    for k, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        ends = place[bonds[own == k]].tolist()
        atoms = numbers[order[start : start + size]].tolist()
        found.append((tuple(atoms), tuple((a, b) for a, b in ends)))
    return found


def _adding_up(allowed: Sequence[tuple[int, ...] | None], rest: int) -> list[tuple[int, ...]]:
    """Return the choices, one of each, that add up to a number; none where there are too many."""
    sets = [one for one in allowed if one is not None]
    if len(sets) < len(allowed) or np.prod([float(len(one)) for one in sets]) > _COMBINATIONS:
        return []
    return [choice for choice in product(*sets) if sum(choice) == rest]


def _refusal(
    numbers: NDArray[np.int64], parts: NDArray[np.int64], sure: Mapping[int, int], total: int,
    found: int, tried: str,
) -> str:  # fmt: skip
    why = "several choices give the total charge" if found else "no choice gives the total charge"
    example = ", ".join(f"{k}: {sure.get(k, '…')}" for k in range(min(int(parts.max()) + 1, 3)))
    more = ", …" if parts.max() > 2 else ""
    return (
        f"charges: the charges of the parts do not follow from their bonds: {why} ({total:+d} e). "
        f"Parts are {_listed(numbers, parts, sure)}; tried by valences{tried}. Give them: "
        f"System(…, charges={{{example}{more}}}), or one formal charge for each atom, "
        "charges=[…]"
    )


def _listed(
    numbers: NDArray[np.int64], parts: NDArray[np.int64], sure: Mapping[int, int], most: int = 8
) -> str:
    """Describe the parts, those first whose charge is unknown."""
    count = int(parts.max()) + 1
    shown = sorted(sorted(range(count), key=lambda k: k in sure)[:most])
    told = [
        _described(numbers, parts, k) + (f", {sure[k]:+d} e" if k in sure else "") for k in shown
    ]
    return "; ".join(told) + (f"; and {count - most} more" if count > most else "")


def _described(numbers: NDArray[np.int64], parts: NDArray[np.int64], k: int) -> str:
    atoms = np.flatnonzero(parts == k)
    listed = ", ".join(map(str, atoms[:10].tolist())) + (", …" if len(atoms) > 10 else "")
    return f"{k}: {formula(numbers[atoms].tolist())} (atoms {listed})"
