"""Loops over nodes: multipoles that fields induce, contractions of states and fields, charges.

States are (N, n_comp, C), fields (N, F, 10), packed. `lifted` (N, F, 9) holds of each field what it
induces: gradient, and traceless second derivatives as moments.
"""

from multipoles.compiled.jit import bare


@bare
def lift(fields, detrace, lifted):
    """Write gradients, and traceless second derivatives as moments."""
    for n in range(fields.shape[0]):
        for f in range(fields.shape[1]):
            for k in range(3):
                lifted[n, f, k] = fields[n, f, 1 + k]
            for k in range(6):
                total = fields[n, f, 4] * 0
                for j in range(6):
                    total += fields[n, f, 4 + j] * detrace[j, k]
                lifted[n, f, 3 + k] = total


@bare
def lift_gradient(by_lifted, detrace, by_fields):
    """Add the gradient by the fields."""
    for n in range(by_fields.shape[0]):
        for f in range(by_fields.shape[1]):
            for k in range(3):
                by_fields[n, f, 1 + k] += by_lifted[n, f, k]
            for j in range(6):
                for k in range(6):
                    by_fields[n, f, 4 + j] += by_lifted[n, f, 3 + k] * detrace[j, k]


@bare
def induce(lifted, factors, order, state):
    """Add to states what fields induce: `factors` are (N, order, F, C)."""
    for n in range(lifted.shape[0]):
        for f in range(lifted.shape[1]):
            for k in range(3 if order == 1 else 9):
                amount, rank = lifted[n, f, k], 0 if k < 3 else 1
                for c in range(state.shape[2]):
                    state[n, 1 + k, c] += amount * factors[n, rank, f, c]


@bare
def induce_gradients(lifted, factors, order, by_state, by_lifted, by_factors):
    """Add the gradients by `lifted` and `factors` of a sum of states times weights."""
    for n in range(lifted.shape[0]):
        for f in range(lifted.shape[1]):
            for k in range(3 if order == 1 else 9):
                amount, rank, total = lifted[n, f, k], 0 if k < 3 else 1, lifted[n, f, k] * 0
                for c in range(by_state.shape[2]):
                    total += by_state[n, 1 + k, c] * factors[n, rank, f, c]
                    by_factors[n, rank, f, c] += by_state[n, 1 + k, c] * amount
                by_lifted[n, f, k] += total


@bare
def own_terms(one, two, weights, ranks, scale, out):
    """Add products of the tensors of two states, order by order, (N, order C), times a factor.

    `weights` (n_comp,) are one over multiplicities.
    """
    channels = one.shape[2]
    for n in range(one.shape[0]):
        for k in range(1, one.shape[1]):
            at, weight = (ranks[k] - 1) * channels, scale * weights[k]
            for c in range(channels):
                out[n, at + c] += weight * one[n, k, c] * two[n, k, c]


@bare
def own_terms_gradient(other, weights, ranks, scale, by_out, by_state):
    """Add the gradient by a state that `own_terms` multiplied by another."""
    channels = other.shape[2]
    for n in range(other.shape[0]):
        for k in range(1, other.shape[1]):
            at, weight = (ranks[k] - 1) * channels, scale * weights[k]
            for c in range(channels):
                by_state[n, k, c] += weight * by_out[n, at + c] * other[n, k, c]


@bare
def work_terms(state, fields, potential, order, first, out):
    """Write potentials and squared gradients of fields, and add their contractions with states.

    Columns from `first` on: of all fields the potential, then the square, then contractions for
    each order and field. `potential` (N, F) stands in for the fields' own.
    """
    count, channels = fields.shape[1], state.shape[2]
    for n in range(state.shape[0]):
        for f in range(count):
            out[n, first + f] = potential[n, f]
            gx, gy, gz = fields[n, f, 1], fields[n, f, 2], fields[n, f, 3]
            out[n, first + count + f] = gx * gx + gy * gy + gz * gz
            for k in range(1 if order == 0 else (4 if order == 1 else 10)):
                amount = potential[n, f] if k == 0 else fields[n, f, k]
                rank = 0 if k == 0 else (1 if k < 4 else 2)
                at = first + 2 * count + (rank * count + f) * channels
                for c in range(channels):
                    out[n, at + c] += amount * state[n, k, c]


@bare
def work_terms_gradients(
    state, fields, potential, order, first, by_out, by_state, by_fields, by_potential
):
    """Add the gradients by states, fields and potentials of what `work_terms` makes."""
    count, channels = fields.shape[1], state.shape[2]
    for n in range(state.shape[0]):
        for f in range(count):
            by_potential[n, f] += by_out[n, first + f]
            for k in range(1, 4):
                by_fields[n, f, k] += 2 * by_out[n, first + count + f] * fields[n, f, k]
            for k in range(1 if order == 0 else (4 if order == 1 else 10)):
                amount = potential[n, f] if k == 0 else fields[n, f, k]
                rank = 0 if k == 0 else (1 if k < 4 else 2)
                at, total = first + 2 * count + (rank * count + f) * channels, amount * 0
                for c in range(channels):
                    total += by_out[n, at + c] * state[n, k, c]
                    by_state[n, k, c] += by_out[n, at + c] * amount
                if k == 0:
                    by_potential[n, f] += total
                else:
                    by_fields[n, f, k] += total


@bare
def moments(state, weights, scale, order, charges, out):
    """Write packed moments (N, 10): charges, and states times weights (N, order, C) summed."""
    for n in range(state.shape[0]):
        out[n, 0] = charges[n]
        for k in range(1, 10):
            out[n, k] = 0
        for k in range(1, 1 if order == 0 else (4 if order == 1 else 10)):
            rank, total = 0 if k < 4 else 1, scale * 0
            for c in range(state.shape[2]):
                total += state[n, k, c] * weights[n, rank, c]
            out[n, k] = scale * total


@bare
def moments_gradients(state, weights, scale, order, by_out, by_state, by_weights):
    """Add the gradients by states and weights of a sum of moments times `by_out`."""
    for n in range(state.shape[0]):
        for k in range(1, 1 if order == 0 else (4 if order == 1 else 10)):
            rank, g = 0 if k < 4 else 1, scale * by_out[n, k]
            for c in range(state.shape[2]):
                by_state[n, k, c] += g * weights[n, rank, c]
                by_weights[n, rank, c] += g * state[n, k, c]


@bare
def moved(flow, senders, receivers, charges):
    """Add to charges (N,) what flows (E, 1) along edges, and take it off where it came from."""
    for e in range(len(senders)):
        charges[receivers[e]] += flow[e, 0]
        charges[senders[e]] -= flow[e, 0]


@bare
def potential_steps(potential, senders, receivers, fade, step, relative):
    """Write differences of potentials (N,) of edges, and add their faded sums at receivers."""
    for e in range(len(senders)):
        step[e, 0] = potential[receivers[e]] - potential[senders[e]]
        relative[receivers[e]] += step[e, 0] * fade[e, 0]


@bare
def potential_steps_gradients(
    step, senders, receivers, fade, by_step, by_relative, by_potential, by_fade
):
    """Add the gradients by potentials and envelopes of what `potential_steps` writes."""
    for e in range(len(senders)):
        i, j = senders[e], receivers[e]
        total = by_step[e, 0] + by_relative[j] * fade[e, 0]
        by_fade[e, 0] += by_relative[j] * step[e, 0]
        by_potential[j] += total
        by_potential[i] -= total


@bare
def uneven(charges, senders, receivers):
    """Return at how many edges charges differ."""
    count = 0
    for e in range(len(senders)):
        count += charges[senders[e]] != charges[receivers[e]]
    return count


@bare
def diffuse(charges, conductance, senders, receivers, steps):
    """Fill rows 1 … of `charges` (steps + 1, N) by diffusion from row 0 along edges."""
    for s in range(steps):
        for n in range(charges.shape[1]):
            charges[s + 1, n] = charges[s, n]
        for e in range(len(senders)):
            i, j = senders[e], receivers[e]
            charges[s + 1, j] += conductance[e] * (charges[s, i] - charges[s, j])


@bare
def diffuse_gradient(charges, conductance, senders, receivers, steps, by_charges, by_conductance):
    """Take the gradient by the last charges (2, N; row 0) back, and add that by conductances."""
    now, before = 0, 1
    for s in range(steps - 1, -1, -1):
        for n in range(charges.shape[1]):
            by_charges[before, n] = by_charges[now, n]
        for e in range(len(senders)):
            i, j = senders[e], receivers[e]
            g = by_charges[now, j]
            by_conductance[e] += g * (charges[s, i] - charges[s, j])
            by_charges[before, i] += g * conductance[e]
            by_charges[before, j] -= g * conductance[e]
        now, before = before, now
    return now


@bare
def conductances(fade, factors, senders, receivers, degree, conductance):
    """Write w / (1 + d_s + d_t) of edges, w being envelope times a factor of both ends."""
    for e in range(len(senders)):
        degree[receivers[e]] += fade[e, 0] * factors[senders[e]] * factors[receivers[e]]
    for e in range(len(senders)):
        w = fade[e, 0] * factors[senders[e]] * factors[receivers[e]]
        conductance[e] = w / (1 + degree[senders[e]] + degree[receivers[e]])


@bare
def conductances_gradient(
    fade, factors, senders, receivers, degree, by_conductance, by_degree, by_fade
):
    """Add the gradient by the envelopes."""
    for e in range(len(senders)):
        i, j = senders[e], receivers[e]
        w, room = fade[e, 0] * factors[i] * factors[j], 1 + degree[i] + degree[j]
        share = by_conductance[e] * w / (room * room)
        by_degree[i] -= share
        by_degree[j] -= share
    for e in range(len(senders)):
        i, j = senders[e], receivers[e]
        room = 1 + degree[i] + degree[j]
        total = by_conductance[e] / room + by_degree[j]
        by_fade[e, 0] += total * factors[i] * factors[j]


@bare
def conductances_change(
    dfade, factors, senders, receivers, degree, conductance, ddegree, dconductance
):
    """Write how `conductances` change with the envelopes (E, 1)."""
    for e in range(len(senders)):
        ddegree[receivers[e]] += dfade[e, 0] * factors[senders[e]] * factors[receivers[e]]
    for e in range(len(senders)):
        i, j = senders[e], receivers[e]
        w, room = dfade[e, 0] * factors[i] * factors[j], 1 + degree[i] + degree[j]
        dconductance[e] = (w - conductance[e] * (ddegree[i] + ddegree[j])) / room


@bare
def diffuse_change(charges, conductance, dconductance, senders, receivers, steps, change):
    """Fill rows 1 … of `change` (steps + 1, N): how what `diffuse` writes changes."""
    for s in range(steps):
        for n in range(charges.shape[1]):
            change[s + 1, n] = change[s, n]
        for e in range(len(senders)):
            i, j = senders[e], receivers[e]
            change[s + 1, j] += conductance[e] * (change[s, i] - change[s, j])
            change[s + 1, j] += dconductance[e] * (charges[s, i] - charges[s, j])


@bare
def along(field, vectors, raised, scale, out):
    """Add sum over i of field[n, c, beta + e_i] vectors[n, i], times a factor."""
    for n in range(out.shape[0]):
        for c in range(out.shape[1]):
            for b in range(out.shape[2]):
                for i in range(3):
                    out[n, c, b] += scale * field[n, c, raised[b, i]] * vectors[n, i]


@bare
def raise_moments(moments, vectors, raised, out):
    """Add moments[n, c, beta] vectors[n, i] at beta + e_i: sources that move are such moments."""
    for n in range(moments.shape[0]):
        for c in range(moments.shape[1]):
            for b in range(moments.shape[2]):
                for i in range(3):
                    out[n, c, raised[b, i]] += moments[n, c, b] * vectors[n, i]


@bare
def contract(weights, field, raised, scale, out):
    """Add sum over c and beta of weights[n, c, beta] field[n, c, beta + e_i], times a factor."""
    for n in range(weights.shape[0]):
        for c in range(weights.shape[1]):
            for b in range(weights.shape[2]):
                w = scale * weights[n, c, b]
                out[n, 0] += w * field[n, c, raised[b, 0]]
                out[n, 1] += w * field[n, c, raised[b, 1]]
                out[n, 2] += w * field[n, c, raised[b, 2]]
