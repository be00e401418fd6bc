"""Kinds of frames: geometries made from snapshots, and whose turn it is."""

from collections import Counter

import numpy as np
import pytest

from gnn.data.making.kinds import Kind, geometry, molecule_name, schedule


def distances(a, b):
    return np.linalg.norm(a[:, None] - b[None], axis=-1)


@pytest.fixture
def methanol():
    """Methanol among 40 waters on a grid."""
    solute = np.array(
        [[0, 0, 0], [1.42, 0, 0], [-0.36, 1.03, 0], [-0.36, -0.51, 0.89], [-0.36, -0.51, -0.89],
         [1.75, 0.9, 0]], dtype=np.float32,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*[np.arange(-6, 7, 3.0)] * 3), -1).reshape(-1, 3)
    places = places[distances(places, solute).min(1) > 2.6][:40]
    legs = np.array([[0, 0, 0], [0.9572, 0, 0], [-0.24, 0.9266, 0]])
    waters = [place + legs @ np.linalg.qr(rng.normal(size=(3, 3)))[0] for place in places]
    return {
        "numbers": np.array([6, 8, 1, 1, 1, 1]),
        "positions": solute,
        "bonds": np.array([[0, 1], [0, 2], [0, 3], [0, 4], [1, 5]]),
        "mm_positions": np.concatenate(waters).astype(np.float32),
        "mm_charges": np.array([-0.834, 0.417, 0.417] * 40, dtype=np.float32),
    }


def alone(shot):
    return shot | {"mm_positions": np.zeros((0, 3)), "mm_charges": np.zeros(0)}


def test_names():
    hot = Kind.named("zone2@600")
    assert (hot.sort, hot.temperature, hot.waters, hot.in_vacuum) == ("zone2", 600.0, 2, False)
    assert molecule_name("meoh", hot) == "meoh+2h2o"
    assert Kind.named("pair").in_vacuum and Kind.named("water").temperature is None
    for wrong in ("", "ice", "water@", "water@hot", "water@-3", "water@00", "@300", "Water"):
        with pytest.raises(ValueError, match="expected one of water, stretched, zone1"):
            Kind.named(wrong)


def test_plain_kinds_are_the_snapshot(methanol):
    system = geometry(Kind.named("water@450"), methanol, 0, (1, 2))
    np.testing.assert_array_equal(system.positions, methanol["positions"])
    np.testing.assert_array_equal(system.mm_positions, methanol["mm_positions"])
    assert geometry(Kind.named("vacuum"), alone(methanol), 1, (1, 2)).n_mm == 0


def test_stretched_bonds(methanol):
    kind, ratios = Kind.named("stretched"), []
    for i in range(60):
        x = geometry(kind, methanol, 0, (1, 2, i)).positions
        ratios.append(
            [
                np.linalg.norm(x[a] - x[b])
                / np.linalg.norm(np.subtract(*methanol["positions"][[a, b]]))
                for a, b in methanol["bonds"]
            ]
        )
        assert distances(x, methanol["mm_positions"]).min() > 1.4
    ratios = np.array(ratios)
    assert 0.7 < ratios.min() < 0.9 and 1.15 < ratios.max() < 1.4
    changed = (abs(ratios - 1) > 0.15).sum(1)
    assert (changed <= 1).all()  # one bond, the rest displaced a little
    # the bond between heavy atoms as often as the four others together
    assert (abs(ratios[:, 0] - 1) > 0.1).sum() > 10


def test_a_ring_is_not_torn_and_close_charges_are_kept_off(methanol):
    angles = np.arange(3) * 2 * np.pi / 3
    ring = {
        "numbers": np.array([6, 6, 6]),
        "positions": 0.87 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1),
        "bonds": np.array([[0, 1], [1, 2], [2, 0]]),
    }
    x = geometry(Kind.named("stretched"), methanol | ring, 0, (1,)).positions
    assert 0 < abs(x - ring["positions"]).max() < 0.15
    near = methanol | {"mm_positions": methanol["positions"][:3] + np.float32(0.1)}
    near["mm_charges"] = near["mm_charges"][:3]
    with pytest.raises(RuntimeError, match="free of close contacts"):
        geometry(Kind.named("stretched"), near, 0, (1,))


@pytest.mark.parametrize("count", [1, 2])
def test_nearest_waters_in_the_zone(methanol, count):
    system = geometry(Kind.named(f"zone{count}"), methanol, 0, (3, count))
    assert system.numbers.tolist() == [6, 8, 1, 1, 1, 1] + [8, 1, 1] * count
    assert system.n_mm == 3 * (40 - count)
    zone = system.positions[6:].reshape(count, 3, 3)
    every = methanol["mm_positions"].reshape(-1, 3, 3)
    rest = system.mm_positions.reshape(-1, 3, 3)
    nearest = [distances(w, methanol["positions"]).min() for w in every]
    assert max(np.sort(nearest)[:count]) < min(
        distances(w, methanol["positions"]).min() for w in rest
    )
    for water in zone:
        assert (
            np.linalg.norm(every[:, 0] - water[0], axis=1) < 1e-5
        ).sum() == 1  # the oxygen stays
        lengths = np.linalg.norm(water[1:] - water[0], axis=1)
        assert (abs(lengths - 0.9572) < 0.2).all() and abs(np.diff(lengths)) > 1e-4
        cosine = np.dot(*(water[1:] - water[0])) / lengths.prod()
        assert 80 < np.degrees(np.arccos(cosine)) < 130
    with pytest.raises(RuntimeError, match="waters or more, got 0"):
        geometry(Kind.named(f"zone{count}"), alone(methanol), 0, (1,))


def test_pairs_in_any_direction(methanol):
    r, gap, directions = [], [], []
    for i in range(200):
        system = geometry(Kind.named("pair"), alone(methanol), 0, (9, i))
        solute, water = system.positions[:6], system.positions[6:]
        r.append(distances(water[:1], solute[:2]).min())
        gap.append(distances(water, solute).min())
        directions.append(water[0] / np.linalg.norm(water[0]))
        np.testing.assert_array_equal(solute, methanol["positions"])
    assert 2.39 < min(r) < 2.6 and 6.5 < max(r) < 8.01 and 3 < np.median(r) < 4.5
    assert min(gap) > 1.5
    assert np.linalg.norm(np.mean(directions, axis=0)) < 0.3


def test_the_same_seed_gives_the_same_geometry(methanol):
    for name in ("stretched", "zone1", "zone2", "pair"):
        shot = alone(methanol) if name == "pair" else methanol
        one, same, other = (geometry(Kind.named(name), shot, 0, (7, i)) for i in (1, 1, 2))
        np.testing.assert_array_equal(one.positions, same.positions)
        assert (one.positions != other.positions).any()
        assert one.positions.astype(np.float32).tolist() == one.positions.tolist()


def test_the_schedule_is_balanced_and_grows():
    shares = {"water": 40.0, "zone1": 10.0, "pair": 20.0}
    plan = schedule(shares, 70, 5)
    assert Counter(kind for kind, _ in plan) == {0: 40, 1: 10, 2: 20}
    assert set(Counter(block for _, block in plan).values()) == {14}
    assert schedule(shares, 20, 5) == plan[:20]
    assert Counter(kind for kind, _ in plan[:14]) == {0: 8, 1: 2, 2: 4}
    assert schedule({"water": 1.0}, 7, 3) == [(0, i % 3) for i in range(7)]
