"""Directions, envelopes and Bessel functions of edges in one compiled pass, for inference."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from gnn.operators.edge_geometry import MOST_SHIFT, Edges, Radial, frequency_shifts


def near_multiples(frequencies: Tensor) -> bool:
    """Return whether frequencies are pi, 2 pi, … up to rounding, as the loops take them."""
    shifts = frequency_shifts(frequencies.detach().numpy())
    return bool(np.abs(shifts).max(initial=0.0) < MOST_SHIFT)


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
        ends = _array(senders), _array(receivers)
        ctx.edges = Edges(_array(positions), ends, radial_of(cutoff, frequencies))
        return tuple(map(torch.from_numpy, ctx.edges.values()[1:]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *weights: Tensor) -> tuple:
        by_positions = ctx.edges.gradients(*map(_array, weights))
        return torch.from_numpy(by_positions), None, None, None, None


def radial_of(cutoff: float, frequencies: Tensor) -> Radial:
    """Return what the loops know of a `BesselBasis`."""
    shifts = frequency_shifts(frequencies.detach().numpy()) / cutoff
    return Radial(cutoff, cutoff, True, shifts)


def _array(tensor: Tensor) -> NDArray:
    return tensor.detach().contiguous().numpy()
