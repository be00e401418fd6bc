"""The AMP model: atoms in, energy, forces and multipoles out."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import multipoles as mp
from gnn.data.batching import Batch, collate
from gnn.data.systems import Frame, System
from gnn.layers.electrostatics import MultipoleReadout, PhysicalMultipoles, energy_in_field
from gnn.layers.message import Graph, MessageStep
from gnn.layers.networks import EdgeNetwork, dense
from gnn.layers.radial import RadialBasis
from gnn.layers.surroundings import FIELD_ORDER, Surroundings
from gnn.operators import field as operator
from gnn.units import COULOMB
from multipoles.neighbours import Slots

N_ELEMENTS = 95


class AMP(nn.Module):
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
    qm_electrostatics : bool
        Let the physical multipoles of the atoms interact with each other.
    damping : float
        Surrounding charges act as Gaussians of this inverse width in 1/Å (erf(a r) / r): true
        point charges beyond contact distance, finite on top of an atom.
    qm_damping : float
        The same between atoms of the graph, whose near part is the network's.
    method : {"numba", "torch"}
        Compiled operators, or their plain torch twins.
    edge_method : {"numba", "torch"}, optional
        The same for the edge operators alone; None follows `method`.
    split : bool
        Compute the node parts of edge networks once per node (exact; False is the slow twin).

    References
    ----------
    Thürlemann & Riniker, Anisotropic Message Passing, ICLR 2023.
    """

    known: Tensor
    baseline: Tensor

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
        qm_electrostatics: bool = True,
        damping: float = 2.0,
        qm_damping: float = 0.5,
        method: str = "numba",
        edge_method: str | None = None,
        split: bool = True,
    ):
        super().__init__()
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_arguments(arguments)
        self._arguments = arguments
        self.order, self.cutoff, self.method = order, cutoff, method
        self.kernel, self.qm_kernel = mp.Erf(damping), mp.Erf(qm_damping)
        self.qm_electrostatics = qm_electrostatics
        self.surroundings_in_messages = surroundings_in_messages
        self.embedding = nn.Embedding(N_ELEMENTS, features)
        self.charge_embedding = nn.Linear(1, features, bias=False)
        self.radial = RadialBasis(cutoff, n_radial)
        self.edges = EdgeNetwork(features, n_radial, hidden, edge_features, split=split)
        self.steps = nn.ModuleList(
            MessageStep(
                order,
                channels,
                features,
                edge_features + 1,
                hidden,
                mixed,
                previous=step > 0,
                surroundings=surroundings_in_messages,
                split=split,
                method=edge_method or method,
            )
            for step in range(steps)
        )
        self.atom_energy = dense(features, hidden, 1)
        self.multipoles = MultipoleReadout(order, channels, features, hidden)
        self.register_buffer("baseline", torch.zeros(N_ELEMENTS, dtype=torch.float64))
        self.register_buffer("charge_baseline", torch.zeros((), dtype=torch.float64))
        self.register_buffer("known", torch.zeros(N_ELEMENTS, dtype=torch.bool))

    @classmethod
    def argument_defaults(cls) -> dict[str, Any]:
        """Return the names of the constructor's arguments with their defaults."""
        parameters = inspect.signature(cls.__init__).parameters
        return {name: p.default for name, p in parameters.items() if name != "self"}

    def config(self) -> dict[str, Any]:
        """Return the arguments from which ``AMP(**config)`` builds the same architecture."""
        return dict(self._arguments)

    @property
    def elements(self) -> list[int]:
        """Atomic numbers seen in training, sorted; empty before `set_baseline`."""
        return torch.nonzero(self.known)[:, 0].tolist()

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return self.embedding.weight.dtype

    def _apply(self, fn, recurse=True):
        """Cast parameters, but never the baseline: total energies need float64."""
        kept = self.baseline, self.charge_baseline
        super()._apply(fn, recurse)
        self.baseline, self.charge_baseline = (b.to(self.baseline.device) for b in kept)
        return self

    def set_baseline(self, frames: Sequence[Frame]) -> None:
        """Fit the constant part of the energy to labelled frames, and note their elements.

        By least squares of the total energies: one energy per element, and one times the total
        charge. Where compositions do not tell these apart, the solution of least norm is taken.
        Frames without an energy count for the elements only.

        Raises
        ------
        ValueError
            If there is no frame.
        """
        if not frames:
            raise ValueError("expected at least one frame to fit the baseline, got none")
        counts = np.stack([np.bincount(f.system.numbers, minlength=N_ELEMENTS) for f in frames])
        self.known.copy_(torch.from_numpy(counts.any(axis=0)))
        labelled = np.array([f.energy is not None for f in frames])
        charges = np.array([[f.system.charge] for f in frames])
        columns = np.concatenate([counts, charges], axis=1).astype(np.float64)[labelled]
        energies = np.array([f.energy for f in frames if f.energy is not None], dtype=np.float64)
        solution = np.zeros(N_ELEMENTS + 1)
        if len(energies):
            solution = np.linalg.lstsq(columns, energies, rcond=None)[0]
        self.baseline.copy_(torch.from_numpy(solution[:-1]))
        self.charge_baseline.fill_(float(solution[-1]))

    def forward(
        self,
        batch: Batch,
        forces: bool = False,
        mm_forces: bool = False,
        create_graph: bool = False,
    ) -> dict[str, Tensor]:
        """Evaluate a batch.

        Parameters
        ----------
        batch : Batch
            From `gnn.data.batching.collate`.
        forces, mm_forces : bool
            Also return the forces on atoms, and on surrounding charges.
        create_graph : bool
            Keep the graph of the forces, to train on them.

        Returns
        -------
        dict
            ``energy`` (B,) eV float64, ``charges`` (N,), ``dipoles`` (N, 3), ``quadrupoles``
            (N, 3, 3), ``dipole`` (B, 3) in e Å about the batch's centred origin; ``forces``
            (N, 3) and ``mm_forces`` (M, 3) in eV/Å when asked for.
        """
        positions, mm_positions = batch.positions, batch.mm_positions
        with torch.set_grad_enabled(forces or mm_forces or torch.is_grad_enabled()):
            wanted = []
            if forces:
                wanted.append(positions := positions.detach().requires_grad_())
            if mm_forces:
                wanted.append(mm_positions := mm_positions.detach().requires_grad_())
            energy, physical = self._energy(batch, positions, mm_positions)
            gradients = (
                torch.autograd.grad(
                    energy.sum(), wanted, create_graph=create_graph, materialize_grads=True
                )
                if wanted
                else ()
            )
        names = ["forces"] * forces + ["mm_forces"] * mm_forces
        results = {name: -g for name, g in zip(names, gradients, strict=True)}
        baseline = torch.zeros(batch.n_systems, dtype=torch.float64)
        baseline.index_add_(0, batch.batch, self.baseline[batch.numbers])
        baseline += self.charge_baseline * batch.charge.double()
        results["energy"] = energy.double() + baseline
        results.update(physical._asdict())
        moment = physical.charges[:, None] * positions + physical.dipoles
        results["dipole"] = moment.new_zeros(batch.n_systems, 3).index_add(0, batch.batch, moment)
        return results

    def _energy(
        self, batch: Batch, positions: Tensor, mm_positions: Tensor
    ) -> tuple[Tensor, PhysicalMultipoles]:
        """Return energies (B,) without baseline, and the physical multipoles."""
        field = self._surrounding_field(batch, positions, mm_positions)
        nodes = self._initial_nodes(batch)
        felt = field if self.surroundings_in_messages else None
        graph, surroundings = self._graph(batch, positions, nodes, felt)
        previous: Tensor | None = None
        for step in self.steps:
            nodes, state, previous = step(nodes, graph, surroundings, previous)
        physical = self.multipoles(nodes, state, batch.charge, batch.batch)
        moments = physical.packed()
        per_atom = self.atom_energy(nodes)[:, 0]
        if field is not None:
            per_atom = per_atom + energy_in_field(moments, field)
        if self.qm_electrostatics:
            internal = self._internal_field(batch, positions, moments)
            per_atom = per_atom + 0.5 * energy_in_field(moments, internal)
        energy = per_atom.new_zeros(batch.n_systems).index_add(0, batch.batch, per_atom)
        return energy, physical

    def _initial_nodes(self, batch: Batch) -> Tensor:
        """Return node features of element and of the system's charge per atom, (N, features)."""
        atoms = torch.bincount(batch.batch, minlength=batch.n_systems)
        share = (batch.charge / atoms)[:, None].index_select(0, batch.batch)
        return self.embedding(batch.numbers) + self.charge_embedding(share)

    def _surrounding_field(
        self, batch: Batch, positions: Tensor, mm_positions: Tensor
    ) -> Tensor | None:
        """Return potential and derivatives of the MM charges at the atoms, (N, 10) in V/Å^k."""
        if len(mm_positions) == 0:
            return None
        moments = batch.mm_charges[:, None, None] * COULOMB
        atoms, particles = batch.batch.numpy(), batch.mm_batch.numpy()
        neighbours = Slots(len(atoms), len(particles), atoms, particles)
        return self._field(positions, mm_positions, moments, self.kernel, neighbours)

    def _internal_field(self, batch: Batch, positions: Tensor, moments: Tensor) -> Tensor:
        """Return the field of the atoms' own multipoles at each other, (N, 10) in V/Å^k."""
        atoms = batch.batch.numpy()
        neighbours = Slots(len(atoms), len(atoms), atoms, atoms)
        scaled = moments[:, None] * COULOMB
        return self._field(positions, positions, scaled, self.qm_kernel, neighbours)

    def _field(
        self, targets: Tensor, sources: Tensor, moments: Tensor, kernel: Any, neighbours: Slots
    ) -> Tensor:
        method = "torch" if self.method == "torch" else "direct"
        field = operator.apply(targets, sources, moments, FIELD_ORDER, kernel, neighbours, method)
        return field[:, 0]

    def _graph(
        self, batch: Batch, positions: Tensor, nodes: Tensor, field: Tensor | None
    ) -> tuple[Graph, Surroundings | None]:
        senders, receivers = batch.senders, batch.receivers
        vectors = positions.index_select(0, receivers) - positions.index_select(0, senders)
        distances = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        basis, fade = self.radial(distances)
        features = self.edges(nodes, basis, senders, receivers)
        if field is None:
            surroundings, step = None, torch.zeros_like(distances)
        else:
            potential = field[:, :1]
            step = potential.index_select(0, receivers) - potential.index_select(0, senders)
            relative = torch.zeros_like(potential).index_add(0, receivers, step * fade)
            surroundings = Surroundings(field, relative)
        features = torch.cat([features, step], dim=1)
        graph = Graph(senders, receivers, vectors / distances, fade, features, len(positions))
        return graph, surroundings

    def evaluate(
        self, systems: Sequence[System | Frame], batch_size: int = 32
    ) -> list[dict[str, Any]]:
        """Return energy, forces and multipoles of each system as NumPy arrays.

        Parameters
        ----------
        systems : sequence of System or Frame
            May differ in size, charge and number of surrounding charges.
        batch_size : int
            Systems evaluated at once.

        Returns
        -------
        list of dict
            Per system: ``energy`` (float, eV), ``forces`` (n, 3) and ``mm_forces`` (m, 3) in
            eV/Å, ``charges`` (n,) e, ``dipoles`` (n, 3) e Å, ``quadrupoles`` (n, 3, 3) e Å²,
            ``dipole`` (3,) e Å about the origin of the coordinates.

        Raises
        ------
        ValueError
            If a system holds an element that the model was not trained on, or its energy or
            forces are not finite.
        TypeError
            If `systems` is a single system.
        """
        if isinstance(systems, System | Frame):
            raise TypeError(f"expected a list of systems, got one {type(systems).__name__}: [it]")
        if batch_size < 1:
            raise ValueError(f"expected batch_size >= 1, got {batch_size}")
        results: list[dict[str, Any]] = []
        for start in range(0, len(systems), batch_size):
            part = systems[start : start + batch_size]
            self._check_elements(part)
            batch = collate(part, self.cutoff, dtype=self.dtype)
            with torch.no_grad():
                output = self(batch, forces=True, mm_forces=True)
            results += _per_system(output, batch)
            _check_finite(results, start)
        return results

    def _check_elements(self, systems: Sequence[System | Frame]) -> None:
        known = self.elements
        if not known:
            return
        for item in systems:
            system = item.system if isinstance(item, Frame) else item
            unknown = sorted(set(system.numbers.tolist()) - set(known))
            if unknown:
                raise ValueError(
                    f"the model was trained on elements {known} (atomic numbers) and knows "
                    f"nothing of {unknown}; train on data that contain them"
                )


def check_arguments(arguments: dict[str, Any]) -> None:
    """Refuse arguments that `AMP` cannot be built from, with a ValueError that says why."""
    if type(arguments["order"]) is not int or arguments["order"] not in (0, 1, 2, 3):
        raise ValueError(f"expected order 0, 1, 2 or 3, got {arguments['order']!r}")
    for name in ("channels", "features", "steps", "edge_features", "hidden", "mixed", "n_radial"):
        if type(arguments[name]) is not int or arguments[name] < 1:
            raise ValueError(f"expected {name} to be a positive integer, got {arguments[name]!r}")
    for name in ("cutoff", "damping", "qm_damping"):
        if type(arguments[name]) not in (int, float) or not 0 < arguments[name] < math.inf:
            raise ValueError(f"expected a finite {name} > 0, got {arguments[name]!r}")
    for name in ("surroundings_in_messages", "qm_electrostatics", "split"):
        if not isinstance(arguments[name], bool):
            raise ValueError(f"expected {name} to be true or false, got {arguments[name]!r}")
    for name, more in (("method", ()), ("edge_method", (None,))):
        if arguments[name] not in ("numba", "torch", *more):
            raise ValueError(f"expected {name} 'numba' or 'torch', got {arguments[name]!r}")


def _check_finite(results: Sequence[dict[str, Any]], start: int) -> None:
    for i, result in enumerate(results[start:], start):
        for name, value in result.items():
            if not np.isfinite(value).all():
                raise ValueError(
                    f"system {i}: the {name} came out as NaN or infinity; look for coordinates or "
                    "charges too large for the model's precision"
                )


def _per_system(output: dict[str, Tensor], batch: Batch) -> list[dict[str, Any]]:
    arrays = {k: v.detach().double().numpy() for k, v in output.items()}
    atoms = np.bincount(batch.batch.numpy(), minlength=batch.n_systems).cumsum()[:-1]
    particles = np.bincount(batch.mm_batch.numpy(), minlength=batch.n_systems).cumsum()[:-1]
    split = {
        name: np.split(arrays[name], particles if name == "mm_forces" else atoms)
        for name in ("forces", "mm_forces", "charges", "dipoles", "quadrupoles")
    }
    return [
        {
            "energy": float(arrays["energy"][i]),
            "dipole": arrays["dipole"][i] + batch.charge[i].item() * batch.origin[i].numpy(),
            **{name: parts[i] for name, parts in split.items()},
        }
        for i in range(batch.n_systems)
    ]
