"""Radial kernels f(r), each given by its chain B_n(r) = (-1)^n (1/r d/dr)^n f.

A kernel is its chain and nothing more: every derivative of every interaction is built from B_0,
B_1, ..., so all of them are consistent by construction. The objects here hold checked parameters
and name a scalar function in `multipoles.chains`, which the loops call for each pair.

All kernels act between points at a distance r > 0; coincident points contribute nothing.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from math import inf, isfinite
from typing import Any, ClassVar

import numpy as np
from scipy import special

from multipoles import chains, checks

# squares of screening parameters stay numbers below; at any distance whose square is one, a kernel
# of a greater one has decayed long since
_LARGEST = 2.0**511
# distances whose squares lose no digits
_SQUARES_FROM, _SQUARES_TO = 2.0**-511, 2.0**511
# the exponent to which greater and smaller distances are brought
_FAR = 100
_TINY = 2.0**-1022


def _number(value: Any, name: str) -> float:
    """Return a finite number as float; a boolean, text or array is none."""
    try:
        if isinstance(value, bool | np.bool_ | str | bytes) or np.ndim(value):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    except OverflowError:
        raise ValueError(f"{name} must be finite in float64, got an integer beyond") from None
    if not isfinite(number):
        raise ValueError(f"{name} must be finite, got {value}")
    return number


@dataclass(frozen=True)
class Kernel:
    """What all radial kernels share; use one of the subclasses."""

    code: ClassVar[int] = -1

    def __post_init__(self) -> None:
        for field in fields(self):
            number = _number(getattr(self, field.name), f"{type(self).__name__}: {field.name}")
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

    @property
    def power(self) -> float:
        """The power of 1/r that the kernel follows near zero, if it is not screened there."""
        return 1.0

    def scaled(self, factor: float) -> "Kernel":
        """Return the kernel in units of length in which all lengths are `factor` times as large.

        f'(factor r) = f(r)/factor: with coordinates multiplied by `factor` and moments of order j
        by its j-th power, the field of order k is the original times ``factor**-(k + 1)``. With a
        power of two all that is exact.

        Parameters
        ----------
        factor : float
            Finite, > 0.

        Raises
        ------
        TypeError, ValueError
            If `factor` is no such number, or a parameter would leave the range of float64.
        """
        factor = _number(factor, "factor")
        if factor <= 0:
            raise ValueError(f"factor must be > 0, got {factor:g}")
        try:
            made = self._scaled(factor)
        except ValueError:
            made = None
        # below the least normal number digits get lost
        if made is None or any(0 < getattr(made, field.name) < _TINY for field in fields(made)):
            raise ValueError(
                f"{self}: its parameters leave the range of float64 with lengths multiplied by "
                f"{factor:.3g}; use a unit of length nearer to that of the coordinates"
            )
        return made

    def _scaled(self, factor: float) -> "Kernel":
        raise NotImplementedError

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
            float64, shape ``(*r.shape, n_max + 1)``. Links beyond its range are infinite or zero.

        Raises
        ------
        TypeError, ValueError
            If a distance is no number, negative or not finite, or `n_max` no integer in its range.
        """
        distances = checks.real(r, "r").astype(np.float64, copy=False)
        n_max = checks.order(n_max, "n_max", maximum=chains.LONGEST)
        if np.any(distances < 0):
            raise ValueError(f"r: expected distances >= 0, got {distances.min():g}")
        flat = distances.ravel()
        out = np.empty((flat.size, n_max + 1))
        chains.chain_of_many(self.code, self.parameter_array, flat, out)
        extreme = (flat > 0) & ((flat < _SQUARES_FROM) | (flat > _SQUARES_TO))
        if extreme.any():
            self._chain_of_extremes(flat, extreme, out)
        return out.reshape(*distances.shape, n_max + 1)

    def _chain_of_extremes(self, r: np.ndarray, extreme: np.ndarray, out: np.ndarray) -> None:
        """Write the chains of distances whose squares are no numbers, in units of their own."""
        steps = 2 * np.arange(out.shape[1]) + 1
        exponents = np.frexp(r)[1]
        for exponent in np.unique(exponents[extreme]):
            # no further than needed: the kernel's own lengths have to stay numbers
            length = int(np.clip(exponent, -_FAR, _FAR) - exponent)
            those = np.flatnonzero(extreme & (exponents == exponent))
            kernel, block = self.scaled(2.0**length), np.empty((len(those), out.shape[1]))
            chains.chain_of_many(
                kernel.code, kernel.parameter_array, np.ldexp(r[those], length), block
            )
            with np.errstate(over="ignore", under="ignore"):
                out[those] = np.ldexp(block, length * steps)


@dataclass(frozen=True)
class Coulomb(Kernel):
    """f = 1/r."""

    code: ClassVar[int] = chains.COULOMB

    def _scaled(self, factor: float) -> Kernel:
        return self

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

    code: ClassVar[int] = chains.SOFTENED
    cutoff: float
    terms: int = 8

    def _check(self) -> None:
        super()._check()
        if self.terms != int(self.terms) or self.terms > chains.LONGEST + 1:
            raise ValueError(
                f"Softened: terms must be a whole number in 1 … {chains.LONGEST + 1}, "
                f"got {self.terms:g}"
            )
        object.__setattr__(self, "terms", int(self.terms))

    def _scaled(self, factor: float) -> Kernel:
        return Softened(_reach(self.cutoff, factor), self.terms)

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

    code: ClassVar[int] = chains.YUKAWA
    kappa: float

    @property
    def parameters(self) -> tuple[float, ...]:
        """The inverse length, with a square that is a number."""
        return (_screening(self.kappa),)

    def _scaled(self, factor: float) -> Kernel:
        return Yukawa(_screening(self.kappa, factor))


@dataclass(frozen=True)
class Erf(Kernel):
    """f = erf(alpha r)/r: Gaussian charges, or the long-ranged part of an Ewald sum.

    Parameters
    ----------
    alpha : float
        Inverse width, > 0. Two Gaussian charges exp(-a r^2), exp(-b r^2) have
        alpha^2 = a b/(a + b).
    """

    code: ClassVar[int] = chains.ERF
    alpha: float

    @property
    def parameters(self) -> tuple[float, ...]:
        """The inverse length, with a square that is a number."""
        return (_screening(self.alpha),)

    def _scaled(self, factor: float) -> Kernel:
        return Erf(_screening(self.alpha, factor))

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

    code: ClassVar[int] = chains.ERFC
    alpha: float

    @property
    def parameters(self) -> tuple[float, ...]:
        """The inverse length, with a square that is a number."""
        return (_screening(self.alpha),)

    def _scaled(self, factor: float) -> Kernel:
        return Erfc(_screening(self.alpha, factor))


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

    code: ClassVar[int] = chains.THOLE
    a: float

    def _scaled(self, factor: float) -> Kernel:
        return Thole(self.a / factor / factor / factor)


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

    code: ClassVar[int] = chains.REACTION_FIELD
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
        return ReactionField(_reach(self.cutoff, factor), self.eps, self.m, self.n)


@dataclass(frozen=True)
class InversePower(Kernel):
    """f = r^-p.

    Parameters
    ----------
    p : float
        Power, > 0, whole or not.
    """

    code: ClassVar[int] = chains.INVERSE_POWER
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

    code: ClassVar[int] = chains.INVERSE_POWER
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


def _screening(value: float, factor: float = 1.0) -> float:
    """Return an inverse length with lengths multiplied by `factor`, no greater than matters."""
    return min(value / factor, _LARGEST)


def _reach(cutoff: float, factor: float) -> float:
    """Return a cutoff with lengths multiplied by `factor`, no smaller than matters."""
    return max(cutoff * factor, _TINY)


def kernel_object(kernel) -> Kernel:
    """Return `kernel` if it is a radial kernel.

    Raises
    ------
    TypeError
        If it is anything else; the message lists what there is.
    """
    if isinstance(kernel, Kernel) and kernel.code >= 0:
        return kernel
    kernels = (c for c in Kernel.__subclasses__() if not c.__name__.startswith("_"))
    names = ", ".join(f"{c.__name__}(...)" for c in kernels)
    hint = " (call it)" if isinstance(kernel, type) and issubclass(kernel, Kernel) else ""
    raise TypeError(f"kernel must be one of {names}; got {kernel!r}{hint}")
