"""Free energies along a variable, from umbrella windows (by pymbar) or metadynamics."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gnn.engines.embedding.images import Array
from gnn.engines.runs.analysis import read_log
from gnn.engines.sampling.bias import column_of, harmonic
from gnn.engines.sampling.plan import BiasPlan, UmbrellaPlan
from gnn.units import GAS_CONSTANT


@dataclass(frozen=True, eq=False)
class FreeEnergy:
    """A free energy along one variable.

    Attributes
    ----------
    centres
        Of the bins in Å or degrees, (b,).
    values, errors
        Free energy in kJ/mol, zero at the lowest, and its standard error beside that bin, (b,);
        NaN where no sample fell.
    samples
        Number of samples that count as independent, of each window, (w,).
    overlap
        Smallest overlap of neighbouring windows, 0 to 1/2 (of two windows that are the same).
    """

    centres: Array
    values: Array
    errors: Array
    samples: Array
    overlap: float


def umbrella_free_energy(
    windows: Sequence[Array],
    plan: UmbrellaPlan,
    temperature: float,
    *,
    unit: str,
    turns: bool,
    bins: int = 36,
) -> FreeEnergy:
    """Return the free energy along the variable of an umbrella, by MBAR.

    Samples are thinned by their statistical inefficiency before, so that errors are those of
    independent ones.

    Parameters
    ----------
    windows
        Values of the variable in each window, in Å or degrees, (n,) each, at equal times.
    plan : UmbrellaPlan
        Centres and force constant.
    temperature
        In K, of all windows.
    unit, turns
        Of the variable: "degrees" or "Å"; whether it is a torsion.
    bins
        Number of them, over the range of the values, or all of a torsion.

    Raises
    ------
    ImportError
        Without pymbar.
    ValueError
        If the number of windows is another than in the plan, one is empty or not finite, or
        neighbouring windows do not overlap at all.

    References
    ----------
    Shirts & Chodera, J. Chem. Phys. 129, 124105 (2008).
    """
    pymbar = _pymbar()
    centres = plan.windows
    if len(windows) != len(centres):
        raise ValueError(f"expected {len(centres)} windows, got {len(windows)}")
    for i, values in enumerate(windows):
        if not len(values) or not np.isfinite(values).all():
            raise ValueError(f"window {i}: expected finite values, got {len(values)} with others")
    thinned = [_independent(v, c, turns) for v, c in zip(windows, centres, strict=True)]
    counts, values = np.array([len(v) for v in thinned]), np.concatenate(thinned)
    beta = 1 / (GAS_CONSTANT * temperature)
    biases = [harmonic(values, c, plan.force_constant, unit, turns) for c in centres]
    mbar = pymbar.MBAR(beta * np.array(biases), counts)
    if turns:
        values = (values + 180) % 360 - 180
    ends = (-180.0, 180.0) if turns else (float(values.min()), float(np.nextafter(values.max(), np.inf)))
    return _profile(mbar, values, np.linspace(*ends, bins + 1), counts, beta, centres)


def _profile(
    mbar: Any, values: Array, edges: Array, counts: Array, beta: float, centres: Sequence[float]
) -> FreeEnergy:
    """Return free energies of bins: differences of indicator functions' means, with errors."""
    which = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    filled = np.unique(which)
    # a bin is a state whose reduced energy is 0 inside and infinite outside
    reduced = np.where(which == filled[:, None], 0.0, 1e4)
    found = mbar.compute_perturbed_free_energies(reduced)
    middle = int(np.argmin(found["Delta_f"][0]))
    free, errors = (np.full(len(edges) - 1, np.nan) for _ in range(2))
    free[filled] = found["Delta_f"][middle] / beta
    errors[filled] = found["dDelta_f"][middle] / beta
    overlap = mbar.compute_overlap()["matrix"]
    order = np.argsort(centres)
    beside = [overlap[a, b] for a, b in zip(order[:-1], order[1:], strict=True)]
    smallest = float(min(beside)) if beside else 0.5
    return FreeEnergy(0.5 * (edges[1:] + edges[:-1]), free, errors, counts, smallest)


def _independent(values: Array, centre: float, turns: bool) -> Array:
    """Return values as far apart in time as they are correlated."""
    from pymbar import timeseries

    away = (values - centre + 180) % 360 - 180 if turns else values - centre
    if len(values) < 4 or np.ptp(away) == 0:
        return values
    inefficiency = timeseries.statistical_inefficiency(away)
    kept: Array = values[timeseries.subsample_correlated_data(away, g=inefficiency)]
    return kept


def _pymbar() -> Any:
    try:
        import pymbar
    except ImportError:
        raise ImportError("free energies need the package pymbar: pip install pymbar") from None
    return pymbar


def free_energy_of_run(
    folder: Path, plan: BiasPlan, temperature: float, discard: float = 0.1, bins: int = 36
) -> FreeEnergy:
    """Return the free energy along the umbrella's variable from the logs of a run's replicas.

    Parameters
    ----------
    folder
        Holds ``replica_0``, ….
    plan
        Of the run.
    temperature
        In K.
    discard
        Share of each log that is left out at its beginning.
    bins
        As in `umbrella_free_energy`.

    Raises
    ------
    ValueError
        If the plan has no umbrella, or a log is missing.
    """
    if plan.umbrella is None:
        raise ValueError(f"{folder}: the run had no umbrella windows")
    variable = plan.variables[plan.umbrella.variable]
    unit = "degrees" if variable.kind in ("angle", "torsion") else "Å"
    column = column_of(plan.umbrella.variable, unit)
    windows = []
    for i in range(plan.windows):
        path = folder / f"replica_{i}" / "log.csv"
        if not path.is_file():
            raise ValueError(f"expected a log of each of {plan.windows} windows, {path} is missing")
        values = read_log(path)[column]
        windows.append(values[round(discard * len(values)) :])
    turns = variable.kind == "torsion"
    return umbrella_free_energy(
        windows, plan.umbrella, temperature, unit=unit, turns=turns, bins=bins
    )
