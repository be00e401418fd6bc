"""Tasks in processes of their own: what fails or is killed loses its task only."""

import os
import signal
import time
from collections import deque

import pytest

from gnn.data.making.workers import Workers


def work(task):
    if task == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "full":
        raise OSError(28, "no space")
    if task == "fail":
        raise KeyError("wrong")
    time.sleep(0.3)  # so that one process cannot do them all before the other has begun
    yield task, os.environ["OMP_NUM_THREADS"]
    yield os.getpid(), None


@pytest.fixture(scope="module")
def happened():
    """What happens to twelve tasks, one of them handed in while the others are done."""
    tasks = deque([0, "kill", 1, "fail", 2, 3, "full", 4, 5, 6])
    events = []
    with Workers(work, 2, threads=3) as workers:
        for event in workers.events(tasks):
            events.append(event)
            if event.kind == "lost" and event.task == "kill":
                tasks.append("late")
    return events


def test_all_others_are_done(happened):
    done = {event.task for event in happened if event.kind == "done"}
    assert done == {0, 1, 2, 3, 4, 5, 6, "late"}
    for task in done:
        own = [event for event in happened if event.task == task]
        assert [event.kind for event in own] == ["item", "item", "done"]
        assert own[0].value == (task, "3")  # and the number of threads was set


def test_what_was_lost_is_named(happened):
    lost = {event.task: event.value for event in happened if event.kind == "lost"}
    assert lost == {"kill": "the worker was killed by SIGKILL"}


def test_errors_are_of_kinds_that_are_known(happened):
    failed = {event.task: event.value for event in happened if event.kind == "failed"}
    assert set(failed) == {"fail", "full"}
    assert type(failed["fail"]) is RuntimeError and "wrong" in str(failed["fail"])
    assert isinstance(failed["full"], OSError) and "no space" in str(failed["full"])


def test_no_process_is_left_and_the_environment_is_as_it_was(happened):
    pids = {e.value[0] for e in happened if e.kind == "item" and e.value[1] is None}
    assert len(pids) >= 2 and os.getpid() not in pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert os.environ.get("OMP_NUM_THREADS") != "3"
