"""The base class of all potentials: batches in, energies, forces and multipoles out."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist
from torch import Tensor, nn

from gnn.baseline import check_bond, constants, warn_of_open_energies
from gnn.data.batching import Batch, collate
from gnn.data.streaming import Header
from gnn.data.systems import Frame, System
from gnn.units import COULOMB

N_ELEMENTS = 95
_AT_ONCE = 256  # frames evaluated at once to fit the baseline
_LARGEST = 1e6  # eV per atom beyond which an energy is an error: uranium has 0.76e6
PER_ATOM = ("forces", "charges", "dipoles", "quadrupoles")


class Potential(nn.Module):
    """An energy of atoms in their surroundings, with its derivatives.

    A subclass sets `cutoff` (of the graph's edges, Å) and defines `_energy`. The derivatives are
    taken here, so that they are the energy's own.

    Attributes
    ----------
    baseline : Tensor
        (95,) float64 energy per element in eV, which the network does not learn.
    charge_baseline : Tensor
        () float64 energy per unit of total charge in eV.
    known : Tensor
        (95,) bool, elements seen in training.
    charges : {"local", "shared"} or None
        How `gnn.AMP` conserves charge, and so what a batch has to say of it; None for others.
    """

    cutoff: float
    known: Tensor
    runs_on_gpu: ClassVar[bool] = True
    baseline: Tensor
    charge_baseline: Tensor
    charges: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self._warned = False
        self.register_buffer("baseline", torch.zeros(N_ELEMENTS, dtype=torch.float64))
        self.register_buffer("charge_baseline", torch.zeros((), dtype=torch.float64))
        self.register_buffer("known", torch.zeros(N_ELEMENTS, dtype=torch.bool))

    def config(self) -> dict[str, Any]:
        """Return plain values from which `from_config` builds the same architecture."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a model of the architecture that `config` describes, with fresh weights."""
        return cls(**config)

    def _energy(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return energies (B,) in eV without the baseline, and the atoms' multipoles.

        Those are ``charges`` (N,) e, ``dipoles`` (N, 3) e Å and ``quadrupoles`` (N, 3, 3) e Å²,
        and ``dipole`` (B, 3) where the molecular dipole is not the response to a field.
        """
        raise NotImplementedError

    @property
    def elements(self) -> list[int]:
        """Atomic numbers seen in training, sorted; empty before `set_baseline`."""
        return torch.nonzero(self.known)[:, 0].tolist()

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return next(self.parameters()).dtype

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Cast parameters, but never the baseline: total energies need float64."""
        kept = self.baseline, self.charge_baseline
        super()._apply(fn, recurse)
        self.baseline, self.charge_baseline = (b.to(self.baseline.device) for b in kept)
        return self

    def set_baseline(
        self, frames: Iterable[Frame | Header], isolated: Mapping[int, float] | None = None
    ) -> None:
        """Fit the constant part of the energy to labelled frames, and note their elements.

        By least squares of the total energies: one energy per element, and one times the total
        charge. Where compositions do not determine these, the solution of least norm is taken.
        Frames without an energy count for the elements only; a warning names those whose energies
        the others do not determine.

        Energies of isolated atoms are taken as they are, and only those of other elements are
        fitted. If none is missing, the network begins from the mean energy per atom that is left,
        which is of the order of a bond energy.

        Parameters
        ----------
        frames
            Labelled frames, or their heads.
        isolated
            Energies of isolated atoms in eV, by atomic number.

        Raises
        ------
        ValueError
            If there is no frame.
        """
        self.baseline.zero_()
        self.charge_baseline.zero_()
        self._fit_baseline(frames, repeat(0.0), isolated or {})

    def refit_baseline(self, frames: Sequence[Frame]) -> None:
        """Fit the constant part of the energy anew, to energies minus those of the network.

        For labels of another level of theory than those that the model was trained on. Constants
        that the frames do not determine stay as they were, and elements that the model knew stay
        known.

        Raises
        ------
        ValueError
            If there is no frame.
        """
        known = self.known.clone()
        self.known.fill_(False)
        predicted: list[float] = []
        for start in range(0, len(frames), _AT_ONCE):
            chunk = frames[start : start + _AT_ONCE]
            labelled = [frame for frame in chunk if frame.energy is not None]
            energies = iter([result["energy"] for result in self.evaluate(labelled, forces=False)])
            predicted += [0.0 if frame.energy is None else next(energies) for frame in chunk]
        self._fit_baseline(frames, predicted, {})
        self.known.logical_or_(known)

    def _fit_baseline(
        self,
        frames: Iterable[Frame | Header],
        predicted: Iterable[float],
        isolated: Mapping[int, float],
    ) -> None:
        """Add the constants that are fitted to energies minus predictions.

        Frames of one composition are one row of the fit.
        """
        residuals: dict[tuple[bytes, int], list[float]] = {}
        unlabelled: dict[tuple[bytes, int], int] = {}
        for frame, energy in zip(frames, predicted, strict=False):
            counts = np.bincount(frame.system.numbers, minlength=N_ELEMENTS)
            key = counts.tobytes(), frame.system.charge
            of_composition = residuals.setdefault(key, [])
            if frame.energy is None:
                unlabelled[key] = unlabelled.get(key, 0) + 1
            else:
                of_composition.append(frame.energy - energy)
        if not residuals:
            raise ValueError("expected at least one frame to fit the baseline, got none")
        rows = np.stack([np.append(np.frombuffer(c, dtype=np.int64), q) for c, q in residuals])
        self.known.copy_(torch.from_numpy(rows[:, :-1].any(axis=0)))
        labelled = np.array([bool(some) for some in residuals.values()])
        weights = np.sqrt([len(some) for some in residuals.values() if some])
        means = np.array([np.mean(some) for some in residuals.values() if some])
        fixed = {z: isolated[z] for z in self.elements if z in isolated}
        all_fixed = bool(fixed) and len(fixed) == len(self.elements)
        solution, bond = constants(rows[labelled], weights, means, fixed, all_fixed)
        self.baseline += torch.from_numpy(solution[:-1]).to(self.baseline)
        self.charge_baseline += float(solution[-1])
        if all_fixed:
            check_bond(bond)
            self._begin_from(bond)
        else:
            without_energy = [unlabelled.get(key, 0) for key in residuals]
            warn_of_open_energies(rows, labelled, without_energy, fixed)

    def _begin_from(self, bond: float) -> None:
        """Let the network begin from a mean energy in eV per atom, relative to isolated atoms."""
        raise TypeError(f"{type(self).__name__} takes no energies of isolated atoms")

    def forward(
        self,
        batch: Batch,
        forces: bool = False,
        mm_forces: bool = False,
        create_graph: bool = False,
        mm_potential: bool = False,
    ) -> dict[str, Tensor]:
        """Evaluate a batch.

        Parameters
        ----------
        batch : Batch
            From `gnn.data.batching.collate`.
        forces, mm_forces : bool
            Also return the forces on atoms, and on surrounding particles (of fixed orientation).
        create_graph : bool
            Keep the graph of the derivatives, to train on them.
        mm_potential : bool
            Also return the derivatives of the energies by the surrounding charges.

        Returns
        -------
        dict
            ``energy`` (B,) eV float64, ``charges`` (N,), ``dipoles`` (N, 3), ``quadrupoles``
            (N, 3, 3); ``forces`` (N, 3) and ``mm_forces`` (M, 3) in eV/Å when asked for, and
            then also ``dipole`` (B, 3) in e Å about the batch's centred origin, which is minus
            the derivative of the energy by a uniform field; ``mm_potential`` (M,) in V when asked
            for: the potential of the atoms at the surrounding charges.
        """
        if batch.positions.is_cuda and not self.runs_on_gpu:
            raise ValueError(
                f"{type(self).__name__} runs on the CPU, got a batch on {batch.positions.device}; "
                "AMP runs on a GPU"
            )
        derived = forces or mm_forces
        asked = {
            "positions": forces,
            "mm_positions": mm_forces,
            "uniform_field": derived,
            "mm_moments": mm_potential,
        }
        with torch.set_grad_enabled(any(asked.values()) or torch.is_grad_enabled()):
            leaves = {
                name: getattr(batch, name).detach().requires_grad_()
                for name, wanted in asked.items()
                if wanted
            }
            energy, results = self._energy(replace(batch, **leaves))
            gradients = (
                torch.autograd.grad(
                    energy.sum(),
                    list(leaves.values()),
                    create_graph=create_graph,
                    materialize_grads=True,
                )
                if leaves
                else ()
            )
        names = {"positions": "forces", "mm_positions": "mm_forces", "uniform_field": "dipole"}
        for leaf, gradient in zip(leaves, gradients, strict=True):
            if leaf == "mm_moments":
                results["mm_potential"] = gradient[:, 0]
            else:
                results.setdefault(names[leaf], -gradient)
        baseline = energy.new_zeros(batch.n_systems, dtype=torch.float64)
        baseline.index_add_(0, batch.batch, self.baseline[batch.numbers])
        baseline += self.charge_baseline * batch.charge.double()
        results["energy"] = energy.double() + baseline
        return results

    def evaluate(
        self, systems: Sequence[System | Frame], batch_size: int = 32, forces: bool = True
    ) -> list[dict[str, Any]]:
        """Return energy, forces and multipoles of each system as NumPy arrays.

        Parameters
        ----------
        systems : sequence of System or Frame
            May differ in size, charge and number of surrounding particles.
        batch_size : int
            Systems evaluated at once.
        forces : bool
            Whether to take derivatives; without them, ``forces``, ``mm_forces`` and ``dipole``
            are missing.

        Returns
        -------
        list of dict
            Per system: ``energy`` (float, eV), ``forces`` (n, 3) and ``mm_forces`` (m, 3) in
            eV/Å, ``charges`` (n,) e, ``dipoles`` (n, 3) e Å, ``quadrupoles`` (n, 3, 3) e Å²,
            ``dipole`` (3,) e Å about the origin of the coordinates.

        Raises
        ------
        ValueError
            If a system holds an element that the model was not trained on, its energy or forces
            are not finite or its energy beyond that of any atoms, or the model's charges are local
            and those of the system's parts neither given nor told by bonds.
        TypeError
            If `systems` is a single system.
        """
        if isinstance(systems, System | Frame):
            raise TypeError(f"expected a list of systems, got one {type(systems).__name__}: [it]")
        if batch_size < 1:
            raise ValueError(f"expected batch_size >= 1, got {batch_size}")
        results: list[dict[str, Any]] = []
        for start in range(0, len(systems), batch_size):
            part = systems[start : start + batch_size]
            self._check_elements(part)
            local = self.charges == "local"
            batch = collate(part, self.cutoff, dtype=self.dtype, local_charges=local)
            self._warn_of_shared_charges(part, batch)
            with torch.no_grad():
                output = self(batch.to(self.baseline.device), forces=forces, mm_forces=forces)
            results += _per_system(output, batch)
            _check_results(results, part, start)
        return results

    def _warn_of_shared_charges(self, systems: Sequence[System | Frame], batch: Batch) -> None:
        """Say once that far parts of a system are not what they are alone."""
        if self.charges != "shared" or self._warned:
            return
        given = [item.system if isinstance(item, Frame) else item for item in systems]
        if batch.formal is None or any(system.charges is not None for system in given):
            self._warned = True
            warnings.warn(
                "a system has several parts, and the model's charges are shared (it was made "
                'before charges="local"): charges of far parts leak into each other, and energies '
                "of distant molecules do not add up; train anew, or give all but one of the parts "
                "as surroundings",
                stacklevel=3,
            )

    def _check_elements(self, systems: Sequence[System | Frame]) -> None:
        known = self.elements
        if not known:
            return
        for item in systems:
            system = item.system if isinstance(item, Frame) else item
            unknown = sorted(set(system.numbers.tolist()) - set(known))
            if unknown:
                raise ValueError(
                    f"the model was trained on elements {known} (atomic numbers) and knows "
                    f"nothing of {unknown}; train on data that contain them"
                )


def _check_results(
    results: Sequence[dict[str, Any]], systems: Sequence[System | Frame], start: int
) -> None:
    """Refuse results that are not finite, and energies that no nuclei and electrons have."""
    for i, item in enumerate(systems, start):
        system = item.system if isinstance(item, Frame) else item
        for name, value in results[i].items():
            if not np.isfinite(value).all():
                raise ValueError(
                    f"system {i}: the {name} came out as NaN or infinity: {_extremes(system)}"
                )
        energy = results[i]["energy"]
        size = _LARGEST * system.n_atoms
        if abs(energy) > size and (energy < 0 or energy > size + _bare_repulsion(system)):
            raise ValueError(
                f"system {i}: the energy came out as {energy:.3g} eV, which no nuclei and "
                f"electrons have: {_extremes(system)}"
            )


def _bare_repulsion(system: System) -> float:
    """Return the energy in eV of the nuclei without electrons."""
    if system.n_atoms < 2:
        return 0.0
    first, second = np.triu_indices(system.n_atoms, 1)
    z = system.numbers.astype(np.float64)
    return COULOMB * float((z[first] * z[second] / pdist(system.positions)).sum())


def _extremes(system: System) -> str:
    """Describe the extremes of a system, which may be beyond a model."""
    remarks = []
    tree = cKDTree(system.positions)
    if system.n_atoms > 1:
        distances, others = tree.query(system.positions, k=2)
        i = int(distances[:, 1].argmin())
        pair = sorted((i, int(others[i, 1])))
        numbers = " and ".join(str(z) for z in system.numbers[pair])
        remarks.append(
            f"the nearest atoms {pair[0]} and {pair[1]} (atomic numbers {numbers}) are "
            f"{distances[i, 1]:.3g} Å apart"
        )
    if system.n_mm:
        distances, atoms = tree.query(system.mm_positions)
        j = int(distances.argmin())
        remarks.append(
            f"charge {j} is {distances[j]:.3g} Å from atom {atoms[j]}, and the largest is "
            f"{abs(system.mm_charges).max():.3g} e"
        )
    if system.charge:
        remarks.append(f"the total charge is {system.charge} e")
    if system.uniform_field is not None and system.uniform_field.any():
        strength = float(abs(system.uniform_field).max())
        remarks.append(f"the uniform field goes up to {strength:.3g} V/Å")
    size = max(float(abs(x).max(initial=0)) for x in (system.positions, system.mm_positions))
    remarks.append(f"coordinates go up to {size:.3g} Å")
    return ", ".join(remarks) + "; one of these is beyond what the model or its precision can do"


def _per_system(output: dict[str, Tensor], batch: Batch) -> list[dict[str, Any]]:
    arrays = {k: v.detach().double().cpu().numpy() for k, v in output.items()}
    atoms = np.bincount(batch.batch.numpy(), minlength=batch.n_systems).cumsum()[:-1]
    particles = np.bincount(batch.mm_batch.numpy(), minlength=batch.n_systems).cumsum()[:-1]
    split: dict[str, Any] = {"energy": arrays["energy"].tolist()}
    if "mm_forces" in arrays:  # with derivatives
        split["dipole"] = arrays["dipole"] + (batch.charge.double()[:, None] * batch.origin).numpy()
        split["mm_forces"] = np.split(arrays["mm_forces"], particles)
    split |= {name: np.split(arrays[name], atoms) for name in PER_ATOM if name in arrays}
    return [{name: parts[i] for name, parts in split.items()} for i in range(batch.n_systems)]
