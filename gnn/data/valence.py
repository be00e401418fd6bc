"""The charge of a molecule that its bonds tell: closed shells, by the usual valences.

A molecule is a set of integers that solve small balance equations: at each atom the orders of its
bonds, its formal charge and, for elements that expand their valence, pairs of further bonds add up
to the valence of its element. Of all solutions the one with the fewest formal charges is taken,
and it counts where all its charges sit on atoms that usually carry them.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

#: Charges of elements that are ions where they are alone, and have no covalent bonds here.
METAL_IONS = dict.fromkeys((3, 11, 19, 37, 55, 87), 1) | dict.fromkeys((12, 20, 38, 56, 88), 2)
_NOBLE = (2, 10, 18, 36, 54, 86)
_HALOGENS = (9, 17, 35, 53)
_VALENCES = {
    1: 1, 5: 3, 6: 4, 7: 3, 8: 2, 13: 3, 14: 4, 15: 3, 16: 2, 34: 2, **dict.fromkeys(_HALOGENS, 1),
}  # fmt: skip
_CERTAIN = 2.0  # cost below which a formal charge is usual
# costs of a negative and of a positive formal charge
_ANION = {5: 1.0, 8: 1.0, 13: 1.0, 16: 1.0, 34: 1.0, 7: 3.0, **dict.fromkeys(_HALOGENS, 1.0)}
_CATION = {7: 1.0, 8: 1.2, 15: 1.0, 16: 1.2, 34: 1.2}
_EXPANDED = {15: 1, 16: 2, 34: 2, **dict.fromkeys(_HALOGENS[1:], 3)}  # largest number of pairs
_UNUSUAL, _EXPANSION = 6.0, 0.9
_LARGEST_DEGREE = {7: 4, 8: 3, 15: 4, 16: 3, 34: 3}  # of a cation
_NET = 0.2  # per unit of net charge, which decides between nitro groups and dianions


@lru_cache(maxsize=4096)
def charge_of(numbers: tuple[int, ...], bonds: tuple[tuple[int, int], ...]) -> int | None:
    """Return the charge in e of one molecule with closed shells, None where that is not certain.

    Parameters
    ----------
    numbers
        Atomic numbers.
    bonds
        Pairs of bonded atoms, of any order.
    """
    if len(numbers) == 1:
        return _of_atom(numbers[0])
    if not set(numbers) <= _VALENCES.keys():
        return None
    z = np.array(numbers)
    ends = np.array(bonds)
    degree = np.bincount(ends.ravel(), minlength=len(z))
    charges = _least_charges(z, ends, degree)
    if charges is None:
        return None
    anions, cations = charges
    costs = [_ANION.get(number, _UNUSUAL) for number in z[anions > 0].tolist()]
    costs += [_CATION.get(number, _UNUSUAL) for number in z[cations > 0].tolist()]
    if any(cost >= _CERTAIN for cost in costs):
        return None
    return int(cations.sum() - anions.sum())


def _of_atom(number: int) -> int | None:
    if number in METAL_IONS:
        return METAL_IONS[number]
    if number in _HALOGENS:
        return -1
    return 0 if number in _NOBLE else None


def _least_charges(
    z: NDArray[np.int64], ends: NDArray[np.int64], degree: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return how many negative and positive charges each atom has in the cheapest structure."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array, diags_array, hstack

    n, b = len(z), len(ends)
    anion, cation = (np.array([t.get(k, _UNUSUAL) for k in z.tolist()]) for t in (_ANION, _CATION))
    expansion = np.array([_EXPANDED.get(k, 0) for k in z.tolist()])
    most = np.array([_LARGEST_DEGREE.get(k, n) for k in z.tolist()])
    # unknowns: further order of each bond; anion, cation, expansion of each atom; |net charge|
    orders = coo_array((np.ones(2 * b), (ends.T.ravel(), np.tile(np.arange(b), 2))), shape=(n, b))
    of_anion = diags_array(np.where(np.isin(z, (5, 13)), -1.0, 1.0))  # B in BH4- has a bond more
    of_cation = diags_array(np.where(np.isin(z, list(_CATION)), -1.0, 1.0))  # N too, C one less
    last = coo_array((n, 1))
    balance = hstack([orders, of_anion, of_cation, diags_array(np.full(n, -2.0)), last])
    missing = np.array([_VALENCES[k] for k in z.tolist()]) - degree
    net = np.concatenate([np.zeros(b), -np.ones(n), np.ones(n), np.zeros(n + 1)])
    size = np.zeros_like(net)
    size[-1] = 1.0
    both = np.concatenate([np.zeros((n, b + n)), np.eye(n), np.eye(n), np.zeros((n, 1))], axis=1)
    found = milp(
        np.concatenate([np.zeros(b), anion, cation, np.full(n, _EXPANSION), [_NET]]),
        integrality=1 - size,
        bounds=Bounds(
            0,
            np.concatenate([np.full(b, 2), np.ones(n), degree <= most, expansion, [n]]),
        ),
        constraints=[
            LinearConstraint(balance, missing, missing),
            LinearConstraint(np.stack([size - net, size + net]), 0, np.inf),
            LinearConstraint(both, 0, np.maximum(expansion, 1)),  # PO4(3-) has no P+ with six bonds
        ],
        options={"time_limit": 5.0},
    )
    if not found.success:
        return None
    whole = np.round(found.x).astype(np.int64)
    return whole[b : b + n], whole[b + n : b + 2 * n]


@lru_cache(maxsize=4096)
def possible_charges(
    numbers: tuple[int, ...], bonds: tuple[tuple[int, int], ...]
) -> tuple[int, ...] | None:
    """Return the charges from -2 to 2 for which RDKit finds bonds of a molecule without radicals.

    None where RDKit is not installed. No charge where two atoms have several bonds, to images of
    each other: RDKit knows no crystals.
    """
    if len({frozenset(bond) for bond in bonds} - {frozenset([a]) for a, _ in bonds}) < len(bonds):
        return ()
    try:
        from rdkit import Chem, RDLogger
        from rdkit.Chem import rdDetermineBonds
    except ImportError:
        return None
    RDLogger.DisableLog("rdApp.*")
    found = []
    for charge in (0, 1, -1, 2, -2):
        molecule = Chem.RWMol()
        for number in numbers:
            molecule.AddAtom(Chem.Atom(number))
        for first, second in bonds:
            molecule.AddBond(first, second, Chem.BondType.SINGLE)
        try:
            rdDetermineBonds.DetermineBondOrders(molecule, charge=charge, embedChiral=False)
        except Exception:  # it says so by errors of several kinds
            continue
        atoms = list(molecule.GetAtoms())
        radicals = sum(atom.GetNumRadicalElectrons() for atom in atoms)
        if not radicals and sum(atom.GetFormalCharge() for atom in atoms) == charge:
            found.append(charge)
    return tuple(sorted(found))
