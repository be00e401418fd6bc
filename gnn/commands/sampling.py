"""``anisole free-energy``: what umbrella windows or metadynamics of ``anisole md`` gave."""

import argparse
from pathlib import Path
from typing import Any

from gnn.commands._common import console, count


def register(commands: Any) -> None:
    """Add the command."""
    free = commands.add_parser(
        "free-energy", help="along a variable, from umbrella windows or metadynamics"
    )
    free.add_argument("folder", metavar="RUN", type=Path, help="--output of anisole md --bias")
    free.add_argument("--bins", type=count, default=36, help="of umbrella windows (%(default)s)")
    free.add_argument(
        "--discard", type=float, default=0.1, help="share of each log left out (%(default)s)"
    )
    free.add_argument(
        "-o", "--output", type=Path, help="table (default: RUN/free_energy.csv); picture beside it"
    )
    free.set_defaults(run=_free_energy)


def _free_energy(arguments: argparse.Namespace) -> int:
    import numpy as np
    from rich.table import Table

    from gnn.engines.sampling import free_energy
    from gnn.engines.sampling.plan import PLAN, read_plan

    screen, folder = console(), arguments.folder
    found = free_energy.free_energy_of_run(folder, arguments.discard, arguments.bins)
    plan = read_plan(folder / PLAN)
    name, unit = free_energy.variable_of_plan(plan)
    table = Table(f"{name} / {unit}", "free energy / kJ/mol", "error")
    step = max(1, len(found.centres) // 36)
    rows = zip(found.centres, found.values, found.errors, strict=True)
    for x, value, error in list(rows)[::step]:
        table.add_row(f"{x:.4g}", f"{value:.2f}", f"{error:.2f}")
    screen.print(table)
    if plan.umbrella is not None:
        screen.print(
            f"{len(found.samples)} windows of {found.samples.min():.0f} to "
            f"{found.samples.max():.0f} independent samples; smallest overlap of neighbours "
            f"{found.overlap:.3f}"
        )
        free_energy.warn_of_windows(found)
    elif np.isnan(found.errors).all():
        screen.print("one run alone gives no error: run --replicas")
    output = arguments.output or folder / "free_energy.csv"
    free_energy.write_free_energy(output, found, plan)
    screen.print(f"table and picture: {output}, {output.with_suffix('.png')}")
    return 0
