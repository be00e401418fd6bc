"""Trees and lists made by kernels in the emulator, compared with those of the CPU to the last bit.

python trees.py N SEED     of about N points; SEED is that of the order of threads and blocks

Runs in a process of its own, with blocks of a device's size; ends with status 1 at a difference.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fmm"))

import emulator

emulator.device_sizes()

import clouds  # noqa: E402
from test_tree_cuda import SPACE, both, check  # noqa: E402

from fmm.cuda import curve as curve_cuda  # noqa: E402
from fmm.cuda import lists as lists_cuda  # noqa: E402
from fmm.tree import curve, geometry, lists  # noqa: E402
from multipoles.cuda import sorting  # noqa: E402


def compare(targets, sources, leaf_size, least=(3, 3), **choice):
    """Compare points along the curve, boxes, lists, leaves, tiles and tallies."""
    points, tree, there, found = both(targets, sources, leaf_size, **choice)
    check(points, tree, there, found)
    filling = curve_cuda.occupancy(SPACE, there), curve.occupancy(points)
    for got, wanted in zip(*filling, strict=True):
        np.testing.assert_allclose(got, wanted)
    expected = lists.build_lists(tree, *least)
    made = lists_cuda.build_lists(SPACE, found, *least)
    for name in lists.Lists.__dataclass_fields__:
        got = SPACE.download(getattr(made, name))
        np.testing.assert_array_equal(got, getattr(expected, name), err_msg=name)
    _compare_layout(points, targets, sources, leaf_size, tree, expected, made)


def _compare_layout(points, targets, sources, leaf_size, tree, expected, made):
    ordered = geometry.along_curve(points, targets, sources)
    here = geometry.Geometry(points, *ordered, leaf_size, 3)
    here.__dict__.update(tree=tree, lists=expected)
    for got, wanted in zip(made.leaves.near, here.near, strict=True):
        np.testing.assert_array_equal(SPACE.download(got), wanted)
    np.testing.assert_array_equal(SPACE.download(made.leaves.targets), here.target_leaves)
    np.testing.assert_array_equal(SPACE.download(made.leaves.sources), here.source_leaves)
    tally = made.tally
    assert tally[2:] == (here.n_near_pairs, here.n_mixed, here.n_leaves)
    np.testing.assert_array_equal(tally.translations, here.translations)
    np.testing.assert_array_equal(tally.weights, _weights(tree, expected, here.levels))


def _weights(tree, expected, levels):
    """Return pairs of points per level and code."""
    n_targets, n_sources = (np.diff(r)[:, 0] for r in (tree.target_range, tree.source_range))
    out = np.zeros((len(tree.level_starts) - 1, lists.N_CODES))
    codes = np.repeat(np.arange(lists.N_CODES), np.diff(expected.m2l_starts))
    for targets, sources, boxes, code in (
        (expected.m2l_targets, expected.m2l_sources, expected.m2l_targets, codes),
        (expected.m2p_targets, expected.m2p_sources, expected.m2p_sources, lists.POINTS),
        (expected.p2l_targets, expected.p2l_sources, expected.p2l_targets, lists.POINTS),
    ):
        np.add.at(out, (levels[boxes], code), n_targets[targets] * n_sources[sources])
    return out


def cases(n):
    """Return a name and the arguments of `compare` of each case."""
    rng = np.random.default_rng(n)
    for shape, make in clouds.SHAPES.items():
        x = make(n, rng)
        yield shape, (x, x, 30), {}
    uniform = rng.random((n, 3))
    yield "many roots", (uniform, uniform, 40), {"root_grid": 5}
    single = uniform.astype(np.float32)
    yield "float32", (single, single, 20), {"root_grid": 3}
    yield "smallest", (uniform, uniform, 20), {"smallest": 0.11}
    for kind in ("far apart", "nested"):
        yield kind, (*clouds.apart(kind, n, rng), 20, (20, 30)), {"root_grid": 2}
    systems, others = (np.sort(rng.integers(0, k, m)) * 7 for k, m in ((200, n), (150, n // 3)))
    x, s = uniform + (systems % 11)[:, None], rng.random((n // 3, 3))
    yield "systems", (x, x, 20), {"batches": (systems, systems)}
    yield "other systems", (x, s, 8), {"batches": (systems, others), "root_grid": 3}
    for size in (1e-7, 1e-13):
        x = np.concatenate([uniform[n // 2 :], 0.3 + size * rng.standard_normal((n // 2, 3))])
        yield f"cluster of {size}", (x, x, 20), {}
    x = np.concatenate([uniform[n // 2 :], np.full((n // 2, 3), 0.3)])
    yield "half at one place", (x, x, 600), {}
    x = np.repeat(uniform[: n // 30], 30, axis=0)
    yield "thirty at each place", (x, x, 20), {}
    yield "one target", (uniform[:1], uniform, 20), {}
    yield "one source", (uniform, uniform[:1], 20), {}
    yield "no targets", (uniform[:0], uniform, 20), {}


def sorts():
    """Sort and sum so many numbers that chunks have their least size, and a larger one."""
    rng = np.random.default_rng(0)
    for n in (0, 1, 2047, 2048, 2049, 600_000):
        for bits in (9, 32, 33, 63):
            keys = rng.integers(0, 1 << bits, n)
            order, ordered = sorting.argsort(SPACE, SPACE.upload(keys), bits)
            np.testing.assert_array_equal(SPACE.download(order), np.argsort(keys, kind="stable"))
            np.testing.assert_array_equal(SPACE.download(ordered), np.sort(keys))
        counts = rng.integers(0, 9, n)
        sums = SPACE.download(sorting.running_sum(SPACE, SPACE.upload(counts)))
        np.testing.assert_array_equal(sums, np.append(0, np.cumsum(counts)))


def main():
    """Compare all cases."""
    n, seed = map(int, sys.argv[1:])
    with emulator.installed(emulator.Options(shuffled=seed)):
        sorts()
        for name, arguments, choice in cases(n):
            try:
                compare(*arguments, **choice)
            except Exception as error:
                raise SystemExit(f"{name}: {error}") from error


if __name__ == "__main__":
    main()
