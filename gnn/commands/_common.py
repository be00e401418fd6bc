"""What several commands share."""

import argparse
import sys
from typing import Any


def seconds(text: str) -> float:
    """Read a time in s, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected a time > 0 in s, got {text!r}")
    return value


def count(text: str) -> int:
    """Read a number of things, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, got {text!r}")
    return int(text)


def console() -> Any:
    """Return the console that commands print to."""
    from rich.console import Console

    # without a terminal rich would wrap tables at 80 columns
    return Console(highlight=False, width=None if sys.stdout.isatty() else 110)


def add_keys(parser: Any) -> None:
    """Add the option that renames the keys of extxyz files."""
    parser.add_argument(
        "--keys",
        nargs="+",
        action=_AddKeys,
        type=_key,
        default={},
        metavar="NAME=KEY",
        help="extxyz: keys other than the default ones, such as energy=dft_energy",
    )


def add_head(parser: Any) -> None:
    """Add the option that chooses among several levels of theory in one file."""
    parser.add_argument(
        "--head", nargs="+", metavar="NAME", help="only frames of this head (level of theory)"
    )


def labelled_frames(path: Any, arguments: argparse.Namespace) -> list[Any]:
    """Return the frames of a file whose labels are to be compared: those of one head."""
    from gnn.data import read_frames
    from gnn.data.heads import head_filter

    frames = read_frames(path, keys=arguments.keys)
    return [*filter(head_filter(frames, arguments.head, "--head"), frames)]


def add_policy(parser: Any, **more: str) -> None:
    """Add the option that says what becomes of systems outside of the model's training.

    `more` choices come with what they mean.
    """
    told = "".join(f", {name} {meaning}" for name, meaning in more.items())
    parser.add_argument(
        "--on-unknown",
        choices=["warn", "ignore", *more, "stop"],
        default="warn",
        help=f"what to do about what the model does not know: warn (default), ignore{told}, or "
        "stop",
    )


def load_with_policy(path: str | None, arguments: argparse.Namespace) -> Any:
    """Return the model of a checkpoint, which does about unknown systems as the options say."""
    from gnn.training.checkpoint import load_described

    model = load_described(path)
    named = {"stop": "raise", "save": "warn"}
    model.unknown = named.get(arguments.on_unknown, arguments.on_unknown)
    return model


class _AddKeys(argparse.Action):
    """Collects keys, one for each name."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        keys = dict(getattr(namespace, self.dest))
        for name, key in values:
            if keys.setdefault(name, key) != key:
                parser.error(f"--keys: {name} is named twice, as {keys[name]} and {key}")
        setattr(namespace, self.dest, keys)


def _key(text: str) -> tuple[str, str]:
    name, separator, key = text.partition("=")
    if not (name and separator and key):
        raise argparse.ArgumentTypeError(f"expected NAME=KEY, such as energy=dft_energy: {text!r}")
    return name, key
