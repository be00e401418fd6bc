"""Frames with charges pulled near: what they are, and what is written of them."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from tiny import methanol

from gnn import System
from gnn.data import read_frames, write_frames
from gnn.data.making.sampling import store

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import near_charges

WATER = np.array([[0, 0, 0], [0.757, 0.586, 0], [-0.757, 0.586, 0]])


def without(frame):
    system = frame.system
    bare = System(system.numbers, system.positions, system.charge)
    return replace(frame, system=bare, mm_forces=None)


def among_waters(frame, run):
    """Return the frame of a run, its charges three waters 4.5 Å away."""
    system = frame.system
    waters = np.concatenate([WATER + 4.5 * np.eye(3)[k] for k in range(3)]).astype(np.float32)
    charges = np.tile([-0.834, 0.417, 0.417], 3)
    own = System(system.numbers, system.positions, system.charge, waters, charges)
    return replace(frame, system=own, mm_forces=np.zeros((9, 3)), name="meoh", run=run,
                   group="first")  # fmt: skip


@pytest.fixture(scope="module")
def frames():
    return [among_waters(f, run) for f, run in zip(methanol(), (100, 200, 400), strict=False)]


def test_whole_waters_come_nearer_but_not_too_near(frames):
    system, rng = frames[0].system, np.random.default_rng(0)
    new = near_charges.pulled(system, 1.43, rng)
    np.testing.assert_array_equal(new.positions, system.positions)
    moves = (new.mm_positions - system.mm_positions).reshape(-1, 3, 3)
    moved = np.abs(moves).max((1, 2)) > 0
    assert 1 <= moved.sum() <= near_charges.WATERS
    assert np.ptp(moves, axis=1).max() < 2 / 256  # each as a whole, but for the lattice
    before = cdist(system.positions, system.mm_positions).min()
    assert 1.43 <= cdist(new.positions, new.mm_positions).min() < before
    places = 256 * new.mm_positions[moved.repeat(3)]
    np.testing.assert_array_equal(places, np.round(places))


def test_training_blocks_are_begun_from_and_joined(frames, tmp_path):
    path = tmp_path / "set.h5"
    bare = [without(frame) for frame in frames]
    write_frames(path, frames, vacuum=bare)
    begun = near_charges.sources(path)
    assert list(begun) == [("meoh", 153, 0), ("meoh", 253, 0)]
    settings = {"nearest_charge": 1.42, "largest_force": 1e3}
    for key, (frame, _) in begun.items():
        again = [near_charges.near(key, frame, settings) for _ in range(2)]
        np.testing.assert_array_equal(again[0].mm_positions, again[1].mm_positions)
        labels = {"energy": frame.energy, "forces": frame.forces, "mm_forces": frame.mm_forces,
                  "dipole": frame.dipole}  # fmt: skip
        store(near_charges.file_of(tmp_path / "work", key), labels)
    given = argparse.Namespace(work=tmp_path / "work", join=path, write=tmp_path / "new.h5",
                               more=[path], but=[200, 400])  # fmt: skip
    near_charges.write(given, settings)
    for vacuum in (False, True):
        found = read_frames(given.write, vacuum=vacuum)
        told = [(frame.run, frame.group) for frame in found]
        assert told == [(100, "first"), (153, "near"), (160, "first"), (200, "first"),
                        (253, "near"), (400, "first")]  # fmt: skip
