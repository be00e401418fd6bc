"""Cartesian multipole moments of any order: packing, shift of origin, rotation, traces, torques.

Packed moments hold M_alpha = sum_i q_i d_i^alpha / alpha! of charges q_i at distances d_i from the
site; the last axis runs over the multi-indices alpha (see `multipoles.indexing`), axes before it
over sites and, optionally, channels. Nothing here has units: moments of order l come in charge
times length^l of whatever units the caller uses.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from multipoles import checks
from multipoles.indexing import (
    MAX_TOTAL_ORDER,
    factorials,
    n_components,
    order_slice,
    orders,
    sum_index,
)
from multipoles.polynomials import (
    detrace_matrix,
    full_index,
    monomial_matrices,
    multiplicity,
    powers,
    turns,
)

_NAMES = ("charges", "dipoles", "quadrupoles", "octupoles")


class Multipoles(NamedTuple):
    """Full symmetric tensors of each order; None above the order of the moments.

    charges (n, [channels]); dipoles (n, [channels,] 3); quadrupoles Q = 1/2 sum q d d,
    (n, [channels,] 3, 3); octupoles 1/6 sum q d d d; `higher` the tensors of order 4, 5, ….
    """

    charges: np.ndarray
    dipoles: np.ndarray | None = None
    quadrupoles: np.ndarray | None = None
    octupoles: np.ndarray | None = None
    higher: tuple[np.ndarray, ...] = ()


def pack(
    charges: Any = None, dipoles: Any = None, quadrupoles: Any = None, octupoles: Any = None
) -> np.ndarray:
    """Return packed moments from tensors; lower orders that are not given are zero.

    Parameters
    ----------
    charges : array_like, shape (n, [channels])
        Sum of q.
    dipoles : array_like, shape (n, [channels,] 3)
        Sum of q d.
    quadrupoles : array_like, shape (n, [channels,] 3, 3)
        Symmetric tensor 1/2 sum q d d; its trace is kept.
    octupoles : array_like, shape (n, [channels,] 3, 3, 3)
        Symmetric tensor 1/6 sum q d d d.

    Returns
    -------
    ndarray, shape (n, [channels,] n_components(order))
        Order is that of the highest tensor given; float32 if all are float32, else float64.

    Raises
    ------
    TypeError
        If nothing is given, or values are not float32, float64 or integers.
    ValueError
        If shapes disagree, a tensor is not symmetric, or a value is not finite.
    """
    given = [charges, dipoles, quadrupoles, octupoles]
    while given and given[-1] is None:
        given.pop()
    if not given:
        raise TypeError(f"pack: expected at least one of {', '.join(_NAMES)}")
    return from_tensors(given)


def from_tensors(tensors: Sequence[Any]) -> np.ndarray:
    """Return packed moments from full symmetric tensors of order 0, 1, 2, …; None means zero.

    Parameters
    ----------
    tensors : sequence of array_like or None
        Entry l has shape (n, [channels,] 3, …, 3) with l threes: 1/l! sum q d … d.

    Returns
    -------
    ndarray, shape (n, [channels,] n_components(len(tensors) - 1))

    Raises
    ------
    TypeError, ValueError
        As in `pack`.
    """
    arrays = [None if t is None else checks.real(t, _name(rank)) for rank, t in enumerate(tensors)]
    shapes = {rank: _leading(a, rank) for rank, a in enumerate(arrays) if a is not None}
    if not shapes:
        raise TypeError("from_tensors: expected at least one tensor that is not None")
    lead = next(iter(shapes.values()))
    if any(shape != lead for shape in shapes.values()):
        came = ", ".join(f"{_name(rank)} {shape}" for rank, shape in shapes.items())
        raise ValueError(f"expected the same (n, [channels]) of every order, got {came}")
    order = len(arrays) - 1
    dtype = checks.common_dtype(*arrays)
    packed = np.zeros((*lead, n_components(order)), dtype)
    for rank, array in enumerate(arrays):
        if array is not None:
            block = array.reshape(*lead, 3**rank)
            _check_symmetric(block, rank)
            # the sum over all orderings of the axes: Q_xy + Q_yx
            for entry, place in enumerate(full_index(rank)):
                packed[..., place] += block[..., entry]
    return packed


def tensors(M: Any) -> list[np.ndarray]:
    """Return the full symmetric tensors 1/l! sum q d … d of every order l.

    Parameters
    ----------
    M : array_like, shape (n, [channels,] n_components(order))
        Packed moments.

    Returns
    -------
    list of ndarray
        Entry l has shape (n, [channels,] 3, …, 3).

    Raises
    ------
    TypeError, ValueError
        See `multipoles.checks.moments`.
    """
    array, order, had_channels = checks.moments(M, None)
    array = array if had_channels else array[:, 0]
    weighted = array / multiplicity(order).astype(array.dtype)
    lead = array.shape[:-1]
    return [
        weighted[..., full_index(rank)].reshape(*lead, *(3,) * rank) for rank in range(order + 1)
    ]


def unpack(M: Any) -> Multipoles:
    """Return charges, dipoles, quadrupoles, octupoles and higher tensors of packed moments.

    Parameters
    ----------
    M : array_like, shape (n, [channels,] n_components(order))
        Packed moments.

    Returns
    -------
    Multipoles
        Named tensors; those above the order of `M` are None.

    Raises
    ------
    TypeError, ValueError
        See `multipoles.checks.moments`.
    """
    parts = tensors(M)
    named = dict(zip(_NAMES[1:], parts[1:], strict=False))
    return Multipoles(parts[0], higher=tuple(parts[4:]), **named)


def shift(M: Any, by: Any) -> np.ndarray:
    """Return the same moments about an origin moved by `by`; exact at every order.

    Distances become d - by: M'_alpha = sum_{beta <= alpha} M_beta (-by)^(alpha-beta) /
    (alpha-beta)!. What is cut off above the order of `M` has no influence.

    Parameters
    ----------
    M : array_like, shape (n, [channels,] n_components(order))
        Packed moments.
    by : array_like, shape (3,) or (n, 3)
        New origin minus old origin.

    Returns
    -------
    ndarray
        Shape of `M`; float32 if both are float32, else float64.

    Raises
    ------
    TypeError, ValueError
        If a shape or type is wrong or a value is not finite.
    """
    array, order, had_channels = checks.moments(M, None)
    step = checks.real(by, "by")
    if step.shape not in ((3,), (len(array), 3)):
        raise ValueError(f"by: expected shape (3,) or ({len(array)}, 3), got {step.shape}")
    dtype = checks.common_dtype(array, step)
    monomials = powers(-step.astype(dtype), order)
    out = np.zeros(array.shape, dtype)
    for gamma, degree in enumerate(orders(order)):
        kept = n_components(order - int(degree))
        places = sum_index(order, order)[gamma, :kept]
        out[..., places] += array[..., :kept] * monomials[..., gamma, None, None]
    return out if had_channels else out[:, 0]


def rotate(M: Any, R: Any) -> np.ndarray:
    """Return the moments after a rotation of the charges: d becomes R d.

    Parameters
    ----------
    M : array_like, shape (n, [channels,] n_components(order))
        Packed moments.
    R : array_like, shape (3, 3) or (n, 3, 3)
        Orthogonal matrices; reflections are allowed.

    Returns
    -------
    ndarray
        Shape of `M`; float32 if both are float32, else float64.

    Raises
    ------
    TypeError, ValueError
        If a shape or type is wrong, a value is not finite, or R is not orthogonal to 1e-4.
    """
    array, order, had_channels = checks.moments(M, None)
    matrix = checks.real(R, "R")
    if matrix.shape not in ((3, 3), (len(array), 3, 3)):
        raise ValueError(f"R: expected shape (3, 3) or ({len(array)}, 3, 3), got {matrix.shape}")
    error = np.abs(matrix @ np.swapaxes(matrix, -1, -2) - np.eye(3, dtype=matrix.dtype))
    if error.size and error.max() > 1e-4:
        raise ValueError(
            f"R: expected orthogonal matrices, but R R^T differs from 1 by {error.max():.3g}"
        )
    dtype = checks.common_dtype(array, matrix)
    raw = array.astype(dtype) * factorials(order).astype(dtype)
    out = np.empty_like(raw)
    for rank, block in enumerate(monomial_matrices(matrix.astype(dtype), order)):
        part = order_slice(rank)
        out[..., part] = raw[..., part] @ np.swapaxes(block, -1, -2)
    out /= factorials(order).astype(dtype)
    return out if had_channels else out[:, 0]


def detrace(M: Any) -> np.ndarray:
    """Return the moments with every trace removed at each order >= 2.

    The field under f = 1/r does not change: the part removed at order l is r^2 times a
    polynomial, which acts as a Laplacian on 1/r. Under other kernels the field does change.

    Parameters
    ----------
    M : array_like, shape (n, [channels,] n_components(order))
        Packed moments.

    Returns
    -------
    ndarray
        Shape and dtype of `M`.

    Raises
    ------
    TypeError, ValueError
        See `multipoles.checks.moments`.
    """
    array, order, had_channels = checks.moments(M, None)
    out = array.copy()
    for rank in range(2, order + 1):
        part = order_slice(rank)
        out[..., part] = array[..., part] @ detrace_matrix(rank).T.astype(array.dtype)
    return out if had_channels else out[:, 0]


def moments_of_charges(
    charges: Any, positions: Any, order: int, origins: Any = (0.0, 0.0, 0.0), site: Any = None
) -> np.ndarray:
    """Return the packed moments of point charges about one or more origins.

    Parameters
    ----------
    charges : array_like, shape (n, [channels])
        Charges q.
    positions : array_like, shape (n, 3)
        Where they are.
    order : int
        Highest order, 0 … 32.
    origins : array_like, shape (3,) or (m, 3)
        Origin of each site.
    site : array_like of int, shape (n,), optional
        Which origin each charge belongs to; not needed for one origin.

    Returns
    -------
    ndarray, shape (m, [channels,] n_components(order))
        M_alpha = sum q d^alpha / alpha! with d = position - origin; m = 1 for an origin (3,).

    Raises
    ------
    TypeError, ValueError
        If a shape, type or index is wrong, or a value is not finite.
    """
    order = checks.order(order, maximum=MAX_TOTAL_ORDER)
    x = checks.points(positions, "positions")
    q = checks.real(charges, "charges")
    if q.ndim not in (1, 2) or len(q) != len(x):
        raise ValueError(f"charges: expected shape ({len(x)}, [channels]), got {q.shape}")
    centres = checks.real(origins, "origins")
    centres = checks.points(centres[None] if centres.shape == (3,) else centres, "origins")
    index = _site_index(site, len(x), len(centres))
    dtype = checks.common_dtype(x, q)
    monomials = powers((x - centres[index]).astype(dtype), order)
    terms = q.reshape(len(x), -1, 1) * monomials[:, None, :]
    out = np.zeros((len(centres), *terms.shape[1:]), dtype)
    np.add.at(out, index, terms)
    return out if q.ndim == 2 else out[:, 0]


def torques(M: Any, moment_gradients: Any) -> np.ndarray:
    """Return the torque on each site: minus the derivative of the energy by its rotation angle.

    tau_k = -sum_alpha (dE/dM_alpha) (dM_alpha/dtheta_k), where theta_k turns the moments about
    axis k, d -> d + theta e_k x d. Channels are summed.

    Parameters
    ----------
    M : array_like, shape (n, [channels,] n_components(order)), or (n,) for charges alone
        Packed moments; charges feel no torque.
    moment_gradients : array_like, shape of `M`
        Packed dE/dM, as `energy_forces` gives it.

    Returns
    -------
    ndarray, shape (n, 3)
        float32 if both are float32, else float64. Units of the energy.

    Raises
    ------
    TypeError, ValueError
        If a shape or type is wrong or a value is not finite.
    """
    M = checks.real(M, "moments")
    array, order, _ = checks.moments(M, len(M) if M.ndim else None)
    gradients = checks.moments(moment_gradients, len(array), "moment_gradients")[0]
    if gradients.shape != array.shape:
        raise ValueError(
            f"moment_gradients: expected the shape of the moments, {np.shape(M)}, "
            f"got {np.shape(moment_gradients)}"
        )
    out = np.zeros((len(array), 3), checks.common_dtype(array, gradients))
    for axis, row, column, factor in turns(order):
        out[:, axis] -= factor * (gradients[..., row] * array[..., column]).sum(axis=-1)
    return out


def _name(rank: int) -> str:
    return _NAMES[rank] if rank < len(_NAMES) else f"tensors[{rank}]"


def _leading(array: np.ndarray, rank: int) -> tuple[int, ...]:
    lead = array.ndim - rank
    if lead not in (1, 2) or array.shape[lead:] != (3,) * rank:
        expected = ", ".join(["n", "[channels]"] + ["3"] * rank)
        raise ValueError(f"{_name(rank)}: expected shape ({expected}), got {array.shape}")
    return array.shape[:lead]


def _check_symmetric(block: np.ndarray, rank: int) -> None:
    tensor = block.reshape(*block.shape[:-1], *(3,) * rank)
    limit = np.sqrt(np.finfo(block.dtype).eps) * np.abs(block).max(initial=0.0)
    for axis in range(1, rank):
        error = np.abs(tensor - np.swapaxes(tensor, -axis, -axis - 1)).max(initial=0.0)
        if error > limit:
            raise ValueError(
                f"{_name(rank)}: expected tensors symmetric in all axes, but two entries differ by "
                f"{error:.3g}; give (T + T^T) / 2"
            )


def _site_index(site: Any, n: int, m: int) -> np.ndarray:
    if site is None:
        if m != 1:
            raise ValueError(f"site: say which of the {m} origins each charge belongs to")
        return np.zeros(n, dtype=np.int64)
    index = checks.integers(site, "site")
    if index.shape != (n,):
        raise ValueError(f"site: expected shape ({n},), one per charge, got {index.shape}")
    if n and not (index.min() >= 0 and index.max() < m):
        raise ValueError(f"site: expected indices 0 to {m - 1}, got {index.min()} … {index.max()}")
    return index
