"""The edge operators on the GPU, or in the simulator, against the loops of the CPU."""

from types import SimpleNamespace

import pytest
import torch

from gnn.operators import edges

pytest.importorskip("numba.cuda")
from gnn.operators import _edge_cuda
from gnn.operators.gpu import emulated
from multipoles.compiled.cuda_kernels import SIMULATED
from multipoles.cuda.device import NumbaSpace

pytestmark = pytest.mark.cuda

# node 3 sends nothing, node 4 has no edges at all
SENDERS, RECEIVERS, NODES = [1, 2, 0, 3, 0, 1], [0, 0, 1, 1, 2, 3], 5


def on_device(tensor):
    return tensor if SIMULATED else tensor.cuda()


def derivatives(order, channels, dtype, place, n_edges=6):
    """Return state, invariants, and first and second derivatives of a function of both."""
    torch.manual_seed(order)
    senders, receivers = (
        place(torch.tensor(i[:n_edges], dtype=torch.int64)) for i in (SENDERS, RECEIVERS)
    )
    u = torch.nn.functional.normalize(torch.randn(n_edges, 3, dtype=dtype), dim=1)
    c = torch.randn(n_edges, order + 1, channels, dtype=dtype)
    c, u = place(c).requires_grad_(), place(u).requires_grad_()
    state = edges.anisotropic_state(c, u, receivers, NODES, order)
    invariants = edges.pair_invariants(state, u, senders, receivers, order)
    value = invariants.sin().sum() + state.pow(3).sum()
    first = torch.autograd.grad(value, [c, u], create_graph=True)
    second = torch.autograd.grad(sum(x.cos().sum() for x in first), [c, u])
    return [x.detach().cpu() for x in (state, invariants, *first, *second)]


def both(*case):
    wanted = derivatives(*case[:3], lambda tensor: tensor, *case[3:])
    with emulated():
        return derivatives(*case[:3], on_device, *case[3:]), wanted


@pytest.mark.parametrize(
    "order, dtype",
    [
        *((order, torch.float64) for order in range(4)),
        *(pytest.param(order, torch.float32, marks=pytest.mark.slow) for order in range(3)),
        (3, torch.float32),
    ],
)
def test_all_derivatives(order, dtype):
    tolerance = 1e-12 if dtype == torch.float64 else 3e-5
    for found, wanted in zip(*both(order, 2, dtype), strict=True):
        assert (found - wanted).abs().max() <= tolerance * max(1.0, wanted.abs().max())


def test_the_kernels_were_used():
    def refuse(*_):
        raise AssertionError("ran on the GPU")

    kept, _edge_cuda._launch = _edge_cuda._launch, refuse
    try:
        with pytest.raises(AssertionError, match="ran on the GPU"):
            both(1, 2, torch.float64)
    finally:
        _edge_cuda._launch = kept


def test_rows_of_senders_are_kept_and_waited_for(monkeypatch):
    waits = []

    class OnStream(NumbaSpace):
        def __init__(self, number):
            self.number = self.stream = number

        def mark(self):
            return SimpleNamespace(wait=lambda stream: waits.append((stream, self.number)))

    current = [1]
    monkeypatch.setattr(_edge_cuda, "_space", lambda tensor: OnStream(current[0]))
    senders = torch.tensor([2, 0, 1, 0])
    starts, places = _edge_cuda._rows_of(senders, 3)
    assert starts.tolist() == [0, 2, 3, 4] and places.tolist() == [1, 3, 2, 0]
    for current[0] in (1, 2, 2):
        assert _edge_cuda._rows_of(senders, 3)[0] is starts
    assert waits == [(2, 1)]
    senders[0] = 1  # other edges
    assert _edge_cuda._rows_of(senders, 3)[0].tolist() == [0, 2, 4, 4]


def test_no_edges():
    for found, wanted in zip(*both(2, 2, torch.float64, 0), strict=True):
        assert found.shape == wanted.shape and torch.equal(found, wanted)


def test_the_same_bits_in_every_run():
    with emulated():
        first, second = (derivatives(2, 2, torch.float32, on_device) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_gradcheck():
    torch.manual_seed(0)
    senders, receivers = (on_device(torch.tensor(i[:3])) for i in (SENDERS, RECEIVERS))
    u = on_device(torch.randn(3, 3, dtype=torch.float64)).requires_grad_()
    c = on_device(torch.randn(3, 2, 1, dtype=torch.float64)).requires_grad_()

    def operator(c, u):
        state = edges.anisotropic_state(c, u, receivers, 3, 1)
        return edges.pair_invariants(state, u, senders, receivers, 1)

    with emulated():
        assert torch.autograd.gradcheck(operator, (c, u))
        assert torch.autograd.gradgradcheck(operator, (c, u))
