"""What the command needs before anything heavy: its version, a console that takes every sign."""

import sys
from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Return the version of the installed distribution; "unknown" for sources on a path."""
    try:
        return version("anisole")
    except PackageNotFoundError:
        return "unknown"


def print_anywhere() -> None:
    """Let standard output take every sign: one that its encoding lacks is printed as "?".

    Windows writes to files and pipes in an encoding of Western Europe, which has Å but no →.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a test or a notebook stands in for it
            stream.reconfigure(errors="replace")
