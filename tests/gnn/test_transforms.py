"""torch.func and forward mode through the operators: what backward mode gives, by other ways."""

import pytest
import torch
from torch import func
from torch.autograd import forward_ad, gradcheck
from torch.autograd.functional import hvp, jacobian

import multipoles as mp
from gnn.operators.edges import anisotropic_state, pair_invariants
from gnn.operators.field import multipole_field

DTYPE = torch.float64
# torch.func brings it in
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
KERNEL = mp.Erf(0.8)


@pytest.fixture(params=[{"method": "direct"}, {"method": "fmm"}, {"backend": "torch"}], ids=str)
def field(request):
    def call(x, s, m, order=1):
        return multipole_field(x, s, m, order, kernel=KERNEL, tolerance=1e-9, **request.param)

    return call


@pytest.fixture
def points():
    torch.manual_seed(0)
    x, s = torch.rand(4, 3, dtype=DTYPE), 2 + torch.rand(5, 3, dtype=DTYPE)
    return x, s, torch.randn(5, 2, 4, dtype=DTYPE)


def by_rows(function, inputs):
    """The Jacobian by ordinary backward passes, one for each output."""
    return jacobian(function, tuple(inputs))


def test_jacobians_of_the_field(field, points):
    expected = by_rows(field, points)
    ways = {
        "jacrev": func.jacrev(field, argnums=(0, 1, 2))(*points),
        "jacfwd": func.jacfwd(field, argnums=(0, 1, 2))(*points),
        "vectorised": jacobian(field, points, vectorize=True),
        "vectorised, forward": jacobian(field, points, vectorize=True, strategy="forward-mode"),
    }
    for way, found in ways.items():
        for one, two in zip(found, expected, strict=True):
            torch.testing.assert_close(one, two, msg=way, rtol=1e-6, atol=1e-7)


def test_second_derivatives_of_the_field(field, points):
    x, s, m = points
    _, expected = hvp(lambda y: field(y, s, m).square().sum(), x, torch.ones_like(x))
    hessian = func.hessian(lambda y: field(y, s, m).square().sum())(x)
    found = hessian.flatten(2).sum(-1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    twice = func.jacrev(func.jacrev(lambda y: field(y, s, m).square().sum()))(x)
    torch.testing.assert_close(twice, hessian, rtol=1e-5, atol=1e-6)


def test_batches_of_moments_and_of_points(field, points):
    x, s, m = points
    many = torch.randn(3, *m.shape, dtype=DTYPE)
    for dims in ((None, None, 0), (0, None, None), (0, 0, 0), (None, 1, None)):
        batched = [
            t if d is None else torch.stack([t + 0.1 * i for i in range(3)], d)
            for t, d in zip((x, s, m if dims[2] is None else many[0]), dims, strict=True)
        ]
        found = func.vmap(field, dims)(*batched)
        for i in range(3):
            own = [t if d is None else t.select(d, i) for t, d in zip(batched, dims, strict=True)]
            torch.testing.assert_close(found[i], field(*own), rtol=1e-6, atol=1e-7)
    charges = many[:, :, 0, :1]  # moments without channels
    found = func.vmap(field, (None, None, 0))(x, s, charges)
    torch.testing.assert_close(found[1], field(x, s, charges[1]), rtol=1e-6, atol=1e-7)
    gradients = func.vmap(func.grad(lambda y, q: field(y, s, q).sum()), (None, 0))(x, many)
    own = func.grad(lambda y: field(y, s, many[2]).sum())(x)
    torch.testing.assert_close(gradients[2], own, rtol=1e-6, atol=1e-7)


def test_forward_mode_and_vjp_agree(field, points):
    tangents = tuple(torch.randn_like(t) for t in points)
    value, along = func.jvp(field, points, tangents)
    plain, pull = func.vjp(field, *points)
    torch.testing.assert_close(value, plain)
    weights = torch.randn_like(value)
    work = sum((a * b).sum() for a, b in zip(pull(weights), tangents, strict=True))
    torch.testing.assert_close((weights * along).sum(), work, rtol=1e-6, atol=1e-7)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, d) for t, d in zip(points, tangents, strict=True)]
        _, tangent = forward_ad.unpack_dual(field(*duals))
    torch.testing.assert_close(tangent, along, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("order", [0, 2])
def test_gradcheck_of_all_modes(points, order):
    x, s, m = (t.clone().requires_grad_() for t in points)
    checks = {
        "check_forward_ad": True,
        "check_batched_grad": True,
        "check_batched_forward_grad": True,
    }
    near = [[0, 1], [0, 2], [3, 4], [2, 2]]

    def listed(*args):
        return multipole_field(*args, order, kernel=KERNEL, pairs=torch.tensor(near))

    assert gradcheck(lambda *a: multipole_field(*a, order, kernel=KERNEL), (x, s, m), **checks)
    assert gradcheck(listed, (x, s, m), **checks)


def test_batches_of_systems_and_the_same_points(points):
    x, _, m = points
    index = torch.tensor([0, 0, 1, 1])

    def own(y):
        return multipole_field(
            y, y, m[:4], 1, kernel=KERNEL, target_batch=index, source_batch=index
        )

    torch.testing.assert_close(func.jacrev(own)(x), jacobian(own, x))
    torch.testing.assert_close(func.jacfwd(own)(x), jacobian(own, x))


def test_what_cannot_be_transformed_says_so(points):
    x, s, m = points
    pairs = torch.tensor([[[0, 1]], [[1, 2]]])
    with pytest.raises(ValueError, match=r"torch\.func cannot transform by them"):
        func.vmap(lambda p: multipole_field(x, s, m, 1, kernel=KERNEL, pairs=p))(pairs)
    with pytest.raises(ValueError, match="expected moments of finite numbers, got NaN"):
        func.grad(lambda y: multipole_field(y, s, m * torch.nan, 0, kernel=KERNEL).sum())(x)


# --- edges ----------------------------------------------------------------------------------------


@pytest.fixture
def edges():
    torch.manual_seed(1)
    senders, receivers = torch.tensor([1, 2, 0, 2, 0]), torch.tensor([0, 0, 1, 1, 2])
    directions = torch.nn.functional.normalize(torch.randn(5, 3, dtype=DTYPE), dim=1)
    return senders, receivers, directions


@pytest.mark.parametrize("which", ["state", "invariants"])
def test_edge_operators_are_transformed(which, edges):
    senders, receivers, directions = edges
    if which == "state":
        values = torch.randn(5, 3, 2, dtype=DTYPE)

        def operator(v, u):
            return anisotropic_state(v, u, receivers, 3, 2)
    else:
        values = torch.randn(3, 10, 2, dtype=DTYPE)

        def operator(v, u):
            return pair_invariants(v, u, senders, receivers, 2)

    expected = by_rows(operator, (values, directions))
    ways = {
        "jacrev": func.jacrev(operator, argnums=(0, 1))(values, directions),
        "jacfwd": func.jacfwd(operator, argnums=(0, 1))(values, directions),
        "vectorised": jacobian(operator, (values, directions), vectorize=True),
        "forward": jacobian(
            operator, (values, directions), vectorize=True, strategy="forward-mode"
        ),
    }
    for way, found in ways.items():
        for one, two in zip(found, expected, strict=True):
            torch.testing.assert_close(one, two, msg=way)
    batch = torch.stack([values, 2 * values])
    found = func.vmap(operator, (0, None))(batch, directions)
    torch.testing.assert_close(found[1], operator(2 * values, directions))

    def energy(u):
        return operator(values, u).square().sum()

    hessian = func.hessian(energy)(directions)
    plain = torch.autograd.functional.hessian(energy, directions)
    torch.testing.assert_close(hessian, plain)
    vectorised = torch.autograd.functional.hessian(energy, directions, vectorize=True)
    torch.testing.assert_close(vectorised, plain)
