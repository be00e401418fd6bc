"""What is kept of functions' results, and how much."""

from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fmm.far import kept


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(kept, "LIMIT", 10_000)
    monkeypatch.setattr(kept, "_results", type(kept._results)())


def counted():
    calls = []

    @kept.kept
    def zeros(n, dtype=np.float64):
        """Return zeros."""
        calls.append(n)
        return (np.zeros(n, dtype),)

    return zeros, calls


def held():
    return sum(kept.size_of(result) for result in kept._results.values())


def test_the_last_used_are_kept_up_to_the_limit():
    zeros, calls = counted()
    assert zeros.__doc__ == "Return zeros."
    for n in (500, 500, 600, 500):  # bytes: 8 each
        assert len(zeros(n)[0]) == n
    assert calls == [500, 600] and held() == 8800
    zeros(200)  # 600 was used longest ago
    assert held() == 5600
    zeros(500)
    zeros(600)
    assert calls == [500, 600, 200, 600]
    assert zeros(500, dtype=np.dtype("f4"))[0].dtype == np.float32


def test_a_result_beyond_the_limit_is_kept_alone():
    zeros, calls = counted()
    zeros(10)
    zeros(5000)
    zeros(5000)
    assert calls == [10, 5000] and held() == 40_000
    zeros(10)
    assert held() == 80


def test_functions_do_not_share_results():
    (one, _), (two, calls) = counted(), counted()
    assert one(3)[0] is not two(3)[0] and calls == [3]


def test_sizes_of_nested_results():
    pair = namedtuple("pair", "a b")
    assert kept.size_of(pair(np.zeros(3), [np.zeros(2, np.float32), 7, (np.zeros(1),)])) == 40


def test_threads():
    zeros, _ = counted()
    with ThreadPoolExecutor(8) as pool:
        for n, (found,) in enumerate(pool.map(lambda k: zeros(k % 40), range(2000))):
            assert len(found) == n % 40
    assert held() <= 10_000
