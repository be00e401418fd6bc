"""What a change of a weight is, and that it is seen."""

import copy

import pytest
import torch
from torch import nn

from gnn.passes.weights import Weights


def transpose(model):
    weight = model[0].weight
    weight.data = weight.data.T  # the same memory, read in another order


def replace(model):
    model[1] = copy.deepcopy(model[1])


def write_last(model):
    model[1].bias.detach().numpy()[-1] += 1  # at the end of an odd number of four bytes each


CHANGES = {
    "in place": lambda model: model[0].weight.data.__setitem__((0, 0), 7.0),
    "of the last bytes": write_last,
    "of a buffer": lambda model: model[2].running_mean.add_(1),
    "by other memory": lambda model: setattr(model[0].weight, "data", torch.zeros(4, 4)),
    "of the order of axes": transpose,
    "of a module": replace,
    "of the type": lambda model: model.double(),
}


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(model, change):
    weights = Weights()
    stamp = weights.look(model)
    assert weights.look(model) is stamp
    CHANGES[change](model)
    changed = weights.look(model)
    assert changed is not stamp
    if change != "of the order of axes":  # which the loop cannot read in place
        assert weights.look(model) is changed


def test_a_copy_looks_for_itself(model):
    weights = Weights()
    stamp = weights.look(model)
    assert copy.deepcopy(weights).look(model) is not stamp


def test_of_a_frozen_model_what_torch_counts_is_seen(model):
    weights, model.frozen = Weights(), True
    model.requires_grad_(False)
    stamp = weights.look(model)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    changed = weights.look(model)
    assert changed is not stamp
    assert weights.look(model) is changed
    replace(model)
    assert weights.look(model) is not changed


def test_of_what_torch_counts_no_changes_all_is_read():
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(4, 4))
        weights, model.frozen = Weights(), True
        stamp = weights.look(model)
        assert weights.look(model) is stamp
        model[0].weight.add_(1.0)
        assert weights.look(model) is not stamp


def test_a_copy_of_a_frozen_model_that_learns_is_read(model):
    weights, model.frozen = Weights(), True
    stamp = weights.look(model)
    model[0].weight.grad = torch.ones(4, 4)
    torch.optim.AdamW(model.parameters(), fused=True).step()  # torch counts no version
    assert weights.look(model) is not stamp
