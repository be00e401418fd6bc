"""Draw `packing.png`: which component of a packed array is which, order by order."""

from _style import BLUE, GREEN, ORANGE, RED, plt, save

from multipoles import n_components
from multipoles.indexing import multi_indices

COLORS = (BLUE, ORANGE, GREEN, RED)
NAMES = ("charge", "dipole", "quadrupole", "octupole")
MAX_ORDER = 3


def main() -> None:
    """Write the picture beside this script."""
    figure, axis = plt.subplots(figsize=(9.4, 2.9))
    indices = [tuple(int(n) for n in index) for index in multi_indices(MAX_ORDER)]
    for place, index in enumerate(indices):
        order = sum(index)
        column, row = place - (n_components(order - 1) if order else 0), -order
        box = plt.Rectangle((column, row), 0.94, 0.82, fc=COLORS[order], alpha=0.22, ec="none")
        axis.add_patch(box)
        letters = "".join(axis_name * n for axis_name, n in zip("xyz", index, strict=True)) or "0"
        axis.text(column + 0.47, row + 0.5, letters, ha="center", va="center", fontsize=11)
        axis.text(column + 0.47, row + 0.17, f"[{place}]", ha="center", va="center", fontsize=7.5,
                  color="0.35")  # fmt: skip
    for order, name in enumerate(NAMES):
        axis.text(-0.25, -order + 0.41, f"{name}, |α| = {order}", ha="right", va="center")
        end = n_components(order)
        axis.text(10.2, -order + 0.41, f"n_components({order}) = {end}", va="center", fontsize=9,
                  color="0.35")  # fmt: skip
    axis.set(xlim=(-2.9, 12.9), ylim=(-MAX_ORDER - 0.1, 0.95))
    axis.axis("off")
    save(figure, __file__)


if __name__ == "__main__":
    main()
