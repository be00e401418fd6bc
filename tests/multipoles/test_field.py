"""mp.field against the slow twin and against physics known otherwise."""

import numpy as np
import pytest

import multipoles as mp
from multipoles import validation
from multipoles.neighbours import PairList, Slots
from multipoles.sums import field_arrays


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def relative(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def test_every_kernel_order_dtype_and_kind_of_sum():
    lines = []
    rows = validation.validate(lines.append)
    assert len(lines) == len(rows) + 1
    assert {row.dtype for row in rows} == {"float32", "float64"}
    assert [row for row in rows if not row.ok] == []


def test_validation_can_fail(monkeypatch):
    monkeypatch.setattr(validation, "KERNELS", (mp.Coulomb(),))
    wrong = mp.reference.field
    monkeypatch.setattr(validation.reference, "field", lambda *a, **k: wrong(*a, **k) * (1 + 1e-9))
    rows = validation.validate()
    assert any(not row.ok for row in rows)


@pytest.mark.parametrize("order", [0, 1, 2, 6])
@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_channels_are_independent(rng, order, channels):
    x, s = rng.standard_normal((5, 3)), rng.standard_normal((21, 3))
    moments = rng.standard_normal((21, channels, 10))
    phi = mp.field(x, s, moments, order)
    assert phi.shape == (5, channels, mp.n_components(order))
    for c in range(channels):
        np.testing.assert_allclose(
            phi[:, c], mp.field(x, s, moments[:, c], order), rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("kernel", validation.KERNELS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_coincident_points_contribute_nothing(rng, kernel, dtype):
    x = rng.standard_normal((19, 3)).astype(dtype)
    moments = rng.standard_normal((19, 20)).astype(dtype)
    phi = mp.field(x, x, moments, 3, kernel)
    assert phi.dtype == dtype and np.isfinite(phi).all()
    for i in (0, 7, 18):
        others = np.arange(19) != i
        alone = mp.field(x[i : i + 1], x[others], moments[others], 3, kernel)
        np.testing.assert_allclose(phi[i], alone[0], rtol=2e-4 if dtype == np.float32 else 1e-11)
    same = np.repeat(x[:1], 19, axis=0)
    assert not mp.field(same, same, moments, 3, kernel).any()


@pytest.mark.parametrize("n_targets, n_sources", [(0, 5), (5, 0), (0, 0), (1, 1), (3, 17)])
def test_few_and_no_points(rng, n_targets, n_sources):
    x, s = rng.standard_normal((n_targets, 3)), rng.standard_normal((n_sources, 3))
    for source_order in (0, 2):
        moments = rng.standard_normal((n_sources, mp.n_components(source_order)))
        for order in (0, 1, 3):
            phi = mp.field(x, s, moments, order)
            expected = mp.reference.field(x, s, moments, order)
            np.testing.assert_allclose(phi, expected, rtol=1e-10, atol=1e-12)
    assert mp.field(x, s, np.zeros((n_sources, 0, 4)), 1).shape == (n_targets, 0, 4)


def test_batches_are_the_systems_one_by_one(rng):
    # systems of very different size; one without targets, one without sources
    target_batch = np.repeat([0, 1, 3, 4, 9], [3, 1, 30, 2, 5])
    source_batch = np.repeat([0, 1, 2, 3, 9], [20, 1, 4, 7, 33])
    x, s = rng.standard_normal((41, 3)), rng.standard_normal((65, 3))
    for source_order, order in ((0, 1), (2, 2)):
        moments = rng.standard_normal((65, mp.n_components(source_order)))
        phi = mp.field(x, s, moments, order, target_batch=target_batch, source_batch=source_batch)
        for system in range(10):
            t, u = target_batch == system, source_batch == system
            np.testing.assert_allclose(
                phi[t], mp.field(x[t], s[u], moments[u], order), rtol=1e-12, atol=1e-13
            )


def test_pair_list_in_any_order_with_repeats(rng):
    x, s = rng.standard_normal((9, 3)), rng.standard_normal((14, 3))
    moments = rng.standard_normal((14, 2, 4))
    pairs = np.array([[3, 1], [0, 0], [3, 1], [8, 13], [3, 2], [0, 5]])
    for order in (0, 2):
        np.testing.assert_allclose(
            mp.field(x, s, moments, order, pairs=pairs),
            mp.reference.field(x, s, moments, order, pairs=pairs),
            rtol=1e-11,
            atol=1e-13,
        )
    assert not mp.field(x, s, moments, 1, pairs=np.zeros((0, 2), int)).any()


def test_weights_of_a_pair_list(rng):
    x, s = rng.standard_normal((4, 3)), rng.standard_normal((6, 3))
    moments = rng.standard_normal((6, 1, 4))
    pairs, weights = np.array([[1, 2], [0, 5], [1, 3]]), np.array([0.5, -2.0, 0.0])
    phi = field_arrays(x, s, moments, 1, mp.Coulomb(), PairList(pairs, 4, 6, weights))
    parts = [field_arrays(x, s, moments, 1, mp.Coulomb(), PairList(p[None], 4, 6)) for p in pairs]
    np.testing.assert_allclose(phi, sum(w * p for w, p in zip(weights, parts, strict=True)))


@pytest.mark.parametrize("kind", ["all", "batches", "pairs"])
def test_transposed_neighbours_give_the_adjoint(rng, kind):
    # <W, F M> = <F' W, M>: F' has targets and sources exchanged, orders too
    x, s = rng.standard_normal((12, 3)), rng.standard_normal((17, 3))
    neighbours = {
        "all": Slots(12, 17),
        "batches": Slots(12, 17, np.arange(12) // 5, np.arange(17) // 6),
        "pairs": PairList(np.argwhere(rng.random((12, 17)) < 0.3), 12, 17),
    }[kind]
    moments, weights = rng.standard_normal((17, 3, 10)), rng.standard_normal((12, 3, 20))
    forward = (weights * field_arrays(x, s, moments, 3, mp.Thole(0.4), neighbours)).sum()
    back = field_arrays(s, x, weights, 2, mp.Thole(0.4), neighbours.transposed)
    assert neighbours.transposed.transposed is neighbours
    np.testing.assert_allclose(forward, (moments * back).sum(), rtol=1e-10)


def test_next_order_is_the_derivative(rng):
    s, moments = rng.standard_normal((6, 3)), rng.standard_normal((6, 10))
    x, h = rng.standard_normal((2, 3)) + 4.0, 1e-5
    gradient = mp.field(x, s, moments, 1)[:, 1:]
    for axis in range(3):
        step = np.eye(3)[axis] * h
        slope = mp.field(x + step, s, moments, 0) - mp.field(x - step, s, moments, 0)
        np.testing.assert_allclose(gradient[:, axis], slope[:, 0] / (2 * h), rtol=1e-7)


def test_shrinking_cluster_of_charges(rng):
    """A quadrupole's field is the limit of its charges' field; the error falls with their size."""
    place, q = rng.standard_normal((8, 3)), rng.standard_normal(8)
    x = np.array([[3.0, -2.0, 1.0], [0.5, 4.0, -1.0]])
    errors = []
    for size in (0.1, 0.05, 0.025):
        d = place * size
        moments = mp.pack(
            charges=[q.sum()],
            dipoles=[(q[:, None] * d).sum(axis=0)],
            quadrupoles=[0.5 * np.einsum("n,na,nb->ab", q, d, d)],
        )
        exact = mp.field(x, d, q[:, None], 2)
        errors.append(np.linalg.norm(mp.field(x, np.zeros((1, 3)), moments, 2) - exact))
    # the octupole is left out: third order
    assert 2.7 < np.log2(errors[0] / errors[1]) < 3.3
    assert 2.8 < np.log2(errors[1] / errors[2]) < 3.2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("source_order, order", [(0, 1), (2, 2)])
def test_threads_change_nothing(rng, dtype, source_order, order):
    x = rng.standard_normal((3000, 3)).astype(dtype)
    moments = rng.standard_normal((3000, mp.n_components(source_order))).astype(dtype)
    before = mp.get_num_threads()
    try:
        mp.set_num_threads(1)
        one = mp.field(x, x, moments, order)
        mp.set_num_threads(3)
        three = mp.field(x, x, moments, order)
    finally:
        mp.set_num_threads(before)
    np.testing.assert_array_equal(one, three)


def test_inputs_are_left_alone_and_may_be_strided(rng):
    x = np.asfortranarray(rng.standard_normal((10, 3)))
    moments = rng.standard_normal((10, 20))[:, ::5]
    copies = x.copy(), moments.copy()
    phi = mp.field(x, x, moments, 2)
    np.testing.assert_array_equal(x, copies[0])
    np.testing.assert_array_equal(moments, copies[1])
    np.testing.assert_allclose(phi, mp.reference.field(x, x, moments, 2), rtol=1e-10)
    x.flags.writeable = False
    np.testing.assert_array_equal(phi, mp.field(x, x, moments, 2))


def test_mixed_dtypes_give_float64(rng):
    x = rng.standard_normal((4, 3)).astype(np.float32)
    assert mp.field(x, x, np.ones((4, 1)), 1).dtype == np.float64
    assert mp.field(x, x, np.ones((4, 1), np.float32), 1).dtype == np.float32


POINTS = np.arange(12.0).reshape(4, 3)
ONES = np.ones((4, 1))


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: mp.field(POINTS[:, :2], POINTS, ONES), ValueError, "targets: expected shape"),
        (lambda: mp.field(POINTS * np.nan, POINTS, ONES), ValueError, "targets.*nan"),
        (lambda: mp.field(POINTS, POINTS, ONES[:3]), ValueError, "expected 4 sites"),
        (lambda: mp.field(POINTS, POINTS, np.ones((4, 5))), ValueError, "components"),
        (lambda: mp.field(POINTS, POINTS, ONES, order=-1), ValueError, "order"),
        (lambda: mp.field(POINTS, POINTS, ONES, order=1.5), TypeError, "order"),
        (lambda: mp.field(POINTS, POINTS, ONES, order=99), ValueError, "order"),
        (lambda: mp.field(POINTS, POINTS, np.ones((4, 35)), 30), ValueError, "at most 32"),
        (lambda: mp.field(POINTS, POINTS, ONES, kernel="coulomb"), TypeError, "kernel must be"),
        (lambda: mp.field(POINTS, POINTS, ONES, kernel=mp.Coulomb), TypeError, "call it"),
        (lambda: mp.field(POINTS, POINTS, ONES, pairs=[[0, 4]]), ValueError, "sources"),
        (
            lambda: mp.field(POINTS, POINTS, ONES, target_batch=[0, 1, 0, 1], source_batch=[0] * 4),
            ValueError,
            "sorted",
        ),
        (lambda: mp.field(POINTS, POINTS, ONES, target_batch=[0] * 4), ValueError, "both"),
        (
            lambda: mp.field(
                POINTS, POINTS, ONES, pairs=[[0, 1]], target_batch=[0] * 4, source_batch=[0] * 4
            ),
            ValueError,
            "not both",
        ),
        (lambda: mp.set_num_threads(0), ValueError, "threads: expected an integer in 1"),
    ],
)
def test_wrong_input(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    ("dtype", "base", "top"),
    [
        *((*kind, top) for kind in ((np.float64, 40.0), (np.float32, 18.0)) for top in (2, 8)),
        pytest.param(np.float64, 40.0, 14, marks=pytest.mark.slow),
        pytest.param(np.float32, 18.0, 14, marks=pytest.mark.slow),
    ],
)
def test_screened_charges_seen_from_afar(dtype, base, top):
    """Around the distance from which erf(alpha r)/r is summed as 1/r."""
    alpha, order = 2.0, top // 2
    rng = np.random.default_rng(top)
    threshold = np.sqrt(base + 2.1 * top) / alpha
    directions = rng.standard_normal((24, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    x = (directions * threshold * np.linspace(0.6, 1.1, 24)[:, None]).astype(dtype)
    moments = rng.standard_normal((1, mp.n_components(top - order))).astype(dtype)
    origin = np.zeros((1, 3), dtype)
    for i in range(len(x)):
        point, kernel = x[i : i + 1], mp.Erf(alpha)
        errors = [
            np.linalg.norm(got - expected) / np.linalg.norm(expected)
            for got, expected in (
                (
                    f(point, origin, moments, order=order, kernel=k),
                    mp.reference.field(point, origin, moments, order=order, kernel=k),
                )
                for f, k in ((mp.field, kernel), (mp.field, mp.Coulomb()))
            )
        ]
        # as good as the bare charge, up to rounding
        assert errors[0] < 4 * errors[1] + 50 * np.finfo(dtype).eps
