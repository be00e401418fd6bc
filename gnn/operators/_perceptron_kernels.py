"""Loops over rows of a perceptron, edges or nodes: arrays in, arrays out.

A few rows go through all layers while they are in the cache. All arrays are one-dimensional; those
of layers have rows of whole vectors. What the loops know of a network:

* ``blocks[b]``: columns, places of the matrix forward and backward, and columns that are skipped
  before those, of the b-th block of inputs;
* ``layers[k]``: outputs, pitch of a row, activated or not, place of the row among those kept,
  and of layers after the first: inputs, places of the matrix forward and backward.

Of an activated layer its input of SiLU is kept, for the derivatives: `kept` holds those of a row
side by side, at the pitch `breadth`. Rows of the output begin with `lead` zeros.
"""

import numpy as np

from gnn.operators._dense import (
    add_scaled,
    add_two,
    clear,
    copy,
    copy_scaled,
    multiply,
    product,
    silu,
    times_silu_slope,
    zeros,
)
from multipoles.compiled.jit import inline, jit
from multipoles.compiled.simd import BYTES

#: Rows that go through the layers together.
ROWS = 48
# a plain 0 is a type of its own, for which `multiply` would be compiled once more
ZERO = np.int64(0)


@inline
def _vectors(numbers, lanes):
    return (numbers + lanes - 1) // lanes


@inline
def _begin(first, rows, layer, bias, ends, projected, across, z, at, width):
    """Fill rows of the first layer: bias, and what sender and receiver of the edge contribute."""
    senders, receivers = ends
    outputs, pitch = layer[0], layer[1]
    for r in range(rows):
        row = at + r * width
        copy(bias, 0, pitch, z, row)
        if len(senders):
            one = senders[first + r] * across
            two = receivers[first + r] * across + outputs
            add_two(projected, one, two, outputs, z, row)


@inline
def _fill(z, at, width, rows, bias, begin, pitch):
    for r in range(rows):
        copy(bias, begin, pitch, z, at + r * width)


@jit
def values(
    begin, end, inputs, pitches, ends, projected, across, network, fade, kept, breadth, found,
    summed, lead,
):  # fmt: skip
    """Write the outputs of rows [begin, end) to `found`, or add them to those of receivers.

    Outputs are multiplied by `fade`, unless that is empty. `kept` is filled, unless `breadth` is
    zero.
    """
    matrices, biases, blocks, layers = network
    lanes = BYTES // kept.itemsize
    widest = layers[:, 1].max()
    a, b = np.empty(ROWS * widest, kept.dtype), np.empty(ROWS * widest, kept.dtype)
    last = len(layers) - 1
    outputs = layers[last, 0]
    for first in range(begin, end, ROWS):
        rows = min(ROWS, end - first)
        offset = 0
        for k in range(last + 1):
            pitch = layers[k, 1]
            keeps = breadth > 0 and layers[k, 2] > 0
            if keeps:
                z, at, width = kept, first * breadth + layers[k, 3], breadth
            else:
                z, at, width = b, ZERO, pitch
            if k == 0:
                _begin(first, rows, layers[0], biases, ends, projected, across, z, at, width)
                for n in range(len(blocks)):
                    x, step, count = inputs[n], pitches[n], blocks[n, 0]
                    multiply(
                        x, first * step + blocks[n, 3], step, rows, count, matrices, blocks[n, 1],
                        pitch // lanes, z, at, width,
                    )  # fmt: skip
            else:
                _fill(z, at, width, rows, biases, offset, pitch)
                multiply(
                    a, ZERO, layers[k - 1, 1], rows, layers[k, 4], matrices, layers[k, 5],
                    pitch // lanes, z, at, width,
                )  # fmt: skip
            if layers[k, 2]:
                for r in range(rows):
                    silu(z, at + r * width, pitch, a, r * pitch)
            else:
                a, b = b, a
            offset += pitch
        pitch = layers[last, 1]
        for r in range(rows):
            scale = fade[first + r] if len(fade) else kept.dtype.type(1.0)
            if summed:
                to = ends[1][first + r] * (lead + outputs) + lead
                add_scaled(a, r * pitch, outputs, scale, found, to)
            else:
                to = (first + r) * (lead + outputs)
                clear(found, to, lead)
                to += lead
                copy_scaled(a, r * pitch, outputs, scale, found, to)


@inline
def _last_outputs(first, rows, network, kept, breadth, a, g):
    """Write the network's outputs of some rows to `a`, from what was kept; g is scratch."""
    matrices, biases, _, layers = network
    lanes = BYTES // kept.itemsize
    last = len(layers) - 1
    active = last if layers[last, 2] else last - 1
    pitch, at = layers[active, 1], first * breadth + layers[active, 3]
    if active == last:
        for r in range(rows):
            silu(kept, at + r * breadth, pitch, a, r * pitch)
        return
    for r in range(rows):
        silu(kept, at + r * breadth, pitch, g, r * pitch)
    offset = layers[:last, 1].sum()
    _fill(a, 0, layers[last, 1], rows, biases, offset, layers[last, 1])
    multiply(
        g, ZERO, pitch, rows, layers[last, 4], matrices, layers[last, 5], layers[last, 1] // lanes,
        a, ZERO, layers[last, 1],
    )  # fmt: skip


@jit
def gradients(
    begin, end, ends, network, fade, kept, breadth, weights, summed, lead, asked,
    by_fade, by_projected, gap, by_senders, step, base, by_inputs,
):  # fmt: skip
    """Write the gradients of the sum of weights times outputs, for rows [begin, end).

    What belongs to receivers is added to `by_projected`, at the pitch `gap` and from the column
    `hidden` on; to senders, to row ``sender - base`` of `by_senders`, at the pitch `step`. `asked`
    says of each block of inputs whether its gradient is wanted.
    """
    matrices, _, blocks, layers = network
    senders, receivers = ends
    lanes = BYTES // kept.itemsize
    widest = max(layers[:, 1].max(), _vectors(blocks[:, 0].max(), lanes) * lanes)
    a, b = np.empty(ROWS * widest, kept.dtype), np.empty(ROWS * widest, kept.dtype)
    last = len(layers) - 1
    outputs, pitch = layers[last, 0], layers[last, 1]
    hidden = layers[0, 0]
    for first in range(begin, end, ROWS):
        rows = min(ROWS, end - first)
        if len(fade):
            _last_outputs(first, rows, network, kept, breadth, a, b)
        for r in range(rows):
            at = (receivers[first + r] if summed else first + r) * (lead + outputs) + lead
            scale = kept.dtype.type(1.0)
            if len(fade):
                scale = fade[first + r]
                by_fade[first + r] = product(a, r * pitch, weights, at, outputs)
            zeros(a, r * pitch, pitch)
            copy_scaled(weights, at, outputs, scale, a, r * pitch)
        for k in range(last, -1, -1):
            width = layers[k, 1]
            if layers[k, 2]:
                place = first * breadth + layers[k, 3]
                for r in range(rows):
                    times_silu_slope(kept, place + r * breadth, width, a, r * width)
            if k > 0:
                below = layers[k - 1, 1]
                zeros(b, 0, rows * below)
                multiply(
                    a, ZERO, width, rows, layers[k, 0], matrices, layers[k, 6], below // lanes,
                    b, ZERO, below,
                )  # fmt: skip
                a, b = b, a
        width = layers[0, 1]
        if len(senders):
            one_time = kept.dtype.type(1.0)
            for r in range(rows):
                one = (senders[first + r] - base) * step
                two = receivers[first + r] * gap + hidden
                add_scaled(a, r * width, hidden, one_time, by_senders, one)
                add_scaled(a, r * width, hidden, one_time, by_projected, two)
        for n in range(len(blocks)):
            if not asked[n]:
                continue
            count, skipped = blocks[n, 0], blocks[n, 3]
            vectors = _vectors(count, lanes)
            across = vectors * lanes
            zeros(b, 0, rows * across)
            multiply(a, ZERO, width, rows, hidden, matrices, blocks[n, 2], vectors, b, ZERO, across)
            found = by_inputs[n]
            for r in range(rows):
                to = (first + r) * (skipped + count)
                clear(found, to, skipped)
                copy(b, r * across, count, found, to + skipped)


@jit
def add_rows(rows, width, numbers, at, pitch):
    """Add rows of a width to numbers, from a place on, at a pitch."""
    one_time = rows.dtype.type(1.0)
    for r in range(len(rows) // width):
        add_scaled(rows, r * width, width, one_time, numbers, at + r * pitch)
