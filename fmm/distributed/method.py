"""Plans of points that lie on the ranks of MPI: the same sums, by the same calls."""

import warnings
from collections.abc import Collection
from time import perf_counter
from typing import Any

import numpy as np

from fmm import arguments, method
from fmm.distributed.geometry import Foreign
from fmm.distributed.mpi import MpiRanks
from fmm.distributed.ranks import Ranks, Traffic, agreed, together
from fmm.distributed.report import DistributedReport
from fmm.distributed.steps import OverRanks, SharedSteps
from fmm.exclusions import Exclusions
from fmm.steps import Steps
from multipoles import checks
from multipoles.lattice.options import Lattice
from multipoles.neighbours import PairList
from multipoles.radial import Coulomb, Kernel

_COULOMB = Coulomb()
# points of a rank, and times its share, from which on there is a warning
_FEW, _UNEVEN = 1000, 3.0


class FMM(method.FMM):
    """Fields of multipoles at points of many ranks: plan once, apply often; see `fmm.FMM`.

    All ranks make the plan, and call its methods, together. Each gives its own points, any number
    of them and in any order, and gets the field there. Points are shared out by stretches of a
    Morton curve of about the same cost (as measured, when a plan is rebuilt), and every rank gets
    what it needs of others: the sources next to its own points, the expansions of boxes farther
    away, and the top of the tree, which is summed over ranks.

    Parameters
    ----------
    sources, targets : array_like, shape (n, 3)
        Those of this rank; NumPy. A rank may have none.
    comm : mpi4py.MPI.Comm, optional
        The ranks; default ``MPI.COMM_WORLD``. Keyword only.
    tolerance, source_order, order, channels, leaf_size, kernel, each, cell, periodic, background, \
    surface
        As of `fmm.FMM`, the same on all ranks. The tolerance is that of all ranks together; `each`
        may be ``"channel"``.
    pair_scale : tuple (pairs, factors), optional
        Pairs among the points that this rank gives, see `fmm.FMM`.

    Raises
    ------
    TypeError, ValueError
        On all ranks, if an argument of one has the wrong type, shape or range, holds NaN or
        infinity, or is another than on rank 0.
    ImportError
        If there is no mpi4py, or no MPI.

    Warns
    -----
    RuntimeWarning
        On all ranks, if one owns more than three times its share.

    Notes
    -----
    An error of one rank that the others do not share ends the run on all of them, with a message;
    so does an exception that nobody catches. ``sys.exit`` is none: a rank that may leave by it
    should be run by ``python -m mpi4py script.py``, which ends the others, too.

    Examples
    --------
    ``mpiexec -n 4 python script.py``, with a script like this one:

    >>> import numpy as np, fmm.distributed, multipoles as mp
    >>> positions = np.random.default_rng(0).random((20000, 3))  # of this rank
    >>> plan = fmm.distributed.FMM(positions, tolerance=1e-4)
    >>> plan.field(mp.pack(charges=np.ones(20000))).shape
    (20000, 4)
    """

    def __init__(
        self,
        sources: Any,
        targets: Any = None,
        tolerance: float = 1e-6,
        source_order: int = 0,
        order: int = 1,
        *,
        comm: Any = None,
        channels: int = 1,
        leaf_size: int | None = None,
        kernel: Kernel = _COULOMB,
        each: str | Collection[str] = (),
        pair_scale: Any = None,
        cell: Any = None,
        periodic: Any = True,
        background: bool = True,
        surface: str = "conductor",
    ) -> None:
        self._ranks: Ranks = comm if hasattr(comm, "post_sum") else MpiRanks(comm)
        options = {
            "tolerance": tolerance, "source_order": source_order, "order": order,
            "channels": channels, "leaf_size": leaf_size, "kernel": kernel, "each": each,
            "cell": cell, "periodic": periodic, "background": background, "surface": surface,
        }  # fmt: skip
        with together(self._ranks, "FMM"):
            agreed(self._ranks, lambda: _check_each(each))
            _check_alike(self._ranks, options, targets is not None and targets is not sources)
            super().__init__(sources, targets, pair_scale=pair_scale, **options)
            self._tell_balance()

    def _steps(self, sources: Any, targets: Any) -> Steps:
        def check() -> None:
            for array in (sources, targets):
                if array is not None and checks.on_device(array):
                    raise TypeError(
                        "expected points in arrays of NumPy on every rank, got a "
                        f"{type(array).__name__} on a GPU"
                    )

        agreed(self._ranks, check)
        return SharedSteps(self._ranks)

    def _exclusions(self, pair_scale: Any, x: Any, s: Any, batches: Any) -> Exclusions | None:
        """Return what scaled pairs mean: on all ranks something, if on any."""
        found = agreed(self._ranks, lambda: Exclusions.made(pair_scale, x, s, batches))
        if not self._ranks.largest(np.array([int(found is not None)]))[0]:
            return None
        none = PairList(np.empty((0, 2), np.int64), len(x), len(s), np.empty(0))
        return found or Exclusions(none)

    def _steps_in(self, lattice: Lattice, kernel: Kernel, tolerance: float) -> Steps:
        from fmm.distributed.cell_steps import SharedCellSteps

        return SharedCellSteps(self._ranks, lattice, kernel, tolerance)

    def field(self, moments: Any, order: int | None = None) -> np.ndarray:
        """Return the field of the multipoles of all ranks at the targets of this one.

        Parameters
        ----------
        moments : array_like, shape (n_sources, [channels,] n_components(K))
            Of the sources that this rank gave; channels and order are those of all ranks.
        order : int, optional
            Highest derivative; default that of the plan.

        Returns
        -------
        ndarray, shape (n_targets, [channels,] n_components(order))
            See `fmm.FMM.field`.

        Raises
        ------
        TypeError, ValueError
            On all ranks, if an argument of one has the wrong type, shape or range.

        Warns
        -----
        RuntimeWarning
            On all ranks, if the tolerance is not kept.
        """
        before, start = self._ranks.traffic.copy(), perf_counter()
        with together(self._ranks, "field"):
            _check_alike(self._ranks, {"order": self.order if order is None else order})
            found = super().field(moments, order)
        self._traffic = self._ranks.traffic - before
        self._busy = max(perf_counter() - start - self._traffic.waited, 0.0)
        return found

    def energy(self, moments: Any) -> float:
        """Return the energy of the moments of the sites of all ranks, see `fmm.FMM.energy`."""
        with together(self._ranks, "energy"):
            self._check_moments(moments)
            return self._summed(super().energy(moments))

    def energy_forces(self, moments: Any, *, virial: bool = False) -> tuple[Any, ...]:
        """Return the energy of all ranks, and forces and gradients of this rank's sites.

        Raises
        ------
        TypeError, ValueError
            See `fmm.FMM.energy_forces`; ValueError also if the virial is asked for.
        """
        with together(self._ranks, "energy_forces"):
            _check_alike(self._ranks, {"virial": virial})
            if virial:
                raise ValueError("virial: expected False on several ranks; use fmm.Mesh on one")
            self._check_moments(moments)
            energy, *others = super().energy_forces(moments)
            return (self._summed(energy), *others)

    def torques(self, moments: Any) -> np.ndarray:
        """Return the torque on each site of this rank, see `fmm.torques`."""
        with together(self._ranks, "torques"):
            self._check_moments(moments)
            return super().torques(moments)

    def _check_moments(self, moments: Any) -> None:
        """Refuse moments of sites on all ranks, if they are not as they should be on one."""
        agreed(self._ranks, lambda: checks.moments(moments, self.n_sources))

    def _summed(self, energy: float) -> float:
        return float(self._ranks.sum(np.array([energy]))[0])

    def transpose(self) -> "FMM":
        """Return the plan with targets and sources exchanged, see `fmm.FMM.transpose`."""
        with together(self._ranks, "transpose"):
            other = super().transpose()
        assert isinstance(other, FMM)
        return other

    def rebuild(
        self,
        sources: Any,
        targets: Any = None,
        source_batch: Any = None,
        target_batch: Any = None,
        *,
        check: bool | None = None,
        cell: Any = None,
    ) -> None:
        """Go over to new positions, see `fmm.FMM.rebuild`; points change ranks as they move.

        Where a rank gives as many as before, points are shared out by what they have cost in the
        last evaluation. It may give other numbers, too.

        Parameters
        ----------
        sources, targets
            Those of this rank.
        source_batch, target_batch : None
            There is one system.
        check, cell
            See `fmm.FMM.rebuild`, the same on all ranks.

        Raises
        ------
        TypeError, ValueError
            On all ranks, see `fmm.FMM.rebuild`.
        """
        with together(self._ranks, "rebuild"):
            batches = source_batch is not None or target_batch is not None
            options = {"check": check, "cell": cell, "batches": batches}
            _check_alike(self._ranks, options, targets is not None and targets is not sources)
            shapes = agreed(self._ranks, lambda: self._shapes(sources, targets))
            steps = self._layout.steps
            assert isinstance(steps, OverRanks)
            steps.weights = self._costs(*shapes)
            try:
                given = sources, targets, source_batch, target_batch
                super().rebuild(*given, check=check, cell=cell)
            finally:
                # what is placed later are others, or targets that have become sources
                for used in (steps, self._layout.steps):
                    assert isinstance(used, OverRanks)
                    used.weights = None
            self._tell_balance()

    def _shapes(self, sources: Any, targets: Any) -> list[tuple[int, ...]]:
        """Return the shapes of arrays beside those of the plan."""
        arguments.same_place(self._layout.steps, sources, targets)
        return [np.shape(sources), np.shape(sources if targets is None else targets)]

    def _tell_balance(self) -> None:
        """Warn, on all ranks, where one owns far more than its share."""
        geometry = self._layout.geometry
        owned = len(geometry.targets) + len(geometry.own_sources)
        shares = np.concatenate(self._ranks.gather(np.array([owned])))
        most, mean = int(shares.max()), float(shares.mean())
        if mean >= _FEW and most > _UNEVEN * mean:
            warnings.warn(
                f"rank {int(shares.argmax())} owns {most / mean:.1f} times its share of the "
                "points: they lie too close together, beside the extent of all, for ranks to part "
                "them; sums are right, but others wait for it",
                RuntimeWarning,
                stacklevel=4,
            )

    def _check_sizes(self, sizes: tuple[int, int]) -> None:
        """Refuse nothing: points may change ranks."""

    def _costs(
        self, sources: tuple[int, ...], targets: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return what targets and sources cost in the last evaluation, if it is known.

        By the shapes of what is given now.
        """
        alike = sources[:1] == (self.n_sources,) and targets[:1] == (self.n_targets,)
        known = alike and self._busy > 0 and self._shown is self._layout.geometry
        if -self._ranks.largest(np.array([-int(known)]))[0] == 0:
            return None
        assert isinstance(self._shown, Foreign)
        return self._shown.costs(self._busy, self._report.seconds.get("near field", 0.0))

    _traffic, _busy = Traffic(), 0.0

    def report(self, *, synchronise: bool = False) -> DistributedReport:
        """Return what was chosen, and cost, error and traffic of the last evaluation.

        All ranks call it together. Numbers are those of all ranks, seconds those of this one.
        """
        with together(self._ranks, "report"):
            found = super().report()
            told = np.concatenate(self._ranks.gather(np.array([self._busy])))
            return DistributedReport.of_ranks(found, self._ranks, self._traffic, told, self._shown)


def _check_each(each: Any) -> None:
    """Refuse systems, of which there is one."""
    if each == "system" or (not isinstance(each, str) and "system" in tuple(each)):
        raise ValueError("each: expected 'channel' or nothing on several ranks, got 'system'")


def _check_alike(ranks: Ranks, options: dict[str, Any], has_targets: bool | None = None) -> None:
    """Refuse options that are not the same on all ranks; None: not asked."""
    given = {name: _in_words(value) for name, value in options.items()}
    if has_targets is not None:
        given["targets"] = "targets of their own" if has_targets else "no targets of their own"
    text = "\n".join(f"{name}: {value}" for name, value in given.items())
    told = ranks.gather(np.frombuffer(text.encode(), np.uint8))
    first = told[0].tobytes().decode().split("\n")
    for rank, letters in enumerate(told):
        for one, other in zip(first, letters.tobytes().decode().split("\n"), strict=False):
            if one != other:
                raise ValueError(
                    f"expected the same options on all ranks, got {one} on rank 0 and {other} on "
                    f"rank {rank}"
                )


def _in_words(value: Any) -> str:
    """Return a value so that equal ones have equal words, on one line."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, str | bool | int | float):
        return repr(value)
    if isinstance(value, Kernel):
        return f"{type(value).__name__}({sorted(vars(value).items())})".replace("\n", " ")
    try:
        array = np.asarray(value)
        return repr((array.astype(float) if array.dtype.kind in "iuf" else array).tolist())
    except (TypeError, ValueError):
        return repr(value).replace("\n", " ")
