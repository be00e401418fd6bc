"""Fused chains on a GPU, or in the simulator, against their twins in torch."""

import math

import pytest
import torch

pytest.importorskip("numba.cuda")
from gnn.operators import fused
from gnn.operators.gpu import emulated
from gnn.operators.raising import contract
from multipoles.compiled.cuda_kernels import SIMULATED

pytestmark = pytest.mark.cuda
SENDERS, RECEIVERS, NODES = [1, 2, 0, 0], [0, 0, 1, 2], 4


def on_device(tensor):
    return tensor if SIMULATED else tensor.cuda()


def edge_silu(own, nodes):
    ends = (on_device(torch.tensor(end)) for end in (SENDERS, RECEIVERS))
    return fused.edge_silu(own, nodes, *ends)


def saturating(operator):
    def of(rows):
        # within, at nothing, beyond, far beyond
        table = on_device(torch.tensor([1.1, 2.0, 0.4, math.inf], dtype=rows.dtype))
        kinds = on_device(torch.tensor([1, 0, 2, 2, 3]))
        return operator(rows, table, kinds, 1.5)

    return of


def geometry(vectors, divided=False):
    frequencies = math.pi / 2.5 * torch.arange(1, 4, dtype=torch.float64)
    return fused.edge_geometry(vectors, on_device(frequencies).to(vectors.dtype), 2.5, 0.9, divided)


def rows():
    lengths = torch.tensor([0.7, 1.4, 0.41, 3.0, 5.0], dtype=torch.float64)
    return (torch.nn.functional.normalize(torch.randn(5, 3).double(), dim=1) * lengths[:, None],)


def vectors():
    # the last one is beyond the cutoff
    lengths = torch.tensor([0.8, 1.7, 2.4, 2.9], dtype=torch.float64)
    return (torch.nn.functional.normalize(torch.randn(4, 3).double(), dim=1) * lengths[:, None],)


def packed(count, size):
    return lambda: (torch.randn(3, 2, count).double(), torch.randn(3, 2, size).double())


OPERATORS = {
    "contraction of charges": (contract, packed(1, 4)),
    "contraction": (contract, packed(4, 10)),
    "contraction of more than needed": (contract, packed(4, 20)),
    "silu": (fused.silu, lambda: (4 * torch.randn(7).double(),)),
    "edge silu": (
        edge_silu,
        lambda: (2 * torch.randn(len(SENDERS), 2).double(), 2 * torch.randn(NODES, 4).double()),
    ),
    "bounded rows": (saturating(fused.bounded_rows), rows),
    "factors": (saturating(fused.saturation_factors), rows),
    "geometry": (geometry, vectors),
    "geometry, divided": (lambda v: geometry(v, divided=True), vectors),
}


def derivatives(operator, inputs):
    """Return values, and first, second and third derivatives of a function of them."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    outs = operator(*inputs)
    outs = outs if isinstance(outs, tuple) else (outs,)
    value = sum((out + 0.3 * out * out).sin().sum() for out in outs)
    first = torch.autograd.grad(value, inputs, create_graph=True)
    second = torch.autograd.grad(sum(x.sin().sum() for x in first), inputs, create_graph=True)
    third = torch.autograd.grad(sum((x / (1 + x * x)).sum() for x in second), inputs)
    return [x.detach().cpu() for x in (*outs, *first, *second, *third)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", OPERATORS)
def test_all_derivatives(name, dtype):
    torch.manual_seed(1)
    operator, make = OPERATORS[name]
    inputs = make()
    wanted = derivatives(operator, inputs)
    with emulated():
        found = derivatives(operator, [on_device(x.to(dtype)) for x in inputs])
    tolerance = 1e-11 if dtype == torch.float64 else 1e-4
    for one, right in zip(found, wanted, strict=True):
        assert one.dtype == dtype
        assert (one - right).abs().max() <= tolerance * max(1.0, right.abs().max())


@pytest.mark.parametrize("name", OPERATORS)
def test_gradcheck(name):
    torch.manual_seed(2)
    operator, make = OPERATORS[name]
    inputs = [on_device(x).requires_grad_() for x in make()]
    with emulated():
        assert torch.autograd.gradcheck(operator, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(operator, inputs, fast_mode=True)


def test_batches_of_gradients():
    torch.manual_seed(3)
    (x,) = (on_device(t).requires_grad_() for t in rows())
    grads = torch.randn(2, *x.shape, dtype=x.dtype, device=x.device)
    operator = saturating(fused.bounded_rows)
    wanted = torch.autograd.grad(operator(x), x, grads, is_grads_batched=True)[0]
    with emulated():
        found = torch.autograd.grad(operator(x), x, grads, is_grads_batched=True)[0]
        transformed = torch.func.vmap(torch.func.grad(lambda r: operator(r).sin().sum()))
        assert transformed(x[None].detach()).shape == (1, *x.shape)
    torch.testing.assert_close(found, wanted)


def test_nothing_and_nobody():
    none = torch.zeros(0, 3, dtype=torch.float64)
    with emulated():
        assert geometry(on_device(none))[3].shape == (0, 3)
        nodes = on_device(torch.zeros(0, 6, dtype=torch.float64))
        ends = on_device(torch.zeros(0, dtype=torch.int64))
        own = on_device(none).requires_grad_()
        fused.edge_silu(own, nodes, ends, ends).sum().backward()
    assert own.grad.shape == (0, 3)


def test_in_plain_torch():
    x = on_device(torch.ones(3, requires_grad=True))
    with emulated():
        assert fused.is_fused(x)
        with fused.in_plain_torch():
            assert not fused.is_fused(x)
            assert "Silu" in fused.silu(x).grad_fn.name()
