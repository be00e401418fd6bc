"""Energies of a batch and their gradients by the leaves, from a model's passes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnn.data.batching import Batch
from gnn.operators.arena import Arena, Arenas
from gnn.operators.edge_geometry import MOST_SHIFT, Radial, frequency_shifts
from gnn.passes.amp import Networks, Pass, tensors
from gnn.passes.between import between
from gnn.passes.bounds import Beyond
from gnn.passes.fields import Leaves
from gnn.passes.tape import Tape, Value
from gnn.passes.weights import Weights
from gnn.potential import Results


class Laid(NamedTuple):
    """Networks of a model, laid out, and shifts of its radial functions."""

    networks: Networks
    radial: Radial


class Compiled:
    """A model's networks, laid out for the passes until a weight changes; copies begin anew."""

    def __init__(self) -> None:
        self._weights = Weights()
        # one tuple, so that threads never see the networks of one stamp with another
        self._kept: tuple[object, Laid | None] = None, None
        self.arenas = Arenas()

    def laid_out(self, model: Any) -> Laid:
        """Return the networks and radial functions.

        Raises
        ------
        Beyond
            If the model has layers of other kinds, or somebody waits for calls of its layers.
        """
        stamp = self._weights.look(model)
        if not self._weights.are_all():
            raise Beyond
        kept, laid = self._kept
        if kept is not stamp:
            try:
                laid = _laid_out(model)
            except Beyond:
                laid = None
            self._kept = stamp, laid
        if laid is None:
            raise Beyond
        return laid

    def __reduce__(self) -> tuple[type["Compiled"], tuple[()]]:
        return Compiled, ()


def radial_of(model: Any) -> Radial:
    """Return what the loops know of a model's `gnn.layers.radial.RadialBasis`.

    Raises
    ------
    Beyond
        If these are no Bessel functions of its cutoff.
    """
    radial, cutoff = model.radial, model.cutoff
    shifts = frequency_shifts(radial.frequencies.numpy(), cutoff)
    if radial.cutoff != cutoff or np.abs(shifts).max(initial=0.0) > MOST_SHIFT:
        raise Beyond
    return Radial(cutoff, (2 / cutoff) ** 0.5, False, shifts)


def _laid_out(model: Any) -> Laid:
    return Laid(Networks(model), radial_of(model))


def evaluate(model: Any, compiled: Compiled, batch: Batch, asked: Mapping[str, bool]) -> Results:
    """Return energies and gradients of a batch.

    Parameters
    ----------
    model : gnn.AMP
        The model.
    compiled : Compiled
        What is laid out of it.
    batch : Batch
        In free space, on the CPU.
    asked : mapping of str to bool
        Names of `Leaves`, and whether energies are differentiated by them.

    Raises
    ------
    Beyond
        If the batch is for autograd's graph.
    """
    networks, radial = compiled.laid_out(model)
    # numbers that are not finite are refused where results are
    with compiled.arenas.lent() as arena, np.errstate(all="ignore"):
        return _evaluate(model, networks, radial, batch, asked, arena)


def _evaluate(
    model: Any,
    networks: Networks,
    radial: Radial,
    batch: Batch,
    asked: Mapping[str, bool],
    arena: Arena,
) -> Results:
    live = {name: asked.get(name, False) for name in Leaves._fields}
    arrays = {name: getattr(batch, name).detach().contiguous().numpy() for name in live}
    leaves = Leaves(*(Value(arrays[name], live[name]) for name in live))
    tape = Tape(any(live.values()), arena=arena)
    energies, moments, nodes, fields = Pass(model, networks, radial, batch, tape, leaves).energies()
    energy = _sums(torch.from_numpy(energies.x), batch)
    results = {
        "charges": torch.from_numpy(moments.x[:, 0].copy()),
        "dipoles": torch.from_numpy(moments.x[:, 1:4].copy()),
        "quadrupoles": torch.from_numpy(tensors(moments.x[:, 4:])),
    }
    if batch.between:
        more = between(tape, batch, leaves.positions, moments)
        more.add(np.ones_like(more.x))
        results["energy_between"] = torch.from_numpy(more.x)
        energy = energy + results["energy_between"]
    results |= {
        "_features": torch.from_numpy(nodes.x.copy()),
        "_gradient": torch.from_numpy(np.ascontiguousarray(fields.x[:, 0, 1:4])),
    }
    energies.add(np.ones_like(energies.x))
    tape.rewind()
    gradients = {
        name: torch.from_numpy(value.taken())
        for name, value in leaves._asdict().items()
        if value.live
    }
    return Results(energy, results, gradients)


def _sums(values: Tensor, batch: Batch) -> Tensor:
    return values.new_zeros(batch.n_systems).index_add(0, batch.batch, values)
