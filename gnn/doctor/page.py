"""A report as a page of text, and as JSON."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gnn.doctor.examination import Report
from gnn.doctor.findings import FAIL, NOTE, OK, Finding
from gnn.doctor.scans import Scan
from gnn.training.report.tables import escape, plain_table
from multipoles.files import atomic_write

_COLORS = {OK: "green", NOTE: "yellow", FAIL: "bold red"}


def page(report: Report) -> list[Any]:
    """Return a report as lines and tables for a rich console."""
    parts: list[Any] = [
        f"[bold]{escape(report.name)}[/]",
        "",
        "[bold]What it knows[/]",
        _facts(report.knows),
        "",
        "[bold]What it is[/]",
        _facts(report.made),
        "",
        "[bold]Checks[/]",
        _checks(report.findings),
        "",
    ]
    if report.errors:
        parts += ["[bold]Errors by molecule[/]", _errors(report), ""]
    color = _COLORS[FAIL if report.count(FAIL) else NOTE if report.count(NOTE) else OK]
    return [*parts, f"[bold]Verdict:[/] [{color}]{escape(report.verdict())}[/]"]


def _grid(*columns: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for column in columns:
        table.add_column(**column)
    return table


def _facts(facts: dict[str, str]) -> Any:
    table = _grid({"no_wrap": True}, {"overflow": "fold"})
    for subject, told in facts.items():
        table.add_row(f"  {subject}", escape(told))
    return table


def _checks(findings: list[Finding]) -> Any:
    text, number = {"no_wrap": True}, {"no_wrap": True, "justify": "right"}
    table = _grid(text, text, number, text, number, {"overflow": "fold"})
    for finding in findings:
        color = _COLORS[finding.verdict]
        table.add_row(
            f"  [{color}]{finding.verdict}[/]",
            escape(finding.check),
            "–" if finding.figure is None else _number(finding.figure),
            escape(finding.unit),
            "" if finding.limit is None else f"≤ {finding.limit:g}",
            escape(finding.remark),
        )
    return table


def _number(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "not finite"


def _errors(report: Report) -> Any:
    table = plain_table("")
    headings = ("frames", "energy\nmeV", "constant\nmeV", "forces\nmeV/Å", "forces\n%")
    table.add_column("molecule", overflow="fold", min_width=8)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.errors:
        values = (row.energy, row.constant, row.forces, row.percent)
        cells = ["–" if value is None else f"{value:.1f}" for value in values]
        table.add_row(escape(row.molecule), str(row.frames), *cells)
    return table


def write_json(report: Report, path: str | Path) -> None:
    """Write a report as JSON: numbers that are not finite are null."""
    content = {
        "name": report.name,
        "verdict": report.verdict(),
        "healthy": report.healthy,
        "knows": report.knows,
        "made": report.made,
        "findings": [asdict(finding) for finding in report.findings],
        "holes": [
            _hole(kind, scan)
            for kind in ("pairs", "pressed", "crowded", "charges")
            for scan in getattr(report, kind)
        ],
        "errors": [asdict(row) for row in report.errors],
    }
    text = json.dumps(_plain(content), ensure_ascii=False, indent=1, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _hole(kind: str, scan: Scan) -> dict[str, Any]:
    depth, distance = scan.hole()
    return {
        "scan": kind,
        "label": scan.label,
        "below": scan.nearest,
        "depth": depth,
        "distance": distance,
    }


def _plain(value: Any) -> Any:
    """Return a value without numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float):  # numpy's float64 is one
        return float(value) if math.isfinite(value) else None
    return value
