"""The chains of all kernels for loops on the CPU: which function writes them is known by a code.

Codes are arguments of the loops, so that these are compiled once for all kernels. A code that no
kernel has gives NaN.
"""

import math
from collections.abc import Callable

import numpy as np

from multipoles.compiled.jit import bare, bare_inline, jit
from multipoles.compiled.late import late
from multipoles.compiled.native import call_chain
from multipoles.compiled.simd import BYTES, load, store
from multipoles.radial.base import CUSTOM
from multipoles.radial.coulomb import Coulomb, coulomb, coulomb_lanes
from multipoles.radial.erf import Erf, erf, erf_acts, erf_lanes
from multipoles.radial.erfc import Erfc, erfc, erfc_lanes
from multipoles.radial.inverse_power import InversePower, inverse_power, inverse_power_lanes
from multipoles.radial.lanes import LINKS, is_whole
from multipoles.radial.reaction_field import ReactionField, reaction_field, reaction_field_lanes
from multipoles.radial.remainder import (
    Remainder,
    SmoothPart,
    remainder,
    remainder_lanes,
    smooth_part,
    smooth_part_lanes,
)
from multipoles.radial.softened import Softened, soften_near_lanes, softened
from multipoles.radial.thole import Thole, thole, thole_acts, thole_lanes
from multipoles.radial.yukawa import Yukawa, yukawa, yukawa_lanes

_COULOMB, _YUKAWA, _ERF, _ERFC = Coulomb.code, Yukawa.code, Erf.code, Erfc.code
_THOLE, _REACTION_FIELD = Thole.code, ReactionField.code
_INVERSE_POWER, _SOFTENED = InversePower.code, Softened.code
_REMAINDER, _SMOOTH_PART = Remainder.code, SmoothPart.code


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
    elif code == _REMAINDER:
        remainder(r2, parameters, last, out, start, stride)
    elif code == _SMOOTH_PART:
        smooth_part(r2, parameters, last, out, start, stride)
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
    """Write g_0 ... g_last, g_n = (-1)^n B_n, as vectors; zeros where r2 is zero."""
    if _is_point_like(code, parameters, r2, last, BYTES // chain.itemsize):
        coulomb_lanes(r2, last, chain)
        if code == _SOFTENED:
            soften_near_lanes(parameters, r2, last, chain)
        return
    store(chain, 0, r2)
    _damped_chain(_entry(code, parameters, last), code, parameters, last, chain)


@bare_inline
def _is_point_like(code, parameters, r2, last, lanes):
    """Return whether a kernel is 1/r in all lanes, or made from it."""
    if code == _COULOMB or code == _SOFTENED:  # noqa: SIM109 - no tuples in loops
        return True
    if code == _ERF:
        return not erf_acts(parameters, r2, last, lanes)
    return code == _THOLE and not thole_acts(parameters, r2, last, lanes)


@bare_inline
def _entry(code, parameters, last):
    """Return the place of the function that writes a chain, 0 for the one that takes any kernel."""
    if last > LINKS or code < 0 or code >= _ENTRIES:
        return 0
    if code == _INVERSE_POWER and not is_whole(parameters[0]):
        return 0
    if code == _REACTION_FIELD and not (is_whole(parameters[3]) and is_whole(parameters[5])):
        return 0
    return code


@bare
def chain_by_lanes(code, parameters, last, chain):
    """Write the chain of any kernel lane by lane, r2 being the first vector of `chain`."""
    lanes = BYTES // chain.itemsize
    for lane in range(lanes):
        chain_of_one(code, np.float64(chain[lane]), parameters, last, chain, lane, lanes)
    for n in range(1, last + 1, 2):
        store(chain, n * lanes, -load(chain, n * lanes))


_LANES = {
    _YUKAWA: yukawa_lanes,
    _ERF: erf_lanes,
    _ERFC: erfc_lanes,
    _THOLE: thole_lanes,
    _REACTION_FIELD: reaction_field_lanes,
    _INVERSE_POWER: inverse_power_lanes,
    _REMAINDER: remainder_lanes,
    _SMOOTH_PART: smooth_part_lanes,
}
_ENTRIES = max(_LANES) + 1
# the same, each compiled and kept by itself; codes without one have the function for any kernel
_damped_chain = late(
    "multipoles_radial_chains",
    [bare(_LANES[code].py_func) if code in _LANES else chain_by_lanes for code in range(_ENTRIES)],
)


def chain_of_kernel(code: int) -> Callable[..., None]:
    """Return `radial_chain` without its first argument, for loops that serve one kernel.

    The functions of vectors are inlined: where `last` is a number known when the loop is compiled,
    no recursion is left as a loop, and the chain stays in registers.
    """
    lanes_of_kernel = _LANES.get(code)

    def by_code(parameters, r2, last, chain):
        radial_chain(code, parameters, r2, last, chain)

    def inlined(parameters, r2, last, chain):
        if _is_point_like(code, parameters, r2, last, BYTES // chain.itemsize):
            coulomb_lanes(r2, last, chain)
            return
        store(chain, 0, r2)
        if _entry(code, parameters, last) == code:
            lanes_of_kernel(code, parameters, last, chain)
        else:
            _damped_chain(0, code, parameters, last, chain)

    return bare_inline(by_code if lanes_of_kernel is None else inlined)
