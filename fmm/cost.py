"""What the steps cost on this machine: measured once, kept in a file, used to choose leaf sizes."""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from fmm.error import accuracy
from fmm.far import expansions, harmonics, rotations, translations, truncation
from fmm.near import has_parts, is_narrow, near_field, pair_cost
from fmm.tree.lists import shifts
from multipoles.compiled.instructions import instruction_set
from multipoles.compiled.jit import processor, serial
from multipoles.files import atomic_write, cache_folder

# from this tolerance on expansions are float32
SINGLE = 1e-5
# expansions beyond so many bytes are read from memory, which a translation has to wait for
_CACHE, _MISS = 16e6, 55e-9
# what a tile and a coefficient of translations in three steps cost, in products
_TILE, _SQUARE = 8.0, 8.0
# what a translation costs beside arithmetic: to be listed, and looked at where errors are sought
_LISTED = 2e-8


class Machine(NamedTuple):
    """Seconds, on one thread in float64."""

    pair: float
    """Potential and gradient of one charge at one point."""
    multiply: float
    """One product of a translation of one box."""
    harmonic: float
    """One harmonic of one point, formed or evaluated."""
    leaf: float = 2e-6
    """Other costs of a leaf than translations and pairs: lists, loops."""
    least: float = 1.0
    """Fewest points of a leaf on average: with fewer, threads without a target are idle."""
    fixed: float = 2e-3
    """What a far field costs however few the points are."""


GPU = {
    "cuda float32": Machine(
        pair=8e-13, multiply=1.1e-13, harmonic=2e-12, leaf=1e-9, least=32.0, fixed=3e-4
    ),
    "cuda float64": Machine(
        pair=4e-12, multiply=1.1e-13, harmonic=4e-12, leaf=2e-9, least=32.0, fixed=3e-4
    ),
}
"""Estimates for GPUs, by the type of numbers of the near field.

They are not measured but derived from the instructions of the kernels and the peak rates of an
H100, of which near pairs reach half and translations 60 %. What is fixed are the about twenty
launches of an evaluation, each of which has to fill the device anew. They decide the size of
leaves; `leaf_size` overrides them."""


@lru_cache(maxsize=1)
def machine() -> Machine:
    """Return what was measured on this machine, from the file of an earlier process if there."""
    path = _file()
    try:
        times = Machine(**json.loads(path.read_text(encoding="utf-8")))
        if all(isinstance(v, float) and v > 0 for v in times):
            return times
    except (OSError, ValueError, TypeError):
        pass
    with serial():
        times = Machine(_time_pair(), _time_multiply(), _time_harmonic())
    _keep(path, times)
    return times


def _file() -> Path:
    # the same processor may be compiled for with fewer of its instructions
    return cache_folder() / f"fmm-cost-4-{processor()}-{instruction_set()}.json"


def _keep(path: Path, times: Machine) -> None:
    """Write the file whole or not at all; without a writable home every process measures."""
    try:
        if not path.is_absolute():
            return
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(times._asdict()), encoding="utf-8")
    except OSError:
        pass


def _least(run: Callable[[], Any], repeats: int = 5) -> float:
    """Return the least time of several runs."""
    run()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        run()
        times.append(perf_counter() - start)
    return min(times)


def _time_pair() -> float:
    rng = np.random.default_rng(0)
    x = rng.random((1024, 3))
    charges = np.ones((len(x), 1, 1))
    out = np.empty((len(x), 1, 4))
    leaves = np.arange(0, 1025, 64)
    ranges = np.tile([0, len(x)], (16, 1))
    leaf_targets = np.stack([leaves[:-1], leaves[1:]], axis=1)
    seconds = _least(
        lambda: near_field(x, x, charges, 1, (leaf_targets, np.arange(17), ranges), out), repeats=9
    )
    return seconds / len(x) ** 2


def _time_multiply() -> float:
    degree, dtype = 10, np.dtype(np.float64)
    operator, signs = rotations.upward(degree, dtype), translations.reflection(0, degree, dtype)
    length = translations.row_length(harmonics.n_harmonics(degree), dtype)
    boxes = np.arange(512, dtype=np.int32)
    x, y = np.zeros(513 * length), np.zeros(513 * length)
    scratch = rotations.scratch(degree, dtype)
    seconds = _least(
        lambda: rotations.translate(
            0, 512, operator, 0, signs, boxes, boxes, 1, x, length, y, length, *scratch
        )
    )
    return seconds / (512 * _of_degree(degree))


def _time_harmonic() -> float:
    degree, dtype = 10, np.dtype(np.float64)
    size = harmonics.n_harmonics(degree)
    x = np.random.default_rng(0).random((1024, 3)) - 0.5
    moments = np.ones((len(x), 1, 1))
    edges = np.arange(0, 1025, 64)
    boxes = np.arange(16, dtype=np.int32)
    none = harmonics.Terms(*(np.empty(0, np.int32),) * 3, np.empty(0))
    out = np.zeros(17 * translations.row_length(size, dtype))
    seconds = _least(
        lambda: expansions.form(
            0, 16, boxes, np.stack([edges[:-1], edges[1:]], axis=1), boxes, np.zeros((16, 3)),
            np.ones(16), x, moments, harmonics.degrees(0), False,
            expansions.factors(degree, dtype), none, expansions.workspace(degree, 1, dtype), out,
            len(out) // 17,
        )
    )  # fmt: skip
    return seconds / (len(x) * size)


@lru_cache
def _products(source_order: int, dense: bool) -> np.ndarray:
    """Return the mean number of products of a multipole-to-local translation at every degree.

    Of dense matrices as on a GPU, or in three steps.
    """
    every = range(truncation.MAX_DEGREE + 1)
    of_degree = np.array([(p + 1.0) ** 4 if dense else _of_degree(p) for p in every])
    # a shift of three boxes along an axis occurs for one of the two positions in a parent
    far = (np.abs(shifts()) == 3).sum(axis=1)
    reach = np.abs(shifts()).max(axis=1)
    weights = np.where((reach > 1) & (reach <= 3), 0.5**far, 0.0)
    products = [0.0]
    for degree in every[1:]:
        used = truncation.degrees(degree, source_order)
        products.append(np.average(of_degree[used], weights=weights * (used > 0)))
    return np.array(products)


def _of_degree(degree: int) -> float:
    """Return the products of three steps, and what else they cost, in products."""
    table = rotations.tiles_of(degree).table
    tiles, squares = _TILE * len(table), _SQUARE * (degree + 1.0) ** 2
    return float((table[:, 1] * table[:, 3]).sum() + tiles + squares)


class Work(NamedTuple):
    """What one evaluation asks for."""

    degree: int
    source_order: int
    order: int
    channels: int
    single: bool
    """Whether expansions are float32."""
    damped: bool = False
    """Whether the kernel is another than 1/r at short range."""
    processor: str = "cpu"
    """Whose times count: ``cpu``, ``cuda float32`` or ``cuda float64``."""
    narrow: bool = False
    """Whether near pairs may be float32."""
    times: Machine | None = None
    """Times that count, where several machines must agree; None: those of this one."""

    def machine(self) -> Machine:
        """Return the times that count."""
        return self.times or GPU.get(self.processor) or machine()

    def seconds_per_pair(self) -> float:
        """Seconds of a pair of the near field."""
        narrow = self.narrow and has_parts(self.source_order, self.order, self.damped)
        return self.seconds_per_wide_pair() * (0.5 if narrow and self.processor == "cpu" else 1.0)

    def seconds_per_wide_pair(self) -> float:
        """Seconds of a pair in float64, as where all is summed directly."""
        cost = pair_cost(self.source_order, self.order, self.channels, self.damped)
        return self.machine().pair * cost

    def seconds_per_translation(self, n_boxes: float = 0.0) -> float:
        """Seconds of a multipole-to-local translation, averaged over shifts."""
        return float(self.translations(n_boxes)[self.degree])

    def translations(self, n_boxes: float = 0.0) -> np.ndarray:
        """Seconds of a multipole-to-local translation among so many boxes at every degree."""
        products = _products(self.source_order, self.processor != "cpu")
        # boxes lie anywhere in memory, and many matrices take turns
        products = 1.3 * products + 300.0
        seconds = self.machine().multiply * self.channels * products * (0.5 if self.single else 1.0)
        if self.processor != "cpu":
            return seconds
        size = (np.arange(truncation.MAX_DEGREE + 1.0) + 1) ** 2 * (4 if self.single else 8)
        both = np.maximum(2 * size * n_boxes * self.channels, 1.0)
        waiting: np.ndarray = seconds + _LISTED + _MISS * np.maximum(1 - _CACHE / both, 0.0)
        return waiting

    def harmonics(self) -> np.ndarray:
        """Seconds per point to form and evaluate expansions of every degree."""
        size = (np.arange(truncation.MAX_DEGREE + 1.0) + 1) ** 2
        return 2 * self.machine().harmonic * self.channels * size

    def seconds_per_leaf(self) -> float:
        """Seconds of a leaf beside translations and pairs: sparse steps, lists, loops."""
        size = harmonics.n_harmonics(self.degree)
        sparse = harmonics.n_harmonics(self.order) + harmonics.n_harmonics(self.source_order)
        return self.machine().leaf * (1 + 1e-3 * size * sparse * self.channels)

    def least_for_expansion(self) -> int:
        """Return how many points must share a box before its expansion beats direct sums."""
        size = harmonics.n_harmonics(self.degree + self.source_order + self.order)
        return int(1.5 * size * self.machine().harmonic / self.seconds_per_pair()) + 1


@lru_cache
def expected_work(
    n: int,
    tolerance: float,
    source_order: int,
    order: int,
    channels: int,
    damped: bool = False,
    reach: float = 0.0,
) -> Work:
    """Return the work of an evaluation to a tolerance, for random moments at evenly spread points.

    The potential decides: the far field is a larger part of it than of its derivatives. Its mean
    square is the sum of 1/r^(2K + 2) over all other sources. For charges, distant sources dominate
    that sum, and boxes of all sizes contribute alike to the error; for higher moments the closest
    pairs dominate, and most of the error comes from leaves, here of a hundred points.

    Parameters
    ----------
    n : int
        Number of points.
    tolerance : float
        Relative root mean square error.
    source_order, order, channels : int
        Of moments and field.
    damped : bool
        Whether the kernel is another than 1/r at short range.
    reach : float
        Distance from which on it is 1/r, in units of the mean distance of neighbours, n^(-1/3) of
        the extent of the system.
    """
    crowd, rank = 100.0, source_order
    closest = 0.55 * (crowd * max(n, 1)) ** (-1 / 3)
    # within about a third of its reach a damped kernel hardly rises: closer pairs weigh no more
    closest = min(max(closest, 0.3 * reach * crowd ** (-1 / 3)), 0.5)
    derivatives = range(order + 1 if damped else 1)
    for degree in range(1, truncation.MAX_DEGREE):
        worst = max(_expected_error(degree, rank, k, closest) for k in derivatives)
        if worst <= accuracy.share(rank + order) * tolerance:
            break
    narrow = is_narrow(tolerance, source_order, order)
    return Work(degree, source_order, order, channels, tolerance >= SINGLE, damped, narrow=narrow)


def _expected_error(degree: int, rank: int, derivative: int, closest: float) -> float:
    """Return the relative error of a derivative's far field, points no closer than `closest`."""
    used = truncation.degrees(degree, rank)
    widest = np.abs(shifts()).max(axis=1)
    inner = (used > 0) & (widest > 1) & (widest <= 3)
    power = rank + derivative
    errors = truncation.errors(power)[np.flatnonzero(inner), used[inner]]
    errors = errors * 0.55**rank * 0.85**derivative
    # the mean square of 1/r^(power + 1)
    share = 1 / 15 if power == 0 else (2 * power - 1) * closest ** (2 * power - 1) / (4 * np.pi)
    return float(np.sqrt(189 * np.mean(errors**2) * share))


def best_occupancy(work: Work, dimension: float, n: float = 0.0) -> float:
    """Return the mean number of points a leaf should hold, of n points."""
    sizes = np.geomspace(max(4.0, work.machine().least), 4000, 160)
    seconds = [seconds_per_point(work, dimension, size, n=n) for size in sizes]
    return float(sizes[np.argmin(seconds)])


def seconds_per_point(
    work: Work, dimension: float, occupancy: float, crowding: float = 1.0, n: float = 0.0
) -> float:
    """Return the cost per point of leaves of some occupancy, n points filling `dimension`."""
    near = 3.0**dimension * occupancy * crowding * work.seconds_per_pair()
    n_translations = (6.0**dimension - 3.0**dimension) / (1 - 2.0**-dimension)
    n_boxes = n / occupancy / (1 - 2.0**-dimension)
    far = n_translations * work.seconds_per_translation(n_boxes) + work.seconds_per_leaf()
    return float(near + far / occupancy)
