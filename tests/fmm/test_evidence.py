"""Errors measured at few targets from step to step: the promise is kept when points cluster."""

import clouds
import numpy as np
import pytest

import fmm
import multipoles as mp
from fmm.error.evidence import Evidence
from fmm.error.sampling import FEWER, SIZE


def _step(plan, x, q, order=1):
    plan.rebuild(x)
    found = plan.field(q)
    return clouds.errors(found, mp.field(x, x, q, order), order).max(), plan.report()


@pytest.mark.parametrize("motion", ["drift", "collapse", "burst"])
def test_promise_is_kept_while_points_move(motion):
    rng = np.random.default_rng(0)
    n, tolerance = 4000, 1e-4
    x, q, v = rng.random((n, 3)), rng.standard_normal((n, 1)), rng.standard_normal((n, 3))
    if motion == "burst":
        x = 0.5 + 0.05 * (x - 0.5)
    plan = fmm.FMM(x, tolerance=tolerance, leaf_size=80)
    plan.field(q)
    sampled = []
    for step in range(20):
        if motion == "drift":
            x = x + 1e-3 * v
        elif motion == "collapse":  # half of them into one place
            x[: n // 2] += 0.15 * (np.array([0.3, 0.6, 0.2]) - x[: n // 2])
        else:
            x = x + 0.02 * (x - 0.5) * rng.random((n, 1)) * step
        error, report = _step(plan, x, q)
        assert error <= tolerance and report.warning == ""
        sampled.append(report.sampled)
    if motion == "drift":
        assert sampled.count(FEWER) >= 14 and any(FEWER < size <= SIZE for size in sampled)


def test_other_moments_are_looked_at_in_full():
    x, q = clouds.SHAPES["uniform"](4000, np.random.default_rng(1)), np.ones((4000, 1))
    plan = fmm.FMM(x, tolerance=1e-4, leaf_size=60)
    plan.field(q)
    plan.field(q)
    assert plan.report().sampled == FEWER
    lonely = np.zeros_like(q)
    lonely[7] = 1.0
    found = plan.field(lonely)
    assert plan.report().sampled > FEWER
    assert clouds.errors(found, mp.field(x, x, lonely), 1).max() <= 1e-4


def test_a_jump_of_errors_counts_alone():
    before = Evidence((np.ones((64, 2, 1)),), np.ones(3))
    alike, jump = np.full((16, 2, 1), 2.0), np.ones((16, 2, 1))
    jump[:, 1] = 9.0
    assert len(before.with_new(alike)) == 80
    np.testing.assert_array_equal(before.with_new(jump), jump)
    after = before
    for _ in range(5):
        after = after.followed_by(alike, before.errors)
    assert len(after.batches) == 4 and after.age == 5 and len(np.concatenate(after.batches)) == 64


def test_systems_that_count_for_themselves_have_all_their_targets():
    rng = np.random.default_rng(2)
    x, q, batch = rng.random((6000, 3)), rng.standard_normal((6000, 1)), np.repeat([0, 1], 3000)
    plan = fmm.FMM(x, tolerance=1e-4, source_batch=batch, leaf_size=60, each=("system",))
    plan.field(q)
    plan.field(q)
    assert plan.report().sampled >= 2 * SIZE - 10
