"""The error of a field over all ranks: targets are drawn on all, and all sum what they own."""

from typing import Any

import numpy as np

from fmm.distributed.geometry import Foreign
from fmm.error.drawing import Drawn, densities_of, evenly, pick
from fmm.error.indicators import STEEPEST, Boxed, HostStrengths
from fmm.error.sampling import Probe, mean_squares


class SharedStrengths(HostStrengths):
    """How strong the moments of all ranks are, see `HostStrengths`.

    Parameters
    ----------
    moments : ndarray, shape (n, channels, (K + 1)^2)
        Of the own sources, and perhaps others behind them.
    source_order : int
        K.
    geometry : Foreign
        Whose points they belong to.
    """

    def __init__(self, moments: np.ndarray, source_order: int, geometry: Foreign) -> None:
        self._ranks = geometry.domain.ranks
        super().__init__(moments[: geometry.n_own], source_order)

    def _total(self, sums: np.ndarray) -> np.ndarray:
        """Return sums over the sources of all ranks."""
        return self._ranks.sum(sums)

    def weights(self, geometry: Boxed) -> np.ndarray:
        """Return what `accuracy.predicted` asks for."""
        n = len(geometry.targets)
        mine = super().weights(geometry) * max(n, 1)
        assert isinstance(geometry, Foreign)
        total: np.ndarray = self._ranks.sum(mine) / max(geometry.everywhere[0], 1)
        return total

    def _of_boxes(self, geometry: Boxed, values: np.ndarray) -> np.ndarray:
        """Return the sum over the sources of every box, on whatever rank they are."""
        assert isinstance(geometry, Foreign)
        return geometry.box_sums(values)


class SharedProbe(Probe):
    """Targets of all ranks at which the whole field is known; see `Probe`.

    Targets are counted over all ranks. What is known of those that are drawn is known to all.
    """

    _geometry: Foreign

    def __init__(self, geometry: Foreign, *given: Any, **options: Any) -> None:
        self._ranks, self._here = geometry.domain.ranks, len(geometry.targets)
        counts = np.concatenate(self._ranks.gather(np.array([self._here])))
        self._first = int(counts[: self._ranks.rank].sum())
        super().__init__(geometry, *given, **options)

    # --- all targets ------------------------------------------------------------------------------

    def _range(self) -> tuple[int, int]:
        return self._first, self._first + self._here

    def _whole(self) -> int:
        return self._geometry.everywhere[0]

    def _all_targets(self) -> list[tuple[int, int]]:
        return [(0, self._whole())]

    def _sample(self, field: np.ndarray) -> np.ndarray:
        """Return a field at some targets, evenly."""
        return self._largest(super()._sample(field))

    def _largest(self, field: np.ndarray) -> np.ndarray:
        """Return a field that has the largest numbers of this one."""
        most = np.abs(field).max(axis=0, keepdims=True, initial=0)
        return np.concatenate(self._ranks.gather(most))

    def squares(self, field: np.ndarray) -> np.ndarray:
        """Return the mean square of a field over all targets, in `units`; see `Probe`."""
        if field is self._near and "_near_squares" in self.__dict__:
            return self._near_squares
        if self._looked_at is None or self._looked_at[0] is not field:
            sums = self._ranks.sum(mean_squares(field, self.units) * self._here)
            squares = sums[None] / max(self._whole(), 1)
            squares = squares if self._per_channel else squares.sum(axis=2, keepdims=True)
            self._looked_at = field, squares
        return self._looked_at[1]

    # --- targets that are drawn -------------------------------------------------------------------

    def _draw(self, first: int, last: int, size: int, seed: int) -> Drawn:
        """Return some of all targets, known to all ranks."""
        n = self._whole()
        if n <= size:
            return Drawn(np.arange(n), np.full(n, 1.0 / max(n, 1)), np.ones(n, bool))
        rng, half = np.random.default_rng(seed), size // 2
        even = evenly(0, n, size - half, rng)
        found = self._by_indicator(even, half, rng)
        if found is None:
            samples = np.concatenate([even, evenly(0, n, half, rng)])
            return Drawn(samples, np.full(size, 1.0 / size), np.ones(size, bool))
        chosen, densities = found
        shares = 2.0 / (size * (1.0 + densities * n))
        return Drawn(np.concatenate([even, chosen]), shares, np.arange(size) < len(even))

    def _by_indicator(
        self, even: np.ndarray, size: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return targets drawn by where errors are expected, and densities, see `draw`."""
        marks, inside = np.arange(size) + rng.random(size), rng.random(size)
        if self._where is None:
            return None
        leaves, errors = self._where.leaves, self._where.errors
        tree = self._geometry.tree
        ranges = tree.target_range[leaves]
        ends = np.cumsum(errors * (ranges[:, 1] - ranges[:, 0]))
        mine = ends[-1] if len(ends) else 0.0
        parts = np.concatenate(self._ranks.gather(np.array([mine])))
        total = float(parts.sum())
        if not 0 < total < np.inf:
            return None
        borders = np.append(0.0, np.cumsum(parts))
        marks = marks * (total / size)
        owner = np.clip(np.searchsorted(borders, marks, side="right") - 1, 0, len(parts) - 1)
        # a rank without expected errors has none of the marks, but for rounding
        owner = np.where(parts[owner] > 0, owner, int(np.argmax(parts)))
        drawn = owner == self._ranks.rank
        rest = marks[drawn] - borders[self._ranks.rank]
        rows = np.clip(np.searchsorted(ends, rest, side="right"), 0, max(len(ends) - 1, 0))
        weights = np.diff(ends, prepend=0.0) / total
        shape = float(min(self._where.degree, STEEPEST))
        given = (
            self._geometry.targets, tree.centre[leaves], tree.edge[leaves], ranges, weights, shape
        )  # fmt: skip
        chosen = np.empty(len(rows), np.int64)
        pick(rows, inside[drawn], *given, chosen)
        begin, end = self._range()
        others = even[(even >= begin) & (even < end)] - begin
        theirs = np.searchsorted(ranges[:, 1], others, side="right")
        densities = np.empty(len(others) + len(chosen))
        both = np.concatenate([theirs, rows]), np.concatenate([others, chosen])
        densities_of(*both, *given, densities)
        of_even, of_chosen = np.split(densities, [len(others)])
        told = self._ranks.gather(np.stack([chosen + begin, of_chosen.view(np.int64)], axis=1))
        evens = np.concatenate(self._ranks.gather(of_even))
        rows_of = np.concatenate(told)
        values = np.ascontiguousarray(rows_of[:, 1]).view(np.float64)
        return rows_of[:, 0], np.concatenate([evens, values])

    def _at(self, field: np.ndarray, samples: np.ndarray | None = None) -> np.ndarray:
        """Return a field of all targets at some; default at `samples`."""
        samples = self.samples if samples is None else samples
        begin, end = self._range()
        mine = field[samples[(samples >= begin) & (samples < end)] - begin]
        return np.concatenate(self._ranks.gather(mine))

    def _places(self, samples: np.ndarray) -> np.ndarray:
        """Return where some targets are, float64."""
        return np.ascontiguousarray(self._at(self._geometry.points(np.dtype("f8"))[0], samples))

    def _senders(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how many targets there are, and the own sources."""
        return np.array([len(samples)]), np.array([[0, self._geometry.n_own]])

    def _sum(self, samples: np.ndarray) -> np.ndarray:
        return self._ranks.sum(super()._sum(samples))

    def _by_other_loops(self, samples: np.ndarray) -> np.ndarray:
        correction, self._correction = self._correction, None
        found = self._ranks.sum(super()._by_other_loops(samples))
        self._correction = correction
        return found if correction is None else found + self._at(correction, samples)

    def _term_squares(self, samples: np.ndarray) -> np.ndarray:
        return self._ranks.sum(super()._term_squares(samples))
