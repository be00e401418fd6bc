"""``anisole models``: the models that go by a name."""

import argparse
from typing import Any


def register(commands: Any) -> None:
    """Add the command of this module."""
    models = commands.add_parser("models", help="models that go by a name, such as amp-bms")
    models.add_argument(
        "name", metavar="NAME", nargs="?", help="tell of this one, and fetch it (default: list all)"
    )
    models.set_defaults(run=_models)


def _models(arguments: argparse.Namespace) -> int:
    from gnn.published.by_name import KNOWN, known_names

    name = arguments.name
    if name is None:
        for model in KNOWN.values():
            print(*model.describe(), sep="\n")
        return 0
    if name not in KNOWN:
        raise ValueError(f"no model is known as {name!r}; known are {known_names()}")
    model = KNOWN[name]
    if model.published:
        model.open()
    print(*model.describe(), sep="\n")
    return 0
