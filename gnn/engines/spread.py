"""The spread of a committee in a run: looked at whenever the model is evaluated."""

from collections.abc import Mapping
from typing import Any

import torch

#: Columns of the log: standard deviations of the energy, and of the most doubtful atom's forces.
SPREAD_COLUMNS = "spread_energy_ev", "spread_force_ev_angstrom"


class SpreadExceeded(ValueError):
    """A run stopped because the members of its committee disagree too much."""


class Spread:
    """The spread of a committee at its last evaluation, which calling this with its output notes.

    That of the forces is the largest over the atoms, each atom's the root mean square of its three
    components: it is comparable with the RMSE of forces, and does not depend on orientation.

    Parameters
    ----------
    stop : float, optional
        Spread of the forces in eV/Å above which an evaluation is an error. None: none is.
    named : str
        What the user calls that limit, for the error.

    Attributes
    ----------
    energy, force
        Of the last evaluation, in eV and eV/Å.
    largest
        Of the forces, over all evaluations so far.
    exceeded
        Whether the limit was.
    """

    def __init__(self, stop: float | None = None, named: str = "--stop-spread"):
        self.stop, self.named, self.exceeded = stop, named, False
        self.energy, self.force, self.largest = 0.0, 0.0, 0.0

    def __call__(self, output: Mapping[str, Any]) -> None:
        """Note the spread in what a committee returns for one system, as tensors or arrays.

        Raises
        ------
        SpreadExceeded
            If that of the forces is above the limit.
        """
        energy, forces = (
            torch.as_tensor(output[f"{k}_std"]).detach() for k in ("energy", "forces")
        )
        self.energy = float(energy)
        self.force = float(forces.square().mean(dim=1).max().sqrt())
        self.largest = max(self.largest, self.force)
        if self.stop is not None and self.force > self.stop:
            self.exceeded = True
            raise SpreadExceeded(self.sentence(self.named, self.stop))

    def sentence(self, named: str, limit: float) -> str:
        """Say that the spread of the forces is above a limit."""
        return (
            f"the members of the committee disagree: the spread of the forces is "
            f"{self.force:.3g} eV/Å, above {named} {limit:g}"
        )

    def row(self) -> dict[str, str]:
        """Return the columns of the log."""
        values = (f"{self.energy:.6g}", f"{self.force:.6g}")
        return dict(zip(SPREAD_COLUMNS, values, strict=True))
