"""The field of multipoles in a cell, differentiable by points, moments and lattice vectors.

The Ewald sum of `multipoles.lattice`, of which the plan (images, pairs, waves, where to split) is
made once and taken for constant, since the sum does not depend on it. The near part is the field of
images, whose places are functions of the lattice vectors, by the operator of free space. The waves
are two operators, structure factors and synthesis, each the other's adjoint and closed under
differentiation like the field itself; what they are multiplied by is arithmetic of torch.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnn.operators.field_operator import contract, unchecked_field
from multipoles import indexing
from multipoles.lattice import waves
from multipoles.lattice.cell import Cell, cell_of
from multipoles.lattice.ewald import Ewald, erf_at_zero
from multipoles.lattice.own import own_matrix
from multipoles.lattice.periodic import Lattice
from multipoles.radial import Kernel


def width(order: int) -> int:
    """Return the number of components of fields up to an order."""
    return indexing.n_components(order)


class System:
    """One system in its cell: points and lattice vectors as functions of the arguments."""

    def __init__(
        self,
        targets: Tensor,
        sources: Tensor,
        cell: Tensor,
        kernel: Kernel,
        lattice: Lattice,
        tolerance: float,
        orders: tuple[int, int],
        same: bool,
    ) -> None:
        x = targets.detach().numpy()
        s = x if same else sources.detach().numpy()
        rows = cell_of(cell.detach().numpy(), lattice.periodic)
        self._lay_out(x, s, rows, kernel, tolerance, orders)
        self.vectors = _vectors(cell, rows.choice)
        self.surface = lattice.surface
        self.given = targets, sources
        self.targets = targets + torch.from_numpy(rows.images(x)) @ self.vectors
        self.sources = sources + torch.from_numpy(rows.images(s)) @ self.vectors
        self.volume = torch.linalg.det(self.vectors).abs()

    def _lay_out(
        self,
        x: np.ndarray,
        s: np.ndarray,
        cell: Cell,
        kernel: Kernel,
        tolerance: float,
        orders: tuple[int, int],
    ) -> None:
        """Make the plan; of it, keep who is near whom, by which kernels, and whether waves are."""
        self.plan: Any = Ewald(x, s, cell, kernel, tolerance, *orders)
        self.near, self.kernels = self.plan.near, self.plan.near_kernels
        self.has_waves = self.plan.split.eta > 0

    def field(self, moments: Tensor, order: int) -> Tensor:
        """Return the field (n_targets, channels, components)."""
        images, pairs, coincident = self.near
        origin = torch.from_numpy(images.origin)
        steps = torch.from_numpy(images.steps.astype(np.float64))
        points = self.sources.index_select(0, origin) + steps @ self.vectors
        moved = moments.index_select(0, origin)
        phi = moments.new_zeros(len(self.targets), moments.shape[1], width(order))
        for factor, kernel in self.kernels:
            given = self.targets, points, moved, order, kernel, pairs
            phi = phi + factor * unchecked_field(*given)
        if self.has_waves:
            phi = phi + self._smooth_field(moments, order)
            phi = phi - self._own_field(moved, coincident, order)
        if self.surface == "vacuum":
            phi = phi + _of_surface(*self.given, moments, order, self.volume)
        return phi

    def _smooth_field(self, moments: Tensor, order: int) -> Tensor:
        split = self.plan.split
        lengths = np.ones(3)
        lengths[self.plan.cell.n_periodic :] = split.lengths
        box = self.vectors * torch.from_numpy(lengths)[:, None]
        inverse = torch.linalg.inv(box)
        to_moments = monomial_matrices(inverse, indexing.order_of(moments.shape[-1]))
        to_field = monomial_matrices(inverse, order)
        fractional = by_orders(moments, to_moments)
        factors = structure_factors(self.sources @ inverse, fractional, split.limits)
        weights = self._weights(inverse) / (self.volume * float(np.prod(split.lengths)))
        phi = synthesis(self.targets @ inverse, factors * weights, order, split.limits)
        phi = by_orders(phi, [matrix.T for matrix in to_field])
        if self.plan.cell.n_periodic < 3:
            return phi
        background = -math.pi / (split.eta**2 * self.volume) * moments[:, :, 0].sum(0)
        return torch.cat([phi[..., :1] + background[None, :, None], phi[..., 1:]], dim=-1)

    def _weights(self, inverse: Tensor) -> Tensor:
        """Return the transform of 1/r, smoothed, of all waves."""
        split, d = self.plan.split, self.plan.cell.n_periodic
        grid = np.stack(np.meshgrid(*waves.numbers(split.limits), indexing="ij"), axis=-1)
        numbers = torch.from_numpy(2 * math.pi * grid.astype(np.float64))
        # across what repeats the box is what the plan has made it, whatever the lattice vectors
        along = numbers[..., :d] @ inverse[:, :d].T
        p2 = (along**2).sum(-1)
        q2 = ((numbers[..., d:] / torch.from_numpy(split.lengths)) ** 2).sum(-1)
        still = torch.from_numpy((grid[..., :d] == 0).all(-1))
        found = transform(p2, q2, still, d, split.cut)
        return found * torch.exp(-(p2 + q2) / (4 * split.eta**2))

    def _at_zero(self, order: int) -> np.ndarray:
        return erf_at_zero(order, self.plan.split.eta)

    def _own_field(self, moved: Tensor, coincident: np.ndarray, order: int) -> Tensor:
        source_order = indexing.order_of(moved.shape[-1])
        matrix = own_matrix(self._at_zero(source_order + order), source_order, order)
        receivers, senders = torch.from_numpy(np.ascontiguousarray(coincident.T))
        found = moved.index_select(0, senders) @ torch.from_numpy(matrix)
        zeros = moved.new_zeros(len(self.targets), moved.shape[1], width(order))
        return zeros.index_add(0, receivers, found)


def _vectors(cell: Tensor, choice: np.ndarray) -> Tensor:
    """Return the reduced vectors that repeat, then unit vectors across, as `cell_of` makes them."""
    vectors = torch.from_numpy(choice.astype(np.float64)) @ cell
    if len(vectors) == 3:
        return vectors
    if len(vectors) == 2:
        normal = torch.linalg.cross(vectors[0], vectors[1])
        return torch.cat([vectors, (normal / normal.norm())[None]])
    along = vectors[0] / vectors[0].norm()
    aside = torch.eye(3, dtype=cell.dtype)[int(along.detach().abs().argmin())]
    aside = aside - (aside @ along) * along
    aside = aside / aside.norm()
    return torch.cat([vectors, torch.stack([aside, torch.linalg.cross(along, aside)])])


def by_orders(packed: Tensor, matrices: list[Tensor]) -> Tensor:
    """Return packed numbers with those of each order multiplied by a matrix."""
    parts = [packed[..., indexing.order_slice(k)] @ matrix for k, matrix in enumerate(matrices)]
    return torch.cat(parts, dim=-1)


def monomial_matrices(rotation: Tensor, order: int) -> list[Tensor]:
    """Return, per order, the matrix D with (R d)^alpha = sum_beta D[alpha, beta] d^beta."""
    blocks = [rotation.new_ones(1, 1)]
    unit = np.eye(3, dtype=np.int64)
    for rank in range(1, order + 1):
        lower, start = indexing.order_slice(rank - 1), indexing.order_slice(rank).start
        size = indexing.order_slice(rank).stop - start
        raised = indexing.sum_index(rank, 1)[lower, 1:] - start
        rows = []
        for alpha in indexing.multi_indices(rank)[start:]:
            i = int(np.argmax(alpha > 0))
            parent = blocks[-1][indexing.component_index(*(alpha - unit[i])) - lower.start]
            terms = (rotation[i][None] * parent[:, None]).reshape(-1)
            index = torch.from_numpy(np.ascontiguousarray(raised.ravel()))
            rows.append(rotation.new_zeros(size).index_add(0, index, terms))
        blocks.append(torch.stack(rows))
    return blocks


# --- waves ----------------------------------------------------------------------------------------


def structure_factors(u: Tensor, moments: Tensor, limits: waves.Limits) -> Tensor:
    """Return `multipoles.lattice.waves.structure_factors`, differentiable to any order."""
    return _StructureFactors.apply(u, moments, limits)


def synthesis(u: Tensor, coefficients: Tensor, order: int, limits: waves.Limits) -> Tensor:
    """Return `multipoles.lattice.waves.synthesis`, differentiable to any order."""
    return _Synthesis.apply(u, coefficients, order, limits)


class _StructureFactors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, moments: Tensor, limits: waves.Limits) -> Tensor:
        ctx.save_for_backward(u, moments)
        ctx.limits = limits
        given = u.detach().numpy(), moments.detach().numpy()
        return torch.from_numpy(waves.structure_factors(*given, limits))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        u, moments = ctx.saved_tensors
        by_points, by_moments = ctx.needs_input_grad[:2]
        order = indexing.order_of(moments.shape[-1]) + int(by_points)
        # a synthesis counts waves of c > 0 twice
        phi = synthesis(u, gradient * _weights_of(gradient, 0.5), order, ctx.limits)
        to_points = contract(moments, phi) if by_points else None
        to_moments = phi[..., : moments.shape[-1]] if by_moments else None
        return to_points, to_moments, None


class _Synthesis(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, coefficients: Tensor, order: int, limits: waves.Limits
    ) -> Tensor:
        ctx.save_for_backward(u, coefficients)
        ctx.order, ctx.limits = order, limits
        given = u.detach().numpy(), coefficients.detach().resolve_conj().numpy()
        return torch.from_numpy(waves.synthesis(*given, order, limits))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        u, coefficients = ctx.saved_tensors
        by_points, by_coefficients = ctx.needs_input_grad[:2]
        to_points = to_coefficients = None
        if by_points:
            to_points = contract(gradient, synthesis(u, coefficients, ctx.order + 1, ctx.limits))
        if by_coefficients:
            to_coefficients = structure_factors(u, gradient, ctx.limits)
            to_coefficients = to_coefficients * _weights_of(to_coefficients, 2.0)
        return to_points, to_coefficients, None, None


def _weights_of(factors: Tensor, weight: float) -> Tensor:
    """Return a factor for waves of c > 0, one for those of c = 0."""
    weights = torch.full((factors.shape[-1],), weight, dtype=torch.float64)
    weights[0] = 1.0
    return weights


# --- transforms, as in `multipoles.lattice.transform` ---------------------------------------------


def transform(p2: Tensor, q2: Tensor, still: Tensor, n_periodic: int, cut: float) -> Tensor:
    """Return the transform of 1/r from squares of wave numbers along and across what repeats."""
    # no square root, and no fraction, is taken of zero: its derivative would be NaN
    safe = torch.where(still, torch.ones_like(p2), p2)
    if n_periodic == 3:
        return torch.where(still, torch.zeros_like(p2), 4 * math.pi / safe)
    p, q = safe.sqrt(), q2.sqrt()
    angle = (q * cut).numpy()
    if n_periodic == 2:
        at_zero = _fraction(1 - np.cos(angle) - angle * np.sin(angle), q2, -0.5 * cut**2)
        sine, cosine = (torch.from_numpy(f(angle)) for f in (np.sin, np.cos))
        wave = torch.exp(-p * cut) * (q / p * sine - cosine)
    else:
        from scipy import special  # slow to import

        log = math.log(cut)
        j0, j1 = special.j0(angle), special.j1(angle)
        zero = cut**2 * (0.25 - 0.5 * log)
        at_zero = _fraction(1 - j0 - angle * log * j1, q2, zero)
        depth = p * cut
        wave = torch.from_numpy(angle * j1) * _bessel_k0(depth)
        wave = wave - depth * torch.from_numpy(j0) * _bessel_k1(depth)
    return 4 * math.pi * torch.where(still, at_zero, (1 + wave) / (safe + q2))


def _fraction(numerator: np.ndarray, q2: Tensor, at_zero: float) -> Tensor:
    safe = torch.where(q2 > 0, q2, torch.ones_like(q2))
    return torch.where(q2 > 0, torch.from_numpy(numerator) / safe, torch.full_like(q2, at_zero))


def _bessel_k0(x: Tensor) -> Tensor:
    return _BesselK0.apply(x)


def _bessel_k1(x: Tensor) -> Tensor:
    return _BesselK1.apply(x)


class _BesselK0(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.special.modified_bessel_k0(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient * _bessel_k1(ctx.saved_tensors[0])


class _BesselK1(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.special.modified_bessel_k1(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x = ctx.saved_tensors[0]
        return -gradient * (_bessel_k0(x) + _bessel_k1(x) / x)


def _of_surface(
    targets: Tensor, sources: Tensor, moments: Tensor, order: int, volume: Tensor
) -> Tensor:
    """Return the field of the kernel -2π r²/(3V), see `multipoles.lattice.surface`."""
    charges = moments[:, :, 0]
    charge, dipole = charges.sum(0), charges.T @ sources
    second = charges.T @ (sources**2).sum(1)
    if moments.shape[2] >= 4:
        dipole = dipole + moments[:, :, 1:4].sum(0)
        second = second + 2 * torch.einsum("ica,ia->c", moments[:, :, 1:4], sources)
    if moments.shape[2] >= 10:
        second = second + 2 * moments[:, :, [4, 7, 9]].sum((0, 2))
    factor = -2 * math.pi / (3 * volume)
    potential = (targets**2).sum(1)[:, None] * charge - 2 * targets @ dipole.T + second
    parts = [(factor * potential)[..., None]]
    if order >= 1:
        parts.append(2 * factor * (targets[:, None] * charge[:, None] - dipole))
    if order >= 2:
        flat = torch.zeros(len(targets), moments.shape[1], width(order) - 4, dtype=targets.dtype)
        unit = torch.zeros(width(order) - 4, dtype=targets.dtype)
        unit[[0, 3, 5]] = 1.0
        parts.append(flat + 2 * factor * charge[:, None] * unit)
    return torch.cat(parts, dim=-1)
