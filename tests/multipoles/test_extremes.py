"""Points and moments whose squares and powers leave the range of their numbers."""

import warnings

import numpy as np
import pytest

import multipoles as mp
from multipoles import extremes, indexing, scaling, validation
from multipoles.neighbours import Slots
from multipoles.sums import field_arrays

mpmath = pytest.importorskip("mpmath")


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def exact_field(x, s, moments):
    """Potential and gradient of charges and dipoles with 60 digits, and the sizes of the terms."""
    dipoles = np.zeros((len(s), 3)) if moments.shape[1] == 1 else moments[:, 1:4]
    out = np.full((len(x), 4), mpmath.mpf(0), object)
    sizes = out.copy()
    with mpmath.workdps(60):
        for i, j in np.ndindex(len(x), len(s)):
            r = [mpmath.mpf(float(a)) - mpmath.mpf(float(b)) for a, b in zip(x[i], s[j])]  # noqa: B905
            length = mpmath.sqrt(sum(v * v for v in r))
            if length == 0:
                continue
            q, d = mpmath.mpf(float(moments[j, 0])), [mpmath.mpf(float(v)) for v in dipoles[j]]
            along = sum(a * b for a, b in zip(d, r, strict=True)) / length
            terms = [[q / length, along / length**2]]
            terms += [
                [-q * a / length**3, (b - 3 * along * a / length) / length**3]
                for a, b in zip(r, d, strict=True)
            ]
            out[i] += [sum(pair) for pair in terms]
            sizes[i] += [sum(map(abs, pair)) for pair in terms]
    return out, sizes


def assert_exact(got, x, s, moments, warned=False):
    """Every number is right to the last digits of the greatest terms of its target and order."""
    info = np.finfo(got.dtype)
    exact, sizes = exact_field(x, s, moments)
    for i in range(len(x)):
        for part in (slice(0, 1), slice(1, 4)):
            size = max(sizes[i, part])
            if size > mpmath.mpf(float(info.max)) / 4:
                assert warned or max(map(abs, exact[i, part])) <= float(info.max)
                continue
            allowed = 20 * float(info.eps) * size + 4 * mpmath.mpf(float(info.smallest_subnormal))
            for value, wanted in zip(got[i, part], exact[i, part], strict=True):
                assert np.isfinite(value) and abs(mpmath.mpf(float(value)) - wanted) <= allowed


# --- scaling --------------------------------------------------------------------------------------


def test_exponents():
    assert [scaling.exponent_of(v) for v in (0.0, 0.5, 1.0, 3.0, 5e-324)] == [0, 0, 1, 2, -1073]
    far = np.array([[1e9, 0, 0], [1e9 + 3, 1, 2]])
    assert scaling.extent_of(far, far[:1]) == 3 and scaling.extent_of(far[:0]) == 0
    huge = np.array([[1.5e308, 0, 0], [-1.5e308, 0, 0]])
    assert np.isinf(scaling.extent_of(huge)) and scaling.length_exponent(huge) == -1022
    assert scaling.length_exponent(huge / 2) == -1022
    assert scaling.length_exponent(np.array([[5e-324, 0, 0], [0, 0, 0]])) == 1023


@pytest.mark.parametrize("length", [-300, -5, 0, 7, 300])
def test_scaled_sums_are_the_sums(rng, length):
    x, moments = rng.standard_normal((5, 3)), rng.standard_normal((5, 2, 4))
    phi = mp.field(x, x, moments, 1)
    points, values = scaling.scale_points(x, length), scaling.scale_moments(moments, length, -40)
    np.testing.assert_array_equal(values[..., 0], moments[..., 0] * 2.0**-40)
    found = scaling.unscale_field(mp.field(points, points, values, 1), length, -40)
    np.testing.assert_array_equal(found, phi)


def test_close_targets():
    x = np.array([[1e-170, 0, 0], [0, 0, 0], [1, 1e-200, 0], [2, 0, 0], [1, 1e-200, 0]])
    np.testing.assert_array_equal(scaling.close_targets(x, x), [True, True, False, False, False])
    with_one = scaling.close_targets(x, np.array([[1.0, 0, 0]]))
    np.testing.assert_array_equal(with_one[2:], [True, False, True])
    assert not scaling.close_targets(x, x, length=100)[2:].any()
    assert not scaling.close_targets(x, x, length=500).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ordinary_input_takes_the_loops_as_it_is(rng, dtype, monkeypatch):
    monkeypatch.setattr(extremes, "_parts", None)
    x = (10 * rng.standard_normal((30, 3))).astype(dtype)
    x[0], x[1, 0] = 0.0, 1e-17  # as rotations leave them
    for K, order in ((0, 1), (1, 2), (2, 2)):
        moments = rng.standard_normal((30, mp.n_components(K))).astype(dtype)
        moments[3], moments[4, 0] = 0.0, 1e-17
        expected = field_arrays(x, x, moments[:, None], order, mp.Coulomb(), Slots(30, 30))[:, 0]
        np.testing.assert_array_equal(mp.field(x, x, moments, order), expected)
    # far from the origin
    shifted = x + dtype(2000)
    assert scaling.fits(shifted, shifted, moments[:, None], 5, 1.0)


# --- fields ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [*validation.KERNELS, mp.InversePower(6)], ids=str)
@pytest.mark.parametrize("length", [-220, -150, 150, 220])
def test_every_kernel_in_other_units(rng, kernel, length):
    """A system and its kernel's length, both tiny or huge, sum to the same scaled numbers."""
    x, moments = rng.standard_normal((7, 3)), rng.standard_normal((7, 10))
    expected = mp.field(x, x, moments, 2, kernel)
    points, values = scaling.scale_points(x, length), scaling.scale_moments(moments, length, 0)
    found = mp.field(points, points, values, 2, kernel.scaled(2.0**length))
    found = scaling.unscale_field(found, length, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("gap", "dtype"), [(1e-25, "f4"), (1e-44, "f4"), (1e-160, "f8"), (1e-200, "f8"), (5e-324, "f8")]
)
@pytest.mark.parametrize("rest", [False, True])
def test_separations_whose_squares_underflow(gap, dtype, rest):
    x = np.array([[0, 0, 0], [gap, 0, 0], [1, 0, 0]] if rest else [[0, 0, 0], [gap, 0, 0]], dtype)
    charges = np.full(len(x), gap, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = mp.field(x, x, charges, 0)[:, 0]
        assert mp.energy(x, charges) > 0
    assert found.dtype == x.dtype
    np.testing.assert_allclose(found[:2], 1 + gap * rest, rtol=1e-6 if dtype == "f4" else 1e-15)


def test_float32_underflow_of_high_orders(rng):
    """A chain of 13 links from r = 100 ends below the least float32."""
    x = rng.standard_normal((5, 3))
    x = (x * 100 / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    moments, origin = rng.standard_normal((1, 35)).astype(np.float32), np.zeros((1, 3), np.float32)
    expected = mp.reference.field(x, origin, moments, 9)
    for order in range(10):
        part = indexing.order_slice(order)
        error = np.linalg.norm(mp.field(x, origin, moments, 9)[:, part] - expected[:, part])
        assert error < 1e-6 * np.linalg.norm(expected[:, part])


def test_near_pairs_of_high_order_in_float32():
    x = np.array([[0, 0, 0], [1e-3, 0, 0], [1, 0, 0], [3, 0, 0]], np.float32)
    moments = np.full((4, 1), 1e-3, np.float32)
    found = mp.field(x, x, moments, 9)  # B_9 is 1e64
    np.testing.assert_allclose(found, mp.reference.field(x, x, moments, 9), rtol=1e-5, atol=1e-30)


def test_moments_at_the_ends_of_the_range():
    x = np.array([[0, 0, 0], [0.5, 0, 0], [1e9, 0, 0]])
    for charges in ([1e300, -1e300, 1e300], [5e-324, 1e300, 1e-300], [1e-320, 2e-320, 1e-310]):
        moments = np.array(charges)[:, None]
        assert_exact(mp.field(x, x, moments, 1), x, x, moments)


def extremes_of(rng, case, width):
    """Draw scales of points, gaps and moments over all decades of the dtype."""
    dtype, top, n = (np.float32, np.float64)[case % 2], (37, 306)[case % 2], rng.integers(2, 6)
    each = rng.uniform(-top, top, (n, 1)) if case % 3 else rng.uniform(-top, top)
    x = (rng.standard_normal((n, 3)) * 10.0**each).astype(dtype)
    if case % 5 == 0:
        x[0], x[1] = 0, x[1] * 10.0 ** rng.uniform(-top, 0)
    each = rng.uniform(-top, top, (n, 1)) if case % 7 else rng.uniform(-top, top)
    return x, (rng.standard_normal((n, width)) * 10.0**each).astype(dtype)


def test_random_extremes(rng):
    for case in range(120):
        x, moments = extremes_of(rng, case, rng.choice([1, 4]))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = mp.field(x, x[::-1].copy() if case % 4 else x, moments[::-1], 1)
        sources = x[::-1] if case % 4 else x
        assert_exact(found, x, sources, moments[::-1], bool(caught))


def test_what_no_number_can_hold_is_told():
    x = np.array([[0, 0, 0], [1e-170, 0, 0], [1, 0, 0]])
    with pytest.warns(RuntimeWarning, match=r"2 of 12 values, the first at \[0, 0, 1\].*1.8"):
        found = mp.field(x, x, np.ones(3), 1)
    np.testing.assert_array_equal(found[2], [2, -2, 0, 0])
    np.testing.assert_array_equal(found[:2, 0], 1e170)
    with pytest.warns(RuntimeWarning, match=r"forces: 2 of 9 values"):
        total, forces, _ = mp.energy_forces(x, np.ones(3))
    assert total == 1e170 and forces[2, 0] == 2


def test_batches_pairs_and_channels_of_any_scale(rng):
    """Systems of a batch, listed pairs and channels do not see each other's scales."""
    sizes = [1e-180, 1.0, 1e170]
    base, moments = rng.standard_normal((4, 3)), rng.standard_normal((4, 2, 1)) * [[1e-290], [1.0]]
    x, batch = np.concatenate([base * size for size in sizes]), np.repeat(np.arange(3), 4)
    values = np.tile(moments, (3, 1, 1))
    expected = np.concatenate([mp.field(base * z, base * z, moments, 0) for z in sizes])
    exact = mp.reference.field(base, base, moments, 0)
    np.testing.assert_allclose(expected[4:8], exact, rtol=1e-13)
    found = mp.field(x, x, values, 0, target_batch=batch, source_batch=batch)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    pairs = np.argwhere(batch[:, None] == batch)
    pairs = np.concatenate([pairs, pairs[:5]])  # repeats count twice
    found = mp.field(x, x, values, 0, pairs=pairs)
    expected[:2] += mp.field(x, x, values, 0, pairs=pairs[-5:])[:2]
    np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e-40, 1e40, 1e160])
def test_kernels_beside_points_of_any_size(size):
    """Two charges at r = size: the potential is f(r) as the definition has it."""
    x = np.array([[0, 0, 0], [size, 0, 0]])
    root = 2 / np.sqrt(np.pi)
    for kernel, near, far in (
        (mp.Erf(1.0), root, 1 / size),
        (mp.Erfc(1.0), 1 / size, 0.0),
        (mp.Yukawa(1.0), 1 / size, 0.0),
        (mp.Softened(1.0, 3), 15 / 8, 1 / size),
        (mp.ReactionField(1.0), 1 / size, 0.0),
    ):
        found = mp.field(x, x, np.ones(2), 0, kernel)[:, 0]
        np.testing.assert_allclose(found, near if size < 1 else far, rtol=1e-13)


@pytest.mark.parametrize("size", [1e-200, 1e-60, 1e90])
def test_cutoffs_of_any_size(rng, size):
    """Pairs inside a cutoff beside others that are far outside."""
    x, q = size * rng.standard_normal((6, 3)) / 3, rng.standard_normal(6)
    kernel = mp.ReactionField(1.0)
    expected = mp.field(x / size, x / size, q, 0, kernel)[:, 0] / size
    rest = np.array([[1.0, 0, 0], [1e120, 0, 0], [0, 1e-220, 1e150]])
    everyone, all_q = np.concatenate([x, rest]), np.append(q, [1.0, 1.0, 0.0])
    found = mp.field(everyone, everyone, all_q, 0, mp.ReactionField(size))[:, 0]
    if size < 1:
        np.testing.assert_allclose(found[:6], expected, rtol=1e-10)
        assert not found[6:8].any()
    found = mp.field(x, x, q, 0, mp.ReactionField(size))[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_huge_coordinates():
    x = np.array([[1.7e308, 0, 0], [-1.7e308, 0, 0], [0, 1e200, 0]])
    charges = np.array([1e300, 2e300, 4.0])
    assert_exact(mp.field(x, x, charges, 1), x, x, charges[:, None])


# --- energies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("sign", [-1, 1])
def test_energies_in_other_units(rng, dtype, order, sign):
    # as far as moments are numbers of the dtype; forces stay as they are
    moment = length = sign * (60, 40, 25, 20)[order] * (6 if dtype == np.float64 else 1)
    x = rng.standard_normal((6, 3)).astype(dtype)
    moments = rng.standard_normal((6, mp.n_components(order))).astype(dtype)
    scale = ([[0, 1], [2, 5]], [0.0, 0.5])
    points, values = scaling.scale_points(x, length), scaling.scale_moments(moments, length, moment)
    assert values.dtype == dtype and np.isfinite(values).all() and (values != 0).all()
    total, forces, gradients = mp.energy_forces(x, moments, pair_scale=scale)
    found = mp.energy_forces(points, values, pair_scale=scale)
    close = {"rtol": 1e-4 if dtype == np.float32 else 1e-11}
    np.testing.assert_allclose(found[0], np.ldexp(total, 2 * moment - length), **close)
    np.testing.assert_allclose(mp.energy(points, values, pair_scale=scale), found[0], **close)
    np.testing.assert_allclose(found[1], np.ldexp(forces, 2 * (moment - length)), **close)
    np.testing.assert_allclose(scaling.unscale_field(found[2], length, moment), gradients, **close)
    assert found[1].dtype == found[2].dtype == dtype


@pytest.mark.parametrize("order", [0, 1])
def test_excluded_pairs_that_are_close(rng, order):
    """A pair that is left out takes part in no sum, however close it is."""
    x = np.array([[0, 0, 0], [1e-170, 0, 0], [1, 0, 0], [0, 2, 0]])
    moments = rng.standard_normal((4, mp.n_components(order)))
    apart = x.copy()
    apart[1] = 0.0  # coincident points do not see each other either
    found = mp.energy_forces(x, moments, pair_scale=([[1, 0]], [0.0]))
    for got, expected in zip(found, mp.energy_forces(apart, moments), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-14)


def test_products_of_weak_moments_in_float32():
    x = np.array([[0, 0, 0], [1e6, 0, 0]], np.float32)
    moments = np.zeros((2, 4), np.float32)
    moments[:, 0] = 1e-10
    _, forces, _ = mp.energy_forces(x, moments)
    np.testing.assert_allclose(forces[:, 0], [-1e-32, 1e-32], rtol=1e-6)


@pytest.mark.parametrize("width", [1, 4])
def test_random_extremes_of_energies(rng, width):
    """Products of moments and fields are right where either is no number; dipoles are zero."""
    for case in range(80):
        x, moments = extremes_of(rng, case, width)
        moments[:, 0], moments[:, 1:] = np.abs(moments[:, 0]), 0
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            total, forces, _ = mp.energy_forces(x, moments)
            assert mp.energy(x, moments) == pytest.approx(total, rel=1e-5)
        exact, sizes = exact_field(x, x, moments[:, :1])
        info = np.finfo(x.dtype)
        eps, least = 20 * float(info.eps), 4 * mpmath.mpf(float(info.smallest_subnormal))
        with mpmath.workdps(60):
            charges = [mpmath.mpf(float(q)) for q in moments[:, 0]]
            wanted = sum(q * phi for q, phi in zip(charges, exact[:, 0], strict=True)) / 2
            if wanted < 1e308:
                assert abs(mpmath.mpf(total) - wanted) <= eps * wanted + mpmath.mpf("1e-322")
            else:
                assert caught
            for i, axis in np.ndindex(len(x), 3):
                size = charges[i] * max(sizes[i, 1:])
                if size < float(info.max) / 4:
                    error = mpmath.mpf(float(forces[i, axis])) + charges[i] * exact[i, 1 + axis]
                    assert abs(error) <= eps * size + least
                else:
                    assert caught or np.isfinite(forces[i, axis])
