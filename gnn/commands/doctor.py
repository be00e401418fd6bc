"""``anisole doctor``: the examination of a model."""

import argparse
from pathlib import Path
from typing import Any

from gnn.commands._common import add_head, add_keys, console, labelled_frames


def register(commands: Any) -> None:
    """Add the command of this module."""
    doctor = commands.add_parser("doctor", help="examine a model: what it knows, where it fails")
    doctor.add_argument(
        "checkpoint", metavar="CHECKPOINT", nargs="?",
        help="or amp-bms, or its published weights (default: the model that ships)",
    )  # fmt: skip
    doctor.add_argument(
        "data", metavar="DATA", nargs="?",
        help="frames to examine it on: HDF5, extxyz, or shipped (default: molecules of that)",
    )  # fmt: skip
    doctor.add_argument("--full", action="store_true", help="more molecules, directions and steps")
    doctor.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    doctor.add_argument(
        "--picture", type=Path, metavar="FILE",
        help="default: doctor.png beside the checkpoint, or here",
    )  # fmt: skip
    add_keys(doctor)
    add_head(doctor)
    doctor.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from gnn.data.shipped import shipped_path
    from gnn.doctor.examination import examine
    from gnn.doctor.page import page, write_json
    from gnn.doctor.picture import picture

    model = _load(arguments.checkpoint)
    data = arguments.data
    frames = (
        []
        if data is None
        else labelled_frames(shipped_path() if data == "shipped" else data, arguments)
    )
    if data is not None and not frames:
        raise ValueError(f"{data} holds no structure")
    screen = console()
    name = arguments.checkpoint or "the model that ships"
    with screen.status("examination") as status:
        report = examine(model, frames, name=name, full=arguments.full, say=status.update)
    for part in page(report):
        screen.print(part)
    if arguments.json is not None:
        write_json(report, arguments.json)
    path = arguments.picture or _beside(arguments.checkpoint)
    picture(report, path)
    screen.print(f"picture: {path}", markup=False, soft_wrap=True)
    return 0 if report.healthy else 1


def _beside(checkpoint: str | None) -> Path:
    """Return where the picture goes: beside the checkpoint, or here."""
    return Path("doctor.png") if checkpoint is None else Path(checkpoint).with_name("doctor.png")


def _load(path: str | None) -> Any:
    """Return the model of a checkpoint, or of published weights."""
    from gnn.published import load_amp_bms
    from gnn.training.checkpoint import load_model

    try:
        return load_model(path)
    except ValueError:
        if path is None:
            raise
        try:
            return load_amp_bms(path)
        except ValueError:
            pass
        raise
