"""What surrounding charges induce, by tables of what the network makes of a distance."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gnn.operators.network import EndArrays
from gnn.published import _induction_loops
from gnn.published.pairs import ranges_of_atoms
from gnn.published.polarisation import Polarisation
from multipoles.compiled.jit import add_up, run_ranges

# coefficients of a polynomial, and how closely tables follow the functions, of their largest value
_TERMS, _TOLERANCE = 6, 1e-13
_FEWEST, _MOST = 256, 4096
# a pair takes as long as so many of point charges
_COST = 30.0


class Tables(NamedTuple):
    """The radial functions of a `Polarisation`, for as long as its weights stay what they are.

    Attributes
    ----------
    table : ndarray
        (intervals, 2, terms): a polynomial for each interval and function.
    cutoff : float
        Where the last interval ends, in Å.
    """

    table: NDArray[np.float64]
    cutoff: float


def tables_of(layer: Polarisation) -> Tables | None:
    """Return tables that follow the functions to 1e-13 of their largest value, if any do."""
    intervals = _FEWEST
    while intervals <= _MOST:
        table, error = _fitted(layer, intervals)
        if error <= _TOLERANCE:
            return Tables(table, float(layer.cutoff))
        intervals *= 2
    return None


def _fitted(layer: Polarisation, intervals: int) -> tuple[NDArray[np.float64], float]:
    """Return polynomials (intervals, 2, terms), and their largest error relative to the values."""
    nodes = 0.5 * np.cos(np.pi * (np.arange(_TERMS) + 0.5) / _TERMS)
    others = np.linspace(-0.5, 0.5, 2 * _TERMS + 2)[1:-1]
    centres = np.arange(intervals)[:, None] + 0.5
    width = layer.cutoff / intervals
    exact = layer.functions((centres + nodes) * width)
    inverse = np.linalg.inv(np.vander(nodes, increasing=True))
    table = np.einsum("tn,knl->klt", inverse, exact)
    powers = np.vander(others, _TERMS, increasing=True)
    expected = layer.functions((centres + others) * width)
    error = np.abs(np.einsum("nt,klt->knl", powers, table) - expected).max()
    largest = np.abs(expected).max()
    return np.ascontiguousarray(table), float(error / largest) if largest > 0 else float(error)


class TabulatedInduction:
    """The sums of `Polarisation`, as an operator on arrays.

    Maps positions of atoms (N, 3) and particles (M, 3), and charges of these (M,) in e, to sums
    (N, 10). Loops compute in float64.

    Parameters
    ----------
    tables : Tables
        The functions of the distance.
    pairs : tuple of ndarray
        Atom and particle, (P,) int64, sorted by atom: at least all within the cutoff.
    """

    def __init__(self, tables: Tables, pairs: EndArrays):
        self._constants = pairs, np.empty((0, 3)), tables.table, tables.cutoff
        self._ranges = ranges_of_atoms(pairs[0], _COST)

    def values(self, *inputs: NDArray) -> NDArray:
        """Return the sums."""
        sums = np.zeros((len(inputs[0]), 10))
        arguments = *inputs, *self._constants, sums
        run_ranges(lambda *part: _induction_loops.sums(*part, *arguments), self._ranges)
        return sums.astype(inputs[0].dtype)

    def gradients(self, weights: NDArray, *inputs: NDArray) -> tuple[NDArray, ...]:
        """Return the gradients by all inputs."""
        atoms, particles, _ = inputs
        by_atoms = np.zeros(atoms.shape)
        arguments = *inputs, *self._constants, weights, by_atoms

        def task(begin: int, end: int) -> NDArray:
            by_particles = np.zeros((len(particles), 4))
            _induction_loops.gradients(begin, end, *arguments, by_particles)
            return by_particles

        by_particles = add_up(run_ranges(task, self._ranges)).astype(atoms.dtype)
        return by_atoms.astype(atoms.dtype), by_particles[:, :3], by_particles[:, 3]
