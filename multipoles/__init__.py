"""Cartesian multipoles of any order and the sums over their interactions.

Moments are M_alpha = sum q d^alpha / alpha!, packed by order: charge, dipole, quadrupole (3×3 form
½ sum q d⊗d, off-diagonal components counted once), ...; fields are plain derivatives of the
potential. There are no units: k = 1.

>>> import numpy as np
>>> import multipoles as mp
>>> positions = np.random.default_rng(0).standard_normal((5, 3))
>>> moments = mp.pack(charges=np.ones(5))
>>> mp.field(positions, positions, moments, order=1).shape
(5, 4)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from multipoles.compiled.jit import get_num_threads, set_num_threads
from multipoles.conventions import convert, from_convention
from multipoles.indexing import n_components
from multipoles.interactions import energy, energy_forces, field
from multipoles.moments import detrace, pack, rotate, shift, torques, unpack
from multipoles.namesakes import warn_of_namesakes
from multipoles.radial import (
    Coulomb,
    Erf,
    Erfc,
    InversePower,
    Kernel,
    ReactionField,
    Softened,
    Thole,
    Yukawa,
)
from multipoles.radial.checking import check_kernel

if TYPE_CHECKING:
    from multipoles import reference

__distribution__ = "anisole"  # others have packages of this name

__all__ = [
    "Coulomb",
    "Erf",
    "Erfc",
    "InversePower",
    "Kernel",
    "ReactionField",
    "Softened",
    "Thole",
    "Yukawa",
    "check_kernel",
    "convert",
    "detrace",
    "energy",
    "energy_forces",
    "field",
    "from_convention",
    "get_num_threads",
    "n_components",
    "pack",
    "reference",
    "rotate",
    "set_num_threads",
    "shift",
    "torques",
    "unpack",
]

warn_of_namesakes(__file__)


def __getattr__(name: str) -> Any:
    """Import the slow twin when it is asked for: scipy.special takes as long as all else."""
    if name == "reference":
        return import_module("multipoles.reference")
    raise AttributeError(f"module 'multipoles' has no attribute {name!r}")
