"""Draw `radial.svg`: the envelope of the network's edges, and what the kernels do to charges."""

from pathlib import Path

import numpy as np
import torch
from _style import COLORS, plt

import multipoles as mp
from gnn.layers.radial import envelope


def draw_envelopes(axis) -> None:
    """Draw our envelope and the published one, which has a factor r_c / r."""
    x = np.linspace(0.02, 1.15, 400)
    ours = envelope(torch.from_numpy(x), 1.0).numpy()
    axis.plot(x, ours, color=COLORS[0], lw=2, label="here")
    axis.plot(x, ours / x, color=COLORS[1], lw=1.5, ls="--", label="published (1/x …)")
    axis.axvline(1, color="0.6", lw=0.8)
    axis.set(ylim=(-0.1, 4), xlim=(0, 1.15), xlabel="x = r / cutoff", title="envelope of an edge")
    axis.legend(frameon=False)


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
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.1))
    draw_envelopes(axes[0])
    draw_kernels(axes[1])
    figure.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
