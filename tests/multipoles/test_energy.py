"""mp.energy and mp.energy_forces: against the slow twin, finite differences and symmetry."""

import numpy as np
import pytest

import multipoles as mp


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def system(rng, n, order, dtype=np.float64, channels=None):
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3)
    x = grid[rng.permutation(64)[:n]] + rng.uniform(-0.2, 0.2, (n, 3))
    shape = (
        (n, mp.n_components(order)) if channels is None else (n, channels, mp.n_components(order))
    )
    return x.astype(dtype), rng.standard_normal(shape).astype(dtype)


def scaled_pairs(rng, n):
    pairs = np.argwhere(np.triu(rng.random((n, n)) < 0.2, 1))
    turned = np.where(rng.random((len(pairs), 1)) < 0.5, pairs, pairs[:, ::-1])
    return turned, rng.random(len(pairs)) * 1.5


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("kernel", [mp.Coulomb(), mp.Thole(0.39)], ids=str)
def test_against_reference(rng, order, channels, kernel):
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-5)):
        x, moments = system(rng, 23, order, dtype, channels)
        for batch in (None, np.repeat([0, 1, 4], [3, 1, 19])):
            for scale in (None, scaled_pairs(rng, 23)):
                options = {"kernel": kernel, "pair_scale": scale, "batch": batch}
                expected = mp.reference.energy_forces(x, moments, **options)
                total, forces, gradients = mp.energy_forces(x, moments, **options)
                size = np.linalg.norm(moments) * np.linalg.norm(expected[2])
                assert isinstance(total, float)
                assert abs(total - expected[0]) < tolerance * size
                assert abs(mp.energy(x, moments, **options) - expected[0]) < tolerance * size
                for got, wanted in ((forces, expected[1]), (gradients, expected[2])):
                    assert got.dtype == dtype and got.shape == wanted.shape
                    assert np.linalg.norm(got - wanted) < tolerance * np.linalg.norm(wanted)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_finite_differences(rng, order):
    x, moments = system(rng, 7, order)
    scale = scaled_pairs(rng, 7)
    options = {"kernel": mp.Erf(0.8), "pair_scale": scale}
    _, forces, gradients = mp.energy_forces(x, moments, **options)
    step = 1e-5
    for array, slopes in ((x, -forces), (moments, gradients)):
        for place in np.ndindex(*array.shape):
            kept = array[place]
            energies = []
            for sign in (1, -1):
                array[place] = kept + sign * step
                energies.append(mp.energy(x, moments, **options))
            array[place] = kept
            slope = (energies[0] - energies[1]) / (2 * step)
            assert abs(slope - slopes[place]) < 1e-8 * (1 + abs(slope)) * 10


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_no_net_force_and_torques_balance(rng, order):
    x, moments = system(rng, 30, order)
    _, forces, gradients = mp.energy_forces(x, moments)
    size = np.abs(forces).sum()
    assert np.abs(forces.sum(axis=0)).max() < 1e-13 * size
    total = np.cross(x, forces).sum(axis=0) + mp.torques(moments, gradients).sum(axis=0)
    assert np.abs(total).max() < 1e-12 * size


def test_rotation(rng):
    x, moments = system(rng, 20, 2)
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    total, forces, gradients = mp.energy_forces(x, moments)
    turned = mp.energy_forces(x @ rotation.T, mp.rotate(moments, rotation))
    assert turned[0] == pytest.approx(total, rel=1e-11)
    np.testing.assert_allclose(turned[1], forces @ rotation.T, atol=1e-10 * np.abs(forces).max())
    torques = mp.torques(mp.rotate(moments, rotation), turned[2])
    expected = mp.torques(moments, gradients) @ rotation.T
    np.testing.assert_allclose(torques, expected, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 16, 17, 33])
def test_any_number_of_sites(rng, n, order):
    """Numbers around the width of a vector, where the last block is partly empty."""
    x, moments = system(rng, n, order)
    got, expected = mp.energy_forces(x, moments), mp.reference.energy_forces(x, moments)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_excluded_pairs_of_all_sites_leave_nothing(rng):
    x, moments = system(rng, 6, 2)
    pairs = np.array([(i, j) for i in range(6) for j in range(i)])
    total, forces, gradients = mp.energy_forces(x, moments, pair_scale=(pairs, np.zeros(15)))
    size = np.abs(mp.energy_forces(x, moments)[1]).max()
    assert abs(total) < 1e-12 * size
    assert np.abs(forces).max() < 1e-12 * size and np.abs(gradients).max() < 1e-12 * size


def test_coincident_sites_do_not_interact(rng):
    x, moments = system(rng, 12, 2)
    x[5], x[11] = x[2], x[2]
    got, expected = mp.energy_forces(x, moments), mp.reference.energy_forces(x, moments)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_same_for_the_same_number_of_threads(rng):
    x, moments = rng.standard_normal((2000, 3)) * 5, rng.standard_normal((2000, 10))
    before = mp.get_num_threads()
    try:
        mp.set_num_threads(3)
        first, second = mp.energy_forces(x, moments), mp.energy_forces(x, moments)
        mp.set_num_threads(1)
        serial = mp.energy_forces(x, moments)
    finally:
        mp.set_num_threads(before)
    for a, b, c in zip(first, second, serial, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.linalg.norm(a - c) < 1e-12 * np.linalg.norm(c)


X = np.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: mp.energy(X, np.ones((3, 1))), ValueError, "expected 4 sites"),
        (lambda: mp.energy(X[0], np.ones((1, 1))), ValueError, "positions"),
        (lambda: mp.energy(X, np.full((4, 1), np.inf)), ValueError, "moments"),
        (lambda: mp.energy_forces(X, np.ones((4, 1)), kernel=1.0), TypeError, "kernel must be"),
        (lambda: mp.energy(X, np.ones((4, 1)), pair_scale=[[0, 1]]), TypeError, "pair_scale"),
        (
            lambda: mp.energy(X, np.ones((4, 1)), pair_scale=([[0, 0]], [0.5])),
            ValueError,
            "with itself",
        ),
        (
            lambda: mp.energy(X, np.ones((4, 1)), pair_scale=([[0, 1], [1, 0]], [0.5, 0.5])),
            ValueError,
            "more than once",
        ),
        (lambda: mp.energy(X, np.ones((4, 1)), batch=[1, 0, 0, 0]), ValueError, "sorted"),
        (lambda: mp.energy_forces(X, np.ones((4, 969))), ValueError, "at most 32"),
    ],
)
def test_wrong_input(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("factor", [0.0, 0.4])
def test_scaled_pairs_may_be_close(order, dtype, factor):
    """An excluded pair at 1e-3 must not take the digits of the others with it."""
    rng = np.random.default_rng(order)
    x = np.array([[0.0, 0, 0], [1e-3, 0, 0], [1.1, 0.3, 0], [0.2, 1.4, 0.5]]).astype(dtype)
    moments = rng.standard_normal((4, mp.n_components(order))).astype(dtype)
    scale = (np.array([[0, 1]]), np.array([factor]))
    got = mp.energy_forces(x, moments, pair_scale=scale)
    expected = mp.reference.energy_forces(x, moments, pair_scale=scale)
    tolerance = 1e-4 if dtype == np.float32 else 1e-9
    assert got[0] == pytest.approx(expected[0], rel=tolerance)
    for a, b in zip(got[1:], expected[1:], strict=True):
        assert np.abs(a - b).max() < tolerance * np.abs(b).max()
