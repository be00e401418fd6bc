"""Packages of others called multipoles or fmm, in front of ours, in their place or beside them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = shutil.ignore_patterns("__pycache__", "*.h5", "*.pt", "*.gz")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return a folder with copies of our packages, as one that pip installs into."""
    folder = tmp_path_factory.mktemp("site-packages")
    for package in ("multipoles", "fmm", "gnn"):
        shutil.copytree(ROOT / package, folder / package, ignore=SKIPPED)
    return folder


def _imported(module, *path, cwd=ROOT.parent):
    """Return what an import prints to standard error; "" where all is well."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    run = subprocess.run(
        [sys.executable, "-c", f"import {module}"],
        env=environment, cwd=cwd, capture_output=True, text=True,
    )  # fmt: skip
    return run.returncode, run.stderr


def test_the_check_is_the_same_in_both_packages():
    assert (ROOT / "fmm/companions.py").read_text() == (ROOT / "gnn/companions.py").read_text()


@pytest.mark.parametrize(
    ("module", "namesake"),
    [("fmm", "multipoles/__init__.py"), ("gnn", "multipoles.py"), ("gnn", "fmm.py")],
)
def test_a_namesake_in_front_is_named(site, tmp_path, module, namesake):
    path = tmp_path / namesake
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise SystemExit('has run')")  # it is found without that
    code, told = _imported(module, tmp_path, site)
    last = told.splitlines()[-1]
    assert code == 1 and last.startswith("ImportError: expected the package") and str(path) in last
    assert "pip uninstall" in last and "has run" not in told


def test_a_folder_without_a_package_is_no_namesake(site, tmp_path):
    """A folder of a user's data does not stand in front of a package."""
    for name in ("multipoles", "fmm"):
        (tmp_path / name).mkdir()
    assert _imported("gnn", tmp_path, site) == (0, "")


def test_a_namesake_in_our_place_is_named(site, tmp_path):
    """As pip leaves it where another distribution is installed after ours: files of both."""
    place = shutil.copytree(site, tmp_path / "site")
    (place / "multipoles/__init__.py").write_text("")
    code, told = _imported("fmm", place)
    assert code == 1 and str(place / "multipoles/__init__.py") in told.splitlines()[-1]


@pytest.mark.parametrize(
    "name",
    [
        "multipoles-0.5.0.dist-info",
        pytest.param("FMM-0.12-py3.12.egg-info", marks=pytest.mark.slow),
    ],
)
def test_a_distribution_beside_ours_is_warned_of(site, name):
    (site / "fmm3dpy-1.0.dist-info").mkdir(exist_ok=True)  # a longer name
    (site / name).mkdir()
    try:
        code, told = _imported("fmm", site)
    finally:
        (site / name).rmdir()
    distribution, version = name.split("-")[:2]
    assert code == 0 and told.count("UserWarning") == 1
    assert f"{distribution} {version.removesuffix('.dist')}, a distribution of others" in told
    assert f"pip uninstall {distribution}" in told
