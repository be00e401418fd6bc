"""What the benchmarks on the GPU share: arrays there, times, launches, rows, errors, ceilings."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np

import multipoles as mp
from multipoles.compiled import driver
from multipoles.compiled.cuda_access import loader, storer
from multipoles.compiled.cuda_kernels import SIMULATED, Launch, cuda, kernels, positive_rsqrt
from multipoles.compiled.emit import emitted
from multipoles.cuda.device import NumbaSpace, space_of, view

# independent chains of a thread, and operations of each that a round of the loop writes out
CHAINS, UNROLLED = 8, 16
ROUNDS = 2 if SIMULATED else 256
THREADS = 2 if SIMULATED else 256


@dataclass
class Row:
    """One measurement: seconds, what was asked for, and the error of what was computed."""

    case: str
    n: int
    dtype: str
    seconds: float
    target: float | None = None
    rate: float | None = None  # per second, of what `unit` says
    unit: str = ""
    limit: float | None = None  # fraction of the device's limit
    error: float | None = None
    bound: float | None = None  # what the error may be
    remark: str = ""

    def entries(self) -> dict:
        """Return the row of the table: whether target and bound were met beside the numbers."""
        found = asdict(self)
        timed = self.target is not None and not math.isnan(self.seconds)
        found["met"] = self.seconds <= self.target if timed else ""
        found["right"] = "" if None in (self.error, self.bound) else self.error <= self.bound
        return found


class Place:
    """The GPU, or the simulator in its place: arrays there and back, and times.

    Parameters
    ----------
    smoke : bool
        Run everything once in the simulator; times are not taken, and are NaN.
    """

    def __init__(self, smoke: bool) -> None:
        self.smoke = smoke

    def put(self, array: np.ndarray) -> Any:
        """Return a copy on the device: a tensor of torch, or Numba's array in the simulator."""
        if self.smoke:
            return NumbaSpace().upload(np.ascontiguousarray(array))
        return self.tensor(array)

    def tensor(self, array: np.ndarray) -> Any:
        """Return a copy as a tensor of torch, which the simulator leaves on the CPU."""
        import torch

        return torch.as_tensor(np.ascontiguousarray(array), device="cpu" if self.smoke else "cuda")

    def take(self, array: Any) -> np.ndarray:
        """Return a copy on the host, in float64."""
        if hasattr(array, "copy_to_host"):
            array = array.copy_to_host()
        elif hasattr(array, "detach"):
            array = array.detach().cpu().numpy()
        return np.asarray(array, np.float64)

    def seconds(self, task: Callable[[], Any], repeats: int = 7, warm: int = 2) -> float:
        """Return the least time of a task between two events of the current stream."""
        if self.smoke:
            task()
            return math.nan
        import torch

        for _ in range(warm):
            task()
        times = []
        for _ in range(repeats):
            self.synchronize()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            task()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e-3)
        return min(times)

    def synchronize(self) -> None:
        """Wait for all that is queued."""
        if not self.smoke:
            import torch

            torch.cuda.synchronize()


class Launches:
    """Counts the launches of all kernels while it is open, and the host's time in them.

    A graph that is replayed counts as one, named ``graph``.
    """

    def __enter__(self) -> "Launches":
        self.counts: Counter = Counter()
        self.seconds, self._kept = 0.0, (Launch.__call__, driver.Graph.launch)
        of_kernels, of_graphs = self._kept
        Launch.__call__ = self._counted(  # type: ignore[method-assign]
            of_kernels, lambda kernel: ".".join(kernel.origin[:2])
        )
        driver.Graph.launch = self._counted(  # type: ignore[method-assign]
            of_graphs, lambda _: "graph"
        )
        return self

    def _counted(self, call: Callable[..., None], name: Callable[[Any], str]) -> Any:
        def counted(which: Any, *arguments: Any) -> None:
            start = perf_counter()
            call(which, *arguments)
            self.seconds += perf_counter() - start
            self.counts[name(which)] += 1

        return counted

    def __exit__(self, *_: Any) -> None:
        Launch.__call__, driver.Graph.launch = self._kept  # type: ignore[method-assign]


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative L2 error; of a field, give one order of derivatives at a time."""
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def sampled_error(place: Place, got: Any, x: Any, s: Any, m: Any, order: int) -> float:
    """Return the relative error at some targets, of the order that has the largest.

    Against a sum in float64 on the CPU, of the same points.
    """
    chosen = np.random.default_rng(1).choice(len(x), min(len(x), 200), replace=False)
    wide = [np.asarray(array, np.float64) for array in (x[chosen], s, m)]
    return worst_order(place.take(got)[chosen], mp.field(*wide, order), order)


def worst_order(got: np.ndarray, expected: np.ndarray, order: int) -> float:
    """Return the relative error of the order of derivatives that has the largest."""
    starts = [0, *(mp.n_components(k) for k in range(order + 1))]
    return max(relative(got[:, a:b], expected[:, a:b]) for a, b in pairwise(starts))


# --- ceilings -------------------------------------------------------------------------------------


def _multiply_adds(count: int, values: Any, factors: Any) -> list[list[Any]]:
    """Return values after so many multiply-adds each; chains take turns."""
    values = list(values)
    for _ in range(count):
        values = [value * factors[0] + factors[1] for value in values]
    return [values]


_written_multiply_adds = emitted(_multiply_adds)


@kernels
def multiply_add(unrolled):
    """Return the loop of CHAINS independent chains of fused multiply-adds, all in registers.

    Written out, so that counting the rounds is a small part of what is issued.
    """
    load, store = loader(CHAINS), storer(CHAINS)

    def loop(scale, shift, rounds, out):
        place = cuda.grid(1) * CHAINS
        chains = load(out, place)
        for _ in range(rounds):
            chains = _written_multiply_adds(unrolled, (chains, (scale, shift)))[0]
        store(out, place, chains)

    return loop


@kernels
def reciprocal_roots():
    """Return the loop of CHAINS independent chains of reciprocal square roots, in registers."""
    load, store = loader(CHAINS), storer(CHAINS)

    def loop(scale, shift, rounds, out):
        place = cuda.grid(1) * CHAINS
        a, b, c, d, e, f, g, h = load(out, place)
        for _ in range(rounds):
            a, b = positive_rsqrt(a), positive_rsqrt(b)
            c, d = positive_rsqrt(c), positive_rsqrt(d)
            e, f = positive_rsqrt(e), positive_rsqrt(f)
            g, h = positive_rsqrt(g), positive_rsqrt(h)
        store(out, place, (a, b, c, d, e, f, g, h))

    return loop


def ceilings(place: Place) -> tuple[float, float]:
    """Return how many float32 multiply-adds and reciprocal square roots a second there can be."""
    blocks = 2 if SIMULATED else 132 * 64
    out = place.put(np.linspace(1, 2, blocks * THREADS * CHAINS, dtype=np.float32))
    stream, seen = space_of(out).stream, view(out)
    rates = []
    for kernel, done in ((multiply_add(UNROLLED), UNROLLED), (reciprocal_roots(), 1)):
        rounds = ROUNDS * UNROLLED // done

        def task(kernel=kernel, rounds=rounds) -> None:
            kernel(stream, np.float32, blocks, THREADS, 0.999, 0.001, rounds, seen)

        rates.append(blocks * THREADS * CHAINS * rounds * done / place.seconds(task))
    return rates[0], rates[1]
