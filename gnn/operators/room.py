"""Room for what a step finds while no shape may change: lists of fixed length, and doubts.

A step of fixed shapes (`gnn.steps`) is recorded once and replayed for other positions. How many
pairs are near each other changes from one to the next: each list of a step has a name and a length
that leaves room, and what it would have taken is noted on the device. So is whether anything lies
beyond the walls of a model, which act in the ordinary way only.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gnn.operators.fixed_pairs import ALL, FixedPairs, fixed_pairs
from gnn.operators.gpu import at_host

# places beyond the pairs of the first positions: a share, and a number
_SHARE, _LEAST = 0.15, 64
_MULTIPLE = 32


def roomy(count: int) -> int:
    """Return the length of a list that has room for more than so many pairs."""
    wanted = int(count * (1 + _SHARE)) + _LEAST
    return -(-wanted // _MULTIPLE) * _MULTIPLE


class Room:
    """Lengths of the lists of a step, and what it found.

    Parameters
    ----------
    sizes : dict, optional
        Length of each list by name. A list without one gets it from what there is at its first
        use, for which the host waits.

    Attributes
    ----------
    found : dict of str to Tensor
        How many pairs there were, int64 (), by name.
    is_even : bool
        Whether the given charges of atoms are the same for all of a system.
    answer : callable or None
        Takes packed multipoles (N, 10), and returns the derivatives by these of an energy that the
        host adds (`Batch.between`); None where there is none.
    """

    def __init__(self, sizes: dict[str, int] | None = None, is_even: bool = False) -> None:
        self.sizes = {} if sizes is None else dict(sizes)
        self.is_even = is_even
        self.answer: Callable[[Tensor], Tensor] | None = None
        self.found: dict[str, Tensor] = {}
        self._doubts: list[Tensor] = []
        self._lengths: list[tuple[Tensor, Tensor]] = []

    def begin(self) -> None:
        """Forget what the step before found."""
        self.found, self._doubts, self._lengths = {}, [], []

    def pairs(
        self,
        name: str,
        targets: Tensor,
        sources: Tensor,
        batches: tuple[Tensor, Tensor],
        reach: float | Tensor,
        kind: int = ALL,
    ) -> FixedPairs:
        """Return `fixed_pairs` in the list of a name."""
        given = targets, sources, batches, reach
        if name not in self.sizes:
            self.sizes[name] = roomy(at_host(fixed_pairs(*given, kind=kind).found))
        pairs = fixed_pairs(*given, self.sizes[name], kind)
        self.found[name] = pairs.found
        return pairs

    def doubt(self, beyond: Tensor) -> None:
        """Note what lies beyond the walls, a tensor of booleans."""
        self._doubts.append(beyond.reshape(-1))

    def compare(self, lengths: Tensor, largest: Tensor) -> None:
        """Note lengths (n,) that should not be larger than others."""
        self._lengths.append((lengths, largest))

    def doubts(self, like: Tensor) -> Tensor:
        """Return whether anything of the last step lies beyond the walls, bool ()."""
        found = list(self._doubts)
        if self._lengths:
            lengths, largest = (torch.cat(columns) for columns in zip(*self._lengths, strict=True))
            found.append(~(lengths <= largest))
        if not found:
            return torch.zeros((), dtype=torch.bool, device=like.device)
        return torch.cat(found).any()

    def lacking(self, counts: dict[str, int]) -> list[str]:
        """Return what to say of lists that were too short, and let them be longer from now on."""
        said = []
        for name, count in counts.items():
            if count > self.sizes[name]:
                said.append(f"{name}: expected at most {self.sizes[name]} pairs, found {count}")
                self.sizes[name] = roomy(count)
        return said


def pairs_of(
    room: Room | None,
    name: str,
    targets: Tensor,
    sources: Tensor,
    batches: tuple[Tensor, Tensor],
    reach: float | Tensor,
    kind: int = ALL,
) -> FixedPairs:
    """Return the pairs near each other: in a list of a room, or without one exactly all."""
    given = targets, sources, batches, reach
    if room is None:
        return fixed_pairs(*given, kind=kind)
    return room.pairs(name, *given, kind)
