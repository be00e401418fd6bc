"""What AMP-BMS computes of atoms beside networks, on a tape: response, multipoles, fields."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gnn.data.batching import Batch
from gnn.passes.tape import Tape, Value
from gnn.published.edge_geometry import Edges
from gnn.published.units import COULOMB
from multipoles import indexing

#: The network's charges are in units of 1 / this many e.
CHARGE_UNIT = COULOMB**0.5
# beyond this, as torch has it, softplus is its argument
_LINEAR = 20.0
_FULL = np.array([0, 1, 2, 1, 3, 4, 2, 4, 5])
_HALVES = np.array([1, 0.5, 0.5, 0.5, 1, 0.5, 0.5, 0.5, 1])
_ORDERS = np.array([0, 1, 1, 1, 2, 2, 2, 2, 2, 2])


def edges_of(tape: Tape, positions: Value, edges: Edges) -> tuple[Value, Value, Value]:
    """Return directions (E, 3), envelopes (E, 1) and basis (E, n_radial) of edges."""
    directions, fade, basis = (Value(array) for array in edges.values())

    def backward() -> None:
        given = (np.ascontiguousarray(value.taken()) for value in (directions, fade, basis))
        positions.add(edges.gradients(*given))

    tape.note(backward)
    return directions, fade, basis


def added(tape: Tape, one: Value, two: Value) -> Value:
    """Return the sum of two values."""
    found = Value(one.x + two.x)

    def backward() -> None:
        if found.gradient is None:
            return
        if one.live:
            one.add(found.gradient.copy())
        two.add(found.gradient)

    tape.note(backward)
    return found


def softplus(tape: Tape, value: Value) -> Value:
    """Return log(1 + exp(x))."""
    exponential = np.exp(np.minimum(value.x, _LINEAR))
    far = value.x > _LINEAR
    found = Value(np.where(far, value.x, np.log1p(exponential)))

    def backward() -> None:
        if found.gradient is not None:
            slope = np.where(far, 1, exponential / (1 + exponential))
            value.add(found.gradient * slope.astype(value.x.dtype))

    tape.note(backward)
    return found


def induced(tape: Tape, state: Value, sums: Value, response: Value) -> Value:
    """Return states (N, 10, C) with one more channel: what surroundings induce.

    These are sums (N, 10) times the responses of dipole and quadrupole, (N, 3) of which the first
    is none.
    """
    factors = response.x[:, _ORDERS]
    factors[:, 0] = 0
    found = Value(np.concatenate([state.x, (sums.x * factors)[:, :, None]], axis=2))

    def backward() -> None:
        if found.gradient is None:
            return
        state.add(found.gradient[:, :, :-1])
        by_induced = found.gradient[:, :, -1]
        sums.add(by_induced * factors)
        work = by_induced * sums.x
        by_response = np.zeros_like(response.x)
        by_response[:, 1] = work[:, 1:4].sum(1)
        by_response[:, 2] = work[:, 4:].sum(1)
        response.add(by_response)

    tape.note(backward)
    return found


def moments_of(tape: Tape, raw: Value, state: Value, batch: Batch) -> Value:
    """Return packed moments (N, 10) in e Å^k.

    Charges are `raw` (N, 1), all of a system shifted alike so that they sum to its own; dipoles
    and quadrupoles are the first and the last channel of the state.
    """
    systems, dtype = batch.batch.numpy(), raw.x.dtype
    atoms = np.bincount(systems, minlength=batch.n_systems)
    unit = dtype.type(1 / CHARGE_UNIT)

    def mean(values: NDArray) -> NDArray:
        return np.bincount(systems, values, batch.n_systems) / atoms

    charges = raw.x[:, 0] * unit
    shift = batch.charge.numpy() / atoms - mean(charges)
    found = Value(np.empty((len(systems), 10), dtype))
    found.x[:, 0] = charges + shift[systems]
    found.x[:, 1:] = (state.x[:, 1:, 0] + state.x[:, 1:, -1]) * unit

    def backward() -> None:
        by_moments = found.taken() * unit
        by_charges = by_moments[:, 0] - mean(by_moments[:, 0])[systems].astype(dtype)
        raw.add(by_charges[:, None])
        by_state = np.zeros_like(state.x)
        by_state[:, 1:, 0] = by_state[:, 1:, -1] = by_moments[:, 1:]
        state.add(by_state)

    tape.note(backward)
    return found


def add_energies(
    tape: Tape, value: Value, systems: NDArray[np.int64], scale: float, energy: NDArray[np.float64]
) -> None:
    """Add to energies (B,) the rows of values, times a factor, each to that of its system."""
    rows = value.x if value.x.ndim == 1 else value.x.sum(1)
    energy += scale * np.bincount(systems, rows, len(energy))
    tape.note(lambda: value.add(np.full_like(value.x, scale)))


def column(tape: Tape, value: Value, k: int) -> Value:
    """Return a column (N,) of a value."""
    found = Value(np.ascontiguousarray(value.x[:, k]), value.live)

    def backward() -> None:
        if found.gradient is None or not value.live:
            return
        if value.gradient is None:
            value.gradient = np.zeros_like(value.x)
        value.gradient[:, k] += found.gradient

    tape.note(backward)
    return found


# --- fields that are given ------------------------------------------------------------------------


@lru_cache
def _raised() -> NDArray[np.int64]:
    """Return the place of beta + e_i for each component beta up to order two, (10, 3)."""
    indices = indexing.multi_indices(2)
    return np.array([[indexing.component_index(*(b + e)) for e in np.eye(3, dtype=int)]
                     for b in indices])  # fmt: skip


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

    def values(
        self, moments: NDArray, positions: NDArray, uniform: NDArray, external: NDArray
    ) -> NDArray[np.float64]:
        """Return the energies."""
        self._dipoles = moments[:, :1] * positions + moments[:, 1:4]
        energies = -(self._dipoles * uniform[self._systems]).sum(1)
        known = min(external.shape[1], 10)
        energies += (moments[:, :known] * external[:, :known]).sum(1)
        return np.bincount(self._systems, energies, len(uniform)).astype(np.float64)

    def gradients(
        self,
        weights: NDArray,
        moments: NDArray,
        positions: NDArray,
        uniform: NDArray,
        external: NDArray,
    ) -> tuple[NDArray, ...]:
        """Return the gradients by all inputs."""
        scale = weights.astype(moments.dtype)[self._systems][:, None]
        moments = moments * scale
        known = external.shape[1]
        full = np.zeros((len(moments), 20), moments.dtype)
        full[:, :known] = external
        by_positions = (moments[:, :, None] * full[:, _raised()]).sum(1)
        by_external = np.zeros_like(external)
        by_external[:, :10] = moments[:, :known]
        by_moments = full[:, :10] * scale
        by_positions -= moments[:, :1] * uniform[self._systems]
        field = uniform[self._systems] * scale
        by_moments[:, 0] -= (positions * field).sum(1)
        by_moments[:, 1:4] -= field
        by_uniform = np.zeros_like(uniform)
        np.subtract.at(by_uniform, self._systems, self._dipoles * scale)
        return by_moments, by_positions, by_uniform, by_external


def full_quadrupoles(packed: NDArray) -> NDArray:
    """Return tensors (N, 3, 3) of packed components (N, 6)."""
    halves = _HALVES.astype(packed.dtype)
    full: NDArray = (packed[:, _FULL] * halves).reshape(-1, 3, 3)
    return full
