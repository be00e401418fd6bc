"""Ways to sum over pairs on the GPU, or in the simulator, against plain sums in NumPy."""

import numpy as np
import pytest

import multipoles as mp
from multipoles import indexing, reference, validation

pytest.importorskip("numba.cuda")
from fmm.cuda.near import near_field
from multipoles.cuda import direct, records
from multipoles.cuda.device import NumbaSpace
from multipoles.cuda.neighbours import DeviceNeighbours, DevicePairs

pytestmark = pytest.mark.cuda
SPACE = NumbaSpace()
TOLERANCE = {np.float64: 1e-12, np.float32: 2e-5}
WAYS = ("tiles", "threads", "systems", "pairs", "near")


class Case:
    """Points, some of which coincide or lie far away, and moments."""

    def __init__(self, dtype, source_order, channels, n_targets=18, n_sources=23, seed=0):
        rng = np.random.default_rng(seed)
        self.rng = rng
        x, s = rng.uniform(-2, 2, (n_targets, 3)), rng.uniform(-2, 2, (n_sources, 3))
        n = min(n_targets, n_sources, 4)
        s[:n] = x[:n]
        x[-1:] *= 1e3
        moments = rng.normal(size=(n_sources, channels, indexing.n_components(source_order)))
        self.arrays = [np.ascontiguousarray(a, dtype) for a in (x, s, moments)]
        self.there = [SPACE.upload(a) for a in self.arrays]
        self.n, self.dtype = (n_targets, n_sources), dtype

    def neighbours(self, way):
        """Return who meets whom, on the device and for the plain sums."""
        if way == "systems":  # without targets, without sources, and numbers that do not occur
            batches = [np.sort(self.rng.integers(0, 5, n)) for n in self.n]
            batches[1][batches[1] == 2], batches[0][batches[0] == 1] = 3, 0
            given = [SPACE.upload(np.sort(b)) for b in batches]
            names = "target_batch", "source_batch"
            plain = dict(zip(names, (np.sort(b) for b in batches), strict=True))
            return DeviceNeighbours(*self.n, *given), plain
        if way == "pairs":  # twice the same, a target without any, and one of many
            pairs = np.stack([self.rng.integers(0, n, 40) for n in self.n], axis=1)
            pairs[pairs[:, 0] == 3, 0] = 0
            pairs[:3] = pairs[3]
            ends = [SPACE.upload(np.ascontiguousarray(a)) for a in pairs.T]
            return DevicePairs(*ends, *self.n), {"pairs": pairs}
        return DeviceNeighbours(*self.n), {}

    def near(self, order, kernel):
        """Return a near field, and its plain sums."""
        x, s, moments = self.arrays
        n, m = self.n
        leaves = np.array([[0, n // 3], [n // 3, n // 3 + 1], [n // 3 + 1, n]])
        ranges, starts = (
            np.array([[0, m // 4], [m // 2, m], [0, m], [2, 2]]),
            np.array([0, 2, 3, 4]),
        )
        starts[-1] = 3 if n < 3 else 4
        given = [SPACE.upload(a) for a in (leaves, starts, ranges)]
        out = SPACE.upload(np.full((n, moments.shape[1], indexing.n_components(order)), np.nan))
        if self.dtype == np.float32:
            out = SPACE.upload(np.full(out.shape, np.nan, np.float32))
        near_field(SPACE, *self.there, order, *given, out, kernel=kernel)
        wanted = np.zeros(out.shape)
        for leaf, (first, last) in enumerate(leaves):
            for begin, end in ranges[starts[leaf] : starts[leaf + 1]]:
                if end > begin and last > first:
                    wanted[first:last] += reference.field(
                        x[first:last], s[begin:end], moments[begin:end], order, kernel
                    )
        return SPACE.download(out), wanted

    def check(self, way, order, kernel):
        """Compare one way with plain sums, order by order; twice the same."""
        if way == "near":
            (found, wanted), again = self.near(order, kernel), self.near(order, kernel)[0]
        else:
            neighbours, plain = self.neighbours(way)
            found, again = (
                SPACE.download(direct.field(SPACE, *self.there, order, kernel, neighbours))
                for _ in range(2)
            )
            wanted = reference.field(*self.arrays, order, kernel, **plain)
        assert np.array_equal(found, again) and found.dtype == self.dtype
        for rank in range(order + 1):
            own = indexing.order_slice(rank)
            scale = max(np.abs(wanted[..., own]).max(), 1e-3)
            assert np.abs(found[..., own] - wanted[..., own]).max() <= TOLERANCE[self.dtype] * scale


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Name a way to sum; the number of pairs does not decide."""
    monkeypatch.setattr(direct, "_TILED", 1 if request.param == "tiles" else 1 << 60)
    monkeypatch.setattr(direct, "_LEAST_PART", 4)
    return request.param


@pytest.mark.parametrize("source_order, order, channels", [(0, 1, 1), (1, 2, 2)])
def test_every_way(way, source_order, order, channels):
    n = 4 * direct.TEAM + 2
    case = Case(np.float64, source_order, channels, n, 2 * n)
    case.check(way, order, mp.Coulomb())


@pytest.mark.parametrize("n_targets, n_sources", [(1, 1), (1, 40), (2, 3), (17, 1)])
def test_few_points(way, n_targets, n_sources):
    Case(np.float32, 0, 1, n_targets, n_sources).check(way, 1, mp.Coulomb())


def test_parts_of_sources_are_added(monkeypatch):
    monkeypatch.setattr(direct, "_LEAST_PART", 4)
    monkeypatch.setattr(direct, "_BUSY", 1 << 14)
    launched = []
    sum_parts = direct.sum_parts
    monkeypatch.setattr(direct, "sum_parts", lambda: launched.append(1) or sum_parts())
    for source_order, order in ((0, 1), (4, 3)):
        Case(np.float64, source_order, 1, 2, 16 * direct.TEAM).check("threads", order, mp.Coulomb())
    assert len(launched) == 4


@pytest.mark.parametrize("held", [1, 2])
@pytest.mark.parametrize("most, log_threads", [(1, 2), (5, 5)])
def test_few_threads_idle(held, most, log_threads):
    for n in range(1, (held << most) + 1):
        left, spent = n, 0.0
        while left > 0:
            columns = 1 << (
                log_threads - records.groups_for.function(left, log_threads, most, held)
            )
            assert columns <= 1 << most
            left -= held * columns
            spent += held * columns
        least = held << max(0, most - 3)
        assert spent < max(4 / 3 * n + least, least + 1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("source_order", range(4))
def test_all_orders(way, source_order, dtype):
    for order in range(4):
        for channels in (1, 2, 3):
            Case(dtype, source_order, channels, seed=order).check(way, order, mp.Coulomb())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kernel", validation.KERNELS, ids=lambda k: type(k).__name__)
def test_all_kernels(way, kernel, dtype):
    for source_order, order in ((0, 1), (1, 2)):
        Case(dtype, source_order, 2).check(way, order, kernel)


@pytest.mark.slow
def test_orders_by_tables(way):
    for channels in (1, 2):
        Case(np.float64, 4, channels).check(way, 3, mp.Coulomb())
