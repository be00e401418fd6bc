"""Draw targets at which a field is to be compared: evenly, and where errors are expected."""

from typing import NamedTuple

import numpy as np

from fmm.error import indicators
from fmm.error.indicators import Boxed, Where
from multipoles.compiled.jit import bare, bare_inline

_INVERSE_SQUARE = 1.0 / indicators.TYPICAL**2
_FLOOR, _CEILING = indicators.LEAST, indicators.MOST


class Drawn(NamedTuple):
    """Targets that stand for all."""

    samples: np.ndarray
    """Their indices in tree order, not sorted; one may come more than once."""
    shares: np.ndarray
    """What a target's square error counts in the mean over all: the inverse of its chance."""
    even: np.ndarray
    """Whether it was drawn evenly."""


def draw(
    geometry: Boxed, where: Where | None, first: int, last: int, size: int, seed: int
) -> Drawn:
    """Return some of the targets first ... last - 1; all, if they are few.

    Parameters
    ----------
    geometry : Boxed
        Points and tree.
    where : Where or None
        Where errors are expected: half of the targets are drawn by it.
    first, last : int
        Range in tree order, of whole leaves.
    size : int
        How many.
    seed : int
        Of the random numbers.
    """
    n = last - first
    if n <= size:
        every = np.arange(first, last)
        return Drawn(every, np.full(n, 1.0 / max(n, 1)), np.ones(n, bool))
    rng, half = np.random.default_rng(seed), size // 2
    even = evenly(first, n, size - half, rng)
    by_indicator = where and _by_indicator(geometry, where, first, last, half, rng, even)
    if by_indicator is None:
        samples = np.concatenate([even, evenly(first, n, half, rng)])
        return Drawn(samples, np.full(size, 1.0 / size), np.ones(size, bool))
    chosen, densities = by_indicator
    # the inverse probability under the mixture of both ways to draw, relative to even drawing
    shares = 2.0 / (size * (1.0 + densities * n))
    return Drawn(np.concatenate([even, chosen]), shares, np.arange(size) < len(even))


def evenly(first: int, n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return one index in each of equal parts of a range."""
    inside = (np.arange(size) + rng.random(size)) * (n / size)
    return first + np.minimum(inside.astype(np.int64), n - 1)


def _by_indicator(
    geometry: Boxed,
    where: Where,
    first: int,
    last: int,
    size: int,
    rng: np.random.Generator,
    others: np.ndarray,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return targets drawn by where errors are expected, and the densities at others and there.

    None if no target is likelier than another.
    """
    tree, targets = geometry.tree, geometry.targets
    if not len(where.leaves):
        return None
    ranges = tree.target_range[where.leaves]
    inside = (ranges[:, 0] >= first) & (ranges[:, 1] <= last)
    leaves, ranges, errors = where.leaves[inside], ranges[inside], where.errors[inside]
    ends = np.cumsum(errors * (ranges[:, 1] - ranges[:, 0]))
    if not len(ends) or not 0 < ends[-1] < np.inf:
        return None
    marks = (np.arange(size) + rng.random(size)) * (ends[-1] / size)
    rows = np.minimum(np.searchsorted(ends, marks, side="right"), len(ends) - 1)
    weights = np.diff(ends, prepend=0.0) / ends[-1]
    chosen, densities = np.empty(size, np.int64), np.empty(size + len(others))
    shape = float(min(where.degree, indicators.STEEPEST))
    args = targets, tree.centre[leaves], tree.edge[leaves], ranges, weights, shape
    pick(rows, rng.random(size), *args, chosen)
    theirs = np.searchsorted(ranges[:, 1], others, side="right")
    densities_of(np.concatenate([theirs, rows]), np.concatenate([others, chosen]), *args, densities)
    return chosen, densities


# --- loops ----------------------------------------------------------------------------------------


@bare
def pick(rows, marks, targets, centre, edge, ranges, weights, shape, chosen):
    """Draw a target in each leaf of a list, likelier towards its corners."""
    for draw in range(rows.shape[0]):
        row = rows[draw]
        first, last = ranges[row, 0], ranges[row, 1]
        left = marks[draw] * _leaf_sum(targets, centre, edge, row, first, last, shape)
        target = first
        while target < last - 1:
            left -= _steepness(targets, centre, edge, row, target, shape)
            if left < 0:
                break
            target += 1
        chosen[draw] = target


@bare
def densities_of(rows, samples, targets, centre, edge, ranges, weights, shape, out):
    """Write the probability of each of some targets to be drawn."""
    for i in range(rows.shape[0]):
        row = rows[i]
        whole = _leaf_sum(targets, centre, edge, row, ranges[row, 0], ranges[row, 1], shape)
        out[i] = weights[row] * _steepness(targets, centre, edge, row, samples[i], shape) / whole


@bare_inline
def _leaf_sum(targets, centre, edge, row, first, last, shape):
    total = 0.0
    for target in range(first, last):
        total += _steepness(targets, centre, edge, row, target, shape)
    return total


@bare_inline
def _steepness(targets, centre, edge, row, target, shape):
    square = 0.0
    for axis in range(3):
        x = (targets[target, axis] - centre[row, axis]) / edge[row]
        square += x * x
    square *= _INVERSE_SQUARE
    return min(max(square**shape, _FLOOR), _CEILING)
