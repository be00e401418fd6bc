"""The edge operators in plain torch: the slow twins of the fused ones.

Tensors are full, (E, 3^l, C), and autograd differentiates them to any order. They are the
tests' oracle, the path for export and for devices without a fused kernel, and give the
derivatives of third and higher order of the fused operators.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from gnn.operators.edge_math import traceless_matrix
from gnn.operators.gpu import table
from multipoles import indexing
from multipoles.polynomials import full_index, multiplicity


def anisotropic_state(
    coefficients: Tensor, directions: Tensor, receivers: Tensor, n_nodes: int, order: int
) -> Tensor:
    """Return the sum of harmonics over incoming edges, (n_nodes, n_components, C)."""
    harmonics = traceless_harmonics(directions, order)
    per_component = coefficients.index_select(1, _index(indexing.orders(order), directions))
    rows = harmonics[:, :, None] * per_component
    return rows.new_zeros(n_nodes, *rows.shape[1:]).index_add(0, receivers, rows)


def traceless_harmonics(directions: Tensor, order: int) -> Tensor:
    """Return the packed traceless tensors of u⊗…⊗u as polynomials in u, (E, n_components).

    Harmonic for any u, unit or not: order 2 is u_a u_b - delta_ab u.u/3. Packed off-diagonals
    hold sums, as moments do.
    """
    monomials = [directions.new_ones(directions.shape[0], 1)]
    blocks = [monomials[0]]
    for degree in range(1, order + 1):
        axis, parent = _monomial_recursion(degree)
        lower = monomials[-1].index_select(1, _index(parent, directions))
        monomials.append(lower * directions.index_select(1, _index(axis, directions)))
        lowest = monomials[-1]
        if degree > 1:
            lowest = lowest @ table(traceless_matrix(degree), directions).T
        blocks.append(lowest)
    return torch.cat(blocks, dim=1)


def pair_invariants(
    state: Tensor, directions: Tensor, senders: Tensor, receivers: Tensor, order: int
) -> Tensor:
    """Return the invariants of sender's and receiver's state, (E, n_invariants, C)."""
    full = [_full_tensor(state, rank) for rank in range(order + 1)]
    one = [_contractions(tensor.index_select(0, senders), directions) for tensor in full]
    two = [_contractions(tensor.index_select(0, receivers), directions) for tensor in full]
    terms = [side[rank][0][:, 0] for rank in range(order + 1) for side in (one, two)]
    for rank in range(1, order + 1):
        for other in range(1, order + 1):
            for k in range(1, min(rank, other) + 1):
                terms.append((one[rank][k] * two[other][k]).sum(1))
    return torch.stack(terms, dim=1)


def self_invariants(state: Tensor, order: int) -> Tensor:
    """Return the squared norms of a state's tensors of order 1 … order, (N, order * C)."""
    if order == 0:
        return state.new_zeros(state.shape[0], 0)
    norms = table(_norms(order), state) @ (state * state)
    return norms.flatten(1)


def by_order(packed: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Return the parts of packed components along an axis, by order, from 0 on."""
    order = indexing.order_of(packed.shape[dim])
    return packed.split([(rank + 1) * (rank + 2) // 2 for rank in range(order + 1)], dim)


def _full_tensor(state: Tensor, rank: int) -> Tensor:
    """Return the tensor of one rank with all its 3^rank components, (N, 3^rank, C)."""
    components = full_index(rank)
    full = state.index_select(1, _index(components, state))
    weights = 1.0 / multiplicity(rank)[components]
    return full * table(weights, state)[:, None] if rank > 1 else full


def _contractions(tensor: Tensor, directions: Tensor) -> list[Tensor]:
    """Return the tensors of rank k = 0 … rank that contractions with u leave."""
    edges, size, channels = tensor.shape
    contracted = [tensor]
    while size > 1:
        size //= 3
        rows = contracted[0].view(edges, 3, size, channels)
        contracted.insert(0, (rows * directions[:, :, None, None]).sum(1))
    return contracted


# --- tables -------------------------------------------------------------------------------------


@lru_cache
def _norms(order: int) -> np.ndarray:
    """Return the weights of packed components' squares in the norms of order 1 …, (order, n)."""
    weights = np.zeros((order, indexing.n_components(order)))
    for rank in range(1, order + 1):
        of_rank = indexing.order_slice(rank)
        weights[rank - 1, of_rank] = 1.0 / multiplicity(order)[of_rank]
    return weights


@lru_cache
def _monomial_recursion(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Return per monomial of `degree` an axis and the monomial of one degree less."""
    rows = indexing.multi_indices(degree)[indexing.order_slice(degree)]
    axis = np.argmax(rows > 0, axis=1)
    lower = rows - np.eye(3, dtype=np.int64)[axis]
    start = indexing.order_slice(degree - 1).start
    return axis, np.array([indexing.component_index(*row) - start for row in lower])


def _index(components: np.ndarray, like: Tensor) -> Tensor:
    return table(components, like, torch.int64)
