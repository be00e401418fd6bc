"""Loop over unordered pairs of charges, dipoles and quadrupoles on the CPU: both sides at once.

Blocks of sites are laid out as in `multipoles.direct_cpu`; off-diagonal quadrupole components are
halved, so that they are those of a symmetric matrix, and no signs are applied.
"""

import numpy as np

from multipoles.compiled.jit import bare, bare_inline
from multipoles.compiled.simd import BYTES, lane_sum, load, store
from multipoles.direct_cpu import clear
from multipoles.layout import aligned
from multipoles.pairwise import quadrupole_pair, square
from multipoles.radial.dispatch import radial_chain


@bare_inline
def _site(packed, offset):
    """Return charge, dipole and quadrupole of a vector of sites."""
    lanes = BYTES // packed.itemsize
    return (
        load(packed, offset + 3 * lanes),
        (
            load(packed, offset + 4 * lanes),
            load(packed, offset + 5 * lanes),
            load(packed, offset + 6 * lanes),
        ),
        (
            load(packed, offset + 7 * lanes),
            load(packed, offset + 8 * lanes),
            load(packed, offset + 9 * lanes),
            load(packed, offset + 10 * lanes),
            load(packed, offset + 11 * lanes),
            load(packed, offset + 12 * lanes),
        ),
    )


@bare_inline
def _one_site(packed, index):
    """Return charge, dipole and quadrupole of one site, as plain numbers."""
    lanes = BYTES // packed.itemsize
    return (
        packed[index + 3 * lanes],
        (packed[index + 4 * lanes], packed[index + 5 * lanes], packed[index + 6 * lanes]),
        (
            packed[index + 7 * lanes],
            packed[index + 8 * lanes],
            packed[index + 9 * lanes],
            packed[index + 10 * lanes],
            packed[index + 11 * lanes],
            packed[index + 12 * lanes],
        ),
    )


@bare_inline
def _accumulate(sums, offset, values):
    """Add vectors to consecutive rows of `sums`."""
    lanes = BYTES // sums.itemsize
    for k in range(len(values)):
        index = offset + k * lanes
        store(sums, index, load(sums, index) + values[k])


@bare_inline
def _accumulate_site(sums, index, own):
    """Add the sums over the lanes of the vectors in `own` to one site."""
    lanes = BYTES // sums.itemsize
    for k in range(13):
        sums[index + k * lanes] += lane_sum(load(own, k * lanes))


def scratch(dtype: np.dtype, n_slots: int) -> tuple[np.ndarray, ...]:
    """Return what `two_sided` works on: two masks, the chain and the sums of one site.

    The first mask is zero before, one after: from its own slot on, a site meets the later ones.
    The second is one in every slot but those of the site's skipped partners.
    """
    lanes = BYTES // dtype.itemsize
    mask = np.repeat(np.array([0, 1], dtype), lanes)
    return mask, np.ones(n_slots, dtype), aligned(6 * lanes, dtype), aligned(13 * lanes, dtype)


@bare
def two_sided(first, last, packed, slots, ranges, skipped, code, parameters, scratch, out):
    """Add gradients and fields of all unordered pairs whose first site has a slot in the range.

    Charges, dipoles and quadrupoles (rows 3-12, off-diagonals halved, no signs). Rows of `out`,
    flat like `packed`: gradient of the energy by position, then by the ten components. `skipped`
    holds the start of each site's row, and row by row the slots of the sites it does not meet.
    """
    lanes = BYTES // packed.itemsize
    later, meets, chain, own = scratch
    starts, partners = skipped
    off, on = out.dtype.type(0), out.dtype.type(1)
    for i in range(first, last):
        if slots[i] < 0:
            continue
        lane = i % lanes
        index = 13 * (i - lane) + lane
        c1, d1, q1 = _one_site(packed, index)
        clear(own)
        site = slots[i]
        for k in range(starts[site], starts[site + 1]):
            meets[partners[k]] = off
        for j in range(13 * (i - lane), 13 * ranges[slots[i], 1], 13 * lanes):
            x = packed[index] - load(packed, j)
            y = packed[index + lanes] - load(packed, j + lanes)
            z = packed[index + 2 * lanes] - load(packed, j + 2 * lanes)
            c2, d2, q2 = _site(packed, j)
            # r = 0 masks a pair: its chain is zero, like that of coincident points
            mask = load(later, min(j // 13 - i + lanes - 1, lanes)) * load(meets, j // 13)
            r2 = square(x, y, z) * mask
            radial_chain(code, parameters, r2, 5, chain)
            g = (
                load(chain, 0),
                load(chain, lanes),
                load(chain, 2 * lanes),
                load(chain, 3 * lanes),
                load(chain, 4 * lanes),
                load(chain, 5 * lanes),
            )
            gradient, field1, field2 = quadrupole_pair((x, y, z), g, c1, d1, q1, c2, d2, q2)
            _accumulate(own, 0, gradient)
            _accumulate(own, 3 * lanes, field1)
            _accumulate(out, j, (-gradient[0], -gradient[1], -gradient[2]))
            _accumulate(out, j + 3 * lanes, field2)
        _accumulate_site(out, index, own)
        for k in range(starts[site], starts[site + 1]):
            meets[partners[k]] = on
