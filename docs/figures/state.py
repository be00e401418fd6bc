"""Draw `state.png`: how neighbours span the anisotropic state of an atom, order by order."""

import numpy as np
import torch
from _style import BLUE, INK, RED, plt, save

from gnn.operators.edges import anisotropic_state
from multipoles.indexing import multi_indices, order_slice

# where three neighbours are seen from, and their coefficients of order 0, 1, 2
ANGLES = np.radians([20.0, 120.0, 250.0])
COEFFICIENTS = np.array([[0.2, -0.6, 0.8], [0.2, 0.2, -0.7], [0.1, -0.2, 0.6]])
TITLES = ("order 0: a number", "order 1: a vector", "order 2: a traceless tensor", "the state")


def state() -> np.ndarray:
    """Return the packed state that three edges make."""
    directions = np.stack([np.cos(ANGLES), np.sin(ANGLES), 0 * ANGLES], axis=1)
    # from neighbour to atom
    found = anisotropic_state(
        torch.from_numpy(COEFFICIENTS[:, :, None]), torch.from_numpy(-directions),
        torch.zeros(3, dtype=torch.int64), 1, 2,
    )  # fmt: skip
    return found[0, :, 0].numpy()


def lobes(packed: np.ndarray, orders: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return angles, and the state contracted with the direction of each."""
    angle = np.linspace(0, 2 * np.pi, 721)
    u = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    powers = np.prod(u[:, None, :] ** multi_indices(2), axis=2)
    # a packed off-diagonal component holds both halves already
    value = sum(powers[:, order_slice(k)] @ packed[order_slice(k)] for k in orders)
    return angle, value


def draw(axis, packed: np.ndarray, orders: tuple[int, ...], title: str) -> None:
    """Draw the size of the contraction as a radius, its sign as a colour."""
    angle, value = lobes(packed, orders)
    across, up = np.abs(value) * np.cos(angle), np.abs(value) * np.sin(angle)
    for positive, color in ((True, RED), (False, BLUE)):
        shown = np.where((value > 0) == positive, 1.0, 0.0)
        axis.fill(across * shown, up * shown, color=color, alpha=0.6, lw=0)
    for place, seen in enumerate(ANGLES):
        x, y = 1.75 * np.cos(seen), 1.75 * np.sin(seen)
        axis.plot([0, x], [0, y], color="0.6", lw=1, zorder=0)
        axis.plot(x, y, "o", color="0.5", ms=11)
        axis.text(x, y, str(place + 1), color="white", ha="center", va="center", fontsize=8)
    axis.plot(0, 0, "o", color=INK, ms=6)
    axis.set(aspect="equal", xlim=(-2, 2.1), ylim=(-2, 2), title=title)
    axis.axis("off")


def main() -> None:
    """Write the picture beside this script."""
    packed = state()
    figure, axes = plt.subplots(1, 4, figsize=(9.4, 2.7))
    for axis, orders, title in zip(axes, ((0,), (1,), (2,), (0, 1, 2)), TITLES, strict=True):
        draw(axis, packed, orders, title)
    save(figure, __file__)


if __name__ == "__main__":
    main()
