"""Directions, envelopes and Bessel functions of edges in one compiled pass, for inference."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from gnn.published import _edge_loops
from multipoles.compiled.jit import add_up, equal_ranges, run_ranges

# an edge takes as long as so many pairs of point charges
_COST = 50.0
# of the third power of a shift, a sixth is neglected
_MOST_SHIFT = 1e-5


def near_multiples(frequencies: Tensor) -> bool:
    """Return whether frequencies are pi, 2 pi, … up to rounding, as the loops take them."""
    return bool(np.abs(_shifts(frequencies)).max(initial=0.0) < _MOST_SHIFT)


def edge_geometry(
    positions: Tensor, senders: Tensor, receivers: Tensor, cutoff: float, frequencies: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `gnn.published.layers.BesselBasis` gives for edges, and their directions.

    Parameters
    ----------
    positions : Tensor
        (N, 3) in Å, on the CPU.
    senders, receivers : Tensor
        (E,) int64.
    cutoff : float
        Of the envelope in Å.
    frequencies : Tensor
        (n_radial,) of the Bessel functions, `near_multiples` of pi.

    Returns
    -------
    directions, fade, basis : Tensor
        (E, 3) from sender to receiver, (E, 1) and (E, n_radial), once differentiable by the
        positions. The compiled loops compute in float64 whatever the type of these.
    """
    found: tuple[Tensor, Tensor, Tensor] = _Geometry.apply(
        positions, senders, receivers, cutoff, frequencies
    )
    return found


class _Geometry(Function):
    @staticmethod
    def forward(
        ctx: Any,
        positions: Tensor,
        senders: Tensor,
        receivers: Tensor,
        cutoff: float,
        frequencies: Tensor,
    ) -> tuple[Tensor, ...]:
        shifts = _shifts(frequencies) / cutoff
        points = (_array(t) for t in (positions, senders, receivers))
        arguments = (*points, float(cutoff), np.pi / cutoff, shifts)
        found = tuple(positions.new_empty(len(senders), width) for width in (3, 1, len(shifts)))
        results = [tensor.numpy() for tensor in found]

        def task(begin: int, end: int) -> None:
            scratch = np.empty((2, len(shifts)))
            _edge_loops.values(begin, end, *arguments, scratch, *results)

        run_ranges(task, _ranges(len(senders)))
        ctx.arguments = arguments
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *weights: Tensor) -> tuple:
        positions, senders = ctx.arguments[:2]
        given = [_array(weight) for weight in weights]

        def task(begin: int, end: int) -> NDArray:
            by_positions = np.zeros(positions.shape)
            scratch = np.empty((2, len(ctx.arguments[-1])))
            _edge_loops.gradients(begin, end, *ctx.arguments, scratch, *given, by_positions)
            return by_positions

        total = add_up(run_ranges(task, _ranges(len(senders))))
        return torch.from_numpy(total.astype(positions.dtype)), None, None, None, None


def _shifts(frequencies: Tensor) -> NDArray:
    """Return by how much frequencies are more than multiples of pi."""
    exact = frequencies.detach().double().numpy()
    shifts: NDArray = exact - np.pi * np.arange(1, len(exact) + 1)
    return shifts


def _ranges(edges: int) -> list[tuple[int, int]]:
    return equal_ranges(np.ones(edges), _COST * edges)


def _array(tensor: Tensor) -> NDArray:
    return tensor.detach().contiguous().numpy()
