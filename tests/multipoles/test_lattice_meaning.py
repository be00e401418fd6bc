"""What sums over lattices mean: against the slow twin, and changes that must not matter."""

from itertools import product

import numpy as np
import pytest
from oracles import random_rotation

import multipoles as mp
from multipoles.indexing import factorials, order_slice, orders
from multipoles.lattice import reference as twin
from multipoles.lattice import split

SLAB, WIRE = (True, True, False), (True, False, False)
KINDS = pytest.mark.parametrize("periodic", [True, SLAB, WIRE], ids=["crystal", "slab", "wire"])
PATTERNS = [p for p in product((True, False), repeat=3) if any(p)]


def triclinic(lengths, angles):
    """Return a cell of three lengths and the angles between b and c, c and a, a and b (degrees)."""
    alpha, beta, gamma = np.radians(angles)
    x = np.cos(beta)
    y = (np.cos(alpha) - x * np.cos(gamma)) / np.sin(gamma)
    rows = [
        [1, 0, 0], [np.cos(gamma), np.sin(gamma), 0], [x, y, np.sqrt(1 - x**2 - y**2)]
    ]  # fmt: skip
    return np.array(rows) * np.array(lengths)[:, None]


SKEWED = triclinic((1.0, 1.3, 0.8), (70, 105, 125))
CELLS = {
    "cubic": np.eye(3),
    "orthorhombic": np.diag([1.0, 1.7, 0.6]),
    "acute": triclinic((1.0, 1.2, 0.9), (40, 75, 60)),
    "obtuse": triclinic((1.4, 1.0, 0.9), (140, 110, 95)),
    "needle": triclinic((100.0, 1.0, 1.2), (80, 95, 110)),
    "flake": triclinic((0.1, 10.0, 8.0), (100, 85, 75)),
}


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def rows_of(periodic, cell=SKEWED):
    """Return the vectors of the directions that repeat."""
    return cell[list(np.broadcast_to(periodic, 3))]


def system(rng, cell, periodic, order, n=6, neutral=True, channels=None):
    """Return targets near sources (fields between far points may be zero but for rounding)."""
    rows = rows_of(periodic, cell)
    size = np.linalg.norm(rows, axis=1).min()
    s = rng.random((n, len(rows))) @ rows + size * rng.standard_normal((n, 3)) / 2
    x = s + 0.3 * size * rng.standard_normal((n, 3))
    shape = (n, mp.n_components(order)) if channels is None else (n, channels, 10)
    moments = rng.standard_normal(shape) * size ** orders(order)
    if neutral:
        moments[..., 0] -= moments[..., 0].mean(axis=0)
    return x, s, moments


def assert_close(got, expected, digits=1e-11):
    """Compare each order of derivatives by itself."""
    order, components = 0, expected.shape[-1]
    while mp.n_components(order) <= components:
        part = order_slice(order)
        error = np.linalg.norm(got[..., part] - expected[..., part])
        assert error <= digits * np.linalg.norm(expected[..., part]), f"order {order}: {error}"
        order += 1


@pytest.mark.parametrize("neutral", [True, False], ids=["neutral", "charged"])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@KINDS
def test_every_cell(rng, cell, periodic, neutral):
    x, s, moments = system(rng, cell, periodic, 3, neutral=neutral)
    # the sources themselves, and some of their images
    rows = rows_of(periodic, cell)
    x = np.concatenate([x, s, s[:2] + [3, -2, 5][: len(rows)] @ rows])
    phi = mp.field(x, s, moments, 4, cell=cell, periodic=periodic)
    assert_close(phi, twin.field(x, s, moments, 4, cell, np.broadcast_to(periodic, 3)))


@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("source_order", range(4))
@KINDS
def test_every_order(rng, periodic, source_order, order):
    x, s, moments = system(rng, SKEWED, periodic, source_order, neutral=False)
    x = np.concatenate([x, s])
    phi = mp.field(x, s, moments, order, cell=SKEWED, periodic=periodic)
    expected = twin.field(x, s, moments, order, SKEWED, np.broadcast_to(periodic, 3))
    assert_close(phi, expected)


@pytest.mark.parametrize("periodic", PATTERNS, ids=str)
def test_every_choice_of_directions(rng, periodic):
    x, s, moments = system(rng, SKEWED, periodic, 1, neutral=False)
    cell = np.where(np.array(periodic)[:, None], SKEWED, 0.0)
    phi = mp.field(x, s, moments, 2, cell=cell, periodic=periodic)
    assert_close(phi, twin.field(x, s, moments, 2, SKEWED, periodic))
    # what else stands in those rows does not matter, nor the kind of sequence
    cell = np.where(np.array(periodic)[:, None], SKEWED, 7.0)
    for kind in (list, np.array):
        again = mp.field(x, s, moments, 2, cell=cell, periodic=kind(periodic))
        np.testing.assert_array_equal(again, phi)


def unimodular(rng, d):
    """Return a matrix of whole numbers with determinant 1 or -1."""
    lower, upper = np.tril(rng.integers(-2, 3, (d, d)), -1), np.triu(rng.integers(-2, 3, (d, d)), 1)
    return (lower + np.eye(d)) @ (upper + np.eye(d))[rng.permutation(d)]


@KINDS
def test_another_cell_of_the_same_lattice(rng, periodic):
    x, s, moments = system(rng, SKEWED, periodic, 2, neutral=False)
    d = len(rows_of(periodic))
    phi = mp.field(x, s, moments, 2, cell=SKEWED, periodic=periodic)
    for _ in range(6):
        cell = SKEWED.copy()
        cell[:d] = unimodular(rng, d) @ SKEWED[:d]
        assert_close(mp.field(x, s, moments, 2, cell=cell, periodic=periodic), phi)


@KINDS
def test_supercell_of_copies(rng, periodic):
    x, s, moments = system(rng, SKEWED, periodic, 2, neutral=False)
    d = len(rows_of(periodic))
    times = np.array([2, 3, 1])
    copies = np.array(list(product(*(range(n) for n in times[:d]))))
    many = np.concatenate([s + n @ SKEWED[:d] for n in copies])
    phi = mp.field(x, s, moments, 2, cell=SKEWED, periodic=periodic)
    repeated = np.tile(moments, (len(copies), 1))
    cell = SKEWED * np.where(np.arange(3) < d, times, 1)[:, None]
    assert_close(mp.field(x, many, repeated, 2, cell=cell, periodic=periodic), phi)


@KINDS
def test_wrapping_and_translation(rng, periodic):
    x, s, moments = system(rng, SKEWED, periodic, 2, neutral=False)
    d = len(rows_of(periodic))
    phi = mp.field(x, s, moments, 2, cell=SKEWED, periodic=periodic)
    moves = [rng.integers(-9, 10, (len(x), d)) @ SKEWED[:d] for _ in range(2)]
    moved = mp.field(x + moves[0], s + moves[1], moments, 2, cell=SKEWED, periodic=periodic)
    assert_close(moved, phi)
    by = rng.standard_normal(3) * 5
    assert_close(mp.field(x + by, s + by, moments, 2, cell=SKEWED, periodic=periodic), phi)


@KINDS
def test_rotation(rng, periodic):
    x, s, moments = system(rng, SKEWED, periodic, 2, neutral=False)
    R = random_rotation(rng)
    phi = mp.field(x, s, moments, 3, cell=SKEWED, periodic=periodic)
    turned = mp.field(
        x @ R.T, s @ R.T, mp.rotate(moments, R), 3, cell=SKEWED @ R.T, periodic=periodic
    )
    # derivatives turn as products of coordinates do
    assert_close(turned, mp.rotate(phi / factorials(3), R) * factorials(3))


@KINDS
def test_coincident_points(rng, periodic):
    _, s, moments = system(rng, SKEWED, periodic, 1, neutral=False)
    d = len(rows_of(periodic))
    phi = mp.field(s, s, moments, 2, cell=SKEWED, periodic=periodic)
    images = s + rng.integers(-4, 5, (len(s), d)) @ SKEWED[:d]
    assert_close(mp.field(images, s, moments, 2, cell=SKEWED, periodic=periodic), phi)
    # the limit of the field less that of the nearest image
    near = s + 1e-3 * rng.standard_normal(s.shape)
    rest = mp.field(near, s, moments, 0, cell=SKEWED, periodic=periodic)
    i = np.arange(len(s))
    bare = mp.field(near, s, moments, 0, pairs=np.stack([i, i], axis=1))
    slope = (phi[:, 1:4] * (near - s)).sum(axis=1)
    gap = (rest - bare)[:, 0] - phi[:, 0] - slope
    assert np.abs(gap).max() < 1e-3 * np.abs(slope).max() + 1e-8 * np.abs(bare).max()
    # two sources in one place, one of them an image
    both, twice = np.concatenate([s, images]), np.concatenate([moments, moments])
    doubled = mp.field(both, both, twice, 2, cell=SKEWED, periodic=periodic)
    assert_close(doubled, np.concatenate([2 * phi, 2 * phi]))


@KINDS
def test_channels_are_independent(rng, periodic):
    x, s, moments = system(rng, SKEWED, periodic, 2, neutral=False, channels=3)
    phi = mp.field(x, s, moments, 1, cell=SKEWED, periodic=periodic)
    assert phi.shape == (len(x), 3, 4)
    for c in range(3):
        alone = mp.field(x, s, moments[:, c], 1, cell=SKEWED, periodic=periodic)
        assert_close(phi[:, c], alone)
    assert mp.field(x, s, moments[:, :0], 1, cell=SKEWED, periodic=periodic).shape == (6, 0, 4)


@KINDS
def test_float32(rng, periodic):
    cell = SKEWED.astype(np.float32)
    given = [a.astype(np.float32) for a in system(rng, SKEWED, periodic, 2, neutral=False)]
    phi = mp.field(*given, 2, cell=cell, periodic=periodic)
    assert phi.dtype == np.float32
    exact = twin.field(
        *(a.astype(float) for a in given), 2, cell.astype(float), np.broadcast_to(periodic, 3)
    )
    assert_close(phi, exact, 5e-6)
    energy, forces, gradients, virial = mp.energy_forces(
        given[0], given[2], cell=cell, periodic=periodic, virial=True
    )
    assert isinstance(energy, float)
    assert forces.dtype == gradients.dtype == np.float32 and virial.shape == (3, 3)


@KINDS
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_tolerance(rng, periodic, tolerance):
    x, s, moments = system(rng, SKEWED, periodic, 2, n=20, neutral=False)
    phi = mp.field(x, s, moments, 2, cell=SKEWED, periodic=periodic, tolerance=tolerance)
    exact = mp.field(x, s, moments, 2, cell=SKEWED, periodic=periodic)
    assert_close(phi, exact, tolerance)


@KINDS
@pytest.mark.parametrize(
    "kernel",
    [
        mp.Erf(2.0), mp.Erfc(2.5), mp.Yukawa(6.0), mp.Thole(0.6), mp.Softened(1.3),
        mp.ReactionField(1.7),
    ],
    ids=lambda kernel: type(kernel).__name__,
)  # fmt: skip
def test_every_kernel(rng, periodic, kernel):
    x, s, moments = system(rng, SKEWED, periodic, 2, neutral=False)
    x = np.concatenate([x, s])
    phi = mp.field(x, s, moments, 2, kernel, cell=SKEWED, periodic=periodic)
    assert_close(phi, twin.field(x, s, moments, 2, SKEWED, np.broadcast_to(periodic, 3), kernel))


@KINDS
def test_long_and_short_ranges(rng, periodic):
    """Parameters that reach over many cells, or nowhere near the next one."""
    x, s, moments = system(rng, SKEWED, periodic, 1, n=3, neutral=False)
    bare = twin.field(x, s, moments, 1, SKEWED, np.broadcast_to(periodic, 3))
    for kernel in (mp.Erf(0.5), mp.Erf(30.0), mp.Erfc(1.2), mp.Erfc(30.0), mp.Thole(400.0)):
        phi = mp.field(x, s, moments, 1, kernel, cell=SKEWED, periodic=periodic)
        expected = twin.field(x, s, moments, 1, SKEWED, np.broadcast_to(periodic, 3), kernel)
        # wide charges make hardly any field in a crystal
        assert_close(phi - expected + bare, bare)


@KINDS
@pytest.mark.parametrize("alpha", [0.5, 1.5])
def test_wide_gaussian_charges_are_waves_alone(rng, periodic, alpha, monkeypatch):
    x, moments = 2 * rng.random((20, 3)), rng.standard_normal((20, 10))
    given = x, moments, mp.Erf(alpha), None, None
    cell = {"cell": 2 * np.eye(3), "periodic": periodic, "virial": True}
    chosen, cheapest = [], split._cheapest

    def counted(*arguments):
        found = cheapest(*arguments)
        of_waves = len(arguments) == 8
        chosen.append(of_waves)
        return found._replace(cost=cost if of_waves else 1.0)

    monkeypatch.setattr(split, "_cheapest", counted)
    cost = 0.0
    alone = mp.energy_forces(*given, **cell)
    assert chosen == [False, True]
    cost = 2.0
    split_in_two = mp.energy_forces(*given, **cell)
    monkeypatch.undo()
    # wide charges make hardly any field in a crystal: errors are relative to that of narrow ones
    narrow = mp.energy_forces(x, moments, **cell)
    for one, other, size in zip(alone, split_in_two, narrow, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-14 * np.abs(size).max())


def test_decaying_kernels_are_sums_over_images(rng):
    x, s, moments = system(rng, SKEWED, True, 1)
    shifts = np.array(list(product(range(-9, 10), repeat=3))) @ SKEWED
    shifts = shifts[np.linalg.norm(shifts, axis=1) < 6]
    many = np.concatenate([s + shift for shift in shifts])
    for kernel in (mp.Erfc(2.0), mp.Yukawa(14.0), mp.ReactionField(1.2)):
        phi = mp.field(x, s, moments, 1, kernel, cell=SKEWED)
        direct = mp.field(x, many, np.tile(moments, (len(shifts), 1)), 1, kernel)
        assert_close(phi, direct)


@KINDS
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("kernel", [mp.Coulomb(), mp.Thole(0.6)], ids=str)
def test_energy_and_its_gradients(rng, periodic, order, kernel):
    x, _, moments = system(rng, SKEWED, periodic, order, neutral=False)
    total, forces, gradients = mp.energy_forces(x, moments, kernel, cell=SKEWED, periodic=periodic)
    phi = twin.field(x, x, moments, order + 1, SKEWED, np.broadcast_to(periodic, 3), kernel)
    kept = mp.n_components(order)
    size = np.abs(moments * phi[:, :kept]).sum()
    assert abs(total - 0.5 * (moments * phi[:, :kept]).sum()) < 1e-11 * size
    assert total == pytest.approx(
        mp.energy(x, moments, kernel, cell=SKEWED, periodic=periodic), abs=1e-11 * size
    )
    assert_close(gradients, phi[:, :kept])
    # the field's next order
    by_charges = -(moments[:, :1] * phi[:, 1:4])
    if order == 0:
        assert np.linalg.norm(forces - by_charges) < 1e-11 * np.linalg.norm(forces)
    assert np.abs(forces.sum(axis=0)).max() < 1e-11 * np.abs(forces).sum()


@KINDS
def test_batches_are_the_systems_one_by_one(rng, periodic):
    # the third system has no atoms
    cells = np.stack([SKEWED, CELLS["acute"] * 1.5, SKEWED, np.diag([1.0, 2.0, 0.7])])
    sizes = np.array([5, 1, 0, 8])
    batch = np.repeat(np.arange(4), sizes)
    parts = [
        system(rng, c, periodic, 1, n=n, neutral=False) for c, n in zip(cells, sizes, strict=True)
    ]
    x, s, moments = (np.concatenate([part[i] for part in parts]) for i in range(3))
    options = {"cell": cells, "periodic": periodic}
    phi = mp.field(x, s, moments, 2, target_batch=batch, source_batch=batch, **options)
    result = mp.energy_forces(s, moments, batch=batch, virial=True, **options)
    assert isinstance(result[0], float) and result[3].shape == (4, 3, 3)
    assert mp.energy(s, moments, batch=batch, **options) == pytest.approx(result[0], rel=1e-11)
    total = 0.0
    for b in np.flatnonzero(sizes):
        those = batch == b
        single = {"cell": cells[b], "periodic": periodic}
        assert_close(phi[those], mp.field(x[those], s[those], moments[those], 2, **single))
        alone = mp.energy_forces(s[those], moments[those], virial=True, **single)
        total += alone[0]
        parts = (result[1][those], result[2][those], result[3][b])
        for got, expected in zip(parts, alone[1:], strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-11 * np.abs(alone[2]).max() + 1e-11)
    assert not result[3][2].any()
    assert result[0] == pytest.approx(total, rel=1e-11)


@KINDS
@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_huge_and_tiny_units(rng, periodic, unit):
    x, s, moments = system(rng, SKEWED, periodic, 2)
    x = np.concatenate([x, s])
    phi = mp.field(x, s, moments, 2, cell=SKEWED, periodic=periodic)
    scaled = mp.field(
        x * unit, s * unit, moments * unit ** orders(2), 2, cell=SKEWED * unit, periodic=periodic
    )
    assert_close(scaled * unit ** (1 + orders(2)), phi)
    total, forces, gradients, virial = mp.energy_forces(
        s, moments, cell=SKEWED, periodic=periodic, virial=True
    )
    other = mp.energy_forces(
        s * unit, moments * unit ** orders(2), cell=SKEWED * unit, periodic=periodic, virial=True
    )
    assert other[0] * unit == pytest.approx(total, rel=1e-10)
    for got, expected in (
        (other[1] * unit**2, forces),
        (other[2] * unit ** (1 + orders(2)), gradients),
        (other[3] * unit, virial),
    ):
        np.testing.assert_allclose(got, expected, atol=1e-11 * np.abs(expected).max())


def test_unit_of_length_of_a_charged_wire(rng):
    """-2 ln(rho)/L: another unit moves the potential."""
    x, s, moments = system(rng, SKEWED, WIRE, 0, neutral=False)
    phi = mp.field(x, s, moments, 1, cell=SKEWED, periodic=WIRE)
    for unit in (1e-20, 0.1, 1e20):
        scaled = mp.field(x * unit, s * unit, moments, 1, cell=SKEWED * unit, periodic=WIRE)
        scaled = scaled * unit ** (1 + orders(1))
        scaled[:, 0] += 2 * np.log(unit) * moments.sum() / np.linalg.norm(SKEWED[0])
        assert_close(scaled, phi, 1e-10)


@pytest.mark.parametrize("tolerance", [None, 1e-6])
def test_alike_systems_share_a_split_only_where_it_serves_both(rng, tolerance):
    cells = np.array([
        2 * np.eye(3), 2.01 * np.eye(3), np.diag([8.0, 1, 1]), np.diag([0.1, 8, 10]), 2 * np.eye(3),
    ])  # fmt: skip
    for order in (np.arange(5), np.arange(5)[::-1]):
        x = np.concatenate([rng.random((20, 3)) @ cells[k] for k in order])
        moments = rng.standard_normal((100, 4))
        batch = np.repeat(np.arange(5), 20)
        given = {"target_batch": batch, "source_batch": batch, "tolerance": tolerance}
        found = mp.field(x, x, moments, 2, cell=cells[order], **given)
        for k in range(5):
            own = slice(20 * k, 20 * k + 20)
            exact = mp.field(x[own], x[own], moments[own], 2, cell=cells[order[k]])
            allowed = (tolerance or 1e-11) * np.linalg.norm(exact)
            assert np.linalg.norm(found[own] - exact) <= allowed
