"""Perceptrons as arrays: weights laid out for the loops, values and first derivatives.

The rows go through all layers in small groups that stay in the cache, so that of a hidden layer
nothing but the input of its activation is ever stored. Weights are constants.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gnn.operators import _perceptron_kernels as kernels
from gnn.operators._dense import pack
from multipoles.compiled import jit
from multipoles.compiled.simd import BYTES

Range = tuple[int, int]
#: Senders and receivers of edges, (E,) int64 each, sorted by receiver.
EndArrays = tuple[NDArray[np.int64], NDArray[np.int64]]

#: Most blocks of inputs of a network.
MOST_BLOCKS = 3

# measured nanoseconds of a product of a row's number with a weight, one way
_COST = 0.01
# waking a thread costs some 50 microseconds
_THREAD_GRAIN = 1e5
# arrays that a network keeps, for as many threads
_MOST_SPARE = 2
_NO_ENDS = np.empty(0, np.int64), np.empty(0, np.int64)


class Layer(NamedTuple):
    """One layer: weight (outputs, inputs), bias or None, and whether SiLU follows."""

    weight: Tensor
    bias: Tensor | None
    active: bool


class Network:
    """Weights of a perceptron, laid out for the loops.

    Parameters
    ----------
    layers : sequence of Layer
        The first has as many inputs as all blocks have columns together.
    widths : sequence of int
        Columns of each block of inputs.
    skips : sequence of int, optional
        Columns at the beginning of each block that are no inputs.
    lead : int
        Zeros that each row of outputs begins with.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        widths: Sequence[int],
        skips: Sequence[int] | None = None,
        lead: int = 0,
    ):
        first = layers[0].weight
        if sum(widths) != first.shape[1]:
            raise ValueError(
                f"expected blocks of {first.shape[1]} columns together, got {list(widths)}"
            )
        self.outputs, self.hidden = len(layers[-1].weight), len(first)
        self.work = sum(layer.weight.numel() for layer in layers)
        self._lanes = BYTES // first.element_size()
        self._size = 0
        plan: list[tuple] = []
        start = 0
        self.lead = lead
        self._spare: list[NDArray] = []
        self.blocks = np.zeros((len(widths), 4), np.int64)
        for b, width in enumerate(widths):
            self.blocks[b] = width, *self._plan(plan, first, start, width), skips[b] if skips else 0
            start += width
        self.layers = np.zeros((len(layers), 7), np.int64)
        self.breadth = 0
        for k, layer in enumerate(layers):
            pitch = self._padded(len(layer.weight))
            row = [len(layer.weight), pitch, int(layer.active), self.breadth]
            if layer.active:
                self.breadth += pitch
            if k > 0:
                inputs = layer.weight.shape[1]
                row += [inputs, *self._plan(plan, layer.weight, 0, inputs)]
            self.layers[k, : len(row)] = row
        self.biases = np.zeros(int(self.layers[:, 1].sum()), first.detach().numpy().dtype)
        at = 0
        for layer, pitch in zip(layers, self.layers[:, 1], strict=True):
            if layer.bias is not None:
                self.biases[at : at + len(layer.bias)] = layer.bias.detach().numpy()
            at += int(pitch)
        self.matrices = np.empty(self._size, self.biases.dtype)
        for weight, *arguments, place in plan:
            pack(strided(weight.detach().numpy())[0], *arguments, self.matrices, place)
        # columns of each block of inputs, with those that are skipped
        self.columns: list[int] = (self.blocks[:, 0] + self.blocks[:, 3]).tolist()
        # as the loops take them
        self.arrays = self.matrices, self.biases, self.blocks, self.layers
        self.nothing = np.empty(0, self.biases.dtype)

    def memory(self, size: int) -> NDArray:
        """Return numbers of any value: fresh memory costs the system a tenth of the loops' time."""
        try:
            memory = self._spare.pop()
        except IndexError:
            memory = np.empty(0, self.biases.dtype)
        return memory[:size] if size <= len(memory) <= 4 * size else np.empty(size, memory.dtype)

    def give_back(self, memory: NDArray) -> None:
        """Keep memory for the next call."""
        if len(self._spare) < _MOST_SPARE:
            self._spare.append(memory if memory.base is None else memory.base)

    def _padded(self, width: int) -> int:
        return -(-width // self._lanes) * self._lanes

    def _plan(self, plan: list[tuple], weight: Tensor, start: int, width: int) -> tuple[int, int]:
        """Note how columns of a weight are packed forward and backward; return both places."""
        (outputs, _), inputs = weight.shape, weight.stride(0)
        forward, backward = self._size, self._size + width * self._padded(outputs)
        self._size = backward + outputs * self._padded(width)
        plan.append((weight, start, 1, inputs, width, outputs, forward))
        plan.append((weight, start, inputs, 1, outputs, width, backward))
        return forward, backward


# --- values and gradients -----------------------------------------------------------------------


def values(
    network: Network,
    inputs: Sequence[NDArray],
    ends: EndArrays | None = None,
    projected: NDArray | None = None,
    fade: NDArray | None = None,
    summed: bool = False,
    keeps: bool = True,
) -> tuple[NDArray, NDArray]:
    """Return the outputs of a network for rows of inputs, and what `gradients` needs.

    Parameters
    ----------
    network : Network
        The weights.
    inputs : sequence of ndarray
        Blocks of columns, (rows, width) each; those of a row are contiguous.
    ends : tuple of ndarray, optional
        Senders and receivers, where rows are edges.
    projected : ndarray, optional
        (N, 2 hidden), or these columns of a wider array: what each node adds to the first layer of
        its edges as their sender, and as their receiver.
    fade : ndarray, optional
        (rows, 1) factors of the outputs.
    summed : bool
        Return instead the sums over the incoming edges of each node, (N, outputs).
    keeps : bool
        False: no gradients will be asked for.
    """
    rows, dtype = len(inputs[0]), network.biases.dtype
    breadth = network.breadth if keeps else 0
    kept = network.memory(rows * breadth)
    width = network.lead + network.outputs
    if summed:
        assert projected is not None  # nodes are counted by it
        found = np.zeros((len(projected), width), dtype)
    else:
        found = np.empty((rows, width), dtype)
    nothing = network.nothing
    of_nodes = (nothing, 0) if projected is None else strided(projected)
    arguments = (
        *_blocks(inputs, nothing), ends or _NO_ENDS, *of_nodes, network.arrays,
        nothing if fade is None else _flat(fade), kept, breadth, found.reshape(-1), summed,
        network.lead,
    )  # fmt: skip
    ranges = _ranges(rows, network.work, ends)
    if len(ranges) == 1:
        kernels.values(0, rows, *arguments)
    else:
        jit.run_ranges(lambda begin, end: kernels.values(begin, end, *arguments), ranges)
    return found, kept


def gradients(
    network: Network,
    kept: NDArray,
    weights: NDArray,
    asked: tuple[bool, ...],
    rows: int,
    ends: EndArrays | None = None,
    by_projected: NDArray | None = None,
    fade: NDArray | None = None,
    summed: bool = False,
) -> tuple[NDArray | None, list[NDArray]]:
    """Return the gradients of the sum of weights times outputs, and give back what was kept.

    Parameters
    ----------
    network, ends, fade, summed
        As of `values`.
    kept : ndarray
        From `values`; of no use afterwards.
    weights : ndarray
        Of the shape of the outputs.
    asked : tuple of bool
        Which blocks of inputs.
    rows : int
        Number of rows.
    by_projected : ndarray, optional
        Of the layout of `projected`: what is added to.

    Returns
    -------
    by_fade, by_inputs
        None where there was none; arrays without rows of blocks that were not asked for.
    """
    nothing = network.nothing
    by_fade = None if fade is None else np.empty_like(fade)
    by_inputs = [
        np.empty((rows, width) if wanted else (0, 0), nothing.dtype)
        for width, wanted in zip(network.columns, asked, strict=True)
    ]
    of_nodes, across = (nothing, 0) if by_projected is None else strided(by_projected)
    arguments = (
        ends or _NO_ENDS, network.arrays, nothing if fade is None else _flat(fade), kept,
        network.breadth, _flat(weights), summed, network.lead, _asked(asked),
        nothing if by_fade is None else by_fade.reshape(-1), of_nodes, across,
    )  # fmt: skip
    results, _ = _blocks(by_inputs, nothing)
    ranges = _ranges(rows, 2 * network.work, ends)
    if len(ranges) == 1:
        kernels.gradients(0, rows, *arguments, of_nodes, across, 0, results)
    else:
        _in_threads(network, arguments, ends, by_projected, results, ranges)
    network.give_back(kept)
    return by_fade, by_inputs


def _in_threads(
    network: Network,
    arguments: tuple,
    ends: EndArrays | None,
    by_projected: NDArray | None,
    results: tuple[NDArray, ...],
    ranges: list[Range],
) -> None:
    """Run the loop with rows of their own for the senders of each part."""
    hidden = network.hidden

    def task(begin: int, end: int) -> tuple[NDArray, int]:
        own, base = _rows_of_senders(ends, begin, end, network)
        kernels.gradients(begin, end, *arguments, own, hidden, base, results)
        return own, base

    parts = jit.run_ranges(task, ranges)
    if by_projected is not None:
        for own, base in parts:
            block = own.reshape(-1, hidden)
            by_projected[base : base + len(block), :hidden] += block


def _rows_of_senders(
    ends: EndArrays | None, begin: int, end: int, network: Network
) -> tuple[NDArray, int]:
    """Return zeros for the senders of some edges, and the first of them."""
    if ends is None or begin == end:
        return network.nothing, 0
    senders = ends[0][begin:end]
    base, top = int(senders.min()), int(senders.max()) + 1
    return np.zeros((top - base) * network.hidden, network.biases.dtype), base


def _ranges(rows: int, work: int, ends: EndArrays | None) -> list[Range]:
    """Return the parts of the rows that threads work on; edges of a node stay together."""
    parts = int(_COST * rows * work // _THREAD_GRAIN)
    if parts > 1:
        parts = min(jit.get_num_threads(), parts)
    if parts <= 1:
        return [(0, rows)]
    cuts = np.array([rows * i // parts for i in range(1, parts)])
    if ends is not None:
        receivers = ends[1]
        cuts = np.searchsorted(receivers, receivers[cuts])
    bounds = [0, *cuts.tolist(), rows]
    return [(a, b) for a, b in pairwise(bounds) if a < b] or [(0, rows)]


@lru_cache
def _asked(blocks: tuple[bool, ...]) -> NDArray[np.bool_]:
    return np.array(blocks)


def _flat(array: NDArray) -> NDArray:
    return array.reshape(-1)  # a copy where it is not contiguous


def _blocks(
    arrays: Sequence[NDArray], nothing: NDArray
) -> tuple[tuple[NDArray, ...], tuple[int, ...]]:
    """Return numbers and pitches of blocks, always as many, so that the loops compile once."""
    blocks = [strided(array) for array in arrays]
    blocks += [(nothing, 0)] * (MOST_BLOCKS - len(blocks))
    first, second = zip(*blocks, strict=True)
    return first, second


def strided(block: NDArray) -> tuple[NDArray, int]:
    """Return the numbers of a block from its first on, in one dimension, and its rows' pitch."""
    if block.flags.c_contiguous:
        return block.reshape(-1), block.shape[1]
    size = block.itemsize
    if block.size == 0 or block.strides[1] != size or block.strides[0] % size:
        return np.ascontiguousarray(block).reshape(-1), block.shape[1]
    pitch = block.strides[0] // size
    length = (len(block) - 1) * pitch + block.shape[1]
    return np.lib.stride_tricks.as_strided(block, (length,), (size,)), pitch
