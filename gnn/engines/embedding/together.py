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
    """A rendezvous: the batches of all its members are evaluated at once, in members' order.

    A small batch costs a model nearly as much as a larger one. Each member is a thread; its call
    returns when all have called that still take part. The last one to come evaluates, the others
    wait; so the same members meet in each call, and numbers do not depend on which thread is fast.

    Where the common evaluation fails, each batch is evaluated alone, so that the error is of the
    one that made it and the others go on.

    Parameters
    ----------
    evaluate : callable
        Takes a `Batch`, returns what the model says of it.

    Attributes
    ----------
    evaluations : int
        So far, of how many batches soever.
    """

    def __init__(self, evaluate: Evaluate):
        self.evaluate, self.evaluations = evaluate, 0
        self._changed = threading.Condition()
        self._members: set[int] = set()
        self._waiting: dict[int, Batch] = {}
        self._answers: dict[int, Output | BaseException] = {}
        self._stopped = False

    def join(self, embedding: Embedding) -> Callable[[], None]:
        """Let an embedding be evaluated here; return what its thread must call when it is done.

        All that begin together join before the first of them is evaluated. Another call of the
        returned function does nothing.
        """
        with self._changed:
            member = max(self._members, default=-1) + 1
            self._members.add(member)
        embedding.evaluate = lambda batch: self._meet(member, batch)

        def leave() -> None:
            with self._changed:
                self._members.discard(member)
                self._waiting.pop(member, None)
                self._changed.notify_all()

        return leave

    def stop(self) -> None:
        """Raise a KeyboardInterrupt in all members: where they wait, or at their next call."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _meet(self, member: int, batch: Batch) -> Output:
        """Return what the model says of one member's batch, once all have met."""
        with self._changed:
            if member not in self._members:
                raise RuntimeError("a member that has left the rendezvous called the model")
            self._waiting[member] = batch
            while member not in self._answers:
                if self._stopped:
                    raise KeyboardInterrupt
                if member in self._waiting and self._waiting.keys() == self._members:
                    self._lead()
                else:
                    self._changed.wait()
            answer = self._answers.pop(member)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _lead(self) -> None:
        """Evaluate what waits; the lock is free meanwhile, so that others can leave or stop."""
        order = sorted(self._waiting)
        batches = [self._waiting.pop(member) for member in order]
        self._changed.release()
        try:
            answers = self._answers_of(batches)
        finally:
            self._changed.acquire()
        self.evaluations += 1
        self._answers.update(zip(order, answers, strict=True))
        self._changed.notify_all()

    def _answers_of(self, batches: list[Batch]) -> list[Output | BaseException]:
        try:
            return [*parted(self.evaluate(joined(batches)), batches)]
        except Exception as error:
            if len(batches) == 1:
                return [error]
        return [_attempt(self.evaluate, batch) for batch in batches]


def _attempt(evaluate: Evaluate, batch: Batch) -> Output | BaseException:
    try:
        return evaluate(batch)
    except Exception as error:
        return error
