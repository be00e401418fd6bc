"""What is wrong on one rank is said on all."""

import numpy as np
import pytest

import multipoles as mp
from fmm.distributed import FMM
from fmm.distributed.threads import run


def everywhere(work, kind, match):
    """Every rank raises the same error."""

    def guarded(ranks):
        with pytest.raises(kind, match=match):
            work(ranks)
        return True

    assert all(run(3, guarded))


def points(ranks, n=20):
    return np.random.default_rng(ranks.rank).random((n, 3))


def test_a_number_that_is_none():
    def work(ranks):
        x = points(ranks)
        x[3, 1] = np.nan if ranks.rank == 1 else 0.5
        FMM(x, comm=ranks)

    everywhere(work, ValueError, "rank 1 of 3.*nan")


def test_moments_that_do_not_fit():
    def work(ranks):
        plan = FMM(points(ranks), comm=ranks)
        plan.field(np.ones((20 + (ranks.rank == 2), 1)))

    everywhere(work, ValueError, "rank 2 of 3.*20")


def test_moments_of_two_kinds():
    def work(ranks):
        plan = FMM(points(ranks), comm=ranks)
        plan.field(np.ones((20, 4 if ranks.rank else 1)))

    everywhere(work, ValueError, "order 0.*rank 0.*order 1.*rank 1")


def test_options_that_differ():
    def work(ranks):
        FMM(points(ranks), tolerance=1e-6 if ranks.rank else 1e-4, comm=ranks)

    everywhere(work, ValueError, "tolerance: 0.0001 on rank 0.*1e-06 on rank 1")


def test_kernels_and_cells_that_differ():
    def kernels(ranks):
        FMM(points(ranks), kernel=mp.Erf(alpha=10.0 + ranks.rank), comm=ranks)

    def cells(ranks):
        FMM(points(ranks), cell=(1.0 + ranks.rank) * np.eye(3), comm=ranks)

    everywhere(kernels, ValueError, "kernel: .* on rank 0")
    everywhere(cells, ValueError, "cell: .* on rank 0")


def test_targets_on_some_ranks_only():
    def work(ranks):
        FMM(points(ranks), points(ranks) if ranks.rank else None, comm=ranks)

    everywhere(work, ValueError, "targets")


def test_dtypes_that_differ():
    def work(ranks):
        FMM(points(ranks).astype(np.float32 if ranks.rank else np.float64), comm=ranks)

    everywhere(work, TypeError, "one dtype on all ranks")


def test_what_has_no_meaning_on_ranks():
    def systems(ranks):
        FMM(points(ranks), each="system", comm=ranks)

    def batches(ranks):
        FMM(points(ranks), comm=ranks).rebuild(points(ranks), source_batch=np.zeros(20, int))

    def virial(ranks):
        FMM(points(ranks), comm=ranks).energy_forces(np.ones((20, 1)), virial=True)

    everywhere(systems, ValueError, "each: expected 'channel'")
    everywhere(batches, ValueError, "batch")
    everywhere(virial, ValueError, "virial")


def test_a_charged_cell_without_background():
    def work(ranks):
        plan = FMM(points(ranks), cell=np.eye(3), background=False, comm=ranks)
        charges = np.full((20, 1), 1.0 if ranks.rank else -1.0)
        plan.field(charges)

    everywhere(work, ValueError, "neutral cell.*total charge of 20")


def test_an_error_of_one_rank_ends_all():
    def work(ranks):
        plan = FMM(points(ranks), comm=ranks)
        if ranks.rank == 1:
            raise RuntimeError("dead")
        plan.field(np.ones((20, 1)))

    with pytest.raises(RuntimeError, match="dead"):
        run(3, work)


def test_a_communicator_of_something_else():
    pytest.importorskip("mpi4py")
    with pytest.raises(TypeError, match="intracommunicator"):
        FMM(np.zeros((3, 3)), comm="world")
