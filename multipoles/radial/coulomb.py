"""Coulomb's law."""

import math
from dataclasses import dataclass

from multipoles.compiled.jit import bare_inline
from multipoles.compiled.simd import BYTES, rsqrt, store
from multipoles.radial.base import Kernel


@bare_inline
def coulomb(r2, parameters, last, out, start, stride):
    """B_n = (2n-1)!!/r^(2n+1)."""
    inverse = 1.0 / r2
    b = math.sqrt(inverse)
    odd = 1.0
    out[start] = b
    for n in range(last):
        b *= odd * inverse
        odd += 2.0
        out[start + (n + 1) * stride] = b


@bare_inline
def coulomb_lanes(r2, last, chain):
    """Write g_n = (-1)^n B_n as vectors; zeros where r2 is zero."""
    lanes = BYTES // chain.itemsize
    inverse = rsqrt(r2)
    square_inverse = inverse * inverse
    g = inverse
    store(chain, 0, g)
    for n in range(last):
        g = g * square_inverse * -(2 * n + 1)
        store(chain, (n + 1) * lanes, g)


@dataclass(frozen=True)
class Coulomb(Kernel, code=0):
    """f = 1/r."""

    write_chain = staticmethod(coulomb)

    def _scaled(self, factor: float) -> Kernel:
        return self

    def coulomb_beyond(self, tolerance: float, links: int) -> float:
        """Return zero: everywhere."""
        return 0.0
