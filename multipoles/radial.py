"""Radial kernels f(r), each given by its chain B_n(r) = (-1)^n (1/r d/dr)^n f.

A kernel is its chain and nothing more: every derivative of every interaction is built from B_0,
B_1, ..., so all of them are consistent by construction. The objects here hold checked parameters
and name a scalar function in `multipoles._chains`, which the loops call for each pair.

All kernels act between points at a distance r > 0; coincident points contribute nothing.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from math import inf, isfinite
from typing import ClassVar

import numpy as np
from scipy import special

from multipoles import _chains


@dataclass(frozen=True)
class Kernel:
    """What all radial kernels share; use one of the subclasses."""

    code: ClassVar[int] = -1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            try:
                number = float(value)
            except (TypeError, ValueError):
                raise TypeError(
                    f"{type(self).__name__}: {field.name} must be a number, got {value!r}"
                ) from None
            if not isfinite(number):
                raise ValueError(f"{type(self).__name__}: {field.name} must be finite, got {value}")
            object.__setattr__(self, field.name, number)
        self._check()

    def _check(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(
                    f"{type(self).__name__}: {field.name} must be > 0, "
                    f"got {getattr(self, field.name):g}"
                )

    @property
    def parameters(self) -> tuple[float, ...]:
        """Numbers the kernel's scalar function reads."""
        return tuple(getattr(self, field.name) for field in fields(self))

    @cached_property
    def parameter_array(self) -> np.ndarray:
        """The parameters as float64 array, made once; an empty set becomes one zero."""
        array = np.array(self.parameters or (0.0,), dtype=np.float64)
        array.flags.writeable = False
        return array

    def coulomb_beyond(self, tolerance: float, links: int) -> float:
        """Return the distance from which on the kernel is 1/r.

        Parameters
        ----------
        tolerance : float
            Relative difference that does not matter.
        links : int
            Last link of the chain for which this is to hold.

        Returns
        -------
        float
            Infinity if there is no such distance.
        """
        return inf

    def chain(self, r, n_max: int) -> np.ndarray:
        """Return B_0 ... B_n_max at distances r, computed in float64.

        Parameters
        ----------
        r : array_like
            Distances, any shape. Zero, like coincident points in a sum, gives zeros.
        n_max : int
            Last link, 0 … 32.

        Returns
        -------
        ndarray
            float64, shape ``(*r.shape, n_max + 1)``.

        Raises
        ------
        ValueError
            If a distance is negative or not finite, or `n_max` is out of range.
        """
        distances = np.asarray(r, dtype=np.float64)
        if not 0 <= n_max <= _chains.LONGEST:
            raise ValueError(f"n_max must be in 0 … {_chains.LONGEST}, got {n_max}")
        if not np.all(np.isfinite(distances)) or np.any(distances < 0):
            raise ValueError("distances must be finite and >= 0")
        out = np.empty((distances.size, int(n_max) + 1))
        _chains.chain_of_many(self.code, self.parameter_array, distances.ravel(), out)
        return out.reshape(*distances.shape, int(n_max) + 1)


@dataclass(frozen=True)
class Coulomb(Kernel):
    """f = 1/r."""

    code: ClassVar[int] = _chains.COULOMB

    def coulomb_beyond(self, tolerance: float, links: int) -> float:
        """Return zero: everywhere."""
        return 0.0


@dataclass(frozen=True)
class Softened(Kernel):
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

    code: ClassVar[int] = _chains.SOFTENED
    cutoff: float
    terms: int = 8

    def _check(self) -> None:
        super()._check()
        if self.terms != int(self.terms) or self.terms > _chains.LONGEST + 1:
            raise ValueError(
                f"Softened: terms must be a whole number in 1 … {_chains.LONGEST + 1}, "
                f"got {self.terms:g}"
            )
        object.__setattr__(self, "terms", int(self.terms))

    def coulomb_beyond(self, tolerance: float, links: int) -> float:
        """Return the cutoff, whatever the tolerance."""
        return self.cutoff


@dataclass(frozen=True)
class Yukawa(Kernel):
    """f = exp(-kappa r)/r, the screened interaction of Debye and Hückel or Yukawa.

    Parameters
    ----------
    kappa : float
        Inverse screening length, > 0.
    """

    code: ClassVar[int] = _chains.YUKAWA
    kappa: float


@dataclass(frozen=True)
class Erf(Kernel):
    """f = erf(alpha r)/r: Gaussian charges, or the long-ranged part of an Ewald sum.

    Parameters
    ----------
    alpha : float
        Inverse width, > 0. Two Gaussian charges exp(-a r^2), exp(-b r^2) have
        alpha^2 = a b/(a + b).
    """

    code: ClassVar[int] = _chains.ERF
    alpha: float

    def coulomb_beyond(self, tolerance: float, links: int) -> float:
        """Return where Gamma(n + 1/2, t)/Gamma(n + 1/2), t = (alpha r)^2, is the tolerance."""
        return float(special.gammainccinv(links + 0.5, tolerance)) ** 0.5 / self.alpha


@dataclass(frozen=True)
class Erfc(Kernel):
    """f = erfc(alpha r)/r, the short-ranged part of an Ewald sum.

    Parameters
    ----------
    alpha : float
        Inverse width, > 0.
    """

    code: ClassVar[int] = _chains.ERFC
    alpha: float


@dataclass(frozen=True)
class Thole(Kernel):
    """Coulomb between smeared charges of density 3a/(4 pi) exp(-a r^3) (Thole 1981; AMOEBA).

    f = (1 - exp(-a r^3))/r + a^(1/3) Gamma(2/3, a r^3), so that B_1 = (1 - exp(-a r^3))/r^3.
    Distances are in units of (alpha_i alpha_j)^(1/6): scale positions, or a, by hand.

    Parameters
    ----------
    a : float
        Width, > 0; 0.39 in AMOEBA.
    """

    code: ClassVar[int] = _chains.THOLE
    a: float


@dataclass(frozen=True)
class ReactionField(Kernel):
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

    code: ClassVar[int] = _chains.REACTION_FIELD
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
        """The cutoff, k, A_m, m, A_n, n and C."""
        c, eps, m, n = self.cutoff, self.eps, self.m, self.n
        k = (eps - 1) / ((1 + 2 * eps) * c**3)
        a_m = 3 * c ** -(m + 1) / (m * (n - m)) * (2 * eps + n - 1) / (1 + 2 * eps)
        a_n = 3 * c ** -(n + 1) / (n * (m - n)) * (2 * eps + m - 1) / (1 + 2 * eps)
        shift = 3 * eps / ((1 + 2 * eps) * c) + a_m * c**m + a_n * c**n
        return (c, k, a_m, m, a_n, n, shift)


@dataclass(frozen=True)
class InversePower(Kernel):
    """f = r^-p.

    Parameters
    ----------
    p : float
        Power, > 0, whole or not.
    """

    code: ClassVar[int] = _chains.INVERSE_POWER
    p: float


def kernel_object(kernel) -> Kernel:
    """Return `kernel` if it is a radial kernel.

    Raises
    ------
    TypeError
        If it is anything else; the message lists what there is.
    """
    if isinstance(kernel, Kernel) and kernel.code >= 0:
        return kernel
    names = ", ".join(f"{c.__name__}(...)" for c in Kernel.__subclasses__())
    hint = " (call it)" if isinstance(kernel, type) and issubclass(kernel, Kernel) else ""
    raise TypeError(f"kernel must be one of {names}; got {kernel!r}{hint}")
