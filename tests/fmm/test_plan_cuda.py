"""Plans on the GPU: arrays in, arrays out, the tolerance of the CPU's plans."""

import numpy as np
import pytest

pytest.importorskip("numba.cuda")

import fmm
import multipoles as mp
from fmm.cuda import sampling as sampling_cuda
from fmm.error import indicators, sampling
from multipoles.checks import on_device
from multipoles.cuda.device import NumbaSpace

pytestmark = pytest.mark.cuda
SPACE = NumbaSpace()


def _points(n, seed=0):
    return np.random.default_rng(seed).random((n, 3))


def _error(found, exact):
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


def test_counts_are_those_of_the_cpu():
    rng = np.random.default_rng(1)
    s = np.concatenate([rng.random((5, 3)), 0.45 + 0.05 * rng.random((14, 3))])
    x = np.concatenate([rng.random((5, 3)), 0.52 + 0.04 * rng.random((12, 3))])
    here = fmm.FMM(s, x, 0.1, leaf_size=3)._layout.geometry.with_leaves(3, 2)
    there = fmm.FMM(
        SPACE.upload(s), SPACE.upload(x), 0.1, leaf_size=3
    )._layout.geometry.with_leaves(3, 2)
    for name in ("n_near_pairs", "n_mixed", "n_leaves", "n_across", "has_far_field"):
        assert getattr(there, name) == getattr(here, name), name
    assert here.n_mixed > 0
    np.testing.assert_array_equal(there.translations, here.translations)
    np.testing.assert_allclose(there.edges, here.edges)
    held = np.diff(here.tree.source_range, axis=1).astype(float)
    np.testing.assert_allclose(there.far_weights, indicators.pair_weights(here, held)[0])
    for found, expected in zip(there.near, here.near, strict=True):
        np.testing.assert_array_equal(SPACE.download(found), expected)
    for found, expected in zip(there.unsorted(), (x, s), strict=True):
        np.testing.assert_array_equal(SPACE.download(found), expected)


def test_field_and_rebuilt_field():
    s = _points(28).astype(np.float32)
    moments = np.random.default_rng(2).standard_normal((28, 2, 1)).astype(np.float32)
    plan = fmm.FMM(SPACE.upload(s), tolerance=0.2, leaf_size=4)
    first = plan.field(SPACE.upload(moments))
    assert on_device(first) and first.shape == (28, 2, 4)
    exact = mp.field(s, s, moments, 1)
    assert _error(SPACE.download(first), exact) < 0.2
    report = plan.report()
    assert max(report.degrees) > 0 and report.translations > 0 and (report.errors < 0.2).all()
    assert "28 sources" in str(report)
    # a little on: the same degrees, and no look at errors
    plan.rebuild(SPACE.upload(s + np.float32(1e-3)))
    found = SPACE.download(plan.field(SPACE.upload(moments)))
    assert _error(found, exact) < 0.2
    np.testing.assert_allclose(found, SPACE.download(first), atol=0.1 * np.abs(exact).max())
    assert "sample" not in plan.report().seconds
    assert max(plan.report().degrees) == max(report.degrees)


def test_few_points_are_summed_directly():
    rng = np.random.default_rng(3)
    s, x = _points(14).astype(np.float32), _points(9, seed=4).astype(np.float32)
    moments = rng.standard_normal((14, 2, 4)).astype(np.float32)
    plan = fmm.FMM(SPACE.upload(s), SPACE.upload(x), 1e-4, 1, 1)
    found = SPACE.download(plan.field(SPACE.upload(moments)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, mp.field(x, s, moments, 1), rtol=1e-4, atol=1e-3)
    # the adjoint map, and a higher order
    back = rng.standard_normal((9, 1)).astype(np.float32)
    found = SPACE.download(plan.transpose().field(SPACE.upload(back), 2))
    np.testing.assert_allclose(found, mp.field(s, x, back, 2), rtol=1e-4, atol=1e-2)


def test_what_needs_a_degree_too_high_is_summed_directly(monkeypatch):
    s, q = _points(30), np.random.default_rng(3).standard_normal((30, 1))
    plan = fmm.FMM(SPACE.upload(s), tolerance=1e-12, leaf_size=3)
    assert plan._layout.geometry.has_far_field

    def no_far_field(*_):
        raise AssertionError("matrices of gigabytes")

    monkeypatch.setattr(type(plan._layout.steps), "far", no_far_field)
    found = SPACE.download(plan.field(SPACE.upload(q)))
    assert plan.report().degrees == () and _error(found, mp.field(s, s, q, 1)) < 1e-12


def test_systems_do_not_see_each_other():
    batch = np.repeat([0, 3], [8, 5])
    x, moments = _points(13), np.ones((13, 1))
    there = SPACE.upload(batch)
    plan = fmm.FMM(SPACE.upload(x), tolerance=0.1, order=0, source_batch=there)
    found = SPACE.download(plan.field(SPACE.upload(moments)))
    exact = mp.field(x, x, moments, 0, target_batch=batch, source_batch=batch)
    np.testing.assert_allclose(found, exact, rtol=1e-9)


def test_arrays_must_lie_where_the_plan_does():
    x, moments = _points(12), np.ones((12, 1))
    plan = fmm.FMM(SPACE.upload(x), leaf_size=20)
    with pytest.raises(TypeError, match="moments: the points lie on a GPU and these on the CPU"):
        plan.field(moments)
    with pytest.raises(TypeError, match=r"expected points on a GPU.*got a ndarray on the CPU"):
        plan.rebuild(x)
    with pytest.raises(TypeError, match="moments: the points lie on the CPU"):
        fmm.FMM(x).field(SPACE.upload(moments))
    with pytest.raises(TypeError, match="GPU"):
        fmm.FMM(SPACE.upload(x), x + 1)
    with pytest.raises(ValueError, match="expected 12 sites"):
        plan.field(SPACE.upload(moments[1:]))
    with pytest.raises(TypeError, match="one dtype"):
        plan.field(SPACE.upload(moments.astype(np.float32)))


def test_field_of_points_and_moments():
    x, moments = _points(12), np.ones((12, 1))
    found = fmm.field(*(SPACE.upload(a) for a in (x + 2, x, moments)), 1, 1e-3)
    exact = mp.field(x + 2, x, moments, 1)
    np.testing.assert_allclose(SPACE.download(found), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("channels", [pytest.param(None, marks=pytest.mark.slow), 2])
def test_energies_and_forces(channels):
    rng = np.random.default_rng(6)
    x, shape = _points(12), (12, 4) if channels is None else (12, channels, 4)
    moments, batch = rng.standard_normal(shape), np.repeat([0, 1], [7, 5])
    given = SPACE.upload(x), SPACE.upload(moments)
    found = fmm.energy_forces(*given, batch=SPACE.upload(batch), tolerance=1e-3)
    expected = mp.energy_forces(x, moments, batch=batch)
    assert found[0] == pytest.approx(expected[0], rel=1e-9)
    for there, here in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(SPACE.download(there), here, rtol=1e-9, atol=1e-9)
    assert fmm.energy(*given, tolerance=1e-3) == pytest.approx(mp.energy(x, moments), rel=1e-9)
    with pytest.raises(TypeError, match="moments"):
        fmm.torques(*given)


def _probe(plan, moments, order):
    """Return near field and probe of a plan without far field, moments in the caller's order."""
    geometry, steps = plan._layout.geometry, plan._layout.steps
    ordered = steps.to_tree(geometry, SPACE.upload(moments), np.dtype(np.float64))
    near = steps.near(geometry, ordered, order, plan.kernel, 0.0, np.dtype(ordered.dtype))
    return near, steps.probe(geometry, ordered, near, order, plan.kernel, 0.0)


def test_exact_field_at_samples_and_mean_squares():
    rng = np.random.default_rng(5)
    host = np.repeat([0, 1], [14, 10])
    s, moments = SPACE.upload(_points(24)), rng.standard_normal((24, 1, 1))
    plan = fmm.FMM(s, tolerance=0.1, leaf_size=4, source_batch=SPACE.upload(host))
    near, probe = _probe(plan, moments, 1)
    exact = mp.field(_points(24), _points(24), moments, 1, target_batch=host, source_batch=host)
    exact = exact[SPACE.download(plan._layout.geometry.tree.target_permutation)]
    np.testing.assert_allclose(probe.exact, exact[probe.samples], atol=1e-12 * np.abs(exact).max())
    np.testing.assert_array_equal(probe._at(near), SPACE.download(near)[probe.samples])
    # few targets are looked at all, each once
    np.testing.assert_array_equal(probe.samples, np.arange(24))
    errors, bounds = probe.errors(near)
    missing = (SPACE.download(near) - exact) ** 2
    for k, own in enumerate((slice(0, 1), slice(1, 4))):
        expected = np.sqrt(missing[..., own].sum() / 24) / probe.units[k]
        assert errors[0, k, 0] == bounds[0, k, 0] == pytest.approx(expected, rel=1e-9)
    values, units = rng.standard_normal((24, 2, 4)), np.array([0.5, 4.0])
    squares = sampling_cuda.mean_squares(SPACE, SPACE.upload(values), units)
    expected = [(values[..., p] ** 2).sum() / 24 for p in (slice(0, 1), slice(1, 4))]
    np.testing.assert_allclose(squares, expected / units**2)


@pytest.mark.parametrize(
    "dtype, size",
    [(np.float32, 1e30), (np.float32, 1e-38), (np.float64, 1e250), (np.float64, 1e-250)],
)
def test_squares_of_large_and_small_fields(dtype, size):
    values, units = np.array([[[size]], [[-3 * size]]], dtype), np.array([size])
    found = sampling_cuda.mean_squares(SPACE, SPACE.upload(values), units)
    np.testing.assert_allclose(found, [5.0], rtol=1e-5)


def test_draws_stand_for_all_targets_and_those_in_corners_for_themselves(monkeypatch):
    monkeypatch.setattr(sampling, "SIZE", 6)
    monkeypatch.setattr(sampling.Probe, "first", 6)
    plan = fmm.FMM(SPACE.upload(_points(40)), tolerance=0.1, leaf_size=5)
    near, probe = _probe(plan, np.ones((40, 1, 1)), 0)
    assert probe._shares.sum() == pytest.approx(1.0)
    corners = probe._in_corners(6)
    ours = np.isin(probe.samples[probe._draws], corners)
    assert set(corners) <= set(probe.samples) and len(probe.samples) < 40
    assert probe._shares[ours].sum() == pytest.approx(len(corners) / 40)
    errors, bounds = probe.errors(SPACE.upload(SPACE.download(near) + 0.0))
    assert errors.shape == (1, 1, 1) and np.all(bounds >= errors)


@pytest.mark.parametrize(
    "kind", ["zero", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("traces", "tiny"))]
)
def test_a_first_call_of_nothing_does_not_poison_a_plan(kind):
    x, q = _points(30, 7), np.random.default_rng(8).random((30, 1))
    order = 2 if kind == "traces" else 0
    nothing = np.zeros((30, mp.n_components(order)))
    if kind == "traces":
        nothing[:, [4, 7, 9]] = q
    elif kind == "tiny":
        nothing[3] = 1e-300
    wanted = np.random.default_rng(9).random(nothing.shape)
    plan = fmm.FMM(SPACE.upload(x), tolerance=0.05, source_order=order, leaf_size=4)
    found = SPACE.download(plan.field(SPACE.upload(nothing)))
    exact = mp.field(x, x, nothing, 1)
    if kind == "tiny":
        assert _error(found * 1e250, exact * 1e250) < 0.05
    else:
        assert np.abs(found).max() <= 1e-9 and not plan.report().degree
    found = SPACE.download(plan.field(SPACE.upload(wanted)))
    assert _error(found, mp.field(x, x, wanted, 1)) < 0.05
    assert plan.report().degree > 0


@pytest.mark.filterwarnings("ignore:overflow|invalid value:RuntimeWarning")
@pytest.mark.parametrize("bad", [np.nan, pytest.param(np.inf, marks=pytest.mark.slow)])
def test_moments_that_are_not_finite_are_warned_of_and_forgotten(bad):
    x, q = _points(30, 7), np.random.default_rng(8).random((30, 1))
    plan = fmm.FMM(SPACE.upload(x), tolerance=0.05, order=0, leaf_size=4)
    with pytest.warns(RuntimeWarning, match="field of order 0 is not finite"):
        found = SPACE.download(plan.field(SPACE.upload(np.where(q > q[3], q, bad))))
    assert not np.isfinite(found).any()
    found = SPACE.download(plan.field(SPACE.upload(q)))
    assert _error(found, mp.field(x, x, q, 0)) < 0.05 and plan.report().degree > 0


@pytest.mark.parametrize(
    "dtype, lengths, sizes",
    [
        pytest.param(np.float32, 1.0, (1e-43, 1e33), marks=pytest.mark.slow),
        (np.float32, 1e-33, (1e-36, 1e-40)),
        pytest.param(np.float32, 1e25, (1e30,), marks=pytest.mark.slow),
        (np.float64, 1.0, (1e-200, 1.0, 1e200)),
        pytest.param(np.float64, 1e-160, (1e-170, 1e-220), marks=pytest.mark.slow),
        pytest.param(np.float64, 1e150, (1e200,), marks=pytest.mark.slow),
    ],
)
def test_numbers_of_any_size(dtype, lengths, sizes):
    x, q = _points(30, 7), np.random.default_rng(8).random((30, 1))
    x = (x * lengths).astype(dtype)
    plan = fmm.FMM(SPACE.upload(x), tolerance=0.05, order=0, leaf_size=4)
    for size in sizes:
        charges = (q * size).astype(dtype)
        found = SPACE.download(plan.field(SPACE.upload(charges))).astype(float)
        exact = mp.field(x / lengths, x / lengths, (charges / size).astype(np.float64), 0)
        assert _error(found * (lengths / size), exact) < 0.05
        assert plan.report().degree > 0


# in the float32 that is given up
@pytest.mark.filterwarnings("ignore:overflow|invalid value:RuntimeWarning")
def test_a_near_field_that_overflows_is_summed_in_float64():
    x = _points(30, 7).astype(np.float32)
    x[:2] = [[0, 0, 0], [1e-15, 0, 0]]
    m = np.zeros((30, 4), np.float32)
    m[:2, 1] = 1e-15
    m[2:] = 1e-3
    plan = fmm.FMM(SPACE.upload(x), tolerance=1e-2, source_order=1, leaf_size=4)
    found = SPACE.download(plan.field(SPACE.upload(m)))
    exact = mp.field(*(a.astype(np.float64) for a in (x, x, m)), 1)
    assert found.dtype == np.float32 and np.isfinite(found).all()
    for own in (slice(0, 1), slice(1, 4)):
        assert _error(found[:, own], exact[:, own]) < 1e-2
    assert not plan._layout.settings[1, 1].narrow


def test_what_plans_on_a_gpu_do_not_do():
    x, q = (SPACE.upload(a) for a in (_points(12), np.ones((12, 1))))
    scale = np.array([[0, 1]]), np.array([0.5])
    for call in (
        lambda: fmm.FMM(x, pair_scale=scale),
        lambda: fmm.field(x, x, q, pair_scale=scale),
        lambda: fmm.energy(x, q, pair_scale=scale),
    ):
        with pytest.raises((TypeError, ValueError), match=r"pair_scale: expected none.*on a GPU"):
            call()
    for each in ("system", ["channel"]):
        with pytest.raises(ValueError, match="each: expected none for points on a GPU"):
            fmm.FMM(x, each=each)
    plan = fmm.FMM(x)
    with pytest.raises(TypeError, match="moments: the points lie on a GPU"):
        plan.energy(np.ones((12, 1)))
    with pytest.raises(TypeError, match="moments"):
        plan.torques(q)
    with pytest.raises(ValueError, match="targets are its sources"):
        fmm.FMM(x, SPACE.upload(_points(12))).energy(q)
    for arguments in ((x, np.ones((12, 1))), (_points(12), q)):
        with pytest.raises(TypeError, match="GPU"):
            fmm.energy(*arguments)


@pytest.mark.parametrize("shape", [(14,), (14, 2, 4)])
def test_energies_of_a_plan(shape):
    rng = np.random.default_rng(10)
    x, moments = _points(14), rng.standard_normal(shape)
    packed = moments[:, None] if len(shape) == 1 else moments
    plan = fmm.FMM(SPACE.upload(x), tolerance=1e-3, source_order=0 if len(shape) == 1 else 1)
    expected = mp.energy_forces(x, packed)
    there = SPACE.upload(moments)
    assert plan.energy(there) == pytest.approx(expected[0], rel=1e-9)
    energy, forces, gradients = plan.energy_forces(there)
    assert energy == pytest.approx(expected[0], rel=1e-9)
    np.testing.assert_allclose(SPACE.download(forces), expected[1], rtol=1e-8, atol=1e-9)
    assert gradients.shape == shape
    np.testing.assert_allclose(
        SPACE.download(gradients), expected[2].reshape(shape), rtol=1e-8, atol=1e-9
    )


def test_plans_of_nothing_and_of_one_place():
    x, none = _points(9), np.empty((0, 3))
    for targets, sources in (
        (x, none),
        (none, x),
        (none, none),
        (np.ones((9, 3)), np.ones((9, 3))),
    ):
        same = targets is sources
        s = SPACE.upload(sources)
        plan = fmm.FMM(s, s if same else SPACE.upload(targets), tolerance=1e-3)
        for _ in range(2):
            found = SPACE.download(plan.field(SPACE.upload(np.ones((len(sources), 1)))))
            assert found.shape == (len(targets), 4) and not found.any()


def test_few_sources_are_looked_at_box_by_box_as_on_the_cpu(monkeypatch):
    monkeypatch.setattr(sampling, "SIZE", 8)
    monkeypatch.setattr(sampling.Probe, "first", 8)
    rng = np.random.default_rng(11)
    s = np.concatenate([rng.random((5, 3)), 0.45 + 0.05 * rng.random((14, 3))])
    x = np.concatenate([rng.random((12, 3)), 0.52 + 0.04 * rng.random((20, 3))])
    moments = rng.standard_normal((19, 1, 4))
    moments[3] *= 100
    plans = fmm.FMM(s, x, 0.1, leaf_size=3), fmm.FMM(*map(SPACE.upload, (s, x)), 0.1, leaf_size=3)
    found: list[list] = []
    weights: list[np.ndarray] = []
    for plan, given in zip(plans, (moments, SPACE.upload(moments)), strict=True):
        steps, geometry = plan._layout.steps, plan._layout.geometry.with_leaves(3, 2)
        ordered = steps.to_tree(geometry, given, np.dtype(np.float64))
        near = steps.near(geometry, ordered, 1, plan.kernel, 0.0, np.dtype(ordered.dtype))
        strengths = steps.strengths(ordered, steps.harmonic(ordered, 1), 1)
        probe = steps.probe(
            geometry, ordered, near, 1, plan.kernel, 0.0,
            lambda norms, h=strengths, g=geometry: h.where(g, (3,) * len(g.edges), norms),
        )  # fmt: skip
        found.append([
            strengths.mean, *probe._where, probe.samples, probe._shares,
            probe.exact, probe.norms(), *probe.errors(near), probe.terms(),
        ])  # fmt: skip
        weights.append(strengths.weights(geometry))
    for here, there in zip(*found, strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-9)
    assert len(found[0][4]) < 32 and len(np.unique(found[0][5])) > 1
    assert np.all(weights[1] >= weights[0] * (1 - 1e-9))


def test_who_is_looked_at_box_by_box(monkeypatch):
    harmonic = np.random.default_rng(12).standard_normal((60, 1, 1))
    for few, strong, detailed in ((61, 1, True), (10, 1, False), (10, 1e3, True)):
        monkeypatch.setattr(sampling_cuda, "_FEW", few)
        monkeypatch.setattr(sampling_cuda, "_UNEVEN", 0.1)
        harmonic[7] = strong
        there = SPACE.upload(harmonic)
        strengths = sampling_cuda.DeviceStrengths(SPACE, there, there, 0)
        expected = (harmonic**2).sum() ** 2 / (harmonic**4).sum()
        assert (
            strengths.spread == pytest.approx(expected)
            and (strengths._boxes is not None) == detailed
        )


@pytest.mark.parametrize("kind", ["apart", "at one place"])
def test_targets_in_corners_of_leaves(kind):
    x = _points(20) if kind == "apart" else np.full((20, 3), 0.3)
    plan = fmm.FMM(SPACE.upload(x), tolerance=0.1, leaf_size=4, kernel=mp.Softened(0.05))
    moments = SPACE.upload(np.ones((20, 1, 1)))
    given = plan._layout.geometry, moments, 0, plan.kernel, 0.0, np.dtype(moments.dtype)
    near = plan._layout.steps.near(*given)
    probe = plan._layout.steps.probe(plan._layout.geometry, moments, near, 0, plan.kernel, 0.0)
    here = fmm.FMM(x, tolerance=0.1, leaf_size=4, kernel=mp.Softened(0.05))
    tree = here._layout.geometry.tree
    targets = SPACE.download(plan._layout.geometry.targets)
    leaf = np.empty(20, np.int64)
    for box in np.flatnonzero(tree.n_children == 0):
        leaf[slice(*tree.target_range[box])] = box
    distance = (((targets - tree.centre[leaf]) / tree.edge[leaf, None]) ** 2).sum(axis=1)
    expected = np.argsort(distance, kind="stable")[-5:]
    assert sorted(probe._in_corners(5)) == sorted(expected)
