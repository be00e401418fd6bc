"""Packing, shift, rotation, traces, moments of charges and torques, against sums over charges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import charge_potential, random_rotation, rotation_about

from multipoles import moments as mo
from multipoles import reference
from multipoles.indexing import n_components, order_slice
from multipoles.polynomials import detrace_matrix
from multipoles.radial import Yukawa

ORDER = 5
SEEDS = st.integers(0, 2**31)


def charges_at(rng, n=12):
    return rng.normal(size=n), rng.normal(size=(n, 3))


def full_tensor(q, d, rank):
    """1/rank! sum q d … d, by the definition."""
    out = q.copy()
    for k in range(rank):
        out = out[..., None] * d.reshape(len(d), *(1,) * k, 3) / (k + 1)
    return out.sum(axis=0)


def random_moments(rng, n=4, order=ORDER, channels=None):
    lead = (n,) if channels is None else (n, channels)
    return rng.normal(size=(*lead, n_components(order)))


def test_pack_takes_the_documented_places():
    Q = np.array([[1.0, 2, 3], [2, 4, 5], [3, 5, 6]])
    M = mo.pack(charges=[7], dipoles=[[8, 9, 10]], quadrupoles=Q[None])
    assert M.dtype == np.float64
    np.testing.assert_array_equal(M, [[7, 8, 9, 10, 1, 4, 6, 4, 10, 6]])


@pytest.mark.parametrize("rank", range(6))
def test_tensors_are_sums_over_charges(rank):
    q, d = charges_at(np.random.default_rng(1))
    M = mo.moments_of_charges(q, d, ORDER)
    np.testing.assert_allclose(mo.tensors(M)[rank][0], full_tensor(q, d, rank), rtol=1e-12)


@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", range(6))
def test_unpack_and_back(order, dtype, channels):
    M = random_moments(np.random.default_rng(order), 4, order, channels).astype(dtype)
    back = mo.from_tensors(mo.tensors(M))
    assert back.dtype == dtype and back.shape == M.shape
    np.testing.assert_allclose(back, M, rtol=5 * np.finfo(dtype).eps)
    parts = mo.unpack(M)
    named = [parts.charges, parts.dipoles, parts.quadrupoles, parts.octupoles]
    assert [p is not None for p in named] == [rank <= order for rank in range(4)]
    assert len(parts.higher) == max(0, order - 3)
    if order <= 3:
        again = mo.pack(*named)
        np.testing.assert_allclose(again, M, rtol=5 * np.finfo(dtype).eps)


def test_missing_lower_orders_are_zero():
    Q = np.ones((2, 4, 3, 3))
    M = mo.pack(quadrupoles=Q)
    assert M.shape == (2, 4, 10)
    assert (M[..., :4] == 0).all()
    np.testing.assert_array_equal(M[..., 4:], np.broadcast_to([1, 2, 2, 1, 2, 1], (2, 4, 6)))


@pytest.mark.parametrize("channels", [None, 2])
@pytest.mark.parametrize("per_site", [False, True])
def test_shift_is_exact(channels, per_site):
    rng = np.random.default_rng(2)
    q, d = charges_at(rng)
    if channels:
        q = rng.normal(size=(len(q), channels))
    by = rng.normal(size=(3, 3)) if per_site else rng.normal(size=3)
    M = np.repeat(mo.moments_of_charges(q, d, ORDER), 3, axis=0)
    wanted = np.concatenate(
        [mo.moments_of_charges(q, d, ORDER, origins=o) for o in np.broadcast_to(by, (3, 3))]
    )
    np.testing.assert_allclose(mo.shift(M, by), wanted, rtol=1e-11, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, order=st.integers(0, 6))
def test_shifts_add(seed, order):
    rng = np.random.default_rng(seed)
    M, a, b = random_moments(rng, order=order), rng.normal(size=3), rng.normal(size=(4, 3))
    twice = mo.shift(mo.shift(M, a), b)
    np.testing.assert_allclose(twice, mo.shift(M, a + b), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(mo.shift(mo.shift(M, b), -b), M, rtol=1e-10, atol=1e-10)


def test_shift_leaves_the_far_field_and_the_error_falls_as_theory_says():
    # cut at order p, both expansions differ from the charges by (size/distance)^(p + 1)
    rng = np.random.default_rng(3)
    q, d = charges_at(rng)
    d *= 0.3
    by = np.array([0.2, -0.1, 0.25])
    direction = np.array([[0.6, -0.48, 0.64]])
    errors = []
    for distance in (20.0, 40.0):
        x = distance * direction
        M = mo.shift(mo.moments_of_charges(q, d, 4), by)
        phi = reference.field(x, by[None], M, order=0)[0, 0]
        errors.append(abs(phi - charge_potential(x, q, d, lambda r: 1 / r)[0]) * distance)
    assert errors[0] < 1e-5
    assert errors[0] / errors[1] == pytest.approx(2**5, rel=0.2)


@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("per_site", [False, True])
def test_rotate_is_the_moments_of_rotated_charges(per_site, improper):
    rng = np.random.default_rng(4)
    q, d = charges_at(rng)
    R = np.stack([random_rotation(rng) for _ in range(3)]) * (-1 if improper else 1)
    R = R if per_site else R[0]
    M = np.repeat(mo.moments_of_charges(q, d, ORDER), 3, axis=0)
    wanted = np.concatenate(
        [mo.moments_of_charges(q, d @ r.T, ORDER) for r in np.broadcast_to(R, (3, 3, 3))]
    )
    np.testing.assert_allclose(mo.rotate(M, R), wanted, rtol=1e-10, atol=1e-11)
    two = mo.rotate(np.stack([M, 2 * M], axis=1), R)
    np.testing.assert_allclose(two, np.stack([wanted, 2 * wanted], 1), rtol=1e-10, atol=1e-11)


def test_rotate_is_a_contraction_of_every_axis():
    rng = np.random.default_rng(5)
    M, R = random_moments(rng, 2, 4), random_rotation(rng)
    rotated = mo.tensors(mo.rotate(M, R))
    t2, t4 = mo.tensors(M)[2], mo.tensors(M)[4]
    np.testing.assert_allclose(rotated[2], R @ t2 @ R.T, atol=1e-13)
    wanted = np.einsum("ia,jb,kc,ld,nabcd->nijkl", R, R, R, R, t4)
    np.testing.assert_allclose(rotated[4], wanted, atol=1e-13)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, order=st.integers(0, 6))
def test_rotations_compose_and_return(seed, order):
    rng = np.random.default_rng(seed)
    M, A, B = random_moments(rng, order=order), random_rotation(rng), random_rotation(rng)
    np.testing.assert_allclose(mo.rotate(mo.rotate(M, A), B), mo.rotate(M, B @ A), atol=1e-11)
    np.testing.assert_allclose(mo.rotate(mo.rotate(M, A), A.T), M, atol=1e-11)
    # a trace is an invariant, so removing traces commutes with rotation
    both = mo.detrace(mo.rotate(M, A)), mo.rotate(mo.detrace(M), A)
    np.testing.assert_allclose(*both, atol=1e-11)


@pytest.mark.parametrize("order", range(7))
def test_detrace_leaves_no_trace_and_the_coulomb_field(order):
    rng = np.random.default_rng(6)
    M = random_moments(rng, 3, order)
    D = mo.detrace(M)
    for tensor in mo.tensors(D)[2:]:
        assert np.abs(np.trace(tensor, axis1=-1, axis2=-2)).max() < 1e-14 * order**2
    np.testing.assert_allclose(mo.detrace(D), D, atol=1e-14)
    s, x = rng.normal(size=(3, 3)), rng.normal(size=(5, 3)) * 0.3 + 4.0
    before, after = reference.field(x, s, M, 2), reference.field(x, s, D, 2)
    np.testing.assert_allclose(after, before, rtol=1e-10, atol=1e-13 * np.abs(before).max())
    if order >= 2:
        change = reference.field(x, s, M - D, 0, Yukawa(0.5))
        assert np.abs(change).max() > 1e-4


def test_detrace_of_a_quadrupole_and_an_octupole_by_hand():
    rng = np.random.default_rng(7)
    M = random_moments(rng, 1, 3)
    Q, T = (t[0] for t in mo.tensors(M)[2:])
    new_Q, new_T = (t[0] for t in mo.tensors(mo.detrace(M))[2:])
    np.testing.assert_allclose(new_Q, Q - np.trace(Q) / 3 * np.eye(3), atol=1e-14)
    t, eye = np.einsum("iik->k", T), np.eye(3)
    trace = sum(np.einsum(f"ij,k->{out}", eye, t) for out in ("ijk", "ikj", "kij"))
    np.testing.assert_allclose(new_T, T - trace / 5, atol=1e-14)


@pytest.mark.parametrize("rank", range(2, 8))
def test_detrace_matrix_is_a_projection_on_2l_plus_1_components(rank):
    P = detrace_matrix(rank)
    np.testing.assert_allclose(P @ P, P, atol=1e-13)
    assert np.trace(P) == pytest.approx(2 * rank + 1)


def test_moments_of_charges_by_site_and_channel():
    rng = np.random.default_rng(8)
    q, d = rng.normal(size=(9, 2)), rng.normal(size=(9, 3))
    site, origins = rng.integers(0, 3, 9), rng.normal(size=(4, 3))
    M = mo.moments_of_charges(q, d, 3, origins, site)
    assert M.shape == (4, 2, 20)
    assert (M[3] == 0).all()
    for k in range(3):
        for c in range(2):
            part = mo.moments_of_charges(q[site == k, c], d[site == k], 3, origins[k])
            np.testing.assert_allclose(M[k, c], part[0], atol=1e-14)


def test_torque_is_the_slope_under_a_finite_rotation():
    # energy linear in the moments: E = g.M, whose gradient is g at every rotation
    rng = np.random.default_rng(9)
    M, g = random_moments(rng, 3, 4, 2), random_moments(rng, 3, 4, 2)
    tau = mo.torques(M, g)
    angle = 1e-3
    for axis in range(3):

        def energy(turn, axis=axis):
            return (g * mo.rotate(M, rotation_about(axis, turn))).sum(axis=(1, 2))

        slope = (8 * (energy(angle) - energy(-angle)) - energy(2 * angle) + energy(-2 * angle)) / (
            12 * angle
        )
        np.testing.assert_allclose(tau[:, axis], -slope, rtol=1e-8, atol=1e-8)


def test_torque_on_a_dipole_is_mu_cross_field():
    rng = np.random.default_rng(10)
    mu, E = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    # E = -grad phi, and dE/dmu = grad phi
    tau = mo.torques(mo.pack(dipoles=mu), mo.pack(dipoles=-E))
    np.testing.assert_allclose(tau, np.cross(mu, E), rtol=1e-13)


def test_total_torque_and_force_of_an_isolated_system_vanish():
    rng = np.random.default_rng(11)
    x, M = 2 * rng.normal(size=(6, 3)), random_moments(rng, 6, 3)
    _, forces, gradients = reference.energy_forces(x, M, Yukawa(0.3))
    size = np.abs(forces).sum()
    assert np.abs(forces.sum(axis=0)).max() < 1e-13 * size
    total = np.cross(x, forces).sum(axis=0) + mo.torques(M, gradients).sum(axis=0)
    assert np.abs(total).max() < 1e-12 * size


@pytest.mark.parametrize(
    ("dtypes", "wanted"),
    [
        ((np.float32, np.float32), np.float32),
        ((np.float32, np.float64), np.float64),
        ((np.float64, np.float32), np.float64),
        ((np.int64, np.float32), np.float64),
    ],
)
def test_dtypes(dtypes, wanted):
    M, other = np.ones((2, 10), dtypes[0]), np.zeros((2, 3), dtypes[1])
    assert mo.shift(M, other).dtype == wanted
    assert mo.rotate(M, np.eye(3, dtype=dtypes[1])).dtype == wanted
    assert mo.torques(M, np.ones((2, 10), dtypes[1])).dtype == wanted
    assert mo.moments_of_charges(np.ones(2, dtypes[0]), other, 2).dtype == wanted
    assert mo.detrace(M).dtype == (np.float32 if dtypes[0] == np.float32 else np.float64)


@pytest.mark.parametrize("function", [mo.detrace, lambda M: mo.shift(M, [1.0, 2, 3])])
def test_arguments_are_not_changed_and_empty_is_empty(function):
    M = random_moments(np.random.default_rng(12), 2, 3)
    kept = M.copy()
    function(M)
    np.testing.assert_array_equal(M, kept)
    assert function(np.empty((0, 20))).shape == (0, 20)
    assert mo.rotate(np.empty((0, 2, 20)), np.empty((0, 3, 3))).shape == (0, 2, 20)
    assert mo.torques(np.empty((0, 20)), np.empty((0, 20))).shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: mo.pack(), TypeError, "at least one of charges"),
        (lambda: mo.pack(charges=[1.0], dipoles=np.ones((2, 3))), ValueError, "same .n"),
        (lambda: mo.pack(dipoles=np.ones((2, 4))), ValueError, r"dipoles: expected shape .n, "),
        (lambda: mo.pack(charges=[1j]), TypeError, "complex128"),
        (lambda: mo.pack(charges=np.ones(2, np.float16)), TypeError, "float16"),
        (lambda: mo.pack(charges=["a"]), TypeError, "charges: expected float32"),
        (lambda: mo.pack(charges=[1.0, np.nan]), ValueError, r"charges\[1\] is nan"),
        (
            lambda: mo.pack(quadrupoles=np.arange(9.0).reshape(1, 3, 3)),
            ValueError,
            "quadrupoles: expected tensors symmetric",
        ),
        (lambda: mo.from_tensors([None, None]), TypeError, "not None"),
        (lambda: mo.unpack(np.ones(10)), ValueError, r"pack\(charges"),
        (lambda: mo.detrace(np.ones((2, 7))), ValueError, "1, 4, 10, 20"),
        (lambda: mo.shift(np.ones((2, 4)), [1.0, 2.0]), ValueError, r"by: expected shape \(3,\)"),
        (lambda: mo.rotate(np.ones((2, 4)), np.eye(2)), ValueError, "R: expected shape"),
        (lambda: mo.rotate(np.ones((2, 4)), 2 * np.eye(3)), ValueError, "orthogonal"),
        (lambda: mo.torques(np.ones((2, 4)), np.ones((2, 10))), ValueError, "shape of the moments"),
        (lambda: mo.moments_of_charges([1], [[0, 0, 0]], -1), ValueError, "order: expected"),
        (lambda: mo.moments_of_charges([1], [[0, 0, 0]], 1.5), TypeError, "order: expected"),
        (lambda: mo.moments_of_charges([1, 2], [[0, 0, 0]], 1), ValueError, "charges: expected"),
        (
            lambda: mo.moments_of_charges([1], [[0, 0, 0]], 1, np.zeros((2, 3))),
            ValueError,
            "which of the 2 origins",
        ),
        (
            lambda: mo.moments_of_charges([1], [[0, 0, 0]], 1, np.zeros((2, 3)), [2]),
            ValueError,
            "site: expected indices 0 to 1",
        ),
    ],
)
def test_bad_input_says_what_was_expected(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_order_slice_covers_every_component():
    covered = np.concatenate([np.arange(n_components(4))[order_slice(k)] for k in range(5)])
    np.testing.assert_array_equal(covered, np.arange(n_components(4)))


@pytest.mark.parametrize("wrong", [1.5, 2.0, True, np.True_, "2", None, np.array([2])])
def test_number_of_components_is_that_of_an_integer(wrong):
    with pytest.raises(TypeError, match="order: expected an integer"):
        n_components(wrong)
    assert n_components(np.int8(20)) == 1771 and n_components(10**30) > 10**88
