"""Loops over atoms: responses, induced and physical multipoles, energies in given fields."""

import math

from multipoles.compiled.jit import bare, bare_inline

# beyond this, as torch has it, softplus is its argument
_LINEAR = 20.0


@bare_inline
def rank_of(k):
    """Return the order of a packed component."""
    return 0 if k == 0 else (1 if k < 4 else 2)


@bare
def induce(raw, sums, state, response, slopes, found):
    """Write softplus of `raw` (N, 3) and its slopes, and states with one more channel.

    That holds sums (N, 10) times the second response for dipoles and the third for quadrupoles.
    """
    for i in range(len(raw)):
        for k in range(3):
            x = float(raw[i, k])
            e = math.exp(min(x, _LINEAR))
            response[i, k] = x if x > _LINEAR else math.log1p(e)
            slopes[i, k] = 1.0 if x > _LINEAR else e / (1.0 + e)
        last = state.shape[2]
        for k in range(10):
            for c in range(last):
                found[i, k, c] = state[i, k, c]
            found[i, k, last] = sums[i, k] * (response[i, rank_of(k)] if k > 0 else 0)


@bare
def induce_gradients(sums, response, slopes, by_found, by_first, by_state, by_sums, by_raw):
    """Write the gradients of what `induce` writes, `by_first` (N,) being that of response 0."""
    for i in range(len(sums)):
        by_raw[i, 0] = by_first[i] * slopes[i, 0]
        by_raw[i, 1] = 0
        by_raw[i, 2] = 0
        last = by_state.shape[2]
        for k in range(10):
            for c in range(last):
                by_state[i, k, c] = by_found[i, k, c]
            rank = rank_of(k)
            by_sums[i, k] = by_found[i, k, last] * response[i, rank] if k > 0 else 0
            if k > 0:
                by_raw[i, rank] += by_found[i, k, last] * sums[i, k] * slopes[i, rank]


@bare
def moments(raw, state, systems, mean, share, unit, found, full):
    """Write packed moments (N, 10), and quadrupoles as matrices (N, 3, 3).

    Charges are `raw` less `mean` (B,), times `unit`, and `share` (B,): so huge ones that are alike
    cancel. The others are the sum of the first and the last channel of states, times `unit`.
    """
    last = state.shape[2] - 1
    for i in range(len(raw)):
        found[i, 0] = (raw[i, 0] - mean[systems[i]]) * unit + share[systems[i]]
        for k in range(1, 10):
            found[i, k] = (state[i, k, 0] + state[i, k, last]) * unit
        at = 4
        for a in range(3):
            full[i, a, a] = found[i, at]
            for b in range(a + 1, 3):
                full[i, a, b] = found[i, at + b - a] / 2
                full[i, b, a] = full[i, a, b]
            at += 3 - a


@bare
def sums_of_systems(values, systems, found):
    """Add the first column of values to sums (B,) of their systems."""
    for i in range(len(values)):
        found[systems[i]] += values[i, 0]


@bare
def moments_gradients(by_moments, systems, mean, unit, by_raw, by_state):
    """Add the gradients by `raw` and states, of which `mean` (B,) is taken off the former."""
    last = by_state.shape[2] - 1
    for i in range(len(by_moments)):
        by_raw[i, 0] = (by_moments[i, 0] - mean[systems[i]]) * unit
        for k in range(1, 10):
            by_state[i, k, 0] = by_moments[i, k] * unit
            by_state[i, k, last] = by_moments[i, k] * unit


@bare
def add_rows(values, systems, scale, energies):
    """Add rows of values, times a factor, to energies (B,) of their systems."""
    for i in range(len(values)):
        for k in range(values.shape[1]):
            energies[systems[i]] += scale * values[i, k]


@bare
def given_energies(moments, positions, uniform, external, systems, energies):
    """Add to energies (B,) what moments have in the uniform and the external field."""
    for i in range(len(moments)):
        b, total = systems[i], 0.0
        for a in range(3):
            total -= (moments[i, 0] * positions[i, a] + moments[i, 1 + a]) * uniform[b, a]
        for k in range(min(10, external.shape[1])):
            total += moments[i, k] * external[i, k]
        energies[b] += total


@bare
def given_gradients(
    weights, moments, positions, uniform, external, systems, raised, by_moments, by_positions,
    by_uniform, by_external,
):  # fmt: skip
    """Add the gradients of the sum of weights (B,) times energies.

    `raised` (10, 3) are the places of the derivatives of each component.
    """
    for i in range(len(moments)):
        b = systems[i]
        w = weights[b]
        for a in range(3):
            by_moments[i, 0] -= w * positions[i, a] * uniform[b, a]
            by_moments[i, 1 + a] -= w * uniform[b, a]
            by_positions[i, a] -= w * moments[i, 0] * uniform[b, a]
            by_uniform[b, a] -= w * (moments[i, 0] * positions[i, a] + moments[i, 1 + a])
        for k in range(min(10, external.shape[1])):
            by_moments[i, k] += w * external[i, k]
            by_external[i, k] += w * moments[i, k]
            for a in range(3):
                if raised[k, a] < external.shape[1]:
                    by_positions[i, a] += w * moments[i, k] * external[i, raised[k, a]]
