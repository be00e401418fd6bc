"""Sums over lattices against physics known otherwise: literature, closed forms, direct sums.

Closed forms here are those that converge without a split into near and far: a wire's waves (Bessel
functions), a slab's (exponentials of the height), a crystal's as a stack of slabs.
"""

from itertools import pairwise

import numpy as np
import pytest
from scipy import special

import multipoles as mp
from multipoles.indexing import component_index, order_slice
from multipoles.lattice import reference as twin

PI = np.pi
CUBIC = np.eye(3)
FCC = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
BCC = np.array([[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]])
HEXAGONAL = np.array([[1, 0, 0], [0.5, np.sqrt(0.75), 0], [0, 0, np.sqrt(8 / 3)]])
HCP = np.array([[0, 0, 0], [1 / 3, 1 / 3, 1 / 2]]) @ HEXAGONAL
ORIGIN = np.zeros((1, 3))
ONE = np.ones((1, 1))
SLAB, WIRE = (True, True, False), (True, False, False)

NACL, CSCL, ZNS = 1.747564594633182, 1.762674773070988, 1.638055053388789


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.mark.parametrize(
    ("cell", "places", "charges", "expected"),
    [
        # per formula unit: -constant/distance of nearest neighbours, the cube's edge being 1
        pytest.param(FCC, [0, 2], [1, -1], -NACL * 2, id="NaCl"),
        pytest.param(CUBIC, [0, 2], [1, -1], -CSCL * 2 / np.sqrt(3), id="CsCl"),
        pytest.param(FCC, [0, 1], [1, -1], -ZNS * 4 / np.sqrt(3), id="ZnS"),
        # a fluorite's is that of CsCl and twice that of ZnS: its sublattices are theirs
        pytest.param(FCC, [0, 1, 3], [2, -1, -1], -(CSCL + 2 * ZNS) * 4 / np.sqrt(3), id="CaF2"),
    ],
)
def test_madelung_constants(cell, places, charges, expected):
    x = np.array(places)[:, None] * np.ones(3) / 4
    q = np.array(charges, dtype=float)
    assert mp.energy(x, q, cell=cell) == pytest.approx(expected, rel=2e-12)
    phi = twin.field(x, x, q[:, None], 0, cell)[:, 0]
    assert 0.5 * q @ phi == pytest.approx(expected, rel=1e-14)


def test_madelung_constant_of_a_conventional_cell():
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    q = 1.0 - 2 * (grid.sum(axis=1) % 2)
    phi = mp.field(grid / 2, grid / 2, q[:, None], 0, cell=CUBIC)[:, 0]
    np.testing.assert_allclose(phi, -2 * NACL * q, rtol=2e-12)


@pytest.mark.parametrize(
    ("cell", "x", "expected"),
    [
        # Wigner's crystals, in units of e^2/r_s (Baus & Hansen, Phys. Rep. 59, 1 (1980))
        (CUBIC, ORIGIN, -0.880059442),
        (BCC, ORIGIN, -0.895929255682),
        (FCC, ORIGIN, -0.895873615195),
        (HEXAGONAL, HCP, -0.895838120459),
    ],
    ids=["sc", "bcc", "fcc", "hcp"],
)
def test_charges_in_a_background(cell, x, expected):
    radius = (3 * abs(np.linalg.det(cell)) / len(x) / (4 * PI)) ** (1 / 3)
    energy = mp.energy(x, np.ones(len(x)), cell=cell) / len(x) * radius
    assert energy == pytest.approx(expected, abs=1e-9 if cell is CUBIC else 2e-12)


def test_charges_in_planes_and_lines():
    # 4 zeta(1/2) beta(1/2), 6 zeta(1/2) L_-3(1/2) and 2 (gamma - ln 2L)/L
    square, triangular = -3.9002649200019558828, -4.2134226361369068900
    for cell, expected in ((CUBIC, square), (HEXAGONAL, triangular)):
        phi = mp.field(ORIGIN, ORIGIN, ONE, 0, cell=cell, periodic=SLAB)
        assert phi[0, 0] == pytest.approx(expected, rel=2e-12)
    for length in (0.3, 1.0, 2.5):
        phi = mp.field(ORIGIN, ORIGIN, ONE, 0, cell=CUBIC * length, periodic=WIRE)
        expected = 2 * (np.euler_gamma - np.log(2 * length)) / length
        # near and far part are ten times as large
        assert phi[0, 0] == pytest.approx(expected, rel=2e-11)


@pytest.mark.parametrize("cell", [CUBIC, FCC, BCC], ids=["sc", "fcc", "bcc"])
def test_lorentz_field(rng, cell):
    """Dipoles of a cubic lattice within a conductor feel 4 pi/3V times the dipole."""
    volume = abs(np.linalg.det(cell))
    p = rng.standard_normal(3)
    moments = mp.pack(dipoles=p[None])
    phi = mp.field(ORIGIN, ORIGIN, moments, 1, cell=cell)[0]
    np.testing.assert_allclose(-phi[1:], 4 * PI / (3 * volume) * p, rtol=2e-12)
    energy = -2 * PI / (3 * volume) * (p @ p)
    assert mp.energy(ORIGIN, moments, cell=cell) == pytest.approx(energy, rel=2e-12)
    # a sphere of them in vacuum: none at all
    vacuum = mp.field(ORIGIN, ORIGIN, moments, 1, cell=cell, surface="vacuum")[0]
    assert np.abs(vacuum).max() < 1e-11 * np.abs(phi).max()


def test_chains_of_dipoles_side_by_side():
    """Luttinger & Tisza (Phys. Rev. 70, 954 (1946)): rows along z, up and down by turns."""
    cell = np.diag([2.0, 2.0, 1.0])
    x = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0.0]])
    sign = np.array([1.0, -1, -1, 1])
    moments = mp.pack(dipoles=sign[:, None] * [0, 0, 1.0])
    # a row upon itself, 2 zeta(3) twice, and upon the others by a wire's waves
    n = np.arange(-12, 13)
    others = np.array([(a, b) for a in n for b in n if a or b])
    rho = np.linalg.norm(others, axis=1)
    waves = sum(16 * PI**2 * k**2 * special.k0(2 * PI * k * rho) for k in range(1, 8))
    field = 4 * special.zeta(3) - ((-1.0) ** others.sum(axis=1) * waves).sum()
    assert field / 2 == pytest.approx(2.676, abs=1e-3)
    energy = mp.energy(x, moments, cell=cell)
    assert energy / 4 == pytest.approx(-field / 2, rel=2e-12)


def test_high_derivatives_of_the_cubic_lattice():
    """Lord Rayleigh's sums of P_n(cos)/r^(n+1) (McPhedran & McKenzie, Proc. R. Soc. A 359, 45)."""
    phi = mp.field(ORIGIN, ORIGIN, ONE, 8, cell=CUBIC)[0]
    for n, expected, digits in ((4, 3.10822668, 1e-8), (6, 0.57332929, 1e-8), (8, 3.2592931, 1e-7)):
        rayleigh = phi[component_index(0, 0, n)] / special.factorial(n)
        assert rayleigh == pytest.approx(expected, rel=digits)


@pytest.mark.parametrize("cell", [CUBIC, FCC, HEXAGONAL], ids=["sc", "fcc", "hexagonal"])
def test_quadrupoles_upon_their_gradients(rng, cell):
    """Derivatives of order 6 and more converge as they are summed, shell by shell."""
    moments = mp.detrace(rng.standard_normal((1, 10)))
    moments[:, :4] = 0.0
    n = np.arange(-24, 25)
    images = np.stack(np.meshgrid(n, n, n, indexing="ij"), axis=-1).reshape(-1, 3) @ cell
    length = np.linalg.norm(images, axis=1)
    images = images[(length > 0) & (length < 14)]
    direct = mp.field(ORIGIN, images, np.repeat(moments, len(images), axis=0), 6)[0]
    periodic = mp.field(ORIGIN, ORIGIN, moments, 6, cell=cell)[0]
    for order, digits in ((4, 1e-4), (6, 2e-7)):
        part = order_slice(order)
        error = np.linalg.norm(periodic[part] - direct[part])
        assert error < digits * np.linalg.norm(direct[part])


def crystal_as_slabs(r, lengths):
    """Return potential and gradient of unit charges in a box at right angles, 0 < z < c."""
    a, b, c = lengths
    area, z = a * b, r[2]
    n = np.arange(-40, 41)
    k = np.stack(np.meshgrid(n / a, n / b, indexing="ij"), axis=-1).reshape(-1, 2) * 2 * PI
    k = k[(k**2).sum(axis=1) > 0]
    size = np.linalg.norm(k, axis=1)
    # cosh(k (c/2 - z))/sinh(k c/2), without overflow
    down, up, rest = np.exp(-size * z), np.exp(-size * (c - z)), -np.expm1(-size * c)
    even, odd = (down + up) / rest, (up - down) / rest
    phase = k @ r[:2]
    phi = 2 * PI / area * (np.cos(phase) * even / size).sum()
    sides = -2 * PI / area * (np.sin(phase) * even / size) @ k
    height = 2 * PI / area * (np.cos(phase) * odd).sum()
    phi += 2 * PI / area * (-z + z**2 / c + c / 6)
    return np.array([phi, *sides, height + 2 * PI / area * (-1 + 2 * z / c)])


def slab_of_waves(r, lengths):
    """Return potential and gradient of unit charges in a plane, z > 0."""
    return crystal_as_slabs(r, (*lengths[:2], 1e3)) - stack_alone(r, lengths)


def stack_alone(r, lengths):
    # what a stack of period c has beyond one slab, but for waves that have decayed
    c = 1e3
    return (
        2 * PI / (lengths[0] * lengths[1]) * np.array([r[2] ** 2 / c + c / 6, 0, 0, 2 * r[2] / c])
    )


def wire_of_waves(r, length):
    """Return potential and gradient of unit charges along x."""
    rho = np.hypot(r[1], r[2])
    k = 2 * PI * np.arange(1, 200) / length
    cosine, sine = np.cos(k * r[0]), np.sin(k * r[0])
    phi = (-2 * np.log(rho) + 4 * (special.k0(k * rho) * cosine).sum()) / length
    along = -4 * (k * special.k0(k * rho) * sine).sum() / length
    aside = (-2 / rho - 4 * (k * special.k1(k * rho) * cosine).sum()) / length
    return np.array([phi, along, aside * r[1] / rho, aside * r[2] / rho])


def test_closed_forms_of_one_charge():
    lengths = np.array([1.1, 0.8, 1.7])
    for r in np.array([[0.2, 0.3, 0.9], [0.5, -0.1, 0.35], [1.4, 3.0, 0.5]]):
        for periodic, expected in (
            (True, crystal_as_slabs(r, lengths)),
            (SLAB, slab_of_waves(r, lengths)),
            (WIRE, wire_of_waves(r, lengths[0])),
        ):
            phi = mp.field(r[None], ORIGIN, ONE, 1, cell=np.diag(lengths), periodic=periodic)[0]
            np.testing.assert_allclose(phi, expected, atol=1e-11 * np.linalg.norm(expected))
            phi = twin.field(
                r[None], ORIGIN, ONE, 1, np.diag(lengths), np.broadcast_to(periodic, 3)
            )[0]
            np.testing.assert_allclose(phi, expected, atol=1e-12 * np.linalg.norm(expected))


@pytest.mark.parametrize("periodic", [(True,) * 3, SLAB, WIRE], ids=["crystal", "slab", "wire"])
def test_the_twin_does_not_depend_on_its_split(rng, periodic):
    cell = np.array([[1.0, 0.2, 0.1], [-0.3, 0.9, 0.0], [0.2, 0.1, 1.3]])
    s, moments = rng.random((3, 3)), rng.standard_normal((3, 20))
    x = np.concatenate([s + 0.2, s[:1] + 2 * cell[0]])
    given = x, s, moments, 4, cell, periodic
    for kernel in (None, mp.Erf(2.0), mp.Thole(4.0), mp.Softened(0.7, 12)):
        phi = twin.field(*given, kernel)
        for eta in (1.4, 2.6):
            other = twin.field(*given, kernel, eta)
            for order in range(5):
                part = order_slice(order)
                error = np.linalg.norm(phi[:, part] - other[:, part])
                assert error < 2e-13 * np.linalg.norm(phi[:, part])


@pytest.mark.parametrize("periodic", [True, SLAB, WIRE], ids=["crystal", "slab", "wire"])
def test_far_from_slab_and_wire_and_mean_over_planes(rng, periodic):
    """The mean over what repeats is the field of charged planes and lines, exactly."""
    cell = np.array([[1.0, 0.2, 0.1], [-0.3, 0.9, 0.0], [0.2, 0.1, 1.3]])
    s, q = rng.random((3, 3)) * 0.3, np.array([1.0, 0.7, -0.4])
    d = {True: 2, SLAB: 2, WIRE: 1}[periodic]
    steps = np.stack(np.meshgrid(*[np.arange(36) / 36] * d, indexing="ij"), axis=-1).reshape(-1, d)
    normal = np.cross(cell[0], cell[1])
    area = np.linalg.norm(normal)
    normal /= area
    x = steps @ cell[:d] + s.mean(axis=0) + 0.65 * cell[2]
    mean = mp.field(x, s, q[:, None], 0, cell=cell, periodic=periodic).mean()
    if d == 2:
        z, c = np.abs((x[:1] - s) @ normal), cell[2] @ normal
        planes = -z if periodic is SLAB else -z + z**2 / c + c / 6
        assert mean == pytest.approx(2 * PI / area * (q @ planes), rel=1e-10)
    else:
        length = np.linalg.norm(cell[0])
        aside = (x[:1] - s) - np.outer((x[:1] - s) @ cell[0] / length**2, cell[0])
        lines = -2 * np.log(np.linalg.norm(aside, axis=1))
        assert mean == pytest.approx(q @ lines / length, rel=1e-10)


def test_mean_over_the_cell(rng):
    """Zero for Coulomb's law; for a screened one the integral of what it differs by."""
    cell = np.array([[1.0, 0.2, 0.1], [-0.3, 0.9, 0.0], [0.2, 0.1, 1.3]])
    s, q, alpha = rng.random((3, 3)), np.array([1.0, 0.7, -0.4]), 3.0
    steps = np.stack(np.meshgrid(*[np.arange(20) / 20] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    phi = mp.field(steps @ cell, s, q[:, None], 0, mp.Erf(alpha), cell=cell)
    expected = -PI * q.sum() / (alpha**2 * np.linalg.det(cell))
    assert phi.mean() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("periodic", [True, SLAB, WIRE], ids=["crystal", "slab", "wire"])
def test_laplacian(rng, periodic):
    cell = np.array([[1.0, 0.2, 0.1], [-0.3, 0.9, 0.0], [0.2, 0.1, 1.3]])
    s, x = rng.random((4, 3)), 0.1 + rng.random((5, 3))
    moments = rng.standard_normal((4, 10))
    # at the sources too, where the bare image is left out
    phi = mp.field(np.concatenate([x, s]), s, moments, 2, cell=cell, periodic=periodic)
    terms = phi[:, [component_index(*np.eye(3, dtype=int)[i] * 2) for i in range(3)]]
    density = moments[:, 0].sum() / np.linalg.det(cell) if periodic is True else 0.0
    size = np.abs(phi[:, order_slice(2)]).max()
    np.testing.assert_allclose(terms.sum(axis=1), 4 * PI * density, atol=1e-11 * size)


def smooth_sum(x, s, moments, rows, radius, order=1):
    """Return the sum over images of the whole cell, faded out smoothly within a distance."""
    d, reach = len(rows), int(2 + radius / np.linalg.svd(rows)[1].min())
    n = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * d, indexing="ij"), -1)
    images = n.reshape(-1, d) @ rows
    u = np.linalg.norm(images, axis=1) / radius
    images, u = images[u < 1], u[u < 1]
    # 1 near the centre and 0 at the rim, flat at both
    weight = special.betainc(12, 12, np.clip(1.6 * (1 - u), 0, 1))
    every = (s + images[:, None]).reshape(-1, 3)
    weighted = (moments * weight[:, None, None]).reshape(-1, moments.shape[-1])
    return mp.field(x, every, weighted, order)


def neutral_cluster(rng, order):
    s, moments = rng.random((4, 3)), rng.standard_normal((4, mp.n_components(order)))
    moments[:, 0] -= moments[:, 0].mean()
    return s, moments


@pytest.mark.parametrize("order", [0, 2])
def test_sphere_of_neutral_cells_in_vacuum(rng, order):
    cell = np.array([[1.0, 0.2, 0.1], [-0.3, 0.9, 0.0], [0.2, 0.1, 1.3]])
    (s, moments), x = neutral_cluster(rng, order), rng.random((3, 3)) * 0.7
    exact = mp.field(x, s, moments, 1, cell=cell, surface="vacuum")
    errors = [
        np.linalg.norm(smooth_sum(x, s, moments, cell, radius) - exact) / np.linalg.norm(exact)
        for radius in (5.0, 15.0)
    ]
    assert errors[1] < 1e-6 and errors[1] < 0.1 * errors[0]
    # a conductor around it makes a difference that can be seen
    conductor = mp.field(x, s, moments, 1, cell=cell)
    assert np.linalg.norm(conductor - exact) > 0.01 * np.linalg.norm(exact)


@pytest.mark.parametrize("order", [0, 2])
@pytest.mark.parametrize("periodic", [SLAB, WIRE], ids=["slab", "wire"])
def test_neutral_slab_and_wire_against_direct_sums(rng, periodic, order):
    """Sums within R converge with powers of 1/R, which Richardson's extrapolation removes."""
    cell = np.array([[1.0, 0.2, 0.1], [-0.3, 0.9, 0.0], [0, 0, 0]])
    (s, moments), x = neutral_cluster(rng, order), rng.random((3, 3)) * [1, 1, 2]
    exact = mp.field(x, s, moments, 1, cell=cell, periodic=periodic)
    rows = cell[list(periodic)]
    sums = [smooth_sum(x, s, moments, rows, 10.0 * 2**i) for i in range(4)]
    first = 1 if periodic is SLAB else 2
    for power in (first, first + 2, first + 4):
        sums = [(2**power * b - a) / (2**power - 1) for a, b in pairwise(sums)]
    assert np.linalg.norm(sums[0] - exact) < 1e-6 * np.linalg.norm(exact)
