"""Multipole-to-local translations on the GPU as one product: columns, roots, registers."""

from types import SimpleNamespace

import numpy as np
import pytest

from fmm.far import harmonics, translations
from fmm.tree.lists import shifts

pytest.importorskip("numba.cuda")
import fmm
from fmm.cuda import columns, products
from fmm.cuda.staging import DEPTH, padded, shape_of
from multipoles.compiled.cuda_kernels import SIMULATED
from multipoles.cuda.device import NumbaSpace

pytestmark = pytest.mark.cuda

SPACE = NumbaSpace()


def test_an_octant_has_189_codes_and_each_shift_its_reflection():
    rows, starts = columns.candidates_of_classes()
    assert np.diff(starts).tolist() == [189] * 8 + [columns.MOST_CANDIDATES]
    reflected = np.array(columns.reflected_shifts())[rows[:, 1]]
    signs = 1 - 2 * (rows[:, 2, None] >> np.array([2, 1, 0]) & 1)
    assert np.array_equal(signs * reflected, shifts()[rows[:, 0]])
    assert len(set(rows[: starts[8], 0].tolist())) == 316  # 7^3 - 3^3


def roots(n_systems: int, across: int) -> SimpleNamespace:
    """Return boxes of some systems that have one level, and their pairs by code, then target."""
    grid = np.stack(np.meshgrid(*3 * [np.arange(across)], indexing="ij"), -1).reshape(-1, 3)
    anchor, n = np.tile(grid, (n_systems, 1)), len(grid)
    found = []
    for i, j in np.argwhere(np.abs(grid[:, None] - grid).max(-1) > 1):
        code = int((grid[i] - grid[j] + 4) @ (81, 9, 1))
        found += [(code, s * n + i, s * n + j) for s in range(n_systems)]
    code, target, source = np.array(sorted(found)).T
    starts = np.searchsorted(code, np.arange(len(shifts()) + 1))
    return SimpleNamespace(anchor=anchor, starts=starts, targets=target, sources=source)


@pytest.mark.parametrize("n_systems, across", [(1, 3), pytest.param(40, 3, marks=pytest.mark.slow)])
def test_the_coarsest_boxes_of_systems(n_systems, across):
    degree, boxes, rng = 1, roots(n_systems, across), np.random.default_rng(2)
    n, size = len(boxes.anchor), harmonics.n_harmonics(degree)
    multipoles = np.zeros((n + 1, padded(size)))
    multipoles[1:, :size] = rng.normal(size=(n, size))
    pairs = boxes.starts, boxes.targets.astype(np.int32), boxes.sources.astype(np.int32)
    made = columns.make_columns(
        SPACE, 0, n, n, SPACE.upload(boxes.anchor), tuple(SPACE.upload(a) for a in pairs)
    )
    there = SPACE.upload(np.append(multipoles, np.zeros(DEPTH)))
    parts = products.transfer(SPACE, made, degree, 1, padded(size), there, np.dtype(np.float64))
    found = SPACE.download(parts.values).reshape(parts.n_parts, n, -1)[..., :size].sum(0)
    wanted = np.zeros((n, size))
    for code, shift in enumerate(shifts()):
        here = slice(boxes.starts[code], boxes.starts[code + 1])
        if np.abs(shift).max() > 1:
            matrix = translations.transfer_matrix(tuple(shift.tolist()), degree)
            wanted[boxes.targets[here]] += multipoles[1 + boxes.sources[here], :size] @ matrix.T
    assert np.abs(found - wanted).max() <= 1e-13 * np.abs(wanted).max()


@pytest.mark.skipif(not SIMULATED, reason="sizes of the simulator")
def test_times_of_the_device(monkeypatch):
    from numba import cuda

    rng = np.random.default_rng(0)
    x, q = (cuda.to_device(rng.random(shape).astype(np.float32)) for shape in ((40, 3), (40, 1)))
    plan = fmm.FMM(x, tolerance=0.1, leaf_size=6)
    assert not plan.report(synchronise=True).synchronised  # nothing was evaluated
    plan.field(q)
    before, waits = plan.report(), []
    monkeypatch.setattr(type(plan._layout.steps), "wait", lambda self: waits.append(self._waits))
    found = plan.report(synchronise=True)
    assert found.synchronised and all(waits) and len(waits) > 10
    assert {"near field", "multipole to local", "evaluate locals"} <= found.seconds.keys()
    assert np.array_equal(found.errors, before.errors) and "of the GPU" in str(found)
    plan.field(q)
    assert not plan.report().synchronised


@pytest.mark.slow
@pytest.mark.parametrize("degree", [5, 6, 7, 8, 9, 10, 11, 12])
def test_registers_and_multiply_adds(degree):
    from test_ptx import facts_of

    integers, reals = "int32[1]", "float32[1]"
    types = [integers] * 8 + [reals] * 2 + ["int64"] * 2 + [reals] + ["int64"] * 3 + [reals]
    launch = ["fmm.cuda.products", "_transfer", [(degree + 1) ** 2, 0], "float32", types]
    for _, _, facts in facts_of([launch]):
        assert facts["spill_stores"] == 0 and facts["registers"] <= 168
        instructions, multiply_adds = facts["busiest"]
        assert multiply_adds >= 0.8 * instructions


def test_rows_are_divided_without_many_empty_ones():
    for degree in range(4, 31):
        n = harmonics.n_harmonics(degree)
        shape = shape_of(n, 0)
        rows = shape.rows * shape.warps * shape.row_blocks
        assert n <= rows <= 1.3 * n + 16 and shape.depth - n < DEPTH
