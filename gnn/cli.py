"""The command ``anisole``: its parser, and how errors reach the user."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from gnn.commands import data, doctor, dynamics, export, models, sampling, training, use
from gnn.console import installed_version, print_anywhere

_GROUPS = (training, use, models, doctor, data, dynamics, sampling, export)
_EXTRAS = dict.fromkeys(
    ("openmm", "ase", "MDAnalysis", "pdbfixer", "pymbar"), "engines"
) | dict.fromkeys(("rdkit", "pyscf", "parmed"), "data")
_EXPECTED = (ValueError, TypeError, OSError, FloatingPointError, ImportError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 where a check failed, or 2 where the input is wrong."""
    print_anywhere()
    arguments = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            if not arguments.debug:
                warnings.showwarning = _show_warning
            return arguments.run(arguments)
    except KeyboardInterrupt:
        print("anisole: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if arguments.debug or not _is_expected(error):
            raise
        print(f"anisole: error: {_one_line(error)}", file=sys.stderr)
        return 2


def _is_expected(error: Exception) -> bool:
    # by name: OpenMM, whose exceptions have no base but Exception, may not be there
    return isinstance(error, _EXPECTED) or type(error).__name__ == "OpenMMException"


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"anisole: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _one_line(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        extra = _EXTRAS.get((error.name or "").partition(".")[0], "gnn")
        return f"{error}; install what is missing, in a checkout: pip install '.[{extra}]'"
    return " ".join(str(error).split()) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="anisole",
        description="Anisotropic message passing with Cartesian multipoles, for QM/MM.",
    )
    parser.add_argument("--version", action="version", version=f"anisole {installed_version()}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    for group in _GROUPS:
        group.register(commands)
    for command in commands.choices.values():
        # also behind the command; without a default there, or it would undo the one before it
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
