"""The loss: each term by hand, missing labels, nothing to train on."""

import numpy as np
import pytest
import torch
from tiny import methanol, tiny_model

from gnn import Frame
from gnn.data import collate
from gnn.data.common import LABELS
from gnn.training.config import LossConfig
from gnn.training.loss import weighted_loss
from gnn.training.metrics import without_surroundings

ONLY = {name: 0.0 for name in LABELS}


def _batch(frames, dtype=torch.float64):
    return collate(frames, 5.0, dtype=dtype)


def _output(batch, shift):
    """Predictions that miss the labels by known amounts."""
    rng = np.random.default_rng(0)
    errors = {
        name: torch.from_numpy(shift * rng.standard_normal(getattr(batch, name).shape))
        for name in LABELS
        if getattr(batch, name) is not None
    }
    return {name: getattr(batch, name) + error for name, error in errors.items()}, errors


@pytest.mark.parametrize("name", LABELS)
def test_each_term_is_its_weight_times_the_mean_squared_error(name):
    batch = _batch(methanol()[:3])
    output, errors = _output(batch, 0.3)
    loss = weighted_loss(output, batch, LossConfig(**(ONLY | {name: 2.5})))
    values = errors[name].numpy().ravel()
    assert loss.item() == pytest.approx(2.5 * (values**2).sum() / values.size, rel=1e-9)


def test_terms_add_up():
    batch = _batch(methanol()[:3])
    output, errors = _output(batch, 0.3)
    weights = LossConfig(energy=1.0, forces=2.0, mm_forces=3.0, dipole=4.0)
    expected = sum(w * errors[n].square().mean().item() for n, w in weights.model_dump().items())
    assert weighted_loss(output, batch, weights).item() == pytest.approx(expected, rel=1e-9)


def test_energies_near_minus_ten_thousand_keep_their_digits():
    frame = methanol()[0]
    batch = _batch([frame], torch.float32)
    energy = torch.tensor([frame.energy + 1e-4], dtype=torch.float64)
    loss = weighted_loss({"energy": energy}, batch, LossConfig(**(ONLY | {"energy": 1.0})))
    assert loss.item() == pytest.approx(1e-8, rel=1e-3)


def test_label_that_one_frame_lacks_is_left_out():
    first, second = methanol()[:2]
    bare = Frame(second.system, second.energy, second.forces, name="meoh")
    batch = _batch([first, bare])
    output, errors = _output(batch, 0.3)
    loss = weighted_loss(output, batch, LossConfig(energy=1.0, forces=1.0, dipole=1e9))
    expected = errors["energy"].square().mean() + errors["forces"].square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)


def test_frames_in_vacuum_have_no_term_of_mm_forces():
    batch = _batch([without_surroundings(frame) for frame in methanol()[:2]])
    output, errors = _output(batch, 0.3)
    weights = LossConfig(energy=1.0, forces=0.0, mm_forces=1e9, dipole=0.0)
    loss = weighted_loss(output, batch, weights)
    assert loss.item() == pytest.approx(errors["energy"].square().mean().item(), rel=1e-9)


@pytest.mark.parametrize(
    ("labels", "weights"),
    [
        (("energy", "forces", "mm_forces", "dipole"), ONLY),
        ((), {}),
        (("energy",), ONLY | {"forces": 1.0}),
    ],
)
def test_nothing_to_train_on(labels, weights):
    full = methanol()[0]
    frame = Frame(full.system, **{name: getattr(full, name) for name in labels})
    with pytest.raises(ValueError, match="nothing to train on"):
        weighted_loss({}, _batch([frame]), LossConfig(**weights))


def test_nothing_to_train_on_where_no_charge_feels_a_force():
    batch = _batch([without_surroundings(methanol()[0])])
    with pytest.raises(ValueError, match="nothing to train on"):
        weighted_loss({}, batch, LossConfig(**(ONLY | {"mm_forces": 1.0})))


def test_gradient_reaches_every_parameter_that_decides_the_outputs():
    model = tiny_model(dtype=torch.float64)
    batch = _batch(methanol()[:2])
    output = model(batch, forces=True, mm_forces=True, create_graph=True)
    weighted_loss(output, batch, LossConfig()).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    zero = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.any()]
    assert not missing and not set(zero) & {"embedding.weight"}
