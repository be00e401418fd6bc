import time

import numpy as np
import pytest

from gnn.data import load_shipped, shipped_path, split_by_run

COUNTS = {"meoh": (600, 12, 0), "mam": (320, 8, 1), "oac": (160, 8, -1), "acoh": (210, 9, 0)}


@pytest.fixture(scope="module")
def frames():
    return load_shipped()


@pytest.fixture(scope="module")
def vacuum():
    return load_shipped(vacuum=True)


def test_content(frames):
    assert len(frames) == 1290
    for name, (count, runs, charge) in COUNTS.items():
        own = [frame for frame in frames if frame.name == name]
        assert len(own) == count
        assert len({frame.run for frame in own}) == runs
        assert {frame.system.charge for frame in own} == {charge}
        assert {frame.run // 100 for frame in own} == {1, 2, 3, 4}


def test_reading_is_fast_and_the_file_small():
    start = time.process_time()
    load_shipped()
    assert time.process_time() - start < 2
    assert shipped_path().stat().st_size < 20e6


def test_labels_are_physical(frames, vacuum):
    for frame in frames[::10]:
        # The solute and its charges are all there is: their forces add up to nothing, up to the
        # response of the integration grid.
        net = frame.forces.sum(0) + frame.mm_forces.sum(0)
        assert np.abs(net).max() < 8e-3
        np.testing.assert_allclose(frame.system.positions.mean(0), 0, atol=1e-6)
        assert set(np.round(frame.system.mm_charges, 5)) == {-0.834, 0.417}
        assert abs(frame.system.mm_charges.sum()) < 1e-4
    largest = max(np.abs(frame.forces).max() for frame in frames)
    assert 9.6 < largest < 9.8
    embedding = [f.energy - v.energy for f, v in zip(frames, vacuum, strict=True)]
    assert np.mean(embedding) < -0.5


def test_embedding_acts_on_dipoles_of_neutral_solutes(frames, vacuum):
    pairs = [(f, v) for f, v in zip(frames, vacuum, strict=True) if f.name == "meoh"]
    grown = [np.linalg.norm(f.dipole) > np.linalg.norm(v.dipole) for f, v in pairs]
    assert np.mean(grown) > 0.95


def test_vacuum_frames_are_the_same_geometries(frames, vacuum):
    for frame, alone in zip(frames, vacuum, strict=True):
        assert (frame.name, frame.run) == (alone.name, alone.run)
        assert alone.system.n_mm == 0 and alone.mm_forces is None
        np.testing.assert_array_equal(frame.system.positions, alone.system.positions)
        assert np.abs(alone.forces.sum(0)).max() < 8e-3


def test_some_molecules_only():
    assert {frame.name for frame in load_shipped(["oac", "acoh"])} == {"oac", "acoh"}
    assert len(load_shipped("acoh")) == 210
    with pytest.raises(ValueError, match="no molecule 'ethanol'; found acoh, mam, meoh, oac"):
        load_shipped(["ethanol"])


def test_default_split(frames):
    train, validation, test = split_by_run(frames)
    assert [len(part) for part in (train, validation, test)] == [880, 125, 285]
    for part in (train, validation, test):
        assert {frame.name for frame in part} == set(COUNTS)
    runs = [{(frame.name, frame.run) for frame in part} for part in (train, validation, test)]
    assert not (runs[0] & runs[1] or runs[0] & runs[2] or runs[1] & runs[2])
    assert {frame.run // 100 for frame in test} == {4}
    assert 4 not in {frame.run // 100 for frame in train + validation}


def test_nothing_was_lost_in_packing(frames, vacuum, shared_dir):
    for name in COUNTS:
        path = shared_dir / "data" / f"qmmm_{name}.npz"
        if not path.is_file():
            pytest.skip(f"no {path.name} among the reference data")
        with np.load(path) as file:
            source = {key: file[key] for key in file.files}
        # runs with a tens digit were added later
        own = [f for f in frames if f.name == name and f.run % 100 < 10]
        alone = [f for f in vacuum if f.name == name and f.run % 100 < 10]
        for key, found in {
            "energy": [f.energy for f in own],
            "run": [f.run for f in own],
            "qm_positions": [f.system.positions for f in own],
            "qm_forces": [f.forces for f in own],
            "dipole": [f.dipole for f in own],
            "energy_vacuum": [f.energy for f in alone],
            "qm_forces_vacuum": [f.forces for f in alone],
            "dipole_vacuum": [f.dipole for f in alone],
        }.items():
            np.testing.assert_array_equal(np.array(found), source[key])
        for key, found in {
            "mm_positions": [f.system.mm_positions for f in own],
            "mm_charges": [f.system.mm_charges for f in own],
            "mm_forces": [f.mm_forces for f in own],
        }.items():
            np.testing.assert_array_equal(np.concatenate(found), source[key])
