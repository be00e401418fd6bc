"""The far field on the GPU: the steps of `fmm.far.driver`, each a launch or one for every level.

Every sum is gathered by the thread that owns its place, in a fixed order: every run gives the same
bits. Expansions are (box, channel, harmonic), in units of the box's edge; a box's harmonics are
padded to a multiple of four, and those of all boxes lie behind a row of zeros, which stands for
boxes that are not there.
"""

import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from fmm.cuda import expansions as expansions_cuda
from fmm.cuda.columns import Columns, make_columns
from fmm.cuda.curve import DeviceArray, launch, mark_begins
from fmm.cuda.expansions import THREADS
from fmm.cuda.products import transfer
from fmm.cuda.rows import THREADS as OF_ROWS
from fmm.cuda.staging import DEPTH, padded
from fmm.cuda.translations import add_parts, coarsen, grid_of, refine, shift_operators
from fmm.far import harmonics
from multipoles.cuda.device import Space
from multipoles.cuda.sorting import blocks_for, count_up, marked, taken


# by tree, and first and last box
_columns_of: WeakKeyDictionary[Any, dict[tuple[int, int], Columns]] = WeakKeyDictionary()


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
        self.length = padded(harmonics.n_harmonics(self.degree))
        self.n_boxes = self.tree.parent.shape[0]
        self.geometry, self.n_across = geometry, geometry.n_across
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
        row = channels * self.length
        # what is read beyond the last row is not used
        with_zeros = space.zeros(((self.n_boxes + 1) * row + DEPTH,), self.dtype)
        multipoles = with_zeros[row:]
        locals_ = space.zeros((self.n_boxes * row,), self.dtype)
        columns = harmonics.n_harmonics(self.order)
        n_targets = self.targets.shape[0] // 3
        field = space.zeros((n_targets, channels, columns), self.dtype)
        flat = moments.reshape(-1)
        self._form(flat, channels, multipoles)
        self._coarsen(channels, with_zeros)
        self._transfer(channels, with_zeros, locals_)
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
        if boxes.shape[0] == 0:
            return
        space, inner = self.space, self.source_order
        kind = "transfer" if irregular else "shift"
        n = harmonics.n_harmonics(self.degree)
        expansions_cuda.form(degree, irregular)(
            space.stream, self.dtype, (rows.shape[0] - 1, channels), THREADS, rows, boxes, senders,
            self.tree.source_range.reshape(-1), self.centres, self.edges, self.sources, moments,
            channels, harmonics.n_harmonics(inner), expansions_cuda.column_degrees(space, inner),
            expansions_cuda.recursion(space, degree, self.dtype),
            *expansions_cuda.tables(space, kind, self.degree, inner, False, self.dtype),
            n, self.length, out,
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
        if boxes.shape[0] == 0:
            return
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

    def _coarsen(self, channels: int, with_zeros: DeviceArray) -> None:
        operators = shift_operators(self.space, "upward", self.degree, self.dtype)
        last = len(self.tree.level_starts) - 2
        for level in range(last - 1, self._first_used - 1, -1):
            begin, end = self._boxes_of(level)
            coarsen()(
                self.space.stream, self.dtype, *grid_of(end - begin, channels, self.length), begin,
                end, self.tree.first_child, self.tree.n_children, self.tree.anchor, operators,
                self.length, channels, with_zeros,
            )  # fmt: skip

    def _refine(self, channels: int, locals_: DeviceArray) -> None:
        operators = shift_operators(self.space, "downward", self.degree, self.dtype)
        last = len(self.tree.level_starts) - 2
        for level in range(self._first_sent, last):
            begin, end = self._boxes_of(level)
            refine()(
                self.space.stream, self.dtype, *grid_of(end - begin, channels, self.length), begin,
                end, self.tree.first_child, self.tree.n_children, self.tree.anchor, operators,
                self.length, channels, locals_,
            )  # fmt: skip

    def _transfer(self, channels: int, with_zeros: DeviceArray, locals_: DeviceArray) -> None:
        if self.lists.m2l_targets.shape[0] == 0:
            return
        for columns, degree in self._columns:
            parts = transfer(
                self.space, columns, degree, channels, self.length, with_zeros, self.dtype
            )
            n_boxes = parts.end - parts.begin
            add_parts()(
                self.space.stream, self.dtype,
                blocks_for(n_boxes * channels * parts.length, OF_ROWS), OF_ROWS, parts.begin,
                n_boxes, channels, parts.n, parts.count, parts.length, parts.values, self.length,
                locals_,
            )  # fmt: skip

    def _boxes_of(self, level: int) -> tuple[int, int]:
        starts = self.tree.level_starts
        return int(starts[level]), int(starts[level + 1])

    @cached_property
    def _with_pairs(self) -> list[int]:
        """Levels whose boxes may have multipole-to-local pairs: there are three along an axis."""
        n_levels = len(self.tree.level_starts) - 1
        return [k for k in range(n_levels) if self.degrees[k] and self.n_across << k > 2]

    @property
    def _first_used(self) -> int:
        """The coarsest level whose multipoles are used."""
        smaller = [1] if self.lists.m2p_targets.shape[0] else []
        return min([len(self.tree.level_starts), *self._with_pairs[:1], *smaller])

    @property
    def _first_sent(self) -> int:
        """The coarsest level that has local expansions."""
        smaller = [1] if self.lists.p2l_targets.shape[0] else []
        return min([len(self.tree.level_starts), *self._with_pairs[:1], *smaller])

    @cached_property
    def _columns(self) -> list[tuple[Columns, int]]:
        """Target boxes as columns of products, and the degree of these: levels of one together."""
        return list(self._made_columns())

    def _made_columns(self) -> Iterator[tuple[Columns, int]]:
        lists, n_roots = self.lists, int(self.tree.level_starts[1])
        pairs = lists.m2l_starts, lists.m2l_targets, lists.m2l_sources
        for degree, group in itertools.groupby(self._with_pairs, key=self.degrees.__getitem__):
            levels = list(group)
            begin, end = self._boxes_of(levels[0])[0], self._boxes_of(levels[-1])[1]
            known = _columns_of.setdefault(self.geometry, {})
            if (begin, end) not in known:
                known[begin, end] = make_columns(
                    self.space, begin, end, n_roots, self.tree.anchor, pairs
                )
            yield known[begin, end], degree
