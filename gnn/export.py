"""The model as one graph of torch operators, exported to a file that needs torch alone.

Energy and derivatives are traced together, so that the graph computes the forces too. In the same
way `traced_step` makes a graph that torch compiles for training on forces.
"""

import copy
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from gnn.data.batching import Batch
from gnn.layers.long_range import FieldOfAtoms
from gnn.layers.surroundings import FIELD_ORDER, given_field
from gnn.model import AMP
from gnn.operators import field_torch
from gnn.operators.room import Room
from gnn.potential import Potential
from gnn.units import COULOMB
from multipoles import indexing
from multipoles.files import atomic_write
from multipoles.radial import Kernel

FORMAT = "anisole-export"
VERSION = 2
INPUTS = (
    "numbers", "positions", "batch", "charge", "senders", "receivers", "mm_positions",
    "mm_moments", "mm_batch", "uniform_field", "formal",
)  # fmt: skip
OUTPUTS = ("energy", "forces", "mm_forces", "charges", "dipoles", "quadrupoles", "dipole")
_FAR = 1e3  # Å; beyond every wall
STEP_INPUTS = (*INPUTS, "external_field", "origin")
_UNITS = {"energy": "eV", "length": "angstrom", "charge": "e", "field": "V/angstrom"}


class Pairs(NamedTuple):
    """Pairs of targets and sources (P,); only those where `meets` is true contribute."""

    targets: Tensor
    sources: Tensor
    meets: Tensor


class Traceable(AMP):
    """`AMP` in plain torch, where no shape and no branch depends on the values of tensors.

    All pairs of the atoms, and of atoms and particles, are rows; pairs of different systems
    contribute nothing. `atom_pairs` and `mm_pairs` may be set to fewer rows before a call.
    """

    atom_pairs: Pairs | None = None
    mm_pairs: Pairs | None = None

    @classmethod
    def of(cls, model: AMP) -> "Traceable":
        """Return a twin of a model that shares its parameters."""
        if model.dispersion is not None:
            raise ValueError(
                "dispersion is computed by a library and not in torch: leave it out of the model "
                "(dispersion: null), and add it in the program that uses the graph"
            )
        twin = cls.from_config(model.config() | {"method": "direct", "backend": "torch"})
        twin.to(model.dtype).load_state_dict(model.state_dict(keep_vars=True), assign=True)
        if twin.extent is None:  # spares the graph what would do nothing
            twin.border = None
        return twin.train(model.training)

    def _outer_fields(self, batch: Batch) -> Tensor:
        pairs = self.mm_pairs or all_pairs(batch.batch, batch.mm_batch)
        moments = batch.mm_moments[:, None] * COULOMB
        sharp, *smeared = (
            _field(batch.positions, batch.mm_positions, moments, FIELD_ORDER, kernel, pairs)
            for kernel in (self.kernel, *self.smeared_kernels)
        )
        rest = [field - sharp for field in smeared]
        return torch.cat([sharp + given_field(batch)[:, None], *rest], dim=1)

    def _close_particles(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return all pairs; those of different systems are put out of reach of each other."""
        pairs = self.mm_pairs or all_pairs(batch.batch, batch.mm_batch)
        atoms = batch.positions.index_select(0, pairs.targets)
        vectors = atoms - batch.mm_positions.index_select(0, pairs.sources)
        far = torch.full_like(vectors, _FAR)
        moments = batch.mm_moments.index_select(0, pairs.sources)
        return pairs.targets, moments, torch.where(pairs.meets[:, None], vectors, far)

    def _crossed(self, batch: Batch, lengths: Tensor) -> bool:
        return True

    def _factors(
        self, output: int, values: Tensor, numbers: Tensor, room: Room | None = None
    ) -> Tensor | None:
        border = self.border
        return None if border is None else border.saturated(output, values, numbers)

    def _exceeded(self, fields: Tensor, numbers: Tensor) -> bool:
        return True

    def _field_of_atoms(self, batch: Batch, kernel: Kernel, order: int) -> FieldOfAtoms:
        pairs = self.atom_pairs or all_pairs(batch.batch, batch.batch)
        x = batch.positions
        return lambda moments: _field(x, x, moments, order, kernel, pairs)


def all_pairs(batch: Tensor, other: Tensor) -> Pairs:
    """Return all pairs of two sets of points; those of one system contribute."""
    n, m = batch.shape[0], other.shape[0]
    targets = torch.arange(n, device=batch.device)[:, None].expand(n, m).reshape(n * m)
    sources = torch.arange(m, device=batch.device)[None].expand(n, m).reshape(n * m)
    return Pairs(targets, sources, (batch[:, None] == other).reshape(n * m))


def _field(x: Tensor, s: Tensor, m: Tensor, order: int, kernel: Kernel, pairs: Pairs) -> Tensor:
    ends = pairs.targets, pairs.sources
    return field_torch.field_where(x, s, m, order, kernel, ends, pairs.meets)


def _evaluate(model: Traceable, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return `OUTPUTS` of `INPUTS`: what the exported graph does."""
    given = dict(zip(INPUTS, inputs, strict=True))
    batch, charge = given["batch"], given["charge"]
    # centred in float64, as batches are
    ones = torch.ones_like(given["positions"][:, :1])
    zeros = torch.zeros_like(given["uniform_field"])
    counts = zeros[:, :1].index_add(0, batch, ones)
    origin = zeros.index_add(0, batch, given["positions"]) / counts
    shift = (origin * given["uniform_field"]).sum(1, keepdim=True)
    centred = {
        "positions": given["positions"] - origin.index_select(0, batch),
        "mm_positions": given["mm_positions"] - origin.index_select(0, given["mm_batch"]),
        "external_field": -shift.index_select(0, batch),
    }
    cast: dict[str, Any] = {
        k: v.to(model.dtype) if v.is_floating_point() else v for k, v in given.items()
    }
    cast |= {k: v.to(model.dtype) for k, v in centred.items()}
    systems = Batch(**cast, origin=origin, n_systems=charge.shape[0])
    results = model(systems, forces=True, mm_forces=True)
    results["dipole"] = results["dipole"].double() + charge[:, None] * origin
    return tuple(results[name].detach().double() for name in OUTPUTS)


def export_model(model: Potential, path: str | Path, *, mm_order: int = 0) -> Path:
    """Write a model as a graph that runs with torch alone, without this package or Numba.

    All numbers of atoms, edges, surrounding particles and systems may change from call to call;
    a single atom, no edge and no particle are fine. Pairs of atoms and particles of all systems
    in a call are rows of one tensor, so that many systems at once cost more than one by one.

    Parameters
    ----------
    model : AMP
        In float32 or float64, which the graph keeps; inputs and outputs are float64.
    path : path-like
        File to write, ``.pt2``.
    mm_order : int
        Highest moments of the surrounding particles: 0 charges, 1 dipoles, 2 quadrupoles.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    TypeError
        If the model is not `AMP`: others have no plain path in torch.
    ValueError
        If `mm_order` is not 0, 1 or 2, or the path does not end in ``.pt2``.
    """
    path = Path(path)
    if not isinstance(model, AMP):
        raise TypeError(
            f"expected an AMP model, got {type(model).__name__}, which has no path in plain torch"
        )
    if mm_order not in (0, 1, 2):
        raise ValueError(f"expected mm_order 0, 1 or 2, got {mm_order!r}")
    if path.suffix != ".pt2":
        raise ValueError(f"expected a file that ends in .pt2, got {path}")
    program = exported_program(model, mm_order)
    buffer = io.BytesIO()
    extra = {"metadata.json": json.dumps(_metadata(model, mm_order))}
    torch.export.save(program, buffer, extra_files=extra)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return path


def exported_program(model: AMP, mm_order: int = 0) -> torch.export.ExportedProgram:
    """Return the graph that `export_model` writes."""
    twin = Traceable.of(copy.deepcopy(model)).eval().requires_grad_(False)
    inputs = _example(indexing.n_components(mm_order))
    trace = make_fx(
        lambda *given: _evaluate(twin, *given),
        tracing_mode="symbolic",
        _allow_non_fake_inputs=True,  # parameters become constants
    )
    graph = trace(*inputs)
    # torch names sizes by their values: equal sizes must have one name
    sizes = [torch.export.Dim(name) for name in ("atoms", "systems", "edges", "particles")]
    atoms, systems, edges, particles = sizes
    first = {
        "numbers": atoms, "positions": atoms, "batch": atoms, "charge": systems,
        "senders": edges, "receivers": edges, "mm_positions": particles,
        "mm_moments": particles, "mm_batch": particles, "uniform_field": systems, "formal": atoms,
    }  # fmt: skip
    shapes = tuple({0: first[name]} for name in INPUTS)
    return torch.export.export(_Module(graph), inputs, dynamic_shapes=shapes)


class _Module(torch.nn.Module):
    """A traced graph as a module of its own, with arguments by name."""

    def __init__(self, graph: torch.fx.GraphModule):
        super().__init__()
        self.traced = graph

    def forward(
        self, numbers, positions, batch, charge, senders, receivers, mm_positions, mm_moments,
        mm_batch, uniform_field, formal,
    ):  # fmt: skip
        return self.traced(
            numbers, positions, batch, charge, senders, receivers, mm_positions, mm_moments,
            mm_batch, uniform_field, formal,
        )  # fmt: skip


def _example(components: int) -> tuple[Tensor, ...]:
    """Return inputs to trace with; sizes that are equal, 0 or 1 would become constants."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    batch = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    receivers, senders = torch.nonzero((batch[:, None] == batch) & ~torch.eye(7).bool()).unbind(1)
    mm_batch = torch.tensor([0] * 4 + [1] * 7)
    return (
        torch.ones(7, dtype=torch.int64), random(7, 3), batch, random(2), senders, receivers,
        5 + random(11, 3), random(11, components), mm_batch, random(2, 3),
        random(7),
    )  # fmt: skip


def _metadata(model: AMP, mm_order: int) -> dict[str, Any]:
    known = model.elements
    return {
        "format": FORMAT,
        "version": VERSION,
        "torch": torch.__version__,
        "inputs": INPUTS,
        "outputs": OUTPUTS,
        "units": _UNITS,
        "cutoff": model.cutoff,
        "mm_order": mm_order,
        "elements": known,
        "baseline": {str(z): float(model.baseline[z]) for z in known},
        "charge_baseline": float(model.charge_baseline),
        "dtype": str(model.dtype).removeprefix("torch."),
        "config": model.config(),
    }


def traced_step(model: Traceable, batch: Batch, pairs: tuple[Pairs, Pairs]) -> Any:
    """Trace energy, forces and forces on particles as one graph, to be compiled for training.

    Parameters
    ----------
    model : Traceable
        Whose parameters stay what is trained: they are the graph's first argument.
    batch : Batch
        Like those that the graph will see; it takes any number of atoms, edges, particles, pairs.
    pairs : tuple of Pairs
        Of atoms with atoms, and of atoms with particles.

    Returns
    -------
    GraphModule
        Takes a tuple of the parameters, and `step_inputs` of a batch; returns the energies, the
        forces on atoms and on particles and the dipoles, which can be differentiated by the
        parameters.
    """
    names = [name for name, _ in model.named_parameters()]

    def evaluate(parameters: Sequence[Tensor], *given: Tensor) -> tuple[Tensor, ...]:
        fields, rows = given[: len(STEP_INPUTS)], given[len(STEP_INPUTS) :]
        tensors: dict[str, Any] = dict(zip(STEP_INPUTS, fields, strict=True))
        systems = Batch(**tensors, n_systems=tensors["charge"].shape[0])
        model.atom_pairs, model.mm_pairs = Pairs(*rows[:3]), Pairs(*rows[3:])
        state = dict(zip(names, parameters, strict=True))
        options = {"forces": True, "mm_forces": True, "create_graph": True}
        out = torch.func.functional_call(model, state, (systems,), options)
        return tuple(out[name] for name in ("energy", "forces", "mm_forces", "dipole"))

    trace = make_fx(evaluate, tracing_mode="symbolic", _allow_non_fake_inputs=True)
    try:
        return trace(tuple(model.parameters()), *step_inputs(batch, pairs))
    finally:
        model.atom_pairs = model.mm_pairs = None


def step_inputs(batch: Batch, pairs: tuple[Pairs, Pairs]) -> tuple[Tensor, ...]:
    """Return the tensors that the graph of `traced_step` takes after the parameters.

    Raises
    ------
    ValueError
        If a system is in a cell: the graph sums over pairs.
    """
    if batch.cell is not None:
        raise ValueError("a traced step sums over pairs in free space, got a system in a cell")
    return (*(getattr(batch, name) for name in STEP_INPUTS), *pairs[0], *pairs[1])


def pairs_of(batch: Tensor, other: Tensor) -> Pairs:
    """Return the pairs of points of one system, all of which contribute."""
    targets, sources = torch.nonzero(batch[:, None] == other).unbind(1)
    return Pairs(targets, sources, torch.ones_like(targets, dtype=torch.bool))
