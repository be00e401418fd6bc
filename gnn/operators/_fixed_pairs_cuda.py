"""Pairs within a distance on the GPU, for lists whose length is known: nothing is waited for.

A few threads share a target, each with a part of its system's sources in order, so that every run
lists the same pairs at the same places.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnn.operators._field_cuda import _space
from multipoles.compiled.cuda_kernels import SIMULATED, cuda, device, kernels
from multipoles.cuda.device import view
from multipoles.cuda.sorting import first_not_below
from multipoles.pairwise import square

# kinds of `fixed_pairs`
ALL, EDGES, HALF = range(3)
THREADS = 4 if SIMULATED else 128
#: Threads that share a target.
PARTS = 2 if SIMULATED else 32


def counts(
    x: Tensor, s: Tensor, batches: tuple[Tensor, Tensor], limits: Tensor, kind: int
) -> Tensor:
    """Return how many pairs of each target each part of the sources has, int64 (n, PARTS).

    `limits` (n,) are squared distances.
    """
    out = torch.empty(len(x), PARTS, dtype=torch.int64, device=x.device)
    _launch(count_pairs(kind), x, s, batches, limits, out)
    return out


def write(
    x: Tensor, s: Tensor, batches: tuple[Tensor, Tensor], limits: Tensor, kind: int, before: Tensor,
    second: Tensor,
) -> None:  # fmt: skip
    """Write the sources of pairs, those of a part from `before` (n, PARTS) on."""
    _launch(write_pairs(kind), x, s, batches, limits, before, second)


def _launch(
    kernel: Any, x: Tensor, s: Tensor, batches: tuple[Tensor, Tensor], limits: Tensor, *rest: Tensor
) -> None:
    if len(s) == 0:  # no places to write to
        rest[0].zero_()
        return
    dtype = np.dtype(str(x.dtype).removeprefix("torch."))
    arrays = (view(t.contiguous().reshape(-1)) for t in (x, s, *batches, limits))
    outs = (view(t.reshape(-1)) for t in rest)
    blocks = -(-len(x) * PARTS // THREADS)
    kernel(_space(x).stream, dtype, blocks, THREADS, *arrays, *outs)


@device
def own_part(i, part, target_batch, source_batch):
    """Return the first source of a part of those of a target's system, and the one after."""
    system = target_batch[i]
    begin = first_not_below(source_batch, system)
    end = first_not_below(source_batch, system + 1)
    length = (end - begin + PARTS - 1) // PARTS
    first = min(begin + part * length, end)
    return first, min(first + length, end)


@device
def squared_distance(x, i, s, j):
    """Return the squared distance of a target and a source."""
    return square(x[3 * i] - s[3 * j], x[3 * i + 1] - s[3 * j + 1], x[3 * i + 2] - s[3 * j + 2])


@kernels
def count_pairs(kind):
    """Count the pairs of a target in a part of the sources; for kinds see `fixed_pairs`."""

    def loop(x, s, target_batch, source_batch, limits, out):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if t < out.shape[0]:
            i, part = t // PARTS, t % PARTS
            first, end = own_part(i, part, target_batch, source_batch)
            limit = limits[i]
            count = 0
            for j in range(first, end):
                r2 = squared_distance(x, i, s, j)
                near = r2 < limit if kind == EDGES else r2 <= limit
                apart = r2 > 0.0 if kind == EDGES else (i < j or kind == ALL)
                if near and apart:
                    count += 1
            out[t] = count

    return loop


@kernels
def write_pairs(kind):
    """Write the sources of these pairs, each part from its own place on, if there is room."""

    def loop(x, s, target_batch, source_batch, limits, before, second):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if t < before.shape[0]:
            i, part = t // PARTS, t % PARTS
            first, end = own_part(i, part, target_batch, source_batch)
            place, limit = before[t], limits[i]
            for j in range(first, end):
                r2 = squared_distance(x, i, s, j)
                near = r2 < limit if kind == EDGES else r2 <= limit
                apart = r2 > 0.0 if kind == EDGES else (i < j or kind == ALL)
                if near and apart:
                    if place < second.shape[0]:
                        second[place] = j
                    place += 1

    return loop
