"""A potential in a periodic bath of charges, cut off smoothly: energies and forces that agree."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gnn.data.batching import Batch
from gnn.data.neighbours import neighbour_pairs
from gnn.data.systems import System
from gnn.engines.settings import SWITCH_WIDTH
from gnn.potential import Potential

Array = NDArray[Any]

#: Times the sum of covalent radii: a bond so long is none.
APART = 1.5


def switch(distance: Array, start: float, end: float) -> tuple[Array, Array]:
    """Return the polynomial of fifth degree that falls from 1 to 0, and its derivative.

    Both are continuous, the second derivative too.
    """
    x = np.clip((distance - start) / (end - start), 0.0, 1.0)
    value = 1 + x**3 * (-10 + x * (15 - 6 * x))
    slope = -30 * x**2 * (1 - x) ** 2 / (end - start)
    return value, slope


def nearest_image(vectors: Array, box: Array | None) -> Array:
    """Return vectors (…, 3) moved by whole boxes to near the origin.

    Parameters
    ----------
    vectors
        In Å.
    box
        Box vectors as rows, (3, 3) in Å, in reduced form as OpenMM has them. None: no box.
    """
    if box is None:
        return vectors
    for axis in (2, 1, 0):
        vectors = vectors - box[axis] * np.round(vectors[..., axis : axis + 1] / box[axis, axis])
    return vectors


class Embedding:
    """Energy of QM atoms in the point charges around them, of which the far ones fade away.

    The charges come in groups (molecules, residues) that fade as a whole, so that no group is
    split into charged parts. The weight of a group is ``w = 1 - prod_i (1 - s(r_i))``, where r_i
    is the distance of its centre to QM atom i and s falls smoothly from 1 to 0 over the last
    `switch_width` before `cutoff`. The model sees the charges ``q w`` at their minimum images.
    Forces are the exact gradient of this energy, that of the weights included.

    Parameters
    ----------
    model : Potential
        Any model of this package; its type (float32, float64) is that of the calculation.
    numbers
        Atomic numbers of the QM atoms, (n,).
    charge
        Their total charge in e.
    mm_charges
        Charges of the particles around them in e, (m,).
    groups
        Group of each particle, (m,), whole numbers from 0 without gaps; sorted.
    centres
        Weight of each particle in the centre of its group, (m,), adding up to 1 in each.
    cutoff, switch_width
        In Å, with 0 < switch_width <= cutoff.
    bonds
        Pairs of QM atoms that are bonded, (b, 2): they say why where something goes wrong.
    formal
        Each QM atom's share of the charge of its molecule in e, (n,), for models with local
        charges. It stays so whatever bonds form and break. None: there is one molecule.
    watch
        Called at every evaluation with what the model returns, by name.

    Raises
    ------
    ValueError
        If a cutoff or a shape is wrong, or the model does not know an element.
    """

    def __init__(
        self,
        model: Potential,
        numbers: Array,
        charge: int,
        mm_charges: Array,
        groups: Array,
        centres: Array,
        cutoff: float = 9.0,
        switch_width: float = SWITCH_WIDTH,
        bonds: Array | None = None,
        formal: Array | None = None,
        watch: Callable[[dict[str, torch.Tensor]], None] | None = None,
    ):
        if not 0 < switch_width <= cutoff < np.inf:
            raise ValueError(
                f"expected 0 < switch_width <= cutoff in Å, got {switch_width} and {cutoff}"
            )
        unknown = sorted(set(np.asarray(numbers).tolist()) - set(model.elements))
        if model.elements and unknown:
            raise ValueError(
                f"the model was trained on elements {model.elements} (atomic numbers) and knows "
                f"nothing of {unknown}"
            )
        self.model = model
        self.numbers = torch.tensor(np.asarray(numbers), dtype=torch.int64)
        self.charge = torch.tensor([charge], dtype=model.dtype)
        shares = (
            np.full(len(self.numbers), charge / len(self.numbers)) if formal is None else formal
        )
        self.formal = torch.tensor(np.asarray(shares), dtype=model.dtype)
        self.mm_charges = np.asarray(mm_charges, dtype=np.float64)
        self.groups, self.centres = np.asarray(groups), np.asarray(centres, dtype=np.float64)
        self.n_groups = int(self.groups[-1]) + 1 if len(self.groups) else 0
        self.first = np.searchsorted(self.groups, np.arange(self.n_groups))
        self.start, self.cutoff = cutoff - switch_width, cutoff
        self.bonds = np.zeros((0, 2), dtype=int) if bonds is None else np.asarray(bonds)
        self.watch = watch

    def energy_forces(self, positions: Array, box: Array | None = None) -> tuple[float, Array]:
        """Return the energy in eV and the forces on all particles in eV/Å.

        Parameters
        ----------
        positions
            Of the QM atoms and then of the others in Å, (n + m, 3), in any image.
        box
            Box vectors as rows in Å, (3, 3), in reduced form. None: no box.

        Raises
        ------
        ValueError
            If the box is too small for the cutoff, the atoms have come apart, positions or result
            are not finite, or the atoms are outside of what the model was trained on and its
            `unknown` is "raise".
        """
        if not np.isfinite(positions).all():
            raise ValueError("the positions hold NaN or infinity: the time step may be too long")
        n = len(self.numbers)
        atoms = positions[0] + nearest_image(positions[:n] - positions[0], box)
        try:
            radius = check_box(atoms, box, self.cutoff)
        except ValueError as error:
            raise ValueError(self._apart(atoms) or str(error)) from None
        origin = atoms.mean(axis=0)
        atoms = atoms - origin
        around, centres = self._whole_groups(positions[n:] - origin, box)
        near = np.flatnonzero(np.linalg.norm(centres, axis=1) < self.cutoff + radius)
        weights = np.zeros(self.n_groups)
        weights[near], slopes = self._weights(centres[near], atoms)
        seen = np.flatnonzero((weights[self.groups] > 0) & (self.mm_charges != 0))
        groups, charges = self.groups[seen], self.mm_charges[seen]
        output = self._evaluate(atoms, around[seen], charges * weights[groups], origin)
        forces = np.zeros_like(positions)
        forces[n + seen] = _array(output["mm_forces"])
        # what the weights do: the derivative of the energy by each, times its slope
        work = np.bincount(groups, _array(output["mm_potential"]) * charges, self.n_groups)
        pull = work[near, None, None] * slopes
        forces[:n] = _array(output["forces"]) + pull.sum(axis=0)
        on_centres = np.zeros((self.n_groups, 3))
        on_centres[near] = -pull.sum(axis=1)
        forces[n:] += self.centres[:, None] * on_centres[self.groups]
        energy = float(output["energy"][0].detach())
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise ValueError(
                self._apart(atoms)
                or "the model's energy or forces came out as NaN or infinity: the geometry has "
                "left what the model can describe (time step, start structure, training data?)"
            )
        if "novelty" in output and output["novelty"].max() > 1:
            numbers, charge = self.numbers.numpy(), int(self.charge.item())
            system = System(numbers, atoms, charge, around[seen], charges * weights[groups])
            self.model.judge([system], [{"novelty": _array(output["novelty"])}])
        if self.watch is not None:
            self.watch(output)
        return energy, forces

    def _apart(self, atoms: Array) -> str:
        """Return what to say of a molecule that is none any more; nothing where it is one."""
        numbers = self.numbers.numpy()
        length, ratio, k = longest_bond(numbers[self.bonds], atoms[self.bonds])
        if ratio < APART:
            return ""
        first, second = self.bonds[k]
        return (
            f"the molecule has fallen apart: QM atoms {first} and {second} (elements "
            f"{numbers[first]} and {numbers[second]}), which are bonded, are {length:.2f} Å apart"
        )

    def _whole_groups(self, particles: Array, box: Array | None) -> tuple[Array, Array]:
        """Return particles (m, 3), groups whole and near the origin, and their centres (g, 3)."""
        if self.n_groups == 0:
            return particles, np.zeros((0, 3))
        corner = particles[self.first]
        inside = nearest_image(particles - corner[self.groups], box)
        offset = np.add.reduceat(self.centres[:, None] * inside, self.first)
        centres = nearest_image(corner + offset, box)
        return inside + (centres - offset)[self.groups], centres

    def _weights(self, centres: Array, atoms: Array) -> tuple[Array, Array]:
        """Return weights (g,) and their slopes (g, n, 3): derivatives by the centres, per atom.

        By the atoms they are the negative of that.
        """
        vectors = centres[:, None] - atoms
        distances = np.linalg.norm(vectors, axis=2)
        values, slopes = switch(distances, self.start, self.cutoff)
        absent = 1 - values
        product = absent.prod(axis=1)
        # where a factor is zero its slope is zero, too
        others = product[:, None] / np.where(absent > 0, absent, 1.0)
        scale = others * slopes / np.maximum(distances, 1e-12)
        return 1 - product, scale[:, :, None] * vectors

    def _evaluate(
        self, atoms: Array, around: Array, charges: Array, origin: Array
    ) -> dict[str, torch.Tensor]:
        model = self.model
        senders, receivers = neighbour_pairs(atoms, model.cutoff)
        dtype, n = model.dtype, len(atoms)
        batch = Batch(
            numbers=self.numbers,
            positions=torch.tensor(atoms, dtype=dtype),
            batch=torch.zeros(n, dtype=torch.int64),
            charge=self.charge,
            mm_positions=torch.tensor(around, dtype=dtype),
            mm_moments=torch.tensor(charges[:, None], dtype=dtype),
            mm_batch=torch.zeros(len(around), dtype=torch.int64),
            uniform_field=torch.zeros(1, 3, dtype=dtype),
            external_field=torch.zeros(n, 0, dtype=dtype),
            origin=torch.tensor(origin[None]),
            senders=torch.tensor(senders),
            receivers=torch.tensor(receivers),
            n_systems=1,
            formal=self.formal,
        )
        return model(batch, forces=True, mm_forces=True, mm_potential=True)


def _array(tensor: torch.Tensor) -> Array:
    return tensor.detach().double().numpy()


def longest_bond(numbers: Array, positions: Array) -> tuple[float, float, int]:
    """Return the bond that is longest for its kind: length in Å, over the usual one, its number.

    Parameters
    ----------
    numbers
        Atomic numbers of the ends, (b, 2); without bonds the result is (0, 0, -1).
    positions
        Of the ends in Å, (b, 2, 3), whole.
    """
    if not len(numbers):
        return 0.0, 0.0, -1
    from ase.data import covalent_radii

    lengths = np.linalg.norm(positions[:, 0] - positions[:, 1], axis=1)
    ratios = lengths / covalent_radii[numbers].sum(axis=1)
    k = int(np.argmax(ratios))
    return float(lengths[k]), float(ratios[k]), k


def check_box(atoms: Array, box: Array | None, cutoff: float) -> float:
    """Return the radius of atoms about their middle in Å, if the box is wide enough for them.

    Parameters
    ----------
    atoms
        Positions of the QM atoms, whole, (n, 3) in Å.
    box
        Box vectors as rows in Å, (3, 3), in reduced form. None: no box.
    cutoff
        Reach of charges in Å.

    Raises
    ------
    ValueError
        If cutoff and radius together are more than half of the box.
    """
    radius = float(np.linalg.norm(atoms - atoms.mean(axis=0), axis=1).max())
    if box is None:
        return radius
    smallest = float(np.diag(box).min())
    if cutoff + radius > 0.5 * smallest:
        most = np.floor(10 * (0.5 * smallest - radius)) / 10
        way = "use more solvent" + (f", or a cutoff of at most {most:g} Å" if most > 0 else "")
        raise ValueError(
            f"the box ({smallest:.1f} Å at its narrowest) is too small: the cutoff ({cutoff:g} Å) "
            f"and the radius of the QM atoms ({radius:.1f} Å) together must stay below half of "
            f"it; {way}"
        )
    return radius
