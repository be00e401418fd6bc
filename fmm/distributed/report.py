"""What a plan on many ranks chose, what it cost, and what ranks sent each other."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from fmm.distributed.ranks import Ranks, Traffic
from fmm.report import Report


@dataclass
class DistributedReport(Report):
    """Choices, seconds, errors and traffic; see `fmm.Report`.

    Attributes
    ----------
    n_ranks, rank : int
        Number of ranks, and this one.
    owned : tuple of int
        Targets and sources that this rank owns, and sources of others that it has beside them.
    everywhere : tuple of int
        Targets and sources of all ranks.
    busy : ndarray, shape (n_ranks,)
        Seconds of the last evaluation in which each rank did not wait for others.
    traffic : Traffic
        What this rank sent in the last evaluation, and how long it waited.
    """

    n_ranks: int = 1
    rank: int = 0
    owned: tuple[int, int, int] = (0, 0, 0)
    everywhere: tuple[int, int] = (0, 0)
    busy: np.ndarray | None = None
    traffic: Traffic | None = None

    @classmethod
    def of_ranks(
        cls, report: Report, ranks: Ranks, traffic: Traffic, busy: np.ndarray, geometry: Any
    ) -> "DistributedReport":
        """Return a report with what there is to say of ranks."""
        given = {f.name: getattr(report, f.name) for f in fields(report)}
        ghosts = len(geometry.sources) - geometry.n_own
        owned = len(geometry.targets), geometry.n_own, ghosts
        return cls(
            **given, n_ranks=ranks.size, rank=ranks.rank, owned=owned,
            everywhere=geometry.everywhere, busy=busy, traffic=traffic,
        )  # fmt: skip

    @property
    def imbalance(self) -> float:
        """Busy seconds of the slowest rank over the mean; one is perfect, zero: unknown."""
        if self.busy is None or not self.busy.sum() > 0:
            return 0.0
        return float(self.busy.max() / self.busy.mean())

    def __str__(self) -> str:
        targets, sources, ghosts = self.owned
        lines = [
            f"rank {self.rank} of {self.n_ranks}: owns {targets} of {self.everywhere[0]} targets "
            f"and {sources} of {self.everywhere[1]} sources, sums {ghosts} of others beside them",
            super().__str__(),
        ]
        if self.traffic is not None and self.seconds:
            lines.append(
                f"sent {self.traffic.bytes / 1e6:.3g} MB in {self.traffic.messages} messages, "
                f"summed {self.traffic.reduced_bytes / 1e6:.3g} MB over ranks in "
                f"{self.traffic.reductions} calls, waited {1e3 * self.traffic.waited:.1f} ms; the "
                f"busiest rank takes {self.imbalance:.2f} times the mean"
            )
        return "\n".join(lines)
