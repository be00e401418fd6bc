"""Draw `closure.png`: one map, and how its derivatives are the map again."""

from _style import BLUE, GREEN, INK, RED, plt, save

PLACES = {
    "moments": (1.6, 2.6), "field": (6.6, 2.6), "more": (11.6, 2.6),
    "psi": (1.6, 0.6), "g": (6.6, 0.6), "psi_more": (11.6, 0.6),
}  # fmt: skip
TEXTS = {
    "moments": ("$M$, order $K$", "moments at $s$"),
    "field": (r"$\Phi$, order $D$", "field at $x$"),
    "more": (r"$\Phi$, order $D+1$", r"$\partial\Phi/\partial x$"),
    "g": ("$g$, order $D$", r"$\partial L/\partial\Phi$ at $x$"),
    "psi": (r"$\Psi$, order $K$", r"$\partial L/\partial M$ at $s$"),
    "psi_more": (r"$\Psi$, order $K+1$", r"$M\cdot\Psi = \partial L/\partial s$"),
}


def draw_box(axis, name: str, color: str) -> None:
    """Draw an array."""
    x, y = PLACES[name]
    style = {"boxstyle": "round,pad=0.02,rounding_size=0.12", "ec": color, "lw": 1.3}
    for alpha, face in ((1.0, "white"), (0.12, color)):
        patch = plt.matplotlib.patches.FancyBboxPatch(
            (x - 1.25, y - 0.45), 2.5, 0.9, fc=face, alpha=alpha, **style
        )
        axis.add_patch(patch)
    axis.text(x, y + 0.17, TEXTS[name][0], ha="center", va="center", fontsize=10.5)
    axis.text(x, y - 0.2, TEXTS[name][1], ha="center", va="center", fontsize=9, color=INK)


def arrow(axis, start: str, end: str, text: str, color: str) -> None:
    """Draw a use of the map between two arrays."""
    (x, y), (u, _) = PLACES[start], PLACES[end]
    side = 1.3 if u > x else -1.3
    axis.annotate(
        "",
        (u - side, y),
        (x + side, y),
        arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.6},
    )
    axis.text((x + u) / 2, y + 0.14, text, ha="center", va="bottom", fontsize=10, color=color)


def main() -> None:
    """Write the picture beside this script."""
    figure, axis = plt.subplots(figsize=(9.4, 2.6))
    arrow(axis, "moments", "field", "$F(x, s)$", BLUE)
    arrow(axis, "field", "more", "one order more", BLUE)
    arrow(axis, "g", "psi", "$F(s, x)$, the adjoint", RED)
    arrow(axis, "g", "psi_more", "one order more", RED)
    for name in PLACES:
        draw_box(axis, name, RED if PLACES[name][1] < 1 else BLUE)
    axis.annotate(
        "", (6.6, 1.1), (6.6, 2.1), arrowprops={"arrowstyle": "-|>", "color": GREEN, "lw": 1.6}
    )
    axis.text(6.75, 1.6, "loss $L$", va="center", fontsize=10, color=GREEN)
    axis.text(0.1, 3.25, "forward", fontsize=9, color=BLUE)
    axis.text(0.1, 1.25, "backward", fontsize=9, color=RED)
    axis.set(xlim=(0, 13), ylim=(0, 3.5))
    axis.axis("off")
    save(figure, __file__)


if __name__ == "__main__":
    main()
