"""The demonstration: train on QM/MM data in minutes, test on unseen runs, show the results."""

import csv
import math
import shutil
import time
from pathlib import Path
from typing import Any

import yaml

from gnn.training.config import Config, parse_config
from gnn.training.report import tables
from gnn.training.report.metrics import Comparison
from gnn.training.results import AMP_NAME
from gnn.training.run import run_training
from multipoles.files import atomic_write

SECONDS = 140.0
MARK = "demo.txt"  # marks folders that a demonstration may overwrite
STEPS = 5000  # in the time, on a core that does nothing else; the goals are for them
ENOUGH = 0.8  # share of these steps from which a missed goal counts
BLIND_SHARE = 0.35  # share of the time for the blind twin, whose steps are cheaper


def demo_config(output: str | None, seconds: float, seed: int) -> Config:
    """Return the demonstration's configuration, with its training time set."""
    content = yaml.safe_load(Path(__file__).with_name("demo.yaml").read_text(encoding="utf-8"))
    content["training"] |= {"time_limit": (1 - BLIND_SHARE) * seconds, "seed": seed}
    if output is not None:
        content["output"] = output
    return parse_config(content, "demo.yaml")


def run_demo(output: str | None, seconds: float, seed: int, console: Any) -> bool:
    """Train, test and report; return whether every goal was reached that the time allowed."""
    started = time.perf_counter()
    config = demo_config(output, seconds, seed)
    folder = Path(config.output)
    _take_over(folder, output is None)
    console.print("[bold]anisole[/]: anisotropic message passing on QM/MM data")
    console.print(
        "Solutes in TIP3P water, B3LYP/6-31G* with electrostatic embedding; the test frames come "
        "from molecular-dynamics runs that training never saw.\n"
    )
    blind = config.model_copy(deep=True)
    blind.training.time_limit = BLIND_SHARE * seconds
    comparisons = run_training(
        config, console, blind=blind, say=lambda line: console.print("  " + line)
    )
    shutil.rmtree(folder / "blind", ignore_errors=True)
    console.print()
    console.print(tables.error_table(comparisons[AMP_NAME], "Errors on the test runs"))
    console.print(tables.baseline_table(comparisons, "Beside two baselines, all test frames"))
    reached = _goals_reached(comparisons[AMP_NAME], folder, seconds, console)
    names = "parity.png, baselines.png, learning_curve.png, best.pt"
    console.print(
        f"\n{time.perf_counter() - started:.0f} s in all. Pictures and checkpoint: "
        f"[bold]{folder}/[/] ({names})"
    )
    return reached


def _take_over(folder: Path, default: bool) -> None:
    """Make the folder ready; only a demonstration's own default folder is overwritten."""
    mine = (folder / MARK).exists()
    if (folder / "last.pt").exists() and not (mine and default):
        raise ValueError(
            f"{folder} holds a training run already: name another folder with --output"
        )
    for stale in (folder, folder / "blind"):
        (stale / "last.pt").unlink(missing_ok=True)
    with atomic_write(folder / MARK) as temporary:
        temporary.write_text(
            "Written by `anisole demo`; the next demonstration overwrites it.\n", encoding="utf-8"
        )


def _goals_reached(own: Comparison, folder: Path, seconds: float, console: Any) -> bool:
    """Print the goals; return whether all are reached, or there was too little time for them."""
    reached = True
    for what, value, wanted, good in tables.verdicts(own):
        reached &= good
        mark = "[green]✓[/]" if good else "[red]✗[/]"
        console.print(f"  {mark} {what}: {value} (goal {wanted})")
    steps = int(_last_row(folder / "log.csv")["step"])
    if reached or steps >= ENOUGH * STEPS:
        return reached
    console.print(
        f"  The goals are for about {STEPS} steps. This core, slow or busy with other things, "
        f"made {steps} in the time: anisole demo --time {_longer(seconds, steps)}"
    )
    return True


def _last_row(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))[-1]


def _longer(seconds: float, steps: int) -> int:
    """Return a time in whole minutes in which such a core makes all steps, half an hour at most."""
    needed = seconds * STEPS / max(steps, 1)
    return int(min(60 * math.ceil(needed / 60), 1800))
