"""Plans against direct sums: what ``python -m fmm validate`` runs."""

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from fmm.distributions import DISTRIBUTIONS, random_moments
from fmm.plan import FMM
from fmm.report import Report
from multipoles import interactions
from multipoles.indexing import order_slice

SAMPLE = 2000


@dataclass
class Result:
    """Errors and times of one plan.

    Attributes
    ----------
    errors : ndarray
        Relative L2 error per output order.
    plan, first, again, direct : float
        Seconds to plan, of the first and of a repeated evaluation, and of a direct sum
        (extrapolated from the sampled targets).
    """

    distribution: str
    n: int
    tolerance: float
    errors: np.ndarray
    plan: float
    first: float
    again: float
    direct: float
    report: Report

    @property
    def kept(self) -> bool:
        """Whether the tolerance is kept at every output order."""
        return bool(np.all(self.errors <= self.tolerance))


def validate(
    distribution: str,
    n: int,
    tolerance: float,
    source_order: int = 0,
    order: int = 1,
    channels: int = 1,
    dtype: str = "float64",
    seed: int = 0,
) -> Result:
    """Compare a plan with direct sums at sampled targets.

    Parameters
    ----------
    distribution : str
        One of `fmm.distributions.DISTRIBUTIONS`.
    n : int
        Number of points.
    tolerance : float
        Of the plan.
    source_order, order, channels : int
        Of moments and field.
    dtype : str
        Of points and moments.
    seed : int
        Of points and moments.

    Returns
    -------
    Result
        The error at each output order is the root mean square over up to 2000 random targets,
        over that of the field at all targets: the nearest pairs make most of the norm of high
        orders and are seldom in a sample.
    """
    rng = np.random.default_rng(seed)
    targets, sources = DISTRIBUTIONS[distribution](n, rng)
    moments = random_moments(len(sources), source_order, rng, channels).astype(dtype)
    sources = sources.astype(dtype)
    targets = sources if targets is None else targets.astype(dtype)
    start = perf_counter()
    plan = FMM(sources, targets, tolerance, source_order, order, channels=channels)
    planned = perf_counter()
    found = plan.field(moments)
    first = perf_counter()
    plan.field(moments)
    again = perf_counter()
    sample = rng.permutation(len(targets))[:SAMPLE]
    wide = (targets[sample], sources, moments)
    direct = perf_counter()
    exact = interactions.field(*(a.astype(np.float64) for a in wide), order=order)
    direct = (perf_counter() - direct) * len(targets) / max(len(sample), 1)
    errors = np.array(
        [_relative(found, found[sample] - exact, order_slice(k), exact) for k in range(order + 1)]
    )
    return Result(
        distribution, len(sources), tolerance, errors, planned - start, first - planned,
        again - first, direct, plan.report(),
    )  # fmt: skip


def _relative(found: np.ndarray, difference: np.ndarray, part: slice, exact: np.ndarray) -> float:
    error = np.sqrt(np.mean(difference[..., part].astype(np.float64) ** 2))
    norm = np.sqrt(np.mean(found[..., part].astype(np.float64) ** 2))
    if not np.isfinite(norm):
        norm = np.sqrt(np.mean(exact[..., part] ** 2))
    return float(error / norm) if norm > 0 else float(error)


def line(result: Result) -> str:
    """Return the result as a line of a table."""
    errors = " ".join(f"{error:.1e}" for error in result.errors)
    verdict = "kept" if result.kept else "MISSED"
    return (
        f"{result.distribution:<13}{result.n:>9} {result.tolerance:>8.0e}  {errors}  {verdict:<6} "
        f"plan {result.plan:6.3f} s  first {result.first:6.3f} s  again {result.again:6.3f} s  "
        f"direct {result.direct:9.2f} s"
    )
