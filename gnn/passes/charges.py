"""Charges on a tape: those given spread along edges, a network moves charge or shares it."""

import numpy as np
from numpy.typing import NDArray

from gnn.layers.diffusion import DIFFUSION_STEPS
from gnn.passes import _node_loops as loops
from gnn.passes.geometry import Ends
from gnn.passes.tape import Tape, Value, zeros


def diffused(tape: Tape, given: NDArray, fade: Value, factors: NDArray, ends: Ends) -> Value:
    """Return charges (N,) after diffusion along edges, see `gnn.layers.diffusion.diffused`.

    `factors` (N,) of both ends multiply the envelopes.
    """
    if not loops.uneven(given, *ends):  # the same everywhere stays so
        return Value(given, live=False, learned=False)
    steps, dtype = DIFFUSION_STEPS, given.dtype
    degree, conductance = np.zeros(len(given), dtype), np.empty(len(ends[0]), dtype)
    loops.conductances(fade.x, factors, *ends, degree, conductance)
    charges = np.empty((steps + 1, len(given)), dtype)
    charges[0] = given
    loops.diffuse(charges, conductance, *ends, steps)
    value = Value(charges[-1], learned=False)

    def backward() -> None:
        if value.gradient is None:
            return
        by_charges = np.zeros((2, len(given)), dtype)
        by_charges[0] = value.gradient
        by_conductance, by_fade = (
            zeros(conductance),
            zeros(fade.x),
        )
        loops.diffuse_gradient(charges, conductance, *ends, steps, by_charges, by_conductance)
        by_degree = zeros(degree)
        given_to = fade.x, factors, *ends, degree, by_conductance, by_degree, by_fade
        loops.conductances_gradient(*given_to)
        fade.add(by_fade)

    def push() -> None:
        d_degree, d_conductance = zeros(degree), np.empty_like(conductance)
        changes = zeros(charges)
        loops.conductances_change(
            fade.moved(), factors, *ends, degree, conductance, d_degree, d_conductance
        )
        loops.diffuse_change(charges, conductance, d_conductance, *ends, steps, changes)
        value.move(changes[-1])

    tape.note(backward)
    tape.note_changes(push)
    return value


def moved(tape: Tape, start: Value, flow: Value, ends: Ends) -> tuple[Value, NDArray]:
    """Return charges (N,) after flows (E, 1) along edges, and what moved."""
    change = zeros(start.x)
    loops.moved(flow.x, *ends, change)
    value = Value(start.x + change)

    def backward() -> None:
        if (g := value.gradient) is None:
            return
        senders, receivers = ends
        flow.add((g[receivers] - g[senders])[:, None])
        if start.live:
            start.add(g.copy())

    def push() -> None:
        moving = start.moved().copy()
        loops.moved(flow.moved(), *ends, moving)
        value.move(moving)

    def pull() -> None:
        senders, receivers = ends
        s = value.taken_second()
        flow.add_second((s[receivers] - s[senders])[:, None])

    tape.note(backward)
    tape.note_changes(push, pull)
    return value, change


def shared(tape: Tape, outputs: Value, total: NDArray, batch: NDArray[np.int64]) -> Value:
    """Return charges (N,) that add up to each system's, see `gnn.layers.charges.SharedCharges`.

    `outputs` (N, 2) are charges, and what a positive weight is made of.
    """
    raw, before = outputs.x[:, 0], outputs.x[:, 1]
    share = np.logaddexp(before, 0).astype(raw.dtype)
    systems = len(total)

    def sums(values: NDArray) -> NDArray:
        return np.bincount(batch, values, systems).astype(values.dtype)

    missing, shares = total - sums(raw), sums(share)
    rate = (missing / shares)[batch]
    value = Value(raw + share * rate)

    def backward() -> None:
        if (g := value.gradient) is None:
            return
        weighted = (sums(g * share) / shares)[batch]
        by_share = rate * (g - weighted)
        slope = 1 / (1 + np.exp(-before))
        outputs.add(np.stack([g - weighted, by_share * slope], axis=1))

    tape.note(backward)
    if tape.learns:
        _note_changing_shares(tape, value, outputs, total, batch)
    return value


def _note_changing_shares(
    tape: Tape, value: Value, outputs: Value, total: NDArray, batch: NDArray[np.int64]
) -> None:
    """Note how charges that add up to each system's change."""
    raw, before = outputs.x[:, 0], outputs.x[:, 1]
    share = np.logaddexp(before, 0).astype(raw.dtype)
    slope = 1 / (1 + np.exp(-before))

    def sums(values: NDArray) -> NDArray:
        return np.bincount(batch, values, len(total)).astype(values.dtype)

    shares = sums(share)
    rate = (total - sums(raw)) / shares

    def changes() -> tuple[NDArray, NDArray, NDArray, NDArray]:
        d_raw, d_before = outputs.moved().T
        d_share = slope * d_before
        d_shares = sums(d_share)
        return d_raw, d_share, d_shares, (-sums(d_raw) - rate * d_shares) / shares

    def push() -> None:
        d_raw, d_share, _, d_rate = changes()
        value.move(d_raw + d_share * rate[batch] + share * d_rate[batch])

    def pull() -> None:
        _, d_share, d_shares, d_rate = changes()
        s, g = value.taken_second(), value.taken()
        # gradients by each system's rate and its change, over the sum of shares as these are
        by_d_rate = sums(g * share) / shares
        by_rate = (sums(s * share + g * d_share) - by_d_rate * d_shares) / shares
        back = by_rate * rate + by_d_rate * d_rate
        by_share = s * rate[batch] + g * d_rate[batch] - back[batch]
        by_d_share = g * rate[batch] - (by_d_rate * rate)[batch]
        bend = (1 - slope) * d_share
        by_before = by_share * slope + by_d_share * bend
        outputs.add_second(np.stack([s - by_rate[batch], by_before], axis=1))

    tape.note_changes(push, pull)
