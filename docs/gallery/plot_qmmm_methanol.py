"""
QM/MM: what water does to methanol
==================================

The model that ships computes a methanol molecule in the field of the water around it: its energy,
the forces on its atoms *and on the water*, and how the water changes its charge distribution.
Three pictures: the dipole in water and in vacuum, a hydrogen bond that is stretched, and the
potential around the molecule.
"""

# %%
# One frame
# ---------
# The frames come from molecular-dynamics runs that the model was not trained on. A frame holds the
# atoms, the point charges of the water within 9 Å, and energy and forces by B3LYP.

import matplotlib.pyplot as plt
import numpy as np

from gnn import System, load_model, units
from gnn.data import collate, load_shipped, split_shipped

BLUE, RED = "#0b6e8a", "#b4431d"
model = load_model()
tests = (split_shipped(load_shipped(["meoh"], vacuum=without))[2] for without in (False, True))
frames, vacuum = ([frame for frame in test if frame.group == "first"] for test in tests)
frame = frames[0]
print(f"{len(frame.system.numbers)} atoms in {len(frame.system.mm_charges)} charges")

result = model.evaluate([frame])[0]
print(f"energy {result['energy']:.3f} eV, B3LYP {frame.energy:.3f} eV")
for name in ("forces", "mm_forces"):
    error = np.abs(result[name] - getattr(frame, name)).max()
    print(f"{name}: largest {np.abs(result[name]).max():.2f} eV/Å, error at most {error:.3f} eV/Å")
assert abs(result["energy"] - frame.energy) < 0.01

# %%
# Action and reaction: the forces on the molecule and on the water add up to zero.

total = result["forces"].sum(axis=0) + result["mm_forces"].sum(axis=0)
print("net force", np.round(total, 6), "eV/Å")
assert np.abs(total).max() < 1e-4

# %%
# The dipole in water
# -------------------
# The same geometries with and without their surroundings: water polarises methanol, and its dipole
# grows by a quarter.

DEBYE = 1 / units.DEBYE  # e Å in debye


def dipoles(systems):
    """Return the length of the dipole of each system, in debye."""
    return DEBYE * np.array([np.linalg.norm(r["dipole"]) for r in model.evaluate(systems)])


def labels(frames):
    """Return the same by B3LYP."""
    return DEBYE * np.array([np.linalg.norm(frame.dipole) for frame in frames])


wet, dry = dipoles(frames), dipoles(vacuum)
figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
edges = np.linspace(1.4, 3.0, 33)
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
axes[1].plot([1.4, 3], [1.4, 3], color="0.4", lw=0.8)
axes[1].set(xlabel="B3LYP / D", ylabel="model / D", aspect="equal", title="frame by frame")
for axis in axes:
    axis.legend(frameon=False, fontsize=8)
plt.show()
assert wet.mean() > 1.2 * dry.mean() and np.abs(wet - labels(frames)).mean() < 0.02

# %%
# A hydrogen bond
# ---------------
# One TIP3P water, whose oxygen moves away from the hydrogen of methanol's OH group. Beside the
# model stands what a rigid charge distribution would give: the potential of methanol in vacuum,
# at the same three charges. The difference is polarisation, which a force field with fixed charges
# leaves out. (The repulsion at short distance is not in either: in dynamics it is the Lennard-Jones
# term of the force field.)
#
# The potential of a molecule at a point is the derivative of its energy by a charge there, and the
# model gives it (``mm_potential``): where charges are zero they probe and do not act.

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


def surrounded(positions, charges):
    """Return methanol among charges."""
    return System(methanol.numbers, methanol.positions, 0, positions, charges)


def potential(system):
    """Return the potential of the molecule at the charges around it, in volts."""
    batch = collate([system], model.cutoff)
    return model(batch, mm_potential=True)["mm_potential"].numpy()


distances = np.linspace(1.6, 6.0, 23)
alone, *bonded = model.evaluate([methanol, *(surrounded(water(d), TIP3P) for d in distances)])
energies = np.array([result["energy"] for result in bonded]) - alone["energy"]
rigid = np.array([TIP3P @ potential(surrounded(water(d), 0 * TIP3P)) for d in distances])
lengths = DEBYE * np.array([np.linalg.norm(result["dipole"]) for result in bonded])

figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
axes[0].plot(distances, 1e3 * energies, color=BLUE, label="model")
axes[0].plot(distances, 1e3 * rigid, "--", color=RED, label="rigid charge distribution")
axes[0].set(xlabel="H···O / Å", ylabel="interaction / meV", title="energy")
axes[1].plot(distances, lengths, color=BLUE, label="model")
axes[1].axhline(DEBYE * np.linalg.norm(alone["dipole"]), ls="--", color=RED, label="in vacuum")
axes[1].set(xlabel="H···O / Å", ylabel="dipole of methanol / D", title="response")
for axis in axes:
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
plt.show()
share = 1 - rigid[0] / energies[0]
print(f"at {distances[0]} Å {energies[0]:.2f} eV, of which polarisation {100 * share:.0f} %")
assert (energies < rigid).all()  # polarisation binds

# %%
# Where the charge goes
# ---------------------
# The same probe on a grid in the plane of the hydrogen bond: the potential of methanol in vacuum,
# and what the water's presence adds to it. The side of the OH group becomes more positive, the
# other side more negative: electrons move away from the negative oxygen of the water. Grey is what
# lies within 1.5 Å of an atom, closer than charges came in training.

# sphinx_gallery_thumbnail_number = 3
x, y = np.meshgrid(np.linspace(-4.5, 5, 121), np.linspace(-4, 5.5, 121))
height = np.full_like(x, 1e-3)  # no probe on an atom
plane = np.stack([x, y, height], axis=-1).reshape(-1, 3)
nothing = np.zeros(len(plane))
first = potential(surrounded(plane, nothing))
sites, charges = np.concatenate([water(1.85), plane]), np.concatenate([TIP3P, nothing])
added = potential(surrounded(sites, charges))[3:] - first

figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
near = np.linalg.norm(plane[:, None] - methanol.positions, axis=2).min(axis=1) < 1.5
for axis, values, limit, title in (
    (axes[0], first, 0.9, "methanol in vacuum"),
    (axes[1], added, 0.15, "what one water adds"),
):
    levels = np.linspace(-limit, limit, 31)
    values = np.where(near, np.nan, values).reshape(x.shape)
    axis.set_facecolor("0.85")
    image = axis.contourf(x, y, values, levels, cmap="RdBu_r", extend="both")
    figure.colorbar(image, ax=axis, label="V", ticks=np.linspace(-limit, limit, 5))
    for z, (a, b, _) in zip(methanol.numbers, methanol.positions, strict=True):
        axis.plot(a, b, "o", ms=7 + z, color={1: "w", 6: "0.3", 8: "#d32f2f"}[z], mec="k")
    axis.set(title=title, aspect="equal", xlabel="Å", ylabel="Å")
a, b, _ = water(1.85)[0]
axes[1].plot(a, b, "o", ms=15, mfc="none", mec="k", mew=1.2)
axes[1].annotate("oxygen of the water", (a, b), (a - 2.5, b + 0.8))
plt.show()
