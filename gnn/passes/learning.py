"""Perceptrons on a tape that learn: weights are those of torch, gradients by them add up.

Products of matrices are those of BLAS, what is between them is done in one loop over the rows.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gnn.operators.network import EndArrays, Layer
from gnn.passes import _learning_loops as loops
from gnn.passes.tape import Tape, Value

_NONE = np.empty(0, np.int64)
_NO_ENDS: EndArrays = (_NONE, _NONE)


class Weight:
    """A parameter of torch as an array, with the gradient by it.

    Attributes
    ----------
    x : ndarray
        The numbers, in the parameter's memory.
    gradient : ndarray or None
        What was added since it was taken.
    """

    __slots__ = ("gradient", "learns", "parameter", "x")

    def __init__(self, parameter: Tensor):
        self.parameter = parameter
        self.look()

    def look(self) -> None:
        """Look at the parameter anew, and forget the gradient."""
        self.x: NDArray = self.parameter.detach().numpy()
        self.learns = self.parameter.requires_grad
        self.gradient: NDArray | None = None

    def add(self, gradient: NDArray) -> None:
        """Add to the gradient; the array is given away."""
        if self.gradient is None:
            self.gradient = gradient
        else:
            self.gradient += gradient

    def learn(self, *products: tuple[NDArray, NDArray]) -> None:
        """Add gradients (rows, outputs) times inputs (rows, inputs), summed over the rows."""
        if not self.learns:
            return
        for g, x in products:
            self.add(g.T @ x)

    def room(self) -> NDArray:
        """Return the gradient to add to in place."""
        if self.gradient is None:
            self.gradient = np.zeros(self.x.shape, self.x.dtype)
        return self.gradient


class LearningWeights:
    """All weights of a model, by parameter."""

    def __init__(self, parameters: Iterable[Tensor]):
        self.all = [Weight(parameter) for parameter in parameters]
        self._by_id = {id(weight.parameter): weight for weight in self.all}

    def __getitem__(self, parameter: Tensor) -> Weight:
        return self._by_id[id(parameter)]

    def look(self) -> None:
        """Look at all parameters anew, and forget the gradients."""
        for weight in self.all:
            weight.look()

    def taken(self) -> list[NDArray | None]:
        """Return the gradients, and forget them."""
        found = [weight.gradient for weight in self.all]
        for weight in self.all:
            weight.gradient = None
        return found


class _Sides(NamedTuple):
    """Senders and receivers of edges, and rows of nodes as the one and as the other."""

    ends: EndArrays
    first: NDArray
    second: NDArray


class _Layer:
    """A bias, rows of both ends, and SiLU; the product of the next layer comes after it."""

    def __init__(self, weights: LearningWeights, layer: Layer):
        self.weight, self.active = weights[layer.weight], layer.active
        self.bias = None if layer.bias is None else weights[layer.bias]
        self.none = np.zeros(len(layer.weight), self.weight.x.dtype)

    def values(self, x: NDArray, sides: _Sides) -> NDArray:
        """Change x to the argument of SiLU; return what comes out."""
        y = np.empty_like(x) if self.active else x
        bias = self.none if self.bias is None else self.bias.x
        loops.activate(x.reshape(-1), bias, *sides, self.active, y.reshape(-1))
        return y

    def gradients(self, x: NDArray, g: NDArray, sides: _Sides) -> NDArray:
        """Return gradients by the argument, of those by what comes out."""
        g = np.ascontiguousarray(g)
        found = np.empty_like(g) if self.active else g
        if self.active or len(sides.first):
            loops.activate_gradients(
                x.reshape(-1), g.reshape(-1), x.shape[1], sides.ends, self.active,
                found.reshape(-1), sides.first, sides.second,
            )  # fmt: skip
        return found

    def changes(self, x: NDArray, dx: NDArray, sides: _Sides) -> NDArray:
        """Change dx to the change of the argument; return that of what comes out."""
        found = np.empty_like(dx) if self.active else dx
        if self.active or len(sides.first):
            loops.activate_change(
                x.reshape(-1), dx.reshape(-1), x.shape[1], *sides, self.active, found.reshape(-1)
            )
        return found

    def second(self, x: NDArray, dx: NDArray, g: NDArray, s: NDArray, sides: _Sides) -> NDArray:
        """Return second gradients by the argument, and give the bias its own."""
        s = np.ascontiguousarray(s)
        found = np.empty_like(s) if self.active else s
        learns = self.bias is not None and self.bias.learns
        by_bias = self.bias.room() if self.bias is not None and learns else self.none[:0]
        loops.activate_second(
            x.reshape(-1), dx.reshape(-1), np.ascontiguousarray(g).reshape(-1), s.reshape(-1),
            x.shape[1], sides.ends, self.active, found.reshape(-1), by_bias,
            sides.first, sides.second,
        )  # fmt: skip
        return found


class _Run:
    """One run of the layers of a perceptron, after the product of the first."""

    def __init__(self, layers: Sequence[_Layer], x: NDArray, sides: _Sides):
        nothing = np.empty(0, x.dtype)
        self.layers, self.none = layers, _Sides(_NO_ENDS, nothing, nothing)
        self.before: list[NDArray] = []
        self.after: list[NDArray] = []
        for layer in layers:
            if self.after:
                x = self.after[-1] @ layer.weight.x.T
            self.before.append(x)
            self.after.append(layer.values(x, sides))
            sides = self.none

    def gradients(self, g: NDArray, sides: _Sides) -> NDArray:
        """Return gradients by the arguments of the first layer; `sides` are added to."""
        self.by_after: list[NDArray] = []
        self.by_before: list[NDArray] = []
        for k in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[k]
            self.by_after.insert(0, g)
            g = layer.gradients(self.before[k], g, sides if k == 0 else self.none)
            self.by_before.insert(0, g)
            if k > 0:
                g = g @ layer.weight.x
        return g

    def changes(self, dx: NDArray, sides: _Sides) -> NDArray:
        """Return the changes of outputs."""
        self.d_before: list[NDArray] = []
        self.d_after: list[NDArray] = []
        for k, layer in enumerate(self.layers):
            if k > 0:
                dx = self.d_after[-1] @ layer.weight.x.T
            self.d_before.append(dx)
            self.d_after.append(layer.changes(self.before[k], dx, sides if k == 0 else self.none))
        return self.d_after[-1]

    def second(self, s: NDArray, sides: _Sides) -> NDArray:
        """Return second gradients by the arguments of the first layer; `sides` are added to."""
        for k in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[k]
            s = layer.second(
                self.before[k], self.d_before[k], self.by_after[k], s,
                sides if k == 0 else self.none,
            )  # fmt: skip
            if k > 0:
                g, x, dx = self.by_before[k], self.after[k - 1], self.d_after[k - 1]
                layer.weight.learn((s, x), (g, dx))
                s = s @ layer.weight.x
        return s


def _rows(x: NDArray) -> NDArray:
    return np.ascontiguousarray(x)


def _joined(arrays: Sequence[NDArray]) -> NDArray:
    return _rows(arrays[0]) if len(arrays) == 1 else np.concatenate(arrays, axis=1)


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
        self.layers = [_Layer(weights, layer) for layer in layers]
        self.first, self.columns = self.layers[0].weight, _slices(widths)

    def __call__(self, tape: Tape, *blocks: Value) -> Value:
        """Return the outputs (n, outputs) of blocks of inputs (n, width)."""
        x = _joined([block.x for block in blocks])
        nothing = np.empty(0, x.dtype)
        alone = _Sides(_NO_ENDS, nothing, nothing)
        run = _Run(self.layers, x @ self.first.x.T, alone)
        value = Value(run.after[-1])
        kept: dict[str, NDArray] = {}

        def backward() -> None:
            kept["g"] = g = run.gradients(value.taken(), alone)
            if any(block.live for block in blocks):
                by_x = g @ self.first.x
                for block, columns in zip(blocks, self.columns, strict=True):
                    if block.live:
                        block.add(by_x[:, columns])

        def push() -> None:
            kept["dx"] = dx = _joined([block.moved() for block in blocks])
            value.move(run.changes(dx @ self.first.x.T, alone))

        def pull() -> None:
            s = run.second(value.taken_second(), alone)
            self.first.learn((s, x), (kept["g"], kept["dx"]))
            if any(block.learned for block in blocks):
                by_x = s @ self.first.x
                for block, columns in zip(blocks, self.columns, strict=True):
                    if block.learned:
                        block.add_second(by_x[:, columns])

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
        self.layers = [_Layer(weights, layer) for layer in layers]
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
        x, own = _joined([block.x for block in blocks]), self._part(2)
        run = _Run(self.layers, x @ own.T, self._sides(ends, nodes.x))
        spread = _Spread(fade, ends[1] if summed else None, len(nodes.x), run.after[-1])
        value = Value(spread.values())
        kept: dict[str, NDArray] = {}

        def backward() -> None:
            sides = self._room(ends, nodes.x)
            kept["g"] = g = run.gradients(spread.gradients(value.taken()), sides)
            kept["first"], kept["second"] = by_ends = self._by_nodes(sides)
            if nodes.live:
                nodes.add(by_ends[0] @ self._part(0) + by_ends[1] @ self._part(1))
            if any(block.live for block in blocks):
                by_x = g @ own
                for block, columns in zip(blocks, self.columns, strict=True):
                    if block.live:
                        block.add(by_x[:, columns])

        def push() -> None:
            kept["dx"] = dx = _joined([block.moved() for block in blocks])
            kept["dn"] = dn = nodes.moved()
            value.move(spread.changes(run.changes(dx @ own.T, self._sides(ends, dn))))

        def pull() -> None:
            sides = self._room(ends, nodes.x)
            s = run.second(spread.second(value.taken_second()), sides)
            by_ends = self._by_nodes(sides)
            if self.first.learns:
                by = self.first.room()
                n, dn = self.features, kept["dn"]
                by[:, :n] += by_ends[0].T @ nodes.x + kept["first"].T @ dn
                by[:, n : 2 * n] += by_ends[1].T @ nodes.x + kept["second"].T @ dn
                by[:, 2 * n :] += s.T @ x + kept["g"].T @ kept["dx"]
            nodes.add_second(by_ends[0] @ self._part(0) + by_ends[1] @ self._part(1))
            if any(block.learned for block in blocks):
                by_x = s @ own
                for block, columns in zip(blocks, self.columns, strict=True):
                    if block.learned:
                        block.add_second(by_x[:, columns])

        tape.note(backward)
        tape.note_changes(push, pull)
        return value

    def _part(self, part: int) -> NDArray:
        """Return the columns of the first weight for senders, receivers, or edges."""
        start = part * self.features
        return self.first.x[:, start : None if part == 2 else start + self.features]

    def _sides(self, ends: EndArrays, nodes: NDArray) -> _Sides:
        first, second = (nodes @ self._part(end).T for end in range(2))
        return _Sides(ends, first.reshape(-1), second.reshape(-1))

    def _room(self, ends: EndArrays, nodes: NDArray) -> _Sides:
        """Return zeros to sum edges' rows in."""
        rooms = np.zeros((2, len(nodes) * len(self.first.x)), nodes.dtype)
        return _Sides(ends, rooms[0], rooms[1])

    def _by_nodes(self, sides: _Sides) -> tuple[NDArray, NDArray]:
        width = len(self.first.x)
        return sides.first.reshape(-1, width), sides.second.reshape(-1, width)


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

    def gradients(self, g: NDArray) -> NDArray:
        """Return the gradients by rows, and give the envelopes theirs."""
        if self.fade is None:
            return g
        self.g = np.ascontiguousarray(g).reshape(-1)
        found, by_fade = np.empty_like(self.y), np.empty_like(self.fade.x)
        loops.fade_gradients(
            self.y.reshape(-1), self.fade.x.reshape(-1), self.g, self.places, self.width,
            found.reshape(-1), by_fade.reshape(-1),
        )  # fmt: skip
        if self.fade.live:
            self.fade.add(by_fade)
        return found

    def changes(self, dy: NDArray) -> NDArray:
        if self.fade is None:
            return dy
        found = np.zeros(self.shape, self.y.dtype)
        loops.fade_change(
            self.y.reshape(-1), dy.reshape(-1), self.fade.x.reshape(-1),
            self.fade.moved().reshape(-1), self.places, self.width, found.reshape(-1),
        )  # fmt: skip
        return found

    def second(self, s: NDArray) -> NDArray:
        """Return the second gradients by rows; envelopes are not learned."""
        if self.fade is None:
            return s
        found = np.empty_like(self.y)
        loops.fade_second(
            self.fade.x.reshape(-1), self.fade.moved().reshape(-1), self.g,
            np.ascontiguousarray(s).reshape(-1), self.places, self.width, found.reshape(-1),
        )  # fmt: skip
        return found


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
            s, g = _rows(value.taken_second()), value.taken()
            self.charge.learn((s, charges.x[:, None]), (g, charges.moved()[:, None]))
            if self.table.learns:
                by = self.table.room()
                loops.sum_rows(s.reshape(-1), numbers, s.shape[1], by.reshape(-1))

        tape.note(backward)
        tape.note_changes(push, pull)
        return value, share
