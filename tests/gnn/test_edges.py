import itertools

import numpy as np
import pytest
import torch

from gnn.operators import edge_arrays, edges, edges_torch
from gnn.operators.edges import anisotropic_state, n_invariants, pair_invariants, self_invariants
from multipoles import indexing
from multipoles.compiled import jit

ORDERS = (0, 1, 2, 3)
# numbers of channels that leave a vector of a node in part empty, and those of whole vectors (of
# float32 the second only)
REST, WHOLE = (1, 3, 20), (8, 16)


def make(order, channels, dtype=torch.float64, n_nodes=7, n_edges=40, seed=0):
    """Return coefficients, a state, unit vectors, senders and receivers; node 3 has no edges."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)

    receivers = torch.sort(torch.randint(0, n_nodes, (n_edges,), generator=rng)).values
    receivers[receivers == 3] = 2
    senders = torch.randint(0, n_nodes, (n_edges,), generator=rng)
    directions = torch.nn.functional.normalize(normal(n_edges, 3), dim=1)
    coefficients = normal(n_edges, order + 1, channels)
    state = normal(n_nodes, indexing.n_components(order), channels)
    return coefficients, state, directions, senders, receivers


def both_operators(order, channels, backend, dtype=torch.float64, **options):
    """Return (operator of values and directions, values, directions) of both operators."""
    coefs, state, u, senders, receivers = make(order, channels, dtype, **options)
    n = len(state)
    return [
        (lambda c, v: anisotropic_state(c, v, receivers, n, order, backend=backend), coefs, u),
        (lambda s, v: pair_invariants(s, v, senders, receivers, order, backend=backend), state, u),
    ]


def all_derivatives(operator, values, directions):
    """Return values, gradients and the gradients of a loss on the gradients."""
    values, directions = values.clone().requires_grad_(), directions.clone().requires_grad_()
    found = operator(values, directions)
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).reshape(found.shape)
    weights.requires_grad_()
    inputs = values, directions, weights
    first = torch.autograd.grad(
        found, inputs[:2], weights, create_graph=True, materialize_grads=True
    )
    loss = sum((g * torch.cos(g.detach())).sum() for g in first)
    second = torch.autograd.grad(loss, inputs, materialize_grads=True)
    return [x.detach() for x in (found, *first, *second)]


def full_tensor(packed, rank):
    """Unpack one order of a packed vector of moments to a full symmetric tensor."""
    out = np.zeros((3,) * rank)
    for axes in itertools.product(range(3), repeat=rank):
        place = indexing.component_index(*(axes.count(i) for i in range(3)))
        out[axes] = packed[place] / len(set(itertools.permutations(axes)))
    return out


# --- the twin against formulas written out --------------------------------------------------------


def test_state_of_one_edge_is_the_traceless_tensor_of_its_direction():
    u = np.array([0.6, -0.64, 0.48])
    eye = np.eye(3)
    third = np.einsum("i,j,k->ijk", u, u, u)
    third -= sum(np.einsum(s, eye, u) for s in ("ij,k->ijk", "ik,j->ijk", "jk,i->ijk")) / 5
    expected = [np.array(1.0), u, np.outer(u, u) - eye / 3, third]
    coefficients = torch.tensor([2.0, 3.0, 5.0, 7.0], dtype=torch.float64)[None, :, None]
    for backend in edges.BACKENDS:
        state = anisotropic_state(
            coefficients, torch.tensor(u)[None], torch.tensor([1]), 2, 3, backend=backend
        )
        assert (state[0] == 0).all()
        packed = state[1, :, 0].numpy()
        for rank, (factor, tensor) in enumerate(zip((2, 3, 5, 7), expected, strict=True)):
            np.testing.assert_allclose(full_tensor(packed, rank), factor * tensor, atol=1e-14)


@pytest.mark.parametrize("backend", edges.BACKENDS)
def test_invariants_of_one_pair_in_documented_order(backend):
    _, state, directions, _, _ = make(2, 1, n_nodes=2, n_edges=1)
    u = directions[0].numpy()
    (m1, d1, q1), (m2, d2, q2) = (
        [full_tensor(state[i, :, 0].numpy(), rank) for rank in range(3)] for i in (0, 1)
    )
    y1, y2 = q1 @ u, q2 @ u
    expected = [m1, m2, d1 @ u, d2 @ u, u @ y1, u @ y2]
    expected += [d1 @ d2, d1 @ y2, y1 @ d2, y1 @ y2, (q1 * q2).sum()]
    ends = torch.tensor([0]), torch.tensor([1])
    found = pair_invariants(state, directions, *ends, 2, backend=backend)
    np.testing.assert_allclose(found[0, :, 0], np.array(expected), atol=1e-13)


def test_invariants_of_order_three():
    _, state, directions, _, _ = make(3, 1, n_nodes=2, n_edges=1)
    u = directions[0].numpy()
    one, two = ([full_tensor(state[i, :, 0].numpy(), rank) for rank in range(4)] for i in (0, 1))

    def contract(tensor, k):
        while tensor.ndim > k:
            tensor = tensor @ u
        return tensor

    expected = [contract(side[rank], 0) for rank in range(4) for side in (one, two)]
    for a, b in itertools.product((1, 2, 3), repeat=2):
        for k in range(1, min(a, b) + 1):
            expected.append((contract(one[a], k) * contract(two[b], k)).sum())
    ends = torch.tensor([0]), torch.tensor([1])
    for backend in edges.BACKENDS:
        found = pair_invariants(state, directions, *ends, 3, backend=backend)
        np.testing.assert_allclose(found[0, :, 0], np.array(expected), atol=1e-13)


def test_number_of_invariants():
    assert [n_invariants(order) for order in ORDERS] == [2, 5, 11, 22]


# --- the fused operators against their twins ------------------------------------------------------


def _compared():
    """Orders, types and channels; loops over whole vectors, and other types, at some orders."""
    for order, dtype in itertools.product(ORDERS, (torch.float64, torch.float32)):
        for numbers, is_shown in (
            (REST, dtype == torch.float64 or order == 1),
            (WHOLE, (order, dtype) in {(1, torch.float32), (1, torch.float64), (3, torch.float64)}),
        ):
            yield pytest.param(order, dtype, numbers, marks=[] if is_shown else [pytest.mark.slow])


@pytest.mark.parametrize(("order", "dtype", "numbers"), list(_compared()))
def test_fused_operators_agree_with_their_twins_to_second_derivatives(order, dtype, numbers):
    tolerance = 1e-12 if dtype == torch.float64 else 3e-5
    for channels in numbers:
        fused = both_operators(order, channels, "compiled", dtype)
        twins = both_operators(order, channels, "torch", dtype)
        for (f, values, u), (twin, _, _) in zip(fused, twins, strict=True):
            pairs = zip(
                all_derivatives(f, values, u), all_derivatives(twin, values, u), strict=True
            )
            for found, expected in pairs:
                assert found.dtype == dtype
                scale = expected.abs().max().item()
                assert (found - expected).abs().max().item() <= tolerance * max(scale, 1e-3)


@pytest.mark.parametrize("order", ORDERS)
def test_gradcheck_and_gradgradcheck(order):
    for operator, values, u in both_operators(order, 3, "compiled", n_nodes=4, n_edges=6):
        inputs = values.requires_grad_(), u.clone().requires_grad_()
        assert torch.autograd.gradcheck(operator, inputs)
        assert torch.autograd.gradgradcheck(operator, inputs)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_third_derivatives_go_through_the_twin(order):
    found = []
    for backend in edges.BACKENDS:
        for operator, values, u in both_operators(order, 2, backend):
            # the direction also enters through the values, as in a network
            v = u.clone().requires_grad_()
            w = values * (1 + v.sum())
            target = (operator(w, v) ** 2).mean()
            for _ in range(3):
                (g,) = torch.autograd.grad(target, v, create_graph=True)
                target = (g**2).mean() / g.detach().abs().max() ** 2
            found.append(g.detach())
    half = len(found) // 2
    for fused, twin in zip(found[:half], found[half:], strict=True):
        assert (twin != 0).any()
        torch.testing.assert_close(fused, twin, rtol=1e-9, atol=1e-9 * twin.abs().max().item())


def test_inputs_without_gradient_get_none_and_others_are_right():
    for operator, values, u in both_operators(2, 5, "compiled"):
        only = values.clone().requires_grad_()
        (grad,) = torch.autograd.grad((operator(only, u) ** 2).sum(), only)
        both = values.clone().requires_grad_(), u.clone().requires_grad_()
        expected = torch.autograd.grad((operator(*both) ** 2).sum(), both)
        torch.testing.assert_close(grad, expected[0])
        only = u.clone().requires_grad_()
        (grad,) = torch.autograd.grad((operator(values, only) ** 2).sum(), only)
        torch.testing.assert_close(grad, expected[1])


def test_strided_inputs_and_expanded_gradients():
    plain = both_operators(2, 6, "compiled")
    for operator, values, u in plain:
        a = values.clone().requires_grad_(), u.clone().requires_grad_()
        strided = values.transpose(0, 2).contiguous().transpose(0, 2), u.T.contiguous().T
        b = tuple(x.detach().requires_grad_() for x in strided)
        assert not b[0].is_contiguous()
        y, z = operator(*a), operator(*b)
        torch.testing.assert_close(y, z)
        # .sum() hands back a gradient of stride zero
        expected = torch.autograd.grad(y, a, torch.ones_like(y), create_graph=True)
        found = torch.autograd.grad(z.sum(), b, create_graph=True)
        for g, e in zip(found, expected, strict=True):
            torch.testing.assert_close(g, e)
        expected = torch.autograd.grad(sum(e.sum() for e in expected), a)
        found = torch.autograd.grad(sum(g.sum() for g in found), b)
        for g, e in zip(found, expected, strict=True):
            torch.testing.assert_close(g, e)


def test_strided_edge_index():
    coefs, state, u, senders, receivers = make(1, 4)
    table = torch.stack([senders, receivers], dim=1)
    found = pair_invariants(state, u, table[:, 0], table[:, 1], 1)
    assert torch.equal(found, pair_invariants(state, u, senders, receivers, 1))
    found = anisotropic_state(coefs, u, table[:, 1], 7, 1)
    assert torch.equal(found, anisotropic_state(coefs, u, receivers, 7, 1))


@pytest.mark.parametrize("backend", edges.BACKENDS)
@pytest.mark.parametrize("n_nodes", [0, 3])
def test_no_edges(backend, n_nodes):
    for order in (0, 2):
        n = indexing.n_components(order)
        none = torch.zeros(0, dtype=torch.int64)
        coefs = torch.zeros(0, order + 1, 4, dtype=torch.float64, requires_grad=True)
        u = torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
        state = anisotropic_state(coefs, u, none, n_nodes, order, backend=backend)
        assert state.shape == (n_nodes, n, 4)
        assert (state == 0).all()
        found = pair_invariants(state, u, none, none, order, backend=backend)
        assert found.shape == (0, n_invariants(order), 4)
        first = torch.autograd.grad(
            found.sum() + (state**2).sum(), (coefs, u), create_graph=True, materialize_grads=True
        )
        loss = sum((g**2).sum() for g in first)
        if loss.requires_grad:
            torch.autograd.grad(loss, (coefs, u), allow_unused=True)


def test_threads_change_nothing_but_rounding_and_repeat_exactly(monkeypatch):
    threads = jit.get_num_threads()
    options = {"n_nodes": 60, "n_edges": 700}
    runs = []
    try:
        for count, grain in ((1, 1e5), (3, 1e-3), (3, 1e-3)):
            jit.set_num_threads(count)
            monkeypatch.setattr(edge_arrays, "_THREAD_GRAIN", grain)
            operators = both_operators(2, 5, "compiled", **options)
            runs.append([x for o in operators for x in all_derivatives(*o)])
    finally:
        jit.set_num_threads(threads)
    for one, three, again in zip(*runs, strict=True):
        torch.testing.assert_close(one, three, rtol=1e-10, atol=1e-10)
        assert torch.equal(three, again)


# --- properties -----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_state_is_traceless(order):
    coefs, state, u, _, receivers = make(order, 3)
    found = anisotropic_state(coefs, u, receivers, len(state), order).numpy()
    for node, channel in ((0, 0), (2, 1), (6, 2)):
        for rank in range(2, order + 1):
            tensor = full_tensor(found[node, :, channel], rank)
            assert np.abs(tensor).max() > 0.1
            np.testing.assert_allclose(np.trace(tensor), 0, atol=1e-13)


@pytest.mark.parametrize("backend", edges.BACKENDS)
def test_harmonics_are_harmonic_off_the_unit_sphere(backend):
    u = torch.tensor([[0.3, -1.2, 0.8]], dtype=torch.float64)
    coefs = torch.ones(1, 4, 1, dtype=torch.float64)
    edge = torch.tensor([0])

    def state(v):
        return anisotropic_state(coefs, v, edge, 1, 3, backend=backend)[0, :, 0]

    for component in range(20):
        hessian = torch.autograd.functional.hessian(lambda v, i=component: state(v)[i], u)
        assert abs(torch.trace(hessian[0, :, 0, :]).item()) < 1e-12


@pytest.mark.parametrize("backend", edges.BACKENDS)
@pytest.mark.parametrize("order", ORDERS)
def test_invariants_do_not_change_under_rotation(order, backend):
    coefs, state, u, senders, receivers = make(order, 4)
    rotation = torch.linalg.qr(make(0, 3, n_nodes=3, n_edges=3)[2]).Q

    def invariants(v):
        s = anisotropic_state(coefs, v, receivers, len(state), order, backend=backend)
        pair = pair_invariants(s, v, senders, receivers, order, backend=backend)
        return pair, self_invariants(s, order)

    for a, b in zip(invariants(u), invariants(u @ rotation.T), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_self_invariants_are_squared_norms():
    _, state, *_ = make(3, 2)
    found = self_invariants(state, 3).reshape(len(state), 3, 2)
    for rank in (1, 2, 3):
        tensor = full_tensor(state[4, :, 1].numpy(), rank)
        np.testing.assert_allclose(found[4, rank - 1, 1], (tensor**2).sum())
    assert self_invariants(state[:, :1], 0).shape == (len(state), 0)


@pytest.mark.parametrize("backend", ["compiled", "torch"])
def test_fused_operators_store_no_tensor_of_an_edge(backend):
    coefs, state, u, senders, receivers = make(3, 8)
    u.requires_grad_()
    shapes = set()

    def pack(tensor):
        shapes.add(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        s = anisotropic_state(coefs.requires_grad_(), u, receivers, len(state), 3, backend=backend)
        g = pair_invariants(s, u, senders, receivers, 3, backend=backend)
        torch.autograd.grad((g**2).sum(), u, create_graph=True)
    given = {tuple(t.shape) for t in (coefs, s, u, g, senders)}
    # the twin does store tensors of edges: the check would see them
    assert (shapes <= given | {()}) == (backend == "compiled")


# --- wrong input ----------------------------------------------------------------------------------


def test_wrong_input_is_refused():
    coefs, state, u, senders, receivers = make(2, 4)
    with pytest.raises(ValueError, match="order from 0 to 3"):
        pair_invariants(state, u, senders, receivers, 4)
    with pytest.raises(ValueError, match=r"expected coefficients of shape .*\(40, 2, 'C'\)"):
        anisotropic_state(coefs, u, receivers, 7, 1)
    with pytest.raises(ValueError, match="expected a state of shape"):
        pair_invariants(state, u, senders, receivers, 1)
    with pytest.raises(ValueError, match="expected directions of shape"):
        pair_invariants(state, u[:-1], senders, receivers, 2)
    with pytest.raises(ValueError, match="int64"):
        pair_invariants(state, u, senders.int(), receivers, 2)
    with pytest.raises(ValueError, match="sorted by receiver"):
        anisotropic_state(coefs, u, receivers.flip(0), 7, 2)
    with pytest.raises(ValueError, match="from 0 to 5"):
        anisotropic_state(coefs, u, receivers, 6, 2)
    with pytest.raises(ValueError, match="from 0 to 6"):
        pair_invariants(state, u, senders - 1, receivers, 2)
    with pytest.raises(TypeError, match="one dtype"):
        pair_invariants(state.float(), u, senders, receivers, 2)
    with pytest.raises(TypeError, match="backend='torch'"):
        pair_invariants(state.half(), u.half(), senders, receivers, 2)
    with pytest.raises(ValueError, match="backend"):
        pair_invariants(state, u, senders, receivers, 2, backend="cuda")


def test_twin_module_needs_no_sorted_edges():
    coefs, state, u, _, receivers = make(2, 4)
    order = torch.arange(len(receivers)).flip(0)
    found = edges_torch.anisotropic_state(coefs[order], u[order], receivers[order], 7, 2)
    expected = edges_torch.anisotropic_state(coefs, u, receivers, len(state), 2)
    torch.testing.assert_close(found, expected)
