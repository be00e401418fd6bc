"""What AMP-BMS computes of atoms beside networks, on a tape: response, multipoles, fields."""

import numpy as np
from numpy.typing import NDArray

from gnn.data.batching import Batch
from gnn.passes.fields import raised_places
from gnn.passes.tape import Tape, Value
from gnn.published import _atom_loops as loops
from gnn.published.units import COULOMB

#: The network's charges are in units of 1 / this many e.
CHARGE_UNIT = COULOMB**0.5


def induced(tape: Tape, state: Value, sums: Value, raw: Value) -> tuple[Value, Value]:
    """Return states (N, 10, C) with one more channel, of what is induced, and C6 factors (N,).

    These are the first of the responses, softplus of `raw` (N, 3). The channel holds sums (N, 10)
    times the other two, for dipoles and for quadrupoles.
    """
    (n, components, channels), dtype = state.x.shape, state.x.dtype
    response, slopes = np.empty((2, n, 3), dtype)
    found = Value(np.empty((n, components, channels + 1), dtype))
    loops.induce(raw.x, sums.x, state.x, response, slopes, found.x)
    factors = Value(np.ascontiguousarray(response[:, 0]))

    def backward() -> None:
        by_state, by_sums, by_raw = (np.empty_like(value.x) for value in (state, sums, raw))
        given = found.taken(), factors.taken()
        loops.induce_gradients(sums.x, response, slopes, *given, by_state, by_sums, by_raw)
        state.add(by_state)
        sums.add(by_sums)
        raw.add(by_raw)

    tape.note(backward)
    return found, factors


def moments_of(tape: Tape, raw: Value, state: Value, batch: Batch) -> tuple[Value, NDArray]:
    """Return packed moments (N, 10) in e Å^k, and quadrupoles as matrices (N, 3, 3).

    Charges are `raw` (N, 1), all of a system shifted alike so that they sum to its own; dipoles
    and quadrupoles are the first and the last channel of the state.
    """
    systems, dtype, n = batch.batch.numpy(), raw.x.dtype, len(raw.x)
    atoms = np.bincount(systems, minlength=batch.n_systems)
    unit = dtype.type(1 / CHARGE_UNIT)

    def mean(values: NDArray) -> NDArray:
        sums = np.zeros(len(atoms))
        loops.sums_of_systems(values, systems, sums)
        return (sums / atoms).astype(dtype)

    share = (batch.charge.numpy() / atoms).astype(dtype)
    found, full = Value(np.empty((n, 10), dtype)), np.empty((n, 3, 3), dtype)
    loops.moments(raw.x, state.x, systems, mean(raw.x), share, unit, found.x, full)

    def backward() -> None:
        by_raw, by_state, by_moments = np.empty_like(raw.x), np.zeros_like(state.x), found.taken()
        average = mean(by_moments)
        loops.moments_gradients(by_moments, systems, average, unit, by_raw, by_state)
        raw.add(by_raw)
        state.add(by_state)

    tape.note(backward)
    return found, full


def add_energies(
    tape: Tape, value: Value, systems: NDArray[np.int64], scale: float, energy: NDArray[np.float64]
) -> None:
    """Add to energies (B,) the rows of values, times a factor, each to that of its system."""
    rows = value.x if value.x.ndim == 2 else value.x.reshape(-1, 1)
    loops.add_rows(rows, systems, scale, energy)
    tape.note(lambda: value.add(np.full_like(value.x, scale)))


# --- fields that are given ------------------------------------------------------------------------


class GivenField:
    """Energies (B,) in eV of moments (N, 10) in the uniform and the external field of a batch.

    An operator on moments, positions (N, 3), uniform fields (B, 3) and external fields (N, n).
    The external field is continued from the given positions by its Taylor polynomial.

    Parameters
    ----------
    systems : ndarray of int64
        System of each atom.
    """

    def __init__(self, systems: NDArray[np.int64]):
        self._systems = systems

    def values(self, *inputs: NDArray) -> NDArray[np.float64]:
        """Return the energies."""
        energies = np.zeros(len(inputs[2]))
        loops.given_energies(*inputs, self._systems, energies)
        return energies

    def gradients(self, weights: NDArray, *inputs: NDArray) -> list[NDArray]:
        """Return the gradients by all inputs."""
        found = [np.zeros_like(array) for array in inputs]
        loops.given_gradients(
            weights.astype(inputs[0].dtype), *inputs, self._systems, raised_places(10), *found
        )
        return found
