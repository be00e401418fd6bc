"""What the shared argument checks accept, and what their messages say."""

import numpy as np
import pytest

import multipoles as mp
from multipoles import checks


class OnGPU:
    __cuda_array_interface__ = {"shape": (1, 3)}  # noqa: RUF012


class Refuses:
    @property
    def __cuda_array_interface__(self):
        raise RuntimeError("requires grad")


class NeedsDetach:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad")


def test_points_accepts_what_numpy_reads():
    assert checks.points([[1, 2, 3]], "x").dtype == np.float64
    assert checks.points(np.ones((2, 3), np.int32), "x").dtype == np.float64
    assert checks.points(np.ones((2, 3), np.float32), "x").dtype == np.float32
    assert checks.points(np.empty((0, 3)), "x").shape == (0, 3)
    view = np.ones((3, 4)).T[::2]
    assert checks.points(view, "x").flags.c_contiguous
    swapped = checks.points(np.ones((2, 3), ">f8"), "x")
    assert swapped.dtype.isnative and (swapped == 1).all()


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        ([1.0, 2.0, 3.0], ValueError, r"x: expected shape \(n, 3\), got \(3,\).*x\[None, :\]"),
        (np.ones((2, 2)), ValueError, r"got \(2, 2\)"),
        ([[1, 2, 3], [1, 2]], ValueError, "rectangular"),
        ([[1, np.nan, 3], [np.inf, 1, 2]], ValueError, r"x\[0, 1\] is nan \(and 1 more\)"),
        (np.ones((1, 3), np.float16), TypeError, "float16"),
        (np.ones((1, 3), complex), TypeError, "complex128"),
        (np.ones((1, 3), bool), TypeError, "bool"),
        ([["1", "2", "3"]], TypeError, "expected float32, float64 or integers"),
        (None, TypeError, "object"),
        (OnGPU(), TypeError, "lies on a GPU.*copy it to the CPU"),
        (Refuses(), TypeError, "lies on a GPU"),
        (NeedsDetach(), TypeError, "cannot be read as a NumPy array: Can't call"),
    ],
)
def test_points_refuses(x, error, words):
    with pytest.raises(error, match=words):
        checks.points(x, "x")


def test_moments_adds_a_channel_axis():
    array, order, had = checks.moments(np.ones((3, 10), np.float32), 3)
    assert (array.shape, order, had, array.dtype) == ((3, 1, 10), 2, False, np.float32)
    array, order, had = checks.moments(np.ones((3, 4, 1)), 3)
    assert (array.shape, order, had) == ((3, 4, 1), 0, True)


@pytest.mark.parametrize(
    ("M", "words"),
    [
        (
            np.ones(4),
            r"charges alone are an array of shape \(3,\), .* of one site moments\[None, :\]",
        ),
        (np.ones((2, 4)), "expected 3 sites, one per point"),
        (np.ones((3, 5)), "1, 4, 10, 20"),
        (np.ones((3, 0)), "1, 4, 10, 20"),
        (np.full((3, 2, 4), np.inf), r"moments\[0, 0, 0\] is inf \(and 23 more\)"),
    ],
)
def test_moments_refuses(M, words):
    with pytest.raises(ValueError, match=words):
        checks.moments(M, 3)


def test_common_dtype():
    single, double = np.ones(2, np.float32), np.ones(2)
    assert checks.common_dtype(single, None, single) == np.float32
    assert checks.common_dtype(single, double) == np.float64
    assert checks.common_dtype(single, [1.0]) == np.float64
    assert checks.common_dtype() == np.float64


def test_order():
    assert checks.order(np.int64(3)) == 3 and type(checks.order(np.int64(3))) is int
    for wrong, error in [(-1, ValueError), (9, ValueError), (1.0, TypeError), (True, TypeError)]:
        with pytest.raises(error, match="order: expected an integer"):
            checks.order(wrong, maximum=8)


def test_batches():
    assert checks.batches(None, None, 2, 3) == (None, None)
    t, s = checks.batches([0, 2], np.array([0, 0, 5], np.int8), 2, 3)
    assert t.dtype == s.dtype == np.int64
    with pytest.raises(ValueError, match="target_batch is given but source_batch is not"):
        checks.batches([0, 0], None, 2, 2)
    with pytest.raises(ValueError, match="source_batch is given but target_batch is not"):
        checks.batches(None, [0, 0], 2, 2)


@pytest.mark.parametrize(
    ("batch", "error", "words"),
    [
        ([0, 1], ValueError, r"expected shape \(3,\)"),
        ([0, 0.5, 1], TypeError, "b: expected integers, got float64"),
        ([-1, 0, 0], ValueError, r"b\[0\] is -1"),
        ([0, 2, 1], ValueError, r"b\[1\] = 2 is followed by 1; sort"),
    ],
)
def test_batch_index_refuses(batch, error, words):
    with pytest.raises(error, match=words):
        checks.batch_index(batch, 3, "b")


def test_pair_list():
    assert checks.pair_list(None, 1, 1) is None
    assert checks.pair_list([], 1, 1).shape == (0, 2)
    pairs = checks.pair_list(np.array([[0, 1], [1, 4]], np.int32), 2, 5)
    assert pairs.dtype == np.int64 and pairs.flags.c_contiguous


@pytest.mark.parametrize(
    ("pairs", "error", "words"),
    [
        (np.ones((2, 5), int), ValueError, r"expected shape \(n_pairs, 2\).*transpose"),
        ([[0.0, 1.0]], TypeError, "expected integers"),
        ([[0, 1], [2, 1]], ValueError, r"pairs\[1, 0\] is 2, but there are 2 targets"),
        ([[0, 5]], ValueError, r"pairs\[0, 1\] is 5, but there are 5 sources"),
        ([[0, -1]], ValueError, r"pairs\[0, 1\] is -1"),
    ],
)
def test_pair_list_refuses(pairs, error, words):
    with pytest.raises(error, match=words):
        checks.pair_list(pairs, 2, 5)


def test_pair_scale_puts_the_smaller_index_first():
    assert checks.pair_scale(None, 3) is None
    pairs, factors = checks.pair_scale(([[2, 0], [0, 1]], [0, 1]), 3)
    np.testing.assert_array_equal(pairs, [[0, 2], [0, 1]])
    assert factors.dtype == np.float64
    pairs, factors = checks.pair_scale(([], []), 3)
    assert pairs.shape == (0, 2) and factors.shape == (0,)


@pytest.mark.parametrize(
    ("scale", "error", "words"),
    [
        (5, TypeError, "expected a tuple"),
        (([[0, 1]],), TypeError, "expected a tuple"),
        (([[0, 1]], [1.0, 2.0]), ValueError, "one factor per pair"),
        (([[0, 1]], [np.nan]), ValueError, r"factors\[0\] is nan"),
        (([[0, 3]], [1.0]), ValueError, "there are 3 sites"),
        (([[1, 1]], [1.0]), ValueError, "pairs site 1 with itself"),
        (([[0, 1], [2, 1], [1, 0]], [1.0, 1.0, 1.0]), ValueError, r"\(0, 1\) comes more than once"),
    ],
)
def test_pair_scale_refuses(scale, error, words):
    with pytest.raises(error, match=words):
        checks.pair_scale(scale, 3)


def test_coordinates_whose_squares_overflow_are_refused():
    for dtype, large in ((np.float32, 1e20), (np.float64, 1e160)):
        with pytest.raises(ValueError, match="squares of distances overflow"):
            checks.points(np.full((2, 3), large, dtype), "x")
    assert checks.points(np.full((2, 3), 1e18, np.float32), "x").dtype == np.float32


def test_empty_pair_list_of_floats():
    assert checks.pair_list(np.zeros((0, 2)), 3, 3).shape == (0, 2)


@pytest.mark.parametrize(
    "masked",
    [
        np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0]),
        [1.0, np.ma.masked, 3.0],
        np.ma.masked_invalid([1.0, np.nan, 3.0]),
    ],
)
def test_masked_values_are_refused(masked):
    for call in (
        lambda: checks.real(masked, "x"),
        lambda: checks.moments(masked, 3, "x"),
        lambda: checks.points([masked, masked], "x"),
        lambda: mp.pack(charges=masked),
        lambda: mp.Coulomb().chain(masked, 1),
    ):
        with pytest.raises(ValueError, match="masked array with masked values"):
            call()
    with pytest.raises(ValueError, match="b: expected numbers only, got a masked"):
        checks.batch_index(np.ma.array([0, 1], mask=[0, 1]), 2, "b")


def test_masked_arrays_that_mask_nothing_are_arrays():
    x = checks.real(np.ma.array([1.0, 2.0], mask=[0, 0]), "x")
    assert type(x) is np.ndarray


def test_charges_alone():
    array, order, had = checks.moments(np.arange(3), 3)
    assert (array.shape, order, had, array.dtype) == ((3, 1, 1), 0, False, np.float64)
    # without a number of sites they could be the components of one
    with pytest.raises(ValueError, match=r"pack\(charges=.*one site moments\[None, :\]"):
        checks.moments(np.ones(4), None)
    rng = np.random.default_rng(1)
    x, q = rng.standard_normal((5, 3)), rng.standard_normal(5)
    np.testing.assert_array_equal(mp.field(x, x, q, 2), mp.field(x, x, q[:, None], 2))
    assert mp.energy(x, q) == mp.energy(x, q[:, None])
    scale = ([[0, 1]], [0.5])
    total, forces, gradients = mp.energy_forces(x, q, pair_scale=scale)
    expected = mp.energy_forces(x, q[:, None], pair_scale=scale)
    assert total == expected[0] and gradients.shape == (5,)
    np.testing.assert_array_equal(forces, expected[1])
    np.testing.assert_array_equal(gradients, expected[2][:, 0])
    assert not mp.torques(q, gradients).any() and mp.torques(q, gradients).shape == (5, 3)
    np.testing.assert_allclose(mp.reference.energy_forces(x, q, pair_scale=scale)[2], gradients)
