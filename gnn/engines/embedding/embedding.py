"""A potential in a bath of charges, cut off or periodic: energies and forces that agree."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from gnn.data.batching import Batch
from gnn.data.neighbours import neighbour_pairs
from gnn.data.systems import System
from gnn.engines.devices import in_its_thread
from gnn.engines.embedding.groups import SWITCH_WIDTH, Groups, Near
from gnn.engines.embedding.images import Array, Tree, gap_between_images
from gnn.engines.embedding.periodic import Around, FarField
from gnn.engines.embedding.zone import Surroundings, Zone
from gnn.potential import Potential

#: Times the sum of covalent radii: a bond so long is none.
APART = 1.5


class Placed(NamedTuple):
    """Where everything is, about a common origin.

    Attributes
    ----------
    atoms : ndarray
        (n, 3) in Å, whole.
    near : Near
        The charges near them.
    sites : ndarray
        (m, 3) in Å, all charges, in any image.
    origin : ndarray
        (3,), what was subtracted.
    """

    atoms: Array
    near: Near
    sites: Array
    origin: Array


class Embedding:
    """Energy of a zone of atoms in the point charges around it.

    The model sees those that are near one by one. They come in groups (molecules, residues) that
    fade as a whole, so that no group is split into charged parts: see
    `gnn.engines.embedding.groups.Groups`. The model sees the charges ``q w``. What they lack, and
    all others with all images, are nothing at all, or act as an external field where the
    electrostatics is periodic: see `gnn.engines.embedding.periodic`. Forces are the exact gradient
    of this energy, that of the weights included.

    Parameters
    ----------
    model : Potential
        Any model of this package; its type (float32, float64) is that of the calculation.
    zone : Zone
        The atoms that it computes.
    surroundings : Surroundings, optional
        The charges around them. None: there are none.
    cutoff, switch_width
        In Å, with 0 < switch_width <= cutoff.
    watch
        Called at every evaluation with what the model returns, by name.
    periodic
        Whether all charges of a box act, with all their images, and the zone's own images, too.

    Attributes
    ----------
    evaluate : callable
        Takes a `Batch` of one system, returns what the model says of it with forces, forces on the
        surroundings, their potential, and the response to the external field.
    far : FarField or None
        The sums of periodic electrostatics.
    coupling : float
        What the charges, and the images of the zone, are multiplied by, 1 at first; at 0 the atoms
        are in vacuum.
    slope : float
        Derivative of the energy in eV by `coupling`, of the last evaluation; NaN at 0, where the
        model sees no charges.

    Raises
    ------
    ValueError
        If a cutoff is wrong, or the model does not know an element.
    """

    def __init__(
        self,
        model: Potential,
        zone: Zone,
        surroundings: Surroundings | None = None,
        cutoff: float = 9.0,
        switch_width: float = SWITCH_WIDTH,
        watch: Callable[[dict[str, torch.Tensor]], None] | None = None,
        periodic: bool = False,
    ):
        if not 0 < switch_width <= cutoff < np.inf:
            raise ValueError(
                f"expected 0 < switch_width <= cutoff in Å, got {switch_width} and {cutoff}"
            )
        numbers = np.asarray(zone.numbers)
        unknown = sorted(set(numbers.tolist()) - set(model.elements))
        if model.elements and unknown:
            raise ValueError(
                f"the model was trained on elements {model.elements} (atomic numbers) and knows "
                f"nothing of {unknown}"
            )
        particles = zone.sites.weights.shape[1]
        self.model, self.zone, self.cutoff, self.watch = model, zone, cutoff, watch
        self.surroundings = surroundings or Surroundings.none(particles)
        self.groups = Groups(self.surroundings, cutoff - switch_width, cutoff)
        self.evaluate: Callable[[Batch], dict[str, torch.Tensor]] = self._of_model
        self.far = FarField(self.surroundings.charges) if periodic else None
        self.coupling, self.slope = 1.0, np.nan
        self._tree = Tree(zone.held, particles)
        self._numbers = torch.tensor(numbers, dtype=torch.int64)
        self._charge = torch.tensor([zone.charge], dtype=model.dtype)
        self._dtype = self._charge.numpy().dtype
        formal = zone.formal
        shares = np.full(len(numbers), zone.charge / len(numbers)) if formal is None else formal
        self._formal = torch.tensor(np.asarray(shares), dtype=model.dtype)

    def energy_forces(self, positions: Array, box: Array | None = None) -> tuple[float, Array]:
        """Return the energy in eV and the forces on all particles in eV/Å.

        Parameters
        ----------
        positions
            Of all particles in Å, (particles, 3), in any image.
        box
            Box vectors as rows in Å, (3, 3), in reduced form. None: no box.

        Raises
        ------
        ValueError
            If the box is too small, the atoms have come apart, positions or result are not finite,
            or the atoms are outside of what the model was trained on and its `unknown` is "raise".
        """
        if not np.isfinite(positions).all():
            raise ValueError("the positions hold NaN or infinity: the time step may be too long")
        placed = self.placed(positions, box)
        if not self.coupling:
            placed = placed._replace(near=placed.near.unseen())
        atoms, near = placed.atoms, placed.near
        charges = self.coupling * self.surroundings.charges[near.sites]
        seen = charges * near.weights
        far = self._around(placed, seen, box)
        output = self.evaluate(self._batch(placed, seen, far))
        on_points, by_seen = array(output["mm_forces"]), array(output["mm_potential"])
        pulled, work = np.zeros((len(self.surroundings.charges), 3)), 0.0
        if far is not None:
            response = self._response(output)
            pulled, more_on_points, more_by_seen = far.reaction(response)
            on_points, by_seen = on_points + more_on_points, by_seen + more_by_seen
            work = far.work(response) + float(output["energy_between"][0].detach())
        on_atoms, on_sites = self.groups.forces(near, on_points, by_seen * charges, len(atoms))
        work += float(by_seen @ seen)
        self.slope = work / self.coupling if self.coupling else np.nan
        on_atoms += array(output["forces"])
        on_sites += pulled
        forces = self.zone.sites.spread(on_atoms) + self.surroundings.sites.spread(on_sites)
        energy = float(output["energy"][0].detach())
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise ValueError(
                self._apart(atoms)
                or "the model's energy or forces came out as NaN or infinity: the geometry has "
                "left what the model can describe (time step, start structure, training data?)"
            )
        if "novelty" in output and output["novelty"].max() > 1:
            numbers, charge = self._numbers.numpy(), self.zone.charge
            system = System(numbers, atoms, charge, near.points, seen)
            self.model.judge([system], [{"novelty": array(output["novelty"])}])
        if self.watch is not None:
            self.watch(output)
        return energy, forces

    def placed(self, positions: Array, box: Array | None) -> Placed:
        """Return where atoms and charges are."""
        positions = self._tree.whole(positions, box)
        atoms = self.zone.sites.at(positions)
        try:
            self._check_bonds(atoms)
            check_box(atoms, box, self.cutoff)
            origin = atoms.mean(axis=0)
            sites = self.surroundings.sites.at(positions) - origin
            near = self.groups.near(atoms - origin, sites, box)
        except ValueError as error:
            raise ValueError(self._apart(atoms) or str(error)) from None
        return Placed(atoms - origin, near, sites, origin)

    def _around(self, placed: Placed, seen: Array, box: Array | None) -> Around | None:
        """Return the sums over all images; None where there are none."""
        if self.far is None or not self.coupling:
            return None
        if box is None:
            raise ValueError("periodic electrostatics: expected a box, got none")
        near = placed.near.points, seen
        return self.far.around(placed.atoms, placed.sites, near, box, self.coupling)

    def _response(self, output: dict[str, torch.Tensor]) -> Array:
        """Return the derivatives by the external field, after a check that there are any."""
        response = array(output["field_response"])
        if not response.any() and self.surroundings.charges.any():
            raise ValueError(
                f"{type(self.model).__name__} does not answer to an external field, by which far "
                'charges act: use electrostatics="cutoff"'
            )
        return response

    def _check_bonds(self, atoms: Array) -> None:
        """Refuse a molecule that is in pieces, each beyond the reach of the other."""
        first, second = atoms[self.zone.bonds].swapaxes(0, 1)
        longest = np.linalg.norm(first - second, axis=1).max(initial=0.0)
        if longest > self.cutoff:
            raise ValueError(f"QM atoms that are bonded are {longest:.1f} Å apart")

    def _apart(self, atoms: Array) -> str:
        """Return what to say of a molecule that is none any more; nothing where it is one."""
        numbers, bonds = self._numbers.numpy(), self.zone.bonds
        length, ratio, k = longest_bond(numbers[bonds], atoms[bonds])
        if ratio < APART:
            return ""
        first, second = bonds[k]
        return (
            f"the molecule has fallen apart: QM atoms {first} and {second} (elements "
            f"{numbers[first]} and {numbers[second]}), which are bonded, are {length:.2f} Å apart"
        )

    def _of_model(self, batch: Batch) -> dict[str, torch.Tensor]:
        asked = {"forces": True, "mm_forces": True, "mm_potential": True}
        asked["field_response"] = batch.external_field.shape[1] > 0
        step = partial(self.model.stepped, batch, **asked)
        return in_its_thread(self.model.baseline.device, step)

    def _batch(self, placed: Placed, seen: Array, far: Around | None) -> Batch:
        """Return the zone as a batch, for charges (k,) as they are seen."""
        atoms, around = placed.atoms, placed.near.points
        senders, receivers = neighbour_pairs(atoms, self.model.cutoff)
        n = len(atoms)
        field = np.zeros((n, 0)) if far is None else far.field()

        def cast(values: Array) -> torch.Tensor:
            return torch.from_numpy(values.astype(self._dtype))

        return Batch(
            numbers=self._numbers,
            positions=cast(atoms),
            batch=torch.zeros(n, dtype=torch.int64),
            charge=self._charge,
            mm_positions=cast(around),
            mm_moments=cast(seen[:, None]),
            mm_batch=torch.zeros(len(around), dtype=torch.int64),
            uniform_field=torch.zeros(1, 3, dtype=self._charge.dtype),
            external_field=cast(field),
            origin=torch.from_numpy(placed.origin[None]),
            senders=torch.from_numpy(senders),
            receivers=torch.from_numpy(receivers),
            n_systems=1,
            formal=self._formal,
            between=() if far is None else (far.between,),
        )


def array(tensor: torch.Tensor) -> Array:
    """Return a tensor's values as a float64 array."""
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


def check_box(atoms: Array, box: Array | None, cutoff: float) -> None:
    """Refuse a box so small that atoms of the zone see their own images' surroundings.

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
        If the zone is nearer than the cutoff to an image of itself.
    """
    if box is None:
        return
    gap = gap_between_images(atoms, box, cutoff)
    if gap < cutoff:
        narrowest = float(np.diag(box).min())
        radius = float(np.linalg.norm(atoms - atoms.mean(axis=0), axis=1).max())
        most = np.floor(10 * gap) / 10
        way = "use more solvent" + (f", or a cutoff of at most {most:g} Å" if most > 3 else "")
        raise ValueError(
            f"the box ({narrowest:.1f} Å at its narrowest) is too small: QM atoms (radius "
            f"{radius:.1f} Å) are {gap:.1f} Å from images of themselves, within the cutoff "
            f"({cutoff:g} Å); {way}"
        )
