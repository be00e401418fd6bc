"""What repeats and what is meant by it: the arguments of sums over all images, checked."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from multipoles import checks
from multipoles.lattice.cell import directions
from multipoles.lattice.rows import sums_of_systems
from multipoles.lattice.split import decays
from multipoles.radial import Kernel

#: Relative errors that are aimed at unless a tolerance is given, by the size of a number.
TOLERANCES = {4: 1e-6, 8: 1e-13}
SURFACES = ("conductor", "vacuum")
# charges that add up to less than so many roundings of their sizes are neutral
_NEUTRAL = 1e-10


@dataclass(frozen=True)
class Lattice:
    """What repeats, and what is meant by it: the checked arguments of the public functions.

    Parameters
    ----------
    cells : ndarray, shape (n_systems, 3, 3)
        Rows are lattice vectors, float64.
    periodic : tuple of three bools
        Which directions repeat.
    tolerance : float or None
        Relative error that is aimed at.
    background : bool
        Whether charged cells get a uniform background.
    surface : str
        One of `SURFACES`.
    """

    cells: np.ndarray
    periodic: tuple[bool, bool, bool]
    tolerance: float | None
    background: bool
    surface: str

    def name_of(self, systems: np.ndarray) -> Callable[[int], str]:
        """Return what names the cell of each of some systems."""
        return lambda k: "cell" if self.cells.ndim == 2 else f"cell[{systems[k]}]"


def lattice_of(
    cell: Any,
    periodic: Any,
    tolerance: float | None,
    background: bool,
    surface_of: str,
    batched: bool,
) -> Lattice:
    """Return the checked arguments.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.
    """
    repeats = directions(periodic)
    cells = checks.real(cell, "cell").astype(np.float64)
    if cells.ndim == 3 and not batched:
        raise ValueError(
            f"cell: got {len(cells)} cells, but no batch: expected shape (3, 3), or the index of "
            "the system of each point"
        )
    if cells.shape[-2:] != (3, 3) or cells.ndim not in (2, 3):
        raise ValueError(
            f"cell: expected shape (3, 3), or (n_systems, 3, 3) with a batch, got {cells.shape}"
        )
    if tolerance is not None and not (
        isinstance(tolerance, int | float | np.floating) and 1e-14 <= tolerance <= 0.1
    ):
        raise ValueError(f"tolerance: expected a number from 1e-14 to 0.1, got {tolerance!r}")
    if not isinstance(background, bool | np.bool_):
        raise TypeError(f"background: expected a bool, got {background!r}")
    if surface_of not in SURFACES:
        raise ValueError(f"surface: expected one of {SURFACES}, got {surface_of!r}")
    if surface_of == "vacuum" and not all(repeats):
        raise ValueError(
            "surface: 'vacuum' is the surface of a sphere: expected three directions that repeat"
        )
    return Lattice(
        cells, repeats, None if tolerance is None else float(tolerance), bool(background),
        surface_of,
    )  # fmt: skip


def tolerance_of(lattice: Lattice, dtype: np.dtype) -> float:
    """Return the tolerance that was given, or that of a type of numbers."""
    return TOLERANCES[dtype.itemsize] if lattice.tolerance is None else lattice.tolerance


def check_neutral(
    moments: np.ndarray, lattice: Lattice, kernel: Kernel, ends: np.ndarray | None = None
) -> None:
    """Refuse charged cells that are to have no background, but under kernels that need none.

    ends: first point of each system; default: they are of one.
    """
    if lattice.background or not all(lattice.periodic) or decays(kernel) or not len(moments):
        return
    charges = moments[:, :, 0]
    ends = np.array([0, len(moments)]) if ends is None else ends
    totals = sums_of_systems(charges, ends).ravel()
    limits = _NEUTRAL * sums_of_systems(np.abs(charges), ends).ravel()
    if (np.abs(totals) > limits).any():
        total = totals[np.argmax(np.abs(totals) - limits)]
        raise ValueError(
            "moments: expected a neutral cell with background=False, got a total charge of "
            f"{total:.6g}"
        )
