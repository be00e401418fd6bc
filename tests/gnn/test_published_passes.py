"""Compiled passes of AMP-BMS give what autograd gives."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from published_cases import methanol, small_model, water

from gnn import System
from gnn.data import collate
from gnn.published import AmpBms

ASKED = {"forces": True, "mm_forces": True, "mm_potential": True}


def by_autograd(model: AmpBms) -> AmpBms:
    """A copy that takes no passes."""
    twin = copy.deepcopy(model)
    twin._compiled = lambda *_: None
    return twin


def check(model: AmpBms, batch, tolerance: float = 1e-10, **asked) -> None:
    passes = []
    compiled, twin = type(model)._compiled, by_autograd(model)
    model._compiled = lambda *given: passes.append(compiled(model, *given)) or passes[-1]
    found, expected = model(batch, **asked), twin(batch, **asked)
    assert passes[0] is not None
    assert list(found) == list(expected)
    for name, value in expected.items():
        value = value.detach()
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        scale = max(float(value.abs().max()), 1e-3) if value.numel() else 1.0
        assert torch.allclose(found[name], value, rtol=tolerance, atol=tolerance * scale), name


def ion() -> System:
    return System([7], np.zeros((1, 3)), 1.0, [[0.0, 0, 3.1], [0, 4.0, 0]], [0.5, -0.3])


def apart() -> System:
    """Two atoms without an edge, without charges around them."""
    return System([8, 1], [[0, 0, 0], [0, 0, 6.0]])


BATCHES = {
    "one": [water()],
    "several": [water(), methanol(), water(0), ion()],
    "one atom": [ion()],
    "no edges": [apart()],
}


@pytest.mark.parametrize("systems", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("mode", ["training", "simulation", "simulation-published"])
def test_energies_and_gradients_are_those_of_autograd(mode, systems):
    model = small_model(mode=mode)
    batch = collate(systems, model.cutoff, torch.float64)
    check(model, batch, **ASKED)
    with torch.no_grad():
        check(model, batch)


def test_fields_multipoles_and_energies_between_take_part():
    model = small_model()
    random = np.random.default_rng(3)
    for columns, order in ((1, 1), (4, 10), (10, 20)):
        batch = collate([water(), methanol()], model.cutoff, torch.float64)
        more = random.normal(size=(batch.n_mm, columns - 1)) * 0.1
        batch.mm_moments = torch.cat([batch.mm_moments, torch.from_numpy(more)], 1)
        batch.uniform_field = torch.from_numpy(random.normal(size=(2, 3)))
        batch.external_field = torch.from_numpy(random.normal(size=(batch.n_atoms, order)))
        batch.between = tuple(
            lambda x, moments, k=k: (moments[:, :4].square().sum(1) * (k + x.norm(dim=1))).sum()
            for k in range(2)
        )
        check(model, batch, **ASKED, field_response=True)


def test_single_precision_is_as_good():
    model = small_model().float()
    batch = collate([water(), methanol()], model.cutoff, torch.float32)
    check(model, batch, 2e-4, **ASKED)


def test_what_passes_cannot_do_is_left_to_autograd():
    model = small_model()
    batch = collate([water()], model.cutoff, torch.float64)
    expected = by_autograd(model)(batch, **ASKED)["forces"]

    class Changed(AmpBms):
        def parts(self, batch):
            return {k: 2 * v if k == "total" else v for k, v in super().parts(batch).items()}

    other = copy.deepcopy(model)
    other.__class__ = Changed
    assert torch.allclose(other(batch, forces=True)["forces"], 2 * expected)
    calls = []
    hook = model.charge.register_forward_hook(lambda *_: calls.append(1))
    assert torch.allclose(model(batch, forces=True)["forces"], expected, rtol=1e-12)
    assert calls == [1]
    hook.remove()
    hook = model.charge[0].register_forward_hook(lambda *given: 2 * given[-1])
    changed = model(batch, forces=True)["forces"]
    wanted = model(batch, forces=True, create_graph=True)["forces"]
    assert torch.allclose(changed, wanted, rtol=1e-10)
    assert not torch.allclose(changed, expected, rtol=1e-3)
    hook.remove()
    charge = replace(batch, charge=batch.charge.clone().requires_grad_())
    assert torch.allclose(model(charge, forces=True)["forces"], expected, rtol=1e-12)
    # functions of the distance that no table follows
    model.polarisation.network[0].weight.data *= 1e6
    expected = by_autograd(model)(batch, **ASKED)["forces"]
    assert torch.allclose(model(batch, **ASKED)["forces"], expected, rtol=1e-12)
    assert model(batch, forces=True, create_graph=True)["forces"].requires_grad


def test_layers_of_other_kinds_are_refused():
    model = small_model()
    model.atom_energy[1] = torch.nn.Tanh()
    batch = collate([water()], model.cutoff, torch.float64)
    with pytest.raises(TypeError, match="got Tanh"):
        model(batch, forces=True)
