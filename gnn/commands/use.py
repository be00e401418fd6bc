"""``anisole predict``, ``domain``, ``import-weights``, ``validate``: a finished model in use."""

import argparse
from pathlib import Path
from typing import Any

from gnn.commands._common import add_keys, add_policy, load_with_policy


def register(commands: Any) -> None:
    """Add the commands of this module."""
    predict = commands.add_parser("predict", help="energies, forces and multipoles of structures")
    predict.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="?",
        help="or a name: amp-bms (default: the one that ships)",
    )
    predict.add_argument("input", metavar="INPUT", help="xyz, extxyz or HDF5")
    predict.add_argument(
        "-o", "--output", required=True, help="json (everything), extxyz or HDF5 (labels)"
    )
    add_keys(predict)
    add_policy(predict)
    predict.set_defaults(run=_predict)

    domain = commands.add_parser("domain", help="what a checkpoint was trained on")
    domain.add_argument("checkpoint", metavar="CHECKPOINT")
    domain.add_argument(
        "data", metavar="DATA", nargs="?", help="add that: HDF5 or extxyz with the training frames"
    )
    domain.add_argument(
        "--from-record", action="store_true", help="add that: the training frames of its own record"
    )
    domain.add_argument("--level", help="level of theory (default: what the HDF5 file says)")
    add_keys(domain)
    domain.set_defaults(run=_domain)

    weights = commands.add_parser(
        "import-weights", help="turn the published weights of AMP-BMS into a checkpoint"
    )
    weights.add_argument(
        "weights", metavar="STATE_DICT", help="the file that its authors publish, or amp-bms"
    )
    weights.add_argument("-o", "--output", required=True, help="checkpoint to write (.pt)")
    weights.add_argument(
        "--pol-scaling", type=float, default=0.35, help="strength of polarisation (0.35)"
    )
    weights.set_defaults(run=_import_weights)

    validate = commands.add_parser("validate", help="every kernel against direct summation")
    validate.add_argument("--verbose", action="store_true", help="print every comparison")
    validate.set_defaults(run=_validate)


def _predict(arguments: argparse.Namespace) -> int:
    from gnn.data import read_frames
    from gnn.training.calibration import calibration_line
    from gnn.training.committee import Committee
    from gnn.training.report.predict import check_suffix, write_predictions

    check_suffix(arguments.output)  # before the work, not after it
    if Path(arguments.output).resolve() == Path(arguments.input).resolve():
        raise ValueError(f"{arguments.output} is the input: name another file for the predictions")
    model = load_with_policy(arguments.checkpoint, arguments)
    frames = read_frames(arguments.input, keys=arguments.keys)
    if not frames:
        raise ValueError(f"{arguments.input} holds no structure")
    in_cells = any(frame.system.in_cell for frame in frames)
    results = model.evaluate(frames, stress=in_cells)
    write_predictions(arguments.output, frames, results)
    for i, result in enumerate(results[:10]):
        told = f"|dipole| {_norm(result['dipole']):.4f} e Å" if "dipole" in result else "in a cell"
        print(f"{i}: energy {result['energy']:.6f} eV, {told}")
    if len(results) > 10:
        print(f"… {len(results)} structures in all")
    if isinstance(model, Committee):
        print(calibration_line(model))
    print(f"written: {arguments.output}")
    return 0


def _domain(arguments: argparse.Namespace) -> int:
    from gnn.training.checkpoint import add_domain, load_model
    from gnn.training.config import DataConfig
    from gnn.training.frames.load import load_training_frames
    from gnn.training.frames.sources import level_of, open_frames
    from gnn.trust.words import description

    path = arguments.checkpoint
    if arguments.data is not None and arguments.from_record:
        raise ValueError("expected either DATA or --from-record, got both")
    add = arguments.data is not None or arguments.from_record
    _check_own(path, add)
    model = load_model(path)
    if add:
        if arguments.from_record:
            frames, level = load_training_frames(path)
        else:
            data = DataConfig(source=arguments.data, keys=arguments.keys)
            frames, level = open_frames(data, data.files()[0]), level_of(data)
        model.set_domain(frames, arguments.level or level)
        add_domain(path, model)
    if model.domain is None:
        raise ValueError(
            f"{path} does not say what it was trained on: name the file of its training frames, "
            "or, if its record names them, --from-record"
        )
    print("\n".join(description(model.domain)))
    return 0


def _check_own(path: str, add: bool) -> None:
    """Refuse to write into a model that goes by a name, and to tell what nobody knows of it."""
    from gnn.published import by_name

    known = by_name.find(path)
    if known is None or not (add or known.published):
        return
    if not add:
        raise ValueError(known.caveat())
    make = f" (`anisole import-weights {path} -o FILE` makes one)" if known.published else ""
    raise ValueError(
        f"what a model was trained on is written into a checkpoint, and {path} is a name: give a "
        f"checkpoint of your own{make}"
    )


def _import_weights(arguments: argparse.Namespace) -> int:
    from gnn.published import by_name, load_amp_bms
    from gnn.training.checkpoint import save_model

    known = by_name.published(arguments.weights)
    weights = arguments.weights if known is None else known.open()
    model = load_amp_bms(weights, pol_scaling=arguments.pol_scaling)
    save_model(arguments.output, model)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"written: {arguments.output} ({parameters} parameters, elements {model.elements})")
    return 0


def _norm(vector: Any) -> float:
    return float((vector**2).sum() ** 0.5)


def _validate(arguments: argparse.Namespace) -> int:
    from multipoles.validation import main as validate

    return validate(arguments.verbose)
