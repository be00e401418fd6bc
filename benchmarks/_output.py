"""What the scripts share that write tables and pictures, and run parts in fresh processes."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from multipoles.files import atomic_write

RESULTS = Path(__file__).resolve().parent / "results"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run_alone(script: str, arguments: Sequence, threads: int, **environment: str) -> list:
    """Run ``script --one ARGUMENTS`` in a fresh process; return the list it prints last as JSON.

    So the most memory it held is its own. BLAS keeps to as many threads as are named.
    """
    # standard error stays that of this process: what goes wrong is seen
    done = subprocess.run(
        [sys.executable, script, "--one", json.dumps(arguments)],
        stdout=subprocess.PIPE, check=True, text=True,
        env=os.environ | dict.fromkeys(THREADS, str(threads)) | environment,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def write_table(name: str, columns: Sequence[str], rows: Iterable) -> Path:
    """Write results/<name>.csv; rows are sequences, or mappings by column."""
    path = RESULTS / f"{name}.csv"
    with atomic_write(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for row in rows:
            mapped = isinstance(row, Mapping)
            writer.writerow([row.get(column, "") for column in columns] if mapped else row)
    return path


def read_table(name: str) -> list[dict[str, str]]:
    """Return the rows of results/<name>.csv, none if there is no such file."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def pyplot() -> Any:
    """Return matplotlib's pyplot for files, or None where it is not installed."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("no picture: matplotlib is not installed")
        return None
    return plt


def write_picture(name: str, figure: Any) -> Path:
    """Write results/<name>.png."""
    path = RESULTS / f"{name}.png"
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return path


def write_scaling(name: str, figure: Any, axes: Iterable, fontsize: int = 9) -> None:
    """Finish a picture of times and memory against sizes, and write it."""
    for axis in axes:
        if np.ptp(np.log10(axis.get_ylim())) < 2.5:
            label_decades(axis)
        axis.grid(alpha=0.35, lw=0.5)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=fontsize)
    path = write_picture(name, figure)
    print(f"written: {path.with_suffix('.csv')} and {path.name}")


def label_decades(axis: Any) -> None:
    """Label 1, 2 and 5 of every decade of a logarithmic axis, in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())
