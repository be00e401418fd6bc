"""Modules of the package import each other in one direction, those imported late included."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# what a method imports when it is called
UP = {("multipoles.radial.base", "multipoles.radial.dispatch")}


def modules():
    paths = sorted((ROOT / "multipoles").rglob("*.py"))
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


def imports(path, known):
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & known) or {node.module}
    return found & known


def test_imports_have_one_direction():
    known = modules()
    graph = {name: imports(path, known.keys()) for name, path in known.items()}
    assert set(UP) <= {(name, other) for name, others in graph.items() for other in others}
    for name, other in UP:
        graph[name].discard(other)
    assert len(list(TopologicalSorter(graph).static_order())) == len(known)
