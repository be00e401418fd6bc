"""Harmonics and translations: against 1/r, against each other, and in order of convergence."""

import numpy as np
import pytest

import multipoles as mp
from fmm.far import harmonics, rotations, translations, truncation
from fmm.tree.lists import shifts
from multipoles.polynomials import powers


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def _dense(terms, h, shape):
    out = np.empty(shape)
    harmonics.dense(terms, h, out)
    return out


def test_products_of_harmonics_sum_to_the_inverse_distance(rng):
    y = rng.uniform(-0.5, 0.5, (7, 3))
    x = rng.uniform(-0.5, 0.5, (5, 3)) + np.array([2.5, -1.0, 2.0])
    exact = 1 / np.linalg.norm(x[:, None] - y, axis=-1)
    found = harmonics.irregular(x, 40) @ harmonics.regular(y, 40).T
    np.testing.assert_allclose(found, exact, rtol=1e-12)


def test_regular_harmonics_are_harmonic_polynomials():
    """The mean over a sphere around any point is the value in its middle."""
    from scipy import integrate

    if not hasattr(integrate, "lebedev_rule"):
        pytest.skip("needs SciPy 1.15")
    directions, weights = integrate.lebedev_rule(17)
    middle = np.array([0.3, -0.8, 0.5])
    values = harmonics.regular(middle + 0.4 * directions.T, 8)
    mean = weights @ values / weights.sum()
    np.testing.assert_allclose(mean, harmonics.regular(middle, 8), atol=1e-13)


@pytest.mark.parametrize("order", [0, 1, 2, 5])
def test_cartesian_moments_become_harmonic_ones(order, rng):
    d, q = rng.standard_normal((6, 3)), rng.standard_normal(6)
    moments = q @ powers(d, order)
    found = harmonics.cartesian_map(order) @ moments
    np.testing.assert_allclose(found, q @ harmonics.regular(d, order), atol=1e-12)


def test_shift_moves_regular_harmonics_exactly(rng):
    y, d = rng.standard_normal((4, 3)), rng.standard_normal(3)
    matrix = _dense(harmonics.shift_terms(9, 9), harmonics.regular(d, 9), (100, 100))
    shifted = harmonics.regular(y + d, 9)
    np.testing.assert_allclose(harmonics.regular(y, 9) @ matrix.T, shifted, rtol=1e-11, atol=1e-12)


def test_shifts_compose(rng):
    a, b = rng.standard_normal((2, 3))
    terms = harmonics.shift_terms(6, 6)
    both = _dense(terms, harmonics.regular(a + b, 6), (49, 49))
    one, two = (_dense(terms, harmonics.regular(d, 6), (49, 49)) for d in (a, b))
    np.testing.assert_allclose(one @ two, both, atol=1e-11)


def test_reflections_flip_signs(rng):
    x = rng.standard_normal((5, 3))
    for axis, signs in enumerate(harmonics.reflections(7)):
        mirror = np.where(np.arange(3) == axis, -1.0, 1.0)
        np.testing.assert_allclose(
            harmonics.regular(x * mirror, 7), harmonics.regular(x, 7) * signs, atol=1e-12
        )


def _transferred(degree, shift, sources, targets):
    matrix = _dense(
        harmonics.transfer_terms(degree, degree),
        harmonics.irregular(np.array(shift, float), 2 * degree),
        ((degree + 1) ** 2,) * 2,
    )
    found = harmonics.regular(targets, degree) @ matrix @ harmonics.regular(sources, degree).T
    exact = 1 / np.linalg.norm(shift + targets[:, None] - sources, axis=-1)
    return np.sqrt(np.mean((found - exact) ** 2))


@pytest.mark.parametrize("shift", [(2, 0, 0), (2, 1, 0), (2, 2, 1), (3, 1, 1), (3, 3, 3)])
def test_multipole_to_local_converges_as_the_table_says(shift, rng):
    sources, targets = rng.uniform(-0.5, 0.5, (2, 600, 3))
    code = int(np.flatnonzero((shifts() == shift).all(1))[0])
    table = truncation.errors(0)[code]
    for degree in (2, 5, 9, 13):
        error = _transferred(degree, shift, sources, targets)
        assert 0.4 < error / table[degree] < 2.0, degree


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("octant", range(8))
def test_children_pass_multipoles_to_parents_and_locals_back(octant, dtype, rng):
    """Upward operators are exact for polynomials; downward ones are their adjoints."""
    dtype = np.dtype(dtype)
    corner = np.array([octant >> 2 & 1, octant >> 1 & 1, octant & 1])
    # in units of the child about its middle, and of the parent about its own
    points = rng.uniform(-0.5, 0.5, (9, 3))
    parent = points / 2 + (corner - 0.5) / 2
    q = rng.standard_normal(9)
    degree, size = 6, 49
    length = translations.row_length(size, dtype)
    x, y = np.zeros(2 * length, dtype), np.zeros(2 * length, dtype)
    x[:size] = q @ harmonics.regular(points, degree)
    box = np.zeros(1, np.int32)
    work = rotations.scratch(degree, dtype)
    signs = translations.reflection(octant, degree, dtype)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    rotations.translate(
        0, 1, rotations.upward(degree, dtype), 0, signs, box, box, 1, x, length, y, length, *work
    )
    np.testing.assert_allclose(y[:size], q @ harmonics.regular(parent, degree), atol=tolerance)
    x[:size], y[:] = rng.standard_normal(size), 0
    rotations.translate(
        0, 1, rotations.downward(degree, dtype), 0, signs, box, box, 1, x, length, y, length, *work
    )
    # the potential is sum L rho / h, with h half as large in the child
    np.testing.assert_allclose(
        2 * harmonics.regular(points, degree) @ y[:size],
        harmonics.regular(parent, degree) @ x[:size],
        atol=10 * tolerance,
    )


@pytest.mark.parametrize("source_order", [0, 1, 2])
def test_far_degrees_fall_with_distance(source_order):
    degrees = truncation.degrees(12, source_order)
    of = {tuple(s): d for s, d in zip(shifts().tolist(), degrees.tolist(), strict=True)}
    assert of[2, 0, 0] == 12
    assert of[2, 0, 0] >= of[2, 1, 0] >= of[2, 2, 1] >= of[3, 2, 2] >= of[3, 3, 3] > source_order
    assert of[1, 1, 0] == 0 and of[-2, 0, 0] == 12


def test_points_and_packed_moments_agree_with_direct_sums(rng):
    """A far cluster's moments about one point give the field that its charges give."""
    d, q = rng.uniform(-0.1, 0.1, (8, 3)), rng.standard_normal((8, 1))
    x = np.array([[3.0, -2.0, 4.0]])
    m = q[:, 0] @ harmonics.regular(d, 14)
    potential = mp.field(x, d, q, order=0)[0, 0]
    assert abs(harmonics.irregular(x[0], 14) @ m / potential - 1) < 1e-12
