"""What was found to break a plan's promise: each with the value that is right."""

import threading
import time
import warnings

import clouds
import numpy as np
import pytest

import fmm
import multipoles as mp
from fmm import steps_cpu

N = 4000


@pytest.fixture(autouse=True)
def _no_missed_tolerance():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def _cube(seed=0, n=N):
    rng = np.random.default_rng(seed)
    return rng.random((n, 3)), rng.standard_normal((n, 1))


def _worst(plan, x, s, moments, order=1):
    wide = [np.asarray(a, float) for a in (x, s, moments)]
    return clouds.errors(plan.field(moments, order), mp.field(*wide, order), order).max()


@pytest.mark.parametrize("distance", [1e2, 1e8, 1e12, 1e17])
def test_an_outlier_costs_no_digits(distance):
    x, q = _cube()
    x[0] = distance
    plan = fmm.FMM(x, tolerance=1e-6, leaf_size=60)
    assert _worst(plan, x, x, q) <= 1e-6
    # neither does it cost the tree
    assert plan.report().near_pairs < 0.5 * N**2
    assert 0 < plan.report().errors.max() <= plan.report().bounds.max() <= 1e-6


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-8])
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-3), (np.float64, 1e-9)])
def test_tight_clusters(size, dtype, tolerance):
    x, q = _cube()
    x[: N // 2] *= size
    x[N // 2 :] += 1
    x, q = x.astype(dtype), q.astype(dtype)
    assert _worst(fmm.FMM(x, tolerance=tolerance, leaf_size=60), x, x, q) <= tolerance


def test_few_points_keep_tight_pairs_apart():
    rng = np.random.default_rng(1)
    x = rng.random((50, 3)) + 10
    x = np.concatenate([x, x + 1e-9 * rng.standard_normal(x.shape)])
    q = rng.standard_normal((100, 1))
    plan = fmm.FMM(x, tolerance=1e-12)
    np.testing.assert_allclose(plan.field(q), mp.field(x, x, q), rtol=1e-12)
    # summed directly in float64: rounding is all there is, and is not called nothing
    assert 0 < plan.report().sampled < 10 and 0 < plan.report().errors.max() < 1e-13


@pytest.mark.parametrize("first", ["zero", "tiny", "traces", "one", "huge"])
def test_the_first_call_does_not_spoil_the_next(first):
    x, q = _cube()
    before = {"zero": 0 * q, "tiny": 1e-250 * q, "huge": 1e250 * q}.get(first, np.zeros_like(q))
    if first == "one":
        before[17] = 1
    if first == "traces":
        before = np.zeros((N, 10))
        before[:, [4, 7, 9]] = 1
    plan = fmm.FMM(x, tolerance=1e-6, leaf_size=60)
    plan.field(before)
    fresh = fmm.FMM(x, tolerance=1e-6, leaf_size=60)
    assert _worst(plan, x, x, q) <= 1e-6
    assert _worst(fresh, x, x, q) <= 1e-6
    # nor does it make the next dearer
    assert plan.report().degree <= fresh.report().degree + 2
    np.testing.assert_array_equal(plan.field(0 * q), 0)


@pytest.mark.parametrize(
    "tolerance", [1e-2, 1e-4, 1e-6, pytest.param(1e-8, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", ["one charge", "neutral pair", "one strong", "24 decades"])
def test_few_strong_sources(kind, tolerance):
    x, q = _cube(3)
    if kind == "24 decades":
        q *= 10.0 ** np.random.default_rng(4).uniform(-12, 12, q.shape)
    else:
        q *= 1e-3 if kind == "one strong" else 0
        q[5] = 1
        if kind == "neutral pair":
            x[6], q[6] = x[5] + 0.01, -1
    plan = fmm.FMM(x, tolerance=tolerance, leaf_size=60)
    assert _worst(plan, x, x, q) <= tolerance
    assert plan.report().sampled >= 50


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
@pytest.mark.parametrize("length, moment", [(0, 500), (0, -500), (400, 0), (-400, 0), (75, 140)])
def test_any_size_of_moments_and_lengths(tolerance, length, moment):
    """Powers of two only shift exponents: the digits are those of ordinary numbers."""
    x, q = _cube(5, 2000)
    plan = fmm.FMM(x, tolerance=tolerance, leaf_size=50)
    expected = plan.field(q)
    plan = fmm.FMM(np.ldexp(x, length), tolerance=tolerance, leaf_size=50)
    found = plan.field(np.ldexp(q, moment))
    shift = np.array([1, 2, 2, 2]) * length - moment
    np.testing.assert_allclose(np.ldexp(found, shift), expected, rtol=1e-12)


@pytest.mark.parametrize("away", [20, 59])
def test_targets_far_from_all_sources(away):
    """Long chains of great distances would end as zeros."""
    rng = np.random.default_rng(4)
    s, m = rng.random((200, 3)), rng.standard_normal((200, mp.n_components(1)))
    x = rng.random((300, 3)) + 2.0**away
    orders = mp.indexing.orders
    scaled = np.ldexp(x, -away), np.ldexp(s, -away), np.ldexp(m, -away * orders(1))
    expected = mp.field(*scaled, order=9)
    plan = fmm.FMM(s, x, 1e-6, 1, 9)
    out = np.ldexp(plan.field(m), away * (orders(9) + 1))
    assert clouds.errors(out, expected, 9).max() <= 1e-6
    assert plan.report().bounds.max() <= 1e-6


@pytest.mark.parametrize("exponent", [21, -15])
def test_float32_is_what_comes_out_not_what_is_reckoned_in(exponent):
    """In units of the plan's extent, quadrupoles of tight pairs have fields beyond float32."""
    rng = np.random.default_rng(6)
    x = rng.random((16, 3)).astype(np.float32)
    x = np.concatenate([x, x + np.float32(1e-6) * rng.standard_normal((16, 3)).astype(np.float32)])
    x = np.ldexp(x, exponent).astype(np.float32)
    m = np.zeros((32, mp.n_components(2)), np.float32)
    m[:, 4:] = np.ldexp(rng.standard_normal((32, 6)), 5 * exponent - 20)
    wide = x.astype(float), x.astype(float), m.astype(float)
    assert (
        clouds.errors(fmm.FMM(x, None, 9e-5, 2, 2).field(m), mp.field(*wide, order=2), 2).max()
        < 9e-5
    )


def test_one_pair_among_many_that_float32_cannot_hold():
    """Powers of its distance are beyond float32, the field is not."""
    rng = np.random.default_rng(7)
    x = rng.random((3000, 3)).astype(np.float32)
    x[1] = x[0] + np.float32(3e-7)
    m = np.zeros((3000, mp.n_components(2)), np.float32)
    m[:, 4:] = 0.03 * rng.standard_normal((3000, 6))
    plan = fmm.FMM(x, None, 9e-4, 2, 1, leaf_size=40)
    assert plan.report().near_pairs < 0.5 * 3000**2
    wide = x.astype(float), x.astype(float), m.astype(float)
    assert clouds.errors(plan.field(m), mp.field(*wide, order=1), 1).max() < 9e-4


def test_a_field_beyond_all_numbers_is_told():
    x = _cube(n=400)[0]
    x[0], x[1] = 0.0, 1e-40
    m = np.zeros((400, mp.n_components(4)))
    m[:, 20:] = 1.0
    with pytest.warns(RuntimeWarning, match="left the range of float64"):
        fmm.FMM(x, None, 1e-6, 4, 4).field(m)


@pytest.mark.parametrize("kernel", [mp.Coulomb(), mp.Erf(1.0)])
def test_no_sources_under_any_kernel(kernel):
    x = np.random.default_rng(0).random((7, 3))
    out = fmm.FMM(np.zeros((0, 3)), x, kernel=kernel).field(np.zeros((0, 1)))
    assert out.shape == (7, 4) and not out.any()


@pytest.mark.parametrize("history", [False, True])
def test_nothing_has_no_field(history):
    rng = np.random.default_rng(5)
    x = rng.random((3000, 3))
    plan = fmm.FMM(x, tolerance=1e-5)
    if history:
        plan.field(rng.standard_normal(3000))
    out = plan.field(np.zeros((3000, 2, 1)))
    assert out.shape == (3000, 2, 4)
    assert not out.any()
    assert not plan.report().errors.any()
    assert plan.report().warning == ""


def test_near_fields_that_float32_cannot_hold():
    x = np.random.default_rng(6).random((3000, 3)).astype(np.float32)
    x[1] = x[0] + np.float32(1.2e-7)
    dipoles = np.random.default_rng(7).standard_normal((3000, 4)).astype(np.float32)
    plan = fmm.FMM(x, tolerance=1e-3, source_order=1)
    start = time.process_time()
    found = plan.field(dipoles)
    assert np.isfinite(found).all() and found.dtype == np.float32
    assert _worst(plan, x, x, dipoles) <= 1e-3
    assert time.process_time() - start < 60


def _narrow(plan):
    return [setting.narrow for setting in plan._layout.settings.values()]


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_near_pairs_of_float64_are_summed_in_float32_without_loss(offset):
    """Clusters and pairs that float32 could not tell apart."""
    rng = np.random.default_rng(13)
    x, q = _cube(13)
    x[:500] = 0.3 + 1e-4 * rng.standard_normal((500, 3))
    x[500:900] = x[900:1300] + 1e-8 * rng.standard_normal((400, 3))
    plan = fmm.FMM(x + offset, tolerance=1e-5)
    assert _worst(plan, x + offset, x + offset, q) <= 1e-5
    assert plan.report().degree > 0 and _narrow(plan) == [True]


@pytest.mark.parametrize("case", ["duplicates", "nearly", "targets", "overflow"])
def test_near_pairs_that_float32_cannot_hold(case):
    rng = np.random.default_rng(14)
    x, q = _cube(14)
    targets, order = None, 1
    if case == "duplicates":
        x[1] = x[0]
    elif case == "nearly":
        x[:2] = 0.0  # where float64 is finest
        x[1, 0] = 1e-18
    elif case == "targets":
        targets = np.concatenate([x[::2], rng.random((100, 3))])
    else:
        x[1], order = x[0] + 1e-9, 2
    plan = fmm.FMM(x, targets, tolerance=1e-4, order=order)
    assert _worst(plan, x if targets is None else targets, x, q, order) <= 1e-4
    assert _narrow(plan) == [False]


def test_a_field_lost_in_rounding_is_told_with_its_error():
    rng = np.random.default_rng(8)
    x, q = rng.random((1500, 3)), rng.standard_normal((1500, 1))
    pairs = np.concatenate([x, x + 1e-9 * rng.standard_normal(x.shape)])
    plan = fmm.FMM(pairs, rng.random((2000, 3)) + 2, 1e-10)
    with pytest.warns(RuntimeWarning, match=r"tolerance 1e-10 was missed.*as large as the field"):
        plan.field(np.concatenate([q, -q]))
    assert 1e-9 < plan.report().errors.max() < 1e-4
    assert "was missed" in plan.report().warning


def test_tolerance_of_every_channel():
    x, q = _cube(9)
    weak = np.zeros_like(q)
    weak[17] = 1e-9
    both = np.stack([q, weak], axis=1)
    together = fmm.FMM(x, tolerance=1e-5, channels=2, leaf_size=60)
    alone = fmm.FMM(x, tolerance=1e-5, channels=2, leaf_size=60, each="channel")
    exact = mp.field(x, x, both)
    errors = [
        clouds.errors(plan.field(both)[:, 1], exact[:, 1], 1).max() for plan in (together, alone)
    ]
    assert errors[1] <= 1e-5
    assert alone.report().each.shape == (1, 2, 2) and together.report().each.shape == (1, 2, 1)


def test_tolerance_of_every_system():
    rng = np.random.default_rng(10)
    batch = np.repeat([0, 1, 2], [2500, 2500, 30])
    x, q = rng.random((len(batch), 3)), rng.standard_normal((len(batch), 1))
    x[batch == 1] *= 30
    plan = fmm.FMM(x, tolerance=1e-5, source_batch=batch, leaf_size=60, each=("system",))
    found = plan.field(q)
    assert plan.report().degree > 0 and plan.report().each.shape == (3, 2, 1)
    exact = mp.field(x, x, q, target_batch=batch, source_batch=batch)
    for system in range(3):
        here = batch == system
        assert clouds.errors(found[here], exact[here], 1).max() <= 1e-5


def test_points_that_crowd_and_spread_again_get_their_leaves():
    x, q = _cube(11, 6000)
    plan = fmm.FMM(x, tolerance=1e-4)
    far = plan.report().translations
    plan.rebuild(np.full_like(x, 0.5))
    np.testing.assert_array_equal(plan.field(q), 0)
    plan.rebuild(x)
    assert plan.report().translations == far > 0
    assert _worst(plan, x, x, q) <= 1e-4


@pytest.mark.parametrize("side", ["plan", "partner"])
def test_partners_after_rebuild(side):
    rng = np.random.default_rng(12)
    s, x = rng.random((1500, 3)), rng.random((1200, 3))
    moments, weights = rng.standard_normal((1500, 1)), rng.standard_normal((1200, 1))
    plan = fmm.FMM(s, x, 1e-9, order=0, leaf_size=40)
    partner = plan.transpose()
    if side == "plan":
        plan.rebuild(s + rng.random(s.shape), x + 0.5)
    else:
        partner.rebuild(x + 0.5, s + rng.random(s.shape))
    for one in (plan, partner):
        there, back = (one, one.transpose()) if one is plan else (one.transpose(), one)
        left = np.sum(weights * there.field(moments, 0))
        right = np.sum(moments * back.field(weights, 0))
        scale = np.linalg.norm(weights) * np.linalg.norm(there.field(moments, 0))
        assert abs(left - right) <= 1e-8 * scale


def test_rebuild_with_batches():
    rng = np.random.default_rng(13)
    x, q = rng.random((900, 3)), rng.standard_normal((900, 1))
    batch, own = np.repeat([0, 1], 450), np.repeat([0, 1], [300, 600])
    plan = fmm.FMM(x, tolerance=1e-6, source_batch=batch, target_batch=own)
    moved = x + 0.1 * rng.random(x.shape)
    plan.rebuild(moved)
    exact = mp.field(moved, moved, q, target_batch=own, source_batch=batch)
    assert clouds.errors(plan.field(q), exact, 1).max() <= 1e-6
    # other systems, of other sizes
    fewer, index = x[:700], np.repeat([0, 1, 2], [100, 200, 400])
    plan.rebuild(fewer, source_batch=index)
    exact = mp.field(fewer, fewer, q[:700], target_batch=index, source_batch=index)
    assert clouds.errors(plan.field(q[:700]), exact, 1).max() <= 1e-6


def test_few_targets_are_summed_directly():
    rng = np.random.default_rng(14)
    s, x, q = rng.random((30000, 3)), rng.random((5, 3)), rng.standard_normal((30000, 1))
    fmm.field(x, s, q, tolerance=1e-12)
    start = time.process_time()
    found = fmm.field(x, s, q, tolerance=1e-12)
    assert time.process_time() - start < 0.5
    np.testing.assert_allclose(found, mp.field(x, s, q), rtol=1e-9)


def test_a_rebuild_that_fails_changes_nothing():
    x, q = _cube(20, 300)
    plan = fmm.FMM(x)
    bad = x * 1e-10
    bad[0] = np.nan
    with pytest.raises(ValueError, match="nan"):
        plan.rebuild(bad)
    np.testing.assert_allclose(plan.field(q), mp.field(x, x, q), rtol=1e-9, atol=1e-9)


def test_numbers_of_channels_and_systems_may_change():
    x, q = _cube(22, 3000)
    plan = fmm.FMM(x, tolerance=1e-4, leaf_size=60, each="channel")
    for channels in (2, 3, 1, 2):
        plan.field(np.repeat(q[:, None], channels, axis=1))
    plan = fmm.FMM(x, tolerance=1e-4, leaf_size=60, each="system",
                   source_batch=np.repeat([0, 1], 1500))  # fmt: skip
    for batch in (np.repeat([0, 1], 1500), np.repeat([0, 1, 2], 1000)):
        plan.rebuild(x, source_batch=batch)
        exact = mp.field(x, x, q, target_batch=batch, source_batch=batch)
        assert clouds.errors(plan.field(q), exact, 1).max() <= 1e-4
    nothing = fmm.FMM(x, np.zeros((0, 3)), each=("system", "channel")).field(q)
    assert nothing.shape == (0, 4)


def test_partners_after_another_reach():
    s, q = _cube(23, 400)
    x = s[:200] + 0.3
    plan = fmm.FMM(s, x, kernel=mp.Erf(20.0), order=0)
    partner = plan.transpose()
    plan.field(q, order=4)
    plan.rebuild(s + 5, x)
    assert partner.transpose() is not plan
    found = partner.transpose().field(q, 0)
    np.testing.assert_allclose(found, mp.field(x, s, q, 0, kernel=mp.Erf(20.0)), rtol=1e-5)


def test_no_sources_and_some_targets():
    found = fmm.FMM(np.zeros((0, 3)), np.random.default_rng(0).random((50, 3))).field(
        np.zeros((0, 1)), 2
    )
    np.testing.assert_array_equal(found, np.zeros((50, 10)))


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (dict(tolerance="1e-3"), TypeError, "tolerance: expected a number, got '1e-3'"),
        (dict(tolerance=True), TypeError, "tolerance: expected a number, got True"),
        (dict(leaf_size=True), TypeError, "leaf_size: expected a whole number"),
        (dict(each="target"), ValueError, "each: expected 'system', 'channel' or both"),
        (dict(sources=np.ma.masked_invalid([[0, 0, np.nan]])), ValueError, "mask"),
    ],
)
def test_arguments_that_need_an_answer(arguments, error, message):
    with pytest.raises(error, match=message):
        fmm.FMM(**dict(sources=np.eye(3)) | arguments)


def test_leaves_of_any_size():
    x, q = _cube(15, 200)
    found = fmm.FMM(x, leaf_size=2**70).field(q)
    np.testing.assert_allclose(found, mp.field(x, x, q), rtol=1e-9, atol=1e-9)


def test_charges_alone_need_no_second_axis():
    x, q = _cube(16, 500)
    np.testing.assert_array_equal(fmm.FMM(x).field(q[:, 0]), fmm.FMM(x).field(q))
    assert fmm.energy(x, q[:, 0]) == fmm.energy(x, q)


def test_plans_give_energies():
    x, q = _cube(17, 3000)
    pairs = np.stack([np.arange(0, 3000, 2), np.arange(1, 3000, 2)], axis=1)
    scale = pairs, np.zeros(1500)
    plan = fmm.FMM(x, tolerance=1e-8, pair_scale=scale, leaf_size=50)
    exact = mp.energy_forces(x, q, pair_scale=scale)
    energy, forces, gradients = plan.energy_forces(q)
    assert plan.report().degree > 0
    assert energy == pytest.approx(exact[0], rel=1e-6) == plan.energy(q)
    assert np.linalg.norm(forces - exact[1]) <= 2e-8 * np.linalg.norm(exact[1])
    assert np.linalg.norm(gradients - exact[2]) <= 1e-8 * np.linalg.norm(exact[2])
    with pytest.raises(ValueError, match="targets are its sources"):
        fmm.FMM(x, x + 1).energy(q)


def test_threads_may_change_while_others_sum():
    x, q = _cube(18, 1500)
    plan = fmm.FMM(x, tolerance=1e-4, leaf_size=40)
    expected, before, failed = plan.field(q), mp.get_num_threads(), []

    def work():
        try:
            for _ in range(20):
                np.testing.assert_allclose(fmm.FMM(x, tolerance=1e-4, leaf_size=40).field(q),
                                           expected, rtol=1e-6, atol=1e-9)  # fmt: skip
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for k in range(100):
            mp.set_num_threads(1 + k % 3)
            time.sleep(0.002)
        for thread in threads:
            thread.join()
    finally:
        mp.set_num_threads(before)
    assert not failed


def test_direct_sums_are_compared_with_other_loops(monkeypatch):
    """Whatever goes wrong in the loops of plans, they do not judge themselves."""
    x, q = _cube(19, 200)
    whole = steps_cpu.near_field

    def undamped(*args, kernel, reach):
        whole(*args, kernel=mp.Coulomb(), reach=0.0)

    plan = fmm.FMM(x, kernel=mp.Erf(2.0))
    np.testing.assert_allclose(plan.field(q), mp.field(x, x, q, kernel=mp.Erf(2.0)), rtol=1e-9)
    monkeypatch.setattr(steps_cpu, "near_field", undamped)
    with pytest.warns(RuntimeWarning, match="tolerance 1e-06 was missed"):
        plan.field(q)
