"""Electrostatics of AMP-BMS: charges of atoms, and their multipoles with surrounding charges."""

from torch import Tensor

from gnn.data.batching import Batch
from gnn.layers.electrostatics import energy_in_field
from gnn.layers.surroundings import given_field
from gnn.operators import field as operator
from gnn.operators.field_torch import radial_chain
from gnn.published.pairs import Pairs
from gnn.published.units import COULOMB
from gnn.units import KJ_PER_MOL
from multipoles.neighbours import Slots
from multipoles.radial import Coulomb, ReactionField

_COULOMB = Coulomb()
FIELD_ORDER = 2


def charges_of_pairs(
    distances: Tensor,
    pairs: Pairs,
    charges: Tensor,
    contact: float,
    kernel: ReactionField | None = None,
) -> Tensor:
    """Return the energy of charges with each other in kJ/mol, (P,), at distances (P,) in Å.

    The kernel, 1/r if None, is switched on from zero at distance zero to all of it at the distance
    `contact`.
    """
    potential = 1 / distances
    if kernel is not None:
        _, k, a_m, m, a_n, n, shift = kernel.parameters
        r2 = distances * distances
        potential = potential + k * r2 + a_m * r2 ** (m / 2) + a_n * r2 ** (n / 2) - shift
    x = (distances / contact).clamp(max=1)
    switch = x * x * x * (10 + x * (6 * x - 15))
    product = charges.index_select(0, pairs.first) * charges.index_select(0, pairs.second)
    return COULOMB * product * switch * potential


def energy_of_all(moments: Tensor, batch: Batch) -> Tensor:
    """Return the energy of packed moments (N, 10) in the field of all surroundings in kJ/mol, (N,).

    Particles act by 1/r, at whatever distance.
    """
    field = given_field(batch) / KJ_PER_MOL
    if batch.n_mm:
        sources = batch.mm_moments[:, None] * COULOMB
        index = batch.batch.numpy(), batch.mm_batch.numpy()
        everybody = Slots(len(batch.positions), batch.n_mm, *index)
        points = batch.positions, batch.mm_positions
        field = field + operator.apply(*points, sources, FIELD_ORDER, _COULOMB, everybody)[:, 0]
    return energy_in_field(moments, field)


def energy_of_pairs(
    moments: Tensor,
    charges: Tensor,
    vectors: Tensor,
    pairs: Pairs,
    kernel: ReactionField,
    *,
    consistent: bool,
) -> Tensor:
    """Return the energy of packed moments (N, 10) with charges (M,) near them in kJ/mol, (P,).

    Parameters
    ----------
    vectors : Tensor
        (P, 3) from atom to charge in Å.
    kernel : ReactionField
        Potential of a charge.
    consistent : bool
        True takes the field and its gradient from the kernel's derivatives. False divides its
        value by r² instead, like those of 1/r, as the published simulations do; that is about
        half of the field at 3 Å.
    """
    r2 = (vectors * vectors).sum(1)
    if consistent:
        b0, b1, b2 = radial_chain(kernel, r2, 2)
    else:
        b0 = radial_chain(kernel, r2, 0)[0]
        b1 = b0 / r2
        b2 = 3 * b1 / r2
    own = moments.index_select(0, pairs.first)
    dipole = (own[:, 1:4] * vectors).sum(1)
    monomials = vectors[:, [0, 0, 0, 1, 1, 2]] * vectors[:, [0, 1, 2, 1, 2, 2]]
    quadrupole = (own[:, 4:] * monomials).sum(1)
    potential = own[:, 0] * b0 + dipole * b1 + quadrupole * b2
    return COULOMB * charges.index_select(0, pairs.second) * potential
