"""What a model was trained on, and how far the atoms of an input lie outside of that.

The novelty of an atom is the largest of four ratios, of which 1 is the edge of training: the
distance of its last node features to those of training; the shortest distance to another atom in
training over that here, and likewise to a surrounding charge; the field of the surroundings over
the largest in training. That of a system is the largest of its atoms'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import Tensor

from gnn.data.batching import Batch
from gnn.data.checking.atoms import LONGEST, RADII
from gnn.data.elements import formula
from gnn.data.extent import Extent
from gnn.data.images import image_pairs
from gnn.data.systems import Frame, System
from gnn.layers.images import around
from gnn.trust.density import Array, Density, density_of
from gnn.trust.nearest import (
    MOST,
    code_of,
    raise_by_atoms,
    raise_by_bonds,
    raise_by_charges,
    raise_by_field,
)

#: Novelty of a system whose total charge no training frame has, if its atoms are not novel.
UNSEEN_CHARGE = 2.0
#: Novelty of an atom that is bonded to elements as no atom in training, if it is not larger.
UNSEEN_BONDS = 1.5
#: Atoms nearer than the sum of theirs are bonded, Å.
_BONDED = LONGEST * np.nan_to_num(RADII)
#: Atomic numbers of an atom and, sorted, of those that it is bonded to; and the same of each of
#: these.
Bonded = tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]
# times the shortest trained distance to an atom, or to a charge, is still the edge: runs differ
_SLACK, _CHARGE_SLACK = 0.97, 0.93
_FIELD_SLACK = 1.25  # times the largest trained field is still the edge


class Composition(NamedTuple):
    """Formula and total charge in e."""

    formula: str
    charge: int


@dataclass(frozen=True, eq=False)
class Domain:
    """What a model was trained on.

    Parameters
    ----------
    compositions
        Number of frames of each composition.
    extent
        Shortest distances and largest fields, by element.
    densities
        Where the last node features were, by atomic number.
    reach
        Cutoff of the model's edges in Å: atoms of elements that no training frame had side by
        side may come no closer.
    level
        Level of theory of the labels; "unknown" where nobody said.
    bonded
        How atoms were bonded, see `bonded_as`. None: not known, in checkpoints of an earlier
        version.
    """

    compositions: Mapping[Composition, int]
    extent: Extent
    densities: Mapping[int, Density]
    reach: float
    level: str = "unknown"
    bonded: frozenset[Bonded] | None = None

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return sum(self.compositions.values())

    @property
    def elements(self) -> list[int]:
        """Atomic numbers, sorted."""
        return sorted(self.densities)

    @property
    def charges(self) -> list[int]:
        """Total charges in e, sorted."""
        return sorted({composition.charge for composition in self.compositions})

    def novelty(self, batch: Batch, features: Tensor, gradient: Tensor | None = None) -> Tensor:
        """Return how far each atom lies outside of training, (N,) float64; 1 is the edge.

        Parameters
        ----------
        batch
            The systems.
        features
            Last node features of their atoms, (N, F).
        gradient
            Gradient of the potential of the surroundings at the atoms in V/Å, (N, 3); None where
            the model has none.
        """
        numbers, vectors = _array(batch.numbers), _edge_vectors(batch)
        novelty = np.full(len(numbers), MOST)  # of elements that no frame had
        values = _array(features)
        for z in self.densities.keys() & set(numbers.tolist()):
            own = numbers == z
            novelty[own] = np.minimum(self.densities[z].distance(values[own]), MOST)
        edges = _array(batch.senders), _array(batch.receivers)
        raise_by_atoms(novelty, numbers, vectors, *edges, self._limits)
        if self.bonded is not None:
            known = _BONDED, _marks(), self._codes
            raise_by_bonds(novelty, numbers, vectors, *edges, *known, UNSEEN_BONDS)
        if batch.n_mm:
            limits = self._charge_limits
            near = around(batch, float(limits[numbers].max(initial=0.0)))
            index, of_particle = map(_array, near.systems)
            ends = np.searchsorted(of_particle, np.arange(batch.n_systems + 1))
            charges = _array(near.particles), _array(near.moments[:, 0]), ends
            raise_by_charges(novelty, numbers, _array(near.atoms), index, *charges, limits)
        if gradient is not None:
            raise_by_field(novelty, numbers, _array(gradient), self._field_limits)
        return torch.from_numpy(novelty).to(batch.numbers.device)

    def shortest(self, first: Any, second: Any) -> Array:
        """Return the distances in Å below which atoms of two elements are too near."""
        shortest: Array = self._limits[first, second]
        return shortest

    @cached_property
    def _limits(self) -> Array:
        """Distances in Å below which atoms of two elements are too near, (95, 95)."""
        return _SLACK * np.minimum(self.extent.pairs, self.reach)

    @cached_property
    def _charge_limits(self) -> Array:
        """Those to charges, (95,): zero where training saw none, so that the density decides."""
        shortest = self.extent.charges
        return _CHARGE_SLACK * np.where(np.isfinite(shortest), shortest, 0.0)

    @cached_property
    def _field_limits(self) -> Array:
        """The largest gradients in V/Å, (95,): zero where training saw none, likewise."""
        return _FIELD_SLACK * self.extent.field

    @cached_property
    def _codes(self) -> NDArray[np.uint64]:
        """The codes of `bonded`, sorted."""
        return np.array(sorted(code_of(*one, _marks()) for one in self.bonded or ()), np.uint64)

    def system_novelty(self, system: System, novelty: Array) -> float:
        """Return that of a system: the largest of its atoms', and of a charge that is unknown."""
        largest = float(novelty.max())
        return largest if system.charge in self.charges else max(largest, UNSEEN_CHARGE)

    def state(self) -> dict[str, Any]:
        """Return plain values and tensors, for a checkpoint."""
        known = self.elements
        extent = self.extent
        return {
            "compositions": [[*c, count] for c, count in self.compositions.items()],
            "elements": known,
            "pairs": torch.tensor(extent.pairs[np.ix_(known, known)]),
            "charges": torch.tensor(extent.charges[known]),
            "field": torch.tensor(extent.field[known]),
            "densities": [self.densities[z].state() for z in known],
            "reach": self.reach,
            "level": self.level,
            "bonded": None if self.bonded is None else sorted(self.bonded),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return what `state` describes."""
        known = state["elements"]
        densities = (Density.from_state(one) for one in state["densities"])
        return cls(
            {Composition(name, charge): count for name, charge, count in state["compositions"]},
            _extent(known, *(state[key].numpy() for key in ("pairs", "charges", "field"))),
            dict(zip(known, densities, strict=True)),
            state["reach"],
            state["level"],
            None if (bonded := state.get("bonded")) is None else frozenset(bonded),
        )


def _extent(known: Sequence[int], pairs: Array, charges: Array, field: Array) -> Extent:
    """Return the extent of all elements from that of those which are known."""
    size = 95
    whole = np.full((size, size), np.inf)
    whole[np.ix_(known, known)] = pairs
    all_charges, all_fields = np.full(size, np.inf), np.zeros(size)
    all_charges[known], all_fields[known] = charges, field
    return Extent(whole, all_charges, all_fields)


def _edge_vectors(batch: Batch) -> NDArray[Any]:
    if batch.cell is not None:
        return _array(batch.edge_vectors)
    positions = _array(batch.positions)
    found: NDArray[Any] = positions[_array(batch.receivers)] - positions[_array(batch.senders)]
    return found


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array


def composition_of(system: Any) -> Composition:
    """Return formula and charge of a system, or of a frame's header."""
    return Composition(formula(system.numbers), int(system.charge))


def bonded_as(system: System) -> list[Bonded]:
    """Return how each atom is bonded, and those that it is bonded to.

    Two atoms are bonded that are nearer than 1.3 times the sum of their covalent radii.
    """
    numbers = system.numbers
    first, second = _bonds(system)
    shells = [
        (int(z), *sorted(numbers[second[first == i]].tolist())) for i, z in enumerate(numbers)
    ]
    return [
        (shell, tuple(sorted(shells[j] for j in second[first == i])))
        for i, shell in enumerate(shells)
    ]


def _bonds(system: System) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ends of all bonds in both directions, those to images, too."""
    x, reach = system.positions, _BONDED[system.numbers]
    if system.lattice is None:
        near = cdist(x, x) < reach[:, None] + reach
        np.fill_diagonal(near, False)
        first, second = np.nonzero(near)
        return first, second
    pairs = image_pairs(x, x, system.lattice, 2 * float(reach.max()))
    near = pairs.lengths(x, x, system.lattice) < reach[pairs.targets] + reach[pairs.sources]
    return pairs.targets[near], pairs.sources[near]


@cache
def _marks() -> NDArray[np.uint64]:
    """Return a number of 64 bits for each element as an atom, and as a neighbour (splitmix64)."""
    marks = []
    for k in range(1, 2 * len(_BONDED) + 1):
        x = k * 0x9E3779B97F4A7C15 % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        marks.append(x ^ x >> 31)
    return np.array(marks, np.uint64).reshape(2, -1)


def domain_of(
    compositions: Mapping[Composition, int],
    extent: Extent,
    sample: Sequence[Frame],
    features: Array,
    reach: float,
    level: str = "unknown",
) -> Domain:
    """Return the domain of a model that was trained on some frames.

    Parameters
    ----------
    compositions, extent
        Of all frames.
    sample
        All frames or some of them.
    features
        Last node features of the atoms of these, one frame after the other, (n, F).
    reach, level
        As in `Domain`.
    """
    numbers = np.concatenate([frame.system.numbers for frame in sample])
    runs = [(frame.name, frame.run) for frame in sample]
    number_of = {run: i for i, run in enumerate(dict.fromkeys(runs))}
    groups = np.repeat([number_of[run] for run in runs], [f.system.n_atoms for f in sample])
    densities = {
        int(z): density_of(features[numbers == z], groups[numbers == z]) for z in np.unique(numbers)
    }
    bonded = frozenset(one for frame in sample for one in bonded_as(frame.system))
    return Domain(dict(compositions), extent, densities, reach, level, bonded)
