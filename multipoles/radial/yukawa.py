"""The screened interaction of Debye and Hückel, or Yukawa."""

import math
from dataclasses import dataclass

from multipoles.compiled.jit import bare_inline
from multipoles.radial.base import Kernel, scaled_inverse_length


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
