"""Real solid harmonics: the basis of all expansions, and the tables that translate in it.

Regular harmonics are rho(x) = r^n Z(x/r), irregular ones iota(x) = Z(x/r) / r^(n+1), with Z
normalised such that their products sum to Legendre polynomials, so that for |y| < |x|

    1 / |x - y| = sum_k rho_k(y) iota_k(x).

Degree n and order m have the index n^2 for m = 0, n^2 + 2m - 1 for cos(m phi) and n^2 + 2m for
sin(m phi): the first (p + 1)^2 are all harmonics up to degree p. Moments are
M_k = sum q rho_k(y), local coefficients L_k give the potential sum_k L_k rho_k(x); so the same
tables, transposed, serve sources and targets. They follow from the addition theorems of complex
solid harmonics (Epton & Dembart, SIAM J. Sci. Comput. 16, 865 (1995)).
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fmm.far.kept import kept
from multipoles.compiled.jit import jit
from multipoles.indexing import component_index, factorials, multi_indices, n_components


def n_harmonics(degree: int) -> int:
    """Return the number of harmonics up to `degree`: (degree + 1)^2."""
    return (degree + 1) ** 2


class Recursion(NamedTuple):
    """Factors of the recursion in degree and order, each (degree + 1, degree + 1) over (n, m).

    With h = harmonic (n, m), (X, Y, Z, s) = (x, y, z, r^2) for regular ones and (x, y, z, 1) / r^2
    for irregular ones: h(m, m) = diagonal[m, m] (X + iY) h(m - 1, m - 1) and
    h(n, m) = up[n, m] Z h(n - 1, m) - down[n, m] s h(n - 2, m).
    """

    diagonal: np.ndarray
    up: np.ndarray
    down: np.ndarray


@lru_cache
def recursion(degree: int) -> Recursion:
    """Return the factors of the recursion up to `degree`."""
    n, m = np.indices((degree + 1, degree + 1), dtype=np.float64)
    below = np.sqrt(np.maximum(n * n - m * m, 1.0))
    up = np.where(n > m, (2 * n - 1) / below, 0.0)
    down = np.where(n > m, np.sqrt(np.maximum((n - 1) ** 2 - m * m, 0.0)) / below, 0.0)
    # cos and sin carry a factor sqrt(2) that m = 0 does not have
    diagonal = np.where(m > 0, np.sqrt(np.abs(2 * m - 1) / np.maximum(2 * m, 1.0)), 1.0)
    if degree > 0:
        diagonal[:, 1] = 1.0
    return Recursion(diagonal, up, down)


def regular(x: np.ndarray, degree: int) -> np.ndarray:
    """Return rho(x) of vectors (..., 3) up to `degree`, shape (..., (degree + 1)^2)."""
    x = np.asarray(x, np.float64)
    return _harmonics(x, (x**2).sum(-1), np.ones(x.shape[:-1]), degree)


def irregular(x: np.ndarray, degree: int) -> np.ndarray:
    """Return iota(x) of vectors (..., 3) up to `degree`, shape (..., (degree + 1)^2)."""
    x = np.asarray(x, np.float64)
    r2 = (x**2).sum(-1)
    return _harmonics(x / r2[..., None], 1.0 / r2, 1.0 / np.sqrt(r2), degree)


def _harmonics(x: np.ndarray, s: np.ndarray, start: np.ndarray, degree: int) -> np.ndarray:
    factor = recursion(degree)
    out = np.zeros((*x.shape[:-1], n_harmonics(degree)))
    real, imaginary = start, np.zeros_like(start)
    for m in range(degree + 1):
        if m > 0:
            a, b = (
                x[..., 0] * real - x[..., 1] * imaginary,
                x[..., 1] * real + x[..., 0] * imaginary,
            )
            real, imaginary = factor.diagonal[m, m] * a, factor.diagonal[m, m] * b
        for part, index in ((real, 2 * m - 1), (imaginary, 2 * m)) if m else ((real, 0),):
            before, last = np.zeros_like(part), part
            out[..., m * m + index] = part
            for n in range(m + 1, degree + 1):
                up, down = factor.up[n, m], factor.down[n, m]
                before, last = last, up * x[..., 2] * last - down * s * before
                out[..., n * n + index] = last
    return out


@lru_cache
def degrees(degree: int) -> np.ndarray:
    """Return the degree n of every harmonic."""
    return np.repeat(np.arange(degree + 1), 2 * np.arange(degree + 1) + 1)


@lru_cache
def reflections(degree: int) -> np.ndarray:
    """Return the signs that harmonics take when x, y or z changes sign, shape (3, n_harmonics)."""
    rows = []
    for n in range(degree + 1):
        for index in range(2 * n + 1):
            m, is_sine = (index + 1) // 2, index > 0 and index % 2 == 0
            odd = -1.0 if is_sine else 1.0
            rows.append((odd * (-1.0) ** m, odd, (-1.0) ** (n + m)))
    return np.array(rows).T.copy()


@lru_cache
def cartesian_map(order: int) -> np.ndarray:
    """Return C with harmonic moments m = C M of packed Cartesian moments M.

    Transposed it turns local coefficients at a point into derivatives there. Row k holds the
    coefficients of rho_k(d) = sum_alpha c_alpha d^alpha times alpha!.

    Returns
    -------
    ndarray, shape ((order + 1)^2, n_components(order))
    """
    monomials = {alpha: i for i, alpha in enumerate(map(tuple, multi_indices(order).tolist()))}
    factor = recursion(order)
    size = n_components(order)

    def times(axis: int, polynomial: np.ndarray) -> np.ndarray:
        out = np.zeros(size)
        for i in np.flatnonzero(polynomial):
            raised = multi_indices(order)[i] + np.eye(3, dtype=np.int64)[axis]
            out[component_index(*raised)] += polynomial[i]
        return out

    def radial(polynomial: np.ndarray) -> np.ndarray:
        x2, y2, z2 = (times(axis, times(axis, polynomial)) for axis in range(3))
        r2: np.ndarray = x2 + y2 + z2
        return r2

    rows = np.zeros((n_harmonics(order), size))
    real, imaginary = np.zeros(size), np.zeros(size)
    real[monomials[(0, 0, 0)]] = 1.0
    for m in range(order + 1):
        if m > 0:
            a = times(0, real) - times(1, imaginary)
            b = times(1, real) + times(0, imaginary)
            real, imaginary = factor.diagonal[m, m] * a, factor.diagonal[m, m] * b
        for part, index in ((real, 2 * m - 1), (imaginary, 2 * m)) if m else ((real, 0),):
            before, last = np.zeros(size), part
            rows[m * m + index] = part
            for n in range(m + 1, order + 1):
                raised = factor.up[n, m] * times(2, last)
                lowered = factor.down[n, m] * radial(before) if n > m + 1 else 0.0
                before, last = last, raised - lowered
                rows[n * n + index] = last
    rows *= factorials(order)
    rows.flags.writeable = False
    return rows


class Terms(NamedTuple):
    """A matrix that is linear in harmonics h: entry (row, column) sums factor * h[harmonic]."""

    row: np.ndarray
    column: np.ndarray
    harmonic: np.ndarray
    factor: np.ndarray


@kept
def shift_terms(degree: int, inner: int) -> Terms:
    """Return the terms of A(d): rho_n(y + d) = sum_j A_nj(d) rho_j(y), linear in rho(d).

    Rows n up to `degree`, columns j up to `inner`.
    """
    return _collect(_shift_terms, degree, inner)


@kept
def transfer_terms(degree: int, inner: int) -> Terms:
    """Return the terms of B(d): iota_j(d + x) = sum_k B_kj(d) rho_k(x), linear in iota(d).

    Rows k up to `degree`, columns j up to `inner`. With moments M about the origin of y, B(d) M are
    the local coefficients about d.
    """
    return _collect(_transfer_terms, degree, inner)


def _collect(build: Any, degree: int, inner: int) -> Terms:
    """Return the terms that a compiled loop counts, then writes."""
    roots = root_binomials(2 * (degree + inner) + 1)
    index = np.empty(0, np.int32)
    nothing = (index, index, index, np.empty(0))
    count = build(degree, inner, roots, *nothing)
    row, column, harmonic = np.empty((3, count), np.int32)
    terms = Terms(row, column, harmonic, np.empty(count))
    build(degree, inner, roots, *terms)
    return terms


@lru_cache(maxsize=4)
def root_binomials(size: int) -> np.ndarray:
    """Return the square roots of the binomial coefficients."""
    table = np.zeros((size, size))
    table[:, 0] = 1.0
    for n in range(1, size):
        table[n, 1 : n + 1] = table[n - 1, :n] + table[n - 1, 1 : n + 1]
    return np.sqrt(table)


@jit
def dense(terms, h, out):
    """Write the matrix of `terms` for harmonics h of the shift."""
    row, column, harmonic, factor = terms
    out[:] = 0.0
    for i in range(len(row)):
        out[row[i], column[i]] += factor[i] * h[harmonic[i]]


@jit
def _part(order):
    """Return real and imaginary factor of the complex harmonic in its cosine and sine.

    For order m > 0 it is (cos + i sin) / sqrt 2, for m < 0 (-1)^m times the conjugate.
    """
    if order == 0:
        return 1.0, 0.0
    half = np.sqrt(0.5)
    if order > 0:
        return half, half
    sign = 1.0 - 2.0 * (-order % 2)
    return sign * half, -sign * half


@jit
def _products(count, root, outer, inner, q, conjugate, indices, outers, inners, harmonics, factors):
    """Write the terms of one product of complex harmonics; return how many there are by now.

    It is (c C + i s S)(u U + i v V) with cosine C and sine S of order `inner` of a point, their
    sign changed in S if `conjugate`, and U, V of order `q` of the shift; its real part belongs to
    the cosine of order `outer` >= 0, its imaginary part to the sine. With empty arrays terms are
    counted only.
    """
    c, s = _part(inner)
    u, v = _part(q)
    norm = root * (np.sqrt(2.0) if outer > 0 else 1.0)
    for sine in range(2 if outer > 0 else 1):
        for left in range(2 if inner != 0 else 1):
            right = (left + sine) % 2
            if right == 1 and q == 0:
                continue
            if len(outers) > 0:
                value = norm * (s if left else c) * (v if right else u)
                outers[count] = indices[0] + sine
                inners[count] = indices[1] + left
                harmonics[count] = indices[2] + right
                factors[count] = -value if left and bool(right) != conjugate else value
            count += 1
    return count


@jit
def _index(degree, order):
    """Return the index of a harmonic's cosine."""
    return degree * degree + max(2 * abs(order) - 1, 0)


@jit
def _shift_terms(degree, inner, roots, rows, columns, harmonics, factors):
    """R_n^m(y + d) = sum_jl root R_j^l(y) R_(n-j)^(m-l)(d), split into real and imaginary parts."""
    count = 0
    for n in range(degree + 1):
        for m in range(n + 1):
            for j in range(min(n, inner) + 1):
                # |m - l| <= n - j
                for order in range(max(-j, m - n + j), min(j, m + n - j) + 1):
                    q = m - order
                    root = roots[n + m, j + order] * roots[n - m, j - order]
                    indices = (_index(n, m), _index(j, order), _index(n - j, q))
                    count = _products(
                        count, root, m, order, q, False, indices, rows, columns, harmonics, factors
                    )
    return count


@jit
def _transfer_terms(degree, inner, roots, rows, columns, harmonics, factors):
    """I_j^l(d + x) = sum_km (-1)^k root conj(R_k^m(x)) I_(j+k)^(l+m)(d), in parts."""
    count = 0
    for j in range(inner + 1):
        for order in range(j + 1):
            for k in range(degree + 1):
                n = j + k
                for m in range(-k, k + 1):
                    q = order + m
                    root = roots[n + q, j + order] * roots[n - q, j - order] * (1.0 - 2.0 * (k % 2))
                    indices = (_index(j, order), _index(k, m), _index(n, q))
                    count = _products(
                        count, root, order, m, q, True, indices, columns, rows, harmonics, factors
                    )
    return count
