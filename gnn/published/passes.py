"""AMP-BMS in compiled passes: energy and first derivatives, without the graph of autograd."""

from collections.abc import Mapping
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gnn.data.batching import Batch
from gnn.operators.arena import Arenas
from gnn.operators.near_pairs import near_ends
from gnn.operators.network import EndArrays, layers_of
from gnn.passes.between import between
from gnn.passes.edges import anisotropic_state, pair_invariants
from gnn.passes.geometry import edge_geometry
from gnn.passes.nodes import added, column
from gnn.passes.operators import ByTorch, applied
from gnn.passes.perceptrons import Dense, EdgeDense, join
from gnn.passes.tape import Tape, Value
from gnn.potential import Results
from gnn.published import terms
from gnn.published.edge_geometry import near_multiples, radial_of
from gnn.published.electrostatics import ChargeCoupling
from gnn.published.induction import Tables, TabulatedInduction, tables_of
from gnn.published.layers import AMP_BMS_TERMS, ORDER, BesselBasis, PublishedStep
from gnn.published.near_charges import NearCoupling
from gnn.published.networks import EdgePerceptron, Perceptron
from gnn.published.pair_energies import PairEnergies
from gnn.published.pairs import Pairs
from gnn.published.polarisation import Polarisation
from gnn.units import KJ_PER_MOL

# invariants of monopoles, which come first for each channel and which networks skip
_MONOPOLES = 2
_LEAVES = "positions", "mm_positions", "mm_moments", "uniform_field", "external_field"


class Model(Protocol):
    """What passes take from a `gnn.published.AmpBms`: layers, and how it computes what is rare."""

    mode: str
    cutoff: float
    embedding: nn.Embedding
    radial: BesselBasis
    edges: EdgePerceptron
    steps: nn.ModuleList
    polarisation: Polarisation
    charge: Perceptron
    response: Perceptron
    atom_energy: Perceptron

    @property
    def reach_near(self) -> float:
        """Largest distance in Å of a surrounding particle that is near an atom."""

    def pair_energies(self, batch: Batch, box: Tensor | None, derived: bool) -> PairEnergies:
        """Return what computes energies of pairs of atoms."""

    def near_coupling(self, near: Pairs) -> NearCoupling:
        """Return what computes energies of multipoles with charges near them."""


def passes_of(model: Model) -> "Passes | None":
    """Return the passes of a model, if they do the same as its layers."""
    tables = tables_of(model.polarisation)
    if tables is None or not near_multiples(model.radial.frequencies):
        return None
    return Passes(model, tables)


class Passes:
    """The networks of a model, laid out for as long as its weights stay what they are.

    Parameters
    ----------
    model : Model
        Its weights.
    tables : Tables
        Of its polarisation.
    """

    def __init__(self, model: Model, tables: Tables):
        self._model, self._induction, self._arenas = model, tables, Arenas()
        features, radial = model.edges.features, model.edges.edge_features
        edge_features = len(layers_of([model.edges.first, *model.edges.rest])[-1].weight)
        self._edges = _edge_dense(model.edges, 0, radial)
        self._steps = [_Step(cast(PublishedStep, step), edge_features) for step in model.steps]
        self._charge, self._response, self._atom_energy = (
            Dense(layers_of(network), [features])
            for network in (model.charge, model.response, model.atom_energy)
        )
        first, *others = ([step.coefficients, step.message] for step in self._steps)
        join([self._edges, *first], features)
        for networks in others:
            join(networks, features)
        # of elements: features, and what these add to the networks of the first step
        self._elements = model.embedding.weight.detach().numpy()
        self._joint = self._edges.joint[0]
        self._projected = self._joint(Tape(records=False), Value(self._elements)).x
        self._radial = radial_of(model.cutoff, model.radial.frequencies)

    def __call__(self, batch: Batch, asked: Mapping[str, bool]) -> Results:
        """Return what is asked of a batch: gradients by leaves, by name."""
        leaves = {
            name: Value(_array(getattr(batch, name)), live=asked.get(name, False))
            for name in _LEAVES
        }
        silent = np.errstate(over="ignore", invalid="ignore")
        with self._arenas.lent() as arena, silent:
            tape = Tape(records=any(asked.values()), arena=arena)
            energy, results = self._energy(tape, batch, leaves)
            tape.rewind()
        gradients = {
            name: torch.from_numpy(np.ascontiguousarray(leaves[name].taken()))
            for name, wanted in asked.items()
            if wanted
        }
        return Results(torch.from_numpy(energy), results, gradients)

    def _energy(
        self, tape: Tape, batch: Batch, leaves: Mapping[str, Value]
    ) -> tuple[NDArray[np.float64], dict[str, Tensor]]:
        """Return energies in eV and results; gradients by energies are on the tape."""
        near, systems = self._near(batch, leaves), batch.batch.numpy()
        charges = column(tape, leaves["mm_moments"])
        nodes, state, factors = self._messages(tape, batch, leaves, near, charges)
        moments, quadrupoles = terms.moments_of(tape, self._charge(tape, nodes), state, batch)
        energy = np.zeros(batch.n_systems)

        def add(value: Value, index: NDArray[np.int64], scale: float = KJ_PER_MOL) -> None:
            terms.add_energies(tape, value, index, scale, energy)

        each = np.arange(batch.n_systems)
        add(self._atom_energy(tape, nodes), systems)
        add(self._pair_energies(tape, batch, leaves, moments, factors), each)
        if batch.n_mm:
            add(self._coulomb_mm(tape, batch, leaves, near, (moments, charges)), systems)
        results = _results(moments.x, quadrupoles, nodes.x)
        if self._model.mode == "training":
            fields = leaves["uniform_field"], leaves["external_field"]
            given = terms.GivenField(systems)
            add(applied(tape, given, moments, leaves["positions"], *fields), each, 1.0)
        else:  # there is no uniform field to respond to
            results["dipole"] = _dipoles(batch, moments.x)
        if batch.between:
            value = between(tape, batch, leaves["positions"], moments)
            add(value, each, 1.0)
            results["energy_between"] = torch.from_numpy(value.x)
        return energy, results

    def _near(self, batch: Batch, leaves: Mapping[str, Value]) -> EndArrays:
        """Return atoms and particles of pairs near each other, sorted by atom."""
        points = leaves["positions"].x, leaves["mm_positions"].x
        systems = batch.batch.numpy(), batch.mm_batch.numpy()
        return near_ends(*points, *systems, self._model.reach_near)

    def _messages(
        self, tape: Tape, batch: Batch, leaves: Mapping[str, Value], near: EndArrays, charges: Value
    ) -> tuple[Value, Value, Value]:
        """Return the last nodes (N, features) and state (N, 10, C), and C6 factors (N,)."""
        numbers, positions = batch.numbers.numpy(), leaves["positions"]
        ends = _array(batch.senders), _array(batch.receivers)
        _, directions, fade, basis = edge_geometry(tape, positions, ends, self._radial)
        nodes = Value(self._elements[numbers], live=False)
        nodes.made[self._joint] = Value(self._projected[numbers], live=False)
        features = self._edges(tape, nodes, [basis], ends)
        previous: list[Value] = []
        for k, step in enumerate(self._steps):
            coefficients = step.coefficients(tape, nodes, [*previous, features], ends, fade)
            state = anisotropic_state(tape, coefficients, directions, ends[1], len(numbers), ORDER)
            if k == len(self._steps) - 1:
                response = self._response(tape, nodes)
                induction = TabulatedInduction(self._induction, near)
                particles = leaves["mm_positions"], charges
                sums = applied(tape, induction, positions, *particles)
                state, factors = terms.induced(tape, state, sums, response)
            invariants = pair_invariants(tape, state, directions, ends, ORDER)
            messages = step.message(tape, nodes, [invariants, features], ends, fade, True)
            nodes = added(tape, nodes, step.update(tape, nodes, messages))
            previous = [invariants]
        return nodes, state, factors

    def _pair_energies(
        self,
        tape: Tape,
        batch: Batch,
        leaves: Mapping[str, Value],
        moments: Value,
        factors: Value,
    ) -> Value:
        """Return the energies of pairs of atoms, (B, 3)."""
        pairs = self._model.pair_energies(batch, None, tape.records)
        charges = column(tape, moments)
        return applied(tape, pairs, leaves["positions"], charges, factors)

    def _coulomb_mm(
        self,
        tape: Tape,
        batch: Batch,
        leaves: Mapping[str, Value],
        near: EndArrays,
        coupled: tuple[Value, Value],
    ) -> Value:
        """Return energies of atoms (N,) with surrounding particles, of moments and charges."""
        points, (moments, charges) = (leaves["positions"], leaves["mm_positions"]), coupled
        if self._model.mode != "training":
            pairs = Pairs(torch.from_numpy(near[0]), torch.from_numpy(near[1]), None)
            return applied(tape, self._model.near_coupling(pairs), *points, moments, charges)
        sources = leaves["mm_moments"]
        coupling = ChargeCoupling(batch.batch, batch.mm_batch, sources.live)
        if sources.x.shape[1] == 1:
            return applied(tape, coupling, *points, moments, sources)
        return applied(tape, ByTorch(coupling.twin, tape.records), *points, moments, sources)


class _Step:
    """A `gnn.published.layers.PublishedStep` of AMP-BMS, laid out.

    Parameters
    ----------
    step : PublishedStep
        Its weights.
    edge_features : int
        Width of the edges.
    """

    def __init__(self, step: PublishedStep, edge_features: int):
        before = step.coefficients.edge_features - edge_features
        self.coefficients = _edge_dense(step.coefficients, before, edge_features, step.channels)
        within = step.message.edge_features - edge_features
        self.message = _edge_dense(step.message, within, edge_features)
        features = step.message.features
        self.update = Dense(layers_of(step.update), [features, features])


def _edge_dense(network: EdgePerceptron, invariants: int, edges: int, lead: int = 0) -> EdgeDense:
    """Lay out a network of so many invariants, which come with those of monopoles, and of edges."""
    layers = layers_of([network.first, *network.rest])
    if not invariants:
        return EdgeDense(layers, network.features, [edges], lead=lead)
    skip = invariants // len(AMP_BMS_TERMS) * _MONOPOLES
    return EdgeDense(layers, network.features, [invariants, edges], [skip, 0], lead)


def _array(tensor: Tensor) -> NDArray:
    return tensor.detach().contiguous().numpy()


def _results(moments: NDArray, quadrupoles: NDArray, nodes: NDArray) -> dict[str, Tensor]:
    multipoles = torch.from_numpy(moments)
    return {
        "charges": multipoles[:, 0],
        "dipoles": multipoles[:, 1:4],
        "quadrupoles": torch.from_numpy(quadrupoles),
        "_features": torch.from_numpy(nodes),
    }


def _dipoles(batch: Batch, moments: NDArray) -> Tensor:
    """Return the dipoles (B, 3) of systems of atoms with moments (N, 10)."""
    dipoles = moments[:, :1] * _array(batch.positions) + moments[:, 1:4]
    found = np.zeros((batch.n_systems, 3), dipoles.dtype)
    np.add.at(found, batch.batch.numpy(), dipoles)
    return torch.from_numpy(found)
