"""Lists of pairs whose length is known beforehand: no shape depends on where points are.

A list of fixed length has more places than there are pairs. Those that are over are spread evenly
over the targets, so that no thread of a GPU gets them all, name any source, and are not `present`:
who uses the list lets them contribute nothing. Whether the list was long enough is known on the
device; to ask is to wait.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gnn.operators.field_neighbours import gpu
from gnn.operators.gpu import at_host, on_gpu
from multipoles.neighbours import PairList

#: Which pairs: all within a distance (included); of different points closer than it; each
#: unordered pair of different points once, within the distance (included).
ALL, EDGES, HALF = range(3)


class FixedPairs(NamedTuple):
    """Pairs of one system, sorted by target.

    Attributes
    ----------
    first, second : Tensor
        Targets and sources, int64 (P,).
    present : Tensor or None
        Which of them are there, bool (P,). None: all.
    starts : Tensor
        Place of the first pair of each target, and the end, int64 (n + 1,).
    found : Tensor
        How many there are, int64 (): more than P where the list was too short.
    """

    first: Tensor
    second: Tensor
    present: Tensor | None
    starts: Tensor
    found: Tensor

    def neighbours(self, like: Tensor, n_sources: int) -> Any:
        """Return the pairs as sums of fields take them; `like` gives place and type."""
        n_targets = len(self.starts) - 1
        if on_gpu(like):
            return gpu().of_fixed(self, like, n_targets, n_sources)
        pairs = torch.stack([self.first, self.second], dim=1)
        pairs = pairs if self.present is None else pairs[self.present]
        return PairList(pairs.numpy(), n_targets, n_sources)


def fixed_pairs(
    targets: Tensor,
    sources: Tensor,
    batches: tuple[Tensor, Tensor],
    reach: float | Tensor,
    capacity: int | None = None,
    kind: int = ALL,
) -> FixedPairs:
    """Return the pairs of one system that are near each other, in a list of fixed length.

    Parameters
    ----------
    targets, sources : Tensor
        (n, 3) and (m, 3) points in Å, of one type and device.
    batches : tuple of Tensor
        Sorted system of each target and of each source, int64.
    reach : float or Tensor
        Distance in Å, of all targets or of each (n,).
    capacity : int, optional
        Length of the list. None: as many as there are, for which the host waits.
    kind : int
        `ALL`, `EDGES` or `HALF`.
    """
    x, s = targets.detach().contiguous(), sources.detach().contiguous()
    limits, n = _squares(reach, x), len(x)
    parts = _counts(x, s, batches, limits, kind)
    counts = parts.sum(1)
    ends = torch.cumsum(counts, 0)
    found = ends[-1] if n else counts.sum()
    size = at_host(found) if capacity is None else capacity
    if len(s) == 0:  # nothing that a place could name
        size = 0
    places = torch.arange(size, device=x.device)
    if capacity is not None and n:
        over = (size - found).clamp(min=0)
        ends = ends + torch.arange(1, n + 1, device=x.device) * over // n
    starts = torch.cat([ends.new_zeros(1), ends])
    first = torch.searchsorted(ends, places, right=True).clamp(max=max(n - 1, 0))
    second = places % max(len(s), 1)
    _write(x, s, batches, limits, kind, parts, starts, second)
    if capacity is None:
        return FixedPairs(first, second, None, starts, found)
    present = places < (starts[:-1] + counts).index_select(0, first)
    return FixedPairs(first, second, present, starts.clamp(max=size), found)


def any_within(
    targets: Tensor, sources: Tensor, batches: tuple[Tensor, Tensor], reach: Tensor
) -> Tensor:
    """Return which targets have a source within their distance (n,), bool (n,)."""
    x, s = targets.detach().contiguous(), sources.detach().contiguous()
    return _counts(x, s, batches, _squares(reach, x), ALL).amax(1) > 0


def _squares(reach: float | Tensor, x: Tensor) -> Tensor:
    """Return squared distances (n,) in the type of points."""
    if isinstance(reach, Tensor):
        return reach * reach
    return x.new_full((len(x),), reach * reach)


# --- counting and writing -------------------------------------------------------------------------


def _counts(
    x: Tensor, s: Tensor, batches: tuple[Tensor, Tensor], limits: Tensor, kind: int
) -> Tensor:
    """Return the number of pairs of each target among parts of the sources, (n, parts)."""
    if on_gpu(x):
        return _cuda().counts(x, s, batches, limits, kind)
    return _near(x, s, batches, limits, kind).sum(1, keepdim=True)


def _write(
    x: Tensor, s: Tensor, batches: tuple[Tensor, Tensor], limits: Tensor, kind: int, parts: Tensor,
    starts: Tensor, second: Tensor,
) -> None:  # fmt: skip
    """Write the sources of each target from its start on."""
    if on_gpu(x):
        before = torch.cumsum(parts, 1) - parts + starts[:-1, None]
        _cuda().write(x, s, batches, limits, kind, before, second)
        return
    target, source = torch.nonzero(_near(x, s, batches, limits, kind)).unbind(1)
    total = torch.cumsum(parts[:, 0], 0) - parts[:, 0]
    places = torch.arange(len(target)) - total[target] + starts[target]
    inside = places < len(second)
    second[places[inside]] = source[inside]


def _near(
    x: Tensor, s: Tensor, batches: tuple[Tensor, Tensor], limits: Tensor, kind: int
) -> Tensor:
    """Return which pairs there are, bool (n, m)."""
    squares = (x[:, None] - s).square().sum(2)
    near = batches[0][:, None] == batches[1]
    limit = limits[:, None]
    if kind == EDGES:
        return near & (squares > 0) & (squares < limit)
    near &= squares <= limit
    return near & torch.ones_like(near).triu(1) if kind == HALF else near


def _cuda() -> Any:
    """Return the module of the GPU's kernels, which imports numba.cuda."""
    from gnn.operators import _fixed_pairs_cuda

    return _fixed_pairs_cuda
