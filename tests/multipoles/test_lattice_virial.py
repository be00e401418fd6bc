"""Energies of lattices and their derivatives: finite differences, laws of scaling and rotation."""

from itertools import combinations, product

import numpy as np
import pytest

import multipoles as mp
from multipoles.indexing import orders

SLAB, WIRE = (True, True, False), (True, False, False)
KINDS = pytest.mark.parametrize("periodic", [True, SLAB, WIRE], ids=["crystal", "slab", "wire"])
# angles of 62, 108 and 131 degrees
CELL = np.array([[1.0, 0.0, 0.0], [-0.85, 0.98, 0.0], [-0.25, 0.15, 0.75]])
KERNELS = [mp.Erf(2.0), mp.Thole(8.0), mp.Yukawa(6.0), mp.Erfc(2.5), mp.Softened(1.3, 12)]


@pytest.fixture
def rng():
    return np.random.default_rng(13)


def system(rng, order, n=5, neutral=False):
    """Return sites with distances that are not small, and their moments."""
    grid = np.array(list(product((0.0, 0.5), repeat=3)))[rng.permutation(8)[:n]]
    x = (grid + rng.uniform(-0.08, 0.08, (n, 3))) @ CELL + rng.integers(-2, 3, (n, 3)) @ CELL
    moments = rng.standard_normal((n, mp.n_components(order))) * 0.3 ** orders(order)
    if neutral:
        moments[:, 0] -= moments[:, 0].mean()
    return x, moments


def scaled_pairs(x):
    """Return the three pairs whose nearest image stays the nearest however they move."""
    shifts = np.array(list(product(range(-9, 10), repeat=3))) @ CELL
    pairs = np.array(list(combinations(range(len(x)), 2)))
    lengths = np.linalg.norm(x[pairs[:, 0], None] - x[pairs[:, 1], None] + shifts, axis=-1)
    nearest, second = np.sort(lengths, axis=1)[:, :2].T
    return pairs[np.argsort(nearest - second)[:3]], np.array([0.0, 0.4, 1.6])


def slope(energy, step=3e-4):
    """Return the derivative of a function at zero, by a difference of sixth order."""
    weights = (3 / 4, -3 / 20, 1 / 60)
    return (
        sum(w * (energy((k + 1) * step) - energy(-(k + 1) * step)) for k, w in enumerate(weights))
        / step
    )


def strained(x, moments, strain, cell=CELL, **options):
    """Return the energy after x_a -> x_a + strain_ab x_b of sites and cell."""
    map_ = np.eye(3) + strain
    return mp.energy(x @ map_.T, moments, cell=cell @ map_.T, **options)


def virial_by_differences(x, moments, cell=CELL, **options):
    found = np.zeros((3, 3))
    for place in np.ndindex(3, 3):
        unit = np.zeros((3, 3))
        unit[place] = 1.0
        found[place] = slope(lambda e, u=unit: strained(x, moments, e * u, cell, **options))
    return found


def assert_close(got, expected, digits=1e-8):
    assert np.abs(got - expected).max() < digits * np.abs(expected).max()


@pytest.mark.parametrize("order", range(4))
@KINDS
def test_all_nine_components(rng, periodic, order):
    x, moments = system(rng, order)
    virial = mp.energy_forces(x, moments, cell=CELL, periodic=periodic, virial=True)[3]
    assert virial.shape == (3, 3)
    assert_close(virial, virial_by_differences(x, moments, periodic=periodic))
    # multipoles feel torques: the tensor is not symmetric
    skew = np.abs(virial - virial.T).max() / np.abs(virial).max()
    assert (skew > 1e-3) == (order > 0)
    if order == 0:
        assert skew < 1e-11


@pytest.mark.parametrize("order", range(3))
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
@KINDS
def test_every_kernel(rng, periodic, kernel, order):
    x, moments = system(rng, order)
    options = {"kernel": kernel, "periodic": periodic}
    virial = mp.energy_forces(x, moments, cell=CELL, virial=True, **options)[3]
    # two strains of no symmetry stand for all
    for _ in range(2):
        strain = rng.standard_normal((3, 3))
        expected = slope(lambda e, s=strain: strained(x, moments, e * s, **options))
        assert abs((virial * strain).sum() - expected) < 1e-8 * np.abs(virial).max()


@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize("kernel", [mp.Coulomb(), mp.Thole(8.0)], ids=str)
@KINDS
def test_scaled_pairs(rng, periodic, kernel, order):
    x, moments = system(rng, order)
    options = {"kernel": kernel, "periodic": periodic, "pair_scale": scaled_pairs(x)}
    _, forces, _, virial = mp.energy_forces(x, moments, cell=CELL, virial=True, **options)
    strain = rng.standard_normal((3, 3))
    expected = slope(lambda e: strained(x, moments, e * strain, **options))
    assert abs((virial * strain).sum() - expected) < 1e-8 * np.abs(virial).max()
    assert_forces(rng, x, moments, forces, cell=CELL, **options)


@pytest.mark.parametrize("order", range(3))
@pytest.mark.parametrize("neutral", [True, False], ids=["neutral", "charged"])
def test_surface(rng, neutral, order):
    x, moments = system(rng, order, neutral=neutral)
    options = {"surface": "vacuum", "pair_scale": scaled_pairs(x)}
    total, forces, gradients, virial = mp.energy_forces(
        x, moments, cell=CELL, virial=True, **options
    )
    assert_close(virial, virial_by_differences(x, moments, **options))
    assert_forces(rng, x, moments, forces, cell=CELL, **options)
    # the sphere's own term, -2 pi/3V r^2 between all, is that of moments about the origin
    conductor = mp.energy(x, moments, cell=CELL, pair_scale=scaled_pairs(x))
    of_all = np.zeros(10)
    for site, packed in zip(x, moments, strict=True):
        some = np.zeros((1, 10))
        some[0, : min(10, len(packed))] = packed[:10]
        of_all += mp.shift(some, -site)[0]
    second = 2 * of_all[[4, 7, 9]].sum()
    expected = of_all[0] * second - of_all[1:4] @ of_all[1:4]
    expected *= -2 * np.pi / (3 * np.linalg.det(CELL))
    size = np.abs(moments * gradients).sum()
    assert abs(total - conductor - expected) < 1e-11 * size


def assert_forces(rng, x, moments, forces, **options):
    """Compare forces along some moves with differences of the energy."""
    for _ in range(2):
        move = rng.standard_normal(x.shape)
        expected = -slope(lambda e, m=move: mp.energy(x + e * m, moments, **options))
        assert abs((forces * move).sum() - expected) < 1e-8 * np.abs(forces).max()


@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize(
    "kernel", [mp.Coulomb(), *KERNELS], ids=lambda kernel: type(kernel).__name__
)
@KINDS
def test_forces(rng, periodic, kernel, order):
    x, moments = system(rng, order)
    options = {"kernel": kernel, "cell": CELL, "periodic": periodic}
    _, forces, gradients = mp.energy_forces(x, moments, **options)
    assert_forces(rng, x, moments, forces, **options)
    assert np.abs(forces.sum(axis=0)).max() < 1e-11 * np.abs(forces).sum()
    # the energy is quadratic in the moments
    move = rng.standard_normal(moments.shape) * 0.3 ** orders(order)
    changes = [mp.energy(x, moments + sign * move, **options) for sign in (1, -1)]
    expected = (changes[0] - changes[1]) / 2
    assert abs((gradients * move).sum() - expected) < 1e-10 * np.abs(gradients * move).sum()


@KINDS
def test_virial_of_charges_is_the_energy(rng, periodic):
    x, moments = system(rng, 0)
    total, _, _, virial = mp.energy_forces(x, moments, cell=CELL, periodic=periodic, virial=True)
    expected = -total
    if periodic is WIRE:  # its potential, -2 ln(rho)/L, has a unit of length
        expected -= moments.sum() ** 2 / np.linalg.norm(CELL[0])
    assert np.trace(virial) == pytest.approx(expected, abs=1e-11 * np.abs(virial).max())


@pytest.mark.parametrize("order", range(1, 4))
@KINDS
def test_scaling_of_everything(rng, periodic, order):
    """E(t x, t^|alpha| M) = E/t under Coulomb's law."""
    x, moments = system(rng, order, neutral=True)
    total, _, gradients, virial = mp.energy_forces(
        x, moments, cell=CELL, periodic=periodic, virial=True
    )
    expected = -total - (orders(order) * moments * gradients).sum()
    size = np.abs(moments * gradients).sum()
    assert np.trace(virial) == pytest.approx(expected, abs=1e-11 * size)


@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize("kernel", [mp.Coulomb(), mp.Thole(8.0)], ids=str)
@pytest.mark.parametrize("scaled", [False, True], ids=["all", "scaled"])
@KINDS
def test_antisymmetric_part_balances_torques(rng, periodic, kernel, order, scaled):
    """A rotation of sites, cell and moments together costs no energy."""
    x, moments = system(rng, order)
    scale = scaled_pairs(x) if scaled else None
    _, _, gradients, virial = mp.energy_forces(
        x, moments, kernel, scale, cell=CELL, periodic=periodic, virial=True
    )
    skew = virial - virial.T
    turning = np.array([skew[2, 1], skew[0, 2], skew[1, 0]])
    torque = mp.torques(moments, gradients).sum(axis=0)
    assert np.abs(turning - torque).max() < 1e-11 * np.abs(moments * gradients).sum()


@KINDS
def test_channels_add_up(rng, periodic):
    parts = [system(np.random.default_rng(i), 1)[1] for i in range(3)]
    x = system(rng, 1)[0]
    options = {"cell": CELL, "periodic": periodic, "virial": True}
    together = mp.energy_forces(x, np.stack(parts, axis=1), **options)
    alone = [mp.energy_forces(x, part, **options) for part in parts]
    assert together[0] == pytest.approx(sum(a[0] for a in alone), rel=1e-11)
    for k in (1, 3):
        assert_close(together[k], sum(a[k] for a in alone), 1e-11)
    assert_close(together[2], np.stack([a[2] for a in alone], axis=1), 1e-11)


def test_a_batch_has_one_virial_each(rng):
    cells = np.stack([CELL, CELL * 1.2])
    x, moments = system(rng, 2, n=8)
    batch = np.repeat([0, 1], [3, 5])
    virial = mp.energy_forces(x, moments, batch=batch, cell=cells, virial=True)[3]
    for b in (0, 1):
        those = batch == b
        expected = virial_by_differences(x[those], moments[those], cell=cells[b])
        assert_close(virial[b], expected)


@KINDS
def test_the_virial_does_not_depend_on_the_cell(rng, periodic):
    """Nor do its parts depend on where the sites are written down."""
    x, moments = system(rng, 2)
    d = int(np.sum(np.broadcast_to(periodic, 3)))
    virial = mp.energy_forces(x, moments, cell=CELL, periodic=periodic, virial=True)[3]
    other = CELL.copy()
    other[:d] = np.array([[1, 0, 0], [3, 1, 0], [-2, 4, 1]])[:d, :d] @ CELL[:d]
    moved = x + rng.integers(-5, 6, (len(x), d)) @ CELL[:d] + rng.standard_normal(3)
    again = mp.energy_forces(moved, moments, cell=other, periodic=periodic, virial=True)[3]
    assert_close(again, virial, 1e-10)


@KINDS
def test_charges_alone_may_be_one_axis(rng, periodic):
    x, moments = system(rng, 0)
    flat = mp.energy_forces(x, moments[:, 0], cell=CELL, periodic=periodic, virial=True)
    packed = mp.energy_forces(x, moments, cell=CELL, periodic=periodic, virial=True)
    assert flat[2].shape == (5,) and flat[0] == packed[0]
    for a, b in zip(flat[1:], packed[1:], strict=True):
        np.testing.assert_array_equal(a, b.reshape(a.shape))


@KINDS
@pytest.mark.parametrize("kernel", [mp.Coulomb(), mp.Thole(0.6)], ids=str)
def test_pair_scale_acts_on_the_nearest_image(rng, periodic, kernel):
    x, moments = system(rng, 2)
    options = {"kernel": kernel, "cell": CELL, "periodic": periodic}
    d = int(np.sum(np.broadcast_to(periodic, 3)))
    shifts = np.array(list(product(range(-9, 10), repeat=d))) @ CELL[:d]
    pairs, factors = scaled_pairs(x)
    expected = mp.energy(x, moments, **options)
    for (i, j), factor in zip(pairs, factors, strict=True):
        images = x[j] + shifts
        nearest = images[np.argmin(np.linalg.norm(images - x[i], axis=1))]
        two = np.stack([x[i], nearest]), moments[[i, j]]
        expected += (factor - 1) * mp.reference.energy(*two, kernel)
    scaled = mp.energy(x, moments, pair_scale=(pairs, factors), **options)
    assert scaled == pytest.approx(expected, rel=1e-10)
    # in any order
    turned = pairs[::-1, ::-1], factors[::-1]
    assert mp.energy(x, moments, pair_scale=turned, **options) == pytest.approx(scaled, rel=1e-11)
