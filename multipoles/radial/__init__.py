"""Radial kernels f(r), each given by its chain B_n(r) = (-1)^n (1/r d/dr)^n f.

A kernel is its chain and nothing more: every derivative of every interaction is built from B_0,
B_1, ..., so all of them are consistent by construction. Each has a file, with the scalar function
that writes the chain of one pair and the class that holds its parameters; `base` has what they
share, with the registry of all kernels, and `dispatch` what the loops on the CPU call.

Scalar functions write ``out[start + n * stride]``; r2 > 0. The recursions run in the direction in
which nothing cancels, with a series where none does. The CPU computes them in float64, the GPU in
the type of its kernels: so factors are running real numbers, since an integer times float32 is
float64.

Loops on the CPU take chains of vectors, a pair in each lane: functions ``..._lanes``, for chains up
to `lanes.LINKS` in the type of the sum. They write g_n = (-1)^n B_n and give zeros where r is zero.

All kernels act between points at a distance r > 0; coincident points contribute nothing.
"""

from multipoles.radial.base import Kernel, kernel_object
from multipoles.radial.coulomb import Coulomb
from multipoles.radial.erf import Erf
from multipoles.radial.erfc import Erfc
from multipoles.radial.inverse_power import InversePower
from multipoles.radial.reaction_field import ReactionField
from multipoles.radial.softened import Softened
from multipoles.radial.thole import Thole
from multipoles.radial.yukawa import Yukawa

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
    "kernel_object",
]
