"""The multipole field in plain torch: the slow twin of the compiled operator.

Every pair is a row. Autograd differentiates it to any order; nothing is fused and everything is
stored. It is the tests' oracle, the path for export, and for whatever Numba does not run on.
"""

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

import multipoles as mp
from gnn.operators.gpu import on_gpu, table
from multipoles import indexing
from multipoles.radial import Kernel

_NEAR = 8.0  # (a r)^2 up to which the Boys functions are summed as a series


def field(
    targets: Tensor, sources: Tensor, moments: Tensor, order: int, kernel: Kernel, pairs: Tensor
) -> Tensor:
    """Return the field of multipoles, summed over given pairs.

    Parameters
    ----------
    targets, sources : Tensor
        (n_targets, 3) and (n_sources, 3) points.
    moments : Tensor
        (n_sources, channels, n_components) packed moments.
    order : int
        Highest derivative of the potential.
    kernel : Kernel
        Radial kernel, one of those in `multipoles`.
    pairs : Tensor
        (n_pairs, 2) int64, columns target and source.

    Returns
    -------
    Tensor
        (n_targets, channels, n_components(order)).
    """
    target, source = pairs[:, 0], pairs[:, 1]
    r = targets[target] - sources[source]
    apart = (r.detach() != 0).any(dim=1)
    r, target, source = r[apart], target[apart], source[apart]
    rows = of_pairs(r, moments[source], order, kernel)
    return rows.new_zeros(len(targets), *rows.shape[1:]).index_add(0, target, rows)


def field_where(
    targets: Tensor,
    sources: Tensor,
    moments: Tensor,
    order: int,
    kernel: Kernel,
    pairs: tuple[Tensor, Tensor],
    meets: Tensor,
) -> Tensor:
    """`field` for tracing: no shape depends on the values of tensors.

    `pairs` are targets and sources (P,); only those where `meets` (P,) is true contribute.
    """
    target, source = pairs
    r = targets.index_select(0, target) - sources.index_select(0, source)
    meets = meets & (r.detach() != 0).any(dim=1)
    r = torch.where(meets[:, None], r, torch.ones_like(r))
    rows = of_pairs(r, moments.index_select(0, source), order, kernel)
    rows = rows * meets[:, None, None]
    return rows.new_zeros(targets.shape[0], *rows.shape[1:]).index_add(0, target, rows)


def of_pairs(r: Tensor, moments: Tensor, order: int, kernel: Kernel) -> Tensor:
    """Return the field of each pair at its target, (P, channels, n_components(order)).

    `r` (P, 3) points from source to target; `moments` (P, channels, n_components) are the source's.
    """
    source_order = indexing.order_of(moments.shape[-1])
    tensor = derivatives(r, source_order + order, kernel)
    sums = table(indexing.sum_index(source_order, order), r, torch.int64)
    signs = table(indexing.signs(source_order), r)
    return torch.einsum("pca,pab->pcb", moments * signs, tensor[:, sums])


def derivatives(r: Tensor, order: int, kernel: Kernel) -> Tensor:
    """Return all derivatives of the kernel at points r (P, 3), packed to `order`."""
    chain = radial_chain(kernel, (r * r).sum(dim=1), order)
    gamma = indexing.multi_indices(order)
    table = indexing.recursion_table(order)
    # rows of step n: the derivatives of (1/r d/dr)^n f up to order - n
    rows: list[Tensor] = []
    for n in range(order, -1, -1):
        fresh = [(-1) ** n * chain[n]]
        for row in range(1, indexing.n_components(order - n)):
            axis, weight = int(table.axis[row]), int(table.weight[row])
            value = r[:, axis] * rows[table.parent[row]]
            if weight:
                value = value + weight * rows[table.grandparent[row]]
            fresh.append(value)
        rows = fresh
    return torch.stack(rows[: len(gamma)], dim=1)


def radial_chain(kernel: Kernel, r2: Tensor, n_max: int) -> list[Tensor]:
    """Return B_n = (-1)^n (1/r d/dr)^n f for n = 0 … n_max at squared distances r2 > 0."""
    if isinstance(kernel, mp.Coulomb):
        return _powers(r2, 1.0, n_max)
    if isinstance(kernel, mp.InversePower):
        return _powers(r2, kernel.p, n_max)
    if isinstance(kernel, mp.Erf):
        return _erf(r2, kernel.alpha, n_max)
    if isinstance(kernel, mp.Erfc):
        screened = _erf(r2, kernel.alpha, n_max)
        return [a - b for a, b in zip(_powers(r2, 1.0, n_max), screened, strict=True)]
    if isinstance(kernel, mp.Yukawa):
        return _yukawa(r2, kernel.kappa, n_max)
    if isinstance(kernel, mp.Thole):
        return _thole(r2, kernel.a, n_max)
    if isinstance(kernel, mp.ReactionField):
        return _reaction_field(r2, kernel, n_max)
    if isinstance(kernel, mp.Softened):
        return _softened(r2, kernel.cutoff, kernel.terms, n_max)
    raise TypeError(f"expected a radial kernel of multipoles, got {type(kernel).__name__}")


def _powers(r2: Tensor, p: float, n_max: int) -> list[Tensor]:
    chain = [r2 ** (-p / 2)]
    for n in range(n_max):
        chain.append((p + 2 * n) * chain[-1] / r2)
    return chain


def _softened(r2: Tensor, cutoff: float, terms: int, n_max: int) -> list[Tensor]:
    """B_n = (-2/c^2)^n g^(n)(s)/c inside the cutoff, g the series of s^(-1/2) about s = 1."""
    inside = r2 < cutoff**2
    u = r2 / cutoff**2 - 1
    coefficients = [1.0]
    for j in range(terms - 1):
        coefficients.append(coefficients[-1] * (-0.5 - j) / (j + 1))
    chain = []
    outside = _powers(torch.where(inside, torch.full_like(r2, cutoff**2), r2), 1.0, n_max)
    for n in range(n_max + 1):
        value = torch.zeros_like(u)
        for c in reversed(coefficients):
            value = value * u + c
        chain.append(torch.where(inside, (-2 / cutoff**2) ** n * value / cutoff, outside[n]))
        coefficients = [k * c for k, c in enumerate(coefficients)][1:]
    return chain


def _erf(r2: Tensor, alpha: float, n_max: int) -> list[Tensor]:
    """B_n = 2 alpha / sqrt(pi) (2 alpha^2)^n F_n(alpha^2 r^2), F_n the Boys function."""
    x = alpha * alpha * r2
    small = x < _NEAR
    inner = torch.where(small, x, torch.ones_like(x))
    # series for the highest order, then downward: (2n + 1) F_n = 2 x F_{n+1} + exp(-x)
    coefficients = [1 / (2 * n_max + 1)]
    for k in range(1, 56):
        coefficients.append(coefficients[-1] * 2 * _NEAR / (2 * n_max + 2 * k + 1))
    # in a variable up to 1: derivatives by powers of a larger one would overflow float32
    fraction = inner / _NEAR
    series = torch.zeros_like(x)
    for coefficient in reversed(coefficients):
        series = series * fraction + coefficient
    decay = torch.exp(-inner)
    boys = [decay * series]
    for n in range(n_max - 1, -1, -1):
        boys.insert(0, (2 * inner * boys[0] + decay) / (2 * n + 1))
    outer = torch.where(small, torch.ones_like(x), x)
    far_decay = torch.exp(-outer)
    far = [0.5 * torch.sqrt(math.pi / outer) * torch.erf(torch.sqrt(outer))]
    for n in range(n_max):
        far.append(((2 * n + 1) * far[-1] - far_decay) / (2 * outer))
    scale = 2 * alpha / math.sqrt(math.pi)
    return [
        scale * (2 * alpha * alpha) ** n * torch.where(small, near, away)
        for n, (near, away) in enumerate(zip(boys, far, strict=True))
    ]


def _yukawa(r2: Tensor, kappa: float, n_max: int) -> list[Tensor]:
    r = torch.sqrt(r2)
    decay = torch.exp(-kappa * r)
    chain = [decay / r, (1 + kappa * r) * decay / (r2 * r)]
    for n in range(1, n_max):
        chain.append(((2 * n + 1) * chain[n] + kappa * kappa * chain[n - 1]) / r2)
    return chain[: n_max + 1]


def _thole(r2: Tensor, a: float, n_max: int) -> list[Tensor]:
    """B_n = (2n-1)!! / r^(2n+1) (1 - p_n(x) exp(-x)) with x = a r^3, for n >= 1."""
    r = torch.sqrt(r2)
    x = a * r2 * r
    third = r.new_full((), 2 / 3)
    rest = a ** (1 / 3) * math.gamma(2 / 3) * torch.special.gammaincc(third, x)
    chain = [-torch.expm1(-x) / r + rest]
    polynomial, factor = [1.0], 1.0
    for n in range(1, n_max + 1):
        value = sum(c * x**k for k, c in enumerate(polynomial))
        hole = -torch.expm1(-x) - (value - 1) * torch.exp(-x)
        closed = factor * hole / r ** (2 * n + 1)
        # near zero the difference cancels
        chain.append(torch.where(x < 2.3, _thole_series(r, a, n), closed))
        factor *= 2 * n + 1
        slope = [*(k * c for k, c in enumerate(polynomial) if k), 0.0]
        step = [3 / (2 * n + 1) * (c - d) for c, d in zip(polynomial, slope, strict=True)]
        polynomial = [c + s for c, s in zip([*polynomial, 0.0], [0.0, *step], strict=True)]
    return chain


def _thole_series(r: Tensor, a: float, n: int) -> Tensor:
    """B_n by powers of r, for a r^3 < 2.3: (1 - exp(-a r^3))/r^3 differentiated term by term."""
    r = torch.where(a * r**3 < 2.3, r, torch.full_like(r, (2.3 / a) ** (1 / 3)))
    total = torch.zeros_like(r)
    for k in range(1, 50):
        factor = -((-a) ** k) / math.factorial(k)
        for j in range(n - 1):
            factor *= -(3 * k - 3 - 2 * j)
        if factor:
            total = total + factor * r ** (3 * k - 1 - 2 * n)
    return total


@cache
def _sum_of_powers(terms: tuple[tuple[float, float], ...], n_max: int) -> tuple[Any, Any]:
    """Return exponents (K,) of r^2, and the factors (K, n_max + 1) of these powers in the chain."""
    found: dict[float, list[float]] = {}
    for coefficient, power in terms:
        factor = coefficient
        for n in range(n_max + 1):
            if factor:
                found.setdefault(0.5 * power - n, [0.0] * (n_max + 1))[n] += factor
            factor *= -(power - 2 * n)
    return np.array([*found]), np.array([*found.values()])


def _reaction_field(r2: Tensor, kernel: mp.ReactionField, n_max: int) -> list[Tensor]:
    cutoff, k, a_m, m, a_n, n_power, shift = kernel.parameters
    terms = ((1.0, -1.0), (k, 2.0), (a_m, m), (a_n, n_power), (-shift, 0.0))
    inside = r2 < cutoff**2
    if on_gpu(r2):  # few kernels
        exponents, factors = _sum_of_powers(terms, n_max)
        powers = r2[..., None] ** table(exponents, r2)
        found = torch.where(inside[..., None], powers @ table(factors, r2), 0.0)
        return list(found.unbind(-1))
    chain = [torch.zeros_like(r2) for _ in range(n_max + 1)]
    for coefficient, power in terms:
        factor = coefficient
        for n in range(n_max + 1):
            if factor:
                chain[n] = chain[n] + factor * r2 ** (0.5 * power - n)
            factor *= -(power - 2 * n)
    return [torch.where(inside, b, torch.zeros_like(b)) for b in chain]
