"""What the ranks of a run say to each other: one contract for MPI and for threads of one process.

Numbers that decide something are the same to the last bit on all ranks, or they would part.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass
class Traffic:
    """What a rank has sent to others, and how long it has waited for them.

    Attributes
    ----------
    bytes, messages : int
        From rank to rank.
    reduced_bytes, reductions : int
        Summed over all ranks.
    waited : float
        Seconds.
    """

    bytes: int = 0
    messages: int = 0
    reduced_bytes: int = 0
    reductions: int = 0
    waited: float = 0.0

    def __sub__(self, other: "Traffic") -> "Traffic":
        """Return what has come since."""
        names = self.__dataclass_fields__
        return Traffic(**{name: getattr(self, name) - getattr(other, name) for name in names})

    def copy(self) -> "Traffic":
        """Return the numbers of now."""
        return Traffic(**vars(self))


@dataclass
class Pending:
    """What has been asked of other ranks and is awaited."""

    finish: Callable[[], Any]
    poll: Callable[[], None] = field(default=lambda: None)
    _found: Any = None
    _done: bool = False

    def wait(self) -> Any:
        """Return what has come, as soon as it is there."""
        if not self._done:
            self._found, self._done = self.finish(), True
            self.finish = self.poll = lambda: None  # which let go of what was sent
        return self._found


class Ranks(Protocol):
    """The ranks of a run, all of which call the same functions in the same order."""

    traffic: Traffic

    @property
    def rank(self) -> int:
        """Number of this rank."""

    @property
    def size(self) -> int:
        """How many ranks there are."""

    def gather(self, values: np.ndarray) -> list[np.ndarray]:
        """Return the arrays of all ranks, which may have different numbers of rows."""

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sum over all ranks, with the same bits on each."""

    def largest(self, values: np.ndarray) -> np.ndarray:
        """Return the largest of all ranks, element by element."""

    def deal(self, rows: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give every rank its rows, which lie one rank after the other.

        Returns
        -------
        rows, counts : ndarray
            What has come, and how many rows from each rank.
        """

    def post(self, rows: np.ndarray, sent: np.ndarray, received: np.ndarray) -> Pending:
        """Begin to send rows to some ranks and to receive others, whose numbers are known."""

    def post_sum(self, values: np.ndarray) -> Pending:
        """Begin to sum over all ranks; bits may differ from rank to rank."""

    def all_fail(self, error: BaseException) -> bool:
        """Return whether all ranks have failed; False if some have not within some seconds."""

    def abort(self, message: str) -> None:
        """End the run on all ranks, with a message."""


def agreed(ranks: Ranks, check: Callable[[], Any]) -> Any:
    """Return what a check of this rank's arguments returns; raise on all ranks if one refuses.

    Raises
    ------
    TypeError, ValueError
        That of the first rank that refuses; it names the rank.
    """
    found, error = None, None
    try:
        found = check()
    except (TypeError, ValueError) as refused:
        error = refused
    text = "" if error is None else f"{type(error).__name__}: {error}"
    told = ranks.gather(np.frombuffer(text.encode(), np.uint8))
    for rank, letters in enumerate(told):
        if len(letters):
            name, _, reason = letters.tobytes().decode().partition(": ")
            kind = TypeError if name == "TypeError" else ValueError
            raise kind(f"rank {rank} of {ranks.size}: {reason}") from error
    return found


@contextmanager
def together(ranks: Ranks, doing: str) -> Iterator[None]:
    """End the run if an error inside is not one of all ranks: the others would wait for ever."""
    try:
        yield
    except BaseException as error:
        if ranks.size == 1 or ranks.all_fail(error):
            raise
        ranks.abort(
            f"rank {ranks.rank} of {ranks.size} failed in {doing} and others did not, so the run "
            f"ends here: {type(error).__name__}: {error}"
        )
        raise
