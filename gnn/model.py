"""The AMP model: atoms in, energy, forces and multipoles out."""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import astuple
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import multipoles as mp
from gnn import options
from gnn.data.batching import Batch
from gnn.data.extent import Extent
from gnn.data.parts import BONDED
from gnn.data.systems import Frame
from gnn.fields import SurroundedPotential
from gnn.layers.bounds import Bounds
from gnn.layers.charges import FreeCharges, LocalCharges, SharedCharges
from gnn.layers.diffusion import diffused
from gnn.layers.dispersion import dispersion_energy, parameters
from gnn.layers.electrostatics import MultipoleReadout, energy_in_field
from gnn.layers.long_range import MAX_ORDER, LongRangeCoupling
from gnn.layers.message import Graph, MessageStep
from gnn.layers.networks import EdgeNetwork, dense
from gnn.layers.radial import RadialBasis
from gnn.layers.surroundings import FIELD_ORDER, SurroundingsField
from gnn.layers.walls import Border, Seen
from gnn.operators.derivatives import transformed
from gnn.operators.fused import envelope, in_plain_torch, is_fused, lengths_and_largest
from gnn.operators.gpu import recalled
from gnn.operators.room import Room
from gnn.options import Dispersion, Electrostatics, LongRange, Network, Surroundings, Walls
from gnn.passes.bounds import Beyond, suits
from gnn.passes.evaluation import Compiled, evaluate
from gnn.passes.training import Learner, evaluate_to_learn
from gnn.potential import N_ELEMENTS, Results
from gnn.units import COULOMB

_OF_STEP = 3  # invariants of edges, messages, changes of nodes
_MOMENTS = 3  # charges, dipoles, quadrupoles
_NETWORK, _SURROUNDINGS, _ELECTROSTATICS = Network(), Surroundings(), Electrostatics()
_WALLS = Walls()


class AMP(SurroundedPotential):
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
    features : int
        Width of the node features.
    steps : int
        Number of message-passing steps.
    cutoff : float
        Radius of the graph's edges in Å.
    network : Network
        Sizes of the dense networks.
    surroundings : Surroundings
        How the atoms feel what surrounds the molecule.
    electrostatics : Electrostatics or None
        Interaction of the atoms' physical multipoles with each other; None leaves it out.
    long_range : LongRange or None
        Coupling of the atoms' anisotropic states beyond the cutoff; None leaves it out.
    walls : Walls or None
        What happens at distances and in fields beyond those of training; None leaves it out.
    dispersion : Dispersion or None
        Dispersion between the atoms by a library, with what labels of a density functional lack.
    charges : {"local", "shared"}
        Charge moves along edges only, so that distant molecules keep the charges they were given
        (`System.charges`), or what the network's charges miss of the system's charge is shared by
        all atoms however far apart, as it was before there was a choice.
    method : {"auto", "direct", "fmm"}
        How fields are summed: directly, by the fast multipole method, or by the one that is
        expected to be faster.
    tolerance : float
        Relative error of the fast multipole method.
    backend : {"compiled", "torch"}
        Compiled operators, or their twins in plain torch, which sum directly.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong.
    ModuleNotFoundError
        If the library for dispersion is not installed.

    References
    ----------
    Thürlemann & Riniker, Anisotropic Message Passing, ICLR 2023.
    """

    bonded: Tensor

    def __init__(
        self,
        order: int = 2,
        channels: int = 16,
        features: int = 64,
        steps: int = 2,
        cutoff: float = 5.0,
        *,
        network: Network = _NETWORK,
        surroundings: Surroundings = _SURROUNDINGS,
        electrostatics: Electrostatics | None = _ELECTROSTATICS,
        long_range: LongRange | None = None,
        walls: Walls | None = _WALLS,
        dispersion: Dispersion | None = None,
        charges: str = "local",
        method: str = "auto",
        tolerance: float = 1e-6,
        backend: str = "compiled",
    ):
        super().__init__()
        self._arguments: dict[str, Any] = {
            "order": order, "channels": channels, "features": features, "steps": steps,
            "cutoff": cutoff, "network": network, "surroundings": surroundings,
            "electrostatics": electrostatics, "long_range": long_range, "walls": walls,
            "dispersion": dispersion, "charges": charges, "method": method,
            "tolerance": tolerance, "backend": backend,
        }  # fmt: skip
        options.check(self._arguments)
        self._passes, self._learner = Compiled(), Learner()
        self.order, self.cutoff = order, cutoff
        self.surroundings, self.charges = surroundings, charges
        self.method, self.tolerance, self.backend = method, tolerance, backend
        self.damping = surroundings.damping
        self.kernel = mp.Erf(surroundings.damping)
        self.smeared_kernels = [mp.Erf(width) for width in surroundings.smearing]
        self.qm_kernel = mp.Erf(electrostatics.damping) if electrostatics else None
        self.long_kernel = mp.Softened(cutoff)
        # what charges add to nodes, what steps do, multipoles, and energies of penetration
        self._n_outputs = 1 + _OF_STEP * steps + _MOMENTS + len(self.smeared_kernels)
        self.border = Border(**vars(walls), outputs=self._n_outputs) if walls else None
        self.dispersion = dispersion
        if dispersion:
            parameters(*astuple(dispersion))  # raises where there are none
        bonded = torch.from_numpy(BONDED[:N_ELEMENTS]).to(torch.get_default_dtype())
        self.register_buffer("bonded", bonded, persistent=False)
        self.embedding = nn.Embedding(N_ELEMENTS, features)
        self.charge_embedding = nn.Linear(1, features, bias=False)
        self.radial = RadialBasis(cutoff, network.n_radial)
        self.edges = EdgeNetwork(
            features, network.n_radial, network.hidden, network.edge_features, split=network.split
        )
        edge_features = network.edge_features + int(surroundings.in_messages)
        self.steps = nn.ModuleList(
            MessageStep(
                order,
                channels,
                features,
                edge_features,
                network.hidden,
                network.mixed,
                previous=step > 0,
                fields=(1 + len(surroundings.smearing)) * surroundings.in_messages,
                long_range=LongRangeCoupling(
                    order, channels, long_range.channels, cutoff, long_range.monopoles
                )
                if long_range
                else None,
                split=network.split,
                backend=backend,
            )
            for step in range(steps)
        )
        self.atom_energy = dense(features, network.hidden, 1)
        hidden = network.hidden
        conserved = (
            LocalCharges(features, edge_features, hidden, split=network.split)
            if charges == "local"
            else SharedCharges(features, hidden)
        )
        self.multipoles = MultipoleReadout(order, channels, features, hidden, conserved)
        self.penetration = nn.ModuleList(
            MultipoleReadout(order, channels, features, hidden, FreeCharges(features, hidden))
            for _ in self.smeared_kernels
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the model that `config` describes, with fresh weights.

        Parameters
        ----------
        config
            Arguments by name; a group is a dictionary of its options. Names from before there
            were groups are understood (see `gnn.options.from_config`).
        """
        return cls(**options.from_config(config))

    @classmethod
    def argument_defaults(cls) -> dict[str, Any]:
        """Return the names of the constructor's arguments with their defaults."""
        parameters = inspect.signature(cls.__init__).parameters
        return {name: p.default for name, p in parameters.items() if name != "self"}

    def extra_repr(self) -> str:
        """Return what the printed model says beside its layers."""
        return f"cutoff={self.cutoff}, charges={self.charges!r}"

    def config(self) -> dict[str, Any]:
        """Return plain values from which `from_config` builds the same architecture."""
        return options.to_config(self._arguments)

    @property
    def extent(self) -> Extent | None:
        """The extent of the training data; None where it is not known, or without walls."""
        return None if self.border is None else self.border.extent

    def set_extent(self, extent: Extent, room: float = torch.inf) -> None:
        """Tell what the model was trained on, beyond which its walls act.

        A model without walls, such as one from a checkpoint of an earlier version, gets them with
        their default options.

        Parameters
        ----------
        extent
            Of all frames that the model was trained on, see `gnn.data.extent.extent_of`.
        room
            How many times larger what its networks make may be in this extent than in the former
            one, beyond which it saturates. It is measured anew by `set_domain`.
        """
        if self.border is None:
            self._arguments["walls"] = _WALLS
            border = Border(**vars(_WALLS), outputs=self._n_outputs)
            self.border = border.to(self.embedding.weight)
        self.border.set(extent, room)

    def _calibrate(self, frames: Sequence[Frame]) -> NDArray[np.float64]:
        with nullcontext() if self.border is None else self.border.calibrated():
            return self._features_of(frames)

    def _begin_from(self, bond: float) -> None:
        """Let the network begin from a mean energy in eV per atom, relative to isolated atoms."""
        last = self.atom_energy[-1]
        assert isinstance(last, nn.Linear)  # for the type checker
        nn.init.constant_(last.bias, bond)

    @property
    def has_fixed_shapes(self) -> bool:
        """Whether a step can be recorded: sums are direct, and no other library is asked."""
        noting = self.border is not None and self.border._noted is not None
        plain = self.method != "fmm" and self.backend == "compiled"
        return plain and self.dispersion is None and not noting

    def _compiled(self, batch: Batch, asked: Mapping[str, bool]) -> Results | None:
        if not self._in_passes(batch):
            return None
        try:
            return evaluate(self, self._passes, batch, asked)
        except Beyond:
            return None

    def _learning(self, batch: Batch, asked: Mapping[str, bool]) -> Results | None:
        if not self._in_passes(batch, tuple(name for name, wanted in asked.items() if not wanted)):
            return None
        try:
            return evaluate_to_learn(self, self._learner, batch, asked)
        except Beyond:
            return None

    def _in_passes(self, batch: Batch, constant: Sequence[str] = ()) -> bool:
        """Return whether compiled passes may take a batch, of which some fields are constants."""
        plain = type(self) is AMP and self.backend == "compiled" and self.dispersion is None
        return plain and not transformed() and suits(batch, self.dtype, constant)

    def _energy(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with in_plain_torch(self.backend == "torch"):
            return self._network_energy(batch)

    def _network_energy(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        fields = self._outer_fields(batch)
        lengths, directions, fade, basis = self.radial.of_edges(batch.edge_vectors)
        seen = self._seen(batch, lengths, fields)
        if seen.distances is not lengths:
            basis, fade = self.radial(seen.distances[:, None])
        if seen.weight is not None:
            ends = (seen.weight.index_select(0, end) for end in (batch.senders, batch.receivers))
            fade = fade * torch.mul(*ends)[:, None]
        start = self._initial_charges(batch, fade)
        nodes = self.embedding(batch.numbers)
        charged = self.charge_embedding(start)
        nodes = nodes + self._bounded(0, charged, batch.numbers, batch.room)
        graph, surroundings = self._graph(batch, nodes, seen, directions, basis, fade)
        # all steps use one plan of the sums
        field_of_atoms = self._field_of_atoms(batch, self.long_kernel, min(self.order, MAX_ORDER))
        previous: Tensor | None = None
        of_edges = batch.numbers.index_select(0, batch.receivers)
        if batch.present is not None:  # edges that are not there are bounded by nothing
            of_edges = of_edges * batch.present
        for i, step in enumerate(self.steps):
            of_step = of_edges, batch.numbers, batch.numbers
            bounds = self._bounds(1 + _OF_STEP * i, *of_step, room=batch.room)
            nodes, state, previous = step(
                nodes, graph, surroundings, previous, start, field_of_atoms, bounds
            )
        bounds = self._bounds(
            1 + _OF_STEP * len(self.steps), *[batch.numbers] * _MOMENTS, room=batch.room
        )
        local = self.charges == "local"
        given = (graph, start[:, 0], bounds) if local else (batch.charge, batch.batch)
        physical = self.multipoles(nodes, state, *given, bounds=bounds)
        per_atom = self.atom_energy(nodes)[:, 0]
        if self.surroundings.in_energy:
            first = self._n_outputs - len(self.penetration)
            for i, readout in enumerate(self.penetration):
                extra = readout(nodes, state).packed()
                work = energy_in_field(extra, seen.fields[:, 1 + i])[:, None]
                work = self._bounded(first + i, work, batch.numbers, batch.room)
                per_atom = per_atom + work[:, 0]
        if seen.weight is not None:
            per_atom, physical = per_atom * seen.weight, physical.faded(seen.weight)
        if seen.repulsion is not None:
            per_atom = per_atom + seen.repulsion
        moments = physical.packed()
        if self.surroundings.in_energy:
            per_atom = per_atom + energy_in_field(moments, fields[:, 0])
        if self.qm_kernel is not None:
            field_of = self._field_of_atoms(batch, self.qm_kernel, FIELD_ORDER)
            internal = field_of(moments[:, None] * COULOMB)
            per_atom = per_atom + 0.5 * energy_in_field(moments, internal[:, 0])
        energy = per_atom.new_zeros(batch.n_systems).index_add(0, batch.batch, per_atom)
        if self.dispersion is not None:
            atoms = batch.positions, batch.numbers, batch.batch, batch.charge
            energy = energy + dispersion_energy(*atoms, *astuple(self.dispersion))
        novel = {"_features": nodes, "_gradient": fields[:, 0, 1:4]}
        return energy, physical._asdict() | novel

    def _initial_charges(self, batch: Batch, fade: Tensor) -> Tensor:
        """Return what the atoms have before the network moves charge, (N, 1) in e."""
        if self.charges == "shared":
            atoms = torch.zeros_like(batch.charge)
            atoms = atoms.index_add(0, batch.batch, atoms.new_ones(batch.n_atoms))
            return (batch.charge / atoms)[:, None].index_select(0, batch.batch)
        if batch.formal is None:
            raise ValueError(
                "this batch has systems of several parts whose charges are not given, and the "
                "model's charges are local: make it with collate(…, local_charges=True), or give "
                "System(…, charges=…)"
            )
        room, charges = batch.room, batch.formal
        even = recalled(charges, "even") if room is None else room.is_even
        if even and not charges.requires_grad:  # they stay as they are
            return charges[:, None]
        # charges spread to be the same for whoever may have a proton; ions of metals keep theirs
        ends = batch.senders, batch.receivers
        bonded = [self.bonded.index_select(0, batch.numbers.index_select(0, end)) for end in ends]
        return diffused(charges[:, None], fade * torch.mul(*bonded)[:, None], *ends)

    def _seen(self, batch: Batch, lengths: Tensor, fields: Tensor) -> Seen:
        """Return what the network sees of lengths (E,) and fields (N, F, 10) behind its walls."""
        border = self.border
        if border is None:
            return Seen(lengths, fields)
        distances, weight, scale = lengths, None, None
        near, repulsion = self._bounded_fields(batch, fields)
        if batch.room is not None:  # walls act in the ordinary way only: is there anything beyond?
            batch.room.doubt(border.is_crossed(batch, lengths, self.cutoff))
            border.compare(near, batch.numbers, batch.room)
            return Seen(distances, near)
        if self._crossed(batch, lengths):
            fade = envelope(lengths, self.cutoff)
            distances, weight, between = border.pressed(batch, lengths, fade, self.cutoff)
            repulsion = between if repulsion is None else repulsion + between
        if self._exceeded(near, batch.numbers):
            scale = border.scale(near, batch.numbers)
        return Seen(distances, near, scale, weight, repulsion)

    def _bounded(
        self, output: int, values: Tensor, numbers: Tensor, room: Room | None = None
    ) -> Tensor:
        """Return an output (N, F) of a network that is not beyond those of training."""
        if room is None and self.border is not None and is_fused(values):
            return self.border.within(output, values, numbers)
        factors = self._factors(output, values, numbers, room)
        return values if factors is None else values * factors[:, None]

    def _factors(
        self, output: int, values: Tensor, numbers: Tensor, room: Room | None = None
    ) -> Tensor | None:
        """Return the factors (N,) by which an output is bounded; None if all are one."""
        border = self.border
        if border is None:
            return None
        if room is not None:
            room.compare(*lengths_and_largest(values, border.outputs[output], numbers))
            return None
        return border.factors(output, values, numbers)

    def _bounds(self, first: int, *numbers: Tensor, room: Room | None) -> Bounds | None:
        """Return the bounds of outputs from `first` on; `numbers` are the elements of each."""
        if self.border is None:
            return None
        return _Bounds(self, first, numbers, room)

    def _crossed(self, batch: Batch, lengths: Tensor) -> bool:
        """Return whether the walls between atoms act anywhere."""
        return self.border is not None and self.border.crossed(batch, lengths, self.cutoff)

    def _exceeded(self, fields: Tensor, numbers: Tensor) -> bool:
        """Return whether fields (N, F, 10) saturate anywhere."""
        return self.border is not None and self.border.exceeded(fields, numbers)

    def _graph(
        self,
        batch: Batch,
        nodes: Tensor,
        seen: Seen,
        directions: Tensor,
        basis: Tensor,
        fade: Tensor,
    ) -> tuple[Graph, SurroundingsField | None]:
        senders, receivers, fields, scale = batch.senders, batch.receivers, seen.fields, seen.scale
        features = self.edges(nodes, basis, senders, receivers)
        surroundings = None
        if self.surroundings.in_messages:
            potential = fields[:, 0, :1]
            step = potential.index_select(0, receivers) - potential.index_select(0, senders)
            if scale is not None:
                fields = fields * scale[:, None, None]
                both = scale.index_select(0, receivers) * scale.index_select(0, senders)
                step = step * both[:, None]
            relative = torch.zeros_like(potential).index_add(0, receivers, step * fade)
            potentials = torch.cat([relative, fields[:, 1:, 0]], dim=1)
            surroundings = SurroundingsField(fields, potentials)
            features = torch.cat([features, step], dim=1)
        graph = Graph(senders, receivers, directions, fade, features, batch.n_atoms)
        return graph, surroundings


class _Bounds:
    """Bounds of the outputs of a layer, the first of which has a number in the model.

    `numbers` are the elements of each output's rows.
    """

    def __init__(
        self, model: AMP, first: int, numbers: Sequence[Tensor], room: Room | None
    ) -> None:
        self._model, self._first, self._numbers, self._room = model, first, numbers, room

    def factors(self, output: int, values: Tensor) -> Tensor | None:
        """Return factors (N,) by which values (N, F) saturate; None if all are one."""
        numbers = self._numbers[output]
        return self._model._factors(self._first + output, values, numbers, self._room)

    def within(self, output: int, values: Tensor) -> Tensor:
        """Return values (N, F) times these factors."""
        numbers = self._numbers[output]
        return self._model._bounded(self._first + output, values, numbers, self._room)
