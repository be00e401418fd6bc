"""Every convention against a formula written independently, and back."""

from math import factorial

import numpy as np
import pytest
from scipy import special

from multipoles import conventions as co
from multipoles import moments as mo
from multipoles import reference
from multipoles.indexing import n_components

if hasattr(special, "sph_harm_y"):
    sph_harm_y = special.sph_harm_y
else:  # SciPy before 1.15

    def sph_harm_y(n, m, theta, phi):
        return special.sph_harm(m, n, phi, theta)


ORDER = 4
TRACELESS = ("buckingham", "spherical")


@pytest.fixture
def charges():
    rng = np.random.default_rng(21)
    return rng.normal(size=10), rng.normal(size=(10, 3))


def test_raw_is_the_sum_of_q_d_d(charges):
    q, d = charges
    raw = co.convert(mo.moments_of_charges(q, d, 3), "raw")[0]
    x, y, z = d.T
    wanted = [q, q * x, q * y, q * z]
    wanted += [q * u for u in (x * x, x * y, x * z, y * y, y * z, z * z)]
    wanted += [q * u for u in (x**3, x * x * y, x * x * z, x * y * y, x * y * z, x * z * z)]
    wanted += [q * u for u in (y**3, y * y * z, y * z * z, z**3)]
    np.testing.assert_allclose(raw, np.sum(wanted, axis=1), rtol=1e-12)


def test_buckingham_by_hand(charges):
    q, d = charges
    out = co.convert(mo.moments_of_charges(q, d, 3), "buckingham")[0]
    eye, r2 = np.eye(3), (d**2).sum(axis=1)
    theta = 0.5 * (3 * np.einsum("n,ni,nj->ij", q, d, d) - np.einsum("n,n,ij->ij", q, r2, eye))
    omega = 2.5 * np.einsum("n,ni,nj,nk->ijk", q, d, d, d)
    for out_axes in ("ijk", "ikj", "kij"):
        omega -= 0.5 * np.einsum(f"n,n,ij,nk->{out_axes}", q, r2, eye, d)
    upper = [theta[i, j] for i in range(3) for j in range(i, 3)]
    third = [omega[i, j, k] for i in range(3) for j in range(i, 3) for k in range(j, 3)]
    np.testing.assert_allclose(out[4:10], upper, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(out[10:], third, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(out[:4], [q.sum(), *(q @ d)], rtol=1e-12)


def test_buckingham_is_the_derivative_of_1_over_r_at_any_order(charges):
    q, d = charges
    order = 6
    out = co.convert(mo.moments_of_charges(q, d, order), "buckingham")[0]
    tensor = reference.derivatives(d, order)
    r = np.linalg.norm(d, axis=1)
    for rank in range(order + 1):
        part = slice(n_components(rank) - (rank + 1) * (rank + 2) // 2, n_components(rank))
        factor = (-1) ** rank / factorial(rank) * q * r ** (2 * rank + 1)
        np.testing.assert_allclose(out[part], factor @ tensor[:, part], rtol=1e-9, atol=1e-10)


def test_amoeba_by_hand(charges):
    q, d = charges
    out = co.convert(mo.moments_of_charges(q, d, 2), "amoeba")[0]
    Q = 0.5 * sum(k * (np.outer(u, u) - u @ u / 3 * np.eye(3)) for k, u in zip(q, d, strict=True))
    assert out.shape == (13,)
    np.testing.assert_allclose(out, [q.sum(), *(q @ d), *Q.ravel()], rtol=1e-11, atol=1e-13)


def test_amoeba_is_a_third_of_buckingham(charges):
    M = mo.moments_of_charges(*charges, 2)
    amoeba = co.convert(M, "amoeba")[0, 4:].reshape(3, 3)
    theta = co.convert(M, "buckingham")[0, 4:]
    np.testing.assert_allclose(amoeba[np.triu_indices(3)], theta / 3, rtol=1e-12)


def test_amoeba_with_six_components_and_lower_orders(charges):
    M = mo.detrace(mo.moments_of_charges(*charges, 2))
    long = co.convert(M, "amoeba")
    short = long[:, [0, 1, 2, 3, 4, 5, 6, 8, 9, 12]]
    np.testing.assert_allclose(co.from_convention(short, "amoeba"), M, atol=1e-14)
    for order in (0, 1):
        cut = M[:, : n_components(order)]
        wanted = np.zeros((1, 13))
        wanted[:, : cut.shape[1]] = cut
        np.testing.assert_array_equal(co.convert(cut, "amoeba"), wanted)


def test_spherical_against_scipy(charges):
    q, d = charges
    order = 6
    out = co.convert(mo.moments_of_charges(q, d, order), "spherical")[0]
    r = np.linalg.norm(d, axis=1)
    theta, phi = np.arccos(d[:, 2] / r), np.arctan2(d[:, 1], d[:, 0])
    wanted = []
    for rank in range(order + 1):
        racah = np.sqrt(4 * np.pi / (2 * rank + 1)) * r**rank
        wanted.append(q @ (racah * sph_harm_y(rank, 0, theta, phi).real))
        for m in range(1, rank + 1):
            # (-1)^m takes the Condon–Shortley sign out
            value = (-1) ** m * np.sqrt(2) * racah * sph_harm_y(rank, m, theta, phi)
            wanted += [q @ value.real, q @ value.imag]
    np.testing.assert_allclose(out, wanted, rtol=1e-10, atol=1e-11)


def test_spherical_by_hand(charges):
    q, d = charges
    x, y, z = d.T
    r3 = np.sqrt(3)
    rows = [0 * x + 1, z, x, y, (2 * z * z - x * x - y * y) / 2, r3 * x * z, r3 * y * z]
    rows += [r3 / 2 * (x * x - y * y), r3 * x * y]
    out = co.convert(mo.moments_of_charges(q, d, 2), "spherical")[0]
    np.testing.assert_allclose(out, np.array(rows) @ q, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("channels", [None, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", range(7))
@pytest.mark.parametrize("convention", ["raw", *TRACELESS])
def test_round_trips(convention, order, dtype, channels):
    rng = np.random.default_rng(22)
    lead = (3,) if channels is None else (3, channels)
    M = rng.normal(size=(*lead, n_components(order))).astype(dtype)
    out = co.convert(M, convention)
    back = co.from_convention(out, convention)
    assert out.dtype == back.dtype == dtype
    wanted = M if convention == "raw" else mo.detrace(M)
    np.testing.assert_allclose(back, wanted, atol=50 * np.finfo(dtype).eps)
    again = co.convert(back, convention)
    np.testing.assert_allclose(again, out, atol=50 * np.finfo(dtype).eps * np.abs(out).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [None, 2])
def test_amoeba_round_trip(channels, dtype):
    rng = np.random.default_rng(23)
    lead = (3,) if channels is None else (3, channels)
    M = rng.normal(size=(*lead, 10)).astype(dtype)
    back = co.from_convention(co.convert(M, "amoeba"), "amoeba")
    assert back.dtype == dtype
    np.testing.assert_allclose(back, mo.detrace(M), atol=10 * np.finfo(dtype).eps)


def test_the_coulomb_field_survives_every_convention():
    rng = np.random.default_rng(24)
    M = rng.normal(size=(2, 10))
    s, x = rng.normal(size=(2, 3)), rng.normal(size=(4, 3)) + 5
    wanted = reference.field(x, s, M, 2)
    for convention in ("raw", "buckingham", "amoeba", "spherical"):
        M2 = co.from_convention(co.convert(M, convention), convention)
        np.testing.assert_allclose(reference.field(x, s, M2, 2), wanted, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: co.convert(np.ones((1, 4)), "tinker"), "expected one of raw, buckingham"),
        (lambda: co.convert(np.ones((1, 4)), None), "expected one of raw, buckingham"),
        (lambda: co.convert(np.ones((1, 20)), "amoeba"), "ends with the quadrupole"),
        (lambda: co.from_convention(np.ones((1, 12)), "amoeba"), "13 components"),
        (lambda: co.from_convention(np.ones((1, 10)), "spherical"), r"\(order \+ 1\)\^2"),
        (lambda: co.from_convention(np.ones((1, 0)), "spherical"), r"\(order \+ 1\)\^2"),
        (lambda: co.from_convention(np.ones((1, 9)), "raw"), "1, 4, 10, 20"),
        (lambda: co.from_convention(np.ones(4), "raw"), "expected shape"),
        (lambda: co.from_convention([[np.inf, 0, 0, 0]], "raw"), r"array\[0, 0\] is inf"),
        (
            lambda: co.from_convention(np.arange(13.0)[None], "amoeba"),
            "quadrupoles: expected tensors symmetric",
        ),
    ],
)
def test_bad_input_says_what_was_expected(call, words):
    with pytest.raises(ValueError, match=words):
        call()
