"""Charges near the atoms of a zone, one by one: their field there, and what the atoms make there.

Two ways with one meaning: for few atoms all of them meet every charge that is near any, in loops
that are written for this; for many, pairs within the radius are listed.
"""

from functools import lru_cache

import numpy as np

from gnn.engines.embedding import _near_loops
from gnn.engines.embedding._image_loops import images_near
from gnn.engines.embedding.images import Array
from multipoles.compiled.jit import run_chunks
from multipoles.lattice import search
from multipoles.lattice.cell import Cell
from multipoles.lattice.smooth import Smooth
from multipoles.neighbours import PairList
from multipoles.radial.remainder import Remainder
from multipoles.sums import field_arrays

#: Order of the field at the atoms, and of what they make of it: one more than the models take, for
#: their forces; and the models' multipoles.
ORDER, MULTIPOLES = 3, 2
#: Atoms up to which all meet every charge that is near any of them.
FEW = 400
_PAIR = 5.0  # cost of a pair, one being that of two charges
_POINT_LIKE = np.empty((0, _near_loops.LINKS))


class Charges:
    """Charges around a few atoms, each of which meets all of them.

    Parameters
    ----------
    atoms, points
        Places in Å, (n, 3) and (k, 3).
    charges
        Of the points in e, (k,).
    setting : Smooth, optional
        What waves sum of 1/r; the rest acts. None: 1/r acts.
    """

    def __init__(self, atoms: Array, points: Array, charges: Array, setting: Smooth | None = None):
        self._atoms, self._count = atoms, len(points)
        self._packed = _near_loops.pack(points, charges)
        self._work = _PAIR * len(atoms) * len(points)
        self._kernel = (1.0, _POINT_LIKE) if setting is None else _remainder(setting)

    def field(self) -> Array:
        """Return the field at the atoms and its derivatives, (n, 20) in e/Å^(k + 1), packed."""
        out = np.empty((len(self._atoms), 20))
        given = self._atoms, self._packed, *self._kernel, out

        def task(first: int, last: int) -> None:
            _near_loops.field_at_atoms(first, last, *given)

        run_chunks(task, len(out), self._work)
        return out

    def answer(self, moments: Array) -> tuple[Array, Array]:
        """Return forces (k, 3) on the charges, and potentials (k,) at them, of atoms' moments.

        Parameters
        ----------
        moments
            Packed, (n, 10).
        """
        fields = np.empty_like(self._packed)
        given = self._atoms, moments, self._packed, *self._kernel, fields

        def task(first: int, last: int) -> None:
            _near_loops.field_at_charges(first, last, *given)

        run_chunks(task, len(fields) // _near_loops.WIDTH, self._work)
        forces, potentials = np.empty((self._count, 3)), np.empty(self._count)
        _near_loops.unpack(self._packed, fields, forces, potentials)
        return forces, potentials


class Near:
    """Charges of a box within a radius of atoms, with all images, less what waves sum of them.

    Parameters
    ----------
    atoms, sites
        Places in Å, (n, 3) and (m, 3).
    charges
        Of the sites in e, (m,).
    cell : Cell
        What repeats.
    setting : Smooth
        What waves sum of 1/r; it has the radius.
    """

    def __init__(self, atoms: Array, sites: Array, charges: Array, cell: Cell, setting: Smooth):
        self._atoms, self._count, self._setting = atoms, len(sites), setting
        self._points, self._origin = images(atoms, sites, cell, setting.radius)
        self._charges = charges[self._origin]
        self._few = None
        if len(atoms) <= FEW:
            self._few = Charges(atoms, self._points, self._charges, setting)
        else:
            self._pairs = pairs_of(atoms, self._points, setting.radius)
            self._kernel = Remainder(setting.radius, setting.band)

    def field(self) -> Array:
        """Return the field at the atoms and its derivatives, (n, 20) in e/Å^(k + 1), packed."""
        if self._few is not None:
            return self._few.field()
        given = self._points, self._charges[:, None, None], ORDER, self._kernel, self._pairs
        return np.asarray(field_arrays(self._atoms, *given)[:, 0])

    def forces(self, moments: Array) -> Array:
        """Return forces on the sites (m, 3) of atoms' moments (n, 10)."""
        if self._few is not None:
            forces = self._few.answer(moments)[0]
        else:
            given = self._atoms, moments[:, None], 1, self._kernel, self._pairs.transposed
            forces = -self._charges[:, None] * field_arrays(self._points, *given)[:, 0, 1:]
        on_sites = np.zeros((self._count, 3))
        _near_loops.add_rows(forces, self._origin, on_sites)
        return on_sites


def images(
    atoms: Array, sites: Array, cell: Cell, radius: float, moved_only: bool = False
) -> tuple[Array, Array]:
    """Return images (k, 3) of sites that are near atoms, and whose each is (k,).

    All within the radius of any atom, and maybe some that are a little farther; moved_only: but
    the sites themselves.
    """
    found: tuple[Array, Array]
    found = images_near(atoms, sites, cell.vectors, cell.inverse, radius, moved_only)
    return found


def pairs_of(atoms: Array, points: Array, radius: float) -> PairList:
    """Return the pairs of atoms and points within a radius."""
    found = search.pairs_within(atoms, points, radius, 0.0)
    return PairList.of_rows(found.starts, found.images, len(points))


@lru_cache(maxsize=16)
def _remainder(setting: Smooth) -> tuple[float, Array]:
    """Return radius, and coefficients (terms, 4) of what waves sum, the highest power first."""
    parameters = Remainder(setting.radius, setting.band).parameter_array
    terms, links = int(parameters[1]), _near_loops.LINKS
    table = parameters[2 : 2 + links * terms].reshape(links, terms)
    scales = (2 / setting.radius**2) ** np.arange(links) / setting.radius
    return setting.radius, np.ascontiguousarray((table * scales[:, None]).T[::-1])
