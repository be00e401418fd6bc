"""Tasks on many machines, by Dask (extra ``cluster``): same interface as `gnn.data.making.workers`.

The machines share a file system, as those of a cluster do; what a task finishes lies in files, or
is handed back. Dask does the tasks of a worker that is lost again on another one, and gives a task
up that has cost several workers.
"""

import queue
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

from gnn.data.making.workers import Event, plain

_LOOK = 2.0  # seconds between looks at how many workers there are
_TRIES = 3  # of a task that could not read or write
_VERSIONS = ("anisole", "numpy", "pyscf", "openmm")
_KINDS = {
    "slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster",
    "oar": "OARCluster", "moab": "MoabCluster", "htcondor": "HTCondorCluster",
    "local": "LocalCluster",
}  # fmt: skip
Say = Callable[[str], None]


@contextmanager
def connected(where: str, processes: int, threads: int, say: Say) -> Iterator[Any]:
    """Connect to a scheduler of Dask, or start one.

    Parameters
    ----------
    where
        ``tcp://HOST:PORT``, the JSON file of ``dask scheduler --scheduler-file``, ``local`` for
        processes of this machine, or a YAML file that describes jobs of a batch system: ``cluster``
        (slurm, pbs, sge, lsf, oar, moab, htcondor, local), ``jobs``, and arguments of that cluster
        in dask-jobqueue.
    processes, threads
        Of ``local``: how many, and threads of each.
    say
        Takes lines about what goes on.

    Yields
    ------
    distributed.Client

    Raises
    ------
    ImportError
        If Dask is not installed.
    ValueError
        If `where` is none of these, or the YAML file is wrong.
    OSError
        If the scheduler does not answer.
    """
    distributed = _imported("distributed")
    if where == "local":
        cluster = distributed.LocalCluster(
            n_workers=processes, threads_per_worker=1, dashboard_address=None,
            env=dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)),
        )  # fmt: skip
    elif where.endswith((".yaml", ".yml")):
        cluster = _batch_system(Path(where), say)
    elif where.endswith(".json") and not Path(where).is_file():
        raise FileNotFoundError(f"--scheduler: no file {where}; start `dask scheduler` first")
    elif "://" in where or where.endswith(".json"):
        cluster = None
    else:
        raise ValueError(
            "--scheduler: expected tcp://HOST:PORT, local, a scheduler file (.json) or a "
            f"description of jobs (.yaml), got {where!r}"
        )
    known = {"scheduler_file": where} if where.endswith(".json") else {"address": cluster or where}
    try:
        with distributed.Client(**known, set_as_default=False) as client:
            yield client
    except TimeoutError as error:
        raise OSError(f"--scheduler: {where} does not answer ({error})") from error
    finally:
        if cluster is not None:
            cluster.close()


def _imported(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise ImportError(
            f"--scheduler needs Dask ({error}): pip install '.[cluster]' in a checkout"
        ) from error


def _batch_system(path: Path, say: Say) -> Any:
    """Start the jobs that a YAML file describes; those that end are replaced."""
    import yaml

    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("cluster") not in _KINDS:
        found = content.get("cluster") if isinstance(content, dict) else content
        raise ValueError(f"{path}: cluster: expected one of {', '.join(_KINDS)}, got {found!r}")
    kind, jobs = _KINDS[content.pop("cluster")], content.pop("jobs", None)
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        raise ValueError(f"{path}: jobs: expected a number of jobs, at least 1, got {jobs!r}")
    jobqueue = _imported("dask_jobqueue")
    module = jobqueue if hasattr(jobqueue, kind) else __import__("dask_jobqueue.local").local
    try:
        cluster = getattr(module, kind)(**content)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: dask-jobqueue's {kind} says: {error}") from error
    cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
    say(f"{jobs} jobs are asked for, scheduler {cluster.scheduler_address}")
    return cluster


class ClusterWorkers:
    """Workers of a Dask cluster that do tasks one at a time.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    work
        Generator function of one task; importable by name, or a `functools.partial` of one.
    say
        Takes lines about what goes on.
    folder
        That all workers have to see. None: none.
    """

    def __init__(
        self,
        client: Any,
        work: Callable[[Any], Iterator[Any]],
        say: Say = print,
        folder: Path | None = None,
    ) -> None:
        self.client, self.work, self.say = client, work, say
        self.name = f"anisole-{uuid4().hex[:12]}"
        self.seen = None if folder is None else folder.resolve() / f".{self.name}"
        self.news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.running: dict[int, _Running] = {}
        self._told: set[str] = set()
        self._looked, self._count = -_LOOK, 0

    def __enter__(self) -> "ClusterWorkers":
        if self.seen is not None:
            self.seen.write_text(
                "a worker that does not see this file is told so\n", encoding="utf-8"
            )
        self.client.subscribe_topic(self.name, lambda event: self.news.put(event[1]))
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.running.values():
            one.future.cancel()
        self.client.unsubscribe_topic(self.name)
        if self.seen is not None:
            self.seen.unlink(missing_ok=True)

    def events(self, tasks: deque[Any]) -> Iterator[Event]:
        """Do all tasks, including those appended meanwhile; yield the events."""
        numbers = count()
        while tasks or self.running:
            for _ in range(min(len(tasks), max(1, self._workers()) - len(self.running))):
                number = next(numbers)
                self.running[number] = _Running(tasks.popleft())
                self._submit(number)
            try:
                number, *said = self.news.get(timeout=_LOOK)
            except queue.Empty:
                continue
            if number in self.running:
                yield from self._heard(number, *said)

    def _submit(self, number: int) -> None:
        """Give a task to the cluster: one at a time to a worker, since dynamics take them all."""
        one = self.running[number]
        one.future = self.client.submit(
            _do, self.work, one.task, self.name, number, self.seen,
            key=f"{self.name}-{number}-{one.tries}", pure=False,
        )  # fmt: skip
        one.future.add_done_callback(lambda _: self.news.put((number, None, None)))

    def _heard(self, number: int, place: int | None, value: Any) -> Iterator[Event]:
        """Turn a message into events: an item of a task, or its end (no place)."""
        one = self.running[number]
        if place is not None:
            yield from one.items(place, [value])  # again, where the task was begun anew
            return
        if one.future.status == "finished":
            items, versions = one.future.result()
            self._compare(versions)
            yield from one.items(0, items)
            del self.running[number]
            yield Event(one.task, "done")
            return
        event = self._failure(one)
        one.tries += 1
        if isinstance(event.value, OSError) and one.tries < _TRIES:
            self.say(f"{one.task}: {event.value}; tried again")
            self._submit(number)
            return
        del self.running[number]
        yield event

    def _failure(self, one: "_Running") -> Event:
        if one.future.status != "error":
            raise ConnectionError(
                f"the connection to the scheduler of Dask is lost ({one.future.status}): what is "
                "finished is saved, and the same command goes on from there"
            )
        error = one.future.exception()
        if type(error).__name__ == "KilledWorker":
            told = f"cost {error.allowed_failures + 1} workers, the last of which was "
            return Event(one.task, "lost", f"{told}{error.last_worker.address}")
        return Event(one.task, "failed", error)

    def _workers(self) -> int:
        """Return how many workers there are, and say so where there is none."""
        now = time.monotonic()
        if now - self._looked >= _LOOK:
            if self.client.status not in ("running", "connecting"):
                raise ConnectionError("the connection to the scheduler of Dask is lost")
            threads = self.client.nthreads()
            self._count, self._looked = len(threads), now
            if not threads:
                self._once("no worker is connected: waiting for the first")
            elif max(threads.values()) > 1:
                self._once(
                    f"a worker has {max(threads.values())} threads, but does one task at a time: "
                    "start workers of one thread each"
                )
        return self._count

    def _compare(self, theirs: tuple[str, dict[str, str]]) -> None:
        """Say where a worker has other versions than there are here."""
        address, versions = theirs
        other = [
            f"{name} {there}, here {here}"
            for name, here in _versions().items()
            if (there := versions[name]) != here
        ]
        if other:
            self._once(f"worker {address} has {'; '.join(other)}: its frames may differ")

    def _once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self.say(line)


class _Running:
    """A task that a cluster has: what it gave so far, and how often it was tried."""

    def __init__(self, task: Any) -> None:
        self.task, self.given, self.tries = task, 0, 0
        self.future: Any = None

    def items(self, place: int, values: list[Any]) -> Iterator[Event]:
        """Yield those that were not yet there."""
        new = values[max(0, self.given - place) :] if place <= self.given else []
        self.given += len(new)
        for value in new:
            yield Event(self.task, "item", value)


def _do(
    work: Callable[[Any], Iterator[Any]], task: Any, topic: str, number: int, seen: Path | None
) -> tuple[list[Any], tuple[str, dict[str, str]]]:
    """Do a task in a worker of the cluster: tell of each item at once, and of all at the end."""
    worker = _imported("distributed").get_worker()
    if seen is not None and not seen.is_file():
        raise OSError(
            f"worker {worker.address} does not see {seen.parent}: all machines need a file system "
            "in common, with the folder of the frames under the same path"
        )
    items: list[Any] = []
    try:
        for item in work(task):
            if item is None or isinstance(item, str | int):  # not arrays: these come at the end
                worker.log_event(topic, (number, len(items), item))
            items.append(item)
    except Exception as error:
        raise plain(error) from None
    return items, (worker.address, _versions())


@cache
def _versions() -> dict[str, str]:
    def of(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "none"

    return {"Python": sys.version.split()[0]} | {name: of(name) for name in _VERSIONS}
