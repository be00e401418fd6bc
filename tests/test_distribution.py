"""What is installed by `pip install anisole`: the files of the wheel, its requirements."""

import csv
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from source_state import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PACKAGES = ("multipoles", "fmm", "gnn")
DATA = {
    "gnn/data/README.md", "gnn/data/model.pt", "gnn/data/qmmm.h5", "gnn/training/demo.yaml",
    "gnn/engines/methanol/solute.prmtop.gz", "gnn/engines/methanol/solute.rst7.gz",
    *(f"{package}/py.typed" for package in PACKAGES),
}  # fmt: skip
MOST = 30e6  # bytes of all that ships, before it is packed
SYSTEMS = (
    {"sys_platform": "linux", "platform_machine": "x86_64"},
    {"sys_platform": "linux", "platform_machine": "aarch64"},
    {"sys_platform": "darwin", "platform_machine": "arm64"},
    {"sys_platform": "win32", "platform_machine": "AMD64"},
)


def shipped(monkeypatch) -> set[str]:
    """Return the files of the wheel, as setuptools lists them."""
    from setuptools.dist import Distribution

    monkeypatch.chdir(ROOT)
    distribution = Distribution({"script_name": "setup.py"})
    distribution.parse_config_files(["pyproject.toml"])
    command = distribution.get_command_obj("build_py")
    command.ensure_finalized()
    made = [Path(name) for name in command.get_outputs(include_bytecode=False)]
    return {path.relative_to(command.build_lib).as_posix() for path in made}


def test_the_wheel_has_all_modules_and_data_and_nothing_else(monkeypatch):
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    found = shipped(monkeypatch)
    assert found == modules | DATA
    assert sum((ROOT / name).stat().st_size for name in found) < MOST


def test_every_other_file_of_the_packages_ships():
    ours = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc", ".nbi", ".nbc")
    }
    assert ours == DATA


def requirements(extra: str, system: dict[str, str]) -> set[str]:
    """Return the packages of an extra on a system, those of the extras it names included."""
    found = set()
    for text in EXTRAS[extra]:
        one = Requirement(text)
        if one.marker and not one.marker.evaluate(system):
            continue
        if one.name == "anisole":
            assert one.extras <= EXTRAS.keys(), text
            found |= set.union(*(requirements(inner, system) for inner in one.extras))
        else:
            found.add(one.name)
    return found


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: "-".join(s.values()))
def test_extras_are_requirements(system):
    found = {extra: requirements(extra, system) for extra in EXTRAS}
    assert {"torch", "h5py"} <= found["gnn"] <= found["engines"] & found["data"]
    assert "mpi4py" in found["mpi-local"] and len(found["mpi-local"]) == 2
    assert ("pyscf" in found["data"]) == (system["sys_platform"] != "win32")


def test_pythons_are_those_that_are_tested():
    """Classifiers, nox and the workflows name the same versions of Python."""
    named = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if ":: 3." in c}
    assert all(SpecifierSet(PROJECT["requires-python"]).contains(python) for python in named)
    for file in ("noxfile.py", ".github/workflows/tests.yml"):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert {python for python in named if f'"{python}"' in text} == named, file


def test_floors_are_those_that_were_tested():
    """The row `oldest` of the table of support has the least versions that pyproject.toml takes."""
    with (ROOT / "benchmarks/results/support.csv").open(newline="", encoding="utf-8") as file:
        oldest = next(row for row in csv.DictReader(file) if row["session"] == "oldest")
    assert oldest["failed"] == "0"
    for text in PROJECT["dependencies"] + EXTRAS["gnn"]:
        one = Requirement(text)
        if one.name in oldest:
            (floor,) = (Version(s.version) for s in one.specifier if s.operator == ">=")
            assert Version(oldest[one.name]).release[: len(floor.release)] == floor.release, text


COMMAND = """
import sys, gnn.cli
from gnn.console import print_anywhere
late = {"multipoles", "numba", "torch"} & set(sys.modules)
assert not late, late
print_anywhere()
print("3 → 4 Å")
gnn.cli.main(["--version"])
"""


def test_the_command_starts_light_and_prints_on_every_console():
    done = subprocess.run(
        [sys.executable, "-c", COMMAND],
        env=os.environ | {"PYTHONIOENCODING": "cp1252"}, capture_output=True, check=True,
    )  # fmt: skip
    signs, version = done.stdout.decode("cp1252").splitlines()
    assert signs == "3 ? 4 Å" and version.startswith("anisole ")


@pytest.mark.slow
def test_the_wheel_runs_where_nothing_else_of_ours_is(tmp_path):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    site, empty = tmp_path / "site", tmp_path / "empty"
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    empty.mkdir()
    for command in (
        ("-c", "import multipoles, fmm, gnn; print(gnn.__file__)"),
        ("-m", "gnn", "--version"),
        ("-m", "fmm", "validate", "--n", "20000"),
        ("-m", "gnn", "demo"),
    ):
        done = subprocess.run(
            [sys.executable, *command], cwd=empty, env=os.environ | {"PYTHONPATH": str(site)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        if command[0] == "-c":
            assert done.stdout.startswith(str(site))
    assert list(empty.rglob("*.pt"))
