"""Direct sums on a GPU at full size against the CPU; streams; arrays of other libraries."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("numba.cuda")

import torch
from on_gpu import EMULATED, is_there, put, same, sample, size, take, worst_order

import multipoles as mp

pytestmark = pytest.mark.gpu
BOUNDS = {np.float32: 1e-4, np.float64: 1e-12}
KERNELS = [
    mp.Coulomb(), mp.Yukawa(1.5), mp.Erf(2.0), mp.Erfc(2.0), mp.Thole(0.3), mp.Softened(0.1),
]  # fmt: skip


def points(n, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).random((n, 3)).astype(dtype)


def moments(n, order, channels=None, dtype=np.float32):
    shape = (n, mp.n_components(order)) if channels is None else (n, channels, -1)
    size = n * (channels or 1) * mp.n_components(order)
    return np.random.default_rng(5).standard_normal(size).reshape(shape).astype(dtype)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(("source_order", "order"), [(0, 1), (2, 3)])
def test_all_pairs_of_a_hundred_thousand(dtype, source_order, order):
    n = size(100_000, 10_000)
    x, m = points(n, dtype=dtype), moments(n, source_order, dtype=dtype)
    there = put(x)
    got = mp.field(there, there, put(m), order)
    assert is_there(got) and got.dtype == there.dtype
    chosen, expected = sample(x, x, m, order)
    # near pairs of random points round most in high derivatives
    bound = BOUNDS[dtype] * (10 if order > 1 else 1)
    assert worst_order(take(got)[chosen], expected, order) < bound


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
@pytest.mark.parametrize("dtype", BOUNDS)
def test_every_kernel(kernel, dtype):
    # points are the nodes of a lattice: the smallest distance is known
    grid = np.stack(np.meshgrid(*[np.arange(size(20, 10))] * 3, indexing="ij"), -1).reshape(-1, 3)
    x = (0.1 * grid).astype(dtype)
    m = moments(len(x), 1, channels=3, dtype=dtype)
    got = mp.field(put(x), put(x), put(m), 2, kernel=kernel)
    chosen, expected = sample(x, x, m, 2, kernel=kernel)
    assert worst_order(take(got)[chosen], expected, 2) < 10 * BOUNDS[dtype]


def test_four_thousand_molecules_in_one_launch():
    systems, atoms, particles = size(4096, 2048), 20, 300
    x, s = points(systems * atoms), points(systems * particles, 1)
    m = moments(len(s), 0)
    index = [np.repeat(np.arange(systems), count) for count in (atoms, particles)]
    got = take(
        mp.field(put(x), put(s), put(m), 2, target_batch=put(index[0]), source_batch=put(index[1]))
    )
    for one in (0, 1, 2047, systems - 1):
        rows, of = index[0] == one, index[1] == one
        expected = mp.reference.field(x[rows], s[of], m[of], 2)
        assert worst_order(got[rows], expected, 2) < 1e-4


def test_a_million_listed_pairs():
    x, s = points(20_000), points(30_000, 1)
    m = moments(len(s), 1)
    rng = np.random.default_rng(2)
    pairs = np.stack([rng.integers(0, len(x), 10**6), rng.integers(0, len(s), 10**6)], 1)
    got = mp.field(put(x), put(s), put(m), 1, pairs=put(pairs))
    wide = [array.astype(np.float64) for array in (x, s, m)]
    assert worst_order(take(got), mp.field(*wide, 1, pairs=pairs), 1) < 1e-4


@pytest.mark.parametrize("dtype", BOUNDS)
def test_energy_and_forces(dtype):
    x, m = points(5000, dtype=dtype), moments(5000, 1, dtype=dtype)
    energy, forces, gradients = mp.energy_forces(put(x), put(m))
    wide = x.astype(np.float64), m.astype(np.float64)
    expected = mp.energy_forces(*wide)
    bound = 10 * BOUNDS[dtype]
    assert float(energy) == pytest.approx(expected[0], rel=100 * bound)
    assert worst_order(take(forces), expected[1], 0) < bound
    assert worst_order(take(gradients), expected[2], 1) < bound


def test_every_run_gives_the_same_bits():
    n = size(50_000, 20_000)
    x, m = put(points(n)), put(moments(n, 1))
    first = mp.field(x, x, m, 1)
    assert all(same(first, mp.field(x, x, m, 1)) for _ in range(3))


@pytest.mark.skipif(EMULATED, reason="there is one stream")
def test_other_stream_and_no_wait():
    x, m = put(points(100_000)), put(moments(100_000, 0))
    expected = mp.field(x, x, m, 1)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # work that is queued before: about a tenth of a second
        doubled = 2 * m
        got = mp.field(x, x, doubled, 1)
        assert not stream.query(), "the call waited for the stream"
    stream.synchronize()
    torch.testing.assert_close(got, 2 * expected, rtol=1e-5, atol=0)


def test_devices_and_dtypes_are_not_mixed():
    x, m = put(points(10)), put(moments(10, 0))
    with pytest.raises(TypeError, match="CPU"):
        mp.field(x, x, moments(10, 0), 1)
    with pytest.raises(TypeError, match="CPU"):
        mp.field(x, points(10), m, 1)
    with pytest.raises(TypeError, match="float64"):
        mp.field(x, x, put(moments(10, 0, dtype=np.float64)), 1)


def libraries():
    """Yield name, copy to the GPU and copy back of the libraries that are installed."""
    from numba import cuda

    yield "numba", cuda.to_device, lambda array: array.copy_to_host()
    try:
        import cupy

        yield "cupy", cupy.asarray, cupy.asnumpy
    except ImportError:
        pass
    try:
        import jax

        gpu = jax.devices("gpu")[0]
        yield "jax", lambda array: jax.device_put(array, gpu), np.asarray
    except (ImportError, RuntimeError):
        pass


def test_results_of_jax_outlive_what_made_them():
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("this JAX has no GPU")
    x, m = points(20_000), moments(20_000, 0)
    expected = take(mp.field(put(x), put(x), put(m), 1)).astype(np.float32)
    there, charges = jax.numpy.asarray(x), jax.numpy.asarray(m)
    found = [mp.field(there, there, charges * scale, 1) for scale in (1.0, 2.0, 4.0)]
    # of inputs that JAX may still be writing; memory that nobody held would be taken by the next
    for scale, array in zip((1.0, 2.0, 4.0), found, strict=True):
        np.testing.assert_allclose(np.asarray(array), scale * expected, rtol=1e-6)


def test_results_are_of_the_callers_library():
    x, m = points(1000), moments(1000, 1)
    expected = take(mp.field(put(x), put(x), put(m), 1))
    for name, there, back in libraries():
        given = there(x)
        got = mp.field(given, given, there(m), 1)
        assert type(got).__module__.partition(".")[0] == type(given).__module__.partition(".")[0]
        np.testing.assert_array_equal(back(got), expected.astype(np.float32), err_msg=name)
