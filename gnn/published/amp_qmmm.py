"""The published model of QM/MM simulations, in its two sizes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gnn.data.batching import Batch
from gnn.layers.electrostatics import full_quadrupoles
from gnn.operators.edges import anisotropic_state
from gnn.potential import Potential
from gnn.published import electrostatics
from gnn.published.layers import (
    AMP_QMMM_MINIMAL_TERMS,
    AMP_QMMM_PRECISION_TERMS,
    ORDER,
    BesselBasis,
    PublishedStep,
    SpeciesEdges,
    build_state,
    check_numbers,
    neutralised,
    per_system,
    scaled_by_order,
    species_graph,
)
from gnn.published.networks import EdgePerceptron, perceptron
from gnn.published.pairs import Pairs, pairs_among, pairs_within
from gnn.units import KJ_PER_MOL

KINDS = ("minimal", "precision")
_REACH = 500.0  # of charges of atoms with each other, Å
_UNIT = 1e-2  # of the network's multipoles, e Å^l


class AmpQmmm(Potential):
    """AMP for QM/MM: charges induce multipoles on atoms that are added to all channels.

    As published, but for the forces: there the first step's coefficients were cut from the
    graph, here forces are the energy's gradient.

    Parameters
    ----------
    kind : {"minimal", "precision"}
        The published sizes. The larger one has gated invariants, deeper networks, induced
        multipoles that depend on all channels, and others for the electrostatics.
    channels, steps : int, optional
        Of the state, and of message passing; by default those of the kind.
    features, edge_features : int
        Widths.
    cutoff : float
        Radius of the graph's edges in Å.
    elements : int
        Size of the tables by atomic number.

    References
    ----------
    Thürlemann et al., arXiv:2411.19728.
    """

    def __init__(
        self,
        kind: str = "minimal",
        channels: int | None = None,
        steps: int | None = None,
        *,
        features: int = 128,
        edge_features: int = 32,
        cutoff: float = 5.0,
        elements: int = 54,
    ):
        super().__init__()
        self._arguments = {
            "kind": kind, "channels": channels, "steps": steps, "features": features,
            "edge_features": edge_features, "cutoff": cutoff, "elements": elements,
        }  # fmt: skip
        if kind not in KINDS:
            raise ValueError(f"expected kind to be one of {KINDS}, got {kind!r}")
        minimal = kind == "minimal"
        steps = steps or (2 if minimal else 3)
        channels = channels or (32 if minimal else 64)
        depth, n_radial = (1, 8) if minimal else (2, 20)
        self.cutoff = cutoff
        self.embedding = nn.Embedding(elements, features)
        self.radial = BesselBasis(cutoff, n_radial)
        self.edges = SpeciesEdges(n_radial, elements, edge_features)
        terms = AMP_QMMM_MINIMAL_TERMS if minimal else AMP_QMMM_PRECISION_TERMS
        self.terms = terms
        self.steps = nn.ModuleList(
            PublishedStep(
                terms,
                channels,
                features,
                edge_features,
                features,
                previous=step > 0,
                coefficient_layers=depth,
                gate_layers=0 if minimal else 1,
                norms=not minimal,
            )
            for step in range(steps)
        )
        self.induction = _Induction(minimal, features, channels)
        # of the electrostatics: the smaller model has one for both
        self.induction_physical = None if minimal else _Response(False, features, channels, 2)
        self.charge = perceptron(features, features, 2, 1)
        self.multipoles = EdgePerceptron(
            features, edge_features + len(terms) * channels, features, depth, 3
        )
        self.atom_energy = perceptron(features, features, 2, 1)

    def config(self) -> dict[str, Any]:
        """Return plain values from which `from_config` builds the same architecture."""
        return dict(self._arguments)

    def _check_batch(self, batch: Batch, stress: bool) -> None:
        super()._check_batch(batch, stress)
        check_numbers(batch, self.embedding)

    def _energy(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        check_numbers(batch, self.embedding)
        charges_near = self.induction.near(batch)
        graph = species_graph(batch, self.radial, self.edges)
        initial = nodes = self.embedding(batch.numbers)
        previous: Tensor | None = None
        for step in self.steps[:-1]:
            nodes, _, previous = step(nodes, graph, previous)
        induced = nodes.new_zeros(0)

        def polarise(state: Tensor, nodes: Tensor) -> Tensor:
            nonlocal induced
            inputs = self.induction.inputs(state, initial, charges_near)
            induced = self.induction.response(inputs, nodes, charges_near)
            return state + induced[:, :, None]

        nodes, state, invariants = self.steps[-1](nodes, graph, previous, polarise)
        if self.induction_physical is not None:
            inputs = self.induction.inputs(state, initial, charges_near)
            induced = self.induction_physical(inputs, nodes, charges_near)
        ends = graph.senders, graph.receivers
        weights = self.multipoles(nodes, [invariants, graph.features], *ends) * graph.fade
        poles = build_state(weights, graph, 1)[:, 1:, 0] + induced[:, 1:]
        charges = neutralised(self.charge(nodes)[:, 0] * _UNIT, batch)
        moments = torch.cat([charges[:, None], poles * _UNIT], 1)
        per_atom = self.atom_energy(nodes)[:, 0] + electrostatics.energy_of_all(moments, batch)
        energy = per_system(per_atom, batch.batch, batch) + self._internal(batch, charges)
        multipoles = {
            "charges": charges,
            "dipoles": moments[:, 1:4],
            "quadrupoles": full_quadrupoles(moments[:, 4:]),
        }
        return energy * KJ_PER_MOL, multipoles

    def _internal(self, batch: Batch, charges: Tensor) -> Tensor:
        """Return the energies of atoms' charges with each other, (B,) in kJ/mol."""
        pairs = pairs_among(batch.positions, batch.batch, _REACH, room=batch.room)
        distances = torch.linalg.vector_norm(pairs.vectors(batch.positions, batch.positions), dim=1)
        energies = electrostatics.charges_of_pairs(distances, pairs, charges, self.cutoff)
        return per_system(energies, batch.batch.index_select(0, pairs.first), batch)


class _Near:
    """Pairs of an atom and a charge near it: unit vectors, radial basis, charge over R²."""

    def __init__(self, batch: Batch, radial: BesselBasis):
        points = batch.positions, batch.mm_positions
        index = batch.batch, batch.mm_batch
        self.pairs: Pairs = pairs_within(*points, *index, radial.cutoff, room=batch.room)
        vectors = self.pairs.vectors(*points)
        distances = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        self.directions = vectors / distances
        self.basis, fade = radial(distances)
        charges = batch.mm_charges.index_select(0, self.pairs.second)[:, None]
        self.scale = fade * charges / distances.square()
        self.n_atoms = batch.n_atoms


class _Response(nn.Module):
    """Multipoles that near charges induce, by weights of pairs and polarisabilities of atoms."""

    def __init__(self, minimal: bool, features: int, channels: int, outputs: int):
        super().__init__()
        width, hidden = (10, 8) if minimal else (2 * channels, 16)
        self.network = perceptron(width, hidden, 1, ORDER)
        # of its outputs the published models use two
        depth, hidden = (1, features // 2) if minimal else (2, features)
        self.polarisability = perceptron(features, hidden, depth, outputs)

    def forward(self, inputs: Tensor, nodes: Tensor, near: _Near) -> Tensor:
        """Return induced multipoles (N, 10)."""
        weights = functional.pad(self.network(inputs) * near.scale, (1, 0))
        sums = anisotropic_state(
            weights[:, :, None], near.directions, near.pairs.first, near.n_atoms, ORDER
        )[:, :, 0]
        alpha = functional.softplus(self.polarisability(nodes))
        return scaled_by_order(sums, alpha[:, :1], alpha[:, 1:2])


class _Induction(nn.Module):
    """Near charges, what of the state they see, and what they induce for the last messages."""

    def __init__(self, minimal: bool, features: int, channels: int):
        super().__init__()
        self.radial = BesselBasis(*((9.0, 8) if minimal else (10.0, 20)))
        self.gate = None if minimal else perceptron(features + 20, 16, 1, 2 * channels)
        self.response = _Response(minimal, features, channels, 2 * channels)

    def near(self, batch: Batch) -> _Near:
        return _Near(batch, self.radial)

    def inputs(self, state: Tensor, nodes: Tensor, near: _Near) -> Tensor:
        """Return what weighs each pair: the state along its direction, and the radial basis."""
        x = near.directions
        own = state.index_select(0, near.pairs.first)
        if self.gate is None:
            own = own[:, :, :1]
        squares = electrostatics.squares_of(x)
        dipole = (own[:, 1:4] * x[:, :, None]).sum(1)
        quadrupole = (own[:, 4:] * squares[:, :, None]).sum(1)
        if self.gate is None:
            return torch.cat([dipole, quadrupole, near.basis], 1)
        gate = self.gate(torch.cat([nodes.index_select(0, near.pairs.first), near.basis], 1))
        return torch.stack([dipole, quadrupole], 2).flatten(1) * gate
