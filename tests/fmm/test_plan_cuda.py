"""Plans on the GPU: arrays in, arrays out, the tolerance of the CPU's plans."""

import numpy as np
import pytest

pytest.importorskip("numba.cuda")

import fmm
import multipoles as mp
from fmm import steps_cuda
from multipoles._device import NumbaSpace
from multipoles.checks import on_device

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
    here = fmm.FMM(s, x, 0.1, leaf_size=3)._geometry.with_leaves(3, 2)
    there = fmm.FMM(SPACE.upload(s), SPACE.upload(x), 0.1, leaf_size=3)._geometry.with_leaves(3, 2)
    for name in ("n_near_pairs", "n_mixed", "n_leaves", "n_across", "has_far_field"):
        assert getattr(there, name) == getattr(here, name), name
    assert here.n_mixed > 0
    np.testing.assert_array_equal(there.translations, here.translations)
    for found, expected in zip(there.far_weights, here.far_weights, strict=True):
        np.testing.assert_allclose(found, expected)
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


@pytest.mark.parametrize("channels", [None, 2])
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


def test_sampled_field_and_mean_squares():
    rng = np.random.default_rng(5)
    batch = SPACE.upload(np.repeat([0, 1], [14, 10]))
    s, moments = SPACE.upload(_points(24)), rng.standard_normal((24, 1, 1))
    plan = fmm.FMM(s, tolerance=0.1, leaf_size=4, source_batch=batch)
    geometry, steps = plan._geometry, plan._steps
    ordered = steps.order(geometry, SPACE.upload(moments), np.dtype(np.float64))
    near = steps.near(geometry, ordered, 1, plan.kernel, 0.0)
    probe = steps.probe(geometry, ordered, near, 1, plan.kernel, 0.0)
    host = np.repeat([0, 1], [14, 10])
    exact = mp.field(_points(24), _points(24), moments, 1, target_batch=host, source_batch=host)
    exact = exact[SPACE.download(geometry.tree.target_order)] - SPACE.download(near)
    scale = np.abs(exact).max()
    np.testing.assert_allclose(probe._far, exact[probe.places], atol=1e-12 * max(scale, 1e3))
    values = rng.standard_normal((24, 2, 4))
    squares = steps_cuda.mean_squares(SPACE, SPACE.upload(values), 1)
    expected = [(values[..., p] ** 2).sum() / 24 for p in (slice(0, 1), slice(1, 4))]
    np.testing.assert_allclose(squares, expected)


def test_targets_in_corners_of_leaves():
    x = _points(20)
    plan = fmm.FMM(SPACE.upload(x), tolerance=0.1, leaf_size=4, kernel=mp.Softened(0.05))
    moments = SPACE.upload(np.ones((20, 1, 1)))
    near = plan._steps.near(plan._geometry, moments, 0, plan.kernel, 0.0)
    probe = plan._steps.probe(plan._geometry, moments, near, 0, plan.kernel, 0.0)
    here = fmm.FMM(x, tolerance=0.1, leaf_size=4, kernel=mp.Softened(0.05))
    tree = here._geometry.tree
    targets = SPACE.download(plan._geometry.targets)
    leaf = np.empty(20, np.int64)
    for box in np.flatnonzero(tree.n_children == 0):
        leaf[slice(*tree.target_range[box])] = box
    distance = (((targets - tree.centre[leaf]) / tree.edge[leaf, None]) ** 2).sum(axis=1)
    expected = np.argsort(distance)[-5:]
    assert sorted(probe._in_corners(5)) == sorted(expected)
