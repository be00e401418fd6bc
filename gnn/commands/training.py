"""``anisole demo``, ``train`` and ``evaluate``."""

import argparse
import sys
from pathlib import Path
from typing import Any

from gnn.commands._common import (
    add_head,
    add_keys,
    add_policy,
    console,
    labelled_frames,
    load_with_policy,
    seconds,
)


def register(commands: Any) -> None:
    """Add the commands of this module."""
    demo = commands.add_parser("demo", help="train and test on the shipped QM/MM data in minutes")
    demo.add_argument("--output", help="folder for pictures and checkpoint (runs/demo)")
    demo.add_argument("--time", type=seconds, default=None, help="training time in s (140)")
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=_demo)

    train = commands.add_parser("train", help="train a model as a YAML file says")
    train.add_argument("config", metavar="CONFIG", help="YAML file")
    train.add_argument(
        "--from",
        dest="start",
        metavar="CHECKPOINT",
        help="start from the weights of a checkpoint, or of a model by its name: amp-bms",
    )
    train.add_argument("--resume", action="store_true", help="continue from last.pt")
    train.add_argument(
        "--go-on",
        action="store_true",
        help="continue from last.pt if it is there, begin otherwise: for jobs that are run again",
    )
    train.add_argument(
        "--committee", type=int, metavar="N", help="train N models that also tell their uncertainty"
    )
    train.add_argument("--no-blind", action="store_true", help="skip the blind baseline")
    add_keys(train)
    add_head(train)
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", help="errors of a checkpoint on labelled frames")
    evaluate.add_argument("checkpoint", metavar="CHECKPOINT", help="or a name: amp-bms, shipped")
    evaluate.add_argument(
        "data", metavar="DATA", nargs="?", help="HDF5 or extxyz; default: test runs of its training"
    )
    evaluate.add_argument("--output", default="runs/evaluate", help="folder for table and picture")
    add_keys(evaluate)
    add_head(evaluate)
    add_policy(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _demo(arguments: argparse.Namespace) -> int:
    from gnn.training.demo import SECONDS, run_demo

    limit = arguments.time if arguments.time is not None else SECONDS
    return 0 if run_demo(arguments.output, limit, arguments.seed, console()) else 1


def _train(arguments: argparse.Namespace) -> int:
    from gnn.training.config import changed, load_config
    from gnn.training.report import tables
    from gnn.training.results import AMP_NAME
    from gnn.training.run import run_training
    from gnn.training.stopping import TRY_AGAIN, Stopped

    if arguments.resume and arguments.go_on:
        raise ValueError("--resume continues in any case, --go-on if it can: leave out one")
    config = changed(load_config(arguments.config), _changes(arguments), arguments.config)
    screen = console()
    try:
        comparisons = run_training(
            config,
            screen,
            resume=None if arguments.go_on else arguments.resume,
            blind=None if arguments.no_blind else config,
        )
    except Stopped as stop:
        told = f"anisole: stopped by a signal ({stop}): the same command with --go-on continues"
        print(told, file=sys.stderr)
        return TRY_AGAIN
    if not comparisons:  # another process of torchrun prints them
        return 0
    screen.print(tables.error_table(comparisons[AMP_NAME], "Errors on the held-out frames"))
    screen.print(tables.baseline_table(comparisons, _beside(comparisons)))
    screen.print(f"checkpoints, log, tables and pictures: {config.output}/")
    return 0


def _changes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the command line gives beside the file's."""
    data = {"keys": arguments.keys, "head": arguments.head}
    given = {
        "start": arguments.start,
        "committee": arguments.committee and {"members": arguments.committee},
        "data": {key: value for key, value in data.items() if value},
    }
    return {key: value for key, value in given.items() if value}


def _beside(comparisons: dict[str, Any]) -> str:
    """Return the title of the table of baselines."""
    return "Beside the baselines (equal budgets)" if len(comparisons) > 2 else "Beside the mean"


def _without_isolated(frames: list[Any], name: str) -> list[Any]:
    """Return the frames but for isolated atoms, which are no test of a model of molecules."""
    from gnn.training.frames.isolated import without_isolated

    kept = [frames[i] for i in without_isolated(frames)]
    if len(kept) < len(frames):
        console().print(f"{len(frames) - len(kept)} isolated atoms in {name} are left out")
    return kept


def _evaluate(arguments: argparse.Namespace) -> int:
    from gnn.training.calibration import calibration_line
    from gnn.training.committee import Committee
    from gnn.training.frames.labels import check_labelled, has_stress
    from gnn.training.frames.load import load_test_frames
    from gnn.training.report import plots, tables
    from gnn.training.report.metrics import compare
    from gnn.training.results import report_spread

    model = load_with_policy(arguments.checkpoint, arguments)
    if arguments.data is None:
        frames = load_test_frames(arguments.checkpoint)
    else:
        frames = labelled_frames(arguments.data, arguments)
        frames = _without_isolated(frames, arguments.data)
        if not frames:
            raise ValueError(f"{arguments.data} holds no frame but isolated atoms")
        check_labelled(frames, arguments.data)
    results = model.evaluate(frames, stress=has_stress(frames))
    comparison = compare(results, frames)
    folder = Path(arguments.output)
    plots.parity(comparison, folder / "parity.png", f"{len(frames)} frames")
    tables.write_csv(folder / "errors.csv", tables.error_rows(comparison))
    screen = console()
    screen.print(tables.error_table(comparison, f"Errors of {arguments.checkpoint}"))
    if isinstance(model, Committee):
        screen.print(calibration_line(model))
        report_spread(results, frames, folder, screen)
    screen.print(f"table and picture: {folder}/errors.csv, {folder}/parity.png")
    return 0
