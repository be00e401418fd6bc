"""Perceptrons on a tape, with weights laid out for the loops: nothing learns."""

from collections.abc import Sequence

import numpy as np
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
        both = np.concatenate(
            [
                _numbers(first.weight)[:, :features],
                _numbers(first.weight)[:, features : 2 * features],
            ]
        )
        self.projection = Network([Layer(_tensor(both), None, False)], [features])
        own = first._replace(weight=first.weight[:, 2 * features :])
        self.network = Network([own, *others], widths, skips, lead)

    def projected(self, features: NDArray) -> NDArray:
        """Return what nodes (N, features) add to the first layer, (N, 2 hidden)."""
        return rows_of.values(self.projection, [features], keeps=False)[0]

    def __call__(
        self,
        tape: Tape,
        nodes: Value | NDArray,
        blocks: Sequence[Value],
        ends: EndArrays,
        fade: Value | None = None,
        summed: bool = False,
    ) -> Value:
        """Return (E, outputs), times `fade` (E, 1), or the sums at receivers, (N, outputs).

        Nodes are features (N, features) or, where these are constants, what `projected` made of
        them.
        """
        live = isinstance(nodes, Value)
        projected = self.projected(nodes.x) if isinstance(nodes, Value) else nodes
        inputs = [block.x for block in blocks]
        factors = None if fade is None else fade.x
        given = ends, projected, factors, summed
        found, kept = rows_of.values(self.network, inputs, *given, keeps=tape.records)
        value, asked = Value(found), [block.live for block in blocks]

        def backward() -> None:
            if value.gradient is None:
                return
            # without senders nothing goes back to nodes
            places = ends if live else (ends[0][:0], ends[1])
            count = len(projected) if live else 0
            by_projected, by_fade, by_inputs = rows_of.gradients(
                self.network, kept, value.gradient, asked, len(inputs[0]), places, count, factors,
                summed,
            )  # fmt: skip
            for block, gradient in zip(blocks, by_inputs, strict=True):
                if block.live:
                    block.add(gradient)
            if fade is not None and by_fade is not None:
                fade.add(by_fade)
            if by_projected is not None and isinstance(nodes, Value):
                _, _, (by_nodes,) = rows_of.gradients(
                    self.projection, np.empty(0, found.dtype), by_projected, [True], len(projected)
                )
                nodes.add(by_nodes)

        tape.note(backward)
        return value


def _numbers(weight: Tensor) -> NDArray:
    return weight.detach().numpy()


def _tensor(array: NDArray) -> Tensor:
    import torch

    return torch.from_numpy(array)
