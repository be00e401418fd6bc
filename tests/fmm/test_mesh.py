"""Periodic sums on a mesh: against Ewald sums, borders, and physics that neither knows."""

import numpy as np
import pytest

import fmm
import multipoles as mp
from fmm.mesh import blocks, grid, window
from fmm.mesh.choice import setting_for
from multipoles.indexing import order_slice
from multipoles.lattice import waves
from multipoles.lattice.cell import cell_of
from multipoles.prolate import derivatives, prolate, smooth_derivatives, transform
from multipoles.radial.remainder import Remainder, SmoothPart

SLAB, WIRE = (True, True, False), (True, False, False)
SKEWED = np.array([[6.0, 0, 0], [2, 5.5, 0], [-1.5, 2, 6.2]])
KINDS = pytest.mark.parametrize("periodic", [True, SLAB, WIRE], ids=["crystal", "slab", "wire"])


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def liquid(rng, cell, m=6):
    """Return points that fill a cell about evenly, as in a liquid."""
    sites = np.stack(np.meshgrid(*[np.arange(m)] * 3, indexing="ij"), -1).reshape(-1, 3)
    return (sites + 0.2 * rng.uniform(-1, 1, sites.shape)) / m @ cell


def near(found, exact, tolerance):
    """Demand closeness relative to the largest number."""
    exact = np.asarray(exact)
    assert np.abs(found - exact).max() <= tolerance * np.abs(exact).max()


# --- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("band", [4.0, 11.0, 30.0])
def test_prolate_functions_are_their_own_transforms(band):
    y = np.linspace(-1, 1, 9)
    found = transform(band * y, band) / transform(np.zeros(1), band)
    np.testing.assert_allclose(found, prolate(y, band), rtol=0, atol=1e-14)
    step = 1e-5
    slopes = (prolate(y[1:-1] + step, band) - prolate(y[1:-1] - step, band)) / (2 * step)
    np.testing.assert_allclose(derivatives(y[1:-1], 1, band)[1], slopes, rtol=0, atol=1e-7)


@pytest.mark.parametrize("band", [5.0, 14.0, 30.0])
def test_remainder_is_what_the_smooth_part_lacks_of_coulomb(band):
    kernel, r = Remainder(2.5, band), np.linspace(0.05, 2.49, 40)
    chain, exact = kernel.chain(r, 6), mp.Coulomb().chain(r, 6)
    smooth = smooth_derivatives((r / 2.5) ** 2, 6, band)
    for n in range(7):
        # B_n = (-2 d/d(r^2))^n f
        part = (-2 / 2.5**2) ** n / 2.5 * smooth[n]
        lacks = np.exp(-band) * np.abs(part).max() + 1e-13 * exact[:, n].max()
        assert np.abs(chain[:, n] - (exact[:, n] - part)).max() <= lacks
    assert not kernel.chain(np.array([2.5, 7.0]), 4).any()
    x = np.random.default_rng(0).random((60, 3)) * 4
    moments = np.random.default_rng(1).standard_normal((60, 10))
    found = mp.field(x, x, moments, 3, kernel)  # by vectors
    smooth_part = SmoothPart(2.5, band)
    want = mp.field(x, x, moments, 3) - mp.field(x, x, moments, 3, smooth_part)
    near(found, want, 1e-11)
    links = mp.Coulomb().chain(np.array([0.3, 1.0, 3.0]), 6)
    both = kernel.chain(np.array([0.3, 1.0, 3.0]), 6) + smooth_part.chain([0.3, 1.0, 3.0], 6)
    np.testing.assert_allclose(both, links, rtol=1e-13)


def test_tiles_hold_every_pair_within_the_radius(rng):
    x, s = rng.random((300, 3)) * 5, rng.random((500, 3)) * [6, 5, 0.1]
    radius = 1.3
    raster = blocks.raster_of(s, radius)
    targets, sources = blocks.columns_of(x, raster), blocks.columns_of(s, raster)
    spans, starts, runs = blocks.tiles_within(targets, sources, raster, radius)
    seen = np.zeros((300, 500), int)
    for tile, (a, b) in enumerate(spans):
        for first, last in runs[starts[tile] : starts[tile + 1]]:
            seen[np.ix_(targets.order[a:b], sources.order[first:last])] += 1
    close = np.linalg.norm(x[:, None] - s, axis=2) <= radius
    assert seen.max() == 1 and (seen[close] == 1).all()
    assert sorted(targets.order) == list(range(300))


@pytest.mark.parametrize("order", [0, 1, 3])
def test_gridding_and_interpolation_are_adjoint(rng, order):
    shape, n = (17, 18, 20), 40
    table = window.polynomials(6, round(window.band_of(6, 1.0), 6), order)
    places = rng.random((n, 3)) * shape
    moments = rng.standard_normal((n, 2, mp.n_components(order)))
    values = grid.spread(places, moments, shape, table)
    other = rng.standard_normal(values.shape)
    padded = np.concatenate([other, other[..., : table.shape[2]]], axis=3)
    out = np.empty_like(moments)
    grid.interpolate(places, padded, order, table, out)
    np.testing.assert_allclose(np.vdot(values, other), np.vdot(moments, out), rtol=1e-11)


def test_windows_make_plane_waves(rng):
    """What is carried to the grid and transformed are structure factors."""
    shape, points = (24, 24, 27), 10
    table = window.polynomials(points, round(window.band_of(points, 1.0), 6), 1)
    u, moments = rng.random((30, 3)), rng.standard_normal((30, 1, 4))
    scaled = waves.fractional_moments(moments, np.diag(np.array(shape, float)))
    values = grid.spread(u * shape, scaled, shape, table)
    spectrum = np.fft.rfftn(values, axes=(1, 2, 3))
    few = waves.Waves(np.array([[3, 3, 3]]), np.eye(3)[None])
    exact = few.structure_factors(u, moments, np.array([0, 30]))
    for m in ((0, 1, 2), (-2, 3, 1), (3, -3, 3)):
        through = [
            window.spectrum(np.array([k]), n, points, round(window.band_of(points, 1.0), 6))[0]
            for k, n in zip(m, shape, strict=True)
        ]
        found = spectrum[0][m] / np.prod(through)
        want = exact[0, int(np.flatnonzero((few.numbers == m).all(axis=1))[0])]
        assert abs(found - want) < 1e-5 * np.abs(exact).max()


# --- whole sums -----------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("cell", [6 * np.eye(3), SKEWED], ids=["cube", "skewed"])
@pytest.mark.parametrize(("source_order", "order"), [(0, 1), (1, 2), (2, 3), (0, 4)])
def test_tolerance_is_kept(rng, cell, periodic, source_order, order):
    x = liquid(rng, cell)
    moments = rng.standard_normal((len(x), mp.n_components(source_order)))
    given = {"cell": cell, "periodic": periodic}
    exact = mp.field(x, x, moments, order, **given)
    for tolerance in (1e-3, 1e-6):
        plan = fmm.Mesh(x, None, tolerance, source_order, order, **given)
        parts = [order_slice(k) for k in range(order + 1)]
        found = plan.field(moments) - exact
        worst = max(np.linalg.norm(found[:, p]) / np.linalg.norm(exact[:, p]) for p in parts)
        assert worst <= tolerance, f"{worst:.1e}"


@pytest.mark.parametrize("moved", [0.0, 0.05])
@pytest.mark.parametrize(
    ("source_order", "order", "tolerance"),
    [(0, 6, 1e-3), (0, 6, 1e-7), (2, 3, 1e-7), (2, 4, 1e-5), (3, 4, 1e-5)],
)
def test_lattices_and_high_orders(rng, source_order, order, tolerance, moved):
    """Errors of a lattice add up, and its fields are small."""
    sites = np.stack(np.meshgrid(*[np.arange(6)] * 3, indexing="ij"), -1).reshape(-1, 3)
    x = sites + moved * rng.uniform(-1, 1, sites.shape)
    moments = rng.standard_normal((216, mp.n_components(source_order)))
    exact = mp.field(x, x, moments, order, cell=6 * np.eye(3))
    found = fmm.Mesh(x, None, tolerance, source_order, order, cell=6 * np.eye(3)).field(moments)
    parts = [order_slice(k) for k in range(order + 1)]
    errors = [np.linalg.norm((found - exact)[:, p]) / np.linalg.norm(exact[:, p]) for p in parts]
    assert max(errors) <= tolerance, errors


@pytest.mark.filterwarnings("ignore:the tolerance")  # the other orders vanish by symmetry
@pytest.mark.parametrize("order", [0, 2])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-5])
def test_potentials_in_rock_salt(order, tolerance):
    sites = np.stack(np.meshgrid(*[np.arange(6)] * 3, indexing="ij"), -1).reshape(-1, 3)
    charges = (-1.0) ** sites.sum(axis=1)
    plan = fmm.Mesh(sites * 1.0, None, tolerance, 0, order, cell=6 * np.eye(3))
    potential = plan.field(charges)[:, 0]
    np.testing.assert_allclose(potential, -1.747564594633182 * charges, rtol=tolerance)


@pytest.mark.parametrize("tolerance", [1e-9, 1e-11])
def test_tight_tolerances_of_charges(rng, tolerance):
    x, charges = liquid(rng, SKEWED), rng.standard_normal(216)
    exact = mp.field(x, x, charges, 1, cell=SKEWED)
    found = fmm.Mesh(x, None, tolerance, cell=SKEWED).field(charges)
    assert np.linalg.norm(found - exact) <= tolerance * np.linalg.norm(exact)


def test_a_mesh_says_what_it_cannot_keep(rng):
    with pytest.raises(ValueError, match=r"use multipoles\.field"):
        fmm.Mesh(liquid(rng, SKEWED), None, 1e-12, 2, 3, cell=SKEWED)


@KINDS
@pytest.mark.parametrize("source_order", [0, 1, 2])
def test_energy_forces_torques_and_virial(rng, periodic, source_order):
    x = liquid(rng, SKEWED)
    moments = rng.standard_normal((216, mp.n_components(source_order)))
    given = {"cell": SKEWED, "periodic": periodic}
    if periodic is True:
        given["surface"] = "vacuum"
    exact = mp.energy_forces(x, moments, virial=True, **given)
    plan = fmm.Mesh(x, None, 1e-7, source_order, source_order + 1, **given)
    found = plan.energy_forces(moments, virial=True)
    for one, other in zip(found, exact, strict=True):
        near(one, other, 1e-5)
    assert plan.energy(moments) == pytest.approx(exact[0], rel=1e-6)
    if source_order:
        near(plan.torques(moments), mp.torques(moments, exact[2]), 1e-6)
    assert np.abs(found[1].sum(axis=0)).max() < 1e-6 * np.abs(found[1]).sum()


@pytest.mark.parametrize("kernel", [mp.Thole(0.6), mp.Erf(2.0), mp.Softened(1.5)], ids=str)
def test_damped_kernels(rng, kernel):
    x, charges = liquid(rng, SKEWED), rng.standard_normal(216)
    exact = mp.field(x, x, charges, 1, kernel, cell=SKEWED)
    near(fmm.Mesh(x, None, 1e-8, kernel=kernel, cell=SKEWED).field(charges), exact, 1e-6)


def test_points_at_one_place(rng):
    x = rng.random((120, 3)) * 6
    x[10], x[30], x[50:52] = x[20], x[40] + [6, 0, 0], [[0, 0, 0], [6, 6, 0]]
    moments, cell = rng.standard_normal((120, 4)), 6 * np.eye(3)
    exact = mp.field(x, x, moments, 2, cell=cell)
    near(fmm.Mesh(x, None, 1e-8, 1, 2, cell=cell).field(moments), exact, 1e-8)
    targets = np.concatenate([x[:50] + np.array([6, -12, 0]), rng.random((60, 3)) * 20])
    exact = mp.field(targets, x, moments, 2, cell=cell)
    near(fmm.Mesh(x, targets, 1e-8, 1, 2, cell=cell).field(moments), exact, 1e-8)


def test_transpose_is_the_adjoint(rng):
    x, targets = liquid(rng, SKEWED), rng.random((40, 3)) * 9
    plan = fmm.Mesh(x, targets, 1e-8, 1, 2, cell=SKEWED)
    moments, weights = rng.standard_normal((216, 2, 4)), rng.standard_normal((40, 2, 10))
    one = np.vdot(weights, plan.field(moments))
    other = np.vdot(moments, plan.transpose().field(weights, 1))
    assert one == pytest.approx(other, rel=1e-6, abs=1e-6 * abs(one) + 1e-4)


def test_rebuild_goes_over_to_new_points_and_cells(rng):
    x, charges = liquid(rng, SKEWED), rng.standard_normal(216)
    plan = fmm.Mesh(x, None, 1e-6, cell=SKEWED)
    plan.field(charges)
    moved = x + 0.05 * rng.standard_normal(x.shape)
    plan.rebuild(moved)
    fresh = fmm.Mesh(moved, None, 1e-6, cell=SKEWED)
    near(plan.field(charges), fresh.field(charges), 2e-6)
    assert plan.report().aim > fresh.report().aim  # what was measured allows a coarser one
    strained = SKEWED @ (np.eye(3) + np.diag([0.0, 0.01, 0]) + np.diag([0.02, 0], 1))
    plan.rebuild(moved, cell=strained)
    exact = mp.field(moved, moved, charges, 1, cell=strained)
    near(plan.field(charges), exact, 1e-6)


@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_units_of_length(rng, unit):
    x, charges = liquid(rng, SKEWED), rng.standard_normal(216)
    plain = fmm.Mesh(x, None, 1e-6, cell=SKEWED).field(charges)
    scaled = fmm.Mesh(x * unit, None, 1e-6, cell=SKEWED * unit).field(charges)
    near(scaled * unit ** np.array([1, 2, 2, 2]), plain, 1e-6)


def test_float32_channels_and_nothing_at_all(rng):
    x = liquid(rng, SKEWED).astype(np.float32)
    moments = rng.standard_normal((216, 3, 1)).astype(np.float32)
    found = fmm.Mesh(x, None, 1e-4, cell=SKEWED).field(moments)
    assert found.dtype == np.float32 and found.shape == (216, 3, 4)
    one = fmm.Mesh(x, None, 1e-4, cell=SKEWED).field(moments[:, 1])
    np.testing.assert_allclose(found[:, 1], one, rtol=1e-4, atol=1e-3)
    nothing = fmm.Mesh(np.zeros((0, 3)), cell=np.eye(3)).field(np.zeros((0, 1)))
    assert nothing.shape == (0, 4)
    nowhere = fmm.Mesh(x, np.zeros((0, 3)), cell=SKEWED).field(moments[:, 0])
    assert nowhere.shape == (0, 4)
    alone = fmm.Mesh(np.zeros((1, 3)), tolerance=1e-9, cell=np.eye(3)).field(np.ones((1, 1)), 0)
    assert alone[0, 0] == pytest.approx(-2.837297479480619, rel=1e-8)  # a Wigner crystal


def test_report_says_what_was_chosen(rng):
    x, charges = liquid(rng, SKEWED), rng.standard_normal(216)
    plan = fmm.Mesh(x, None, 1e-5, cell=SKEWED)
    plan.field(charges)
    report = plan.report()
    said = str(report)
    assert "216 sources" in said and " x ".join(map(str, report.shape)) in said
    assert report.near_pairs > 216 and "near pairs" in said and "moments to waves" in said
    assert isinstance(plan, object) and plan.n_sources == plan.n_targets == 216


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"cell": np.ones((3, 3))}, ValueError, "linearly"),
        ({"cell": np.full((3, 3), np.nan)}, ValueError, "finite"),
        ({"periodic": (True, True)}, ValueError, "3 directions"),
        ({"periodic": False}, ValueError, "at least one"),
        ({"tolerance": 0.0}, ValueError, "tolerance"),
        ({"tolerance": "tight"}, TypeError, "tolerance"),
        ({"order": 12, "source_order": 1}, ValueError, "at most 12"),
        ({"kernel": mp.Yukawa(1.0)}, ValueError, r"use multipoles\.field"),
        ({"kernel": mp.Erf}, TypeError, "call it"),
        ({"sources": [[0.0, np.nan, 0.0]]}, ValueError, "finite"),
        ({"surface": "vacuum", "periodic": SLAB}, ValueError, "sphere"),
    ],
)
def test_bad_arguments(change, error, match):
    given = {"sources": np.random.default_rng(0).random((20, 3)), "cell": np.eye(3)} | change
    with pytest.raises(error, match=match):
        fmm.Mesh(given.pop("sources"), **given)


def test_bad_moments_and_calls(rng):
    x = liquid(rng, SKEWED)
    plan = fmm.Mesh(x, None, 1e-4, 0, 1, cell=SKEWED, background=False)
    with pytest.raises(ValueError, match="neutral"):
        plan.field(np.ones(216))
    with pytest.raises(ValueError, match="for which this plan was made"):
        plan.field(rng.standard_normal((216, 4)))
    with pytest.raises(ValueError, match="for which this plan was made"):
        plan.field(np.zeros(216), order=2)
    with pytest.raises(ValueError, match="components"):
        plan.field(np.ones(7))
    with pytest.raises(ValueError, match="targets are its sources"):
        fmm.Mesh(x, x[:3], cell=SKEWED).energy(np.ones(216))
    with pytest.raises(ValueError, match="order 1 or more"):
        fmm.Mesh(x, order=0, cell=SKEWED).energy_forces(np.ones(216))
    with pytest.raises(ValueError, match="targets"):
        plan.rebuild(x, x[:3])


def test_cost_falls_with_looser_tolerances():
    cell = cell_of(20 * np.eye(3))
    counts, orders = (8000, 8000), (0, 1)
    settings = [
        setting_for(cell, np.zeros(0), counts, tolerance, orders, 1.0, 1.0)
        for tolerance in (1e-2, 1e-5, 1e-8)
    ]
    assert settings[0].band < settings[1].band < settings[2].band
    assert settings[0].points <= settings[1].points <= settings[2].points
