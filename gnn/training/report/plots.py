"""Pictures of a training run: learning curve, parity, error bars beside the baselines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gnn.training.report.metrics import QUANTITIES, Comparison
from gnn.training.report.tables import TITLES
from multipoles.files import atomic_write

BLUE, ORANGE, GREY = "#1f5f8b", "#e07a2f", "#9aa5b1"
COLORS = ("#1f5f8b", "#e07a2f", "#3d9970", "#8e5ea2", "#b5838d", "#6c757d")
_NAMED = 8  # molecules of a legend, at most


def pyplot() -> Any:
    """Return matplotlib.pyplot in the style of all pictures, for files."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "legend.frameon": False,
            "figure.dpi": 100,
            "savefig.dpi": 150,
        }
    )
    return plt


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a figure whole or not at all, and close it."""
    import matplotlib.pyplot as plt

    figure.tight_layout()
    with atomic_write(path) as temporary:
        figure.savefig(temporary)
    plt.close(figure)


def learning_curve(history: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Draw training and validation loss, and validation errors, against time."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    seconds = [row["seconds"] for row in history]
    left.plot(seconds, [row["train_loss"] for row in history], color=GREY, lw=1, label="training")
    checked = [row for row in history if row.get("validation_loss") is not None]
    times = [row["seconds"] for row in checked]
    if checked:
        loss = [row["validation_loss"] for row in checked]
        style = _line(loss, BLUE)
        left.plot(times, loss, **style, label="validation (averaged weights)")
    for name, color in zip(("energy", "forces", "mm_forces"), COLORS, strict=False):
        key, unit = f"validation_{name}_rmse", QUANTITIES[name][0]
        known = [(row["seconds"], row[key]) for row in checked if row.get(key) is not None]
        if known:
            right.plot(
                *zip(*known, strict=True), **_line(known, color), label=f"{TITLES[name]} / {unit}"
            )
    left.set(title="Loss", xlabel="training time / s", ylabel="weighted mean squared error")
    right.set(title="Validation RMSE", xlabel="training time / s", ylabel="RMSE")
    for axis in (left, right):
        axis.set_yscale("log")
        if axis.lines:
            axis.legend()
        axis.grid(alpha=0.25, which="both", lw=0.5)
    save_figure(figure, path)


def _line(points: Sequence[Any], color: str) -> dict[str, Any]:
    """Return the style of a line, with a mark where it would be one point."""
    return {"color": color, "lw": 1.8, "marker": "o" if len(points) == 1 else None}


def parity(comparison: Comparison, path: str | Path, title: str = "") -> None:
    """Draw predicted against reference energies, QM forces and MM forces; else dipoles."""
    plt = pyplot()
    shown = _drawable(comparison)
    figure, axes = plt.subplots(1, len(shown), figsize=(3.7 * len(shown), 3.7), squeeze=False)
    for axis, quantity in zip(axes[0], shown, strict=True):
        if quantity == "energy":
            _energy_parity(axis, comparison)
        else:
            _density_parity(axis, *comparison.values(quantity))
        errors = comparison.errors(quantity)
        assert errors is not None  # only such are shown
        unit = QUANTITIES[quantity][0]
        text = f"MAE {errors.mae:.1f} {unit}\nRMSE {errors.rmse:.1f} {unit}"
        axis.text(0.05, 0.95, text, transform=axis.transAxes, va="top")
        axis.set_title(TITLES[quantity])
        unit = {"energy": "eV", "dipole": "e Å", "stress": "eV/Å³"}.get(quantity, "eV/Å")
        axis.set(xlabel=f"reference / {unit}", ylabel=f"predicted / {unit}")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    save_figure(figure, path)


def _limits(axis: Any, *values: np.ndarray) -> None:
    low, high = min(v.min() for v in values), max(v.max() for v in values)
    margin = 0.05 * (high - low) or 1.0
    axis.plot([low - margin, high + margin], [low - margin, high + margin], color="k", lw=0.7)
    axis.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin))
    axis.set_aspect("equal")


def _energy_parity(axis: Any, comparison: Comparison) -> None:
    drawn, names = [], sorted(set(comparison.names))
    for i, name in enumerate(names):
        predicted, reference = comparison.values("energy", name)
        if not len(reference):  # none of its frames has an energy
            continue
        centre = reference.mean()
        axis.scatter(
            reference - centre, predicted - centre, s=9, alpha=0.7, lw=0,
            color=COLORS[i % len(COLORS)], label=name,
        )  # fmt: skip
        drawn += [reference - centre, predicted - centre]
    _limits(axis, *drawn)
    if len(names) <= _NAMED:
        axis.legend(loc="lower right", handletextpad=0.1, fontsize=9, title="energy − mean")
    else:
        text = f"energy − mean of each\nof {len(names)} molecules"
        axis.text(0.95, 0.05, text, transform=axis.transAxes, ha="right", fontsize=9)


def _density_parity(axis: Any, predicted: np.ndarray, reference: np.ndarray) -> None:
    from matplotlib.colors import LogNorm

    axis.hexbin(reference, predicted, gridsize=70, mincnt=1, norm=LogNorm(), cmap="viridis", lw=0.1)
    _limits(axis, predicted, reference)


def baselines(comparisons: dict[str, Comparison], path: str | Path) -> None:
    """Draw the RMSE of several models on the same frames as bars on a logarithmic scale."""
    plt = pyplot()
    shown = _drawable(*comparisons.values())
    own = list(comparisons)[-1]
    figure, axes = plt.subplots(1, len(shown), figsize=(3 * len(shown), 3.2), squeeze=False)
    for axis, quantity in zip(axes[0], shown, strict=True):
        errors = {k: c.errors(quantity) for k, c in comparisons.items()}
        # a molecule that training never saw has no mean, and a logarithmic scale no zero
        bars = {k: e.rmse for k, e in errors.items() if e is not None and 0 < e.rmse < np.inf}
        colors = [BLUE if k == own else GREY for k in bars]
        drawn = axis.bar(range(len(bars)), list(bars.values()), color=colors, width=0.65)
        labels = [f"{v:.1f}" if v < 100 else f"{v:.0f}" for v in bars.values()]
        axis.bar_label(drawn, labels, padding=2)
        axis.set_xticks(range(len(bars)), [k.replace(" ", "\n", 1) for k in bars], fontsize=9)
        if bars:
            axis.set_yscale("log")
            axis.set_ylim(0.5 * min(bars.values()), 2.5 * max(bars.values()))
        axis.yaxis.set_minor_formatter("")
        axis.set_title(f"{TITLES[quantity]}: RMSE / {QUANTITIES[quantity][0]}")
    save_figure(figure, path)


def _drawable(*comparisons: Comparison) -> list[str]:
    """Return the quantities that at least one of the comparisons has."""
    shown = [n for n in QUANTITIES if any(c.errors(n) is not None for c in comparisons)]
    if not shown:
        raise ValueError(
            "no energies or forces to draw, nor dipoles: the frames have no such labels"
        )
    return [n for n in shown if n != "dipole"] or shown  # dipoles where there is nothing else
