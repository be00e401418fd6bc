"""Groups of charges that fade as a whole between two distances from a zone's atoms."""

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from gnn.engines.embedding.images import Array, nearest_image, steps_within
from gnn.engines.embedding.zone import Surroundings

#: Width in Å of the shell below the cutoff in which charges fade away.
SWITCH_WIDTH = 1.5


def switch(distance: Array, start: float, end: float) -> tuple[Array, Array]:
    """Return the polynomial of fifth degree that falls from 1 to 0, and its derivative.

    Both are continuous, the second derivative too.
    """
    x = np.clip((distance - start) / (end - start), 0.0, 1.0)
    value = 1 + x**3 * (-10 + x * (15 - 6 * x))
    slope = -30 * x**2 * (1 - x) ** 2 / (end - start)
    return value, slope


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
        inside, centres = self._whole(sites, box)
        radius = float(np.linalg.norm(atoms, axis=1).max())
        groups, moves = self._candidates(centres, self.cutoff + radius, box)
        places = centres[groups] + moves
        tree = cKDTree(atoms)
        nearest, _ = tree.query(places, distance_upper_bound=self.cutoff)
        kept = np.flatnonzero(nearest < self.cutoff)
        groups, moves, places = groups[kept], moves[kept], places[kept]
        weights = np.ones(len(kept))
        shell = np.flatnonzero(nearest[kept] > self.start)
        weights[shell], fading = self._weights(places[shell], atoms, tree)
        fading[0][:, 0] = shell[fading[0][:, 0]]
        counts = self.first[groups + 1] - self.first[groups]
        entries = np.repeat(np.arange(len(groups)), counts)
        within = np.arange(len(entries)) - np.repeat(np.cumsum(counts) - counts, counts)
        chosen = self.first[groups][entries] + within
        seen = (weights[entries] > 0) & (self.charges[chosen] != 0)
        chosen, entries = chosen[seen], entries[seen]
        points = inside[chosen] + moves[entries]
        return Near(chosen, points, weights[entries], entries, groups, fading)

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
        np.add.at(on_sites, near.sites, on_points)
        work = np.bincount(near.entries, on_weights, len(near.groups))
        (images, atoms), slopes = near.fading[0].T, near.fading[1]
        pull = work[images, None] * slopes
        np.add.at(on_atoms, atoms, pull)
        on_centres = np.zeros((len(self.first) - 1, 3))
        np.add.at(on_centres, near.groups[images], -pull)
        return on_atoms, on_sites + self.shares[:, None] * on_centres[self.of_site]

    def _whole(self, sites: Array, box: Array | None) -> tuple[Array, Array]:
        """Return sites (m, 3), groups whole and near the origin, and their centres (g, 3)."""
        if not len(sites):
            return sites, np.zeros((0, 3))
        first = self.first[:-1]
        corner = sites[first]
        inside = nearest_image(sites - corner[self.of_site], box)
        offset = np.add.reduceat(self.shares[:, None] * inside, first)
        centres = nearest_image(corner + offset, box)
        return inside + (centres - offset)[self.of_site], centres

    def _candidates(self, centres: Array, reach: float, box: Array | None) -> tuple[Array, Array]:
        """Return groups and moves of those images whose centres are within reach of the origin."""
        groups, moves = [], []
        for move in steps_within(reach, box):
            found = np.flatnonzero(((centres + move) ** 2).sum(axis=1) < reach * reach)
            groups.append(found)
            moves.append(np.broadcast_to(move, (len(found), 3)))
        return np.concatenate(groups), np.concatenate(moves)

    def _weights(
        self, centres: Array, atoms: Array, tree: cKDTree
    ) -> tuple[Array, tuple[Array, Array]]:
        """Return weights of centres in the shell, (c,), and their slopes as `Near` has them."""
        if not len(centres):
            return np.zeros(0), (np.zeros((0, 2), dtype=np.int64), np.zeros((0, 3)))
        pairs = cKDTree(centres).sparse_distance_matrix(tree, self.cutoff, output_type="ndarray")
        ends = np.stack([pairs["i"], pairs["j"]], axis=1).astype(np.int64)
        values, slopes = switch(pairs["v"], self.start, self.cutoff)
        absent = np.maximum(1 - values, 1e-300)
        product = np.exp(np.bincount(ends[:, 0], np.log(absent), len(centres)))
        scale = product[ends[:, 0]] / absent * slopes / pairs["v"]
        vectors = centres[ends[:, 0]] - atoms[ends[:, 1]]
        return 1 - product, (ends, scale[:, None] * vectors)
