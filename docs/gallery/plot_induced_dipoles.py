"""
Polarisable water by conjugate gradients
========================================

In a polarisable force field the electric field induces a dipole on every atom, and the dipoles
act on each other. This is a linear system with three unknowns per atom. Its matrix is never
needed: the product with dipoles is *one field*, which `fmm.FMM` sums in linear time.

Here AMOEBA's water is solved, with Thole's damping at short range, and compared with OpenMM.
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


def topology_of(count):
    """Return a topology of water molecules."""
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


system = amoeba.create_system(topology_of(len(waters)))
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
#    :pyobject: solve

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
charges, dipoles = sites.moments[:, :1], sites.moments[:, 1:4]
permanent = (dipoles + charges * (x - x.mean(axis=0))).reshape(-1, 3, 3).sum(axis=1) * DEBYE
gained = found.dipoles.reshape(-1, 3, 3).sum(axis=1) * DEBYE
total = np.linalg.norm(permanent + gained, axis=1)
print(f"permanent {np.linalg.norm(permanent, axis=1).mean():.2f} D, in water {total.mean():.2f} D")

# %%
# Larger boxes
# ------------
# The box is repeated in space; the number of iterations stays, and a field costs linear time. The
# first solution compiles and is not counted. A plan for few points sums directly.

period = 30.0
box = everything.reshape(-1, 3)
cell = amoeba.sites(amoeba.create_system(topology_of(len(everything))), box)
sizes, seconds = [], []
for copies in ((2, 1, 1), (1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2)):
    shifts = period * np.indices(copies).reshape(3, -1).T
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
axes[1].hist(np.linalg.norm(permanent, axis=1), bins, color="0.7", label="permanent")
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
