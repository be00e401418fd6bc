"""Calibration of a committee: how wide its spread must be to hold the errors that it should."""

from collections.abc import Sequence
from math import erf, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from gnn.data.systems import Frame
from gnn.training.committee import SPREADS, Committee
from gnn.training.frames.loader import Frames
from gnn.training.report.tables import TITLES

Array = NDArray[np.float64]

#: Share of a normal distribution within one standard deviation.
ONE_SIGMA = erf(1 / sqrt(2))
#: Frames with a label below which no factor is fitted: the share would be known to 15 % only.
FEWEST = 10
_ALIKE = 10.0  # a factor beyond which the members have nearly all of their errors in common
_LARGEST = 1e3  # … and beyond which they agree but for rounding
_AT_ONCE = 256  # frames held at once


def calibrate(committee: Committee, frames: Frames) -> list[str]:
    """Scale a committee's spread so that one standard deviation holds 68 % of the errors.

    Energies count per system, forces and dipoles per component; each quantity has one factor.

    Parameters
    ----------
    committee
        Gets the factors, in place of those it had.
    frames
        Labelled frames that no member has learned from.

    Returns
    -------
    list of str
        Lines that say what was fitted, and why a quantity was not.
    """
    committee.factors = {}
    found: dict[str, list[tuple[Array, Array]]] = {name: [] for name in SPREADS}
    for start in range(0, len(frames), _AT_ONCE):
        part = [frames[i] for i in range(start, min(start + _AT_ONCE, len(frames)))]
        for result, frame in zip(committee.evaluate(part), part, strict=True):
            for name, labelled in found.items():
                spread, error = spreads_and_errors([result], [frame], name)
                if len(error):
                    labelled.append((spread, error))
    factors, refused = {}, []
    for name, labelled in found.items():
        if not labelled:
            refused.append(f"{TITLES[name]} (no such label)")
        elif len(labelled) < FEWEST:
            refused.append(f"{TITLES[name]} (in {len(labelled)} frames, {FEWEST} are needed)")
        elif factor := factor_of(*(np.concatenate(part) for part in zip(*labelled, strict=True))):
            factors[name] = factor
        else:
            refused.append(f"{TITLES[name]} (the spread does not go with the errors)")
    committee.factors = factors
    lines = [f"{calibration_line(committee)} ({len(frames)} validation frames)"]
    if refused:
        lines.append(f"no factor was fitted: {', '.join(refused)}")
    if alike := [TITLES[name] for name, factor in factors.items() if factor > _ALIKE]:
        lines.append(
            f"{', '.join(alike)}: the members differ by less than a tenth of their errors, which "
            "a scaled spread does not mend: it says little of where they are wrong"
        )
    return lines


def factor_of(spread: Array, error: Array) -> float | None:
    """Return what a spread is to be multiplied by, so that one sigma holds 68 % of the errors.

    None where no factor does that: errors that are zero, or members that agree on what is wrong.
    """
    factor = float(np.quantile(_ratios(spread, error), ONE_SIGMA, method="higher"))
    return factor if 0 < factor < _LARGEST else None


def reliability(spread: Array, error: Array, expected: Array) -> Array:
    """Return the shares of errors within the widths that hold `expected` shares of a normal one."""
    ratios = np.sort(_ratios(spread, error))
    widths = norm.ppf(0.5 + 0.5 * np.asarray(expected))
    shares: Array = np.searchsorted(ratios, widths, side="right") / len(ratios)
    return shares


def _ratios(spread: Array, error: Array) -> Array:
    """Return errors in units of the spread; infinity where there is none, 0 for no error."""
    size = np.abs(error)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(size == 0, 0.0, size / spread)


def spreads_and_errors(
    results: Sequence[dict[str, Any]], frames: Sequence[Frame], quantity: str
) -> tuple[Array, Array]:
    """Return standard deviations and errors of one quantity, component by component.

    Empty where the frames have no such label.
    """
    spreads, errors = [np.zeros(0)], [np.zeros(0)]
    for result, frame in zip(results, frames, strict=True):
        label = getattr(frame, quantity)
        if label is not None and f"{quantity}_std" in result:
            spreads.append(np.ravel(result[f"{quantity}_std"]))
            errors.append(np.ravel(np.asarray(result[quantity]) - label))
    return np.concatenate(spreads), np.concatenate(errors)


def calibration_line(committee: Committee) -> str:
    """Return in words how a committee's spread was scaled."""
    told = ", ".join(f"{TITLES[k]} × {factor:.3g}" for k, factor in committee.factors.items())
    if not told:
        return "the spread is not calibrated: it is that of the members, which may be far too small"
    line = f"the spread is scaled so that one sigma held 68 % of the validation errors: {told}"
    others = [TITLES[k] for k in SPREADS if k not in committee.factors]
    return line + (f"; not calibrated: {', '.join(others)}" if others else "")
