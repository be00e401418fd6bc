"""The sums of `multipoles` over many points, by the fast multipole method, or on a mesh in a cell.

>>> import numpy as np
>>> import fmm, multipoles as mp
>>> positions = np.random.default_rng(0).random((20000, 3))
>>> plan = fmm.FMM(positions, tolerance=1e-4)
>>> plan.field(mp.pack(charges=np.ones(20000)), order=1).shape
(20000, 4)
"""

from fmm import companions  # noqa: F401  # before anything of multipoles is imported
from fmm.contract import Plan
from fmm.ewald import Ewald
from fmm.interactions import energy, energy_forces, field, torques
from fmm.mesh.mesh import Mesh
from fmm.method import FMM
from fmm.planning import plan
from fmm.report import Report
from multipoles.namesakes import warn_of_namesakes

__distribution__ = "anisole"  # others have packages of this name

__all__ = [
    "FMM", "Ewald", "Mesh", "Plan", "Report", "energy", "energy_forces", "field", "plan", "torques",
]  # fmt: skip

warn_of_namesakes(__file__)
