"""Perceptrons on a tape, with weights laid out for the loops: nothing learns."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn.operators import network as rows_of
from gnn.operators.network import EndArrays, Layer, Network, columns_of
from gnn.passes.tape import Tape, Value


class Joint:
    """Networks of the same rows as one, which runs once for all of them.

    Parameters
    ----------
    parts : sequence of sequences of Layer
        Networks of as many layers, active alike.
    width : int
        Columns of the rows.
    """

    def __init__(self, parts: Sequence[Sequence[Layer]], width: int):
        layers = [_beside(depth, k == 0) for k, depth in enumerate(zip(*parts, strict=True))]
        self.network = Network(layers, [width])
        ends = np.cumsum([0, *(len(part[-1].weight) for part in parts)])
        self.columns = [slice(a, b) for a, b in pairwise(ends.tolist())]

    def __call__(self, tape: Tape, rows: Value) -> Value:
        """Return the outputs of all networks (n, outputs), computed once for each value."""
        if self in rows.made:
            return rows.made[self]
        found, kept = rows_of.values(self.network, [rows.x], keeps=tape.records, empty=tape.empty)
        value = rows.made[self] = Value(found, rows.live)

        def backward() -> None:
            if value.gradient is not None and rows.live:
                given = kept, value.gradient, (True,), len(found)
                rows.add(rows_of.gradients(self.network, *given, empty=tape.empty)[1][0])

        tape.note(backward)
        return value


def _beside(layers: Sequence[Layer], first: bool) -> Layer:
    """Return layers as one: of the same inputs, or of inputs of their own."""
    weights = [layer.weight.detach() for layer in layers]
    weight = torch.cat(weights) if first else torch.block_diag(*weights)
    biases = [
        weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias.detach()
        for layer in layers
    ]
    return Layer(weight, torch.cat(biases), layers[0].active)


class Dense:
    """A perceptron of rows.

    Parameters
    ----------
    layers : sequence of Layer
        The weights.
    widths : sequence of int
        Columns of each block of inputs.
    """

    def __init__(self, layers: Sequence[Layer], widths: Sequence[int]):
        self.layers = layers
        self.network = Network(layers, widths)
        self.joint: tuple[Joint, slice] | None = None

    def __call__(self, tape: Tape, *blocks: Value) -> Value:
        """Return the outputs (n, outputs) of blocks of inputs (n, width)."""
        if self.joint is not None:
            return self._of_joint(tape, *blocks)
        inputs = [block.x for block in blocks]
        found, kept = rows_of.values(self.network, inputs, keeps=tape.records, empty=tape.empty)
        value, asked = Value(found), tuple(block.live for block in blocks)

        def backward() -> None:
            if value.gradient is None:
                return
            given = kept, value.gradient, asked, len(found)
            _, by_inputs = rows_of.gradients(self.network, *given, empty=tape.empty)
            for block, gradient in zip(blocks, by_inputs, strict=True):
                if block.live:
                    block.add(gradient)

        tape.note(backward)
        return value

    def _of_joint(self, tape: Tape, rows: Value) -> Value:
        assert self.joint is not None  # for the type checker
        joint, columns = self.joint
        all_of_them = joint(tape, rows)
        value = Value(np.ascontiguousarray(all_of_them.x[:, columns]))

        def backward() -> None:
            if value.gradient is not None:
                all_of_them.room()[:, columns] += value.gradient

        tape.note(backward)
        return value


class EdgeDense:
    """A perceptron of edges, of features of sender, receiver and the edge itself.

    What nodes add to the first layer is computed once for each node.

    Parameters
    ----------
    layers : sequence of Layer
        The weights; columns of the first are sender, receiver and edge.
    features : int
        Width of the nodes.
    widths, skips, lead
        Of the blocks of the edges' own features, see `gnn.operators.network.Network`.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        features: int,
        widths: Sequence[int],
        skips: Sequence[int] | None = None,
        lead: int = 0,
    ):
        first, *others = layers
        n, weight = features, first.weight.detach()
        self.layers = [Layer(torch.cat([weight[:, :n], weight[:, n : 2 * n]]), None, False)]
        joint = Joint([self.layers], features)
        self.joint = joint, joint.columns[0]
        own = first._replace(weight=first.weight[:, 2 * features :])
        self.network = Network([own, *others], widths, skips, lead)

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
        joint, columns = self.joint
        projected = joint(tape, nodes)
        inputs = [block.x for block in blocks]
        factors = None if fade is None else fade.x
        given = ends, columns_of(projected.x, columns.start), factors, summed
        found, kept = rows_of.values(self.network, inputs, *given, tape.records, tape.empty)
        value, asked = Value(found), tuple(block.live for block in blocks)

        def backward() -> None:
            if value.gradient is None:
                return
            places, by_projected = (ends[0][:0], ends[1]), None
            if projected.live:
                places, by_projected = ends, columns_of(projected.room(), columns.start)
            by_fade, by_inputs = rows_of.gradients(
                self.network, kept, value.gradient, asked, len(inputs[0]), places, by_projected,
                factors, summed, tape.empty,
            )  # fmt: skip
            for block, gradient in zip(blocks, by_inputs, strict=True):
                if block.live:
                    block.add(gradient)
            if fade is not None and by_fade is not None:
                fade.add(by_fade)

        tape.note(backward)
        return value


def join(networks: Sequence[Dense | EdgeDense], width: int) -> None:
    """Let networks of the same rows run as one: all of `Dense`, what `EdgeDense` projects.

    Those of other depths, or other activations, stay apart.
    """
    active = [[layer.active for layer in network.layers] for network in networks]
    if len(networks) < 2 or any(one != active[0] for one in active):
        return
    joint = Joint([network.layers for network in networks], width)
    for network, columns in zip(networks, joint.columns, strict=True):
        network.joint = joint, columns


class Embedding:
    """Features of elements, and of what charges atoms begin with.

    Parameters
    ----------
    table, charge : Tensor
        (elements, features), and (features, 1) of a unit charge.
    """

    def __init__(self, table: Tensor, charge: Tensor):
        self.table, self.charge = table.detach().numpy(), charge.detach().numpy()[:, 0]

    def __call__(
        self, tape: Tape, numbers: NDArray[np.int64], charges: Value
    ) -> tuple[Value, NDArray]:
        """Return features (N, features) of elements and charges (N,), and the charges' share."""
        share = charges.x[:, None] * self.charge
        value = Value(self.table[numbers] + share, charges.live)

        def backward() -> None:
            if charges.live and value.gradient is not None:
                charges.add(value.gradient @ self.charge)

        tape.note(backward)
        return value, share
