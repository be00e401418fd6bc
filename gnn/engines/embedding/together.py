"""Several threads that meet at one batched call of a model."""

import threading
from collections.abc import Callable

from torch import Tensor

from gnn.data.batching import Batch
from gnn.data.joining import joined, parted
from gnn.engines.embedding.embedding import Embedding

Output = dict[str, Tensor]
Evaluate = Callable[[Batch], Output]


class Together:
    """A rendezvous of threads: the batches of all of them are evaluated at once.

    A batch of several small systems costs a model little more than one of them. A member's call
    returns when all members have called; the last one to come evaluates for all, and the batches
    are joined in the order of the members. So numbers do not depend on which thread is fast.

    Where the common evaluation fails, each batch is evaluated alone: the error is that of the
    member that made it, and the others go on.

    Parameters
    ----------
    members : int
        How many take part; they are numbered from 0.

    Attributes
    ----------
    meetings : int
        Evaluations so far.
    """

    def __init__(self, members: int):
        self.meetings = 0
        self._changed = threading.Condition()
        self._members = set(range(members))
        self._waiting: dict[int, Batch] = {}
        self._answers: dict[int, Output | Exception] = {}
        self._stopped = False

    def attach(self, member: int, embedding: Embedding) -> None:
        """Let a member's embedding be evaluated here; its model must be the same as all others'."""
        alone = embedding.evaluate
        embedding.evaluate = lambda batch: self._meet(member, alone, batch)

    def leave(self, member: int) -> None:
        """Go on without a member; the others wait for it no more."""
        with self._changed:
            self._members.discard(member)
            self._waiting.pop(member, None)
            self._changed.notify_all()

    def stop(self) -> None:
        """Raise a KeyboardInterrupt in all members: where they wait, or at their next call."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _meet(self, member: int, evaluate: Evaluate, batch: Batch) -> Output:
        """Return what the model says of one member's batch, once all have met."""
        with self._changed:
            if member not in self._members:
                raise RuntimeError(f"member {member} has left, and calls the model")
            self._waiting[member] = batch
            while member not in self._answers:
                if self._stopped:
                    self._waiting.pop(member, None)
                    raise KeyboardInterrupt
                if member in self._waiting and self._waiting.keys() == self._members:
                    self._lead(evaluate)
                else:
                    self._changed.wait()
            answer = self._answers.pop(member)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _lead(self, evaluate: Evaluate) -> None:
        """Evaluate what waits; the lock is free meanwhile, so that others can leave or stop."""
        order = sorted(self._waiting)
        batches = [self._waiting.pop(member) for member in order]
        self._changed.release()
        try:
            answers = _answers(evaluate, batches)
        finally:
            self._changed.acquire()
        self.meetings += 1
        self._answers.update(zip(order, answers, strict=True))
        self._changed.notify_all()


def _answers(evaluate: Evaluate, batches: list[Batch]) -> list[Output | Exception]:
    try:
        return [*parted(evaluate(joined(batches)), batches)]
    except Exception as error:
        if len(batches) == 1:
            return [error]
    return [answer for batch in batches for answer in _answers(evaluate, [batch])]
