"""The field of the surroundings at the atoms, and its coupling to the anisotropic state."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gnn.data.batching import Batch
from gnn.operators.edge_math import traceless_matrix
from gnn.operators.edges_torch import by_order
from gnn.operators.gpu import table
from multipoles import indexing

FIELD_ORDER = 2


class SurroundingsField(NamedTuple):
    """The field, at the atoms, of everything that is not in the graph.

    Attributes
    ----------
    field : Tensor
        (N, F, 10) potential, gradient and second derivatives in V, V/Å, V/Å² (packed; no
        factors): first the field itself, then what smearing the sources by wider Gaussians adds
        to it, which is short-ranged.
    potential : Tensor
        (N, F) potentials as the network sees them, in V. For the field itself this is the sum
        over neighbours of envelope times potential difference, so that a uniform potential
        changes the energy by charge times potential and by nothing else.
    """

    field: Tensor
    potential: Tensor


def given_field(batch: Batch) -> Tensor:
    """Return the uniform and the external field at the atoms.

    Packed like `SurroundingsField.field`, (N, 10). The external field is continued from the given
    positions by its Taylor polynomial, so that forces and the field's given derivatives agree.
    """
    positions = batch.positions
    uniform = batch.uniform_field.index_select(0, batch.batch)
    potential = -(positions * uniform).sum(1, keepdim=True)
    field = torch.cat([potential, -uniform, positions.new_zeros(positions.shape[0], 6)], dim=1)
    if batch.external_field.shape[1]:
        field = field + _taylor(batch.external_field, positions - positions.detach())
    return field


def _taylor(field: Tensor, displacement: Tensor) -> Tensor:
    """Return sum_gamma Phi_(beta + gamma) d^gamma / gamma! for |beta| <= 2, (N, 10)."""
    order = indexing.order_of(field.shape[1])
    gamma, beta, there = _sums(order)
    exponents, places = (table(one, field, torch.int64) for one in (gamma, beta))
    known = table(there, field)
    powers = [torch.ones_like(displacement)]
    for k in range(1, 1 + order):
        powers.append(powers[-1] * displacement / k)
    of_axes = torch.stack(powers, dim=2)  # (N, 3, powers)
    x, y, z = (of_axes[:, axis].index_select(1, exponents[axis]) for axis in range(3))
    derivatives = field.index_select(1, places.flatten()).view(-1, *places.shape)
    return (derivatives * known * (x * y * z)[:, None]).sum(2)


@lru_cache
def _sums(order: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return all gamma (3, n), places of beta + gamma (10, n), and whether they are there."""
    gamma, beta = indexing.multi_indices(order), indexing.multi_indices(FIELD_ORDER)
    both = (beta[:, None] + gamma).tolist()
    known = [[sum(one) <= order for one in row] for row in both]
    places = [
        [indexing.component_index(*one) if sum(one) <= order else 0 for one in row] for row in both
    ]
    return gamma.T, np.array(places), np.array(known)


class SurroundingsCoupling(nn.Module):
    """Induce multipoles in the anisotropic state, and contract it with the field.

    The field enters in two ways. It induces multipoles: each channel of the state receives the
    field's gradient (order 1) and traceless second derivatives (order 2) times a factor computed
    from the node's features. And it does work on the state: per channel and order the energy
    term sum_beta W_beta Phi_beta is an input of the node's update (the relative potential stands
    in for the potential).

    Parameters
    ----------
    order, channels, features : int
        Order and channels of the state; width of the node features.
    fields : int
        Number of fields F.
    """

    detrace: Tensor

    def __init__(self, order: int, channels: int, features: int, fields: int):
        super().__init__()
        self.order, self.fields = min(order, FIELD_ORDER), fields
        self.channels = channels
        self.outputs = fields * ((self.order + 1) * channels + 2)
        self.padding = indexing.n_components(order) - indexing.n_components(self.order)
        outputs = self.order * fields * channels
        self.factors = nn.Linear(features, outputs) if self.order else None
        if self.factors is not None:
            nn.init.normal_(self.factors.weight, std=0.1 / features**0.5)
        # three times what removes the trace of packed second derivatives and makes them packed
        # moments: whole numbers, which no cast rounds
        detrace = torch.tensor((3 * traceless_matrix(2).T).round()).contiguous()
        self.register_buffer("detrace", detrace, persistent=False)

    def induced(self, nodes: Tensor, surroundings: SurroundingsField) -> Tensor:
        """Return the induced multipoles, (N, n_comp(order), C)."""
        if self.factors is None:
            return nodes.new_zeros(nodes.shape[0], 1, self.channels)
        factors = self.factors(nodes).view(-1, self.order, self.fields, self.channels)
        field = surroundings.field
        parts = [nodes.new_zeros(nodes.shape[0], 1, self.channels)]
        of_ranks = factors.unbind(1)
        _, gradient, second = by_order(field, 2)
        parts.append(gradient.transpose(1, 2) @ of_ranks[0])
        if self.order > 1:
            second = second @ (self.detrace.to(field.dtype) / 3)
            parts.append(second.transpose(1, 2) @ of_ranks[1])
        if self.padding:
            parts.append(nodes.new_zeros(nodes.shape[0], self.padding, self.channels))
        return torch.cat(parts, dim=1)

    def forward(self, state: Tensor, surroundings: SurroundingsField) -> Tensor:
        """Return the invariants of state and field at each atom, (N, outputs)."""
        field, potential = surroundings.field, surroundings.potential
        _, gradient, second = by_order(field, 2)
        ranks = by_order(state, 1)
        terms = [potential, gradient.square().sum(2)]
        terms.append((potential[:, :, None] * ranks[0]).flatten(1))
        if self.order > 0:
            terms.append((gradient @ ranks[1]).flatten(1))
        if self.order > 1:
            terms.append((second @ ranks[2]).flatten(1))
        return torch.cat(terms, dim=1)
