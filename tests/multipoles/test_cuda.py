"""Sums on the GPU, or in the simulator, against those of the CPU."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

import multipoles as mp
from multipoles import indexing, plain, validation
from multipoles.neighbours import PairList
from multipoles.sums import field_arrays

pytest.importorskip("numba.cuda")
from multipoles.compiled import cuda_kernels
from multipoles.compiled.cuda_kernels import SIMULATED, cuda
from multipoles.cuda import arithmetic
from multipoles.cuda import direct as direct_cuda
from multipoles.cuda.device import NumbaSpace
from multipoles.cuda.neighbours import DevicePairs

pytestmark = pytest.mark.cuda

TOLERANCE = {np.float64: 1e-13, np.float32: 5e-6}


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def points(rng, n_targets=6, n_sources=9):
    """Return targets and sources, of which the first two are the same points."""
    targets = rng.uniform(-2, 2, (n_targets, 3))
    sources = rng.uniform(-2, 2, (n_sources, 3))
    sources[:2] = targets[:2]
    return targets, sources


def close(found, wanted, dtype):
    assert hasattr(found, "copy_to_host")
    found = found.copy_to_host()
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= TOLERANCE[dtype] * max(1.0, np.abs(wanted).max())


def check(arrays, dtype, order, device=(), **more):
    """Compare with the CPU; `device` names further arguments that must lie on the device."""
    arrays = [np.ascontiguousarray(a, dtype) for a in arrays]
    on_device = [cuda.to_device(a) for a in arrays]
    there = more | {name: cuda.to_device(more[name]) for name in device}
    close(mp.field(*on_device, order, **there), mp.field(*arrays, order, **more), dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kernel", validation.KERNELS, ids=lambda k: type(k).__name__)
def test_every_kernel(rng, kernel, dtype):
    for source_order, order, channels in ((0, 1, None), (1, 2, 2), (2, 1, 3)):
        shape = (9, indexing.n_components(source_order))
        if channels:
            shape = (9, channels, shape[1])
        check((*points(rng), rng.normal(size=shape)), dtype, order, kernel=kernel)


@pytest.mark.parametrize("source_order, order", [(0, 0), (2, 3), (3, 3)])
def test_orders(rng, source_order, order):
    moments = rng.normal(size=(9, indexing.n_components(source_order)))
    check((*points(rng), moments), np.float64, order)


@pytest.mark.parametrize("kernel", [mp.Coulomb(), mp.Erf(0.6)], ids=["Coulomb", "Erf"])
def test_orders_whose_arithmetic_is_not_written_out(rng, kernel):
    source_order, order = 4, 4
    assert source_order + order > direct_cuda.MAX_EMITTED
    moments = rng.normal(size=(3, 2, indexing.n_components(source_order)))
    check((*points(rng, 2, 3), moments), np.float64, order, kernel=kernel)


def test_charges_alone(rng):
    targets, sources = points(rng)
    check((targets, sources, rng.normal(size=9)), np.float64, 1)
    q = rng.normal(size=6)
    _, forces, gradients = mp.energy_forces(*(cuda.to_device(a) for a in (targets, q)))
    expected = mp.energy_forces(targets, q)
    close(forces, expected[1], np.float64)
    close(gradients, expected[2], np.float64)


def test_few_targets_divide_the_sources(rng):
    targets, sources = points(rng, 2, 23)
    assert direct_cuda._BLOCKS > 1 or not SIMULATED
    check((targets, sources, rng.normal(size=(23, 4))), np.float64, 1)


@pytest.mark.parametrize("source_order, order", [(1, 1), (4, 3)])
def test_systems(rng, source_order, order):
    targets, sources = points(rng)
    moments = rng.normal(size=(9, 1, indexing.n_components(source_order)))
    # system 1 has no targets, 4 no sources; numbers have gaps
    batches = {
        "target_batch": np.array([0, 0, 2, 2, 2, 4]),
        "source_batch": np.array([0, 0, 1, 1, 2, 2, 2, 2, 2]),
    }
    check((targets, sources, moments), np.float64, order, tuple(batches), **batches)


@pytest.mark.parametrize("source_order, order", [(1, 2), (4, 3)])
def test_pair_lists(rng, source_order, order):
    moments = rng.normal(size=(9, indexing.n_components(source_order)))
    pairs = np.stack([rng.integers(0, 6, 14), rng.integers(0, 9, 14)], axis=1)
    pairs[:, 0][pairs[:, 0] == 3] = 2  # a target without sources
    check((*points(rng), moments), np.float64, order, ("pairs",), pairs=pairs)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_energy_and_forces(rng, dtype):
    x = rng.uniform(-2, 2, (7, 3)).astype(dtype)
    moments = rng.normal(size=(7, 2, 10)).astype(dtype)
    batch = np.array([0, 0, 0, 0, 1, 1, 1])
    there = (cuda.to_device(x), cuda.to_device(moments))
    energy, forces, gradients = mp.energy_forces(*there, batch=cuda.to_device(batch))
    wanted = mp.energy_forces(x, moments, batch=batch)
    assert energy == pytest.approx(wanted[0], rel=TOLERANCE[dtype] * 10)
    close(forces, wanted[1], dtype)
    close(gradients, wanted[2], dtype)
    assert mp.energy(*there, batch=cuda.to_device(batch)) == energy


def test_scaled_pairs(rng):
    x = rng.uniform(-2, 2, (7, 3))
    x[1] = x[0] + 0.02  # excluded, and so close that it would swamp the rest
    moments = rng.normal(size=(7, 4))
    pairs, factors = np.array([[0, 1], [2, 5], [4, 6]]), np.array([0.0, 0.5, 1.5])
    batch = np.array([0, 0, 0, 0, 0, 1, 1])
    found = mp.energy_forces(
        cuda.to_device(x), cuda.to_device(moments), batch=cuda.to_device(batch),
        pair_scale=(cuda.to_device(pairs), cuda.to_device(factors)),
    )  # fmt: skip
    wanted = mp.energy_forces(x, moments, batch=batch, pair_scale=(pairs, factors))
    assert found[0] == pytest.approx(wanted[0], rel=1e-6)
    assert np.abs(found[1].copy_to_host() - wanted[1]).max() < 1e-8 * np.abs(wanted[1]).max()


def test_nothing_to_sum(rng):
    nothing = cuda.to_device(np.zeros((0, 3)))
    x, m = cuda.to_device(np.zeros((2, 3))), cuda.to_device(np.ones((2, 1)))
    assert np.all(mp.field(x, nothing, cuda.to_device(np.zeros((0, 1)))).copy_to_host() == 0)
    assert mp.field(nothing, x, m).shape == (0, 4)


def test_the_same_bits_in_every_run(rng):
    targets, sources = (cuda.to_device(a.astype(np.float32)) for a in points(rng))
    moments = cuda.to_device(rng.normal(size=(9, 4)).astype(np.float32))
    first, second = (mp.field(targets, sources, moments).copy_to_host() for _ in range(2))
    assert np.array_equal(first, second)


def test_what_is_refused(rng):
    x = np.zeros((4, 3))
    there, moments = cuda.to_device(x), cuda.to_device(np.ones((4, 1)))
    with pytest.raises(TypeError, match=r"sources: other arguments lie on a GPU .* ndarray"):
        mp.field(there, x, moments)
    with pytest.raises(TypeError, match="moments: other arguments lie on a GPU"):
        mp.field(there, there, np.ones((4, 1)))
    with pytest.raises(TypeError, match="one dtype, got float64 and float32"):
        mp.field(there, there, cuda.to_device(np.ones((4, 1), np.float32)))
    with pytest.raises(TypeError, match="expected float32 or float64 on a GPU, got int64"):
        mp.field(cuda.to_device(np.zeros((4, 3), np.int64)), there, moments)
    with pytest.raises(ValueError, match=r"targets: expected shape \(n, 3\)"):
        mp.field(cuda.to_device(np.zeros((4, 2))), there, moments)
    with pytest.raises(ValueError, match="expected 4 sites"):
        mp.field(there, there, cuda.to_device(np.ones((5, 1))))
    with pytest.raises(ValueError, match="give both target_batch and source_batch"):
        mp.field(there, there, moments, target_batch=cuda.to_device(np.zeros(4, np.int64)))
    with pytest.raises(TypeError, match="pairs: other arguments lie on a GPU"):
        mp.field(there, there, moments, pairs=np.zeros((1, 2), np.int64))
    with pytest.raises(ValueError, match="contiguous"):
        mp.field(cuda.to_device(np.zeros((4, 6)))[:, ::2], there, moments)


def test_an_index_on_the_device_beside_points_of_the_host(rng):
    x, moments = np.zeros((2, 3)), np.ones((2, 1))
    pairs, batch = cuda.to_device(np.array([[0, 1]])), cuda.to_device(np.zeros(2, np.int64))
    factors = cuda.to_device(np.ones(1))
    for call in (
        lambda: mp.field(x, x, moments, pairs=pairs),
        lambda: mp.field(x, x, moments, target_batch=batch, source_batch=batch),
        lambda: mp.energy(x, moments, batch=batch),
        lambda: mp.energy_forces(x, moments, pair_scale=(pairs, factors)),
    ):
        with pytest.raises(TypeError, match="lies on a GPU"):
            call()


def test_a_list_with_weights_serves_both_types(rng):
    space = NumbaSpace()
    ends = [space.upload(np.array(i)) for i in ([0, 1, 1], [2, 0, 1])]
    weights = space.upload(np.array([0.5, 2.0, -1.0]))
    pairs = DevicePairs(*ends, 2, 3, weights)
    for dtype in (np.float64, np.float32):
        targets, sources = (a.astype(dtype) for a in points(rng, 2, 3))
        moments = rng.normal(size=(3, 1, 1)).astype(dtype)
        there = [space.upload(a) for a in (targets, sources, moments)]
        found = direct_cuda.field(space, *there, 1, mp.Coulomb(), pairs)
        listed = PairList(np.array([[0, 2], [1, 0], [1, 1]]), 2, 3, np.array([0.5, 2.0, -1.0]))
        close(found, field_arrays(targets, sources, moments, 1, mp.Coulomb(), listed), dtype)
        assert pairs.rows(space, np.dtype(dtype))[2].dtype == dtype


def test_arithmetic_that_is_written_out_computes_on_floats(rng):
    code = plain.code_of_orders(1, 1, 2)
    r, moments = rng.normal(size=3), rng.normal(size=8)
    chain = plain.coulomb_chain(code, [1 / np.linalg.norm(r)])[0]
    found = plain.add_field(code, [0.0] * 8, chain, list(r), list(moments))[0]
    wanted = mp.field(r[None], np.zeros((1, 3)), moments.reshape(1, 2, 4), 1)
    assert np.allclose(found, wanted.ravel(), rtol=1e-13)


def test_constants_are_made_once():
    space = NumbaSpace()
    first = space.constant("test", lambda: np.arange(3))
    assert space.constant("test", lambda: np.arange(4)) is first


@dataclass(frozen=True)
class Gaussian(mp.Kernel):
    """A kernel of a user's."""

    width: float

    @staticmethod
    def write_chain(r2, parameters, last, out):
        inverse = 1.0 / parameters[0] ** 2
        out[0] = math.exp(-r2 * inverse)
        for n in range(last):
            out[n + 1] = 2.0 * inverse * out[n]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("source_order, order", [(1, 1), (4, 3)])
def test_kernels_of_users(rng, monkeypatch, dtype, source_order, order):
    # their codes mean nothing to the process that compiles what was launched
    monkeypatch.setattr(cuda_kernels, "launched", {})
    moments = rng.normal(size=(3, mp.n_components(source_order)))
    for kernel in (Gaussian(2.0), Gaussian(2.0).scaled(2.0)):
        check((*points(rng, 2, 3), moments), dtype, order, kernel=kernel)


def test_unknown_kernels_are_an_error():
    with pytest.raises(ValueError, match="the code of a radial kernel, got 63"):
        arithmetic.scalar_chain(63)
