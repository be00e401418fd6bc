"""Write the tables and plots of the pages from benchmarks/results; Sphinx calls it at each build.

One file ``_generated/NAME.md`` for each table, which a page includes, with machine and date. A file
of results that no table shows is written as it is, into ``_generated/others.md``.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import benchmark_tables as tables
import benchmark_tables_model as of_steps
import benchmark_tables_support as of_versions
from benchmark_tables import RESULTS, Row, Table

DOCS = Path(__file__).resolve().parent
FOLDER = DOCS / "_generated"

# of files that do not say it themselves in columns `machine` or `device`, and `date`
MACHINE, DATE = "Shared AMD EPYC (Zen 5)", "November 2026"
NO_MACHINE = {"gpu_kernels": "Compiled for three architectures without a device"}
MOST_ROWS = 30
ALL = tables.TABLES | of_steps.TABLES | of_versions.TABLES


def make(folder: Path = FOLDER) -> None:
    """Write all tables and plots into a folder; files that would not change stay untouched."""
    folder.mkdir(exist_ok=True)
    shown: set[str] = set()
    for name, (function, command) in ALL.items():
        tables.FILES.clear()
        table = function()
        shown |= tables.FILES.keys()
        rows = [row for read in tables.FILES.values() for row in read]
        how = command if command == tables.BY_HAND else f"`{command}`"
        caption = f"{where_and_when(rows, NO_MACHINE.get(name, MACHINE))}; {how}."
        write(folder / f"{name}.md", f"{markdown(*table)}\n\n{{.measured}}\n{caption}\n")
    write(folder / "others.md", "\n".join(others(shown)))
    draw_edge_operators(folder / "edge_operators.png")
    draw_published_speed(folder / "published_speed.png")


def others(shown: Iterable[str]) -> list[str]:
    """Return the text of all files of results that no table and no page shows."""
    text, long = [], []
    pages = "".join(page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md")))
    for path in sorted(RESULTS.glob("*.csv")):
        if path.stem in shown or f"results/{path.stem}." in pages:
            continue
        rows, picture = tables.read(path.stem), path.with_suffix(".png")
        if len(rows) > MOST_ROWS and not picture.is_file():
            long.append(f"`{path.name}` ({len(rows)} rows)")
            continue
        text += [f"### {path.stem.replace('_', ' ')}", ""]
        text += [markdown(*as_it_is(rows)), ""] if len(rows) <= MOST_ROWS else []
        if picture.is_file():
            text += [f"![{path.stem}](../benchmarks/results/{picture.name})", ""]
        text += [f"{{.measured}}\n{where_and_when(rows)}; `{path.name}`.", ""]
    return text + ([f"Longer files without a picture: {', '.join(long)}."] if long else [])


def as_it_is(rows: list[Row]) -> Table:
    """Return a file with rounded numbers, without columns said elsewhere."""
    columns = [key for key in (rows[0] if rows else {}) if key not in ("machine", "device", "date")]
    return columns, [[rounded(row[key] or "") for key in columns] for row in rows]


def rounded(text: str) -> str:
    """Return three digits of what is a fraction, and anything else as it is."""
    try:
        return tables.short(text, 3) if "." in text or "e-" in text else text
    except ValueError:
        return text


def where_and_when(rows: list[Row], otherwise: str = MACHINE) -> str:
    """Return machine and date of a file: its own, or those of all the others."""
    first = rows[0] if rows else {}
    machine = first.get("machine") or first.get("device") or otherwise
    return f"{machine}, {first.get('date') or DATE}"


def markdown(header: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    """Return a table, columns of numbers to the right."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (header, *body)]
    rule = ["---:" if all(is_number(cell) for cell in column[1:]) else "---"
            for column in zip(*lines, strict=True)]  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))


def is_number(cell: str) -> bool:
    """Say whether a cell begins like a number, or is empty."""
    return cell.lstrip("*−+–")[:1].isdigit() or cell in ("", "–")


def write(path: Path, text: str) -> None:
    """Write a file if it would change, so that Sphinx reads no page again for nothing."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


# --- plots of the files that have none ----------------------------------------------------------


def axes(**size: Any) -> tuple[Any, Any]:
    """Return an empty figure in the style of the pages."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(layout="constrained", **size)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def draw_edge_operators(path: Path) -> None:
    """Draw how many times faster the fused operators are than plain torch."""
    figure, axis = axes(figsize=(7.5, 2.9))
    header, body = tables.edge_operators()
    body = list(body)
    width = 0.8 / len(body)
    colors = ("#9fc9dd", "#4b93b5", "#0b5d80", "#06304a")
    for i, row in enumerate(body):
        ratios = [float(cell.split("(")[1].split()[0]) for cell in row[2:]]
        state = row[1].startswith("anisotropic")
        style = {"hatch": None if state else "///", "edgecolor": "white", "linewidth": 0.5}
        places = [k + width * (i - len(body) / 2 + 0.5) for k in range(len(ratios))]
        axis.bar(
            places, ratios, width, color=colors[i // 2 % 4], label=f"{row[1]}: {row[0]}", **style
        )
    axis.set_xticks(range(len(header) - 2), header[2:])
    axis.set_ylabel("times plain torch")
    axis.legend(frameon=False, fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)


def draw_published_speed(path: Path) -> None:
    """Draw the time of the published model for systems of three sizes."""
    figure, axis = axes(figsize=(7, 2.4))
    rows = tables.read("published_speed")
    for shift, mode, color in ((-0.2, "training", "#0b6e8a"), (0.2, "simulation", "#c8553d")):
        places = [k + shift for k in range(len(rows))]
        times = [round(float(row[f"{mode}, energy and forces"]), 1) for row in rows]
        bars = axis.barh(places, times, 0.38, color=color, label=f"{mode} mode")
        axis.bar_label(bars, padding=3, fontsize=9)
    names = [f"{row['atoms']} + {row['charges']}" for row in rows]
    axis.set_yticks(range(len(rows)), names)
    axis.invert_yaxis()
    axis.set(xlabel="energy and forces, ms", ylabel="atoms + charges")
    axis.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    make()
