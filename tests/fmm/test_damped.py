"""Plans of damped kernels: direct sums of the kernel itself, to the tolerance."""

import warnings

import clouds
import numpy as np
import pytest

import fmm
import multipoles as mp
from fmm.near import near_field
from fmm.tree.build import build_tree
from fmm.tree.curve import sort_points
from multipoles import indexing, reference
from multipoles.emitted import rows, traces

N = 3000
ORDERS = [(K, D) for K in range(3) for D in range(5)]
# of them, those whose loops are compiled in every run
DECISIVE = {(0, 0), (0, 1), (1, 1), (2, 2), (2, 4)}
NEAR = [(0, 0, 1), (0, 1, 3), (1, 1, 3), (2, 2, 1), (2, 2, 5)]
# of them, those whose loops the plans compile in every run
SHARED = {(1, 1, 3, np.float64), (2, 2, 1, np.float64), (1, 1, 3, np.float32)}


@pytest.fixture(autouse=True)
def _no_missed_tolerance():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def _moments(n, order, rng, channels=None):
    shape = (n, channels) if channels else (n,)
    return rng.standard_normal((*shape, mp.n_components(order)))


def check(plan, x, s, moments, kernel, order, tolerance, **batches):
    found = plan.field(moments, order=order)
    assert plan.report().degree > 0, "all was summed directly: nothing was tested"
    exact = mp.field(x, s, moments, order, kernel, **batches)
    shape = (-1, exact.shape[-1])
    worst = clouds.errors(found.reshape(shape), exact.reshape(shape), order).max()
    assert worst <= tolerance, f"{worst:.1e}"
    return exact


# --- the near field -------------------------------------------------------------------------------


@pytest.mark.parametrize(("K", "D"), [*ORDERS, (3, 3), (5, 2), (2, 6), (6, 6)])
def test_arithmetic_on_plain_numbers(K, D):
    rng = np.random.default_rng(0)
    r, moments = rng.normal(size=3), rng.normal(size=(1, indexing.n_components(K)))
    read = list(rows._fold(K, D, True) @ moments[0])
    for kernel in (mp.Coulomb(), mp.Erf(0.8), mp.Softened(4.0, 12)):
        chain = kernel.chain(np.linalg.norm(r), K + D) * (-1.0) ** np.arange(K + D + 1)
        shared = [traces.geometry(K, D, tuple(r), r @ r, list(chain))]
        if kernel == mp.Coulomb():
            shared.append(traces.undamped(K, D, tuple(r), 1 / np.linalg.norm(r)))
        wanted = reference.field(r[None], np.zeros((1, 3)), moments, D, kernel)[0]
        for pair in shared:
            zeros = [0.0] * len(traces.sum_names(D))
            found = rows._unfold(K, D, True) @ traces.add_field(K, D, pair, read, zeros)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-11 * abs(wanted).max())


@pytest.mark.parametrize(
    ("K", "D", "channels", "dtype"),
    [
        pytest.param(*case, dtype, marks=[] if (*case, dtype) in SHARED else [pytest.mark.slow])
        for dtype in (np.float64, np.float32)
        for case in NEAR
    ],
)
def test_near_field(K, D, channels, dtype):
    rng = np.random.default_rng(1)
    s = rng.random((90, 3)).astype(dtype)
    x = np.concatenate([s[:7], rng.random((14, 3)).astype(dtype)])
    moments = rng.normal(size=(90, channels, indexing.n_components(K))).astype(dtype)
    leaves, starts = np.array([(0, 4), (4, 5), (5, 21)]), np.array([0, 1, 1, 3])
    ranges = np.array([(0, 90), (3, 40), (41, 90)])
    pairs = [(i, j) for i in range(4) for j in range(90)]
    pairs += [(i, j) for i in range(5, 21) for j in range(3, 90) if j != 40]
    # the fourth is a kernel of the loop that takes lane by lane what is not 1/r
    for kernel in (mp.Softened(0.4), mp.Softened(5.0), mp.Softened(1e-3), mp.Erf(6.0)):
        out = np.empty((21, channels, indexing.n_components(D)), dtype)
        reach = kernel.coulomb_beyond(1e-14, K + D)
        near_field(x, s, moments, D, (leaves, starts, ranges), out, kernel=kernel, reach=reach)
        wide = (a.astype(np.float64) for a in (x, s, moments))
        wanted = reference.field(*wide, D, kernel, pairs=np.array(pairs))
        scale = abs(wanted).max(axis=(0, 1))
        tolerance = 1e-12 if dtype is np.float64 else 3e-5
        assert (abs(out - wanted).max(axis=(0, 1)) <= tolerance * scale).all()


# --- the tree -------------------------------------------------------------------------------------


def test_boxes_are_not_made_smaller_than_asked():
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.random((800, 3)), 5 * rng.random((800, 3))])
    batch = np.repeat([0, 1], 800)
    tree = build_tree(sort_points(x, x, batch, batch), 1, smallest=0.2)
    for system, extent in ((0, 1.0), (1, 5.0)):
        least = tree.edge[tree.system == system].min()
        assert 0.2 <= least < 0.4 < extent
    assert build_tree(sort_points(x, x), 1).edge.min() < 0.1


@pytest.mark.parametrize("shape", list(clouds.SHAPES))
@pytest.mark.parametrize("leaf_size", [3, None])
def test_every_pair_within_reach_is_near(shape, leaf_size):
    """Far pairs by what the near field leaves out: none is closer than the reach."""
    rng = np.random.default_rng(3)
    x = clouds.SHAPES[shape](700, rng)
    reach = 0.11 * np.ptp(x, axis=0).max()
    # as if far more points than these made small leaves worth while
    plan = fmm.FMM(x, tolerance=1e-3, leaf_size=leaf_size or 1, kernel=mp.Softened(reach))
    leaves, starts, ranges = plan._layout.geometry.near
    ordered = plan._layout.geometry.targets
    far = np.ones((len(x), len(x)), bool)
    for leaf, (begin, end) in enumerate(leaves):
        for first, last in ranges[starts[leaf] : starts[leaf + 1]]:
            far[begin:end, first:last] = False
    i, j = np.nonzero(far)
    assert len(i) > 0
    assert np.linalg.norm(ordered[i] - ordered[j], axis=1).min() >= reach


# --- plans ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tolerance",
    [pytest.param(1e-3, marks=pytest.mark.slow), 1e-6, pytest.param(1e-9, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("shape", ["uniform", "sphere", "two clusters"])
@pytest.mark.parametrize("kernel", [mp.Softened(0.12), mp.Erf(30.0)], ids=str)
def test_keeps_the_tolerance_on_every_shape(kernel, shape, tolerance):
    rng = np.random.default_rng(4)
    x = clouds.SHAPES[shape](N, rng)
    moments = _moments(len(x), 1, rng) * [1, 0.1, 0.1, 0.1]
    plan = fmm.FMM(x, None, tolerance, 1, 1, leaf_size=40, kernel=kernel)
    check(plan, x, x, moments, kernel, 1, tolerance)


@pytest.mark.parametrize(
    ("source_order", "order"),
    [
        pytest.param(*orders, marks=[] if orders in DECISIVE else [pytest.mark.slow])
        for orders in ORDERS
    ],
)
def test_keeps_the_tolerance_at_every_order(source_order, order):
    rng = np.random.default_rng(5)
    x = 10 * rng.random((N, 3))
    moments = _moments(N, source_order, rng)
    kernels = [mp.Softened(1.2)]
    if source_order + order < 4:
        kernels.append(mp.Erf(4.0))
    for kernel in kernels:
        plan = fmm.FMM(x, None, 1e-4, source_order, order, leaf_size=60, kernel=kernel)
        exact = check(plan, x, x, moments, kernel, order, 1e-4)
        bare = mp.field(x, x, moments, order)
        assert np.linalg.norm(bare - exact) > 0.1 * np.linalg.norm(exact), "the same as Coulomb"


@pytest.mark.parametrize("kernel", [mp.Softened(0.15), mp.Erf(25.0)], ids=str)
def test_batches_channels_targets_and_float32(kernel):
    rng = np.random.default_rng(6)
    source_batch = np.repeat([0, 1, 3], [1500, 5, 1400])
    target_batch = np.repeat([0, 2, 3], [900, 7, 1100])
    s, x = rng.random((len(source_batch), 3)), rng.random((len(target_batch), 3)) * 1.3
    batches = {"source_batch": source_batch, "target_batch": target_batch}
    moments = _moments(len(s), 1, rng, channels=3)
    plan = fmm.FMM(s, x, 1e-5, 1, 1, leaf_size=40, channels=3, kernel=kernel, **batches)
    check(plan, x, s, moments, kernel, 1, 1e-5, **batches)
    single = [a.astype(np.float32) for a in (s, x, moments)]
    plan = fmm.FMM(*single[:2], 1e-4, 1, 1, leaf_size=40, channels=3, kernel=kernel, **batches)
    assert plan.field(single[2]).dtype == np.float32
    check(plan, x, s, moments, kernel, 1, 1e-4, **batches)


@pytest.mark.parametrize("kernel", [mp.Softened(0.2), mp.Erf(25.0)], ids=str)
def test_one_plan_for_other_orders_and_the_adjoint(kernel):
    rng = np.random.default_rng(7)
    x, s = rng.random((1500, 3)), rng.random((2000, 3))
    plan = fmm.FMM(s, x, 1e-5, leaf_size=40, kernel=kernel)
    reach = plan._layout.geometry.smallest
    # the last asks for more than the plan was laid out for
    for source_order, order in ((0, 0), (0, 1), (1, 1), (2, 2)):
        check(plan, x, s, _moments(2000, source_order, rng), kernel, order, 1e-5)
        check(plan.transpose(), s, x, _moments(1500, order, rng), kernel, source_order, 1e-5)
    longer = kernel.coulomb_beyond(0.05 * 1e-5, 4)
    assert plan._layout.geometry.smallest == max(reach, longer)
    assert (longer > reach) == isinstance(kernel, mp.Erf)


@pytest.mark.parametrize("kernel", [mp.Softened(3.0), mp.Erf(0.1)], ids=str)
def test_reach_beyond_the_system_is_a_direct_sum(kernel):
    rng = np.random.default_rng(8)
    x, moments = rng.random((3000, 3)), _moments(3000, 1, rng)
    plan = fmm.FMM(x, None, 1e-3, 1, 1, leaf_size=20, kernel=kernel)
    found = plan.field(moments)
    assert plan.report().degree == 0
    np.testing.assert_allclose(found, mp.field(x, x, moments, 1, kernel), rtol=0, atol=1e-9)


def test_leaves_are_chosen_above_the_reach():
    rng = np.random.default_rng(9)
    x, q = 40 * rng.random((20_000, 3)), rng.standard_normal((20_000, 1))
    for kernel in (mp.Softened(5.0), mp.Erf(0.8)):
        plan = fmm.FMM(x, tolerance=1e-3, kernel=kernel)
        found = plan.field(q)
        assert plan.report().degree > 0
        assert plan._layout.geometry.tree.edge.min() >= plan._layout.geometry.smallest > 3
        some = rng.choice(len(x), 500, replace=False)
        exact = mp.field(x[some], x, q, 1, kernel)
        assert clouds.errors(found[some], exact, 1).max() <= 1.2e-3


def test_field_takes_a_kernel():
    rng = np.random.default_rng(10)
    x, q = rng.random((4000, 3)), rng.standard_normal((4000, 1))
    kernel = mp.Softened(0.05)
    found = fmm.field(x, x, q, 1, 1e-5, kernel)
    assert clouds.errors(found, mp.field(x, x, q, 1, kernel), 1).max() <= 1e-5


@pytest.mark.parametrize(
    "kernel",
    [mp.Yukawa(1), mp.Erfc(1), mp.ReactionField(9.0), mp.InversePower(2)],
    ids=str,
)
def test_refuses_kernels_that_are_not_coulomb_far_away(kernel):
    x = np.random.default_rng(0).random((20, 3))
    with pytest.raises(ValueError, match=r"Coulomb\(\), Softened\(...\), Erf\(...\) or Thole"):
        fmm.FMM(x, kernel=kernel)
    with pytest.raises(ValueError, match="beyond some distance"):
        fmm.field(x, x, np.ones((20, 1)), kernel=kernel)


def test_refuses_what_is_no_kernel():
    with pytest.raises(TypeError, match="call it"):
        fmm.FMM(np.zeros((3, 3)), kernel=mp.Erf)
