"""What a field should have been, and how well that is known.

The judge of most cases is `multipoles.field` in float64, in natural units and from the caller's own
coordinates. Where its rounding could change the verdict, `long_field` sums again in the longest
floats that NumPy has, with formulas of its own for the kernels.
"""

from functools import lru_cache
from math import factorial

import numba
import numpy as np

import multipoles as mp
from multipoles.indexing import (
    n_components,
    order_of,
    order_slice,
    orders,
    recursion_table,
    signs,
    sum_index,
)

LONG = np.longdouble
# of the sum of the sizes of the terms: what rounding makes of a direct sum
ROUNDING = 8
# pairs of charges that a sum in long floats may take, about three seconds
_LONG_PAIRS = 2e7
_CHUNK = 100_000
# and pairs whose terms are measured, at most
_PAIRS = 3e7
# from here on, in units of its width, a Gaussian charge is a point
_FAR = 80.0


def field(problem) -> np.ndarray:
    """Return the field in float64, shape (n_targets, channels, n_components(order))."""
    x, s, moments = (a.astype(np.float64) for a in (problem.at(), problem.sources, problem.moments))
    return mp.field(
        x, s, moments, problem.settings.order, problem.kernel,
        target_batch=problem.target_batch, source_batch=problem.source_batch,
    )  # fmt: skip


def sizes(problem, pairs: float = _PAIRS) -> np.ndarray:
    """Return the sum of the sizes of the terms, root mean square over targets, per order.

    At as many targets as so many pairs allow.
    """
    settings, kernel = problem.settings, problem.kernel
    places = np.arange(len(problem.at()))
    most = max(30, int(pairs / max(1, len(problem.sources) * settings.channels)))
    if len(places) > most:
        places = np.sort(np.random.default_rng(0).choice(places, most, replace=False))
    x, s = problem.at()[places].astype(np.float64), problem.sources.astype(np.float64)
    of = orders(settings.source_order)
    moments = problem.moments.astype(np.float64)
    norms = np.stack(
        [np.linalg.norm(moments[:, :, of == j], axis=2) for j in range(settings.source_order + 1)],
        axis=2,
    )
    derivatives = np.arange(settings.source_order + settings.order + 1.0)
    within = np.zeros(len(derivatives))
    if isinstance(kernel, mp.Softened):
        within += 0.7 * kernel.cutoff
    elif isinstance(kernel, mp.Erf):
        within = (0.9 + 0.16 * derivatives) / kernel.alpha
    factors = _factors(settings.source_order, settings.order)
    out = np.zeros((len(x), moments.shape[1], settings.order + 1))
    for targets, sources in _systems(problem, places):
        out[targets] = _sum_of_sizes(x[targets], s[sources], norms[sources], within**2, factors)
    # per component, as fields are compared
    return np.array(
        [_rms(out[..., k]) / np.sqrt((k + 1) * (k + 2) / 2) for k in range(out.shape[2])]
    )


@numba.njit(fastmath=True, nogil=True)
def _sum_of_sizes(x, s, norms, least, factors):
    """Return the sum of |M_j| |d^(j + k) f| over sources and j; f is finite below `least`."""
    n, channels, n_in = len(x), norms.shape[1], norms.shape[2]
    n_out = factors.shape[1]
    out = np.zeros((n, channels, n_out))
    powers = np.zeros(n_in + n_out)
    for i in range(n):
        for j in range(len(s)):
            square = (x[i, 0] - s[j, 0]) ** 2 + (x[i, 1] - s[j, 1]) ** 2 + (x[i, 2] - s[j, 2]) ** 2
            if square == 0.0:
                continue
            for a in range(n_in + n_out - 1):
                inverse = 1 / np.sqrt(square + least[a])
                powers[a] = inverse
                for _ in range(a):
                    powers[a] *= inverse
            for channel in range(channels):
                for a in range(n_in):
                    for b in range(n_out):
                        out[i, channel, b] += norms[j, channel, a] * factors[a, b] * powers[a + b]
    return out


@lru_cache
def _factors(source_order: int, order: int) -> np.ndarray:
    """Return the size of the matrix of d^(alpha + beta) 1/r at r = 1 for |alpha|, |beta|."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 3))
    x /= np.linalg.norm(x, axis=1)[:, None]
    tensor = _derivatives(x.astype(LONG), source_order + order, mp.Coulomb()).astype(np.float64)
    square = (tensor[sum_index(source_order, order)] ** 2).mean(axis=-1)
    of, to = orders(source_order), orders(order)
    return np.sqrt(
        [
            [square[np.ix_(of == j, to == k)].sum() for k in range(order + 1)]
            for j in range(source_order + 1)
        ]
    )


def long_field(problem, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return places of targets, all or as many as there is time for, and the field there."""
    settings = problem.settings
    top = settings.source_order + settings.order
    terms = n_components(settings.source_order) * n_components(settings.order)
    cost = (sum(n_components(n) for n in range(top + 1)) + settings.channels * terms) / 9
    if isinstance(problem.kernel, mp.Erf):
        cost += 50
    n = len(problem.at())
    size = min(n, max(30, int(_LONG_PAIRS / (cost * max(1, len(problem.sources))))))
    places = np.sort(rng.choice(n, size, replace=False))
    x, s = problem.at().astype(LONG), problem.sources.astype(LONG)
    moments = problem.moments.astype(LONG)
    out = np.zeros((size, settings.channels, n_components(settings.order)), LONG)
    for rows, sources in _systems(problem, places):
        if len(sources) == 0:
            continue
        step = max(1, _CHUNK // len(sources))
        for first in range(0, len(rows), step):
            some = rows[first : first + step]
            out[some] = _sum(
                x[places[some]], s[sources], moments[sources], settings.order, problem.kernel
            )
    return places, out


def _systems(problem, places):
    """Yield, for each system, which of some places of targets it has, and its sources."""
    if problem.source_batch is None:
        yield np.arange(len(places)), np.arange(len(problem.sources))
        return
    for system in np.unique(problem.target_batch[places]):
        yield (
            np.flatnonzero(problem.target_batch[places] == system),
            np.flatnonzero(problem.source_batch == system),
        )


def _sum(x, s, moments, order, kernel) -> np.ndarray:
    """Return the field of all sources at all targets."""
    source_order = order_of(moments.shape[-1])
    shifts = (x[:, None] - s[None]).reshape(-1, 3)
    tensor = _derivatives(shifts, source_order + order, kernel).reshape(-1, len(x), len(s))
    moments = moments * signs(source_order).astype(LONG)
    out = np.zeros((len(x), moments.shape[1], n_components(order)), LONG)
    for beta in range(out.shape[2]):
        for alpha, place in enumerate(sum_index(source_order, order)[:, beta]):
            # no @: it has no pairwise sums for long floats
            for channel in range(out.shape[1]):
                out[:, channel, beta] += (tensor[place] * moments[:, channel, alpha]).sum(axis=1)
    return out


def _derivatives(shifts, top, kernel) -> np.ndarray:
    """Return all derivatives of a kernel up to an order, shape (n_components(top), n_pairs)."""
    square = (shifts**2).sum(axis=1)
    apart = square > 0
    chain = np.zeros((top + 1, len(square)), LONG)
    chain[:, apart] = _chain(kernel, square[apart], top)
    x, table = np.ascontiguousarray(shifts.T), recursion_table(top)
    tensor = np.zeros((n_components(top), len(square)), LONG)
    tensor[0] = (-1) ** top * chain[top]
    for n in range(top - 1, -1, -1):
        for row in range(n_components(top - n) - 1, 0, -1):
            value = x[table.axis[row]] * tensor[table.parent[row]]
            if table.weight[row]:
                value += tensor[table.grandparent[row]] * LONG(table.weight[row])
            tensor[row] = value
        tensor[0] = (-1) ** n * chain[n]
    return tensor


def _chain(kernel, square, top) -> np.ndarray:
    """Return B_0 ... B_top, B_n = (-1)^n (1/r d/dr)^n f."""
    chain = np.empty((top + 1, len(square)), LONG)
    chain[0] = 1 / np.sqrt(square)
    for n in range(1, top + 1):
        chain[n] = chain[n - 1] * (2 * n - 1) / square
    if isinstance(kernel, mp.Softened):
        inside = square < LONG(kernel.cutoff) ** 2
        chain[:, inside] = _softened(kernel, square[inside], top)
    elif isinstance(kernel, mp.Erf):
        inside = square * LONG(kernel.alpha) ** 2 < _FAR
        chain[:, inside] = _screened(kernel, square[inside], top)
    return chain


def _softened(kernel, square, top) -> np.ndarray:
    """Return the chain of the series of s^(-1/2) about 1, s = r^2/c^2: (-2/c^2)^n d^n/ds^n."""
    cutoff = LONG(kernel.cutoff)
    u = square / cutoff**2 - 1
    binomial = [LONG(1)]
    for k in range(kernel.terms - 1):
        binomial.append(binomial[-1] * (LONG(-1) / 2 - k) / (k + 1))
    chain = np.zeros((top + 1, len(square)), LONG)
    for n in range(top + 1):
        for k in range(kernel.terms - 1, n - 1, -1):
            chain[n] = chain[n] * u + binomial[k] * (factorial(k) // factorial(k - n))
        chain[n] *= (-2 / cutoff**2) ** n / cutoff
    return chain


def _screened(kernel, square, top) -> np.ndarray:
    """Return the chain of erf(alpha r)/r = 2 alpha/sqrt(pi) F_0: B_n = ... (2 alpha^2)^n F_n."""
    alpha = LONG(kernel.alpha)
    t = square * alpha**2
    term = 1 / LONG(2 * top + 1) + 0 * t
    boys = np.copy(term)
    for k in range(1, 400):
        term = term * 2 * t / (2 * top + 2 * k + 1)
        boys += term
    decay = np.exp(-t)
    boys *= decay
    chain = np.empty((top + 1, len(square)), LONG)
    scale = 2 * alpha / np.sqrt(4 * np.arctan(LONG(1)))
    for n in range(top, -1, -1):
        chain[n] = boys * scale * (2 * alpha**2) ** n
        boys = (2 * t * boys + decay) / (2 * n - 1)
    return chain


def rms_by_order(values: np.ndarray) -> np.ndarray:
    """Return the root mean square over targets, channels and components per order."""
    top = order_of(values.shape[-1])
    return np.array([_rms(values[..., order_slice(k)]) for k in range(top + 1)])


def _rms(values: np.ndarray) -> float:
    if values.size == 0:
        return 0.0
    largest = np.abs(values).max()
    if not np.isfinite(largest) or largest == 0:
        return float(largest)
    # squares of small numbers vanish
    return float(largest * np.sqrt(np.mean(np.square(values / largest))))


def in_natural_units(problem, found: np.ndarray) -> np.ndarray:
    """Return what a plan found in natural units, float64."""
    shifts = [problem.shift_of(int(k)) for k in orders(problem.settings.order)]
    with np.errstate(over="ignore"):
        return np.ldexp(found.astype(np.float64), -np.array(shifts))


def expressible(problem, exact: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return for each order whether its field is one that the dtype can hold."""
    info, good = np.finfo(dtype), []
    for k, typical in enumerate(rms_by_order(exact)):
        largest = np.abs(exact[..., order_slice(k)]).max(initial=0.0)
        shift = problem.shift_of(k)
        high = largest == 0 or np.log2(largest) + shift < np.log2(float(info.max)) - 6
        small = np.log2(float(info.tiny)) - np.log2(0.01 * problem.settings.tolerance)
        low = typical == 0 or np.log2(typical) + shift > small
        good.append(bool(high and low))
    return np.array(good)
