"""Groups of charges that fade as a whole between two distances from a zone's atoms."""

from typing import NamedTuple

import numpy as np

from gnn.engines.embedding import _group_loops
from gnn.engines.embedding.images import Array, steps_within
from gnn.engines.embedding.zone import Surroundings

#: Width in Å of the shell below the cutoff in which charges fade away.
SWITCH_WIDTH = 1.5
_NO_BOX = np.zeros((3, 3))


class Near(NamedTuple):
    """Charges near a zone, images included, as far as they have not faded.

    Attributes
    ----------
    sites
        Number of each charge among the surroundings, (k,); a site may come with several images.
    points
        Places in Å, (k, 3).
    weights
        What is left of each, in (0, 1], (k,).
    entries
        Number of the group's image that each belongs to, (k,).
    groups
        Group of each image, (e,).
    fading
        Slopes of the weights: image and atom (p, 2), and the derivative of the image's weight by
        the centre of its group (p, 3) through that atom, whose own is minus that.
    """

    sites: Array
    points: Array
    weights: Array
    entries: Array
    groups: Array
    fading: tuple[Array, Array]

    def unseen(self) -> "Near":
        """Return the same groups without any of their charges."""
        return self._replace(
            sites=self.sites[:0],
            points=self.points[:0],
            weights=self.weights[:0],
            entries=self.entries[:0],
        )


class Groups:
    """Finds the charges near a zone, and carries forces on their weights back.

    The weight of a group is ``w = 1 - prod_i (1 - s(r_i))``, where r_i is the distance of its
    centre to atom i and s falls smoothly from 1 to 0 between `start` and `cutoff`. All its images
    near the zone are there, each with its own weight.

    Parameters
    ----------
    surroundings : Surroundings
        The charges.
    start, cutoff
        In Å.
    """

    def __init__(self, surroundings: Surroundings, start: float, cutoff: float):
        self.charges = np.asarray(surroundings.charges, dtype=np.float64)
        self.of_site = np.asarray(surroundings.groups, dtype=np.int64)
        self.shares = np.asarray(surroundings.centres, dtype=np.float64)
        self.start, self.cutoff = start, cutoff
        count = int(self.of_site[-1]) + 1 if len(self.of_site) else 0
        self.first = np.searchsorted(self.of_site, np.arange(count + 1))

    def near(self, atoms: Array, sites: Array, box: Array | None) -> Near:
        """Return the charges near atoms (n, 3) about the origin, for places of all sites (m, 3)."""
        atoms, sites = np.ascontiguousarray(atoms), np.ascontiguousarray(sites)
        radius = float(np.sqrt((atoms**2).sum(axis=1).max()))
        moves = steps_within(self.cutoff + radius, box)
        rows = _NO_BOX if box is None else np.ascontiguousarray(box)
        given = self.first, self.shares, self.charges, self.start, self.cutoff
        seen, images, fading = _group_loops.near_charges(
            atoms, sites, moves, rows, box is not None, *given
        )
        chosen, points, weights, entries = seen
        return Near(chosen, points, weights, entries, images, fading)

    def forces(
        self, near: Near, on_points: Array, on_weights: Array, n_atoms: int
    ) -> tuple[Array, Array]:
        """Return forces on atoms (n, 3), by weights alone, and on all sites (m, 3).

        Parameters
        ----------
        near : Near
            From `near`.
        on_points
            Forces on its points in eV/Å, (k, 3).
        on_weights
            Derivative of the energy by each point's weight in eV, (k,).
        n_atoms
            Number of atoms.
        """
        on_sites, on_atoms = np.zeros((len(self.charges), 3)), np.zeros((n_atoms, 3))
        given = near.sites, near.entries, near.groups, *near.fading
        forces = np.ascontiguousarray(on_points), np.ascontiguousarray(on_weights)
        _group_loops.forces_back(given, *forces, self.first, self.shares, on_atoms, on_sites)
        return on_atoms, on_sites
