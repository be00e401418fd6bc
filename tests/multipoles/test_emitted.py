"""Emitted loops against the slow sum over listed pairs, and their arithmetic in plain Python."""

import os
import subprocess
import sys

import numpy as np
import pytest

import multipoles as mp
from multipoles import indexing, reference, sums
from multipoles.compiled.jit import get_num_threads, set_num_threads
from multipoles.emitted import field, rows, sizes, traceless
from multipoles.emitted.field import field_of_pairs, field_of_tiles, pair_cost
from multipoles.neighbours import PairList, Slots

ORDERS = [(K, D) for K in range(5) for D in range(6)]
# each kernel takes a third of a second to compile; the arithmetic is tested for all orders below
COMPILED = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 3), (2, 2), (3, 3)]
RARE = [(0, 4), (2, 0), (4, 0), (2, 1), (4, 5)]
SOME = [(0, 0), (0, 1), (0, 3), (1, 0), (3, 0), (1, 1), (3, 2)]


def problem(K, D, channels, dtype, leaves, n=60, seed=0):
    """Points that are targets and sources, leaves of the given sizes, and ranges near each."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(leaves)
    targets = rng.random((int(ends[-1]), 3)).astype(dtype)
    # some sources coincide with targets
    sources = np.concatenate([rng.random((n, 3)).astype(dtype), targets[:7]])
    moments = rng.normal(size=(len(sources), channels, indexing.n_components(K))).astype(dtype)
    ranges, starts = [], [0]
    for leaf in range(len(leaves)):
        for _ in range(leaf % 4):
            first = int(rng.integers(0, len(sources)))
            ranges.append((first, min(first + int(rng.integers(0, 40)), len(sources))))
        starts.append(len(ranges))
    ranges = np.array(ranges, np.int64).reshape(-1, 2)
    out = np.full((len(targets), channels, indexing.n_components(D)), np.nan, dtype)
    places = np.stack([ends - leaves, ends], axis=1)
    return targets, sources, moments, D, places, np.array(starts), ranges, out


def add_up(targets, sources, moments, D, places, starts, ranges, out, **rest):
    field_of_tiles(targets, sources, moments, D, (places, starts, ranges), out, **rest)


def pairs_of(places, starts, ranges):
    found = [
        (i, j)
        for leaf, (begin, end) in enumerate(places)
        for first, last in ranges[starts[leaf] : starts[leaf + 1]]
        for j in range(first, last)
        for i in range(begin, end)
    ]
    return np.array(found, np.int64).reshape(-1, 2)


def exact(targets, sources, moments, D, places, starts, ranges, out):
    wide = (a.astype(np.float64) for a in (targets, sources, moments))
    return reference.field(*wide, D, pairs=pairs_of(places, starts, ranges))


def assert_same(out, wanted, D, tolerance):
    orders = indexing.orders(D)
    for n in range(D + 1):
        scale = np.abs(wanted[..., orders == n]).max()
        error = np.abs(out[..., orders == n] - wanted[..., orders == n]).max()
        assert error <= tolerance * scale, f"order {n}: {error / scale:.1e}"


def check(K, D, channels, dtype, leaves=(0, 1, 2, 5, 3, 9)):
    arguments = problem(K, D, channels, dtype, np.array(leaves))
    add_up(*arguments)
    tolerance = 1e-12 if dtype is np.float64 else 2e-5
    assert_same(arguments[-1], exact(*arguments), D, tolerance)


@pytest.mark.parametrize(
    ("K", "D"), [*COMPILED, *(pytest.param(*orders, marks=pytest.mark.slow) for orders in RARE)]
)
def test_one_channel(K, D):
    check(K, D, 1, np.float64)


@pytest.mark.parametrize(("K", "D"), SOME)
@pytest.mark.parametrize("channels", [3, 5, 16])
def test_channels(K, D, channels):
    check(K, D, channels, np.float64)


@pytest.mark.parametrize(("K", "D"), [(0, 1), pytest.param(2, 0, marks=pytest.mark.slow), (2, 2)])
@pytest.mark.parametrize("channels", [1, 5])
def test_single_precision(K, D, channels):
    check(K, D, channels, np.float32)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 31, 64, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_sizes_of_leaves_and_ranges(size, channels):
    targets, sources, moments, D, places, *_, out = problem(
        0, 1, channels, np.float64, np.array([size, size]), n=size
    )
    n = len(sources)
    ranges = np.array([(0, size), (3, 3), (size // 2, n)])
    arguments = targets, sources, moments, D, places, np.array([0, 1, 3]), ranges, out
    add_up(*arguments)
    assert_same(out, exact(*arguments), D, 1e-12)


@pytest.mark.parametrize(("K", "D", "channels"), [(0, 1, 1), (2, 2, 1), (0, 1, 3), (1, 1, 3)])
def test_more_sources_than_a_block_holds(K, D, channels):
    n = 2500
    targets, _, _, _, places, *_ = problem(K, D, channels, np.float64, np.array([5]))
    rng = np.random.default_rng(1)
    sources = rng.random((n, 3))
    moments = rng.normal(size=(n, channels, indexing.n_components(K)))
    n_rows = 3 + channels * len(traceless.row_names(K, D))
    assert sizes.chunk(n_rows, 8) < n // 2
    ranges = np.array([(0, 1100), (1100, 1101), (1000, n)])
    out = np.empty((5, channels, indexing.n_components(D)))
    arguments = targets, sources, moments, D, places, np.array([0, 3]), ranges, out
    add_up(*arguments)
    assert_same(out, exact(*arguments), D, 1e-11)


def test_only_the_leaves_asked_for():
    arguments = problem(1, 1, 1, np.float64, np.array([4, 4, 4, 4]))
    add_up(*arguments, first=1, last=3)
    out, wanted = arguments[-1], exact(*arguments)
    assert np.isnan(out[:4]).all()
    assert np.isnan(out[12:]).all()
    np.testing.assert_allclose(out[4:12], wanted[4:12], rtol=1e-11, atol=1e-11)


def test_nothing_near_is_zero():
    arguments = problem(1, 2, 1, np.float64, np.array([3, 2]))
    add_up(*arguments[:5], np.zeros(3, np.int64), np.empty((0, 2), np.int64), arguments[-1])
    assert (arguments[-1] == 0).all()


def test_threads_give_the_same_numbers():
    leaves = np.full(150, 40)
    arguments = problem(0, 1, 1, np.float64, leaves, n=2000)
    ranges = np.tile([0, 2000], (150, 1))
    arguments = *arguments[:5], np.arange(151), ranges, arguments[-1]
    before, found = get_num_threads(), []
    try:
        for threads in (1, 3):
            set_num_threads(threads)
            add_up(*arguments)
            found.append(arguments[-1].copy())
    finally:
        set_num_threads(before)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(("K", "D"), [*ORDERS, (6, 6), (2, 8), (8, 2), (0, 9), (9, 0)])
@pytest.mark.parametrize("scaled", [False, True])
def test_arithmetic_on_plain_numbers(K, D, scaled):
    scaled = scaled and not traceless.has_products(K, D)
    rng = np.random.default_rng(2)
    r, moments = rng.normal(size=3), rng.normal(size=(1, indexing.n_components(K)))
    shared = traceless.geometry(K, D, tuple(r), 1 / np.sqrt(r @ r), scaled)
    read = list(rows._fold(K, D) @ moments[0])
    found = traceless.add_field(K, D, shared, read, [0.0] * len(traceless.sum_names(D)))
    found = rows._unfold(K, D) @ found
    assert_same(found, reference.field(r[None], np.zeros((1, 3)), moments, D)[0], D, 1e-11)


@pytest.mark.parametrize("K, D, channels", [(0, 0, 1), (0, 1, 1), (1, 2, 1), (0, 1, 3), (1, 1, 2)])
def test_coordinates_in_two_parts_have_the_digits_of_float32(K, D, channels):
    """Clusters far from the origin, pairs of all distances, sources that coincide with targets."""
    targets, sources, moments, *rest, out = problem(K, D, channels, np.float64, [9, 20, 1, 13])
    rng = np.random.default_rng(1)
    sources[:20] = targets[:20] + 10.0 ** rng.uniform(-7, -2, (20, 1)) * rng.normal(size=(20, 3))
    sources[20:63] = targets
    targets, sources = (1000 + a for a in (targets, sources))
    narrow = moments.astype(np.float32)
    given = targets, sources, narrow.astype(float), *rest
    slow, found = np.empty_like(out), np.empty_like(out, np.float32)
    _, places, starts, ranges = rest
    tiles = places, starts, ranges
    assert field_of_tiles(*given[:3], D, tiles, slow) == 0
    coincident = field_of_tiles(targets, sources, narrow, D, tiles, found)
    i, j = pairs_of(places, starts, ranges).T
    assert coincident == (targets[i] == sources[j]).all(axis=1).sum() > 0
    scale = np.abs(slow).max(axis=(0, 1))
    assert (np.abs(found - slow) <= 3e-6 * scale).all()
    some = np.abs(slow) > 1e-3 * scale
    assert np.median(np.abs(found - slow)[some] / np.abs(slow)[some]) < 1e-6


def test_points_too_close_for_two_parts_are_counted():
    x = np.array([[0.0, 0, 0], [0.5, 0, 0], [0.5, 1e-30, 0], [0, 0, 0.2], [1e-20, 0, 0.2]])
    q, out = np.ones((5, 1, 1), np.float32), np.empty((5, 1, 4), np.float32)
    every = np.array([[0, 5]])
    assert field_of_tiles(x, x, q, 1, (every, np.array([0, 1]), every), out) > 5
    y = np.linspace(0, 1, 15).reshape(5, 3) ** 2
    assert field_of_tiles(y, y, q, 1, (every, np.array([0, 1]), every), out) == 5
    assert field_of_tiles(y, y + 0.01, q, 1, (every, np.array([0, 1]), every), out) == 0


def test_cost_grows_with_orders_and_channels():
    assert pair_cost(0, 1) == pytest.approx(1.0)
    for K, D in ORDERS:
        assert pair_cost(K + 1, D) > pair_cost(K, D)
        assert pair_cost(K, D + 1) > pair_cost(K, D)
        assert pair_cost(K, D) < pair_cost(K, D, 16) < 25 * pair_cost(K, D)


_SUM = """
import itertools, sys
import numpy as np
import multipoles as mp
from multipoles.emitted.field import field_of_tiles
from numba.core import bytecode

# as if every function were the first that a process compiles
bytecode.FunctionIdentity._unique_ids = itertools.repeat(10**6)
x, q, every = np.random.default_rng(0).random((40, 3)), np.ones((40, 1, 1)), np.array([[0, 40]])
for name in sys.argv[1:]:
    kernel, out = getattr(mp, name)(2.0), np.empty((40, 1, 4))
    tiles = every, np.array([0, 1]), every
    field_of_tiles(x, x, q, 1, tiles, out, kernel=kernel, reach=9.0)
    np.testing.assert_allclose(out[:, 0], mp.field(x, x, q[:, 0], 1, kernel), atol=1e-10)
"""


@pytest.mark.slow
def test_kernels_of_several_processes_meet_in_one(tmp_path):
    """Machine code calls by name: of two damped kernels, one was taken for the other."""
    for names in (["Softened"], ["Erf"], ["Softened", "Erf"], ["Erf", "Softened"]):
        subprocess.run(
            [sys.executable, "-c", _SUM, *names],
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
            check=True,
        )


def test_loops_of_other_constants_have_other_names():
    kinds = [(0, 1, True, 8, mp.Softened.code), (0, 1, True, 8, mp.Erf.code), (0, 1, False, 8, 0)]
    names = {field._loop_of_tiles(*kind, False).py_func.__qualname__ for kind in kinds}
    names |= {
        field._loop_of_tiles(0, 1, single, 4, 0, True).py_func.__qualname__ for single in (0, 1)
    }
    assert len(names) == 5


# --- direct sums ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("K", "D", "channels"), [(1, 1, 1), (0, 1, 3), (2, 2, 1)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kernel", [mp.Coulomb(), mp.Erf(0.9)])
def test_direct_sums_are_those_of_the_loop_for_any_order(
    monkeypatch, K, D, channels, dtype, kernel
):
    """All pairs, systems of a batch with empty and single ones, and lists of pairs with weights."""
    rng = np.random.default_rng(3)
    n, m = 300, 270
    x, s = (rng.random((k, 3)).astype(dtype) for k in (n, m))
    s[:5] = x[:5]
    moments = rng.normal(size=(m, channels, indexing.n_components(K))).astype(dtype)
    t_batch = np.sort(np.append(rng.choice([0, 1, 3, 7, 8], n - 1), 9))
    s_batch = np.sort(np.append(rng.choice([1, 2, 3, 8, 11], m - 1), 7))
    pairs = rng.integers(0, 270, (2000, 2))
    pairs = pairs[pairs[:, 0] % 7 > 0]  # targets without any
    neighbours = [
        Slots(n, m), Slots(n, m, t_batch, s_batch),
        PairList(pairs, n, m), PairList(pairs, n, m, rng.normal(size=len(pairs))),
    ]  # fmt: skip
    for each in neighbours:
        found = []
        for least in (0.0, np.inf):
            monkeypatch.setattr(sums, "_EMIT_FROM", least)
            found.append(sums.field_arrays(x, s, moments, D, kernel, each))
        tolerance = 1e-12 if dtype is np.float64 else 2e-5
        assert_same(found[0].astype(np.float64), found[1], D, tolerance)


def test_tiles_cover_every_target_once():
    rng = np.random.default_rng(4)
    for _ in range(20):
        n, m = rng.integers(0, 40, 2)
        batches = [np.sort(rng.integers(0, 5, k)) for k in (n, m)]
        for slots in (Slots(n, m), Slots(n, m, *batches)):
            targets, starts, ranges = slots.tiles(7)
            found = [
                (i, j)
                for tile, (begin, end) in enumerate(targets)
                for first, last in ranges[starts[tile] : starts[tile + 1]]
                for i in range(begin, end)
                for j in range(first, last)
            ]
            assert sorted(found) == sorted(map(tuple, slots.all_pairs().tolist()))
            np.testing.assert_array_equal(
                np.concatenate([np.arange(a, b) for a, b in targets] or [[]]), np.arange(n)
            )
            assert (targets[:, 1] - targets[:, 0] <= 7).all()


def test_pair_lists_longer_than_a_block():
    rng = np.random.default_rng(5)
    x, s = rng.random((3, 3)), rng.random((2500, 3))
    moments = rng.normal(size=(2500, 1, 10))
    pairs = np.stack([np.zeros(2500, np.int64), rng.permutation(2500)], axis=1)
    out = np.empty((3, 1, 10))
    field_of_pairs(x, s, moments, 2, PairList(pairs, 3, 2500).rows, out)
    np.testing.assert_allclose(
        out[0], reference.field(x[:1], s, moments, 2)[0], rtol=1e-10, atol=1e-8
    )
    assert not out[1:].any()
