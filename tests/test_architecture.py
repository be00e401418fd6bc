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
LATE = {"ase", "openmm", "pyscf", "rdkit", "parmed", "h5py", "matplotlib", "rich"}
# modules that define a subclass of such a package's class; no other module imports them
SUBCLASSES = {"gnn/engines/ase.py": {"ase"}}


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


def test_numba_cuda_has_two_doors():
    paths = [p for package in ("multipoles", "fmm", "gnn") for p in (ROOT / package).rglob("*.py")]
    doors = {str(path.relative_to(ROOT)) for path in paths if _names_numba_cuda(path)}
    assert doors == {"multipoles/compiled/cuda_kernels.py", "multipoles/compiled/cuda_access.py"}


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
