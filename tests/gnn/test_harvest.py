"""Frames where a model is in doubt: which are chosen, and what is written of them."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import methanol, tiny_model

from gnn import System
from gnn.data import read_frames, write_frames
from gnn.data.making.sampling import store

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import harvest
from _experiments import CHOSEN

WATER = System([8, 1, 1], [[0, 0, 0.117], [0, 0.757, -0.468], [0, -0.757, -0.468]])


def alone(frame):
    system = frame.system
    return replace(frame, system=System(system.numbers, system.positions), mm_forces=None)


@pytest.fixture(scope="module")
def model():
    made = tiny_model()
    made.set_domain([alone(frame) for frame in methanol()[:6]])
    return made.requires_grad_(False)


def test_kinds_are_those_that_other_scripts_leave_out():
    assert tuple(kind.partition("@")[0] for kind in harvest.KINDS) == CHOSEN


def test_starts_are_of_every_block():
    frames = [replace(methanol()[0], name=name, run=run, group=group)
              for name, run, group in (
                  ("a", 100, "water"), ("a", 101, "water"), ("a", 203, "vacuum@450"),
                  ("a", 900, "water"), ("a+h2o", 104, "pair@450"), ("a+h2o", 104, "zone1"),
              )]  # fmt: skip
    rng = np.random.default_rng(0)
    assert list(harvest.begin(frames, False, rng)) == ["a@1", "a@2"]
    assert list(harvest.begin(frames, True, rng)) == ["a+h2o@1"]


def test_of_each_window_the_strangest_is_chosen(model):
    usual = alone(methanol()[0]).system
    shots = []
    for k in range(8):
        squeezed = 0.8 if k in (2, 5) else 1.0
        shots.append(System(usual.numbers, squeezed * usual.positions))
    chosen = harvest.doubtful(model, shots, 2)
    assert chosen[0] is shots[2] and chosen[1] is shots[5]
    assert len(harvest.doubtful(model, shots[:1], 3)) == 1


def test_a_torn_bond_is_longer_and_parts_are_told():
    rng = np.random.default_rng(0)
    lengths = []
    for _ in range(20):
        x = harvest.torn(WATER, rng).positions
        bonds = np.linalg.norm(x[1:] - x[0], axis=1)
        lengths.append(bonds.max() / 0.957)
        assert bonds.min() < 1.1
    assert min(lengths) > 1.1 and 1.6 < max(lengths) < 2.1
    far = System(WATER.numbers, WATER.positions * [1, 2.5, 1])
    assert harvest.keeps_parts(WATER, WATER) and not harvest.keeps_parts(far, WATER)


def test_runs_give_snapshots_until_they_break(model):
    starts = {"a": alone(methanol()[0]).system, "b": alone(methanol()[1]).system}
    shots = harvest.trajectories(model, starts, 300.0, 2 * harvest.EVERY)
    assert set(shots) == {"a", "b"} and all(1 <= len(own) <= 2 for own in shots.values())
    assert not np.array_equal(shots["a"][0].positions, starts["a"].positions)


def test_labelled_frames_join_the_others_about_the_origin(tmp_path):
    own = [replace(alone(frame), name="meoh", run=100) for frame in methanol()[:2]]
    write_frames(tmp_path / "set.h5", own, vacuum=own)
    work, key = tmp_path / "work", ("meoh", 151, 0)
    for folder in ("candidates", "labels"):
        (work / folder).mkdir(parents=True)
    place = own[0].system.positions + np.array([1.0, 2.0, 3.0])
    arrays = {"numbers": own[0].system.numbers, "positions": place, "charge": np.array(0)}
    store(harvest.file_of(work / "candidates", key), arrays)
    assert harvest.key_of(harvest.file_of(work, key)) == key
    labels = {"energy": own[0].energy, "forces": own[0].forces, "dipole": own[0].dipole}
    store(harvest.file_of(work / "labels", key), labels)
    store(harvest.file_of(work / "candidates", ("meoh", 151, 1)), arrays)
    huge = labels | {"forces": 1e3 * own[0].forces}
    store(harvest.file_of(work / "labels", ("meoh", 151, 1)), huge)
    given = argparse.Namespace(join=tmp_path / "set.h5", write=tmp_path / "new.h5", work=work)
    harvest.write(given, {"largest_force": 30, "nearest_charge": 1.42})
    for vacuum in (False, True):
        frames = read_frames(given.write, vacuum=vacuum)
        assert [frame.group for frame in frames] == ["", "", "torn@800"]
        new = frames[2]
        np.testing.assert_allclose(new.system.positions.mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(new.dipole, own[0].dipole, atol=1e-5)
        assert new.run == 151 and new.energy == pytest.approx(own[0].energy)
