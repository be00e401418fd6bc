"""Perceptrons on a tape that learn: weights are those of torch, gradients by them add up.

Products of matrices are those of BLAS, what is between them is done in one loop over the rows.
"""

from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gnn.operators.network import EndArrays, Layer
from gnn.passes import _learning_loops as loops
from gnn.passes.bounds import Beyond
from gnn.passes.parameters import LearningWeights
from gnn.passes.tape import Tape, Value

_NONE = np.empty(0, np.int64)
_NO_ENDS: EndArrays = (_NONE, _NONE)


class _Sides(NamedTuple):
    """Senders and receivers of edges, and rows of nodes as the one and as the other."""

    ends: EndArrays
    first: NDArray
    second: NDArray


class _Layer:
    """A weight, and what follows the product with it: bias, rows of both ends, SiLU."""

    def __init__(self, weights: LearningWeights, layer: Layer):
        self.weight, self.active = weights[layer.weight], layer.active
        self.bias = None if layer.bias is None else weights[layer.bias]
        self.none = np.zeros(len(layer.weight), self.weight.x.dtype)


def _of_layers(weights: LearningWeights, layers: Sequence[Layer]) -> list[_Layer]:
    """Return layers as they run: SiLU follows all but the last.

    Raises
    ------
    Beyond
        If it does not.
    """
    *hidden, last = layers
    if last.active or not all(layer.active for layer in hidden):
        raise Beyond
    return [_Layer(weights, layer) for layer in layers]


class _Run:
    """One run of the layers of a perceptron, after the product of the first.

    Attributes
    ----------
    by : list of ndarray
        (2, rows, width) of each layer, second gradients and gradients by what the product with its
        weight is. Those of the last, by the outputs, are written from outside.
    """

    def __init__(self, layers: Sequence[_Layer], x: NDArray, sides: _Sides):
        self.layers, rows, dtype = layers, len(x), x.dtype
        self.by = [np.empty((2, rows, len(layer.none)), dtype) for layer in layers]
        self.before: list[NDArray] = []
        self.after: list[NDArray] = []  # with changes
        for k, layer in enumerate(layers):
            if k > 0:
                x = self.after[-1][0] @ layer.weight.x.T
            last = k == len(layers) - 1
            after = self.by[k] if last else np.empty_like(self.by[k])
            bias = layer.none if layer.bias is None else layer.bias.x
            loops.activate(x.reshape(-1), bias, *sides, layer.active, after[0].reshape(-1))
            self.before.append(x)
            self.after.append(after)
            sides = _none(dtype)

    def gradients(self, sides: _Sides) -> NDArray:
        """Return gradients by the first product of those by outputs; `sides` are added to."""
        self.by_after: list[NDArray] = []
        for k in range(len(self.layers) - 2, -1, -1):
            above, layer = self.layers[k + 1], self.layers[k]
            g = self.by[k + 1][1] @ above.weight.x
            self.by_after.insert(0, g)
            loops.activate_gradients(
                self.before[k].reshape(-1), g.reshape(-1), len(layer.none),
                sides.ends if k == 0 else _NO_ENDS, layer.active, self.by[k][1].reshape(-1),
                sides.first, sides.second,
            )  # fmt: skip
        return self.by[0][1]

    def changes(self, dx: NDArray, sides: _Sides) -> NDArray:
        """Return the changes of outputs."""
        self.d_before: list[NDArray] = []
        for k, layer in enumerate(self.layers):
            if k > 0:
                dx = self.after[k - 1][1] @ layer.weight.x.T
            self.d_before.append(dx)
            if k < len(self.layers) - 1:
                loops.activate_change(
                    self.before[k].reshape(-1), dx.reshape(-1), len(layer.none), *sides,
                    layer.active, self.after[k][1].reshape(-1),
                )  # fmt: skip
            sides = _none(dx.dtype)
        return dx

    def second(self, sides: _Sides) -> NDArray:
        """Return second gradients by the first product; `sides` are added to."""
        last = len(self.layers) - 1
        for k in range(last, -1, -1):
            layer, s = self.layers[k], self.by[k][0]
            if k < last:
                s = self.by[k + 1][0] @ self.layers[k + 1].weight.x
            learns = layer.bias is not None and layer.bias.learns
            bias = layer.bias.room() if layer.bias is not None and learns else layer.none[:0]
            loops.activate_second(
                self.before[k].reshape(-1), self.d_before[k].reshape(-1),
                (self.by_after[k] if k < last else s).reshape(-1), s.reshape(-1),
                len(layer.none), sides.ends if k == 0 else _NO_ENDS, layer.active,
                self.by[k][0].reshape(-1), bias, sides.first, sides.second,
            )  # fmt: skip
            if k > 0:
                layer.weight.learn(_rows(self.by[k]), _rows(self.after[k - 1]))
        return self.by[0][0]


@cache
def _none(dtype: np.dtype) -> _Sides:
    nothing = np.empty(0, dtype)
    return _Sides(_NO_ENDS, nothing, nothing)


def _rows(pair: NDArray) -> NDArray:
    """Return values and changes, or gradients of both kinds, (2, rows, width), as rows."""
    return pair.reshape(2 * pair.shape[1], pair.shape[2])


class _Inputs:
    """Blocks of columns side by side, with their changes."""

    def __init__(self, blocks: Sequence[Value], columns: Sequence[slice]):
        self.blocks, self.columns = blocks, columns
        if len(blocks) == 1:
            self.x = np.ascontiguousarray(blocks[0].x)
            return
        width = sum(block.x.shape[1] for block in blocks)
        self._pair = np.empty((2, len(blocks[0].x), width), blocks[0].x.dtype)
        self.x = np.concatenate([block.x for block in blocks], axis=1, out=self._pair[0])

    def changes(self) -> NDArray:
        if len(self.blocks) == 1:
            return self.blocks[0].moved()
        moved = [block.moved() for block in self.blocks]
        return np.concatenate(moved, axis=1, out=self._pair[1])

    def rows(self) -> NDArray:
        """Return all values and below them all changes."""
        return self.blocks[0].both() if len(self.blocks) == 1 else _rows(self._pair)

    def add(self, g: NDArray, weight: NDArray) -> None:
        """Add to the gradients, of those by the products with a weight."""
        if any(block.live for block in self.blocks):
            by_x = g @ weight
            for block, columns in zip(self.blocks, self.columns, strict=True):
                if block.live:
                    block.add(by_x[:, columns])

    def add_second(self, s: NDArray, weight: NDArray) -> None:
        """Add to the second gradients, of those by the products with a weight."""
        if any(block.learned for block in self.blocks):
            by_x = s @ weight
            for block, columns in zip(self.blocks, self.columns, strict=True):
                if block.learned:
                    block.add_second(by_x[:, columns])


def _slices(widths: Sequence[int]) -> list[slice]:
    return [slice(end - width, end) for width, end in zip(widths, accumulate(widths), strict=True)]


class Dense:
    """A perceptron of rows that learns.

    Parameters
    ----------
    weights : LearningWeights
        Where its weights are.
    layers : sequence of Layer
        Its layers.
    widths : sequence of int
        Columns of each block of inputs.
    """

    def __init__(self, weights: LearningWeights, layers: Sequence[Layer], widths: Sequence[int]):
        self.layers = _of_layers(weights, layers)
        self.first, self.columns = self.layers[0].weight, _slices(widths)

    def __call__(self, tape: Tape, *blocks: Value) -> Value:
        """Return the outputs (n, outputs) of blocks of inputs (n, width)."""
        inputs, weight = _Inputs(blocks, self.columns), self.first.x
        none = _none(inputs.x.dtype)
        run = _Run(self.layers, inputs.x @ weight.T, none)
        value = Value(run.before[-1])

        def backward() -> None:
            run.by[-1][1] = value.taken()
            inputs.add(run.gradients(none), weight)

        def push() -> None:
            value.move(run.changes(inputs.changes() @ weight.T, none))

        def pull() -> None:
            run.by[-1][0] = value.taken_second()
            s = run.second(none)
            self.first.learn(_rows(run.by[0]), inputs.rows())
            inputs.add_second(s, weight)

        tape.note(backward)
        tape.note_changes(push, pull)
        return value


class EdgeDense:
    """A perceptron of edges that learns, of features of sender, receiver and the edge itself.

    What nodes add to the first layer is computed once for each node.

    Parameters
    ----------
    weights : LearningWeights
        Where its weights are.
    layers : sequence of Layer
        Its layers; columns of the first are sender, receiver and edge.
    features : int
        Width of the nodes.
    widths : sequence of int
        Columns of each block of the edges' own features.
    """

    def __init__(
        self,
        weights: LearningWeights,
        layers: Sequence[Layer],
        features: int,
        widths: Sequence[int],
    ):
        self.layers = _of_layers(weights, layers)
        self.first, self.features = self.layers[0].weight, features
        self.columns = _slices(widths)

    def __call__(
        self,
        tape: Tape,
        nodes: Value,
        blocks: Sequence[Value],
        ends: EndArrays,
        fade: Value | None = None,
        summed: bool = False,
    ) -> Value:
        """Return (E, outputs) times `fade` (E, 1), or their sums at receivers, (N, outputs)."""
        inputs, own = _Inputs(blocks, self.columns), self._part(2)
        run = _Run(self.layers, inputs.x @ own.T, self._sides(ends, nodes.x))
        spread = _Spread(fade, ends[1] if summed else None, len(nodes.x), run.before[-1])
        value = Value(spread.values())
        # second gradients and gradients by rows of nodes, as senders and as receivers
        by_ends = np.zeros((2, 2, len(nodes.x), len(self.first.x)), value.x.dtype)

        def backward() -> None:
            spread.gradients(value.taken(), run.by[-1][1])
            g = run.gradients(_Sides(ends, *by_ends[:, 1].reshape(2, -1)))
            if nodes.live:
                nodes.add(by_ends[0, 1] @ self._part(0) + by_ends[1, 1] @ self._part(1))
            inputs.add(g, own)

        def push() -> None:
            sides = self._sides(ends, nodes.moved())
            value.move(spread.changes(run.changes(inputs.changes() @ own.T, sides)))

        def pull() -> None:
            spread.second(value.taken_second(), run.by[-1][0])
            by_ends[:, 0] = 0
            first, second = by_ends[0, 0], by_ends[1, 0]
            s = run.second(_Sides(ends, first.reshape(-1), second.reshape(-1)))
            if self.first.learns:
                self._learn(_rows(run.by[0]), inputs.rows(), by_ends, nodes.both())
            nodes.add_second(first @ self._part(0) + second @ self._part(1))
            inputs.add_second(s, own)

        tape.note(backward)
        tape.note_changes(push, pull)
        return value

    def _learn(self, g: NDArray, x: NDArray, by_ends: NDArray, nodes: NDArray) -> None:
        found, n = np.empty_like(self.first.x), self.features
        np.matmul(_rows(by_ends[0]).T, nodes, out=found[:, :n])
        np.matmul(_rows(by_ends[1]).T, nodes, out=found[:, n : 2 * n])
        np.matmul(g.T, x, out=found[:, 2 * n :])
        self.first.add(found)

    def _part(self, part: int) -> NDArray:
        """Return the columns of the first weight for senders, receivers, or edges."""
        start = part * self.features
        return self.first.x[:, start : None if part == 2 else start + self.features]

    def _sides(self, ends: EndArrays, nodes: NDArray) -> _Sides:
        first, second = (nodes @ self._part(end).T for end in range(2))
        return _Sides(ends, first.reshape(-1), second.reshape(-1))


class _Spread:
    """Rows y of edges times their envelopes; or sums of these over the edges of `n` nodes."""

    def __init__(self, fade: Value | None, receivers: NDArray | None, n: int, y: NDArray):
        self.fade, self.y, self.width = fade, y, y.shape[1]
        self.places = _NONE if receivers is None else receivers
        self.shape = (len(y) if receivers is None else n, self.width)

    def values(self) -> NDArray:
        if self.fade is None:
            return self.y
        found = np.zeros(self.shape, self.y.dtype)
        fade = self.fade.x.reshape(-1)
        loops.fade_rows(self.y.reshape(-1), fade, self.places, self.width, found.reshape(-1))
        return found

    def gradients(self, g: NDArray, out: NDArray) -> None:
        """Write the gradients by rows, and give the envelopes theirs."""
        if self.fade is None:
            out[:] = g
            return
        self.g, by_fade = np.ascontiguousarray(g).reshape(-1), np.empty_like(self.fade.x)
        loops.fade_gradients(
            self.y.reshape(-1), self.fade.x.reshape(-1), self.g, self.places, self.width,
            out.reshape(-1), by_fade.reshape(-1),
        )  # fmt: skip
        if self.fade.live:
            self.fade.add(by_fade)

    def changes(self, dy: NDArray) -> NDArray:
        if self.fade is None:
            return dy
        found = np.zeros(self.shape, self.y.dtype)
        loops.fade_change(
            self.y.reshape(-1), dy.reshape(-1), self.fade.x.reshape(-1),
            self.fade.moved().reshape(-1), self.places, self.width, found.reshape(-1),
        )  # fmt: skip
        return found

    def second(self, s: NDArray, out: NDArray) -> None:
        """Write the second gradients by rows; envelopes are not learned."""
        if self.fade is None:
            out[:] = s
            return
        loops.fade_second(
            self.fade.x.reshape(-1), self.fade.moved().reshape(-1), self.g,
            np.ascontiguousarray(s).reshape(-1), self.places, self.width, out.reshape(-1),
        )  # fmt: skip


class Embedding:
    """Features of elements, and of what charges atoms begin with, that learn.

    Parameters
    ----------
    weights : LearningWeights
        Where its weights are.
    table, charge : Tensor
        (elements, features), and (features, 1) of a unit charge.
    """

    def __init__(self, weights: LearningWeights, table: Tensor, charge: Tensor):
        self.table, self.charge = weights[table], weights[charge]

    def __call__(
        self, tape: Tape, numbers: NDArray[np.int64], charges: Value
    ) -> tuple[Value, NDArray]:
        """Return features (N, features) of elements and charges (N,), and the charges' share."""
        share = charges.x[:, None] * self.charge.x[:, 0]
        value = Value(self.table.x[numbers] + share, charges.live)

        def backward() -> None:
            if charges.live:
                charges.add(value.taken() @ self.charge.x[:, 0])

        def push() -> None:
            value.move(charges.moved()[:, None] * self.charge.x[:, 0])

        def pull() -> None:
            s, g = np.ascontiguousarray(value.taken_second()), value.taken()
            if self.charge.learns:
                self.charge.add((charges.x @ s + charges.moved() @ g)[:, None])
            if self.table.learns:
                by = self.table.room()
                loops.sum_rows(s.reshape(-1), numbers, s.shape[1], by.reshape(-1))

        tape.note(backward)
        tape.note_changes(push, pull)
        return value, share
