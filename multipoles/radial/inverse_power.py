"""Inverse powers."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from multipoles.compiled.jit import bare_inline
from multipoles.compiled.simd import BYTES, load, rsqrt, splat, store
from multipoles.radial.base import Kernel
from multipoles.radial.lanes import whole_power


@bare_inline
def inverse_power(r2, parameters, last, out, start, stride):
    """B_n = p (p+2) ... (p+2n-2) r^(-p-2n), times a factor."""
    p = parameters[0]
    inverse = 1.0 / r2
    b = parameters[1] * r2 ** (-0.5 * p)
    even = 0.0
    out[start] = b
    for n in range(last):
        b *= (p + even) * inverse
        even += 2.0
        out[start + (n + 1) * stride] = b


@bare_inline
def inverse_power_lanes(code, parameters, last, chain):
    """Write g_n = (-1)^n B_n of a whole power as vectors, r2 being the first of `chain`."""
    lanes = BYTES // chain.itemsize
    inverse = rsqrt(load(chain, 0))
    down, p = -(inverse * inverse), parameters[0]
    g = whole_power(inverse, p, splat(chain, 1.0)) * parameters[1]
    store(chain, 0, g)
    for n in range(last):
        g = g * down * (p + 2 * n)
        store(chain, (n + 1) * lanes, g)


@dataclass(frozen=True)
class InversePower(Kernel, code=6):
    """f = r^-p.

    Parameters
    ----------
    p : float
        Power, > 0, whole or not.
    """

    write_chain = staticmethod(inverse_power)
    p: float

    @property
    def power(self) -> float:
        """The power itself."""
        return self.p

    @property
    def parameters(self) -> tuple[float, ...]:
        """The power and the factor of r^-p."""
        return (self.p, 1.0)

    def _scaled(self, factor: float) -> Kernel:
        return self if self.p == 1 else _PowerInUnits(self.p, factor)


@dataclass(frozen=True)
class _PowerInUnits(Kernel):
    """f = unit^(p - 1) r^-p: `InversePower` with lengths multiplied by `unit`."""

    code: ClassVar[int] = InversePower.code
    p: float
    unit: float

    @property
    def power(self) -> float:
        return self.p

    @property
    def parameters(self) -> tuple[float, ...]:
        # where this is infinite or zero, so is the kernel at distances of about one
        with np.errstate(over="ignore", under="ignore"):
            return (self.p, float(np.float64(self.unit) ** (self.p - 1)))

    def _scaled(self, factor: float) -> Kernel:
        return _PowerInUnits(self.p, self.unit * factor)
