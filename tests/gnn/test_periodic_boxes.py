"""The script that trains on small boxes: its crystals, their waves and their labels."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_model

from gnn import Frame, System

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import _salt
import periodic_boxes


def test_sites_are_rock_salt():
    u, numbers = _salt.sites(2)
    assert len(u) == 64 and np.count_nonzero(numbers == 11) == 32
    gaps = u[:, None] - u[None]
    lengths = np.linalg.norm(4 * (gaps - np.rint(gaps)), axis=2)
    near = np.isclose(lengths, 1)
    assert (near.sum(1) == 6).all()  # neighbours, all of them of the other kind
    assert (numbers[:, None] != numbers[None])[near].all()


@pytest.mark.parametrize("along", [0.0, 0.6, 1.0])
def test_waves_move_cations_against_anions(along):
    rng = np.random.default_rng(0)
    cell = 11.0 * np.eye(3) + np.tril(rng.uniform(-0.3, 0.3, (3, 3)))
    u, numbers = _salt.sites(2)
    wave = np.array([0, 1, -1])
    moved = _salt.moved(cell, u, numbers, wave, along, 0.3, rng)
    k = np.linalg.inv(cell) @ wave
    cosines = moved @ k / np.linalg.norm(k) / np.linalg.norm(moved, axis=1)
    np.testing.assert_allclose(np.abs(cosines), along, atol=1e-9)
    opposite = np.where(numbers == 11, 1, -1)[:, None] * moved
    order = np.exp(2j * np.pi * u @ wave) @ opposite
    assert np.abs(np.exp(2j * np.pi * u @ wave) @ moved).max() < 1e-9
    assert np.linalg.norm(order) == pytest.approx(64 * 0.3 / 4)


def test_groups_have_their_waves():
    rng = np.random.default_rng(1)
    assert periodic_boxes.wave_of("random", rng)[0] is None
    for group, along in (("longitudinal", 1.0), ("transverse", 0.0)):
        wave, found = periodic_boxes.wave_of(group, rng)
        assert found == along and sorted(wave) == [0, 0, 1]
    for _ in range(9):
        wave, along = periodic_boxes.wave_of("waves", rng)
        assert set(np.abs(wave)) <= {0, 1} and wave.any() and 0 <= along <= 1


def test_errors_are_those_of_frames():
    model = tiny_model()
    system = System([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], cell=5 * np.eye(3))
    (found,) = model.evaluate([system], stress=True, unknown="ignore")
    frame = Frame(system, found["energy"] - 0.03, found["forces"], stress=found["stress"])
    found = periodic_boxes.differences(model, frame)
    assert found["energy"] == pytest.approx(10)
    row = periodic_boxes.summary([found, found])
    assert float(row["energy_mean"]) == pytest.approx(10)
    assert float(row["forces_rmse"]) == float(row["stress_rmse"]) == 0
    assert periodic_boxes.spread(frame, frame.energy / 3)["energy"] == pytest.approx(0)


@pytest.mark.slow
def test_boxes_of_all_sizes_have_one_energy_function():
    """The label of a box of eight copies is that of one, and its derivatives are exact."""
    pytest.importorskip("openmm")
    rng = np.random.default_rng(0)
    cell, x = _salt.displaced(2, np.array([0, 0, 1]), 1.0, rng)
    small = _salt.Labels(2)
    one = small.label(cell, x)
    many = _salt.Labels(4)
    places = {tuple(p): i for i, p in enumerate(np.rint(4 * small.sites - 0.5).astype(int))}
    grid = np.rint(8 * many.sites - 0.5).astype(int)
    source = np.array([places[tuple(p % 4)] for p in grid])
    eight = many.label(2 * cell, x[source] + grid // 4 @ cell)
    assert eight.energy == pytest.approx(8 * one.energy, rel=1e-9)
    np.testing.assert_allclose(eight.forces, one.forces[source], atol=1e-6)
    np.testing.assert_allclose(eight.stress, one.stress, atol=1e-8)
    step = np.zeros_like(x)
    step[5, 1] = 1e-3
    slope = (small.energy(cell, x + step) - small.energy(cell, x - step)) / 2e-3
    assert slope == pytest.approx(-one.forces[5, 1], abs=2e-3)
