"""Batches of systems in cells of their own are the systems one by one, whatever stands together."""

import numpy as np
import pytest
from test_lattice_meaning import CELLS, SKEWED, SLAB, WIRE

import multipoles as mp
from multipoles.indexing import multi_indices, orders
from multipoles.lattice import groups, search
from multipoles.lattice.options import lattice_of
from multipoles.lattice.waves import Waves

KINDS = pytest.mark.parametrize("periodic", [True, SLAB, WIRE], ids=["crystal", "slab", "wire"])


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def batch_of(rng, cells, sizes, order=1, channels=1):
    """Return points anywhere, charged moments, and the system of each point."""
    batch = np.repeat(np.arange(len(sizes)), sizes)
    x = ((3 * rng.random((len(batch), 1, 3)) - 1) @ cells[batch])[:, 0]
    moments = rng.standard_normal((len(batch), channels, mp.n_components(order)))
    # of the size that neighbours ask for
    apart = (np.abs(np.linalg.det(cells)) / np.maximum(sizes, 1)) ** (1 / 3)
    return x, moments * apart[batch][:, None, None] ** orders(order), batch


def assert_like_singles(x, moments, batch, cells, digits=1e-11, **options):
    """Compare energies, forces, gradients and virials with those of one system after another."""
    found = mp.energy_forces(x, moments, batch=batch, cell=cells, virial=True, **options)
    total, size = 0.0, 0.0
    for b in range(len(cells)):
        own = batch == b
        if not own.any():
            assert not found[3][b].any()
            continue
        alone = mp.energy_forces(x[own], moments[own], cell=cells[b], virial=True, **options)
        total += alone[0]
        size += np.abs(moments[own] * alone[2]).sum()
        # of one point the forces are zero but for rounding
        scale = np.abs(moments[own] * alone[2]).sum()
        length = np.abs(cells[b]).max()
        pairs = (found[1][own], alone[1], scale / length), (found[3][b], alone[3], scale)
        for got, expected, least in pairs:
            error = np.linalg.norm(got - expected)
            assert error <= digits * (np.linalg.norm(expected) + least)
        for k in range(mp.n_components(1) if moments.shape[2] > 1 else 1):
            got, expected = found[2][own][..., k], alone[2][..., k]
            least = np.abs(alone[2]).max() if k == 0 else 0.1 * np.abs(alone[2]).max()
            assert np.linalg.norm(got - expected) <= digits * (np.linalg.norm(expected) + least)
    assert abs(found[0] - total) <= digits * size


ENEMIES = np.stack([
    SKEWED, 2 * SKEWED, np.eye(3), CELLS["needle"] / 30, SKEWED, CELLS["flake"], 40 * np.eye(3),
    np.diag([1.0, 2.0, 0.7]), 1.01 * np.eye(3), CELLS["obtuse"],
])  # fmt: skip
SIZES = np.array([7, 1, 12, 5, 0, 9, 3, 150, 12, 2])


@KINDS
@pytest.mark.parametrize(
    "kernel",
    [mp.Coulomb(), mp.Thole(0.6), mp.Erf(0.7), mp.Erfc(1.5)],
    ids=lambda k: type(k).__name__,
)
def test_enemies_stand_beside_each_other(rng, periodic, kernel):
    x, moments, batch = batch_of(rng, ENEMIES, SIZES)
    # two points in one place, and one at an image of another
    x[1], x[9] = x[0], x[8] + ENEMIES[2][0]
    options = {"kernel": kernel, "periodic": periodic}
    assert_like_singles(x, moments, batch, ENEMIES, 1e-10, **options)


@pytest.mark.parametrize("order", [0, 2])
def test_orders_and_channels(rng, order):
    x, moments, batch = batch_of(rng, ENEMIES, SIZES, order, channels=3)
    assert_like_singles(x, moments, batch, ENEMIES, 1e-10)


def test_targets_without_sources_and_sources_without_targets(rng):
    n_targets, n_sources = np.array([3, 0, 5, 2, 40]), np.array([4, 6, 0, 1, 9])
    cells = np.stack([SKEWED, SKEWED, SKEWED, 2 * SKEWED, SKEWED])
    x, _, of_targets = batch_of(rng, cells, n_targets)
    s, moments, of_sources = batch_of(rng, cells, n_sources)
    given = {"target_batch": of_targets, "source_batch": of_sources, "cell": cells}
    phi = mp.field(x, s, moments, 2, **given)
    assert not phi[of_targets == 2].any()
    for b in (0, 3, 4):
        rows, others = of_targets == b, of_sources == b
        alone = mp.field(x[rows], s[others], moments[others], 2, cell=cells[b])
        np.testing.assert_allclose(phi[rows], alone, rtol=0, atol=1e-11 * np.abs(alone).max())


def test_one_cell_for_all_and_sphere_in_vacuum(rng):
    cells = np.stack([SKEWED] * 4)
    x, moments, batch = batch_of(rng, cells, np.array([4, 1, 6, 20]), 2)
    given = {"batch": batch, "surface": "vacuum", "virial": True}
    shared = mp.energy_forces(x, moments, cell=SKEWED, **given)
    each = mp.energy_forces(x, moments, cell=cells, **given)
    for one, other in zip(shared, each, strict=True):
        np.testing.assert_array_equal(one, other)
    assert_like_singles(x, moments, batch, cells, 1e-10, surface="vacuum")


def test_units_far_apart_in_one_batch(rng):
    units = np.array([1e-30, 1.0, 1e30, 3.0])
    cells = SKEWED * units[:, None, None]
    x, moments, batch = batch_of(rng, cells, np.array([4, 5, 6, 7]))
    found = mp.energy_forces(x, moments, batch=batch, cell=cells, virial=True)
    for b in range(4):
        own = batch == b
        alone = mp.energy_forces(x[own], moments[own], cell=cells[b], virial=True)
        for got, expected in zip((found[1][own], found[3][b]), alone[1::2], strict=True):
            assert np.linalg.norm(got / expected - 1) < 1e-8


def test_scaled_pairs_stay_within_their_system(rng):
    x, moments, batch = batch_of(rng, ENEMIES, SIZES)
    pairs = np.array([[0, 1], [2, 5], [8, 9], [30, 40], [3, 60], [7, 8]])  # the last two do not
    factors = np.array([0.0, 0.5, 0.3, 0.0, 0.7, 0.2])
    found = mp.energy_forces(
        x, moments, batch=batch, cell=ENEMIES, virial=True, pair_scale=(pairs, factors)
    )
    for b in np.flatnonzero(SIZES):
        own, start = batch == b, int(np.searchsorted(batch, b))
        inside = (batch[pairs] == b).all(axis=1)
        scale = (pairs[inside] - start, factors[inside]) if inside.any() else None
        alone = mp.energy_forces(
            x[own], moments[own], cell=ENEMIES[b], virial=True, pair_scale=scale
        )
        for got, expected in zip((found[2][own], found[3][b]), alone[2:], strict=True):
            atol = 1e-10 * np.abs(alone[2]).max()
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=atol)


def test_a_charged_system_of_a_batch_is_refused(rng):
    cells = np.stack([SKEWED] * 3)
    x, _, batch = batch_of(rng, cells, np.array([4, 4, 4]))
    charges = np.tile([1.0, -1.0], 6)
    assert np.isfinite(mp.energy(x, charges, batch=batch, cell=cells, background=False))
    charges[4:8] = [1, -1, 1, 1.5]
    with pytest.raises(ValueError, match=r"neutral cell.* 2\.5"):
        mp.energy(x, charges, batch=batch, cell=cells, background=False)
    flat = cells.copy()
    flat[1, 2] = flat[1, 0] + flat[1, 1]
    with pytest.raises(ValueError, match=r"cell\[1\].*linearly"):
        mp.energy(x, charges, batch=batch, cell=flat)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_systems_that_are_alike_are_summed_at_once_and_keep_the_tolerance(rng, tolerance):
    sizes = rng.integers(1, 80, 40)
    edges = (sizes / 0.1) ** (1 / 3) * rng.uniform(0.95, 1.05, (3, 40))
    cells = np.eye(3) * edges.T[:, None]
    x, moments, batch = batch_of(rng, cells, sizes, 0)
    lattice = lattice_of(cells, True, tolerance, True, "conductor", True)
    given = x, x, mp.Coulomb(), lattice, (batch, batch), tolerance, 0, 1
    made = list(groups.groups_of(*given))
    assert len(made) <= 4
    assert np.array_equal(np.sort(np.concatenate([group.systems for group in made])), np.arange(40))
    phi = mp.field(x, x, moments, 1, **{"target_batch": batch, "source_batch": batch},
                   cell=cells, tolerance=tolerance)  # fmt: skip
    exact = mp.field(x, x, moments, 1, target_batch=batch, source_batch=batch, cell=cells)
    for part in (slice(0, 1), slice(1, 4)):
        error = np.linalg.norm((phi - exact)[..., part])
        assert error <= tolerance * np.linalg.norm(exact[..., part])


def test_large_systems_are_alone(rng):
    sizes = np.array([30, 1200, 30, 1200, 30])
    cells = np.eye(3) * (sizes ** (1 / 3))[:, None, None]
    x, _, batch = batch_of(rng, cells, sizes, 0)
    lattice = lattice_of(cells, True, 1e-6, True, "conductor", True)
    made = groups.groups_of(x, x, mp.Coulomb(), lattice, (batch, batch), 1e-6, 0, 1)
    assert sorted(group.systems.tolist() for group in made) == [[0, 2, 4], [1], [3]]


@pytest.mark.parametrize("radius", [0.0, 0.3, 1.1, 30.0])
def test_pairs_within_systems(rng, radius):
    """Clusters, layers, points in one place, and systems without targets or sources."""
    sizes = np.array([[40, 90], [0, 5], [7, 0], [1, 1], [60, 200], [30, 30]])
    ends = tuple(np.concatenate([[0], np.cumsum(each)]) for each in sizes.T)
    x, s = (4 * rng.random((int(each[-1]), 3)) for each in ends)
    s[ends[1][4] : ends[1][4] + 100] = 1e3  # far away, all in one place
    s[ends[1][5] :] = x[ends[0][5] :]
    x[ends[0][4] :, 2] = 0.5
    found = search.pairs_within(x, s, radius, np.full(6, 1e-9), ends)
    pairs = {*zip(np.repeat(np.arange(len(x)), np.diff(found.starts)), found.images, strict=True)}
    same = {*map(tuple, found.coincident)}
    assert len(pairs) == len(found.images) and len(same) == len(found.coincident)
    for b in range(6):
        for i in range(ends[0][b], ends[0][b + 1]):
            apart = np.linalg.norm(x[i] - s[ends[1][b] : ends[1][b + 1]], axis=1)
            near = np.flatnonzero((apart <= radius) & (apart > 1e-9)) + ends[1][b]
            one = np.flatnonzero(apart <= min(radius, 1e-9)) + ends[1][b]
            assert {j for k, j in pairs if k == i} == set(near)
            assert {j for k, j in same if k == i} == set(one)


def test_threads_find_the_same_pairs(rng):
    x = 30 * rng.random((20_000, 3))
    before, found = mp.get_num_threads(), []
    try:
        for threads in (1, 3):
            mp.set_num_threads(threads)
            found.append(search.pairs_within(x, x, 1.0, 1e-9))
    finally:
        mp.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_threads_change_nothing(rng):
    """Boxes of waves are filled in parts where systems are fewer than threads."""
    x, moments = rng.random((400, 3)) * 7, rng.standard_normal((400, 4))
    before = mp.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            mp.set_num_threads(threads)
            found.append(mp.field(x, x, moments, 2, cell=7 * np.eye(3), tolerance=1e-12))
    finally:
        mp.set_num_threads(before)
    np.testing.assert_allclose(*found, rtol=0, atol=1e-12 * np.abs(found[0]).max())


@pytest.mark.parametrize("longest", [np.inf, 9.0])
def test_waves_are_their_definition(rng, longest):
    limits, ends = np.array([[3, 2, 4], [1, 4, 0], [2, 2, 20]]), np.array([0, 5, 45, 345])
    inverses = np.linalg.inv(2 * np.eye(3) + rng.random((3, 3, 3)))
    waves = Waves(limits, inverses, longest)
    u, moments = 5 * rng.standard_normal((345, 3)), rng.standard_normal((345, 2, 20))
    factors = waves.structure_factors(u, moments, ends)
    coefficients = rng.standard_normal((2, *factors.shape[1:], 2)).view(np.complex128)[..., 0]
    phi = waves.synthesis(u, coefficients, 3, ends)
    powers = multi_indices(3)
    for b in range(3):
        own, here = slice(*waves.ends[b : b + 2]), slice(*ends[b : b + 2])
        m = waves.numbers[own]
        # one of m and -m, all that are no longer
        assert len(np.unique(np.concatenate([m, -m]), axis=0)) == 2 * len(m) - 1
        every = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in limits[b])), -1).reshape(-1, 3)
        lengths = np.linalg.norm(2 * np.pi * every @ inverses[b].T, axis=1)
        assert 2 * len(m) - 1 == (lengths <= longest).sum()
        phases = np.exp(2j * np.pi * u[here] @ m.T)
        slopes = np.prod((2j * np.pi * m[:, None]) ** powers, axis=2)
        exact = np.einsum("jm,jck,mk->cm", phases.conj(), moments[here], slopes.conj())
        np.testing.assert_allclose(factors[:, own], exact, atol=1e-11 * np.abs(exact).max())
        exact = np.einsum("jm,cm,mk->jck", phases, coefficients[:, own], slopes).real
        np.testing.assert_allclose(phi[here], exact, atol=1e-11 * np.abs(exact).max())
