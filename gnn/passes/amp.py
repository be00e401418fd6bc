"""The energy of `gnn.AMP` and its derivatives in compiled passes; autograd's graph is the twin."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from gnn.data.batching import Batch
from gnn.fields import DECAYED
from gnn.layers.charges import LocalCharges
from gnn.layers.networks import EdgeNetwork, SiLU
from gnn.layers.surroundings import FIELD_ORDER
from gnn.operators import network
from gnn.operators.edge_geometry import Radial
from gnn.operators.evaluators import Direct, Evaluator, evaluator
from gnn.operators.near_pairs import near_pairs
from gnn.operators.network import Layer
from gnn.passes.bounds import Beyond, Inside
from gnn.passes.charges import diffused, moved, shared
from gnn.passes.edges import anisotropic_state, pair_invariants
from gnn.passes.fields import (
    Gaussians,
    Leaves,
    Term,
    charge_fields,
    internal_energies,
    outer_fields,
    works,
)
from gnn.passes.geometry import EdgeGeometry, Ends, edge_geometry
from gnn.passes.nodes import added, column, induced, node_terms, potential_steps, read_moments
from gnn.passes.perceptrons import Dense, EdgeDense, Embedding, join
from gnn.passes.tape import Tape, Value
from gnn.passes.weights import all_known
from multipoles.neighbours import Slots
from multipoles.radial import Kernel


def layers_of(modules: nn.Sequential | Sequence[nn.Module]) -> list[Layer]:
    """Return linear modules, and which of them SiLU follows.

    Raises
    ------
    Beyond
        If a module is of another kind.
    """
    if any(type(module) not in (nn.Linear, nn.SiLU, SiLU) for module in modules):
        raise Beyond
    try:
        return network.layers_of(modules)
    except TypeError:
        raise Beyond from None


class Step(NamedTuple):
    """Networks of a message-passing step."""

    coefficients: Any
    factors: Any
    mix: Any
    message: Any
    update: Any


class Readout(NamedTuple):
    """Networks that read multipoles."""

    charge: Any
    weights: Any
    scale: float


class Networks:
    """The networks of a model, laid out.

    Parameters
    ----------
    model : gnn.AMP
        Whose weights these are.
    dense, edge_dense, embedding : callable
        Make a network of `Layer`s and the widths of blocks of inputs, one of edges, and the
        embedding: those of `gnn.passes.perceptrons`, or networks that learn.

    Raises
    ------
    Beyond
        If the model has layers of other kinds, or numbers of several types.
    """

    def __init__(
        self,
        model: Any,
        dense: Any = Dense,
        edge_dense: Any = EdgeDense,
        embedding: Any = Embedding,
    ):
        if not all_known(model) or {weight.dtype for weight in model.parameters()} != {model.dtype}:
            raise Beyond
        self._dense, self._edge_dense = dense, edge_dense
        features = model.embedding.weight.shape[1]
        self._features, self._step = features, [1] * model.surroundings.in_messages
        self.embedding = embedding(model.embedding.weight, model.charge_embedding.weight)
        edges = self._edges(model.edges, [model.radial.frequencies.shape[0]])
        self.edges, width = edges, model.edges.rest[-1].out_features
        self.steps = [self._of_step(step, width) for step in model.steps]
        self.atom_energy = dense(layers_of(model.atom_energy), [features])
        self.multipoles = self._readout(model.multipoles, width)
        self.penetration = [self._readout(readout, width) for readout in model.penetration]
        if dense is Dense:
            self._join()

    def _join(self) -> None:
        """Let networks of the same nodes run as one."""
        readouts = [self.multipoles, *self.penetration]
        heads = [self.atom_energy, *(one.weights for one in readouts)]
        heads += [one.charge for one in readouts if isinstance(one.charge, Dense)]
        join([head for head in heads if head is not None], self._features)
        for i, step in enumerate(self.steps):
            linear = [step.coefficients, step.message, step.factors]
            linear += [self.edges] if i == 0 else []
            join([one for one in linear if one is not None], self._features)

    def _edges(self, network: EdgeNetwork, widths: Sequence[int]) -> Any:
        if type(network) is not EdgeNetwork or not network.split:
            raise Beyond
        layers = layers_of([network.first, nn.SiLU(), *network.rest])
        return self._edge_dense(layers, self._features, widths)

    def _of_step(self, step: Any, width: int) -> Step:
        if step.long_range is not None or step.backend != "compiled":
            raise Beyond
        mixed, inputs = step.mix.out_features, step.mix.in_features
        own = [width, *self._step]
        before = step.coefficients.first.in_features - 2 * self._features - sum(own)
        factors = None
        if step.coupling is not None and step.coupling.factors is not None:
            factors = self._dense(layers_of([step.coupling.factors]), [self._features])
        terms = step.update[0].in_features - 2 * self._features
        blocks = [self._features, self._features, terms]
        return Step(
            self._edges(step.coefficients, [*own, mixed] if before else own),
            factors,
            self._dense(layers_of([step.mix]), [inputs]),
            self._edges(step.message, [*own, mixed]),
            self._dense(layers_of(step.update), blocks),
        )

    def _readout(self, readout: Any, width: int) -> Readout:
        if isinstance(readout.charge, LocalCharges):
            charge = self._edges(readout.charge.transfers, [width, *self._step])
        else:
            charge = self._dense(layers_of(readout.charge), [self._features])
        weights = readout.weights
        if weights is not None:
            weights = self._dense(layers_of(weights), [self._features])
        return Readout(charge, weights, readout.scale)


class Pass:
    """One evaluation of a model: from the leaves to the energies of the atoms.

    Parameters
    ----------
    model : gnn.AMP
        The model.
    networks : Networks
        Its networks, laid out.
    radial : Radial
        Its radial functions.
    batch : Batch
        In free space, on the CPU.
    tape : Tape
        What it is recorded on.
    leaves : Leaves
        What energies are differentiated by.
    """

    def __init__(
        self,
        model: Any,
        networks: Networks,
        radial: Radial,
        batch: Batch,
        tape: Tape,
        leaves: Leaves,
    ):
        self.model, self.networks, self.radial = model, networks, radial
        self.batch, self.tape, self.leaves = batch, tape, leaves
        self.numbers, self.systems = batch.numbers.numpy(), batch.batch.numpy()
        self.ends: Ends = (
            batch.senders.contiguous().numpy(), batch.receivers.contiguous().numpy(),
        )  # fmt: skip
        self.inside = Inside(model.border, self.numbers)
        self.of_edges = self.numbers[self.ends[1]]

    def energies(self) -> tuple[Value, Value, Value, Value]:
        """Return energies (N,) and packed moments (N, 10) of the atoms, their features, fields.

        Raises
        ------
        Beyond
            If the batch is for the twin.
        """
        model, tape = self.model, self.tape
        fields = self._outer_fields()
        geometry = edge_geometry(tape, self.leaves.positions, self.ends, self.radial)
        self.inside.edges(geometry.lengths, self.ends, model.cutoff)
        self.inside.fields(fields.x)
        start = self._initial_charges(geometry.fade)
        nodes, share = self.networks.embedding(tape, self.numbers, start)
        self.inside.output(0, share)
        own, potentials = self._edge_features(nodes, geometry, fields)
        given = fields if model.surroundings.in_messages else None
        previous: list[Value] = []
        for i, networks in enumerate(self.networks.steps):
            nodes, state, previous = self._step(
                1 + 3 * i, networks, nodes, (own, geometry, given, potentials), previous
            )
        moments = self._moments(nodes, state, own, geometry.fade, start)
        energy = self._atom_energies(nodes, state, moments, fields)
        self.inside.check_outputs()
        return energy, moments, nodes, fields

    # --- fields and charges that are given --------------------------------------------------------

    def _outer_fields(self) -> Value:
        model, leaves = self.model, self.leaves
        x, s, m = leaves.positions.x, leaves.mm_positions.x, leaves.mm_moments.x
        count, terms = 1 + len(model.smeared_kernels), []
        if len(s):
            systems = self.systems, self.batch.mm_batch.numpy()
            order = FIELD_ORDER + int(self.tape.records)
            slots = Slots(len(x), len(s), *systems)
            how = model.method, x, s, m[:, None], order, model.kernel, slots, model.tolerance
            way = evaluator(*how)
            if m.shape[1] == 1 and isinstance(way, Direct):
                return charge_fields(self.tape, leaves, self._gaussians(), *systems)
            terms = [Term(way, 0, 1.0), *self._near_terms(x, s, systems)]
        return outer_fields(self.tape, leaves, terms, count, self.systems)

    def _gaussians(self) -> Gaussians:
        model = self.model
        kernels = [model.kernel, *model.smeared_kernels]
        walled = self.inside.reach() if self._surrounded else None
        return Gaussians(kernels, self._reach(), walled)

    def _reach(self) -> float:
        """Return the distance in Å from which on charges of all widths act alike."""
        smeared = self.model.smeared_kernels
        if not smeared:
            return 0.0
        widest = min(kernel.alpha for kernel in smeared)
        return float(DECAYED[self.leaves.positions.x.dtype.name] / widest)

    def _near_terms(self, x: NDArray, s: NDArray, systems: tuple[NDArray, NDArray]) -> list[Term]:
        """Return what smeared kernels differ by from the sharp one; refuse particles too close."""
        model, reach = self.model, np.zeros(len(x))
        walled = self.inside.reach() if self._surrounded else None
        if walled is not None:
            reach = np.maximum(reach, walled)
        smeared = model.smeared_kernels
        reach = np.maximum(reach, self._reach())
        if not reach.any():
            return []
        near = near_pairs(x, s, *systems, reach)
        if near.n_pairs == 0:
            return []
        if walled is not None:
            self.inside.particles(x, s, near.all_pairs(), walled)
        terms = []
        for i, kernel in enumerate(smeared):
            terms.append(Term(Direct(kernel, near), 1 + i, 1.0))
            terms.append(Term(Direct(model.kernel, near), 1 + i, -1.0))
        return terms

    @property
    def _surrounded(self) -> bool:
        surroundings = self.model.surroundings
        return surroundings.in_messages or surroundings.in_energy

    def _initial_charges(self, fade: Value) -> Value:
        model, batch = self.model, self.batch
        if model.charges == "shared":
            atoms = np.bincount(self.systems, minlength=batch.n_systems)
            even = batch.charge.numpy() / atoms.astype(fade.x.dtype)
            return Value(even[self.systems], live=False, learned=False)
        if batch.formal is None:
            raise Beyond  # where it is refused with a reason
        bonded = model.bonded.numpy()[self.numbers]
        return diffused(self.tape, batch.formal.numpy(), fade, bonded, self.ends)

    # --- message passing --------------------------------------------------------------------------

    def _edge_features(
        self, nodes: Value, geometry: EdgeGeometry, fields: Value
    ) -> tuple[list[Value], Value | None]:
        """Return blocks of features of edges, and potentials (N, F) as the network sees them."""
        own = [self.networks.edges(self.tape, nodes, [geometry.basis], self.ends)]
        if not self.model.surroundings.in_messages:
            return own, None
        step, potentials = potential_steps(self.tape, fields, geometry.fade, self.ends)
        return [*own, step], potentials

    def _step(
        self,
        first: int,
        networks: Step,
        nodes: Value,
        around: tuple[list[Value], EdgeGeometry, Value | None, Value | None],
        previous: list[Value],
    ) -> tuple[Value, Value, list[Value]]:
        """Return new nodes, the state and mixed invariants, see `gnn.layers.message.MessageStep`.

        `first` is the number of its first bounded output.
        """
        tape, ends, order = self.tape, self.ends, self.model.order
        own, geometry, fields, potentials = around
        fade, directions = geometry.fade, geometry.directions
        weights = networks.coefficients(tape, nodes, [*own, *previous], ends, fade)
        state = anisotropic_state(tape, weights, directions, ends[1], len(nodes.x), order)
        coupled = min(order, FIELD_ORDER)
        if fields is not None and networks.factors is not None:
            state = induced(tape, state, fields, networks.factors(tape, nodes), coupled)
        invariants = networks.mix(tape, pair_invariants(tape, state, directions, ends, order))
        self.inside.output(first, invariants.x, self.of_edges)
        inputs = [*own, invariants]
        messages = networks.message(tape, nodes, inputs, ends, fade, summed=True)
        self.inside.output(first + 1, messages.x)
        terms = node_terms(tape, state, order, fields, potentials)
        change = networks.update(tape, nodes, messages, terms)
        self.inside.output(first + 2, change.x)
        return added(tape, nodes, change), state, [invariants]

    # --- multipoles and energies ------------------------------------------------------------------

    def _moments(
        self, nodes: Value, state: Value, own: list[Value], fade: Value, start: Value
    ) -> Value:
        tape, networks = self.tape, self.networks.multipoles
        first = 1 + 3 * len(self.networks.steps)
        if self.model.charges == "local":
            flow = networks.charge(tape, nodes, own, self.ends, fade)
            charges, change = moved(tape, start, flow, self.ends)
            self.inside.output(first, change[:, None])
        else:
            total = self.batch.charge.numpy()
            charges = shared(tape, networks.charge(tape, nodes), total, self.systems)
        moments = self._read(networks, nodes, state, charges)
        self.inside.output(first + 1, moments.x[:, 1:4])
        self.inside.output(first + 2, tensors(moments.x[:, 4:]))
        return moments

    def _read(self, networks: Readout, nodes: Value, state: Value, charges: Value) -> Value:
        weights = None if networks.weights is None else networks.weights(self.tape, nodes)
        return read_moments(self.tape, charges, state, weights, networks.scale)

    def _atom_energies(self, nodes: Value, state: Value, moments: Value, fields: Value) -> Value:
        tape, model, networks = self.tape, self.model, self.networks
        energy = column(tape, networks.atom_energy(tape, nodes))
        plus = partial(added, tape)
        if model.surroundings.in_energy:
            first = 1 + 3 * len(networks.steps) + 3
            for i, readout in enumerate(networks.penetration):
                charges = column(tape, readout.charge(tape, nodes))
                extra = self._read(readout, nodes, state, charges)
                work = works(tape, extra, fields, 1 + i)
                self.inside.output(first + i, work.x[:, None])
                energy = plus(energy, work)
            energy = plus(energy, works(tape, moments, fields, 0))
        if model.qm_kernel is not None:
            positions = self.leaves.positions
            energy = plus(
                energy, internal_energies(tape, positions, moments, self._internal(positions.x))
            )
        return energy

    def _internal(self, x: NDArray) -> Evaluator:
        model, order = self.model, FIELD_ORDER + int(self.tape.records)
        slots = Slots(len(x), len(x), self.systems, self.systems)
        shape = np.empty((len(x), 1, 10), x.dtype)
        kernel: Kernel = model.qm_kernel
        return evaluator(model.method, x, x, shape, order, kernel, slots, model.tolerance)


def tensors(packed: NDArray) -> NDArray:
    """Return 3 x 3 tensors (N, 3, 3) of packed components (N, 6), whose off-diagonals are sums."""
    halves = packed * np.array([1, 0.5, 0.5, 1, 0.5, 1], packed.dtype)
    return halves[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
