"""Charges at cut bonds: where that of M1 goes, and what is left of a whole number.

The model does not see the MM atom M1 of a cut bond, on which its link atom nearly lies. M1's
charge q0, and with it what the force field's charges of the QM atoms have more than the zone's
whole number, goes by a named scheme (all of them keep the total charge but "delete"):

- "shift": evenly onto the n neighbours M2, q0/n to each. This makes a dipole, which a pair of
  opposite charges at each M2 takes back, on the line from M1, a tenth of that bond before and
  behind (P. Sherwood et al., J. Mol. Struct. THEOCHEM 632, 1 (2003)). Total and dipole are kept.
- "rcd": 2 q0/n to the middle of each bond M1–M2, -q0/n to each M2 (H. Lin and D. G. Truhlar,
  J. Phys. Chem. A 109, 3991 (2005), "redistributed charge and dipole"). Both are kept.
- "delete": it is dropped; a warning has the number.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from gnn.data.parts import connected
from gnn.engines.embedding.frontier import Link
from gnn.engines.embedding.images import Array
from gnn.engines.embedding.zone import Zone

#: Largest deviation in e of a total charge from a whole number.
NEUTRAL = 1e-2
_DOUBTFUL = 0.3  # e at one cut bond, beyond which a charge of the zone may be meant otherwise
_ARM = 0.1  # of the bond M1–M2: distance of the charges of a pair from M2


class Frontier(NamedTuple):
    """Charges near cut bonds as the model sees them.

    Attributes
    ----------
    charges
        Of all particles in e, (particles,), those of M1 zero.
    extra
        Charges that are at no particle, (k,).
    weights
        Where those are: sparse, (k, particles).
    hosts
        Particle in whose group each of those fades, (k,).
    """

    charges: Array
    extra: Array
    weights: csr_array
    hosts: Array


def zone_charge(
    charges: Array, bonds: Array, qm: Sequence[int], links: Sequence[Link], charge: int | None
) -> int:
    """Return a zone's total charge: as given, or the whole number nearest to the force field's.

    Parameters
    ----------
    charges
        Of all particles in e.
    bonds
        Among the QM atoms, by their places in `qm`, (b, 2).
    qm
        Numbers of the QM atoms.
    links
        Cut bonds: molecules with such may have any charge in the force field, others a whole one.
    charge
        As given, or None.

    Raises
    ------
    ValueError
        If none is given and that of whole molecules is not a whole number.
    """
    if charge is not None:
        return charge
    part = connected(len(qm), bonds)
    sums = np.bincount(part, charges[list(qm)])
    cut = np.zeros(len(sums), dtype=bool)
    cut[part[np.searchsorted(qm, [link.inner for link in links])]] = True
    total = sums[~cut].sum()
    if abs(total - round(total)) > NEUTRAL:
        raise ValueError(
            f"the force field's charges of the QM atoms add up to {total:.3f} e, no whole "
            "number: pass charge="
        )
    return round(total) + int(np.round(sums[cut]).sum())


def redistributed(
    scheme: str, links: Sequence[Link], zone: Zone, qm: Sequence[int], charges: Array
) -> Frontier:
    """Return the charges that the model sees about a zone with cut bonds.

    Parameters
    ----------
    scheme : {"shift", "rcd", "delete"}
        See the top of this module.
    links
        Cut bonds.
    zone : Zone
        Its charge (and each molecule's, where it has `formal`) is what the frontier makes up to
        that of the force field.
    qm
        Numbers of its atoms but for link atoms, as they come in it.
    charges
        Of the force field in e, (particles,).
    """
    rest = remainders(links, zone, qm, charges)
    moved = charges.copy()
    outers = [link.outer for link in links]
    carried = charges[outers] + rest
    moved[outers] = 0.0
    rows: list[dict[int, float]] = []
    extra: list[float] = []
    hosts: list[int] = []
    for link, charge in zip(links, carried, strict=True):
        share, outer = charge / len(link.others), link.outer
        for other in link.others if scheme == "shift" else ():
            moved[other] += share
            rows += [{other: 1 + _ARM, outer: -_ARM}, {other: 1 - _ARM, outer: _ARM}]
            extra += [-share / (2 * _ARM), share / (2 * _ARM)]
            hosts += [other, other]
        for other in link.others if scheme == "rcd" else ():
            moved[other] -= share
            rows.append({other: 0.5, outer: 0.5})
            extra.append(2 * share)
            hosts.append(other)
    if scheme == "delete":
        warnings.warn(
            f"with link_scheme='delete' the model sees {carried.sum():+.4f} e less of its "
            "surroundings than the force field has",
            stacklevel=4,
        )
    return Frontier(moved, np.array(extra), _sparse(rows, len(charges)), np.array(hosts, dtype=int))


def remainders(links: Sequence[Link], zone: Zone, qm: Sequence[int], charges: Array) -> Array:
    """Return what the frontier gets at each cut bond, (links,): the force field's less the zone's.

    A molecule's remainder goes evenly to its own cut bonds; that of molecules without such, and
    what a total charge by hand leaves, evenly to all.
    """
    part = connected(len(zone.numbers), zone.bonds)
    n = len(qm)
    sums = np.bincount(part[:n], charges[list(qm)])
    whole = np.round(sums) if zone.formal is None else np.bincount(part, zone.formal)
    of_link = part[np.searchsorted(qm, [link.inner for link in links])]
    counts = np.bincount(of_link, minlength=len(sums))
    found: Array = ((sums - whole) / np.maximum(counts, 1))[of_link]
    found = found + (sums.sum() - zone.charge - found.sum()) / len(links)
    k = int(np.argmax(np.abs(found)))
    if abs(found[k]) > _DOUBTFUL:
        warnings.warn(
            f"the force field's charges of the QM atoms add up to {sums.sum():.3f} e, the zone has "
            f"{zone.charge}: {found[k]:+.3f} e beside the charge of atom {links[k].outer} goes to "
            "the frontier there; pass charge= if the zone is meant to have another",
            stacklevel=4,
        )
    return found


def _sparse(rows: list[dict[int, float]], particles: int) -> csr_array:
    """Return a matrix (rows, particles) from the entries of its rows by column."""
    places = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    columns = np.array([column for row in rows for column in row], dtype=np.int64)
    values = np.array([value for row in rows for value in row.values()], dtype=np.float64)
    return csr_array((values, (places, columns)), shape=(len(rows), particles))
