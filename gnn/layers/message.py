"""One step of anisotropic message passing."""

import torch
from torch import Tensor, nn

from gnn.layers.bounds import Bounds, within
from gnn.layers.long_range import FieldOfAtoms, LongRangeCoupling
from gnn.layers.networks import EdgeNetwork, dense
from gnn.layers.surroundings import SurroundingsCoupling, SurroundingsField
from gnn.operators.edges import anisotropic_state, n_invariants, pair_invariants, self_invariants


class Graph:
    """The edges of a batch, as the layers take them.

    Attributes
    ----------
    senders, receivers : Tensor
        (E,) int64, sorted by receiver.
    directions : Tensor
        (E, 3) unit vectors from sender to receiver.
    fade : Tensor
        (E, 1) envelope of the distance.
    features : Tensor
        (E, edge_features) inputs of the edge networks.
    n_nodes : int
        Number of atoms.
    present : Tensor or None
        (E, 1) one for edges that are there and zero for others; None: all are.
    """

    def __init__(
        self,
        senders: Tensor,
        receivers: Tensor,
        directions: Tensor,
        fade: Tensor,
        features: Tensor,
        n_nodes: int,
        present: Tensor | None = None,
    ):
        self.senders, self.receivers = senders, receivers
        self.directions, self.fade, self.features = directions, fade, features
        self.n_nodes = n_nodes
        self.present = None if present is None else present[:, None].to(fade.dtype)

    def sum_to_receivers(self, values: Tensor) -> Tensor:
        """Sum rows of edges (E, k) over the incoming edges of each node, (N, k)."""
        return values.new_zeros(self.n_nodes, values.shape[1]).index_add(0, self.receivers, values)


class MessageStep(nn.Module):
    """Build the anisotropic state, pass directional messages, update the nodes.

    Thürlemann & Riniker, ICLR 2023, section 3: coefficients of every edge span the receiver's
    multipoles by the edge's direction; the contractions of sender's and receiver's multipoles
    with each other and with the direction are features of the message. Here every term carries
    the envelope, so that nothing jumps at the cutoff; the field of the surroundings adds to the
    state as one more sender would.

    Parameters
    ----------
    order, channels : int
        Order and number of channels of the anisotropic state.
    features, edge_features, hidden, mixed : int
        Widths of node features, edge features, hidden layers, and of the linear combinations of
        invariants that enter messages and the next step's coefficients.
    previous : bool
        True if invariants of an earlier step are among the inputs of the coefficients.
    fields : int
        Number of fields of the surroundings; 0 builds a step without coupling to them.
    long_range : LongRangeCoupling, optional
        Coupling to the field of all other atoms' states.
    split : bool
        See `gnn.layers.networks.EdgeNetwork`.
    backend : {"compiled", "torch"}
        Fused edge operators, or their twins in plain torch.
    """

    def __init__(
        self,
        order: int,
        channels: int,
        features: int,
        edge_features: int,
        hidden: int,
        mixed: int,
        *,
        previous: bool,
        fields: int = 1,
        long_range: LongRangeCoupling | None = None,
        split: bool = True,
        backend: str = "compiled",
    ):
        super().__init__()
        self.order, self.channels, self.backend = order, channels, backend
        self.coefficients = EdgeNetwork(
            features,
            edge_features + (mixed if previous else 0),
            hidden,
            (order + 1) * channels,
            split=split,
        )
        # the many invariants meet each network through one narrow linear map
        self.mix = nn.Linear(n_invariants(order) * channels, mixed, bias=False)
        self.message = EdgeNetwork(features, edge_features + mixed, hidden, features, split=split)
        self.coupling = SurroundingsCoupling(order, channels, features, fields) if fields else None
        self.long_range = long_range
        coupled = sum(part.outputs for part in (self.coupling, long_range) if part is not None)
        self.update = dense(2 * features + order * channels + coupled, hidden, features)

    def forward(
        self,
        nodes: Tensor,
        graph: Graph,
        surroundings: SurroundingsField | None,
        previous: Tensor | None,
        charges: Tensor,
        field_of_atoms: FieldOfAtoms | None = None,
        bounds: Bounds | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return new nodes (N, features), the state (N, n_comp, C), mixed invariants (E, mixed).

        `charges` (N, 1) are what the atoms have before the network moves any.
        Invariants (0), messages (1) and the change of the nodes (2) are kept within `bounds`.
        """
        ends = graph.senders, graph.receivers
        inputs = graph.features if previous is None else torch.cat([graph.features, previous], 1)
        weights = self.coefficients(nodes, inputs, *ends) * graph.fade
        state = anisotropic_state(
            weights.view(-1, self.order + 1, self.channels),
            graph.directions,
            graph.receivers,
            graph.n_nodes,
            self.order,
            backend=self.backend,
        )
        extra = []
        if self.coupling is not None and surroundings is not None:
            state = state + self.coupling.induced(nodes, surroundings)
            extra.append(self.coupling(state, surroundings))
        if self.long_range is not None and field_of_atoms is not None:
            edges = graph.fade, *ends
            extra.append(self.long_range(state, field_of_atoms, charges, edges))
        invariants = pair_invariants(
            state, graph.directions, *ends, self.order, backend=self.backend
        )
        invariants = within(bounds, 0, self.mix(invariants.flatten(1)))
        inputs = torch.cat([graph.features, invariants], 1)
        messages = graph.sum_to_receivers(self.message(nodes, inputs, *ends) * graph.fade)
        messages = within(bounds, 1, messages)
        own = self_invariants(state, self.order)
        change = self.update(torch.cat([nodes, messages, own, *extra], 1))
        return nodes + within(bounds, 2, change), state, invariants
