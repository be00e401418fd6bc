"""Plans on many ranks, here threads of one process, against sums on one."""

import numpy as np
import pytest
from ranks_given import draw, errors, on_ranks, owners, together

import fmm.distributed.boxes as boxes
import multipoles as mp
from fmm.distributed import FMM
from fmm.distributed.partition import bounds_of
from fmm.distributed.steps import SharedSteps
from fmm.distributed.threads import run


def field(kind, n, size, how, tolerance, orders=(0, 1), targets=None, **options):
    """Return the field by ranks, what it should be, and a report."""
    rng = np.random.default_rng(7)
    x, owner = draw(kind, n, rng), owners(how, n, size, rng)
    moments = rng.standard_normal((len(x), mp.n_components(orders[0])))
    owner = owner[: len(x)]
    y = None if targets is None else draw(targets, n // 2, rng)
    to = owner if y is None else owners("at random", len(y), size, rng)

    def work(ranks, mine):
        here = None if y is None else y[to == ranks.rank]
        plan = FMM(x[mine], here, tolerance, *orders, comm=ranks, **options)
        return plan.field(moments[mine]), plan.report()

    found = on_ranks(owner, size, work)
    options.pop("leaf_size", None)
    expected = mp.field(x if y is None else y, x, moments, orders[1], **options)
    return together(to, [part for part, _ in found]), expected, found[0][1]


@pytest.mark.parametrize("kind", ["cube", "sphere", "cluster", "line", "lattice", "far"])
def test_fields_are_those_of_all_points(kind):
    found, expected, report = field(kind, 4000, 3, "at random", 1e-5)
    assert max(errors(found, expected, 1)) < 1.2e-5
    assert report.everywhere == (len(found), len(found))
    assert max(report.owned[:2]) < 1.1 * len(found) / 3
    assert (report.errors < 1e-5).all()


@pytest.mark.parametrize("how", ["all by one", "some by none"])
@pytest.mark.parametrize("size", [2, 4])
def test_whoever_gives_the_points(how, size):
    found, expected, report = field("cube", 5000, size, how, 1e-4)
    assert max(errors(found, expected, 1)) < 1.2e-4
    assert report.degree > 0 and max(report.owned[:2]) < 1.1 * len(found) / size


@pytest.mark.parametrize("kind", ["deep", "tiny", "huge", "one place"])
def test_scales_and_depths(kind):
    found, expected, _ = field(kind, 1500, 3, "in order", 1e-5)
    assert max(errors(found, expected, 1)) < 1.2e-5


def test_points_that_ranks_cannot_part_are_told_of():
    rng = np.random.default_rng(2)
    x = draw("deep", 6000, rng)

    def work(ranks):
        FMM(x[ranks.rank :: 4], tolerance=1e-3, comm=ranks)

    with pytest.warns(RuntimeWarning, match="rank . owns 3.. times its share"):
        run(4, work)


@pytest.mark.parametrize("n", [1, 2, 5, 60])
def test_fewer_points_than_ranks_ask_for(n):
    found, expected, _ = field("cube", n, 4, "at random", 1e-6)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_moments_derivatives_and_other_targets():
    found, expected, report = field("cube", 4000, 3, "at random", 1e-5, (2, 3), "sphere")
    assert report.degree > 0
    assert max(errors(found, expected, 3)) < 1.2e-5


def test_a_damped_kernel_whose_boxes_are_few():
    kernel = mp.Erf(alpha=30.0)
    found, expected, report = field("cube", 4000, 4, "at random", 1e-5, kernel=kernel)
    assert max(errors(found, expected, 1)) < 1.2e-5
    kernel = mp.Erf(alpha=6.0)
    found, expected, report = field("cube", 2000, 4, "at random", 1e-5, kernel=kernel)
    assert max(errors(found, expected, 1)) < 1.2e-5
    assert max(report.owned[:2]) < 1.1 * 2000 / 4


@pytest.mark.parametrize("most", [1, 3])
def test_boxes_that_many_ask_for_are_summed_over_ranks(monkeypatch, most):
    usual = field("cube", 6000, 6, "at random", 1e-4, leaf_size=40)[2]
    monkeypatch.setattr(boxes, "MOST_USERS", most)
    found, expected, report = field("cube", 6000, 6, "at random", 1e-4, leaf_size=40)
    assert max(errors(found, expected, 1)) < 1.2e-4
    assert report.traffic.reduced_bytes > usual.traffic.reduced_bytes


def test_boxes_that_many_ask_for_may_lie_deep(monkeypatch):
    # where first words of keys are the same; expansions that lack any would be given up
    usual = field("corner", 3000, 3, "at random", 1e-6, leaf_size=10)[2]
    monkeypatch.setattr(boxes, "MOST_USERS", 0)
    found, expected, report = field("corner", 3000, 3, "at random", 1e-6, leaf_size=10)
    assert max(errors(found, expected, 1)) < 1.2e-6
    assert report.degrees == usual.degrees and report.n_levels > 25


def test_one_rank_is_the_plan_of_one_machine():
    rng = np.random.default_rng(3)
    x, charges = rng.random((6000, 3)), rng.standard_normal((6000, 1))
    (found,) = run(1, lambda ranks: FMM(x, tolerance=1e-5, comm=ranks).field(charges))
    from fmm import FMM as One

    np.testing.assert_array_equal(found, One(x, tolerance=1e-5).field(charges))


def test_the_adjoint_is_the_adjoint():
    rng = np.random.default_rng(4)
    x, y = rng.random((3000, 3)), rng.random((2000, 3))
    moments, weights = rng.standard_normal((3000, 4)), rng.standard_normal((2000, 10))
    owner, to = rng.integers(0, 3, 3000), rng.integers(0, 3, 2000)

    def work(ranks):
        mine, here = owner == ranks.rank, to == ranks.rank
        plan = FMM(x[mine], y[here], 1e-8, 1, 2, comm=ranks)
        there, back = plan.field(moments[mine]), plan.transpose().field(weights[here])
        assert plan.transpose().transpose() is plan
        return (there * weights[here]).sum(), (back * moments[mine]).sum()

    one, other = np.sum(run(3, work), axis=0)
    size = np.sqrt((weights**2).sum() * (moments**2).sum())
    assert abs(one - other) < 1e-6 * size and abs(one) > 1e-3 * size


def test_points_change_ranks_when_they_move():
    rng = np.random.default_rng(5)
    x, charges = rng.random((5000, 3)), rng.standard_normal((5000, 1))
    owner = rng.integers(0, 3, 5000)
    places = [x, 1.0 - x, np.concatenate([x[:4000], 0.01 * x[4000:]]), x + 0.001]

    def work(ranks, mine):
        plan = FMM(x[mine], tolerance=1e-5, comm=ranks)
        out = [plan.field(charges[mine])]
        for place in places[1:]:
            plan.rebuild(place[mine])
            out.append(plan.field(charges[mine]))
        return np.stack(out, axis=1)

    found = together(owner, on_ranks(owner, 3, work))
    for k, place in enumerate(places):
        expected = mp.field(place, place, charges, 1)
        assert max(errors(found[:, k], expected, 1)) < 1.2e-5


def test_points_may_be_given_by_other_ranks_when_they_move():
    rng = np.random.default_rng(6)
    x, charges = rng.random((3000, 3)), rng.standard_normal((3000, 1))
    first, later = rng.integers(0, 3, 3000), np.zeros(3000, int)

    def work(ranks):
        plan = FMM(x[first == ranks.rank], tolerance=1e-5, comm=ranks)
        plan.rebuild(x[later == ranks.rank])
        return plan.field(charges[later == ranks.rank])

    found = together(later, run(3, work))
    assert max(errors(found, mp.field(x, x, charges, 1), 1)) < 1.2e-5


def test_energies_forces_channels_and_scaled_pairs():
    rng = np.random.default_rng(8)
    x, moments = rng.random((3000, 3)), rng.standard_normal((3000, 2, 4))
    owner = np.arange(3000) * 3 // 3000
    pairs = np.stack([np.arange(0, 900, 2), np.arange(1, 900, 2)], axis=1)

    def work(ranks, mine):
        first = np.flatnonzero(mine)[0]
        inside = mine[pairs].all(axis=1)
        scale = pairs[inside] - first, np.full(inside.sum(), 0.5)
        plan = FMM(x[mine], None, 1e-6, 1, 2, comm=ranks, channels=2, each="channel",
                   pair_scale=scale)  # fmt: skip
        energy, forces, gradients = plan.energy_forces(moments[mine])
        assert plan.energy(moments[mine]) == pytest.approx(energy, rel=1e-6)
        return energy, forces, gradients, plan.torques(moments[mine])

    found = on_ranks(owner, 3, work)
    energy, forces, gradients = mp.energy_forces(
        x, moments, pair_scale=(pairs, np.full(len(pairs), 0.5))
    )
    assert len({part[0] for part in found}) == 1
    assert found[0][0] == pytest.approx(energy, abs=1e-5 * np.abs(gradients * moments).sum())
    for k, expected in ((1, forces), (2, gradients)):
        got = together(owner, [part[k] for part in found])
        assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)


def test_zero_moments_and_moments_on_one_rank_only():
    rng = np.random.default_rng(9)
    x, owner = rng.random((3000, 3)), np.arange(3000) % 2
    charges = rng.standard_normal((3000, 1)) * (owner == 1)[:, None]

    def work(ranks, mine):
        plan = FMM(x[mine], tolerance=1e-5, comm=ranks)
        return plan.field(np.zeros((mine.sum(), 1))), plan.field(charges[mine])

    found = on_ranks(owner, 2, work)
    assert not any(part[0].any() for part in found)
    expected = mp.field(x, x, charges, 1)
    assert max(errors(together(owner, [p[1] for p in found]), expected, 1)) < 1.2e-5


def test_float32_and_float64():
    rng = np.random.default_rng(10)
    x = rng.random((4000, 3)).astype(np.float32)
    charges = rng.standard_normal((4000, 1)).astype(np.float32)

    def work(ranks, mine):
        # a rank without points has no say, whatever its empty array is of
        here, there = (x[mine], charges[mine]) if mine.any() else (np.zeros((0, 3)),) * 2
        plan = FMM(here, tolerance=1e-4, comm=ranks)
        return plan.field(there if len(there) else np.zeros((0, 2, 4)))

    owner = np.arange(4000) % 2
    found = together(owner, on_ranks(owner, 3, work))
    assert found.dtype == np.float32
    expected = mp.field(x.astype(float), x.astype(float), charges.astype(float), 1)
    assert max(errors(found, expected, 1)) < 1.2e-4


def test_what_acts_is_known_to_all_ranks():
    # moments are those that a rank gives, harmonics those that it owns: either may be none
    def work(ranks):
        given, owned = (3, 0) if ranks.rank else (0, 2)
        return SharedSteps(ranks).acts(np.ones((given, 1, 1)), np.ones((owned, 1, 1)), 0)

    assert run(2, work) == [True, True]


@pytest.mark.parametrize("n_cells", [1, 8, 125, 60**3])
def test_stretches_cost_the_same_and_few_faces_are_asked_for(n_cells):
    bits = 12

    def work(ranks):
        rng = np.random.default_rng(ranks.rank)
        keys = np.sort(rng.integers(0, n_cells << 3 * bits, 5000))
        bounds = bounds_of(ranks, keys, np.ones(len(keys)), bits, n_cells, 3)
        owned = ranks.sum(np.histogram(keys, bounds)[0])
        return bounds, owned, ranks.traffic.reduced_bytes

    bounds, owned, told = run(4, work)[0]
    assert (np.diff(bounds) >= 0).all() and abs(owned / 5000 - 1).max() < 0.1
    assert told < 4000
