"""Radial kernels: chains against many digits, checks of the parameters."""

from functools import cache

import numpy as np
import pytest

import multipoles as mp
from multipoles import reference, validation
from multipoles.radial import kernel_object
from multipoles.radial.base import CUSTOM, KINDS
from multipoles.radial.dispatch import chain_of_many

mpmath = pytest.importorskip("mpmath")

KERNELS = [
    mp.Coulomb(),
    mp.Yukawa(1.3),
    mp.Erf(0.7),
    mp.Erfc(0.7),
    mp.Thole(0.39),
    mp.ReactionField(9.0),
    mp.ReactionField(150.0, eps=4.0, m=3, n=5),
    mp.InversePower(2.5),
    mp.Softened(3.0),
    mp.Softened(9.5, 15),
]
N_MAX = 12


def radial_function(kernel, s):
    """f as a function of s = r^2, from its definition."""
    r = mpmath.sqrt(s)
    match kernel:
        case mp.Coulomb():
            return 1 / r
        case mp.Yukawa(kappa):
            return mpmath.exp(-mpmath.mpf(kappa) * r) / r
        case mp.Erf(alpha):
            return mpmath.erf(mpmath.mpf(alpha) * r) / r
        case mp.Erfc(alpha):
            return mpmath.erfc(mpmath.mpf(alpha) * r) / r
        case mp.Thole(a):
            x = mpmath.mpf(a) * r**3
            third = mpmath.mpf(1) / 3
            return (1 - mpmath.exp(-x)) / r + mpmath.mpf(a) ** third * mpmath.gammainc(2 * third, x)
        case mp.ReactionField(c, eps, m, n):
            c, e, m, n = (mpmath.mpf(v) for v in (c, eps, m, n))
            a_m = 3 * c ** -(m + 1) / (m * (n - m)) * (2 * e + n - 1) / (1 + 2 * e)
            a_n = 3 * c ** -(n + 1) / (n * (m - n)) * (2 * e + m - 1) / (1 + 2 * e)
            shift = 3 * e / ((1 + 2 * e) * c) + a_m * c**m + a_n * c**n
            return 1 / r + (e - 1) / ((1 + 2 * e) * c**3) * s + a_m * r**m + a_n * r**n - shift
        case mp.Softened(c, terms):
            scaled = s / mpmath.mpf(c) ** 2
            if abs(scaled) >= 1:
                return 1 / r
            parts = (
                mpmath.binomial(mpmath.mpf("-0.5"), j) * (scaled - 1) ** j for j in range(terms)
            )
            return mpmath.fsum(parts) / c
        case mp.InversePower(p):
            return r ** -mpmath.mpf(p)


@cache
def roots_of_one(points):
    with mpmath.workdps(140):
        return [mpmath.expjpi(mpmath.mpf(2 * j) / points) for j in range(points)]


def exact_chain(kernel, r):
    """B_n = (-2)^n d^n f/ds^n by Cauchy's integral over a circle around s, with 140 digits."""
    points, roots = 64, roots_of_one(64)
    with mpmath.workdps(140):
        s = mpmath.mpf(float(r)) ** 2
        radius = s / 50
        half = [radial_function(kernel, s + radius * root) for root in roots[: points // 2 + 1]]
        # f is real: on the other half of the circle it is conjugate
        values = half + [mpmath.conj(value) for value in half[-2:0:-1]]
        chain = []
        for n in range(N_MAX + 1):
            terms = [v * roots[-j * n % points] for j, v in enumerate(values)]
            slope = mpmath.fsum(terms).real / points / radius**n * mpmath.factorial(n)
            chain.append(slope * (-2) ** n)
        return chain


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_chain_to_many_digits(kernel):
    distances = np.array([1e-3, 0.03, 0.3, 1.0, 1.7, 1.81, 2.5, 3.6, 5.5, 8.9, 20.0, 100.0])
    chain = kernel.chain(distances, N_MAX)
    for r, row in zip(distances, chain, strict=True):
        if isinstance(kernel, mp.ReactionField) and r > kernel.cutoff:
            assert not row.any()
            continue
        bare = mp.Coulomb().chain(r, N_MAX)
        for n, (got, expected) in enumerate(zip(row, exact_chain(kernel, r), strict=True)):
            if isinstance(kernel, mp.Softened) and r < kernel.cutoff and n >= kernel.terms:
                assert got == 0  # links beyond the series
                continue
            # below 1e-290 float64 thins out
            allowed = 1e-13 * abs(expected) + mpmath.mpf("1e-290")
            if isinstance(kernel, mp.ReactionField):  # falls to zero by cancellation
                allowed += 1e-15 / r
            elif isinstance(kernel, mp.Thole) and r > 1:  # higher links change sign
                allowed += 5e-16 * bare[n]
            assert abs(mpmath.mpf(float(got)) - expected) <= allowed, (r, got, expected)


def test_screened_and_complement_add_up_to_coulomb():
    r = np.geomspace(0.01, 10, 30)
    total = mp.Erf(0.9).chain(r, 8) + mp.Erfc(0.9).chain(r, 8)
    np.testing.assert_allclose(total, mp.Coulomb().chain(r, 8), rtol=1e-13)


def test_reaction_field_ends_smoothly():
    kernel = mp.ReactionField(9.0)
    inside = kernel.chain(9.0 * (1 - 1e-9), 3)
    bare = mp.Coulomb().chain(9.0, 3)
    assert np.all(np.abs(inside[:3]) < 1e-7 * bare[:3])
    assert not kernel.chain([9.0, 9.1, 1e3], 3).any()


@pytest.mark.parametrize("terms", [1, 3, 8])
def test_softened_ends_as_smoothly_as_it_says(terms):
    kernel, bare = mp.Softened(2.0, terms), mp.Coulomb()
    r = 2.0 * (1 - 1e-7)
    inside, outside = kernel.chain(r, terms), bare.chain(r, terms)
    np.testing.assert_allclose(inside[:terms], outside[:terms], rtol=1e-5)
    assert inside[terms] == 0  # the first derivative that jumps
    beyond = np.array([2.0, 2.1, 50.0])
    np.testing.assert_array_equal(kernel.chain(beyond, 12), bare.chain(beyond, 12))


def test_softened_is_finite_and_flat_at_zero():
    chain = mp.Softened(2.0, 3).chain([1e-12, 1e-6], 3)
    # 15/8 - 5/4 s + 3/8 s^2, the splitting of the literature
    np.testing.assert_allclose(chain, [[15 / 16, 5 / 16, 3 / 32, 0]] * 2, rtol=1e-11)


def test_distance_from_which_kernels_are_coulomb():
    bare = mp.Coulomb()
    assert bare.coulomb_beyond(1e-9, 4) == 0
    assert mp.Softened(3.5).coulomb_beyond(1e-9, 4) == 3.5
    for tolerance, links in ((1e-3, 0), (1e-6, 3), (1e-9, 8)):
        kernel = mp.Erf(0.7)
        r = kernel.coulomb_beyond(tolerance, links) * np.array([0.9, 1.0, 1.1])
        exact = bare.chain(r, links)
        before, there, after = np.abs(kernel.chain(r, links) / exact - 1).max(axis=1)
        np.testing.assert_allclose(there, tolerance, rtol=1e-4)
        assert before > tolerance > after
        kernel = mp.Thole(0.39)
        r = kernel.coulomb_beyond(tolerance, links) * np.array([0.7, 1.0, 1.5])
        before, there, after = np.abs(kernel.chain(r, links) / bare.chain(r, links) - 1).max(axis=1)
        assert before > tolerance > there > after
    for kernel in (mp.Yukawa(1), mp.Erfc(1), mp.ReactionField(9), mp.InversePower(2)):
        assert kernel.coulomb_beyond(1e-3, 1) == np.inf


def test_far_limit_of_thole_does_not_overflow():
    r = np.array([20.0, 1e3, 1e6])
    np.testing.assert_allclose(mp.Thole(0.39).chain(r, 12), mp.Coulomb().chain(r, 12), rtol=1e-13)


def test_chain_at_zero_is_zero_and_shapes():
    for kernel in KERNELS:
        assert not kernel.chain(0.0, 3).any()
    assert mp.Coulomb().chain(np.ones((2, 3)), 4).shape == (2, 3, 5)
    assert mp.Coulomb().chain([], 4).shape == (0, 5)


def test_kernels_are_hashable_and_compare():
    assert mp.Thole(0.39) == mp.Thole(0.39) != mp.Thole(0.4)
    assert len({mp.Coulomb(), mp.Coulomb(), mp.Erf(1), mp.Erf(1.0), mp.Erfc(1)}) == 3
    assert mp.Erf(0.7).parameters == (0.7,)


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: mp.Yukawa(-1), ValueError, "kappa must be > 0, got -1"),
        (lambda: mp.Erf(0), ValueError, "alpha must be > 0"),
        (lambda: mp.Erfc(np.nan), ValueError, "finite"),
        (lambda: mp.Thole("a"), TypeError, "must be a number"),
        (lambda: mp.ReactionField(9, m=4, n=4), ValueError, "must differ"),
        (lambda: mp.ReactionField(np.inf), ValueError, "finite"),
        (lambda: mp.InversePower(None), TypeError, "must be a number"),
        (lambda: mp.Softened(-2), ValueError, "cutoff must be > 0"),
        (lambda: mp.Softened(2, 0), ValueError, "terms must be > 0"),
        (lambda: mp.Softened(2, 2.5), ValueError, "whole number in 1 … 33, got 2.5"),
        (lambda: mp.Softened(2, 34), ValueError, "whole number"),
        (lambda: mp.Coulomb().chain(-1.0, 2), ValueError, ">= 0"),
        (lambda: mp.Coulomb().chain(1.0, -1), ValueError, "n_max"),
        (lambda: mp.Coulomb().chain(np.nan, 1), ValueError, "finite"),
        (lambda: mp.Thole(0.39).chain(1.0, 40), ValueError, "n_max: expected an integer in 0"),
        (lambda: mp.Yukawa(True), TypeError, "Yukawa: kappa must be a number, got True"),
        (lambda: mp.Erf(np.True_), TypeError, "alpha must be a number"),
        (lambda: mp.Erfc("1.3"), TypeError, "alpha must be a number, got '1.3'"),
        (lambda: mp.Thole([0.39]), TypeError, "a must be a number"),
        (lambda: mp.Thole(np.array([0.39])), TypeError, "a must be a number"),
        (lambda: mp.Yukawa(1j), TypeError, "kappa must be a number"),
        (lambda: mp.InversePower(10**400), ValueError, "p must be finite"),
        (lambda: mp.Softened(2, True), TypeError, "terms must be a number"),
        (lambda: mp.ReactionField(True), TypeError, "cutoff must be a number"),
        (lambda: mp.ReactionField(9, "78"), TypeError, "eps must be a number"),
        (lambda: mp.Coulomb().chain(1.0, 1.5), TypeError, "n_max: expected an integer, got 1.5"),
        (lambda: mp.Coulomb().chain(1.0, True), TypeError, "n_max: expected an integer"),
        (lambda: mp.Coulomb().chain(1.0, None), TypeError, "n_max: expected an integer"),
        (lambda: mp.Coulomb().chain(1.0, 2**70), ValueError, "n_max: expected an integer in"),
        (lambda: mp.Coulomb().chain("1", 1), TypeError, "r: expected float32"),
        (lambda: mp.Coulomb().chain([True], 1), TypeError, "r: expected float32"),
        (lambda: mp.Erf(1).scaled(0), ValueError, "factor must be > 0, got 0"),
        (lambda: mp.Erf(1).scaled(np.inf), ValueError, "factor must be finite"),
        (lambda: mp.Coulomb().scaled("2"), TypeError, "factor must be a number"),
        (lambda: mp.Thole(0.39).scaled(2.0**400), ValueError, "leave the range of float64"),
        (lambda: mp.Thole(0.39).scaled(2.0**-400), ValueError, r"Thole\(a=0.39\): its param"),
        (lambda: mp.Softened(1e300).scaled(1e10), ValueError, "lengths multiplied by 1e\\+10"),
        (lambda: mp.Yukawa(1e-300).scaled(1e20), ValueError, "leave the range"),
        (lambda: kernel_object(mp.Coulomb), TypeError, "call it"),
        (lambda: kernel_object("coulomb"), TypeError, "Thole"),
    ],
)
def test_wrong_input(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_names_of_kernels_are_public():
    with pytest.raises(TypeError, match=r"InversePower\(\.\.\.\)") as caught:
        kernel_object(None)
    assert "_" not in str(caught.value)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("exponent", [-40, 1, 40])
def test_scaled_kernels(kernel, exponent):
    """f'(c r) = f(r)/c, so that B'_n(c r) = B_n(r)/c^(2n + 1)."""
    r, factor = np.array([0.2, 1.7, 8.9, 30.0]), 2.0**exponent
    scaled = kernel.scaled(factor)
    expected = np.ldexp(kernel.chain(r, 6), -exponent * (2 * np.arange(7) + 1))
    np.testing.assert_allclose(scaled.chain(r * factor, 6), expected, rtol=1e-12)
    back = scaled.scaled(1 / factor)
    np.testing.assert_allclose(back.chain(r, 6), kernel.chain(r, 6), rtol=1e-12)
    assert mp.Coulomb().scaled(3.0) == mp.Coulomb() and mp.InversePower(1).scaled(2).p == 1


@pytest.mark.parametrize("kernel", [k for k in KERNELS if not isinstance(k, mp.Thole)], ids=str)
@pytest.mark.parametrize("r", [5e-324, 1e-200, 1e-160, 1e160, 1e300])
def test_chain_where_squares_of_distances_are_no_numbers(kernel, r):
    """Links that are numbers are right: the distances do not count as zero."""
    found = kernel.chain(r, 2)
    with mpmath.workdps(900):
        s = mpmath.mpf(r) ** 2
        wanted = 0 if isinstance(kernel, mp.ReactionField) and r > 1e100 else None
        if isinstance(kernel, mp.Yukawa | mp.Erfc) and r > 1e100:
            wanted = 0
        wanted = radial_function(kernel, s) if wanted is None else wanted
        if abs(wanted) < 1e308:
            assert abs(float(wanted) - found[0]) <= 1e-12 * abs(float(wanted))
        else:
            assert found[0] == np.inf
    assert not np.isnan(found).any()


def test_tiny_and_huge_parameters():
    """Kernels are what they are beside distances of any size."""
    short = mp.ReactionField(1e-200)
    assert not short.chain([1e-199, 1.0, 1e100], 3).any()
    np.testing.assert_allclose(
        short.chain(5e-201, 0) * 1e-200, mp.ReactionField(1.0).chain(0.5, 0), rtol=1e-13
    )
    r, bare = np.array([1e-3, 1.0, 1e3]), mp.Coulomb()
    np.testing.assert_allclose(mp.ReactionField(1e200).chain(r, 3), bare.chain(r, 3), rtol=1e-14)
    np.testing.assert_allclose(mp.Erf(1e300).chain(r, 3), bare.chain(r, 3), rtol=1e-14)
    for alpha in (1e-40, 1e-100, 1e-250):
        chain = mp.Erf(alpha).chain(r, 4)
        np.testing.assert_allclose(chain[:, 0], 2 * alpha / np.sqrt(np.pi), rtol=1e-14)
        np.testing.assert_allclose(chain[:, 1], chain[:, 0] * (2 * alpha * alpha) / 3, rtol=1e-13)
    smooth = mp.Softened(1e200, 3).chain(r, 2)
    np.testing.assert_allclose(smooth, [[15 / 8 * 1e-200, 0, 0]] * 3, rtol=1e-14)
    np.testing.assert_allclose(mp.Yukawa(1e300).chain(r, 3), 0)
    np.testing.assert_allclose(mp.Erfc(1e300).chain(r, 3), 0)


def test_every_list_of_kernels_is_whole():
    ours = {kind for code, kind in KINDS.items() if code < CUSTOM and not kind.internal}
    assert len(ours) == 8 and len({code for code in KINDS if code < CUSTOM}) == 10
    for given in (KERNELS, validation.KERNELS):
        assert {type(kernel) for kernel in given} == ours
    assert set(reference._SERIES) == {kind.__name__ for kind in ours}
    assert ours <= {getattr(mp, name) for name in mp.__all__}


def test_a_code_that_no_kernel_has_is_an_error():
    out = np.zeros((2, 3))
    chain_of_many(CUSTOM - 1, np.ones(3), np.array([1.0, 2.0]), out)
    assert np.isnan(out).all()
    unknown = type("Unknown", (mp.Kernel,), {"code": CUSTOM - 1})()
    for take in (unknown.chain, lambda *a: mp.field(*[np.eye(3)] * 2, np.ones(3), 0, unknown)):
        with pytest.raises(TypeError, match="Unknown has no chain"):
            take(1.0, 2)
