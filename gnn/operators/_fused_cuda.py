"""Chains of small operations in one kernel each: values, gradients, gradients of gradients.

A thread takes one number of the output, or one edge. Sums have a fixed order: every run gives the
same bits. The derivatives are those of `gnn.operators.fused`, which names the twins in torch.
"""

import math
from typing import Any

import numpy as np
from torch import Tensor

from gnn.operators._edge_cuda import _flat, _row_starts, _rows_of, _space
from gnn.operators._edge_geometry_loops import _envelope
from multipoles.compiled.cuda_kernels import SIMULATED, Device, cuda, device, kernels

THREADS = 4 if SIMULATED else 128


def launch(kernel: Any, like: Tensor, count: int, *arguments: Any) -> None:
    """Run a kernel with a thread for each of `count` numbers or rows."""
    if count:
        dtype = np.dtype(str(like.dtype).removeprefix("torch."))
        flat = (_flat(a) if isinstance(a, Tensor) else a for a in arguments)
        kernel(_space(like).stream, dtype, -(-count // THREADS), THREADS, *flat)


def sums_at_ends(values: Tensor, senders: Tensor, receivers: Tensor, n_nodes: int) -> Tensor:
    """Return the sums of rows of edges (E, k) over what nodes sent and received, (N, 2 k).

    Receivers are sorted.
    """
    width = values.shape[1]
    sums = values.new_empty(n_nodes, 2 * width)
    rows, starts = _rows_of(senders, n_nodes), _row_starts(receivers, n_nodes)
    launch(end_sums(), values, n_nodes * width, values, starts, *rows, width, sums)
    return sums


# --- scalar functions -----------------------------------------------------------------------------


class _OfPi(Device):
    """Sine or cosine of pi times a number: exactly reduced, where fast sines lose digits."""

    def __init__(self, name: str, function: Any) -> None:
        super().__init__(lambda x: function(math.pi * x))
        self.name = name

    def of(self, dtype: np.dtype) -> Any:
        """Return the function for one type of numbers."""
        if SIMULATED:
            return self.function
        return getattr(cuda.libdevice, self.name + "f" * (dtype == np.float32))


sine_of_pi, cosine_of_pi = _OfPi("sinpi", np.sin), _OfPi("cospi", np.cos)


@device
def silu(z):
    """Return z / (1 + exp(-z)), and its first and second derivatives."""
    small = math.exp(-abs(z))  # overflows nowhere
    inverse = 1.0 / (1.0 + small)
    rise, fall = (inverse, small * inverse) if z >= 0.0 else (small * inverse, inverse)
    return z * rise, rise * (1.0 + z * fall), rise * fall * (2.0 + z * (fall - rise))


@device
def saturating(square, largest, factor):
    """Return the factor of vectors of this squared length, with two derivatives by the square."""
    if square > largest * largest:
        r, room = math.sqrt(square), (factor - 1.0) * largest
        small = math.exp(-2.0 * (r - largest) / room)
        part = 1.0 / (1.0 + small)
        tanh = (1.0 - small) * part
        slope = 4.0 * small * part * part
        value = (largest + room * tanh) / r
        first = (slope - value) / r
        second = (-2.0 * tanh * slope / room - 2.0 * first) / r
        return value, 0.5 * first / r, 0.25 * (second - first / r) / square
    return 1.0, 0.0, 0.0


@device
def bend(t):
    """Return the second derivative of the envelope at t = r / cutoff."""
    if t >= 1.0:
        return 0.0
    t2 = t * t
    return t2 * t2 * (-840.0 + t * (2016.0 - 1176.0 * t))


@device
def divided(r, value, fall, bent, scale):
    """Return ``scale f / r`` with two derivatives, from those of f."""
    height = scale * value / r
    change = (scale * fall - height) / r
    return height, change, (scale * bent - change - change) / r


@device
def wave(r, height, change, curvature, frequency):
    """Return ``height sin(frequency r)`` with two derivatives, from those of the height."""
    angle = r * frequency * INVERSE_PI
    sine, cosine = sine_of_pi(angle), frequency * cosine_of_pi(angle)
    value = height * sine
    slope = change * sine + height * cosine
    return value, slope, curvature * sine + 2.0 * change * cosine - frequency * frequency * value


INVERSE_PI = 1.0 / math.pi


# --- activations ----------------------------------------------------------------------------------


@kernels
def silu_second():
    """Write gradients by argument and incoming gradient of gradient times cotangent."""

    def loop(x, grads, along, by_x, by_grads):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if t < x.shape[0]:
            _, first, second = silu(x[t])
            by_x[t] = grads[t] * along[t] * second
            by_grads[t] = along[t] * first

    return loop


@device
def at_ends(t, width, own, nodes, senders, receivers):
    """Return the sum of what an edge has and what its ends have, in one column."""
    e, column = t // width, t % width
    sent = nodes[2 * width * senders[e] + column]
    return own[t] + (sent + nodes[width * (2 * receivers[e] + 1) + column])


@kernels
def edge_silu_values():
    """Write silu(own + both[sender] + both[receiver]), of each node the half for that end."""

    def loop(own, nodes, senders, receivers, width, out):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if t < own.shape[0]:
            out[t] = silu(at_ends(t, width, own, nodes, senders, receivers))[0]

    return loop


@kernels
def edge_silu_gradients():
    """Write gradients by the argument."""

    def loop(own, nodes, grads, senders, receivers, width, out):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if t < own.shape[0]:
            z = at_ends(t, width, own, nodes, senders, receivers)
            out[t] = grads[t] * silu(z)[1]

    return loop


@kernels
def edge_silu_second():
    """Write gradients by argument and incoming gradient of gradients times cotangents."""

    def loop(own, nodes, grads, d_own, d_nodes, senders, receivers, width, by_z, by_grads):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if t < own.shape[0]:
            z = at_ends(t, width, own, nodes, senders, receivers)
            along = at_ends(t, width, d_own, d_nodes, senders, receivers)
            _, first, second = silu(z)
            by_z[t] = grads[t] * along * second
            by_grads[t] = along * first

    return loop


@kernels
def end_sums():
    """Write the sums over edges of what a node sent, and of what it received."""

    def loop(values, starts, sender_starts, permutation, width, sums):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        node, column = t // width, t % width
        if node < starts.shape[0] - 1:
            sent, received = 0.0, 0.0
            for k in range(sender_starts[node], sender_starts[node + 1]):
                sent += values[permutation[k] * width + column]
            for e in range(starts[node], starts[node + 1]):
                received += values[e * width + column]
            place = 2 * width * node + column
            sums[place], sums[place + width] = sent, received

    return loop


# --- rows that saturate ---------------------------------------------------------------------------


@device
def product(a, b, begin, width):
    """Return the scalar product of two rows."""
    total = 0.0
    for k in range(begin, begin + width):
        total += a[k] * b[k]
    return total


@device
def saturation_of(rows, row, table, kinds, factor, width):
    """Return the factor by which a row saturates, with two derivatives by its square."""
    square = product(rows, rows, row * width, width)
    return saturating(square, table[kinds[row]], factor)


@kernels
def bounded_values():
    """Write rows times the factor by which they saturate."""

    def loop(rows, table, kinds, factor, width, out):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if t < rows.shape[0]:
            row = t // width
            out[t] = rows[t] * saturation_of(rows, row, table, kinds, factor, width)[0]

    return loop


@kernels
def bounded_gradients():
    """Write gradients by the rows."""

    def loop(rows, grads, table, kinds, factor, width, out):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if t < rows.shape[0]:
            row = t // width
            begin = row * width
            value, slope, _ = saturation_of(rows, row, table, kinds, factor, width)
            out[t] = value * grads[t]
            if slope != 0.0:
                out[t] += 2.0 * slope * product(rows, grads, begin, width) * rows[t]

    return loop


@kernels
def bounded_second():
    """Write gradients by rows and incoming gradients of gradients times cotangents."""

    def loop(rows, grads, along, table, kinds, factor, width, by_rows, by_grads):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if t < rows.shape[0]:
            row = t // width
            begin = row * width
            value, slope, bent = saturation_of(rows, row, table, kinds, factor, width)
            by_rows[t], by_grads[t] = 0.0, value * along[t]
            if slope != 0.0:
                vg, vw = product(rows, grads, begin, width), product(rows, along, begin, width)
                gw = product(grads, along, begin, width)
                own = (2.0 * slope * gw + 4.0 * bent * vg * vw) * rows[t]
                by_rows[t] = own + 2.0 * slope * (vw * grads[t] + vg * along[t])
                by_grads[t] += 2.0 * slope * vw * rows[t]

    return loop


@kernels
def row_lengths():
    """Write lengths of rows, and the largest of their kinds."""

    def loop(rows, table, kinds, width, lengths, largest):
        row = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if row < lengths.shape[0]:
            lengths[row] = math.sqrt(product(rows, rows, row * width, width))
            largest[row] = table[kinds[row]]

    return loop


@kernels
def factor_values():
    """Write the factor by which a row saturates."""

    def loop(rows, table, kinds, factor, width, out):
        row = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if row < out.shape[0]:
            out[row] = saturation_of(rows, row, table, kinds, factor, width)[0]

    return loop


@kernels
def factor_gradients():
    """Write gradients by the rows."""

    def loop(rows, grads, table, kinds, factor, width, out):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if t < rows.shape[0]:
            row = t // width
            _, slope, _ = saturation_of(rows, row, table, kinds, factor, width)
            out[t] = 2.0 * slope * grads[row] * rows[t]

    return loop


@kernels
def factor_second():
    """Write gradients by rows and incoming gradients of gradients times cotangents."""

    def loop(rows, grads, along, table, kinds, factor, width, by_rows, by_grads):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if t < rows.shape[0]:
            row = t // width
            begin = row * width
            _, slope, bent = saturation_of(rows, row, table, kinds, factor, width)
            vw = product(rows, along, begin, width)
            by_rows[t] = grads[row] * (2.0 * slope * along[t] + 4.0 * bent * vw * rows[t])
            if t == begin:
                by_grads[row] = 2.0 * slope * vw

    return loop


# --- geometry of edges ----------------------------------------------------------------------------


@device
def edge_of(vectors, e):
    """Return the length of an edge and its direction."""
    x, y, z = vectors[3 * e], vectors[3 * e + 1], vectors[3 * e + 2]
    r = math.sqrt(x * x + y * y + z * z)
    return r, x / r, y / r, z / r


@device
def row_of(values, e):
    """Return a vector of an edge."""
    return values[3 * e], values[3 * e + 1], values[3 * e + 2]


@device
def put(out, e, x, y, z):
    """Write a vector of an edge."""
    out[3 * e], out[3 * e + 1], out[3 * e + 2] = x, y, z


@device
def envelope_of(r, cutoff):
    """Return the envelope of a length, with two derivatives."""
    t = r / cutoff
    value, fall = _envelope(t)
    return value, fall / cutoff, bend(t) / (cutoff * cutoff)


@kernels
def geometry_values(is_divided):
    """Write lengths, directions, envelopes and Bessel functions of edges."""

    def loop(vectors, frequencies, cutoff, scale, lengths, directions, fade, basis):
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < lengths.shape[0]:
            n = frequencies.shape[0]
            r, ux, uy, uz = edge_of(vectors, e)
            value, fall, bent = envelope_of(r, cutoff)
            height, change, curve = divided(r, value, fall, bent, scale)
            lengths[e], fade[e] = r, height if is_divided else value
            put(directions, e, ux, uy, uz)
            for k in range(n):
                basis[e * n + k] = wave(r, height, change, curve, frequencies[k])[0]

    return loop


@kernels
def geometry_gradients(is_divided):
    """Write gradients by the edges' vectors."""

    def loop(
        vectors, by_length, by_direction, by_fade, by_basis, frequencies, cutoff, scale, out
    ):  # fmt: skip
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < by_length.shape[0]:
            n = frequencies.shape[0]
            r, ux, uy, uz = edge_of(vectors, e)
            value, fall, bent = envelope_of(r, cutoff)
            height, change, curve = divided(r, value, fall, bent, scale)
            slope = by_length[e] + by_fade[e] * (change if is_divided else fall)
            for k in range(n):
                slope += by_basis[e * n + k] * wave(r, height, change, curve, frequencies[k])[1]
            gx, gy, gz = row_of(by_direction, e)
            slope -= (gx * ux + gy * uy + gz * uz) / r
            put(out, e, gx / r + slope * ux, gy / r + slope * uy, gz / r + slope * uz)

    return loop


@kernels
def geometry_second(is_divided):
    """Write gradients by vectors and incoming gradients of gradients times cotangents."""

    def loop(
        vectors, by_length, by_direction, by_fade, by_basis, along, frequencies, cutoff, scale,
        out, to_length, to_direction, to_fade, to_basis,
    ):  # fmt: skip
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < by_length.shape[0]:
            n = frequencies.shape[0]
            r, ux, uy, uz = edge_of(vectors, e)
            value, fall, bent = envelope_of(r, cutoff)
            wx, wy, wz = row_of(along, e)
            stretch = wx * ux + wy * uy + wz * uz
            wx, wy, wz = (wx - stretch * ux) / r, (wy - stretch * uy) / r, (wz - stretch * uz) / r
            height, change, curve = divided(r, value, fall, bent, scale)
            if is_divided:
                fall, bent = change, curve
            slope, curvature = by_length[e] + by_fade[e] * fall, by_fade[e] * bent
            for k in range(n):
                found = wave(r, height, change, curve, frequencies[k])
                slope += by_basis[e * n + k] * found[1]
                curvature += by_basis[e * n + k] * found[2]
                to_basis[e * n + k] = found[1] * stretch
            to_length[e], to_fade[e] = stretch, fall * stretch
            put(to_direction, e, wx, wy, wz)
            gx, gy, gz = row_of(by_direction, e)
            # along turns the direction by w: what g has along u, and across it
            radial = gx * ux + gy * uy + gz * uz
            turned = gx * wx + gy * wy + gz * wz
            own = curvature * stretch - turned / r
            across = slope - radial / r
            shear = -stretch / (r * r)
            put(
                out, e,
                own * ux + across * wx + shear * (gx - radial * ux),
                own * uy + across * wy + shear * (gy - radial * uy),
                own * uz + across * wz + shear * (gz - radial * uz),
            )  # fmt: skip

    return loop


# --- contractions ---------------------------------------------------------------------------------


@kernels
def contraction():
    """Write the sum over c and beta of weights[n, c, beta] field[n, c, beta + e_i]."""

    def loop(weights, field, places, channels, count, size, out):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        row, axis = t // 3, t % 3
        if t < out.shape[0]:
            total = 0.0
            for c in range(row * channels, (row + 1) * channels):
                for k in range(count):
                    total += weights[c * count + k] * field[c * size + places[3 * k + axis]]
            out[t] = total

    return loop


@kernels
def contraction_gradients():
    """Write gradients by weights and field."""

    def loop(weights, field, grads, places, below, channels, count, size, by_weights, by_field):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if t < field.shape[0]:
            own, k = t // size, t % size
            first = own // channels * 3
            total = 0.0
            for axis in range(3):
                if below[3 * k + axis] >= 0:
                    total += grads[first + axis] * weights[own * count + below[3 * k + axis]]
            by_field[t] = total
            if k < count:
                total = 0.0
                for axis in range(3):
                    total += grads[first + axis] * field[own * size + places[3 * k + axis]]
                by_weights[own * count + k] = total

    return loop
