"""Cells whose points lie on many ranks, here threads of one process, against other sums."""

import numpy as np
import pytest
from ranks_given import draw, errors, on_ranks, together

import fmm
import multipoles as mp
from fmm.distributed import FMM

CUBE = 10 * np.eye(3)
SKEWED = np.array([[10, 0, 0], [4, 9, 0], [3, -4, 11.0]])
# boxes of these are nearer to right angles in a larger cell
HEXAGONAL = np.array([[10, 0, 0], [5, 8.66, 0], [5, 2.88, 8.16]])
LONG = np.diag([10, 10, 30.0])


def field(
    cell, orders=(0, 1), targets=False, whole=0, size=3, n=1200, tolerance=1e-5, kind="cube",
    **options,
):  # fmt: skip
    """Return the field by ranks, and what it should be; points lie `whole` cells away."""
    rng = np.random.default_rng(11)
    x = (draw(kind, n, rng) + rng.integers(-whole, whole + 1, (n, 3))) @ cell
    moments = rng.standard_normal((n, mp.n_components(orders[0])))
    owner = rng.integers(0, size, n)
    y = rng.random((n // 2, 3)) @ cell if targets else None
    to = rng.integers(0, size, n // 2) if targets else owner

    def work(ranks, mine):
        here = None if y is None else y[to == ranks.rank]
        plan = FMM(x[mine], here, tolerance, *orders, comm=ranks, cell=cell, **options)
        # the second is measured at fewer targets
        return plan.field(moments[mine]), plan.field(moments[mine])

    found = on_ranks(owner, size, work)
    exact = fmm.plan(x, y, tolerance / 10, *orders, cell=cell, method="ewald", **options)
    expected = exact.field(moments)
    return [together(to, [part[k] for part in found]) for k in (0, 1)], expected


@pytest.mark.parametrize(
    "given",
    [
        {"cell": CUBE, "whole": 2},
        {"cell": LONG, "orders": (1, 2)},
        {"cell": SKEWED, "size": 4},
        {"cell": CUBE, "size": 8, "n": 4000, "kind": "cluster"},
        {"cell": HEXAGONAL, "surface": "vacuum"},
        {"cell": HEXAGONAL, "targets": True},
        {"cell": CUBE, "periodic": (True, True, False)},
        {"cell": CUBE, "periodic": (False, False, True), "targets": True},
    ],
    ids=["cube", "long", "skewed", "cluster", "vacuum", "copies", "slab", "wire"],
)
def test_fields_are_those_of_all_images(given):
    found, expected = field(**given)
    order = given.get("orders", (0, 1))[1]
    for part in found:
        assert max(errors(part, expected, order)) < 1.2e-5


def test_points_and_cell_move():
    rng = np.random.default_rng(12)
    x, charges = rng.random((1500, 3)) @ SKEWED, rng.standard_normal((1500, 1))
    owner, larger = rng.integers(0, 3, 1500), 1.1 * SKEWED

    def work(ranks, mine):
        plan = FMM(x[mine], tolerance=1e-5, comm=ranks, cell=SKEWED)
        plan.field(charges[mine])
        plan.rebuild(x[mine] + 3.0)
        moved = plan.field(charges[mine])
        plan.rebuild(1.1 * x[mine], cell=larger)
        return moved, plan.field(charges[mine]), plan.transpose().field(charges[mine], 1)

    found = on_ranks(owner, 3, work)
    for k, (points, cell) in enumerate([(x + 3.0, SKEWED), (1.1 * x, larger), (1.1 * x, larger)]):
        expected = fmm.plan(points, None, 1e-6, cell=cell, method="ewald").field(charges)
        assert max(errors(together(owner, [part[k] for part in found]), expected, 1)) < 1.2e-5


def test_scaled_pairs_in_a_cell():
    rng = np.random.default_rng(13)
    x, charges = rng.random((1200, 3)) @ CUBE, rng.standard_normal((1200, 1))
    owner = np.arange(1200) * 2 // 1200
    pairs = np.stack([np.arange(0, 500, 2), np.arange(1, 500, 2)], axis=1)
    factors = np.zeros(len(pairs))

    def work(ranks, mine):
        scale = (pairs, factors) if ranks.rank == 0 else None
        plan = FMM(x[mine], tolerance=1e-5, comm=ranks, cell=CUBE, pair_scale=scale)
        return plan.field(charges[mine])

    found = together(owner, on_ranks(owner, 2, work))
    one = fmm.FMM(x, tolerance=1e-6, cell=CUBE, pair_scale=(pairs, factors))
    assert max(errors(found, one.field(charges), 1)) < 1.2e-5
