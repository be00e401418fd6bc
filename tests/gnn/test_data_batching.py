from dataclasses import replace

import numpy as np
import pytest
import torch

from gnn.data import neighbours
from gnn.data.batching import Batch, collate
from gnn.data.common import LABELS
from gnn.data.neighbours import neighbour_pairs
from gnn.data.prepared import prepare
from gnn.data.systems import Frame, System


def make_frame(n, m, charge=0, seed=0, shift=0.0, labels=True):
    rng = np.random.default_rng(seed)
    system = System(
        rng.integers(1, 9, n),
        shift + 4 * rng.random((n, 3)),
        charge,
        shift + 10 + 4 * rng.random((m, 3)),
        rng.normal(size=m),
    )
    if not labels:
        return Frame(system)
    return Frame(
        system,
        energy=-3000 + rng.random(),
        forces=rng.normal(size=(n, 3)),
        mm_forces=rng.normal(size=(m, 3)),
        dipole=rng.normal(size=3),
    )


def brute_force(positions, cutoff):
    pairs = []
    for receiver in range(len(positions)):
        for sender in range(len(positions)):
            r = np.linalg.norm(positions[sender] - positions[receiver])
            if 0 < r < cutoff:
                pairs.append((sender, receiver))
    return pairs


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("n", [1, 2, 30])
def test_pairs_are_all_ordered_pairs(n, dense, monkeypatch):
    monkeypatch.setattr(neighbours, "_DENSE_ATOMS", 1000 if dense else 0)
    positions = np.random.default_rng(n).random((n, 3)) * 5
    senders, receivers = neighbour_pairs(positions, 2.5)
    assert list(zip(senders.tolist(), receivers.tolist(), strict=True)) == brute_force(
        positions, 2.5
    )


@pytest.mark.parametrize("dense", [True, False])
def test_pairs_exclude_the_cutoff_itself(dense, monkeypatch):
    monkeypatch.setattr(neighbours, "_DENSE_ATOMS", 1000 if dense else 0)
    line = np.array([[0.0, 0, 0], [2.0, 0, 0], [3.0, 0, 0]])
    senders, receivers = neighbour_pairs(line, 2.0)
    assert sorted(zip(senders.tolist(), receivers.tolist(), strict=True)) == [(1, 2), (2, 1)]


def test_tree_and_dense_agree_on_a_large_system(monkeypatch):
    positions = np.random.default_rng(3).random((400, 3)) * 14
    tree = neighbour_pairs(positions, 4.0)
    monkeypatch.setattr(neighbours, "_DENSE_ATOMS", 1000)
    for a, b in zip(tree, neighbour_pairs(positions, 4.0), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cutoff", [0, -1, np.nan, np.inf])
def test_wrong_cutoff(cutoff):
    with pytest.raises(ValueError, match="cutoff"):
        neighbour_pairs(np.zeros((1, 3)), cutoff)


def test_batch_is_the_systems_one_after_the_other():
    frames = [make_frame(5, 4, 1, 1), make_frame(1, 0, 0, 2), make_frame(7, 2, -2, 3, shift=50)]
    batch = collate(frames, 3.0, torch.float64)
    assert batch.n_systems == 3 and batch.n_atoms == 13 and batch.n_mm == 6
    assert batch.batch.tolist() == [0] * 5 + [1] + [2] * 7
    assert batch.mm_batch.tolist() == [0] * 4 + [2] * 2
    assert batch.charge.tolist() == [1, 0, -2]
    for i, frame in enumerate(frames):
        system = frame.system
        own, mm = batch.batch == i, batch.mm_batch == i
        np.testing.assert_array_equal(batch.numbers[own], system.numbers)
        np.testing.assert_allclose(batch.origin[i], system.positions.mean(0), rtol=1e-14)
        np.testing.assert_allclose(batch.positions[own] + batch.origin[i], system.positions)
        np.testing.assert_allclose(batch.mm_positions[mm] + batch.origin[i], system.mm_positions)
        np.testing.assert_allclose(batch.positions[own].mean(0), 0, atol=1e-13)
        np.testing.assert_allclose(batch.mm_charges[mm], system.mm_charges)
        np.testing.assert_allclose(batch.forces[own], frame.forces)
        around = np.zeros((0, 3)) if frame.mm_forces is None else frame.mm_forces
        np.testing.assert_allclose(batch.mm_forces[mm], around)
        assert batch.energy[i] == frame.energy


def test_edges_stay_within_systems_and_are_sorted():
    frames = [make_frame(6, 0, seed=i) for i in range(4)]
    batch = collate(frames, 2.5)
    assert (batch.batch[batch.senders] == batch.batch[batch.receivers]).all()
    assert (torch.diff(batch.receivers) >= 0).all()
    expected = sum(len(brute_force(frame.system.positions, 2.5)) for frame in frames)
    assert len(batch.senders) == expected > 0


def test_dipole_is_about_the_centred_origin():
    frame = make_frame(4, 0, charge=-1, shift=7.0)
    batch = collate([frame], 3.0, torch.float64)
    expected = frame.dipole + frame.system.positions.mean(0)
    np.testing.assert_allclose(batch.dipole[0], expected, rtol=1e-13)
    # A set of point charges with total charge -1 gives the same number by definition.
    charges = np.array([0.5, -0.9, -0.2, -0.4])
    dipole = charges @ frame.system.positions
    batch = collate([Frame(frame.system, dipole=dipole)], 3.0, torch.float64)
    np.testing.assert_allclose(batch.dipole[0], charges @ batch.positions.numpy(), atol=1e-12)


def test_float32_is_safe_far_from_the_origin():
    near, far = make_frame(6, 5), make_frame(6, 5, shift=2.0**20)
    a, b = collate([near], 3.0), collate([far], 3.0)
    # Coordinates of 1e6 Å hold 1e-10 Å in float64; cast first, they would hold 0.06 Å.
    np.testing.assert_allclose(a.positions, b.positions, atol=1e-6)
    np.testing.assert_allclose(a.mm_positions, b.mm_positions, atol=2e-6)


def test_energy_and_origin_stay_float64():
    batch = collate([make_frame(3, 2)], 3.0, torch.float32)
    for one in (batch, batch.to(torch.float32), batch.to("cpu", torch.float16)):
        assert one.energy.dtype == one.origin.dtype == torch.float64
        assert one.senders.dtype == one.batch.dtype == torch.int64
    assert batch.to(dtype=torch.float64).mm_forces.dtype == torch.float64
    assert isinstance(batch.to("cpu"), Batch) and batch.to("cpu").n_systems == 1


def test_every_label_of_every_item_is_in_the_batch():
    """A label keeps its values and the rows they belong to; nothing stands for what is missing."""
    full = make_frame(3, 2, 1, seed=1)
    bare = make_frame(4, 3, seed=2, labels=False)
    vacuum = Frame(make_frame(2, 0, seed=3).system, energy=1.0, forces=np.ones((2, 3)))
    outer = replace(make_frame(5, 1, seed=4), energy=None, forces=None)
    items = [bare, full, vacuum.system, vacuum, outer]
    for batch in (
        collate(items, 3.0, torch.float64),
        collate([prepare(item, 3.0) for item in items]).to(torch.float64),
    ):
        label = batch.labels
        assert label["energy"].rows.tolist() == [1, 3]
        assert label["energy"].values.tolist() == [full.energy, 1.0]
        assert label["forces"].rows.tolist() == [4, 5, 6, 9, 10]
        assert label["mm_forces"].rows.tolist() == [3, 4, 5] and label["dipole"].rows.tolist() == [
            1,
            4,
        ]
        both = np.concatenate([full.forces, vacuum.forces])
        np.testing.assert_allclose(label["forces"].values, both, rtol=1e-6)
        np.testing.assert_allclose(label["mm_forces"].values[2:], outer.mm_forces, rtol=1e-6)
        own = label["forces"].among(batch.positions)
        assert torch.equal(own, batch.positions[label["forces"].rows])
        assert all(one.values.isfinite().all() for one in label.values())


def test_a_label_of_some_systems_is_not_given_for_one_of_all():
    batch = collate([make_frame(3, 2), make_frame(3, 2, labels=False)], 3.0)
    with pytest.raises(ValueError, match=r"energy: only some systems.*holds 1 rows"):
        batch.energy  # noqa: B018
    nothing = collate([make_frame(3, 2, labels=False), make_frame(1, 0).system], 3.0)
    assert nothing.energy is nothing.forces is nothing.mm_forces is nothing.dipole is None


def test_vacuum_and_surroundings_in_one_batch():
    """Where nothing is around the atoms, no force on it is missing."""
    embedded, vacuum = make_frame(3, 2), make_frame(2, 0)
    batch = collate([vacuum, embedded, vacuum], 3.0, torch.float64)
    assert batch.labels["mm_forces"].rows is None
    np.testing.assert_array_equal(batch.mm_forces, embedded.mm_forces)
    assert "mm_forces" not in collate([vacuum], 3.0).labels


def test_prepared_frames_give_the_same_batch():
    frames = [make_frame(5, 4, 1, 1), make_frame(1, 0, 0, 2)]
    prepared = [prepare(frame, 3.0, torch.float64) for frame in frames]
    a, b = collate(frames, 3.0, torch.float64), collate(prepared)
    free = set(LABELS) - {"stress"}
    assert a.labels.keys() == b.labels.keys() == free
    for name, value in (vars(a) | {name: getattr(a, name) for name in free}).items():
        other = getattr(b, name)
        if name != "labels":
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
    mixed = collate([prepared[0], frames[1]])
    assert torch.equal(mixed.positions, a.positions)


def test_collate_says_what_is_wrong():
    frame = make_frame(3, 2)
    with pytest.raises(ValueError, match="at least one system"):
        collate([], 3.0)
    with pytest.raises(TypeError, match="a list of systems"):
        collate(frame, 3.0)
    with pytest.raises(TypeError, match="expected a System or Frame, got int"):
        collate([3], 3.0)
    with pytest.raises(ValueError, match=r"prepared for cutoff 3\.0"):
        collate([prepare(frame, 3.0)], 4.0)
    with pytest.raises(ValueError, match="float32, this batch is for"):
        collate([prepare(frame, 3.0)], 3.0, torch.float64)
    with pytest.raises(ValueError, match="cutoff: needed"):
        collate([frame])
    with pytest.raises(TypeError, match="floating-point"):
        prepare(frame, 3.0, torch.int64)
