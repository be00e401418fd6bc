"""Random problems for plans, each made from its number alone.

A problem is drawn in natural units, where lengths and moments are not far from one, and given to
the plan scaled by powers of two, which is exact: what judges it never meets large numbers.
"""

from dataclasses import dataclass
from math import log2

import clouds
import numpy as np

import multipoles as mp
from multipoles.indexing import order_of, orders

LARGEST = 30_000
# seconds that a direct sum may take, and of one pair of charges
_LONGEST = 0.6
_PAIR = 6e-10
# decimal exponents that the dtype has, without some for what comes on the way
_RANGE = {"float32": 26.0, "float64": 280.0}
_AXES = np.array([1.0, 2.0, -0.5])


def _directions(n, rng):
    return clouds.SHAPES["sphere"](n, rng)


def _exponent(rng, low, high):
    """Return a number between 10^low and 10^high."""
    return 10.0 ** rng.uniform(low, high)


def _ball(n, rng):
    return _directions(n, rng) * rng.random((n, 1)) ** (1 / 3)


def _shell(n, rng):
    return _directions(n, rng) * (1 + 0.01 * rng.random((n, 1)))


def _plane(n, rng):
    return rng.random((n, 2)) @ np.array([[1.0, 0.3, 0.0], [-0.2, 0.7, 0.9]])


def _flat(n, rng):
    return np.append(rng.random((n, 2)), np.zeros((n, 1)), axis=1)


def _lattice(n, rng):
    edge = int(np.ceil(n ** (1 / 3)))
    places = np.stack(np.unravel_index(np.arange(n), (edge,) * 3), axis=1)
    return places * float(rng.choice([1.0, 0.1, 0.25]))


def _dust(n, rng):
    """Return a fractal: at each of fifteen levels four of the eight octants are left."""
    octants = rng.permutation(8)[:4]
    digits = octants[rng.integers(0, 4, (n, 15))]
    bits = (digits[:, :, None] >> np.arange(3)) & 1
    return np.einsum("nld,l->nd", bits, 3.0 ** -np.arange(15)) + 1e-8 * rng.random((n, 3))


def _two_clusters(n, rng):
    x = rng.random((n, 3))
    x[n // 2 :] = x[n // 2 :] * _exponent(rng, -2, 0) + _exponent(rng, 0.5, 6) * _AXES
    return x


def _outlier(n, rng):
    x = rng.random((n, 3))
    x[rng.integers(n)] = _exponent(rng, 2, 17) * _directions(1, rng)[0]
    return x


def _box(n, rng):
    return rng.random((n, 3)) * rng.permutation([1.0, 1e3, 1e6])


def _duplicates(n, rng):
    few = max(1, int(n / _exponent(rng, 0.3, 2)))
    return rng.random((few, 3))[rng.integers(0, few, n)]


def _tight(n, rng):
    x = rng.random((n, 3)) + 1
    where = rng.choice([0.0, 1.0]) * rng.random(3)
    x[: n // 2] = where + _exponent(rng, -8, -2) * (x[: n // 2] - 1.5)
    return x


def _pairs(n, rng):
    x = rng.random((n, 3))
    half = n // 2
    x[half : 2 * half] = x[:half] + _exponent(rng, -9, -3) * _directions(half, rng)
    return x


def _far(n, rng):
    return rng.random((n, 3)) + _exponent(rng, 3, 8) * _directions(1, rng)


POINTS = {
    "cube": lambda n, rng: rng.random((n, 3)),
    "ball": _ball,
    "sphere": _directions,
    "shell": _shell,
    "plummer": clouds.SHAPES["plummer"],
    "line": clouds.SHAPES["line"],
    "plane": _plane,
    "flat": _flat,
    "lattice": _lattice,
    "dust": _dust,
    "two clusters": _two_clusters,
    "outlier": _outlier,
    "box": _box,
    "duplicates": _duplicates,
    "tight": _tight,
    "pairs": _pairs,
    "far": _far,
    "one place": lambda n, rng: np.tile(rng.random((1, 3)), (n, 1)),
}
TARGETS = ["same", "apart", "nested", "among", "subset", "one", "few", "remote"]
MOMENTS = [
    "random", "one sign", "neutral pairs", "one non-zero", "few non-zero", "strong", "decades",
    "dipoles", "quadrupoles", "traces", "zero", "zero channel",
]  # fmt: skip
HISTORY = [
    "fresh", "twice", "zeros first", "others first", "tiny first", "one first",
    "other orders first", "rebuilt", "transposed", "transposed, rebuilt", "rebuilt, transposed",
    "partner rebuilt",
]  # fmt: skip
# which order pairs come half of the time: kernels are compiled for each
_COMMON = [(0, 1), (0, 1), (0, 1), (0, 0), (1, 1), (1, 2), (2, 2)]


@dataclass
class Settings:
    """What was drawn of a problem before any number of it."""

    points: str
    targets: str
    moments: str
    history: str
    kernel: str
    dtype: str
    tolerance: float
    source_order: int
    order: int
    n_sources: int
    n_targets: int
    channels: int
    systems: int
    leaf_size: int | None
    # powers of two by which lengths and moments are multiplied
    length: int
    moment: int

    @property
    def kinds(self) -> dict[str, str]:
        """What a table sorts by."""
        decade = int(np.floor(np.log10(self.tolerance * (1 + 1e-9))))
        size = next(text for most, text in _SIZES if self.n_sources <= most)
        return {
            "points": self.points,
            "targets": self.targets,
            "moments": self.moments,
            "history": self.history,
            "kernel": self.kernel,
            "dtype": self.dtype,
            "tolerance": f"1e{decade:03d}",
            "orders": f"{self.source_order} to {self.order}",
            "sources": size,
            "channels": str(self.channels),
            "systems": "one" if self.systems == 0 else "many",
            "units": "natural" if self.length == self.moment == 0 else "scaled",
        }


_SIZES = [(10, "1-10"), (100, "11-100"), (1000, "101-1000"), (3000, "1001-3000"),
          (10_000, "3001-10000"), (LARGEST, "10001-30000")]  # fmt: skip


@dataclass
class Problem:
    """A problem in natural units, in the dtypes in which the plan gets it.

    `targets` is None where they are the sources; batches are None for one system; `before` are
    points (targets, sources) and moments that the plan meets first.
    """

    settings: Settings
    sources: np.ndarray
    targets: np.ndarray | None
    moments: np.ndarray
    source_batch: np.ndarray | None
    target_batch: np.ndarray | None
    kernel: mp.Kernel
    before: tuple[np.ndarray | None, np.ndarray, np.ndarray]

    def at(self) -> np.ndarray:
        """Return the targets."""
        return self.sources if self.targets is None else self.targets

    def lengths(self, x: np.ndarray | None) -> np.ndarray | None:
        """Return lengths in the units of the plan."""
        return None if x is None else np.ldexp(x, self.settings.length)

    def given(self, moments: np.ndarray) -> np.ndarray:
        """Return moments in the units of the plan."""
        shift = self.settings.moment + self.settings.length * _orders_of(moments)
        return np.ldexp(moments, shift)

    def given_kernel(self) -> mp.Kernel:
        """Return the kernel in the units of the plan."""
        factor = 2.0**self.settings.length
        if isinstance(self.kernel, mp.Softened):
            return mp.Softened(self.kernel.cutoff * factor, self.kernel.terms)
        return (
            mp.Erf(self.kernel.alpha / factor) if isinstance(self.kernel, mp.Erf) else self.kernel
        )

    def shift_of(self, order: int) -> int:
        """Return the power of two by which a field of an order comes back larger."""
        return self.settings.moment - self.settings.length * (1 + order)


def _orders_of(moments: np.ndarray) -> np.ndarray:
    return orders(order_of(moments.shape[-1]))


def generator(base: int, number: int) -> np.random.Generator:
    """Return where the chance of a case comes from."""
    return np.random.default_rng((base, number))


def draw(rng: np.random.Generator) -> Settings:
    """Return the settings of a case."""
    points, targets, moments, history = (
        str(rng.choice(kinds)) if rng.random() < share else usual
        for kinds, share, usual in (
            (list(POINTS), 0.9, "cube"), (TARGETS, 0.5, "same"), (MOMENTS, 0.7, "random"),
            (HISTORY, 0.4, "fresh"),
        )
    )  # fmt: skip
    dtype = str(rng.choice(["float64", "float32", "mixed"], p=[0.6, 0.32, 0.08]))
    kernel = str(rng.choice(["Coulomb", "Softened", "Erf"], p=[0.7, 0.15, 0.15]))
    source_order, order = rng.integers(0, 5, 2) if rng.random() < 0.4 else rng.choice(_COMMON)
    needed = {"dipoles": 1, "quadrupoles": 2, "traces": 2}.get(moments, 0)
    source_order, order = max(int(source_order), needed), int(order)
    channels = int(rng.integers(2, 5)) if rng.random() < 0.15 or moments == "zero channel" else 1
    # less than its rounding is seldom asked of float32
    least = -7 if dtype == "float32" and rng.random() < 0.9 else -12
    tolerance = float(f"{10.0 ** rng.uniform(least, -2):.0e}")
    n_sources, n_targets = _sizes(rng, targets, source_order, order, channels)
    systems = int(rng.integers(2, 13)) if rng.random() < 0.12 else 0
    leaf_size = int(_exponent(rng, 0.8, 2.3)) if rng.random() < 0.3 else None
    length, moment = _units(rng, dtype, source_order, order)
    return Settings(
        points, targets, moments, history, kernel, dtype, tolerance, source_order, order,
        n_sources, n_targets, channels, systems, leaf_size, length, moment,
    )  # fmt: skip


def _sizes(rng, targets, source_order, order, channels) -> tuple[int, int]:
    """Return how many sources and targets, so that a direct sum does not take too long."""
    top = source_order + order
    rows = sum(mp.n_components(k) for k in range(top + 1))
    terms = channels * mp.n_components(source_order) * mp.n_components(order)
    pair = _PAIR * (1 if top <= 1 and source_order == 0 and channels == 1 else
                    2 + 0.7 * rows + 0.3 * terms)  # fmt: skip
    low = 3000 if rng.random() < 0.5 else 1
    n = int(np.exp(rng.uniform(np.log(low), np.log(LARGEST + 1))))
    other = {"same": n, "one": 1, "few": int(rng.integers(2, 51))}.get(
        targets, max(1, int(n * _exponent(rng, -1.5, 0)))
    )
    too_many = np.sqrt(n * other * pair / _LONGEST)
    if too_many > 1:
        n = max(1, int(n / too_many))
        other = n if targets == "same" else min(other, max(1, int(other / too_many)))
    return (0 if rng.random() < 0.003 else n), (min(other, n) if targets == "subset" else other)


def _units(rng, dtype, source_order, order) -> tuple[int, int]:
    """Return the powers of two of lengths and moments, such that fields can be expressed."""
    narrow = dtype != "float64"
    length = rng.uniform(-1, 1) * (15 if narrow else 100) if rng.random() < 0.15 else 0.0
    moment = rng.uniform(-1, 1) * (15 if narrow else 150) if rng.random() < 0.15 else 0.0
    needed = abs(length) * (1 + max(order, source_order)) + abs(moment)
    room = _RANGE["float32" if narrow else "float64"]
    factor = min(1.0, room / needed) if needed else 1.0
    return round(log2(10) * factor * length), round(log2(10) * factor * moment)


def build(settings: Settings, rng: np.random.Generator) -> Problem:
    """Return the problem that settings and what is left of their chance make."""
    points_type = np.dtype("float64" if settings.dtype == "float64" else "float32")
    moments_type = np.dtype("float32" if settings.dtype == "float32" else "float64")
    shape, n, m = POINTS[settings.points], settings.n_sources, settings.n_targets
    sources = shape(max(n, 1), rng)[:n]
    moments = _moments(settings, sources, rng)
    targets = _targets(settings.targets, shape, sources, m, rng)
    again = np.copy(sources), None if targets is None else np.copy(targets)
    if "rebuilt" in settings.history:
        step = _exponent(rng, -4, 0) * (np.ptp(sources, axis=0) if n else 1.0)
        again = tuple(x if x is None else x + step * rng.standard_normal(x.shape) for x in again)
    source_batch = _batch(settings.systems, n, rng)
    target_batch = source_batch if targets is None else _batch(settings.systems, m, rng)

    def rounded(x):
        return None if x is None else _kept(x.astype(points_type), settings.length)

    kernel = _kernel(settings.kernel, sources, rng)
    other = rng.standard_normal(moments.shape).astype(moments_type)
    return Problem(
        settings, rounded(sources), rounded(targets), moments.astype(moments_type),
        source_batch, target_batch, kernel, (rounded(again[1]), rounded(again[0]), other),
    )  # fmt: skip


def _kept(x: np.ndarray, length: int) -> np.ndarray:
    """Return coordinates without those digits that are lost in the units of the plan."""
    return np.ldexp(np.ldexp(x, length), -length)


def _targets(kind, shape, sources, m, rng) -> np.ndarray | None:
    """Return targets, None for those that are the sources."""
    if kind == "same":
        return None
    low = sources.min(axis=0) if len(sources) else np.zeros(3)
    extent = np.ptp(sources, axis=0) if len(sources) else np.ones(3)
    if kind == "subset":
        return sources[np.sort(rng.choice(len(sources), min(m, len(sources)), replace=False))]
    if kind in ("one", "few", "among"):
        return shape(m, rng)
    if kind == "nested":
        return low + extent * (0.45 + 0.1 * rng.random((m, 3)))
    edge = max(float(extent.max()), 1e-3)
    away = _exponent(rng, 2, 5) if kind == "remote" else _exponent(rng, 0, 1.5)
    return low + edge * (rng.random((m, 3)) + away * _directions(1, rng))


def _moments(settings: Settings, sources: np.ndarray, rng) -> np.ndarray:
    """Return moments; neutral pairs move the sources together."""
    n, kind = len(sources), settings.moments
    values = rng.standard_normal((n, settings.channels, mp.n_components(settings.source_order)))
    of = orders(settings.source_order)
    if kind == "one sign":
        return np.abs(values)
    if kind == "neutral pairs":
        half = n // 2
        gap = _exponent(rng, -5, -1) * _spacing(sources, rng)
        sources[half : 2 * half] = sources[:half] + gap * _directions(half, rng)
        values[half : 2 * half] = -values[:half]
    elif kind in ("one non-zero", "few non-zero"):
        left = rng.choice(n, min(n, 1 if kind.startswith("one") else rng.integers(2, 9)), False)
        values *= np.isin(np.arange(n), left)[:, None, None]
    elif kind == "strong" and n:
        values[rng.integers(n)] *= _exponent(rng, 2, 6)
    elif kind == "decades":
        values *= 10.0 ** rng.uniform(-24, 0, (n, 1, 1))
    elif kind in ("dipoles", "quadrupoles"):
        values *= of == (1 if kind == "dipoles" else 2)
    elif kind == "traces":
        # of powers of two, so that their field is zero to the last digit
        trace = np.isin(np.arange(len(of)), [4, 7, 9])
        values = trace * 2.0 ** np.round(rng.uniform(-3, 3, (n, settings.channels, 1)))
    elif kind == "zero":
        values *= 0.0
    elif kind == "zero channel":
        values[:, 0] = 0.0
    return values


def _spacing(sources: np.ndarray, rng) -> float:
    """Return about the mean distance of neighbours."""
    if len(sources) < 2:
        return 1.0
    i, j = rng.integers(0, len(sources), (2, 100))
    typical = float(np.median(np.linalg.norm(sources[i] - sources[j], axis=1)))
    return (typical or 1.0) / len(sources) ** (1 / 3)


def _kernel(name: str, sources: np.ndarray, rng) -> mp.Kernel:
    if name == "Coulomb":
        return mp.Coulomb()
    length = float(np.float32(_spacing(sources, rng) * _exponent(rng, -0.7, 0.5)))
    return mp.Softened(length, 12) if name == "Softened" else mp.Erf(1 / length)


def _batch(systems: int, n: int, rng) -> np.ndarray | None:
    """Return which system each of n points is of; some have none."""
    return None if systems == 0 else 3 * np.sort(rng.integers(0, systems, n))
