"""Interactions of one pair as plain arithmetic, shared by all loops.

The arguments are numbers, or vectors of `multipoles._simd` that stand for many pairs at once: the
functions use ``+ - * /`` only and compile for both. Names: (x, y, z) is target minus source; y of a
quadrupole is Q r; g_n = (-1)^n B_n is the radial chain with its signs.
"""

from multipoles._jit import inline


@inline
def square(x, y, z):
    """Return x^2 + y^2 + z^2."""
    return x * x + y * y + z * z


@inline
def charge_field(x, y, z, inverse, charge):
    """Return potential and gradient of a charge under 1/r; `inverse` is 1/r."""
    potential = charge * inverse
    slope = -(potential * inverse) * inverse
    return potential, slope * x, slope * y, slope * z
