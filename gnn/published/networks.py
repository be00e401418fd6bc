"""Perceptrons of the published models: in torch, or in compiled loops while weights are constant.

Networks keep their first layer as one matrix, with columns in this package's order: sender,
receiver, then features of the edge; invariants by term and then by channel. Readers of
published weights (`gnn.published.weights`) bring columns to this order.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from gnn.layers.networks import SiLU
from gnn.operators.fused import edge_silu, is_fused, of_ends
from gnn.operators.network import layers_of
from gnn.operators.perceptron import Ends, Layer, Network
from gnn.operators.perceptron import perceptron as compiled
from gnn.published import constants


class Perceptron(nn.Sequential):
    """Layers in sequence, of inputs that come as one tensor or as blocks of columns."""

    def __init__(self, *modules: nn.Module):
        super().__init__(*modules)
        self._laid_out = constants.LaidOut()

    def forward(self, *blocks: Tensor) -> Tensor:
        """Return the outputs of rows of inputs."""
        if not constants.are_constant():
            return super().forward(blocks[0] if len(blocks) == 1 else torch.cat(blocks, 1))
        widths = tuple(block.shape[1] for block in blocks)
        network = self._laid_out.network(widths, lambda: Network(layers_of(self), widths))
        return compiled(network, blocks)


def perceptron(inputs: int, hidden: int, layers: int, outputs: int | None = None) -> Perceptron:
    """Return `layers` hidden layers with SiLU after each, then a linear output without bias.

    Without `outputs` the last hidden layer is the output.
    """
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(inputs, hidden), SiLU()]
        inputs = hidden
    if outputs is not None:
        parts.append(nn.Linear(inputs, outputs, bias=False))
    return Perceptron(*parts)


class EdgePerceptron(nn.Module):
    """A `perceptron` on [sender features, receiver features, edge features].

    The first layer is computed once per node and only then gathered to the edges, which is exact.

    Parameters
    ----------
    features, edge_features, hidden, layers : int
        Widths of node features, edge features and hidden layers; number of these.
    outputs : int, optional
        Width of a linear output without bias.
    """

    def __init__(
        self,
        features: int,
        edge_features: int,
        hidden: int,
        layers: int,
        outputs: int | None = None,
    ):
        super().__init__()
        self.features, self.edge_features = features, edge_features
        self.first = nn.Linear(2 * features + edge_features, hidden)
        rest = perceptron(hidden, hidden, layers - 1, outputs)
        self.rest = nn.Sequential(SiLU(), *rest)
        self._laid_out = constants.LaidOut()

    def forward(
        self,
        nodes: Tensor,
        edges: Sequence[Tensor],
        senders: Tensor,
        receivers: Tensor,
        fade: Tensor | None = None,
        summed: bool = False,
        lead: int = 0,
    ) -> Tensor:
        """Return (E, outputs) of nodes (N, features) and blocks of edge features (E, width).

        Blocks together may have more columns than there are inputs: the first one's first columns
        are none. The outputs are multiplied by `fade` (E, 1) and begin with `lead` zeros. `summed`
        returns their sums over the incoming edges of each node instead, (N, outputs).
        """
        more = sum(block.shape[1] for block in edges) - self.edge_features
        if constants.are_constant():
            ends = Ends(senders, receivers)
            return self._compiled(nodes, edges, ends, fade, summed, (more, lead))
        edges = [edges[0][:, more:], *edges[1:]]
        found = self._by_edges(nodes, edges, senders, receivers)
        if fade is not None:
            found = found * fade
        if lead:
            found = functional.pad(found, (lead, 0))
        if not summed:
            return found
        return found.new_zeros(len(nodes), found.shape[1]).index_add(0, receivers, found)

    def _compiled(
        self,
        nodes: Tensor,
        edges: Sequence[Tensor],
        ends: Ends,
        fade: Tensor | None,
        summed: bool,
        extra: tuple[int, int],
    ) -> Tensor:
        columns = tuple(block.shape[1] for block in edges)
        projection = self._laid_out.network((), self._projection)
        network = self._laid_out.network((columns, extra), lambda: self._of_edges(columns, *extra))
        return compiled(network, edges, ends, compiled(projection, [nodes]), fade, summed)

    def _projection(self) -> Network:
        """Return what nodes contribute to the first layer, as senders and as receivers."""
        n, weight = self.features, self.first.weight
        both = torch.cat([weight[:, :n], weight[:, n : 2 * n]])
        return Network([Layer(both, None, False)], [n])

    def _of_edges(self, columns: Sequence[int], more: int, lead: int) -> Network:
        """Return the network of the edges' own features."""
        first, *others = layers_of([self.first, *self.rest])
        own = first._replace(weight=first.weight[:, 2 * self.features :])
        skips = [more, *(0 for _ in columns[1:])]
        widths = [column - skip for column, skip in zip(columns, skips, strict=True)]
        return Network([own, *others], widths, skips, lead)

    def _by_edges(
        self, nodes: Tensor, edges: Sequence[Tensor], senders: Tensor, receivers: Tensor
    ) -> Tensor:
        n, weight = self.features, self.first.weight
        if is_fused(nodes):
            of_nodes, *of_edges = weight.split([2 * n, *(block.shape[1] for block in edges)], 1)
            own = functional.linear(edges[0], of_edges[0], self.first.bias)
            for block, columns in zip(edges[1:], of_edges[1:], strict=True):
                own = torch.addmm(own, block, columns.T)
            both = functional.linear(nodes, of_ends(of_nodes, n))
            return self.rest[1:](edge_silu(own, both, senders, receivers))
        sent = functional.linear(nodes, weight[:, :n])
        received = functional.linear(nodes, weight[:, n : 2 * n], self.first.bias)
        total = sent.index_select(0, senders) + received.index_select(0, receivers)
        start = 2 * n
        for block in edges:
            columns = weight[:, start : start + block.shape[1]]
            total = torch.addmm(total, block, columns.T)
            start += block.shape[1]
        return self.rest(total)
