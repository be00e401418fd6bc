"""The compiled loops of a step around the model, beside slow twins."""

from itertools import product

import numpy as np
import pytest

import multipoles as mp
from fmm.mesh.plan import MeshSum
from gnn.data.neighbours import neighbour_pairs
from gnn.engines.embedding import near, periodic
from gnn.engines.embedding.groups import Groups
from gnn.engines.embedding.images import Tree, gap_between_images, moves_up_to
from gnn.engines.embedding.near import Charges, images
from gnn.engines.embedding.periodic import FarField
from gnn.engines.embedding.waves import WaveSum, waves_pay
from gnn.engines.embedding.zone import Sites, Surroundings
from multipoles.lattice.cell import cell_of
from multipoles.lattice.smooth import Smooth
from multipoles.neighbours import Slots
from multipoles.radial import Coulomb
from multipoles.radial.remainder import Remainder
from multipoles.sums import field_arrays

SKEWED = np.array([[20.0, 0, 0], [4.0, 19.0, 0], [-5.0, 6.0, 21.0]])
START, CUTOFF = 5.0, 7.0


def scattered(box, seed=0, count=90):
    """Molecules of three charges, none too near the origin, each particle in any image."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 1, (count, 3)) @ box
    sites = (centres[:, None] + rng.uniform(-1, 1, (count, 3, 3))).reshape(-1, 3)
    return sites + rng.integers(-1, 2, sites.shape) @ box, np.tile([-0.8, 0.4, 0.4], count)


def surroundings(sites, charges):
    groups, centres = np.repeat(np.arange(len(sites) // 3), 3), np.tile([0.5, 0.3, 0.2], 1)
    of_particles = Sites.of_particles(range(len(sites)), len(sites))
    return Surroundings(charges, of_particles, groups, np.tile(centres, len(sites) // 3))


def slow_near(atoms, sites, charges, box):
    """Places and weights of all images of charges, by all moves and all distances."""
    found = []
    moves = np.array(list(product(range(-2, 3), repeat=3))) @ box
    for g in range(len(sites) // 3):
        own = sites[3 * g : 3 * g + 3]
        vectors = own - own[0]
        turns = np.array(list(product(range(-4, 5), repeat=3))) @ box
        whole = [v + turns[np.argmin(np.linalg.norm(v + turns, axis=1))] for v in vectors]
        whole = own[0] + np.array(whole)
        for move in moves:
            centre = [0.5, 0.3, 0.2] @ whole + move
            r = np.linalg.norm(centre - atoms, axis=1)
            x = np.clip((r - START) / (CUTOFF - START), 0, 1)
            weight = 1 - np.prod(1 - (1 + x**3 * (-10 + x * (15 - 6 * x))))
            if weight > 0:
                found += [(*(w + move), weight, 3 * g + k) for k, w in enumerate(whole)]
    return np.array(found)


def test_charges_near_are_all_images_within_the_cutoff():
    rng = np.random.default_rng(1)
    sites, charges = scattered(SKEWED, count=12)
    atoms = rng.uniform(-3, 3, (5, 3))
    atoms -= atoms.mean(axis=0)
    found = Groups(surroundings(sites, charges), START, CUTOFF).near(atoms, sites, SKEWED)
    expected = slow_near(atoms, sites, charges, SKEWED)
    ours = np.column_stack([found.points, found.weights, found.sites])
    assert ours.shape == expected.shape and (found.weights < 1).any()
    # of two lists in different orders, each row has its like
    ours, expected = (rows[np.lexsort(rows.round(6).T)] for rows in (ours, expected))
    np.testing.assert_allclose(ours, expected, atol=1e-9)


def test_forces_by_weights_are_their_derivatives():
    rng = np.random.default_rng(2)
    sites, charges = scattered(SKEWED, count=30)
    atoms, groups = rng.uniform(-3, 3, (4, 3)), Groups(surroundings(sites, charges), START, CUTOFF)
    found = groups.near(atoms, sites, SKEWED)
    pull, work = rng.standard_normal((len(found.sites), 3)), rng.standard_normal(len(found.sites))

    def energy(x, s):
        moved = groups.near(x, s, SKEWED)
        assert np.array_equal(moved.sites, found.sites)
        return work @ moved.weights - (pull * moved.points).sum()

    on_atoms, on_sites = groups.forces(found, pull, work, len(atoms))
    h = 1e-5
    for direction in range(2):
        a, s = rng.standard_normal(atoms.shape), rng.standard_normal(sites.shape)
        a, s = (a, 0 * s) if direction else (0 * a, s)
        slope = energy(atoms + h * a, sites + h * s) - energy(atoms - h * a, sites - h * s)
        forces = (on_atoms * a).sum() + (on_sites * s).sum()
        assert slope / (2 * h) == pytest.approx(-forces, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("setting", [None, Smooth(radius=6.0, band=15.0)], ids=["1/r", "rest"])
def test_loops_over_few_atoms_are_the_sums_over_pairs(setting):
    rng = np.random.default_rng(3)
    atoms, points = rng.uniform(-2, 2, (5, 3)), rng.uniform(-7, 7, (43, 3))
    charges, moments = rng.standard_normal(43), rng.standard_normal((5, 10))
    around = Charges(atoms, points, charges, setting)
    kernel = Coulomb() if setting is None else Remainder(6.0, 15.0)
    pairs = Slots(5, 43)
    expected = field_arrays(atoms, points, charges[:, None, None], 3, kernel, pairs)[:, 0]
    np.testing.assert_allclose(around.field(), expected, rtol=1e-12, atol=1e-12)
    forces, potentials = around.answer(moments)
    back = field_arrays(points, atoms, moments[:, None], 1, kernel, pairs.transposed)[:, 0]
    np.testing.assert_allclose(potentials, back[:, 0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(forces, -charges[:, None] * back[:, 1:], rtol=1e-12, atol=1e-12)
    none = Charges(atoms, points[:0], charges[:0], setting)
    assert not none.field().any() and none.answer(moments)[0].shape == (0, 3)


def test_threads_change_nothing():
    rng = np.random.default_rng(9)
    atoms, points = rng.uniform(-2, 2, (24, 3)), rng.uniform(-30, 30, (8001, 3))
    around = Charges(atoms, points, rng.standard_normal(8001))
    moments, before = rng.standard_normal((24, 10)), mp.get_num_threads()
    found = []
    for threads in (1, 2):
        mp.set_num_threads(threads)
        found.append((around.field(), *around.answer(moments)))
    mp.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("radius", [3.0, 14.0])
@pytest.mark.parametrize("moved_only", [False, True])
def test_images_near_are_those_of_all_moves(radius, moved_only):
    sites, _ = scattered(SKEWED, count=10)
    atoms = sites[:6] + np.array([0.5, 0, 0])
    points, origin = images(atoms, sites, cell_of(SKEWED), radius, moved_only)
    low, high = atoms.min(axis=0), atoms.max(axis=0)
    expected = []
    for step in product(range(-5, 6), repeat=3):
        if moved_only and not any(step):
            continue
        moved = sites + np.array(step) @ SKEWED
        beyond = np.maximum(np.maximum(low - moved, moved - high), 0)
        kept = np.flatnonzero((beyond**2).sum(axis=1) < radius**2)
        expected += [(*moved[k], k) for k in kept]
    ours, expected = np.column_stack([points, origin]), np.array(expected)
    ours, expected = (rows[np.lexsort(rows.round(6).T)] for rows in (ours, expected))
    np.testing.assert_allclose(ours, expected, atol=1e-9)


# --- sums over all images -------------------------------------------------------------------------


def sums(monkeypatch, few, waves, box=SKEWED):
    """Field, reaction and own images, in one of the ways that there are."""
    rng = np.random.default_rng(4)
    sites, charges = scattered(box)
    charges[0] += 0.5
    atoms, response = rng.uniform(-1, 1, (5, 3)), rng.standard_normal((5, 10))
    points = rng.uniform(-5, 5, (20, 3))
    with monkeypatch.context() as patch:
        patch.setattr(near, "FEW", few)
        if not waves:
            patch.setattr(periodic, "waves_pay", lambda *arguments: None)
        found = FarField(charges, 1e-6).around(atoms, sites, (points, np.ones(20)), box)
        assert isinstance(found.mesh, WaveSum if waves else MeshSum)
        field, (on_sites, on_points, by_seen) = found.field(), found.reaction(response)
        own = found.of_images(atoms, response)
    return [field, on_sites, on_points, by_seen, own]


@pytest.mark.parametrize("waves", [True, False], ids=["waves", "grid"])
def test_few_atoms_and_many_have_the_same_sums(monkeypatch, waves):
    for few, many in zip(sums(monkeypatch, 400, waves), sums(monkeypatch, 0, waves), strict=True):
        np.testing.assert_allclose(few, many, rtol=1e-9, atol=1e-9)


def test_waves_and_a_grid_have_the_same_sums(monkeypatch):
    ways = sums(monkeypatch, 400, True), sums(monkeypatch, 400, False)
    for waves, grid in zip(*ways, strict=True):
        np.testing.assert_allclose(waves, grid, rtol=0, atol=2e-6 * np.abs(grid).max())


def test_waves_are_the_smooth_part_that_pairs_lack():
    """With the pairs within the radius, they are the Ewald sum of moments of any order."""
    rng = np.random.default_rng(5)
    setting, cell = Smooth(radius=8.0, band=24.0), cell_of(SKEWED)
    x, s = rng.uniform(-3, 3, (4, 3)), rng.uniform(-9, 9, (30, 3))
    moments = rng.standard_normal((30, 1, 10))
    sum_of_waves = WaveSum(cell, setting)
    phi = sum_of_waves.smooth_field_at(x, sum_of_waves.spectrum_of(s, moments), 3)
    points, origin = images(x, s, cell, 8.0)
    kernel, pairs = Remainder(8.0, 24.0), Slots(4, len(points))
    phi += field_arrays(x, points, moments[origin], 3, kernel, pairs)
    phi[:, :, 0] += sum_of_waves.background(moments)
    exact = mp.field(x, s, moments, order=3, cell=SKEWED, tolerance=1e-12)
    # fifth derivatives of what pairs lack have fewer digits than it has itself
    np.testing.assert_allclose(phi, exact, atol=1e-5 * np.abs(exact).max())


def test_waves_pay_in_small_boxes_only():
    cells = [cell_of(edge * np.eye(3)) for edge in (22.0, 51.0)]
    small, large = waves_pay(6, 1100, cells[0], 3e-4, 5), waves_pay(600, 13_000, cells[1], 3e-4, 5)
    assert small is not None and large is None


# --- positions ------------------------------------------------------------------------------------


def test_gaps_between_images_far_and_near():
    rng = np.random.default_rng(6)
    moves = moves_up_to(80.0, SKEWED)[1:]
    for size in (1.0, 6.0, 9.0):
        x = rng.uniform(-size, size, (7, 3))
        apart = np.linalg.norm(x[:, None, None] - x[:, None] - moves, axis=-1).min()
        assert gap_between_images(x, SKEWED, 9.0) == pytest.approx(min(apart, 9.0))


def test_sites_that_are_particles_are_those_of_their_weights():
    x = np.random.default_rng(7).standard_normal((9, 3))
    for particles in (range(2, 6), [5, 1, 8], [], [4, 4]):
        sites = Sites.of_particles(particles, 9)
        forces = np.arange(3.0 * len(sites)).reshape(-1, 3)
        np.testing.assert_array_equal(sites.at(x), sites.weights @ x)
        np.testing.assert_array_equal(sites.spread(forces), sites.weights.T @ forces)
        places = sites.at(x)
        places += 1.0  # theirs alone
        assert abs(x).max() < 5


def test_molecules_that_a_box_cuts_are_seen():
    bonds, x = [(0, 1), (1, 2)], np.array([[0.1, 0, 0], [1.0, 0, 0], [1.5, 0.8, 0]])
    tree = Tree(bonds, 3)
    assert tree.whole(x, SKEWED) is x
    torn = x + np.array([[0, 0, 0], [1, 0, 0], [0, -1, 2]]) @ SKEWED
    np.testing.assert_allclose(tree.whole(torn, SKEWED), x, atol=1e-12)


def test_pairs_of_few_atoms_are_in_order():
    x = np.random.default_rng(8).uniform(0, 5, (20, 3))
    x[3] = x[2]  # at one place: no pair
    apart = np.linalg.norm(x[:, None] - x, axis=2)
    receivers, senders = np.nonzero((apart > 0) & (apart < 3.0))
    found = neighbour_pairs(x, 3.0)
    np.testing.assert_array_equal(found, [senders, receivers])
