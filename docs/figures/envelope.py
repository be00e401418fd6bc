"""Draw `envelope.png`: the envelope of the network's edges, and the published one."""

import numpy as np
import torch
from _style import BLUE, RED, plt, save

from gnn.operators.fused import envelope


def main() -> None:
    """Write the picture beside this script."""
    x = np.linspace(0.02, 1.15, 400)
    ours = envelope(torch.from_numpy(x), 1.0).numpy()
    figure, axis = plt.subplots(figsize=(5.4, 2.7))
    axis.plot(x, ours, color=BLUE, label="here: w")
    # the published programs multiply it by cutoff / r
    axis.plot(x, ours / x, color=RED, ls="--", label="published: w cutoff / r")
    axis.axvline(1, color="0.6", lw=0.8)
    axis.set(ylim=(-0.1, 4), xlim=(0, 1.15), xlabel="r / cutoff", title="envelope of an edge")
    axis.legend()
    save(figure, __file__)


if __name__ == "__main__":
    main()
