"""A training step in compiled passes: energies and forces, and the gradient of a loss on them.

A pass forward and back gives the energy E and its gradient by the leaves. A loss on these has
gradients g by E and v by the gradient; that by the weights is the gradient of g E plus the change
of E along v, for which changes go forward on the same tape and second gradients back. Nothing is
differentiated twice by a graph.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from gnn.data.batching import Batch
from gnn.operators.derivatives import each_of_batch
from gnn.operators.edge_geometry import Radial
from gnn.passes.amp import Networks, Pass, tensors
from gnn.passes.blas import one_thread
from gnn.passes.bounds import Beyond
from gnn.passes.evaluation import radial_of
from gnn.passes.fields import Leaves
from gnn.passes.learning import Dense, EdgeDense, Embedding
from gnn.passes.parameters import LearningWeights
from gnn.passes.tape import Tape, Value
from gnn.passes.weights import Calls, Members
from gnn.potential import Results

#: Leaves by whose derivatives losses are differentiated.
DERIVED = "positions", "mm_positions", "uniform_field"


class Learner:
    """A model's networks as they learn, until a part of it is replaced; copies begin anew."""

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def of(self, model: Any) -> tuple[LearningWeights, Networks, Radial]:
        """Return weights, networks, and the radial functions.

        Raises
        ------
        Beyond
            If the model has layers of other kinds, or somebody listens to its layers.
        """
        if self._kept is None or not self._kept.holds():
            self._kept = _Kept(model)
        kept = self._kept
        if kept.networks is None or kept.calls.awaited():
            raise Beyond
        with kept.weights.lock:
            kept.weights.look()
        return kept.weights, kept.networks, radial_of(model)

    def __reduce__(self) -> tuple[type["Learner"], tuple[()]]:
        return Learner, ()


class _Kept:
    """What a model's networks were made of."""

    def __init__(self, model: nn.Module):
        self._members = Members(model, "_parameters", "_modules")
        self.calls = Calls(model)
        self.weights = LearningWeights(model.parameters())
        self._dtypes = {weight.parameter.dtype for weight in self.weights.all}
        parts = (partial(part, self.weights) for part in (Dense, EdgeDense, Embedding))
        try:
            self.networks: Networks | None = Networks(model, *parts)
        except Beyond:
            self.networks = None

    def holds(self) -> bool:
        """Return whether the model is still made of it."""
        dtypes = {weight.parameter.dtype for weight in self.weights.all}
        return dtypes == self._dtypes and self._members.hold()


class Evaluated:
    """A pass over a batch forward and back, and what learns from it.

    Parameters
    ----------
    model : gnn.AMP
        The model.
    learner : Learner
        Its networks.
    batch : Batch
        In free space, on the CPU, nothing between its systems.
    """

    def __init__(self, model: Any, learner: Learner, batch: Batch):
        self.batch, self.tape = batch, Tape(learns=True)
        self.weights, networks, radial = learner.of(model)
        leaves = {
            name: Value(getattr(batch, name).detach().contiguous().numpy(), name in DERIVED, False)
            for name in Leaves._fields
        }
        self.leaves = Leaves(**leaves)
        one = Pass(model, networks, radial, batch, self.tape, self.leaves)
        self.energies, self.moments, self.nodes, self.fields = one.energies()
        self.energies.add(np.ones_like(self.energies.x))
        self.tape.rewind()

    def by_leaves(self) -> list[Tensor]:
        """Return the gradients of the energies by leaves, as tensors that nothing else holds."""
        return [torch.from_numpy(getattr(self.leaves, name).taken()) for name in DERIVED]

    def by_weights(
        self,
        by_energies: NDArray,
        by_moments: NDArray | None,
        by_derivatives: Mapping[str, NDArray | None],
    ) -> list[Tensor | None]:
        """Return the gradient of a number by all parameters.

        Parameters
        ----------
        by_energies : ndarray, shape (N,)
            Gradient by the energies of the atoms.
        by_moments : ndarray, shape (N, 10), or None
            Gradient by packed moments.
        by_derivatives : mapping
            Gradients by the derivatives of the energy by the leaves; None is zero.
        """
        for name, along in by_derivatives.items():
            getattr(self.leaves, name).move(along)
        self.tape.push()
        self.energies.add_second(by_energies)
        if by_moments is not None:
            self.moments.add_second(by_moments)
        with self.weights.lock:
            self.tape.pull()
            found = self.weights.taken()
        return [None if one is None else torch.from_numpy(one) for one in found]


class Learned(Function):
    """Energies, multipoles and derivatives by leaves as functions of the parameters.

    The gradient by the parameters is not differentiable itself.
    """

    @staticmethod
    def forward(ctx, evaluated, *parameters):
        """Return energies (B,), charges, dipoles, quadrupoles, and gradients by three leaves."""
        ctx.save_for_backward(*parameters)  # notices if they are changed before the way back
        ctx.set_materialize_grads(False)
        ctx.evaluated = evaluated
        batch, moments = evaluated.batch, evaluated.moments.x
        of_atoms = torch.from_numpy(evaluated.energies.x)
        energy = of_atoms.new_zeros(batch.n_systems).index_add(0, batch.batch, of_atoms)
        parts = moments[:, 0].copy(), moments[:, 1:4].copy(), tensors(moments[:, 4:])
        return energy, *map(torch.from_numpy, parts), *evaluated.by_leaves()

    @staticmethod
    @each_of_batch
    @once_differentiable
    def backward(ctx, by_energy, by_charges, by_dipoles, by_quadrupoles, *by_derivatives):
        """Return the gradients by the parameters."""
        _ = ctx.saved_tensors
        evaluated = ctx.evaluated
        like, index = evaluated.energies.x, evaluated.batch.batch.numpy()
        by_energies = np.zeros_like(like) if by_energy is None else by_energy.numpy()[index]
        along = {
            name: None if by is None else by.contiguous().numpy()
            for name, by in zip(DERIVED, by_derivatives, strict=True)
        }
        by_moments = _packed(len(like), by_charges, by_dipoles, by_quadrupoles)
        with one_thread(), np.errstate(all="ignore"):
            found = evaluated.by_weights(by_energies, by_moments, along)
        needed = zip(found, ctx.needs_input_grad[1:], strict=True)
        return None, *(one if needs else None for one, needs in needed)


def _packed(
    n: int, charges: Tensor | None, dipoles: Tensor | None, quadrupoles: Tensor | None
) -> NDArray | None:
    """Return gradients by packed moments (N, 10) of those by multipoles."""
    given = [one for one in (charges, dipoles, quadrupoles) if one is not None]
    if not given:
        return None
    found = given[0].new_zeros(n, 10)
    if charges is not None:
        found[:, 0] = charges
    if dipoles is not None:
        found[:, 1:4] = dipoles
    if quadrupoles is not None:
        both = 0.5 * (quadrupoles + quadrupoles.transpose(1, 2))
        for k, (i, j) in enumerate(((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))):
            found[:, 4 + k] = both[:, i, j]
    array: NDArray = found.numpy()
    return array


def evaluate_to_learn(
    model: Any, learner: Learner, batch: Batch, asked: Mapping[str, bool]
) -> Results:
    """Return energies and derivatives of a batch that know how to be differentiated by weights.

    Parameters
    ----------
    model : gnn.AMP
        The model.
    learner : Learner
        Its networks.
    batch : Batch
        In free space, on the CPU.
    asked : mapping of str to bool
        Names of `Leaves`, and whether energies are differentiated by them.

    Raises
    ------
    Beyond
        If the batch is for autograd's graph.
    """
    derived = [name for name, wanted in asked.items() if wanted]
    if batch.between or not set(derived) <= set(DERIVED):
        raise Beyond
    # numbers that are not finite are the loss's to notice
    with one_thread(), np.errstate(all="ignore"):
        evaluated = Evaluated(model, learner, batch)
    parameters = (weight.parameter for weight in evaluated.weights.all)
    energy, *parts = Learned.apply(evaluated, *parameters)
    results = dict(zip(("charges", "dipoles", "quadrupoles"), parts[:3], strict=True))
    results["_features"] = torch.from_numpy(evaluated.nodes.x)
    gradient = np.ascontiguousarray(evaluated.fields.x[:, 0, 1:4])
    results["_gradient"] = torch.from_numpy(gradient)
    gradients = dict(zip(DERIVED, parts[3:], strict=True))
    return Results(energy, results, {name: gradients[name] for name in derived})
