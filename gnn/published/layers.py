"""Layers of which the published models are configurations."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gnn.data.batching import Batch, apart
from gnn.layers.message import Graph
from gnn.operators.edges import anisotropic_state, pair_invariants
from gnn.operators.fused import bessel
from gnn.operators.fused import edge_geometry as of_vectors
from gnn.operators.gpu import at_host, known, table
from gnn.published import constants
from gnn.published.edge_geometry import edge_geometry, near_multiples
from gnn.published.networks import EdgePerceptron, perceptron

ORDER = 2


class BesselBasis(nn.Module):
    """sin(n pi r/c) under the envelope c/r (1 - 28 x^6 + 48 x^7 - 21 x^8), x = r/c.

    Parameters
    ----------
    cutoff : float
        Radius c in Å.
    size : int
        Number of functions.
    """

    frequencies: Tensor

    def __init__(self, cutoff: float, size: int):
        super().__init__()
        self.cutoff = cutoff
        frequencies = torch.arange(1, size + 1, dtype=torch.float32) * torch.pi
        self.register_buffer("frequencies", frequencies)

    def of_edges(
        self, positions: Tensor, senders: Tensor, receivers: Tensor, present: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return directions (E, 3), envelopes (E, 1) and basis (E, size).

        `present` (E,) says which edges are there; None: all.
        """
        ends = senders, receivers
        if constants.are_constant() and near_multiples(self.frequencies):
            return edge_geometry(positions, *ends, self.cutoff, self.frequencies)
        vectors = positions.index_select(0, receivers) - positions.index_select(0, senders)
        vectors = vectors if present is None else apart(vectors, present)
        given = self.frequencies / self.cutoff, self.cutoff, self.cutoff
        _, directions, fade, basis = of_vectors(vectors, *given, divided=True)
        return directions, fade, basis

    def forward(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Return the basis (P, size) and the envelope (P, 1) at distances (P, 1)."""
        frequencies = self.frequencies / self.cutoff
        return bessel(distances, frequencies, self.cutoff, self.cutoff, divided=True)


def directions_of(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit vectors (E, 3) and lengths (E, 1)."""
    distances = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / distances, distances


class SpeciesEdges(nn.Module):
    """Edge features linear in radial functions and in the elements of both ends.

    Parameters
    ----------
    n_radial, elements, outputs : int
        Radial functions, size of the tables by atomic number, width of the features.
    """

    def __init__(self, n_radial: int, elements: int, outputs: int):
        super().__init__()
        self.radial = nn.Linear(n_radial, outputs, bias=False)
        self.sender = nn.Embedding(elements, outputs)
        self.receiver = nn.Embedding(elements, outputs)

    def forward(self, basis: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        """Return features (E, outputs) from a basis (E, n_radial) and atomic numbers (E,)."""
        return self.radial(basis) + self.sender(senders) + self.receiver(receivers)


# --- invariants ---------------------------------------------------------------------------------

# the eleven of `pair_invariants` at order 2; 1 is the sender, 2 the receiver
_BASIC = ("m1", "m2", "d1", "d2", "s1", "s2", "DD", "Dy", "yD", "yy", "QQ")


class Terms:
    """A model's list of invariants, products of at most two of those of `pair_invariants`.

    With monopoles m, dipoles D, quadrupoles Q, d = D.u, y = Q u, s = u.Q.u; the operator gives
    m1, m2, d1, d2, s1, s2 (sender and receiver) and DD = D1.D2, Dy = D1.y2, yD = y1.D2, yy, QQ.

    Parameters
    ----------
    names : str
        Terms divided by blanks: an optional number, then one invariant or two, joined by ``*``.
    """

    def __init__(self, names: str):
        self.factors, self.pairs = [], []
        for name in names.split():
            parts = name.split("*")
            sign = -1.0 if parts[0].startswith("-") else 1.0
            parts[0] = parts[0].removeprefix("-")
            if parts[0].isdigit():
                sign *= float(parts.pop(0))
            self.factors.append(sign)
            self.pairs.append([_BASIC.index(part) for part in parts])

    def __len__(self) -> int:
        return len(self.pairs)

    def __call__(self, basic: Tensor) -> Tensor:
        """Return the terms (E, len, C) of the eleven invariants (E, 11, C)."""
        columns = basic.unbind(1)
        terms = []
        for factor, pair in zip(self.factors, self.pairs, strict=True):
            term = columns[pair[0]] if len(pair) == 1 else columns[pair[0]] * columns[pair[1]]
            terms.append(term if factor == 1 else term * factor)
        return torch.stack(terms, dim=1)


#: AMP-BMS, in the operator's order, without monopoles.
AMP_BMS_TERMS = Terms("d1 d2 s1 s2 DD Dy yD yy QQ")
AMP_QMMM_MINIMAL_TERMS = Terms("m1 m2 d1 d2 DD s1 s2 yD Dy QQ yy")
AMP_QMMM_PRECISION_TERMS = Terms(
    "m1 m2 m1*m2 d1*m2 -d2*m1 DD d1 d2 -d1*d2 s1 s2 2*yD -2*Dy s1*m2 s2*m1 2*QQ -4*yy -s1*d2 s2*d1"
)
ANA2B_TERMS = Terms("m1 m2 d1*m2 -d2*m1 DD d1 d2 -d1*d2 s1 s2 yD Dy s1*m2 s2*m1 QQ yy -s1*d2 s2*d1")


# --- a step -------------------------------------------------------------------------------------

#: Returns a polarised state, from a state (N, 10, C) and the nodes (N, features).
Polarise = Callable[[Tensor, Tensor], Tensor]


class PublishedStep(nn.Module):
    """One step of message passing as published: state, invariants, messages, update.

    Parameters
    ----------
    terms : Terms
        The invariants.
    channels, features, edge_features, hidden : int
        Channels of the state; widths of nodes, of edges and of hidden layers.
    previous : bool
        True if invariants of an earlier step are among the inputs of the coefficients.
    extra_channels : int
        Channels that polarisation appends in this step.
    monopoles : bool
        False leaves the state without monopoles.
    coefficient_layers, gate_layers : int
        Hidden layers of the coefficients, and of a network that scales each invariant (0: none).
    norms : bool
        Let the norms of the node's own multipoles enter its update.
    faded_state : bool
        Multiply the coefficients by the envelope.
    message_scale : float
        Factor on the summed messages.
    """

    def __init__(
        self,
        terms: Terms,
        channels: int,
        features: int,
        edge_features: int,
        hidden: int,
        *,
        previous: bool,
        extra_channels: int = 0,
        monopoles: bool = True,
        coefficient_layers: int = 2,
        gate_layers: int = 0,
        norms: bool = False,
        faded_state: bool = True,
        message_scale: float = 1.0,
    ):
        super().__init__()
        self.terms, self.channels = terms, channels
        self.monopoles, self.norms, self.faded_state = monopoles, norms, faded_state
        self.message_scale = message_scale
        before = edge_features + (len(terms) * channels if previous else 0)
        width = len(terms) * (channels + extra_channels)
        ranks = ORDER + int(monopoles)
        self.coefficients = EdgePerceptron(
            features, before, hidden, coefficient_layers, ranks * channels
        )
        self.gate = (
            EdgePerceptron(features, before, hidden, gate_layers, width) if gate_layers else None
        )
        self.message = EdgePerceptron(features, width + edge_features, hidden, 2)
        own = 3 * channels if norms else 0
        self.update = perceptron(2 * features + own, features, 2)

    def forward(
        self,
        nodes: Tensor,
        graph: Graph,
        previous: Tensor | None = None,
        polarise: Polarise | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return new nodes (N, features), the state (N, 10, C), the invariants.

        These are (E, width), or without monopoles all that `pair_invariants` gives.
        """
        ends = graph.senders, graph.receivers
        before = [graph.features] if previous is None else [previous, graph.features]
        fade = graph.fade if self.faded_state else graph.present
        lead = 0 if self.monopoles else self.channels
        weights = self.coefficients(nodes, before, *ends, fade, lead=lead)
        state = build_state(weights, graph, self.channels)
        if polarise is not None:
            state = polarise(state, nodes)
        basic = pair_invariants(state, graph.directions, *ends, ORDER)
        # without monopoles, the networks skip the first two of each channel, which are zero
        invariants = (self.terms(basic) if self.monopoles else basic).flatten(1)
        if self.gate is not None:
            invariants = invariants * self.gate(nodes, before, *ends)
        given = [invariants, graph.features]
        summed = self.message(nodes, given, *ends, graph.fade, summed=True)
        inputs = [nodes, summed * self.message_scale if self.message_scale != 1 else summed]
        if self.norms:
            inputs.append(state_norms(state))
        return nodes + self.update(*inputs), state, invariants


def build_state(weights: Tensor, graph: Graph, channels: int) -> Tensor:
    """Return the state (N, 10, C) of coefficients (E, 3 C)."""
    weights = weights.view(-1, ORDER + 1, channels)
    return anisotropic_state(weights, graph.directions, graph.receivers, graph.n_nodes, ORDER)


def state_norms(state: Tensor) -> Tensor:
    """Return monopoles and the norms of dipoles and quadrupoles, by kind, (N, 3 C).

    A norm of zero has a gradient of zero.
    """
    dipoles = state[:, 1:4].square().sum(1)
    packed = state[:, 4:10].square()
    weights = table((1.0, 0.5, 0.5, 1.0, 0.5, 1.0), packed)
    quadrupoles = (packed * weights[:, None]).sum(1)
    squares = torch.cat([dipoles, quadrupoles], 1)
    norms = torch.where(squares > 0, squares, torch.ones_like(squares)).sqrt()
    return torch.cat([state[:, 0], norms * (squares > 0)], 1)


def neutralised(charges: Tensor, batch: Batch) -> Tensor:
    """Return charges (N,), all shifted alike so that they sum to the charge of their system."""
    total = torch.zeros_like(batch.charge).index_add(0, batch.batch, charges)
    atoms = torch.zeros_like(batch.charge).index_add(0, batch.batch, torch.ones_like(charges))
    return charges + ((batch.charge - total) / atoms).index_select(0, batch.batch)


def check_numbers(batch: Batch, table: nn.Embedding) -> None:
    """Refuse atomic numbers that a table has no row for.

    Raises
    ------
    ValueError
        With the largest number that it has.
    """
    if batch.room is not None:  # checked before
        return
    largest, found = (
        table.num_embeddings - 1,
        known(batch.numbers, "max", lambda: at_host(batch.numbers.max())),
    )
    if int(found) > largest:
        raise ValueError(f"expected atomic numbers up to {largest}, got {int(found)}")


def per_system(values: Tensor, system: Tensor, batch: Batch) -> Tensor:
    """Return the sums of each system's values, (B,), in float64."""
    total = values.new_zeros(batch.n_systems, dtype=torch.float64)
    return total.index_add(0, system, values.double())


def species_graph(batch: Batch, radial: BesselBasis, edges: SpeciesEdges) -> Graph:
    """Return the graph of a batch, with edge features of distance and elements."""
    ends = batch.senders, batch.receivers
    vectors = batch.edge_vectors
    distances = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    basis, fade = radial(distances)
    features = edges(basis, *(batch.numbers.index_select(0, end) for end in ends))
    return Graph(*ends, vectors / distances, fade, features, batch.n_atoms, batch.present)


def scaled_by_order(sums: Tensor, dipole: Tensor, quadrupole: Tensor) -> Tensor:
    """Return sums (N, 10) without monopoles, times factors (N, 1) of dipoles and quadrupoles."""
    factors = [torch.zeros_like(dipole), dipole.expand(-1, 3), quadrupole.expand(-1, 6)]
    return sums * torch.cat(factors, 1)
