"""The AMP model: atoms in, energy, forces and multipoles out."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import multipoles as mp
from gnn.data.batching import Batch
from gnn.layers.electrostatics import MultipoleReadout, energy_in_field
from gnn.layers.long_range import MAX_ORDER, LongRange
from gnn.layers.message import Graph, MessageStep
from gnn.layers.networks import EdgeNetwork, dense
from gnn.layers.radial import RadialBasis
from gnn.layers.surroundings import FIELD_ORDER, Surroundings, given_field
from gnn.operators import field as operator
from gnn.operators.field import FieldOf
from gnn.potential import N_ELEMENTS, Potential
from gnn.units import COULOMB

FIELD_METHODS = ("auto", "direct", "fmm")
# erf(x) and its derivatives are those of 1 to the last digit beyond this
_DECAYED, _DECAYED_FLOAT32 = 6.0, 4.5


class AMP(Potential):
    """Anisotropic message passing for molecules in the field of their surroundings.

    The energy is a sum of per-element constants, of per-atom energies read from the last node
    features, of the work of the surroundings' field on the atoms' physical multipoles, and of
    the smoothly damped interaction of those multipoles with each other. Forces on atoms and on
    surrounding charges are its exact gradient.

    Parameters
    ----------
    order : int
        Order of the anisotropic state, 0 … 3. 0 is an isotropic network.
    channels : int
        Number of multipoles of each order on every atom.
    features, edge_features, hidden, mixed : int
        Widths of node features, edge features, hidden layers.
    steps : int
        Number of message-passing steps.
    cutoff : float
        Radius of the graph's edges in Å.
    n_radial : int
        Number of radial basis functions.
    surroundings_in_messages : bool
        Let the field of the surroundings enter the network, not only the electrostatics.
    mm_electrostatics : bool
        Let the field of the surroundings do work on the atoms' physical multipoles.
    qm_electrostatics : bool
        Let the physical multipoles of the atoms interact with each other.
    long_range : bool
        Let the field of all other atoms' anisotropic states enter every update.
    long_channels : int
        Number of channels, mixed from those of the state, that make this field.
    damping : float
        Surrounding charges act as Gaussians of this inverse width in 1/Å (erf(a r) / r): true
        point charges beyond contact distance, finite on top of an atom.
    smearing : sequence of float
        Inverse widths in 1/Å of wider Gaussians through which the atoms also see the
        surroundings: electron density reaches out to nearby charges, and feels less of them than
        a nucleus would. For each of them, further multipoles are read from the state, and do
        work in the difference of the two fields, which is short-ranged.
    qm_damping : float
        Multipoles of atoms act on each other as Gaussians of this inverse width in 1/Å; their
        near part is the network's.
    method : {"numba", "torch"}
        Compiled operators, or their plain torch twins.
    field_method : {"auto", "direct", "fmm"}
        How fields are summed: directly, by the fast multipole method, or as pays.
    field_tolerance : float
        Relative error of the fast multipole method.
    edge_method : {"numba", "torch"}, optional
        The same for the edge operators alone; None follows `method`.
    split : bool
        Compute the node parts of edge networks once per node (exact; False is the slow twin).

    References
    ----------
    Thürlemann & Riniker, Anisotropic Message Passing, ICLR 2023.
    """

    def __init__(
        self,
        order: int = 2,
        channels: int = 16,
        features: int = 64,
        steps: int = 2,
        cutoff: float = 5.0,
        *,
        edge_features: int = 32,
        hidden: int = 64,
        mixed: int = 32,
        n_radial: int = 8,
        surroundings_in_messages: bool = True,
        mm_electrostatics: bool = True,
        qm_electrostatics: bool = True,
        long_range: bool = False,
        long_channels: int = 4,
        damping: float = 2.0,
        smearing: Sequence[float] = (1.2,),
        qm_damping: float = 0.5,
        method: str = "numba",
        field_method: str = "auto",
        field_tolerance: float = 1e-6,
        edge_method: str | None = None,
        split: bool = True,
    ):
        super().__init__()
        smearing = list(smearing)
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_arguments(arguments)
        self._arguments = arguments
        self.order, self.cutoff = order, cutoff
        self.kernel, self.qm_kernel = mp.Erf(damping), mp.Erf(qm_damping)
        self.qm_electrostatics = qm_electrostatics
        self.surroundings_in_messages = surroundings_in_messages
        self.mm_electrostatics = mm_electrostatics
        self.field_method = "torch" if method == "torch" else field_method
        self.near_method = "torch" if method == "torch" else "direct"
        self.field_tolerance = field_tolerance
        self.smeared_kernels = [mp.Erf(width) for width in smearing]
        self.long_kernel = mp.Softened(cutoff)
        self.embedding = nn.Embedding(N_ELEMENTS, features)
        self.charge_embedding = nn.Linear(1, features, bias=False)
        self.radial = RadialBasis(cutoff, n_radial)
        self.edges = EdgeNetwork(features, n_radial, hidden, edge_features, split=split)

        def far() -> LongRange | None:
            return LongRange(order, channels, long_channels, cutoff) if long_range else None

        self.steps = nn.ModuleList(
            MessageStep(
                order,
                channels,
                features,
                edge_features + int(surroundings_in_messages),
                hidden,
                mixed,
                previous=step > 0,
                fields=(1 + len(smearing)) * surroundings_in_messages,
                long_range=LongRange(order, channels, long_channels, cutoff)
                if long_range
                else None,
                split=split,
                method=edge_method or method,
            )
            for step in range(steps)
        )
        self.atom_energy = dense(features, hidden, 1)
        self.multipoles = MultipoleReadout(order, channels, features, hidden)
        self.penetration = nn.ModuleList(
            MultipoleReadout(order, channels, features, hidden, conserved=False) for _ in smearing
        )

    @classmethod
    def argument_defaults(cls) -> dict[str, Any]:
        """Return the names of the constructor's arguments with their defaults."""
        parameters = inspect.signature(cls.__init__).parameters
        return {name: p.default for name, p in parameters.items() if name != "self"}

    def config(self) -> dict[str, Any]:
        """Return the arguments from which ``AMP(**config)`` builds the same architecture."""
        return dict(self._arguments)

    def _begin_from(self, bond: float) -> None:
        """Let the network begin from an energy in eV per atom, beside the isolated atoms'."""
        last = self.atom_energy[-1]
        assert isinstance(last, nn.Linear)  # for the type checker
        nn.init.constant_(last.bias, bond)

    def _energy(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        fields = self._outer_fields(batch)
        nodes = self._initial_nodes(batch)
        graph, surroundings = self._graph(batch, nodes, fields)
        # one plan for all steps
        field_of_atoms = self._field_of_atoms(batch, self.long_kernel, min(self.order, MAX_ORDER))
        previous: Tensor | None = None
        for step in self.steps:
            nodes, state, previous = step(nodes, graph, surroundings, previous, field_of_atoms)
        physical = self.multipoles(nodes, state, batch.charge, batch.batch)
        moments = physical.packed()
        per_atom = self.atom_energy(nodes)[:, 0]
        if self.mm_electrostatics:
            per_atom = per_atom + energy_in_field(moments, fields[:, 0])
            for i, readout in enumerate(self.penetration, start=1):
                extra = readout(nodes, state, batch.charge, batch.batch).packed()
                per_atom = per_atom + energy_in_field(extra, fields[:, i])
        if self.qm_electrostatics:
            field_of = self._field_of_atoms(batch, self.qm_kernel, FIELD_ORDER)
            internal = field_of(moments[:, None] * COULOMB)
            per_atom = per_atom + 0.5 * energy_in_field(moments, internal[:, 0])
        energy = per_atom.new_zeros(batch.n_systems).index_add(0, batch.batch, per_atom)
        return energy, physical._asdict()

    def _initial_nodes(self, batch: Batch) -> Tensor:
        """Return node features of element and of the system's charge per atom, (N, features)."""
        atoms = torch.zeros_like(batch.charge)
        atoms = atoms.index_add(0, batch.batch, atoms.new_ones(batch.n_atoms))
        share = (batch.charge / atoms)[:, None].index_select(0, batch.batch)
        return self.embedding(batch.numbers) + self.charge_embedding(share)

    def _outer_fields(self, batch: Batch) -> Tensor:
        """Return potential and derivatives of all surroundings at the atoms, (N, F, 10) in V/Å^k.

        First the field itself, then what wider Gaussians in place of the sources add to it.
        """
        given = given_field(batch)
        if batch.n_mm == 0:
            rest = given.new_zeros(len(given), len(self.smeared_kernels), given.shape[1])
            return torch.cat([given[:, None], rest], dim=1)
        atoms, particles = batch.positions, batch.mm_positions
        moments = batch.mm_moments[:, None] * COULOMB
        index = batch.batch, batch.mm_batch
        everybody = operator.neighbours_of_systems(atoms, *index)
        field_of = self._field_of(atoms, particles, FIELD_ORDER, self.kernel, everybody)
        fields = [field_of(moments) + given[:, None]]
        decayed = _DECAYED if atoms.dtype == torch.float64 else _DECAYED_FLOAT32
        for kernel in self.smeared_kernels:
            near = operator.neighbours_within(atoms, particles, *index, decayed / kernel.alpha)
            smeared, sharp = (
                operator.apply(atoms, particles, moments, FIELD_ORDER, k, near, self.near_method)
                for k in (kernel, self.kernel)
            )
            fields.append(smeared - sharp)
        return torch.cat(fields, dim=1)

    def _field_of_atoms(self, batch: Batch, kernel: Any, order: int) -> FieldOf:
        """Return what takes moments (N, channels, n_comp) on all atoms to their field there."""
        everybody = operator.neighbours_of_systems(batch.positions, batch.batch, batch.batch)
        return self._field_of(batch.positions, batch.positions, order, kernel, everybody)

    def _field_of(
        self, targets: Tensor, sources: Tensor, order: int, kernel: Any, everybody: Any
    ) -> FieldOf:
        method, tolerance = self.field_method, self.field_tolerance
        return FieldOf(targets, sources, order, kernel, everybody, method, tolerance)

    def _graph(
        self, batch: Batch, nodes: Tensor, fields: Tensor
    ) -> tuple[Graph, Surroundings | None]:
        senders, receivers, vectors = batch.senders, batch.receivers, batch.edge_vectors
        distances = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        basis, fade = self.radial(distances)
        features = self.edges(nodes, basis, senders, receivers)
        surroundings = None
        if self.surroundings_in_messages:
            potential = fields[:, 0, :1]
            step = potential.index_select(0, receivers) - potential.index_select(0, senders)
            relative = torch.zeros_like(potential).index_add(0, receivers, step * fade)
            seen = torch.cat([relative, fields[:, 1:, 0]], dim=1)
            surroundings = Surroundings(fields, seen)
            features = torch.cat([features, step], dim=1)
        graph = Graph(senders, receivers, vectors / distances, fade, features, batch.n_atoms)
        return graph, surroundings


def check_arguments(arguments: dict[str, Any]) -> None:
    """Refuse arguments that `AMP` cannot be built from, with a ValueError that says why."""
    if type(arguments["order"]) is not int or arguments["order"] not in (0, 1, 2, 3):
        raise ValueError(f"expected order 0, 1, 2 or 3, got {arguments['order']!r}")
    for name in (
        "channels",
        "features",
        "steps",
        "edge_features",
        "hidden",
        "mixed",
        "n_radial",
        "long_channels",
    ):
        if type(arguments[name]) is not int or arguments[name] < 1:
            raise ValueError(f"expected {name} to be a positive integer, got {arguments[name]!r}")
    for name in ("cutoff", "damping", "qm_damping", "field_tolerance"):
        if type(arguments[name]) not in (int, float) or not 0 < arguments[name] < math.inf:
            raise ValueError(f"expected a finite {name} > 0, got {arguments[name]!r}")
    widths = arguments["smearing"]
    if not all(type(a) in (int, float) and 0 < a < arguments["damping"] for a in widths):
        raise ValueError(
            f"expected smearing of numbers between 0 and damping ({arguments['damping']}), got "
            f"{widths!r}"
        )
    for name in (
        "surroundings_in_messages",
        "mm_electrostatics",
        "qm_electrostatics",
        "long_range",
        "split",
    ):
        if not isinstance(arguments[name], bool):
            raise ValueError(f"expected {name} to be true or false, got {arguments[name]!r}")
    for name, more in (("method", ()), ("edge_method", (None,))):
        if arguments[name] not in ("numba", "torch", *more):
            raise ValueError(f"expected {name} 'numba' or 'torch', got {arguments[name]!r}")
    if arguments["field_method"] not in FIELD_METHODS:
        raise ValueError(
            f"expected field_method to be one of {FIELD_METHODS}, got {arguments['field_method']!r}"
        )
