"""What a run leaves behind: errors beside the baselines, as tables and pictures."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gnn.data.systems import Frame
from gnn.potential import Potential
from gnn.training.blind import bare
from gnn.training.report import plots, tables
from gnn.training.report.metrics import Comparison, blind_comparison, mean_baseline
from gnn.training.report.uncertainty import doubt, spread_picture, spread_rows, spread_table

MEAN, BLIND, AMP_NAME = "training mean", "blind to surroundings", "this model"


def with_baselines(
    own: Comparison, blind: Potential | None, training: Sequence[Frame], test: Sequence[Frame]
) -> dict[str, Comparison]:
    """Return the comparisons of the training mean, of the blind model and of the model."""
    comparisons = {MEAN: mean_baseline(training, test)}
    if blind is not None:
        comparisons[BLIND] = blind_comparison(blind.evaluate(bare(test)), test)
    return comparisons | {AMP_NAME: own}


def write_results(
    folder: Path, history: Sequence[dict[str, Any]], comparisons: dict[str, Comparison]
) -> None:
    """Write learning curve, parity plot, bars and the tables as CSV."""
    own = comparisons[AMP_NAME]
    if history:
        plots.learning_curve(history, folder / "learning_curve.png")
    plots.parity(own, folder / "parity.png", f"{len(own.names)} held-out frames")
    plots.baselines(comparisons, folder / "baselines.png")
    tables.write_csv(folder / "errors.csv", tables.error_rows(own))
    rows = [
        {"model": name} | row
        for name, comparison in comparisons.items()
        for row in tables.error_rows(comparison)
    ]
    tables.write_csv(folder / "baselines.csv", rows)


def report_spread(
    results: Sequence[dict[str, Any]], frames: Sequence[Frame], folder: Path, console: Any
) -> None:
    """Print and write what a committee's disagreement says of its errors."""
    rows = spread_rows(results, frames)
    console.print(spread_table(rows))
    if little := doubt(rows):
        warnings.warn(little, stacklevel=2)
    tables.write_csv(folder / "spread.csv", rows)
    spread_picture(results, frames, folder / "spread.png")
