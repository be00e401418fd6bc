"""The look that the figures share."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# told apart by colour-blind readers too (after Okabe and Ito)
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#a0558a", "#56b4e9",
)  # fmt: skip
COLORS = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY)
INK, PALE = "#20303a", "#d9dee2"

plt.rcParams.update(
    {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10.5,
        "figure.constrained_layout.use": True,
        "font.size": 9.5,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "lines.linewidth": 1.7,
        "svg.hashsalt": "anisole",
    }
)


def save(figure: Any, script: str) -> None:
    """Write a figure beside its script, with the script's name."""
    figure.savefig(Path(script).with_suffix(".png"), dpi=150)
    plt.close(figure)
