"""Several runs of one system at a time, in threads that share the model's evaluations."""

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from gnn.engines.embedding.together import Together

#: Takes the number of a replica, its step and its speed in ns/day.
Progress = Callable[[int, int, float], None]


def circles(replicas: int, cores: int | None = None) -> int:
    """Return in how many circles replicas meet: while one evaluates the model, another moves.

    One for every two cores, as long as each has four replicas or more: on two cores a second one
    saved no time (``benchmarks/replicas.py``).
    """
    if cores is None:
        known = hasattr(os, "sched_getaffinity")  # on Linux: those that this process may use
        cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(1, min(cores // 2, replicas // 4))


class Replicas:
    """Runs that go on side by side, each in a thread, and meet at batched calls of the model.

    A replica that fails ends with its error; the others go on without it.

    Parameters
    ----------
    runs : sequence of gnn.engines.runs.dynamics.Run
        Of one model; each in a folder of its own.
    circles
        Number of groups that meet. None: see `circles`.

    Attributes
    ----------
    errors : dict
        Of replicas that failed, by number.
    """

    def __init__(self, runs: Sequence[Any], number: int | None = None):
        self.runs, self.errors = list(runs), dict[int, BaseException]()
        number = circles(len(self.runs)) if number is None else number
        if not 1 <= number <= len(self.runs):
            raise ValueError(f"expected from 1 to {len(self.runs)} circles, got {number}")
        sizes = [len(self.runs[i::number]) for i in range(number)]
        self.circles = [Together(size) for size in sizes]
        self._stop = threading.Event()

    def run(self, resume: bool = False, progress: Progress | None = None) -> None:
        """Do all steps of all replicas; with `resume`, those after their last checkpoints.

        Replicas that have no checkpoint yet, because they were stopped before, begin.

        Raises
        ------
        FileNotFoundError
            If there is nothing to resume.
        KeyboardInterrupt
            Once all replicas have stopped.
        """
        if resume and not any(run.checkpoint.is_file() for run in self.runs):
            folder = self.runs[0].folder.parent
            raise FileNotFoundError(f"nothing to resume in {folder}: leave out --resume")
        threads = [
            threading.Thread(target=self._one, args=(i, resume, progress), name=f"replica {i}")
            for i in range(len(self.runs))
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)  # a wait without end would not see Ctrl-C
        except KeyboardInterrupt:
            self.stop()
            for thread in threads:
                thread.join()
            raise

    def stop(self) -> None:
        """Let all replicas end at their next evaluation."""
        self._stop.set()
        for circle in self.circles:
            circle.stop()

    def _one(self, number: int, resume: bool, progress: Progress | None) -> None:
        """Do one replica; note its error, and let the others go on without it."""
        run, circle = self.runs[number], self.circles[number % len(self.circles)]
        member = number // len(self.circles)

        def told(step: int, speed: float) -> None:
            if self._stop.is_set():  # without a model nothing else would end it
                raise KeyboardInterrupt
            if progress is not None:
                progress(number, step, speed)

        run.embedded = lambda embedding: circle.attach(member, embedding)
        try:
            run.run(resume and run.checkpoint.is_file(), told)
        except KeyboardInterrupt:
            pass
        except BaseException as error:
            self.errors[number] = error
        finally:
            circle.leave(member)
