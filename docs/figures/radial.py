"""Draw `radial.png`: the force between two charges under the kernels."""

import numpy as np
from _style import COLORS, plt, save

import multipoles as mp


def draw_kernels(axis) -> None:
    """Draw the force between unit charges, relative to Coulomb's."""
    r = np.linspace(0.02, 5, 400)
    bare = mp.Coulomb().chain(r, 1)[:, 1]
    kernels = {
        "Erf(1)": mp.Erf(1.0),
        "Thole(0.39)": mp.Thole(0.39),
        "Erfc(0.4)": mp.Erfc(0.4),
        "Yukawa(0.5)": mp.Yukawa(0.5),
        "ReactionField(4)": mp.ReactionField(4.0),
    }
    for (name, kernel), color in zip(kernels.items(), COLORS, strict=False):
        axis.plot(r, kernel.chain(r, 1)[:, 1] / bare, color=color, label=name)
    axis.axhline(1, color="0.6", lw=0.8)
    axis.set(xlim=(0, 5), ylim=(-0.03, 1.08), xlabel="r", title="force / Coulomb force")
    axis.legend(frameon=False, fontsize=8)


def main() -> None:
    """Write the picture beside this script."""
    figure, axis = plt.subplots(figsize=(5.4, 3.0))
    draw_kernels(axis)
    save(figure, __file__)


if __name__ == "__main__":
    main()
