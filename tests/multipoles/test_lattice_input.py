"""Cells, and what goes with them, that an enemy would give."""

import numpy as np
import pytest

import multipoles as mp

X = np.array([[0.0, 0.0, 0.0], [0.5, 0.4, 0.1], [0.2, 0.7, 0.9], [0.8, 0.1, 0.6]])
Q = np.array([1.0, -1.0, 1.0, -1.0])
CELL = np.array([[1.0, 0.1, 0.0], [0.0, 1.1, 0.2], [0.1, 0.0, 0.9]])
SLAB = (True, True, False)
BATCH = np.array([0, 0, 1, 1])


def field(**options):
    return mp.field(X, X, Q, **{"cell": CELL, **options})


def energy(**options):
    return mp.energy(X, Q, **{"cell": CELL, **options})


def energy_forces(**options):
    return mp.energy_forces(X, Q, **{"cell": CELL, **options})


ALL = pytest.mark.parametrize("call", [field, energy, energy_forces], ids=lambda f: f.__name__)


def changed(place, value):
    cell = CELL.copy()
    cell[place] = value
    return cell


@ALL
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"cell": changed(2, CELL[0] - 2 * CELL[1])}, ValueError, "dependent|volume"),
        ({"cell": changed(2, CELL[0] + 1e-14)}, ValueError, "dependent|volume"),
        ({"cell": changed(1, 3 * CELL[0]), "periodic": SLAB}, ValueError, "dependent|area"),
        ({"cell": changed((1, 2), np.nan)}, ValueError, "nan"),
        ({"cell": changed((0, 0), np.inf)}, ValueError, "inf"),
        ({"cell": changed(1, 0.0)}, ValueError, "zero"),
        ({"cell": changed(0, 0.0), "periodic": (True, False, False)}, ValueError, "zero"),
        ({"cell": np.zeros((3, 3))}, ValueError, "zero"),
        ({"cell": CELL[:2]}, ValueError, "shape"),
        ({"cell": CELL[0]}, ValueError, "shape"),
        ({"cell": np.diag(CELL)}, ValueError, "shape"),
        ({"cell": 1.0}, (TypeError, ValueError), "cell"),
        ({"cell": "cubic"}, (TypeError, ValueError), "cell"),
        ({"cell": CELL + 1j}, TypeError, "cell"),
        ({"cell": CELL > 0}, TypeError, "cell"),
        ({"cell": [[1.0, 0, 0], [0, 1.0], [0, 0, 1.0]]}, ValueError, "cell"),
        ({"periodic": False}, ValueError, "periodic"),
        ({"periodic": (False, False, False)}, ValueError, "periodic"),
        ({"periodic": (True, True)}, ValueError, "periodic"),
        ({"periodic": (True,) * 4}, ValueError, "periodic"),
        ({"periodic": (1, 1, 0)}, TypeError, "periodic"),
        ({"periodic": "xyz"}, (TypeError, ValueError), "periodic"),
        ({"periodic": None}, TypeError, "periodic"),
        ({"tolerance": 0.0}, ValueError, "tolerance"),
        ({"tolerance": -1e-6}, ValueError, "tolerance"),
        ({"tolerance": np.nan}, ValueError, "tolerance"),
        ({"tolerance": 2.0}, ValueError, "tolerance"),
        ({"tolerance": 1e-40}, ValueError, "tolerance"),
        ({"tolerance": "high"}, (TypeError, ValueError), "tolerance"),
        ({"tolerance": True}, (TypeError, ValueError), "tolerance"),
        ({"background": "yes"}, TypeError, "background"),
        ({"background": None}, TypeError, "background"),
        ({"surface": "tin"}, ValueError, "surface"),
        ({"surface": None}, (TypeError, ValueError), "surface"),
        ({"surface": "vacuum", "periodic": SLAB}, ValueError, "surface"),
        ({"surface": "vacuum", "periodic": (False, True, False)}, ValueError, "surface"),
        ({"cell": np.stack([CELL, CELL])}, ValueError, "batch"),
        ({"cell": np.stack([CELL])}, ValueError, "batch"),
        ({"kernel": mp.InversePower(4.0)}, (TypeError, ValueError), "InversePower"),
        ({"kernel": "coulomb"}, TypeError, "kernel"),
    ],
)
def test_wrong_cell(call, options, error, words):
    with pytest.raises(error, match=words):
        call(**options)


def test_kernels_of_users_have_no_sum_over_a_lattice():
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Steep(mp.Kernel):
        width: float

        @staticmethod
        def write_chain(r2, parameters, last, out):
            for n in range(last + 1):
                out[n] = r2

    for call in (field, energy, energy_forces):
        with pytest.raises((TypeError, ValueError), match="Steep"):
            call(kernel=Steep(1.0))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: field(pairs=[[0, 1]]), ValueError, "pairs"),
        (lambda: mp.energy_forces(X, Q, virial=True), ValueError, "cell"),
        # systems without a cell of their own
        (
            lambda: field(cell=CELL[None], target_batch=BATCH, source_batch=BATCH),
            ValueError,
            "cell|system",
        ),
        (lambda: energy(cell=np.stack([CELL] * 1), batch=BATCH), ValueError, "cell|system"),
        (lambda: energy(cell=np.zeros((0, 3, 3)), batch=BATCH), ValueError, "cell|system"),
        (lambda: energy_forces(cell=np.stack([CELL] * 2)[:, :2], batch=BATCH), ValueError, "shape"),
        (
            lambda: energy(cell=np.stack([CELL, changed(1, 0.0)]), batch=BATCH),
            ValueError,
            r"cell\[1",
        ),
        (
            lambda: energy(cell=np.stack([CELL, changed((0, 0), np.nan)]), batch=BATCH),
            ValueError,
            "nan",
        ),
        (lambda: mp.field(X * np.nan, X, Q, cell=CELL), ValueError, "targets.*nan"),
        (lambda: mp.energy(X, Q[:3], cell=CELL), ValueError, "4"),
        (lambda: mp.field(X, X, Q, 40, cell=CELL), ValueError, "order"),
    ],
)
def test_wrong_combinations(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    ("name", "value"),
    [("periodic", SLAB), ("tolerance", 1e-6), ("background", False), ("surface", "vacuum")],
)
def test_options_of_a_cell_without_one(name, value):
    """They are not passed over in silence."""
    for call in (field, energy, energy_forces):
        with pytest.raises(ValueError, match="cell"):
            call(cell=None, **{name: value})


def test_charged_cells_can_be_refused():
    charged = Q + 0.1 * (Q > 0)
    for call in (
        lambda q, **o: mp.field(X, X, q, **o),
        lambda q, **o: mp.energy(X, q, **o),
        lambda q, **o: mp.energy_forces(X, q, **o),
    ):
        with pytest.raises(ValueError, match="charge"):
            call(charged, cell=CELL, background=False)
        call(Q, cell=CELL, background=False)
        # a sum that is zero but for rounding is no charge
        call(Q * 0.1 + np.array([0.1, 0.1, 0.1, -0.3]) / 3, cell=CELL, background=False)
        # the field of a charged slab needs no background
        call(charged, cell=CELL, periodic=SLAB, background=False)
    # one system, or one channel, of many
    cells = np.stack([CELL, CELL])
    with pytest.raises(ValueError, match="charge"):
        mp.energy(X, np.array([1.0, 1, -1, -1]), batch=BATCH, cell=cells, background=False)
    both = np.stack([Q, charged], axis=1)[:, :, None]
    with pytest.raises(ValueError, match="charge"):
        mp.energy(X, both, cell=CELL, background=False)


@pytest.mark.parametrize("periodic", [True, SLAB, (False, False, True)], ids=str)
@pytest.mark.parametrize("kernel", [mp.Coulomb(), mp.Yukawa(6.0), mp.Thole(0.6)], ids=str)
@pytest.mark.parametrize(("n_targets", "n_sources"), [(0, 0), (0, 4), (4, 0), (1, 1)])
def test_few_and_no_points(periodic, kernel, n_targets, n_sources):
    options = {"kernel": kernel, "cell": CELL, "periodic": periodic}
    phi = mp.field(X[:n_targets], X[:n_sources], Q[:n_sources], 1, **options)
    assert phi.shape == (n_targets, 4) and np.isfinite(phi).all()
    if not n_sources:
        assert not phi.any()
    x, q = X[:n_sources], Q[:n_sources]
    total, forces, gradients, virial = mp.energy_forces(x, q, virial=True, **options)
    assert forces.shape == x.shape and gradients.shape == q.shape and virial.shape == (3, 3)
    assert np.isfinite(total) and np.isfinite(virial).all()
    if n_sources < 2:
        assert not n_sources or np.abs(forces).max() < 1e-12
    if not n_sources:
        assert total == 0 and not virial.any()


def test_inputs_are_left_alone():
    cell, x, q = CELL.copy(), X.copy() + 9.0, Q.copy()
    copies = cell.copy(), x.copy(), q.copy()
    mp.energy_forces(x, q, cell=cell, virial=True)
    mp.field(x, x, q, 2, cell=cell, periodic=SLAB)
    for array, copy in zip((cell, x, q), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_cells_of_integers_lists_and_other_strides():
    cell = np.array([[2, 0, 0], [1, 3, 0], [0, 1, 2]])
    expected = mp.energy(X, Q, cell=cell.astype(float))
    assert mp.energy(X, Q, cell=cell) == expected
    assert mp.energy(X, Q, cell=cell.tolist()) == expected
    assert mp.energy(X, Q, cell=np.asfortranarray(cell.astype(float))) == expected
    assert mp.energy(X, Q, cell=cell.astype(np.float32)) == expected


def test_almost_coincident_points_are_no_error():
    """Very near is not coincident: the bare image is there, and huge."""
    near = np.concatenate([X, X[:1] + [1e-7, 0, 0] + CELL[1]])
    phi = mp.field(near[4:], near[:1], [1.0], 1, cell=CELL)[0]
    assert phi[0] == pytest.approx(1e7, rel=1e-6)
    # as near as numbers of this size can tell, from an image far away
    far = X[:1] + CELL.sum(axis=0) * 1000
    phi = mp.field(far, X[:1], [1.0], 1, cell=CELL)[0]
    alone = mp.field(X[:1], X[:1], [1.0], 1, cell=CELL)[0]
    np.testing.assert_allclose(phi, alone, atol=1e-9 * abs(alone[0]))


@pytest.mark.parametrize("kernel", [mp.Yukawa(2.0), mp.Erfc(2.0), mp.ReactionField(0.9)], ids=str)
def test_kernels_that_decay_have_neither_background_nor_surface(kernel):
    x, q = np.random.default_rng(0).random((6, 3)), np.ones(6)
    alone = mp.energy(x, q, kernel, cell=np.eye(3))
    assert mp.energy(x, q, kernel, cell=np.eye(3), background=False) == alone
    with pytest.raises(ValueError, match="surface"):
        mp.energy(x, q, kernel, cell=np.eye(3), surface="vacuum")
