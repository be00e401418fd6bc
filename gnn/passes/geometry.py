"""What edges are to a network, as functions of the positions: directions, envelope and basis."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gnn.passes import _geometry_loops as loops
from gnn.passes.tape import Tape, Value
from multipoles.compiled.jit import add_up, equal_ranges, run_ranges

Ends = tuple[NDArray[np.int64], NDArray[np.int64]]

# an edge takes as long as so many pairs of point charges
_COST = 50.0
# of the third power of a shift, a sixth is neglected
MOST_SHIFT = 1e-5


class EdgeGeometry(NamedTuple):
    """Lengths (E,), directions (E, 3), envelopes (E, 1) and radial basis (E, n_radial) of edges."""

    lengths: NDArray
    directions: Value
    fade: Value
    basis: Value


def frequency_shifts(frequencies: NDArray, cutoff: float) -> NDArray:
    """Return by how much frequencies differ from multiples of pi / cutoff, which rounding does."""
    exact = frequencies.astype(np.float64)
    shifts: NDArray = exact - np.pi / cutoff * np.arange(1, len(exact) + 1)
    return shifts


def edge_geometry(
    tape: Tape, positions: Value, ends: Ends, cutoff: float, shifts: NDArray
) -> EdgeGeometry:
    """Return what `gnn.layers.radial.RadialBasis` gives for edges, and their directions.

    `shifts` are `frequency_shifts`, all below `MOST_SHIFT`. Loops compute in float64.
    """
    x, edges = positions.x, len(ends[0])
    lengths, directions, fade, basis = (
        np.empty(shape, x.dtype) for shape in (edges, (edges, 3), (edges, 1), (edges, len(shifts)))
    )
    arguments = x, ends, float(cutoff), np.pi / cutoff, shifts
    ranges = equal_ranges(np.ones(edges), _COST * edges)

    def task(begin: int, end: int) -> None:
        scratch = np.empty((2, len(shifts)))
        loops.values(begin, end, *arguments, scratch, lengths, directions, fade, basis)

    run_ranges(task, ranges)
    found = EdgeGeometry(lengths, *(Value(one, learned=False) for one in (directions, fade, basis)))

    def backward() -> None:
        given = [value.taken() for value in (found.directions, found.fade, found.basis)]

        def part(begin: int, end: int) -> NDArray:
            by_positions = np.zeros(x.shape)
            scratch = np.empty((2, len(shifts)))
            loops.gradients(begin, end, *arguments, scratch, *given, by_positions)
            return by_positions

        positions.add(add_up(run_ranges(part, ranges)).astype(x.dtype))

    def push() -> None:
        moved = [np.empty_like(value.x) for value in found[1:]]
        scratch = np.empty((2, len(shifts)))
        loops.changes(0, edges, x, positions.moved(), *arguments[1:], scratch, *moved)
        for value, change in zip(found[1:], moved, strict=True):
            value.move(change)

    tape.note(backward)
    tape.note_changes(push)
    return found
