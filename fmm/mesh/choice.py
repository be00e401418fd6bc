"""How a periodic sum is split between pairs and mesh: for a tolerance, at least cost.

Three things are free: the radius of the near part, the number of points of the window, and the
spacing of the grid. The band of the splitting follows from the tolerance, and with the radius it
gives the highest wave. Constants of error are fitted to errors measured on lattices whose points
are moved a little, which are larger than those of random points.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import factorial

import numpy as np

from fmm.mesh import window
from multipoles.emitted.field import pair_cost
from multipoles.lattice.cell import Cell
from multipoles.lattice.smooth import Smooth
from multipoles.lattice.split import spacing, wave_depth
from multipoles.radial import Coulomb, Erf, Kernel

# ns: a near pair, for a unit of its cost; a point of the window, for each derivative of moments and
# of the field; a grid point and doubling of its number
_PAIR, _SPREAD, _TAKEN, _GRID = 3.5, 0.25, 0.14, 0.2
_WINDOWS = (4, 6, 8, 10, 12, 14, 16, 18, 20)
# of numbers on the grid, which derivatives of a window multiply
_ROUNDING = 2e-15
# of the tolerance, for what a kernel differs from 1/r
_NEGLIGIBLE = 0.05
# of the tolerance, for each part
_SHARE = 0.3
# waves in radians per grid point that are tried
_HIGHEST = 0.05 * np.arange(60, 5, -1)
# radii that are tried, in distances of neighbours
_RATIOS = np.geomspace(1.2, 12.0, 24)
# from here on polynomials of the splitting lose digits
_WIDEST_BAND = 32.0


class ToleranceNotKept(ValueError):
    """A mesh cannot keep a tolerance; other sums can."""


@dataclass(frozen=True, kw_only=True)
class Setting(Smooth):
    """How a sum is split, and what grid its smooth part has.

    Parameters
    ----------
    radius, band, alpha
        Of the splitting, see `Smooth`; the radius is that of the near part.
    points : int
        Of the window, along each axis.
    highest : float
        Highest wave, in radians per grid point.
    reach : float
        Distance from which on the kernel is 1/r.
    """

    points: int
    highest: float
    reach: float = 0.0

    @property
    def near(self) -> float:
        """How far apart pairs are summed one by one; where none are, that of points in one."""
        return 1e-3 * self.radius if self.alpha else max(self.radius, self.reach)

    @property
    def window_band(self) -> float:
        """Band of the window, rounded so that tables are found again."""
        return round(window.band_of(self.points, self.highest), 6)

    def table(self, order: int) -> np.ndarray:
        """Return the window and its derivatives, see `window.polynomials`."""
        return window.polynomials(self.points, self.window_band, order)

    def shape(self, box: np.ndarray) -> tuple[int, int, int]:
        """Return how many grid points each vector of a box gets."""
        step = self.highest * self.radius / self.band
        least = window.padded(self.points)
        a, b, c = (_smooth(max(int(np.ceil(edge / step)), least)) for edge in _edges(box))
        return a, b, c


def _edges(box: np.ndarray) -> np.ndarray:
    """Return the lengths of a box's vectors: waves along them reach as far in skewed boxes."""
    lengths: np.ndarray = np.linalg.norm(box, axis=1)
    return lengths


def _smooth(n: int) -> int:
    from scipy import fft  # slow to import

    return int(fft.next_fast_len(n, real=True))


def setting_of(
    targets: np.ndarray,
    sources: np.ndarray,
    cell: Cell,
    kernel: Kernel,
    tolerance: float,
    orders: tuple[int, int],
) -> Setting:
    """Return the cheapest setting for points, see `setting_for`.

    Gaussian charges that are wide are waves and nothing else where that costs less.
    """
    spread = cell.extents(targets, sources)
    apart = float(spacing(len(sources), cell, spread))
    reach = reach_of(kernel, tolerance, sum(orders))
    counts = len(targets), len(sources)
    cost = pair_cost(*orders, 1, True)
    given = cell, spread, counts, tolerance, orders, apart
    alpha = kernel.alpha if isinstance(kernel, Erf) else 0.0
    return setting_for(*given, cost, reach, alpha)


def reach_of(kernel: Kernel, tolerance: float, links: int) -> float:
    """Return the distance from which on a kernel is 1/r, as far as a tolerance asks.

    Raises
    ------
    ValueError
        If there is none.
    """
    if isinstance(kernel, Coulomb):
        return 0.0
    reach = kernel.coulomb_beyond(_NEGLIGIBLE * tolerance, links)
    if not np.isfinite(reach):
        raise ValueError(
            "kernel: expected one that is 1/r beyond some distance, Coulomb(), Softened(...), "
            f"Erf(...) or Thole(...), got {kernel}; use multipoles.field"
        )
    return reach


def setting_for(
    cell: Cell,
    lengths: np.ndarray,
    counts: tuple[int, int],
    tolerance: float,
    orders: tuple[int, int],
    apart: float,
    cost_of_pair: float,
    reach: float = 0.0,
    alpha: float = 0.0,
) -> Setting:
    """Return the cheapest setting.

    Parameters
    ----------
    cell : Cell
        What repeats.
    lengths : ndarray
        How far points reach along what does not.
    counts : tuple of int
        Targets and sources.
    tolerance : float
        Relative error that is aimed at.
    orders : tuple of int
        Of moments and field.
    apart : float
        About the distance of neighbours.
    cost_of_pair : float
        Of a near pair, one being that of two charges.
    reach : float
        Distance from which on the kernel is 1/r.
    alpha : float
        Of Gaussian charges, inverse length; else 0.

    Raises
    ------
    ToleranceNotKept
        If none keeps the tolerance.
    """
    n, m = counts
    asked = tolerance
    # sums of many orders err by more than their parts
    tolerance = tolerance / (1 + (sum(orders) / 2.2) ** 3)
    best, least = None, np.inf
    density = m / (cell.volume * float(np.prod(np.maximum(lengths, apart))))
    parts = [(ratio * apart, band_for(tolerance, sum(orders), ratio), 0.0) for ratio in _RATIOS]
    parts = [part for part in parts if part[1] <= _WIDEST_BAND]
    if alpha:
        depth = wave_depth(sum(orders), _SHARE * tolerance, apart, np.array([alpha]))[0]
        parts.append((float(depth / alpha), float(2 * depth**2), alpha))
    for radius, band, of_waves in parts:
        near = 0.0 if of_waves else max(radius, reach)
        pairs = n * density * 4 / 3 * np.pi * (near + 0.7 * density ** (-1 / 3)) ** 3
        cost_of_near = _PAIR * cost_of_pair * pairs * (1 if of_waves or not reach else 2)
        for points in _WINDOWS:
            highest = highest_for(points, tolerance, orders, radius / apart, band)
            if highest == 0:
                continue
            step = highest * radius / band
            box = cell.volume * float(np.prod(2 * (lengths + radius)))
            grid = max(box / step**3, points**3)
            taken = _SPREAD * m * (orders[0] + 1) + _TAKEN * n * (orders[1] + 1)
            cost = cost_of_near + points**2 * window.padded(points) * taken
            cost += _GRID * 2 * grid * np.log2(grid)
            if cost < least:
                best = Setting(
                    radius=float(radius), band=band, alpha=of_waves, points=points,
                    highest=highest, reach=reach,
                )  # fmt: skip
                least = cost
    if best is None:
        raise ToleranceNotKept(
            f"tolerance: expected one that a mesh keeps for derivatives of order {sum(orders)}, "
            f"got {asked:g}; use multipoles.field with a cell"
        )
    return best


@lru_cache(maxsize=1024)
def band_for(tolerance: float, top: int, ratio: float) -> float:
    """Return the band whose splitting errs by a share of the tolerance, at all orders up to `top`.

    `ratio` is the radius over the distance of neighbours.
    """
    band = 4.0
    while splitting_error(band, top, ratio) > _SHARE * tolerance:
        band += 0.25
    return band


def splitting_error(band: float, top: int, ratio: float) -> float:
    """Return the relative error of fields of order up to `top` by waves that are left out."""
    errors = [
        (6 + n * n / 2) * np.exp(-band) * (band / ratio) ** n / factorial(n) for n in range(top + 1)
    ]
    return float(max(errors))


def highest_for(
    points: int, tolerance: float, orders: tuple[int, int], ratio: float, band: float
) -> float:
    """Return the highest wave per grid point that a window passes; 0 if it passes none."""
    passes = window_errors(points, orders, ratio, band) <= _SHARE * tolerance
    return float(_HIGHEST[np.argmax(passes)]) if passes.any() else 0.0


def window_errors(points: int, orders: tuple[int, int], ratio: float, band: float) -> np.ndarray:
    """Return the relative error of fields by aliases and rounding, for all of `_HIGHEST`.

    An alias that moments let in is multiplied by its own wave number as often as their order, one
    that the field lets in as often as its order is.
    """
    table, growth = _aliases(points, max(orders)), _HIGHEST / np.pi
    worst = np.zeros(len(_HIGHEST))
    for source in range(orders[0] + 1):
        for order in range(orders[1] + 1):
            total = source + order
            size = (band / ratio) ** total / factorial(total)
            both = np.maximum(table[:, source], table[:, order])
            worst = np.maximum(worst, size * np.maximum(both, _ROUNDING * growth ** -float(total)))
    return worst


@lru_cache(maxsize=64)
def _aliases(points: int, order: int) -> np.ndarray:
    """Return the errors of `window.aliasing`, (len(_HIGHEST), order + 1)."""
    rows = np.array([window.aliasing(points, highest, order) for highest in _HIGHEST.tolist()])
    # aliases beyond the first matter the more, the higher the derivative
    table: np.ndarray = rows * (2.5 * 3.5 ** np.arange(order + 1))
    return table
