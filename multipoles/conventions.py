"""Packed moments to and from the conventions of other programs and of the literature.

``raw``
    sum q d_i d_j …, each component of the tensor once; packed, n_components(order).
``buckingham``
    Theta^(l) = (-1)^l / l! sum q r^(2l+1) grad^l (1/r), each component once; packed: charge, mu,
    Theta_xx = 1/2 sum q (3 x^2 - r^2), Theta_xy = 3/2 sum q x y, ….
``amoeba``
    13 components: charge, mu_x, mu_y, mu_z, then Q = 1/2 sum q (d d - r^2/3) = Theta/3 row by row,
    xx xy xz yx yy yz zx zy zz.
``spherical``
    Q_lm = sum q R_lm(d), real regular solid harmonics in Racah's normalisation, (order + 1)^2
    components: 00; 10 11c 11s; 20 21c 21s 22c 22s; ….

`raw` keeps all information. The other three hold traceless moments: converting moments with a
trace loses it, and converting back gives `detrace` of what was there. Under f = 1/r that makes no
difference to the field outside.
"""

from collections.abc import Callable
from functools import lru_cache
from math import factorial
from typing import Any

import numpy as np

from multipoles import checks
from multipoles.indexing import (
    component_index,
    factorials,
    multi_indices,
    n_components,
    order_slice,
    orders,
)
from multipoles.moments import detrace, pack, tensors
from multipoles.polynomials import multiplicity, times_r2


def convert(M: Any, to: str) -> np.ndarray:
    """Return packed moments in another convention.

    Parameters
    ----------
    M : array_like, shape (n, [channels,] n_components(order))
        Packed moments.
    to : {"raw", "buckingham", "amoeba", "spherical"}
        The convention; see the list at the top of `multipoles.conventions`. All but ``raw``
        remove the traces.

    Returns
    -------
    ndarray, shape (n, [channels,] components)
        float32 if `M` is float32, else float64. ``amoeba`` fills missing orders with zeros.

    Raises
    ------
    TypeError
        If a type is wrong.
    ValueError
        If the convention is unknown, a shape is wrong, a value is not finite, or ``amoeba`` is
        asked for moments above the quadrupole.
    """
    array, order, had_channels = checks.moments(M, None)
    out = _known(to, _TO)(array, order)
    return out if had_channels else out[:, 0]


def from_convention(array: Any, convention: str) -> np.ndarray:
    """Return packed moments from an array in another convention.

    Parameters
    ----------
    array : array_like, shape (n, [channels,] components)
        Moments as `convert` gives them. ``amoeba`` may also hold 10 components: charge, dipole
        and xx xy xz yy yz zz of Q.
    convention : {"raw", "buckingham", "amoeba", "spherical"}
        How they are given. Traces, if the array has any, are kept.

    Returns
    -------
    ndarray, shape (n, [channels,] n_components(order))
        float32 if `array` is float32, else float64.

    Raises
    ------
    TypeError
        If a type is wrong.
    ValueError
        If the convention is unknown, a shape is wrong, or a value is not finite.
    """
    back = _known(convention, _FROM)
    values = checks.real(array, "array")
    if values.ndim not in (2, 3):
        raise ValueError(f"array: expected shape (n, [channels,] components), got {values.shape}")
    had_channels = values.ndim == 3
    out = back(values if had_channels else values[:, None, :])
    return out if had_channels else out[:, 0]


def _known(name: Any, table: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"convention: expected one of {', '.join(table)}, got {name!r}")
    return table[name]


def _to_raw(M: np.ndarray, order: int) -> np.ndarray:
    return M * factorials(order).astype(M.dtype)


def _from_raw(array: np.ndarray) -> np.ndarray:
    values, order, _ = checks.moments(array, None, "array")
    return values / factorials(order).astype(values.dtype)


def _to_buckingham(M: np.ndarray, order: int) -> np.ndarray:
    # grad^l (1/r) = (-1)^l (2l-1)!! (d^l - traces) / r^(2l+1), and M holds l!/alpha! of 1/l! d^l
    return detrace(M) * _buckingham_factor(order).astype(M.dtype)


def _from_buckingham(array: np.ndarray) -> np.ndarray:
    values, order, _ = checks.moments(array, None, "array")
    return values / _buckingham_factor(order).astype(values.dtype)


def _buckingham_factor(order: int) -> np.ndarray:
    double = np.array([_double_factorial(2 * rank - 1) for rank in range(order + 1)])
    return double[orders(order)] / multiplicity(order)


def _to_amoeba(M: np.ndarray, order: int) -> np.ndarray:
    if order > 2:
        raise ValueError(
            f"the amoeba convention ends with the quadrupole, got moments of order {order}; "
            f"leave the rest away with M[..., :{n_components(2)}]"
        )
    parts = tensors(detrace(M))
    out = np.zeros((*M.shape[:-1], 13), M.dtype)
    for part, start in zip(parts, (0, 1, 4), strict=False):
        block = part.reshape(*M.shape[:-1], -1)
        out[..., start : start + block.shape[-1]] = block
    return out


def _from_amoeba(array: np.ndarray) -> np.ndarray:
    if array.shape[-1] not in (10, 13):
        raise ValueError(
            "array: expected 13 components (charge, dipole, 3x3 quadrupole) or 10 (upper triangle "
            f"of the quadrupole), got shape {array.shape}"
        )
    if array.shape[-1] == 10:
        return array * multiplicity(2).astype(array.dtype)
    quadrupole = array[..., 4:].reshape(*array.shape[:-1], 3, 3)
    return pack(charges=array[..., 0], dipoles=array[..., 1:4], quadrupoles=quadrupole)


def _to_spherical(M: np.ndarray, order: int) -> np.ndarray:
    raw = _to_raw(M, order)
    out = np.empty((*M.shape[:-1], (order + 1) ** 2), M.dtype)
    for rank in range(order + 1):
        harmonics = solid_harmonics(rank).astype(M.dtype)
        out[..., rank**2 : (rank + 1) ** 2] = raw[..., order_slice(rank)] @ harmonics.T
    return out


def _from_spherical(array: np.ndarray) -> np.ndarray:
    order = round(array.shape[-1] ** 0.5) - 1
    if order < 0 or (order + 1) ** 2 != array.shape[-1]:
        raise ValueError(
            f"array: expected (order + 1)^2 = 1, 4, 9, 16, … components, got shape {array.shape}"
        )
    out = np.empty((*array.shape[:-1], n_components(order)), array.dtype)
    for rank in range(order + 1):
        # r^l x^l P_l = sum_m R_lm(r) R_lm(x), whose leading term is (2l-1)!!/l! (r.x)^l
        harmonics = (solid_harmonics(rank) / _double_factorial(2 * rank - 1)).astype(array.dtype)
        out[..., order_slice(rank)] = array[..., rank**2 : (rank + 1) ** 2] @ harmonics
    return out


_TO: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "raw": _to_raw,
    "buckingham": _to_buckingham,
    "amoeba": _to_amoeba,
    "spherical": _to_spherical,
}
_FROM: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "raw": _from_raw,
    "buckingham": _from_buckingham,
    "amoeba": _from_amoeba,
    "spherical": _from_spherical,
}


@lru_cache
def solid_harmonics(rank: int) -> np.ndarray:
    """Return the coefficients of the real regular solid harmonics R_lm of degree l = `rank`.

    Rows are l0, l1c, l1s, l2c, l2s, …; columns the packed monomials d^alpha of that degree.
    Racah's normalisation, no Condon–Shortley sign: R_10 = z, R_11c = x, R_22s = sqrt(3) x y
    (Stone, The Theory of Intermolecular Forces, 2nd ed., appendix E).

    Returns
    -------
    ndarray, shape (2 rank + 1, (rank + 1)(rank + 2)/2)
        float64, read-only.

    Raises
    ------
    ValueError
        If `rank` is negative.
    """
    if rank < 0:
        raise ValueError(f"rank: expected an integer >= 0, got {rank}")
    rows = [_zonal(rank, 0, (1.0 + 0j) * np.ones(1)).real]
    sector = (1.0 + 0j) * np.ones(1)
    for m in range(1, rank + 1):
        sector = _times(sector, m - 1, 0) + 1j * _times(sector, m - 1, 1)  # (x + i y)^m
        norm = np.sqrt(2.0 * factorial(rank - m) / factorial(rank + m))
        row = norm * _double_factorial(2 * m - 1) * _zonal(rank, m, sector)
        rows += [row.real, row.imag]
    table = np.array(rows)
    table.flags.writeable = False
    return table


def _zonal(rank: int, m: int, sector: np.ndarray) -> np.ndarray:
    """Return (x + i y)^m times r^(l-m) d^m P_l(z/r)/dz^m / (2m-1)!! by Legendre's recursion."""
    before, now = np.zeros(0, dtype=complex), sector
    for degree in range(m + 1, rank + 1):
        after = (2 * degree - 1) * _times(now, degree - 1, 2)
        if len(before):
            after = after - (degree + m - 1) * (times_r2(degree - 2) @ before)
        before, now = now, after / (degree - m)
    return now


def _times(polynomial: np.ndarray, degree: int, axis: int) -> np.ndarray:
    """Return a packed polynomial of one degree times x, y or z."""
    block = order_slice(degree + 1)
    out = np.zeros(block.stop - block.start, dtype=polynomial.dtype)
    for value, alpha in zip(polynomial, multi_indices(degree)[order_slice(degree)], strict=True):
        step = alpha + np.eye(3, dtype=np.int64)[axis]
        out[component_index(*step) - block.start] = value
    return out


def _double_factorial(n: int) -> float:
    """Return n!! of an odd n; (-1)!! = 1."""
    return float(np.prod(np.arange(1.0, n + 1, 2)))
