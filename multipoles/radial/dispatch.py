"""The chains of all kernels for loops on the CPU: which function writes them is known by a code.

Codes are arguments of the loops, so that these are compiled once for all kernels. A code that no
kernel has gives NaN.
"""

import math

import numpy as np

from multipoles.compiled.jit import bare, bare_inline, jit
from multipoles.compiled.native import call_chain
from multipoles.compiled.simd import BYTES, load, store
from multipoles.radial.base import CUSTOM
from multipoles.radial.coulomb import Coulomb, coulomb, coulomb_lanes
from multipoles.radial.erf import Erf, erf, screen_near_lanes
from multipoles.radial.erfc import Erfc, erfc
from multipoles.radial.inverse_power import InversePower, inverse_power
from multipoles.radial.reaction_field import ReactionField, reaction_field
from multipoles.radial.softened import Softened, soften_near_lanes, softened
from multipoles.radial.thole import Thole, thole
from multipoles.radial.yukawa import Yukawa, yukawa

_COULOMB, _YUKAWA, _ERF, _ERFC = Coulomb.code, Yukawa.code, Erf.code, Erfc.code
_THOLE, _REACTION_FIELD = Thole.code, ReactionField.code
_INVERSE_POWER, _SOFTENED = InversePower.code, Softened.code


@bare
def chain_of_one(code, r2, parameters, last, out, start, stride):
    """Write B_0 ... B_last of the kernel `code` for one pair; zeros where r2 is zero."""
    if r2 <= 0.0:
        for n in range(last + 1):
            out[start + n * stride] = 0.0
    elif code == _COULOMB:
        coulomb(r2, parameters, last, out, start, stride)
    elif code == _YUKAWA:
        yukawa(r2, parameters, last, out, start, stride)
    elif code == _ERF:
        erf(r2, parameters, last, out, start, stride)
    elif code == _ERFC:
        erfc(r2, parameters, last, out, start, stride)
    elif code == _THOLE:
        thole(r2, parameters, last, out, start, stride)
    elif code == _REACTION_FIELD:
        reaction_field(r2, parameters, last, out, start, stride)
    elif code == _SOFTENED:
        softened(r2, parameters, last, out, start, stride)
    elif code == _INVERSE_POWER:
        inverse_power(r2, parameters, last, out, start, stride)
    elif code >= CUSTOM:
        _custom(r2, parameters, last, out, start, stride)
    else:
        for n in range(last + 1):
            out[start + n * stride] = math.nan


@bare_inline
def _custom(r2, parameters, last, out, start, stride):
    """Write the chain of a user's kernel: u^-(2n+1) B_n(r/u) in units of length u.

    Behind the kernel's parameters come u and the address of the compiled function.
    """
    count = parameters.shape[0]
    inverse = 1.0 / parameters[count - 2]
    square = inverse * inverse
    links = call_chain(np.int64(parameters[count - 1]), r2 * square, parameters, last)
    scale = inverse
    for n in range(last + 1):
        out[start + n * stride] = links[n] * scale
        scale *= square


@jit
def chain_of_many(code, parameters, distances, out):
    """Write the chain of each distance into a row of `out`."""
    flat = out.reshape(-1)
    links = out.shape[1]
    for i in range(distances.shape[0]):
        chain_of_one(code, distances[i] ** 2, parameters, links - 1, flat, i * links, 1)


@bare_inline
def radial_chain(code, parameters, r2, last, chain):
    """Write g_0 ... g_last, g_n = (-1)^n B_n, as vectors; zeros where r2 is zero.

    Kernels that are 1/r from some distance on are made from it, in the lanes that are nearer.
    """
    lanes = BYTES // chain.itemsize
    if code == _COULOMB or code == _ERF or code == _SOFTENED:  # noqa: SIM109 - no tuples in loops
        coulomb_lanes(r2, last, chain)
        if code == _ERF:
            screen_near_lanes(parameters, r2, last, chain)
        elif code == _SOFTENED:
            soften_near_lanes(parameters, r2, last, chain)
        return
    store(chain, 0, r2)
    for lane in range(lanes):
        chain_of_one(code, np.float64(chain[lane]), parameters, last, chain, lane, lanes)
    for n in range(1, last + 1, 2):
        store(chain, n * lanes, -load(chain, n * lanes))
