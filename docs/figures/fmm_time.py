"""Draw where a plan spends its time; writes docs/figures/fmm_time.png."""

from pathlib import Path
from time import perf_counter

import matplotlib
import numpy as np

import fmm
import multipoles as mp

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CASES = (
    ("charges → gradient\n1e-3", 0, 1, 1e-3),
    ("charges → gradient\n1e-6", 0, 1, 1e-6),
    ("charges → gradient\n1e-9", 0, 1, 1e-9),
    ("dipoles → gradient\n1e-6", 1, 1, 1e-6),
    ("quadrupoles →\n3rd derivatives, 1e-6", 2, 3, 1e-6),
)
PARTS = {
    "tree and lists": ("plan",),
    "near field": ("near field",),
    "multipole to local": ("multipole to local",),
    "points to and from expansions": (
        "form multipoles", "evaluate locals", "particle to local", "multipole to particle",
    ),
    "between levels": ("multipole to multipole", "local to local"),
    "choice and check of accuracy": ("sample",),
    "copies": ("permutation",),
}  # fmt: skip
COLORS = ("#b8b8b8", "#1b6ca8", "#c8553d", "#e0a458", "#7a9e7e", "#6b4e71", "#dddddd")


def measure(points: np.ndarray, source_order: int, order: int, tolerance: float) -> dict:
    """Return the least time of each part over several runs."""
    moments = np.random.default_rng(1).standard_normal((len(points), mp.n_components(source_order)))
    least: dict[str, float] = {}
    for _ in range(4):
        start = perf_counter()
        plan = fmm.FMM(points, None, tolerance, source_order, order)
        seconds = {"plan": perf_counter() - start}
        plan.field(moments)
        seconds |= plan.report().seconds
        for part, steps in PARTS.items():
            total = sum(seconds.get(step, 0.0) for step in steps)
            least[part] = min(least.get(part, np.inf), total)
    return least


def main() -> None:
    """Measure all cases and draw them."""
    mp.set_num_threads(1)
    points = np.random.default_rng(0).random((100_000, 3))
    bars = [measure(points, *case[1:]) for case in CASES]
    figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
    left = np.zeros(len(CASES))
    for part, color in zip(PARTS, COLORS, strict=True):
        width = np.array([bar[part] for bar in bars])
        axis.barh(range(len(CASES)), width, left=left, color=color, label=part, height=0.62)
        left += width
    for row, total in enumerate(left):
        axis.text(total, row, f" {total:.2f} s", va="center", fontsize=9)
    axis.set_yticks(range(len(CASES)), [case[0] for case in CASES], fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.12 * left.max())
    axis.set_xlabel("seconds, one thread, 100 000 points")
    axis.legend(frameon=False, fontsize=8, loc="upper right")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.savefig(Path(__file__).with_name("fmm_time.png"), dpi=150)


if __name__ == "__main__":
    main()
