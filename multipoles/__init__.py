"""Cartesian multipoles of any order and the sums over their interactions.

>>> import numpy as np, multipoles as mp
>>> positions = np.random.default_rng(0).standard_normal((5, 3))
>>> moments = mp.pack(charges=np.ones(5))
>>> mp.field(positions, positions, moments, order=1).shape
(5, 4)
"""

from multipoles._jit import get_num_threads, set_num_threads
from multipoles.indexing import n_components
from multipoles.interactions import field
from multipoles.radial import (
    Coulomb,
    Erf,
    Erfc,
    InversePower,
    Kernel,
    ReactionField,
    Thole,
    Yukawa,
)

__all__ = [
    "Coulomb",
    "Erf",
    "Erfc",
    "InversePower",
    "Kernel",
    "ReactionField",
    "Thole",
    "Yukawa",
    "field",
    "get_num_threads",
    "n_components",
    "set_num_threads",
]
