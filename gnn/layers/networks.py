"""Small dense networks on nodes and edges."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from gnn.operators.fused import edge_silu, of_ends, silu


class SiLU(nn.SiLU):
    """`torch.nn.SiLU` with two derivatives that are one kernel each on a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x / (1 + exp(-x))."""
        return silu(x)


def dense(inputs: int, hidden: int, outputs: int, layers: int = 1) -> nn.Sequential:
    """Return `layers` hidden layers with SiLU and a linear output whose bias starts at zero."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(inputs, hidden), SiLU()]
        inputs = hidden
    last = nn.Linear(inputs, outputs)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*parts, last)


class EdgeNetwork(nn.Module):
    """A dense network on [sender features, receiver features, edge features].

    Its first layer is linear in the concatenation, so it splits exactly into a part for each
    node and a part for each edge; the node parts are computed once per node and only then
    gathered to the edges.

    Parameters
    ----------
    features, edge_features, hidden, outputs : int
        Widths of node features, edge features, hidden layers and output.
    layers : int
        Number of hidden layers.
    split : bool
        False concatenates on every edge instead: the slow twin, for tests and benchmarks.
    """

    def __init__(
        self,
        features: int,
        edge_features: int,
        hidden: int,
        outputs: int,
        *,
        layers: int = 1,
        split: bool = True,
    ):
        super().__init__()
        self.features, self.split = features, split
        self.first = nn.Linear(2 * features + edge_features, hidden)
        rest: list[nn.Module] = []
        for _ in range(layers - 1):
            rest += [nn.Linear(hidden, hidden), SiLU()]
        self.rest = nn.Sequential(*rest, nn.Linear(hidden, outputs))

    def forward(self, nodes: Tensor, edges: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        """Return (E, outputs) from nodes (N, features) and edges (E, edge_features)."""
        if not self.split:
            inputs = torch.cat([nodes[senders], nodes[receivers], edges], dim=1)
            return self.rest(silu(self.first(inputs)))
        n = self.features
        weight, bias = self.first.weight, self.first.bias
        of_nodes, of_edges = weight.split([2 * n, weight.shape[1] - 2 * n], 1)
        own = functional.linear(edges, of_edges, bias)
        both = functional.linear(nodes, of_ends(of_nodes, n))
        return self.rest(edge_silu(own, both, senders, receivers))
