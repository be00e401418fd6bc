"""Scaled pairs beside a sum over all pairs: the same answers and refusals as the direct sums."""

import warnings

import numpy as np
import pytest

import fmm
import multipoles as mp
from fmm.exclusions import Exclusions

X = np.random.default_rng(0).random((7, 3))
KERNELS = [mp.Coulomb(), mp.Softened(0.6), mp.Erf(2.0)]


def _moments(n, order, channels=1, seed=1):
    shape = n, channels, mp.n_components(order)
    return np.random.default_rng(seed).standard_normal(shape)


def _expected(targets, sources, moments, order, kernel, weights):
    """Sum over listed pairs one by one."""
    out = np.zeros((len(targets), moments.shape[1], mp.n_components(order)))
    for (i, j), weight in weights.items():
        out[i] += (
            weight
            * mp.reference.field(
                targets[i : i + 1], sources[j : j + 1], moments[j : j + 1], order, kernel
            )[0]
        )
    return out


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("source_order, order, channels", [(0, 1, 1), (2, 3, 2)])
def test_unordered_pairs_of_sites_act_both_ways(source_order, order, channels, kernel):
    found = Exclusions.made(([[3, 1], [0, 6]], [0.0, 1.5]), X, X)
    weights = {(1, 3): -1.0, (3, 1): -1.0, (0, 6): 0.5, (6, 0): 0.5}
    moments = _moments(7, source_order, channels)
    expected = _expected(X, X, moments, order, kernel, weights)
    np.testing.assert_allclose(found.field(X, X, moments, order, kernel), expected, rtol=1e-12)


def test_pairs_of_targets_and_sources_act_as_they_are_given():
    targets = X[:4] + 0.1
    found = Exclusions.made(([[3, 1], [1, 3], [0, 0]], [0.0, 0.25, -1.0]), targets, X)
    weights = {(3, 1): -1.0, (1, 3): -0.75, (0, 0): -2.0}
    moments = _moments(7, 1)
    expected = _expected(targets, X, moments, 2, mp.Coulomb(), weights)
    got = found.field(targets, X, moments, 2, mp.Coulomb())
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("same", [True, False])
def test_transposed_is_the_adjoint(same):
    targets = X if same else X[:5] + 0.2
    pairs = [[0, 1], [2, 3], [4, 0]]
    found = Exclusions.made((pairs, [0.0, 0.5, 3.0]), targets, X)
    moments, weights = _moments(7, 1), _moments(len(targets), 2, seed=2)
    there = found.field(targets, X, moments, 2, mp.Coulomb())
    back = found.transposed.field(X, targets, weights, 1, mp.Coulomb())
    assert np.sum(weights * there) == pytest.approx(np.sum(moments * back), rel=1e-12)
    assert found.transposed.transposed is found


def test_points_may_move():
    found = Exclusions.made(([[0, 1]], [0.0]), X, X)
    moments, moved = _moments(7, 0), X + np.random.default_rng(3).random((7, 3))
    fresh = Exclusions.made(([[0, 1]], [0.0]), moved, moved)
    got, expected = (e.field(moved, moved, moments, 1, mp.Coulomb()) for e in (found, fresh))
    np.testing.assert_array_equal(got, expected)


def test_systems_do_not_meet():
    index = np.array([0, 0, 0, 4, 4, 4, 4])
    pairs, factors = [[0, 1], [2, 3], [6, 5]], [0.0, 0.0, 0.5]
    found = Exclusions.made((pairs, factors), X, X, (index, index))
    assert sorted(map(tuple, found.listed.pairs)) == [(0, 1), (1, 0), (5, 6), (6, 5)]
    apart = Exclusions.made((pairs, factors), X + 1, X, (index, index))
    assert sorted(map(tuple, apart.listed.pairs)) == [(0, 1), (6, 5)]
    assert Exclusions.made(([[2, 3]], [0.0]), X, X, (index, index)) is None


@pytest.mark.parametrize("scale", [None, ([], []), ([[0, 1], [5, 2]], [1, 1.0])])
def test_nothing_to_change_is_none(scale):
    assert Exclusions.made(scale, X, X) is None
    assert Exclusions.made(scale, X[:6] + 1, X) is None


def test_float32_points_keep_all_their_digits():
    x = X.astype(np.float32)
    x[1] = x[0] + np.float32(1e-6)
    moments = _moments(7, 0).astype(np.float32)
    found = Exclusions.made(([[0, 1]], [0.0]), x, x).field(x, x, moments, 1, mp.Coulomb())
    wide, charges = x.astype(float), moments.astype(float)
    expected = _expected(wide, wide, charges, 1, mp.Coulomb(), {(0, 1): -1.0, (1, 0): -1.0})
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    "scale, error, words",
    [
        ([[0, 1]], TypeError, "pair_scale: expected a tuple"),
        (([[0, 1]], [0.5, 0.5]), ValueError, "one factor per pair"),
        (([[0, 7]], [0.0]), ValueError, r"is 7, but there are 7"),
        (([[-1, 2]], [0.0]), ValueError, r"is -1"),
        (([[0.0, 1.0]], [0.0]), TypeError, "integers"),
        (([0, 1], [0.0]), ValueError, r"\(n_pairs, 2\)"),
        (([[0, 1]], [np.nan]), ValueError, "pair_scale factors"),
        (([[0, 1]], [True]), TypeError, "pair_scale factors"),
        ((None, [0.0]), TypeError, "pairs"),
        (([[0, 1], [0, 1]], [0.0, 0.5]), ValueError, "more than once"),
    ],
)
@pytest.mark.parametrize("same", [True, False])
def test_refuses(same, scale, error, words):
    with pytest.raises(error, match=words):
        Exclusions.made(scale, X if same else X[:5] + 1, X)


def test_refuses_pairs_of_sites_that_say_nothing():
    for pairs in ([[0, 0]], [[0, 1], [1, 0]]):
        with pytest.raises(ValueError, match=r"itself|more than once"):
            Exclusions.made((pairs, [0.5] * len(pairs)), X, X)


def test_a_copy_of_the_sources_leaves_open_what_a_pair_is():
    with pytest.raises(ValueError, match="copy of the sources"):
        Exclusions.made(([[0, 1]], [0.0]), X.copy(), X)


@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-5])
def test_rounding_tells_what_is_lost(distance):
    """Pairs far closer than others: the true error is near what the plan reports."""
    rng = np.random.default_rng(4)
    centres, steps = 20 * rng.random((150, 3)), rng.standard_normal((150, 3))
    x = np.concatenate([centres, centres + distance * steps])
    pairs = np.stack([np.arange(150), np.arange(150) + 150], axis=1)
    moments = _moments(300, 0)
    plan = fmm.FMM(x, pair_scale=(pairs, np.zeros(150)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = plan.field(moments)
    others = np.abs(np.subtract.outer(np.arange(300), np.arange(300))) % 150 != 0
    exact = mp.field(x, x, moments, 1, pairs=np.argwhere(others))
    for k, part in enumerate((slice(0, 1), slice(1, 4))):
        error = np.linalg.norm((result - exact)[..., part]) / np.linalg.norm(exact[..., part])
        assert 1e-3 < error / plan.report().errors[k] < 5
