"""The field in a cell as a torch operator: values, and derivatives by everything, to any order."""

import numpy as np
import pytest
import torch

import multipoles as mp
from fmm.mesh.window import band_of
from gnn.operators import periodic as periodic_sums
from gnn.operators.field import multipole_field
from gnn.operators.lattice import structure_factors, synthesis
from gnn.operators.mesh import Grid, from_waves, to_waves
from multipoles.lattice.waves import Waves

SLAB, WIRE = (True, True, False), (True, False, False)
KINDS = pytest.mark.parametrize("periodic", [True, SLAB, WIRE], ids=["crystal", "slab", "wire"])


def system(seed=0, order=1, channels=2):
    """Return targets, sources, moments and cell that require gradients."""
    torch.manual_seed(seed)
    shapes = (5, 3), (4, 3), (4, channels, mp.n_components(order))
    x, s, moments = (torch.randn(shape, dtype=torch.double) for shape in shapes)
    cell = 3 * torch.eye(3, dtype=torch.double) + 0.4 * torch.randn(3, 3, dtype=torch.double)
    return [tensor.requires_grad_() for tensor in (x, s, moments, cell)]


def numpy(*tensors):
    return [tensor.detach().numpy() for tensor in tensors]


@KINDS
@pytest.mark.parametrize(
    "kernel", [mp.Coulomb(), mp.Thole(0.5), mp.Erf(0.3), mp.Erfc(1.0)], ids=str
)
def test_values_and_derivatives(periodic, kernel):
    x, s, moments, cell = system()

    def field(x, s, moments, cell):
        return multipole_field(
            x, s, moments, 1, kernel=kernel, cell=cell, periodic=periodic, tolerance=1e-13
        )

    a, b, m, h = numpy(x, s, moments, cell)
    exact = mp.field(a, b, m, 1, kernel, cell=h, periodic=periodic)
    found = field(x, s, moments, cell).detach().numpy()
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12 * np.abs(exact).max())
    given = x, s, moments, cell
    assert torch.autograd.gradcheck(field, given, rtol=1e-5, atol=1e-6, fast_mode=True)
    assert torch.autograd.gradgradcheck(field, given, rtol=1e-4, atol=1e-5, fast_mode=True)


def test_third_derivatives():
    x, s, moments, cell = system(order=0, channels=1)

    def slope(x, moments, cell):
        field = multipole_field(x, s.detach(), moments, 0, cell=cell, tolerance=1e-13)
        (by_cell,) = torch.autograd.grad(field.square().sum(), cell, create_graph=True)
        return torch.autograd.grad(by_cell.square().sum(), x, create_graph=True)[0]

    given = x, moments, cell
    assert torch.autograd.gradcheck(slope, given, rtol=1e-4, atol=1e-4, fast_mode=True)


@KINDS
def test_stress_is_the_virial(periodic):
    torch.manual_seed(3)
    x, moments = torch.randn(6, 3, dtype=torch.double), torch.randn(6, 10, dtype=torch.double)
    cell = 3 * torch.eye(3, dtype=torch.double) + 0.3 * torch.randn(3, 3, dtype=torch.double)
    strain = torch.zeros(3, 3, dtype=torch.double, requires_grad=True)
    turn = torch.eye(3, dtype=torch.double) + strain
    field = multipole_field(
        x @ turn.T, x @ turn.T, moments, 2, cell=cell @ turn.T, periodic=periodic, tolerance=1e-13
    )
    energy = 0.5 * (moments * field).sum()
    (found,) = torch.autograd.grad(energy, strain)
    exact = mp.energy_forces(*numpy(x, moments), cell=cell.numpy(), periodic=periodic, virial=True)
    assert float(energy.detach()) == pytest.approx(exact[0], rel=1e-11)
    np.testing.assert_allclose(found, exact[3], rtol=0, atol=1e-10 * np.abs(exact[3]).max())


def test_surface_of_a_sphere_in_vacuum():
    x, s, moments, cell = system(order=2)

    def field(x, s, moments, cell):
        return multipole_field(
            x, s, moments, 2, cell=cell, surface="vacuum", tolerance=1e-13, background=True
        )

    a, b, m, h = numpy(x, s, moments, cell)
    exact = mp.field(a, b, m, 2, cell=h, surface="vacuum")
    found = field(x, s, moments, cell).detach().numpy()
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12 * np.abs(exact).max())
    given = x, s, moments, cell
    assert torch.autograd.gradcheck(field, given, rtol=1e-5, atol=1e-6, fast_mode=True)


def test_a_batch_of_cells_equals_the_systems_one_by_one():
    torch.manual_seed(1)
    sizes = 3, 0, 5
    batch = torch.tensor([0] * 3 + [2] * 5)
    x, moments = torch.randn(8, 3, dtype=torch.double), torch.randn(8, 4, dtype=torch.double)
    cells = 3 * torch.eye(3, dtype=torch.double) + 0.3 * torch.randn(3, 3, 3, dtype=torch.double)
    cells.requires_grad_()
    given = {"target_batch": batch, "source_batch": batch, "tolerance": 1e-12}
    field = multipole_field(x, x, moments, 1, cell=cells, **given)
    (by_cells,) = torch.autograd.grad(field.square().sum(), cells)
    assert not by_cells[1].any()
    start = 0
    for k, size in enumerate(sizes):
        own = slice(start, start + size)
        start += size
        if size == 0:
            continue
        cell = cells.detach()[k].requires_grad_()
        single = multipole_field(x[own], x[own], moments[own], 1, cell=cell, tolerance=1e-12)
        np.testing.assert_allclose(*numpy(single, field[own]), rtol=1e-10, atol=1e-10)
        (by_cell,) = torch.autograd.grad(single.square().sum(), cell)
        np.testing.assert_allclose(by_cell, by_cells[k], rtol=1e-9, atol=1e-9)


def test_float32_and_wrapping():
    x, s, moments, cell = (tensor.detach().float() for tensor in system())
    found = multipole_field(x, s, moments, 1, cell=cell)
    assert found.dtype == torch.float32
    wrapped = multipole_field(x + cell[0] - 2 * cell[2], s, moments, 1, cell=cell)
    np.testing.assert_allclose(wrapped, found, rtol=0, atol=1e-4 * float(found.abs().max()))


def test_waves_are_closed_under_differentiation():
    torch.manual_seed(0)
    waves = Waves(np.array([[1, 2, 1], [2, 0, 1]]), np.stack([np.eye(3)] * 2))
    ends = np.array([0, 3, 7])
    u = torch.rand(7, 3, dtype=torch.double, requires_grad=True)
    moments = torch.randn(7, 2, 4, dtype=torch.double, requires_grad=True)

    def factors(u, moments):
        return torch.view_as_real(structure_factors(u, moments, waves, ends))

    assert torch.autograd.gradcheck(factors, (u, moments), fast_mode=True)
    assert torch.autograd.gradgradcheck(factors, (u, moments), fast_mode=True)
    c = torch.randn(2, len(waves.numbers), 2, dtype=torch.double, requires_grad=True)

    def field(u, c):
        return synthesis(u, torch.view_as_complex(c), 1, waves, ends)

    assert torch.autograd.gradcheck(field, (u, c), fast_mode=True)
    assert torch.autograd.gradgradcheck(field, (u, c), fast_mode=True)


@KINDS
@pytest.mark.parametrize("kernel", [mp.Coulomb(), mp.Thole(0.7)], ids=str)
def test_a_mesh_has_the_derivatives_of_ewald_sums(periodic, kernel, monkeypatch):
    torch.manual_seed(0)
    cell = torch.tensor([[6.0, 0, 0], [2, 5.5, 0], [-1.5, 2, 6.2]], dtype=torch.double)
    sites = torch.stack(torch.meshgrid(*[torch.arange(6)] * 3, indexing="ij"), -1).reshape(-1, 3)
    x = (sites + 0.3 * torch.rand(216, 3, dtype=torch.double)) / 6 @ cell
    moments, weights = torch.randn(216, 2, 4).double(), torch.randn(216, 2, 10).double()
    along, given = torch.randn(216, 3).double(), (x, moments, cell)
    for tensor in given:
        tensor.requires_grad_()
    results, made = [], []
    kind = periodic_sums.MeshSystem
    monkeypatch.setattr(periodic_sums, "MeshSystem", lambda *rest: made.append(1) or kind(*rest))
    for few in (0, 10**9):
        monkeypatch.setattr(periodic_sums, "_FEW", few)
        field = multipole_field(
            x, x, moments, 2, kernel=kernel, cell=cell, periodic=periodic, tolerance=1e-7
        )
        first = torch.autograd.grad((weights * field).sum(), given, create_graph=True)
        total = (first[0] * along).sum() + first[1].square().sum() + first[2].square().sum()
        results.append([field, *first, *torch.autograd.grad(total, given)])
    assert len(made) == 1
    for one, other in zip(*results, strict=True):
        a, b = numpy(one, other)
        assert np.abs(a - b).max() <= 2e-5 * np.abs(b).max()


@pytest.mark.parametrize("last", [12, 13])
def test_waves_of_a_grid_are_closed_under_differentiation(last):
    torch.manual_seed(0)
    of_grid = Grid((10, 9, last), (3, 2, 4), 6, round(band_of(6, 0.8), 6))
    places = torch.rand(3, 3, dtype=torch.double) * torch.tensor([10.0, 9.0, last])
    moments = torch.randn(3, 2, 4, dtype=torch.double)
    c = torch.randn(2, 7, 5, 5, 2, dtype=torch.double)
    for tensor in (places, moments, c):
        tensor.requires_grad_()

    def factors(places, moments):
        return torch.view_as_real(to_waves(places, moments, of_grid))

    def field(places, c):
        return from_waves(places, torch.view_as_complex(c), 1, of_grid)

    for function, given in ((factors, (places, moments)), (field, (places, c))):
        assert torch.autograd.gradcheck(function, given, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, given, fast_mode=True)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"cell": np.eye(3)}, TypeError, "torch tensor"),
        ({"cell": torch.eye(3)}, ValueError, "like the points"),
        ({"cell": torch.ones(3, 3, dtype=torch.double)}, ValueError, "linearly"),
        ({"cell": torch.eye(3, dtype=torch.double)[None]}, ValueError, "no batch"),
        ({"periodic": (True, True)}, ValueError, "3 directions"),
        ({"method": "fmm"}, ValueError, "method 'auto' or 'direct'"),
        ({"backend": "torch"}, ValueError, "backend 'compiled'"),
        ({"pairs": torch.zeros(1, 2, dtype=torch.int64)}, ValueError, "no pairs"),
        ({"kernel": mp.InversePower(4)}, ValueError, "kernel"),
        ({"background": False}, ValueError, "neutral"),
    ],
)
def test_bad_arguments(change, error, match):
    x = torch.rand(3, 3, dtype=torch.double)
    given = {"cell": 2 * torch.eye(3, dtype=torch.double)} | change
    with pytest.raises(error, match=match):
        multipole_field(x, x, torch.ones(3, 1, dtype=torch.double), **given)


def test_transforms_of_functions_are_refused():
    x, _, _, cell = (tensor.detach() for tensor in system())
    q = torch.ones(5, 1, dtype=torch.double)
    with pytest.raises(ValueError, match=r"torch\.autograd"):
        torch.func.grad(lambda y: multipole_field(y, y, q, 0, cell=cell).sum())(x)
