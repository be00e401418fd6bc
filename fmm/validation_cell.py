"""Periodic sums against others: what ``python -m fmm validate --cell`` runs."""

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from fmm.distributions import random_moments
from fmm.planning import plan
from fmm.validation import errors
from multipoles import interactions
from multipoles.lattice import reference
from multipoles.lattice.cell import directions

# targets that are compared with tight Ewald sums, and with the slow twin
_SAMPLE, _FEW = 300, 4
# the twin sums over all sources in Python
_MOST_SLOW = 3000
_TIGHT = 1e-13


@dataclass
class CellResult:
    """Errors and times of a sum in a cell.

    Attributes
    ----------
    shape : str
        How points lie.
    method : str
        Class of the plan.
    n : int
        Number of points.
    tolerance : float
        What was asked.
    errors : ndarray
        Relative L2 error per output order, against Ewald sums at 1e-13.
    twin : float
        Largest relative L2 error of these against sums of the slow twin; NaN if there are too many
        points for that.
    plan, field : float
        Seconds to plan, and of an evaluation.
    """

    shape: str
    method: str
    n: int
    tolerance: float
    errors: np.ndarray
    twin: float
    plan: float
    field: float

    @property
    def kept(self) -> bool:
        """Whether the tolerance is kept at every order, and both exact sums agree."""
        agree = np.isnan(self.twin) or self.twin <= 1e-9
        return bool(np.all(self.errors <= self.tolerance) and agree)


def cell_of_text(text: str) -> np.ndarray:
    """Return lattice vectors from one edge, three, or nine numbers with commas.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    numbers = [float(part) for part in text.split(",")]
    if len(numbers) in (1, 3):
        return np.diag(np.broadcast_to(numbers, 3)).astype(float)
    if len(numbers) == 9:
        return np.reshape(numbers, (3, 3))
    raise ValueError(
        f"--cell: expected one edge, three edges or nine numbers with commas, got {text!r}"
    )


def periodic_of_text(text: str) -> tuple[bool, bool, bool]:
    """Return which directions repeat from their names, such as xyz or xy.

    Raises
    ------
    ValueError
        If a letter is another.
    """
    if not text or set(text) - set("xyz"):
        raise ValueError(f"--periodic: expected some of the letters x, y and z, got {text!r}")
    return directions([axis in text for axis in "xyz"])


def validate_cell(
    n: int,
    tolerance: float,
    cell: np.ndarray,
    periodic: tuple[bool, bool, bool],
    source_order: int = 0,
    order: int = 1,
    shape: str = "liquid",
    method: str = "auto",
    seed: int = 0,
) -> CellResult:
    """Compare a plan in a cell with tight Ewald sums, and these with the slow twin.

    Parameters
    ----------
    n : int
        Number of points, about.
    tolerance : float
        Of the plan.
    cell, periodic
        Lattice vectors as rows, and which of them repeat.
    source_order, order : int
        Of moments and field.
    shape : {"liquid", "random", "droplet"}
        Points of a lattice, moved by a fifth of their distance; anywhere; or all in a ball across
        a corner of the cell.
    method : str
        See `fmm.planning.plan`.
    seed : int
        Of points and moments.
    """
    rng = np.random.default_rng(seed)
    points = _points(shape, n, rng) @ cell
    moments = random_moments(len(points), source_order, rng)[:, 0]
    given: dict[str, Any] = {"cell": cell, "periodic": periodic}
    start = perf_counter()
    made = plan(points, None, tolerance, source_order, order, method=method, **given)
    planned = perf_counter() - start
    made.field(moments)
    start = perf_counter()
    field = made.field(moments)
    seconds = perf_counter() - start
    places = np.sort(rng.choice(len(points), min(len(points), _SAMPLE), replace=False))
    exact = interactions.field(points[places], points, moments, order, tolerance=_TIGHT, **given)
    twin = np.nan
    if len(points) <= _MOST_SLOW:
        few = points[places[:_FEW]]
        slow = reference.field(few, points, moments, order, cell, periodic)
        twin = float(errors(exact[:_FEW], slow, np.arange(_FEW)).max())
    found = errors(field, exact, places)
    name = type(made).__name__
    return CellResult(shape, name, len(points), tolerance, found, twin, planned, seconds)


def _points(shape: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return fractional coordinates.

    Raises
    ------
    ValueError
        If there is no such shape.
    """
    if shape == "random":
        return rng.random((n, 3))
    if shape == "droplet":
        away = rng.standard_normal((n, 3))
        radius = 0.1 * rng.random((n, 1)) ** (1 / 3)
        ball: np.ndarray = radius * away / np.linalg.norm(away, axis=1)[:, None]
        return ball
    if shape != "liquid":
        raise ValueError(
            f"--distribution: expected liquid, random or droplet in a cell, got {shape!r}"
        )
    m = max(round(n ** (1 / 3)), 1)
    sites = np.stack(np.meshgrid(*[np.arange(m)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    moved: np.ndarray = (sites + 0.2 * rng.uniform(-1, 1, sites.shape)) / m
    return moved


def header(order: int) -> str:
    """Return the head of the table that `line` makes."""
    columns = "".join(f"{f'order {k}':>9}" for k in range(order + 1))
    return (
        f"{'':<9}{'':<7}{'points':>9}{'asked':>8}{columns}  {'':<8}{'twin':>9}{'plan s':>9}{'s':>9}"
    )


def line(result: CellResult) -> str:
    """Return the result as a line of a table."""
    columns = "".join(f"{error:>9.1e}" for error in result.errors)
    twin = "-" if np.isnan(result.twin) else f"{result.twin:.1e}"
    return (
        f"{result.shape:<9}{result.method:<7}{result.n:>9}{result.tolerance:>8.0e}{columns}  "
        f"{'kept' if result.kept else 'MISSED':<8}{twin:>9}{result.plan:>9.4f}{result.field:>9.4f}"
    )
