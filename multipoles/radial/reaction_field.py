"""A shifted reaction field."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from multipoles.compiled.jit import bare_inline
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


@bare_inline
def reaction_field_lanes(code, parameters, last, chain):
    """Write g_n = (-1)^n B_n for whole m and n as vectors, r2 being the first of `chain`.

    Powers are those of r in units of the cutoff, which stay in the range of the vectors' type.
    """
    lanes = BYTES // chain.itemsize
    cutoff, m, n = parameters[0], parameters[3], parameters[5]
    r2 = load(chain, 0)
    inverse, one = rsqrt(r2), splat(chain, 1.0)
    down = -(inverse * inverse)
    r = r2 * inverse * (1.0 / cutoff)
    square = cutoff * cutoff
    first, second = whole_power(r, m, one) * parameters[8], whole_power(r, n, one) * parameters[9]
    bare, parabola, zero = inverse, r * r * parameters[7], inverse - inverse
    total = bare + parabola + first + second - parameters[6]
    store(chain, 0, within(r2, square, total, zero))
    for j in range(last):
        bare = bare * down * (2 * j + 1)
        parabola = parabola * down * (2 * j - 2)
        first = first * down * (2 * j - m)
        second = second * down * (2 * j - n)
        store(chain, (j + 1) * lanes, within(r2, square, bare + parabola + first + second, zero))


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
        c, m, n, parts = self.cutoff, self.m, self.n, self._parts
        with np.errstate(over="ignore", under="ignore"):
            k, a_m, a_n = parts * np.float64(c) ** -np.array([3.0, m + 1, n + 1])
            shift = np.float64(3 * self.eps / (1 + 2 * self.eps) + parts[1] + parts[2]) / c
        return (c, float(k), float(a_m), m, float(a_n), n, float(shift))

    @cached_property
    def parameter_array(self) -> np.ndarray:
        """The parameters, then the three powers of r at the cutoff, where none is out of range."""
        with np.errstate(over="ignore", under="ignore"):
            array = np.append(self.parameters, self._parts / self.cutoff)
        array.flags.writeable = False
        return array

    @property
    def _parts(self) -> np.ndarray:
        """Return k r^3, A_m r^(m+1) and A_n r^(n+1) at the cutoff."""
        eps, m, n, dense = self.eps, self.m, self.n, 1 + 2 * self.eps
        part_m = 3 / (m * (n - m)) * (2 * eps + n - 1) / dense
        part_n = 3 / (n * (m - n)) * (2 * eps + m - 1) / dense
        return np.array([(eps - 1) / dense, part_m, part_n])

    def _scaled(self, factor: float) -> Kernel:
        return ReactionField(scaled_length(self.cutoff, factor), self.eps, self.m, self.n)

    def negligible_beyond(self, tolerance: float, links: int) -> float:
        """Return the cutoff."""
        return self.cutoff
