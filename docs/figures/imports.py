"""Draw `imports.png`: the rooms of the packages on their floors, and who imports whom.

All of it is read from the sources. Rooms are the folders of a package, and the modules beside them;
what a folder says of itself is the first sentence of its docstring. A room stands above all that it
imports when it is imported.
"""

import ast
import textwrap
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from _style import BLUE, GREEN, INK, ORANGE, RED, plt, save

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"gnn": GREEN, "fmm": ORANGE, "multipoles": BLUE}
# inches: a box and the gaps beside and below it, a line of text, edge and title of a panel
BOX, BESIDE, BELOW, LINE, EDGE, TITLE = 1.28, 0.14, 0.3, 0.142, 0.16, 0.3
LETTERS, AT_MOST = 20, 3  # in a line of a box; boxes beside each other


def name_of(path: Path) -> str:
    """Return the name of a module, that of its folder for `__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree: ast.Module) -> set[tuple[str, bool]]:
    """Return the names that a module imports, and whether it does so when it is imported."""
    found, inside = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside |= {id(child) for child in ast.walk(node)}
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            inside |= {id(child) for child in ast.walk(node)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {(name, id(node) not in inside) for name in names}
    return found


class House:
    """Modules of all packages, the rooms they lie in, and the imports between rooms."""

    def __init__(self) -> None:
        paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
        self.trees = {name_of(p): ast.parse(p.read_text(encoding="utf-8")) for p in paths}
        folders = {name_of(p) for p in paths if p.name == "__init__.py"}
        self.folders = {name for name in folders if name.count(".") == 1}
        self.modules = sorted(
            self.trees.keys() - PACKAGES.keys() - {f"{p}.__main__" for p in PACKAGES}
        )

    def room(self, module: str) -> str:
        """Return the folder of a module; a module beside the folders is a room of its own."""
        return ".".join(module.split(".")[:2])

    @cached_property
    def imports(self) -> dict[tuple[str, str], bool]:
        """Pairs of rooms, the first importing the second, and whether always or in a function."""
        found: dict[tuple[str, str], bool] = {}
        for module in self.modules:
            for name, at_once in imports_of(self.trees[module]):
                while name and name not in self.trees:
                    name = name.rpartition(".")[0]
                if name:
                    pair = self.room(module), self.room(name)
                    found[pair] = found.get(pair, False) or at_once
        return {(a, b): always for (a, b), always in found.items() if a != b}

    def about(self, folder: str) -> str:
        """Return the first sentence of a folder's docstring."""
        text = ast.get_docstring(self.trees[folder]) or ""
        first = " ".join(text.split("\n\n")[0].split()).partition(". ")[0]
        first = first.partition("," if "=" in first else ": one module")[0]  # no formulas
        return first.replace("`", "").rstrip(".")


def reachable(rooms: list[str], pairs) -> np.ndarray:
    """Return which room reaches which by imports."""
    place = {room: i for i, room in enumerate(rooms)}
    reach = np.zeros((len(rooms), len(rooms)), bool)
    for a, b in pairs:
        reach[place[a], place[b]] = True
    for k in range(len(rooms)):
        reach |= np.outer(reach[:, k], reach[k])
    return reach


def floors(house: House, package: str) -> tuple[dict[str, int], set[tuple[str, str]]]:
    """Return the floor of each room of a package, and the late imports that point upwards."""
    rooms = sorted({house.room(m) for m in house.modules if m.startswith(f"{package}.")})
    inner = {p: always for p, always in house.imports.items() if {*p} <= {*rooms}}
    below = {p for p, always in inner.items() if always}
    upwards = set()
    for a, b in sorted(inner.keys() - below):
        if reachable(rooms, below)[rooms.index(b), rooms.index(a)]:
            upwards.add((a, b))
        else:
            below.add((a, b))
    reach = reachable(rooms, below)
    same = reach & reach.T
    floor = dict.fromkeys(rooms, 0)
    for _ in rooms:
        for a, b in below:
            if not same[rooms.index(a), rooms.index(b)]:
                loose = not {a, b} & house.folders
                floor[a] = max(floor[a], floor[b] + 1 - loose)
        for i, a in enumerate(rooms):
            floor[a] = max([floor[a], *(floor[rooms[j]] for j in np.flatnonzero(same[i]))])
    return floor, upwards


class Box:
    """A folder, or the modules beside the folders on one floor."""

    def __init__(self, house: House, package: str, rooms: list[str]) -> None:
        self.rooms, is_folder = rooms, rooms[0] in house.folders
        names = sorted(room.partition(".")[2] for room in rooms)
        self.title = f"{names[0].replace('.', '/')}/" if is_folder else ""
        text = house.about(rooms[0]) if is_folder else ", ".join(names)
        self.size = 1 if len(text) < 4 * LETTERS else 2
        self.width = self.size * BOX + (self.size - 1) * BESIDE
        self.lines = textwrap.wrap(text, int(LETTERS * self.width / BOX), break_long_words=False)
        others = {b.partition(".")[0] for a, b in house.imports if a in rooms}
        self.others = [p for p in PACKAGES if p in others - {package}]
        self.height = 0.16 + LINE * (len(self.lines) + 1.2 * is_folder)
        self.x = self.y = 0.0  # the middle of the upper edge


def rows_of(house: House, package: str, floor: dict[str, int]) -> list[list[Box]]:
    """Return the boxes of a package in rows from the ground up."""
    rows = []
    for level in sorted(set(floor.values())):
        here = [room for room in floor if floor[room] == level]
        loose = [room for room in here if room not in house.folders]
        boxes = [Box(house, package, [room]) for room in here if room in house.folders]
        boxes += [Box(house, package, loose)] if loose else []
        row: list[Box] = []
        for box in boxes:
            if sum(b.size for b in row) + box.size > AT_MOST:
                rows.append(row)
                row = []
            row.append(box)
        rows.append(row)
    return rows


def arrows_of(house: House, boxes: list[Box], upwards) -> list[tuple[Box, Box, str]]:
    """Return the imports between boxes, but those that follow from others, with their kinds."""
    of = {room: i for i, box in enumerate(boxes) for room in box.rooms}
    always: dict[tuple[int, int], bool] = {}
    for (a, b), at_once in house.imports.items():
        if a in of and b in of and of[a] != of[b] and (a, b) not in upwards:
            pair = of[a], of[b]
            always[pair] = always.get(pair, False) or at_once
    every = list(range(len(boxes)))
    reach = reachable(every, always)
    found = []
    for (a, b), at_once in always.items():
        between = [k for k in every if reach[a, k] and reach[k, b] and not reach[k, a]
                   and not reach[b, k]]  # fmt: skip
        if reach[b, a]:
            found.append((boxes[a], boxes[b], "circle"))
        elif not between:
            found.append((boxes[a], boxes[b], "always" if at_once else "late"))
    back = {(of[a], of[b]) for a, b in upwards if of[a] != of[b]}
    return found + [(boxes[a], boxes[b], "back") for a, b in back]


class Bend:
    """Where an arrow passes a row of boxes."""

    width, height, x, y = 0.0, 0.0, 0.0, 0.0


def with_bends(rows: list[list[Any]], arrows) -> list[tuple[list[Any], str]]:
    """Return the paths of arrows, a bend put into every row that one passes."""
    row_of = {box: k for k, row in enumerate(rows) for box in row}
    paths = []
    for a, b, kind in arrows:
        step = 1 if row_of[b] > row_of[a] else -1
        path = [a]
        for k in range(row_of[a] + step, row_of[b], step):
            path.append(Bend())
            rows[k].append(path[-1])
        paths.append(([*path, b], kind))
    return paths


def arrange(rows: list[list[Any]], paths, left: float, bottom: float, below: float) -> float:
    """Give the boxes of a panel their places, and return the height of its upper edge."""
    inside = AT_MOST * (BOX + BESIDE) - BESIDE
    beside: dict[Any, list[Any]] = {box: [] for row in rows for box in row}
    for path, _ in paths:
        for a, b in pairwise(path):
            beside[a].append(b)
            beside[b].append(a)

    def spread(row: list[Any]) -> None:
        free = (inside - sum(box.width for box in row)) / (len(row) + 1)
        x = left + EDGE + free
        for box in row:
            box.x = x + box.width / 2
            x += box.width + free

    y = bottom + EDGE
    for k, row in enumerate(rows):
        height = max(box.height for box in row)
        y += height
        for box in row:
            box.y, box.row, box.height = y, k, box.height or height
        spread(row)
        y += below
    for sweep in range(12):  # those that are joined above each other
        towards = 1 if sweep % 2 else -1
        for row in rows[::-towards]:
            joined = {a: [b.x for b in beside[a] if (b.row - a.row) * towards > 0] for a in row}
            row.sort(key=lambda a: np.mean(joined[a] or [a.x]))
            spread(row)
    return y - below + EDGE


STYLES = {
    "always": {"color": INK, "lw": 1.0},
    "late": {"color": INK, "lw": 0.8, "ls": (0, (4, 3))},
    "back": {"color": "#8a97a0", "lw": 0.8, "ls": (0, (4, 3))},
    "circle": {"color": RED, "lw": 1.0},
}


def draw_arrows(axis, paths) -> None:
    """Draw arrows, from the lower edge of boxes to the upper one of others."""
    starts: dict[Any, list[Any]] = {}
    ends: dict[Any, list[Any]] = {}
    for path, _ in paths:
        starts.setdefault(path[0], []).append(path)
        ends.setdefault(path[-1], []).append(path)
    for path, kind in paths:
        a, b = path[0], path[-1]
        leaving = sorted(starts[a], key=lambda p: p[1].x)
        coming = sorted(ends[b], key=lambda p: p[-2].x)
        start = a.x + a.width * ((leaving.index(path) + 1) / (len(leaving) + 1) - 0.5)
        end = b.x + b.width * ((coming.index(path) + 1) / (len(coming) + 1) - 0.5)
        up = b.row > a.row
        points = [(start, a.y - a.height * (not up))]
        for p in path[1:-1]:
            points += [(p.x, p.y - p.height), (p.x, p.y)][:: 1 if up else -1]
        points.append((end, b.y - b.height * up))
        if a.row == b.row:  # both ways, if at all
            side, y = np.sign(b.x - a.x), min(a.y - a.height / 2, b.y - b.height / 2)
            points = [(a.x + 0.5 * side * a.width, y), (b.x - 0.5 * side * b.width, y)]
        style = STYLES[kind]
        axis.plot(*np.transpose(points[:-1]), zorder=2, **style)
        head = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
        axis.annotate("", points[-1], points[-2], arrowprops=head | style, zorder=2)


def draw_box(axis, box: Box, color: str) -> None:
    """Draw a box, its text, and marks of the other packages that it imports."""
    low = box.x - box.width / 2, box.y - box.height
    axis.add_patch(
        plt.Rectangle(low, box.width, box.height, fc="white", ec=color, lw=1.1, zorder=3)
    )
    y = box.y - 0.08
    if box.title:
        axis.text(box.x, y, box.title, ha="center", va="top", fontsize=9.5, weight="bold", zorder=4)
        y -= 1.2 * LINE
    text = "\n".join(box.lines)
    axis.text(box.x, y, text, ha="center", va="top", fontsize=8, linespacing=1.25, zorder=4)
    for k, other in enumerate(box.others):
        axis.plot(low[0] + box.width - 0.1 - 0.13 * k, box.y, "s", ms=6, color=PACKAGES[other],
                  mec="white", mew=0.8, zorder=4)  # fmt: skip


def draw_package(
    axis, house: House, package: str, left: float, bottom: float, high: float | None = None
) -> tuple[float, set[str]]:
    """Draw the panel of a package up to a height; return its upper edge and kinds of arrows."""
    floor, upwards = floors(house, package)
    rows = rows_of(house, package, floor)
    boxes = [box for row in rows for box in row]
    paths = with_bends(rows, arrows_of(house, boxes, upwards))
    top = arrange(rows, paths, left, bottom, BELOW) + TITLE
    if high is not None and len(rows) > 1:
        arrange(rows, paths, left, bottom, BELOW + (high - top) / (len(rows) - 1))
        top = high
    width = AT_MOST * (BOX + BESIDE) - BESIDE + 2 * EDGE
    color = PACKAGES[package]
    axis.add_patch(plt.Rectangle((left, bottom), width, top - bottom, fc=color, alpha=0.12))
    axis.text(left + EDGE, top - 0.12, package, va="top", fontsize=12, weight="bold", color=color)
    draw_arrows(axis, paths)
    for box in boxes:
        draw_box(axis, box, color)
    return top, {kind for _, kind in paths}


def main() -> None:
    """Write the picture beside this script."""
    house = House()
    width = AT_MOST * (BOX + BESIDE) - BESIDE + 2 * EDGE
    right = width + 0.3
    figure = plt.figure(layout="none")
    axis = figure.add_axes((0, 0, 1, 1))
    middle, kinds = draw_package(axis, house, "multipoles", right, 0.0)
    top, more = draw_package(axis, house, "fmm", right, middle + 0.3)
    top, others = draw_package(axis, house, "gnn", 0.0, 0.0, top)
    drawn = kinds | more | others
    labels = ("imports", "always"), ("only inside a function", "late"), ("a circle", "circle")
    handles = [
        plt.Line2D([], [], **STYLES[kind], label=label) for label, kind in labels if kind in drawn
    ]
    handles += [plt.Line2D([], [], ls="", marker="s", ms=5, color=color, label=f"imports {package}")
                for package, color in PACKAGES.items() if package != "gnn"]  # fmt: skip
    figure.legend(handles=handles, loc="lower center", ncols=5, fontsize=9.5)
    axis.set(xlim=(-EDGE, right + width + EDGE), ylim=(-0.4, top + EDGE))
    axis.axis("off")
    figure.set_size_inches(right + width + 2 * EDGE, top + EDGE + 0.4)
    save(figure, __file__)


if __name__ == "__main__":
    main()
