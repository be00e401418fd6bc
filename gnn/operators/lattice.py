"""The field of multipoles in a cell, differentiable by points, moments and lattice vectors.

The Ewald sum of `multipoles.lattice`, of which the plan (images, pairs, waves, where to split) is
made once and taken for constant, since the sum does not depend on it. The near part is the field of
images, whose places are functions of the lattice vectors, by the operator of free space. The waves
are two operators, structure factors and synthesis, each the other's adjoint and closed under
differentiation like the field itself; what they are multiplied by is arithmetic of torch.
"""

import math
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnn.operators.field_operator import field_by, unchecked_field
from gnn.operators.lattice_transform import transform
from gnn.operators.raising import contract
from multipoles import indexing
from multipoles.lattice.cell import Cell
from multipoles.lattice.ewald import Ewald, erf_at_zero
from multipoles.lattice.own import own_matrix
from multipoles.lattice.waves import Waves
from multipoles.radial import Kernel


def width(order: int) -> int:
    """Return the number of components of fields up to an order."""
    return indexing.n_components(order)


class Periodic:
    """An Ewald sum as an evaluator, for lattice vectors that are constant."""

    def __init__(self, plan: Ewald) -> None:
        self.plan = plan

    def field(
        self, targets: np.ndarray, sources: np.ndarray, moments: np.ndarray, order: int
    ) -> np.ndarray:
        """Return the field at the plan's targets."""
        return self.plan.field(moments, self.plan.factors_of(moments), order)

    @property
    def transposed(self) -> "Periodic":
        """The same sum with targets and sources exchanged."""
        return self if self.plan.transposed is self.plan else Periodic(self.plan.transposed)


class System:
    """Systems in their cells, one or those of a batch that are alike: all that is differentiable.

    Parameters
    ----------
    targets, sources : Tensor
        Points, float64, system after system.
    cells : Tensor, shape (n_systems, 3, 3)
        Lattice vectors as rows.
    reduced : Cell
        The reduced cells of their values.
    kernel : Kernel
        Radial kernel.
    surface : str
        See `multipoles.field`.
    tolerance : float
        Relative error that is aimed at.
    orders : tuple of int
        Of moments and field.
    same : bool
        Whether sources are the targets.
    ends : tuple of two ndarrays of int, shape (n_systems + 1,)
        First target and first source of each system.
    """

    def __init__(
        self,
        targets: Tensor,
        sources: Tensor,
        cells: Tensor,
        reduced: Cell,
        kernel: Kernel,
        surface: str,
        tolerance: float,
        orders: tuple[int, int],
        same: bool,
        ends: tuple[np.ndarray, np.ndarray],
    ) -> None:
        x = targets.detach().numpy()
        s = x if same else sources.detach().numpy()
        self._lay_out(x, s, reduced, kernel, tolerance, orders, ends)
        self.vectors, self.surface, self.ends = _vectors(cells, reduced), surface, ends
        self.given, self.same, self.reduced = (targets, sources), same, reduced
        self.of_targets, self.of_sources = (
            torch.from_numpy(np.repeat(np.arange(len(reduced)), np.diff(each))) for each in ends
        )
        self.volumes = torch.linalg.det(self.vectors).abs()

    @cached_property
    def targets(self) -> Tensor:
        """Targets, moved into the cell."""
        moves = self.reduced.images(self.given[0].detach().numpy(), self.ends[0])
        return self.given[0] + self._moved(moves, self.of_targets)

    @cached_property
    def sources(self) -> Tensor:
        """Sources, moved into the cell."""
        if self.same:
            return self.targets
        moves = self.reduced.images(self.given[1].detach().numpy(), self.ends[1])
        return self.given[1] + self._moved(moves, self.of_sources)

    def _lay_out(
        self,
        x: np.ndarray,
        s: np.ndarray,
        cell: Cell,
        kernel: Kernel,
        tolerance: float,
        orders: tuple[int, int],
        ends: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """Make the plan; of it, keep who is near whom, by which kernels, and whether waves are."""
        self.plan: Any = Ewald(x, s, cell, kernel, tolerance, *orders, ends=ends)
        self.near, self.kernels = self.plan.near, self.plan.near_kernels
        self.has_waves = self.plan.split.eta > 0
        self.evaluator: Periodic | None = Periodic(self.plan)

    def _moved(self, steps: np.ndarray, system: Tensor) -> Tensor:
        """Return whole numbers of lattice vectors."""
        return times(torch.from_numpy(steps.astype(np.float64)), self.vectors, system)

    def field(self, moments: Tensor, order: int) -> Tensor:
        """Return the field (n_targets, channels, components)."""
        if self.evaluator is not None and not self.vectors.requires_grad:
            phi = field_by(*self.given, moments, order, self.evaluator)
        else:
            phi = self._field_of_parts(moments, order)
        if self.surface == "vacuum":
            systems = self.of_targets, self.of_sources
            phi = phi + _of_surface(*self.given, moments, order, self.volumes, systems)
        return phi

    def _field_of_parts(self, moments: Tensor, order: int) -> Tensor:
        """Return the field as a function of the lattice vectors, too."""
        images, pairs, coincident = self.near
        origin = torch.from_numpy(images.origin)
        moves = self._moved(images.steps, self.of_sources.index_select(0, origin))
        points = self.sources.index_select(0, origin) + moves
        moved = moments.index_select(0, origin)
        phi = moments.new_zeros(len(self.targets), moments.shape[1], width(order))
        for factor, kernel in self.kernels:
            given = self.targets, points, moved, order, kernel, pairs
            phi = phi + factor * unchecked_field(*given)
        if self.has_waves:
            phi = phi + self._smooth_field(moments, order)
            phi = phi - self._own_field(moved, coincident, order)
        return phi

    def _smooth_field(self, moments: Tensor, order: int) -> Tensor:
        split, waves = self.plan.split, self.plan.waves
        lengths = np.ones(3)
        lengths[self.plan.cell.n_periodic :] = split.lengths
        inverse = torch.linalg.inv(self.vectors * torch.from_numpy(lengths)[:, None])
        to_moments = monomial_matrices(inverse, indexing.order_of(moments.shape[-1]))
        to_field = [matrix.transpose(1, 2) for matrix in monomial_matrices(inverse, order)]
        fractional = by_orders(moments, to_moments, self.of_sources)
        places = times(self.targets, inverse, self.of_targets)
        others = places
        if self.sources is not self.targets:
            others = times(self.sources, inverse, self.of_sources)
        factors = structure_factors(others, fractional, waves, self.ends[1])
        phi = synthesis(places, factors * self._weights(inverse), order, waves, self.ends[0])
        phi = by_orders(phi, to_field, self.of_targets)
        if self.plan.cell.n_periodic < 3:
            return phi
        charges = moments.new_zeros(len(self.volumes), moments.shape[1])
        charges = charges.index_add(0, self.of_sources, moments[:, :, 0])
        background = -math.pi / (split.eta**2 * self.volumes)[:, None] * charges
        return with_background(phi, background.index_select(0, self.of_targets))

    def _weights(self, inverse: Tensor) -> Tensor:
        """Return the transform of 1/r, smoothed, of all waves; twice where -m is not there."""
        split, d, waves = self.plan.split, self.plan.cell.n_periodic, self.plan.waves
        system = torch.from_numpy(waves.systems)
        numbers = torch.from_numpy(2 * math.pi * waves.numbers.astype(np.float64))
        # across what repeats the box is what the plan has made it, whatever the lattice vectors
        along = times(numbers[:, :d], inverse[:, :, :d].transpose(1, 2), system)
        p2 = (along**2).sum(-1)
        q2 = ((numbers[:, d:] / torch.from_numpy(split.lengths)) ** 2).sum(-1)
        still = ~numbers[:, :d].any(1)
        found = transform(p2, q2, still, d, split.cut)
        twice = 1.0 + numbers.any(1).double()
        volumes = (self.volumes * float(np.prod(split.lengths))).index_select(0, system)
        return found * torch.exp(-(p2 + q2) / (4 * split.eta**2)) * twice / volumes

    def _at_zero(self, order: int) -> np.ndarray:
        return erf_at_zero(order, self.plan.split.eta)

    def _own_field(self, moved: Tensor, coincident: np.ndarray, order: int) -> Tensor:
        source_order = indexing.order_of(moved.shape[-1])
        matrix = own_matrix(self._at_zero(source_order + order), source_order, order)
        receivers, senders = torch.from_numpy(np.ascontiguousarray(coincident.T))
        found = moved.index_select(0, senders) @ torch.from_numpy(matrix)
        zeros = moved.new_zeros(len(self.targets), moved.shape[1], width(order))
        return zeros.index_add(0, receivers, found)


def _vectors(cells: Tensor, reduced: Cell) -> Tensor:
    """Return the reduced vectors that repeat, then unit vectors across, like `cells_of`."""
    vectors = torch.from_numpy(reduced.choice.astype(np.float64)) @ cells
    if reduced.n_periodic == 3:
        return vectors
    return torch.stack([_completed(rows) for rows in vectors])


def _completed(vectors: Tensor) -> Tensor:
    if len(vectors) == 2:
        normal = torch.linalg.cross(vectors[0], vectors[1])
        return torch.cat([vectors, (normal / normal.norm())[None]])
    along = vectors[0] / vectors[0].norm()
    aside = torch.eye(3, dtype=vectors.dtype)[int(along.detach().abs().argmin())]
    aside = aside - (aside @ along) * along
    aside = aside / aside.norm()
    return torch.cat([vectors, torch.stack([aside, torch.linalg.cross(along, aside)])])


def times(rows: Tensor, matrices: Tensor, system: Tensor) -> Tensor:
    """Return rows (n, ..., k) times the matrix (k, l) of their system."""
    if len(matrices) == 1:
        return rows @ matrices[0]
    own = matrices.index_select(0, system)
    own = own.view(len(rows), *(1,) * (rows.dim() - 2), *own.shape[1:])
    return (rows[..., None] * own).sum(-2)


def with_background(phi: Tensor, background: Tensor) -> Tensor:
    """Return a field with a potential (n, channels) added."""
    return torch.cat([phi[..., :1] + background[..., None], phi[..., 1:]], dim=-1)


def by_orders(packed: Tensor, matrices: list[Tensor], system: Tensor) -> Tensor:
    """Return packed numbers with those of each order multiplied by a matrix of their system."""
    if len(matrices) == 1:
        return packed
    parts = [packed[..., :1]]
    for rank, matrix in enumerate(matrices[1:], start=1):
        parts.append(times(packed[..., indexing.order_slice(rank)], matrix, system))
    return torch.cat(parts, dim=-1)


def monomial_matrices(rotations: Tensor, order: int) -> list[Tensor]:
    """Return, per order, matrices D with (R d)^alpha = sum_beta D[alpha, beta] d^beta, (n, …)."""
    blocks = [rotations.new_ones(len(rotations), 1, 1)]
    unit = np.eye(3, dtype=np.int64)
    for rank in range(1, order + 1):
        lower, start = indexing.order_slice(rank - 1), indexing.order_slice(rank).start
        size = indexing.order_slice(rank).stop - start
        raised = indexing.sum_index(rank, 1)[lower, 1:] - start
        index = torch.from_numpy(np.ascontiguousarray(raised.ravel()))
        rows = []
        for alpha in indexing.multi_indices(rank)[start:]:
            i = int(np.argmax(alpha > 0))
            parent = blocks[-1][:, indexing.component_index(*(alpha - unit[i])) - lower.start]
            terms = (rotations[:, i, None] * parent[:, :, None]).flatten(1)
            rows.append(rotations.new_zeros(len(rotations), size).index_add(1, index, terms))
        blocks.append(torch.stack(rows, dim=1))
    return blocks


# --- waves ----------------------------------------------------------------------------------------


def structure_factors(u: Tensor, moments: Tensor, waves: Waves, ends: np.ndarray) -> Tensor:
    """Return those of `multipoles.lattice.waves`, differentiable to any order."""
    return _StructureFactors.apply(u, moments, waves, ends)


def synthesis(
    u: Tensor, coefficients: Tensor, order: int, waves: Waves, ends: np.ndarray
) -> Tensor:
    """Return that of `multipoles.lattice.waves`, differentiable to any order."""
    return _Synthesis.apply(u, coefficients, order, waves, ends)


class _StructureFactors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, moments: Tensor, waves: Waves, ends: np.ndarray) -> Tensor:
        ctx.save_for_backward(u, moments)
        ctx.given = waves, ends
        given = u.detach().numpy(), moments.detach().numpy()
        return torch.from_numpy(waves.structure_factors(*given, ends))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        u, moments = ctx.saved_tensors
        by_points, by_moments = ctx.needs_input_grad[:2]
        order = indexing.order_of(moments.shape[-1]) + int(by_points)
        phi = synthesis(u, gradient, order, *ctx.given)
        to_points = contract(moments, phi) if by_points else None
        to_moments = phi[..., : moments.shape[-1]] if by_moments else None
        return to_points, to_moments, None, None


class _Synthesis(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, coefficients: Tensor, order: int, waves: Waves, ends: np.ndarray
    ) -> Tensor:
        ctx.save_for_backward(u, coefficients)
        ctx.order, ctx.given = order, (waves, ends)
        given = u.detach().numpy(), coefficients.detach().resolve_conj().numpy()
        return torch.from_numpy(waves.synthesis(*given, order, ends))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        u, coefficients = ctx.saved_tensors
        by_points, by_coefficients = ctx.needs_input_grad[:2]
        to_points = to_coefficients = None
        if by_points:
            phi = synthesis(u, coefficients, ctx.order + 1, *ctx.given)
            to_points = contract(gradient, phi)
        if by_coefficients:
            to_coefficients = structure_factors(u, gradient, *ctx.given)
        return to_points, to_coefficients, None, None, None


# --- surface --------------------------------------------------------------------------------------


def _of_surface(
    targets: Tensor,
    sources: Tensor,
    moments: Tensor,
    order: int,
    volumes: Tensor,
    systems: tuple[Tensor, Tensor],
) -> Tensor:
    """Return the field of the kernel -2π r²/(3V), see `multipoles.lattice.surface`."""
    charges = moments[:, :, 0]
    dipole = charges[..., None] * sources[:, None]
    second = charges * (sources**2).sum(1)[:, None]
    if moments.shape[2] >= 4:
        dipole = dipole + moments[:, :, 1:4]
        second = second + 2 * torch.einsum("ica,ia->ic", moments[:, :, 1:4], sources)
    if moments.shape[2] >= 10:
        second = second + 2 * moments[:, :, [4, 7, 9]].sum(2)
    charge, dipole, second = (
        each.new_zeros(len(volumes), *each.shape[1:])
        .index_add(0, systems[1], each)
        .index_select(0, systems[0])
        for each in (charges, dipole, second)
    )
    factor = (-2 * math.pi / (3 * volumes)).index_select(0, systems[0])[:, None]
    along = torch.einsum("ia,ica->ic", targets, dipole)
    potential = (targets**2).sum(1)[:, None] * charge - 2 * along + second
    parts = [(factor * potential)[..., None]]
    if order >= 1:
        parts.append(2 * factor[..., None] * (targets[:, None] * charge[..., None] - dipole))
    if order >= 2:
        unit = torch.zeros(width(order) - 4, dtype=targets.dtype)
        unit[[0, 3, 5]] = 1.0
        parts.append(2 * (factor * charge)[..., None] * unit)
    return torch.cat(parts, dim=-1)
