"""Tasks in separate processes: one that fails or is killed loses its own task only."""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from typing import Any, Literal


@dataclass(frozen=True)
class Event:
    """What a worker says of its task.

    Parameters
    ----------
    task
        The task.
    kind
        "item": the task yielded `value`; "done": it came to its end; "failed": it raised the
        exception `value`; "lost": the process ended, as the text `value` says.
    value
        See `kind`.
    """

    task: Any
    kind: Literal["item", "done", "failed", "lost"]
    value: Any = None


class Here:
    """One worker: this process."""

    def __init__(self, work: Callable[[Any], Iterator[Any]]) -> None:
        self.work = work

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def events(self, tasks: deque[Any]) -> Iterator[Event]:
        """Do all tasks; yield the events."""
        while tasks:
            task = tasks.popleft()
            try:
                for item in self.work(task):
                    yield Event(task, "item", item)
                yield Event(task, "done")
            except Exception as error:
                yield Event(task, "failed", error)


class Workers:
    """A few processes that do tasks one after the other.

    They are spawned, never forked, and end when the process that started them does.

    Parameters
    ----------
    work
        Generator function of one task; importable by name, or a `functools.partial` of one.
    count
        Number of processes.
    threads
        Threads of each for OpenMP and BLAS.
    """

    def __init__(self, work: Callable[[Any], Iterator[Any]], count: int, threads: int = 1) -> None:
        self.work, self.threads = work, threads
        self.workers: list[_Worker | None] = [None] * count

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            if worker is not None:
                worker.stop()

    def events(self, tasks: deque[Any]) -> Iterator[Event]:
        """Do all tasks, including those appended meanwhile; yield the events."""
        while True:
            self._hand_out(tasks)
            busy = {w.link: k for k, w in enumerate(self.workers) if w is not None and w.busy}
            if not busy:
                return
            for link in connection.wait(list(busy)):
                k = busy[link]  # type: ignore[index]
                worker: Any = self.workers[k]
                event = worker.event()
                if event.kind == "lost":
                    self.workers[k] = None
                yield event

    def _hand_out(self, tasks: deque[Any]) -> None:
        for k, worker in enumerate(self.workers):
            if not tasks:
                return
            if worker is None:
                worker = self.workers[k] = _Worker(self.work, self.threads)
            if not worker.busy:
                worker.give(tasks.popleft())


class _Worker:
    """One process, seen from the one that started it."""

    def __init__(self, work: Callable[[Any], Iterator[Any]], threads: int) -> None:
        context = get_context("spawn")
        self.link, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        with _environment(threads):
            self.process.start()
        theirs.close()
        self.task: Any = None
        self.busy = False

    def give(self, task: Any) -> None:
        self.task, self.busy = task, True
        with suppress(OSError):  # it died while idle: `event` reports that
            self.link.send(task)

    def event(self) -> Event:
        try:
            kind, value = self.link.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended ({code})"
            self.busy = False
            return Event(self.task, "lost", f"the worker {how}")
        self.busy = kind == "item"
        return Event(self.task, kind, value)

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()
        self.link.close()


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Environment of a new process: libraries read the number of threads when they are loaded."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(link: Any, work: Callable[[Any], Iterator[Any]]) -> None:
    """Do tasks until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starting process ends its workers
    try:
        while True:
            task = link.recv()
            try:
                for item in work(task):
                    link.send(("item", item))
                answer: tuple[str, Any] = ("done", None)
            except Exception as error:
                answer = ("failed", plain(error))
            link.send(answer)
    except (EOFError, OSError):
        return


def plain(error: Exception) -> Exception:
    """Return an exception that can be pickled: of the nearest built-in type, with the same text."""
    text = str(error) or type(error).__name__
    for kind in (OSError, ValueError, MemoryError, ImportError):
        if isinstance(error, kind):
            return kind(text)
    return RuntimeError(text)
