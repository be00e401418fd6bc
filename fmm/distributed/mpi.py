"""Ranks of MPI, by mpi4py: see `fmm.distributed.ranks`."""

import sys
import traceback
from time import monotonic, perf_counter, sleep
from types import TracebackType
from typing import Any

import numpy as np

from fmm.distributed.ranks import Pending, Traffic

#: Seconds within which all ranks must fail, if one does, for the run to go on.
PATIENCE = 10.0
_TAG = 77


class MpiRanks:
    """The ranks of a communicator.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        Default ``MPI.COMM_WORLD``. It is duplicated, once: messages of others do not meet ours.

    Raises
    ------
    ImportError
        If mpi4py, or an MPI, is not installed; it says what is missing.
    TypeError
        If `comm` is no communicator.
    """

    def __init__(self, comm: Any = None) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise ImportError(
                "fmm.distributed: expected mpi4py and an MPI (in a checkout: pip install "
                "'.[mpi-local]', or '.[mpi]' where there is an MPI), got "
                f"{type(error).__name__}: {error}"
            ) from error
        comm = MPI.COMM_WORLD if comm is None else comm
        if not isinstance(comm, MPI.Intracomm):
            raise TypeError(
                f"comm: expected an intracommunicator of mpi4py, got a {type(comm).__name__}"
            )
        self._mpi = MPI
        self._comm, self._alarm = _duplicates(MPI, comm)
        self.traffic = Traffic()
        if self.size > 1:
            _end_with_errors(self)

    @property
    def rank(self) -> int:
        """Number of this rank."""
        return int(self._comm.rank)

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return int(self._comm.size)

    def gather(self, values: np.ndarray) -> list[np.ndarray]:
        """Return the arrays of all ranks, which may have different numbers of rows."""
        values = np.ascontiguousarray(values)
        if self.size == 1:
            return [values]
        start = perf_counter()
        counts = np.empty(self.size, np.int64)
        self._comm.Allgather(np.array([len(values)], np.int64), counts)
        out = np.empty((counts.sum(), *values.shape[1:]), values.dtype)
        kind = self._row(values)
        ends = np.cumsum(counts)
        self._comm.Allgatherv([values, kind], [out, (counts, ends - counts), kind])
        kind.Free()
        self._reduced(values, start)
        return np.split(out, ends[:-1])

    def _reduced(self, values: np.ndarray, start: float) -> None:
        self.traffic.reduced_bytes += values.nbytes
        self.traffic.reductions += 1
        self.traffic.waited += perf_counter() - start

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sum over all ranks, with the same bits on each."""
        return self._reduce(values, self._mpi.SUM)

    def largest(self, values: np.ndarray) -> np.ndarray:
        """Return the largest of all ranks, element by element."""
        return self._reduce(values, self._mpi.MAX)

    def _reduce(self, values: np.ndarray, operation: Any) -> np.ndarray:
        values = np.ascontiguousarray(values)
        if self.size == 1:
            return values
        start = perf_counter()
        out = np.empty_like(values)
        # by one rank, for all: reductions to all at once may differ in their last bits
        self._comm.Reduce(values, out, operation, 0)
        self._comm.Bcast(out, 0)
        self._reduced(values, start)
        return out

    def deal(self, rows: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give every rank its rows, which lie one rank after the other."""
        counts = np.ascontiguousarray(counts, np.int64)
        rows = np.ascontiguousarray(rows)
        if self.size == 1:
            return rows, counts
        start = perf_counter()
        received = np.empty_like(counts)
        self._comm.Alltoall(counts, received)
        out = np.empty((received.sum(), *rows.shape[1:]), rows.dtype)
        kind = self._row(rows)
        self._comm.Alltoallv(
            [rows, (counts, np.cumsum(counts) - counts), kind],
            [out, (received, np.cumsum(received) - received), kind],
        )
        kind.Free()
        self._count(rows, counts)
        self.traffic.waited += perf_counter() - start
        return out, received

    def _row(self, rows: np.ndarray) -> Any:
        """Return MPI's type of a row, so that counts are those of rows."""
        return self._mpi.BYTE.Create_contiguous(_width(rows)).Commit()

    def _count(self, rows: np.ndarray, counts: np.ndarray) -> None:
        away = np.array(counts)
        away[self.rank] = 0
        self.traffic.bytes += int(away.sum()) * _width(rows)
        self.traffic.messages += int(np.count_nonzero(away))

    def post(self, rows: np.ndarray, sent: np.ndarray, received: np.ndarray) -> Pending:
        """Begin to send rows to some ranks and to receive others, whose numbers are known."""
        rows = np.ascontiguousarray(rows)
        out = np.empty((int(received.sum()), *rows.shape[1:]), rows.dtype)
        self._count(rows, sent)
        kind = self._row(rows)
        requests = []
        for counts, buffer, begin in (
            (received, out, self._comm.Irecv), (sent, rows, self._comm.Isend),
        ):  # fmt: skip
            ends = np.cumsum(counts)
            for other in np.flatnonzero(counts):
                part = buffer[ends[other] - counts[other] : ends[other]]
                requests.append(begin([part, int(counts[other]), kind], int(other), _TAG))
        kind.Free()
        return self._awaited(requests, out, rows)

    def post_sum(self, values: np.ndarray) -> Pending:
        """Begin to sum over all ranks; bits may differ from rank to rank."""
        if self.size == 1:
            return Pending(lambda: values)
        values = np.ascontiguousarray(values)
        out = np.empty_like(values)
        self.traffic.reduced_bytes += values.nbytes
        self.traffic.reductions += 1
        return self._awaited([self._comm.Iallreduce(values, out, self._mpi.SUM)], out, values)

    def _awaited(self, requests: list[Any], out: np.ndarray, kept: np.ndarray) -> Pending:
        def finish() -> np.ndarray:
            start = perf_counter()
            self._mpi.Request.Waitall(requests)
            self.traffic.waited += perf_counter() - start
            assert kept is not None  # what is sent must live until it is
            return out

        def poll() -> None:
            self._mpi.Request.Testall(requests)

        return Pending(finish, poll)

    # --- when a rank fails ------------------------------------------------------------------------

    def all_fail(self, error: BaseException) -> bool:
        """Return whether all ranks have failed; False if some have not within some seconds."""
        request = self._alarm.Ibarrier()
        until = monotonic() + PATIENCE
        while monotonic() < until:
            if request.Test():
                return True
            sleep(0.001)
        return False

    def abort(self, message: str) -> None:
        """End the run on all ranks, with a message."""
        print(f"fmm.distributed: {message}", file=sys.stderr, flush=True)
        self._comm.Abort(1)


_keyval: int | None = None


def _duplicates(mpi: Any, comm: Any) -> tuple[Any, Any]:
    """Return two duplicates of a communicator, which keeps them: there are not many to be had."""
    global _keyval
    if _keyval is None:
        _keyval = mpi.Comm.Create_keyval()
    found: tuple[Any, Any] | None = comm.Get_attr(_keyval)
    if found is None:
        found = comm.Dup(), comm.Dup()
        comm.Set_attr(_keyval, found)
    return found


def _width(rows: np.ndarray) -> int:
    """Return the bytes of a row."""
    return rows.itemsize * int(np.prod(rows.shape[1:]))


def _end_with_errors(ranks: MpiRanks) -> None:
    """Let an error that nobody catches end the run on all ranks, which would wait for this one."""
    if sys.excepthook is not sys.__excepthook__:
        return  # somebody else has made up their mind

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, SystemExit):
            return
        traceback.print_exception(kind, error, trace)
        if ranks._mpi.Is_finalized():
            return
        ranks.abort(f"rank {ranks.rank} of {ranks.size} ended by {kind.__name__}; so does the run")

    sys.excepthook = hook
