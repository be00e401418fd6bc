"""The transform of 1/r of `multipoles.lattice.transform`, differentiable by lengths of waves."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


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
