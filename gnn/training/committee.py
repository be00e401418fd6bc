"""Committees: models trained alike but for chance; their mean, and how far they disagree."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gnn.data.batching import Batch
from gnn.data.systems import Frame, System
from gnn.potential import Potential
from gnn.training.checkpoint import model_from

#: What `Committee.evaluate` gives the spread of, under the name with ``_std``.
SPREADS = ("energy", "forces", "mm_forces", "dipole")


class Committee(Potential):
    """The mean of several models: a potential like any other, that also knows its uncertainty.

    Energies, multipoles and derivatives are the means of the members', so that forces are the
    gradient of the energy. `evaluate` adds the standard deviations over the members.

    Parameters
    ----------
    members : sequence of Potential, or of dict
        At least two models of one cutoff and one floating-point type; or what describes their
        architectures, as `config` returns it.

    Raises
    ------
    ValueError
        If there are fewer than two members, or they differ in cutoff or type.

    References
    ----------
    Seung, Opper & Sompolinsky, Query by committee, COLT 1992.
    """

    def __init__(self, members: Sequence[Potential | dict[str, Any]]):
        super().__init__()
        models = [model_from(m) if isinstance(m, dict) else m for m in members]
        if len(models) < 2:
            raise ValueError(f"expected at least two members of a committee, got {len(models)}")
        for what in ("cutoff", "dtype"):
            found = {getattr(model, what) for model in models}
            if len(found) > 1:
                raise ValueError(f"expected members of one {what}, got {sorted(map(str, found))}")
        self.members = nn.ModuleList(models)
        self.cutoff = models[0].cutoff
        self._describe()

    def _describe(self) -> None:
        """Take over what the members know: elements, and the mean of their baselines."""
        members = list(self._models())
        self.known = torch.stack([m.known for m in members]).all(dim=0)
        self.baseline = torch.stack([m.baseline for m in members]).mean(dim=0)
        self.charge_baseline = torch.stack([m.charge_baseline for m in members]).mean(dim=0)

    def _models(self) -> Sequence[Potential]:
        return [member for member in self.members if isinstance(member, Potential)]

    @property
    def runs_on_gpu(self) -> bool:  # type: ignore[override]
        """Whether all members do."""
        return all(member.runs_on_gpu for member in self._models())

    def config(self) -> dict[str, Any]:
        """Return the arguments from which ``Committee(**config)`` builds the same architecture."""
        members = self._models()
        return {"members": [{"kind": type(m).__name__, "config": m.config()} for m in members]}

    def _energy(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        energies, results = zip(*(member._energy(batch) for member in self._models()), strict=True)
        shared = set.intersection(*(set(result) for result in results))
        means = {name: torch.stack([r[name] for r in results]).mean(0) for name in sorted(shared)}
        return torch.stack(energies).mean(dim=0), means

    def evaluate(
        self, systems: Sequence[System | Frame], batch_size: int = 32, forces: bool = True
    ) -> list[dict[str, Any]]:
        """Return the means over the members and, under names with ``_std``, how they scatter.

        Parameters
        ----------
        systems, batch_size, forces
            As in `gnn.potential.Potential.evaluate`.

        Returns
        -------
        list of dict
            What `Potential.evaluate` returns, and sample standard deviations over the members:
            ``energy_std`` (eV), ``forces_std`` (n, 3) and ``mm_forces_std`` (m, 3) in eV/Å, and
            ``dipole_std`` (3,) in e Å.
        """
        opinions = [m.evaluate(systems, batch_size, forces) for m in self._models()]
        return [_together(found) for found in zip(*opinions, strict=True)]


def _together(opinions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return means and standard deviations of one system's results."""
    stacked = {name: np.stack([found[name] for found in opinions]) for name in opinions[0]}
    means = {name: values.mean(axis=0) for name, values in stacked.items()}
    spreads = {f"{k}_std": stacked[k].std(axis=0, ddof=1) for k in SPREADS if k in stacked}
    both = means | spreads
    return {k: float(v) if k in ("energy", "energy_std") else v for k, v in both.items()}
