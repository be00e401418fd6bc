"""Free energies along a variable, from umbrella windows (by pymbar) or metadynamics."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gnn.engines.embedding.images import Array
from gnn.engines.runs.analysis import read_log
from gnn.engines.runs.checkpoint import read_checkpoint
from gnn.engines.sampling.bias import column_of, harmonic, read_arrays
from gnn.engines.sampling.plan import PLAN, BiasPlan, UmbrellaPlan, read_plan, unit_of
from gnn.units import GAS_CONSTANT
from multipoles.files import atomic_write

#: Overlap of neighbouring windows, and independent samples of each, below which it is warned.
LEAST_OVERLAP, LEAST_SAMPLES = 0.03, 10


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
    thinned = [independent(v, c, turns) for v, c in zip(windows, centres, strict=True)]
    counts, values = np.array([len(v) for v in thinned]), np.concatenate(thinned)
    beta = 1 / (GAS_CONSTANT * temperature)
    biases = [harmonic(values, c, plan.force_constant, unit, turns) for c in centres]
    mbar = pymbar.MBAR(beta * np.array(biases), counts)
    if turns:
        values = (values + 180) % 360 - 180
    ends = (-180.0, 180.0) if turns else (float(values.min()), float(values.max()))
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
    beside = [overlap[a, b] for a, b in pairwise(order)]
    smallest = float(min(beside)) if beside else 0.5
    return FreeEnergy(0.5 * (edges[1:] + edges[:-1]), free, errors, counts, smallest)


def independent(values: Array, centre: float, turns: bool) -> Array:
    """Return values as far apart in time as they are correlated."""
    from pymbar import timeseries

    away = (values - centre + 180) % 360 - 180 if turns else values - centre
    if len(values) < 4 or np.ptp(away) == 0:
        return values
    inefficiency = timeseries.statistical_inefficiency(away)
    kept: Array = values[timeseries.subsample_correlated_data(away, g=inefficiency)]
    return kept


def _pymbar() -> Any:
    said = logging.getLogger("pymbar")
    level = said.level
    said.setLevel(logging.ERROR)  # it advertises a package
    try:
        import pymbar
        import pymbar.timeseries
    except ImportError:
        raise ImportError("free energies need the package pymbar: pip install pymbar") from None
    finally:
        said.setLevel(level)
    return pymbar


def free_energy_of_run(folder: Path, discard: float = 0.1, bins: int = 36) -> FreeEnergy:
    """Return the free energy that the umbrella windows or the metadynamics of a run gave.

    Parameters
    ----------
    folder
        Of the run, as ``anisole md --bias`` leaves it.
    discard
        Share of each log that is left out at its beginning.
    bins
        Of umbrella windows, as in `umbrella_free_energy`.

    Raises
    ------
    ImportError
        Without pymbar, for umbrella windows.
    OSError
        If the folder holds no such run.
    ValueError
        If the run had no umbrella and no metadynamics of one variable, or a log is missing.
    """
    plan = read_plan(folder / PLAN)
    if not 0 <= discard < 1:
        raise ValueError(f"expected to discard a share from 0 to 1, got {discard:g}")
    if plan.metadynamics is not None:
        return metadynamics_free_energy(folder, plan)
    if plan.umbrella is None:
        raise ValueError(f"{folder}: the run had neither umbrella windows nor metadynamics")
    name = plan.umbrella.variable
    kind, windows = plan.variables[name].kind, []
    for i in range(plan.windows):
        path = folder / f"replica_{i}" / "log.csv"
        if not path.is_file():
            raise ValueError(f"expected a log of each of {plan.windows} windows, {path} is missing")
        values = read_log(path)[column_of(name, unit_of(kind))]
        windows.append(values[max(1, round(discard * len(values))) :])
    return umbrella_free_energy(
        windows,
        plan.umbrella,
        _temperature(folder / "replica_0" / "checkpoint.npz"),
        unit=unit_of(kind),
        turns=kind == "torsion",
        bins=bins,
    )


def metadynamics_free_energy(folder: Path, plan: BiasPlan) -> FreeEnergy:
    """Return the free energy of a metadynamics of one variable, from the bias at checkpoints.

    Errors are those of the mean over replicas, NaN of one run alone: how well the bias of one run
    has settled, it does not say itself.

    Raises
    ------
    ValueError
        If there are several variables, or no checkpoint.
    """
    assert plan.metadynamics is not None  # for the type checker
    if len(plan.metadynamics.variables) > 1:
        raise ValueError(
            f"expected metadynamics of one variable, got {list(plan.metadynamics.variables)}: the "
            "bias of several is in the checkpoints (bias, kJ/mol)"
        )
    paths = sorted(folder.glob("replica_*/checkpoint.npz")) or [folder / "checkpoint.npz"]
    biases = [read_arrays(path)["bias"] for path in paths if path.is_file()]
    if not biases:
        raise ValueError(f"{folder} holds no checkpoint of metadynamics")
    grid = next(iter(plan.metadynamics.variables.values()))
    factor = plan.metadynamics.bias_factor
    free = -np.array(biases) * factor / (factor - 1)
    lowest = int(np.argmin(free.mean(axis=0)))
    free -= free[:, lowest, None]
    errors = np.full(free.shape[1], np.nan)
    if len(free) > 1:
        errors = free.std(axis=0, ddof=1) / len(free) ** 0.5
    points = np.linspace(grid.minimum, grid.maximum, free.shape[1])
    return FreeEnergy(points, free.mean(axis=0), errors, np.ones(len(free)), np.nan)


def _temperature(checkpoint: Path) -> float:
    record, _ = read_checkpoint(checkpoint)
    return float(record["settings"]["temperature"])


def write_free_energy(path: Path, found: FreeEnergy, plan: BiasPlan) -> None:
    """Write a table of values and errors, and beside it a picture (.png)."""
    from matplotlib.figure import Figure

    name, unit = variable_of_plan(plan)
    rows = zip(found.centres, found.values, found.errors, strict=True)
    lines = [f"{column_of(name, unit)},free_energy_kj_mol,error_kj_mol"]
    lines += [",".join(f"{number:.8g}" for number in row) for row in rows]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.errorbar(found.centres, found.values, np.nan_to_num(found.errors), capsize=2)
    axis.set(xlabel=f"{name} / {unit}", ylabel="free energy / kJ/mol")
    with atomic_write(path.with_suffix(".png")) as temporary:
        figure.savefig(temporary, dpi=150)


def variable_of_plan(plan: BiasPlan) -> tuple[str, str]:
    """Return the name and unit of the variable that an umbrella or metadynamics moves."""
    if plan.umbrella is not None:
        name = plan.umbrella.variable
    elif plan.metadynamics is not None:
        name = next(iter(plan.metadynamics.variables))
    else:
        raise ValueError("the plan has neither umbrella nor metadynamics")
    return name, unit_of(plan.variables[name].kind)


def warn_of_windows(found: FreeEnergy) -> None:
    """Warn where windows hardly overlap, or have few independent samples."""
    if found.overlap < LEAST_OVERLAP:
        warnings.warn(
            f"neighbouring windows overlap by {found.overlap:.2g} only, and errors below "
            f"{LEAST_OVERLAP:g} are too small: put windows between, or use a weaker force constant",
            stacklevel=2,
        )
    if found.samples.min() < LEAST_SAMPLES:
        warnings.warn(
            f"a window has {found.samples.min():.0f} independent samples, and errors of fewer than "
            f"{LEAST_SAMPLES} are guesses: use more --steps",
            stacklevel=2,
        )
