"""Coulomb's law from a cutoff on, smooth inside."""

import math
from dataclasses import dataclass

import numpy as np

from multipoles.compiled.jit import bare_inline
from multipoles.compiled.simd import BYTES, load, store, within
from multipoles.compiled.simd_math import any_below
from multipoles.indexing import MAX_TOTAL_ORDER as LONGEST
from multipoles.radial.base import Kernel, scaled_length
from multipoles.radial.coulomb import coulomb


def _softened_polynomials() -> np.ndarray:
    """Coefficients of (s - 1)^k in the n-th derivative of the series of s^(-1/2), times 2^n."""
    size = LONGEST + 1
    table = np.zeros((size, size))
    binomial = np.cumprod([1.0, *((-0.5 - k) / (k + 1) for k in range(size - 1))])
    for n in range(size):
        for k in range(size - n):
            table[n, k] = 2.0**n * binomial[n + k] * math.perm(n + k, n)
    return table


_TABLE = _softened_polynomials()


@bare_inline
def softened(r2, parameters, last, out, start, stride):
    """B_n = (-2/c^2)^n g^(n)(s)/c with s = r^2/c^2, g the series of s^(-1/2) about 1; s < 1."""
    cutoff, terms = parameters[0], int(parameters[1])
    square = cutoff * cutoff
    if r2 >= square:
        coulomb(r2, parameters, last, out, start, stride)
        return
    # a division: where the square of the cutoff overflows, u is -1
    u = r2 / square - 1.0
    scale = 1.0 / cutoff
    for n in range(last + 1):
        value = 0.0
        for k in range(terms - 1 - n, -1, -1):
            value = value * u + _TABLE[n, k]
        out[start + n * stride] = value * scale
        scale /= -square


@bare_inline
def soften_near_lanes(parameters, r2, last, chain):
    """Replace 1/r by the series about the cutoff in the lanes inside of it."""
    lanes = BYTES // chain.itemsize
    cutoff, terms = parameters[0], int(parameters[1])
    square = cutoff * cutoff
    if not any_below(r2, square):
        return
    inverse = 1.0 / square
    u = r2 * inverse - 1.0
    scale = 1.0 / cutoff
    for n in range(last + 1):
        value = u - u
        for k in range(terms - 1 - n, -1, -1):
            value = value * u + _TABLE[n, k]
        store(chain, n * lanes, within(r2, square, value * scale, load(chain, n * lanes)))
        scale *= inverse


@dataclass(frozen=True)
class Softened(Kernel, code=7):
    """1/r from a cutoff on; inside, an even polynomial of r that goes on smoothly.

    f = sum_(j < terms) binomial(-1/2, j) (s - 1)^j / c with s = (r/c)^2 < 1: the Taylor series of
    s^(-1/2) about the cutoff. It is finite and smooth everywhere but at the cutoff, where
    terms - 1 derivatives are continuous. The splitting of the multilevel summation method (Skeel,
    Tezcan & Hardy, J. Comput. Chem. 23, 673 (2002); Hardy, Stone & Schulten, Parallel Comput. 35,
    164 (2009)).

    Parameters
    ----------
    cutoff : float
        Distance c, > 0.
    terms : int
        Terms of the series, 1 … 33.
    """

    write_chain = staticmethod(softened)
    cutoff: float
    terms: int = 8

    def _check(self) -> None:
        super()._check()
        if self.terms != int(self.terms) or self.terms > LONGEST + 1:
            raise ValueError(
                f"Softened: terms must be a whole number in 1 … {LONGEST + 1}, got {self.terms:g}"
            )
        object.__setattr__(self, "terms", int(self.terms))

    def _scaled(self, factor: float) -> Kernel:
        return Softened(scaled_length(self.cutoff, factor), self.terms)

    def coulomb_beyond(self, tolerance: float, links: int) -> float:
        """Return the cutoff, whatever the tolerance."""
        return self.cutoff
