"""Signals by which a scheduler ends a run before its time is up: save, and leave."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: Exit status of a run that was told to stop and can go on: "temporary failure" of sysexits.h.
TRY_AGAIN = 75
_NAMES = ("SIGTERM", "SIGUSR1")  # Windows has no SIGUSR1


class Stopped(BaseException):
    """A signal ended the run; what is saved can be gone on from."""


class Signals:
    """What this process was told by SIGTERM or SIGUSR1.

    Attributes
    ----------
    name : str
        Of the signal that came; empty before.
    """

    def __init__(self) -> None:
        self.name = ""
        self._between_steps = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Take the signals here: they raise `Stopped`, but within `noted` are only noted.

        Elsewhere than in the main thread, where Python allows none, signals act as ever.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        wanted = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
        before = {one: signal.signal(one, self._handle) for one in wanted}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Let signals set `name` alone, for one who looks at it after each step."""
        self._between_steps = True
        try:
            yield
        finally:
            self._between_steps = False

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        if not self._between_steps:
            raise Stopped(self.name)
