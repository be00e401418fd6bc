"""The field of multipoles in a cell by a mesh, differentiable like that of `lattice`.

Moments to the waves of a grid and back are two operators, each the other's adjoint and closed under
differentiation: the windows that carry moments to the grid have derivatives of any order.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fmm.mesh import grid, transforms, window
from fmm.mesh.choice import setting_of
from fmm.mesh.plan import MeshSum
from gnn.operators.lattice import System, by_orders, monomial_matrices, with_background
from gnn.operators.lattice_transform import transform
from gnn.operators.raising import contract
from multipoles import indexing
from multipoles.lattice import search, smooth
from multipoles.lattice.cell import Cell
from multipoles.lattice.ewald import Near
from multipoles.neighbours import PairList
from multipoles.radial import Kernel


class Grid(NamedTuple):
    """Numbers of grid points and waves, and the window: its points and band."""

    shape: tuple[int, int, int]
    limits: transforms.Limits
    points: int
    band: float

    def table(self, order: int) -> np.ndarray:
        """Return the window and its derivatives."""
        return window.polynomials(self.points, self.band, order)


class MeshSystem(System):
    """One system in its cell, see `System`, summed on a mesh.

    Raises
    ------
    ToleranceNotKept
        If a mesh cannot keep the tolerance.
    """

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
        # derivatives by points and cell are fields of orders more
        orders = orders[0] + 1, orders[1] + 1
        cell = cell[0]
        setting = setting_of(x, s, cell, kernel, tolerance, orders)
        self.plan: Any = MeshSum(x, s, cell, setting, kernel)
        radius = setting.near
        images = search.images_within(self.plan.sources, cell, radius)
        given = self.plan.targets, images.points, radius, self.plan.coincidence
        found = search.pairs_within(*given)
        pairs = PairList.of_rows(found.starts, found.images, len(images.points))
        self.near, self.kernels = Near(images, pairs, found.coincident), self.plan.near_kernels
        self.has_waves, self.evaluator = True, None
        self.grid = Grid(self.plan.shape, self.plan.limits, setting.points, setting.window_band)

    def _smooth_field(self, moments: Tensor, order: int) -> Tensor:
        plan, d = self.plan, self.plan.cell.n_periodic
        lengths = torch.ones(3, dtype=torch.float64)
        lengths[d:] = torch.from_numpy(np.linalg.norm(plan.box[d:], axis=1))
        inverse = torch.linalg.inv(self.vectors[0] * lengths[:, None])
        to_grid = inverse * torch.tensor(plan.shape, dtype=torch.float64)
        to_moments = monomial_matrices(to_grid[None], indexing.order_of(moments.shape[-1]))
        to_field = [matrix.transpose(1, 2) for matrix in monomial_matrices(to_grid[None], order)]
        given = by_orders(moments, to_moments, self.of_sources)
        spectrum = to_waves(self.sources @ to_grid, given, self.grid)
        volume = self.volumes[0]
        influence = self._influence(inverse, lengths[d:]) * (
            math.prod(plan.shape) / (volume * lengths[d:].prod())
        )
        phi = from_waves(self.targets @ to_grid, spectrum * influence, order, self.grid)
        phi = by_orders(phi, to_field, self.of_targets)
        if d < 3:
            return phi
        background = -plan.setting.lacks / volume * moments[:, :, 0].sum(0)
        return with_background(phi, background[None])

    def _influence(self, inverse: Tensor, lengths: Tensor) -> Tensor:
        """Return the transform of the smooth part at the waves of the grid, less the window's."""
        plan, d = self.plan, self.plan.cell.n_periodic
        inside = plan.waves()[0]
        numbers = plan.numbers_of(inside)
        waves = torch.from_numpy(2 * math.pi * numbers)
        p2 = ((waves[:, :d] @ inverse[:, :d].T) ** 2).sum(-1)
        q2 = ((waves[:, d:] / lengths) ** 2).sum(-1)
        still = torch.from_numpy((numbers[:, :d] == 0).all(-1))
        setting = plan.setting
        if setting.alpha:
            profile = torch.exp((p2 + q2) * (-0.25 / setting.alpha**2))
        else:
            share = (p2 + q2) / setting.longest**2
            profile = _clenshaw(2 * share - 1, smooth.profile_series(setting.band))
        found = transform(p2, q2, still, d, plan.cut) * profile
        found = found / torch.from_numpy(plan.through(inside) ** 2)
        values = torch.zeros(inside.shape, dtype=torch.float64)
        return values.index_put(tuple(map(torch.from_numpy, np.nonzero(inside))), found)

    def _at_zero(self, order: int) -> np.ndarray:
        found: np.ndarray = self.plan.setting.at_zero(order)
        return found


def _clenshaw(u: Tensor, series: np.ndarray) -> Tensor:
    """Return a Chebyshev series at u."""
    first, second = torch.zeros_like(u), torch.zeros_like(u)
    for coefficient in series[:0:-1].tolist():
        first, second = coefficient + 2 * u * first - second, first
    return float(series[0]) + u * first - second


# --- waves of a grid ------------------------------------------------------------------------------


def to_waves(places: Tensor, moments: Tensor, of_grid: Grid) -> Tensor:
    """Return the Fourier transform of moments on a grid, all in grid units, differentiable."""
    return _ToWaves.apply(places, moments, of_grid)


def from_waves(places: Tensor, coefficients: Tensor, order: int, of_grid: Grid) -> Tensor:
    """Return the field that an inverse Fourier transform has at some places, differentiable."""
    return _FromWaves.apply(places, coefficients, order, of_grid)


def _doubled(of_grid: Grid) -> Tensor:
    """Return how often the inverse transform counts waves along the third axis: with conjugates."""
    counts = torch.full((of_grid.limits[2] + 1,), 2.0, dtype=torch.float64)
    counts[0] = 1.0
    return counts


class _ToWaves(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, places: Tensor, moments: Tensor, of_grid: Grid) -> Tensor:
        ctx.save_for_backward(places, moments)
        ctx.of_grid = of_grid
        order = indexing.order_of(moments.shape[-1])
        at, given = (np.ascontiguousarray(t.detach().numpy()) for t in (places, moments))
        values = grid.spread(at, given, of_grid.shape, of_grid.table(order))
        return torch.from_numpy(transforms.to_waves(values, of_grid.limits))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        places, moments = ctx.saved_tensors
        by_places, by_moments = ctx.needs_input_grad[:2]
        order = indexing.order_of(moments.shape[-1]) + int(by_places)
        scale = math.prod(ctx.of_grid.shape) / _doubled(ctx.of_grid)
        phi = from_waves(places, gradient * scale, order, ctx.of_grid)
        to_places = contract(moments, phi) if by_places else None
        to_moments = phi[..., : moments.shape[-1]] if by_moments else None
        return to_places, to_moments, None


class _FromWaves(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, places: Tensor, coefficients: Tensor, order: int, of_grid: Grid
    ) -> Tensor:
        ctx.save_for_backward(places, coefficients)
        ctx.order, ctx.of_grid = order, of_grid
        given = coefficients.detach().resolve_conj().numpy()
        table = of_grid.table(order)
        values = transforms.from_waves(given, of_grid.shape, of_grid.limits, table.shape[2])
        out = np.empty((len(places), len(given), indexing.n_components(order)))
        at = np.ascontiguousarray(places.detach().numpy())
        grid.interpolate(at, values, order, table, out)
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        places, coefficients = ctx.saved_tensors
        by_places, by_coefficients = ctx.needs_input_grad[:2]
        to_places = to_coefficients = None
        if by_places:
            phi = from_waves(places, coefficients, ctx.order + 1, ctx.of_grid)
            to_places = contract(gradient, phi)
        if by_coefficients:
            found = to_waves(places, gradient, ctx.of_grid)
            to_coefficients = found * (_doubled(ctx.of_grid) / math.prod(ctx.of_grid.shape))
        return to_places, to_coefficients, None, None
