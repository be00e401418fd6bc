"""The arithmetic of one edge, for numbers of any kind; loops on CPU and GPU compile it.

It is plain in the sense of `multipoles.compiled.emit`, and everything is a polynomial, so every
derivative is exact: first derivatives are written out, second ones follow from running these on
`Dual` numbers. States are packed in the convention of moments: a packed component is the tensor's
component times its multiplicity.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from multipoles import indexing
from multipoles.compiled.emit import Dual, emitted
from multipoles.polynomials import detrace_matrix, multiplicity

Numbers = Sequence[Any]


@lru_cache
def invariant_terms(order: int) -> list[tuple[int, int, int]]:
    """Return the invariants of a pair in order, as (rank 1, rank 2, indices shared)."""
    ranks = range(1, order + 1)
    sided = [term for rank in range(order + 1) for term in ((rank, 0, 0), (0, rank, 0))]
    return sided + [(a, b, k) for a in ranks for b in ranks for k in range(1, min(a, b) + 1)]


# --- tables -------------------------------------------------------------------------------------


@lru_cache
def traceless_matrix(degree: int) -> np.ndarray:
    """Return the map from monomials u^beta of one degree to packed traceless moments."""
    return detrace_matrix(degree) * multiplicity(degree)[indexing.order_slice(degree)]


@lru_cache
def _raised(rank: int) -> list[list[int]]:
    """Return per component beta of `rank` the places of beta + e_k in the block of rank + 1."""
    start = indexing.order_slice(rank + 1).start
    rows = indexing.multi_indices(rank)[indexing.order_slice(rank)]
    unit = np.eye(3, dtype=np.int64)
    return [[indexing.component_index(*(row + unit[k])) - start for k in range(3)] for row in rows]


def _blocks(order: int, packed: Numbers) -> list[list[Any]]:
    return [list(packed[indexing.order_slice(rank)]) for rank in range(order + 1)]


def _total(terms: Iterable[Any]) -> Any:
    result = None
    for term in terms:
        result = term if result is None else result + term
    return 0.0 if result is None else result


def _sums(a: Numbers, b: Numbers) -> list[Any]:
    return [x + y for x, y in zip(a, b, strict=True)]


def _slopes(values: Iterable[Any]) -> list[Any]:
    found = [value.slope if isinstance(value, Dual) else None for value in values]
    return [0.0 if slope is None else slope for slope in found]


def _duals(values: Numbers, slopes: Numbers) -> list[Dual]:
    return [Dual(value, slope) for value, slope in zip(values, slopes, strict=True)]


def _constants(values: Numbers) -> list[Dual]:
    return [Dual(value, None) for value in values]


# --- anisotropic state --------------------------------------------------------------------------
# One edge adds c_l u^alpha to its receiver; the trace is removed once per node, after the sum.


def _monomials(order: int, u: Numbers) -> list[Any]:
    found: list[Any] = [1.0]
    for alpha in indexing.multi_indices(order)[1:]:
        axis = int(np.argmax(alpha > 0))
        lower = found[indexing.component_index(*(alpha - np.eye(3, dtype=np.int64)[axis]))]
        found.append(u[axis] * lower)
    return found


def _linear(order: int, rows: Numbers, *, transpose: bool) -> list[Any]:
    out: list[Any] = []
    for degree, block in enumerate(_blocks(order, rows)):
        matrix = traceless_matrix(degree)
        for line in matrix.T if transpose else matrix:
            out.append(_total(block[i] * float(line[i]) for i in np.flatnonzero(line)))
    return out


@emitted
def traceless(order: int, rows: Numbers) -> list[list[Any]]:
    """Return packed traceless tensors from sums of monomials."""
    return [_linear(order, rows, transpose=False)]


@emitted
def traceless_adjoint(order: int, rows: Numbers) -> list[list[Any]]:
    """Return the gradient with respect to sums of monomials from that of the state."""
    return [_linear(order, rows, transpose=True)]


@emitted
def state_term(order: int, before: Numbers, c: Numbers, u: Numbers) -> list[list[Any]]:
    """Add one edge's monomials times its coefficients."""
    return [_sums(before, _state_terms(order, c, u))]


def _state_terms(order: int, c: Numbers, u: Numbers) -> list[Any]:
    ranks = indexing.orders(order)
    return [
        c[rank] if rank == 0 else c[rank] * power
        for rank, power in zip(ranks, _monomials(order, u), strict=True)
    ]


@emitted
def state_gradients(order: int, c: Numbers, u: Numbers, g: Numbers) -> list[list[Any]]:
    """Return the gradients by coefficients and direction; g belongs to the sums of monomials."""
    slopes = _polynomial_slopes(order, u, g)
    by_c = [g[0]]
    for rank in range(1, order + 1):
        # Euler: a homogeneous polynomial of degree l is u.grad / l
        by_c.append(_total(slopes[rank][k] * (u[k] * (1.0 / rank)) for k in range(3)))
    by_u = [_total(c[rank] * slopes[rank][k] for rank in range(1, order + 1)) for k in range(3)]
    return [by_c, by_u]


def _polynomial_slopes(order: int, u: Numbers, g: Numbers) -> list[list[Any]]:
    """Return per rank the gradient by u of sum_alpha g_alpha u^alpha."""
    powers = _monomials(order, u)
    terms: list[list[list[Any]]] = [[[] for _ in range(3)] for _ in range(order + 1)]
    for place, alpha in enumerate(indexing.multi_indices(order)):
        for k in np.flatnonzero(alpha):
            lower = powers[indexing.component_index(*(alpha - np.eye(3, dtype=np.int64)[k]))]
            terms[alpha.sum()][k].append(g[place] * (lower * float(alpha[k])))
    return [[_total(group) for group in by_axis] for by_axis in terms]


@emitted
def state_second(
    order: int, before: Numbers, c: Numbers, u: Numbers, g: Numbers, dc: Numbers, du: Numbers
) -> list[list[Any]]:
    """Return how both gradients, and the state's sum, change along (dc, du)."""
    c, u = _duals(c, dc), _duals(u, du)
    by_c, by_u = state_gradients.plain(order, c, u, _constants(g))
    added = _slopes(_state_terms(order, c, u))
    return [_slopes(by_c), _slopes(by_u), _sums(before, added)]


@emitted
def state_change(
    order: int, before: Numbers, c: Numbers, u: Numbers, dc: Numbers, du: Numbers
) -> list[list[Any]]:
    """Add how one edge's monomials times its coefficients change along (dc, du)."""
    return [_sums(before, _slopes(_state_terms(order, _duals(c, dc), _duals(u, du))))]


@emitted
def state_second_by_coefficients(
    order: int, u: Numbers, du: Numbers, g: Numbers, s: Numbers
) -> list[list[Any]]:
    """Return the second gradients by coefficients.

    Of the sums of monomials, `s` is the second gradient by them, and `g` that by their changes.
    """
    powers = _monomials(order, _duals(u, du))
    products = [bar * power for bar, power in zip(_duals(g, s), powers, strict=True)]
    return [_slopes(_total(block) for block in _blocks(order, products))]


# --- invariants of pairs ------------------------------------------------------------------------


def _contractions(order: int, state: Numbers, u: Numbers) -> list[list[list[Any]]]:
    """Return [rank][k]: the state's tensor of that rank contracted with u down to rank k."""
    weights = 1.0 / multiplicity(order)
    tensors = [m * float(w) for m, w in zip(state, weights, strict=True)]
    found = []
    for rank, tensor in enumerate(_blocks(order, tensors)):
        chain = [tensor]
        for lower in range(rank - 1, -1, -1):
            last = chain[0]
            chain.insert(0, [_total(last[p[k]] * u[k] for k in range(3)) for p in _raised(lower)])
        found.append(chain)
    return found


def _inner(rank: int, a: Numbers, b: Numbers) -> Any:
    weights = multiplicity(rank)[indexing.order_slice(rank)]
    return _total(x * y * float(w) for x, y, w in zip(a, b, weights, strict=True))


def _invariants(order: int, one: list, two: list) -> list[Any]:
    found = []
    for place, (a, b, k) in enumerate(invariant_terms(order)):
        if k:
            found.append(_inner(k, one[a][k], two[b][k]))
        else:
            found.append((one if place % 2 == 0 else two)[max(a, b)][0][0])
    return found


def _inner_gradients(order: int, g: Numbers, one: list, two: list) -> tuple[list, list]:
    """Return the gradients by all contractions, as full symmetric tensors, of the invariants."""
    shape = [[[None] * len(x) for x in chain] for chain in one]
    left, right = shape, [[list(x) for x in chain] for chain in shape]

    def add(target: list, i: int, term: Any) -> None:
        target[i] = term if target[i] is None else target[i] + term

    for place, (a, b, k) in enumerate(invariant_terms(order)):
        if not k:
            add((left if place % 2 == 0 else right)[max(a, b)][0], 0, g[place])
            continue
        for i in range(len(one[a][k])):
            add(left[a][k], i, two[b][k][i] * g[place])
            add(right[b][k], i, one[a][k][i] * g[place])
    return left, right


def _lift(order: int, bars: list, chains: list, u: Numbers) -> tuple[list[Any], list[Any]]:
    """Carry gradients from contractions back to the packed state and to u.

    A symmetric tensor A times u stands at each place alpha of the next rank as
    sum_k alpha_k / |alpha| u_k A(alpha - e_k).
    """
    by_state: list[Any] = []
    by_u: list[list[Any]] = [[], [], []]
    for rank in range(order + 1):
        for k in range(rank):
            weights = multiplicity(k)[indexing.order_slice(k)]
            raised: list[list[Any]] = [[] for _ in bars[rank][k + 1]]
            above = indexing.multi_indices(k + 1)[indexing.order_slice(k + 1)]
            for i, places in enumerate(_raised(k)):
                bar = bars[rank][k][i]
                for axis, place in enumerate(places):
                    share = float(above[place][axis]) / (k + 1)
                    raised[place].append(bar * (u[axis] * share))
                    by_u[axis].append(bar * chains[rank][k + 1][place] * float(weights[i]))
            for place, terms in enumerate(raised):
                own = bars[rank][k + 1][place]
                bars[rank][k + 1][place] = _total(terms if own is None else [own, *terms])
        by_state += bars[rank][rank]
    return by_state, [_total(terms) for terms in by_u]


@emitted
def pair_values(order: int, one: Numbers, two: Numbers, u: Numbers) -> list[list[Any]]:
    """Return the invariants of two states and a direction."""
    return [_invariants(order, _contractions(order, one, u), _contractions(order, two, u))]


@emitted
def pair_gradients(
    order: int, one: Numbers, two: Numbers, u: Numbers, g: Numbers, before: Numbers
) -> list[list[Any]]:
    """Return the gradients by both states and the direction, g being that by the invariants.

    That by the second state is added to `before`.
    """
    _, by_one, by_two, by_u = _pair_derivatives(order, one, two, u, g)
    return [by_one, _sums(before, by_two), by_u]


def _pair_derivatives(
    order: int, one: Numbers, two: Numbers, u: Numbers, g: Numbers
) -> tuple[list, list, list, list]:
    first, second = _contractions(order, one, u), _contractions(order, two, u)
    left, right = _inner_gradients(order, g, first, second)
    by_one, one_by_u = _lift(order, left, first, u)
    by_two, two_by_u = _lift(order, right, second, u)
    by_u = _sums(one_by_u, two_by_u)
    return _invariants(order, first, second), by_one, by_two, by_u


@emitted
def pair_second(
    order: int,
    one: Numbers,
    two: Numbers,
    u: Numbers,
    g: Numbers,
    d_one: Numbers,
    d_two: Numbers,
    du: Numbers,
    before: Numbers,
) -> list[list[Any]]:
    """Return how the gradients by states and direction, and the invariants, change.

    The change is along (d_one, d_two, du); that of the invariants is the gradient by g. That of
    the gradient by the second state is added to `before`.
    """
    found = _pair_derivatives(
        order, _duals(one, d_one), _duals(two, d_two), _duals(u, du), _constants(g)
    )
    values, by_one, by_two, by_u = (_slopes(part) for part in found)
    return [by_one, _sums(before, by_two), by_u, values]


@emitted
def pair_change(
    order: int, one: Numbers, two: Numbers, u: Numbers, d_one: Numbers, d_two: Numbers, du: Numbers
) -> list[list[Any]]:
    """Return how the invariants change along (d_one, d_two, du)."""
    along = _duals(u, du)
    first = _contractions(order, _duals(one, d_one), along)
    return [_slopes(_invariants(order, first, _contractions(order, _duals(two, d_two), along)))]


@emitted
def pair_second_by_states(
    order: int,
    one: Numbers,
    two: Numbers,
    u: Numbers,
    d_one: Numbers,
    d_two: Numbers,
    du: Numbers,
    g: Numbers,
    s: Numbers,
    before: Numbers,
) -> list[list[Any]]:
    """Return the second gradients by both states, that by the second added to `before`.

    Of the invariants, `s` is the second gradient by them, and `g` that by their changes: what the
    gradient's own program makes of g changes as g's change to s and states and direction do.
    """
    along, bars = _duals(u, du), _duals(g, s)
    first = _contractions(order, _duals(one, d_one), along)
    second = _contractions(order, _duals(two, d_two), along)
    left, right = _inner_gradients(order, bars, first, second)
    by_one, _ = _lift(order, left, first, along)
    by_two, _ = _lift(order, right, second, along)
    return [_slopes(by_one), _sums(before, _slopes(by_two))]
