"""Perceptrons on a tape, with weights laid out for the loops: nothing learns."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn.operators import network as rows_of
from gnn.operators.network import EndArrays, Layer, Network
from gnn.passes.tape import Tape, Value


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
        self.network = Network(layers, widths)

    def __call__(self, tape: Tape, *blocks: Value) -> Value:
        """Return the outputs (n, outputs) of blocks of inputs (n, width)."""
        inputs = [block.x for block in blocks]
        found, kept = rows_of.values(self.network, inputs, keeps=tape.records)
        value, asked = Value(found), [block.live for block in blocks]

        def backward() -> None:
            if value.gradient is None:
                return
            *_, by_inputs = rows_of.gradients(self.network, kept, value.gradient, asked, len(found))
            for block, gradient in zip(blocks, by_inputs, strict=True):
                if block.live:
                    block.add(gradient)

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
        both = torch.cat([weight[:, :n], weight[:, n : 2 * n]])
        self.projection = Network([Layer(both, None, False)], [features])
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
        projected, _ = rows_of.values(self.projection, [nodes.x], keeps=False)
        inputs = [block.x for block in blocks]
        factors = None if fade is None else fade.x
        given = ends, projected, factors, summed
        found, kept = rows_of.values(self.network, inputs, *given, keeps=tape.records)
        value, asked = Value(found), [block.live for block in blocks]

        def backward() -> None:
            if value.gradient is None:
                return
            by_projected, by_fade, by_inputs = rows_of.gradients(
                self.network, kept, value.gradient, asked, len(inputs[0]), ends, len(projected),
                factors, summed,
            )  # fmt: skip
            for block, gradient in zip(blocks, by_inputs, strict=True):
                if block.live:
                    block.add(gradient)
            if fade is not None and by_fade is not None:
                fade.add(by_fade)
            if by_projected is not None:
                _, _, (by_nodes,) = rows_of.gradients(
                    self.projection, np.empty(0, found.dtype), by_projected, [True], len(projected)
                )
                nodes.add(by_nodes)

        tape.note(backward)
        return value


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
