"""A mesh measures its error: sums without a grid, inputs drawn by an enemy, and what is learned."""

import warnings

import numpy as np
import pytest

import fmm
import multipoles as mp
from fmm.error.in_cell import InCell
from fmm.mesh import transforms
from multipoles.indexing import n_components, order_slice
from multipoles.lattice.cell import cell_of

SLAB, WIRE = (True, True, False), (True, False, False)
CUBE = 10 * np.eye(3)
SKEWED = np.array([[9.0, 0, 0], [4, 8, 0], [-4, 3, 9]])


def lattice(m):
    return np.stack(np.meshgrid(*[np.arange(m)] * 3, indexing="ij"), -1).reshape(-1, 3) * 1.0


def liquid(rng, cell, m=10):
    """Return points that fill a cell about evenly."""
    sites = lattice(m)
    return (sites + 0.2 * rng.uniform(-1, 1, sites.shape)) / m @ cell


def relative(found, exact, order):
    """Return the relative L2 error of every order, however large numbers are."""
    out = []
    for part in map(order_slice, range(order + 1)):
        unit = np.abs(exact[..., part]).max()
        apart, whole = (found - exact)[..., part] / unit, exact[..., part] / unit
        out.append(np.linalg.norm(apart) / np.linalg.norm(whole))
    return np.array(out)


# --- sums at a few targets ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "periodic", "kernel"),
    [
        (CUBE, True, mp.Coulomb()),
        (SKEWED, True, mp.Coulomb()),
        (np.diag([2.0, 2.0, 60.0]), True, mp.Coulomb()),
        (SKEWED, SLAB, mp.Coulomb()),
        (SKEWED, WIRE, mp.Coulomb()),
        (SKEWED, True, mp.Thole(0.6)),
        (SKEWED, True, mp.Erf(0.4)),
    ],
    ids=["cube", "skewed", "long", "slab", "wire", "Thole", "wide Gaussians"],
)
@pytest.mark.parametrize(("source_order", "order"), [(0, 1), (2, 3)])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-8, 1e-12])
def test_sums_at_a_few_targets(cell, periodic, kernel, source_order, order, tolerance):
    rng = np.random.default_rng(1)
    x = rng.random((300, 3)) @ cell
    # anywhere in space, not in the cell
    x += rng.integers(-2, 3, (300, 3)) * np.broadcast_to(periodic, 3) @ cell
    moments = rng.standard_normal((300, 2, n_components(source_order)))
    targets = np.concatenate([x[:5], rng.random((5, 3)) @ cell])
    given = {"cell": cell, "periodic": periodic}
    exact = mp.field(targets, x, moments, order, kernel, **given)
    found = InCell(cell_of(cell, periodic), kernel, tolerance).field(targets, x, moments, order)
    # relative to the field under 1/r, which damping makes less
    whole = exact if kernel == mp.Coulomb() else mp.field(targets, x, moments, order, **given)
    for part in map(order_slice, range(order + 1)):
        apart = np.linalg.norm((found - exact)[..., part])
        assert apart < tolerance * np.linalg.norm(whole[..., part])


def test_sums_at_a_few_targets_do_not_depend_on_the_split():
    rng = np.random.default_rng(1)
    x, charges = rng.random((3000, 3)) @ SKEWED, rng.standard_normal((3000, 1, 1))
    judge = InCell(cell_of(SKEWED), mp.Coulomb(), 1e-7)
    few = judge.field(x[:6], x, charges, 1)
    many = judge.field(x[:900], x, charges, 1)[:6]
    radii = [judge._split(x[:n], x, (0, 1)).smooth.radius for n in (6, 900)]
    assert radii[0] > 1.5 * radii[1]
    assert (relative(few, many, 1) < 1e-7).all()


def test_waves_that_are_kept_are_those_of_the_whole_transform():
    rng = np.random.default_rng(2)
    shape, limits = (12, 15, 20), (3, 5, 8)
    values = rng.standard_normal((2, *shape))
    found = transforms.to_waves(values, limits)
    first, second, third = transforms.numbers(limits)
    whole = np.fft.rfftn(values, axes=(1, 2, 3))
    kept = whole[:, first][:, :, second][..., third]
    np.testing.assert_allclose(found, kept, atol=1e-12)
    rest = np.zeros_like(whole)
    rest[:, first[:, None, None], second[:, None], third] = found
    back = transforms.from_waves(found, shape, limits, 6)
    np.testing.assert_allclose(
        back[..., :20], np.fft.irfftn(rest, shape, axes=(1, 2, 3)), atol=1e-12
    )
    assert np.array_equal(back[..., 20:], back[..., :6])


# --- enemies --------------------------------------------------------------------------------------


def _problem(name):
    """Return points, moments, orders, cell and options."""
    rng = np.random.default_rng(3)
    x, q = liquid(rng, CUBE), rng.standard_normal((1000, 1))
    orders, cell, options = (0, 1), CUBE, {}
    first = np.arange(1000)[:, None]
    if name == "tight cluster":
        x[:300] = 5 + 0.05 * rng.standard_normal((300, 3))
    elif name == "cluster of strong charges":
        x[:10], q = 5 + 0.2 * rng.standard_normal((10, 3)), np.where(first < 10, 1.0, 1e-3 * q)
    elif name == "close pairs":
        x[::2] = x[1::2] + 1e-6 * rng.standard_normal((500, 3))
    elif name == "lump of one sign":
        x, q = 5 + 0.7 * rng.standard_normal((1000, 3)), np.ones((1000, 1))
    elif name == "outliers":
        x[:990] = 5 + 0.1 * rng.standard_normal((990, 3))
    elif name == "outlying charge":
        q[7] = 1e6
    elif name == "slab with a gap":
        x[::2, 2] += 8
        options = {"periodic": SLAB}
    elif name == "wire with a gap":
        x[::2, 1] += 30
        options = {"periodic": WIRE}
    elif name == "long cell":
        cell = np.diag([2.0, 2, 250])
        x = liquid(rng, cell)
    elif name == "flat cell":
        cell = np.diag([60.0, 60, 0.3])
        x = liquid(rng, cell)
    elif name == "skewed cell":
        x, cell = liquid(rng, SKEWED), SKEWED
    elif name == "strong dipoles":
        q, orders = np.concatenate([1e-3 * q, rng.standard_normal((1000, 3))], 1), (1, 2)
    elif name == "one strong dipole":
        q, orders = np.concatenate([q, 1e4 * (first == 0) * np.ones(3)], 1), (1, 2)
    elif name == "nearly a crystal":
        sites = lattice(10)
        x, q = sites + 1e-4 * rng.standard_normal(sites.shape), (-1.0) ** sites.sum(axis=1)[:, None]
    elif name == "huge units":
        x, q, cell = x * 1e30, q * 1e20, CUBE * 1e30
    elif name == "tiny units":
        x, q, cell = x * 1e-30, q * 1e-20, CUBE * 1e-30
    elif name == "vacuum":
        options = {"surface": "vacuum"}
    elif name == "octupoles":
        q, orders = rng.standard_normal((1000, n_components(3))), (3, 2)
    return x, q, orders, cell, options


ENEMIES = (
    "tight cluster", "cluster of strong charges", "close pairs", "lump of one sign", "outliers",
    "outlying charge", "slab with a gap", "wire with a gap", "long cell", "flat cell",
    "skewed cell", "strong dipoles", "one strong dipole", "nearly a crystal", "huge units",
    "tiny units", "vacuum", "octupoles",
)  # fmt: skip


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-9])
@pytest.mark.parametrize("name", ENEMIES)
def test_tolerance_is_kept_or_a_warning_tells(name, tolerance):
    x, moments, (source_order, order), cell, options = _problem(name)
    exact = mp.field(x, x, moments, order, cell=cell, **options)
    plan = fmm.Mesh(x, None, tolerance, source_order, order, cell=cell, **options)
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = plan.field(moments)
        errors, report = relative(found, exact, order), plan.report()
        assert report.warning == "".join(str(said.message) for said in caught)
        assert (errors <= tolerance).all() or report.warning, errors
        # here all is kept in the end
        assert not report.warning
        assert (report.errors <= report.bounds).all() and (report.bounds <= tolerance).all()
        plan.rebuild(x)


def test_a_tolerance_that_is_missed_is_aimed_at_anew():
    """Forces of a crystal that is nearly perfect are small against their terms."""
    x, charges, _, cell, _ = _problem("nearly a crystal")
    exact = mp.field(x, x, charges, 1, cell=cell)
    plan = fmm.Mesh(x, None, 1e-5, cell=cell)
    band = plan.report().band
    found = plan.field(charges)
    report = plan.report()
    assert report.aim < 1e-5 and report.band > band
    assert "which was measured to be needed" in str(report)
    assert (relative(found, exact, 1) <= 1e-5).all()
    # what was learned is kept
    aim = report.aim
    plan.rebuild(x + 1e-6)
    assert plan.report().aim == aim
    assert plan.transpose().report().aim == pytest.approx(aim)
    # and given up where it is not needed
    rng = np.random.default_rng(0)
    moved = liquid(rng, CUBE)
    plan.rebuild(moved)
    plan.field(rng.standard_normal(1000))
    plan.rebuild(moved)
    assert plan.report().aim > aim


@pytest.mark.parametrize("shift", [0.0, 0.123])
def test_forces_that_vanish_by_symmetry_have_no_relative_error(shift):
    sites = lattice(8)
    plan = fmm.Mesh(sites + shift, None, 1e-4, cell=8 * np.eye(3))
    charges = (-1.0) ** sites.sum(axis=1)
    with pytest.warns(RuntimeWarning, match="order 1.*times as large as the field"):
        found = plan.field(charges)
    np.testing.assert_allclose(found[:, 0], -1.747564594633182 * charges, rtol=1e-4)
    assert np.abs(found[:, 1:]).max() < 1e-4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan.field(charges, order=0)  # the potential does not vanish


def test_a_mesh_that_is_wrong_is_found_out(monkeypatch):
    """Whatever goes wrong on the grid, what is compared has none."""
    rng = np.random.default_rng(5)
    x, charges = liquid(rng, CUBE), rng.standard_normal(1000)
    plan = fmm.Mesh(x, None, 1e-6, cell=CUBE)
    plan.field(charges)
    plan._sum.influence[:] *= 1 + 1e-4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = plan.field(charges)  # laid out anew
    assert (relative(found, mp.field(x, x, charges, 1, cell=CUBE), 1) <= 1e-6).all()
    right = transforms.to_waves
    monkeypatch.setattr(transforms, "to_waves", lambda *given: right(*given) * (1 + 1e-4))
    with pytest.warns(RuntimeWarning, match=r"tolerance 1e-06 was missed.*order 0.*targets"):
        plan.field(charges)
    assert 1e-5 < plan.report().errors.max() < 1e-3


def test_few_targets_are_drawn_where_earlier_evaluations_tell():
    rng = np.random.default_rng(6)
    x, charges = liquid(rng, CUBE), rng.standard_normal(1000)
    plan = fmm.Mesh(x, None, 1e-4, cell=CUBE)
    plan.field(charges)
    many = plan.report().sampled
    plan.rebuild(x + 1e-3 * rng.standard_normal(x.shape))
    plan.field(charges)
    report = plan.report()
    assert 0 < report.sampled < many / 2
    assert "measured at" in str(report) and "sample" in str(report)
    # others are looked at as if nothing were known
    plan.field(np.where(np.arange(1000) == 3, 1.0, 0.0))
    assert plan.report().sampled > many / 2
    plan.field(np.zeros(1000))
    assert plan.report().sampled == 0 and not plan.report().warning


def test_float32_channels_and_targets_of_their_own():
    rng = np.random.default_rng(7)
    x, targets = (liquid(rng, CUBE).astype("f4") for _ in range(2))
    moments = rng.standard_normal((1000, 3, 1)).astype("f4")
    plan = fmm.Mesh(x, targets[:200], 1e-9, cell=CUBE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan.field(moments)
    assert 2e-8 < plan.report().errors.max() < 1.2e-7


@pytest.mark.parametrize("method", ["auto", "mesh"])
def test_functions_and_plans_warn_too(method):
    sites = lattice(8)
    charges = (-1.0) ** sites.sum(axis=1)
    plan = fmm.plan(sites, tolerance=1e-4, cell=8 * np.eye(3), method=method)
    with pytest.warns(RuntimeWarning, match="missed"):
        energy, forces, _, virial = plan.energy_forces(charges, virial=True)
    assert energy == pytest.approx(-0.5 * 512 * 1.747564594633182, rel=1e-4)
    assert np.trace(virial) == pytest.approx(-energy, rel=1e-4)
    assert np.abs(forces).max() < 1e-4


@pytest.mark.parametrize("periodic", [True, SLAB, WIRE], ids=["crystal", "slab", "wire"])
@pytest.mark.parametrize("alpha", [0.1, 0.25, 0.5, 2.0])
def test_gaussian_charges_wide_and_narrow(alpha, periodic):
    """Wide ones are waves alone; the tolerance is that of their own, small field."""
    rng = np.random.default_rng(8)
    x, charges, kernel = liquid(rng, CUBE), rng.standard_normal(1000), mp.Erf(alpha)
    given = {"cell": CUBE, "periodic": periodic}
    plan = fmm.Mesh(x, None, 1e-6, 0, 1, kernel=kernel, **given)
    assert (plan._sum.setting.alpha > 0) == (alpha < 1)
    exact = mp.field(x, x, charges, 1, kernel, **given)
    assert (relative(plan.field(charges), exact, 1) <= 1e-6).all()
    assert not plan.report().warning
    if alpha == 0.5:
        energy, forces, _, strain = plan.energy_forces(charges, virial=True)
        wanted = mp.energy_forces(x, charges, kernel, virial=True, **given)
        assert energy == pytest.approx(wanted[0], rel=1e-5)
        np.testing.assert_allclose(forces, wanted[1], atol=1e-5 * np.abs(wanted[1]).max())
        np.testing.assert_allclose(strain, wanted[3], atol=1e-5 * np.abs(wanted[3]).max())
