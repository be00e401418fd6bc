"""
A free energy by umbrella sampling
==================================

How hard is it to turn the OH group of methanol in water? Twelve runs of QM/MM molecular dynamics
hold the torsion H–C–O–H near twelve angles; MBAR puts their samples together. The methyl group has
three equal hydrogens, so the answer must repeat after a third of a turn, which checks it.
"""

# %%
# The runs
# --------
# One command did them, each window a replica that meets the others at batched calls of the model:
#
# .. code-block:: sh
#
#    anisole md --umbrella turn.yaml --steps 10000 --interval 20
#
# with this file (lengths would be in Å, angles are in degrees, energies in kJ/mol):

import csv
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import yaml

from gnn.engines.sampling.free_energy import umbrella_free_energy
from gnn.engines.sampling.plan import BiasPlan

FILE = """
variables:
  phi: {torsion: [2, 0, 1, 5]}
umbrella:
  variable: phi
  centres: {from: -180, to: 150, count: 12}
  force_constant: 60
  pull: 0.5
"""
plan = BiasPlan(**yaml.safe_load(FILE))

# %%
# They were stopped after some 3 ps each, which ``benchmarks/umbrella.py`` would continue. What is
# kept of them are the samples that count as independent.

results = Path.cwd()
while not (results / "benchmarks").is_dir():
    results = results.parent
with open(results / "benchmarks" / "results" / "umbrella_methanol.csv", newline="") as file:
    rows = [(float(row["centre_deg"]), float(row["phi_deg"])) for row in csv.DictReader(file)]
windows = [np.array([x for c, x in rows if c == centre]) for centre in plan.umbrella.windows]
print(f"{len(rows)} samples; of each window {', '.join(str(len(w)) for w in windows)}")

# %%
# The free energy
# ---------------
# The same as ``anisole free-energy RUN``. Errors are those of differences to the lowest bin.

found = umbrella_free_energy(windows, plan.umbrella, 300.0, unit="degrees", turns=True, bins=24)
print(f"smallest overlap of neighbouring windows: {found.overlap:.2f}")

# %%
# Thirds of the turn are three estimates of one curve, and how they scatter is an error that owes
# nothing to the theory of MBAR.

thirds = found.values.reshape(3, 8)
thirds = thirds - thirds.mean(axis=1, keepdims=True)
mean, scatter = thirds.mean(axis=0), thirds.std(axis=0, ddof=1)
barrier = mean.max() - mean.min()
error = np.hypot(*(scatter[k] for k in (mean.argmax(), mean.argmin()))) / 3**0.5
print(f"barrier {barrier:.1f} ± {error:.1f} kJ/mol in water")
assert 2.5 < barrier < 7.5
assert np.sqrt((scatter**2).mean()) < 2 * np.nanmean(found.errors)

# %%

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
bins = np.linspace(-180, 180, 73)
for window in windows:
    axes[0].hist((window + 180) % 360 - 180, bins, alpha=0.6)
axes[0].set(xlabel="torsion H–C–O–H / degrees", ylabel="samples", title="twelve windows")
axes[1].errorbar(
    found.centres, found.values, found.errors, color="#b4431d", capsize=2, label="MBAR"
)
again = np.tile(mean - mean.min(), 3)
axes[1].plot(found.centres, again, color="#0b6e8a", label="mean of the three thirds")
axes[1].set(xlabel="torsion H–C–O–H / degrees", ylabel="kJ/mol", title="free energy")
axes[1].legend(frameon=False, fontsize=8)
for axis in axes:
    axis.set_xticks(np.arange(-180, 181, 60))
    axis.spines[["top", "right"]].set_visible(False)
plt.show()
