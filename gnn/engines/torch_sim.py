"""Our models in torch-sim: many small systems that move in one batch.

torch_sim.integrate(system=atoms, model=BatchedModel(), integrator=…)
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from gnn.data.systems import System
from gnn.data.values import total_charge
from gnn.engines._models import ready_model
from gnn.potential import Potential

try:
    from torch_sim.models.interface import ModelInterface
except ImportError as error:
    raise ImportError(
        "gnn.engines.torch_sim needs the package torch-sim-atomistic: pip install "
        "torch-sim-atomistic"
    ) from error


class BatchedModel(ModelInterface):
    """A model of this package as torch-sim asks for it.

    Units are torch-sim's: eV and Å. Systems with ``pbc`` repeat in all directions.

    Parameters
    ----------
    model : Potential, path of a checkpoint, or None
        None: the one that ships.
    charge : int
        Total charge in e of every system: torch-sim's states have none. Formal charges of several
        molecules follow from their bonds, anew in each evaluation.
    dtype : torch.dtype or str, optional
        Type in which the model computes and results come. None: that of its weights.
    compute_stress : bool
        Whether to return the stress of periodic systems.
    batch_size : int
        Systems evaluated at once.

    Raises
    ------
    OSError, ValueError, TypeError
        If the checkpoint cannot be read, or an argument is wrong.
    """

    def __init__(
        self,
        model: Potential | str | Path | None = None,
        *,
        charge: int = 0,
        dtype: torch.dtype | str | None = None,
        compute_stress: bool = False,
        batch_size: int = 64,
    ):
        super().__init__()
        self.model = ready_model(model, dtype)
        self.charge, self.batch_size = total_charge(charge), batch_size
        self._dtype, self._device = self.model.dtype, torch.device("cpu")
        self._compute_forces, self._compute_stress = True, compute_stress

    def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
        """Return ``energy`` (systems,), ``forces`` (atoms, 3), and ``stress`` (systems, 3, 3).

        Parameters
        ----------
        state : torch_sim.SimState
            Positions, numbers, and which system each atom belongs to; cells where it is periodic.

        Raises
        ------
        ValueError
            If a stress is wanted of what has no cell, or the model cannot compute a system.
        """
        if self._compute_stress and not state.pbc:
            raise ValueError("compute_stress: the systems are not periodic and have no stress")
        systems = self._systems(state)
        found = self.model.evaluate(systems, self.batch_size, stress=self._compute_stress)
        results = {
            "energy": np.array([one["energy"] for one in found]),
            "forces": np.concatenate([one["forces"] for one in found]),
        }
        if self._compute_stress:
            results["stress"] = np.stack([one["stress"] for one in found])
        where = state.positions.device
        return {
            name: torch.tensor(a, dtype=self._dtype, device=where) for name, a in results.items()
        }

    def _systems(self, state: Any) -> list[System]:
        index = state.system_idx.cpu().numpy()
        ends = np.flatnonzero(np.diff(index, append=index[-1] + 1)) + 1
        positions = np.split(state.positions.detach().double().cpu().numpy(), ends[:-1])
        numbers = np.split(state.atomic_numbers.cpu().numpy(), ends[:-1])
        cells: list[Any] = [None] * len(ends)
        if state.pbc:
            cells = list(state.row_vector_cell.detach().double().cpu().numpy())
        parts = zip(numbers, positions, cells, strict=True)
        return [System(z, x, self.charge, cell=cell) for z, x, cell in parts]
