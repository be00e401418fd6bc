"""Loops of perceptrons that learn: what is left between products of matrices.

All arrays are one-dimensional; rows have `width` columns. Where rows are edges, `ends` are senders
and receivers, and `first` and `second` hold rows of nodes as the one and as the other; elsewhere
all of these are empty. Changes are along a direction; *second* gradients are those by a value of
what a gradient by a change is of.
"""

import math

from gnn.operators._dense import _sigmoid
from multipoles.compiled.jit import bare, bare_inline
from multipoles.compiled.simd import BYTES, load, splat, store


@bare_inline
def _gate(x):
    return 1 / (1 + math.exp(-x))


@bare_inline
def _add_row(x, at, width, y, to):
    lanes = BYTES // x.itemsize
    whole = width // lanes * lanes
    for c in range(0, whole, lanes):
        store(y, to + c, load(y, to + c) + load(x, at + c))
    for c in range(whole, width):
        y[to + c] += x[at + c]


@bare_inline
def _to_ends(x, row, width, ends, first, second):
    senders, receivers = ends
    if len(senders):
        _add_row(x, row * width, width, first, senders[row] * width)
        _add_row(x, row * width, width, second, receivers[row] * width)


@bare_inline
def _from_ends(x, row, width, ends, first, second):
    senders, receivers = ends
    if len(senders):
        _add_row(first, senders[row] * width, width, x, row * width)
        _add_row(second, receivers[row] * width, width, x, row * width)


@bare
def activate(x, bias, ends, first, second, active, y):
    """Add to rows a bias, and rows of both ends; where active, write SiLU of them."""
    width, lanes, one = len(bias), BYTES // x.itemsize, splat(x, 1.0)
    whole = width // lanes * lanes
    for r in range(len(x) // width):
        _add_row(bias, 0, width, x, r * width)
        _from_ends(x, r, width, ends, first, second)
        if active:
            for k in range(r * width, r * width + whole, lanes):
                value = load(x, k)
                store(y, k, value * _sigmoid(value, one))
            for k in range(r * width + whole, (r + 1) * width):
                y[k] = x[k] * _gate(x[k])


@bare_inline
def _times_slopes(x, y, r, width, out):
    """Write a row of y times the slopes of SiLU at x."""
    lanes, one = BYTES // x.itemsize, splat(x, 1.0)
    whole = width // lanes * lanes
    for k in range(r * width, r * width + whole, lanes):
        value = load(x, k)
        gate = _sigmoid(value, one)
        store(out, k, load(y, k) * (gate * (one + value * (one - gate))))
    for k in range(r * width + whole, (r + 1) * width):
        gate = _gate(x[k])
        out[k] = y[k] * (gate * (1 + x[k] * (1 - gate)))


@bare
def activate_change(x, dx, width, ends, first, second, active, dy):
    """Add to rows of changes those of both ends; where active, write the change of SiLU."""
    for r in range(len(x) // width):
        _from_ends(dx, r, width, ends, first, second)
        if active:
            _times_slopes(x, dx, r, width, dy)


@bare
def activate_gradients(x, g, width, ends, active, out, first, second):
    """Write gradients by the arguments of SiLU, and add them to rows of both ends."""
    for r in range(len(x) // width):
        if active:
            _times_slopes(x, g, r, width, out)
        _to_ends(out, r, width, ends, first, second)


@bare
def activate_second(x, dx, g, s, width, ends, active, out, bias, first, second):
    """Write second gradients by the arguments of SiLU; add them to the bias's and to both ends."""
    lanes, one = BYTES // x.itemsize, splat(x, 1.0)
    whole = width // lanes * lanes
    for r in range(len(x) // width):
        if active:
            for k in range(r * width, r * width + whole, lanes):
                value = load(x, k)
                gate = _sigmoid(value, one)
                rest = one - gate
                bend = gate * rest * (value * (rest - gate) + 2.0)
                slope = gate * (one + value * rest)
                store(out, k, load(s, k) * slope + load(g, k) * load(dx, k) * bend)
            for k in range(r * width + whole, (r + 1) * width):
                gate = _gate(x[k])
                bend = gate * (1 - gate) * (2 + x[k] * (1 - 2 * gate))
                out[k] = s[k] * (gate * (1 + x[k] * (1 - gate))) + g[k] * dx[k] * bend
        if len(bias):
            _add_row(out, r * width, width, bias, 0)
        _to_ends(out, r, width, ends, first, second)


# --- rows of edges times their envelopes: rows of their own, or sums at `places` ------------------


@bare_inline
def _place(places, row):
    return places[row] if len(places) else row


@bare
def fade_rows(x, fade, places, width, y):
    """Add rows times their envelopes to those of their places."""
    lanes = BYTES // x.itemsize
    whole = width // lanes * lanes
    for r in range(len(fade)):
        at, to, f = r * width, _place(places, r) * width, fade[r]
        for c in range(0, whole, lanes):
            store(y, to + c, load(y, to + c) + load(x, at + c) * f)
        for c in range(whole, width):
            y[to + c] += x[at + c] * f


@bare
def fade_change(x, dx, fade, dfade, places, width, dy):
    """Add the change of rows times their envelopes to those of their places."""
    lanes = BYTES // x.itemsize
    whole = width // lanes * lanes
    for r in range(len(fade)):
        at, to, f, df = r * width, _place(places, r) * width, fade[r], dfade[r]
        for c in range(0, whole, lanes):
            new = load(dx, at + c) * f + load(x, at + c) * df
            store(dy, to + c, load(dy, to + c) + new)
        for c in range(whole, width):
            dy[to + c] += dx[at + c] * f + x[at + c] * df


@bare
def fade_gradients(x, fade, g, places, width, out, by_fade):
    """Write gradients by rows, and by their envelopes."""
    lanes = BYTES // x.itemsize
    whole = width // lanes * lanes
    for r in range(len(fade)):
        to, at, f, total = r * width, _place(places, r) * width, fade[r], fade[r] * 0
        for c in range(0, whole, lanes):
            store(out, to + c, load(g, at + c) * f)
        for c in range(whole, width):
            out[to + c] = g[at + c] * f
        for c in range(width):
            total += g[at + c] * x[to + c]
        by_fade[r] = total


@bare
def fade_second(fade, dfade, g, s, places, width, out):
    """Write second gradients by rows."""
    lanes = BYTES // g.itemsize
    whole = width // lanes * lanes
    for r in range(len(fade)):
        to, at, f, df = r * width, _place(places, r) * width, fade[r], dfade[r]
        for c in range(0, whole, lanes):
            store(out, to + c, load(s, at + c) * f + load(g, at + c) * df)
        for c in range(whole, width):
            out[to + c] = s[at + c] * f + g[at + c] * df


@bare
def sum_rows(x, index, width, y):
    """Add row i of x to row ``index[i]`` of y."""
    for i in range(len(index)):
        _add_row(x, i * width, width, y, index[i] * width)
