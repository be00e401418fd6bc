"""Plain arithmetic on floats, duals and counted numbers, and compiled for scalars and vectors."""

import numpy as np
import pytest

from multipoles.compiled.emit import Counted, Dual, emitted
from multipoles.compiled.jit import jit
from multipoles.compiled.simd import load, store

X, Y = np.linspace(-1.5, 2, 16), np.linspace(0.5, 3, 16)


def polynomial(order, x, y):
    """Every operation, with numbers and with floats on both sides; two lists of results."""
    total = 0.0
    for _ in range(order):
        total = (total + x[0]) * y[0] - x[0] * 0.25
    return [[total, 2.0 * total, -total], [1.0 - y[0] * 1.0, 0.5 + x[0] - 0.5, 3.0]]


compiled = emitted(polynomial)


@jit
def scalars(x, y, out):
    """Write results of scalars."""
    for i in range(len(x)):
        first, second = compiled(3, ((x[i],), (y[i],)))
        out[0, i], out[1, i], out[2, i] = first
        out[3, i], out[4, i], out[5, i] = second


@jit
def mixed(x, y, out):
    """Write results of vectors x and the scalar y, which comes to be in all lanes."""
    first, second = compiled(3, ((load(x, 0),), (y,)))
    for i in range(3):
        store(out[i], 0, first[i])
        store(out[3 + i], 0, second[i])


def test_scalars():
    out = np.empty((6, 16))
    scalars(X, Y, out)
    np.testing.assert_allclose(out, expected(X, Y), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("dtype", "lanes"), [(np.float64, 8), (np.float32, 16)])
def test_vectors_and_scalars(dtype, lanes):
    x, y = X[:lanes].astype(dtype), dtype(1.25)
    out = np.empty((6, lanes), dtype)
    mixed(x, y, out)
    close = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(out, expected(x, np.full(lanes, y)), rtol=close, atol=close)


def expected(x, y):
    lists = polynomial(3, [x], [y])
    return np.stack([np.broadcast_to(row, x.shape) for out in lists for row in out])


def test_duals_carry_a_derivative():
    at, along, h = np.array([0.7, 1.3]), np.array([0.4, -0.9]), 1e-6
    x, y = (Dual(value, slope) for value, slope in zip(at, along, strict=True))
    found = [number for out in polynomial(3, [x], [y]) for number in out]

    def values(step):
        x, y = at + step * along
        return [value for out in polynomial(3, [x], [y]) for value in out]

    slopes = (np.array(values(h)) - values(-h)) / (2 * h)
    assert found[-1] == 3.0  # what depends on no dual is none
    np.testing.assert_allclose([n.value for n in found[:-1]], values(0)[:-1], rtol=1e-14)
    np.testing.assert_allclose([n.slope for n in found[:-1]], slopes[:-1], rtol=1e-8)


def test_a_dual_without_a_slope_is_a_constant():
    constant, x = Dual(2.0, None), Dual(3.0, 1.0)
    assert (constant * constant + 1.0).slope is None
    assert (constant * x - 1.0, constant - x) == (Dual(5.0, 2.0), Dual(-1.0, -1.0))


def test_products_are_counted_but_those_with_one():
    number = Counted()
    polynomial(3, [number], [number])
    # in each round one with y and one with 0.25; twice the total
    assert number.products == 3 * 2 + 1
