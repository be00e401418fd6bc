"""
Polarisable water by conjugate gradients
========================================

In a polarisable force field the electric field induces a dipole on every atom, and the dipoles
act on each other. This is a linear system with three unknowns per atom. Its matrix is never
needed: the product with dipoles is *one field*, which `fmm.plan` sums in linear time.

Here AMOEBA's water is solved, with Thole's damping at short range, and compared with OpenMM: a drop
of it, and a box that repeats, whose refractive index comes out.
"""

# %%
# Water from OpenMM
# -----------------
# OpenMM comes with a small box of water. We take the 216 molecules at its centre, and read charges,
# dipoles, quadrupoles and polarisabilities of AMOEBA (2018). The helpers are in
# :download:`amoeba.py <../gallery/amoeba.py>` and :download:`induced.py <../gallery/induced.py>`.

from pathlib import Path
from time import process_time

import amoeba
import induced
import matplotlib.pyplot as plt
import numpy as np
import openmm
from openmm import app, unit

import multipoles as mp

mp.set_num_threads(1)
data = Path(app.__file__).parent / "data"
pdb = app.PDBFile(str(data / "tip3p.pdb"))
everything = np.array(pdb.positions.value_in_unit(unit.angstrom)).reshape(-1, 3, 3)
centre = everything[:, 0].mean(axis=0)
nearest = np.argsort(np.linalg.norm(everything[:, 0] - centre, axis=1))
waters = everything[nearest[:216]]

system = amoeba.create_system(amoeba.water_topology(len(waters)))
x = waters.reshape(-1, 3)
sites = amoeba.sites(system, x)
molecule = np.arange(len(x)) // 3

# %%
# The solver
# ----------
# Charges, dipoles and quadrupoles of *other* molecules make a field E, and induced dipoles another,
# -T μ. The dipoles solve
#
# .. math:: (\alpha^{-1} + T)\, \mu = E,
#
# a symmetric and positive system for conjugate gradients. Thole's damping differs from 1/r only
# within a few Å, so T is the fast multipole method plus a correction over near pairs:
#
# .. literalinclude:: ../gallery/induced.py
#    :pyobject: respond

found = induced.solve(x, *sites, molecule)
print(f"{len(found.residuals)} iterations to a residual of 1e-10")

# %%
# The same from OpenMM
# --------------------

force = amoeba.multipole_force(system)
force.setMutualInducedTargetEpsilon(1e-9)
platform = openmm.Platform.getPlatformByName("Reference")
context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
context.setPositions(0.1 * x)
theirs = 10 * np.array([list(row) for row in force.getInducedDipoles(context)])
difference = np.linalg.norm(found.dipoles - theirs) / np.linalg.norm(theirs)
print(f"relative difference of the dipoles to OpenMM's: {difference:.1e}")
assert difference < 1e-6

# %%
# Water polarises water: the dipole of a molecule grows by about 40 %.

DEBYE = 4.80320  # of 1 e Å


def of_molecules(x, moments, induced_dipoles):
    """Return the dipoles of water molecules, in D."""
    atoms = moments[:, 1:4] + moments[:, :1] * x + induced_dipoles
    return np.linalg.norm(atoms.reshape(-1, 3, 3).sum(axis=1), axis=1) * DEBYE


permanent, total = (of_molecules(x, sites.moments, added) for added in (0, found.dipoles))
print(f"permanent {permanent.mean():.2f} D, in water {total.mean():.2f} D")

# %%
# In a box
# --------
# The molecules at the drop's surface have neighbours on one side only. A box that repeats has no
# surface. The plan, given the cell, is a mesh that sums over all images; nothing else changes.

edge = 30.0
box = everything.reshape(-1, 3)
cell = amoeba.sites(amoeba.create_system(amoeba.water_topology(len(everything))), box)
bulk = induced.solve(box, *cell, np.arange(len(box)) // 3, tolerance=1e-6, box=np.full(3, edge))

in_box = of_molecules(box, cell.moments, bulk.dipoles)
print(f"in the box {in_box.mean():.2f} D")

# %%
# Why water bends light
# ---------------------
# The field of light changes too fast for molecules to turn. What answers are the induced dipoles:
# their sum is :math:`V \chi E`, and :math:`\varepsilon = 1 + 4\pi\chi` is the square of the
# refractive index. So we solve once more, with a uniform field in place of that of the charges. A
# conductor around the box (the default) takes away the field of its surface. A large sphere in
# vacuum keeps it, :math:`-\tfrac{4\pi}3 P` inside, and answers less; exactly so much less that both
# have one :math:`\varepsilon`.


def susceptibility(surface):
    """Return the tensor chi, row by row a field along x, y and z."""
    damped = induced.DampedField(box, *cell[1:], 1e-8, np.full(3, edge), surface)
    fields = (np.tile(axis, (len(box), 1)) for axis in np.eye(3))
    return np.stack([induced.respond(damped, field, 1e-7).dipoles for field in fields]) / edge**3


answers = susceptibility("conductor")
chi, sphere = answers.sum(axis=1), susceptibility("vacuum").sum(axis=1)
assert np.allclose(sphere, chi @ np.linalg.inv(np.eye(3) + 4 * np.pi / 3 * chi), atol=1e-7)
epsilon = 1 + 4 * np.pi * chi.trace() / 3
print(f"refractive index {epsilon**0.5:.3f} (measured, in yellow light: 1.333)")

# %%
# Clausius and Mossotti had nothing but the polarisability of a molecule alone, and the field
# :math:`E + \tfrac{4\pi}3 P` at a place in the middle of many: :math:`(\varepsilon + 2)/3` times E.

alone = induced.DampedField(box[:3], *(values[:3] for values in cell[1:]), 1e-8)
answer = [induced.respond(alone, np.tile(axis, (3, 1))).dipoles.sum(axis=0) for axis in np.eye(3)]
polarisability = np.trace(answer) / 3
y = 4 * np.pi / 3 * polarisability * len(everything) / edge**3
mossotti = (1 + 2 * y) / (1 - y)
print(f"polarisability {polarisability:.2f} Å³ (measured: 1.45), index {mossotti**0.5:.3f}")
response = answers.reshape(3, -1, 3, 3).sum(axis=2) * edge**3  # of molecules: (field, n, xyz)
local = np.einsum("ana->n", response) / 3 / polarisability

# %%

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
radius = np.linalg.norm(waters[:, 0] - centre, axis=1)
axes[0].plot(radius, total, "o", ms=3, color="#b4431d", alpha=0.6, label="molecules of the drop")
axes[0].axhline(in_box.mean(), color="#0b6e8a", label="mean in the box")
axes[0].set(xlabel="distance from the centre / Å", ylabel="dipole / D", title="a drop and a box")
axes[0].legend(frameon=False)
axes[1].hist(local, 40, color="0.7", label="molecules of the box")
axes[1].axvline(local.mean(), color="#b4431d", label=f"mean {local.mean():.2f}")
axes[1].axvline((mossotti + 2) / 3, color="#0b6e8a", ls="--", label="Clausius and Mossotti")
axes[1].set(xlabel="dipole induced by a uniform field, a molecule alone = 1", ylabel="molecules")
axes[1].set_title("what neighbours add to light")
axes[1].margins(y=0.4)  # room for the legend
axes[1].legend(frameon=False)
plt.show()

# %%
# Larger drops
# ------------
# Many copies of the box, alone in space; the number of iterations stays, and a field costs linear
# time. The first solution compiles and is not counted. A plan for few points sums directly.

sizes, seconds = [], []
for copies in ((2, 1, 1), (1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2)):
    shifts = edge * np.indices(copies).reshape(3, -1).T
    many = (box + shifts[:, None]).reshape(-1, 3)
    moments = np.tile(cell.moments, (len(shifts), 1))
    rest = [np.tile(values, len(shifts)) for values in cell[1:]]
    start = process_time()
    answer = induced.solve(many, moments, *rest, np.arange(len(many)) // 3, tolerance=1e-5)
    sizes.append(len(many))
    seconds.append(process_time() - start)
    print(f"{sizes[-1]:6d} sites: {len(answer.residuals)} iterations, {seconds[-1]:.1f} s")
sizes, seconds = sizes[1:], seconds[1:]

# %%

figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
axes[0].semilogy(found.residuals, "o-", ms=3, color="#0b6e8a")
axes[0].set(xlabel="iteration", ylabel="relative residual", title="convergence, 216 waters")
bins = np.linspace(1.5, 4.0, 40)
axes[1].hist(permanent, bins, color="0.7", label="permanent")
axes[1].hist(total, bins, color="#b4431d", alpha=0.8, label="with induced")
axes[1].set(xlabel="molecular dipole / D", ylabel="molecules", title="what water does to water")
axes[1].legend(frameon=False)
axes[2].loglog(sizes, seconds, "o-", color="#0b6e8a", label="measured")
axes[2].loglog(sizes, seconds[0] * np.array(sizes) / sizes[0], ":", color="0.5", label="linear")
axes[2].set(xlabel="sites", ylabel="time to solve / s", title="to 1e-5, one thread")
axes[2].set_xticks(sizes, [str(size) for size in sizes])
axes[2].minorticks_off()
axes[2].legend(frameon=False)
plt.show()
