"""Kernels from shared sources: the same numbers as on the CPU, in the type that was asked for."""

import numpy as np
import pytest

pytest.importorskip("numba.cuda")

import cuda_samples as samples

from multipoles.compiled.cuda_kernels import SIMULATED, launched, retargeted
from multipoles.cuda.device import NumbaSpace, space_of, view

pytestmark = pytest.mark.cuda
THREADS = 4 if SIMULATED else 128
TYPES = [np.dtype(np.float32), np.dtype(np.float64)]


def run(kernel, dtype, x, *arguments, threads=THREADS):
    space = NumbaSpace()
    out = space.upload(np.full(len(x), -1, dtype))
    blocks = -(-len(x) // threads)
    kernel(space.stream, dtype, blocks, threads, space.upload(x), *arguments, out)
    return space.download(out)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_helpers_constants_and_written_out_arithmetic(dtype):
    x = np.linspace(0.5, 2, 3 * THREADS - 1).astype(dtype)
    expected = 0.5 * x + 0.5 + 1 / np.sqrt(x) + 1 + x + x**2 + 2
    found = run(samples.clean(2), dtype, x)
    np.testing.assert_allclose(found, expected, rtol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_coincident_points_have_no_inverse_distance(dtype):
    zero = run(samples.clean(0), dtype, np.zeros(1, dtype))
    assert zero == 0.5 + 1  # the powers and the shift; no infinity


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_shared_memory_has_the_kernels_type(dtype):
    x = np.random.default_rng(0).random(3 * THREADS - 1).astype(dtype)
    padded = np.append(x, dtype.type(0)).reshape(3, THREADS)
    expected = padded[:, ::-1].ravel()[: len(x)]
    found = run(samples.reversed_blocks(THREADS), dtype, x)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_numbers_of_arguments_become_of_the_kernels_type(dtype):
    x = np.arange(1, 7).astype(dtype)
    found = run(samples.with_scalars(0), dtype, x, 0.1, 2)
    np.testing.assert_array_equal(found[2:], dtype.type(0.1) * x[2:])
    np.testing.assert_array_equal(found[:2], -1)


def test_no_blocks_are_no_launch():
    space = NumbaSpace()
    empty = space.upload(np.zeros(0))
    samples.clean(3)(space.stream, np.float64, 0, THREADS, empty, empty)
    assert ("cuda_samples", "clean", (3,)) not in {key[:3] for key in launched}


def test_kernels_are_made_once():
    assert samples.clean(2) is samples.clean(2)
    assert samples.clean(2) is not samples.clean(1)


@pytest.mark.skipif(not SIMULATED, reason="launches are remembered in the simulator")
def test_launches_are_remembered_by_types():
    run(samples.with_scalars(7), np.float32, np.ones(2, np.float32), 1.5, 0)
    types = ("float32[1]", "float32", "int64", "float32[1]")
    assert ("cuda_samples", "with_scalars", (7,), "float32", types) in launched


def test_copies_leave_the_original_alone():
    def original(x):
        return 0.1 * x + samples_table[0]

    samples_table = samples.TABLE
    copy = retargeted(original, np.float32)
    assert type(copy(np.float32(1))) is np.float32
    assert type(original(np.float32(1))) is not np.float32
    assert samples.TABLE.dtype == np.float64


def test_arrays_go_up_and_come_back():
    space = NumbaSpace()
    for shape in ((0,), (3,), (2, 3), (4, 0, 2)):
        array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        there = space.upload(array)
        assert view(there) is there and space.give(there) is there
        assert isinstance(space_of(there), NumbaSpace)
        np.testing.assert_array_equal(space.download(there), array)


def test_constants_go_up_once():
    calls = []

    def make():
        calls.append(1)
        return np.arange(3.0)

    first = NumbaSpace().constant(("test", id(calls)), make)
    assert NumbaSpace().constant(("test", id(calls)), make) is first
    assert len(calls) == 1


def test_what_is_no_array_of_a_device_is_refused():
    with pytest.raises(TypeError, match=r"expected an array on a GPU .* got list"):
        view([1.0])
