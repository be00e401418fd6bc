"""The near field of orders for which no loop is written."""

import numpy as np
import pytest

import fmm.near
import multipoles as mp
from fmm.steps_cpu import HostSteps
from multipoles import indexing


def test_orders_beyond_the_emitted_loops(monkeypatch):
    rng = np.random.default_rng(0)
    x, moments = rng.random((30, 3)), rng.normal(size=(30, 2, 4))
    leaves = np.array([[0, 10], [10, 30]]), np.array([0, 2, 3]), np.array([[0, 5], [9, 30], [4, 8]])
    found = []
    for most in (12, 1):
        monkeypatch.setattr(fmm.near, "MAX_EMITTED", most)
        out = np.empty((30, 2, indexing.n_components(1)))
        fmm.near.near_field(x, x, moments, 1, leaves, out)
        found.append(out)
    np.testing.assert_allclose(*found, rtol=1e-10, atol=1e-10)
    near = np.r_[0:5, 9:30]
    exact = mp.field(x[:10], x[near], moments[near], 1)
    np.testing.assert_allclose(found[1][:10], exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("orders", [(0, 1), (1, 2), (2, 3), (3, 3)])
def test_float32_has_exponents_enough_for_close_pairs(orders):
    source_order, order = orders
    rng = np.random.default_rng(0)
    x = rng.random((4000, 3))
    x[1] = x[0] + 4e-4  # to the power of -13, that is beyond float32
    moments = rng.standard_normal((4000, 1, indexing.n_components(source_order)))
    steps = HostSteps()
    geometry = steps.geometry(steps.sort(x, x, (None, None)), x, x, 40, 1, 0.0)
    rows = moments[geometry.tree.source_permutation]
    wide, narrow = (
        steps.near(geometry, rows.astype(dtype), order, mp.Coulomb(), 0.0, np.dtype(np.float64))
        for dtype in (np.float64, np.float32)
    )
    assert narrow.dtype == np.float32 and np.isfinite(narrow).all()
    for k in range(order + 1):
        exact = wide[..., indexing.order_slice(k)]
        error = np.linalg.norm(narrow[..., indexing.order_slice(k)] - exact)
        assert error < 3 * fmm.near.rounding(source_order + k) * np.linalg.norm(exact)


def test_the_unit_keeps_powers_of_distances_in_float32():
    for derivatives in range(3, 9):
        for smallest, largest in ((1.0, 1.0), (1e-3, 1e-3), (1e-6, 1.0), (3.0, 1e4)):
            unit = fmm.near.narrow_unit((smallest, largest), derivatives)
            assert np.frexp(unit)[0] == 0.5  # exact
            assert unit * smallest <= 1
            assert (unit * largest) ** (2 * derivatives + 1) <= 1e30
