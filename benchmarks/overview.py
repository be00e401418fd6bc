"""Draw the picture of the README: what a trained model sees, and how well it predicts.

Needs a checkpoint, by default that of `anisole demo`. Left: the electrostatic potential of the
predicted charges, dipoles and quadrupoles of a methanol molecule in its hydrogen-bond plane,
summed by `multipoles.field`, with the water charges of one test frame around it. Right: predicted
against reference forces on atoms and on surrounding charges, for all test frames.
"""

import argparse
from pathlib import Path

import numpy as np
from _experiments import first_set

import gnn
import multipoles as mp
from gnn.data import split_by_run
from gnn.training.report.metrics import compare
from gnn.units import COULOMB
from multipoles.files import atomic_write

OUTPUT = Path(__file__).parent.parent / "docs" / "overview.png"
COLORS = {1: "#f5f5f5", 6: "#444444", 7: "#3050f8", 8: "#d62828"}
RADII = {1: 0.30, 6: 0.45, 7: 0.43, 8: 0.42}


def plane(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return origin and two axes of the plane through C, O and the hydroxyl H of methanol."""
    carbon, oxygen = positions[0], positions[1]
    hydrogens = positions[2:]
    hydroxyl = hydrogens[np.argmin(np.linalg.norm(hydrogens - oxygen, axis=1))]
    first = (oxygen - carbon) / np.linalg.norm(oxygen - carbon)
    second = hydroxyl - oxygen
    second = second - (second @ first) * first
    return positions.mean(0), first, second / np.linalg.norm(second)


def draw_potential(axis, model, frame) -> None:
    system = frame.system
    result = model.evaluate([system])[0]
    moments = mp.pack(result["charges"], result["dipoles"], result["quadrupoles"])
    origin, first, second = plane(system.positions)
    width = 5.2
    x = np.linspace(-width, width, 241)
    grid = origin + x[None, :, None] * first + x[:, None, None] * second
    potential = mp.field(
        grid.reshape(-1, 3), system.positions, moments, order=0, kernel=mp.Erf(1.2)
    )
    values = COULOMB * potential[:, 0].reshape(len(x), len(x))
    levels = np.linspace(-1.5, 1.5, 25)
    shades = axis.contourf(x, x, values, levels, cmap="RdBu_r", extend="both", alpha=0.9)
    axis.contour(x, x, values, levels[::2], colors="k", linewidths=0.35, alpha=0.5)
    offset = system.mm_positions - origin
    u, v = offset @ first, offset @ second
    w = offset @ np.cross(first, second)
    near = (np.abs(w) < 2.0) & (np.abs(u) < width) & (np.abs(v) < width)
    for i in np.flatnonzero(near):
        oxygen = system.mm_charges[i] < 0
        axis.scatter(
            u[i], v[i], s=46 if oxygen else 16, lw=0.8, zorder=3,
            facecolor="none", edgecolor="#b00020" if oxygen else "#555555",
        )  # fmt: skip
    offset = system.positions - origin
    order = np.argsort(offset @ np.cross(first, second))
    import matplotlib.patches as patches

    flat = np.stack([offset @ first, offset @ second], axis=1)
    bonds = np.argwhere(
        np.linalg.norm(system.positions[:, None] - system.positions[None], axis=2) < 1.6
    )
    for i, j in bonds:
        axis.plot(*flat[[i, j]].T, color="#333333", lw=4, zorder=3.5)
    for i in order:
        z = int(system.numbers[i])
        centre = offset[i] @ first, offset[i] @ second
        axis.add_patch(
            patches.Circle(centre, RADII[z], facecolor=COLORS[z], edgecolor="k", lw=0.7, zorder=4)
        )
    axis.set(xlim=(-width, width), ylim=(-width, width), xlabel="Å", ylabel="Å", aspect="equal")
    axis.set_title("potential / V of the predicted multipoles")
    axis.figure.colorbar(shades, ax=axis, shrink=0.85, ticks=[-1.5, -1, -0.5, 0, 0.5, 1, 1.5])


def draw_parity(axis, comparison, quantity: str, title: str) -> None:
    from matplotlib.colors import LogNorm

    predicted, reference = comparison.values(quantity)
    errors = comparison.errors(quantity)
    axis.hexbin(reference, predicted, gridsize=70, mincnt=1, norm=LogNorm(), cmap="viridis", lw=0.1)
    low, high = reference.min(), reference.max()
    axis.plot([low, high], [low, high], color="k", lw=0.6)
    axis.set(xlabel="B3LYP / (eV/Å)", ylabel="predicted / (eV/Å)", aspect="equal", title=title)
    text = f"RMSE {errors.rmse:.1f} meV/Å\n= {100 * errors.ratio:.1f} % of std"
    axis.text(0.05, 0.95, text, transform=axis.transAxes, va="top")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="runs/demo/best.pt")
    parser.add_argument("--frame", type=int, default=0)
    arguments = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"axes.titlesize": 10.5, "font.size": 9.5})
    model = gnn.load_model(arguments.checkpoint)
    test = split_by_run(first_set())[2]
    comparison = compare(model.evaluate(test), test)
    methanol = [frame for frame in test if frame.name == "meoh"]
    figure, axes = plt.subplots(1, 3, figsize=(12.6, 3.9), width_ratios=[1.25, 1, 1])
    draw_potential(axes[0], model, methanol[arguments.frame])
    draw_parity(axes[1], comparison, "forces", "forces on atoms, unseen MD runs")
    draw_parity(axes[2], comparison, "mm_forces", "forces on water charges, same runs")
    figure.tight_layout()
    with atomic_write(OUTPUT) as temporary:
        figure.savefig(temporary, dpi=140)
    print(f"written: {OUTPUT}")


if __name__ == "__main__":
    main()
