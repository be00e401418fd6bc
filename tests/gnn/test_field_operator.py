"""The field operator against its torch twin, and its derivatives against finite differences."""

from itertools import product

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import multipoles as mp
from gnn.operators import evaluators
from gnn.operators.edges import BACKENDS
from gnn.operators.field import multipole_field
from gnn.operators.field_operator import unchecked_field
from multipoles import indexing
from multipoles.neighbours import PairList, Slots

KERNELS = [
    mp.Coulomb(),
    mp.Yukawa(0.7),
    mp.Erf(0.9),
    mp.Erfc(0.6),
    mp.Thole(0.4),
    mp.ReactionField(9.0),
    mp.InversePower(3),
    mp.Softened(2.5),
    mp.Softened(3.0, 4),
]


def _points(n, seed, dtype=torch.float64):
    # a jittered lattice keeps every pair apart
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    rows = rng.permutation(len(grid))[:n]
    return torch.tensor(1.3 * grid[rows] + rng.uniform(-0.3, 0.3, (n, 3)), dtype=dtype)


def _moments(n, channels, order, seed):
    rng = np.random.default_rng(seed)
    shape = (n, channels, indexing.n_components(order))
    return torch.tensor(rng.standard_normal(shape))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
@pytest.mark.parametrize("source_order", [0, 1, 2])
def test_equals_torch_twin(kernel, source_order):
    x, s = _points(5, 0), _points(7, 1) + 0.05
    moments = _moments(7, 3, source_order, 2)
    for order in range(4):
        fused = multipole_field(x, s, moments, order, kernel=kernel)
        twin = multipole_field(x, s, moments, order, kernel=kernel, backend="torch")
        torch.testing.assert_close(fused, twin, rtol=1e-10, atol=1e-10)


def test_defaults_are_those_of_the_packages_below():
    x, moments = _points(5, 0), _moments(5, 1, 1, 2)[:, 0]
    expected = mp.field(x.numpy(), x.numpy(), moments.numpy())
    np.testing.assert_array_equal(multipole_field(x, x, moments).numpy(), expected)


@pytest.mark.parametrize("same", [False, True], ids=["apart", "same"])
@pytest.mark.parametrize("source_order", [0, 1, 2])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_gradients(source_order, order, same):
    x = _points(3, 3).requires_grad_()
    s = x if same else (_points(4, 4) + 0.07).requires_grad_()
    moments = _moments(len(s), 1, source_order, 5)[:, 0].requires_grad_()
    kernel = mp.Coulomb()

    def function(x, s, m):
        return multipole_field(x, s, m, order, kernel=kernel)

    def tied(x, m):
        return multipole_field(x, x, m, order, kernel=kernel)

    arguments = (tied, (x, moments)) if same else (function, (x, s, moments))
    assert gradcheck(*arguments, fast_mode=True)
    assert gradgradcheck(*arguments, fast_mode=True)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
def test_gradients_of_every_kernel_in_full(kernel):
    x = _points(2, 3).requires_grad_()
    s = (_points(2, 4) + 0.07).requires_grad_()
    moments = _moments(2, 1, 1, 5)[:, 0].requires_grad_()

    def function(x, s, m):
        return multipole_field(x, s, m, 1, kernel=kernel)

    assert gradcheck(function, (x, s, moments))
    assert gradgradcheck(function, (x, s, moments))


def test_third_derivatives_equal_those_of_the_twin():
    x, s = _points(3, 0).requires_grad_(), _points(4, 1) + 0.05
    moments = _moments(4, 1, 1, 2)

    def third(backend):
        value = multipole_field(x, s, moments, backend=backend).square().sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
            value = gradient.square().sum()
        return gradient

    torch.testing.assert_close(third("compiled"), third("torch"), rtol=1e-9, atol=1e-9)


def test_batches_and_pairs_are_the_same_sum():
    x, s = _points(6, 0), _points(9, 1) + 0.05
    moments = _moments(9, 2, 2, 2)
    tb, sb = torch.tensor([0, 0, 1, 1, 3, 3]), torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3])
    pairs = torch.nonzero(tb[:, None] == sb[None])
    shuffled = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))]
    batched = multipole_field(
        x, s, moments, 2, kernel=mp.Coulomb(), target_batch=tb, source_batch=sb
    )
    listed = multipole_field(x, s, moments, 2, kernel=mp.Coulomb(), pairs=shuffled)
    torch.testing.assert_close(batched, listed)
    dense = multipole_field(x[4:], s[7:], moments[7:], 2, kernel=mp.Coulomb())
    torch.testing.assert_close(batched[4:], dense)


def test_gradients_through_batches_and_pairs():
    x, s = _points(4, 0).requires_grad_(), (_points(5, 1) + 0.05).requires_grad_()
    moments = _moments(5, 1, 1, 2).requires_grad_()
    tb, sb = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 1, 2])
    pairs = torch.tensor([[3, 0], [0, 2], [0, 4], [1, 1]])
    for where in ({"target_batch": tb, "source_batch": sb}, {"pairs": pairs}):

        def function(x, s, m, where=where):
            return multipole_field(x, s, m, 2, kernel=mp.Yukawa(0.5), **where)

        assert gradcheck(function, (x, s, moments))
        assert gradgradcheck(function, (x, s, moments), fast_mode=True)


def test_coincident_points_contribute_nothing():
    x = _points(3, 0)
    moments = _moments(3, 1, 2, 1)
    field = multipole_field(x[:1], x, moments, 3, kernel=mp.Coulomb())
    others = multipole_field(x[:1], x[1:], moments[1:], 3, kernel=mp.Coulomb())
    torch.testing.assert_close(field, others)


def test_float32_and_expanded_gradients():
    x = _points(4, 0, torch.float32).requires_grad_()
    moments = _moments(4, 2, 1, 1).float().requires_grad_()
    value = multipole_field(x, x, moments, 1, kernel=mp.Coulomb())
    assert value.dtype == torch.float32
    value.sum().backward()  # the incoming gradient has stride 0
    assert torch.isfinite(x.grad).all() and moments.grad.shape == moments.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.zeros(3, 2)}, "targets of shape"),
        ({"moments": torch.zeros(2, 1)}, "moments of shape"),
        ({"moments": torch.zeros(4, 5)}, "packed length"),
        ({"order": -1}, "order"),
        ({"order": 40}, "at most 32"),
        ({"sources": torch.full((4, 3), float("nan"))}, "sources of finite numbers"),
        ({"method": "magic"}, "method"),
        ({"backend": "magic"}, "backend"),
        ({"method": "fmm", "backend": "torch"}, "method 'fmm' is compiled"),
        ({"method": "fmm", "pairs": torch.tensor([[0, 1]])}, "no list of pairs"),
        ({"method": "fmm", "kernel": mp.Yukawa(1.0)}, "1/r beyond some distance"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"tolerance": "tight"}, "tolerance"),
        ({"targets": torch.zeros(3, 3, dtype=torch.float64)}, "one dtype"),
    ],
)
def test_wrong_input(change, message):
    given = {
        "targets": torch.zeros(3, 3),
        "sources": torch.ones(4, 3),
        "moments": torch.ones(4, 1),
        "order": 1,
        "kernel": mp.Coulomb(),
    }
    with pytest.raises(ValueError, match=message):
        multipole_field(**(given | change))


@pytest.mark.parametrize(
    "change",
    [{"kernel": mp.Coulomb}, {"kernel": "c"}, {"order": 1.5}, {"targets": np.zeros((3, 3))}],
)
def test_wrong_types(change):
    given = {
        "targets": torch.zeros(3, 3),
        "sources": torch.ones(4, 3),
        "moments": torch.ones(4, 1),
        "order": 1,
        "kernel": mp.Coulomb(),
    }
    with pytest.raises(TypeError):
        multipole_field(**(given | change))


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("source_order", [0, 1])
def test_nothing_on_one_side(sizes, source_order):
    x = torch.zeros(sizes[0], 3, dtype=torch.float64, requires_grad=True)
    s = torch.ones(sizes[1], 3, dtype=torch.float64, requires_grad=True)
    m = _moments(sizes[1], 2, source_order, 0).requires_grad_()
    value = multipole_field(x, s, m, 2, kernel=mp.Coulomb()).square().sum()
    first = torch.autograd.grad(value, (x, s, m), create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, s, m))
    for given, gradient in zip((x, s, m), second, strict=True):
        assert gradient.shape == given.shape and not gradient.any()


def test_thole_twin_keeps_its_digits_at_short_range():
    x = torch.tensor([[0.02, 0.03, 0.01], [0.9, 0.1, 0.2], [1.5, 0.9, 0.4]], dtype=torch.float64)
    s, moments = torch.zeros(1, 3, dtype=torch.float64), _moments(1, 1, 1, 0)
    one, two = (
        multipole_field(x, s, moments, 3, kernel=mp.Thole(0.39), backend=backend)
        for backend in BACKENDS
    )
    torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)


# --- the fast multipole method ------------------------------------------------------------------

DAMPED = [mp.Coulomb(), mp.Softened(0.5), mp.Erf(14.0)]


@pytest.fixture
def far(monkeypatch):
    """Leaves so small that few points already make a far field; says if one was used."""
    used = []

    class Watched(evaluators.FMM):
        def field(self, moments, order=None):
            found = super().field(moments, order)
            used.append(self.report().degree)
            return found

        def transpose(self):
            other = super().transpose()
            other.__class__ = Watched
            return other

    monkeypatch.setattr(evaluators, "FMM", Watched)
    monkeypatch.setattr(evaluators, "_LEAF_SIZE", 1)
    return used


def _two_groups(n, seed):
    """Points of which those of the first half meet the others by short expansions."""
    points = _points(n, seed)
    points[n // 2 :] += torch.tensor([40.0, 35.0, 30.0])
    return points.requires_grad_()


def _derivatives(method, x, s, m, kernel, **batches):
    """Field, first and second derivatives of a function of it, each by all arguments."""
    order = 1
    field = multipole_field(
        x, s, m, order, kernel=kernel, method=method, tolerance=1e-10, **batches
    )
    weights = torch.linspace(-1, 1, field.numel(), dtype=field.dtype).view(field.shape)
    value = (weights * field).sum() + field.square().sum()
    first = torch.autograd.grad(value, (x, s, m), create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, s, m))
    return field, *first, *second


def _sums():
    """Kernels, whether targets are sources, whether there are several systems; one is enough."""
    shown = {("Coulomb", True, True)}
    for kernel, same, batches in product(DAMPED, (False, True), (False, True)):
        name = type(kernel).__name__
        yield pytest.param(
            kernel, same, batches,
            marks=[] if (name, same, batches) in shown else [pytest.mark.slow],
            id=f"{name}-{'same' if same else 'apart'}-{'batch' if batches else 'one system'}",
        )  # fmt: skip


@pytest.mark.parametrize(("kernel", "same", "batches"), list(_sums()))
def test_fmm_and_its_derivatives_equal_direct_sums(kernel, same, batches, far):
    x = _two_groups(20, 0)
    s = x if same else _two_groups(26, 1)
    m = _moments(len(s), 2, 1, 2).requires_grad_()
    index = {}
    if batches:
        index["target_batch"] = (torch.arange(len(x)) >= 15).long()
        index["source_batch"] = (torch.arange(len(s)) >= (15 if same else 20)).long()
    exact = _derivatives("direct", x, s, m, kernel, **index)
    found = _derivatives("fmm", x, s, m, kernel, **index)
    assert np.mean(np.array(far) > 0) > 0.5, "summed directly: nothing was tested"
    for a, b in zip(found, exact, strict=True):
        assert torch.linalg.vector_norm(a - b) <= 1e-8 * torch.linalg.vector_norm(b)


@pytest.mark.parametrize(
    ("kernel", "same"),
    [
        pytest.param(
            kernel,
            same,
            id=f"{type(kernel).__name__}-{'same' if same else 'apart'}",
            marks=[pytest.mark.slow] * (same or not isinstance(kernel, mp.Coulomb)),
        )
        for kernel, same in product(DAMPED, (False, True))
    ],
)
def test_gradients_of_the_fmm(kernel, same, far):
    x, s = _two_groups(6, 3), _two_groups(8, 4)
    moments = _moments(6 if same else 8, 1, 1, 5)[:, 0].requires_grad_()
    index = torch.tensor([0, 0, 0, 0, 0, 1]), torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
    options = {"kernel": kernel, "method": "fmm", "tolerance": 1e-11}

    def function(x, s, m):
        return multipole_field(x, s, m, 1, target_batch=index[0], source_batch=index[1], **options)

    def tied(x, m):
        return multipole_field(x, x, m, 1, **options)

    arguments = (tied, (x, moments)) if same else (function, (x, s, moments))
    assert gradcheck(*arguments, fast_mode=True)
    assert gradgradcheck(*arguments, fast_mode=True)
    assert np.mean(np.array(far) > 0) > 0.5


@pytest.mark.parametrize(
    "kernel", [mp.Coulomb(), pytest.param(mp.Softened(2.0), marks=pytest.mark.slow)], ids=str
)
def test_fmm_keeps_a_loose_tolerance_in_float32(kernel):
    rng = np.random.default_rng(0)
    x = torch.tensor(20 * rng.random((6000, 3)), dtype=torch.float32, requires_grad=True)
    m = torch.tensor(rng.standard_normal((6000, 2, 1)), dtype=torch.float32)

    def run(method):
        field = multipole_field(x, x, m, 1, kernel=kernel, method=method, tolerance=1e-3)
        (gradient,) = torch.autograd.grad((field * m).sum(), x)
        return field, gradient

    for a, b in zip(run("fmm"), run("direct"), strict=True):
        error = torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b)
        assert a.dtype == torch.float32 and 1e-7 < error < 2e-3


def test_auto_makes_no_tree_for_few_points_and_one_for_many(monkeypatch):
    made = []
    plan = evaluators.FMM
    monkeypatch.setattr(evaluators, "FMM", lambda *a, **k: made.append(a) or plan(*a, **k))

    def run(n, kernel, neighbours=None):
        x = torch.rand(n, 3, generator=torch.Generator().manual_seed(0))
        neighbours = neighbours or Slots(n, n)
        unchecked_field(x, x, torch.ones(n, 1, 1), 0, kernel, neighbours, "auto", 1e-3)
        return len(made)

    assert run(300, mp.Coulomb()) == 0
    assert run(20_000, mp.Softened(0.01)) == 1
    # where there is no other way
    assert run(3000, mp.Yukawa(1.0)) == 1
    assert run(20_000, mp.Coulomb(), PairList(np.array([[0, 1]]), 20_000, 20_000)) == 1


def test_an_unchecked_field_without_a_method_is_direct():
    x, m = _points(5, 0), _moments(5, 1, 0, 0)
    found = unchecked_field(x, x, m, 1, mp.Yukawa(0.5), Slots(5, 5))
    torch.testing.assert_close(found, multipole_field(x, x, m, 1, kernel=mp.Yukawa(0.5)))
    with pytest.raises(ValueError, match="method"):
        unchecked_field(x, x, m, 1, mp.Coulomb(), Slots(5, 5), "magic")


def test_operators_have_one_home():
    from gnn import operators

    assert operators.multipole_field is multipole_field
