"""Ranks that are threads of one process: for tests, and to count what many ranks would send."""

import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from fmm.distributed.ranks import Pending, Traffic

#: Seconds after which threads that wait for others give up.
PATIENCE = 300.0
#: Seconds within which all must fail, if one does, for the others to go on.
ALARM = 2.0


class _Board:
    """Where threads leave what others take."""

    def __init__(self, size: int) -> None:
        self.barrier, self.alarm = threading.Barrier(size), threading.Barrier(size)
        self.left: list[Any] = [None] * size
        self.messages: dict[tuple[int, int, int, str], np.ndarray] = {}
        self.arrived = threading.Condition()


class ThreadRanks:
    """One of the ranks, see `fmm.distributed.ranks.Ranks`."""

    def __init__(self, board: _Board, rank: int) -> None:
        self._board, self._rank = board, rank
        self._posted = 0
        self.traffic = Traffic()

    @property
    def rank(self) -> int:
        """Number of this rank."""
        return self._rank

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return len(self._board.left)

    def _all(self, values: Any) -> list[Any]:
        """Return what all ranks have left."""
        start = perf_counter()
        self._board.left[self._rank] = values
        self._board.barrier.wait(PATIENCE)
        found = list(self._board.left)
        self._board.barrier.wait(PATIENCE)
        self.traffic.waited += perf_counter() - start
        return found

    def gather(self, values: np.ndarray) -> list[np.ndarray]:
        """Return the arrays of all ranks."""
        self.traffic.reduced_bytes += values.nbytes
        self.traffic.reductions += 1
        return self._all(values)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sum over all ranks."""
        found: np.ndarray = np.sum(self._alike(values), axis=0)
        return found

    def largest(self, values: np.ndarray) -> np.ndarray:
        """Return the largest of all ranks."""
        found: np.ndarray = np.max(self._alike(values), axis=0)
        return found

    def _alike(self, values: np.ndarray) -> list[np.ndarray]:
        """Return the arrays of all ranks, which must be of one shape and type, as MPI asks."""
        told = self.gather(np.asarray(values))
        kinds = {(array.shape, array.dtype) for array in told}
        if len(kinds) > 1:
            raise RuntimeError(f"expected arrays of one kind on all ranks, got {sorted(kinds)}")
        return told

    def deal(self, rows: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give every rank its rows."""
        parts = np.split(rows, np.cumsum(counts)[:-1])
        self._count(rows, counts)
        mine = [given[self._rank] for given in self._all(parts)]
        return np.concatenate(mine), np.array([len(part) for part in mine])

    def _count(self, rows: np.ndarray, counts: np.ndarray) -> None:
        away = np.array(counts)
        away[self._rank] = 0
        width = rows.itemsize * int(np.prod(rows.shape[1:]))
        self.traffic.bytes += int(away.sum()) * width
        self.traffic.messages += int(np.count_nonzero(away))

    def post(self, rows: np.ndarray, sent: np.ndarray, received: np.ndarray) -> Pending:
        """Begin to send rows to some ranks and to receive others."""
        self._count(rows, sent)
        parts = np.split(rows.copy(), np.cumsum(sent)[:-1])
        self._posted += 1
        number, board = self._posted, self._board
        with board.arrived:
            for to in np.flatnonzero(sent):
                board.messages[number, self._rank, int(to), "rows"] = parts[to]
            board.arrived.notify_all()

        def finish() -> np.ndarray:
            start = perf_counter()
            found = [self._take((number, int(of), self._rank, "rows"))
                     for of in np.flatnonzero(received)]  # fmt: skip
            self.traffic.waited += perf_counter() - start
            return np.concatenate([rows[:0], *found])

        return Pending(finish)

    def _take(self, key: tuple[int, int, int, str]) -> np.ndarray:
        board = self._board
        with board.arrived:
            there = board.arrived.wait_for(
                lambda: key in board.messages or board.barrier.broken, PATIENCE
            )
            if not there or key not in board.messages:
                raise threading.BrokenBarrierError
            return board.messages.pop(key)

    def post_sum(self, values: np.ndarray) -> Pending:
        """Begin to sum over all ranks."""
        self.traffic.reduced_bytes += values.nbytes
        self.traffic.reductions += 1
        self._posted += 1
        number, board = self._posted, self._board
        with board.arrived:
            for to in range(self.size):
                board.messages[number, self._rank, to, "sum"] = values
            board.arrived.notify_all()

        def finish() -> np.ndarray:
            start = perf_counter()
            total: np.ndarray = np.sum(
                [self._take((number, of, self._rank, "sum")) for of in range(self.size)], axis=0
            )
            self.traffic.waited += perf_counter() - start
            return total

        return Pending(finish)

    def all_fail(self, error: BaseException) -> bool:
        """Return whether all ranks have failed; False if some have not within some seconds."""
        try:
            self._board.alarm.wait(ALARM)
        except threading.BrokenBarrierError:
            return False
        return True

    def abort(self, message: str) -> None:
        """Let no thread wait any more."""
        self._board.barrier.abort()
        with self._board.arrived:
            self._board.arrived.notify_all()


def run(size: int, work: Callable[[ThreadRanks], Any]) -> list[Any]:
    """Return what work returns on each of some ranks, each a thread.

    Raises
    ------
    Exception
        That of the rank that failed first.
    """
    board, found = _Board(size), [None] * size
    errors: list[tuple[float, BaseException]] = []

    def one(rank: int) -> None:
        ranks = ThreadRanks(board, rank)
        try:
            found[rank] = work(ranks)
        except BaseException as error:
            errors.append((perf_counter(), error))
            ranks.abort("")

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = [e for _, e in sorted(errors, key=lambda pair: pair[0])]
    first = [e for e in first if not isinstance(e, threading.BrokenBarrierError)] or first
    if first:
        raise first[0]
    return found
