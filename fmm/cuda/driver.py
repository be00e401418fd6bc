"""The far field on the GPU: the steps of `fmm.far.driver`, each a few launches.

Every sum is gathered by the thread that owns its place, in a fixed order: every run gives the same
bits. Expansions are (box, channel, harmonic), in units of the box's edge.
"""

import itertools
from functools import cached_property

import numpy as np

from fmm.cuda import expansions as expansions_cuda
from fmm.cuda.curve import GEOMETRY, DeviceArray, launch, mark_begins
from fmm.cuda.expansions import THREADS
from fmm.cuda.translations import (
    GROUP,
    WORKERS,
    coarsen,
    find_group_starts,
    refine,
    shift_operators,
    teams_for,
    transfer,
    transfer_operators,
)
from fmm.far import harmonics
from fmm.tree.lists import N_CODES
from multipoles.cuda.device import Space
from multipoles.cuda.direct import fill
from multipoles.cuda.sorting import THREADS as BLOCK
from multipoles.cuda.sorting import blocks_for, count_up, marked, taken


class DeviceFarField:
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
        geometry: DeviceArray,
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
        self.targets, self.sources = geometry.targets.reshape(-1), geometry.sources.reshape(-1)
        self.target_leaves, self.source_leaves = geometry.target_leaves, geometry.source_leaves
        self.centres = self.tree.centre.reshape(-1)
        self.edges = taken(space, self.tree.edge, count_up(space, self.n_boxes), self.dtype)

    def __call__(self, moments: DeviceArray) -> DeviceArray:
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

    # --- points and expansions --------------------------------------------------------------------

    def _form(self, moments: DeviceArray, channels: int, multipoles: DeviceArray) -> None:
        leaves, rows = self.source_leaves, self._source_rows
        self._form_list(leaves, leaves, rows, moments, channels, 0, self.degree, multipoles)

    def _form_locals(self, moments: DeviceArray, channels: int, locals_: DeviceArray) -> None:
        lists, degree = self.lists, self.degree + self.source_order
        self._form_list(
            lists.p2l_targets, lists.p2l_sources, self._p2l_rows, moments, channels, 1, degree,
            locals_,
        )  # fmt: skip

    def _form_list(
        self,
        boxes: DeviceArray,
        senders: DeviceArray,
        rows: DeviceArray,
        moments: DeviceArray,
        channels: int,
        irregular: int,
        degree: int,
        out: DeviceArray,
    ) -> None:
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

    def _evaluate(self, channels: int, locals_: DeviceArray, field: DeviceArray) -> None:
        leaves, rows = self.target_leaves, self._target_rows
        self._evaluate_list(leaves, leaves, rows, locals_, channels, 0, self.degree, field)

    def _evaluate_multipoles(
        self, channels: int, multipoles: DeviceArray, field: DeviceArray
    ) -> None:
        lists, degree = self.lists, self.degree + self.order
        self._evaluate_list(
            lists.m2p_sources, lists.m2p_targets, self._m2p_rows, multipoles, channels, 1, degree,
            field,
        )  # fmt: skip

    def _evaluate_list(
        self,
        boxes: DeviceArray,
        receivers: DeviceArray,
        rows: DeviceArray,
        coefficients: DeviceArray,
        channels: int,
        irregular: int,
        degree: int,
        out: DeviceArray,
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
    def _source_rows(self) -> DeviceArray:
        return count_up(self.space, self.source_leaves.shape[0] + 1)

    @cached_property
    def _target_rows(self) -> DeviceArray:
        return count_up(self.space, self.target_leaves.shape[0] + 1)

    @cached_property
    def _p2l_rows(self) -> DeviceArray:
        return self._rows(self.lists.p2l_targets)

    @cached_property
    def _m2p_rows(self) -> DeviceArray:
        return self._rows(self.lists.m2p_targets)

    def _rows(self, receivers: DeviceArray) -> DeviceArray:
        """Return where each receiver's entries start, and the end; receivers are sorted."""
        begins = self.space.empty((receivers.shape[0] + 1,), np.int64)
        launch(self.space, mark_begins(), begins.shape[0], receivers, begins)
        return marked(self.space, begins)

    # --- expansions of boxes ----------------------------------------------------------------------

    def _coarsen(self, channels: int, multipoles: DeviceArray) -> None:
        operators = shift_operators(self.space, "upward", self.degree, self.dtype)
        starts = self.tree.level_starts
        for level in range(len(starts) - 3, -1, -1):
            begin, end = int(starts[level]), int(starts[level + 1])
            coarsen()(
                self.space.stream, self.dtype, (end - begin, channels), THREADS, begin,
                self.tree.first_child, self.tree.n_children, self.tree.anchor, operators,
                self.length, channels, multipoles,
            )  # fmt: skip

    def _refine(self, channels: int, locals_: DeviceArray) -> None:
        operators = shift_operators(self.space, "downward", self.degree, self.dtype)
        starts = self.tree.level_starts
        for level in range(1, len(starts) - 1):
            begin, end = int(starts[level]), int(starts[level + 1])
            refine()(
                self.space.stream, self.dtype, (end - begin, channels), THREADS, begin,
                self.tree.parent, self.tree.anchor, operators, self.length, channels, locals_,
            )  # fmt: skip

    def _transfer(self, channels: int, multipoles: DeviceArray, locals_: DeviceArray) -> None:
        levels = self.tree.level_starts
        used = [level for level, degree in enumerate(self.degrees) if degree]
        # levels of one degree together: a launch has more boxes
        for degree, group in itertools.groupby(used, key=self.degrees.__getitem__):
            together = list(group)
            begin, end = int(levels[together[0]]), int(levels[together[-1] + 1])
            starts = self._group_starts(begin, end)
            codes, operators, signs = transfer_operators(self.space, degree, self.dtype)
            n = harmonics.n_harmonics(degree)
            transfer(teams_for(n))(
                self.space.stream, self.dtype, (starts.shape[0] - 1, channels), WORKERS, starts,
                codes, self.lists.m2l_targets, self.lists.m2l_sources, operators, signs, n,
                self.length, channels, multipoles, locals_,
            )  # fmt: skip

    def _group_starts(self, begin: int, end: int) -> DeviceArray:
        """Return where the pairs of each group of target boxes start, per code."""
        if (begin, end) not in self._known_starts:
            grid = grid_of_groups(end - begin)
            group_starts = self.space.empty((grid[0], N_CODES), np.int32)
            find_group_starts()(
                self.space.stream, GEOMETRY, grid, BLOCK, begin, end, self.lists.m2l_starts,
                self.lists.m2l_targets, group_starts,
            )  # fmt: skip
            self._known_starts[begin, end] = group_starts
        return self._known_starts[begin, end]

    @cached_property
    def _known_starts(self) -> dict[tuple[int, int], DeviceArray]:
        return {}


def grid_of_groups(n_boxes: int) -> tuple[int, int]:
    """Return the blocks that find where the pairs of each group of boxes start, and the end."""
    return -(-n_boxes // GROUP) + 1, blocks_for(N_CODES)
