"""Sums over ranks against direct sums: what ``python -m fmm.distributed validate`` runs."""

from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from fmm.distributed.method import FMM
from fmm.distributed.ranks import Ranks
from fmm.distributions import cloud, random_moments
from multipoles import interactions
from multipoles.indexing import order_of, order_slice

# targets of all ranks at which direct sums are made, and periodic ones
_SAMPLE, _PERIODIC_SAMPLE = 2000, 300
# more points than these would take minutes to sum for an energy
_MOST_ENERGY = 50_000
# of Ewald sums that stand for exact ones
_TIGHT = 1e-13
# how far points move, of the edge of a cube in which they are spread evenly
_STEP = 0.2


class Result(NamedTuple):
    """What came of one case, the same on all ranks.

    Attributes
    ----------
    name : str
        Of the case.
    n : int
        Points of all ranks.
    tolerance, error : float
        What was asked, and the largest relative error of all output orders.
    imbalance : float
        Busy seconds of the slowest rank over the mean; zero: unknown.
    seconds : float
        Of plans and evaluations, on this rank.
    """

    name: str
    n: int
    tolerance: float
    error: float
    imbalance: float
    seconds: float

    @property
    def kept(self) -> bool:
        """Whether the tolerance is kept; not if the error is NaN."""
        return bool(self.error <= self.tolerance)


class Problem:
    """Points of all ranks, which all ranks know, and which of them this rank gives.

    Parameters
    ----------
    ranks : Ranks
        All of them.
    name : str
        See `fmm.distributions.cloud`.
    n : int
        Number of points.
    source_order : int
        Of the moments.
    owners : callable, optional
        Returns the rank that gives each of some number of points; default: anyone.
    seed : int
        Of points, moments and owners.
    """

    def __init__(
        self,
        ranks: Ranks,
        name: str,
        n: int,
        source_order: int = 0,
        owners: Callable[[Ranks, int, np.random.Generator], np.ndarray] | None = None,
        seed: int = 0,
    ) -> None:
        self.ranks, self.rng = ranks, np.random.default_rng(seed)
        targets, self.sources = cloud(name, n, self.rng)
        self.same = targets is None
        self.targets = self.sources if targets is None else targets
        self.moments = random_moments(len(self.sources), source_order, self.rng)[:, 0]
        owners = _anyone if owners is None else owners
        of_sources = owners(ranks, len(self.sources), self.rng)
        of_targets = of_sources if self.same else owners(ranks, len(self.targets), self.rng)
        self.mine = np.flatnonzero(of_sources == ranks.rank)
        self.mine_of_targets = np.flatnonzero(of_targets == ranks.rank)

    def plan(self, tolerance: float, source_order: int = 0, order: int = 1, **given: Any) -> FMM:
        """Return a plan of the points."""
        return FMM(*self.points(), tolerance, source_order, order, comm=self.ranks, **given)

    def points(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Return sources and targets of this rank; None: the same points."""
        targets = None if self.same else self.targets[self.mine_of_targets]
        return self.sources[self.mine], targets

    def error(self, field: np.ndarray, sample: int = _SAMPLE, **given: Any) -> float:
        """Return the largest relative L2 error of all output orders, see `validation.errors`.

        Parameters
        ----------
        field : ndarray, shape (n_targets, n_components(order))
            At the targets that this rank gives.
        sample : int
            How many targets of all ranks are compared with sums of their own.
        given
            See `multipoles.field`.
        """
        order, n = order_of(field.shape[-1]), len(self.targets)
        places = np.sort(self.rng.choice(n, min(n, sample), replace=False))
        rows = np.searchsorted(self.mine_of_targets, places)
        rows = np.minimum(rows, max(len(field) - 1, 0))
        here = self.mine_of_targets[rows] == places if len(field) else np.zeros(len(places), bool)
        exact = interactions.field(
            self.targets[places[here]], self.sources, self.moments, order, **given
        )  # fmt: skip
        off = _squares(field[rows[here]] - exact) / len(places)
        both = self.ranks.sum(np.stack([off, _squares(field) / n]))
        errors, sizes = np.sqrt(both)
        # a field that is zero, as of a single point, is exact or wrong
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.where(errors == 0, 0.0, errors / sizes).max())

    def norms(self, field: np.ndarray) -> np.ndarray:
        """Return the L2 norm of every order, over all ranks."""
        norms: np.ndarray = np.sqrt(self.ranks.sum(_squares(field)))
        return norms


def _squares(field: np.ndarray) -> np.ndarray:
    """Return the sum of squares of every order."""
    orders = range(order_of(field.shape[-1]) + 1)
    return np.array([np.sum(np.square(field[:, order_slice(k)])) for k in orders])


# --- who gives which points -----------------------------------------------------------------------


def _anyone(ranks: Ranks, n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(ranks.size, size=n)


def _last(ranks: Ranks, n: int, rng: np.random.Generator) -> np.ndarray:
    return np.full(n, ranks.size - 1)


def _odd(ranks: Ranks, n: int, rng: np.random.Generator) -> np.ndarray:
    """Leave every other rank without a point, the first among them."""
    return np.minimum(2 * rng.integers(max(ranks.size // 2, 1), size=n) + 1, ranks.size - 1)


# --- cases ----------------------------------------------------------------------------------------

# a case returns the error and the plan
Found = tuple[float, FMM]
Case = Callable[[Ranks, int, float, int], Found]


def _of_field(
    name: str,
    source_order: int = 0,
    order: int = 1,
    owners: Callable[[Ranks, int, np.random.Generator], np.ndarray] | None = None,
) -> Case:
    """Return a case: the field of some points."""

    def case(ranks: Ranks, n: int, tolerance: float, seed: int) -> Found:
        problem = Problem(ranks, name, n, source_order, owners, seed)
        plan = problem.plan(tolerance, source_order, order)
        return problem.error(plan.field(problem.moments[problem.mine])), plan

    return case


def _moved(ranks: Ranks, n: int, tolerance: float, seed: int) -> Found:
    """Let points go far from where they were, twice, to other ranks too."""
    problem, worst = Problem(ranks, "uniform", n, seed=seed), 0.0
    plan = problem.plan(tolerance)
    plan.field(problem.moments[problem.mine])
    for _ in range(2):
        problem.sources += _STEP * problem.rng.standard_normal(problem.sources.shape)
        plan.rebuild(problem.sources[problem.mine])
        field = plan.field(problem.moments[problem.mine])
        worst = max(worst, problem.error(field))
    return worst, plan


def _adjoint(ranks: Ranks, n: int, tolerance: float, seed: int) -> Found:
    """Compare <W, F M> with <F^T W, M>, relative to the most that both may be off by one."""
    problem = Problem(ranks, "nested", n, 1, seed=seed)
    weights = random_moments(len(problem.targets), 2, problem.rng)[problem.mine_of_targets, 0]
    moments = problem.moments[problem.mine]
    plan = problem.plan(tolerance, 1, 2)
    field = plan.field(moments)
    other = plan.transpose()
    back = other.field(weights, 1)
    forth_sum, back_sum = ranks.sum(np.array([np.sum(weights * field), np.sum(back * moments)]))
    scale = problem.norms(weights) @ problem.norms(field)
    scale += problem.norms(moments) @ problem.norms(back)
    return float(abs(forth_sum - back_sum) / scale), plan


def _energy(ranks: Ranks, n: int, tolerance: float, seed: int) -> Found:
    """Compare energy and forces of charges of one size with direct sums over all pairs."""
    problem = Problem(ranks, "uniform", min(n, _MOST_ENERGY), seed=seed)
    charges = np.sign(problem.moments)
    plan = problem.plan(tolerance)
    energy, forces, _ = plan.energy_forces(charges[problem.mine])
    exact = interactions.field(problem.sources[problem.mine], problem.sources, charges, order=1)
    exact_forces = -charges[problem.mine] * exact[:, 1:]
    mine = 0.5 * np.sum(charges[problem.mine] * exact[:, :1])
    sums = (
        mine,
        np.sum((forces - exact_forces) ** 2),
        np.sum(exact_forces**2),
        np.sum(exact[:, 0] ** 2),
    )
    total, off, size, potentials = ranks.sum(np.array(sums))
    of_energy = abs(energy - total) / (0.5 * np.sqrt(len(charges) * potentials))
    return float(max(of_energy, np.sqrt(off / size))), plan


def _in_cell(ranks: Ranks, n: int, tolerance: float, seed: int) -> Found:
    """Repeat points in a skewed cell for ever; compare with Ewald sums."""
    problem = Problem(ranks, "uniform", n, seed=seed)
    cell = np.array([[1.0, 0.0, 0.0], [0.2, 1.0, 0.0], [0.0, 0.1, 1.1]])
    problem.sources[:] = problem.sources @ cell
    problem.moments -= problem.moments.mean(axis=0)
    plan = problem.plan(tolerance, cell=cell)
    field = plan.field(problem.moments[problem.mine])
    given = {"cell": cell, "periodic": True, "tolerance": _TIGHT}
    return problem.error(field, _PERIODIC_SAMPLE, **given), plan


CASES: dict[str, Case] = {
    "uniform": _of_field("uniform"),
    "clustered": _of_field("plummer"),
    "two clusters": _of_field("two-clusters"),
    "sphere": _of_field("sphere"),
    "all on one rank": _of_field("uniform", owners=_last),
    "empty ranks": _of_field("plummer", owners=_odd),
    "moved": _moved,
    "own targets": _of_field("nested"),
    "orders 2 to 3": _of_field("uniform", 2, 3),
    "adjoint": _adjoint,
    "energy and forces": _energy,
    "in a cell": _in_cell,
}


def chosen(names: str) -> list[str]:
    """Return names of cases from a text with commas; "all" are all.

    Raises
    ------
    ValueError
        If there is no such case.
    """
    wanted = list(CASES) if names == "all" else [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in CASES:
            raise ValueError(f"--cases: expected some of {'; '.join(CASES)}; got {name!r}")
    return wanted


def validate(ranks: Ranks, name: str, n: int, tolerance: float, seed: int = 0) -> Result:
    """Return the error of one case; all ranks call it together.

    Parameters
    ----------
    ranks : Ranks
        All of them.
    name : str
        One of `CASES`.
    n : int
        Points of all ranks together.
    tolerance : float
        Of the plan.
    seed : int
        Of points and moments.
    """
    start = perf_counter()
    error, plan = CASES[name](ranks, n, tolerance, seed)
    seconds = perf_counter() - start
    report = plan.report()
    return Result(name, report.everywhere[0], tolerance, error, report.imbalance, seconds)


def header() -> str:
    """Return the head of the table that `line` makes."""
    return f"{'':<17}{'points':>9}{'asked':>9}{'error':>9}  {'':<7}{'balance':>8}{'seconds':>9}"


def line(result: Result) -> str:
    """Return the result as a line of a table."""
    verdict = "ok" if result.kept else "FAILED"
    balance = f"{result.imbalance:.2f}" if result.imbalance else "-"
    return (
        f"{result.name:<17}{result.n:>9}{result.tolerance:>9.0e}{result.error:>9.1e}  {verdict:<7}"
        f"{balance:>8}{result.seconds:>9.2f}"
    )
