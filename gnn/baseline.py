"""The constant part of a model's energy: fitted to labelled frames, or taken from isolated atoms.

Rows are compositions: a column for each element, and the last one for the total charge.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gnn.data.streaming import Header
from gnn.data.systems import Frame

_BONDS = (-20.0, 10.0)  # eV per atom: plausible energies of bonds


class Residuals(NamedTuple):
    """What is to be fitted: each composition is one row.

    Attributes
    ----------
    rows
        Numbers of atoms of each element, and the total charge, (n, elements + 1).
    labelled
        Which rows have energies, (n,).
    weights, means
        Of the rows with energies: square roots of their numbers of frames, and mean energies.
    without_energy
        Numbers of frames without an energy, of all rows.
    """

    rows: NDArray[np.int64]
    labelled: NDArray[np.bool_]
    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    without_energy: list[int]


def residuals(
    frames: Iterable[Frame | Header], predicted: Iterable[float], n_elements: int
) -> Residuals:
    """Return the energies of frames less predictions, by composition.

    Raises
    ------
    ValueError
        If there is no frame.
    """
    found: dict[tuple[bytes, int], list[float]] = {}
    unlabelled: dict[tuple[bytes, int], int] = {}
    for frame, energy in zip(frames, predicted, strict=False):
        counts = np.bincount(frame.system.numbers, minlength=n_elements)
        key = counts.tobytes(), frame.system.charge
        of_composition = found.setdefault(key, [])
        if frame.energy is None:
            unlabelled[key] = unlabelled.get(key, 0) + 1
        else:
            of_composition.append(frame.energy - energy)
    if not found:
        raise ValueError("expected at least one frame to fit the baseline, got none")
    rows = np.stack([np.append(np.frombuffer(c, dtype=np.int64), q) for c, q in found])
    return Residuals(
        rows,
        np.array([bool(some) for some in found.values()]),
        np.sqrt([len(some) for some in found.values() if some]),
        np.array([np.mean(some) for some in found.values() if some]),
        [unlabelled.get(key, 0) for key in found],
    )


def warn_of_open_energies(
    rows: NDArray[np.int64],
    labelled: NDArray[np.bool_],
    lacking: Sequence[int],
    fixed: Iterable[int],
) -> None:
    """Warn where the energies do not determine the constants of frames without an energy.

    Those of `fixed` elements are known already.
    """
    free = rows.astype(float)
    free[:, list(fixed)] = 0.0
    basis = free[labelled].T
    combination = np.linalg.lstsq(basis, free.T, rcond=None)[0]
    missed = np.abs(basis @ combination - free.T).max(axis=0) > 1e-6
    count = sum(n for n, open_ in zip(lacking, missed, strict=True) if open_)
    if not count:
        return
    if not labelled.any():
        reason = "no frame has an energy: the constant part of the energies is not fitted"
    else:
        first = rows[np.argmax(missed)]
        elements = ", ".join(f"{z}: {n}" for z, n in enumerate(first[:-1]) if n)
        reason = (
            f"{count} frames have no energy, and those with one do not tell the constant part of "
            f"theirs (first: atoms by atomic number {{{elements}}}, charge {first[-1]:+d}): their "
            "energies have an unknown constant"
        )
    warnings.warn(reason, stacklevel=4)


def constants(
    rows: NDArray[np.int64],
    weights: NDArray[np.float64],
    energies: NDArray[np.float64],
    fixed: Mapping[int, float],
    all_fixed: bool,
) -> tuple[NDArray[np.float64], float]:
    """Return energies of elements and of a unit of charge, and the rest per atom if all fixed."""
    solution = np.zeros(rows.shape[1])
    solution[list(fixed)] = list(fixed.values())
    columns = np.column_stack([rows, all_fixed * rows[:, :-1].sum(axis=1)]).astype(float)
    residual = energies - columns[:, :-1] @ solution
    columns[:, list(fixed)] = 0.0
    fit = np.linalg.lstsq(weights[:, None] * columns, weights * residual, rcond=None)[0]
    return solution + fit[:-1], float(fit[-1])


def check_bond(energy: float) -> None:
    """Warn where energies of molecules less those of isolated atoms are not those of bonds."""
    low, high = _BONDS
    if not low < energy < high:
        warnings.warn(
            f"energies less those of the isolated atoms are {energy:.1f} eV per atom, where bonds "
            f"make {low:g} to {high:g}: is one of them in another unit or of another level of "
            "theory?",
            stacklevel=4,
        )
