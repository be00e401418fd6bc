"""The far field on the GPU: the steps of `fmm.driver_cpu`, each a few launches.

Every sum is gathered by the thread that owns its place, in a fixed order: every run gives the same
bits. Expansions are (box, channel, harmonic), in units of the box's edge.
"""

import itertools
from functools import cache, cached_property
from typing import Any

import numpy as np

from fmm import accuracy, expansions_cuda, harmonics, translations
from fmm.expansions_cuda import THREADS
from fmm.lists import N_CODES
from multipoles._cuda import (
    REAL,
    SIMULATED,
    Device,
    WrittenOut,
    cuda,
    kernels,
    loader,
    storer,
    zeros,
)
from multipoles._device import Space
from multipoles.direct_cuda import blocks_for, fill

# threads that translate the boxes of a group, and how many target boxes it has
_WORKERS = 4 if SIMULATED else 256
_GROUP = 32 if SIMULATED else 64
# boxes that one thread translates together, and columns of a matrix that it reads at once
_PAIRS = 4 if SIMULATED else 16
_COLUMNS = 4
# coefficients in shared memory
_ENTRIES = 64 if SIMULATED else 4096
_GEOMETRY = np.dtype(np.float64)


def _scaled_sum(code: int, sums: Any, values: Any, factor: Any) -> list[list[Any]]:
    """Return sums + values * factor."""
    return [[s + v * factor[0] for s, v in zip(sums, values, strict=True)]]


def _scaled(code: int, values: Any, factor: Any) -> list[list[Any]]:
    """Return values * factor."""
    return [[v * factor[0] for v in values]]


scaled_sum, scaled = WrittenOut(_scaled_sum), WrittenOut(_scaled)


class FarField:
    """Expansions for one pair of orders on one tree on the device.

    Parameters
    ----------
    geometry : Geometry
        Points, tree and lists on the device; `level_starts` of the tree on the host.
    degrees : tuple of int
        Degree of the multipole-to-local translations of each level.
    source_order, order : int
        Order of moments and of the field.
    dtype : dtype
        Of expansions.
    space : Space
        Where the arrays are.
    """

    def __init__(
        self,
        geometry: Any,
        degrees: tuple[int, ...],
        source_order: int,
        order: int,
        dtype: np.dtype,
        space: Space,
    ) -> None:
        self.space, self.tree, self.lists = space, geometry.tree, geometry.lists
        self.dtype = np.dtype(dtype)
        self.degrees, self.degree = degrees, max(degrees)
        self.source_order, self.order = source_order, order
        self.length = harmonics.n_harmonics(self.degree)
        self.n_boxes = self.tree.parent.shape[0]
        self.targets, self.sources = (a.reshape(-1) for a in geometry.points(self.dtype))
        self.centres, self.edges = self._boxes()

    def __call__(self, moments: Any) -> Any:
        """Return the far field of harmonic moments.

        Parameters
        ----------
        moments : device array, shape (n_sources, channels, (K + 1)^2)
            In tree order.

        Returns
        -------
        device array, shape (n_targets, channels, (order + 1)^2)
            Local expansions about every target, in tree order.
        """
        space, channels = self.space, moments.shape[1]
        shape = (self.n_boxes, channels, self.length)
        multipoles = fill(space, space.empty(shape, self.dtype), 0.0).reshape(-1)
        locals_ = fill(space, space.empty(shape, self.dtype), 0.0).reshape(-1)
        columns = harmonics.n_harmonics(self.order)
        n_targets = self.targets.shape[0] // 3
        field = fill(space, space.empty((n_targets, channels, columns), self.dtype), 0.0)
        flat = moments.reshape(-1)
        self._form(flat, channels, multipoles)
        self._coarsen(channels, multipoles)
        self._transfer(channels, multipoles, locals_)
        self._form_locals(flat, channels, locals_)
        self._refine(channels, locals_)
        self._evaluate(channels, locals_, field.reshape(-1))
        self._evaluate_multipoles(channels, multipoles, field.reshape(-1))
        return field

    def _boxes(self) -> tuple[Any, Any]:
        """Return centres, counted from the first box's, and edges, of the expansions' type."""
        space, n = self.space, self.n_boxes
        centres, edges = space.empty((3 * n,), self.dtype), space.empty((n,), self.dtype)
        _relative()(
            space.stream, _GEOMETRY, blocks_for(n), _threads(), self.tree.centre.reshape(-1),
            self.tree.edge, centres, edges,
        )  # fmt: skip
        return centres, edges

    # --- points and expansions --------------------------------------------------------------------

    def _form(self, moments: Any, channels: int, multipoles: Any) -> None:
        leaves, rows = self._source_leaves
        self._form_list(leaves, leaves, rows, moments, channels, 0, self.degree, multipoles)

    def _form_locals(self, moments: Any, channels: int, locals_: Any) -> None:
        lists, degree = self.lists, self.degree + self.source_order
        self._form_list(
            lists.p2l_targets, lists.p2l_sources, self._p2l_rows, moments, channels, 1, degree,
            locals_,
        )  # fmt: skip

    def _form_list(self, boxes, senders, rows, moments, channels, irregular, degree, out) -> None:
        space, inner = self.space, self.source_order
        kind = "transfer" if irregular else "shift"
        expansions_cuda.form(degree, irregular)(
            space.stream, self.dtype, (rows.shape[0] - 1, channels), THREADS, rows, boxes, senders,
            self.tree.source_range.reshape(-1), self.centres, self.edges, self.sources, moments,
            channels, harmonics.n_harmonics(inner), expansions_cuda.column_degrees(space, inner),
            expansions_cuda.recursion(space, degree, self.dtype),
            *expansions_cuda.tables(space, kind, self.degree, inner, False, self.dtype),
            self.length, self.length, out,
        )  # fmt: skip

    def _evaluate(self, channels: int, locals_: Any, field: Any) -> None:
        leaves, rows = self._target_leaves
        self._evaluate_list(leaves, leaves, rows, locals_, channels, 0, self.degree, field)

    def _evaluate_multipoles(self, channels: int, multipoles: Any, field: Any) -> None:
        lists, degree = self.lists, self.degree + self.order
        self._evaluate_list(
            lists.m2p_sources, lists.m2p_targets, self._m2p_rows, multipoles, channels, 1, degree,
            field,
        )  # fmt: skip

    def _evaluate_list(
        self, boxes, receivers, rows, coefficients, channels, irregular, degree, out
    ) -> None:
        space = self.space
        made = ("transfer", self.order, self.degree) if irregular else (
            "shift", self.degree, self.order
        )  # fmt: skip
        expansions_cuda.evaluate(degree, irregular)(
            space.stream, self.dtype, (rows.shape[0] - 1, channels), THREADS, rows, boxes,
            receivers, self.tree.target_range.reshape(-1), self.centres, self.edges, self.targets,
            coefficients, channels, harmonics.n_harmonics(self.order),
            expansions_cuda.column_degrees(space, self.order),
            expansions_cuda.recursion(space, degree, self.dtype),
            *expansions_cuda.tables(space, *made, True, self.dtype), self.length, out,
        )  # fmt: skip

    @cached_property
    def _source_leaves(self) -> tuple[Any, Any]:
        return self._leaves(self.tree.source_range)

    @cached_property
    def _target_leaves(self) -> tuple[Any, Any]:
        return self._leaves(self.tree.target_range)

    def _leaves(self, ranges: Any) -> tuple[Any, Any]:
        """Return the occupied leaves, and where the one entry of each starts."""
        leaves = occupied_leaves(self.space, self.tree.n_children, ranges)
        return leaves, count_up(self.space, leaves.shape[0] + 1)

    @cached_property
    def _p2l_rows(self) -> Any:
        return starts_of(self.space, self.lists.p2l_targets)

    @cached_property
    def _m2p_rows(self) -> Any:
        return starts_of(self.space, self.lists.m2p_targets)

    # --- expansions of boxes ----------------------------------------------------------------------

    def _coarsen(self, channels: int, multipoles: Any) -> None:
        operators = self._shifts("upward")
        starts = self.tree.level_starts
        for level in range(len(starts) - 3, -1, -1):
            begin, end = int(starts[level]), int(starts[level + 1])
            _coarsen()(
                self.space.stream, self.dtype, (end - begin, channels), THREADS, begin,
                self.tree.first_child, self.tree.n_children, self.tree.anchor, operators,
                self.length, channels, multipoles,
            )  # fmt: skip

    def _refine(self, channels: int, locals_: Any) -> None:
        operators = self._shifts("downward")
        starts = self.tree.level_starts
        for level in range(1, len(starts) - 1):
            begin, end = int(starts[level]), int(starts[level + 1])
            _refine()(
                self.space.stream, self.dtype, (end - begin, channels), THREADS, begin,
                self.tree.parent, self.tree.anchor, operators, self.length, channels, locals_,
            )  # fmt: skip

    def _shifts(self, way: str) -> Any:
        """Return the matrices of the eight octants, each column after column."""

        def make() -> np.ndarray:
            matrices = [translations.shift_matrix(octant, self.degree) for octant in range(8)]
            if way == "downward":
                matrices = [0.5 * matrix.T for matrix in matrices]
            return np.stack([m.T for m in matrices]).astype(self.dtype).reshape(-1)

        return self.space.constant((way, self.degree, self.dtype.name), make)

    def _transfer(self, channels: int, multipoles: Any, locals_: Any) -> None:
        starts = self.tree.level_starts
        used = [level for level, degree in enumerate(self.degrees) if degree]
        # levels of one degree together: a launch has more boxes
        for degree, group in itertools.groupby(used, key=self.degrees.__getitem__):
            together = list(group)
            begin, end = int(starts[together[0]]), int(starts[together[-1] + 1])
            places = self._places(begin, end)
            codes, operators, signs = transfer_operators(self.space, degree, self.dtype)
            n = harmonics.n_harmonics(degree)
            _transfer(_teams(n))(
                self.space.stream, self.dtype, (places.shape[0] - 1, channels), _WORKERS, places,
                codes, self.lists.m2l_targets, self.lists.m2l_sources, operators, signs, n,
                self.length, channels, multipoles, locals_,
            )  # fmt: skip

    def _places(self, begin: int, end: int) -> Any:
        """Return where the pairs of each group of target boxes start, per code."""
        if (begin, end) not in self._known_places:
            groups = -(-(end - begin) // _GROUP)
            places = self.space.empty((groups + 1, N_CODES), np.int32)
            _find_places()(
                self.space.stream, _GEOMETRY, (blocks_for(N_CODES), groups + 1), _threads(), begin,
                end, self.lists.m2l_starts, self.lists.m2l_targets, places,
            )  # fmt: skip
            self._known_places[begin, end] = places
        return self._known_places[begin, end]

    @cached_property
    def _known_places(self) -> dict[tuple[int, int], Any]:
        return {}


def _threads() -> int:
    return 4 if SIMULATED else 128


def _teams(n: int) -> int:
    """Return into how many teams a block's threads divide if a team takes n rows of a matrix."""
    if SIMULATED:
        return 2
    return next((teams for teams in (4, 2) if n <= _WORKERS // teams), 1)


def transfer_operators(space: Space, degree: int, dtype: np.dtype) -> tuple[Any, Any, Any]:
    """Return codes with their matrix and reflection, the matrices, and signs of reflections.

    Matrices of shifts with components >= 0 alone, each column after column, columns of zeros up
    to a multiple of `_COLUMNS`; others are theirs between reflected boxes.
    """
    reach = int(np.abs(accuracy.shifts()).max())
    span = range(reach + 1)
    shifts = [shift for shift in itertools.product(span, span, span) if max(shift) > 1]

    def codes() -> np.ndarray:
        rows = []
        for code, shift in enumerate(accuracy.shifts().tolist()):
            if max(map(abs, shift)) > 1:
                octant = 4 * (shift[0] < 0) + 2 * (shift[1] < 0) + (shift[2] < 0)
                rows.append((code, shifts.index(tuple(map(abs, shift))), octant))
        # codes of one matrix follow each other: it is read from memory once
        return np.array(sorted(rows, key=lambda row: row[1:]), np.int32)

    def matrices() -> np.ndarray:
        n = harmonics.n_harmonics(degree)
        out = np.zeros((len(shifts), -(-n // _COLUMNS) * _COLUMNS, n), dtype)
        for i, shift in enumerate(shifts):
            out[i, :n] = translations.transfer_matrix(shift, degree).T
        return out.reshape(-1)

    def signs() -> np.ndarray:
        size = harmonics.n_harmonics(degree)
        return np.stack(
            [translations.reflection(octant, degree, dtype)[:size] for octant in range(8)]
        ).reshape(-1)

    return (
        space.constant("transfer codes", codes),
        space.constant(("transfer", degree, dtype.name), matrices),
        space.constant(("reflections", degree, dtype.name), signs),
    )


# --- kernels --------------------------------------------------------------------------------------


@kernels
def _relative():
    def loop(centre, edge, centres, edges):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < edges.shape[0]:
            edges[i] = edge[i]
            for axis in range(3):
                centres[3 * i + axis] = centre[3 * i + axis] - centre[axis]

    return loop


@kernels
def _coarsen():
    """Add to a parent the translated multipoles of its children."""

    def loop(begin, first_child, n_children, anchor, operators, length, channels, multipoles):
        parent, channel = begin + cuda.blockIdx.x, cuda.blockIdx.y
        first = first_child[parent]
        for i in range(cuda.threadIdx.x, length, THREADS):
            total = 0.0
            for child in range(first, first + n_children[parent]):
                octant = (
                    4 * (anchor[child, 0] & 1) + 2 * (anchor[child, 1] & 1) + (anchor[child, 2] & 1)
                )
                place = (child * channels + channel) * length
                matrix = octant * length * length + i
                for j in range(length):
                    total += operators[matrix + j * length] * multipoles[place + j]
            if n_children[parent] > 0:
                multipoles[(parent * channels + channel) * length + i] += total

    return loop


@kernels
def _refine():
    """Add to a child the translated local expansion of its parent."""

    def loop(begin, parents, anchor, operators, length, channels, locals_):
        child, channel = begin + cuda.blockIdx.x, cuda.blockIdx.y
        octant = 4 * (anchor[child, 0] & 1) + 2 * (anchor[child, 1] & 1) + (anchor[child, 2] & 1)
        place = (parents[child] * channels + channel) * length
        for i in range(cuda.threadIdx.x, length, THREADS):
            matrix = octant * length * length + i
            total = 0.0
            for j in range(length):
                total += operators[matrix + j * length] * locals_[place + j]
            locals_[(child * channels + channel) * length + i] += total

    return loop


@kernels
def _find_places():
    """Write the first pair of each code whose target is not before a group's first box."""

    def loop(begin, end, starts, targets, places):
        code, group = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, cuda.blockIdx.y
        if code < places.shape[1]:
            bound = min(begin + group * _GROUP, end)
            first, last = starts[code], starts[code + 1]
            while first < last:
                middle = (first + last) // 2
                if targets[middle] < bound:
                    first = middle + 1
                else:
                    last = middle
            places[group, code] = first

    return loop


@kernels
def _transfer(teams):
    """Add multipole-to-local translations to the boxes of a group, code by code.

    Each team of threads takes some pairs of a code, each thread of it a row of the matrix. The
    targets of one code are distinct, so that no two threads write to one place.
    """
    rows, together = _WORKERS // teams, teams * _PAIRS
    chunk = _ENTRIES // together
    # four more: fewer conflicts between the banks of shared memory
    stride = together + 4
    size = stride * chunk
    gather, add_rows = _gather(rows, stride), _add_rows()
    load, entry, zero = loader(_PAIRS, 4), loader(1), zeros(_PAIRS)

    def loop(
        places, codes, targets, sources, operators, signs, n, length, channels, multipoles, locals_
    ):
        x = cuda.shared.array(size, REAL)
        work = cuda.local.array(_PAIRS, REAL)
        thread, group, channel = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
        team, row = thread // rows, thread % rows
        n_columns = (n + _COLUMNS - 1) // _COLUMNS * _COLUMNS
        for item in range(codes.shape[0]):
            code, octant = codes[item, 0], codes[item, 2] * n
            matrix = codes[item, 1] * n * n_columns
            begin, stop = places[group, code], places[group + 1, code]
            while begin < stop:
                first = begin + team * _PAIRS
                count = min(_PAIRS, stop - first)
                for column in range(0, n_columns, chunk):
                    width = min(chunk, n_columns - column)
                    cuda.syncthreads()
                    gather(
                        row, team * _PAIRS, column, width, n, sources, first, count, channels,
                        channel, length, multipoles, signs, octant, work, x,
                    )  # fmt: skip
                    cuda.syncthreads()
                    for i in range(row, n if count > 0 else 0, rows):
                        total = zero()
                        place, at = team * _PAIRS, matrix + column * n + i
                        end = place + width * stride
                        while place < end:
                            a, b = entry(operators, at), entry(operators, at + n)
                            c, d = entry(operators, at + 2 * n), entry(operators, at + 3 * n)
                            total = scaled_sum(0, (total, load(x, place), a))[0]
                            total = scaled_sum(0, (total, load(x, place + stride), b))[0]
                            total = scaled_sum(0, (total, load(x, place + 2 * stride), c))[0]
                            total = scaled_sum(0, (total, load(x, place + 3 * stride), d))[0]
                            place += _COLUMNS * stride
                            at += _COLUMNS * n
                        add_rows(
                            total, signs[octant + i], i, targets, first, count, channels, channel,
                            length, work, locals_,
                        )  # fmt: skip
                begin += together

    return loop


@cache
def _gather(rows: int, stride: int) -> Device:
    """Return the function for kernels that reads some columns of a team's coefficients."""
    load, store = loader(_PAIRS), storer(_PAIRS)

    def gather(
        row, team, column, width, n, sources, first, count, channels, channel, length, multipoles,
        signs, octant, work, x,
    ):  # fmt: skip
        for j in range(row, width if count > 0 else 0, rows):
            # columns beyond the last are zeros in the matrix, pairs beyond it are not written
            harmonic = min(column + j, n - 1)
            for pair in range(_PAIRS):
                box = sources[first + min(pair, count - 1)] * channels + channel
                work[pair] = multipoles[box * length + harmonic]
            store(x, j * stride + team, scaled(0, (load(work, 0), (signs[octant + harmonic],)))[0])

    return Device(gather)


@cache
def _add_rows() -> Device:
    """Return the function for kernels that adds a row of each pair's product to its target."""
    load, store = loader(_PAIRS), storer(_PAIRS)

    def add_rows(
        total, sign, i, targets, first, count, channels, channel, length, work, locals_
    ):  # fmt: skip
        # all are read before any is written: the device waits once
        for pair in range(_PAIRS):
            box = targets[first + min(pair, count - 1)] * channels + channel
            work[pair] = locals_[box * length + i]
        store(work, 0, scaled_sum(0, (load(work, 0), total, (sign,)))[0])
        for pair in range(_PAIRS):
            if pair < count:
                box = targets[first + pair] * channels + channel
                locals_[box * length + i] = work[pair]

    return Device(add_rows)


# --- lists ----------------------------------------------------------------------------------------


def occupied_leaves(space: Space, n_children: Any, ranges: Any) -> Any:
    """Return the leaves with points, ascending; waits for their number."""
    from multipoles._sorting_cuda import running_sum

    n = n_children.shape[0]
    flags = space.empty((n,), np.int64)
    blocks, threads = blocks_for(n), _threads()
    _is_occupied()(space.stream, _GEOMETRY, blocks, threads, n_children, ranges.reshape(-1), flags)
    return _selected(space, flags, running_sum(space, flags))


def starts_of(space: Space, sorted_values: Any) -> Any:
    """Return where each run of equal values starts, and the end; waits for their number."""
    from multipoles._sorting_cuda import running_sum

    n = sorted_values.shape[0]
    flags = space.empty((n,), np.int64)
    if n:
        _is_first()(space.stream, _GEOMETRY, blocks_for(n), _threads(), sorted_values, flags)
    return _selected(space, flags, running_sum(space, flags), n)


def _selected(space: Space, flags: Any, sums: Any, end: int = -1) -> Any:
    """Return the places of flags that are set, and `end` after them if it is not negative."""
    n = flags.shape[0]
    count = int(space.download(sums[n : n + 1])[0])
    out = space.empty((count + (end >= 0),), np.int64)
    blocks = blocks_for(max(n, 1))
    _select()(space.stream, _GEOMETRY, blocks, _threads(), flags, sums, end, out)
    return out


def count_up(space: Space, n: int) -> Any:
    """Return 0 ... n - 1."""
    out = space.empty((n,), np.int64)
    _count()(space.stream, _GEOMETRY, blocks_for(n), _threads(), out)
    return out


@kernels
def _is_occupied():
    def loop(n_children, ranges, flags):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < flags.shape[0]:
            flags[i] = 1 if n_children[i] == 0 and ranges[2 * i + 1] > ranges[2 * i] else 0

    return loop


@kernels
def _is_first():
    def loop(values, flags):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < flags.shape[0]:
            flags[i] = 1 if i == 0 or values[i] != values[max(i - 1, 0)] else 0

    return loop


@kernels
def _select():
    def loop(flags, sums, end, out):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < flags.shape[0] and flags[i] == 1:
            out[sums[i]] = i
        if i == 0 and end >= 0:
            out[out.shape[0] - 1] = end

    return loop


@kernels
def _count():
    def loop(out):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < out.shape[0]:
            out[i] = i

    return loop
