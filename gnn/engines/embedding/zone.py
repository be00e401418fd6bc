"""What a model computes, and the charges that it sees: places that move with particles."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Array = NDArray[Any]


class Sites:
    """Points of which each is a weighted mean of particles, one as a rule.

    Parameters
    ----------
    weights
        Sparse, (n, particles); rows add up to 1, so that sites move with the particles.

    Raises
    ------
    ValueError
        If a row does not add up to 1.
    """

    def __init__(self, weights: csr_array):
        self.weights = csr_array(weights)
        self._transposed = csr_array(self.weights.T)
        self._particles = _single(self.weights)
        wrong = np.flatnonzero(np.abs(self.weights.sum(axis=1) - 1) > 1e-12)
        if len(wrong):
            raise ValueError(
                f"expected weights of each site that add up to 1, got "
                f"{self.weights.sum(axis=1)[wrong[0]]:g} for site {wrong[0]}"
            )

    @classmethod
    def of_particles(cls, particles: Sequence[int] | Array, count: int) -> Self:
        """Return sites that are particles themselves, given by numbers below `count`."""
        columns = np.asarray(particles, dtype=np.int64)
        rows = np.arange(len(columns))
        return cls(csr_array((np.ones(len(columns)), (rows, columns)), shape=(len(rows), count)))

    def __len__(self) -> int:
        return int(self.weights.shape[0])

    def at(self, positions: Array) -> Array:
        """Return the places (n, 3) of the sites for positions (particles, 3)."""
        if self._particles is not None:
            return np.array(positions[self._particles])
        places: Array = self.weights @ positions
        return places

    def spread(self, forces: Array) -> Array:
        """Return forces on particles (particles, 3) from forces on sites (n, 3), by chain rule."""
        if self._particles is not None:
            on_particles = np.zeros((self.weights.shape[1], 3))
            on_particles[self._particles] = forces
            return on_particles
        found: Array = self._transposed @ forces
        return found


def _single(weights: csr_array) -> Array | slice | None:
    """Return the particle that each site is, if each is another one; None where some are means.

    Particles that follow each other are a slice, which costs less than their numbers.
    """
    whole = weights.nnz == weights.shape[0] and bool((np.diff(weights.indptr) == 1).all())
    if not whole or not (weights.data == 1).all():
        return None
    particles: Array = weights.indices.astype(np.int64)
    if len(particles) and (np.diff(particles) == 1).all():
        return slice(int(particles[0]), int(particles[-1]) + 1)
    return particles if len(np.unique(particles)) == len(particles) else None


@dataclass
class Zone:
    """The atoms that a model computes.

    Attributes
    ----------
    numbers
        Atomic numbers, (n,).
    sites : Sites
        Where they are, (n, particles).
    charge
        Their total charge in e.
    bonds
        Pairs of atoms that are bonded, (b, 2): they say why where something goes wrong.
    formal
        Each atom's share of the charge of its molecule in e, (n,), for models with local charges.
        It stays so whatever bonds form and break. None: there is one molecule.
    held
        Pairs of particles that are bonded, (h, 2), among those that atoms and charges depend on:
        along these, what a box has cut is made whole.
    """

    numbers: Array
    sites: Sites
    charge: int
    bonds: Array = field(default_factory=lambda: np.zeros((0, 2), dtype=int))
    formal: Array | None = None
    held: Array = field(default_factory=lambda: np.zeros((0, 2), dtype=int))


@dataclass
class Surroundings:
    """The charges around a zone, in groups (molecules, residues) that fade as a whole.

    Attributes
    ----------
    charges
        In e, (m,).
    sites : Sites
        Where they are, (m, particles).
    groups
        Group of each charge, (m,), whole numbers from 0 without gaps; sorted.
    centres
        Weight of each charge's place in the centre of its group, (m,), adding up to 1 in each.
    """

    charges: Array
    sites: Sites
    groups: Array
    centres: Array

    @classmethod
    def none(cls, particles: int) -> Self:
        """Return no charges beside so many particles."""
        empty = np.zeros(0)
        return cls(empty, Sites.of_particles([], particles), empty.astype(int), empty)

    def single(self) -> "Surroundings":
        """Return the same charges, each in a group of its own."""
        count = len(self.charges)
        return Surroundings(self.charges, self.sites, np.arange(count), np.ones(count))
