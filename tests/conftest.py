"""Shared fixtures; where kernels are cached, and what stands in for a GPU where there is none."""

import gc
import json
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from gpu_state import gpu_present, obstacle
from ptx_worker import launches
from source_state import ROOT, kept, sources_hash

# A cache of their own, one for each state of the sources: tests of an older checkout do not throw
# out what this one compiled. Both are set before numba is imported anywhere.
os.environ.setdefault("NUMBA_CACHE_DIR", str(kept(f"numba-{sources_hash()}")))
os.environ.setdefault("MULTIPOLES_QUIET", "1")  # output is compared
if not gpu_present():
    os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # processes that share the cores must not wait for each other's threads by spinning
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    # threads of the simulator wait for each other by turns: short turns make it ten times faster
    sys.setswitchinterval(1e-5)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options by which runs and scripts learn what kernels there are."""
    parser.addoption("--launches", metavar="FILE", help="write kernels that the simulator ran")
    parser.addoption("--launched", metavar="FILE", help="compile kernels that another run wrote")
    parser.addoption(
        "--emulated",
        action="store_true",
        help="run what needs a GPU (-m gpu) in an emulator of one",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Import kernels with blocks of a device's size, where they are to be emulated."""
    if config.getoption("--emulated"):
        os.environ |= {"NUMBA_ENABLE_CUDASIM": "1", "ANISOLE_EMULATED": "1"}
        sys.path.insert(0, str(Path(__file__).resolve().parent / "gpu"))
        import emulator

        emulator.device_sizes()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Compile last what was launched before."""
    items.sort(key=lambda item: item.path.name == "test_ptx.py")


def pytest_collection_finish() -> None:
    """Search for cycles of garbage less often: compiling makes many objects that stay."""
    gc.freeze()
    gc.set_threshold(5_000, 10, 10)


@pytest.fixture(autouse=True, scope="session")
def fast_from_the_first_call() -> None:
    """Let `fmm.field` sum fast though nothing is compiled yet: that is what is tested."""
    from fmm import once

    once.COMPILATION = 0.0


_obstacle = cache(obstacle)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what needs a GPU where there is none; fail it where there is one of no use."""
    if not item.get_closest_marker("gpu") or item.config.getoption("--emulated"):
        return
    if found := _obstacle():
        verdict, reason = found
        if verdict == "skip":
            pytest.skip(reason)
        pytest.fail(reason, pytrace=False)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the launches where they were asked for, of all processes of the run."""
    if not (name := session.config.getoption("--launches")):
        return
    worker, path = os.environ.get("PYTEST_XDIST_WORKER"), Path(name)
    found = launches()
    if worker is None:  # the process that started the others, or the only one
        for part in path.parent.glob(f"{path.name}.gw*"):
            found += [one for one in json.loads(part.read_text()) if one not in found]
            part.unlink()
    path = path if worker is None else path.with_name(f"{path.name}.{worker}")
    path.write_text(json.dumps(sorted(found, key=repr)))


@pytest.fixture(autouse=True)
def _simulator_on_one_core(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep the simulator, whose threads take turns, on one core: it is a third faster there."""
    is_simulated = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
    if not (is_simulated and request.node.get_closest_marker("cuda")) or sys.platform != "linux":
        yield
        return
    cores = sorted(os.sched_getaffinity(0))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.sched_setaffinity(0, {cores[worker % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with reference numbers that are not part of the distribution."""
    folder = Path(os.environ.get("ANISOLE_REFERENCE", ROOT.parent / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip("reference data not found (set ANISOLE_REFERENCE to its folder)")
    return folder
