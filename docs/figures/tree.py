"""Draw `tree.png`: the boxes of a plan for points in a plane, and who meets whom.

Points lie in one plane, so that the tree halves boxes into four and its picture is whole. Boxes and
lists are those of the plan.
"""

import numpy as np
from _style import GREEN, INK, ORANGE, PURPLE, RED, plt, save

import fmm
from fmm.tree.lists import build_lists

LEAF_SIZE = 12
BLUES = ("#0072b2", "#6fb1d6", "#c4dfee")


def points() -> np.ndarray:
    """Return a crowd, a ring and a few stragglers."""
    rng = np.random.default_rng(5)
    crowd = 0.28 + 0.055 * rng.standard_normal((330, 2))
    angle = rng.uniform(0, 2 * np.pi, 220)
    ring = np.stack([0.64 + 0.25 * np.cos(angle), 0.66 + 0.25 * np.sin(angle)], axis=1)
    ring += 0.012 * rng.standard_normal(ring.shape)
    flat = np.concatenate([crowd, ring, rng.random((90, 2))])
    return np.column_stack([np.clip(flat, 0, 1), np.zeros(len(flat))])


def outline(axis, tree, box: int, **style) -> None:
    """Draw a box."""
    edge = tree.edge[box]
    low = tree.centre[box, :2] - 0.5 * edge
    axis.add_patch(plt.Rectangle(low, edge, edge, **style))


def draw_tree(axis, tree, x: np.ndarray) -> None:
    """Draw leaves and points."""
    for box in np.flatnonzero(tree.n_children == 0):
        outline(axis, tree, box, fc="none", ec="0.45", lw=0.7)
    axis.plot(*x[:, :2].T, ".", color=INK, ms=2.4)
    axis.set_title("points, and the leaves that hold them")


def draw_lists(axis, tree, lists, x: np.ndarray, leaf: int) -> None:
    """Draw all boxes from which a leaf receives, itself and through the boxes around it."""
    line = [leaf]
    while tree.parent[line[-1]] >= 0:
        line.append(tree.parent[line[-1]])
    found = [(ORANGE, "near: summed directly",
              lists.near_boxes[lists.near_starts[leaf] : lists.near_starts[leaf + 1]])]  # fmt: skip
    for up, (color, whose) in enumerate(zip(BLUES, ("leaf", "parent", "grandparent"), strict=True)):
        boxes = lists.m2l_sources[np.isin(lists.m2l_targets, line[up : up + 1])]
        found.append((color, f"multipole to local, of the {whose}", boxes))
    found.append((GREEN, "multipole to particle", lists.m2p_sources[lists.m2p_targets == leaf]))
    p2l = lists.p2l_sources[np.isin(lists.p2l_targets, line)]
    found.append((PURPLE, "particle to local", p2l))
    for color, label, boxes in found:
        for place, box in enumerate(boxes):
            outline(axis, tree, box, fc=color, ec="white", lw=1.0, alpha=0.75,
                    label=None if place else label)  # fmt: skip
    outline(axis, tree, leaf, fc=RED, ec="white", lw=1.0, label="the leaf")
    axis.plot(*x[:, :2].T, ".", color=INK, ms=1.5)
    axis.set_title("where one leaf gets its field from")


def telling(tree, lists) -> int:
    """Return the largest leaf that receives in all four ways."""
    leaves = np.flatnonzero(tree.n_children == 0)
    ways = np.array(
        [
            (box in lists.m2p_targets) + (box in lists.p2l_targets) + (box in lists.m2l_targets)
            for box in leaves
        ]
    )
    return int(leaves[np.lexsort((tree.edge[leaves], ways))[-1]])


def main() -> None:
    """Write the picture beside this script."""
    x = points()
    plan = fmm.FMM(x, tolerance=1e-3, leaf_size=LEAF_SIZE)
    tree = plan._layout.geometry.tree
    # a plan lets single boxes meet points only where that pays; here it shall be seen
    lists = build_lists(tree, 3, 3)
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 5.1))
    draw_tree(axes[0], tree, x)
    draw_lists(axes[1], tree, lists, x, telling(tree, lists))
    for axis in axes:
        axis.set(aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axis.axis("off")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    save(figure, __file__)


if __name__ == "__main__":
    main()
