"""Who may import whom, and what an import may cost."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = {"numpy", "scipy", "numba", "llvmlite"}
ALLOWED = {"multipoles": CORE | {"multipoles"}, "fmm": CORE | {"multipoles", "fmm"}}
# what a command of the core imports where it needs it
COMMANDS = {"fmm/bench.py": {"fmm3dpy", "matplotlib"}}
# libraries whose arrays come and go, imported when one of theirs has come
ARRAYS = {"multipoles/cuda/device.py": {"torch", "cupy", "jax"}}
# heavy packages that gnn imports inside the function that needs them
LATE = {
    "MDAnalysis", "ase", "dftd3", "dftd4", "openmm", "openmmml", "pdbfixer", "pyscf", "rdkit",
    "parmed", "h5py", "pymbar", "matplotlib", "rich", "torch_sim",
}  # fmt: skip
# modules that define a subclass of such a package's class; no other module imports them
SUBCLASSES = {
    "gnn/engines/ase.py": {"ase"},
    "gnn/engines/openmmml.py": {"openmmml"},
    "gnn/engines/openmmml_factories.py": {"openmmml"},
    "gnn/engines/torch_sim.py": {"torch_sim"},
}
# messages between ranks, of plans that have them
RANKS = {"fmm/distributed/mpi.py": {"mpi4py"}}
# the driver of a GPU, whose bindings come with numba-cuda; imported where kernels run on a device
DRIVER = {"multipoles/compiled/driver.py": {"cuda"}}
# floors of fmm from below: a module imports what is on lower floors, and from its own room
FLOORS = (
    ("fmm.companions",),
    ("fmm.tree",),
    ("fmm.near", "fmm.far"),
    ("fmm.error",),
    ("fmm.cost", "fmm.exclusions", "fmm.report", "fmm.scaling"),
    ("fmm.choice", "fmm.contract", "fmm.steps"),
    ("fmm.energies", "fmm.leaves", "fmm.setting", "fmm.steps_cpu"),
    ("fmm.arguments", "fmm.layout", "fmm.cell"),
    ("fmm.search",),
    ("fmm.evaluation",),
    ("fmm.mesh",),
    ("fmm.ewald",),
    ("fmm.method",),
    ("fmm.planning",),
    ("fmm.once", "fmm.distributions"),
    ("fmm.interactions",),
    ("fmm",),
    ("fmm.validation",),
    ("fmm.bench", "fmm.validation_cell", "fmm.warmup"),
    ("fmm.bench_periodic",),
    ("fmm.__main__",),
    ("fmm.distributed",),
)
# modules of fmm.cuda, and the floor of fmm beside which each of them stands
BESIDE = {
    "keys": "fmm.tree", "curve": "fmm.tree", "build": "fmm.tree", "transfers": "fmm.tree",
    "lists": "fmm.tree", "tiles": "fmm.tree", "tally": "fmm.tree", "geometry": "fmm.tree",
    "rows": "fmm.tree", "near": "fmm.near",
    "columns": "fmm.tree", "expansions": "fmm.far", "staging": "fmm.far",
    "translations": "fmm.far", "products": "fmm.far", "driver": "fmm.far",
    "scaling": "fmm.scaling", "sampling": "fmm.scaling", "steps": "fmm.steps_cpu",
}  # fmt: skip
# what chooses between CPU and GPU, once it sees the arrays
CHOOSERS = {"fmm.arguments"}
# floors of multipoles; modules that are not named stand where they like
ROOMS = (
    ("indexing", "files", "namesakes", "ownership"),
    ("checks",),
    ("compiled",),
    ("pairwise", "layout", "plain"),
    ("radial", "neighbours", "scaling"),
    ("emitted",),
    ("direct_cpu", "cuda.arrays", "cuda.device", "cuda.sorting", "cuda.neighbours", "cuda.direct"),
    ("two_sided_cpu",),
    ("sums", "cuda.interactions"),
    ("extremes", "lattice"),
    ("interactions",),
)
# modules that need each other, one of them inside a function: a kernel's chain comes from the loop
# over all kernels
CIRCLES = ("multipoles.radial.",)


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Walk over what runs when a module is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _at_import(child)


def _imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    found = set()
    for node in _at_import(tree) if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", ["multipoles", "fmm"])
def test_core_packages_import_the_core_only(package):
    for path in (ROOT / package).rglob("*.py"):
        late = (COMMANDS | ARRAYS).get(str(path.relative_to(ROOT)), set())
        assert not _imports(path, top_level_only=True) & late
        name = str(path.relative_to(ROOT))
        late = late | DRIVER.get(name, set()) | RANKS.get(name, set())
        foreign = _imports(path) - ALLOWED[package] - set(sys.stdlib_module_names) - late
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}"


def test_heavy_packages_are_imported_late():
    for path in (ROOT / "gnn").rglob("*.py"):
        name = str(path.relative_to(ROOT))
        assert _imports(path, top_level_only=True) & LATE == SUBCLASSES.get(name, set()), name


@pytest.mark.parametrize("subclass", SUBCLASSES)
def test_modules_that_need_a_heavy_package_are_imported_by_nobody(subclass):
    module = subclass.removesuffix(".py").replace("/", ".")
    package, _, name = module.rpartition(".")
    for path in (ROOT / "gnn").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert module not in {alias.name for alias in node.names}, path
            elif isinstance(node, ast.ImportFrom):
                assert node.module != module, path
                assert (node.module, name) not in {(package, a.name) for a in node.names}, path


def _names_numba_cuda(path: Path) -> bool:
    """Whether a module imports numba.cuda, in any way."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        if any(name.startswith("numba.cuda") for name in names):
            return True
    return False


def test_numba_cuda_has_three_doors():
    paths = [p for package in ("multipoles", "fmm", "gnn") for p in (ROOT / package).rglob("*.py")]
    doors = {str(path.relative_to(ROOT)) for path in paths if _names_numba_cuda(path)}
    names = "cuda_kernels", "cuda_access", "cuda_vectors"
    assert doors == {f"multipoles/compiled/{name}.py" for name in names}


def test_core_imports_without_numba_cuda():
    code = "import sys, multipoles, fmm; print('numba.cuda' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.strip() == "False"


def test_core_imports_without_torch():
    code = "import sys, multipoles, fmm; print('torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.strip() == "False"


# --- who stands on whom ---------------------------------------------------------------------------


def _modules() -> dict[str, Path]:
    """Return the files of all modules, by their dotted names."""
    paths = (p for package in ("multipoles", "fmm", "gnn") for p in (ROOT / package).rglob("*.py"))
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in paths}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


MODULES = _modules()


def _needs(module: str, late: bool) -> set[str]:
    """Return the modules of ours that one imports, those inside functions too if `late`."""
    tree = ast.parse(MODULES[module].read_text())
    found: set[str] = set()
    for node in ast.walk(tree) if late else _at_import(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name in MODULES else str(node.module) for name in names}
    return (found & MODULES.keys()) - {module}


def _circles(needs: dict[str, set[str]]) -> list[set[str]]:
    """Return the groups of modules each of which leads to all others of its group."""
    reached = {}
    for module in needs:
        seen, ahead = set(), [module]
        while ahead:
            for other in needs[ahead.pop()] - seen:
                seen.add(other)
                ahead.append(other)
        reached[module] = seen
    groups = {frozenset(o for o in reached[m] if m in reached[o]) for m in needs if m in reached[m]}
    return [set(group) for group in groups]


def test_no_module_needs_itself_when_imported():
    assert not _circles({module: _needs(module, late=False) for module in MODULES})


def test_few_modules_need_each_other_late():
    circles = _circles({module: _needs(module, late=True) for module in MODULES})
    assert not [c for c in circles if not all(m.startswith(CIRCLES) for m in c)]


def test_circles_are_found():
    needs = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}, "e": {"a"}}
    assert sorted(map(sorted, _circles(needs))) == [["b", "c"], ["d"]]


def _floor_of(module: str) -> tuple[int, str]:
    """Return the number of a module's floor in fmm, and its room there."""
    package, _, name = module.rpartition(".")
    if package == "fmm.cuda":
        return _floor_of(BESIDE[name])[0], package
    for number, rooms in enumerate(FLOORS):
        for room in rooms:
            if module == room or (room != "fmm" and module.startswith(f"{room}.")):
                return number, room
    raise AssertionError(f"{module} stands on no floor of fmm")


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("fmm") and m != "fmm.cuda"])
def test_floors_of_fmm(module):
    floor, room = _floor_of(module)
    for other in _needs(module, late=module not in CHOOSERS):
        if not other.startswith("fmm"):
            continue
        below, its_room = _floor_of(other)
        assert room == "fmm.cuda" or its_room != "fmm.cuda", f"{module} imports {other}"
        beside = room == its_room or (room == "fmm.cuda" and below == floor)
        assert below < floor or beside, f"{module} imports {other}"


def test_floors_of_multipoles():
    floors = {f"multipoles.{room}": i for i, rooms in enumerate(ROOMS) for room in rooms}

    def floor_of(module: str) -> int | None:
        return next((i for r, i in floors.items() if f"{module}.".startswith(f"{r}.")), None)

    for module in MODULES:
        floor = floor_of(module)
        if floor is None:
            continue
        for other in _needs(module, late=False):
            below = floor_of(other)
            assert below is None or below <= floor, f"{module} imports {other}"
