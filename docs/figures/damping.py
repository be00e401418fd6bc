"""Draw `damping.png`: what damping leaves of each link of Coulomb's chain."""

import numpy as np
from _style import COLORS, plt, save

import multipoles as mp

LINKS = 5


def draw(axis, kernel: mp.Kernel, title: str, reach: float, links: int = LINKS) -> None:
    """Draw the links of a chain, relative to those of 1/r."""
    r = np.linspace(0.02, reach, 300)
    ratio = kernel.chain(r, links - 1) / mp.Coulomb().chain(r, links - 1)
    for n, color in zip(range(links), COLORS, strict=False):
        axis.plot(r, ratio[:, n], color=color, label=f"$B_{n}$", ls=("-", "--")[n % 2])
    axis.axhline(1, color="0.6", lw=0.8)
    axis.set(xlabel="r", xlim=(0, reach), ylim=(-0.05, 1.1), title=title)


def main() -> None:
    """Write the picture beside this script."""
    figure, axes = plt.subplots(1, 3, figsize=(9.4, 2.9), sharey=True)
    draw(axes[0], mp.Erf(1.0), "Erf(1): Gaussian charges", 4)
    draw(axes[1], mp.Thole(0.39), "Thole(0.39): smeared charges", 4)
    draw(axes[2], mp.ReactionField(4.0), "ReactionField(4): a cutoff", 4.4, 3)
    axes[0].set_ylabel("$B_n$ / Coulomb's $B_n$")
    axes[1].legend(loc="lower right", ncols=2)
    save(figure, __file__)


if __name__ == "__main__":
    main()
