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
    return bool(np.abs(frequency_shifts(frequencies)).max(initial=0.0) < _MOST_SHIFT)


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
        ctx.edges = Edges(
            _array(positions),
            (_array(senders), _array(receivers)),
            cutoff,
            frequency_shifts(frequencies),
        )
        return tuple(map(torch.from_numpy, ctx.edges.values()))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *weights: Tensor) -> tuple:
        by_positions = ctx.edges.gradients(*map(_array, weights))
        return torch.from_numpy(by_positions), None, None, None, None


class Edges:
    """The same of arrays.

    Parameters
    ----------
    positions : ndarray
        (N, 3) in Å.
    ends : tuple of ndarray
        Senders and receivers, (E,) int64.
    cutoff : float
        Of the envelope in Å.
    shifts : ndarray
        (n_radial,) by how much frequencies are more than multiples of pi.
    """

    def __init__(
        self,
        positions: NDArray,
        ends: tuple[NDArray[np.int64], NDArray[np.int64]],
        cutoff: float,
        shifts: NDArray[np.float64],
    ):
        self._arguments = positions, *ends, float(cutoff), np.pi / cutoff, shifts / cutoff
        self._ranges = equal_ranges(np.ones(len(ends[0])), _COST * len(ends[0]))

    def values(self) -> tuple[NDArray, NDArray, NDArray]:
        """Return directions (E, 3), envelopes (E, 1) and basis (E, n_radial)."""
        positions, senders, shifts = self._arguments[0], self._arguments[1], self._arguments[-1]
        directions, fade, basis = (
            np.empty((len(senders), width), positions.dtype) for width in (3, 1, len(shifts))
        )

        def task(begin: int, end: int) -> None:
            scratch = np.empty((2, len(shifts)))
            _edge_loops.values(begin, end, *self._arguments, scratch, directions, fade, basis)

        run_ranges(task, self._ranges)
        return directions, fade, basis

    def gradients(self, *weights: NDArray) -> NDArray:
        """Return the gradient by the positions of the sum of weights times values."""
        positions, shifts = self._arguments[0], self._arguments[-1]

        def task(begin: int, end: int) -> NDArray:
            by_positions, scratch = np.zeros(positions.shape), np.empty((2, len(shifts)))
            _edge_loops.gradients(begin, end, *self._arguments, scratch, *weights, by_positions)
            return by_positions

        total: NDArray = add_up(run_ranges(task, self._ranges)).astype(positions.dtype)
        return total


def frequency_shifts(frequencies: Tensor) -> NDArray:
    """Return by how much frequencies are more than multiples of pi."""
    exact = frequencies.detach().double().numpy()
    shifts: NDArray = exact - np.pi * np.arange(1, len(exact) + 1)
    return shifts


def _array(tensor: Tensor) -> NDArray:
    return tensor.detach().contiguous().numpy()
