"""Draw `degree.png`: error of the far field against the degree of its expansions."""

import warnings

import numpy as np
from _style import COLORS, plt, save

import fmm
import multipoles as mp

DEGREES = range(2, 25, 2)
CASES = (
    ("charges → potential", 0, 0), ("charges → gradient", 0, 1),
    ("quadrupoles → gradient", 2, 1), ("quadrupoles → third derivatives", 2, 3),
)  # fmt: skip


def errors(x: np.ndarray, source_order: int, order: int) -> list[float]:
    """Return the relative error at 300 points, at the highest derivative, for each degree."""
    rng = np.random.default_rng(1)
    moments = mp.detrace(rng.standard_normal((len(x), mp.n_components(source_order))))
    sample = rng.choice(len(x), 300, replace=False)
    exact = mp.field(x[sample], x, moments, order=order)
    highest = slice(mp.n_components(order - 1) if order else 0, None)
    found = []
    for degree in DEGREES:
        plan = fmm.FMM(x, tolerance=1e-13, source_order=source_order, order=order, leaf_size=80)
        geometry, steps = plan._layout.geometry, plan._layout.steps
        # the steps of a plan, with the same degree for all boxes
        degrees = tuple(degree if n else 0 for n in geometry.translations)
        ordered = steps.to_tree(geometry, moments[:, None].copy(), np.dtype(float))
        out = steps.near(geometry, ordered, order, mp.Coulomb(), 0.0)
        far = steps.far(geometry, degrees, source_order, order, np.dtype(float))
        out = steps.total(out, far(steps.harmonic(ordered, source_order), {}), order)
        phi = steps.from_tree(geometry, out, np.dtype(float))[:, 0]
        wrong = (phi[sample] - exact)[:, highest]
        found.append(np.linalg.norm(wrong) / np.linalg.norm(exact[:, highest]))
    return found


def main() -> None:
    """Write the picture beside this script."""
    warnings.simplefilter("ignore")
    x = np.random.default_rng(0).random((20_000, 3))
    figure, axis = plt.subplots(figsize=(6.4, 3.4))
    for (label, source_order, order), color in zip(CASES, COLORS, strict=False):
        axis.semilogy(DEGREES, errors(x, source_order, order), "o-", ms=4, color=color, label=label)
    axis.set(xlabel="degree of the expansions", ylabel="relative error")
    axis.grid(alpha=0.3, lw=0.5)
    axis.legend()
    save(figure, __file__)


if __name__ == "__main__":
    main()
