"""Whether a tolerance is kept: errors, what they may be at most, rounding, and how to say so."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

# rounding error of a sum, in units of the last digit of its terms
_ROUNDING = 8.0
# a field within so many times the rounding of its terms may be nothing but rounding
_NOISE = 64.0
# a field so many tolerances smaller than its terms nearly vanishes, by symmetry perhaps
_VANISHES = 0.1
_EPSILON = float(np.finfo(np.float64).eps)
# of results in float32: the least tolerance that counts, and the root mean square of the rounding
ROUNDED, LAST = 1.2e-7, 3e-8


@dataclass(frozen=True)
class Verdict:
    """What is known of the error of a field; arrays (n_groups, order + 1, n_channels or 1).

    All are in the same units, which may differ from order to order.

    Parameters
    ----------
    errors, bounds : ndarray
        Root mean square error as measured, and what it may be at most.
    norms : ndarray
        Root mean square of the field.
    terms : ndarray
        Root mean square of its terms, see `Probe.terms`.
    tolerance : float
        What is asked.
    last : float
        Relative error by which the result is rounded.
    """

    errors: np.ndarray
    bounds: np.ndarray
    norms: np.ndarray
    terms: np.ndarray
    tolerance: float
    last: float = 0.0

    @property
    def rounding(self) -> np.ndarray:
        """What rounding does to any sum of these terms in float64."""
        return _ROUNDING * _EPSILON * self.terms

    @property
    def is_noise(self) -> bool:
        """Whether all of the field, where it is not as good as asked, may be rounding."""
        missed = self.relative(self.bounds) > self.tolerance
        return bool(np.all(~missed | (self.norms <= _NOISE * self.rounding)))

    @cached_property
    def typical(self) -> float:
        """Largest measured error, in units of what is allowed."""
        return self._share(self.errors)

    @cached_property
    def worst(self) -> float:
        """Largest bound, in units of what is allowed."""
        return self._share(self.bounds)

    @property
    def kept(self) -> bool:
        """Whether the sum is as good as asked, or as any sum of these terms can be."""
        return self.worst <= 1.0

    def _share(self, errors: np.ndarray) -> float:
        if not np.isfinite(self.norms).all():
            return np.inf
        # the rounding that `relative` adds to an error is taken off what is allowed
        left = (self.tolerance**2 - self.last**2) * self.norms**2 - self.rounding**2
        allowed = np.maximum(np.sqrt(np.maximum(left, 0.0)), self.rounding)
        shares = np.divide(errors, allowed, out=np.zeros(np.broadcast(errors, allowed).shape),
                           where=(errors > 0) | ~np.isfinite(errors))  # fmt: skip
        return float(shares.max(initial=0.0)) if not np.isnan(shares).any() else np.inf

    def relative(self, errors: np.ndarray) -> np.ndarray:
        """Return errors, with rounding, over the field; zero where it is zero and nothing is lost.

        A field smaller than the rounding of its terms cannot be told from zero: all of it is error.
        """
        whole = np.hypot(errors, self.rounding)
        zero = self.norms == 0
        # nothing is small against infinity
        lost = zero & (np.broadcast_to(errors, zero.shape) > 0) | ~np.isfinite(self.norms)
        shares = whole / np.where(zero | lost, 1.0, self.norms)
        return np.where(lost, np.inf, np.where(zero, 0.0, np.hypot(shares, self.last)))

    def message(self, sampled: int) -> str:
        """Return what to warn of; empty if the tolerance is kept."""
        bounds = self.relative(self.bounds)
        if np.all(bounds <= self.tolerance):
            return ""
        errors = self.relative(self.errors)
        largest = np.unravel_index(int(np.nanargmax(np.where(np.isnan(bounds), np.inf, bounds))),
                                 bounds.shape)  # fmt: skip
        if not np.isfinite(self.norms[largest]):
            return (
                f"the field of order {largest[1]} is not finite: moments are not, or terms of its "
                "sum left the range of float64"
            )
        with np.errstate(divide="ignore", invalid="ignore"):  # of a field that is zero
            lost = np.broadcast_to(self.terms, bounds.shape)[largest] / self.norms[largest]
        reason = ""
        if lost * self.tolerance > _VANISHES:
            reason = f"; the terms of the sum are {lost:.0e} times as large as the field"
        if _ROUNDING * _EPSILON * lost > 0.5 * self.tolerance:
            reason = (
                f"; the terms of the sum are {lost:.0e} times as large as the field, and no sum in "
                "float64 keeps more digits"
            )
        where = "rounding alone" if not sampled else f"{sampled} targets"
        return (
            f"the tolerance {self.tolerance:g} was missed: the relative error of order "
            f"{largest[1]} is {errors[largest]:.1e}, and at most {bounds[largest]:.1e}, by {where}"
            + reason
        )


def zeros(tolerance: float, order: int) -> Verdict:
    """Return the verdict on a field of nothing."""
    none = np.zeros((1, order + 1, 1))
    return Verdict(none, none, none, none, tolerance)
