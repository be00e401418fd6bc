"""Muon: what a step is, what it leaves to Adam, what it needs to go on."""

import copy

import numpy as np
import pytest
import torch
from tiny import MODEL, methanol
from torch import nn

from gnn.training.config import TrainingConfig, parse_config
from gnn.training.loop import Trainer
from gnn.training.optimizer import Muon, optimizer_of, orthogonalized
from gnn.training.setup import build_model


@pytest.mark.parametrize("shape", [(3, 8, 24), (3, 24, 8), (1, 12, 12)])
def test_singular_values_come_near_one_and_vectors_stay(shape):
    torch.manual_seed(0)
    given = torch.randn(shape, dtype=torch.float64)
    found = orthogonalized(given)
    u, s, vh = torch.linalg.svd(given, full_matrices=False)
    kept = s > 1e-2 * torch.linalg.vector_norm(s, dim=1, keepdim=True)
    inner = torch.diagonal(u.mT @ found @ vh.mT, dim1=1, dim2=2)
    assert inner[kept].min() > 0.65 and inner.max() < 1.25
    assert (u.mT @ found @ vh.mT - torch.diag_embed(inner)).abs().max() < 1e-9
    zero = torch.zeros(shape)
    assert torch.equal(orthogonalized(zero), zero)


def layers():
    torch.manual_seed(1)
    return nn.Sequential(nn.Embedding(5, 6), nn.Linear(6, 7), nn.SiLU(), nn.Linear(7, 1))


def gradients(model, seed):
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)


def test_all_but_matrices_are_adams_and_steps_have_its_size():
    models = [layers(), layers()]
    steps = [Muon(models[0], lr=1e-2, weight_decay=0.1),
             torch.optim.AdamW(models[1].parameters(), lr=1e-2, weight_decay=0.1,
                               fused=True)]  # fmt: skip
    start = models[0][1].weight.detach().clone()
    for model, optimizer in zip(models, steps, strict=True):
        gradients(model, 2)
        optimizer.step()
    for (name, own), other in zip(models[0].named_parameters(), models[1].parameters(),
                                  strict=True):  # fmt: skip
        assert torch.equal(own, other) != (name == "1.weight")
    moved = models[0][1].weight - (1 - 1e-3) * start
    assert 0.5 < moved.square().mean().sqrt() / (0.2 * 1e-2) < 1.5


def test_matrices_without_gradient_stay():
    model = layers()
    gradients(model, 3)
    model[1].weight.grad = None
    before = model[1].weight.detach().clone()
    Muon(model, lr=1e-2).step()
    assert torch.equal(model[1].weight, before)


def test_a_stored_state_goes_on_to_the_same_weights():
    model = layers()
    optimizer = Muon(model, lr=1e-2)
    gradients(model, 4)
    optimizer.step()
    twin = layers()
    twin.load_state_dict(model.state_dict())
    resumed = Muon(twin, lr=1e-2)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, its in ((model, optimizer), (twin, resumed)):
        gradients(one, 5)
        its.step()
    assert all(map(torch.equal, model.parameters(), twin.parameters()))


def test_training_takes_the_optimiser_that_is_named():
    assert isinstance(optimizer_of(layers(), TrainingConfig(optimizer="muon")), Muon)
    assert type(optimizer_of(layers(), TrainingConfig())) is torch.optim.AdamW
    with pytest.raises(ValueError, match=r"training\.optimizer"):
        parse_config({"training": {"optimizer": "sgd"}})
    frames = methanol()[:8]
    training = {"optimizer": "muon", "epochs": 4, "batch_size": 4, "warmup_steps": 1}
    config = parse_config({"model": MODEL, "training": training})
    trainer = Trainer(build_model(config, frames), config, frames)
    trainer.run()
    losses = [row["train_loss"] for row in trainer.history]
    assert losses[-1] < losses[0] and np.isfinite(losses).all()
