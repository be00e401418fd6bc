"""Points drawn like an enemy, and who gives them."""

from collections.abc import Callable
from typing import Any

import numpy as np

import fmm
from fmm.distributed.ranks import Ranks
from fmm.distributed.threads import run
from multipoles.indexing import order_slice


def draw(name: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return points of a kind."""
    cube = rng.random((n, 3))
    if name == "sphere":
        x = rng.standard_normal((n, 3))
        return x / np.linalg.norm(x, axis=1)[:, None]
    if name == "cluster":
        return np.concatenate([cube[: n // 2], 0.5 + 1e-4 * rng.standard_normal((n - n // 2, 3))])
    if name == "deep":
        return np.concatenate([cube[: n // 9], 0.3 + 1e-8 * rng.standard_normal((n - n // 9, 3))])
    if name == "corner":  # ever smaller boxes around the middle of the largest
        x = 10.0 ** (-8 * cube[: n // 2, :1]) * rng.standard_normal((n // 2, 3))
        return np.concatenate([x, -x])
    if name == "line":
        return cube * [1.0, 0.0, 0.0] + 0.3
    if name == "lattice":
        m = round(n ** (1 / 3))
        return np.stack(np.meshgrid(*[np.arange(m) / m] * 3), -1).reshape(-1, 3)[:n]
    scales = {"cube": 1.0, "far": 1.0, "tiny": 1e-30, "huge": 1e30, "one place": 0.0}
    return scales[name] * cube + 1e7 * (name == "far")


def owners(how: str, n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return which rank gives each point."""
    kinds = {
        "in order": np.arange(n) * size // n,
        "at random": rng.integers(0, size, n),
        "all by one": np.full(n, size - 1),
        "some by none": rng.choice([0, size - 1], n),
    }
    return kinds[how]


def on_ranks(owner: np.ndarray, size: int, work: Callable[[Ranks, np.ndarray], Any]) -> list[Any]:
    """Return what work returns on every rank, from the ranks and which points are its own."""
    return run(size, lambda ranks: work(ranks, owner == ranks.rank))


def together(owner: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    """Return rows of all ranks in the order of all points."""
    out = np.empty((len(owner), *parts[0].shape[1:]), parts[0].dtype)
    for rank, part in enumerate(parts):
        out[owner == rank] = part
    return out


def errors(found: np.ndarray, expected: np.ndarray, order: int) -> list[float]:
    """Return the relative L2 error of every order; the largest number where nothing is expected."""
    out = []
    for k in range(order + 1):
        a, b = found[..., order_slice(k)], expected[..., order_slice(k)]
        norm = np.linalg.norm(b)
        out.append(float(np.linalg.norm(a - b) / norm if norm else np.abs(a).max(initial=0.0)))
    return out


def one(x: np.ndarray, y: np.ndarray | None, tolerance: float, **options: Any) -> fmm.FMM:
    """Return the plan of one rank, more accurate."""
    return fmm.FMM(x, y, tolerance / 10, **options)
