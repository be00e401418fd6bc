"""The compiled loops behind novelty, beside NumPy and SciPy."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from gnn import System
from gnn.trust.density import density_of
from gnn.trust.domain import _BONDED, _marks, bonded_as
from gnn.trust.nearest import (
    MOST,
    code_of,
    raise_by_atoms,
    raise_by_bonds,
    raise_by_charges,
    raise_by_field,
)

RNG = np.random.default_rng(3)
NUMBERS = np.array([1, 6, 8, 1, 6, 1])
SYSTEM = np.array([0, 0, 0, 1, 1, 3])  # system 2 has no atom
FLOATS = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def limits(*shape):
    return RNG.uniform(0.5, 2, shape)


@FLOATS
def test_atoms_raise_novelties_to_the_steepest_ratio(dtype):
    positions = RNG.standard_normal((6, 3)).astype(dtype)
    senders, receivers = np.array([1, 2, 0, 4, 3]), np.array([0, 0, 1, 3, 4])
    table, start = limits(9, 9), np.full(6, 0.01)
    found = start.copy()
    vectors = positions[receivers] - positions[senders]
    raise_by_atoms(found, NUMBERS, vectors, senders, receivers, table)
    expected = start.copy()
    gaps = np.linalg.norm(positions[receivers] - positions[senders], axis=1)
    ratios = (table[NUMBERS[receivers], NUMBERS[senders]] / gaps) ** 6
    np.maximum.at(expected, receivers, ratios)
    assert np.allclose(found, expected, rtol=1e-5 if dtype == np.float32 else 1e-12)
    assert found[2] == found[5] == 0.01  # nothing arrives there


@FLOATS
def test_charges_raise_novelties_by_the_nearest_of_the_own_system(dtype):
    positions = RNG.standard_normal((6, 3)).astype(dtype)
    particles = 3 * RNG.standard_normal((40, 3)).astype(dtype)
    charges = np.where(np.arange(40) % 3, 0.4, 0.0).astype(dtype)
    ends = np.array([0, 15, 15, 20, 40])  # system 1 has no particle
    table = limits(9)
    table[6] = 0  # no charge near carbon in training
    found = np.zeros(6)
    raise_by_charges(found, NUMBERS, positions, SYSTEM, particles, charges, ends, table)
    for i, z in enumerate(NUMBERS):
        own = slice(*ends[SYSTEM[i] : SYSTEM[i] + 2])
        around = particles[own][charges[own] != 0]
        nearest = cdist(positions[i : i + 1], around).min() if len(around) else np.inf
        assert found[i] == pytest.approx((table[z] / nearest) ** 6, rel=1e-5)


def test_fields_raise_novelties_where_there_is_a_limit():
    gradient = RNG.standard_normal((6, 3))
    table = limits(9)
    table[8] = 0
    found = np.zeros(6)
    raise_by_field(found, NUMBERS, gradient, table)
    strength = np.linalg.norm(gradient, axis=1)
    expected = [s / table[z] if z != 8 else 0 for s, z in zip(strength, NUMBERS, strict=True)]
    assert np.allclose(found, expected, rtol=1e-12)


def test_what_is_no_number_or_too_large_is_as_novel_as_can_be():
    numbers, edges = np.array([1, 1]), (np.array([1, 0]), np.array([0, 1]))
    for places in (np.zeros((2, 3)), np.full((2, 3), np.nan), np.full((2, 3), 1e-30)):
        found = np.zeros(2)
        raise_by_atoms(found, numbers, places[::-1] - places, *edges, np.ones((2, 2)))
        assert (found == MOST).all()
        found = np.zeros(2)
        raise_by_field(found, numbers, np.full((2, 3), np.nan), np.ones(2))
        assert (found == MOST).all()
    far = np.array([[0.0, 0, 0], [1e200, 0, 0]])
    found = np.zeros(2)
    raise_by_atoms(found, numbers, far[::-1] - far, *edges, np.ones((2, 2)))
    assert (found == 0).all()


@FLOATS
def test_distances_to_points_are_those_of_scipy(dtype):
    features = RNG.standard_normal((400, 20)) * np.linspace(0.01, 3, 20)
    density = density_of(features, np.arange(400) % 4)
    others = (1.5 * features[:50] + 0.1).astype(dtype)
    centred = others - density.mean
    along = centred @ density.axes
    rest = np.linalg.norm(centred - along @ density.axes.T, axis=1)
    whitened = np.column_stack([along, rest]) / density.scales
    expected = cdist(whitened, density.points).min(axis=1) / density.edge
    assert np.allclose(density.distance(others), expected, rtol=1e-5)
    assert np.isinf(density.distance(np.full((1, 20), np.nan))).all()
    assert density.distance(others[:0]).shape == (0,)


def molecule(positions, numbers=(6, 8, 1, 1, 1, 1)):
    return System(list(numbers), positions)


METHANOL = np.array(
    [[1.4, 0, 0], [0, 0, 0], [1.85, 0.39, -0.92], [1.78, -1.01, 0.08], [1.81, 0.58, 0.85],
     [-0.31, 0.92, 0]]
)  # fmt: skip


def test_bonds_are_those_of_the_neighbours_and_theirs():
    (carbon, oxygen, hydrogen, *_, hydroxyl) = bonded_as(molecule(METHANOL))
    assert carbon == ((6, 1, 1, 1, 8), ((1, 6), (1, 6), (1, 6), (8, 1, 6)))
    assert oxygen == ((8, 1, 6), ((1, 8), (6, 1, 1, 1, 8)))
    assert hydrogen[0] == (1, 6) and hydroxyl == ((1, 8), ((8, 1, 6),))
    assert bonded_as(System([2], [[0.0, 0, 0]])) == [((2,), ())]


@FLOATS
def test_atoms_bonded_as_none_in_training_are_novel(dtype):
    known = bonded_as(molecule(METHANOL))
    codes = np.array(sorted({code_of(*one, _marks()) for one in known}), np.uint64)
    order = RNG.permutation(6)
    numbers = np.array([6, 8, 1, 1, 1, 1])[order]
    senders, receivers = np.nonzero(~np.eye(6, dtype=bool))

    def novel(positions):
        found = np.full(6, 0.3)
        edges = senders, receivers, _BONDED, _marks(), codes
        places = positions[order].astype(dtype)
        raise_by_bonds(found, numbers, places[receivers] - places[senders], *edges, 1.5)
        return found[np.argsort(order)]

    turned = METHANOL @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1.0]]) + 7
    assert (novel(turned) == 0.3).all()
    broken = METHANOL.copy()
    broken[5] += 3  # the hydroxyl's hydrogen goes away
    # those three hydrogen atoms have carbon as before, but its oxygen has lost a neighbour
    assert novel(broken).tolist() == [1.5, 1.5, 0.3, 0.3, 0.3, 1.5]
