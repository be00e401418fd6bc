"""Densities of node features: what is within, how far the rest is off, edges by runs."""

import io

import numpy as np
import pytest
import torch

from gnn.trust.density import density_of

RNG = np.random.default_rng(3)
BASIS = np.linalg.qr(RNG.standard_normal((20, 20)))[0]


def cloud(count, rng, widths=(3.0, 1.0, 0.1), centre=0.0):
    """Atoms that vary along three directions of twenty."""
    return centre + rng.standard_normal((count, 3)) * widths @ BASIS[:3]


def runs(count, per_run=50):
    return np.arange(count) // per_run


@pytest.fixture(scope="module")
def density():
    return density_of(cloud(1000, np.random.default_rng(0)), runs(1000))


def test_new_atoms_of_the_same_kind_are_within(density):
    distances = density.distance(cloud(2000, np.random.default_rng(1)))
    assert (distances > 1).mean() < 0.01
    assert np.median(distances) < 0.7


def test_distances_grow_linearly_far_away(density):
    step = 1e4 * BASIS[1]
    near, far = density.distance(np.stack([step, 2 * step]))
    assert near > 100
    assert far / near == pytest.approx(2, rel=1e-2)


def test_a_direction_of_no_variance_counts(density):
    assert density.distance(1.0 * BASIS[10:11])[0] > 3


def test_a_step_counts_in_units_of_the_variance_along_it(density):
    """The same step is far along a narrow direction and near along a wide one."""
    wide, _, narrow = density.distance(2 * BASIS[:3])
    assert narrow > 5 * wide


def test_between_two_clusters_is_outside():
    rng = np.random.default_rng(0)
    features = np.concatenate([cloud(500, rng), cloud(500, rng, centre=40 * BASIS[5])])
    density = density_of(features, runs(1000))
    assert (density.distance(features) <= 1).mean() > 0.99
    assert density.distance(20 * BASIS[5:6])[0] > 2


def test_the_edge_is_that_of_other_runs():
    """Frames of one run are alike: a run that lies apart from the others widens the edge."""
    rng = np.random.default_rng(0)
    tight = [cloud(50, rng, (0.1, 0.1, 0.1), 2.0 * k * BASIS[0]) for k in range(8)]
    features = np.concatenate(tight)
    by_run = density_of(features, runs(400))
    alone = density_of(features, np.arange(400))
    new = cloud(50, rng, (0.1, 0.1, 0.1), -2.0 * BASIS[0])
    assert np.median(by_run.distance(new)) < 1.2
    assert np.median(alone.distance(new)) > 2


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_atoms(count):
    features = cloud(count, np.random.default_rng(0))
    density = density_of(features, np.zeros(count, dtype=int))
    assert (density.distance(features) <= 1).all()
    assert density.distance(features + 1e3)[0] > 10


def test_atoms_that_are_all_alike():
    features = np.full((100, 20), 0.7)
    density = density_of(features, runs(100))
    assert (density.distance(features) <= 1).all()
    assert density.distance(features + 0.1)[0] > 10


def test_features_of_extreme_size_give_finite_distances(density):
    distances = density.distance(np.array([1e30, -1e30, 1e-30])[:, None] * BASIS[0])
    assert np.isfinite(distances).all()
    assert (distances[:2] > 1e20).all()


def test_a_seed_gives_one_density():
    features = cloud(3000, np.random.default_rng(0))
    first, again = (density_of(features, runs(3000)) for _ in range(2))
    assert np.array_equal(first.points, again.points)
    assert len(first.points) <= 300


def test_state_goes_through_a_file_that_runs_no_code(density):
    buffer = io.BytesIO()
    torch.save(density.state(), buffer)
    buffer.seek(0)
    back = type(density).from_state(torch.load(buffer, weights_only=True))
    features = cloud(10, np.random.default_rng(2))
    assert np.array_equal(back.distance(features), density.distance(features))
