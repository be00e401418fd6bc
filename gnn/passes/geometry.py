"""What edges are to a network, on a tape: directions, envelopes and radial functions."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gnn.operators.edge_geometry import Edges, Radial
from gnn.passes.tape import Tape, Value

Ends = tuple[NDArray[np.int64], NDArray[np.int64]]


class EdgeGeometry(NamedTuple):
    """Lengths (E,), directions (E, 3), envelopes (E, 1) and radial basis (E, n_radial) of edges."""

    lengths: NDArray
    directions: Value
    fade: Value
    basis: Value


def edge_geometry(tape: Tape, positions: Value, ends: Ends, radial: Radial) -> EdgeGeometry:
    """Return the geometry of edges between positions (N, 3)."""
    edges = Edges(positions.x, ends, radial)
    lengths, *arrays = edges.values()
    found = EdgeGeometry(lengths, *(Value(array, learned=False) for array in arrays))

    def backward() -> None:
        given = (np.ascontiguousarray(value.taken()) for value in found[1:])
        positions.add(edges.gradients(*given))

    def push() -> None:
        for value, change in zip(found[1:], edges.changes(positions.moved()), strict=True):
            value.move(change)

    tape.note(backward)
    tape.note_changes(push)
    return found
