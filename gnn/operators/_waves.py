"""Sines and cosines of multiples of an angle: the radial functions of an edge."""

import math

from multipoles.compiled.jit import bare_inline


@bare_inline
def offset(x, first, second, axis):
    """Return a component of the vector between two points."""
    return float(x[second, axis]) - x[first, axis]


@bare_inline
def waves(r, rate, shifts, sines, cosines):
    """Write sine and cosine of (k rate + shift) r, k = 1 … n, for shifts far smaller than 1/r."""
    sine, cosine = math.sin(rate * r), math.cos(rate * r)
    twice, sine_before, cosine_before = 2.0 * cosine, 0.0, 1.0
    for k in range(len(shifts)):
        angle = shifts[k] * r
        near = 1.0 - 0.5 * angle * angle
        sines[k] = sine * near + cosine * angle
        cosines[k] = cosine * near - sine * angle
        # sin((k + 1) a) = 2 cos(a) sin(k a) - sin((k - 1) a)
        sine, sine_before = twice * sine - sine_before, sine
        cosine, cosine_before = twice * cosine - cosine_before, cosine
