"""What all radial kernels share: checked parameters, units, the chain, and the registry of all."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from math import inf, isfinite
from typing import Any, ClassVar

import numpy as np

from multipoles import checks
from multipoles.compiled.native import address_of_chain
from multipoles.indexing import MAX_TOTAL_ORDER

KINDS: dict[int, type["Kernel"]] = {}
"""All classes of kernels that have a chain of their own, by their codes."""
CUSTOM = 64
"""Codes from here on are those of users' kernels, in the order in which the classes were made."""
# `next` of it is one step for all threads
_codes = itertools.count(CUSTOM)

# the greatest screening parameter whose square is finite: with a greater one, a kernel has decayed
# to zero at any distance whose square is a normal number
_LARGEST = 2.0**511
# distances whose squares lose no digits
_SQUARES_FROM, _SQUARES_TO = 2.0**-511, 2.0**511
# other distances are brought to this binary exponent, or its negative
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
    """What all radial kernels share; use one of the subclasses, or write one.

    A subclass is a frozen dataclass with its parameters, numbers > 0, as fields, and one static
    method, ``write_chain(r2, parameters, last, out)``: for the square ``r2`` > 0 of one distance it
    writes B_0 ... B_last of ``B_(n+1) = -1/r dB_n/dr``, B_0 = f, to ``out[0] ... out[last]``. Numba
    compiles it when it is first used; ``parameters`` are the fields in their order, and all are
    float64 (on a GPU, of the type of the sum).

    Examples
    --------
    >>> import math
    >>> from dataclasses import dataclass
    >>> import multipoles as mp
    >>> @dataclass(frozen=True)
    ... class Gaussian(mp.Kernel):
    ...     width: float
    ...
    ...     @staticmethod
    ...     def write_chain(r2, parameters, last, out):
    ...         inverse = 1.0 / parameters[0] ** 2
    ...         out[0] = math.exp(-r2 * inverse)
    ...         for n in range(last):
    ...             out[n + 1] = 2.0 * inverse * out[n]
    >>> kernel = Gaussian(2.0)
    >>> mp.check_kernel(kernel) < 1e-6
    True
    >>> float(kernel.chain(2.0, 1)[1].round(6))
    0.18394
    """

    code: ClassVar[int] = -1
    internal: ClassVar[bool] = False  # whether it is a part of sums, and nothing users ask for
    write_chain: ClassVar[Callable[..., None]]

    def __init_subclass__(cls, code: int | None = None, **options: Any) -> None:
        """Enter a class with a chain of its own in the registry; kernels of ours name their code.

        The chains of ours are compiled functions of three arguments more, see `multipoles.radial`.
        """
        super().__init_subclass__(**options)
        if "write_chain" not in vars(cls):
            return
        if cls.code >= 0:
            raise TypeError(
                f"{cls.__name__}: a kernel with a chain of its own is derived from Kernel itself, "
                f"not from {cls.__base__.__name__ if cls.__base__ else 'another'}, whose units and "
                "limits are not its own"
            )
        cls.code = next(_codes) if code is None else code
        KINDS[cls.code] = cls

    def __post_init__(self) -> None:
        if self.is_custom and "__dataclass_fields__" not in vars(type(self)):
            raise TypeError(f"{type(self).__name__}: decorate the class, @dataclass(frozen=True)")
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
        """What loops take: the parameters as float64 array, made once; an empty set is one zero.

        With a user's kernel, its unit of length and the address of its function come behind them.
        """
        numbers = self.parameters or (0.0,)
        if self.is_custom:
            function = KINDS[self.code].write_chain
            numbers = (*self.parameters, self._unit, float(address_of_chain(function)))
        array = np.array(numbers, dtype=np.float64)
        array.flags.writeable = False
        return array

    @property
    def is_custom(self) -> bool:
        """Whether the class is a user's."""
        return self.code >= CUSTOM

    @property
    def _unit(self) -> float:
        return 1.0

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: no address, which other processes do not have."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

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
        if made is None or any(0 < number < _TINY for number in made._lengths):
            raise ValueError(
                f"{self}: its parameters leave the range of float64 with lengths multiplied by "
                f"{factor:.3g}; use a unit of length nearer to that of the coordinates"
            )
        return made

    def _scaled(self, factor: float) -> "Kernel":
        return InUnits(self, factor)

    @property
    def _lengths(self) -> tuple[float, ...]:
        """Numbers that change with the unit of length."""
        return tuple(getattr(self, field.name) for field in fields(self))

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

    def negligible_beyond(self, tolerance: float, links: int) -> float:
        """Return the distance beyond which the sum over all images may be left out.

        Parameters
        ----------
        tolerance : float
            Share of the whole that does not matter.
        links : int
            Last link of the chain for which this is to hold.

        Returns
        -------
        float
            Infinity if the kernel does not decay fast enough.
        """
        return inf

    def chain(self, r: Any, n_max: int) -> np.ndarray:
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
        n_max = checks.order(n_max, "n_max", maximum=MAX_TOTAL_ORDER)
        if np.any(distances < 0):
            raise ValueError(f"r: expected distances >= 0, got {distances.min():g}")
        flat = distances.ravel()
        out = kernel_object(self)._chain_of_many(flat, n_max)
        extreme = (flat > 0) & ((flat < _SQUARES_FROM) | (flat > _SQUARES_TO))
        if extreme.any():
            self._chain_of_extremes(flat, extreme, out)
        return out.reshape(*distances.shape, n_max + 1)

    def _chain_of_many(self, r: np.ndarray, n_max: int) -> np.ndarray:
        # late: it imports all kernels, and these this class
        from multipoles.radial.dispatch import chain_of_many

        out = np.empty((r.size, n_max + 1))
        chain_of_many(self.code, self.parameter_array, r, out)
        return out

    def _chain_of_extremes(self, r: np.ndarray, extreme: np.ndarray, out: np.ndarray) -> None:
        """Write the chains of distances whose squares are no numbers, in units of their own."""
        steps = 2 * np.arange(out.shape[1]) + 1
        exponents = np.frexp(r)[1]
        for exponent in np.unique(exponents[extreme]):
            # no further than needed, so that the kernel's own lengths stay in range
            length = int(np.clip(exponent, -_FAR, _FAR) - exponent)
            those = np.flatnonzero(extreme & (exponents == exponent))
            near_one = np.ldexp(r[those], length)
            block = self.scaled(2.0**length)._chain_of_many(near_one, out.shape[1] - 1)
            with np.errstate(over="ignore", under="ignore"):
                out[those] = np.ldexp(block, length * steps)


@dataclass(frozen=True)
class InUnits(Kernel):
    """f(r/unit)/unit: a user's kernel with all lengths multiplied by `unit`."""

    kernel: Kernel
    unit: float

    def __post_init__(self) -> None:
        if not 0 < self.unit < inf:
            raise ValueError(f"unit must be finite and > 0, got {self.unit:g}")

    @property
    def code(self) -> int:  # type: ignore[override]
        """The kernel's own."""
        return self.kernel.code

    @property
    def parameters(self) -> tuple[float, ...]:
        """The kernel's own."""
        return self.kernel.parameters

    @property
    def power(self) -> float:
        """The kernel's own."""
        return self.kernel.power

    @property
    def _unit(self) -> float:
        return self.unit

    @property
    def _lengths(self) -> tuple[float, ...]:
        return (self.unit,)

    def _scaled(self, factor: float) -> Kernel:
        unit = self.unit * factor
        return self.kernel if unit == 1 else InUnits(self.kernel, unit)

    def coulomb_beyond(self, tolerance: float, links: int) -> float:
        """Return the kernel's own distance in this unit."""
        return self.kernel.coulomb_beyond(tolerance, links) * self.unit

    def negligible_beyond(self, tolerance: float, links: int) -> float:
        """Return the kernel's own distance in this unit."""
        return self.kernel.negligible_beyond(tolerance, links) * self.unit


def scaled_inverse_length(value: float, factor: float = 1.0) -> float:
    """Return an inverse length with lengths multiplied by `factor`, no greater than matters."""
    return min(value / factor, _LARGEST)


def scaled_length(value: float, factor: float) -> float:
    """Return a length with lengths multiplied by `factor`, no smaller than matters."""
    return max(value * factor, _TINY)


def kernel_object(kernel: Any) -> Kernel:
    """Return `kernel` if it is a radial kernel.

    Raises
    ------
    TypeError
        If it is anything else, or its class has no chain; the message lists what there is.
    """
    if isinstance(kernel, Kernel):
        if kernel.code in KINDS:
            return kernel
        raise TypeError(
            f"{type(kernel).__name__} has no chain: expected a static method write_chain(r2, "
            "parameters, last, out) in the class of a kernel"
        )
    names = ", ".join(
        f"{kind.__name__}(...)"
        for code, kind in KINDS.items()
        if code < CUSTOM and not kind.internal
    )
    hint = " (call it)" if isinstance(kernel, type) and issubclass(kernel, Kernel) else ""
    raise TypeError(f"kernel must be one of {names}, or of a class of yours; got {kernel!r}{hint}")
