"""Draw `expansion.png`: charges of a molecule, and how well their multipoles stand for them."""

import numpy as np
from _style import BLUE, COLORS, INK, RED, plt, save

import multipoles as mp
from multipoles.moments import moments_of_charges

# acetate with a charge on every atom, in Å and e
ATOMS = np.array(
    [[-1.36, 0.0, 0.0], [0.19, 0.0, 0.0], [0.78, 1.12, 0.0], [0.78, -1.12, 0.0],
     [-1.73, 1.03, 0.0], [-1.73, -0.51, 0.89], [-1.73, -0.51, -0.89]]
)  # fmt: skip
CHARGES = np.array([-0.22, 0.86, -0.84, -0.84, 0.01, 0.02, 0.01])
ORDERS = range(5)
NAMES = ("charge", "dipole", "quadrupole", "octupole", "hexadecapole")


def draw_molecule(axis) -> None:
    """Draw the potential in the plane of the heavy atoms, and the charges."""
    x = np.linspace(-5, 5, 200)
    across, up = np.meshgrid(x, x)
    points = np.stack([across, up, np.zeros_like(up)], axis=-1).reshape(-1, 3)
    phi = mp.field(points, ATOMS, CHARGES[:, None], order=0)[:, 0].reshape(up.shape)
    levels = np.linspace(-1, 1, 25)
    shades = axis.contourf(x, x, phi, levels, cmap="RdBu_r", extend="both")
    colors = [RED if q > 0 else BLUE for q in CHARGES]
    sizes = 30 + 170 * np.abs(CHARGES)
    axis.scatter(*ATOMS[:, :2].T, sizes, c=colors, edgecolors="white", zorder=3)
    axis.plot(0, 0, "+", color=INK, ms=10, mew=2, zorder=4)
    axis.set(aspect="equal", xlabel="x / Å", ylabel="y / Å", title="charges, and their potential")
    axis.figure.colorbar(shades, ax=axis, shrink=0.8, ticks=(-1, 0, 1), label="φ / (e/Å)")


def draw_errors(axis) -> None:
    """Draw the error of expansions through each order on spheres of growing radius."""
    radii = np.geomspace(2.3, 30, 40)
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((400, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    points = (radii[:, None, None] * directions).reshape(-1, 3)
    exact = mp.field(points, ATOMS, CHARGES[:, None], order=0)[:, 0]
    for order, color in zip(ORDERS, COLORS, strict=False):
        moments = moments_of_charges(CHARGES, ATOMS, order=order)
        found = mp.field(points, np.zeros((1, 3)), moments, order=0)[:, 0]
        shape = len(radii), len(directions)
        wrong = np.sqrt(np.mean((found - exact).reshape(shape) ** 2, axis=1))
        relative = wrong / np.sqrt(np.mean(exact.reshape(shape) ** 2, axis=1))
        axis.loglog(radii, relative, color=color)
        slope = rf"$r^{{-{order + 1}}}$"
        axis.annotate(
            f"… {NAMES[order]}, {slope}" if order else f"{NAMES[0]} only, {slope}",
            (radii[-1], relative[-1]), (5, 0), textcoords="offset points", color=color,
            va="center", fontsize=9,
        )  # fmt: skip
    axis.set(xlabel="distance r / Å", title="relative error of the potential of moments through …")
    axis.set_xticks([3, 5, 10, 20, 30], ["3", "5", "10", "20", "30"])
    axis.minorticks_off()
    axis.set_xlim(2.2, 31)


def main() -> None:
    """Write the picture beside this script."""
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.5), width_ratios=(1, 1.15))
    draw_molecule(axes[0])
    draw_errors(axes[1])
    save(figure, __file__)


if __name__ == "__main__":
    main()
