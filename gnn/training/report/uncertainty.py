"""The uncertainty of a committee: its spread compared with its errors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from gnn.data.systems import Frame
from gnn.training.report.metrics import QUANTITIES
from gnn.training.report.plots import pyplot, save_figure
from gnn.training.report.tables import TITLES, plain_table

_SIGMAS = (1.0, 2.0)
_LITTLE = 0.1  # ratio of spread to error below which the spread is too small


def has_spread(results: Sequence[dict[str, Any]]) -> bool:
    """Tell whether results come from a committee."""
    return bool(results) and "energy_std" in results[0]


def spreads_and_errors(
    results: Sequence[dict[str, Any]], frames: Sequence[Frame], quantity: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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


def spread_rows(results: Sequence[dict[str, Any]], frames: Sequence[Frame]) -> list[dict[str, Any]]:
    """Return, per quantity, how the members scatter and how that goes with the errors.

    Returns
    -------
    list of dict
        ``quantity``, ``unit``; ``spread``, the root mean square of the standard deviations;
        ``rmse`` of the mean; ``correlation``, Spearman's rank correlation between standard
        deviation and absolute error; ``within_1``, ``within_2``, the share of errors within one
        and two standard deviations (of a normal distribution: 0.68, 0.95).
    """
    rows = []
    for quantity, (unit, factor) in QUANTITIES.items():
        spread, error = spreads_and_errors(results, frames, quantity)
        if not len(error):
            continue
        varied = len(error) > 2 and np.ptp(spread) > 0 and np.ptp(np.abs(error)) > 0
        inside = (np.mean(np.abs(error) <= k * spread) for k in _SIGMAS)
        rows.append(
            {
                "quantity": quantity,
                "unit": unit,
                "spread": factor * float(np.sqrt(np.mean(spread**2))),
                "rmse": factor * float(np.sqrt(np.mean(error**2))),
                "correlation": float(spearmanr(spread, np.abs(error))[0]) if varied else np.nan,
                **{f"within_{k:g}": float(share) for k, share in zip(_SIGMAS, inside, strict=True)},
            }
        )
    return rows


def doubt(rows: Sequence[dict[str, Any]]) -> str:
    """Return a warning where the members agree with each other, but not with the labels."""
    agreeing = [row for row in rows if row["spread"] < _LITTLE * row["rmse"]]
    if not agreeing:
        return ""
    told = ", ".join(
        f"{TITLES[row['quantity']]} {row['spread']:.3g} beside {row['rmse']:.3g} {row['unit']}"
        for row in agreeing
    )
    return (
        f"the members agree on what is wrong (spread beside error: {told}): here their spread "
        "says nothing of the error"
    )


def spread_table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the rows as a table for the terminal."""
    table = plain_table("How the members disagree, and how wrong their mean is")
    for name in ("", "spread", "RMSE", "rank\ncorrelation", "within\n1 σ", "within\n2 σ"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            f"{TITLES[row['quantity']]} / {row['unit']}",
            f"{row['spread']:.2f}",
            f"{row['rmse']:.2f}",
            "–" if np.isnan(row["correlation"]) else f"{row['correlation']:.2f}",
            f"{100 * row['within_1']:.0f} %",
            f"{100 * row['within_2']:.0f} %",
        )
    return table


def spread_picture(
    results: Sequence[dict[str, Any]], frames: Sequence[Frame], path: str | Path
) -> None:
    """Draw absolute errors against standard deviations, with the lines of one and two sigma."""
    drawn = []
    for quantity, (unit, factor) in QUANTITIES.items():
        spread, error = spreads_and_errors(results, frames, quantity)
        if len(error):
            drawn.append((quantity, unit, factor * spread, factor * np.abs(error)))
    plt = pyplot()
    figure, axes = plt.subplots(1, len(drawn), figsize=(3.6 * len(drawn), 3.4), squeeze=False)
    for axis, (quantity, unit, spread, error) in zip(axes[0], drawn, strict=True):
        shown = np.linspace(0, len(error) - 1, min(len(error), 4000)).astype(int)
        floor = max(float(np.quantile(error, 0.02)), 1e-6)
        error = np.maximum(error, floor)
        axis.loglog(spread[shown], error[shown], ".", ms=2, alpha=0.4, color="#0b6e8a")
        positive = spread[spread > 0] if (spread > 0).any() else np.ones(1)
        line = np.array([positive.min(), positive.max()])
        for k, style in zip(_SIGMAS, ("-", ":"), strict=True):
            axis.loglog(line, k * line, style, color="0.4", lw=1, label=f"{k:g} σ")
        axis.set(xlabel=f"spread / {unit}", ylabel=f"|error| / {unit}", title=TITLES[quantity])
        axis.legend(frameon=False)
    save_figure(figure, path)
