"""A shifted reaction field."""

import math
from dataclasses import dataclass

import numpy as np

from multipoles.compiled.jit import bare, bare_inline
from multipoles.compiled.simd import BYTES, load, rsqrt, splat, store, within
from multipoles.radial.base import Kernel, scaled_length
from multipoles.radial.lanes import whole_power


@bare_inline
def reaction_field(r2, parameters, last, out, start, stride):
    """Coulomb plus k r^2 + A_m r^m + A_n r^n - C; each power gains -(m - 2j)/r^2 per link."""
    cutoff, k, a_m, m, a_n, n, shift = (
        parameters[0], parameters[1], parameters[2], parameters[3], parameters[4], parameters[5],
        parameters[6],
    )  # fmt: skip
    r = math.sqrt(r2)
    inside = r < cutoff
    inverse = 1.0 / r2
    bare = 1.0 / r
    square = k * r2
    first = a_m * r**m
    second = a_n * r**n
    out[start] = bare + square + first + second - shift if inside else 0.0
    even = 0.0
    for j in range(last):
        bare *= (even + 1.0) * inverse
        square *= (even - 2.0) * inverse
        first *= (even - m) * inverse
        second *= (even - n) * inverse
        even += 2.0
        out[start + (j + 1) * stride] = bare + square + first + second if inside else 0.0


@bare
def reaction_field_lanes(code, parameters, last, chain):
    """Write g_n = (-1)^n B_n for whole m and n as vectors, r2 being the first of `chain`.

    Powers are those of r in units of the cutoff, which stay in the range of the vectors' type.
    """
    lanes = BYTES // chain.itemsize
    cutoff, k, m, n = parameters[0], parameters[1], parameters[3], parameters[5]
    r2 = load(chain, 0)
    inverse, one = rsqrt(r2), splat(chain, 1.0)
    down = -(inverse * inverse)
    r = r2 * inverse * (1.0 / cutoff)
    square = cutoff * cutoff
    first = whole_power(r, m, one) * _at_cutoff(parameters[2], cutoff, m)
    second = whole_power(r, n, one) * _at_cutoff(parameters[4], cutoff, n)
    bare, parabola, zero = inverse, r * r * _at_cutoff(k, cutoff, 2.0), inverse - inverse
    total = bare + parabola + first + second - parameters[6]
    store(chain, 0, within(r2, square, total, zero))
    for j in range(last):
        bare = bare * down * (2 * j + 1)
        parabola = parabola * down * (2 * j - 2)
        first = first * down * (2 * j - m)
        second = second * down * (2 * j - n)
        store(chain, (j + 1) * lanes, within(r2, square, bare + parabola + first + second, zero))


@bare_inline
def _at_cutoff(coefficient, cutoff, power):
    """Return a term at the cutoff; a huge cutoff has no coefficients, and no power either."""
    return coefficient * whole_power(cutoff, power, 1.0) if coefficient != 0.0 else 0.0


@dataclass(frozen=True)
class ReactionField(Kernel, code=5):
    """Coulomb in a cavity, shifted: value and two derivatives vanish at the cutoff.

    f = 1/r + k r^2 + A_m r^m + A_n r^n - C inside the cutoff and zero outside, with
    k = (eps - 1)/((1 + 2 eps) c^3), A_m = 3 c^-(m+1)/(m (n - m)) (2 eps + n - 1)/(1 + 2 eps),
    A_n the same with m and n exchanged, C = 3 eps/((1 + 2 eps) c) + A_m c^m + A_n c^n.

    Parameters
    ----------
    cutoff : float
        Radius c of the cavity, > 0.
    eps : float
        Relative permittivity outside, > 0.
    m, n : float
        The two different powers of the shift, > 0.
    """

    write_chain = staticmethod(reaction_field)
    cutoff: float
    eps: float = 78.4
    m: float = 4.0
    n: float = 6.0

    def _check(self) -> None:
        super()._check()
        if self.m == self.n:
            raise ValueError(f"ReactionField: m and n must differ, got {self.m:g} twice")

    @property
    def parameters(self) -> tuple[float, ...]:
        """The cutoff, k, A_m, m, A_n, n and C.

        Coefficients that a tiny cutoff makes infinite act nowhere: no distance inside has a square.
        """
        c, eps, m, n = self.cutoff, self.eps, self.m, self.n
        dense = 1 + 2 * eps
        # A_m c^(m+1) and A_n c^(n+1)
        part_m = 3 / (m * (n - m)) * (2 * eps + n - 1) / dense
        part_n = 3 / (n * (m - n)) * (2 * eps + m - 1) / dense
        with np.errstate(over="ignore", under="ignore"):
            inverse = np.float64(c) ** -np.array([3.0, m + 1, n + 1])
            k, a_m, a_n = np.array([(eps - 1) / dense, part_m, part_n]) * inverse
            shift = np.float64(3 * eps / dense + part_m + part_n) / c
        return (c, float(k), float(a_m), m, float(a_n), n, float(shift))

    def _scaled(self, factor: float) -> Kernel:
        return ReactionField(scaled_length(self.cutoff, factor), self.eps, self.m, self.n)
