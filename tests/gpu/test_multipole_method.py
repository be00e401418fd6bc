"""The fast multipole method on a GPU at full size against direct sums in float64 on the CPU."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("numba.cuda")

import torch
from on_gpu import EMULATED, is_there, put, same, sample, size, take, worst_order_of_all

import fmm
import multipoles as mp

pytestmark = pytest.mark.gpu
MILLION = size(10**6, 10**5)


def uniform(n, seed=0):
    return np.random.default_rng(seed).random((n, 3)).astype(np.float32)


def clustered(n):
    """Return points most of which lie in a small part of the box, and on a sphere."""
    rng = np.random.default_rng(0)
    direction = rng.standard_normal((n // 3, 3))
    sphere = 0.5 + 0.4 * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    cluster = 0.2 + 0.01 * rng.standard_normal((n // 3, 3))
    return np.concatenate([sphere, cluster, rng.random((n - 2 * (n // 3), 3))]).astype(np.float32)


def charges(n, order=0, channels=None):
    shape = (n, mp.n_components(order)) if channels is None else (n, channels, 1)
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def error(plan, x, s, m, order):
    got = plan.field(put(m), order)
    assert is_there(got)
    chosen, expected = sample(x, s, m, order)
    return worst_order_of_all(take(got), chosen, expected, order)


@pytest.mark.parametrize("cloud", [uniform, clustered])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-4])
def test_charges_at_a_million_points(cloud, tolerance):
    x = cloud(MILLION)
    # so few points that clusters alone would be summed directly
    plan = fmm.FMM(put(x), tolerance=tolerance, leaf_size=200 if EMULATED else None)
    # the promise is over all targets; these are a hundred of them
    assert error(plan, x, x, charges(MILLION), 1) < 2 * tolerance


def test_quadrupoles_to_third_derivatives():
    n = size(10**6, 20_000)
    x = uniform(n)
    plan = fmm.FMM(put(x), tolerance=1e-3, source_order=2, order=3)
    assert error(plan, x, x, charges(n, 2), 3) < 2e-3


def test_targets_that_are_no_sources_and_channels():
    x, s = uniform(size(200_000, 40_000)), uniform(size(300_000, 60_000), 1)
    plan = fmm.FMM(put(s), put(x), tolerance=1e-4, channels=3)
    assert error(plan, x, s, charges(len(s), channels=3), 1) < 2e-4


def test_double_precision_is_as_on_the_cpu():
    x = uniform(50_000).astype(np.float64)
    m = charges(50_000).astype(np.float64)
    got = fmm.FMM(put(x), tolerance=1e-9).field(put(m), 1)
    chosen, expected = sample(x, x, m, 1)
    assert worst_order_of_all(take(got), chosen, expected, 1) < 2e-9


def test_rebuilt_plan_is_right_at_the_new_places():
    x = uniform(MILLION)
    plan = fmm.FMM(put(x), tolerance=1e-4)
    plan.field(put(charges(MILLION)), 1)
    for step in range(3):
        x = x + np.random.default_rng(step).normal(0, 1e-3, x.shape).astype(np.float32)
        plan.rebuild(put(x))
        assert error(plan, x, x, charges(MILLION), 1) < 2e-4


def test_every_run_gives_the_same_bits():
    n = size(300_000, 50_000)
    x, m = put(uniform(n)), put(charges(n))
    plan = fmm.FMM(x, tolerance=1e-4)
    first = plan.field(m, 1)
    assert all(same(first, plan.field(m, 1)) for _ in range(3))


@pytest.mark.skipif(EMULATED, reason="there is one stream")
def test_a_plan_on_a_second_stream_waits_for_the_first():
    x, m = put(uniform(300_000)), put(charges(300_000))
    expected = fmm.FMM(x, tolerance=1e-4).field(m, 1)
    torch.cuda.synchronize()
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    with torch.cuda.stream(first):
        plan = fmm.FMM(x, tolerance=1e-4)
        torch.cuda._sleep(200_000_000)  # what the plan still makes here comes late
        plan.field(m, 1)
    for stream in (second, first):
        with torch.cuda.stream(stream):
            found = plan.field(m, 1)
        stream.synchronize()
        assert torch.equal(found, expected)


def test_devices_are_not_mixed():
    x = uniform(1000)
    with pytest.raises(TypeError, match=r"GPU|CPU"):
        fmm.FMM(put(x)).field(charges(1000), 1)
    with pytest.raises(TypeError, match=r"GPU|CPU"):
        fmm.FMM(x).field(put(charges(1000)), 1)
