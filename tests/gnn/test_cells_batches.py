"""Torch's sums over all images of several systems at once are those of each, with derivatives."""

import numpy as np
import pytest
import torch

import multipoles as mp
from gnn.operators import periodic as periodic_sums
from gnn.operators.cells import Cells, FieldInCells
from gnn.operators.field import multipole_field
from multipoles.lattice import groups

SIZES = (6, 1, 0, 6, 4, 7)


def batch_of(order=1, channels=1):
    """Return points, moments, system of each point, and cells: some alike, some not."""
    torch.manual_seed(0)
    batch = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
    cells = 3 * torch.eye(3).double() + 0.3 * torch.randn(len(SIZES), 3, 3).double()
    cells[4] *= 2.0
    x = (3 * torch.rand(len(batch), 1, 3).double() @ cells[batch])[:, 0]
    return x, torch.randn(len(batch), channels, mp.n_components(order)).double(), batch, cells


def numpy(*tensors):
    return [tensor.detach().numpy() for tensor in tensors]


def derivatives(x, moments, cells, field, weights):
    """Return the field, gradients of a sum of it, and gradients of a sum of squares of these."""
    given = [tensor for tensor in (x, moments, cells) if tensor.requires_grad]
    phi = field(x, moments, cells)
    first = torch.autograd.grad((weights * phi * phi).sum(), given, create_graph=True)
    second = torch.autograd.grad(sum(part.square().sum() for part in first), given)
    return [phi, *first, *second]


@pytest.mark.parametrize("by_cell", [False, True], ids=["constant cells", "cells"])
@pytest.mark.parametrize("surface", ["conductor", "vacuum"])
def test_a_batch_is_its_systems(surface, by_cell):
    x, moments, batch, cells = batch_of()
    weights = torch.randn(len(x), 1, 4).double()
    options = {"tolerance": 1e-13, "surface": surface}

    def together(x, moments, cells):
        batches = {"target_batch": batch, "source_batch": batch}
        return multipole_field(x, x, moments, 1, cell=cells, **batches, **options)

    def one_by_one(x, moments, cells):
        rows = [torch.nonzero(batch == k)[:, 0] for k in range(len(SIZES)) if SIZES[k]]
        found = [
            multipole_field(x[own], x[own], moments[own], 1, cell=cells[int(batch[own[0]])],
                            **options)
            for own in rows
        ]  # fmt: skip
        return torch.cat(found)

    for tensor in (x, moments) + (cells,) * by_cell:
        tensor.requires_grad_()
    results = [derivatives(x, moments, cells, field, weights) for field in (together, one_by_one)]
    for one, other in zip(*results, strict=True):
        a, b = numpy(one, other)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * np.abs(b).max())
    assert not by_cell or not results[0][3][2].any()


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("kernel", [mp.Coulomb(), mp.Thole(0.5), mp.Erfc(1.0)], ids=str)
def test_derivatives_in_constant_cells(order, kernel):
    """Of sums that are their own adjoint, of which one serves both ends, and of others."""
    x, moments, batch, cells = batch_of(order, channels=2)
    s = (x + torch.rand_like(x)).requires_grad_()
    x.requires_grad_()
    moments.requires_grad_()
    batches = {"target_batch": batch, "source_batch": batch, "kernel": kernel}

    def own(x, moments):
        return multipole_field(x, x, moments, order, cell=cells, tolerance=1e-13, **batches)

    def others(x, s, moments):
        return multipole_field(x, s, moments, 1, cell=cells, tolerance=1e-13, **batches)

    for field, given in ((own, (x, moments)), (others, (x, s, moments))):
        assert torch.autograd.gradcheck(field, given, rtol=1e-5, atol=1e-5, fast_mode=True)
        assert torch.autograd.gradgradcheck(field, given, rtol=1e-4, atol=1e-4, fast_mode=True)


def test_third_derivatives_in_constant_cells():
    x, moments, batch, cells = batch_of(0)
    x.requires_grad_()
    moments.requires_grad_()

    def slope(x, moments):
        phi = multipole_field(
            x, x, moments, 0, cell=cells, tolerance=1e-13, target_batch=batch, source_batch=batch
        )
        (by_points,) = torch.autograd.grad((moments * phi).sum(), x, create_graph=True)
        return torch.autograd.grad(by_points.square().sum(), x, create_graph=True)[0]

    given = x, moments
    assert torch.autograd.gradcheck(slope, given, rtol=1e-4, atol=1e-4, fast_mode=True)


@pytest.mark.parametrize("by_cell", [False, True], ids=["constant cells", "cells"])
def test_points_in_one_place(by_cell):
    x, moments, batch, cells = batch_of(0)
    x[1] = x[0]
    x[8] = x[7] + cells[3, 0] - 2 * cells[3, 2]
    cells.requires_grad_(by_cell)
    phi = multipole_field(
        x, x, moments, 1, cell=cells, tolerance=1e-13, target_batch=batch, source_batch=batch
    )
    given = numpy(x, x, moments)
    exact = mp.field(*given, 1, cell=cells.detach().numpy(), target_batch=batch.numpy(),
                     source_batch=batch.numpy())  # fmt: skip
    np.testing.assert_allclose(phi.detach(), exact, rtol=0, atol=1e-11 * np.abs(exact).max())


def test_large_systems_go_to_a_mesh_and_small_ones_stay_together(monkeypatch):
    torch.manual_seed(0)
    sizes = 20, 300, 20, 20
    batch = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))
    cells = torch.eye(3).double() * torch.tensor(sizes).double()[:, None, None] ** (1 / 3)
    x = torch.rand(360, 3).double() * cells[batch][:, 0, :1]
    charges = torch.randn(360, 1).double()
    made, kinds = [], (periodic_sums.System, periodic_sums.MeshSystem)
    for kind in kinds:

        def counted(*given, kind=kind):
            made.append((kind, len(given[3])))
            return kind(*given)

        monkeypatch.setattr(periodic_sums, kind.__name__, counted)
    assert groups.LARGE <= periodic_sums._FEW
    monkeypatch.setattr(periodic_sums, "_FEW", 400)
    monkeypatch.setattr(groups, "LARGE", 400)
    phi = multipole_field(
        x, x, charges, 1, cell=cells, tolerance=1e-6, target_batch=batch, source_batch=batch
    )
    assert sorted(made, key=lambda one: one[1]) == [(kinds[1], 1), (kinds[0], 3)]
    exact = mp.field(*numpy(x, x, charges), 1, cell=cells.numpy(), target_batch=batch.numpy(),
                     source_batch=batch.numpy())  # fmt: skip
    assert np.linalg.norm(phi.numpy() - exact) < 1e-5 * np.linalg.norm(exact)


def test_what_repeats_may_differ_within_a_batch():
    """Slabs, wires and molecules between crystals, and systems without points."""
    torch.manual_seed(0)
    patterns = torch.tensor([
        [True, True, True], [False, False, False], [True, True, False], [True, True, True],
        [False, True, False], [True, True, True], [True, True, False], [False, False, True],
    ])  # fmt: skip
    sizes = torch.tensor([5, 4, 6, 5, 3, 0, 1, 4])
    index = torch.repeat_interleave(torch.arange(8), sizes)
    vectors = 4 * torch.eye(3).double() + 0.4 * torch.randn(8, 3, 3).double()
    x = (torch.rand(len(index), 1, 3).double() @ vectors[index])[:, 0].requires_grad_()
    moments = torch.randn(len(index), 2, 4).double()

    def in_free_space(targets, sources, of):
        batches = {"target_batch": of[0], "source_batch": of[1]}
        return lambda given: multipole_field(targets, sources, given, 2, **batches)

    cells = Cells(vectors.requires_grad_(), patterns)
    sums = FieldInCells(x, x, 2, mp.Coulomb(), (index, index), cells, in_free_space)
    phi = sums(moments)
    by_points, by_cells = torch.autograd.grad(phi.square().sum(), (x, vectors))
    for k in torch.nonzero(sizes)[:, 0].tolist():
        own = index == k
        y, h = x.detach()[own].requires_grad_(), vectors.detach()[k].requires_grad_()
        cell = {"cell": h, "periodic": patterns[k].tolist()} if patterns[k].any() else {}
        alone = multipole_field(y, y, moments[own], 2, tolerance=1e-13, **cell)
        slopes = torch.autograd.grad(alone.square().sum(), (y, h), allow_unused=True)
        pairs = [(phi[own], alone), (by_points[own], slopes[0])]
        if cell:
            pairs.append((by_cells[k], slopes[1]))
        for one, other in pairs:
            a, b = numpy(one, other)
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * max(np.abs(b).max(), 1e-9))
    assert not by_cells[1].any() and not by_cells[5].any()
