"""The far field on the CPU, in the steps of the method: form, coarsen, transfer, refine, evaluate.

Greengard & Rokhlin, J. Comput. Phys. 73, 325 (1987); for adaptive trees Cheng, Greengard & Rokhlin,
J. Comput. Phys. 155, 468 (1999).
"""

import itertools
from collections.abc import Callable
from functools import cached_property
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np

from fmm.far import expansions, harmonics, rotations, translations, truncation
from fmm.far.kept import kept
from fmm.tree.geometry import Geometry
from fmm.tree.lists import shifts
from multipoles.compiled.jit import bare, bare_inline, run_chunks

# bytes of expansions that stay in cache
_CACHE = 12e6
_NO_TERMS = harmonics.Terms(*(np.empty(0, np.int32),) * 3, np.empty(0))


class Pairs(Protocol):
    """Multipole-to-local pairs, see `fmm.tree.lists.Lists`."""

    @property
    def m2l_starts(self) -> np.ndarray:
        """First pair of every code."""

    @property
    def m2l_targets(self) -> np.ndarray:
        """Boxes that receive."""

    @property
    def m2l_sources(self) -> np.ndarray:
        """Boxes that send."""


class HostFarField:
    """Expansions for one pair of orders on one tree.

    Parameters
    ----------
    geometry : Geometry
        Points, tree and lists.
    degrees : tuple of int
        Degree of the multipole-to-local translations of each level; the expansions have the
        highest. Coarse boxes are few and their errors weigh more: there a degree more is cheap.
    source_order, order : int
        Order of moments and of the field.
    dtype : dtype
        Of expansions.
    """

    def __init__(
        self,
        geometry: Geometry,
        degrees: tuple[int, ...],
        source_order: int,
        order: int,
        dtype: np.dtype,
    ) -> None:
        self.geometry, self.tree, self.lists = geometry, geometry.tree, geometry.lists
        self.sources, self.targets = geometry.sources, geometry.targets
        self.translations = geometry.translations
        self.degrees, self.degree = degrees, max(degrees)
        self.source_order, self.order = source_order, order
        self.dtype = np.dtype(dtype)
        self.length = translations.row_length(harmonics.n_harmonics(self.degree), self.dtype)

    def __call__(self, moments: np.ndarray, seconds: dict[str, float]) -> np.ndarray:
        """Return the far field of harmonic moments.

        Parameters
        ----------
        moments : ndarray, shape (n_sources, channels, (K + 1)^2)
            In tree order, float64.
        seconds : dict of str to float
            The time of every step is added to it.

        Returns
        -------
        ndarray, shape (n_targets, channels, (order + 1)^2)
            Local expansions about every target, in tree order.
        """
        columns = harmonics.n_harmonics(self.order)
        field = np.zeros((len(self.targets), moments.shape[1], columns))
        # as many channels at once as the cache holds
        one = 2 * len(self.tree.parent) * self.length * self.dtype.itemsize
        block = max(1, int(_CACHE // one))
        for first in range(0, moments.shape[1], block):
            part = np.ascontiguousarray(moments[:, first : first + block])
            if part.shape == moments.shape:
                self._apply(part, field, seconds)
            else:
                some = np.zeros((len(field), part.shape[1], columns))
                self._apply(part, some, seconds)
                field[:, first : first + block] = some
        return field

    def _apply(self, moments: np.ndarray, field: np.ndarray, seconds: dict[str, float]) -> None:
        """Add the field of some channels."""
        channels = moments.shape[1]
        size = (len(self.tree.parent) + 1) * channels * self.length
        multipoles, locals_ = np.zeros(size, self.dtype), np.zeros(size, self.dtype)
        steps: dict[str, Callable[[], None]] = {
            "form multipoles": lambda: self._form(moments, multipoles),
            "multipole to multipole": lambda: self._coarsen(channels, multipoles),
            "multipole to local": lambda: self._transfer(channels, multipoles, locals_),
            "particle to local": lambda: self._form_locals(moments, locals_),
            "local to local": lambda: self._refine(channels, locals_),
            "evaluate locals": lambda: self._evaluate(locals_, field),
            "multipole to particle": lambda: self._evaluate_multipoles(multipoles, field),
        }
        for name, step in steps.items():
            start = perf_counter()
            step()
            seconds[name] = seconds.get(name, 0.0) + perf_counter() - start

    # --- points and expansions --------------------------------------------------------------------

    def _form(self, moments: np.ndarray, multipoles: np.ndarray) -> None:
        leaves = self.geometry.source_leaves.astype(np.int32)
        terms = _NO_TERMS
        if self.source_order:
            terms = harmonics.shift_terms(self.degree, self.source_order)
        self._form_list(
            leaves, leaves, np.arange(len(leaves) + 1), moments, False, self.degree, terms,
            multipoles,
        )  # fmt: skip

    def _form_locals(self, moments: np.ndarray, locals_: np.ndarray) -> None:
        boxes, senders = self.lists.p2l_targets, self.lists.p2l_sources
        if not len(boxes):
            return
        terms = harmonics.transfer_terms(self.degree, self.source_order)
        self._form_list(
            boxes, senders, _rows(boxes), moments, True, self.degree + self.source_order, terms,
            locals_,
        )  # fmt: skip

    def _form_list(
        self,
        boxes: np.ndarray,
        senders: np.ndarray,
        rows: np.ndarray,
        moments: np.ndarray,
        irregular: bool,
        degree: int,
        terms: harmonics.Terms,
        out: np.ndarray,
    ) -> None:
        tree = self.tree
        channels, columns = moments.shape[1:]
        factor = expansions.factors(degree, self.dtype)

        def task(first: int, last: int) -> None:
            expansions.form(
                rows[first], rows[last], boxes, tree.source_range, senders, tree.centre, tree.edge,
                self.sources, moments, harmonics.degrees(self.source_order), irregular, factor,
                terms, expansions.workspace(degree, channels * columns, self.dtype), out,
                self.length,
            )  # fmt: skip

        if len(boxes):
            run_chunks(task, len(rows) - 1, 20.0 * self.degree * len(self.sources))

    def _evaluate(self, locals_: np.ndarray, field: np.ndarray) -> None:
        leaves = self.geometry.target_leaves.astype(np.int32)
        terms = harmonics.shift_terms(self.degree, self.order) if self.order else _NO_TERMS
        rows = np.arange(len(leaves) + 1)
        self._evaluate_list(leaves, leaves, rows, False, self.degree, terms, locals_, field)

    def _evaluate_multipoles(self, multipoles: np.ndarray, field: np.ndarray) -> None:
        receivers, boxes = self.lists.m2p_targets, self.lists.m2p_sources
        if not len(boxes):
            return
        row, column, harmonic, factor = harmonics.transfer_terms(self.order, self.degree)
        terms = harmonics.Terms(column, row, harmonic, factor)
        self._evaluate_list(
            boxes, receivers, _rows(receivers), True, self.degree + self.order, terms, multipoles,
            field,
        )  # fmt: skip

    def _evaluate_list(
        self,
        boxes: np.ndarray,
        receivers: np.ndarray,
        rows: np.ndarray,
        irregular: bool,
        degree: int,
        terms: harmonics.Terms,
        coefficients: np.ndarray,
        field: np.ndarray,
    ) -> None:
        tree = self.tree
        channels, columns = field.shape[1:]
        factor = expansions.factors(degree, self.dtype)

        def task(first: int, last: int) -> None:
            expansions.evaluate(
                rows[first], rows[last], boxes, tree.target_range, receivers, tree.centre,
                tree.edge, self.targets, irregular, factor, terms, harmonics.degrees(self.order),
                expansions.workspace(degree, channels * columns, self.dtype), coefficients,
                self.length, field,
            )  # fmt: skip

        if len(boxes):
            run_chunks(task, len(rows) - 1, 20.0 * self.degree * len(self.targets))

    # --- expansions of boxes ----------------------------------------------------------------------

    def _coarsen(self, channels: int, multipoles: np.ndarray) -> None:
        operator = rotations.upward(self.degree, self.dtype, self.geometry.shape)
        for level in range(len(self.tree.level_starts) - 2, 0, -1):
            for octant, children in enumerate(self._families[level]):
                parents = self.tree.parent[children]
                self._translate(operator, octant, children, parents, channels, multipoles)

    def _refine(self, channels: int, locals_: np.ndarray) -> None:
        operator = rotations.downward(self.degree, self.dtype, self.geometry.shape)
        for level in range(1, len(self.tree.level_starts) - 1):
            for octant, children in enumerate(self._families[level]):
                parents = self.tree.parent[children]
                self._translate(operator, octant, parents, children, channels, locals_)

    @cached_property
    def _families(self) -> list[list[np.ndarray]]:
        """Boxes of each level, by the octant of their parent that they are."""
        families = []
        for level in range(len(self.tree.level_starts) - 1):
            own = self.geometry.own_boxes(level).astype(np.int32)
            odd = self.tree.anchor[own] & 1
            octant = 4 * odd[:, 0] + 2 * odd[:, 1] + odd[:, 2]
            ends = np.cumsum(np.bincount(octant, minlength=8))[:-1]
            families.append(np.split(own[np.argsort(octant, kind="stable")], ends))
        return families

    def _translate(
        self,
        operator: rotations.Operators,
        octant: int,
        sources: np.ndarray,
        targets: np.ndarray,
        channels: int,
        coefficients: np.ndarray,
    ) -> None:
        row = octant if len(operator.table) > 1 else 0
        signs = translations.reflection(octant - row, self.degree, self.dtype)

        def task(first: int, last: int) -> None:
            rotations.translate(
                first, last, operator, row, signs, sources, targets, channels, coefficients,
                self.length, coefficients, self.length,
                *rotations.scratch(self.degree, self.dtype),
            )  # fmt: skip

        if len(sources):
            run_chunks(task, len(sources), 0.2 * len(sources) * channels * self.length**1.5)

    def _transfer(self, channels: int, multipoles: np.ndarray, locals_: np.ndarray) -> None:
        self._transfer_pairs(self.lists, channels, multipoles, locals_)

    def _transfer_pairs(
        self, lists: Pairs, channels: int, multipoles: np.ndarray, locals_: np.ndarray
    ) -> None:
        """Add the translations of some pairs."""
        starts = self.tree.level_starts
        levels = np.flatnonzero(self.translations).tolist()
        # levels of one degree together: its matrices are read from memory once
        for degree, group in itertools.groupby(levels, key=self.degrees.__getitem__):
            together = list(group)
            operators = transfer_operators(
                degree, self.source_order, self.dtype, self._widest, self.geometry.shape
            )
            self._transfer_levels(
                starts[together[0]], starts[together[-1] + 1], lists, operators, channels,
                multipoles, locals_,
            )  # fmt: skip

    def _transfer_levels(
        self,
        begin: int,
        end: int,
        lists: Pairs,
        operators: "TransferOperators",
        channels: int,
        multipoles: np.ndarray,
        locals_: np.ndarray,
    ) -> None:
        def task(first: int, last: int) -> None:
            _transfer_boxes(
                begin + first, begin + last, lists.m2l_starts, lists.m2l_targets,
                lists.m2l_sources, *operators, channels, multipoles, locals_, self.length,
                *rotations.scratch(self.degree, self.dtype),
            )  # fmt: skip

        run_chunks(task, end - begin, 10.0 * (end - begin) * channels * self.length**1.5)

    @cached_property
    def _widest(self) -> int:
        """Largest component of the shifts that occur."""
        used = np.diff(self.lists.m2l_starts) > 0
        return int(np.abs(shifts()[used]).max(initial=2))


def _rows(receivers: np.ndarray) -> np.ndarray:
    """Return where each receiver's entries start, and the end; receivers are sorted."""
    return np.append(np.flatnonzero(np.diff(receivers, prepend=-1)), len(receivers))


class TransferOperators(NamedTuple):
    """Multipole-to-local operators of all codes.

    Attributes
    ----------
    operators : Operators
        See there.
    signs : ndarray, shape (8, n_harmonics)
        Signs of harmonics under the reflections of an octant.
    """

    operators: rotations.Operators
    signs: np.ndarray


@kept
def transfer_operators(
    degree: int,
    source_order: int,
    dtype: np.dtype,
    widest: int,
    shape: rotations.Shape | None = None,
) -> TransferOperators:
    """Return the operators of shifts up to `widest`, each of the degree its distance asks for."""
    degrees = truncation.degrees(degree, source_order, shape)
    reflected = rotations.reflects(shape)
    span = range(0 if reflected else -widest, widest + 1)
    chosen = [s for s in itertools.product(span, span, span) if max(map(abs, s)) > 1]
    shift_of = np.abs(shifts()) if reflected else shifts()
    codes = {s: np.flatnonzero((shift_of == s).all(axis=1)) for s in chosen}
    asked = {s: int(degrees[codes[s][0]]) for s in chosen}
    chosen.sort(key=asked.__getitem__)
    operators = rotations.operators_of(chosen, asked, codes, dtype, shape)
    signs = np.stack([translations.reflection(octant, degree, dtype) for octant in range(8)])
    return TransferOperators(operators, signs)


@bare
def _transfer_boxes(
    first, last, starts, targets, sources, operators, signs, channels, multipoles, locals_, length,
    rows, places,
):  # fmt: skip
    """Add multipole-to-local translations to boxes first ... last - 1."""
    for row in range(operators.table.shape[0]):
        code, octant = operators.table[row, 0], operators.table[row, 1]
        start = _lower(targets, starts[code], starts[code + 1], first)
        stop = _lower(targets, start, starts[code + 1], last)
        rotations.translate(
            start, stop, operators, row, signs[octant], sources, targets, channels, multipoles,
            length, locals_, length, rows, places,
        )  # fmt: skip


@bare_inline
def _lower(values, first, last, bound):
    """Return the first index of the sorted values[first:last] that is not below `bound`."""
    while first < last:
        middle = (first + last) // 2
        if values[middle] < bound:
            first = middle + 1
        else:
            last = middle
    return first
