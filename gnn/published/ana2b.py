"""The intramolecular network of ANA2B, nearest to the first publication of the method."""

from typing import Any

import torch
from torch import Tensor, nn

from gnn.data.batching import Batch
from gnn.potential import Potential
from gnn.published.layers import (
    ANA2B_TERMS,
    BesselBasis,
    PublishedStep,
    SpeciesEdges,
    check_numbers,
    per_system,
    species_graph,
    state_norms,
)
from gnn.published.networks import perceptron
from gnn.units import KJ_PER_MOL


class Ana2b(Potential):
    """AMPMulti of ANA2B: the energy of a molecule by 18 gated invariants, without electrostatics.

    Its state is not faded at the cutoff, so the energy jumps there, as published. Surroundings
    are not felt and charges are not known.

    Parameters
    ----------
    features, edge_features, channels, steps, n_radial : int
        Widths, channels of the state, message-passing steps, Bessel functions.
    cutoff : float
        Radius of the graph's edges in Å.
    elements : int
        Size of the tables by atomic number.

    References
    ----------
    Thürlemann & Riniker, Chem. Sci. 14, 12661 (2023).
    """

    def __init__(
        self,
        features: int = 128,
        edge_features: int = 32,
        channels: int = 32,
        steps: int = 3,
        *,
        n_radial: int = 20,
        cutoff: float = 5.0,
        elements: int = 18,
    ):
        super().__init__()
        self._arguments = {
            "features": features, "edge_features": edge_features, "channels": channels,
            "steps": steps, "n_radial": n_radial, "cutoff": cutoff, "elements": elements,
        }  # fmt: skip
        self.cutoff = cutoff
        self.embedding = nn.Embedding(elements, features)
        self.radial = BesselBasis(cutoff, n_radial)
        self.edges = SpeciesEdges(n_radial, elements, edge_features)
        self.terms = ANA2B_TERMS
        self.steps = nn.ModuleList(
            PublishedStep(
                ANA2B_TERMS,
                channels,
                features,
                edge_features,
                features,
                previous=step > 0,
                gate_layers=2,
                norms=True,
                faded_state=False,
                message_scale=1 / cutoff,
            )
            for step in range(steps)
        )
        self.atom_energy = perceptron(features + 3 * channels, features, 2, 1)

    def config(self) -> dict[str, Any]:
        """Return plain values from which `from_config` builds the same architecture."""
        return dict(self._arguments)

    def _check_batch(self, batch: Batch, stress: bool) -> None:
        super()._check_batch(batch, stress)
        check_numbers(batch, self.embedding)

    def readout_features(self, batch: Batch) -> Tensor:
        """Return what the atoms' energies are read from, (N, features + 3 channels)."""
        check_numbers(batch, self.embedding)
        graph = species_graph(batch, self.radial, self.edges)
        nodes = self.embedding(batch.numbers)
        previous: Tensor | None = None
        for step in self.steps:
            nodes, state, previous = step(nodes, graph, previous)
        return torch.cat([nodes, state_norms(state)], 1)

    def _energy(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        energies = self.atom_energy(self.readout_features(batch))[:, 0]
        total = per_system(energies, batch.batch, batch) * KJ_PER_MOL
        zeros = energies.new_zeros(batch.n_atoms, 3, 3)
        multipoles = {
            "charges": zeros[:, 0, 0],
            "dipoles": zeros[:, 0],
            "quadrupoles": zeros,
            "dipole": energies.new_zeros(batch.n_systems, 3),
        }
        return total, multipoles
