"""The field of one pair as plain arithmetic on numbers, for loops that are written out by machine.

Every function takes a number that stands for orders, and lists of numbers; it returns a list of
lists. On floats it computes; run once by a compiler on stand-ins it writes out the instructions,
and loops, tables and zeros vanish (`multipoles.compiled.cuda_kernels.emitted`).
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from multipoles import indexing

Numbers = Sequence[Any]
_BASE = 64


def orders_code(source_order: int, order: int, channels: int = 1) -> int:
    """Return source order, output order and channels as one number."""
    return (channels * _BASE + source_order) * _BASE + order


def orders_of(code: int) -> tuple[int, int, int]:
    """Return source order, output order and channels."""
    rest, order = divmod(code, _BASE)
    channels, source_order = divmod(rest, _BASE)
    return source_order, order, channels


def coulomb_chain(code: int, inverse: Numbers) -> list[list[Any]]:
    """Return g_0 ... g_top of 1/r, g_n = (-1)^n B_n, from a list of 1/r alone."""
    source_order, order, _ = orders_of(code)
    square = inverse[0] * inverse[0]
    chain = [inverse[0]]
    for n in range(source_order + order):
        chain.append(chain[-1] * square * -(2.0 * n + 1.0))
    return [chain]


def signed_chain(code: int, chain: Numbers) -> list[list[Any]]:
    """Return g_n = (-1)^n B_n of B_0 ... B_top."""
    return [[b * -1.0 if n % 2 else b for n, b in enumerate(chain)]]


def derivatives(top: int, chain: Numbers, r: Numbers) -> list[Any]:
    """Return all derivatives of f up to order `top`, packed, by the recursion of its chain."""
    table = _recursion(top)
    tensor = [chain[top]]
    for n in range(top - 1, -1, -1):
        raised = [chain[n]]
        for axis, parent, grandparent, weight in table[: indexing.n_components(top - n) - 1]:
            value = r[axis] * tensor[parent]
            if weight:
                value = value + tensor[grandparent] * weight
            raised.append(value)
        tensor = raised
    return tensor


@cache
def _recursion(top: int) -> list[tuple[int, int, int, float]]:
    table = indexing.recursion_table(top)
    columns = (table.axis, table.parent, table.grandparent, table.weight.astype(np.float64))
    return list(zip(*(column[1:].tolist() for column in columns), strict=True))


@cache
def _products(source_order: int, order: int) -> list[list[tuple[int, int, bool]]]:
    """Return per output component the moments, their places among derivatives, and signs."""
    places = indexing.sum_index(source_order, order)
    negative = indexing.signs(source_order) < 0
    return [
        [(alpha, int(places[alpha, beta]), bool(negative[alpha])) for alpha in range(len(negative))]
        for beta in range(indexing.n_components(order))
    ]


def add_field(
    code: int, sums: Numbers, chain: Numbers, r: Numbers, moments: Numbers
) -> list[list[Any]]:
    """Return the sums of all channels with the field of one source added.

    sums and moments are those of one channel after the other; r is target minus source.
    """
    source_order, order, channels = orders_of(code)
    if source_order == 0 and channels == 1:
        # a charge is cheaper to multiply with the few links than with all derivatives
        tensor = derivatives(order, [g * moments[0] for g in chain], r)
        return [[total + value for total, value in zip(sums, tensor, strict=True)]]
    tensor = derivatives(source_order + order, chain, r)
    n_in = indexing.n_components(source_order)
    out: list[Any] = []
    for channel in range(channels):
        for terms in _products(source_order, order):
            total = sums[len(out)]
            for alpha, place, negative in terms:
                term = moments[channel * n_in + alpha] * tensor[place]
                total = total - term if negative else total + term
            out.append(total)
    return [out]


def add(code: int, a: Numbers, b: Numbers) -> list[list[Any]]:
    """Return a + b."""
    return [[x + y for x, y in zip(a, b, strict=True)]]


def times(code: int, a: Numbers, factor: Numbers) -> list[list[Any]]:
    """Return a times the one number of `factor`."""
    return [[x * factor[0] for x in a]]
