"""Perceptrons of edges and of nodes in compiled loops, for inference.

The rows go through all layers in small groups that stay in the cache, so that of a hidden layer
nothing but the input of its activation is ever stored. First derivatives by the inputs are
compiled; weights are constants, and there are no second derivatives.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from gnn.operators import _perceptron_kernels as kernels
from gnn.operators._dense import pack
from multipoles.compiled import jit
from multipoles.compiled.simd import BYTES

Range = tuple[int, int]

#: Most blocks of inputs of a network.
MOST_BLOCKS = 3

# measured nanoseconds of a product of a row's number with a weight, one way
_COST = 0.01
# waking a thread costs some 50 microseconds
_THREAD_GRAIN = 1e5
# arrays that a network keeps, for as many threads
_MOST_SPARE = 2


class Layer(NamedTuple):
    """One layer: weight (outputs, inputs), bias or None, and whether SiLU follows."""

    weight: Tensor
    bias: Tensor | None
    active: bool


class Ends(NamedTuple):
    """The nodes that edges connect, (E,) int64 each, sorted by receiver."""

    senders: Tensor
    receivers: Tensor


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
            pack(_strided(weight)[0], *arguments, self.matrices, place)

    @property
    def columns(self) -> list[int]:
        """Columns of each block of inputs, with those that are skipped."""
        found: list[int] = (self.blocks[:, 0] + self.blocks[:, 3]).tolist()
        return found

    @property
    def arrays(self) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        """Matrices, biases, blocks and layers, as the loops take them."""
        return self.matrices, self.biases, self.blocks, self.layers

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


def perceptron(
    network: Network,
    inputs: Sequence[Tensor],
    ends: Ends | None = None,
    projected: Tensor | None = None,
    fade: Tensor | None = None,
    summed: bool = False,
) -> Tensor:
    """Return the outputs of a network for rows of inputs, (rows, outputs).

    Parameters
    ----------
    network : Network
        The weights.
    inputs : sequence of Tensor
        Blocks of columns, (rows, width) each, on the CPU.
    ends : Ends, optional
        Of edges, where rows are edges.
    projected : Tensor, optional
        (N, 2 hidden): what each node adds to the first layer of its edges as their sender, and as
        their receiver.
    fade : Tensor, optional
        (rows, 1) factors of the outputs.
    summed : bool
        Return instead the sums over the incoming edges of each node, (N, outputs).

    Returns
    -------
    Tensor
        Once differentiable by all tensors but the weights.
    """
    return _Perceptron.apply(network, ends, summed, projected, fade, *inputs)


class _Perceptron(Function):
    @staticmethod
    def forward(
        ctx: Any,
        network: Network,
        ends: Ends | None,
        summed: bool,
        projected: Tensor | None,
        fade: Tensor | None,
        *inputs: Tensor,
    ) -> Tensor:
        keeps = any(ctx.needs_input_grad)
        rows, like = len(inputs[0]), inputs[0]
        breadth = network.breadth if keeps else 0
        kept = network.memory(rows * breadth)
        nodes = 0 if projected is None else len(projected)
        width = network.lead + network.outputs
        found = like.new_zeros(nodes, width) if summed else like.new_empty(rows, width)
        arguments = (
            *_blocks(inputs),
            _ends(ends), _flat_or_none(projected, like), network.arrays, _flat_or_none(fade, like),
            kept, breadth, _flat(found), summed, network.lead,
        )  # fmt: skip
        ranges = _ranges(rows, network.work, ends)
        jit.run_ranges(lambda begin, end: kernels.values(begin, end, *arguments), ranges)
        if keeps:
            ctx.network, ctx.ends, ctx.summed, ctx.kept = network, ends, summed, kept
            ctx.fade, ctx.nodes, ctx.rows = fade, nodes, rows
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple:
        if ctx.kept is None:
            raise RuntimeError("expected one backward pass, got another: what it needs is gone")
        network, ends, rows, fade = ctx.network, ctx.ends, ctx.rows, ctx.fade
        asked = np.array(ctx.needs_input_grad[5:])
        by_fade = None if fade is None else torch.empty_like(fade)
        by_projected = weights.new_zeros(ctx.nodes, 2 * network.hidden) if ctx.nodes else None
        by_inputs = [
            weights.new_empty((rows, width) if wanted else (0, 0))
            for width, wanted in zip(network.columns, asked, strict=True)
        ]
        arguments = (
            _ends(ends), network.arrays, _flat_or_none(fade, weights), ctx.kept, network.breadth,
            _flat(weights), ctx.summed, network.lead, asked, _flat_or_none(by_fade, weights),
            _flat_or_none(by_projected, weights),
        )  # fmt: skip
        results, _ = _blocks(by_inputs)

        def task(begin: int, end: int) -> tuple[NDArray, int]:
            own, base = _rows_of_senders(ends, begin, end, network)
            kernels.gradients(begin, end, *arguments, own, base, results)
            return own, base

        parts = jit.run_ranges(task, _ranges(rows, 2 * network.work, ends))
        if by_projected is not None:
            sent = by_projected.numpy()[:, : network.hidden]
            for own, base in parts:
                block = own.reshape(-1, network.hidden)
                sent[base : base + len(block)] += block
        network.give_back(ctx.kept)
        ctx.kept = None
        found = by_projected, by_fade, *by_inputs
        needs = ctx.needs_input_grad[3:]
        return None, None, None, *(g if n else None for g, n in zip(found, needs, strict=True))


# --- running the loops --------------------------------------------------------------------------


def _rows_of_senders(
    ends: Ends | None, begin: int, end: int, network: Network
) -> tuple[NDArray, int]:
    """Return zeros for the senders of some edges, and the first of them."""
    if ends is None or begin == end:
        return np.zeros(0, network.biases.dtype), 0
    senders = ends.senders.numpy()[begin:end]
    base, top = int(senders.min()), int(senders.max()) + 1
    return np.zeros((top - base) * network.hidden, network.biases.dtype), base


def _ranges(rows: int, work: int, ends: Ends | None) -> list[Range]:
    """Return the parts of the rows that threads work on; edges of a node stay together."""
    parts = min(jit.get_num_threads(), int(_COST * rows * work // _THREAD_GRAIN))
    if parts <= 1:
        return [(0, rows)]
    cuts = np.array([rows * i // parts for i in range(1, parts)])
    if ends is not None:
        receivers = ends.receivers.numpy()
        cuts = np.searchsorted(receivers, receivers[cuts])
    bounds = [0, *cuts.tolist(), rows]
    return [(a, b) for a, b in pairwise(bounds) if a < b]


def _ends(ends: Ends | None) -> tuple[NDArray, NDArray]:
    if ends is None:
        return _NOBODY, _NOBODY
    return ends.senders.contiguous().numpy(), ends.receivers.contiguous().numpy()


_NOBODY = np.empty(0, np.int64)


def _flat(tensor: Tensor) -> NDArray:
    return tensor.detach().contiguous().numpy().reshape(-1)


def _flat_or_none(tensor: Tensor | None, like: Tensor) -> NDArray:
    return _flat(like.new_empty(0) if tensor is None else tensor)


def _blocks(tensors: Sequence[Tensor]) -> tuple[tuple[NDArray, ...], tuple[int, ...]]:
    """Return numbers and pitches of blocks, always as many, so that the loops compile once."""
    blocks = [_strided(tensor) for tensor in tensors]
    blocks += [(blocks[0][0][:0], 0)] * (MOST_BLOCKS - len(blocks))
    return tuple(array for array, _ in blocks), tuple(pitch for _, pitch in blocks)


def _strided(block: Tensor) -> tuple[NDArray, int]:
    """Return the numbers of a block from its first on, in one dimension, and its rows' pitch."""
    if block.shape[1] == 0 or len(block) == 0 or block.stride(1) != 1:
        block = block.contiguous()
    array, pitch = block.detach().numpy(), block.stride(0)
    if len(block) < 2 or block.is_contiguous():
        return array.reshape(-1), block.shape[1]
    length = (len(block) - 1) * pitch + block.shape[1]
    return np.lib.stride_tricks.as_strided(array, (length,), (array.itemsize,)), pitch
