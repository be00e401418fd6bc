"""Two atoms alone, of which a network learns to say nothing."""

import numpy as np
import torch
from rich.console import Console
from tiny import methanol, tiny_config, tiny_model

from gnn import Frame, System
from gnn.data.extent import extent_of
from gnn.training.fit import fit
from gnn.training.frames.load import LoadedData
from gnn.training.frames.rest import pairs_at_rest


def model_of(frames):
    model = tiny_model()
    model.set_extent(extent_of(frames))
    return model


def test_every_pair_that_is_not_known_is_there():
    hydroxide = Frame(System([8, 1], [[0.0, 0, 0], [0, 0, 0.97]], -1), energy=0.0)
    frames = [*methanol()[:3], hydroxide]
    border = model_of(frames).border
    found = pairs_at_rest(border, frames)
    pairs = {(tuple(sorted(f.system.numbers.tolist())), f.system.charge) for f in found}
    expected = {((a, b), q) for a in (1, 6, 8) for b in (1, 6, 8) if a <= b for q in (-1, 0, 1)}
    assert pairs == expected - {((1, 8), -1)}
    for frame in found:
        shortest = float(border.shortest(*torch.tensor(frame.system.numbers)))
        gap = np.linalg.norm(frame.system.positions[1])
        assert gap >= shortest - 1e-6 and gap <= shortest + 0.61
        assert not frame.forces.any() and frame.energy is None


def test_training_learns_from_them_and_they_are_not_known(tmp_path):
    frames = methanol()[:6]
    data = LoadedData((frames, frames[:2], []))
    for wanted in (False, True):
        config = tiny_config(tmp_path, data={"pairs_at_rest": wanted}, epochs=1, validate_every=1)
        fitted, trainer = fit(config, data, Console(quiet=True), tmp_path / str(wanted))
        assert len(trainer.loader.frames) == (6 + 6 * 3 * 7 if wanted else 6)
        assert sum(fitted.domain.compositions.values()) == 6
        np.testing.assert_allclose(fitted.extent.pairs, extent_of(frames).pairs, rtol=1e-6)
