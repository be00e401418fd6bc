"""A shifted reaction field."""

import math
from dataclasses import dataclass

import numpy as np

from multipoles.compiled.jit import bare_inline
from multipoles.radial.base import Kernel, scaled_length


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
