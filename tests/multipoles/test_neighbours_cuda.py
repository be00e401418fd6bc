"""Pairs within a distance on the GPU, or in the simulator."""

import numpy as np
import pytest

import multipoles as mp
from multipoles import reference

pytest.importorskip("numba.cuda")
from multipoles.compiled.cuda_kernels import SIMULATED
from multipoles.cuda import direct, neighbours
from multipoles.cuda.device import NumbaSpace
from multipoles.cuda.neighbours import DeviceNeighbours, pairs_within

pytestmark = pytest.mark.cuda
SPACE = NumbaSpace()
REACH = 1.2


@pytest.fixture
def given():
    """Return points of systems on the host and the device, one without sources, and their pairs."""
    rng = np.random.default_rng(3)
    x, s = rng.uniform(-1, 1, (5, 3)), rng.uniform(-1, 1, (8, 3))
    x_batch, s_batch = np.array([0, 0, 1, 1, 4]), np.array([0, 0, 0, 0, 1, 1, 1, 5])
    distance = np.linalg.norm(x[:, None] - s, axis=2)
    pairs = np.argwhere((distance <= REACH) & (x_batch[:, None] == s_batch))
    assert 3 < len(pairs) < 10
    there = [SPACE.upload(a) for a in (x, s)]
    systems = DeviceNeighbours(5, 8, *(SPACE.upload(a) for a in (x_batch, s_batch)))
    return (x, s), there, systems, pairs


def test_pairs_that_have_room_are_those_that_are_waited_for(given):
    _, there, systems, pairs = given
    assert neighbours._BUSY // 5 > 1 or not SIMULATED
    exact = pairs_within(SPACE, *there, systems, REACH)
    roomy = pairs_within(SPACE, *there, systems, REACH, capacity=12)
    assert roomy.check(SPACE) == len(pairs) == exact.n_pairs
    for found in ((exact.targets, exact.sources), roomy.ends(SPACE)):
        assert np.array_equal(np.stack([SPACE.download(a) for a in found], axis=1), pairs)
    for one, other in ((exact, roomy), (exact.transposed, roomy.transposed)):
        rows = [pairs.rows(SPACE, np.dtype(np.float64)) for pairs in (one, other)]
        starts = [SPACE.download(row[0]) for row in rows]
        assert np.array_equal(*starts)
        lists = [SPACE.download(row[1])[: len(pairs)] for row in rows]
        assert np.array_equal(*lists)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sums_over_pairs_with_room(given, dtype):
    (x, s), there, systems, pairs = given
    charges = np.linspace(-1, 2, 8).astype(dtype)
    wanted = reference.field(x.astype(dtype), s.astype(dtype), charges[:, None], pairs=pairs)
    points = [SPACE.upload(a.astype(dtype)) for a in (x, s)]
    moments = SPACE.upload(charges.reshape(8, 1, 1))
    # found among points of float64, summed in either type
    for room, right in ((len(pairs), True), (1, False)):
        near = pairs_within(SPACE, *there, systems, REACH, capacity=room)
        found = SPACE.download(direct.field(SPACE, *points, moments, 1, mp.Coulomb(), near))[:, 0]
        if right:
            assert np.allclose(found, wanted, rtol=1e-12 if dtype == np.float64 else 1e-5)
            continue
        with pytest.raises(ValueError, match=f"at most {room} pairs .* found {len(pairs)}"):
            near.check(SPACE)
        assert np.isnan(found[:, 0]).any()


def test_no_points_and_wrong_capacities(given):
    _, there, systems, _ = given
    with pytest.raises(ValueError, match="capacity: expected room for at least one pair, got 0"):
        pairs_within(SPACE, *there, systems, REACH, capacity=0)
    nothing = SPACE.upload(np.zeros((0, 3)))
    for points in ((nothing, there[1]), (there[0], nothing)):
        nobody = DeviceNeighbours(*map(len, points))
        assert pairs_within(SPACE, *points, nobody, REACH, capacity=3).check(SPACE) == 0
        assert pairs_within(SPACE, *points, nobody, REACH).n_pairs == 0
