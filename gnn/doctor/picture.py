"""A report as one picture."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from gnn.data.elements import symbol
from gnn.doctor import dynamics
from gnn.doctor.examination import Report
from gnn.doctor.findings import FAIL, NOTE, OK
from gnn.doctor.scans import HOLE, LEAST, Scan
from gnn.training.report.plots import BLUE, COLORS, GREY, pyplot
from multipoles.files import atomic_write

GREEN, AMBER, RED = "#3d9970", "#d9a321", "#c0392b"
_LIGHTS = {OK: GREEN, NOTE: AMBER, FAIL: RED}
_NAMED = 4  # holes that are named in a panel
_DEEPEST = 1e3  # eV, end of the scale of holes
_HIGHEST = 1e5  # eV, end of the axis of energies
_SPAN = 8.0  # decades to both sides of the limits


def picture(report: Report, path: str | Path) -> None:
    """Draw scans, holes, distant molecules, dynamics and all figures beside their limits.

    Parameters
    ----------
    report
        From `gnn.doctor.examination.examine`.
    path
        Picture to write (.png, .svg, .pdf).
    """
    plt = pyplot()
    figure = plt.figure(figsize=(15.5, 8.4))
    grid = figure.add_gridspec(2, 4, width_ratios=(1, 1, 1, 1.05))
    axes = [figure.add_subplot(grid[row, column]) for row in (0, 1) for column in (0, 1, 2)]
    _scans(axes[0], report.pairs, "Two atoms alone, pressed together")
    _holes(axes[1], report.pairs, report.pressed)
    _scans(axes[2], report.charges, "A charge pressed onto an atom")
    _curves(axes[3], report)
    _runs(axes[4], report)
    if report.errors:
        _errors(axes[5], report)
    else:
        _scans(axes[5], report.crowded, "Molecules compressed as a whole")
        axes[5].set_xlabel("nearest two atoms / Å")
    _limits(figure.add_subplot(grid[:, 3]), report)
    color = RED if report.count(FAIL) else AMBER if report.count(NOTE) else GREEN
    figure.text(0.008, 0.975, report.name, fontsize=14, fontweight="bold", va="top")
    verdict = fill(report.verdict(), 170)
    figure.text(0.008, 0.94, verdict, fontsize=10.5, color=color, va="top")
    for axis in axes:
        axis.title.set_fontsize(11)
    figure.subplots_adjust(0.05, 0.075, 0.99, 0.865, wspace=0.27, hspace=0.3)
    with atomic_write(path) as temporary:
        figure.savefig(temporary)
    plt.close(figure)


# --- panels ---------------------------------------------------------------------------------------


def _scans(axis: Any, scans: Sequence[Scan], title: str) -> None:
    """Draw energies on the way in: those that rise in grey, holes in red, the deepest named."""
    axis.set(title=title, xlabel="distance / Å", ylabel="energy / eV")
    if not scans:
        return _nothing(axis)
    holes = sorted((s for s in scans if s.hole()[0] > HOLE), key=lambda s: -s.hole()[0])
    names = dict(zip((id(scan) for scan in holes[:_NAMED]), (RED, *COLORS[1:]), strict=False))
    for scan in sorted(scans, key=lambda s: id(s) in names):
        deep = scan.hole()[0] > HOLE
        color = names.get(id(scan), "#e8b4ae" if deep else BLUE)
        style = {"lw": 1.6, "zorder": 3} if id(scan) in names else {"lw": 0.7, "alpha": 0.6}
        label = scan.label if id(scan) in names else None
        inside = scan.distances <= scan.nearest + 1e-9
        axis.plot(scan.distances[inside], scan.energies[inside], color=color, label=label, **style)
        axis.plot(scan.distances[~inside], scan.energies[~inside], color=GREY, lw=0.5, alpha=0.5)
        axis.plot(scan.nearest, 0, ".", color=color, ms=5, zorder=4)
    axis.set_yscale("symlog", linthresh=1.0)
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, -_HIGHEST), min(high, _HIGHEST))
    axis.set_xlim(LEAST - 0.05, max(scan.nearest for scan in scans) + 0.6)
    axis.axhline(0, color="k", lw=0.5, alpha=0.5)
    axis.grid(alpha=0.25, lw=0.5)
    axis.plot(
        [], [], ".", color=BLUE, label="nearest known" + ("" if holes else ", all rise below")
    )
    axis.legend(fontsize=8, loc="best", handlelength=1.2, labelspacing=0.3)


def _holes(axis: Any, alone: Sequence[Scan], pressed: Sequence[Scan]) -> None:
    """Draw how deep holes are for all pairs of elements: alone above, in molecules below."""
    from matplotlib.colors import LogNorm

    axis.set_title("Depth of holes / eV")
    elements = sorted({z for scan in [*alone, *pressed] for z in scan.elements})
    if not elements:
        return _nothing(axis)
    place = {z: i for i, z in enumerate(elements)}
    depths = np.full((len(elements),) * 2, np.nan)
    for scans, above in ((pressed, False), (alone, True)):
        for scan in scans:
            i, j = sorted(place[z] for z in scan.elements)
            if i != j or above:
                depths[(i, j) if above else (j, i)] = np.clip(scan.hole()[0], HOLE / 2, _DEEPEST)
    shown = np.ma.masked_invalid(depths)
    colors = _scale()
    axis.imshow(shown, cmap=colors, norm=LogNorm(HOLE, _DEEPEST), aspect="auto")
    for (i, j), depth in np.ndenumerate(depths):
        if np.isfinite(depth) and len(elements) <= 7:
            text = "none" if depth <= HOLE else f"{depth:.2g}" if depth < _DEEPEST else "≥ 1000"
            color = "white" if depth > 1 or depth <= HOLE else "black"
            axis.text(j, i, text, ha="center", va="center", fontsize=8, color=color)
    ticks = range(len(elements)), [symbol(z) for z in elements]
    axis.set_xticks(*ticks)
    axis.set_yticks(*ticks)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("above the diagonal: two atoms alone; below: in molecules", fontsize=8.5)


def _scale() -> Any:
    """Return colours of depths: green for none, then from yellow to dark red."""
    from matplotlib.colors import LinearSegmentedColormap

    colors = LinearSegmentedColormap.from_list("holes", ["#f6d77a", "#e07a2f", RED, "#4a0d0d"])
    return colors.with_extremes(under=GREEN, bad="#f0f0f0")


def _curves(axis: Any, report: Report) -> None:
    """Draw the interaction of distant molecules beside that of their charges and dipoles."""
    axis.set(
        title="Two molecules far apart", xlabel="distance / Å", ylabel="|E(AB) − E(A) − E(B)| / eV"
    )
    if not report.curves:
        return _nothing(axis)
    for curve, color in zip(report.curves, COLORS, strict=False):
        size = np.maximum(abs(curve.energies), 1e-12)
        label = f"{curve.kind}: {curve.label}"
        axis.loglog(curve.distances, size, "o-", color=color, ms=3, lw=1, label=label)
        axis.loglog(curve.distances, abs(curve.expected), "--", color=color, lw=1)
    axis.plot([], [], "--", color="k", lw=1, label="charges and dipoles alone")
    axis.set_ylim(bottom=1e-10)
    axis.grid(alpha=0.25, lw=0.5)
    axis.legend(fontsize=8, loc="best", handlelength=1.6, labelspacing=0.3)


def _runs(axis: Any, report: Report) -> None:
    """Draw the total energy along runs, within the limit of its fluctuation."""
    axis.set(title="Dynamics: total energy", xlabel="time / fs", ylabel="change / meV per atom")
    if not report.runs:
        return _nothing(axis)
    limit = dynamics.FLUCTUATION
    axis.axhspan(-limit, limit, color=GREEN, alpha=0.12, lw=0)
    for run, color in zip(report.runs, COLORS * 2, strict=False):
        axis.plot(run.times, run.energies, color=color, lw=0.9, label=run.label)
    axis.margins(x=0)
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, -1.3 * limit), max(high, 1.3 * limit))
    axis.legend(fontsize=8, ncols=2, loc="best", handlelength=1.2, labelspacing=0.3)


def _errors(axis: Any, report: Report) -> None:
    """Draw the errors of energies and forces, molecule by molecule."""
    from matplotlib.ticker import LogLocator

    names = [row.molecule for row in report.errors]
    places = np.arange(len(names))
    for k, (name, label, color) in enumerate(
        (
            ("energy", "energy, after a constant / meV", BLUE),
            ("forces", "forces / meV/Å", COLORS[1]),
        )
    ):
        values = [getattr(row, name) or np.nan for row in report.errors]
        axis.barh(places + 0.4 * k - 0.2, values, 0.38, color=color, label=label)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")
    axis.set_yticks(places, names, fontsize=9)
    axis.invert_yaxis()
    axis.set_title("Errors on the data (RMSE)")
    axis.grid(axis="x", alpha=0.25, lw=0.5)
    axis.legend(fontsize=8, loc="lower right", frameon=True, edgecolor="white")


def _limits(axis: Any, report: Report) -> None:
    """Draw all figures in units of their limits."""
    axis.set_title("Figures in units of their limits")
    for row, finding in enumerate(report.findings):
        color = _LIGHTS[finding.verdict]
        if finding.figure is None or finding.limit is None:
            ratio = np.nan
        else:
            ratio = np.clip(finding.figure / finding.limit, 10**-_SPAN, 10**_SPAN)
        if np.isnan(ratio):
            axis.plot(10**-_SPAN, row, "o", color=color, ms=8, mfc="white", mew=1.8)
        else:
            axis.plot([10**-_SPAN, ratio], [row, row], color=color, lw=1.2, alpha=0.6)
            axis.plot(ratio, row, "o", color=color, ms=9)
        figure = "no figure" if finding.figure is None else f"{finding.figure:.2g} {finding.unit}"
        axis.text(
            1.6 * 10**-_SPAN,
            row - 0.22,
            f"{finding.check}: {figure}",
            fontsize=8.8,
            va="bottom",
            zorder=3,
            bbox={"color": "white", "alpha": 0.75, "pad": 0.5},
        )
    axis.axvline(1, color="k", lw=1)
    axis.axvspan(1, 10 ** (_SPAN + 0.5), color=RED, alpha=0.05, lw=0)
    axis.set_xscale("log")
    axis.set_xlim(10 ** (-_SPAN - 0.5), 10 ** (_SPAN + 0.5))
    axis.set_ylim(len(report.findings) - 0.5, -0.8)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.set_xlabel("figure / limit")


def _nothing(axis: Any) -> None:
    axis.text(0.5, 0.5, "no result", transform=axis.transAxes, ha="center", color=GREY)
