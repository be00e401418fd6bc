"""The near field of orders for which no loop is written."""

import numpy as np

import fmm.near
import multipoles as mp
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
