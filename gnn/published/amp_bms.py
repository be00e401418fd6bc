"""AMP-BMS: the published model of biomolecules in the field of their surroundings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gnn.data.batching import Batch
from gnn.data.streaming import Header
from gnn.data.systems import Frame
from gnn.layers.electrostatics import full_quadrupoles
from gnn.layers.message import Graph
from gnn.operators.gpu import on_gpu, table
from gnn.passes.weights import Weights
from gnn.potential import Potential, Results
from gnn.published import constants, electrostatics, fused
from gnn.published.dispersion import Dispersion
from gnn.published.layers import (
    AMP_BMS_TERMS,
    BesselBasis,
    PublishedStep,
    check_numbers,
    directions_of,
    neutralised,
    per_system,
    scaled_by_order,
)
from gnn.published.near_charges import NearCoupling
from gnn.published.networks import EdgePerceptron, perceptron
from gnn.published.pair_energies import PairEnergies
from gnn.published.pairs import Pairs, pairs_within
from gnn.published.passes import Passes, passes_of
from gnn.published.polarisation import Polarisation
from gnn.published.terms import CHARGE_UNIT
from gnn.units import KJ_PER_MOL
from multipoles.radial import ReactionField

MODES = ("training", "simulation", "simulation-published")

_CONTACT = 4.0
_SIZES = (
    "features", "edge_features", "channels", "steps", "hidden", "readout", "n_radial",
    "n_radial_mm", "elements",
)  # fmt: skip
_LENGTHS = ("cutoff", "cutoff_pairs", "cutoff_polarisation", "cutoff_mm", "eps")


class AmpBms(Potential):
    """Anisotropic message passing with explicit electrostatics, dispersion and repulsion.

    The energy is that of the publication, in eV: a network's energy of every atom; charges of
    the atoms with each other in a reaction field; charges, dipoles and quadrupoles of the atoms
    in the field of the surrounding charges; dispersion; screened repulsion of the nuclei. Charges
    within `cutoff_polarisation` induce multipoles, which enter the last messages and the
    electrostatics. Surrounding dipoles and quadrupoles, and fields that are not made by
    particles, take part in the electrostatics (of the mode "training") and do not polarise.

    Parameters
    ----------
    features, edge_features, hidden, readout : int
        Widths of node features, edge features and hidden layers, and of hidden layers that read
        charges and polarisabilities.
    channels, steps, n_radial, n_radial_mm : int
        Channels of the state, message-passing steps, Bessel functions of edges and of pairs with
        surrounding charges.
    cutoff, cutoff_pairs, cutoff_polarisation, cutoff_mm : float
        Reach in Å of edges; of electrostatics and dispersion among atoms; of polarisation; and,
        in simulation modes, of the electrostatics with surrounding charges.
    pol_scaling : float
        Factor on the induced multipoles; the publication calibrated 0.35 after training with 1.
    mode : {"training", "simulation", "simulation-published"}
        How atoms feel surrounding charges. "training": all of them, by 1/r, as the weights were
        trained. "simulation": those within `cutoff_mm`, in a reaction field. The last one does
        the same as published: fields are taken as if the potential were 1/r, times its ratio to
        that, and so are not its derivatives (about half at 3 Å).
    eps : float
        Relative permittivity of the reaction fields.
    box : sequence of 3 float, optional
        Edges in Å of an orthorhombic box; all vectors are of minimum image. Simulation modes only.
    elements : int
        Size of the tables by atomic number.

    References
    ----------
    The AMP-BMS model of the Riniker group, ETH Zurich, https://github.com/rinikerlab/amp_bms.
    """

    def __init__(
        self,
        features: int = 128,
        edge_features: int = 32,
        channels: int = 8,
        steps: int = 2,
        *,
        hidden: int = 128,
        readout: int = 64,
        n_radial: int = 8,
        n_radial_mm: int = 2,
        cutoff: float = 4.0,
        cutoff_pairs: float = 14.0,
        cutoff_polarisation: float = 8.0,
        cutoff_mm: float = 9.0,
        pol_scaling: float = 0.35,
        mode: str = "training",
        eps: float = 78.4,
        box: Sequence[float] | None = None,
        elements: int = 54,
    ):
        super().__init__()
        box = None if box is None else [float(edge) for edge in box]
        self._arguments = {
            "features": features, "edge_features": edge_features, "channels": channels,
            "steps": steps, "hidden": hidden, "readout": readout, "n_radial": n_radial,
            "n_radial_mm": n_radial_mm, "cutoff": cutoff, "cutoff_pairs": cutoff_pairs,
            "cutoff_polarisation": cutoff_polarisation, "cutoff_mm": cutoff_mm,
            "pol_scaling": pol_scaling, "mode": mode, "eps": eps, "box": box,
            "elements": elements,
        }  # fmt: skip
        _check_arguments(self._arguments)
        self._weights = Weights()
        self.cutoff, self.cutoff_pairs, self.cutoff_mm = cutoff, cutoff_pairs, cutoff_mm
        self.mode, self.box = mode, box
        self.internal_kernel = ReactionField(cutoff_pairs, eps)
        self.outer_kernel = ReactionField(cutoff_mm, eps)
        self.embedding = nn.Embedding(elements, features)
        self.radial = BesselBasis(cutoff, n_radial)
        self.edges = EdgePerceptron(features, n_radial, edge_features, 1, edge_features)
        self.steps = nn.ModuleList(
            PublishedStep(
                AMP_BMS_TERMS,
                channels,
                features,
                edge_features,
                hidden,
                previous=step > 0,
                extra_channels=int(step == steps - 1),
                monopoles=False,
            )
            for step in range(steps)
        )
        self.polarisation = Polarisation(cutoff_polarisation, n_radial_mm, pol_scaling)
        self.charge = perceptron(features, readout, 1, 1)
        self.response = perceptron(features, readout, 1, 3)
        self.atom_energy = perceptron(features, hidden, 2, 1)
        self.dispersion = Dispersion(elements)

    def config(self) -> dict[str, Any]:
        """Return plain values from which `from_config` builds the same architecture."""
        return dict(self._arguments)

    def _check_batch(self, batch: Batch, stress: bool) -> None:
        super()._check_batch(batch, stress)
        self._check_numbers(batch)

    def set_baseline(
        self, frames: Iterable[Frame | Header], isolated: Mapping[int, float] | None = None
    ) -> None:
        """Fit the constant part of the energy to labels minus the model's own energies.

        The energies of the network, of charges, dispersion and repulsion stay as they are: the
        baseline takes up the difference to labels of another level of theory.

        Raises
        ------
        ValueError
            If there is no frame.
        TypeError
            If frames are heads, without geometry; or if energies of isolated atoms are given, to
            which those of the network do not refer.
        """
        if isolated:
            raise TypeError("AmpBms takes no energies of isolated atoms beside its own weights")
        everything = list(frames)
        geometries = [frame for frame in everything if isinstance(frame, Frame)]
        if len(geometries) < len(everything):
            raise TypeError("expected whole frames: the model's own energies are subtracted")
        self.refit_baseline(geometries)

    def forward(
        self,
        batch: Batch,
        forces: bool = False,
        mm_forces: bool = False,
        create_graph: bool = False,
        mm_potential: bool = False,
        stress: bool = False,
        field_response: bool = False,
    ) -> dict[str, Tensor]:
        """Evaluate a batch; see `gnn.potential.Potential.forward`."""
        # the graph is gone once derivatives are taken, unless they are to be differentiated
        derived = forces or mm_forces or mm_potential or stress or field_response
        constant = not create_graph and (derived or not torch.is_grad_enabled())
        constant = constant and batch.room is None and not on_gpu(batch.positions)
        if constant:
            self._weights.look(self)
            constant = self._weights.are_all() and not batch.charge.requires_grad
        given = forces, mm_forces, create_graph, mm_potential, stress, field_response
        weights = self._weights if constant else None
        with fused.twins(create_graph), constants.constant(weights), _one_thread(constant):
            return super().forward(batch, *given)

    @property
    def has_fixed_shapes(self) -> bool:
        """Whether a step can be recorded: not in a box, whose pairs are as many as they are."""
        return self.box is None

    def evaluated(self, batch: Batch, asked: Mapping[str, bool]) -> dict[str, Tensor]:
        """Return what `forward` does, but for novelty; see `gnn.potential.Potential.evaluated`."""
        self._check_numbers(batch)
        with fused.twins():  # lists of fixed length are theirs
            return super().evaluated(batch, asked)

    def _compiled(self, batch: Batch, asked: Mapping[str, bool]) -> Results | None:
        own, same = type(self), batch.positions.dtype == batch.mm_moments.dtype == self.dtype
        published = own._energy is AmpBms._energy and own.parts is AmpBms.parts
        if not (constants.are_constant() and published and same and self.box is None):
            return None
        self._check_numbers(batch)
        passes: Passes | None = self._weights.kept(lambda: passes_of(self))
        return None if passes is None else passes(batch, asked)

    def parts(self, batch: Batch) -> dict[str, Tensor]:
        """Return the parts of the energy, in the publication's units kJ/mol, Å and e.

        Returns
        -------
        dict
            Energies of each system (B,), float64: ``nodes``, ``coulomb_qm`` (charges of atoms
            with each other), ``coulomb_mm`` (multipoles of atoms in the surroundings' field),
            ``dispersion``, ``repulsion`` and their sum ``total``. Of each atom: ``charges`` (N,),
            ``dipoles`` (N, 3), ``quadrupoles`` (N, 3, 3); their induced part
            ``induced_dipoles``, ``induced_quadrupoles``; ``c6`` (N,) in kJ Å^6/mol;
            ``c6_factors`` (N,) to the free atom's; ``features`` (N, features).
        """
        self._check_numbers(batch)
        box = self._box()
        near = self._near(batch, box)
        nodes = self.embedding(batch.numbers)
        graph = self._graph(batch, nodes, box)
        previous: Tensor | None = None
        for step in self.steps[:-1]:
            nodes, _, previous = step(nodes, graph, previous)
        response = functional.softplus(self.response(nodes))
        induced = self._induced(batch, near, response)

        def append(state: Tensor, _: Tensor) -> Tensor:
            return torch.cat([state, induced[:, :, None]], 2)

        nodes, state, _ = self.steps[-1](nodes, graph, previous, append)
        charges = neutralised(self.charge(nodes)[:, 0] / CHARGE_UNIT, batch)
        moments = (state[:, :, 0] + induced)[:, 1:] / CHARGE_UNIT
        moments = torch.cat([charges[:, None], moments], 1)
        factors = response[:, 0]
        energies = self._pair_energies(batch, box, charges, factors) | {
            "nodes": per_system(self.atom_energy(nodes)[:, 0], batch.batch, batch),
            "coulomb_mm": self._coulomb_mm(batch, near, moments),
        }
        return energies | {
            "total": torch.stack(list(energies.values())).sum(0),
            "charges": charges,
            "dipoles": moments[:, 1:4],
            "quadrupoles": full_quadrupoles(moments[:, 4:]),
            "induced_dipoles": induced[:, 1:4] / CHARGE_UNIT,
            "induced_quadrupoles": full_quadrupoles(induced[:, 4:] / CHARGE_UNIT),
            "c6": self.dispersion.coefficients(factors, batch.numbers),
            "c6_factors": factors,
            "features": nodes,
        }

    def _energy(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        parts = self.parts(batch)
        multipoles = {name: parts[name] for name in ("charges", "dipoles", "quadrupoles")}
        multipoles["_features"] = parts["features"]
        if self.mode != "training":  # there is no uniform field to respond to
            moments = parts["charges"][:, None] * batch.positions + parts["dipoles"]
            total = moments.new_zeros(batch.n_systems, 3)
            multipoles["dipole"] = total.index_add(0, batch.batch, moments)
        return parts["total"] * KJ_PER_MOL, multipoles

    def _box(self) -> Tensor | None:
        if self.box is None:
            return None
        return table(tuple(self.box), self.embedding.weight, torch.float64)

    def _graph(self, batch: Batch, nodes: Tensor, box: Tensor | None) -> Graph:
        positions = batch.positions
        if box is None:
            ends = batch.senders, batch.receivers
            directions, fade, basis = self.radial.of_edges(positions, *ends, batch.present)
        else:  # the edges of a batch are not those of a periodic box
            atoms = positions, positions, batch.batch, batch.batch
            pairs = pairs_within(*atoms, self.cutoff, box)
            apart = pairs.first != pairs.second
            ends = pairs.second[apart], pairs.first[apart]
            vectors = -pairs.vectors(positions, positions)[apart]
            directions, distances = directions_of(vectors)
            basis, fade = self.radial(distances)
        features = self.edges(nodes, [basis], *ends)
        return Graph(*ends, directions, fade, features, len(positions))

    def _near(self, batch: Batch, box: Tensor | None) -> Pairs:
        """Return pairs of an atom and a surrounding particle near it."""
        points = batch.positions, batch.mm_positions
        index = batch.batch, batch.mm_batch
        return pairs_within(*points, *index, self.reach_near, box, batch.room, "near charges")

    @property
    def reach_near(self) -> float:
        """Largest distance in Å of a surrounding particle that is near an atom."""
        return max(self.polarisation.cutoff, 0 if self.mode == "training" else self.cutoff_mm)

    def _induced(self, batch: Batch, near: Pairs, response: Tensor) -> Tensor:
        """Return the multipoles induced by surrounding charges, (N, 10), in the network's units."""
        sums = self.polarisation(batch.positions, batch.mm_positions, batch.mm_charges, near)
        return scaled_by_order(sums, response[:, 1:2], response[:, 2:3])

    def _pair_energies(
        self, batch: Batch, box: Tensor | None, charges: Tensor, factors: Tensor
    ) -> dict[str, Tensor]:
        """Return the energies of pairs of atoms of each system."""
        inputs = batch.positions, charges, factors
        derived = torch.is_grad_enabled() and any(one.requires_grad for one in inputs)
        energies = fused.apply(self.pair_energies(batch, box, derived), *inputs)
        names = ("coulomb_qm", "dispersion", "repulsion")
        return dict(zip(names, energies.unbind(1), strict=True))

    def pair_energies(self, batch: Batch, box: Tensor | None, derived: bool) -> PairEnergies:
        """Return what computes energies of pairs of atoms."""
        return PairEnergies(batch, self.dispersion, self.internal_kernel, _CONTACT, box, derived)

    def _coulomb_mm(self, batch: Batch, near: Pairs, moments: Tensor) -> Tensor:
        if self.mode == "training":
            return per_system(electrostatics.energy_of_all(moments, batch), batch.batch, batch)
        inputs = batch.positions, batch.mm_positions, moments, batch.mm_charges
        energies = fused.apply(self.near_coupling(near), *inputs)
        return per_system(energies, batch.batch, batch)

    def near_coupling(self, near: Pairs) -> NearCoupling:
        """Return what computes energies of multipoles with charges near them."""
        return NearCoupling(near, self.outer_kernel, self.mode == "simulation")

    def _check_numbers(self, batch: Batch) -> None:
        check_numbers(batch, self.embedding)
        if batch.room is not None:  # checked before
            return
        if self.mode != "training" and batch.mm_moments.shape[1] > 1:
            raise ValueError(
                "expected surrounding charges only: multipoles take part in mode 'training'"
            )
        if self.mode != "training" and (batch.external_field.shape[1] or batch.has_uniform_field):
            raise ValueError(
                "expected no uniform or external field: they take part in mode 'training'"
            )


@contextmanager
def _one_thread(used: bool) -> Iterator[None]:
    """Keep torch to one thread: what is left to it is little, and its threads wait by working."""
    threads = torch.get_num_threads()
    if not used or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check_arguments(arguments: dict[str, Any]) -> None:
    for name, value in arguments.items():
        whole = name in _SIZES
        if (whole or name in _LENGTHS) and not (
            type(value) in ((int,) if whole else (int, float)) and 0 < value < float("inf")
        ):
            kind = "a positive integer" if whole else "a finite number > 0"
            raise ValueError(f"expected {name} to be {kind}, got {value!r}")
    scaling = arguments["pol_scaling"]
    if type(scaling) not in (int, float) or not 0 <= scaling < float("inf"):
        raise ValueError(f"expected a finite pol_scaling >= 0, got {scaling!r}")
    mode, box = arguments["mode"], arguments["box"]
    if mode not in MODES:
        raise ValueError(f"expected mode to be one of {MODES}, got {mode!r}")
    if box is None:
        return
    if mode == "training":
        raise ValueError("expected no box in mode 'training', which sums over all charges by 1/r")
    reach = max(arguments[name] for name in ("cutoff", "cutoff_polarisation", "cutoff_mm"))
    if len(box) != 3 or not all(2 * reach <= edge < float("inf") for edge in box):
        raise ValueError(
            f"expected a box of three edges of at least twice the largest cutoff ({reach} Å), got "
            f"{box}"
        )
