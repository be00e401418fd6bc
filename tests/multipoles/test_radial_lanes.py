"""Chains of kernels as vectors: against many digits and the scalar functions, and enemy inputs."""

import sys

import numpy as np
import pytest

import multipoles as mp
from multipoles.compiled.jit import bare
from multipoles.compiled.late import late
from multipoles.compiled.simd import BYTES, load, store
from multipoles.compiled.simd_math import exp
from multipoles.direct_cpu import aligned
from multipoles.radial.dispatch import chain_of_kernel, radial_chain
from multipoles.radial.lanes import LINKS

mpmath = pytest.importorskip("mpmath")
TYPES = pytest.mark.parametrize("dtype", [np.float64, np.float32])


@bare
def _write_chains(code, parameters, r2, last, chain, out):
    lanes = BYTES // chain.itemsize
    for i in range(0, r2.shape[0], lanes):
        radial_chain(code, parameters, load(r2, i), last, chain)
        for n in range(last + 1):
            store(out, i * (last + 1) + n * lanes, load(chain, n * lanes))


def chains(kernel, r2, last):
    """B_0 ... B_last by the vector functions, a row for each of r2."""
    lanes = BYTES // r2.itemsize
    padded = np.resize(r2, -(-r2.size // lanes) * lanes)
    chain, out = (aligned(size * (last + 1), r2.dtype) for size in (lanes, padded.size))
    chain[:] = np.nan
    _write_chains(kernel.code, kernel.parameter_array, padded, last, chain, out)
    g = out.reshape(-1, last + 1, lanes).transpose(0, 2, 1).reshape(-1, last + 1)[: r2.size]
    return g * np.where(np.arange(last + 1) % 2, -1, 1).astype(r2.dtype)


def exact_chain(kernel, r2):
    """The chain by recursion, with digits enough for all that cancels."""
    r2 = mpmath.mpf(float(r2))
    r, links = mpmath.sqrt(r2), []
    match kernel:
        case mp.Yukawa(kappa):
            kappa = mpmath.mpf(kappa)
            before, b = mpmath.exp(-kappa * r) / kappa, mpmath.exp(-kappa * r) / r
            for n in range(LINKS + 1):
                links.append(b)
                before, b = b, ((2 * n + 1) * b + kappa**2 * before) / r2
        case mp.Erf(alpha) | mp.Erfc(alpha):
            alpha, sign = mpmath.mpf(alpha), 1 if isinstance(kernel, mp.Erfc) else -1
            b = (mpmath.erfc if sign == 1 else mpmath.erf)(alpha * r) / r
            gauss = 2 * alpha / mpmath.sqrt(mpmath.pi) * mpmath.exp(-(alpha**2) * r2)
            for n in range(LINKS + 1):
                links.append(b)
                b = ((2 * n + 1) * b + sign * gauss) / r2
                gauss *= 2 * alpha**2
        case mp.Thole(a):
            a, third = mpmath.mpf(a), mpmath.mpf(1) / 3
            x = a * r2 * r
            decay = mpmath.exp(-x)
            links.append((1 - decay) / r + a**third * mpmath.gammainc(2 * third, x))
            p, bare_link = [mpmath.mpf(1)], 1 / r
            for n in range(1, LINKS + 1):
                bare_link *= (2 * n - 1) / r2
                links.append(bare_link * (1 - decay * mpmath.polyval(p[::-1], x)))
                slope = 3 / mpmath.mpf(2 * n + 1)
                p.append(mpmath.mpf(0))
                p = [c * (1 - slope * k) + (slope * p[k - 1] if k else 0) for k, c in enumerate(p)]
        case mp.InversePower(power):
            b = r ** -mpmath.mpf(power)
            for n in range(LINKS + 1):
                links.append(b)
                b *= (mpmath.mpf(power) + 2 * n) / r2
    return links


@TYPES
@pytest.mark.parametrize(
    "kernel",
    [mp.Yukawa(1.3), mp.Erf(0.7), mp.Erfc(0.7), mp.Thole(0.39), mp.InversePower(6)],
    ids=str,
)
def test_chains_to_many_digits(kernel, dtype):
    rng = np.random.default_rng(1)
    r = np.concatenate([np.geomspace(1e-3, 30, 16), rng.uniform(0.1, 7, 16)])
    rng.shuffle(r)
    r2, info = (r * r).astype(dtype), np.finfo(dtype)
    with mpmath.workdps(130):
        exact = np.array([exact_chain(kernel, square) for square in r2])
    bare_links = mp.Coulomb().chain(np.sqrt(r2.astype(np.float64)), LINKS)
    for last in (0, 2, 7, LINKS):
        found = chains(kernel, r2, last)
        for n in range(last + 1):
            wanted = exact[:, n].astype(np.float64)
            # every step of a recursion adds to the error; digits of a link that changes sign count
            # as those of 1/r
            size = np.abs(wanted)
            if isinstance(kernel, mp.Thole) and n > 2:
                size += np.where(r**3 * kernel.a > 0.1, 0.1 * bare_links[:, n], 0.0)
            sizes = np.maximum(np.abs(wanted), bare_links[:, n])
            seen = (np.abs(wanted) > info.tiny * 1e8) & (sizes < info.max)
            error = np.abs(found[:, n] - exact[:, n]).astype(np.float64)[seen] / size[seen]
            assert error.max(initial=0.0) <= (last + n + 5) * info.eps, (last, n)


ERF_WITH_TWO_LINKS = chain_of_kernel(mp.Erf.code)


@bare
def _write_two_links(parameters, r2, chain, out):
    for i in range(0, r2.shape[0], BYTES // chain.itemsize):
        ERF_WITH_TWO_LINKS(parameters, load(r2, i), 2, chain)
        store(out, i, load(chain, 2 * (BYTES // chain.itemsize)))


def test_loops_of_one_kernel_have_its_chain():
    kernel, r2, out = mp.Erf(2.0), np.geomspace(1e-3, 1e3, 32), np.empty(32)
    _write_two_links(kernel.parameter_array, r2, aligned(24, r2.dtype), out)
    np.testing.assert_allclose(out, chains(kernel, r2, 2)[:, 2], rtol=2e-15)


EXTREMES = [
    *(kind(10.0**k) for kind in (mp.Yukawa, mp.Erf, mp.Erfc) for k in (-250, -40, -9, 3, 20, 300)),
    *(mp.Thole(10.0**k) for k in (-250, -40, -9, 3, 20, 60, 300)),
    *(mp.ReactionField(10.0**k) for k in (-200, -30, -3, 0, 30, 200)),
    *(mp.InversePower(p) for p in (1, 2.5, 12, 64, 65)),
    mp.Erf(2e4), mp.Erfc(3e4), mp.Yukawa(3e4), mp.ReactionField(9.0, m=2.5),
]  # fmt: skip


@TYPES
@pytest.mark.parametrize("kernel", EXTREMES, ids=str)
def test_extreme_parameters_and_coincident_points(kernel, dtype):
    """Numbers wherever the scalar functions give some; zero where points coincide."""
    r = [0.0, 1.0, 2.5e-4, 0.3, 3.0, 1e-7, 0.0, 7e-4, 40.0, 2e-3, 8e-5, 2.0, 1e-5, 9e-5, 0.1, 2e3]
    r2, info = np.square(r).astype(dtype), np.finfo(dtype)
    with np.errstate(all="ignore"):
        for last in (0, 1, 6, LINKS, LINKS + 3):
            wanted = kernel.chain(np.sqrt(r2.astype(np.float64)), last)
            found = chains(kernel, r2, last)
            assert not found[r2 == 0].any()
            bare_links = mp.Coulomb().chain(np.sqrt(r2.astype(np.float64)), last)
            normal = (np.abs(wanted) > info.tiny) & (bare_links * 1e4 < info.max)
            normal &= np.abs(wanted) < info.max
            allowed = 1e-13 if dtype == np.float64 else 3e-6
            size = np.abs(wanted) + (np.abs(bare_links) if kernel.code == 5 else 0)
            if isinstance(kernel, mp.Thole):
                size += np.where(np.array(r)[:, None] ** 3 * kernel.a > 0.1, bare_links, 0)
            if isinstance(kernel, mp.InversePower):
                allowed *= max(1.0, kernel.p / 8)
            error = np.abs(found - wanted)
            # what has decayed below the least number of the vector's exponential is zero
            gone = np.abs(wanted) < 1e-30 * bare_links if dtype == np.float32 else wanted == 0
            assert (error <= allowed * size)[normal & ~gone].all()
            finite = np.isfinite(wanted) & (np.abs(wanted) < info.max / 1e5)
            assert np.isfinite(found[finite]).all()


@bare
def _write_exp(values, tails, out):
    for i in range(0, values.shape[0], BYTES // out.itemsize):
        store(out, i, exp(load(values, i), load(tails, i)))


@TYPES
def test_exponential(dtype):
    top = 709.0 if dtype == np.float64 else 88.0
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-top + 1.5, top, 992), -np.logspace(-30, 1, 32)]).astype(dtype)
    tails = (x * rng.uniform(-1, 1, x.size) * np.finfo(dtype).eps / 2).astype(dtype)
    out = np.empty_like(x)
    _write_exp(x, tails, out)
    with mpmath.workdps(30):
        wanted = [
            mpmath.exp(mpmath.mpf(float(v)) + float(t)) for v, t in zip(x, tails, strict=True)
        ]
        error = [abs(float(o) / w - 1) for o, w in zip(out, wanted, strict=True)]
    assert max(error) <= np.finfo(dtype).eps
    enemies = np.resize([-np.inf, -1e38, -top - 40, -1000, 0, -0.0, np.nan, 1e-30], 16).astype(
        dtype
    )
    _write_exp(enemies, np.zeros_like(enemies), out)
    np.testing.assert_array_equal(out[:8], [0, 0, 0, 0, 1, 1, 0, 1])


@bare
def _wrong(code, parameters, last, chain):
    chain[0] = parameters.no_such_thing


_called_late = late("multipoles_test_table", [_wrong])


@bare
def _call_late(parameters, chain):
    _called_late(0, 0, parameters, 1, chain)


def test_a_function_that_does_not_compile_writes_no_numbers(monkeypatch):
    """What loops call late cannot raise through them."""
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    chain = np.zeros(16)
    _call_late(np.ones(1), chain)
    assert np.isnan(chain).all() and len(seen) == 1
