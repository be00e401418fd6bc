"""Draw `multipole_fields.png`: potentials of point multipoles, summed by `multipoles.field`.

From left to right a dipole, a linear quadrupole, and the same dipole under the kernel of Gaussian
charges; colour is the potential, lines follow the electric field.
"""

from pathlib import Path

import matplotlib
import numpy as np

import multipoles as mp

matplotlib.use("Agg")
import matplotlib.pyplot as plt

WIDTH = 3.0
POINTS = 161


def panels() -> list[tuple[str, np.ndarray, mp.Kernel]]:
    """Return title, packed moments and kernel of each panel."""
    dipole = mp.pack(dipoles=[[0.0, 0.0, 1.0]])
    quadrupole = mp.pack(quadrupoles=np.diag([-0.5, -0.5, 1.0])[None])
    return [
        ("dipole, $1/r$", dipole, mp.Coulomb()),
        ("quadrupole, $1/r$", quadrupole, mp.Coulomb()),
        (r"dipole, $\mathrm{erf}(r)/r$", dipole, mp.Erf(1.0)),
    ]


def draw(axis, title: str, moments: np.ndarray, kernel: mp.Kernel):
    """Draw one panel in the plane y = 0."""
    x = np.linspace(-WIDTH, WIDTH, POINTS)
    horizontal, vertical = np.meshgrid(x, x)
    points = np.stack([horizontal, np.zeros_like(horizontal), vertical], axis=-1).reshape(-1, 3)
    phi = mp.field(points, np.zeros((1, 3)), moments, order=1, kernel=kernel)
    potential, ex, ez = (phi[:, k].reshape(horizontal.shape) for k in (0, 1, 3))
    # a signed logarithm shows both the near field and the far one
    shown = np.arcsinh(potential / 0.02)
    levels = np.linspace(-6, 6, 25)
    shades = axis.contourf(x, x, shown, levels, cmap="RdBu_r", extend="both")
    axis.streamplot(
        x, x, -ex, -ez, color="#20303a", density=0.75, linewidth=0.6, arrowsize=0.6, zorder=3
    )
    axis.set(title=title, aspect="equal", xticks=[], yticks=[])
    axis.set(xlim=(-WIDTH, WIDTH), ylim=(-WIDTH, WIDTH))
    return shades


def main() -> None:
    """Write the picture beside this script."""
    figure, axes = plt.subplots(1, 3, figsize=(9.0, 3.25), layout="constrained")
    for axis, panel in zip(axes, panels(), strict=True):
        draw(axis, *panel)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
