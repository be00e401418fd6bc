"""Plans for one use: direct sums, as long as compiling the fast method would take longer.

On a machine that has not compiled the kernels of the fast method yet, the sums of a first script
are done before these were. So that what is run again and again is not slow for ever, the direct
sums of all processes together take no longer than it takes to compile: what they took is noted
beside the kernels.
"""

import os
import sys
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import numpy as np

import multipoles as mp
from fmm import arguments
from fmm.contract import Sum
from fmm.far import rotations
from fmm.method import FMM
from fmm.near import pair_cost
from multipoles import checks
from multipoles.checks import check_total_order
from multipoles.compiled.cache import is_kept, note_time, noted_time
from multipoles.compiled.jit import get_num_threads
from multipoles.radial import Coulomb, Erf, Kernel, Softened, Thole, kernel_object

#: s; about what compiling the fast method takes on one core.
COMPILATION = 12.0
_PAIR = 1e-9  # s, of a charge's potential and gradient; a slow machine compiles slowly, too
_NOTED = 0.02  # s, of a direct sum that counts for other processes
_LONG = 1.0  # s, of a direct sum that is worth a line
_LINE = (
    "fmm: summed directly, since the kernels of the fast method are not compiled on this machine "
    "(python -m fmm warmup compiles them; MULTIPOLES_QUIET=1 hides this line)"
)
_spent = 0.0


def plan(
    sources: Any, targets: Any, tolerance: float, source_order: int, order: int, channels: int,
    kernel: Kernel, pair_scale: Any, batches: Mapping[str, Any],
) -> Sum:  # fmt: skip
    """Return a plan that serves once; see `FMM` for what it takes."""
    tolerance, order = arguments.tolerance(tolerance), checks.order(order)
    kernel = kernel_object(kernel)
    on_gpu = any(x is not None and checks.on_device(x) for x in (sources, targets))
    if not on_gpu and pair_scale is None and isinstance(kernel, Coulomb | Softened | Erf | Thole):
        pairs = float(_count(sources)) * _count(sources if targets is None else targets)
        damped = not isinstance(kernel, Coulomb)
        seconds = _PAIR * pairs * pair_cost(source_order, order, channels, damped)
        if _pays(seconds / get_num_threads()):
            check_total_order(source_order, order)
            return DirectSums(sources, targets, order, kernel, batches)
    return FMM(
        sources, targets, tolerance, source_order, order, channels=channels, kernel=kernel,
        pair_scale=pair_scale, **batches,
    )  # fmt: skip


def _count(points: Any) -> int:
    return len(points) if hasattr(points, "__len__") else len(np.atleast_1d(points))


def _pays(seconds: float) -> bool:
    """Tell whether direct sums take less than compiling, with all that went before."""
    if _spent + seconds >= COMPILATION or is_kept(rotations.translate):
        return False
    return noted_time(rotations.translate) + seconds < COMPILATION


class DirectSums:
    """A plan that sums over all pairs, in float64.

    Parameters
    ----------
    sources, targets
        See `FMM`.
    order : int
        Highest derivative.
    kernel : Kernel
        Radial kernel.
    batches : mapping
        The arguments `source_batch` and `target_batch` of `multipoles.field`, if there are.
    """

    def __init__(
        self, sources: Any, targets: Any, order: int, kernel: Kernel, batches: Mapping[str, Any]
    ):
        self._sources = checks.points(sources, "sources", squares=False)
        self._targets = self._sources
        if targets is not None:
            self._targets = checks.points(targets, "targets", squares=False)
        batch, other = batches.get("source_batch"), batches.get("target_batch")
        if targets is None:  # one is enough
            batch = other if batch is None else batch
            other = batch if other is None else other
        self._order, self._kernel = order, kernel
        self._batches = {"source_batch": batch, "target_batch": other}

    @property
    def n_sources(self) -> int:
        """Number of sources."""
        return len(self._sources)

    def field(self, moments: Any, order: int | None = None) -> np.ndarray:
        """Return the field at every target; see `FMM.field`."""
        global _spent
        order = self._order if order is None else order
        packed, _, had_channels = checks.moments(moments, self.n_sources)
        dtype = checks.common_dtype(self._targets, self._sources, packed)
        start = perf_counter()
        sources = self._sources.astype(np.float64, copy=False)
        targets = sources
        if self._targets is not self._sources:
            targets = self._targets.astype(np.float64, copy=False)
        found = mp.field(
            targets, sources, packed.astype(np.float64, copy=False), order, self._kernel,
            target_batch=self._batches["target_batch"], source_batch=self._batches["source_batch"],
        )  # fmt: skip
        seconds = perf_counter() - start
        _spent += seconds
        if seconds > _NOTED:
            note_time(rotations.translate, seconds)
        if seconds > _LONG and not os.environ.get("MULTIPOLES_QUIET"):
            print(_LINE, file=sys.stderr, flush=True)
        found = found.astype(dtype, copy=False)
        return found if had_channels else found[:, 0]
