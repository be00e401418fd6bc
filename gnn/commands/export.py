"""``anisole export``: a model as a file that torch runs alone."""

import argparse
from typing import Any


def register(commands: Any) -> None:
    """Add the command of this module."""
    export = commands.add_parser("export", help="write a model for torch alone (.pt2)")
    export.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="?",
        help="or a name: amp-bms (default: the one that ships)",
    )
    export.add_argument("-o", "--output", required=True, help="file to write (.pt2)")
    export.add_argument(
        "--mm-order",
        type=int,
        choices=(0, 1, 2),
        default=0,
        help="highest moments of surrounding particles: 0 charges, 1 dipoles, 2 quadrupoles (0)",
    )
    export.add_argument("--float64", action="store_true", help="let the graph compute in float64")
    export.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from gnn.export import export_model
    from gnn.training.checkpoint import load_model

    model = load_model(arguments.checkpoint)
    if arguments.float64:
        model = model.double()
    path = export_model(model, arguments.output, mm_order=arguments.mm_order)
    size = path.stat().st_size / 1e6
    print(f"written: {path} ({size:.1f} MB, {str(model.dtype).removeprefix('torch.')})")
    return 0
