"""Charges of the atoms: how a network moves charge between them."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from gnn.layers.bounds import Bounds
from gnn.layers.message import Graph
from gnn.layers.networks import EdgeNetwork, dense

_FIRST_TRANSFERS = 0.1  # scale of the last weights of a fresh network


class LocalCharges(nn.Module):
    """Charges that move along edges only, so that each connected part of a graph keeps its own.

    A network gives each edge an amount of charge that flows from sender to receiver; with the
    edge's twin in the other direction, the net transfer between two atoms is antisymmetric. It
    carries the envelope of the edge and starts from zero at the cutoff.

    Parameters
    ----------
    features, edge_features, hidden : int
        Widths of node features, edge features and the hidden layer.
    split : bool
        See `gnn.layers.networks.EdgeNetwork`.
    """

    def __init__(self, features: int, edge_features: int, hidden: int, *, split: bool = True):
        super().__init__()
        self.transfers = EdgeNetwork(features, edge_features, hidden, 1, split=split)
        last = self.transfers.rest[-1]
        assert isinstance(last, nn.Linear)  # for the type checker
        with torch.no_grad():
            last.weight *= _FIRST_TRANSFERS
            last.bias.zero_()

    def forward(
        self, nodes: Tensor, graph: Graph, start: Tensor, bounds: Bounds | None = None
    ) -> Tensor:
        """Return the charges of all atoms (N,); `start` (N,) is what they have before.

        Where more charge moved to or from an atom than `bounds` (of output 0) allow, less moves
        along its edges.
        """
        ends = graph.senders, graph.receivers
        flow = (self.transfers(nodes, graph.features, *ends) * graph.fade)[:, 0]
        moved = _moved(start, flow, graph)
        factors = None if bounds is None else bounds.factors(0, moved[:, None])
        if factors is not None:
            sent, received = (factors.index_select(0, end) for end in ends)
            moved = _moved(start, flow * sent * received, graph)
        return start + moved


def _moved(start: Tensor, flow: Tensor, graph: Graph) -> Tensor:
    """Return the charge that flows to each atom, less what flows away, (N,)."""
    moved = torch.zeros_like(start)
    return moved.index_add(0, graph.receivers, flow).index_add(0, graph.senders, -flow)


class SharedCharges(nn.Sequential):
    """Charges whose difference to the system's charge is shared by all of its atoms.

    A network gives each atom a charge and a positive weight. What the charges miss of the system's
    charge is distributed over its atoms by the weights, far ones too: two molecules in one system
    feel each other's charges at any distance.

    Parameters
    ----------
    features, hidden : int
        Widths of node features and the hidden layer.
    """

    def __init__(self, features: int, hidden: int):
        super().__init__(*dense(features, hidden, 2))

    def forward(self, nodes: Tensor, total: Tensor, batch: Tensor) -> Tensor:  # type: ignore[override]
        """Return the charges of all atoms (N,); `total` (B,) is each system's."""
        charges, share = super().forward(nodes).unbind(1)
        share = functional.softplus(share)
        missing = total - torch.zeros_like(total).index_add(0, batch, charges)
        shares = torch.zeros_like(total).index_add(0, batch, share)
        return charges + share * (missing / shares).index_select(0, batch)


class FreeCharges(nn.Sequential):
    """Charges as a network gives them.

    Parameters
    ----------
    features, hidden : int
        Widths of node features and the hidden layer.
    """

    def __init__(self, features: int, hidden: int):
        # of the two outputs one is not used; checkpoints have it
        super().__init__(*dense(features, hidden, 2))

    def forward(self, nodes: Tensor) -> Tensor:
        """Return the charges of all atoms (N,)."""
        charges: Tensor = super().forward(nodes)[:, 0]
        return charges
