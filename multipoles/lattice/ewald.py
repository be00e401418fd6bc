"""Ewald sums of multipoles: near images one by one, all others as waves.

    1/r = erfc(eta r)/r + erf(eta r)/r

The first part decays and is summed over images within a radius; the second is smooth, and a few
waves are enough. The wave k = 0 is left out where three directions repeat: what is far surrounds
the crystal as a conductor would, and a uniform background makes a charged cell neutral. Kernels
that are Coulomb's from some distance on have another near part, those that decay no waves.

Everything here is in float64 and in units in which neighbours are about one apart.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from multipoles import indexing
from multipoles.lattice import search, waves
from multipoles.lattice.cell import Cell
from multipoles.lattice.own import even_tensor, own_matrix
from multipoles.lattice.rows import by_system, sums_of_systems
from multipoles.lattice.split import Split, split_for
from multipoles.lattice.strain import of_waves, strained
from multipoles.lattice.transform import slope, transform
from multipoles.neighbours import PairList
from multipoles.radial import Coulomb, Erf, Erfc, Kernel
from multipoles.sums import field_arrays

# points closer than so many roundings of a coordinate are one
_ROUNDINGS = 16 * np.finfo(np.float64).eps


class Near(NamedTuple):
    """Images of sources, and who is near whom."""

    images: search.Images
    pairs: PairList
    coincident: np.ndarray


class Ewald:
    """Periodic sums between fixed points, for moments and orders up to the given ones.

    One system, or a batch that is split in one way: points of all systems stand one after another.

    Parameters
    ----------
    targets, sources : ndarray, shape (n, 3)
        Points, float64; one array where they are the same.
    cell : Cell
        What repeats, of one system or of all; of several, in three directions.
    kernel : Kernel
        Radial kernel: Coulomb's from some distance on, or one that decays.
    tolerance : float
        Relative error that is aimed at.
    source_order, order : int
        Of moments and field.
    unit : float
        The length whose logarithm is zero, with one periodic direction.
    ends : tuple of two ndarrays of int, shape (n_systems + 1,), optional
        First target and first source of each system, all of which have both.
    split : Split, optional
        How to split, if it is known.

    Raises
    ------
    ValueError
        If what is to be summed does not fit into memory.
    """

    def __init__(
        self,
        targets: np.ndarray,
        sources: np.ndarray,
        cell: Cell,
        kernel: Kernel,
        tolerance: float,
        source_order: int,
        order: int,
        unit: float = 1.0,
        ends: tuple[np.ndarray, np.ndarray] | None = None,
        split: Split | None = None,
    ) -> None:
        self.cell, self.kernel, self.unit = cell.batch(), kernel, unit
        self._asked = tolerance, source_order, order
        if ends is None:
            ends = np.array([0, len(targets)]), np.array([0, len(sources)])
        self.ends = ends
        same = sources is targets
        self.coincidence = coincidence_of(targets, sources, cell, ends)
        self.targets = self.cell.wrapped(targets, ends[0])
        self.sources = self.targets if same else self.cell.wrapped(sources, ends[1])
        counts = np.diff(ends[0]), np.diff(ends[1])
        spread = self.cell[0].extents(self.targets, self.sources)
        given = counts, spread, self.cell, kernel, tolerance, source_order, order
        self.split: Split = split_for(*given) if split is None else split

    @cached_property
    def transposed(self) -> "Ewald":
        """The adjoint map: targets and sources exchanged."""
        if self.sources is self.targets:
            return self
        tolerance, source_order, order = self._asked
        other = Ewald(
            self.sources, self.targets, self.cell, self.kernel, tolerance, order, source_order,
            self.unit, self.ends[::-1], self.split,
        )  # fmt: skip
        other.__dict__["transposed"] = self
        return other

    # --- near -------------------------------------------------------------------------------------

    @cached_property
    def near(self) -> Near:
        """Images within the radius, and pairs of them and targets."""
        radius, x = self.split.radius, self.targets
        images = search.images_within(self.sources, self.cell, radius, self.ends[1])
        given = x, images.points, radius, self.coincidence, (self.ends[0], images.ends)
        found = search.pairs_within(*given)
        pairs = PairList.of_rows(found.starts, found.images, len(images.points))
        return Near(images, pairs, found.coincident)

    @property
    def near_kernels(self) -> list[tuple[float, Kernel]]:
        """What is summed over near images: kernels and their factors."""
        if self.split.eta == 0:
            return [(1.0, self.kernel)]
        if isinstance(self.kernel, Coulomb):
            return [(1.0, Erfc(self.split.eta))]
        if isinstance(self.kernel, Erf) and self.kernel.alpha == self.split.eta:
            return []
        return [(1.0, self.kernel), (-1.0, Erf(self.split.eta))]

    def near_field(self, moments: np.ndarray, order: int) -> np.ndarray:
        """Return the field of the near images (n_targets, channels, n_components(order))."""
        return self._field_of_images(moments[self.near.images.origin], order)

    def _field_of_images(self, moved: np.ndarray, order: int) -> np.ndarray:
        images, pairs, _ = self.near
        moved = np.ascontiguousarray(moved)
        out = np.zeros((len(self.targets), moved.shape[1], indexing.n_components(order)))
        for factor, kernel in self.near_kernels:
            given = self.targets, images.points, moved, order, kernel, pairs
            out += factor * field_arrays(*given)
        return out

    def near_strain(self, weights: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """Return what targets add to the strain of `weights` times the near field, (n, 3, 3)."""
        images = self.near.images
        given = self.targets, images.points, weights, moments[images.origin]
        return strain_of_pairs(*given, self._field_of_images)

    # --- far --------------------------------------------------------------------------------------

    @cached_property
    def inverse(self) -> np.ndarray:
        """Matrices that take points to fractional coordinates of the boxes of the waves."""
        boxes = self.cell.vectors.copy()
        boxes[:, self.cell.n_periodic :] *= self.split.lengths[:, None]
        inverse: np.ndarray = np.linalg.inv(boxes)
        return inverse

    @cached_property
    def waves(self) -> waves.Waves:
        """The waves of all systems."""
        return waves.Waves(self.split.limits, self.inverse, self.split.longest)

    @cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Fractional coordinates of targets and sources."""
        u = by_system(self.targets, self.inverse, self.ends[0])
        if self.sources is self.targets:
            return u, u
        return u, by_system(self.sources, self.inverse, self.ends[1])

    @cached_property
    def decay(self) -> np.ndarray:
        """What smooths each wave, over the volume of its box; twice where -m is not there."""
        volumes = self.cell.volume * float(np.prod(self.split.lengths))
        k2 = np.einsum("wa,wa->w", self.waves.vectors, self.waves.vectors)
        decay: np.ndarray = np.exp(k2 / (-4 * self.split.eta**2))
        decay *= np.repeat(2 / volumes, np.diff(self.waves.ends))
        decay[k2 == 0] *= 0.5
        return decay

    @cached_property
    def weights(self) -> np.ndarray:
        """What structure factors are multiplied by."""
        given = self.waves.vectors, self.cell[0], self.split.cut, self.unit
        found: np.ndarray = transform(*given) * self.decay
        return found

    def far_field(self, factors: np.ndarray, order: int) -> np.ndarray:
        """Return the smooth part of the field, from structure factors of the sources."""
        coefficients = factors * self.weights
        phi = self.waves.synthesis(self.places[0], coefficients, order, self.ends[0])
        return waves.cartesian_field(phi, self.inverse, self.ends[0])

    def background(self, moments: np.ndarray) -> np.ndarray:
        """Return the potentials of the backgrounds of charged cells, (n_systems, channels)."""
        charges = sums_of_systems(moments[:, :, 0], self.ends[1])
        if self.cell.n_periodic < 3:
            return np.zeros_like(charges)
        return -np.pi / (self.split.eta**2 * self.cell.volume)[:, None] * charges

    def strain(self, moments: np.ndarray, factors: np.ndarray | None) -> np.ndarray:
        """Return the energies' derivatives by a strain along what repeats, see `strain.virial`."""
        along = 0.5 * self.near_strain(moments, moments)
        if factors is None:
            return sums_of_systems(along, self.ends[0])
        smooth = self.far_field(factors, indexing.order_of(moments.shape[2]))
        along = sums_of_systems(along - strained(moments, smooth), self.ends[0])
        charges = sums_of_systems(moments[:, :, 0], self.ends[1])
        background = 0.5 * (charges * self.background(moments)).sum(axis=1)
        k, split = self.waves.vectors, self.split
        change = slope(k, self.cell[0], split.cut) * self.decay - self.weights / (2 * split.eta**2)
        # of the energy, half the sum over all waves
        power = 0.5 * (np.abs(factors) ** 2).sum(axis=0)
        for system, own in enumerate(map(slice, self.waves.ends[:-1], self.waves.ends[1:])):
            along[system] += of_waves(k[own], power[own], self.weights[own], change[own])
        return along - background[:, None, None] * np.eye(3)

    # --- both -------------------------------------------------------------------------------------

    def factors_of(self, moments: np.ndarray) -> np.ndarray | None:
        """Return the structure factors of moments of the sources, None where there are no waves."""
        if self.split.eta == 0:
            return None
        fractional = waves.fractional_moments(moments, self.inverse, self.ends[1])
        return self.waves.structure_factors(self.places[1], fractional, self.ends[1])

    def field(self, moments: np.ndarray, factors: np.ndarray | None, order: int) -> np.ndarray:
        """Return the field of moments (n_sources, channels, components) of all images.

        Parameters
        ----------
        moments : ndarray
            Of the sources.
        factors : ndarray or None
            Their structure factors.
        order : int
            Highest derivative.

        Returns
        -------
        ndarray, shape (n_targets, channels, n_components(order))
        """
        out = self.near_field(moments, order)
        if factors is not None:
            out += self.far_field(factors, order)
            out += self.own_field(moments, order)
            out[:, :, 0] += np.repeat(self.background(moments), np.diff(self.ends[0]), axis=0)
        return out

    def own_field(self, moments: np.ndarray, order: int) -> np.ndarray:
        """Return what the waves have too much: the smooth field of a coincident image."""
        images, _, coincident = self.near
        out = np.zeros((len(self.targets), moments.shape[1], indexing.n_components(order)))
        if len(coincident):
            source_order = indexing.order_of(moments.shape[2])
            tensor = erf_at_zero(source_order + order, self.split.eta)
            matrix = own_matrix(tensor, source_order, order)
            found = moments[images.origin[coincident[:, 1]]] @ matrix
            np.subtract.at(out, coincident[:, 0], found)
        return out


def coincidence_of(
    targets: np.ndarray,
    sources: np.ndarray,
    cell: Cell,
    ends: tuple[np.ndarray, np.ndarray] | None = None,
) -> Any:
    """Return the distance within which rounding cannot tell two points apart; of many, of each."""
    if ends is None:
        largest = max((float(np.abs(p).max()) for p in (targets, sources) if p.size), default=0.0)
        return _ROUNDINGS * (largest + float(np.abs(cell.vectors[: cell.n_periodic]).max()))
    sizes = [
        np.maximum.reduceat(np.abs(p).max(axis=1), starts[:-1])
        for p, starts in zip((targets, sources), ends, strict=True)
    ]
    vectors = np.abs(cell.batch().vectors[:, : cell.n_periodic]).max(axis=(1, 2))
    return _ROUNDINGS * (np.maximum(*sizes) + vectors)


def strain_of_pairs(
    targets: np.ndarray,
    sources: np.ndarray,
    weights: np.ndarray,
    moments: np.ndarray,
    field_of: Callable[[np.ndarray, int], np.ndarray],
) -> np.ndarray:
    """Return Σ over pairs of Σ W_β (-1)^|α| M_α ∂^(α+β+e_a) f(r) r_b, of each target (n, 3, 3).

    Each pair adds its force times its vector x - s: the field times x, less the field of moments
    times s.

    Parameters
    ----------
    targets, sources : ndarray, shape (n, 3)
        Points.
    weights, moments : ndarray
        At targets and sources, of one number of channels.
    field_of : callable
        Takes moments at the sources, and an order, to the field at the targets.
    """
    channels, order = moments.shape[1], indexing.order_of(weights.shape[2])
    factors = np.concatenate([np.ones((len(sources), 1)), sources], axis=1)
    stacked = factors[:, :, None, None] * moments[:, None]
    stacked = np.ascontiguousarray(stacked.reshape(len(sources), 4 * channels, -1))
    phi = field_of(stacked, order + 1)
    raised = phi[..., indexing.sum_index(order, 1)[:, 1:]]
    raised = raised.reshape(len(targets), 4, channels, -1, 3)
    moved = targets[:, :, None, None, None] * raised[:, :1] - raised[:, 1:]
    strain: np.ndarray = np.einsum("ick,ibcka->iab", weights, moved)
    return strain


def erf_at_zero(order: int, eta: float) -> np.ndarray:
    """Return the derivatives of erf(eta r)/r at zero, (n_components(order),).

    Those of its series: 2 eta/sqrt(pi) sum_k (-1)^k (eta r)^(2k) / (k! (2k + 1)).
    """
    k = np.arange(order // 2 + 1)
    return even_tensor(2 * eta / np.sqrt(np.pi) * (-(eta**2)) ** k / (2 * k + 1), order)
