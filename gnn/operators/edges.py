"""Edge operators of message passing: the anisotropic state and the invariants of pairs.

Thürlemann & Riniker, ICLR 2023, section 3. Both are fused: one compiled pass over the edges for
the values, one for all first derivatives, one for all second derivatives, so that no tensor of an
edge is ever stored. Derivatives of third and higher order, and all of `torch.func` and of forward
mode, go through the plain-torch twins.

Tensors on a GPU run in `_edge_cuda`, on torch's current stream. There, indices are not
checked: the host would have to wait to learn whether nodes exist and receivers are sorted.
"""

import torch
from torch import Tensor

from gnn.operators import edges_torch
from gnn.operators._edge_functions import PairInvariants, State
from gnn.operators._edge_kernels import check_edges
from gnn.operators.derivatives import forward_mode
from gnn.operators.edge_math import invariant_terms
from gnn.operators.gpu import on_gpu
from multipoles import indexing

MAX_ORDER = 3
BACKENDS = ("compiled", "torch")


def n_invariants(order: int) -> int:
    """Return how many invariants a pair of states has: 2, 5, 11, 22 for order 0, 1, 2, 3."""
    return len(invariant_terms(_checked_order(order)))


def anisotropic_state(
    coefficients: Tensor,
    directions: Tensor,
    receivers: Tensor,
    n_nodes: int,
    order: int,
    *,
    backend: str = "compiled",
) -> Tensor:
    """Build the anisotropic state of all nodes from coefficients of their incoming edges.

    S[t, alpha, c] = sum over edges e to t of coefficients[e, |alpha|, c] Y_alpha(u_e), where Y
    are the packed traceless tensors of u⊗…⊗u (order 2: u u - 1/3; packed off-diagonals hold
    sums). Y is a harmonic polynomial in u, so derivatives hold for vectors of any length.

    Parameters
    ----------
    coefficients : Tensor
        (E, order + 1, C), float32 or float64.
    directions : Tensor
        (E, 3) unit vectors from sender to receiver.
    receivers : Tensor
        (E,) int64, sorted.
    n_nodes, order : int
        Number of nodes; highest order of the state, 0 to 3.
    backend : {"compiled", "torch"}
        The fused operator (CPU or GPU), or its twin in plain torch.

    Returns
    -------
    Tensor
        (n_nodes, n_components(order), C), traceless, differentiable to any order.

    Raises
    ------
    ValueError
        If shapes or the backend are wrong, a receiver does not exist, or receivers are unsorted.
    TypeError
        If dtypes differ or are not floating point.
    """
    _check_edges(directions, receivers, receivers, n_nodes)
    shape = (receivers.shape[0], _checked_order(order) + 1)
    if coefficients.ndim != 3 or coefficients.shape[:2] != shape:
        raise ValueError(
            f"expected coefficients of shape (edges, order + 1, channels) = {(*shape, 'C')}, "
            f"got {tuple(coefficients.shape)}"
        )
    _check_dtypes(coefficients, directions)
    if _use_torch(backend, coefficients):
        return edges_torch.anisotropic_state(coefficients, directions, receivers, n_nodes, order)
    _check_indices(receivers, receivers, n_nodes)
    return State.apply(coefficients, directions, receivers, n_nodes, order)


def pair_invariants(
    state: Tensor,
    directions: Tensor,
    senders: Tensor,
    receivers: Tensor,
    order: int,
    *,
    backend: str = "compiled",
) -> Tensor:
    """Contract the states of every edge's ends with the direction and with each other.

    With a[l, k] the state's tensor of rank l contracted l - k times with u, the invariants are,
    in this order: for l = 0 … order the full contractions of sender and of receiver, a1[l, 0] and
    a2[l, 0]; then for l1, l2 = 1 … order and k = 1 … min(l1, l2), each loop inside the one
    before, the products <a1[l1, k], a2[l2, k]> over all k indices. Order 2, with monopoles m,
    dipoles D, quadrupoles Q, d = D.u, s = u.Q.u, y = Q u: m1, m2, d1, d2, s1, s2, D1.D2, D1.y2,
    y1.D2, y1.y2, Q1:Q2.

    Parameters
    ----------
    state : Tensor
        (N, n_components(order), C) packed in the convention of moments, float32 or float64.
    directions : Tensor
        (E, 3) unit vectors from sender to receiver.
    senders, receivers : Tensor
        (E,) int64; receivers are sorted.
    order : int
        Highest order of the state, 0 to 3.
    backend : {"compiled", "torch"}
        The fused operator (CPU or GPU), or its twin in plain torch.

    Returns
    -------
    Tensor
        (E, n_invariants(order), C), differentiable to any order.

    Raises
    ------
    ValueError
        If shapes or the backend are wrong, a node does not exist, or receivers are unsorted.
    TypeError
        If dtypes differ or are not floating point.
    """
    _check_edges(directions, senders, receivers, state.shape[0])
    components = indexing.n_components(_checked_order(order))
    if state.ndim != 3 or state.shape[1] != components:
        raise ValueError(
            f"expected a state of shape (nodes, {components}, channels) for order {order}, "
            f"got {tuple(state.shape)}"
        )
    _check_dtypes(state, directions)
    if _use_torch(backend, state):
        return edges_torch.pair_invariants(state, directions, senders, receivers, order)
    _check_indices(senders, receivers, len(state))
    return PairInvariants.apply(state, directions, senders, receivers, order)


def self_invariants(state: Tensor, order: int) -> Tensor:
    """Return the squared norms of a state's tensors of order 1 … order.

    Parameters
    ----------
    state : Tensor
        (N, n_components(order), C) packed in the convention of moments.
    order : int
        Highest order of the state.

    Returns
    -------
    Tensor
        (N, order * C), orders first.
    """
    return edges_torch.self_invariants(state, _checked_order(order))


# --- checks -------------------------------------------------------------------------------------


def _checked_order(order: int) -> int:
    if order not in range(MAX_ORDER + 1):
        raise ValueError(f"expected an order from 0 to {MAX_ORDER}, got {order!r}")
    return order


def _check_edges(directions: Tensor, senders: Tensor, receivers: Tensor, n_nodes: int) -> None:
    edges = receivers.shape[0]
    if directions.shape != (edges, 3):
        raise ValueError(
            f"expected directions of shape (edges, 3) = ({edges}, 3), got {tuple(directions.shape)}"
        )
    for name, index in (("senders", senders), ("receivers", receivers)):
        if index.shape != (edges,) or index.dtype != torch.int64:
            raise ValueError(
                f"expected {name} as int64 of shape ({edges},), "
                f"got {index.dtype} of shape {tuple(index.shape)}"
            )
    if n_nodes < 0:
        raise ValueError(f"expected n_nodes >= 0, got {n_nodes}")
    devices = {directions.device, senders.device, receivers.device}
    if len(devices) > 1:
        raise ValueError(f"expected tensors of one device, got {sorted(map(str, devices))}")


def _check_indices(senders: Tensor, receivers: Tensor, n_nodes: int) -> None:
    if senders.device.type != "cpu":
        return  # reading them would make the host wait for the GPU
    error = check_edges(senders.contiguous().numpy(), receivers.contiguous().numpy(), n_nodes)
    if error == 1:
        raise ValueError(
            f"expected senders and receivers from 0 to {n_nodes - 1}, got "
            f"{int(torch.minimum(senders.min(), receivers.min()))} to "
            f"{int(torch.maximum(senders.max(), receivers.max()))}"
        )
    if error == 2:
        raise ValueError(
            "expected edges sorted by receiver; sort them with torch.argsort(receivers)"
        )


def _check_dtypes(values: Tensor, directions: Tensor) -> None:
    if values.device != directions.device:
        raise ValueError(
            f"expected tensors of one device, got {values.device} and directions on "
            f"{directions.device}"
        )
    if values.dtype != directions.dtype or not values.is_floating_point():
        raise TypeError(
            "expected floating-point tensors of one dtype, "
            f"got {values.dtype} and directions of {directions.dtype}"
        )


def _use_torch(backend: str, values: Tensor) -> bool:
    if backend not in BACKENDS:
        raise ValueError(f"expected backend to be one of {BACKENDS}, got {backend!r}")
    here = values.device.type == "cpu" or on_gpu(values)
    if backend == "torch" or not here or forward_mode():
        return True
    if values.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"expected float32 or float64, got {values.dtype}; other dtypes need backend='torch'"
        )
    return False
