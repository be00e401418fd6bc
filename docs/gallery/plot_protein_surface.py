"""
The electrostatic potential on a protein's surface
==================================================

Every atom of the AMOEBA force field has a charge, a dipole and a quadrupole. Their potential on
the surface that is accessible to water shows where ions and ligands tend to bind. The pictures
below are made of 400 000 points, and the potential is evaluated at each of them.
"""

# %%
# A protein from OpenMM
# ---------------------
# OpenMM ships the villin headpiece in a box of water; the protein alone is kept. The helpers that
# read AMOEBA's multipoles are in :download:`amoeba.py <../gallery/amoeba.py>`.

from pathlib import Path
from time import process_time

import amoeba
import matplotlib.pyplot as plt
import numpy as np
from openmm import app, unit

import fmm
import multipoles as mp

mp.set_num_threads(1)
VOLT = 14.39964  # e/Å in V
pdb = app.PDBFile(str(Path(app.__file__).parent / "data" / "test.pdb"))
modeller = app.Modeller(pdb.topology, pdb.positions)
modeller.deleteWater()
modeller.delete([r for r in modeller.topology.residues() if r.name == "Cl"])
x = np.array(modeller.positions.value_in_unit(unit.angstrom))
moments = amoeba.sites(amoeba.create_system(modeller.topology), x).moments
symbols = [atom.element.symbol for atom in modeller.topology.atoms()]
print(f"{len(x)} atoms, total charge {moments[:, 0].sum():+.2f} e")

# %%
# The surface, by casting rays
# ----------------------------
# The surface of the solvent-accessible volume is a union of spheres. For every pixel of the
# picture, the sphere that is hit first gives a point and its normal.

RADII = {"H": 1.2, "C": 1.7, "N": 1.55, "O": 1.52, "S": 1.8}
PROBE = 1.4
radii = np.array([RADII[symbol] for symbol in symbols]) + PROBE


def cast(x, radii, pixel=0.06):
    """Return visible points (height, width, 3) of spheres, seen along -z, and their normals."""
    low = (x[:, :2] - radii[:, None]).min(axis=0)
    size = ((x[:, :2] + radii[:, None]).max(axis=0) - low) / pixel
    width, height = (int(np.ceil(s)) for s in size)
    depth = np.full((height, width), -np.inf)
    normals = np.zeros((height, width, 3))
    columns, rows = low[0] + pixel * np.arange(width), low[1] + pixel * np.arange(height)
    for centre, radius in zip(x, radii, strict=True):
        i = slice(*np.searchsorted(columns, [centre[0] - radius, centre[0] + radius]))
        j = slice(*np.searchsorted(rows, [centre[1] - radius, centre[1] + radius]))
        across, along = columns[None, i] - centre[0], rows[j, None] - centre[1]
        rest = radius**2 - across**2 - along**2
        up = np.sqrt(np.maximum(rest, 0))
        closer = (rest > 0) & (centre[2] + up > depth[j, i])
        depth[j, i][closer] = (centre[2] + up)[closer]
        parts = np.broadcast_arrays(across, along, up)
        normals[j, i][closer] = np.stack(parts, axis=-1)[closer] / radius
    points = np.stack([*np.meshgrid(columns, rows), depth], axis=-1)
    return points, normals


axes_of_inertia = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2]
if np.linalg.det(axes_of_inertia) < 0:
    axes_of_inertia[2] *= -1
views = {}
for name, turn in (("front", np.eye(3)), ("back", np.diag([-1.0, 1, -1]))):
    view = axes_of_inertia.T @ turn  # to the frame of the camera; the long axis lies flat
    points, normals = cast(x @ view, radii)
    visible = np.isfinite(points[..., 2])
    views[name] = points[visible] @ view.T, normals, visible
seen = np.concatenate([points for points, _, _ in views.values()])
print(f"{len(seen)} points on the surface")

# %%
# The potential
# -------------
# Sources and targets of a plan may differ: here few sites and many points. The result is compared
# with the direct sum, and with the potential of the charges alone, which differs.


def timed(name, function):
    """Return a result and print its processor time, without the first call, which compiles."""
    function()
    start = process_time()
    result = function()
    print(f"{name}: {process_time() - start:.2f} s")
    return VOLT * result[:, 0]


potential = timed(
    "fast multipole method, plan and field",
    lambda: fmm.FMM(x, seen, tolerance=1e-4, source_order=2, order=0).field(moments, order=0),
)
direct = timed("direct sum", lambda: mp.field(seen, x, moments, order=0))
error = np.linalg.norm(potential - direct) / np.linalg.norm(direct)
print(f"relative difference {error:.1e}")
assert error < 1e-4
charges_only = VOLT * mp.field(seen, x, moments[:, :1], order=0)[:, 0]
rest = np.sqrt(np.mean((charges_only - potential) ** 2))
spread = potential.std()
print(f"without dipoles and quadrupoles: other by {rest:.2f} V, of a spread of {spread:.2f} V")

# %%
# The pictures
# ------------
# The protein carries two charges in vacuum, so that most of its surface is positive: white is the
# median, red below and blue above it.

light = np.array([0.35, 0.45, 0.82])
figure, panels = plt.subplots(2, 2, figsize=(11, 8.5), layout="constrained")
middle, reach = np.median(potential), 2.2 * spread
start = 0
for column, (name, (points, normals, visible)) in enumerate(views.items()):
    part = slice(start, start + len(points))
    start += len(points)
    for row, values in enumerate((potential[part], charges_only[part])):
        colours = plt.get_cmap("RdBu")(0.5 + 0.5 * (values - middle) / reach)[:, :3]
        shade = 0.45 + 0.55 * np.clip(normals[visible] @ light, 0, 1)
        gloss = np.clip(normals[visible] @ light, 0, 1) ** 40
        image = np.ones((*visible.shape, 3))
        image[visible] = np.clip(colours * shade[:, None] + 0.35 * gloss[:, None], 0, 1)
        panels[row, column].imshow(image, origin="lower")
        panels[row, column].set_axis_off()
        what = "charges, dipoles, quadrupoles" if row == 0 else "charges alone"
        panels[row, column].set_title(f"{name}: {what}", fontsize=10)
scale = plt.cm.ScalarMappable(plt.Normalize(middle - reach, middle + reach), "RdBu")
figure.colorbar(scale, ax=panels, label="potential / V", shrink=0.5)
plt.show()
