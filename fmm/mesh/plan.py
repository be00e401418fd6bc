"""A periodic sum laid out on a mesh: its near pairs, its grid, and the steps of an evaluation.

    1/r = (1 - Φ(r/R))/r + Φ(r/R)/r

The first part is zero beyond the radius R and is summed over near images; the second has no waves
beyond band/R: moments go to a grid, its Fourier transform is multiplied by that of the second part,
and the field comes back from the grid (Hockney & Eastwood; Essmann et al., J. Chem. Phys. 103, 8577
(1995)). Splitting and window are prolate functions (Liang et al., arXiv 2505.09727).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from time import perf_counter
from typing import NamedTuple

import numpy as np

from fmm.mesh import blocks, grid, transforms, window
from fmm.mesh.choice import Setting
from multipoles import indexing
from multipoles.emitted.field import field_of_tiles
from multipoles.lattice import search, waves
from multipoles.lattice.cell import Cell
from multipoles.lattice.ewald import coincidence_of, strain_of_pairs
from multipoles.lattice.own import own_matrix
from multipoles.lattice.strain import of_waves, strained
from multipoles.lattice.transform import slope, transform
from multipoles.layout import Tiles
from multipoles.neighbours import PairList
from multipoles.radial import Coulomb, Kernel
from multipoles.radial.remainder import Remainder, SmoothPart
from multipoles.sums import field_arrays

# a direction along which points of a lattice have different heights
_SKEW = np.array([0.8329, 0.4706, 0.2913])


class Near(NamedTuple):
    """Sorted targets and images, the source of each image, who is near whom, and what coincides."""

    targets: blocks.Columns
    images: blocks.Columns
    origin: np.ndarray
    pairs: Tiles | PairList
    coincident: np.ndarray


class MeshSum:
    """Periodic sums between fixed points: near pairs, and a mesh for all that is smooth.

    Parameters
    ----------
    targets, sources : ndarray, shape (n, 3)
        Points, float64; one array where they are the same.
    cell : Cell
        What repeats.
    setting : Setting
        How the sum is split.
    kernel : Kernel
        1/r from some distance on.
    unit : float
        The length whose logarithm is zero, with one periodic direction.
    """

    def __init__(
        self,
        targets: np.ndarray,
        sources: np.ndarray,
        cell: Cell,
        setting: Setting,
        kernel: Kernel,
        unit: float = 1.0,
    ) -> None:
        self.cell, self.setting, self.kernel, self.unit = cell, setting, kernel, unit
        same = sources is targets
        self.coincidence = coincidence_of(targets, sources, cell)
        self.targets = cell.wrapped(targets)
        self.sources = self.targets if same else cell.wrapped(sources)
        spread = cell.extents(self.targets, self.sources)
        self.cut = float(np.linalg.norm(spread)) + setting.radius
        lengths = np.ones(3)
        lengths[cell.n_periodic :] = spread + self.cut + setting.radius
        self.box = cell.vectors * lengths[:, None]
        self.inverse = np.linalg.inv(self.box)
        self.shape = setting.shape(self.box)

    # --- near -------------------------------------------------------------------------------------

    @cached_property
    def near(self) -> Near:
        """The near images and the tiles of pairs."""
        radius = self.setting.near
        images = search.images_within(self.sources, self.cell, radius)
        points = images.points
        coincident = self._coincident()
        own = self.sources is self.targets and len(coincident) == len(self.targets)
        if len(coincident) and not own:
            # points at one place but for rounding: only a list of pairs leaves them out
            found = search.pairs_within(self.targets, points, radius, self.coincidence)
            pairs = PairList.of_rows(found.starts, found.images, len(points))
            given, others = blocks.unsorted(self.targets), blocks.unsorted(points)
            return Near(given, others, images.origin, pairs, coincident)
        raster = blocks.raster_of(points, radius)
        sources = blocks.columns_of(images.points, raster)
        targets = blocks.columns_of(self.targets, raster)
        tiles = blocks.tiles_within(targets, sources, raster, radius)
        return Near(targets, sources, images.origin[sources.order], tiles, coincident)

    def _coincident(self) -> np.ndarray:
        """Return pairs (k, 2) of targets and sources with an image at the same place."""
        if self.sources is self.targets and self._all_apart():
            every = np.arange(len(self.targets))
            return np.stack([every, every], axis=1)
        images = search.images_within(self.sources, self.cell, self.coincidence)
        given = self.targets, images.points, self.coincidence, self.coincidence
        pairs = search.pairs_within(*given).coincident
        found: np.ndarray = np.unique(
            np.stack([pairs[:, 0], images.origin[pairs[:, 1]]], axis=1), axis=0
        )
        return found

    def _all_apart(self) -> bool:
        """Tell, if it can be told soon, whether no two points are at one place."""
        if not len(self.targets):
            return True
        # of two points at one place, heights are next to each other, but at faces of the cell
        u = self.targets @ self.cell.inverse[:, : self.cell.n_periodic]
        room = self.coincidence / self.cell.heights
        steps = np.diff(np.sort(self.targets @ _SKEW))
        inside = ((u > room) & (u < 1 - room)).all()
        return bool(inside and (not len(steps) or steps.min() > 2 * self.coincidence))

    @property
    def n_near_pairs(self) -> int:
        """Pairs that are looked at."""
        if isinstance(self.near.pairs, PairList):
            return self.near.pairs.n_pairs
        spans, starts, runs = self.near.pairs
        ends = np.concatenate([[0], np.cumsum(runs[:, 1] - runs[:, 0])])
        return int(((spans[:, 1] - spans[:, 0]) * np.diff(ends[starts])).sum())

    @property
    def near_kernels(self) -> list[tuple[float, Kernel]]:
        """What is summed over near images: kernels and their factors."""
        if self.setting.alpha:
            return []
        split = self.setting.radius, self.setting.band
        if isinstance(self.kernel, Coulomb):
            return [(1.0, Remainder(*split))]
        return [(1.0, self.kernel), (-1.0, SmoothPart(*split))]

    def near_field(self, moments: np.ndarray, order: int) -> np.ndarray:
        """Return the field of the near images."""
        targets = self.near.targets
        moved = np.ascontiguousarray(moments[self.near.origin])
        back = np.empty((len(self.targets), moments.shape[1], indexing.n_components(order)))
        back[targets.order] = self._near_sorted(moved, order)
        return back

    def _near_sorted(self, moved: np.ndarray, order: int) -> np.ndarray:
        """Return the field of moments of the sorted images at the sorted targets."""
        targets, images, _, pairs, _ = self.near
        total = np.zeros((len(targets.points), moved.shape[1], indexing.n_components(order)))
        for factor, kernel in self.near_kernels:
            if isinstance(pairs, PairList):
                listed = targets.points, images.points, moved, order, kernel, pairs
                total += factor * field_arrays(*listed)
                continue
            out = np.zeros_like(total)
            # beyond them both are 1/r
            is_ours = isinstance(kernel, Remainder | SmoothPart)
            reach = self.setting.radius if is_ours else self.setting.reach
            given = targets.points, images.points, moved, order, pairs, out
            field_of_tiles(*given, kernel=kernel, reach=reach)
            total += factor * out
        return total

    # --- mesh -------------------------------------------------------------------------------------

    @cached_property
    def limits(self) -> transforms.Limits:
        """Greatest numbers of the waves that are summed, along each axis."""
        edges = np.linalg.norm(self.box, axis=1)
        a, b, c = (int(number) for number in self.setting.longest * edges / (2 * np.pi))
        return a, b, c

    def numbers_of(self, which: np.ndarray) -> np.ndarray:
        """Return the whole numbers of some waves, (m, 3)."""
        chosen: np.ndarray = self._grid_of_numbers()[which]
        return chosen

    def _grid_of_numbers(self) -> np.ndarray:
        return np.stack(np.meshgrid(*transforms.numbers(self.limits), indexing="ij"), axis=-1)

    def waves(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the waves that are summed: which, their vectors, and lengths over the highest."""
        k = self._grid_of_numbers() @ (2 * np.pi * self.inverse.T)
        share = np.linalg.norm(k, axis=-1) / self.setting.longest
        inside = share < 1
        return inside, k[inside], share[inside]

    def through(self, inside: np.ndarray) -> np.ndarray:
        """Return the window's own transform at the waves that are summed."""
        setting = self.setting
        a, b, c = (
            window.spectrum(number, n, setting.points, setting.window_band)
            for number, n in zip(transforms.numbers(self.limits), self.shape, strict=True)
        )
        through: np.ndarray = (a[:, None, None] * b[:, None] * c)[inside]
        return through

    def _weights(self, k: np.ndarray, share: np.ndarray) -> np.ndarray:
        """Return the transform of the smooth part, over the volume of the box, at waves."""
        found = transform(k, self.cell, self.cut, self.unit)
        volume = abs(float(np.linalg.det(self.box)))
        weights: np.ndarray = found * self.setting.profile(share) / volume
        return weights

    @cached_property
    def influence(self) -> np.ndarray:
        """What the waves of the grid are multiplied by."""
        inside, k, share = self.waves()
        values = np.zeros(inside.shape)
        # the transform back divides by the number of grid points
        values[inside] = self._weights(k, share) / self.through(inside) ** 2 * np.prod(self.shape)
        return values

    def keep_influence(self, before: "MeshSum") -> None:
        """Take over what depends on cell and grid only, if they are those of another sum."""
        same = self.setting == before.setting and self.unit == before.unit
        same = same and self.cut == before.cut and np.array_equal(self.box, before.box)
        if same and "influence" in before.__dict__:
            self.__dict__["influence"] = before.influence

    def _places(self, points: np.ndarray) -> np.ndarray:
        u = points @ self.inverse
        return (u - np.floor(u)) * np.array(self.shape)

    @cached_property
    def _order_of_sources(self) -> np.ndarray:
        """Sources by place: what follows each other goes to the same part of the grid."""
        if self.sources is self.targets:
            return self.near.targets.order
        x, y, _ = (self._places(self.sources).T // 4).astype(np.int64)
        return np.argsort(x * self.shape[1] + y, kind="stable")

    def spectrum(self, moments: np.ndarray) -> np.ndarray:
        """Return the waves of the grid of moments, see `transforms.to_waves`."""
        order_of = self._order_of_sources
        return self.spectrum_of(self.sources[order_of], moments[order_of])

    def spectrum_of(self, points: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """Return the waves of the grid of moments at any points."""
        order = indexing.order_of(moments.shape[2])
        to_grid = self.inverse * np.array(self.shape, dtype=np.float64)
        given = np.ascontiguousarray(waves.fractional_moments(moments, to_grid))
        table = self.setting.table(order)
        values = grid.spread(self._places(points), given, self.shape, table)
        return transforms.to_waves(values, self.limits)

    def smooth_field(self, spectrum: np.ndarray, order: int) -> np.ndarray:
        """Return the smooth part of the field, from the spectrum of the moments."""
        targets = self.near.targets
        phi = self.smooth_field_at(targets.points, spectrum, order)
        back = np.empty_like(phi)
        back[targets.order] = phi
        return back

    def smooth_field_at(self, points: np.ndarray, spectrum: np.ndarray, order: int) -> np.ndarray:
        """Return the smooth part of the field at any points, without the background's."""
        given, table = spectrum * self.influence, self.setting.table(order)
        potential = transforms.from_waves(given, self.shape, self.limits, table.shape[2])
        phi = np.empty((len(points), len(spectrum), indexing.n_components(order)))
        grid.interpolate(self._places(points), potential, order, table, phi)
        to_grid = self.inverse * np.array(self.shape, dtype=np.float64)
        return waves.cartesian_field(phi, to_grid)

    # --- both -------------------------------------------------------------------------------------

    def field(self, moments: np.ndarray, order: int, seconds: dict[str, float]) -> np.ndarray:
        """Return the field of moments (n_sources, channels, components) of all images."""
        seconds.clear()
        with timed(seconds, "near pairs"):
            out = self.near_field(moments, order)
        with timed(seconds, "moments to waves"):
            spectrum = self.spectrum(moments)
        with timed(seconds, "waves to field"):
            out += self.smooth_field(spectrum, order)
        with timed(seconds, "own field"):
            self._add_own_field(moments, order, out)
            out[:, :, 0] += self.background(moments)
        return out

    def strain(self, moments: np.ndarray) -> np.ndarray:
        """Return the energy's derivative by a strain along what repeats, see `lattice.strain`."""
        order = indexing.order_of(moments.shape[2])
        spectrum = self.spectrum(moments)
        inside, k, share = self.waves()
        power = (np.abs(spectrum) ** 2).sum(axis=0)[inside] / self.through(inside) ** 2
        # waves of -m are not stored, but for m = 0
        power *= np.where(np.nonzero(inside)[2] > 0, 1.0, 0.5)
        volume = abs(float(np.linalg.det(self.box)))
        setting = self.setting
        change = slope(k, self.cell, self.cut) * setting.profile(share)
        # the derivative by |k| over |k|, at waves of length zero that of a profile that is flat
        steep = setting.profile_slope(share) / setting.longest**2
        change = change + transform(k, self.cell, self.cut, self.unit) * steep
        along = of_waves(k, power, self._weights(k, share), change / volume)
        along -= strained(moments, self.smooth_field(spectrum, order)).sum(axis=0)
        background = 0.5 * float(moments[:, :, 0].sum(axis=0) @ self.background(moments))
        return along - background * np.eye(3) + 0.5 * self._near_strain(moments)

    def _near_strain(self, moments: np.ndarray) -> np.ndarray:
        """Return what near pairs add."""
        targets, images, origin, _, _ = self.near
        weights = moments[targets.order]
        given = targets.points, images.points, weights, moments[origin]
        return strain_of_pairs(*given, self._near_sorted).sum(axis=0)

    def background(self, moments: np.ndarray) -> np.ndarray:
        """Return the potential (channels,) of the background that makes a cell neutral."""
        charges: np.ndarray = moments[:, :, 0].sum(axis=0)
        if self.cell.n_periodic < 3:
            return np.zeros_like(charges)
        return -self.setting.lacks / self.cell.volume * charges

    def _add_own_field(self, moments: np.ndarray, order: int, out: np.ndarray) -> None:
        """Take off the smooth field of sources at targets where they are."""
        coincident = self.near.coincident
        if not len(coincident):
            return
        source_order = indexing.order_of(moments.shape[2])
        tensor = self.setting.at_zero(source_order + order)
        found = moments[coincident[:, 1]] @ own_matrix(tensor, source_order, order)
        targets = coincident[:, 0]
        if len(targets) == len(out) and np.array_equal(targets, np.arange(len(out))):
            out -= found
        else:
            np.subtract.at(out, targets, found)


@contextmanager
def timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Add the time spent inside to a step."""
    start = perf_counter()
    yield
    seconds[step] = seconds.get(step, 0.0) + perf_counter() - start
