"""Plans against direct sums: the promise of the tolerance, in every circumstance."""

import warnings

import clouds
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fmm
import multipoles as mp

N = 3000
ORDERS = [(K, D) for K in range(4) for D in range(5)]
# of them, those whose near field is compiled in every run
DECISIVE = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 3), (2, 2), (3, 3)]


def _moments(n, order, rng, channels=None):
    shape = (
        (n, mp.n_components(order)) if channels is None else (n, channels, mp.n_components(order))
    )
    return rng.standard_normal(shape)


@pytest.fixture(autouse=True)
def _no_missed_tolerance():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-8])
@pytest.mark.parametrize("shape", list(clouds.SHAPES))
def test_keeps_the_tolerance_on_every_shape(shape, tolerance):
    rng = np.random.default_rng(1)
    x = clouds.SHAPES[shape](N, rng)
    q = _moments(len(x), 0, rng)
    plan = fmm.FMM(x, tolerance=tolerance, leaf_size=40)
    found = plan.field(q)
    assert plan.report().degree > 0, "all was summed directly: nothing was tested"
    worst = clouds.errors(found, mp.field(x, x, q, order=1), 1).max()
    assert worst <= tolerance


@pytest.mark.parametrize(
    ("source_order", "order"),
    [
        pytest.param(*orders, marks=[] if orders in DECISIVE else [pytest.mark.slow])
        for orders in ORDERS
    ],
)
def test_keeps_the_tolerance_at_every_order(source_order, order):
    rng = np.random.default_rng(2)
    # points that keep apart, else nearest pairs are all of the high orders
    x = clouds.SHAPES["lattice"](2500, rng) + rng.uniform(-0.3, 0.3, (2744, 3))
    moments = _moments(len(x), source_order, rng)
    plan = fmm.FMM(x, tolerance=1e-4, source_order=source_order, order=order, leaf_size=60)
    found = plan.field(moments)
    assert plan.report().degree > 0
    exact = mp.field(x, x, moments, order=order)
    assert clouds.errors(found, exact, order).max() <= 1e-4


@pytest.mark.parametrize(
    "tolerance",
    [
        1e-2,
        1e-3,
        1e-5,
        1e-7,
        1e-9,
        *(pytest.param(t, marks=pytest.mark.slow) for t in (1e-11, 1e-12)),
    ],
)
def test_accuracy_is_not_wasted(tolerance):
    rng = np.random.default_rng(3)
    x, q = rng.random((4000, 3)), rng.standard_normal((4000, 1))
    exact = mp.field(x, x, q, order=1)
    worst = clouds.errors(fmm.FMM(x, tolerance=tolerance, leaf_size=30).field(q), exact, 1).max()
    assert tolerance / 30 <= worst <= tolerance


@pytest.mark.parametrize("kind", ["far apart", "nested", "touching"])
@pytest.mark.parametrize("source_order, order", [(0, 1), (2, 2)])
def test_targets_and_sources_may_differ(kind, source_order, order):
    rng = np.random.default_rng(4)
    x, s = clouds.apart(kind, N, rng)
    moments = _moments(len(s), source_order, rng)
    plan = fmm.FMM(s, x, 1e-5, source_order, order, leaf_size=50)
    found = plan.field(moments)
    assert plan.report().degree > 0
    exact = mp.field(x, s, moments, order=order)
    assert clouds.errors(found, exact, order).max() <= 1e-5


def test_charges_of_one_sign():
    rng = np.random.default_rng(5)
    x, q = rng.random((N, 3)), rng.random((N, 1))
    found = fmm.FMM(x, tolerance=1e-6, leaf_size=30).field(q)
    assert clouds.errors(found, mp.field(x, x, q, order=1), 1).max() <= 1e-6


@pytest.mark.parametrize("same", [True, False])
def test_transpose_is_the_adjoint(same):
    """<W, F M> = <F^T W, M>, within the tolerance of random signs."""
    rng = np.random.default_rng(6)
    s = rng.random((2000, 3))
    x = s if same else rng.random((1500, 3)) + 0.3
    plan = fmm.FMM(s, None if same else x, 1e-6, 1, 2, leaf_size=40)
    moments, weights = _moments(len(s), 1, rng), _moments(len(x), 2, rng)
    there, back = plan.field(moments), plan.transpose().field(weights)
    assert back.shape == (2000, 4)
    left, right = np.sum(weights * there), np.sum(moments * back)
    scale = np.linalg.norm(weights) * np.linalg.norm(there)
    assert plan.report().degree > 0
    assert abs(left - right) < 1e-7 * scale
    assert plan.transpose().transpose() is plan


def test_one_plan_serves_all_orders():
    rng = np.random.default_rng(7)
    x = rng.random((2000, 3))
    plan = fmm.FMM(x, tolerance=1e-5, leaf_size=60)
    for source_order, order in ((0, 1), (0, 2), (1, 1), (1, 3), (2, 2)):
        moments = _moments(len(x), source_order, rng)
        found = plan.field(moments, order=order)
        exact = mp.field(x, x, moments, order=order)
        assert clouds.errors(found, exact, order).max() <= 1e-5


@pytest.mark.parametrize("source_order", [0, 1])
def test_channels_are_independent(source_order):
    rng = np.random.default_rng(8)
    x = rng.random((2000, 3))
    moments = _moments(len(x), source_order, rng, channels=5)
    plan = fmm.FMM(x, tolerance=1e-7, source_order=source_order, leaf_size=60)
    found = plan.field(moments)
    assert found.shape == (2000, 5, 4) and plan.report().degree > 0
    for channel in range(5):
        alone = plan.field(moments[:, channel])
        np.testing.assert_allclose(
            found[:, channel], alone, rtol=1e-9, atol=1e-9 * abs(alone).max()
        )


def test_systems_of_a_batch_do_not_meet():
    rng = np.random.default_rng(9)
    sizes = [1, 700, 3, 1200, 0, 20]
    x = rng.random((sum(sizes), 3)) * 3
    index = np.repeat(np.arange(len(sizes)), sizes)
    moments = _moments(len(x), 1, rng)
    plan = fmm.FMM(x, tolerance=1e-7, source_order=1, source_batch=index, leaf_size=40)
    found = plan.field(moments)
    assert plan.report().degree > 0
    exact = mp.field(x, x, moments, order=1, target_batch=index, source_batch=index)
    assert clouds.errors(found, exact, 1).max() <= 1e-7
    np.testing.assert_array_equal(found[0], 0)


def test_many_small_systems():
    rng = np.random.default_rng(10)
    index = np.repeat(np.arange(400), 15)
    x, q = rng.standard_normal((len(index), 3)), rng.standard_normal((len(index), 1))
    found = fmm.FMM(x, source_batch=index).field(q)
    exact = mp.field(x, x, q, order=1, target_batch=index, source_batch=index)
    np.testing.assert_allclose(found, exact, rtol=1e-10, atol=1e-10 * abs(exact).max())


def test_batches_of_different_targets_and_sources():
    rng = np.random.default_rng(11)
    source_batch = np.repeat([0, 1, 3], [900, 5, 800])
    target_batch = np.repeat([0, 2, 3], [600, 7, 700])
    s, x = rng.random((len(source_batch), 3)), rng.random((len(target_batch), 3)) + 0.2
    q = rng.standard_normal((len(s), 1))
    plan = fmm.FMM(s, x, 1e-6, source_batch=source_batch, target_batch=target_batch, leaf_size=40)
    found = plan.field(q)
    exact = mp.field(x, s, q, 1, target_batch=target_batch, source_batch=source_batch)
    assert plan.report().degree > 0
    assert clouds.errors(found, exact, 1).max() <= 1e-6
    np.testing.assert_array_equal(found[target_batch == 2], 0)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_float32(tolerance):
    rng = np.random.default_rng(12)
    x = (rng.random((N, 3)) + 100).astype(np.float32)
    q = rng.standard_normal((N, 1)).astype(np.float32)
    found = fmm.FMM(x, tolerance=tolerance, leaf_size=50).field(q)
    assert found.dtype == np.float32
    exact = mp.field(x.astype(float), x.astype(float), q.astype(float), order=1)
    assert clouds.errors(found, exact, 1).max() <= tolerance


@pytest.mark.parametrize("n", [1, 2, 3, 10, 100, 1000])
def test_any_number_of_points(n):
    rng = np.random.default_rng(n)
    x, q = rng.random((n, 3)), rng.standard_normal((n, 1))
    found = fmm.field(x, x, q, order=1, tolerance=1e-6)
    exact = mp.field(x, x, q, order=1)
    assert np.linalg.norm(found - exact) <= 1e-6 * np.linalg.norm(exact) + 1e-300


@pytest.mark.parametrize("n, m", [(0, 5), (5, 0), (0, 0)])
def test_no_points(n, m):
    found = fmm.field(np.zeros((n, 3)), np.zeros((m, 3)), np.zeros((m, 4)), order=2)
    assert found.shape == (n, 10)
    np.testing.assert_array_equal(found, 0)


def test_plans_of_nothing():
    x, none = np.random.default_rng(0).random((9, 3)), np.empty((0, 3))
    for targets, sources in ((x, none), (none, x), (none, none)):
        found = fmm.FMM(sources, targets, 1e-3).field(np.ones((len(sources), 1)))
        assert found.shape == (len(targets), 4) and not found.any()


def test_coincident_points_contribute_nothing_to_each_other():
    x = np.full((500, 3), 0.1)
    np.testing.assert_array_equal(fmm.field(x, x, np.ones((500, 1)), order=1), 0)
    rng = np.random.default_rng(0)
    x = np.repeat(rng.random((300, 3)), 10, axis=0)
    q = rng.standard_normal((3000, 1))
    found = fmm.FMM(x, tolerance=1e-6, leaf_size=20).field(q)
    assert clouds.errors(found, mp.field(x, x, q, order=1), 1).max() <= 1e-6


def test_zero_moments_give_zero():
    x = np.random.default_rng(0).random((2000, 3))
    plan = fmm.FMM(x, leaf_size=30)
    np.testing.assert_array_equal(plan.field(np.zeros((2000, 4))), 0)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e12, 1e40])
def test_any_unit_of_length(scale):
    rng = np.random.default_rng(13)
    x, moments = rng.random((2000, 3)), _moments(2000, 1, rng)
    units = np.array([1.0, scale, scale, scale])
    found = fmm.FMM(scale * x, tolerance=1e-6, source_order=1, leaf_size=40).field(moments * units)
    exact = mp.field(x, x, moments, order=1)
    assert clouds.errors(found * scale * units, exact, 1).max() <= 1e-6


def test_far_from_the_origin():
    rng = np.random.default_rng(14)
    x, q = rng.random((2000, 3)) + 1e5, rng.standard_normal((2000, 1))
    found = fmm.FMM(x, tolerance=1e-6, leaf_size=40).field(q)
    assert clouds.errors(found, mp.field(x, x, q, order=1), 1).max() <= 1e-6


def test_threads_do_not_change_the_result():
    rng = np.random.default_rng(15)
    x, moments = rng.random((20000, 3)), rng.standard_normal((20000, 4))
    before = mp.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            mp.set_num_threads(threads)
            plan = fmm.FMM(x, tolerance=1e-5, source_order=1, leaf_size=60)
            results.append(plan.field(moments))
    finally:
        mp.set_num_threads(before)
    np.testing.assert_allclose(*results, rtol=1e-6, atol=1e-9 * abs(results[0]).max())


def test_lattices_get_larger_leaves_when_high_orders_need_them():
    x = clouds.SHAPES["lattice"](8000, np.random.default_rng(16))
    sample, larger = np.arange(0, len(x), 17), 0
    # which of them do is near the edge: rounding differs between processors
    for source_order, order, tolerance in ((2, 4, 1e-3), (2, 6, 1e-3), (3, 4, 1e-4)):
        moments = _moments(len(x), source_order, np.random.default_rng(16))
        plan = fmm.FMM(x, tolerance=tolerance, source_order=source_order, order=order)
        before = plan.report().leaf_size
        found = plan.field(moments)
        larger += plan.report().leaf_size > before
        exact = mp.field(x[sample], x, moments, order=order)
        assert clouds.errors(found[sample], exact, order).max() <= tolerance
    assert larger


def test_field_equals_a_plan_of_the_same_choices():
    rng = np.random.default_rng(17)
    x, q = rng.random((5000, 3)), rng.standard_normal((5000, 1))
    found = fmm.field(x, x, q, order=1, tolerance=1e-4)
    assert clouds.errors(found, mp.field(x, x, q, order=1), 1).max() <= 1e-4


def test_report_tells_what_was_done():
    rng = np.random.default_rng(18)
    x, q = rng.random((5000, 3)), rng.standard_normal((5000, 1))
    plan = fmm.FMM(x, tolerance=1e-4, leaf_size=50)
    assert plan.report().seconds == {}
    found = plan.field(q)
    report = plan.report()
    assert report.degree > 1 and report.precision == "float32"
    assert report.near_pairs < 5000**2 / 2 and report.translations > 0
    assert 0 < report.total_seconds < 60
    # the measured error is that of the result
    true = clouds.errors(found, mp.field(x, x, q, order=1), 1)
    assert np.all(report.errors < 2 * true) and np.all(report.errors > 0.5 * true)
    text = str(report)
    assert "multipole to local" in text and "degree" in text and "relative L2 error" in text


SETTINGS = {
    "n": st.integers(1, 700),
    "shape": st.sampled_from(sorted(clouds.SHAPES)),
    "leaf_size": st.integers(1, 100),
    "tolerance": st.sampled_from([1e-2, 1e-4, 1e-7]),
    "seed": st.integers(0, 2**31),
}


@settings(max_examples=25, deadline=None)
@given(orders=st.sampled_from(DECISIVE), **SETTINGS)
def test_any_combination(orders, **drawn):
    check_combination(*orders, **drawn)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(orders=st.sampled_from(ORDERS), **SETTINGS)
def test_any_combination_of_all_orders(orders, **drawn):
    check_combination(*orders, **drawn)


def check_combination(source_order, order, n, shape, leaf_size, tolerance, seed):
    rng = np.random.default_rng(seed)
    x = clouds.SHAPES[shape](n, rng)
    moments = _moments(len(x), source_order, rng)
    plan = fmm.FMM(x, None, tolerance, source_order, order, leaf_size=leaf_size)
    found = plan.field(moments)
    exact = mp.field(x, x, moments, order=order)
    if len(x) > 1:
        # of few points the sample is small: twice the tolerance is what it can see
        assert clouds.errors(found, exact, order).max() <= 2 * tolerance


X = np.random.default_rng(0).random((20, 3))


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (dict(sources=X[:, :2]), ValueError, r"sources: expected shape \(n, 3\)"),
        (dict(sources=np.where(X > 0.99, np.nan, X) * np.nan), ValueError, "nan"),
        (dict(sources=X, targets=X * np.inf), ValueError, "inf"),
        (dict(sources=X, tolerance=0), ValueError, "tolerance"),
        (dict(sources=X, tolerance=-1e-3), ValueError, "tolerance"),
        (dict(sources=X, tolerance=float("nan")), ValueError, "tolerance"),
        (dict(sources=X, tolerance="tight"), TypeError, "tolerance"),
        (dict(sources=X, tolerance=2.0), ValueError, "tolerance"),
        (dict(sources=X, source_order=-1), ValueError, "source_order"),
        (dict(sources=X, order=1.5), (TypeError, ValueError), "order"),
        (dict(sources=X, source_order=20, order=20), ValueError, "at most"),
        (dict(sources=X, leaf_size=0), ValueError, "leaf_size"),
        (dict(sources=X, channels=0), ValueError, "channels"),
        (dict(sources=X, source_batch=np.arange(20)[::-1]), ValueError, "sorted"),
        (dict(sources=X, targets=X + 1, source_batch=np.zeros(20, int)), ValueError, "batch"),
        (dict(sources=X.astype(complex)), TypeError, "sources"),
        (dict(sources="points"), TypeError, "sources"),
    ],
)
def test_bad_points_and_settings(arguments, error, message):
    with pytest.raises(error, match=message):
        fmm.FMM(**arguments)


@pytest.mark.parametrize(
    "moments, order, error, message",
    [
        (np.ones((19, 1)), 1, ValueError, "20"),
        (np.ones((20, 2)), 1, ValueError, "components"),
        (np.ones(19), 1, ValueError, r"charges alone are an array of shape \(20,\)"),
        (np.full((20, 1), np.nan), 1, ValueError, "nan"),
        (np.ones((20, 1)), -1, ValueError, "order"),
        (np.ones((20, 1)), 40, ValueError, "order"),
    ],
)
def test_bad_moments(moments, order, error, message):
    with pytest.raises(error, match=message):
        fmm.FMM(X).field(moments, order=order)


@pytest.mark.parametrize("swapped", [False, True])
def test_points_that_meet_expansions_only(swapped):
    """A few points beside a dense group: no two boxes meet by their expansions."""
    rng = np.random.default_rng(19)
    few = np.concatenate([rng.uniform(0.55, 0.95, (40, 3)), [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]])
    many = rng.uniform(0.2, 0.4, (6000, 3))
    x, s = (many, few) if swapped else (few, many)
    q = rng.standard_normal((len(s), 1))
    plan = fmm.FMM(s, x, 1e-6, order=2, leaf_size=100)
    lists = plan._layout.geometry.lists
    assert len(lists.p2l_targets if swapped else lists.m2p_targets)
    found = plan.field(q)
    assert plan.report().degree > 0
    assert clouds.errors(found, mp.field(x, s, q, order=2), 2).max() <= 1e-6


def test_the_same_points_in_other_systems():
    rng = np.random.default_rng(20)
    x, q = rng.random((1500, 3)), rng.standard_normal((1500, 1))
    sources, targets = np.repeat([0, 1], [900, 600]), np.repeat([0, 1], [400, 1100])
    plan = fmm.FMM(x, x, 1e-6, source_batch=sources, target_batch=targets, leaf_size=40)
    exact = mp.field(x, x, q, 1, target_batch=targets, source_batch=sources)
    assert clouds.errors(plan.field(q), exact, 1).max() <= 1e-6
    assert plan.report().degree > 0


@pytest.mark.parametrize("apart", [False, True])
def test_rebuilt_plan_is_that_of_the_new_positions(apart):
    rng = np.random.default_rng(31)
    s, x = rng.random((4000, 3)), rng.random((1500, 3)) if apart else None
    moments = rng.standard_normal((4000, 1))
    plan = fmm.FMM(s, x, 1e-5, leaf_size=30)
    plan.field(moments)
    degrees = plan.report().degrees
    s2 = s + 0.02 * rng.standard_normal(s.shape)
    x2 = x + 0.02 if apart else None
    plan.rebuild(s2, x2)
    found = plan.field(moments)
    exact = mp.field(s2 if x2 is None else x2, s2, moments, 1)
    assert np.all(clouds.errors(found, exact, 1) < 1e-5)
    assert max(plan.report().degrees) >= max(degrees)
    assert plan.report().leaf_size == 30
    # grown by four times: the levels are others
    plan.rebuild(s * [1, 1, 4], None if x is None else x * [1, 1, 4])
    exact = mp.field((s if x is None else x) * [1, 1, 4], s * [1, 1, 4], moments, 1)
    assert np.all(clouds.errors(plan.field(moments), exact, 1) < 1e-5)


def test_rebuild_takes_what_the_plan_was_made_of():
    x = np.random.default_rng(32).random((30, 3))
    plan = fmm.FMM(x)
    with pytest.raises(ValueError, match="30 targets and 30 sources, got 29 and 29"):
        plan.rebuild(x[1:])
    with pytest.raises(ValueError, match="targets: expected none"):
        plan.rebuild(x, x + 1)
    with pytest.raises(ValueError, match="targets: expected those"):
        fmm.FMM(x, x + 1).rebuild(x)
    with pytest.raises(TypeError, match="float64 as before, got float32"):
        plan.rebuild(x.astype(np.float32))
