"""Shared fixtures; where kernels are cached, and what stands in for a GPU where there is none."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from ptx_worker import launches
from source_state import ROOT, sources_hash


def _gpu_present() -> bool:
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return True
    try:  # Windows, and Linux within it
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0
    except OSError:
        return False


# A cache of their own, one for each state of the sources: tests of an older checkout do not throw
# out what this one compiled. Both are set before numba is imported anywhere.
os.environ.setdefault(
    "NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"anisole-numba-{sources_hash()}")
)
if not _gpu_present():
    os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")
if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    # threads of the simulator wait for each other by turns: short turns make it ten times faster
    sys.setswitchinterval(1e-5)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option by which scripts learn what kernels there are."""
    parser.addoption("--launches", metavar="FILE", help="write kernels that the simulator ran")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU where there is none; compile last what was launched before."""
    items.sort(key=lambda item: item.path.name == "test_ptx.py")
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and (reason := _why_no_gpu()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


def _why_no_gpu() -> str | None:
    try:
        from multipoles._cuda import SIMULATED, cuda
    except ImportError:
        return "needs numba-cuda (extra `cuda`)"
    if SIMULATED:
        return "needs a GPU: kernels run in the simulator"
    return None if cuda.is_available() else "needs a GPU: Numba finds no driver"


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
