"""The complementary error function: the short-ranged part of an Ewald sum."""

import math
from dataclasses import dataclass

from multipoles.compiled.jit import bare_inline
from multipoles.radial.base import Kernel, scaled_inverse_length

_ROOT_PI = math.sqrt(math.pi)


@bare_inline
def erfc(r2, parameters, last, out, start, stride):
    """B_{n+1} = ((2n+1) B_n + (2 alpha^2)^(n+1)/(alpha sqrt(pi)) exp(-alpha^2 r^2))/r^2."""
    alpha = parameters[0]
    square = alpha * alpha
    r = math.sqrt(r2)
    b = math.erfc(alpha * r) / r
    gauss = 2.0 * alpha / _ROOT_PI * math.exp(-square * r2)
    odd = 1.0
    out[start] = b
    for n in range(last):
        b = (odd * b + gauss) / r2
        odd += 2.0
        gauss *= 2.0 * square
        out[start + (n + 1) * stride] = b


@dataclass(frozen=True)
class Erfc(Kernel, code=3):
    """f = erfc(alpha r)/r, the short-ranged part of an Ewald sum.

    Parameters
    ----------
    alpha : float
        Inverse width, > 0.
    """

    write_chain = staticmethod(erfc)
    alpha: float

    @property
    def parameters(self) -> tuple[float, ...]:
        """The inverse length, with a square that is a number."""
        return (scaled_inverse_length(self.alpha),)

    def _scaled(self, factor: float) -> Kernel:
        return Erfc(scaled_inverse_length(self.alpha, factor))
