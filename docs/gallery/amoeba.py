"""What the examples take from OpenMM's AMOEBA force field: multipoles in the laboratory frame."""

from typing import NamedTuple

import numpy as np
from openmm import AmoebaMultipoleForce, app

import multipoles as mp

NM = 10.0  # Å


class Sites(NamedTuple):
    """AMOEBA sites in Å and e: moments (n, 10), polarisabilities (n,) in Å³, Thole's a (n,)."""

    moments: np.ndarray
    polarisabilities: np.ndarray
    thole: np.ndarray


def multipole_force(system):
    """Return the force that holds the multipoles."""
    return next(f for f in system.getForces() if isinstance(f, AmoebaMultipoleForce))


def water_topology(count):
    """Return a topology of water molecules, oxygen first."""
    topology = app.Topology()
    chain = topology.addChain()
    oxygen, hydrogen = (app.element.Element.getBySymbol(s) for s in "OH")
    for _ in range(count):
        residue = topology.addResidue("HOH", chain)
        kinds = (("O", oxygen), ("H1", hydrogen), ("H2", hydrogen))
        o, *hydrogens = (topology.addAtom(name, kind, residue) for name, kind in kinds)
        for atom in hydrogens:
            topology.addBond(o, atom)
    return topology


def create_system(topology):
    """Build the AMOEBA system of a topology, without a box and with multipoles alone."""
    field = app.ForceField("amoeba2018.xml")
    system = field.createSystem(topology, nonbondedMethod=app.NoCutoff, polarization="mutual")
    for i in reversed(range(system.getNumForces())):
        if not isinstance(system.getForce(i), AmoebaMultipoleForce):
            system.removeForce(i)
    return system


def sites(system, positions):
    """Read the sites of a system; positions (n, 3) in Å."""
    force = multipole_force(system)
    rows = [force.getMultipoleParameters(i) for i in range(force.getNumMultipoles())]
    charges = np.array([row[0]._value for row in rows])
    dipoles = np.array([row[1]._value for row in rows]) * NM
    quadrupoles = np.array([row[2]._value for row in rows]).reshape(-1, 3, 3) * NM**2
    kinds = np.array([row[3] for row in rows])
    axes = np.array([row[4:7] for row in rows])
    frames, mirrored = _frames(positions, kinds, axes)
    mirror = np.where(mirrored[:, None], [1.0, -1.0, 1.0], 1.0)
    dipoles = dipoles * mirror
    quadrupoles = quadrupoles * mirror[:, :, None] * mirror[:, None]
    dipoles = np.einsum("nai,na->ni", frames, dipoles)
    quadrupoles = np.einsum("nai,nab,nbj->nij", frames, quadrupoles, frames)
    form = np.concatenate([charges[:, None], dipoles, quadrupoles.reshape(-1, 9)], axis=1)
    polarisabilities = np.array([row[9]._value for row in rows]) * NM**3
    thole = np.array([row[7] for row in rows])
    return Sites(mp.from_convention(form, "amoeba"), polarisabilities, thole)


def _unit(vectors):
    # axes that a kind of frame does not use may vanish
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)[:, None]


def _frames(x, kinds, axes):
    """Return axes as rows (n, 3, 3) of each site's frame, and whether the frame is mirrored."""
    force = AmoebaMultipoleForce
    frames = np.tile(np.eye(3), (len(x), 1, 1))
    z_atom, x_atom, y_atom = axes.T
    # where a kind needs no atom, any other will do
    given = (np.where(atom < 0, np.arange(len(x)) - 1, atom) for atom in axes.T)
    toward_z, toward_x, toward_y = (_unit(x[atom] - x) for atom in given)
    z = toward_z.copy()
    bisector = kinds == force.Bisector
    z[bisector] = _unit(toward_z + toward_x)[bisector]
    threefold = kinds == force.ThreeFold
    z[threefold] = _unit(toward_z + toward_x + toward_y)[threefold]
    helper = toward_x.copy()
    z_bisect = kinds == force.ZBisect
    helper[z_bisect] = _unit(toward_x + toward_y)[z_bisect]
    z_only = kinds == force.ZOnly
    other = np.where(np.abs(z[:, :1]) < 0.866, [[1.0, 0, 0]], [[0, 1.0, 0]])
    helper[z_only] = other[z_only]
    first = _unit(helper - (helper * z).sum(1)[:, None] * z)
    framed = kinds != force.NoAxisType
    frames[framed] = np.stack([first, np.cross(z, first), z], axis=1)[framed]
    mirrored = np.zeros(len(x), dtype=bool)
    chiral = np.flatnonzero((kinds == force.ZThenX) & (y_atom >= 0))
    corner = x[y_atom[chiral]]
    edges = x[chiral] - corner, x[z_atom[chiral]] - corner, x[x_atom[chiral]] - corner
    mirrored[chiral] = (np.cross(edges[1], edges[2]) * edges[0]).sum(1) < 0
    return frames, mirrored
