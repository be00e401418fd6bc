"""The far field on the GPU: the steps of `fmm.driver_cpu`, each a few launches.

Every sum is gathered by the thread that owns its place, in a fixed order: every run gives the same
bits. Expansions are (box, channel, harmonic), in units of the box's edge.
"""

import itertools
from functools import cached_property
from typing import Any

import numpy as np

from fmm import expansions_cuda, harmonics
from fmm.expansions_cuda import THREADS
from fmm.lists import N_CODES
from fmm.translations_cuda import (
    GROUP,
    WORKERS,
    coarsen,
    find_places,
    refine,
    shift_operators,
    teams_for,
    transfer,
    transfer_operators,
)
from multipoles._cuda import SIMULATED, cuda, kernels
from multipoles._device import Space
from multipoles.direct_cuda import blocks_for, fill

_GEOMETRY = np.dtype(np.float64)


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
        operators = shift_operators(self.space, "upward", self.degree, self.dtype)
        starts = self.tree.level_starts
        for level in range(len(starts) - 3, -1, -1):
            begin, end = int(starts[level]), int(starts[level + 1])
            coarsen()(
                self.space.stream, self.dtype, (end - begin, channels), THREADS, begin,
                self.tree.first_child, self.tree.n_children, self.tree.anchor, operators,
                self.length, channels, multipoles,
            )  # fmt: skip

    def _refine(self, channels: int, locals_: Any) -> None:
        operators = shift_operators(self.space, "downward", self.degree, self.dtype)
        starts = self.tree.level_starts
        for level in range(1, len(starts) - 1):
            begin, end = int(starts[level]), int(starts[level + 1])
            refine()(
                self.space.stream, self.dtype, (end - begin, channels), THREADS, begin,
                self.tree.parent, self.tree.anchor, operators, self.length, channels, locals_,
            )  # fmt: skip

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
            transfer(teams_for(n))(
                self.space.stream, self.dtype, (places.shape[0] - 1, channels), WORKERS, places,
                codes, self.lists.m2l_targets, self.lists.m2l_sources, operators, signs, n,
                self.length, channels, multipoles, locals_,
            )  # fmt: skip

    def _places(self, begin: int, end: int) -> Any:
        """Return where the pairs of each group of target boxes start, per code."""
        if (begin, end) not in self._known_places:
            groups = -(-(end - begin) // GROUP)
            places = self.space.empty((groups + 1, N_CODES), np.int32)
            find_places()(
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
