"""Draw `model.png`: what flows where in the model."""

from _style import BLUE, GREEN, INK, ORANGE, PURPLE, RED, plt, save

# name: centre, width, height, colour, lines
BOXES = {
    "atoms": ((1.15, 4.3), 1.9, 1.0, GREEN, ("atoms", "elements, positions", "total charge")),
    "around": ((1.15, 1.2), 1.9, 1.0, BLUE, ("surroundings", "charges, multipoles", "fields")),
    "nodes": ((4.3, 4.3), 2.1, 1.0, GREEN, ("nodes and edges", "features h, e", "envelope w(r)")),
    "field": ((4.3, 1.2), 2.1, 1.0, BLUE, ("field at the atoms", "φ, ∇φ, ∇∇φ", "and smeared Δ")),
    "state": ((7.55, 4.3), 2.1, 1.0, RED, ("anisotropic state", "S = Σ c ⟦u⊗u…⟧", "orders 0 … 3")),
    "message": (
        (10.75, 4.3), 2.1, 1.0, RED, ("messages", "invariants of both", "ends: D·u, u·Qu, …")
    ),
    "long": ((7.55, 2.7), 2.1, 0.8, PURPLE, ("long range", "field of all states")),
    "update": ((10.75, 2.7), 2.1, 0.8, RED, ("update", "h ← h + MLP(…)")),
    "multipoles": (
        (9.15, 1.2), 2.7, 0.8, ORANGE, ("physical multipoles", "charges, dipoles, quadrupoles")
    ),
    "energy": ((13.6, 1.2), 2.0, 1.0, INK, ("energy", "its gradient: forces", "on all particles")),
}  # fmt: skip


def draw_box(axis, centre, width, height, color, lines) -> None:
    """Draw a box and what is written in it."""
    low = centre[0] - width / 2, centre[1] - height / 2
    style = {"boxstyle": "round,pad=0.02,rounding_size=0.12", "ec": color, "lw": 1.3}
    axis.add_patch(plt.matplotlib.patches.FancyBboxPatch(low, width, height, fc="white", **style))
    axis.add_patch(
        plt.matplotlib.patches.FancyBboxPatch(low, width, height, fc=color, alpha=0.13, **style)
    )
    for row, text in enumerate(lines):
        y = centre[1] + 0.27 * ((len(lines) - 1) / 2 - row)
        weight = "bold" if row == 0 else "normal"
        size = 9.3 if row == 0 else 8.3
        axis.text(centre[0], y, text, ha="center", va="center", fontsize=size, fontweight=weight)


def arrow(axis, start, end, color: str, bend: float = 0.0) -> None:
    """Draw an arrow."""
    style = {"arrowstyle": "-|>", "color": color, "lw": 1.3, "mutation_scale": 12}
    axis.annotate("", end, start, arrowprops=style | {"connectionstyle": f"arc3,rad={bend}"})


def draw_arrows(axis) -> None:
    """Draw what flows from box to box."""
    straight = (
        ((2.1, 4.3), (3.25, 4.3), GREEN), ((2.1, 1.2), (3.25, 1.2), BLUE),
        ((5.35, 4.3), (6.5, 4.3), GREEN), ((8.6, 4.3), (9.7, 4.3), RED),
        ((4.3, 1.7), (4.3, 3.8), BLUE), ((10.75, 3.8), (10.75, 3.1), RED),
        ((7.55, 3.8), (7.55, 3.1), RED), ((8.6, 2.7), (9.7, 2.7), PURPLE),
        ((10.45, 1.2), (12.6, 1.2), ORANGE), ((1.6, 3.8), (3.5, 1.7), GREEN),
    )  # fmt: skip
    for start, end, color in straight:
        arrow(axis, start, end, color)
    arrow(axis, (5.1, 1.7), (6.5, 4.0), BLUE, -0.12)
    arrow(axis, (5.35, 1.45), (9.75, 2.45), BLUE, 0.05)
    arrow(axis, (10.75, 2.3), (9.6, 1.6), RED)
    arrow(axis, (11.8, 2.6), (13.4, 1.7), RED, -0.2)
    arrow(axis, (4.3, 0.7), (13.0, 0.7), BLUE, 0.09)
    axis.plot((11.8, 12.0, 12.0, 7.55, 7.55), (2.85, 2.85, 5.25, 5.25, 5.2), color=RED, lw=1.3)
    arrow(axis, (7.55, 5.25), (7.55, 4.8), RED)


def main() -> None:
    """Write the picture beside this script."""
    figure, axis = plt.subplots(figsize=(10.5, 3.9))
    axis.add_patch(
        plt.Rectangle((6.25, 2.15), 5.95, 3.3, fc="none", ec="0.6", lw=1, ls=(0, (4, 3)))
    )
    axis.text(12.35, 5.3, "repeated in\nevery step", fontsize=8.8, color="0.35", va="top")
    draw_arrows(axis)
    for box in BOXES.values():
        draw_box(axis, *box)
    axis.set(xlim=(0.1, 14.75), ylim=(0.1, 5.6), aspect="equal")
    axis.axis("off")
    save(figure, __file__)


if __name__ == "__main__":
    main()
