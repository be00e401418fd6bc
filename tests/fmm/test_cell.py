"""The fast multipole method in a cell, against Ewald sums."""

import warnings

import numpy as np
import pytest

import fmm
import multipoles as mp
from fmm.cell import sums
from fmm.cell.geometry import CellGeometry
from fmm.cell.grid import NoGrid, grid_of
from fmm.far import harmonics
from multipoles import indexing
from multipoles.lattice.cell import cell_of

EDGE = 7.0
CUBE = EDGE * np.eye(3)


def triclinic(a, b, c, alpha, beta, gamma):
    """Return lattice vectors from lengths and angles in degrees."""
    alpha, beta, gamma = np.radians([alpha, beta, gamma])
    x = np.cos(beta)
    y = (np.cos(alpha) - x * np.cos(gamma)) / np.sin(gamma)
    rows = [[1, 0, 0], [np.cos(gamma), np.sin(gamma), 0], [x, y, np.sqrt(1 - x * x - y * y)]]
    return np.array(rows) * [[a], [b], [c]]


CELLS = {
    "cube": CUBE,
    "orthorhombic": np.diag([5.0, 7.0, 9.0]),
    "needle": np.diag([2.0, 2.0, 40.0]),
    "plate": np.diag([12.0, 12.0, 2.0]),
    "turned": CUBE @ np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0],
    "hexagonal": triclinic(5, 5, 8, 90, 90, 120),
    "face-centred": triclinic(7, 7, 7, 60, 60, 60),
    "body-centred": 3.5 * np.array([[-1.0, 1, 1], [1, -1, 1], [1, 1, -1]]),
    "acute": triclinic(5, 6, 7, 40, 50, 60),
    "obtuse": triclinic(5, 6, 7, 140, 100, 90),
    "skewed": triclinic(5, 6, 7, 75, 80, 85),
}


def drawn(n, source_order=0, seed=0, neutral=True):
    """Return fractional coordinates and moments."""
    rng = np.random.default_rng(seed)
    x, moments = rng.random((n, 3)), rng.standard_normal((n, mp.n_components(source_order)))
    if neutral:
        moments[:, 0] -= moments[:, 0].mean()
    return x, moments


def errors(found, exact):
    """Return the relative L2 error of every order."""
    order = indexing.order_of(exact.shape[-1])
    slices = [indexing.order_slice(k) for k in range(order + 1)]
    return np.array(
        [np.linalg.norm((found - exact)[..., s]) / np.linalg.norm(exact[..., s]) for s in slices]
    )


def checked(x, moments, order, tolerance, cell, targets=None, **options):
    """Return a plan whose field agrees with an Ewald sum."""
    orders = indexing.order_of(moments.shape[-1]), order
    plan = fmm.FMM(x, targets, tolerance, *orders, cell=cell, **options)
    options.pop("leaf_size", None)
    exact = mp.field(x if targets is None else targets, x, moments, order, cell=cell, **options)
    # what is measured at few targets may be less than the error of all
    assert errors(plan.field(moments), exact).max() < 2 * tolerance
    assert plan.report().errors.max() < tolerance
    return plan


@pytest.fixture(autouse=True)
def _every_warning_fails():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


@pytest.mark.parametrize("name", CELLS)
def test_cells_of_all_shapes(name):
    x, moments = drawn(400, 1)
    checked(x @ CELLS[name], moments, 2, 1e-6, CELLS[name])


@pytest.mark.parametrize("source_order", range(4))
def test_moments_and_fields_of_all_orders(source_order):
    x, moments = drawn(500, source_order)
    checked(EDGE * x, moments, 4 - source_order // 2, 1e-6, CUBE, leaf_size=20)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-8, 1e-11])
@pytest.mark.parametrize("leaf_size", [20, None])
def test_the_tolerance_is_kept(tolerance, leaf_size):
    x, moments = drawn(600)
    checked(EDGE * x, moments, 1, tolerance, CUBE, leaf_size=leaf_size)


def test_strengths_serve_trees_of_other_leaves():
    """Which sources of images are near differs from tree to tree."""
    x, moments = drawn(2000)
    layout = fmm.FMM(EDGE * x, cell=CUBE, leaf_size=40)._layout
    steps, geometry = layout.steps, layout.geometry
    ordered = steps.to_tree(geometry, moments[:, None], np.dtype(np.float64))
    strengths = steps.strengths(ordered, steps.harmonic(ordered, 0), 0)
    for leaf_size in (10, 40, 100, 2000):
        other = geometry.with_leaves(leaf_size)
        assert len(other.sources) == len(geometry.sources) or leaf_size != 40
        weights = strengths.weights(other)
        fresh = steps.to_tree(other, moments[:, None], np.dtype(np.float64))
        again = steps.strengths(fresh, steps.harmonic(fresh, 0), 0).weights(other)
        np.testing.assert_allclose(weights, again, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "periodic", [(True, True, False), (True, False, True), (False, True, True)]
)
@pytest.mark.parametrize("name", ["cube", "orthorhombic", "hexagonal"])
def test_slabs(name, periodic):
    x, moments = drawn(300, 1, neutral=False)
    repeats = tuple(map(bool, periodic))
    checked(x @ CELLS[name], moments, 1, 1e-6, CELLS[name], periodic=repeats)


@pytest.mark.parametrize("edge", [0.5, 3.0])
@pytest.mark.parametrize("axis", range(3))
def test_wires(axis, edge):
    x, moments = drawn(300, 1, neutral=False)
    periodic = tuple(k == axis for k in range(3))
    cell = np.eye(3) * np.where(np.arange(3) == axis, edge, 2.0)
    checked(x @ cell, moments, 1, 1e-6, cell, periodic=periodic)


def test_a_tall_slab_is_cut_across():
    cell = np.diag([3.0, 3.0, 40.0])
    x, moments = drawn(300)
    plan = checked(x @ cell, moments, 1, 1e-6, cell, periodic=(True, True, False))
    assert plan._layout.geometry.grid.counts[2] > 10


def test_charged_cells_and_their_background():
    x, moments = drawn(300, 2, neutral=False)
    checked(EDGE * x, moments, 2, 1e-7, CUBE)
    with pytest.raises(ValueError, match="expected a neutral cell"):
        fmm.FMM(EDGE * x, cell=CUBE, background=False).field(moments)


def test_surface_in_vacuum_by_coordinates_as_they_are_given():
    x, moments = drawn(300, 1)
    x = EDGE * (x + np.random.default_rng(1).integers(-1, 2, x.shape))
    checked(x, moments, 2, 1e-6, CUBE, surface="vacuum")


@pytest.mark.parametrize("kernel", [mp.Erf(4.0), mp.Softened(0.02), mp.Thole(0.2)])
def test_kernels_that_become_coulombs(kernel):
    x, moments = drawn(500, 1)
    checked(EDGE * x, moments, 1, 1e-6, CUBE, kernel=kernel)


def test_a_kernel_that_reaches_too_far_is_refused():
    x, _ = drawn(100)
    with pytest.raises(ValueError, match=r"expected one that is 1/r from 7 on"):
        fmm.FMM(EDGE * x, cell=CUBE, kernel=mp.Erf(0.3))


@pytest.mark.parametrize("name", ["cube", "hexagonal"])
def test_targets_of_their_own_and_the_adjoint(name):
    cell = CELLS[name]
    x, moments = drawn(400, 1)
    targets = drawn(250, seed=5)[0] @ cell
    plan = checked(x @ cell, moments, 2, 1e-9, cell, targets)
    weights = np.random.default_rng(6).standard_normal((250, mp.n_components(2)))
    there = np.einsum("nk,nk->", weights, plan.field(moments))
    back = np.einsum("nk,nk->", moments, plan.transpose().field(weights, 1))
    assert there == pytest.approx(back, rel=1e-7)


def test_any_image_of_a_point_gives_the_same():
    x, moments = drawn(300, 1)
    moved = EDGE * (x + np.random.default_rng(1).integers(-4, 5, x.shape))
    one, other = (fmm.FMM(p, tolerance=1e-9, cell=CUBE).field(moments) for p in (EDGE * x, moved))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-8 * np.abs(one).max())


def test_images_of_a_source_are_at_its_place():
    x, moments = drawn(300)
    steps = np.random.default_rng(1).integers(-2, 3, x.shape)
    checked(EDGE * x, moments, 1, 1e-6, CUBE, EDGE * (x + steps))
    twice = np.concatenate([x, x[:40] + np.array([1, 0, -2])])
    checked(EDGE * twice, np.concatenate([moments, moments[:40]]), 1, 1e-6, CUBE)


@pytest.mark.parametrize("place", [0.0, 0.5])
@pytest.mark.parametrize("size", [1e-2, 1e-6])
def test_clusters_inside_and_across_faces(place, size):
    x, moments = drawn(500)
    x[:300] = place + size * (x[:300] - 0.5)
    checked(EDGE * x, moments, 1, 1e-6, CUBE)


@pytest.mark.parametrize("unit", [1e-30, 1e-9, 1e9, 1e30])
def test_units_far_from_one(unit):
    x, moments = drawn(300)
    checked(unit * x, moments, 1, 1e-6, unit * np.eye(3))


def test_supercells_and_other_cells_of_one_lattice():
    x, moments = drawn(150, 1)
    x = EDGE * x
    energy = fmm.FMM(x, tolerance=1e-9, source_order=1, cell=CUBE).energy(moments)
    other = np.array([[1, 0, 0], [2, 1, 0], [-1, 3, 1]]) @ CUBE
    assert fmm.FMM(x, tolerance=1e-9, source_order=1, cell=other).energy(moments) == (
        pytest.approx(energy, rel=1e-8)
    )
    twice, both = np.concatenate([x, x + CUBE[0]]), np.concatenate([moments, moments])
    larger = fmm.FMM(twice, tolerance=1e-9, source_order=1, cell=CUBE * [[2], [1], [1]])
    assert larger.energy(both) == pytest.approx(2 * energy, rel=1e-8)


@pytest.mark.parametrize("periodic", [True, (True, True, False)])
def test_energies_forces_and_virials(periodic):
    x, moments = drawn(200, 1)
    given = {"cell": CUBE, "periodic": periodic}
    plan = fmm.FMM(EDGE * x, tolerance=1e-9, source_order=1, order=2, **given)
    found = plan.energy_forces(moments, virial=True)
    exact = mp.energy_forces(EDGE * x, moments, virial=True, **given)
    for one, other in zip(found, exact, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-7 * np.abs(other).max())


def test_scaled_pairs_are_nearest_images():
    x, moments = drawn(200)
    x = EDGE * (x + np.random.default_rng(1).integers(-2, 3, x.shape))
    scale = np.stack([np.arange(0, 200, 2), np.arange(1, 200, 2)], 1), np.linspace(0, 2, 100)
    found = fmm.FMM(x, tolerance=1e-9, cell=CUBE, pair_scale=scale).energy_forces(moments)
    exact = mp.energy_forces(x, moments, cell=CUBE, pair_scale=scale)
    assert found[0] == pytest.approx(exact[0], rel=1e-7)
    np.testing.assert_allclose(found[1], exact[1], rtol=0, atol=1e-7 * np.abs(exact[1]).max())


def test_the_functions_take_cells_and_scaled_pairs():
    x, moments = drawn(1500)
    scale = np.array([[0, 1], [5, 9]]), np.array([0.0, 0.5])
    for options in ({}, {"pair_scale": scale}):
        given = EDGE * x, moments
        found = fmm.energy_forces(*given, tolerance=1e-7, cell=CUBE, **options)
        exact = mp.energy_forces(*given, cell=CUBE, **options)
        assert found[0] == pytest.approx(exact[0], rel=1e-6)
        assert np.linalg.norm(found[1] - exact[1]) < 3e-7 * np.linalg.norm(exact[1])
    with pytest.raises(ValueError, match="expected no scaled pairs"):
        fmm.energy_forces(*given, cell=CUBE, virial=True, pair_scale=scale)


def test_plans_of_points_that_lie_unevenly():
    x, _ = drawn(1500)
    even, droplet = fmm.plan(EDGE * x, cell=CUBE), fmm.plan(EDGE * (0.1 * x), cell=CUBE)
    assert isinstance(even, fmm.Mesh) and isinstance(droplet, fmm.FMM)
    assert isinstance(fmm.plan(EDGE * x, tolerance=1e-13, cell=CUBE), fmm.FMM)
    assert isinstance(fmm.plan(x, cell=np.diag([1.0, 1.0, 500.0])), fmm.Mesh)


def test_other_points_and_another_cell():
    x, moments = drawn(300)
    plan = fmm.FMM(EDGE * x, tolerance=1e-7, cell=CUBE)
    plan.field(moments)
    moved = EDGE * drawn(300, seed=8)[0]
    plan.rebuild(moved)
    exact = mp.field(moved, moved, moments, 1, cell=CUBE)
    assert errors(plan.field(moments), exact).max() < 2e-7
    cell = CUBE * [[1.1], [0.9], [1.0]]
    plan.rebuild(x @ cell, cell=cell)
    exact = mp.field(x @ cell, x @ cell, moments, 1, cell=cell)
    assert errors(plan.field(moments), exact).max() < 2e-7


def test_evaluations_are_measured_again_after_some_and_for_other_moments():
    x, moments = drawn(500)
    plan = fmm.FMM(EDGE * x, tolerance=1e-6, cell=CUBE)
    measured = []
    for _ in range(12):
        plan.field(moments)
        measured.append(plan.report().sampled > 0)
    assert measured[:2] == [True, True] and 3 <= sum(measured) <= 4
    while plan.report().sampled:
        plan.field(moments)
    assert "not measured" in str(plan.report())
    other = np.zeros_like(moments)
    other[0] = 1.0
    plan.field(other)
    assert plan.report().sampled


def test_nothing_one_point_and_zeros():
    empty = fmm.FMM(np.zeros((0, 3)), cell=CUBE).field(np.zeros((0, 1)))
    assert empty.shape == (0, 4)
    x, moments = drawn(50)
    none = fmm.FMM(EDGE * x, np.zeros((0, 3)), cell=CUBE).field(moments)
    assert none.shape == (0, 4)
    assert not fmm.FMM(EDGE * x, cell=CUBE).field(np.zeros((50, 1))).any()
    with warnings.catch_warnings():  # by symmetry there is no force
        warnings.simplefilter("ignore")
        alone = fmm.FMM(np.zeros((1, 3)), tolerance=1e-9, cell=np.eye(3)).field([[1.0]])
    assert alone[0, 0] == pytest.approx(-2.837297479480619, rel=1e-9)


def test_madelung_constant_of_rock_salt():
    sites = np.stack(np.meshgrid(*[np.arange(8)] * 3), axis=-1).reshape(-1, 3)
    charges = (-1.0) ** sites.sum(axis=1)
    plan = fmm.FMM(sites, tolerance=1e-9, order=0, cell=8 * np.eye(3))
    np.testing.assert_allclose(plan.field(charges[:, None])[:, 0] * charges, -1.747564594633182,
                               rtol=5e-8)  # fmt: skip


@pytest.mark.parametrize(
    ("box", "periods", "counts", "apart"),
    [
        (np.eye(3), (1, 1, 1), (1, 1, 1), (0, 0, 0)),
        (np.eye(3), (2, 2, 2), (2, 2, 2), (1, 0, -1)),
        (triclinic(1, 1.1, 0.95, 80, 85, 95), (1, 2, 3), (1, 2, 3), (0, 1, -2)),
        (np.eye(3), (2, 1, 0), (2, 1, 4), (1, 0, 3)),
        (np.eye(3), (0, 3, 0), (2, 3, 2), (1, -2, -1)),
    ],
)
def test_lattice_sums_are_what_is_left_of_all_images(box, periods, counts, apart):
    rng = np.random.default_rng(0)
    x, y = ((rng.random((5, 3)) - 0.5) @ box for _ in range(2))
    q = rng.standard_normal(5)
    degree, shape = 28, tuple(map(tuple, box.tolist()))
    matrix = sums.lattice_matrix(shape, periods, counts, 1.0, apart, degree)
    locals_ = matrix @ (q @ harmonics.regular(y, degree))
    found = harmonics.regular(x, degree) @ locals_
    repeats = np.array(periods) > 0
    cell = np.where(repeats[:, None], box * np.array(periods)[:, None], box)
    there = x + np.array(apart) @ box
    exact = mp.field(there, y, q[:, None], 0, cell=cell, periodic=tuple(repeats.tolist()))[:, 0]
    spans = [np.arange(-6, 7) * p if p else np.zeros(1, int) for p in periods]
    for step in np.stack(np.meshgrid(*spans), -1).reshape(-1, 3) + apart:
        if np.abs(step).max() <= 1:
            r = np.linalg.norm((x + step @ box)[:, None] - y, axis=2)
            exact -= (q / r).sum(axis=1)
    if repeats.all():
        square = ((x[:, None] - y) ** 2).sum(axis=2)
        exact -= 2 * np.pi / (3 * abs(np.linalg.det(cell))) * square @ q
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-7 * np.abs(exact).max())


def test_boxes_of_cubes_are_cubes_and_others_near_to_them():
    assert grid_of(cell_of(CUBE)).is_cubic and not grid_of(cell_of(CELLS["skewed"])).is_cubic
    for cell in CELLS.values():
        grid = grid_of(cell_of(cell))
        lengths = np.linalg.norm(grid.box, axis=1)
        assert lengths.max() < 2 * lengths.min()
        assert np.abs(np.linalg.det(grid.vectors)) == (
            pytest.approx(len(grid.copies) * np.abs(np.linalg.det(cell)))
        )


def test_what_a_cell_cannot_be():
    x, _ = drawn(20)
    with pytest.raises(NoGrid, match="expected 150 at most"):
        fmm.FMM(x, cell=np.diag([1.0, 1.0, 500.0]))
    with pytest.raises(ValueError, match="expected one system in a cell"):
        fmm.FMM(x, cell=np.eye(3), source_batch=np.zeros(20, int))
    with pytest.raises(ValueError, match="expected with a cell only"):
        fmm.FMM(x, periodic=(True, True, False))
    with pytest.raises(ValueError, match="the plan is one of free space"):
        fmm.FMM(x).rebuild(x, cell=np.eye(3))
    with pytest.raises(ValueError, match="expected a plan in a cell"):
        fmm.FMM(x).energy_forces(np.ones((20, 1)), virial=True)


def test_images_send_and_never_receive():
    x, _ = drawn(3000)
    geometry = fmm.FMM(EDGE * x, cell=CUBE, leaf_size=60)._layout.geometry
    assert isinstance(geometry, CellGeometry)
    images = np.flatnonzero(geometry.images.is_image)
    assert not np.isin(geometry.lists.m2l_targets, images).any()
    # in the whole every box has 26 neighbours, and 189 to translate from
    boxes = geometry.own_ends - geometry.tree.level_starts[:-1]
    assert boxes[:3].tolist() == [1, 8, 64]
    assert geometry.translations[:3].tolist() == [0, 8 * 189, 64 * 189]
