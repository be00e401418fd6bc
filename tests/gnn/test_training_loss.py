"""The loss: each term by hand, missing labels, nothing to train on."""

import numpy as np
import pytest
import torch
from tiny import methanol, tiny_model

from gnn import Frame
from gnn.data import collate
from gnn.data.common import LABELS
from gnn.training.config import LossConfig
from gnn.training.loss import label_counts, squares, weighted_loss
from gnn.training.report.metrics import without_surroundings

ONLY = {name: 0.0 for name in LABELS}
FREE = [name for name in LABELS if name != "stress"]  # labels in free space


def _batch(frames, dtype=torch.float64):
    return collate(frames, 5.0, dtype=dtype)


def _output(batch, shift):
    """Predictions that miss the labels by known amounts, and anything where there are none."""
    rng = np.random.default_rng(0)
    sizes = {
        "forces": (batch.n_atoms, 3),
        "mm_forces": (batch.n_mm, 3),
        "dipole": (batch.n_systems, 3),
    }
    output, errors = {}, {}
    for name in FREE:
        output[name] = torch.from_numpy(rng.standard_normal(sizes.get(name, batch.n_systems)))
        if name in batch.labels:
            values, rows = batch.labels[name]
            errors[name] = torch.from_numpy(shift * rng.standard_normal(values.shape))
            output[name][slice(None) if rows is None else rows] = values.double() + errors[name]
    return output, errors


def _only(frame, *labels):
    return Frame(frame.system, **{name: getattr(frame, name) for name in labels}, name=frame.name)


def _mixed():
    """Frames with all labels, with each alone, in vacuum, and with none."""
    frames = methanol()
    return [
        frames[0],
        _only(frames[1], "energy"),
        _only(frames[2], "forces", "dipole"),
        without_surroundings(_only(frames[3], "forces")),
        _only(frames[4], "mm_forces"),
        Frame(frames[5].system),
    ]


@pytest.mark.parametrize("name", FREE)
def test_each_term_is_its_weight_times_the_mean_squared_error(name):
    batch = _batch(methanol()[:3])
    output, errors = _output(batch, 0.3)
    loss = weighted_loss(output, batch, LossConfig(**(ONLY | {name: 2.5})))
    values = errors[name].numpy().ravel()
    assert loss.item() == pytest.approx(2.5 * (values**2).sum() / values.size, rel=1e-9)


def test_large_errors_count_by_their_size():
    error = torch.tensor([0.0, 1e-3, -0.02, 30.0, -4e3], dtype=torch.float64, requires_grad=True)
    assert torch.equal(squares(error, None), error.square())
    found = squares(error, 0.2)
    np.testing.assert_allclose(found[1:3].detach(), error[1:3].square().detach(), rtol=3e-3)
    np.testing.assert_allclose(found[3:].detach(), 0.4 * error[3:].abs().detach(), rtol=1e-2)
    (slope,) = torch.autograd.grad(found.sum(), error)
    assert slope.abs().max() <= 0.4 and slope[0] == 0
    with pytest.raises(ValueError, match="linear_beyond"):
        LossConfig(linear_beyond=0.0)


def test_terms_add_up():
    batch = _batch(methanol()[:3])
    output, errors = _output(batch, 0.3)
    weights = LossConfig(energy=1.0, forces=2.0, mm_forces=3.0, dipole=4.0)
    expected = sum(
        w * errors[n].square().mean().item()
        for n, w in weights.model_dump(include=set(FREE)).items()
    )
    assert weighted_loss(output, batch, weights).item() == pytest.approx(expected, rel=1e-9)


def test_energies_near_minus_ten_thousand_keep_their_digits():
    frame = methanol()[0]
    batch = _batch([frame], torch.float32)
    energy = torch.tensor([frame.energy + 1e-4], dtype=torch.float64)
    loss = weighted_loss({"energy": energy}, batch, LossConfig(**(ONLY | {"energy": 1.0})))
    assert loss.item() == pytest.approx(1e-8, rel=1e-3)


def test_every_label_of_a_mixed_batch_counts_and_nothing_else():
    frames = _mixed()
    batch = _batch(frames)
    output, errors = _output(batch, 0.3)
    assert label_counts(batch) == {
        "energy": 2, "forces": 54, "mm_forces": 60, "dipole": 6, "stress": 0,
    }  # fmt: skip
    assert [errors[name].numel() for name in FREE] == [2, 54, 60, 6]
    weights = LossConfig(energy=1.0, forces=2.0, mm_forces=3.0, dipole=4.0)
    expected = sum(
        w * errors[n].square().mean().item()
        for n, w in weights.model_dump(include=set(FREE)).items()
    )
    for name in FREE:  # what is predicted where no label is cannot matter, whatever it is
        rows = batch.labels[name].rows
        lacking = torch.ones(len(output[name]), dtype=torch.bool)
        lacking[rows] = False
        assert lacking.any()
        output[name][lacking] = float("nan")
        output[name].requires_grad_()
    loss = weighted_loss(output, batch, weights)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    for name in FREE:
        rows, gradient = batch.labels[name].rows, output[name].grad
        share = 2 * getattr(weights, name) / errors[name].numel()
        torch.testing.assert_close(gradient[rows], share * errors[name], rtol=1e-9, atol=1e-9)
        assert torch.count_nonzero(gradient) == errors[name].numel()


@pytest.fixture(scope="module")
def model():
    return tiny_model(dtype=torch.float64)


def _gradients(model, batches, counts):
    """Return the sum over batches of the gradients of their parts of the loss."""
    model.zero_grad()
    for batch in batches:
        output = model(batch, forces=True, mm_forces=True, create_graph=True)
        weighted_loss(output, batch, LossConfig(), counts).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_gradients_of_a_mixed_batch_are_those_of_its_frames_with_the_counts_of_all(model):
    frames = _mixed()[:5]
    together = _gradients(model, [_batch(frames)], None)
    # worked out without batches of several frames, and without missing labels
    counts = dict.fromkeys(LABELS, 0.0) | {
        "energy": 2, "forces": 3 * 18, "mm_forces": 2 * 30, "dipole": 6,
    }  # fmt: skip
    alone = _gradients(model, [_batch([frame]) for frame in frames], counts)
    assert together.keys() == alone.keys()
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, alone[name], rtol=1e-9, atol=1e-12)
    assert sum(float(gradient.abs().max()) for gradient in together.values()) > 0


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


def test_gradient_reaches_every_parameter_that_decides_the_outputs(model):
    model.zero_grad()
    batch = _batch(methanol()[:2])
    output = model(batch, forces=True, mm_forces=True, create_graph=True)
    weighted_loss(output, batch, LossConfig()).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    zero = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.any()]
    assert not missing and not set(zero) & {"embedding.weight"}
