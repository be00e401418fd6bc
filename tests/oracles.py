"""Independent oracles: point-charge stencils, random rotations, AMOEBA's local frames."""

from math import comb

import numpy as np


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """Return a proper rotation matrix, uniform over all of them."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def rotation_about(axis: int, angle: float) -> np.ndarray:
    """Return the matrix that turns vectors by `angle` about a coordinate axis, right-handed."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    R = np.eye(3)
    R[i, i] = R[j, j] = np.cos(angle)
    R[j, i], R[i, j] = np.sin(angle), -np.sin(angle)
    return R


def stencil(alpha, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Return charges and positions whose moment is 1 at `alpha`, up to terms of order spacing^2.

    Central differences along each axis: all moments of lower order vanish exactly, and those of
    the next order by symmetry.
    """
    lines = []
    for a in alpha:
        weights = [(-1.0) ** (a - k) * comb(a, k) / spacing**a for k in range(a + 1)]
        lines.append([(w, (k - a / 2) * spacing) for k, w in enumerate(weights)])
    grid = [(u, v, w) for u in lines[0] for v in lines[1] for w in lines[2]]
    charges = np.array([u[0] * v[0] * w[0] for u, v, w in grid])
    positions = np.array([[u[1], v[1], w[1]] for u, v, w in grid])
    return charges, positions


def cluster(moments, indices, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the point charges that make one site's packed moments in the limit spacing -> 0."""
    parts = [stencil(alpha, spacing) for alpha in indices]
    charges = np.concatenate([m * q for m, (q, _) in zip(moments, parts, strict=True)])
    return charges, np.concatenate([x for _, x in parts])


def charge_potential(points, charges, positions, f) -> np.ndarray:
    """Return sum_i q_i f(|x - x_i|) at every point."""
    r = np.linalg.norm(points[:, None] - positions[None], axis=-1)
    return f(r) @ charges


# --- AMOEBA's local frames -------------------------------------------------------------------

Z_THEN_X, BISECTOR, NO_AXIS = 0, 1, 5


def _unit(v):
    # written without conj or abs: the complex step differentiates through it
    return v / np.sqrt((v * v).sum(axis=-1, keepdims=True))


def frame_axes(site, z_atom, x_atom, axis_type):
    """Return rows x, y, z of the local frames (n, 3, 3) from the positions of three atoms."""
    to_z, to_x = _unit(z_atom - site), _unit(x_atom - site)
    bisects = (axis_type == BISECTOR)[:, None]
    z = np.where(bisects, _unit(to_z + to_x), to_z)
    x = _unit(to_x - (to_x * z).sum(axis=-1, keepdims=True) * z)
    return np.stack([x, np.cross(z, x), z], axis=1)


def amoeba_frames(positions, axis_type, axis_zxy):
    """Return frames (n, 3, 3), the four atoms each hangs on (n, 3), and who has a frame."""
    framed = axis_type != NO_AXIS
    z_atom, x_atom = axis_zxy[:, 0], axis_zxy[:, 1]
    assert (axis_zxy[framed, :2] >= 0).all()
    assert np.isin(axis_type, (Z_THEN_X, BISECTOR, NO_AXIS)).all()
    frames = np.tile(np.eye(3), (len(positions), 1, 1))
    frames[framed] = frame_axes(
        positions[framed], positions[z_atom[framed]], positions[x_atom[framed]], axis_type[framed]
    )
    return frames, framed


def amoeba_moments(data):
    """Return charges, dipoles (n, 3) and quadrupoles (n, 3, 3) in the laboratory frame."""
    x, axis_type, zxy = data["positions_nm"], data["axis_type"], data["axis_zxy"]
    dipoles, quadrupoles = data["dipole_local_enm"].copy(), data["quadrupole_local_enm2"].copy()
    chiral = np.flatnonzero((axis_type == Z_THEN_X) & (zxy[:, 2] >= 0))
    z, xx, y = x[zxy[chiral, 0]], x[zxy[chiral, 1]], x[zxy[chiral, 2]]
    volume = (np.cross(z - y, xx - y) * (x[chiral] - y)).sum(axis=-1)
    flipped = chiral[volume < 0]
    mirror = np.array([1.0, -1.0, 1.0])
    dipoles[flipped] *= mirror
    quadrupoles[flipped] *= mirror[:, None] * mirror
    frames, _ = amoeba_frames(x, axis_type, zxy)
    return (
        data["charge_e"],
        np.einsum("nai,na->ni", frames, dipoles),
        np.einsum("nai,nab,nbj->nij", frames, quadrupoles, frames),
    )


def project_torques(torques, data):
    """Return the forces that torques on the frames exert on the atoms that carry the frames.

    An atom's move turns a frame by omega = 1/2 sum_a e_a x de_a, which changes the energy by
    -torque.omega. The derivatives of the axes come from a complex step, exact to rounding.
    """
    x, axis_type, zxy = data["positions_nm"], data["axis_type"], data["axis_zxy"]
    frames, framed = amoeba_frames(x, axis_type, zxy)
    sites = np.flatnonzero(framed)
    atoms = np.stack([sites, zxy[sites, 0], zxy[sites, 1]])
    forces = np.zeros_like(x)
    for atom in range(3):
        for axis in range(3):
            moved = x[atoms].astype(complex)
            moved[atom, :, axis] += 1e-30j
            change = frame_axes(*moved, axis_type[sites]).imag / 1e-30
            omega = 0.5 * np.cross(frames[sites], change).sum(axis=1)
            np.add.at(forces[:, axis], atoms[atom], (torques[sites] * omega).sum(axis=1))
    return forces


def water_exclusions(molecule):
    """Return every intramolecular pair with factor 0."""
    i, j = np.triu_indices(len(molecule), 1)
    inside = molecule[i] == molecule[j]
    pairs = np.stack([i[inside], j[inside]], axis=1)
    return pairs, np.zeros(len(pairs))


def covalent_scaling(covalent, factors=(0.0, 0.0, 0.4, 0.8)):
    """Return pairs and factors from lists (n, 4, k) of 1-2 … 1-5 neighbours, the nearest wins."""
    scale: dict[tuple[int, int], float] = {}
    for separation, factor in enumerate(factors):
        for i, row in enumerate(covalent[:, separation]):
            for j in row[row >= 0].tolist():
                if i != j:
                    scale.setdefault((min(i, j), max(i, j)), factor)
    return np.array(list(scale)), np.array(list(scale.values()))
