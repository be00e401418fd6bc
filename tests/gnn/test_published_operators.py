"""The fused operators of the published models against their twins."""

import numpy as np
import pytest
import torch
from published_cases import methanol, small_model, water
from torch.autograd import gradcheck, gradgradcheck

from gnn.data.batching import collate
from gnn.published import fused
from gnn.published.electrostatics import ChargeCoupling
from gnn.published.near_charges import NearCoupling
from gnn.published.pair_energies import PairEnergies
from gnn.published.pairs import pairs_among, pairs_within
from gnn.published.polarisation import InducedMultipoles
from multipoles.radial import ReactionField

BOX = torch.tensor([16.5, 17.0, 18.0], dtype=torch.float64)


def _batch(dtype, boxed=False):
    batch = collate([water(7), methanol(9), water(0, 3)], 4.0, dtype)
    if boxed:  # everything in one place of the box, cut by its faces
        batch.positions = batch.positions % BOX.to(dtype)
        batch.mm_positions = batch.mm_positions % BOX.to(dtype)
    return batch


def _random(*shape, dtype):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(2))


def _pair_energies(dtype, boxed):
    batch, model = _batch(dtype, boxed), small_model().to(dtype)
    operator = PairEnergies(
        batch, model.dispersion, model.internal_kernel, 4.0, BOX if boxed else None
    )
    charges = _random(len(batch.numbers), dtype=dtype)
    return operator, [batch.positions, charges, 1 + charges.square()]


def _coupling(dtype, boxed):
    batch = _batch(dtype)
    operator = ChargeCoupling(batch.batch, batch.mm_batch)
    moments = _random(len(batch.numbers), 10, dtype=dtype)
    # with a trace: it does no work
    return operator, [batch.positions, batch.mm_positions, moments, batch.mm_moments]


def _induced(dtype, boxed):
    batch, model = _batch(dtype, boxed), small_model().to(dtype)
    points = batch.positions, batch.mm_positions
    reach = 9.0 if not boxed else 8.2  # more than the polarisation's
    pairs = pairs_within(*points, batch.batch, batch.mm_batch, reach, BOX if boxed else None)
    operator = InducedMultipoles(model.polarisation, pairs)
    network = [p.detach() for p in model.polarisation.parameters_of_network()]
    return operator, [*points, batch.mm_charges, *network]


def _near(consistent):
    def make(dtype, boxed):
        batch, box = _batch(dtype, boxed), BOX if boxed else None
        points = batch.positions, batch.mm_positions
        pairs = pairs_within(*points, batch.batch, batch.mm_batch, 8.2, box)
        moments = _random(len(batch.numbers), 10, dtype=dtype)
        operator = NearCoupling(pairs, ReactionField(7.5, 78.4), consistent)
        return operator, [*points, moments, batch.mm_charges]

    return make


CASES = {
    "near charges": (_near(True), False),
    "near charges in a box": (_near(True), True),
    "near charges as published": (_near(False), False),
    "pair energies": (_pair_energies, False),
    "pair energies in a box": (_pair_energies, True),
    "charges": (_coupling, False),
    "induced multipoles": (_induced, False),
    "induced multipoles in a box": (_induced, True),
}


@pytest.fixture(params=CASES)
def case(request):
    make, boxed = CASES[request.param]
    return lambda dtype: make(dtype, boxed)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-4)], ids=str
)
def test_values_and_first_derivatives_are_the_twins(case, dtype, tolerance):
    operator, inputs = case(dtype)
    found, slopes = _with_slopes(lambda *x: fused.apply(operator, *x), inputs)
    expected, twin_slopes = _with_slopes(operator.twin, inputs)
    for a, b in zip((found, *slopes), (expected, *twin_slopes), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        scale = b.abs().max()
        assert scale > 0
        assert (a - b).abs().max() < tolerance * scale


def _with_slopes(function, inputs):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    result = function(*leaves)
    weights = torch.linspace(0.5, 1.5, result.numel(), dtype=result.dtype).view(result.shape)
    return result.detach(), torch.autograd.grad((result * weights).sum(), leaves)


def test_derivatives_by_finite_differences(case):
    operator, inputs = case(torch.float64)
    leaves = [x.detach().clone().requires_grad_() for x in inputs]

    def function(*x):
        return fused.apply(operator, *x) / 100

    options = {"eps": 1e-5, "atol": 1e-5, "rtol": 1e-4, "fast_mode": True}
    torch.manual_seed(0)
    assert gradcheck(function, leaves, **options)
    assert gradgradcheck(function, leaves, **options)


def test_twins_replace_the_loops_inside_a_context():
    operator, inputs = _coupling(torch.float64, False)
    operator.values = None  # would be called outside
    with fused.twins():
        inside = fused.apply(operator, *inputs)
    with pytest.raises(TypeError), fused.twins(False):
        fused.apply(operator, *inputs)
    assert torch.equal(inside, operator.twin(*inputs))


def test_a_charge_on_an_atom_contributes_nothing():
    operator, inputs = _coupling(torch.float64, False)
    atoms, particles, *others = inputs
    before = fused.apply(operator, atoms, particles, *others)
    moved = particles.clone()
    moved[0] = atoms[0]
    after = fused.apply(operator, atoms, moved, *others)
    assert torch.isfinite(after).all()
    assert torch.allclose(after, operator.twin(atoms, moved, *others))
    assert not torch.allclose(after, before)


def test_pairs_are_those_within_reach(monkeypatch):
    monkeypatch.setattr("gnn.published.pairs._AT_ONCE", 20)  # a row or two of distances at once
    batch = _batch(torch.float64, boxed=True)
    x, y = batch.positions, batch.mm_positions
    for box in (None, BOX):
        pairs = pairs_within(x, y, batch.batch, batch.mm_batch, 6.0, box)
        vectors = y[None] - x[:, None]
        if box is not None:
            vectors = vectors - box * torch.round(vectors / box)
        near = (vectors.norm(dim=2) < 6.0) & (batch.batch[:, None] == batch.mm_batch[None])
        assert torch.equal(torch.stack([pairs.first, pairs.second], 1), torch.nonzero(near))
        assert torch.allclose(pairs.vectors(x, y), vectors[near], atol=1e-12)
        among = pairs_among(x, batch.batch, 3.0, box)
        assert (among.first < among.second).all()
        assert len(among.first) > 0


def test_loops_give_the_same_in_threads():
    import multipoles as mp

    random = np.random.default_rng(0)
    atoms, particles = random.normal(size=(150, 3)), 9 * random.normal(size=(6000, 3))
    charges = random.normal(size=(6000, 1))
    arrays = atoms, particles, random.normal(size=(150, 10)), charges
    systems = (torch.arange(2).repeat_interleave(n) for n in (75, 3000))
    operator = ChargeCoupling(*systems)
    weights = np.ones(150)
    before = mp.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            mp.set_num_threads(threads)
            results.append((operator.values(*arrays), *operator.gradients(weights, *arrays)))
    finally:
        mp.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert np.allclose(one, two, rtol=1e-11, atol=1e-11 * np.abs(one).max())
