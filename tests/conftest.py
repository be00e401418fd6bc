"""Shared fixtures; where kernels are cached, and what stands in for a GPU where there is none."""

import json
import os
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
from gpu_state import gpu_present, obstacle
from ptx_worker import launches
from source_state import ROOT, sources_hash

# A cache of their own, one for each state of the sources: tests of an older checkout do not throw
# out what this one compiled. Both are set before numba is imported anywhere.
os.environ.setdefault(
    "NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"anisole-numba-{sources_hash()}")
)
if not gpu_present():
    os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")
if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    # threads of the simulator wait for each other by turns: short turns make it ten times faster
    sys.setswitchinterval(1e-5)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option by which scripts learn what kernels there are."""
    parser.addoption("--launches", metavar="FILE", help="write kernels that the simulator ran")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Compile last what was launched before."""
    items.sort(key=lambda item: item.path.name == "test_ptx.py")


_obstacle = cache(obstacle)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what needs a GPU where there is none; fail it where there is one of no use."""
    if item.get_closest_marker("gpu") and (found := _obstacle()):
        verdict, reason = found
        if verdict == "skip":
            pytest.skip(reason)
        pytest.fail(reason, pytrace=False)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the launches where they were asked for."""
    if path := session.config.getoption("--launches"):
        Path(path).write_text(json.dumps(launches()))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with reference numbers that are not part of the distribution."""
    folder = Path(os.environ.get("ANISOLE_REFERENCE", ROOT.parent / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip("reference data not found (set ANISOLE_REFERENCE to its folder)")
    return folder
