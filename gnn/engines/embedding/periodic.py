"""What of a periodic box acts on a zone beyond the charges that its model sees one by one.

    Φ(x) = Σ_j q_j G(x - s_j) - Σ_k w_k q_k / |x - p_k|

G is 1/r summed over all images, with the wave k = 0 left out (a conductor around) and a uniform
background where charges do not add up to zero. All charges j of the box are there with all their
images, and the charges k that the model sees, faded as it sees them, are taken off again: so each
pair acts once. Φ and its derivatives are an external field for the model. What its atoms do to all
charges is the adjoint sum, of the derivatives W of the energy by that field, as multipoles.

Images of the zone itself act on it by G - 1/r, between the multipoles that the model returns.

G is split: pairs within a radius are summed one by one, what is smooth wave by wave, or on a grid
(`fmm.mesh`) where there are too many waves. Energy and forces come from the same waves, so that
they agree to rounding.
"""

import warnings
from functools import cached_property, lru_cache

import numpy as np

import multipoles as mp
from fmm.mesh.choice import Setting, setting_of
from fmm.mesh.plan import MeshSum
from gnn.engines.embedding.images import Array
from gnn.engines.embedding.near import MULTIPOLES, ORDER, Charges, Near, images, pairs_of
from gnn.engines.embedding.waves import WaveSum, waves_pay
from gnn.outputs import Between
from gnn.units import COULOMB
from multipoles import indexing
from multipoles.lattice.cell import cell_of
from multipoles.lattice.own import own_matrix
from multipoles.lattice.smooth import Smooth
from multipoles.neighbours import Slots
from multipoles.radial import Coulomb
from multipoles.radial.remainder import Remainder, SmoothPart
from multipoles.sums import field_arrays

#: Relative error of the field at the atoms that is allowed.
TOLERANCE = 1e-5
# of the tolerance, what waves and radius are made for: the model of their errors is that of all
# derivatives and of lattices, some hundred times more than those of a liquid's electric field
_AIM = 30.0
# atoms at which the error is measured, and the error of that sum
_SAMPLES, _EXACT = 4, 1e-9
_COULOMB = Coulomb()
# Σ_β M_β Φ_(β + e) for the steps e
_RAISED = indexing.sum_index(MULTIPOLES, 1)[:, 1:]


class FarField:
    """Sums over all images for one zone and its surroundings, in whatever box they are.

    Parameters
    ----------
    charges : ndarray, shape (m,)
        Of all surroundings, in e.
    tolerance : float
        Relative error of the electric field that is allowed; it is measured once.

    Attributes
    ----------
    error : float
        Relative error of the electric field of all charges at some atoms of the first
        configuration with charges that act, measured against an Ewald sum; NaN before that.

    Warns
    -----
    RuntimeWarning
        If the measured error is larger than the tolerance.
    """

    def __init__(self, charges: Array, tolerance: float = TOLERANCE):
        self.charges = np.asarray(charges, dtype=np.float64)
        self.tolerance, self.error = tolerance, np.nan
        self._setting: Smooth | None = None
        self._mesh: MeshSum | WaveSum | None = None
        self._box = np.zeros((3, 3))

    def around(
        self,
        atoms: Array,
        sites: Array,
        near: tuple[Array, Array],
        box: Array,
        coupling: float = 1.0,
    ) -> "Around":
        """Return the sums for one configuration.

        Parameters
        ----------
        atoms
            In Å, (n, 3), whole.
        sites
            Places of all charges, in any image, (m, 3).
        near
            Points (k, 3) and charges (k,), as faded, that the model sees itself.
        box
            Box vectors as rows in Å, (3, 3).
        coupling
            What all charges, and the zone's images, are multiplied by; those of `near` are already.
        """
        charges = coupling * self.charges
        found = Around(self._laid_out(atoms, box), charges, atoms, sites, near, coupling)
        if np.isnan(self.error) and coupling:
            self._measure(found, box)
        return found

    def choose(self, n_atoms: int, box: Array) -> None:
        """Choose radius and waves for a zone of some atoms, and a box about as large as this.

        They stay for all configurations, so that runs which go on give the same numbers; for other
        boxes, only the number of waves changes.
        """
        count, cell, aim = max(len(self.charges), 1), cell_of(box), _AIM * self.tolerance
        self._setting = waves_pay(n_atoms, count, cell, aim, MULTIPOLES + ORDER)
        if self._setting is None:
            points = np.zeros((n_atoms, 3)), np.zeros((count, 3))
            self._setting = setting_of(*points, cell, _COULOMB, aim, (MULTIPOLES, ORDER))

    def _laid_out(self, atoms: Array, box: Array) -> MeshSum | WaveSum:
        """Return the waves of a box, those of before where it is the same box."""
        if self._mesh is not None and np.array_equal(box, self._box):
            return self._mesh
        if self._setting is None:
            self.choose(len(atoms), box)
        assert self._setting is not None  # for the type checker
        if isinstance(self._setting, Setting):
            nowhere = np.zeros((1, 3))
            self._mesh = MeshSum(nowhere, nowhere, cell_of(box), self._setting, _COULOMB)
        else:
            self._mesh = WaveSum(cell_of(box), self._setting)
        self._box = np.array(box)
        return self._mesh

    def _measure(self, found: "Around", box: Array) -> None:
        """Compare the field of all charges at some atoms with an Ewald sum."""
        self.error = 0.0
        if not found.charges.any():
            return
        some = np.linspace(0, len(found.atoms) - 1, _SAMPLES).astype(int)
        given = found.atoms[some], found.sites, found.charges
        exact = mp.field(*given, order=1, cell=box, tolerance=_EXACT)[:, 1:]
        wrong = found.of_all[some, 1:4] - exact
        self.error = float(np.linalg.norm(wrong)) / max(float(np.linalg.norm(exact)), 1e-300)
        if self.error > self.tolerance:
            warnings.warn(
                f"the periodic field of the charges at the model's atoms has a relative error of "
                f"{self.error:.1e}, aimed at were {self.tolerance:.0e}: is the charge spread very "
                "unevenly over the box?",
                RuntimeWarning,
                stacklevel=2,
            )


class Around:
    """The sums of `FarField` for one configuration, whose parameters it has but for the mesh.

    Attributes
    ----------
    atoms, sites : ndarray
        Places in Å, (n, 3) and (m, 3).
    """

    def __init__(
        self,
        mesh: MeshSum | WaveSum,
        charges: Array,
        atoms: Array,
        sites: Array,
        near: tuple[Array, Array],
        coupling: float = 1.0,
    ):
        self.mesh, self.charges = mesh, charges
        self.atoms, self.sites = np.ascontiguousarray(atoms), np.ascontiguousarray(sites)
        points, seen = map(np.ascontiguousarray, near)
        self._seen = Charges(self.atoms, points, seen)
        self._coupling = coupling

    # --- the field of all charges, and its adjoint ------------------------------------------------

    def field(self) -> Array:
        """Return the potential at the atoms and its derivatives, (n, 20) in V/Å^k, packed."""
        found: Array = COULOMB * (self.of_all - self._seen.field())
        return found

    def work(self, response: Array) -> float:
        """Return the work of the derivatives by the field (see `reaction`) in that of all charges.

        In eV: what the energy changes by with the coupling, but for the charges that the model
        sees and for `between`.
        """
        of_all = COULOMB * self.of_all[:, : len(_RAISED)]
        return float((response[:, : len(_RAISED)] * of_all).sum())

    @cached_property
    def of_all(self) -> Array:
        """The field (n, 20) at the atoms of all charges with all images, in e/Å^(k + 1)."""
        moments = self.charges[:, None, None]
        spectrum = self.mesh.spectrum_of(self.sites, moments)
        phi: Array = self.mesh.smooth_field_at(self.atoms, spectrum, ORDER)[:, 0]
        phi += self._near.field()
        phi[:, 0] += self.mesh.background(moments)
        return phi

    def reaction(self, response: Array) -> tuple[Array, Array, Array]:
        """Return what follows from derivatives of an energy by the field.

        Parameters
        ----------
        response
            These derivatives, in e Å^k, (n, 10) or more, of which no more are read.

        Returns
        -------
        on_sites, on_points : ndarray
            Forces on all charges (m, 3), and on those that the model sees (k, 3), in eV/Å.
        by_seen : ndarray
            Derivatives of the energy by what the model sees of these charges, (k,) in V.
        """
        moments = np.ascontiguousarray(COULOMB * response[:, : len(_RAISED)], dtype=np.float64)
        spectrum = self.mesh.spectrum_of(self.atoms, moments[:, None])
        smooth = self.mesh.smooth_field_at(self.sites, spectrum, 1)[:, 0, 1:]
        on_sites = self._near.forces(moments) - self.charges[:, None] * smooth
        forces, potentials = self._seen.answer(moments)
        return on_sites, -forces, -potentials

    @cached_property
    def _near(self) -> Near:
        """Charges within the radius of the atoms."""
        return Near(self.atoms, self.sites, self.charges, self.mesh.cell, self.mesh.setting)

    # --- the zone's own images --------------------------------------------------------------------

    @cached_property
    def between(self) -> Between:
        """The energy in eV of the zone's multipoles (n, 10) with those of all its images.

        Half of it is that of one zone in the field of the images.
        """
        return Between(self.between_arrays)

    def between_arrays(self, atoms: Array, moments: Array) -> tuple[float, Array, Array]:
        """Return `between` and its derivatives by positions (n, 3) and moments (n, 10)."""
        phi = self._coupling * self.of_images(atoms, moments)
        by_moments = phi[:, : moments.shape[1]]
        by_positions = (moments[:, :, None] * phi[:, _RAISED]).sum(1)
        return 0.5 * float((moments * by_moments).sum()), by_positions, by_moments

    def of_images(self, atoms: Array, moments: Array) -> Array:
        """Return the field (n, 20) in V/Å^k of multipoles (n, 10) of atoms in all other boxes."""
        given = np.ascontiguousarray(COULOMB * moments[:, None])
        mesh = self.mesh
        phi = mesh.smooth_field_at(atoms, mesh.spectrum_of(atoms, given), ORDER)
        # of the box itself, the waves have the smooth part
        smooth, own = _of_box_itself(mesh.setting)
        phi -= field_arrays(atoms, atoms, given, ORDER, smooth, Slots(len(atoms), len(atoms)))
        phi -= given @ own
        radius = mesh.setting.radius
        points, origin = images(atoms, atoms, mesh.cell, radius, moved_only=True)
        if len(points):
            kernel, pairs = Remainder(radius, mesh.setting.band), pairs_of(atoms, points, radius)
            phi += field_arrays(atoms, points, given[origin], ORDER, kernel, pairs)
        phi[:, :, 0] += mesh.background(given)
        return phi[:, 0]


@lru_cache(maxsize=16)
def _of_box_itself(setting: Smooth) -> tuple[SmoothPart, Array]:
    """Return the smooth part of 1/r, and the matrix from moments to its field where they are."""
    own = own_matrix(setting.at_zero(MULTIPOLES + ORDER), MULTIPOLES, ORDER)
    return SmoothPart(setting.radius, setting.band), own
