"""1/r in two parts: a smooth one for waves, and what is left near by: zero from a cutoff on."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.polynomial import chebyshev

from multipoles.compiled.jit import bare_inline
from multipoles.compiled.simd import BYTES, load, rsqrt, store, within
from multipoles.indexing import MAX_TOTAL_ORDER as LONGEST
from multipoles.radial.base import Kernel, scaled_length
from multipoles.radial.lanes import LINKS

# of the parameters, how many come before the polynomials
_FIRST = 2
_SHARE = 1e-3


@lru_cache(maxsize=64)
def _polynomials(band: float) -> np.ndarray:
    """Return Q(s) = Φ(√s)/√s and its derivatives as powers of u = 2s - 1, one row for each.

    Φ is the integral of the prolate function ψ, see `multipoles.prolate`.
    """
    from multipoles.prolate import smooth_derivatives

    n = int(band) // 2 * 2 + 24
    u = np.cos(np.pi * (np.arange(n) + 0.5) / n)
    values = smooth_derivatives((1 + u) / 2, LONGEST, band)
    series = chebyshev.chebfit(u, values.T, n - 1)
    # cut off at a share of what the splitting itself lacks, for all links that vectors have
    rest = np.cumsum(np.abs(series[::-1]), axis=0)[::-1]
    matters = rest > max(_SHARE * np.exp(-band), 2e-16) * rest[0]
    terms = int(np.flatnonzero(matters[:, : LINKS + 1].any(axis=1)).max()) + 1
    terms = min(terms + terms % 2, n)
    table = np.zeros((LONGEST + 1, terms))
    for row in range(LONGEST + 1):
        powers = chebyshev.cheb2poly(series[:terms, row].astype(np.longdouble))
        table[row, : len(powers)] = powers.astype(np.float64)
    return table


@bare_inline
def remainder(r2, parameters, last, out, start, stride):
    """B_n = that of 1/r, less (-2/c^2)^n Q^(n)(s)/c with s = r^2/c^2; zero for s >= 1."""
    cutoff, terms = parameters[0], int(parameters[1])
    square = cutoff * cutoff
    inside = r2 < square
    inverse = 1.0 / np.sqrt(r2)
    coulomb, down = inverse, inverse * inverse
    u = 2.0 * r2 / square - 1.0
    scale = 1.0 / cutoff
    for n in range(last + 1):
        value = 0.0
        for k in range(terms - 1, -1, -1):
            value = value * u + parameters[_FIRST + n * terms + k]
        out[start + n * stride] = coulomb - value * scale if inside else 0.0
        scale *= -2.0 / square
        coulomb *= down * (2 * n + 1)


@bare_inline
def remainder_lanes(code, parameters, last, chain):
    """Write g_n = (-1)^n B_n as vectors, r2 being the first of `chain`; zeros where it is zero."""
    lanes = BYTES // chain.itemsize
    r2 = load(chain, 0)
    cutoff, terms = parameters[0], int(parameters[1])
    square = cutoff * cutoff
    inverse = rsqrt(r2)
    zero = inverse - inverse
    down = -(inverse * inverse)
    u = r2 * (2.0 / square) - 1.0
    g, scale = inverse, 1.0 / cutoff
    v = u * u
    for n in range(last + 1):
        # even and odd powers by themselves: half as long a chain of products
        even, odd = zero, zero
        place = _FIRST + (n + 1) * terms - 2
        for _ in range(terms // 2):
            even = even * v + parameters[place]
            odd = odd * v + parameters[place + 1]
            place -= 2
        store(chain, n * lanes, within(r2, square, g - (odd * u + even) * scale, zero))
        scale *= 2.0 / square
        g = g * down * (2 * n + 1)


@bare_inline
def smooth_part(r2, parameters, last, out, start, stride):
    """B_n = (-2/c^2)^n Q^(n)(s)/c with s = r^2/c^2; that of 1/r for s >= 1."""
    cutoff, terms = parameters[0], int(parameters[1])
    square = cutoff * cutoff
    inside = r2 < square
    inverse = 1.0 / np.sqrt(r2)
    coulomb, down = inverse, inverse * inverse
    u = 2.0 * r2 / square - 1.0
    scale = 1.0 / cutoff
    for n in range(last + 1):
        value = 0.0
        for k in range(terms - 1, -1, -1):
            value = value * u + parameters[_FIRST + n * terms + k]
        out[start + n * stride] = value * scale if inside else coulomb
        scale *= -2.0 / square
        coulomb *= down * (2 * n + 1)


@bare_inline
def smooth_part_lanes(code, parameters, last, chain):
    """Write g_n = (-1)^n B_n as vectors, r2 being the first of `chain`; zeros where it is zero."""
    lanes = BYTES // chain.itemsize
    r2 = load(chain, 0)
    cutoff, terms = parameters[0], int(parameters[1])
    square = cutoff * cutoff
    inverse = rsqrt(r2)
    zero = inverse - inverse
    down = -(inverse * inverse)
    u = r2 * (2.0 / square) - 1.0
    g, scale = inverse, 1.0 / cutoff
    for n in range(last + 1):
        value = zero
        place = _FIRST + (n + 1) * terms - 1
        for _ in range(terms):
            value = value * u + parameters[place]
            place -= 1
        store(chain, n * lanes, within(r2, square, value * scale, g))
        scale *= 2.0 / square
        g = g * down * (2 * n + 1)


class _Split(Kernel):
    """What both parts share."""

    internal = True
    cutoff: float
    band: float

    def _check(self) -> None:
        super()._check()
        if self.band > 200:
            name = type(self).__name__
            raise ValueError(f"{name}: band must be at most 200, got {self.band:g}")

    @cached_property
    def parameter_array(self) -> np.ndarray:
        """The cutoff, the number of terms, and the polynomials of all derivatives."""
        table = _polynomials(self.band)
        array = np.concatenate([[self.cutoff, table.shape[1]], table.ravel()])
        array.flags.writeable = False
        return array


@dataclass(frozen=True)
class Remainder(_Split, code=9):
    """1/r within a cutoff, less a smooth function that a mesh sums; zero beyond.

    f = (1 - Φ(r/c))/r, where Φ is the integral of a prolate spheroidal wave function: of all
    splittings with a near part this short, the one whose smooth part needs the fewest waves (Liang,
    Lu, Barnett, Greengard & Jiang, arXiv 2505.09727). No exponential is evaluated, but a polynomial
    of r².

    Parameters
    ----------
    cutoff : float
        Distance c, > 0.
    band : float
        Parameter of the wave function: the smooth part has waves up to band/cutoff, and what it
        lacks is about exp(-band).
    """

    write_chain = staticmethod(remainder)
    cutoff: float
    band: float

    def _scaled(self, factor: float) -> Kernel:
        return Remainder(scaled_length(self.cutoff, factor), self.band)

    def negligible_beyond(self, tolerance: float, links: int) -> float:
        """Return the cutoff."""
        return self.cutoff


@dataclass(frozen=True)
class SmoothPart(_Split, code=10):
    """Φ(r/c)/r, what a mesh sums of 1/r: the rest of `Remainder`; 1/r beyond the cutoff.

    To be taken off a damped kernel: at close pairs both are ordinary numbers, where 1/r is not.

    Parameters
    ----------
    cutoff, band : float
        See `Remainder`.
    """

    write_chain = staticmethod(smooth_part)
    cutoff: float
    band: float

    def _scaled(self, factor: float) -> Kernel:
        return SmoothPart(scaled_length(self.cutoff, factor), self.band)

    def coulomb_beyond(self, tolerance: float, links: int) -> float:
        """Return the cutoff."""
        return self.cutoff
