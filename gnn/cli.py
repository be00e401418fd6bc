"""The command ``anisole``: demo, train, evaluate, predict, validate."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_EXPECTED = (ValueError, TypeError, OSError, FloatingPointError, ImportError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 where a check failed, or 2 where the input is wrong."""
    arguments = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            if not arguments.debug:
                warnings.showwarning = _show_warning
            return arguments.run(arguments)
    except KeyboardInterrupt:
        print("anisole: interrupted", file=sys.stderr)
        return 130
    except _EXPECTED as error:
        if arguments.debug:
            raise
        print(f"anisole: error: {_one_line(error)}", file=sys.stderr)
        return 2


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"anisole: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _one_line(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; install what is missing: pip install 'anisole[gnn]'"
    return " ".join(str(error).split()) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="anisole",
        description="Anisotropic message passing with Cartesian multipoles, for QM/MM.",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="train and test on the shipped QM/MM data in minutes")
    demo.add_argument("--output", help="folder for pictures and checkpoint (runs/demo)")
    demo.add_argument("--time", type=_seconds, default=None, help="training time in s (240)")
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=_demo)

    train = commands.add_parser("train", help="train a model as a YAML file says")
    train.add_argument("config", metavar="CONFIG", help="YAML file")
    train.add_argument(
        "--from", dest="start", metavar="CHECKPOINT", help="start from the weights of a checkpoint"
    )
    train.add_argument("--resume", action="store_true", help="continue from last.pt")
    train.add_argument("--no-blind", action="store_true", help="skip the blind baseline")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", help="errors of a checkpoint on labelled frames")
    evaluate.add_argument("checkpoint", metavar="CHECKPOINT")
    evaluate.add_argument(
        "data", metavar="DATA", nargs="?", help="HDF5 or extxyz; default: test runs of its training"
    )
    evaluate.add_argument("--output", default="runs/evaluate", help="folder for table and picture")
    evaluate.set_defaults(run=_evaluate)

    predict = commands.add_parser("predict", help="energies, forces and multipoles of structures")
    predict.add_argument(
        "checkpoint", metavar="CHECKPOINT", nargs="?", help="default: the one that ships"
    )
    predict.add_argument("input", metavar="INPUT", help="xyz, extxyz or HDF5")
    predict.add_argument(
        "-o", "--output", required=True, help="json (everything), extxyz or HDF5 (labels)"
    )
    predict.set_defaults(run=_predict)

    weights = commands.add_parser(
        "import-weights", help="turn the published weights of AMP-BMS into a checkpoint"
    )
    weights.add_argument("weights", metavar="STATE_DICT", help="the file that its authors publish")
    weights.add_argument("-o", "--output", required=True, help="checkpoint to write (.pt)")
    weights.add_argument(
        "--pol-scaling", type=float, default=0.35, help="strength of polarisation (0.35)"
    )
    weights.set_defaults(run=_import_weights)

    validate = commands.add_parser("validate", help="every kernel against direct summation")
    validate.add_argument("--verbose", action="store_true", help="print every comparison")
    validate.set_defaults(run=_validate)
    for command in (demo, train, evaluate, predict, weights, validate):
        # also behind the command; without a default there, or it would undo the one before it
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected a time > 0 in s, got {text!r}")
    return value


def _console() -> Any:
    from rich.console import Console

    # without a terminal rich would wrap tables at 80 columns
    return Console(highlight=False, width=None if sys.stdout.isatty() else 110)


def _demo(arguments: argparse.Namespace) -> int:
    from gnn.training.demo import SECONDS, run_demo

    seconds = arguments.time if arguments.time is not None else SECONDS
    return 0 if run_demo(arguments.output, seconds, arguments.seed, _console()) else 1


def _train(arguments: argparse.Namespace) -> int:
    from gnn.training import tables
    from gnn.training.config import load_config, parse_config
    from gnn.training.run import AMP_NAME, run_training

    config = load_config(arguments.config)
    if arguments.start is not None:
        config = parse_config(config.model_dump() | {"start": arguments.start}, arguments.config)
    console = _console()
    comparisons = run_training(
        config,
        console,
        resume=arguments.resume,
        blind=None if arguments.no_blind else config,
    )
    console.print(tables.error_table(comparisons[AMP_NAME], "Errors on the test frames"))
    console.print(tables.baseline_table(comparisons, "Beside the baselines (equal budgets)"))
    console.print(f"checkpoints, log, tables and pictures: {config.output}/")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from gnn.data import read_frames
    from gnn.training import plots, tables
    from gnn.training.checkpoint import load_model
    from gnn.training.metrics import compare
    from gnn.training.setup import load_test_frames

    model = load_model(arguments.checkpoint)
    if arguments.data is None:
        frames = load_test_frames(arguments.checkpoint)
    else:
        frames = read_frames(arguments.data, require=("energy", "forces"))
    if not frames:
        raise ValueError(f"{arguments.data} holds no frame")
    comparison = compare(model.evaluate(frames), frames)
    folder = Path(arguments.output)
    plots.parity(comparison, folder / "parity.png", f"{len(frames)} frames")
    tables.write_csv(folder / "errors.csv", tables.error_rows(comparison))
    console = _console()
    console.print(tables.error_table(comparison, f"Errors of {arguments.checkpoint}"))
    console.print(f"table and picture: {folder}/errors.csv, {folder}/parity.png")
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from gnn.data import read_frames
    from gnn.training.checkpoint import load_model
    from gnn.training.predict import check_suffix, write_predictions

    check_suffix(arguments.output)  # before the work, not after it
    if Path(arguments.output).resolve() == Path(arguments.input).resolve():
        raise ValueError(f"{arguments.output} is the input: name another file for the predictions")
    model = load_model(arguments.checkpoint)
    frames = read_frames(arguments.input)
    if not frames:
        raise ValueError(f"{arguments.input} holds no structure")
    results = model.evaluate(frames)
    write_predictions(arguments.output, frames, results)
    for i, result in enumerate(results[:10]):
        print(f"{i}: energy {result['energy']:.6f} eV, |dipole| {_norm(result['dipole']):.4f} e Å")
    if len(results) > 10:
        print(f"… {len(results)} structures in all")
    print(f"written: {arguments.output}")
    return 0


def _import_weights(arguments: argparse.Namespace) -> int:
    from gnn.published import load_amp_bms
    from gnn.training.checkpoint import save_model

    model = load_amp_bms(arguments.weights, pol_scaling=arguments.pol_scaling)
    save_model(arguments.output, model)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"written: {arguments.output} ({parameters} parameters, elements {model.elements})")
    return 0


def _norm(vector: Any) -> float:
    return float((vector**2).sum() ** 0.5)


def _validate(arguments: argparse.Namespace) -> int:
    from multipoles.validation import main as validate

    return validate(arguments.verbose)


if __name__ == "__main__":
    sys.exit(main())
