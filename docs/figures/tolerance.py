"""Draw `tolerance.png`: errors reached, and time taken, against the tolerance asked for."""

from time import process_time

import numpy as np
from _style import COLORS, plt, save

import fmm
import multipoles as mp
from multipoles.indexing import order_slice

TOLERANCES = tuple(10.0**-k for k in range(2, 13))
N = 50_000
CASES = (
    ("charges, mixed signs → gradient", 0, 1, False),
    ("charges of one sign → gradient", 0, 1, True),
    ("quadrupoles → second derivatives", 2, 2, False),
)


def measure(x: np.ndarray, source_order: int, order: int, positive: bool) -> list[list[float]]:
    """Return the largest error of all orders, over all points, and seconds of plan and field."""
    rng = np.random.default_rng(1)
    moments = mp.detrace(rng.standard_normal((len(x), mp.n_components(source_order))))
    moments = np.abs(moments) if positive else moments
    exact = mp.field(x, x, moments, order=order)
    found = []
    for tolerance in TOLERANCES:
        seconds = []
        for _ in range(3):
            start = process_time()
            plan = fmm.FMM(x, None, tolerance, source_order, order)
            phi = plan.field(moments)
            seconds.append(process_time() - start)
        errors = [
            np.linalg.norm((phi - exact)[:, order_slice(k)])
            / np.linalg.norm(exact[:, order_slice(k)])
            for k in range(order + 1)
        ]
        found.append([float(max(errors)), min(seconds)])
    return found


def main() -> None:
    """Write the picture beside this script."""
    mp.set_num_threads(1)
    x = np.random.default_rng(0).random((N, 3))
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.4))
    for (label, *case), color in zip(CASES, COLORS, strict=False):
        errors, seconds = zip(*measure(x, *case), strict=True)
        axes[0].loglog(TOLERANCES, errors, "o-", ms=4, color=color, label=label)
        axes[1].semilogx(TOLERANCES, seconds, "o-", ms=4, color=color)
    axes[0].loglog(TOLERANCES, TOLERANCES, color="0.5", lw=1, ls="--", label="tolerance = error")
    axes[0].set(xlabel="tolerance", ylabel="relative error reached", title="accuracy")
    axes[1].set(xlabel="tolerance", ylabel="seconds, plan and first field", title="time")
    axes[1].set_ylim(0, None)
    for axis in axes:
        axis.invert_xaxis()
        axis.grid(alpha=0.3, lw=0.5)
    axes[0].legend()
    save(figure, __file__)


if __name__ == "__main__":
    main()
