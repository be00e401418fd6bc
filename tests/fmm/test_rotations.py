"""Translations in three steps against the dense matrices that they stand for."""

import itertools

import numpy as np
import pytest

from fmm.far import driver, harmonics, rotations, translations
from fmm.tree.lists import shifts

SHIFTS = [(2, 0, 0), (0, 0, 3), (0, 2, 1), (3, 1, 2), (3, 3, 3), (4, 0, 1)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("degree", [0, 1, 5, 12, 40])
def test_rotations_turn_harmonics(degree, rng):
    vectors = rng.standard_normal((5, 3))
    x = rng.standard_normal((7, 3))
    x /= np.linalg.norm(x, axis=1)[:, None]
    z = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    for n, matrices in enumerate(rotations.rotations(vectors, degree)):
        own = slice(n * n, (n + 1) ** 2)
        unit = np.broadcast_to(np.eye(2 * n + 1), matrices.shape)
        np.testing.assert_allclose(matrices @ np.swapaxes(matrices, 1, 2), unit, atol=1e-12)
        # the vectors themselves come to the z axis, where only the order 0 is not zero
        there = np.einsum("srk,sk->sr", matrices, harmonics.regular(z, degree)[:, own])
        np.testing.assert_allclose(there, np.eye(2 * n + 1)[:1].repeat(5, axis=0), atol=1e-12)
        # products of harmonics of two points depend on the angle between them alone
        turned = harmonics.regular(x, degree)[:, own] @ np.swapaxes(matrices, 1, 2)
        here = harmonics.regular(x, degree)[:, own]
        np.testing.assert_allclose(
            turned @ np.swapaxes(turned, 1, 2), np.broadcast_to(here @ here.T, (5, 7, 7)),
            atol=1e-12,
        )  # fmt: skip


def _applied(shift, degree, dtype, octant, boxes, channels, rng):
    """Return the sum of a translation of random expansions, and what a dense matrix makes of it."""
    dtype = np.dtype(dtype)
    code = int(np.flatnonzero((np.abs(shifts()) == shift).all(axis=1))[0])
    operators = rotations.operators_of([shift], {shift: degree}, {shift: np.array([code])}, dtype)
    size = harmonics.n_harmonics(degree)
    # expansions of a higher degree, as of other levels
    length = translations.row_length(harmonics.n_harmonics(degree + 2), dtype)
    x = np.zeros((boxes + 1, channels, length), dtype)
    x[:-1] = rng.standard_normal((boxes, channels, length))
    y = rng.standard_normal(x.shape).astype(dtype)
    before = y.copy()
    sources, targets = (rng.permutation(boxes).astype(np.int32) for _ in range(2))
    signs = translations.reflection(octant, degree + 2, dtype)
    rotations.translate(
        0, boxes, operators, 0, signs, sources, targets, channels, x.ravel(), length, y.ravel(),
        length, *rotations.scratch(degree + 2, dtype),
    )  # fmt: skip
    own = signs[:size]
    matrix = translations.transfer_matrix(shift, degree) * own[:, None] * own
    expected = before.astype(float)
    expected[targets, :, :size] += x[sources, :, :size] @ matrix.T
    return y[:-1], expected[:-1], np.abs(x[sources, :, :size]) @ np.abs(matrix.T)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("degree", [0, 1, 3, 4, 7, 8, 11, 12, 20])
def test_three_steps_make_one_translation(degree, dtype, rng):
    for shift, octant in itertools.product(SHIFTS, (0, 5)):
        found, expected, terms = _applied(shift, degree, dtype, octant, 11, 1, rng)
        size = terms.shape[2]
        # what lies beyond the degree is left alone, to the last digit
        np.testing.assert_array_equal(found[..., size:], expected[..., size:])
        tolerance = 30 * np.finfo(dtype).eps * terms.max()
        np.testing.assert_allclose(found[..., :size], expected[..., :size], rtol=0, atol=tolerance)


@pytest.mark.parametrize("boxes", [1, 7, 8, 9, 200])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_number_of_boxes_and_channels(boxes, channels, rng):
    found, expected, _ = _applied((2, 1, 3), 9, np.float64, 3, boxes, channels, rng)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_the_highest_degree(rng):
    for shift in SHIFTS:
        found, expected, terms = _applied(shift, 48, np.float64, 6, 9, 1, rng)
        size = terms.shape[2]
        assert np.abs(found - expected)[..., :size].max() < 1e-13 * terms.max()


@pytest.mark.parametrize("octant", [0, 3, 7])
@pytest.mark.parametrize("degree", [0, 4, 17])
def test_operators_of_families_are_the_dense_ones(degree, octant, rng):
    dtype, size = np.dtype(np.float64), harmonics.n_harmonics(degree)
    length = translations.row_length(size, dtype)
    matrix, boxes = translations.shift_matrix(octant, degree), np.arange(5, dtype=np.int32)
    signs = translations.reflection(octant, degree, dtype)
    x = np.zeros((6, 1, length))
    x[:-1, 0, :size] = rng.standard_normal((5, size))
    for made, dense in ((rotations.upward, matrix), (rotations.downward, 0.5 * matrix.T)):
        operator = made(degree, dtype)
        y = np.zeros_like(x)
        rotations.translate(
            0, 5, operator, 0, signs, boxes, boxes, 1, x.ravel(), length, y.ravel(), length,
            *rotations.scratch(degree, dtype),
        )  # fmt: skip
        np.testing.assert_allclose(y[:-1, 0, :size], x[:-1, 0, :size] @ dense.T, atol=1e-11)


@pytest.mark.parametrize(("degree", "dtype"), [(9, np.float64), (10, np.float32)])
def test_codes_have_one_operator_each(degree, dtype):
    table = driver.transfer_operators(degree, 0, np.dtype(dtype), 3).operators.table
    reach = np.abs(shifts()).max(axis=1)
    assert sorted(table[:, 0]) == np.flatnonzero((reach > 1) & (reach <= 3)).tolist()
