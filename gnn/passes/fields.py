"""Fields at the atoms on a tape: of surrounding particles, given ones, and of the atoms."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gnn.layers.surroundings import FIELD_ORDER
from gnn.operators.evaluators import Direct, Evaluator
from gnn.passes import _charge_loops as charges
from gnn.passes import _node_loops as loops
from gnn.passes.bounds import Beyond
from gnn.passes.tape import Tape, Value, zeros
from gnn.units import COULOMB
from multipoles import indexing
from multipoles.compiled.jit import add_up, equal_ranges, run_ranges
from multipoles.compiled.simd import BYTES
from multipoles.direct_cpu import pack_sources
from multipoles.layout import aligned, systems
from multipoles.radial import Erf, Kernel

# a pair costs as much as so many pairs of point charges
_CHARGE_COST = 2.0

#: Returns how fields of one kernel are summed.
Sums = Callable[[Kernel], Evaluator]


class Leaves(NamedTuple):
    """What energies are differentiated by.

    Attributes
    ----------
    positions, mm_positions : Value
        (N, 3) and (M, 3) in Å.
    uniform_field : Value
        (B, 3) in V/Å.
    mm_moments : Value
        (M, n) in e Å^k.
    external_field : Value
        (N, n) in V/Å^k.
    """

    positions: Value
    mm_positions: Value
    uniform_field: Value
    mm_moments: Value
    external_field: Value


class Term(NamedTuple):
    """A part of the field: of which kernel, summed how, added to which field with which sign."""

    evaluator: Evaluator
    field: int
    sign: float


@lru_cache
def raised_places(count: int) -> NDArray[np.int64]:
    """Return the components of beta + e_i for the first `count` beta, (count, 3)."""
    return np.ascontiguousarray(indexing.sum_index(indexing.order_of(count), 1)[:, 1:4])


def outer_fields(
    tape: Tape, leaves: Leaves, terms: Sequence[Term], count: int, batch: NDArray[np.int64]
) -> Value:
    """Return the fields (N, count, 10) of the surroundings, the given ones in the first.

    Energies are differentiated by all leaves that are live.
    """
    x, s, m = leaves.positions.x, leaves.mm_positions.x, leaves.mm_moments.x
    sources = (m * m.dtype.type(COULOMB))[:, None]
    order = FIELD_ORDER + int(tape.records and leaves.positions.live)
    value = Value(np.zeros((len(x), count, 10), x.dtype), learned=False)
    parts = []
    for evaluator, field, sign in terms:
        part = evaluator.field(x, s, sources, order)
        parts.append(part)
        value.x[:, field] += sign * part[:, 0, :10]
    _add_given(leaves, batch, value.x)

    def backward() -> None:
        if (g := value.gradient) is None:
            return
        by_x, by_s, by_m = (zeros(leaf.x) for leaf in (leaves[0], leaves[1], leaves[3]))
        for (evaluator, field, sign), part in zip(terms, parts, strict=True):
            weights = np.ascontiguousarray(g[:, field : field + 1])
            one = x.dtype.type(sign)
            if leaves.positions.live:
                loops.contract(weights, part, raised_places(10), one, by_x)
            if leaves.mm_positions.live or leaves.mm_moments.live:
                reach = indexing.order_of(m.shape[1]) + int(leaves.mm_positions.live)
                adjoint = evaluator.transposed.field(s, x, weights, reach)
                by_m += (sign * COULOMB) * adjoint[:, 0, : m.shape[1]]
                if leaves.mm_positions.live:
                    loops.contract(sources, adjoint, raised_places(m.shape[1]), one, by_s)
        _add_given_gradients(leaves, batch, g[:, 0], by_x)
        for leaf, gradient in zip(
            (leaves[0], leaves[1], leaves[3]), (by_x, by_s, by_m), strict=True
        ):
            if leaf.live:
                leaf.add(gradient)

    def push() -> None:
        value.move(_outer_change(leaves, terms, parts, value.x.shape))
        _add_given_change(leaves, batch, value.moved())

    tape.note(backward)
    tape.note_changes(push)
    return value


def _outer_change(
    leaves: Leaves, terms: Sequence[Term], parts: Sequence[NDArray], shape: tuple[int, ...]
) -> NDArray:
    """Return how fields of given parts change when atoms and particles move."""
    x, s, m = leaves.positions.x, leaves.mm_positions.x, leaves.mm_moments.x
    found, along = np.zeros(shape, x.dtype), leaves.positions.moved()
    moving = leaves.mm_positions.change
    sources = (m * m.dtype.type(COULOMB))[:, None]
    raised = None if moving is None else raised_moments(sources, moving)
    for (evaluator, field, sign), part in zip(terms, parts, strict=True):
        change = np.zeros((len(x), 1, 10), x.dtype)
        loops.along(part, along, raised_places(10), x.dtype.type(1.0), change)
        if raised is not None:
            change += evaluator.field(x, s, raised, FIELD_ORDER)
        found[:, field] += sign * change[:, 0]
    return found


def raised_moments(moments: NDArray, along: NDArray) -> NDArray:
    """Return the moments, one order higher, that sources (M, c, n) are more when they move."""
    n = moments.shape[2]
    size = indexing.n_components(indexing.order_of(n) + 1)
    found = np.zeros((*moments.shape[:2], size), moments.dtype)
    loops.raise_moments(moments, along, raised_places(n), found)
    return found


def _add_given_change(leaves: Leaves, batch: NDArray[np.int64], fields: NDArray) -> None:
    """Add how uniform and external field change with the field, and with the positions."""
    x, along, external = leaves.positions.x, leaves.positions.moved(), leaves.external_field.x
    uniform, change = leaves.uniform_field.x, leaves.uniform_field.change
    if uniform.any():
        fields[:, 0, 0] -= (along * uniform[batch]).sum(1)
    if change is not None:
        own = change[batch]
        fields[:, 0, 0] -= (x * own).sum(1)
        fields[:, 0, 1:4] -= own
    if known := _continued(external.shape[1]):
        found, field = np.zeros((len(x), 1, known), x.dtype), np.ascontiguousarray(external)
        loops.along(field[:, None], along, raised_places(known), x.dtype.type(1.0), found)
        fields[:, 0, :known] += found[:, 0]


def _continued(size: int) -> int:
    """Return of how many components an external field of `size` knows the derivatives."""
    if size <= 1:
        return 0
    known: int = indexing.n_components(min(indexing.order_of(size) - 1, FIELD_ORDER))
    return known


class Gaussians(NamedTuple):
    """The fields of surrounding charges that act as Gaussians, of one or of several widths.

    Attributes
    ----------
    kernels : sequence of Erf
        The sharp one, and wider ones: of these, what they add to it.
    reach : float
        Å beyond which all are one.
    walls : ndarray or None
        (N,) distances of charges at which atoms are beyond their walls.
    """

    kernels: Sequence[Erf]
    reach: float
    walls: NDArray | None


def charge_fields(
    tape: Tape, leaves: Leaves, gaussians: Gaussians, batch: NDArray, mm_batch: NDArray
) -> Value:
    """Return what `outer_fields` does for charges, summed directly, in fewer and faster loops.

    Raises
    ------
    Beyond
        If a charge is within the wall of an atom.
    """
    x, s, m = leaves.positions.x, leaves.mm_positions.x, leaves.mm_moments.x
    lanes = BYTES // x.itemsize
    slots, ranges = systems(batch, mm_batch, lanes)
    one = np.ones(1, x.dtype)
    packed = pack_sources(s, (m * m.dtype.type(COULOMB))[:, None], one, slots)
    alphas = np.array([kernel.parameters for kernel in gaussians.kernels])
    count, pairs = len(alphas), float((ranges[:, 1] - ranges[:, 0]).sum())
    walls = np.zeros(len(x)) if gaussians.walls is None else gaussians.walls
    reach = max(gaussians.reach, float(walls.max(initial=0.0)))
    given = packed, ranges, alphas, reach * reach
    value = Value(np.empty((len(x), count, 10), x.dtype), learned=False)

    def part(begin: int, end: int) -> bool:
        scratch = _scratch(count, x.dtype)
        close: bool = charges.fields(begin, end, x, *given, walls * walls, scratch, value.x)
        return close

    if any(run_ranges(part, equal_ranges(ranges[:, 1] - ranges[:, 0], _CHARGE_COST * pairs))):
        raise Beyond
    _add_given(leaves, batch, value.x)

    def backward() -> None:
        if (g := value.gradient) is None:
            return
        by_x = np.empty_like(x)

        def of_part(begin: int, end: int) -> NDArray:
            by_packed = zeros(packed)
            scratch = _scratch(count, x.dtype)
            charges.gradients(begin, end, x, g, *given, scratch, by_x, by_packed)
            return by_packed

        work = ranges[:, 1] - ranges[:, 0]
        by_packed = add_up(run_ranges(of_part, equal_ranges(work, 2 * _CHARGE_COST * pairs)))
        rows = np.empty((len(s), 4), x.dtype)
        charges.unpack(by_packed, slots, rows)
        _add_given_gradients(leaves, batch, g[:, 0], by_x)
        if leaves.positions.live:
            leaves.positions.add(by_x)
        if leaves.mm_positions.live:
            leaves.mm_positions.add(rows[:, :3].copy())
        if leaves.mm_moments.live:
            leaves.mm_moments.add(rows[:, 3:] * x.dtype.type(COULOMB))

    def push() -> None:
        change, along = np.empty_like(value.x), leaves.positions.moved()
        moving = pack_sources(leaves.mm_positions.moved(), m[:, None], one, slots)
        scratch = _scratch(count, x.dtype)
        charges.changes(0, len(x), x, along, packed, moving, *given[1:], scratch, change)
        _add_given_change(leaves, batch, change)
        value.move(change)

    tape.note(backward)
    tape.note_changes(push)
    return value


def _scratch(count: int, dtype: np.dtype) -> tuple[NDArray, NDArray, NDArray]:
    """Return room for two chains and the sums of all fields."""
    lanes = BYTES // dtype.itemsize
    room = aligned((8 + 10 * count) * lanes, dtype)
    return room[: 4 * lanes], room[4 * lanes : 8 * lanes], room[8 * lanes :]


def _add_given(leaves: Leaves, batch: NDArray[np.int64], fields: NDArray) -> None:
    """Add uniform and external field, see `gnn.layers.surroundings.given_field`."""
    uniform, external = leaves.uniform_field.x, leaves.external_field.x
    if uniform.any():
        own = uniform[batch]
        fields[:, 0, 0] -= (leaves.positions.x * own).sum(1)
        fields[:, 0, 1:4] -= own
    known = min(external.shape[1], 10)
    fields[:, 0, :known] += external[:, :known]


def _add_given_gradients(
    leaves: Leaves, batch: NDArray[np.int64], g: NDArray, by_x: NDArray
) -> None:
    uniform, external, x = leaves.uniform_field, leaves.external_field, leaves.positions.x
    if uniform.live:
        per_atom = -(x * g[:, :1] + g[:, 1:4])
        by_field = [np.bincount(batch, per_atom[:, k], len(uniform.x)) for k in range(3)]
        uniform.add(np.stack(by_field, axis=1).astype(x.dtype))
    if uniform.x.any():
        by_x -= g[:, :1] * uniform.x[batch]
    size = external.x.shape[1]
    if size == 0:
        return
    if known := _continued(size):
        field = np.ascontiguousarray(external.x[:, None])
        weights = np.ascontiguousarray(g[:, None, :known])
        loops.contract(weights, field, raised_places(known), x.dtype.type(1.0), by_x)
    if external.live:
        by_external = zeros(external.x)
        by_external[:, : min(size, 10)] = g[:, : min(size, 10)]
        external.add(by_external)


def works(tape: Tape, moments: Value, fields: Value, index: int) -> Value:
    """Return sum_beta W_beta Phi_beta of atoms, (N,), for moments (N, 10) and one of the fields."""
    field = fields.x[:, index]
    value = Value((moments.x * field).sum(1))

    def backward() -> None:
        if value.gradient is None:
            return
        g = value.gradient[:, None]
        by_fields = zeros(fields.x)
        by_fields[:, index] = g * moments.x
        fields.add(by_fields)
        moments.add(g * field)

    def push() -> None:
        change = fields.moved()[:, index]
        value.move((moments.moved() * field + moments.x * change).sum(1))

    def pull() -> None:
        s, g = value.taken_second()[:, None], value.taken()[:, None]
        moments.add_second(s * field + g * fields.moved()[:, index])

    tape.note(backward)
    tape.note_changes(push, pull)
    return value


def internal_energies(
    tape: Tape, positions: Value, moments: Value, evaluator: Evaluator | Direct
) -> Value:
    """Return half of the work (N,) of atoms' moments (N, 10) in the field of each other.

    Gradients by it are to be the same for all atoms of a system.
    """
    x, m = positions.x, moments.x
    scaled = (m * m.dtype.type(COULOMB))[:, None]
    order = FIELD_ORDER + int(tape.records and positions.live)
    field = evaluator.field(x, x, scaled, order)
    value = Value(0.5 * (m * field[:, 0, :10]).sum(1))

    def backward() -> None:
        if value.gradient is None:
            return
        # the sum is symmetric: what a pair gives to one atom it gives to the other
        g = value.gradient[:, None]
        moments.add(g * field[:, 0, :10])
        if positions.live:
            by_x = zeros(x)
            weights = np.ascontiguousarray((g * m)[:, None])
            loops.contract(weights, field, raised_places(10), x.dtype.type(1.0), by_x)
            positions.add(by_x)

    kept: dict[str, NDArray] = {}

    def push() -> None:
        along, moved = positions.moved(), moments.moved()
        sources = raised_moments(scaled, along)
        sources[:, 0, :10] += moved * m.dtype.type(COULOMB)
        change = evaluator.field(x, x, sources, FIELD_ORDER)
        loops.along(field, along, raised_places(10), x.dtype.type(1.0), change)
        kept["change"] = change[:, 0]
        value.move(0.5 * (moved * field[:, 0, :10] + m * change[:, 0]).sum(1))

    def pull() -> None:
        s, g = value.taken_second()[:, None], value.taken()[:, None]
        moments.add_second(s * field[:, 0, :10] + g * kept["change"])

    tape.note(backward)
    tape.note_changes(push, pull)
    return value
