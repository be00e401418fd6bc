"""Energies, forces and torques to a tolerance, against the direct sums of `multipoles`."""

import inspect
import warnings

import clouds
import numpy as np
import pytest

import fmm
import multipoles as mp
from multipoles.indexing import order_of, order_slice

N = 3000
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def _no_missed_tolerance():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def _neutral(n, order, rng, channels=None):
    """Return moments without a charge as a whole."""
    shape = (n,) if channels is None else (n, channels)
    moments = rng.standard_normal((*shape, mp.n_components(order)))
    moments[..., 0] -= moments[..., 0].mean(axis=0)
    return moments


def _cloud(n, rng):
    """Return points that keep apart: nearest pairs are not all of the field."""
    m = int(np.ceil(n ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(m, dtype=float)] * 3), -1).reshape(-1, 3)[:n]
    return grid + rng.uniform(-0.3, 0.3, (n, 3))


def _water(n, rng):
    """Return sites and charges of n molecules, and their pairs within."""
    bonds = rng.standard_normal((n, 2, 3))
    bonds /= np.linalg.norm(bonds, axis=-1, keepdims=True)
    oxygens = 3.1 * _cloud(n, rng)
    x = np.concatenate([oxygens[:, None], oxygens[:, None] + bonds], axis=1).reshape(-1, 3)
    first = 3 * np.arange(n)
    pairs = [np.stack([first + i, first + j], 1) for i, j in ((0, 1), (2, 0), (1, 2))]
    return x, np.tile([-0.8, 0.4, 0.4], n)[:, None], np.concatenate(pairs)


def _relative(found, exact):
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


def _bound(moments, field, tolerance):
    """Return what is promised of the energy: half the tolerance times the norms, order by order."""
    parts = [order_slice(k) for k in range(order_of(moments.shape[-1]) + 1)]
    norms = [np.linalg.norm(moments[..., p]) * np.linalg.norm(field[..., p]) for p in parts]
    return 0.5 * tolerance * sum(norms)


def _check(x, moments, tolerance=TOLERANCE, **options):
    """Compare all three functions with the direct sums."""
    total, forces, gradients = mp.energy_forces(x, moments, **options)
    turns = mp.torques(moments, gradients)
    found = fmm.energy_forces(x, moments, **options, tolerance=tolerance)
    bound = _bound(moments, gradients, tolerance)
    assert abs(found[0] - total) <= bound
    assert abs(fmm.energy(x, moments, **options, tolerance=tolerance) - total) <= bound
    assert found[1].shape == forces.shape and found[1].dtype == forces.dtype
    assert found[2].shape == gradients.shape and found[2].dtype == gradients.dtype
    # moments of all sizes: sites of large ones weigh more than in the field
    assert _relative(found[1], forces) <= 3 * tolerance
    order = order_of(moments.shape[-1])
    assert clouds.errors(found[2], gradients, order).max() <= tolerance
    torques = fmm.torques(x, moments, **options, tolerance=tolerance)
    assert torques.dtype == turns.dtype
    assert np.linalg.norm(torques - turns) <= 3 * tolerance * np.linalg.norm(turns)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_energies_of_multipoles(order):
    rng = np.random.default_rng(order)
    _check(_cloud(N, rng), _neutral(N, order, rng))


def test_charges_of_one_size_have_forces_to_the_tolerance():
    rng = np.random.default_rng(3)
    x, q = rng.random((6000, 3)), np.repeat([[1.0], [-1.0]], 3000, axis=0)
    for tolerance in (1e-3, 1e-7):
        energy, forces, _ = fmm.energy_forces(x, q, tolerance=tolerance)
        exact = mp.energy_forces(x, q)
        assert _relative(forces, exact[1]) <= tolerance
        # far below the bound: errors of many sites have all signs
        assert abs(energy - exact[0]) <= 0.1 * _bound(q, exact[2], tolerance)


def test_channels_do_not_see_each_other():
    rng = np.random.default_rng(4)
    _check(_cloud(2000, rng), _neutral(2000, 1, rng, channels=2))


def test_batches():
    rng = np.random.default_rng(5)
    batch = np.repeat([0, 2, 3], [1400, 1, 1599])
    _check(_cloud(N, rng), _neutral(N, 0, rng), batch=batch)


@pytest.mark.parametrize("kernel", [mp.Softened(0.9), mp.Erf(1.5)], ids=str)
def test_damped_kernels(kernel):
    rng = np.random.default_rng(6)
    x, q, pairs = _water(700, rng)
    _check(x, q, kernel=kernel, pair_scale=(pairs, np.zeros(len(pairs))))


def test_float32():
    rng = np.random.default_rng(7)
    x, q, pairs = _water(1000, rng)
    x, q = x.astype(np.float32), q.astype(np.float32)
    _check(x, q, pair_scale=(pairs, rng.random(len(pairs))))
    _check(x, q)


@pytest.mark.parametrize("order", [0, 2])
def test_exclusions(order):
    """The tolerance is that of what remains, though the bonds within are most of the sum."""
    rng = np.random.default_rng(8)
    x, q, pairs = _water(1200, rng)
    moments = np.zeros((len(x), mp.n_components(order)))
    moments[:, :1] = q
    moments[:, 1:] = 0.2 * rng.standard_normal((len(x), moments.shape[1] - 1))
    factors = np.zeros(len(pairs))
    _check(x, moments, pair_scale=(pairs, factors))
    everything = mp.energy(x, moments)
    assert abs(mp.energy(x, moments, pair_scale=(pairs, factors))) < 0.1 * abs(everything)


def test_exclusions_and_batches():
    rng = np.random.default_rng(9)
    x, q, pairs = _water(1000, rng)
    # one pair across the systems, which do not interact anyway
    scale = np.concatenate([pairs, [[0, 2999]]]), np.append(rng.random(len(pairs)), 0.0)
    _check(x, q, pair_scale=scale, batch=np.repeat([0, 1], 1500))


def test_close_pairs_are_taken_off_to_the_tolerance():
    """Dipoles made of two charges: what is taken off is far more than what remains."""
    rng = np.random.default_rng(10)
    centres, steps = 3 * _cloud(1500, rng), rng.standard_normal((1500, 3))
    x = np.concatenate([centres, centres + 0.01 * steps])
    q = np.repeat([[1.0], [-1.0]], 1500, axis=0)
    pairs = np.stack([np.arange(1500), np.arange(1500) + 1500], axis=1)
    _check(x, q, pair_scale=(pairs, np.zeros(1500)), tolerance=1e-4)


def test_a_number_says_what_rounding_costs():
    """Pairs so close that float64 cannot take them off."""
    x = np.concatenate([np.random.default_rng(11).random((50, 3))] * 2)
    x[50:, 0] += 1e-9
    q = np.random.default_rng(12).standard_normal((100, 1))
    scale = np.stack([np.arange(50), np.arange(50) + 50], axis=1), np.zeros(50)
    with pytest.warns(RuntimeWarning, match=r"1e-06 was missed.* of order 1 is \d.*as large as"):
        fmm.field(x, x, q, order=1, pair_scale=scale)


@pytest.mark.parametrize("order", [0, 2])
@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_sites(n, order):
    x, moments = np.arange(3.0 * n).reshape(n, 3), np.ones((n, mp.n_components(order)))
    total, forces, gradients = fmm.energy_forces(x, moments)
    expected = mp.energy_forces(x, moments)
    assert total == pytest.approx(expected[0], rel=1e-12)
    assert fmm.energy(x, moments) == pytest.approx(expected[0], rel=1e-12)
    np.testing.assert_allclose(forces, expected[1], rtol=1e-12)
    np.testing.assert_allclose(gradients, expected[2], rtol=1e-12, atol=1e-15)
    assert fmm.torques(x, moments).shape == (n, 3)
    assert fmm.energy(x, moments, pair_scale=([], [])) == pytest.approx(expected[0], rel=1e-12)


def test_arguments_are_those_of_the_direct_sums():
    for name in ("energy", "energy_forces"):
        ours, theirs = (inspect.signature(getattr(m, name)).parameters for m in (fmm, mp))
        assert {*theirs} == {*ours} and list(theirs)[:5] == list(ours)[:5]
        others = {*theirs} - {"tolerance"}
        assert all(ours[key].default == theirs[key].default for key in others)
    assert [*inspect.signature(fmm.torques).parameters, "virial"] == list(ours)
    ours, theirs = (inspect.signature(m.field).parameters for m in (fmm, mp))
    assert {*theirs} - {"pairs"} <= {*ours}
    others = {*theirs} - {"pairs", "tolerance"}
    assert all(ours[key].default == theirs[key].default for key in others)


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"positions": np.ones((3, 2))}, ValueError, "positions"),
        ({"moments": np.ones((4, 1))}, ValueError, "moments: expected 3 sites"),
        ({"moments": np.full((3, 1), np.nan)}, ValueError, "moments"),
        ({"kernel": mp.Yukawa(1.0)}, ValueError, "kernel"),
        ({"kernel": "Coulomb"}, TypeError, "ernel"),
        ({"batch": [0, 1]}, ValueError, "batch: "),
        ({"batch": [1, 0, 0]}, ValueError, "batch: "),
        ({"pair_scale": ([[0, 0]], [0.0])}, ValueError, "itself"),
        ({"pair_scale": ([[0, 3]], [0.0])}, ValueError, "3 sites"),
        ({"tolerance": 0.0}, ValueError, "tolerance"),
        ({"tolerance": None}, TypeError, "tolerance"),
    ],
)
@pytest.mark.parametrize("function", [fmm.energy, fmm.energy_forces, fmm.torques])
def test_bad_arguments(function, options, error, words):
    given = {"positions": np.eye(3), "moments": np.ones((3, 1))} | options
    with pytest.raises(error, match=words):
        function(**given)


@pytest.mark.parametrize("name", ["positions", "moments"])
def test_scaled_pairs_of_arrays_on_a_gpu_are_refused(name):
    class OnDevice:
        __cuda_array_interface__ = None

    given = {"positions": np.eye(3), "moments": np.ones((3, 1)), name: OnDevice()}
    with pytest.raises(TypeError, match="pair_scale: expected none with arrays on a GPU"):
        fmm.energy(**given, pair_scale=([[0, 1]], [0.0]))


# --- fields ---------------------------------------------------------------------------------------


def test_the_gradient_is_there_by_default():
    x = np.random.default_rng(13).random((50, 3))
    q = np.ones((50, 1))
    np.testing.assert_allclose(fmm.field(x, x, q), mp.field(x, x, q), rtol=1e-12)


def test_targets_must_be_named():
    with pytest.raises(TypeError, match="targets: expected points"):
        fmm.field(None, np.eye(3), np.ones((3, 1)))


def test_a_kernel_in_the_place_of_the_tolerance_is_told():
    with pytest.raises(TypeError, match="tolerance"):
        fmm.field(np.eye(3), np.eye(3), np.ones((3, 1)), 1, mp.Erf(1.0))


def test_field_of_batches():
    rng = np.random.default_rng(14)
    s, x = rng.random((2000, 3)), rng.random((1500, 3))
    q = rng.standard_normal((2000, 1))
    of_s, of_x = np.repeat([0, 1], 1000), np.repeat([0, 1], [300, 1200])
    found = fmm.field(x, s, q, 1, TOLERANCE, target_batch=of_x, source_batch=of_s)
    exact = mp.field(x, s, q, target_batch=of_x, source_batch=of_s)
    assert clouds.errors(found, exact, 1).max() <= TOLERANCE
    with pytest.raises(ValueError, match="batch"):
        fmm.field(x, s, q, source_batch=of_s)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_field_of_targets_apart_without_some_pairs(dtype):
    """Probes at the sites of molecules, of which the own one does not count."""
    rng = np.random.default_rng(15)
    s, q, _ = _water(1000, rng)
    x = (s[::3] + 0.2 * rng.standard_normal((1000, 3))).astype(dtype)
    s, q = s.astype(dtype), q.astype(dtype)
    pairs = np.stack([np.repeat(np.arange(1000), 3), np.arange(3000)], axis=1)
    found = fmm.field(x, s, q, 1, TOLERANCE, pair_scale=(pairs, np.zeros(3000)))
    wide = [array.astype(np.float64) for array in (x, s, q)]
    kept = np.ones((1000, 3000), bool)
    kept[pairs[:, 0], pairs[:, 1]] = False
    exact = mp.field(*wide, pairs=np.argwhere(kept))
    assert found.dtype == dtype and found.shape == (1000, 4)
    assert clouds.errors(found, exact, 1).max() <= TOLERANCE


# --- plans ----------------------------------------------------------------------------------------


def test_a_plan_serves_many_moments():
    rng = np.random.default_rng(16)
    x = _cloud(N, rng)
    plan = fmm.FMM(x, tolerance=TOLERANCE, source_order=1, order=2, leaf_size=50)
    for order in (1, 0):
        moments = _neutral(N, order, rng)
        total, forces, _ = plan.energy_forces(moments)
        expected = mp.energy_forces(x, moments)
        bound = _bound(moments, expected[2], TOLERANCE)
        assert abs(total - expected[0]) <= bound
        assert abs(plan.energy(moments) - expected[0]) <= bound
        assert _relative(forces, expected[1]) <= 3 * TOLERANCE
        turns = mp.torques(moments, expected[2])
        found = plan.torques(moments)
        assert np.linalg.norm(found - turns) <= 3 * TOLERANCE * np.linalg.norm(turns)


def test_energies_need_a_plan_whose_targets_are_its_sources():
    plan = fmm.FMM(np.eye(3), np.ones((2, 3)))
    for function in (plan.energy, plan.energy_forces, plan.torques):
        with pytest.raises(ValueError, match="targets are its sources"):
            function(np.ones((3, 1)))
