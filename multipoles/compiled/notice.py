"""A line that says why a first call takes seconds: kernels are compiled, once for a processor."""

import os
import sys
import time
from typing import Any

from numba.core import event

SECONDS = 1.0  # of compilation, after which the line is printed
LINE = (
    "multipoles: compiling kernels for this processor, once (python -m fmm warmup does it "
    "beforehand, with --device cuda for a GPU; MULTIPOLES_QUIET=1 hides this line)"
)
_PACKAGES = ("multipoles", "fmm", "gnn")


class Notice(event.Listener):
    """Print `LINE` to standard error once our kernels have been compiled for `SECONDS`."""

    def __init__(self) -> None:
        self.depth, self.started, self.total, self.said = 0, 0.0, 0.0, False

    def on_start(self, event: Any) -> None:
        """Note when the outermost of nested compilations began."""
        if not self.depth:
            self.started = time.perf_counter()
        self.depth += 1

    def on_end(self, event: Any) -> None:
        """Add the time of an outermost compilation of ours, and speak when it is enough."""
        self.depth -= 1
        if self.depth or self.said or not _ours(event):
            return
        self.add(time.perf_counter() - self.started)

    def add(self, seconds: float) -> None:
        """Add time that was spent, and speak when it is enough."""
        self.total += seconds
        if self.total > SECONDS and not self.said:
            self.said = True
            print(LINE, file=sys.stderr, flush=True)


def _ours(event: Any) -> bool:
    function = getattr((event.data or {}).get("dispatcher"), "py_func", None)
    return getattr(function, "__module__", "").partition(".")[0] in _PACKAGES


_notice = Notice()


def listen() -> None:
    """Let compilations be noticed, unless ``MULTIPOLES_QUIET`` is set."""
    if not os.environ.get("MULTIPOLES_QUIET"):
        event.register("numba:compile", _notice)


def spent(seconds: float) -> None:
    """Notice seconds of compiling that Numba does not tell of: kernels of a GPU."""
    if not os.environ.get("MULTIPOLES_QUIET"):
        _notice.add(seconds)
