"""The error of a field as measured: at a few targets, against direct sums.

Half of the targets are drawn where errors are expected (`fmm.error.indicators`), half evenly. Each
draw is weighted by the inverse of its probability, so that the mean over few targets estimates that
over all, with a known standard error. The exact field is summed in float64 from the caller's own
coordinates.
"""

from collections.abc import Callable, Collection
from functools import cached_property

import numpy as np

from fmm.error.drawing import Drawn, draw
from fmm.error.evidence import Evidence
from fmm.error.indicators import Where
from fmm.error.systems import all_targets, senders_of, targets_of_systems
from fmm.near import near_field
from fmm.tree.geometry import Geometry
from multipoles import indexing
from multipoles.compiled.jit import bare, run_chunks
from multipoles.indexing import n_components, order_slice
from multipoles.neighbours import Slots
from multipoles.radial import Kernel
from multipoles.sums import field_arrays

SIZE = 64
MORE = 256
# where earlier evaluations tell of the error
FEWER = 16
# so many standard errors are added to a measured mean square error to bound it
SURE = 3.0
# The higher the degree, the fewer targets make most of the error, and a sample may miss them: the
# standard deviation of a draw is taken as at least so many times the mean, per degree and at most.
_SCATTER, _MOST_SCATTER = 0.5, 8.0
# expansions of this degree want more targets from the start
HIGH = 9
# targets and sources from which the rounding of sums is estimated
_FEW, _SENDERS = 4, 4096
# targets summed by one thread
_AT_ONCE = 16
_WIDE = np.dtype(np.float64)
_TINY = np.finfo(np.float64).tiny


class Probe:
    """Targets at which the whole field is known.

    Parameters
    ----------
    geometry : Geometry
        Points and tree.
    moments : ndarray, shape (n_sources, channels, n_components(K))
        In tree order.
    near : ndarray, shape (n_targets, channels, n_components(order))
        The near field, in tree order.
    order : int
        Highest output order.
    kernel : Kernel
        Radial kernel.
    reach : float
        Distance from which on it may be taken for 1/r.
    where : callable, optional
        Returns where errors are expected, from the root mean squares by which those of each output
        order are divided; default evenly.
    each : collection of str
        ``"system"``, ``"channel"``: what counts for itself.
    thorough : bool
        Whether to look at many targets at once.
    correction : ndarray, optional
        What scaled pairs change, in `near` and to be added to the exact field, in tree order.
    past : Evidence, optional
        Of earlier evaluations, for one group of targets: fewer are drawn now.
    """

    first, later = SIZE, FEWER
    """How many targets are drawn, and how many where earlier evaluations tell of the error."""

    def __init__(
        self,
        geometry: Geometry,
        moments: np.ndarray,
        near: np.ndarray,
        order: int,
        kernel: Kernel,
        reach: float,
        where: Callable[[np.ndarray], Where] | None = None,
        each: Collection[str] = (),
        thorough: bool = False,
        correction: np.ndarray | None = None,
        past: Evidence | None = None,
    ) -> None:
        self._geometry, self._moments, self._near, self._order = geometry, moments, near, order
        self._kernel, self._reach = kernel, reach
        self._per_channel, self._correction = "channel" in each, correction
        self.enlarged, self._past = thorough, past
        self._looked_at: tuple[np.ndarray, np.ndarray] | None = None
        self.groups = targets_of_systems(geometry) if "system" in each else self._all_targets()
        # each order in a unit of its own, so that squares neither overflow nor vanish
        self.units = units_of(self._sample(near), order)
        self._near_squares = self.squares(near)
        if not np.isfinite(self._near_squares).all():
            self.units, self._looked_at = units_of(self._largest(near), order), None
            self._near_squares = self.squares(near)
        self._where = where and where(self.overall(np.sqrt(self._near_squares)))
        # highest degree of the expansions that are judged
        self.degree = 0 if self._where is None else self._where.degree
        size, seed = self.first + MORE * thorough, 0
        if past is not None:
            size, seed = self.later, 2 + past.age
        self._take([self._draw(*group, size, seed) for group in self.groups])
        if where is not None:
            self._change_units(np.maximum(self.units, units_of(self.exact, order)))

    def _all_targets(self) -> list[tuple[int, int]]:
        """Return the range of all targets."""
        return all_targets(self._geometry)

    def _sample(self, field: np.ndarray) -> np.ndarray:
        """Return a field at some targets, evenly."""
        return field[:: 1 + len(field) // SIZE]

    def _largest(self, field: np.ndarray) -> np.ndarray:
        """Return a field that has the largest numbers of this one."""
        return field

    def _change_units(self, units: np.ndarray) -> None:
        self._near_squares = self._near_squares * ((self.units / units) ** 2)[:, None]
        self.units, self._looked_at = units, None

    @property
    def size(self) -> int:
        """How many targets are looked at."""
        return len(self.samples)

    def enlarge(self) -> None:
        """Draw more targets, unless they are many."""
        if self.enlarged:
            return
        drawn = [self._draw(*group, SIZE + MORE, seed=1) for group in self.groups]
        self._take(drawn)
        self.enlarged = True
        self.forget()

    def forget(self) -> None:
        """Let only the targets of this evaluation count."""
        self._past = None

    def _take(self, drawn: list[Drawn]) -> None:
        """Keep what was drawn: targets, each once, and the target, share and group of each draw."""
        samples = np.concatenate([samples for samples, _, _ in drawn])
        self.samples, self._draws = np.unique(samples, return_inverse=True)
        self._shares = np.concatenate([shares for _, shares, _ in drawn])
        self._even = np.concatenate([even for _, _, even in drawn])
        self._group = np.repeat(np.arange(len(drawn)), [len(samples) for samples, _, _ in drawn])
        self._exact = None

    @property
    def exact(self) -> np.ndarray:
        """The whole field at `samples`, in float64."""
        # no `cached_property`: its lock would keep ranks that are threads from meeting in the sum
        if self._exact is None:
            self._exact = self._sum(self.samples)
            if self._correction is not None:
                self._exact = self._exact + self._at(self._correction)
        return self._exact

    _exact: np.ndarray | None = None

    def norms(self) -> np.ndarray:
        """Return the root mean square of the whole field, roughly; see `squares` for the shape.

        The near field is known everywhere, the far field only here; near pairs make the tail of
        the distribution, so that this mean converges much faster than that of the whole.
        """
        inside = self._at(self._near)
        here, near = self._of_draws(self.exact), self._of_draws(inside)
        counts = np.bincount(self._group[self._even], minlength=len(self.groups))[:, None, None]
        here, near = (
            self._sums(values * self._even[:, None, None]) / np.maximum(counts, 1)
            for values in (here, near)
        )
        return np.sqrt(np.maximum(self._near_squares + here - near, 0.25 * here))

    def squares(self, field: np.ndarray) -> np.ndarray:
        """Return the mean square of a field over all targets, in `units`.

        Returns
        -------
        ndarray, shape (n_groups, order + 1, n_channels or 1)
        """
        if field is self._near and "_near_squares" in self.__dict__:
            return self._near_squares
        if self._looked_at is None or self._looked_at[0] is not field:
            squares = np.stack([mean_squares(field[a:b], self.units) for a, b in self.groups])
            squares = squares if self._per_channel else squares.sum(axis=2, keepdims=True)
            self._looked_at = field, squares
        return self._looked_at[1]

    def overall(self, norms: np.ndarray) -> np.ndarray:
        """Return root mean squares over all groups and channels, from those of each in `units`."""
        sizes = np.array([b - a for a, b in self.groups], float)[:, None, None]
        means = (norms**2 * sizes).sum(axis=(0, 2)) / max(sizes.sum(), 1.0)
        norm: np.ndarray = np.sqrt(means) * self.units
        return norm

    def errors(self, field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the root mean square error of a field over all targets, and its upper bound.

        The second is `SURE` standard errors of the mean square above the first. Both have the
        shape of `squares`.
        """
        values, group = self._contributions(field), self._group
        if self._past is not None:
            squares = np.maximum(self.squares(field), _TINY)
            values = self._past.with_new(values / squares) * squares
            group = np.zeros(len(values), np.int64)
        counts = np.bincount(group, minlength=len(self.groups))[:, None, None]
        mean = self._sums(values, group) / np.maximum(counts, 1)
        spread = self._sums((values - mean[group]) ** 2, group)
        spread = np.sqrt(spread / (np.maximum(counts - 1, 1) * np.maximum(counts, 1)))
        least = min(_SCATTER * self.degree, _MOST_SCATTER) / np.sqrt(np.maximum(counts, 1))
        spread = np.maximum(spread, mean * least)
        sizes = np.array([last - first for first, last in self.groups])
        spread[sizes <= counts[:, 0, 0]] = 0.0
        return np.sqrt(mean), np.sqrt(mean + SURE * spread)

    def _contributions(self, field: np.ndarray) -> np.ndarray:
        """Return the square error at every draw, times what it stands for.

        The mean over the draws of a group is the mean over its targets.
        """
        counts = np.bincount(self._group, minlength=len(self.groups))[self._group]
        shares = self._shares * counts
        return self._of_draws(self._at(field) - self.exact) * shares[:, None, None]

    def evidence(self, field: np.ndarray) -> Evidence | None:
        """Return what later evaluations may use; None if there are several groups, or no error."""
        squares = self.squares(field)
        if len(self.groups) > 1 or self._where is None or not np.all(squares > 0):
            return None
        new = self._contributions(field) / squares
        if self._past is not None:
            return self._past.followed_by(new, self._where.errors)
        return Evidence((new,), self._where.errors)

    def crosscheck(self, field: np.ndarray) -> tuple[np.ndarray, int]:
        """Return the root mean square error at a few targets, by other loops, and their number.

        The loops of `multipoles.field`: whatever the kernels of plans are made of, these are not.
        Shape of `squares`.
        """
        chosen = [self._few_of(group) for group in range(len(self.groups))]
        samples = np.unique(np.concatenate(chosen))
        if not len(samples):
            return np.zeros_like(self._near_squares), 0
        difference = self._at(field, samples) - self._by_other_loops(samples)
        squares = np.stack([self._reduced(difference, k) for k in range(self._order + 1)], axis=1)
        rows = [np.isin(samples, few) for few in chosen]
        return np.sqrt([squares[row].mean(axis=0) for row in rows]), len(samples)

    def _few_of(self, group: int) -> np.ndarray:
        """Return a few of the samples of a group that were drawn evenly."""
        drawn = np.unique(self._draws[(self._group == group) & self._even])
        few: np.ndarray = self.samples[drawn[:: max(1, len(drawn) // _FEW)]]
        return few

    def _by_other_loops(self, samples: np.ndarray) -> np.ndarray:
        """Return the whole field at ascending targets by the loops of `multipoles.field`."""
        moments = np.ascontiguousarray(self._moments, _WIDE)
        targets, sources = self._places(samples), self._geometry.points(_WIDE)[1]
        counts, senders = self._senders(samples)
        out, end = np.zeros((len(samples), moments.shape[1], n_components(self._order))), 0
        for count, (first, last) in zip(counts.tolist(), senders.tolist(), strict=True):
            begin, end = end, end + count
            out[begin:end] = field_arrays(
                targets[begin:end], sources[first:last],
                moments[first:last], self._order, self._kernel, Slots(count, last - first),
            )  # fmt: skip
        return out if self._correction is None else out + self._at(self._correction, samples)

    def terms(self) -> np.ndarray:
        """Return the root mean square, over a few targets, of the root of the sum of squared terms.

        What rounding does to a sum is of the size of its terms, however small the sum is. Sources
        are thinned out where they are many. Shape of `squares`.
        """
        out = np.zeros_like(self._near_squares)
        for group in range(len(self.groups)):
            squares = self._term_squares(self._few_of(group))
            # terms that overflow say nothing: the field overflows with them, and that is reported
            squares = np.where(np.isfinite(squares), squares, 0.0)
            out[group] = np.sqrt(squares) / self.units[:, None]
        if self._correction is not None:
            out = np.hypot(out, np.sqrt(self.squares(self._correction)))
        return out

    def _draw(self, first: int, last: int, size: int, seed: int) -> Drawn:
        """Return some of the targets first ... last - 1."""
        return draw(self._geometry, self._where, first, last, size, seed)

    # --- sums -------------------------------------------------------------------------------------

    def _reduced(self, field: np.ndarray, k: int) -> np.ndarray:
        """Return the squares of one order at every target, over all channels or for each."""
        part = field[..., order_slice(k)].astype(np.float64) / self.units[k]
        squares: np.ndarray = np.einsum("nck,nck->nc", part, part)
        return squares if self._per_channel else squares.sum(axis=1, keepdims=True)

    def _of_draws(self, values: np.ndarray) -> np.ndarray:
        """Return the squares of values at samples, per draw: (n_draws, order + 1, channels)."""
        rows = [self._reduced(values, k) for k in range(self._order + 1)]
        return np.stack(rows, axis=1)[self._draws]

    def _sums(self, values: np.ndarray, group: np.ndarray | None = None) -> np.ndarray:
        """Return the sums over the draws of each group."""
        out = np.zeros((len(self.groups), *values.shape[1:]))
        np.add.at(out, self._group if group is None else group, values)
        return out

    def _at(self, field: np.ndarray, samples: np.ndarray | None = None) -> np.ndarray:
        """Return a field of all targets at some; default at `samples`."""
        values: np.ndarray = field[self.samples if samples is None else samples]
        return values

    def _places(self, samples: np.ndarray) -> np.ndarray:
        """Return where some targets are, float64."""
        return np.ascontiguousarray(self._geometry.points(_WIDE)[0][samples])

    def _senders(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how many of ascending targets are of each system, and its range of sources."""
        return senders_of(samples, *self._geometry.roots)

    def _sum(self, samples: np.ndarray) -> np.ndarray:
        """Return the whole field at ascending targets, in float64."""
        geometry, moments = self._geometry, self._moments.astype(_WIDE, copy=False)
        targets, sources = self._places(samples), geometry.points(_WIDE)[1]
        counts, senders = self._senders(samples)
        # a few targets at a time, so that threads may share them
        parts = -(-counts // _AT_ONCE)
        leaf = np.repeat(np.arange(len(counts)), parts)
        part = np.arange(len(leaf)) - np.repeat(np.cumsum(parts) - parts, parts)
        begin = (np.cumsum(counts) - counts)[leaf] + part * _AT_ONCE
        end = np.minimum(begin + _AT_ONCE, np.cumsum(counts)[leaf])
        exact = np.zeros((len(samples), moments.shape[1], n_components(self._order)))
        near_field(
            targets, sources, moments, self._order,
            (np.stack([begin, end], axis=1), np.arange(len(leaf) + 1),
             np.ascontiguousarray(senders[leaf])),
            exact, kernel=self._kernel, reach=self._reach,
        )  # fmt: skip
        return exact

    def _term_squares(self, samples: np.ndarray) -> np.ndarray:
        """Return the mean over some targets of the sum of squared terms."""
        counts, senders = self._senders(samples)
        order_of = indexing.order_of(self._moments.shape[2])
        starts = [order_slice(j).start for j in range(order_of + 1)]
        channels = self._near_squares.shape[2]
        out = np.zeros((channels, len(samples), self._order + 1))
        ends = np.cumsum(counts)
        for begin, end, (first, last) in zip(ends - counts, ends, senders.tolist(), strict=True):
            step = max(1, (last - first) // _SENDERS)
            here, there, moments = self._some(samples[begin:end], np.arange(first, last, step))
            squares = moments**2 if self._per_channel else (moments**2).sum(axis=1, keepdims=True)
            sizes = np.add.reduceat(squares, starts, axis=2)
            for channel in range(channels):
                _square_terms(
                    here, there, sizes[:, channel], _sizes(order_of + self._order), self._damped,
                    out[channel, begin:end],
                )  # fmt: skip
            out[:, begin:end] *= step
        return (out.sum(axis=1) / max(len(samples), 1)).T

    @cached_property
    def _damped(self) -> float:
        """The square of a distance within which the kernel rises no more; zero of 1/r."""
        if self._reach <= 0:
            return 0.0
        return float(self._kernel.chain(1e-6 * self._reach, 0)[0]) ** -2

    def _some(self, samples: np.ndarray, senders: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return some targets, some sources and their moments, float64."""
        sources = self._geometry.points(_WIDE)[1][senders]
        return self._places(samples), sources, self._moments[senders].astype(_WIDE)


def units_of(field: np.ndarray, order: int) -> np.ndarray:
    """Return the power of two next to the largest number of each order; one where all are zero."""
    largest = [np.abs(field[..., order_slice(k)]).max(initial=0.0) for k in range(order + 1)]
    known = np.isfinite(largest) & (np.array(largest) > 0)
    return np.ldexp(1.0, np.frexp(np.where(known, largest, 1.0).astype(np.float64))[1])


def root_mean_squares(field: np.ndarray, order: int) -> np.ndarray:
    """Return the root mean square over all targets of the size of each order, all channels."""
    units = units_of(field, order)
    means: np.ndarray = mean_squares(field, units).sum(axis=1)
    return np.sqrt(means) * units


def mean_squares(field: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Return the mean over targets of the sum of squares of each order and channel.

    Parameters
    ----------
    field : ndarray, shape (n, n_channels, n_components(order))
    units : ndarray, shape (order + 1,)
        In which each order is counted.

    Returns
    -------
    ndarray, shape (order + 1, n_channels)
    """
    order = len(units) - 1
    starts = np.array([order_slice(k).start for k in range(order + 2)])
    factors = 1.0 / units
    n, channels = field.shape[:2]

    def task(first: int, last: int) -> np.ndarray:
        out = np.zeros((order + 1, channels))
        _add_squares(first, last, field, factors, starts, out)
        return out

    nothing = np.zeros((order + 1, channels))
    mean: np.ndarray = sum(run_chunks(task, n, 0.2 * field.size), start=nothing) / max(n, 1)
    return mean


def _sizes(top: int) -> np.ndarray:
    """Return the square of the norm of the derivatives of 1/r of each order at r = 1."""
    n = np.arange(top + 1)
    return np.cumprod(np.maximum((2 * n - 1) * n, 1.0))


# --- loops ----------------------------------------------------------------------------------------


@bare
def _add_squares(first, last, field, factors, starts, out):
    # column by column of rows that stay in cache, so that a sum is kept in registers
    for begin in range(first, last, 256):
        end = min(begin + 256, last)
        for channel in range(field.shape[1]):
            for k in range(out.shape[0]):
                total = 0.0
                for column in range(starts[k], starts[k + 1]):
                    for i in range(begin, end):
                        value = np.float64(field[i, channel, column]) * factors[k]
                        total += value * value
                out[k, channel] += total


@bare
def _square_terms(targets, sources, sizes, norms, damped, out):
    """Add, per output order, the square of the size of every source's term at every target."""
    for i in range(targets.shape[0]):
        for s in range(sources.shape[0]):
            r2 = 0.0
            for axis in range(3):
                d = targets[i, axis] - sources[s, axis]
                r2 += d * d
            if r2 == 0.0:
                continue
            inverse = 1.0 / (r2 + damped)
            power = 1.0
            for k in range(out.shape[1]):
                power *= inverse
                link = power
                for j in range(sizes.shape[1]):
                    out[i, k] += sizes[s, j] * norms[j + k] * link
                    link *= inverse
