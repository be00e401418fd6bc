"""Sums over points and moments whose powers or squares leave the range of the caller's numbers.

All is summed in float64, in units in which the extent of the points and the strongest moment are
about one. Targets whose sums are not right in one unit, since a source is too close or moments are
of too different a size, get theirs by classes of pairs: each class holds pairs of about one
separation and sources of about one strength, and has units of its own.
"""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from multipoles import indexing, scaling
from multipoles.neighbours import Neighbours, PairList, Slots
from multipoles.radial import Kernel
from multipoles.sums import energy_forces_arrays, field_arrays

# the widest range of binary exponents in one sum in float64: of chains, of moments, and of
# distances, which kernels multiply with powers of lengths of their own
_CHAIN_SPREAD, _MOMENT_SPREAD, _LENGTH_SPREAD = 800, 300, 200
# so many pairs are sorted into classes at a time
_PAIRS = 2**20


def field(
    x: np.ndarray,
    s: np.ndarray,
    moments: np.ndarray,
    order: int,
    kernel: Kernel,
    neighbours: Neighbours,
    direct: np.ndarray | None = None,
) -> np.ndarray:
    """Return the field like `field_arrays`, in its dtype, whatever the range of the numbers.

    Parameters
    ----------
    x, s, moments, order, kernel, neighbours
        See `field_arrays`.
    direct : ndarray, optional
        Result of `field_arrays` whose finite rows are right; None for no result.

    Warns
    -----
    RuntimeWarning
        If values of the result are beyond the dtype.
    """
    x64, s64, values = (a.astype(np.float64, copy=False) for a in (x, s, moments))
    given = _Sum(x64, s64, values, order, kernel, neighbours)
    bad = np.arange(len(x)) if direct is None else np.flatnonzero(_unfinished(direct))
    if direct is not None and 8 * len(bad) <= len(x):
        out, parts = direct.astype(np.float64), _by_classes(given, bad)
        out[bad] = 0.0
    else:
        out = np.zeros((len(x), moments.shape[1], indexing.n_components(order)))
        parts = _parts(given)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for rows, channels, phi, length, moment in parts:
            out[rows, channels] += scaling.unscale_field(phi, length, moment)
    return _narrow(out, x.dtype, "field")


class _Sum(NamedTuple):
    """What is to be summed, in float64; `less` holds pairs whose weight is to be added to one."""

    x: np.ndarray
    s: np.ndarray
    moments: np.ndarray
    order: int
    kernel: Kernel
    neighbours: Neighbours
    less: PairList | None = None


# targets, channels, their field in scaled units, and the exponents of length and moment
_Part = tuple[np.ndarray, slice, np.ndarray, int, int]
# energy, forces, gradients by the moments
_Terms = tuple[float, np.ndarray, np.ndarray]


def _unfinished(phi: np.ndarray) -> np.ndarray:
    """Return which targets have a value that is no finite number."""
    return ~np.isfinite(phi).all(axis=(1, 2))


def _parts(given: _Sum) -> Iterator[_Part]:
    """Yield the terms of a sum: most targets in one unit, the rest by classes of pairs."""
    x, s, moments, order, kernel, neighbours, less = given
    length, moment, uneven = _units(x, s, moments)
    if moment is None:
        return
    bad = np.full(len(x), uneven)
    if not uneven:
        points = scaling.scale_points(x, length)
        origins = points if s is x else scaling.scale_points(s, length)
        values = scaling.scale_moments(moments, length, moment)
        scaled = kernel.scaled(2.0**length)
        phi = field_arrays(points, origins, values, order, scaled, neighbours)
        if less is not None:
            phi += field_arrays(points, origins, values, order, scaled, less)
        bad = scaling.close_targets(x, s, length) | _unfinished(phi)
        yield np.flatnonzero(~bad), slice(None), phi[~bad], length, moment
    yield from _by_classes(given, np.flatnonzero(bad))


def _units(x: np.ndarray, s: np.ndarray, moments: np.ndarray) -> tuple[int, int | None, bool]:
    """Return exponents that bring lengths and moments to one, and whether moments are too uneven.

    There is no exponent for moments that are all zero.
    """
    length = scaling.length_exponent(x, s)
    # every component counts: the weakest may be the strongest of a source that is close
    strengths = scaling.strengths(moments, length)[moments != 0]
    if not strengths.size:
        return length, None, False
    greatest = int(strengths.max())
    return length, -greatest, greatest - int(strengths.min()) > _MOMENT_SPREAD


def _by_classes(given: _Sum, rows: np.ndarray) -> Iterator[_Part]:
    """Yield the terms of a sum at some targets, class by class of pairs."""
    x, s, moments, order, kernel, neighbours, less = given
    top = order + indexing.order_of(moments.shape[2])
    width = max(2, min(_LENGTH_SPREAD, int(_CHAIN_SPREAD / (2 * top + kernel.power))))
    step = len(rows) if isinstance(neighbours, PairList) else _PAIRS // max(len(s), 1)
    for first in range(0, len(rows), max(step, 1)):
        part = rows[first : first + max(step, 1)]
        pairs, weights = _pairs_of(part, len(s), neighbours, less)
        for those, length in _separations(x[part], s, pairs, width):
            points, origins = (scaling.scale_points(p, length) for p in (x[part], s))
            scaled = kernel.scaled(2.0**length)
            for channel, chosen, moment in _bands(moments, length, pairs, those):
                channels = slice(channel, channel + 1)
                values = scaling.scale_moments(moments[:, channels], length, moment)
                listed = PairList(pairs[chosen], len(part), len(s), weights[chosen])
                phi = field_arrays(points, origins, values, order, scaled, listed)
                yield part, channels, phi, length, moment


def _pairs_of(
    rows: np.ndarray, n_sources: int, neighbours: Neighbours, less: PairList | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of some targets, which are counted from zero, and their weights."""
    if isinstance(neighbours, PairList):
        return _rows_of(neighbours, rows)
    weights = np.ones((len(rows), n_sources))
    if neighbours.target_batch is not None and neighbours.source_batch is not None:
        weights[neighbours.target_batch[rows, None] != neighbours.source_batch] = 0.0
    if less is not None:
        pairs, each = _rows_of(less, rows)
        np.add.at(weights, tuple(pairs.T), each)
    pairs = np.argwhere(weights)
    return pairs, weights[tuple(pairs.T)]


def _rows_of(listed: PairList, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of a list whose targets are among `rows`, and their weights."""
    index = np.full(listed.n_targets, -1)
    index[rows] = np.arange(len(rows))
    target = index[listed.pairs[:, 0]]
    meets = target >= 0
    weights = np.ones(listed.n_pairs) if listed.weights is None else listed.weights
    return np.stack([target[meets], listed.pairs[meets, 1]], axis=1), weights[meets]


def _separations(
    x: np.ndarray, s: np.ndarray, pairs: np.ndarray, width: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield indices of pairs of about one separation, and the exponent that makes it one."""
    gaps = np.abs(x[pairs[:, 0]] - s[pairs[:, 1]]).max(axis=1, initial=0.0)
    classes = np.frexp(np.minimum(gaps, np.finfo(gaps.dtype).max))[1] // width
    for one in np.unique(classes[gaps > 0]):
        length = -(int(one) * width + width // 2)
        # powers of two beyond 2^1023 are no numbers
        length = min(max(length, scaling.LEAST), scaling.GREATEST)
        yield np.flatnonzero((gaps > 0) & (classes == one)), length


def _bands(
    moments: np.ndarray, length: int, pairs: np.ndarray, those: np.ndarray
) -> Iterator[tuple[int, np.ndarray, int]]:
    """Yield channel, indices of its pairs with sources of about one strength, and the exponent."""
    bands = scaling.strengths(moments, length).max(axis=-1) // _MOMENT_SPREAD
    alive = (moments != 0).any(axis=-1)
    for channel in range(moments.shape[1]):
        left = those[alive[pairs[those, 1], channel]]
        band_of = bands[pairs[left, 1], channel]
        for band in np.unique(band_of):
            yield channel, left[band_of == band], -int(band + 1) * _MOMENT_SPREAD


def energy(
    x: np.ndarray,
    moments: np.ndarray,
    kernel: Kernel,
    neighbours: Slots,
    scaled: PairList | None,
) -> float:
    """Return the energy alone; see `energy_forces`."""
    total = _energy_forces(x, moments, kernel, neighbours, scaled, extra=0)[0]
    return float(_narrow(np.array(total), np.dtype(np.float64), "energy"))


def energy_forces(
    x: np.ndarray,
    moments: np.ndarray,
    kernel: Kernel,
    neighbours: Slots,
    scaled: PairList | None,
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return what `energy_forces_arrays` does, whatever the range of the numbers.

    Warns
    -----
    RuntimeWarning
        If values of the result are beyond the dtype.
    """
    total, forces, gradients = _energy_forces(x, moments, kernel, neighbours, scaled, extra=1)
    return (
        float(_narrow(np.array(total), np.dtype(np.float64), "energy")),
        _narrow(forces, x.dtype, "forces"),
        _narrow(gradients, x.dtype, "moment_gradients"),
    )


def _energy_forces(
    x: np.ndarray,
    moments: np.ndarray,
    kernel: Kernel,
    neighbours: Slots,
    scaled: PairList | None,
    extra: int,
) -> _Terms:
    """Return energy, forces and gradients in float64; without `extra` order, no forces."""
    x, moments = (a.astype(np.float64, copy=False) for a in (x, moments))
    order = indexing.order_of(moments.shape[2])
    in_one_unit = _in_one_unit(x, moments, kernel, neighbours, scaled) if extra else None
    if in_one_unit is not None:
        return in_one_unit
    less = None if scaled is None else scaled.less_one()
    given = _Sum(x, x, moments, order + extra, kernel, neighbours, less)
    total, forces, gradients = 0.0, np.zeros_like(x), np.zeros_like(moments)
    raised = indexing.sum_index(order, 1)[:, 1:]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for rows, channels, phi, length, moment in _parts(given):
            own = phi[..., : moments.shape[2]]
            gradients[rows, channels] += scaling.unscale_field(own, length, moment)
            # products of scaled moments and scaled fields: either alone may be no number
            lift = -scaling.strengths(moments[rows, channels], length).max(axis=-1)
            exponents = lift[..., None] + length * indexing.orders(order)
            values = np.ldexp(moments[rows, channels], exponents)
            back = length - moment - lift
            total += 0.5 * float(np.ldexp((values * own).sum(axis=-1), back).sum())
            if extra:
                steep = np.einsum("nck,ncka->nca", values, phi[..., raised])
                forces[rows] -= np.ldexp(steep, (back + length)[..., None]).sum(axis=1)
    return total, forces, gradients


def _in_one_unit(
    x: np.ndarray,
    moments: np.ndarray,
    kernel: Kernel,
    neighbours: Slots,
    scaled: PairList | None,
) -> _Terms | None:
    """Return energy, forces and gradients summed in one unit, or None where that is not right."""
    length, moment, uneven = _units(x, x, moments)
    if moment is None:
        return 0.0, np.zeros_like(x), np.zeros_like(moments)
    if uneven:
        return None
    if scaling.close_targets(x, x, length).any():
        return None
    total, forces, gradients = energy_forces_arrays(
        scaling.scale_points(x, length),
        scaling.scale_moments(moments, length, moment),
        kernel.scaled(2.0**length),
        neighbours,
        scaled,
    )
    if not all(np.isfinite(part).all() for part in (total, forces, gradients)):
        return None
    with np.errstate(over="ignore", under="ignore"):
        return (
            float(np.ldexp(total, length - 2 * moment)),
            np.ldexp(forces, 2 * (length - moment)),
            scaling.unscale_field(gradients, length, moment),
        )


def _narrow(values: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """Return values in the caller's dtype, and warn of those that it cannot hold."""
    with np.errstate(over="ignore", under="ignore"):
        out = values.astype(dtype, copy=False)
    bad = np.argwhere(~np.isfinite(out))
    if len(bad):
        first = ", ".join(map(str, bad[0]))
        warnings.warn(
            f"{name}: {len(bad)} of {out.size} values, the first at [{first}], or terms of their "
            f"sums are beyond the greatest number of {dtype}, {np.finfo(dtype).max:.3g}; use "
            "another unit",
            RuntimeWarning,
            stacklevel=4,
        )
    return out
