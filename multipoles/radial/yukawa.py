"""The screened interaction of Debye and Hückel, or Yukawa."""

import math
from dataclasses import dataclass

from multipoles.compiled.jit import bare_inline
from multipoles.compiled.simd import BYTES, load, rsqrt, store
from multipoles.compiled.simd_math import exp, product_tail
from multipoles.radial.base import Kernel, scaled_inverse_length
from multipoles.radial.lanes import in_range


@bare_inline
def yukawa(r2, parameters, last, out, start, stride):
    """B_{n+1} = ((2n+1) B_n + kappa^2 B_{n-1})/r^2, that of spherical Bessel functions k_n."""
    kappa = parameters[0]
    r = math.sqrt(r2)
    inverse = 1.0 / r2
    before = math.exp(-kappa * r) / r
    out[start] = before
    if last == 0:
        return
    b = (1.0 + kappa * r) * before * inverse
    out[start + stride] = b
    odd = 3.0
    for n in range(1, last):
        before, b = b, (odd * b + kappa * kappa * before) * inverse
        odd += 2.0
        out[start + (n + 1) * stride] = b


@bare_inline
def yukawa_lanes(code, parameters, last, chain):
    """Write g_n = (-1)^n B_n as vectors, r2 being the first of `chain`; zeros where it is zero."""
    lanes = BYTES // chain.itemsize
    r2 = load(chain, 0)
    kappa = in_range(parameters[0], lanes, 2.0**100)
    square = in_range(parameters[0] * parameters[0], lanes, 2.0**126)
    inverse = rsqrt(r2)
    square_inverse = inverse * inverse
    r = r2 * inverse
    z = r * kappa
    # the exponential keeps its digits only if those behind the last of z are counted
    tail = product_tail(kappa, r, z) - product_tail(r, r, r2) * inverse * (0.5 * kappa)
    decay = exp(-z, -tail)
    before = decay * inverse
    store(chain, 0, before)
    if last == 0:
        return
    g = (before + decay * kappa) * -square_inverse
    store(chain, lanes, g)
    for n in range(1, last):
        before, g = g, (before * square - g * (2 * n + 1)) * square_inverse
        store(chain, (n + 1) * lanes, g)


@dataclass(frozen=True)
class Yukawa(Kernel, code=1):
    """f = exp(-kappa r)/r, the screened interaction of Debye and Hückel or Yukawa.

    Parameters
    ----------
    kappa : float
        Inverse screening length, > 0.
    """

    write_chain = staticmethod(yukawa)
    kappa: float

    @property
    def parameters(self) -> tuple[float, ...]:
        """The inverse length, with a square that is a number."""
        return (scaled_inverse_length(self.kappa),)

    def _scaled(self, factor: float) -> Kernel:
        return Yukawa(scaled_inverse_length(self.kappa, factor))

    def negligible_beyond(self, tolerance: float, links: int) -> float:
        """Return where the rest of the integral of r^2 times the field is the tolerance."""
        from scipy import special  # takes as long to import as all else here

        return float(special.gammainccinv(links + 2.0, tolerance)) / self.kappa
