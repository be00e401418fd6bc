"""Sorting of keys by their digits."""

import numpy as np
import pytest

from fmm.tree import sorting


def draws(rng, n):
    clustered = (rng.integers(0, 1 << 59, 5)[rng.integers(0, 5, n)]) | rng.integers(0, 40, n)
    return {
        "even": rng.integers(0, 1 << 62, n),
        "few": rng.integers(0, 3, n),
        "equal": np.full(n, 7),
        "zero": np.zeros(n, np.int64),
        "clusters": clustered,
        "sorted": np.sort(rng.integers(0, 1 << 40, n)),
        "largest": np.iinfo(np.int64).max - rng.integers(0, 300, n),
    }


@pytest.mark.parametrize("n", [0, 1, 2, 1999, 2000, 5000])
def test_it_is_the_stable_sort_of_numpy(n):
    for name, keys in draws(np.random.default_rng(n), n).items():
        before = keys.copy()
        permutation, found = sorting.argsort(keys)
        np.testing.assert_array_equal(permutation, np.argsort(keys, kind="stable"), name)
        np.testing.assert_array_equal(found, np.sort(keys), name)
        np.testing.assert_array_equal(keys, before)


@pytest.mark.parametrize("shape", [(50_000, 3), (3000, 2, 4), (10, 1)])
def test_gathered_rows(shape):
    rng = np.random.default_rng(0)
    rows = rng.random(shape).astype(np.float32)
    index = rng.permutation(shape[0])
    np.testing.assert_array_equal(sorting.gathered(rows, index), rows[index])
    np.testing.assert_array_equal(
        sorting.gathered(rows[::2], index[:3] // 2), rows[::2][index[:3] // 2]
    )
