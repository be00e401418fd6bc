"""Perceptrons as arrays: weights laid out for the loops, values and first derivatives.

The rows go through all layers in small groups that stay in the cache, so that of a hidden layer
nothing but the input of its activation is ever stored. Weights are constants.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

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


def layers_of(modules: Iterable[nn.Module]) -> list[Layer]:
    """Return linear modules, and which of them SiLU follows.

    Raises
    ------
    TypeError
        If there are modules of other kinds.
    """
    layers: list[Layer] = []
    for module in modules:
        if isinstance(module, nn.Linear):
            layers.append(Layer(module.weight, module.bias, False))
        elif isinstance(module, nn.SiLU) and layers and not layers[-1].active:
            layers[-1] = layers[-1]._replace(active=True)
        else:
            raise TypeError(
                "expected linear layers, each followed by one SiLU or none, got "
                f"{type(module).__name__} after {len(layers)} of them"
            )
    return layers


class Projected(NamedTuple):
    """What nodes add to the first layer of their edges: columns of a contiguous array.

    Attributes
    ----------
    numbers : ndarray
        One-dimensional, from the first column on: as sender (hidden), then as receiver (hidden).
    pitch : int
        From row to row.
    nodes : int
        Number of rows.
    """

    numbers: NDArray
    pitch: int
    nodes: int


def columns_of(rows: NDArray, first: int) -> Projected:
    """Return the columns of contiguous rows from one on."""
    return Projected(rows.reshape(-1)[first:], rows.shape[1], len(rows))


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
            pack(_numbers(weight), *arguments, self.matrices, place)
        # columns of each block of inputs, with those that are skipped
        self.columns: list[int] = (self.blocks[:, 0] + self.blocks[:, 3]).tolist()
        # as the loops take them
        self.arrays = self.matrices, self.biases, self.blocks, self.layers
        self.nothing = np.empty(0, self.biases.dtype)
        missing = MOST_BLOCKS - len(widths)
        self.no_blocks = (self.nothing,) * missing
        self.pitches = (*self.columns, *[0] * missing)

    def memory(self, size: int) -> NDArray:
        """Return numbers of any value: fresh memory costs the system a tenth of the loops' time."""
        if size == 0:
            return self.nothing
        try:
            memory = self._spare.pop()
        except IndexError:
            memory = np.empty(0, self.biases.dtype)
        return memory[:size] if size <= len(memory) <= 4 * size else np.empty(size, memory.dtype)

    def give_back(self, memory: NDArray) -> None:
        """Keep memory for the next call."""
        if len(memory) and len(self._spare) < _MOST_SPARE:
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
    projected: Projected | None = None,
    fade: NDArray | None = None,
    summed: bool = False,
    keeps: bool = True,
    empty: Callable[..., NDArray] = np.empty,
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
    projected : Projected, optional
        What each node adds to the first layer of its edges.
    fade : ndarray, optional
        (rows, 1) factors of the outputs.
    summed : bool
        Return instead the sums over the incoming edges of each node, (N, outputs).
    keeps : bool
        False: no gradients will be asked for.
    empty : callable
        Where memory comes from.
    """
    rows, dtype = len(inputs[0]), network.biases.dtype
    breadth = network.breadth if keeps else 0
    kept = network.memory(rows * breadth)
    width = network.lead + network.outputs
    if summed:
        assert projected is not None  # nodes are counted by it
        found = np.zeros((projected.nodes, width), dtype)
    else:
        found = empty((rows, width), dtype)
    nothing = network.nothing
    of_nodes = (nothing, 0) if projected is None else projected[:2]
    arguments = (
        _flat_blocks(inputs, network), network.pitches, ends or _NO_ENDS, *of_nodes, network.arrays,
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
    by_projected: Projected | None = None,
    fade: NDArray | None = None,
    summed: bool = False,
    empty: Callable[..., NDArray] = np.empty,
) -> tuple[NDArray | None, list[NDArray]]:
    """Return the gradients of the sum of weights times outputs, and give back what was kept.

    Parameters
    ----------
    network, ends, fade, summed, empty
        As of `values`.
    kept : ndarray
        From `values`; of no use afterwards.
    weights : ndarray
        Of the shape of the outputs.
    asked : tuple of bool
        Which blocks of inputs.
    rows : int
        Number of rows.
    by_projected : Projected, optional
        What is added to. Without it, no senders are needed.

    Returns
    -------
    by_fade, by_inputs
        None where there was none; arrays without rows of blocks that were not asked for.
    """
    nothing = network.nothing
    by_fade = None if fade is None else np.empty_like(fade)
    by_inputs = [
        empty((rows, width) if wanted else (0, 0), nothing.dtype)
        for width, wanted in zip(network.columns, asked, strict=True)
    ]
    of_nodes, across = (nothing, 0) if by_projected is None else by_projected[:2]
    arguments = (
        ends or _NO_ENDS, network.arrays, nothing if fade is None else _flat(fade), kept,
        network.breadth, _flat(weights), summed, network.lead, _asked(asked),
        nothing if by_fade is None else by_fade.reshape(-1), of_nodes, across,
    )  # fmt: skip
    results = _flat_blocks(by_inputs, network)
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
    by_projected: Projected | None,
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
        numbers, pitch, _ = by_projected
        for own, base in parts:
            kernels.add_rows(own, hidden, numbers, base * pitch, pitch)


def _rows_of_senders(
    ends: EndArrays | None, begin: int, end: int, network: Network
) -> tuple[NDArray, int]:
    """Return zeros for the senders of some edges, and the first of them."""
    senders = _NO_ENDS[0] if ends is None else ends[0][begin:end]
    if not len(senders):
        return network.nothing, 0
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


def _flat_blocks(arrays: Sequence[NDArray], network: Network) -> tuple[NDArray, ...]:
    """Return the numbers of blocks, always as many, so that the loops compile once."""
    return *(array.reshape(-1) for array in arrays), *network.no_blocks


def _numbers(weight: Tensor) -> NDArray:
    """Return the numbers of a weight in one dimension, rows at the pitch that they have."""
    array = weight.detach().numpy()
    if array.flags.c_contiguous:
        return array.reshape(-1)
    length = (len(array) - 1) * weight.stride(0) + array.shape[1]
    return np.lib.stride_tricks.as_strided(array, (length,), (array.itemsize,))
