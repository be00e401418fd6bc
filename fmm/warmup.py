"""Compile kernels before they are needed: ``python -m fmm warmup``, in a container's image, say."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import multipoles as mp
from fmm.method import FMM
from multipoles import indexing

TOLERANCES = (1e-3, 1e-6, 1e-9)  # each is of another class: of precision, or of operators
_POINTS = 3000  # enough for a tree of several levels


def warmup(
    source_orders: Sequence[int],
    orders: Sequence[int],
    dtypes: Sequence[str],
    say: Callable[[str], None],
    device: str = "cpu",
) -> None:
    """Sum what makes each kernel of some orders compile, directly and by the fast method.

    Parameters
    ----------
    source_orders, orders
        Of the moments, and of the field's highest derivatives: all pairs of them.
    dtypes
        Of points and moments: "float32", "float64".
    say
        Called with a line for each sum.
    device
        "cpu" or "cuda".

    Raises
    ------
    ValueError
        If there is no such device, or none that works.
    """
    put = _putter(device)
    rng = np.random.default_rng(0)
    for dtype, source_order, order in itertools.product(dtypes, source_orders, orders):
        points = put(rng.random((_POINTS, 3)).astype(dtype))
        moments = rng.standard_normal((_POINTS, indexing.n_components(source_order)))
        moments = put(moments.astype(dtype))
        started = time.perf_counter()
        mp.field(points, points, moments, order=order)
        if order == source_order + 1:
            mp.energy_forces(points, moments)
            FMM(points, None, 1e-6, source_order, order).energy_forces(moments)
        for tolerance in TOLERANCES:
            if dtype == "float64" or tolerance > 1e-4:
                FMM(points, None, tolerance, source_order, order).field(moments)
        seconds = time.perf_counter() - started
        say(f"{dtype}, moments of order {source_order} to derivatives of order {order}: "
            f"{seconds:.1f} s")  # fmt: skip


def _putter(device: str) -> Callable[[np.ndarray], Any]:
    """Return what brings an array of the host to a device."""
    if device == "cpu":
        return lambda array: array
    if device != "cuda":
        raise ValueError(f"expected a device cpu or cuda, got {device!r}")
    try:
        from multipoles.compiled.cuda_kernels import why_unusable
        from multipoles.cuda.device import NumbaSpace
    except ImportError as error:
        raise ValueError(f"no GPU can be used: {error} (pip install '.[cuda]')") from None
    if reason := why_unusable():
        raise ValueError(f"no GPU can be used: {reason}")
    return lambda array: NumbaSpace().give(NumbaSpace().upload(array))
