"""Draw `steps.png`: the steps of the fast multipole method for one leaf, on a line of points.

Points on a line make a tree that halves boxes into two; boxes and lists are those of the plan.
"""

import numpy as np
from _style import BLUE, GREEN, INK, ORANGE, PALE, RED, plt, save

import fmm
from fmm.tree.geometry import Geometry

HEIGHT = 0.34


def geometry() -> Geometry:
    """Return tree and lists of 64 points on a line."""
    rng = np.random.default_rng(2)
    across = (np.arange(64) + rng.uniform(-0.35, 0.35, 64)) / 64
    x = np.column_stack([across, np.zeros((64, 2))])
    return fmm.FMM(x, tolerance=1e-3, leaf_size=4)._layout.geometry


def arrow(axis, start, end, color: str, bend: float = 0.0) -> None:
    """Draw an arrow between two places."""
    style = {"arrowstyle": "-|>", "color": color, "lw": 1.2, "shrinkA": 1, "shrinkB": 1}
    axis.annotate("", end, start, arrowprops=style | {"connectionstyle": f"arc3,rad={bend}"})


def draw_boxes(axis, tree, y, line: list[int], near, senders: set[int]) -> None:
    """Draw the boxes of every level, coloured by what they are to the leaf."""
    for box in range(len(y)):
        color = RED if box in line else ORANGE if box in near else BLUE if box in senders else PALE
        low = tree.centre[box, 0] - 0.46 * tree.edge[box], y[box] - HEIGHT / 2
        axis.add_patch(plt.Rectangle(low, 0.92 * tree.edge[box], HEIGHT, fc=color, alpha=0.8))


def main() -> None:
    """Write the picture beside this script."""
    found = geometry()
    tree, lists = found.tree, found.lists
    levels = np.repeat(np.arange(len(tree.level_starts) - 1), np.diff(tree.level_starts))
    x, y = tree.centre[:, 0], -1.0 * levels
    figure, axis = plt.subplots(figsize=(9.4, 4.2))
    leaves = np.flatnonzero(tree.n_children == 0)
    leaf = int(leaves[len(leaves) // 4])
    line = [leaf]
    while tree.parent[line[-1]] >= 0:
        line.append(tree.parent[line[-1]])
    near = lists.near_boxes[lists.near_starts[leaf] : lists.near_starts[leaf + 1]]
    # above it all boxes are neighbours: no expansion is needed
    first = levels[lists.m2l_targets].min()
    senders = set(lists.m2l_sources[np.isin(lists.m2l_targets, line)].tolist())

    draw_boxes(axis, tree, y, line, near, senders)
    bottom = y.min() - 0.62
    points = found.sources[:, 0]
    axis.plot(points, np.full(len(points), bottom), ".", color=INK, ms=4)

    for receiver in line:
        for sender in lists.m2l_sources[lists.m2l_targets == receiver]:
            side = np.sign(x[receiver] - x[sender])
            start = x[sender], y[sender] + HEIGHT / 2
            end = x[receiver] - 0.2 * side * tree.edge[receiver], y[receiver] + HEIGHT / 2
            arrow(axis, start, end, BLUE, -0.28 * side)
        if levels[receiver] > first:
            parent = tree.parent[receiver]
            start = x[parent], y[parent] - HEIGHT / 2
            arrow(axis, start, (x[receiver], y[receiver] + HEIGHT / 2), RED)
    arrow(axis, (x[leaf], y[leaf] - HEIGHT / 2), (x[leaf], bottom + 0.06), RED)
    for box in range(len(x)):
        parent = tree.parent[box]
        beneath = box not in line and box not in near and parent not in line
        if beneath and x[box] > 0.5:
            if levels[box] > first:
                end = x[parent], y[parent] - HEIGHT / 2
                arrow(axis, (x[box], y[box] + HEIGHT / 2), end, GREEN)
            if tree.n_children[box] == 0:
                arrow(axis, (x[box], bottom + 0.06), (x[box], y[box] - HEIGHT / 2), GREEN)
    for box in near:
        if box != leaf:
            bend = 0.35 * np.sign(x[leaf] - x[box])
            arrow(axis, (x[box], bottom - 0.06), (x[leaf], bottom - 0.06), ORANGE, bend)
    for k, text in enumerate(f"level {level}" for level in range(levels.max() + 1)):
        axis.text(-0.02, -k, text, ha="right", va="center", fontsize=9)
    axis.text(-0.02, bottom, "points", ha="right", va="center", fontsize=9)
    labels = (
        (GREEN, "form multipoles, and gather them upwards (shown on the right half)"),
        (BLUE, "multipole to local"), (RED, "local to local, and evaluation"),
        (ORANGE, "near: summed directly"),
    )  # fmt: skip
    handles = [plt.Line2D([], [], color=color, lw=3, label=label) for color, label in labels]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    axis.set(xlim=(-0.1, 1.03), ylim=(bottom - 0.5, 0.45))
    axis.axis("off")
    save(figure, __file__)


if __name__ == "__main__":
    main()
