"""Tables for the terminal: errors per molecule, baselines, verdicts."""

import math
from collections.abc import Sequence
from typing import Any

from gnn.training.metrics import QUANTITIES, Comparison

TITLES = {"energy": "energy", "forces": "QM forces", "mm_forces": "MM forces", "dipole": "dipole"}


def error_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return one plain row per molecule and one for all: MAE, RMSE and RMSE / std."""
    names: list[str | None] = [*sorted(set(comparison.names))]
    if len(names) > 1:
        names.append(None)
    rows = []
    for name in names:
        row: dict[str, Any] = {"molecule": name or "all"}
        row["frames"] = sum(n == name or name is None for n in comparison.names)
        for quantity in QUANTITIES:
            errors = comparison.errors(quantity, name)
            if errors is not None:
                row |= {
                    f"{quantity}_mae": errors.mae,
                    f"{quantity}_rmse": errors.rmse,
                    f"{quantity}_ratio": errors.ratio,
                }
        rows.append(row)
    return rows


def error_table(comparison: Comparison, title: str) -> Any:
    """Return a rich table of `error_rows`."""
    table = plain_table(title)
    table.add_column("molecule")
    table.add_column("frames", justify="right")
    for name in QUANTITIES:
        _add_columns(table, name, with_ratio=name in ("forces", "mm_forces"))
    for row in error_rows(comparison):
        cells = [row["molecule"], str(row["frames"])]
        for name in QUANTITIES:
            cells += [_number(row.get(f"{name}_{kind}")) for kind in ("mae", "rmse")]
            if name in ("forces", "mm_forces"):
                ratio = row.get(f"{name}_ratio")
                cells.append("–" if ratio is None else f"{100 * ratio:.1f} %")
        table.add_row(*cells, style="bold" if row["molecule"] == "all" else None)
    return table


def baseline_table(comparisons: dict[str, Comparison], title: str) -> Any:
    """Return a rich table of several comparisons on the same frames."""
    table = plain_table(title)
    table.add_column("")
    shown = ("energy", "forces", "mm_forces")
    for name in shown:
        _add_columns(table, name, with_ratio=False)
    for place, (label, comparison) in enumerate(comparisons.items()):
        cells = [label]
        for name in shown:
            errors = comparison.errors(name)
            cells += ["–", "–"] if errors is None else [_number(e) for e in errors[:2]]
        table.add_row(*cells, style="bold" if place == len(comparisons) - 1 else None)
    return table


def plain_table(title: str) -> Any:
    """Return an empty table in the style of all."""
    from rich import box
    from rich.table import Table

    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )


def _add_columns(table: Any, name: str, with_ratio: bool) -> None:
    options = {"justify": "right", "no_wrap": True}
    table.add_column(f"{TITLES[name]}\nMAE", **options)
    table.add_column(f"{QUANTITIES[name][0]}\nRMSE", **options)
    if with_ratio:
        table.add_column("\n/ std", **options)


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"


def verdicts(comparison: Comparison) -> list[tuple[str, str, str, bool]]:
    """Return (what, reached, wanted, fulfilled) for the goals of the demonstration."""
    energy, forces, mm_forces = (comparison.errors(n) for n in ("energy", "forces", "mm_forces"))
    rows = []
    if energy is not None:
        rows.append(
            ("energy MAE", f"{energy.mae:.1f} meV", "< 43 meV (1 kcal/mol)", energy.mae < 43.0)
        )
    for name, errors, share in (("forces", forces, 0.10), ("mm_forces", mm_forces, 0.25)):
        if errors is not None:
            reached = f"{100 * errors.ratio:.1f} %" + _worst_molecule(comparison, name)
            wanted = f"< {100 * share:.0f} %"
            rows.append((f"{TITLES[name]}, RMSE / std", reached, wanted, errors.ratio < share))
    return rows


def _worst_molecule(comparison: Comparison, quantity: str) -> str:
    """Name the molecule that is worst beside the figure of all: spreads differ between them."""
    names = sorted(set(comparison.names))
    found = {name: comparison.errors(quantity, name) for name in names}
    ratios = {name: errors.ratio for name, errors in found.items() if errors is not None}
    if len(ratios) < 2:
        return ""
    worst = max(ratios, key=lambda name: ratios[name])
    return f", worst {worst} with {100 * ratios[worst]:.1f} %"


def write_csv(path: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of plain values as CSV, whole or not at all."""
    import csv
    from pathlib import Path

    from gnn.data.common import write_atomically

    columns = list(dict.fromkeys(key for row in rows for key in row))

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(Path(path), write)
