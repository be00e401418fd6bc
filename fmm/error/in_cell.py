"""The whole periodic field at a few targets, by which sums in cells are judged.

Near images and waves, as in an Ewald sum, but split by a prolate function: no grid, no windows, no
expansions. For few targets and many sources the near part reaches far, so that few waves are left.
"""

from typing import NamedTuple

import numpy as np

from multipoles import indexing
from multipoles.compiled.jit import bare, bare_inline, run_chunks, serial
from multipoles.emitted.field import field_of_tiles, pair_cost
from multipoles.lattice.cell import Cell
from multipoles.lattice.ewald import Ewald, coincidence_of
from multipoles.lattice.own import own_matrix
from multipoles.lattice.smooth import Smooth
from multipoles.lattice.split import check_memory, neighbours, spacing, wave_depth
from multipoles.lattice.transform import transform
from multipoles.lattice.waves import Waves, cartesian_field, fractional_moments
from multipoles.radial import Coulomb, Erf, Kernel
from multipoles.radial.remainder import Remainder, SmoothPart

# of the tolerance, for what the kernel differs from 1/r: much less than what is judged neglects
_NEGLIGIBLE = 1e-3
# of the tolerance, for waves that are left out
_SHARE = 0.3
# relative to the field under 1/r, for waves of wide Gaussian charges that are left out: what is
# judged leaves out the same waves, and all of a field that is small may be beyond them
_GAUSSIAN = 1e-16
# beyond it polynomials of the splitting lose digits
_WIDEST_BAND = 32.0
# tighter ones are left to Ewald sums, which aim at this at most
_TIGHTEST, _ROUNDING = 1e-11, 1e-14
# ns: a target and a source that are looked at; a near pair, and for a unit of its cost; a source,
# and a wave of it
_LOOK, _FOUND, _PAIR, _SOURCE, _WAVE = 3.0, 8.0, 3.5, 100.0, 0.1
# a little more than one, for rounding
_ROUNDED = 1 + 1e-9
# targets and sources that are looked at together
_BLOCK = 200_000


class _Split(NamedTuple):
    """The smooth part, and the box of its waves: lengths, cut-off, numbers."""

    smooth: Smooth
    lengths: np.ndarray
    cut: float
    limits: tuple[int, int, int]


class _Waves(NamedTuple):
    """A split, its waves, and what structure factors are multiplied by."""

    split: _Split
    waves: Waves
    weights: np.ndarray


class InCell:
    """Periodic sums at a few targets, to a tolerance.

    Units are such that lengths and moments are ordinary numbers.

    Parameters
    ----------
    cell : Cell
        What repeats.
    kernel : Kernel
        1/r, or 1/r from some distance on.
    tolerance : float
        Relative error that is aimed at.
    unit : float
        The length whose logarithm is zero, with one periodic direction.
    """

    def __init__(self, cell: Cell, kernel: Kernel, tolerance: float, unit: float = 1.0) -> None:
        self.cell, self.kernel, self.unit = cell, kernel, unit
        self.tolerance = tolerance
        self._key = cell.vectors.tobytes(), cell.n_periodic, kernel, tolerance, unit
        self._made: tuple[tuple[int, ...], _Waves] | None = None

    def is_like(self, other: "InCell") -> bool:
        """Return whether cell, kernel and tolerance are those of another."""
        return self._key == other._key

    def field(
        self, targets: np.ndarray, sources: np.ndarray, moments: np.ndarray, order: int
    ) -> np.ndarray:
        """Return the field of all images of the sources.

        Parameters
        ----------
        targets, sources : ndarray, shape (n, 3)
            Float64, as the caller has them: anywhere, not wrapped into the cell.
        moments : ndarray, shape (n_sources, channels, n_components(K))
            Packed moments, float64.
        order : int
            Highest derivative.

        Returns
        -------
        ndarray, shape (n_targets, channels, n_components(order))
            With three periodic directions that of a crystal in a conductor, and with a uniform
            background if the cell is charged.

        Raises
        ------
        ValueError
            If waves do not fit into memory.
        """
        orders = indexing.order_of(moments.shape[2]), order
        if self._band(sum(orders), 1.0) >= _WIDEST_BAND or self.tolerance < _TIGHTEST:
            return self._by_ewald(targets, sources, moments, orders)
        split, made, weights = self._waves(targets, sources, orders)
        out = self._near_field(targets, sources, moments, orders, split)
        inverse = made.inverses[0]
        given = fractional_moments(moments, inverse)
        of_sources, of_targets = (np.array([0, len(p)]) for p in (sources, targets))
        factors = made.structure_factors(sources @ inverse, given, of_sources) * weights
        phi = made.synthesis(targets @ inverse, factors, order, of_targets)
        out += cartesian_field(phi, inverse)
        if self.cell.n_periodic == 3:
            out[:, :, 0] -= split.smooth.lacks / self.cell.volume * moments[:, :, 0].sum(axis=0)
        return out

    def _by_ewald(
        self, targets: np.ndarray, sources: np.ndarray, moments: np.ndarray, orders: tuple[int, int]
    ) -> np.ndarray:
        """Return the field by an Ewald sum, which has all digits."""
        given = self.cell, self.kernel, max(self.tolerance, _ROUNDING), *orders, self.unit
        plan = Ewald(targets, sources, *given)
        return plan.field(moments, plan.factors_of(moments), orders[1])

    # --- how to split -----------------------------------------------------------------------------

    def _split(self, targets: np.ndarray, sources: np.ndarray, orders: tuple[int, int]) -> _Split:
        """Return the cheapest split."""
        cell, n, m = self.cell, len(targets), len(sources)
        spread = cell.extents(targets, sources)
        apart = float(spacing(m, cell, spread))
        largest = max(cell.heights.max(), spread.max(initial=0.0), 3 * apart)
        radii = np.geomspace(1.5 * apart, 1.5 * largest, 40)
        bands = np.array([self._band(sum(orders), radius / apart) for radius in radii])
        nears, alpha = np.maximum(radii, self._reach(sum(orders))), 0.0
        if isinstance(self.kernel, Erf):
            # waves alone, if Gaussians are wide
            alpha = self.kernel.alpha
            depth = wave_depth(sum(orders), _GAUSSIAN, apart, np.array([alpha]))[0]
            radii, bands = np.append(radii, depth / alpha), np.append(bands, 2 * depth**2)
            nears = np.append(nears, 0.0)
        cuts = float(np.linalg.norm(spread)) + radii
        lengths = np.ones((len(radii), 3))
        lengths[:, cell.n_periodic :] = spread + (cuts + radii)[:, None]
        edges = lengths * np.linalg.norm(cell.vectors, axis=1)
        limits = np.floor((bands / radii)[:, None] / (2 * np.pi) * edges)
        n_waves = (2 * limits[:, 0] + 1) * (2 * limits[:, 1] + 1) * (limits[:, 2] + 1)
        work = (m * (orders[0] + 1) + n * (orders[1] + 1)) * n_waves * _WAVE + m * _SOURCE
        looked = n * m * np.prod(1 + 2 * np.floor(nears[:, None] / cell.heights + 0.5), axis=1)
        pairs = n * m * neighbours(nears, cell, spread)
        kernels = 1 if isinstance(self.kernel, Coulomb) else 2
        work += looked * _LOOK + pairs * kernels * (_FOUND + _PAIR * pair_cost(*orders, 1, True))
        best = int(np.argmin(work))
        check_memory(float(n_waves[best]), 0.0, 0.0)
        a, b, c = (int(limit) for limit in limits[best])
        alpha = alpha if nears[best] == 0 else 0.0
        part = Smooth(radius=float(radii[best]), band=float(bands[best]), alpha=alpha)
        return _Split(part, lengths[best], float(cuts[best]), (a, b, c))

    def _reach(self, top: int) -> float:
        """Return the distance from which on the kernel is 1/r."""
        if isinstance(self.kernel, Coulomb):
            return 0.0
        return self.kernel.coulomb_beyond(_NEGLIGIBLE * self.tolerance, top)

    def _band(self, top: int, ratio: float) -> float:
        """Return the band that loses less than is allowed, for a radius in distances of points."""
        n = np.arange(top + 1)
        factorials = np.cumprod(np.maximum(n, 1.0))
        bands = np.arange(4.0, _WIDEST_BAND, 0.5)[:, None]
        errors = (6 + n * n / 2) * np.exp(-bands) * (bands / ratio) ** n / factorials
        # sums of many orders err by more than their parts
        enough = errors.max(axis=1) <= _SHARE * self.tolerance / (1 + top * top / 4)
        return float(bands[np.argmax(enough), 0]) if enough.any() else _WIDEST_BAND

    def _waves(self, targets: np.ndarray, sources: np.ndarray, orders: tuple[int, int]) -> _Waves:
        """Return split and weights: those of before, if nothing has changed that matters."""
        key = len(targets), len(sources), *orders
        # what is free may have another extent
        if self._made is None or self._made[0] != key or self.cell.n_periodic < 3:
            split = self._split(targets, sources, orders)
            inverse = np.linalg.inv(self.cell.vectors * split.lengths[:, None])
            made = Waves(np.array([split.limits]), inverse[None], split.smooth.longest)
            self._made = key, _Waves(split, made, self._weights(made, split))
        return self._made[1]

    def _weights(self, made: Waves, split: _Split) -> np.ndarray:
        """Return the transform of the smooth part over the volume, twice where -m is not there."""
        lengths = np.linalg.norm(made.vectors, axis=1)
        found = transform(made.vectors, self.cell, split.cut, self.unit)
        found = found * split.smooth.profile(np.minimum(lengths / split.smooth.longest, 1.0))
        volume = self.cell.volume * float(np.prod(split.lengths))
        weights: np.ndarray = found * np.where(lengths > 0, 2.0, 1.0) / volume
        return weights

    # --- near images ------------------------------------------------------------------------------

    def _near_field(
        self, targets: np.ndarray, sources: np.ndarray, moments: np.ndarray,
        orders: tuple[int, int], split: _Split,
    ) -> np.ndarray:  # fmt: skip
        """Return the field of near images, less the smooth field of a source at its own place."""
        reach, part = self._reach(sum(orders)), split.smooth
        kernels: list[tuple[float, Kernel, float]] = []
        if reach == 0:
            kernels = [(1.0, Remainder(part.radius, part.band), part.radius)]
        elif not part.alpha:
            taken = SmoothPart(part.radius, part.band)
            kernels = [(1.0, self.kernel, reach), (-1.0, taken, part.radius)]
        radius = max((within for _, _, within in kernels), default=0.0)
        own = own_matrix(part.at_zero(sum(orders)), *orders)
        coincidence = coincidence_of(targets, sources, self.cell)
        # images of one source that one target may have near it
        each = int(np.prod(1 + np.floor(2 * _ROUNDED * radius / self.cell.heights)))
        moves = _moves(self.cell, radius)
        vectors, inverse = self.cell.vectors.copy(), self.cell.inverse.copy()
        # nothing repeats along the rest
        vectors[self.cell.n_periodic :], inverse[:, self.cell.n_periodic :] = 0.0, 0.0
        n, size = len(targets), max(_BLOCK // (len(targets) * each), 64)
        # places are relative to the target, without loss however far from zero both are
        origin = np.zeros_like(targets)
        spans = np.stack([np.arange(n), np.arange(1, n + 1)], axis=1)

        def of_blocks(first: int, last: int) -> np.ndarray:
            total = np.zeros((n, moments.shape[1], indexing.n_components(orders[1])))
            out = np.empty_like(total)
            room = _Room.made(n, min(size, len(sources)), each)
            for start in range(first * size, min(last * size, len(sources)), size):
                block, here = sources[start : start + size], moments[start : start + size]
                count, same = _near_images(
                    targets, block, inverse, vectors, moves, radius**2, coincidence**2, *room
                )  # fmt: skip
                moved = np.ascontiguousarray(here[room.source[:count]])
                tiles = spans, np.arange(n + 1), np.stack([room.starts[:-1], room.starts[1:]], 1)
                given = origin, room.places[:count], moved, orders[1], tiles, out
                for factor, kernel, within in kernels:
                    field_of_tiles(*given, kernel=kernel, reach=within)
                    total += factor * out
                np.subtract.at(total, room.same[:same, 0], here[room.same[:same, 1]] @ own)
            return total

        def task(first: int, last: int) -> np.ndarray:
            with serial():
                return of_blocks(first, last)

        found: np.ndarray = sum(
            run_chunks(task, -(-len(sources) // size), 4.0 * n * len(sources) * each)
        )
        return found


class _Room(NamedTuple):
    """Where near images are written: target by target, and pairs that coincide."""

    starts: np.ndarray
    places: np.ndarray
    source: np.ndarray
    same: np.ndarray
    # vectors from one target to all sources
    apart: np.ndarray

    @classmethod
    def made(cls, n_targets: int, n_sources: int, each: int) -> "_Room":
        """Return room for so many images of each source near each target."""
        pairs = n_targets * n_sources
        return cls(
            np.empty(n_targets + 1, np.int64), np.empty((pairs * each + 1, 3)),
            np.empty(pairs * each + 1, np.int64), np.empty((pairs, 2), np.int64),
            np.empty((3, n_sources)),
        )  # fmt: skip


def _moves(cell: Cell, radius: float) -> np.ndarray:
    """Return the lattice vectors by which a nearest image may move and be within the radius."""
    # nearest in fractional coordinates: at most half of each lattice vector away
    reach = np.zeros(3, np.int64)
    reach[: cell.n_periodic] = np.floor(_ROUNDED * radius / cell.heights + 0.5)
    numbers = [np.arange(-most, most + 1) for most in reach]
    moves: np.ndarray = np.stack(np.meshgrid(*numbers, indexing="ij"), -1).reshape(-1, 3)
    return moves @ cell.vectors


@bare
def _near_images(
    targets, sources, inverse, vectors, moves, square, coincident, starts, places, origin, same,
    apart,
):  # fmt: skip
    """Write the places of near images relative to each target; return their number, and of same."""
    count, n_same = 0, 0
    for i in range(targets.shape[0]):
        starts[i] = count
        _to_nearest(targets[i], sources, inverse, vectors, apart)
        for move in range(moves.shape[0]):
            a, b, c = moves[move, 0], moves[move, 1], moves[move, 2]
            for j in range(sources.shape[0]):
                x, y, z = apart[0, j] + a, apart[1, j] + b, apart[2, j] + c
                r2 = x * x + y * y + z * z
                if r2 <= coincident:
                    same[n_same, 0], same[n_same, 1] = i, j
                    n_same += 1
                    continue
                # written over by the next one, if it is not near
                places[count, 0], places[count, 1], places[count, 2] = x, y, z
                origin[count] = j
                count += 1 if r2 <= square else 0
    starts[targets.shape[0]] = count
    return count, n_same


@bare_inline
def _to_nearest(target, sources, inverse, vectors, apart):
    """Write the vectors to the images nearest in fractional coordinates, along what repeats."""
    x0, y0, z0 = target[0], target[1], target[2]
    i00, i01, i02 = inverse[0, 0], inverse[0, 1], inverse[0, 2]
    i10, i11, i12 = inverse[1, 0], inverse[1, 1], inverse[1, 2]
    i20, i21, i22 = inverse[2, 0], inverse[2, 1], inverse[2, 2]
    for j in range(sources.shape[0]):
        x, y, z = sources[j, 0] - x0, sources[j, 1] - y0, sources[j, 2] - z0
        a = np.floor(x * i00 + y * i10 + z * i20 + 0.5)
        b = np.floor(x * i01 + y * i11 + z * i21 + 0.5)
        c = np.floor(x * i02 + y * i12 + z * i22 + 0.5)
        apart[0, j] = x - a * vectors[0, 0] - b * vectors[1, 0] - c * vectors[2, 0]
        apart[1, j] = y - a * vectors[0, 1] - b * vectors[1, 1] - c * vectors[2, 1]
        apart[2, j] = z - a * vectors[0, 2] - b * vectors[1, 2] - c * vectors[2, 2]
