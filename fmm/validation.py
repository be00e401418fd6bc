"""Plans against direct sums: what ``python -m fmm validate`` runs."""

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from fmm.distributions import cloud, random_moments
from fmm.method import FMM
from fmm.report import Report
from multipoles import interactions
from multipoles.indexing import order_of, order_slice

# up to this number all targets are compared, above it a random sample, which gives the error to
# some per cent
ALL_TARGETS = 4000
SAMPLE = 2000
# an error this many times smaller than asked costs time that nobody asked for
WASTEFUL = 30.0
# enough points for a far field: compiles what the timed plan needs
_WARM_UP = 6000


@dataclass
class Result:
    """Errors and times of one plan.

    Attributes
    ----------
    distribution : str
        Of the points.
    n : int
        Number of targets.
    tolerance : float
        What was asked.
    errors : ndarray
        Relative L2 error per output order.
    plan, first, again, direct : float
        Seconds to plan, of the first and of a repeated evaluation, and of a direct sum
        (from that of the sampled targets).
    memory : int
        Most memory that the process has held by then, in bytes; zero where it is not known.
    report : Report
        Of the repeated evaluation.
    typical : ndarray
        Median of the sampled targets' own relative errors per output order.
    """

    distribution: str
    n: int
    tolerance: float
    errors: np.ndarray
    plan: float
    first: float
    again: float
    direct: float
    memory: int
    report: Report
    typical: np.ndarray

    @property
    def kept(self) -> bool:
        """Whether the tolerance is kept at every output order; not if an error is NaN."""
        return bool(np.all(self.errors <= self.tolerance))

    @property
    def wasteful(self) -> bool:
        """Whether expansions are far more accurate than asked at every output order."""
        return self.report.degree > 0 and bool(np.max(self.errors) < self.tolerance / WASTEFUL)


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
    """Compare a plan with direct sums in float64 at sampled targets.

    Parameters
    ----------
    distribution : str
        One of `fmm.distributions.DISTRIBUTIONS`.
    n : int
        Number of targets, and of sources.
    tolerance : float
        Of the plan.
    source_order, order, channels : int
        Of moments and field.
    dtype : str
        Of points and moments, ``float64`` or ``float32``.
    seed : int
        Of points and moments.

    Returns
    -------
    Result
        See `errors` for what is compared.

    Raises
    ------
    ValueError
        If there is no such distribution, or an argument is out of range.
    """
    rng = np.random.default_rng(seed)
    targets, sources, moments = _problem(distribution, n, source_order, channels, dtype, rng)
    # warm: kernels are compiled at first use
    small = _problem(distribution, min(n, _WARM_UP), source_order, channels, dtype, rng)
    FMM(small[1], small[0], tolerance, source_order, order, channels=channels).field(small[2])

    times = [perf_counter()]
    plan = FMM(sources, targets, tolerance, source_order, order, channels=channels)
    times.append(perf_counter())
    field = plan.field(moments)
    times.append(perf_counter())
    plan.field(moments)
    times.append(perf_counter())
    memory = peak_memory()

    samples = sampled(len(field), rng)
    x = (sources if targets is None else targets)[samples].astype(np.float64)
    start = perf_counter()
    exact = interactions.field(
        x, sources.astype(np.float64), moments.astype(np.float64), order=order
    )
    direct = (perf_counter() - start) * len(field) / len(samples)
    planned, first, again = np.diff(times).tolist()
    return Result(
        distribution, len(field), tolerance, errors(field, exact, samples), planned, first, again,
        direct, memory, plan.report(), typical(field[samples], exact),
    )  # fmt: skip


def _problem(
    name: str, n: int, order: int, channels: int, dtype: str, rng: np.random.Generator
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Return targets (or None), sources and moments."""
    targets, sources = cloud(name, n, rng)
    moments = random_moments(len(sources), order, rng, channels)
    x = None if targets is None else targets.astype(dtype)
    return x, sources.astype(dtype), moments.astype(dtype)


def sampled(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the indices of all targets if they are few, else of many random ones."""
    return np.arange(n) if n <= ALL_TARGETS else rng.choice(n, SAMPLE, replace=False)


def errors(field: np.ndarray, exact: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Return the relative L2 error of a field per output order.

    Parameters
    ----------
    field : ndarray, shape (n_targets, [channels,] n_components(order))
        The field to judge.
    exact : ndarray, shape (n_sampled, [channels,] n_components(order))
        The field at sampled targets.
    samples : ndarray of int, shape (n_sampled,)
        Which targets they are.

    Returns
    -------
    ndarray, shape (order + 1,)
        The root mean square error over the sample over the root mean square of the field over all
        targets: the nearest pairs make most of the norm of high orders, and are seldom sampled.
    """
    difference = field[samples].astype(np.float64) - exact
    result = []
    for k in range(order_of(field.shape[-1]) + 1):
        part = order_slice(k)
        error, size = _rms(difference[..., part]), _rms(field[..., part])
        # a field that is zero, as of a single point, is exact or wrong
        result.append(error / size if size > 0 else (0.0 if error == 0 else np.inf))
    return np.array(result)


def typical(field: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Return the median over targets of each one's own relative error, per output order.

    On random points few near pairs make most of the norm that `errors` divides by; this is what
    the other targets see.
    """
    result = []
    for k in range(order_of(field.shape[-1]) + 1):
        part = order_slice(k)
        size = np.linalg.norm(exact[..., part].reshape(len(exact), -1), axis=1)
        error = np.linalg.norm((field - exact)[..., part].reshape(len(exact), -1), axis=1)
        result.append(np.median(error[size > 0] / size[size > 0]) if np.any(size > 0) else 0.0)
    return np.array(result)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def peak_memory() -> int:
    """Return the most memory that this process has held, in bytes; zero if not known."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def header(order: int) -> str:
    """Return the head of the table that `line` makes."""
    columns = "".join(f"{f'order {k}':>9}" for k in range(order + 1))
    return (
        f"{'':<13}{'points':>9}{'asked':>8}{columns}  {'':<9}{'plan s':>8}{'first s':>9}"
        f"{'again s':>9}{'direct s':>10}{'memory':>10}"
    )


def line(result: Result) -> str:
    """Return the result as a line of a table."""
    columns = "".join(f"{error:>9.1e}" for error in result.errors)
    verdict = "MISSED" if not result.kept else "wasteful" if result.wasteful else "kept"
    memory = f"{result.memory / 1e9:.2f} GB" if result.memory else "-"
    return (
        f"{result.distribution:<13}{result.n:>9}{result.tolerance:>8.0e}{columns}  {verdict:<9}"
        f"{result.plan:>8.3f}{result.first:>9.3f}{result.again:>9.3f}{result.direct:>10.2f}"
        f"{memory:>10}"
    )


def details(result: Result) -> str:
    """Return what `line` leaves out."""
    columns = "  ".join(f"{k}: {error:.1e}" for k, error in enumerate(result.typical))
    return f"median of the targets' own relative errors per order  {columns}"
