"""The uncertainty of a committee: its spread compared with its errors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from gnn.data.systems import Frame
from gnn.training.calibration import reliability, spreads_and_errors
from gnn.training.report.metrics import QUANTITIES
from gnn.training.report.plots import pyplot, save_figure
from gnn.training.report.tables import TITLES, plain_table

_SIGMAS = (1.0, 2.0)
_SHARES = np.linspace(0.01, 0.99, 50)
_LITTLE = 0.1  # ratio of spread to error below which the spread is too small


def has_spread(results: Sequence[dict[str, Any]]) -> bool:
    """Tell whether results come from a committee."""
    return bool(results) and "energy_std" in results[0]


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
    """Draw errors against standard deviations, and below them how many errors these hold.

    Above are lines of one and two sigma. Below, the share of errors within the width that holds a
    share of a normal distribution; on the diagonal the spread is what it should be.
    """
    drawn = []
    for quantity, (unit, factor) in QUANTITIES.items():
        spread, error = spreads_and_errors(results, frames, quantity)
        if len(error):
            drawn.append((quantity, unit, factor * spread, factor * np.abs(error)))
    plt = pyplot()
    figure, axes = plt.subplots(2, len(drawn), figsize=(3.6 * len(drawn), 6.6), squeeze=False)
    for axis, (_, _, spread, error) in zip(axes[1], drawn, strict=True):
        axis.plot([0, 1], [0, 1], color="0.6", lw=1)
        axis.plot(_SHARES, reliability(spread, error, _SHARES), color="#0b6e8a")
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="expected share", ylabel="observed share")
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
