"""The base class of all potentials: batches in, energies, forces and multipoles out."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from gnn.baseline import check_bond, constants, residuals, warn_of_open_energies
from gnn.data.batching import Batch, collate
from gnn.data.extent import Extent, extent_of
from gnn.data.parts import parts_of
from gnn.data.streaming import Header, StreamedFrames
from gnn.data.systems import Frame, System
from gnn.graphs import Graphs, copied
from gnn.outputs import (
    check_place,
    check_stress,
    energy_between,
    moments_of,
    per_system,
    strained,
    stress_of,
)
from gnn.trust.domain import Composition, Domain, composition_of, domain_of
from gnn.trust.sanity import check_results
from gnn.trust.words import checked_policy, tell

N_ELEMENTS = 95
_AT_ONCE = 256  # frames evaluated at once to fit the baseline
_SAMPLED = 1000  # frames whose node features are looked at, of those trained on


class Results(NamedTuple):
    """Energies (B,) in eV, what else `Potential._energy` returns, gradients by leaves by name."""

    energy: Tensor
    results: dict[str, Tensor]
    gradients: dict[str, Tensor]


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
    domain : Domain or None
        What the model was trained on (see `set_domain`); None where nobody said.
    unknown : {"warn", "ignore", "raise"}
        What is done about systems outside of that: a warning, once for each composition; nothing;
        or a ValueError.
    graphs : bool
        Whether steps on a CUDA device are recorded and replayed where a shape comes again, in
        `evaluate` and the engines; at first what the variable ANISOLE_GRAPHS says (0: no).
    charges : {"local", "shared"} or None
        How `gnn.AMP` conserves charge, and so what a batch has to say of it; None for others.
    frozen : bool
        A promise that nobody changes weights by ways that torch does not count, such as ``.data``
        or NumPy. Compiled passes then need not compare all of them in each call. It counts for as
        long as no weight requires a gradient.
    """

    cutoff: float
    domain: Domain | None = None
    unknown: str = "warn"
    graphs: bool = os.environ.get("ANISOLE_GRAPHS", "1") != "0"
    frozen: bool = False
    damping: float = 2.0  # inverse width in 1/Å of the Gaussians as which charges act
    known: Tensor
    runs_on_gpu: ClassVar[bool] = True
    takes_cells: ClassVar[bool] = False  # whether systems may be in cells
    baseline: Tensor
    charge_baseline: Tensor
    charges: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self._looked_at: set[bytes] = set()  # lists of atoms whose parts were looked for, …
        self._warned = False  # … until it was said that they share charge
        self.register_buffer("baseline", torch.zeros(N_ELEMENTS, dtype=torch.float64))
        self.register_buffer("charge_baseline", torch.zeros((), dtype=torch.float64))
        self.register_buffer("known", torch.zeros(N_ELEMENTS, dtype=torch.bool))
        self._told: dict[Composition, int] = {}
        self._graphs = Graphs()

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
        and ``dipole`` (B, 3) where the molecular dipole is not the response to a field. Under
        private names, which `forward` takes away, they may come with what novelty is read from:
        ``_features`` (N, F), the last node features, and ``_gradient`` (N, 3) in V/Å, that of the
        potential of the surroundings.
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

    def refit_baseline(self, frames: Sequence[Frame], warn: bool = True) -> None:
        """Fit the constant part of the energy anew, to energies minus those of the network.

        For labels of another level of theory than those that the model was trained on, or for a
        network that begins from energies of its own, those of ions' charges above all. Constants
        that the frames do not determine stay as they were, and elements that the model knew stay
        known.

        Parameters
        ----------
        frames
            Labelled frames.
        warn
            Name frames whose energies the others do not determine.

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
        self._fit_baseline(frames, predicted, {}, warn)
        self.known.logical_or_(known)

    def _fit_baseline(
        self,
        frames: Iterable[Frame | Header],
        predicted: Iterable[float],
        isolated: Mapping[int, float],
        warn: bool = True,
    ) -> None:
        """Add the constants that are fitted to energies minus predictions.

        Frames of one composition are one row of the fit.
        """
        rows, labelled, weights, means, without_energy = residuals(frames, predicted, N_ELEMENTS)
        self.known.copy_(torch.from_numpy(rows[:, :-1].any(axis=0)))
        fixed = {z: isolated[z] for z in self.elements if z in isolated}
        all_fixed = bool(fixed) and len(fixed) == len(self.elements)
        solution, bond = constants(rows[labelled], weights, means, fixed, all_fixed)
        self.baseline += torch.from_numpy(solution[:-1]).to(self.baseline)
        self.charge_baseline += float(solution[-1])
        if all_fixed:
            check_bond(bond)
            self._begin_from(bond)
        elif warn:
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
        stress: bool = False,
        field_response: bool = False,
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
        stress : bool
            Also return the derivatives of the energies by a strain of positions and cell, over
            the volume.
        field_response : bool
            Also return the derivatives of the energies by the external field.

        Returns
        -------
        dict
            ``energy`` (B,) eV float64, ``charges`` (N,), ``dipoles`` (N, 3), ``quadrupoles``
            (N, 3, 3); ``forces`` (N, 3) and ``mm_forces`` (M, 3) in eV/Å when asked for, and
            then also ``dipole`` (B, 3) in e Å about the batch's centred origin, which is minus
            the derivative of the energy by a uniform field; ``mm_potential`` (M,) in V when asked
            for: the potential of the atoms at the surrounding charges; ``field_response`` in e Å^k,
            of the shape of `Batch.external_field`, when asked for (beyond order 2 it is zero: third
            derivatives of the field act through ``forces`` alone); ``stress`` (B, 3, 3) in eV/Å³
            when asked for. The dipole of a system in a cell, and the stress of one that
            has none, are NaN. A model with a domain adds ``novelty`` (N,) of the atoms.

        Raises
        ------
        ValueError
            If the model cannot compute the batch where it is, or in cells, or a stress is asked
            for that is not defined.

        Notes
        -----
        The energy of `Batch.between` is part of the energy and of all its derivatives; it is also
        there by itself, as ``energy_between`` (B,) in eV.
        """
        self._check_batch(batch, stress)
        given = forces, mm_forces, create_graph, mm_potential, stress, field_response
        results = self._evaluated(batch, *given)
        seen, field = (results.pop(name, None) for name in ("_features", "_gradient"))
        if self.domain is not None and seen is not None:
            results["novelty"] = self.domain.novelty(batch, seen, field)
        return results

    def evaluated(self, batch: Batch, asked: Mapping[str, bool]) -> dict[str, Tensor]:
        """Return what `forward` does of a batch that the model can compute, but for novelty.

        In its place there are ``_features`` and ``_gradient``, from which it is told.
        """
        return self._evaluated(batch, **asked)

    def _evaluated(
        self,
        batch: Batch,
        forces: bool = False,
        mm_forces: bool = False,
        create_graph: bool = False,
        mm_potential: bool = False,
        stress: bool = False,
        field_response: bool = False,
    ) -> dict[str, Tensor]:
        derived = forces or mm_forces
        asked = {
            "positions": forces,
            "mm_positions": mm_forces,
            "uniform_field": derived,
            "mm_moments": mm_potential,
            "external_field": field_response,
        }
        found, learns = None, create_graph and torch.is_grad_enabled()
        if (
            batch.room is None
            and not stress
            and (any(asked.values()) or not torch.is_grad_enabled())
        ):
            if learns:
                found = self._learning(batch, asked)
            elif not create_graph:
                found = self._compiled(batch, asked)
        energy, results, gradients = found or self._by_graph(batch, asked, create_graph, stress)
        names = {"positions": "forces", "mm_positions": "mm_forces", "uniform_field": "dipole"}
        for leaf, gradient in gradients.items():
            if leaf == "mm_moments":
                results["mm_potential"] = gradient[:, 0]
            elif leaf == "external_field":
                results["field_response"] = gradient
            elif leaf == "strain":
                results["stress"] = stress_of(batch, gradient)
            else:
                results.setdefault(names[leaf], -gradient)
        if batch.cell is not None and "dipole" in results:
            inside = batch.in_cell[:, None]
            results["dipole"] = results["dipole"].masked_fill(inside, torch.nan)
        baseline = energy.new_zeros(batch.n_systems, dtype=torch.float64)
        baseline.index_add_(0, batch.batch, self.baseline[batch.numbers])
        baseline += self.charge_baseline * batch.charge.double()
        results["energy"] = energy.double() + baseline
        return results

    def stepped(self, batch: Batch, **asked: bool) -> dict[str, Tensor]:
        """Evaluate a batch of the host where the model is; the results are on the host.

        On a CUDA device, steps of a shape that comes again are recorded and replayed (`graphs`).

        Parameters
        ----------
        batch : Batch
            On the host.
        **asked : bool
            As in `forward`.
        """
        device, results = self.baseline.device, None
        if self.graphs and _records_on(device):
            self._check_batch(batch, bool(asked.get("stress")))
            results = self._graphs(self, batch, asked, device)
        if results is None:
            if device.type == "cpu":
                return self(batch, **asked)
            return copied(self(batch.to(device), **asked))
        seen, field = (results.pop(name, None) for name in ("_features", "_gradient"))
        if self.domain is not None and seen is not None:
            results["novelty"] = self.domain.novelty(batch, seen, field)
        return results

    @property
    def has_fixed_shapes(self) -> bool:
        """Whether a step of the model can be recorded: nothing in it waits for the host."""
        return True

    def _compiled(self, batch: Batch, asked: Mapping[str, bool]) -> Results | None:
        """Return what `_by_graph` does by another way, if there is one for this batch."""
        return None

    def _learning(self, batch: Batch, asked: Mapping[str, bool]) -> Results | None:
        """Return the same with the graph of derivatives by parameters, if there is such a way."""
        return None

    def _by_graph(
        self, batch: Batch, asked: Mapping[str, bool], create_graph: bool, stress: bool
    ) -> Results:
        """Return energies (B,), multipoles, and the gradients by leaves that are asked for."""
        with torch.set_grad_enabled(any(asked.values()) or stress or torch.is_grad_enabled()):
            leaves = {
                name: getattr(batch, name).detach().requires_grad_()
                for name, wanted in asked.items()
                if wanted
            }
            given = replace(batch, **leaves)
            if stress:
                leaves["strain"] = batch.positions.new_zeros(batch.n_systems, 3, 3).requires_grad_()
                given = strained(given, leaves["strain"])
            energy, results = self._energy(given)
            if batch.between:
                results["energy_between"] = energy_between(given, results)
                energy = energy + results["energy_between"]
            gradients: Sequence[Tensor] = ()
            total = energy.sum()
            if given.room is not None and given.room.answer is not None:
                moments = moments_of(results)
                total = total + (moments * given.room.answer(moments.detach())).sum()
            if leaves:
                gradients = torch.autograd.grad(
                    total,
                    list(leaves.values()),
                    create_graph=create_graph,
                    materialize_grads=True,
                )
        return Results(energy, results, dict(zip(leaves, gradients, strict=True)))

    def _check_batch(self, batch: Batch, stress: bool) -> None:
        """Refuse a batch that the model cannot compute."""
        check_place(batch, type(self).__name__, self.runs_on_gpu, self.takes_cells)
        if stress:
            check_stress(batch)

    def models(self) -> Sequence["Potential"]:
        """Return the model itself, or the members of a committee."""
        return [self]

    def set_domain(
        self, frames: Sequence[Frame], level: str = "unknown", extent: Extent | None = None
    ) -> None:
        """Note what the model was trained on, so that it can tell what it does not know.

        Parameters
        ----------
        frames
            That it was trained on; labels are not used. Node features are computed for up to 1000
            of them.
        level
            Level of theory of their labels.
        extent
            Of the frames, with the model's damping, where it is known already.

        Raises
        ------
        ValueError
            If there is no frame.
        TypeError
            If it is a model that hands out no node features.
        """
        if not len(frames):
            raise ValueError("expected at least one frame that the model was trained on, got none")
        headers = frames.headers() if isinstance(frames, StreamedFrames) else frames
        count = Counter(composition_of(one.system) for one in headers)
        extent = extent or extent_of(frames, self.damping)
        size = min(len(frames), _SAMPLED)
        sample = [frames[i * len(frames) // size] for i in range(size)]
        for model in self.models():
            features = model._calibrate(sample)
            model.domain = domain_of(count, extent, sample, features, model.cutoff, level)
            model._told.clear()

    def _calibrate(self, frames: Sequence[Frame]) -> np.ndarray:
        """Return the last node features of the atoms of training frames, (n, F).

        A model that is bounded by what it calculates for these frames takes the bounds from them.
        """
        return self._features_of(frames)

    @torch.no_grad()
    def _features_of(self, frames: Sequence[Frame]) -> np.ndarray:
        """Return the last node features of the atoms of some frames, (n, F)."""
        found = []
        for start in range(0, len(frames), _AT_ONCE):
            part, local = frames[start : start + _AT_ONCE], self.charges == "local" or None
            batch = collate(part, self.cutoff, dtype=self.dtype, local_charges=local)
            features = self._energy(batch.to(self.baseline.device))[1].get("_features")
            if features is None:
                raise TypeError(f"{type(self).__name__} hands out no node features")
            found.append(features.double().cpu().numpy())
        return np.concatenate(found)

    def evaluate(
        self,
        systems: Sequence[System | Frame],
        batch_size: int = 32,
        forces: bool = True,
        *,
        stress: bool = False,
        strict: bool = False,
        unknown: str | None = None,
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
        stress : bool
            Whether to return the stress of systems in cells.
        strict : bool
            Raise a ValueError for systems outside of what the model was trained on: the same as
            ``unknown="raise"``.
        unknown : {"warn", "ignore", "raise"}, optional
            What to do about such systems: warn, once for each composition; nothing; or raise.
            None: what the model's attribute of this name says, at first "warn".

        Returns
        -------
        list of dict
            Per system: ``energy`` (float, eV), ``forces`` (n, 3) and ``mm_forces`` (m, 3) in
            eV/Å, ``charges`` (n,) e, ``dipoles`` (n, 3) e Å, ``quadrupoles`` (n, 3, 3) e Å²,
            ``dipole`` (3,) e Å about the origin of the coordinates. A system in a cell has no
            ``dipole``, but, if asked for, a ``stress`` (3, 3) in eV/Å³. Of a model with a domain
            also ``novelty`` (n,) and ``system_novelty`` (float): how far each atom, and the system,
            lies outside of training (1 is the edge; `gnn.trust`).

        Raises
        ------
        ValueError
            If a system holds an element that the model was not trained on, its energy or forces
            are not finite or its energy beyond that of any atoms, or the model's charges are local
            and those of the system's parts neither given nor told by bonds; and of `strict`.
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
            local = self.charges == "local" or None
            batch = collate(part, self.cutoff, dtype=self.dtype, local_charges=local)
            self._warn_of_shared_charges(part)
            with torch.no_grad():
                asked = {"forces": forces, "mm_forces": forces}
                if stress and batch.cell is not None:  # others have none
                    asked["stress"] = True
                output = self.stepped(batch, **asked)
            results += per_system(output, batch)
            check_results(results, part, start)
        self.judge(systems, results, "raise" if strict else unknown)
        return results

    def judge(
        self,
        systems: Sequence[System | Frame],
        results: Sequence[dict[str, Any]],
        unknown: str | None = None,
    ) -> None:
        """Add the systems' novelty to results, and speak of those that are outside of training."""
        unknown = checked_policy(self.unknown if unknown is None else unknown)
        if self.domain is None:
            return
        for item, result in zip(systems, results, strict=True):
            system = item.system if isinstance(item, Frame) else item
            result["system_novelty"] = self.domain.system_novelty(system, result["novelty"])
        tell(systems, self.domain, results, unknown, self._told)

    def _warn_of_shared_charges(self, items: Sequence[System | Frame]) -> None:
        """Say once that far parts of a system are not what they are alone.

        Parts are looked for in the first system of each list of atoms.
        """
        if self.charges != "shared" or self._warned:
            return
        for item in items:
            system = item.system if isinstance(item, Frame) else item
            atoms = system.numbers.tobytes()
            if atoms in self._looked_at:
                continue
            self._looked_at.add(atoms)
            if parts_of(system.numbers, system.positions, system.lattice).any():
                self._warned = True
                warnings.warn(
                    "a system has several parts, and the model's charges are shared (it was made "
                    'before charges="local"): charges of far parts leak into each other, and '
                    "energies of distant molecules do not add up; train anew, or give all but one "
                    "of the parts as surroundings",
                    stacklevel=3,
                )
                return

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


def _records_on(device: torch.device) -> bool:
    """Return whether steps can be recorded on a device."""
    return device.type == "cuda"
