"""The fast multipole method over the ranks of MPI: the same plans, points wherever they are.

``mpiexec -n 4 python -m fmm.distributed validate`` compares it with sums on one rank.
"""

from fmm.distributed.method import FMM
from fmm.distributed.report import DistributedReport

__all__ = ["FMM", "DistributedReport"]
