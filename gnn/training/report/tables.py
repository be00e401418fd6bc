"""Tables for the terminal: errors per molecule, baselines, verdicts."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gnn.training.report.metrics import QUANTITIES, Comparison
from multipoles.files import atomic_write

TITLES = {
    "energy": "energy", "forces": "QM forces", "mm_forces": "MM forces", "dipole": "dipole",
    "stress": "stress",
}  # fmt: skip

#: Columns of names, which may be long: they are folded where numbers never are.
_NAMES: dict[str, Any] = {"overflow": "fold", "min_width": 8}


def error_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return one plain row per molecule and one for all: MAE, RMSE and RMSE / std.

    Where not all frames have a label, also how many have it.
    """
    partial = [name for name in QUANTITIES if _lacking(comparison, name)]
    rows = []
    for name in _molecules(comparison):
        row: dict[str, Any] = {"molecule": name or "all"}
        row["frames"] = comparison.count("energy", name)[1]
        for quantity in QUANTITIES:
            errors = comparison.errors(quantity, name)
            if errors is not None:
                row |= {
                    f"{quantity}_mae": errors.mae,
                    f"{quantity}_rmse": errors.rmse,
                    f"{quantity}_ratio": errors.ratio,
                }
        for quantity in partial:
            row[f"{quantity}_frames"] = comparison.count(quantity, name)[0]
        rows.append(row)
    return rows


def _molecules(comparison: Comparison) -> list[str | None]:
    """Return the molecules and, where there are several, None for all of them."""
    names: list[str | None] = [*sorted(set(comparison.names))]
    return [*names, None] if len(names) > 1 else names


def _lacking(comparison: Comparison, quantity: str) -> int:
    """Return how many frames lack a label that they could have, where others have it."""
    labelled, of = comparison.count(quantity)
    return of - labelled if labelled else 0


def error_table(comparison: Comparison, title: str) -> Any:
    """Return `error_rows` for a rich console, with who has which label where not all have all."""
    # most frames are in no cell
    shown = tuple(q for q in QUANTITIES if q != "stress" or comparison.errors(q) is not None)
    table = _Fitting(title, ("molecule", "frames"), shown, ("forces", "mm_forces"))
    for name, row in zip(_molecules(comparison), error_rows(comparison), strict=True):
        table.add((row["molecule"], str(row["frames"])), row, strong=name is None)
    partial = [name for name in QUANTITIES if _lacking(comparison, name)]
    return _with_notes(table, _label_table(comparison, partial) if partial else None)


def _label_table(comparison: Comparison, quantities: Sequence[str]) -> Any:
    """Return how many frames of each molecule have the labels that not all have."""
    title = "Frames that have the label, of those that could"
    table = plain_table(title)
    table.min_width = len(title)
    table.add_column("molecule", **_NAMES)
    for quantity in quantities:
        table.add_column(TITLES[quantity], justify="right", no_wrap=True)
    for name in _molecules(comparison):
        counts = (comparison.count(quantity, name) for quantity in quantities)
        cells = [f"{labelled} of {of}" if of else "–" for labelled, of in counts]
        table.add_row(escape(name or "all"), *cells, style=None if name else "bold")
    return table


def baseline_table(comparisons: dict[str, Comparison], title: str) -> Any:
    """Return several comparisons on the same frames for a rich console."""
    usual = ("energy", "forces", "mm_forces")
    there = any(one.errors(name) for one in comparisons.values() for name in usual)
    table = _Fitting(title, ("",), usual if there else ("dipole",), ())
    notes = []
    for place, (label, comparison) in enumerate(comparisons.items()):
        row: dict[str, float] = {}
        for name in table.quantities:
            errors = comparison.errors(name)
            if errors is not None:
                row |= {f"{name}_mae": errors.mae, f"{name}_rmse": errors.rmse}
        table.add((label,), row, strong=place == len(comparisons) - 1)
        unknown = [n for n in _molecules(comparison) if n and _no_number(comparison, n)]
        if unknown:
            notes.append(f"{label}: no training frame has an energy of {', '.join(unknown)}")
    return _with_notes(table, *map(escape, notes))


def _no_number(comparison: Comparison, name: str) -> bool:
    errors = comparison.errors("energy", name)
    return errors is not None and math.isnan(errors.mae)


def escape(text: str) -> str:
    """Return text in which nothing is taken for rich's markup."""
    from rich.markup import escape as escaped

    return escaped(text)


def _with_notes(table: Any, *notes: Any) -> Any:
    from rich.console import Group

    return Group(table, *(note for note in notes if note is not None))


class _Fitting:
    """Errors of several quantities, side by side or, on a narrow console, one below the other.

    Parameters
    ----------
    title
        Of the table.
    heads
        Names of the columns that say what a row is about.
    quantities
        What the errors are of.
    ratios
        Those that are also shown over the standard deviation of the reference.
    """

    def __init__(
        self,
        title: str,
        heads: tuple[str, ...],
        quantities: tuple[str, ...],
        ratios: tuple[str, ...],
    ):
        self.title, self.heads = title, heads
        self.quantities, self.ratios = quantities, ratios
        self.rows: list[tuple[tuple[str, ...], dict[str, Any], str | None]] = []

    def add(self, heads: tuple[str, ...], row: dict[str, Any], strong: bool) -> None:
        """Add a row: what it is about, and its numbers as in `error_rows`."""
        self.rows.append((heads, row, "bold" if strong else None))

    def __rich_console__(self, console: Any, options: Any) -> Any:
        from rich.measure import Measurement

        wide = self._wide()
        fits = Measurement.get(console, options.update(max_width=1000), wide).maximum
        yield wide if fits <= options.max_width else self._narrow()

    def _table(self) -> Any:
        table = plain_table(self.title)
        for place, head in enumerate(self.heads):
            options = {"justify": "right", "no_wrap": True} if place else _NAMES
            table.add_column(head, **options)
        return table

    def _wide(self) -> Any:
        table = self._table()
        options = {"justify": "right", "no_wrap": True}
        for name in self.quantities:
            table.add_column(f"{TITLES[name]}\nMAE", **options)
            table.add_column(f"{QUANTITIES[name][0]}\nRMSE", **options)
            if name in self.ratios:
                table.add_column("\n/ std", **options)
        for heads, row, style in self.rows:
            cells = [cell for name in self.quantities for cell in self._cells(name, row)]
            table.add_row(*map(escape, heads), *cells, style=style)
        return table

    def _narrow(self) -> Any:
        table = self._table()
        table.add_column("error of")
        for head in ("MAE", "RMSE", "/ std")[: 3 if self.ratios else 2]:
            table.add_column(head, justify="right", no_wrap=True)
        for heads, row, style in self.rows:
            shown = list(map(escape, heads))
            for name in self.quantities:
                title = f"{TITLES[name]} / {QUANTITIES[name][0]}"
                table.add_row(*shown, title, *self._cells(name, row), style=style)
                shown = [""] * len(heads)
        return table

    def _cells(self, name: str, row: dict[str, Any]) -> list[str]:
        cells = [_number(row.get(f"{name}_{kind}")) for kind in ("mae", "rmse")]
        return [*cells, _percent(row.get(f"{name}_ratio"))] if name in self.ratios else cells


def plain_table(title: str) -> Any:
    """Return an empty table in the style of all."""
    from rich import box
    from rich.table import Table

    return Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        header_style="",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"


def _percent(value: float | None) -> str:
    """Return a share; there is none where the reference does not vary."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def verdicts(comparison: Comparison) -> list[tuple[str, str, str, bool]]:
    """Return (what, reached, wanted, fulfilled) for the goals of the demonstration."""
    energy, forces, mm_forces = (comparison.errors(n) for n in ("energy", "forces", "mm_forces"))
    rows = []
    if energy is not None:
        rows.append(
            ("energy MAE", f"{energy.mae:.1f} meV", "< 10 meV (0.23 kcal/mol)", energy.mae < 10.0)
        )
    for name, errors, share in (("forces", forces, 0.05), ("mm_forces", mm_forces, 0.05)):
        if errors is not None:
            reached = _percent(errors.ratio) + _worst_molecule(comparison, name)
            wanted = f"< {100 * share:.0f} %"
            rows.append((f"{TITLES[name]}, RMSE / std", reached, wanted, errors.ratio < share))
    return rows


def _worst_molecule(comparison: Comparison, quantity: str) -> str:
    """Name the molecule that is worst beside the figure of all: spreads differ between them."""
    names = sorted(set(comparison.names))
    by_molecule = {name: comparison.errors(quantity, name) for name in names}
    ratios = {
        name: errors.ratio for name, errors in by_molecule.items() if errors and errors.std > 0
    }
    if len(ratios) < 2:
        return ""
    worst = max(ratios, key=lambda name: ratios[name])
    return f", worst {worst} with {100 * ratios[worst]:.1f} %"


def write_csv(
    path: str | Path, rows: Sequence[dict[str, Any]], columns: Sequence[str] = ()
) -> None:
    """Write rows of plain values as CSV; the columns are by default those that the rows have."""
    columns = columns or list(dict.fromkeys(key for row in rows for key in row))
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
