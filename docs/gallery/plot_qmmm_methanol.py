"""
QM/MM: what water does to methanol
==================================

The model that ships computes a methanol molecule in the field of the water around it: its energy,
the forces on its atoms *and on the water*, and how the water changes its charge distribution. Two
pictures: the dipole in water and in vacuum, and a hydrogen bond that is stretched.
"""

# %%
# One frame
# ---------
# The frames come from molecular-dynamics runs that the model was not trained on. A frame holds the
# atoms, the point charges of the water within 9 Å, and what B3LYP says about them.

import matplotlib.pyplot as plt
import numpy as np

import multipoles as mp
from gnn import System, load_model
from gnn.data import load_shipped, split_by_run
from gnn.units import COULOMB

BLUE, RED = "#0b6e8a", "#b4431d"
model = load_model()
(_, _, frames), (_, _, vacuum) = (
    split_by_run(load_shipped(["meoh"], vacuum=without)) for without in (False, True)
)
frame = frames[0]
print(f"{len(frame.system.numbers)} atoms in {len(frame.system.mm_charges)} charges")

result = model.evaluate([frame])[0]
print(f"energy {result['energy']:.3f} eV, B3LYP {frame.energy:.3f} eV")
for name in ("forces", "mm_forces"):
    error = np.abs(result[name] - getattr(frame, name)).max()
    print(f"{name}: largest {np.abs(result[name]).max():.2f} eV/Å, error at most {error:.3f} eV/Å")
assert abs(result["energy"] - frame.energy) < 0.01

# %%
# What acts on the water acts back on the molecule: all forces add up to nothing.

total = result["forces"].sum(axis=0) + result["mm_forces"].sum(axis=0)
print("net force", np.round(total, 6), "eV/Å")
assert np.abs(total).max() < 1e-4

# %%
# The dipole in water
# -------------------
# The same geometries with and without their surroundings. The water polarises methanol: its dipole
# grows by about a half. The model was trained on the embedded molecule only, and has learned how
# it responds: it also knows the dipole without any water.

DEBYE = 4.80320  # e Å in debye


def dipoles(systems):
    """Return the length of the dipole of each system, in debye."""
    return DEBYE * np.array([np.linalg.norm(r["dipole"]) for r in model.evaluate(systems)])


def labels(frames):
    """Return the same by B3LYP."""
    return DEBYE * np.array([np.linalg.norm(frame.dipole) for frame in frames])


wet, dry = dipoles(frames), dipoles(vacuum)
figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
edges = np.linspace(1.0, 4.0, 40)
for values, reference, name, colour in (
    (dry, labels(vacuum), "in vacuum", RED),
    (wet, labels(frames), "in water", BLUE),
):
    axes[0].hist(values, edges, color=colour, alpha=0.5, label=f"{name}, model")
    axes[0].hist(reference, edges, color=colour, histtype="step", label=f"{name}, B3LYP")
    axes[1].plot(reference, values, ".", ms=4, color=colour, label=name)
    error = np.abs(values - reference).mean()
    print(
        f"{name}: dipole {values.mean():.2f} D, B3LYP {reference.mean():.2f} D, MAE {error:.3f} D"
    )
axes[0].set(xlabel="dipole / D", ylabel="frames", title="one molecule, 150 frames")
axes[1].plot([1, 4], [1, 4], color="0.4", lw=0.8)
axes[1].set(xlabel="B3LYP / D", ylabel="model / D", aspect="equal", title="frame by frame")
for axis in axes:
    axis.legend(frameon=False, fontsize=8)
plt.show()
assert wet.mean() > 1.2 * dry.mean()

# %%
# A hydrogen bond
# ---------------
# One TIP3P water, whose oxygen moves away from the hydrogen of methanol's OH group. Beside the
# model stands what fixed charges would give: the multipoles of methanol in vacuum, in the field of
# the same three charges. The difference is polarisation, which a force field with fixed charges
# leaves out. (The repulsion at short distance is not in either: in dynamics it is the Lennard-Jones
# term of the force field.)

methanol = System(
    [6, 8, 1, 1, 1, 1],
    [[1.4, 0, 0], [0, 0, 0], [1.85, 0.39, -0.92], [1.78, -1.01, 0.08], [1.81, 0.58, 0.85],
     [-0.31, 0.92, 0]],
)  # fmt: skip
hydrogen = methanol.positions[5]
along = hydrogen / np.linalg.norm(hydrogen)  # from the oxygen, at the origin, through the hydrogen
TIP3P = np.array([-0.834, 0.417, 0.417])


def water(distance):
    """Return sites of a water that accepts the hydrogen bond; its hydrogens point away."""
    half = np.deg2rad(104.52 / 2)
    bonds = 0.9572 * np.array([np.cos(half) * along + s * np.sin(half) * np.array([0, 0, 1.0])
                               for s in (1, -1)])  # fmt: skip
    return hydrogen + distance * along + np.concatenate([np.zeros((1, 3)), bonds])


distances = np.linspace(1.6, 6.0, 45)
systems = [System(methanol.numbers, methanol.positions, 0, water(d), TIP3P) for d in distances]
alone, *bonded = model.evaluate([methanol, *systems])
energies = np.array([r["energy"] for r in bonded]) - alone["energy"]
moments = mp.pack(*(alone[key] for key in ("charges", "dipoles", "quadrupoles")))
fixed = np.array([
    COULOMB * TIP3P @ mp.field(water(d), methanol.positions, moments, order=0)[:, 0]
    for d in distances
])  # fmt: skip
lengths = DEBYE * np.array([np.linalg.norm(r["dipole"]) for r in bonded])

figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
axes[0].plot(distances, 1e3 * energies, color=BLUE, label="model")
axes[0].plot(distances, 1e3 * fixed, "--", color=RED, label="multipoles of the vacuum, fixed")
axes[0].set(xlabel="H···O / Å", ylabel="interaction / meV", title="energy")
axes[1].plot(distances, lengths, color=BLUE, label="model")
axes[1].axhline(DEBYE * np.linalg.norm(alone["dipole"]), ls="--", color=RED, label="in vacuum")
axes[1].set(xlabel="H···O / Å", ylabel="dipole of methanol / D", title="response")
for axis in axes:
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
plt.show()
share = 1 - fixed[0] / energies[0]
print(f"at {distances[0]} Å {energies[0]:.2f} eV, of which polarisation {100 * share:.0f} %")

# %%
# Where the charge goes
# ---------------------
# The potential of methanol's multipoles, without the water and what the water adds to it, in the
# plane of the hydrogen bond.

# sphinx_gallery_thumbnail_number = 3
near = model.evaluate([System(methanol.numbers, methanol.positions, 0, water(1.85), TIP3P)])[0]
x, y = np.meshgrid(np.linspace(-4.5, 5, 150), np.linspace(-4, 5.5, 150))
plane = np.stack([x, y, np.zeros_like(x)], axis=-1).reshape(-1, 3)


def potential(result):
    """Return the potential of a result's multipoles in the plane, in volts."""
    moments = mp.pack(*(result[key] for key in ("charges", "dipoles", "quadrupoles")))
    kernel = mp.Erf(2.0)  # finite at the atoms
    return COULOMB * mp.field(plane, methanol.positions, moments, order=0, kernel=kernel)[:, 0]


figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
first = potential(alone)
for axis, values, limit, title in (
    (axes[0], first, 1.5, "methanol in vacuum"),
    (axes[1], potential(near) - first, 0.3, "what one water adds"),
):
    levels = np.linspace(-limit, limit, 31)
    image = axis.contourf(x, y, values.reshape(x.shape), levels, cmap="RdBu_r", extend="both")
    figure.colorbar(image, ax=axis, label="V", ticks=np.linspace(-limit, limit, 5))
    for z, (a, b, _) in zip(methanol.numbers, methanol.positions, strict=True):
        axis.plot(a, b, "o", ms=7 + z, color={1: "w", 6: "0.3", 8: "#d32f2f"}[z], mec="k")
    axis.set(title=title, aspect="equal", xlabel="Å", ylabel="Å")
for a, b, _ in water(1.85)[:1]:
    axes[1].plot(a, b, "o", ms=11, mfc="none", mec="#d32f2f", mew=1.5)
    axes[1].annotate("water", (a, b), (a - 1.5, b + 0.6), color="#d32f2f")
plt.show()
