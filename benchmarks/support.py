"""What a session of nox (noxfile.py) ran with and what came of it: a row of results/support.csv.

    python benchmarks/support.py SESSION JUNIT_XML

Exits with 1 if a test failed.
"""

import argparse
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from xml.etree import ElementTree

from _output import read_table, write_table

PACKAGES = ("numba", "llvmlite", "numpy", "scipy", "torch", "h5py", "pydantic")
COLUMNS = (
    "session", "system", "machine", "python", *PACKAGES, "passed", "failed", "skipped", "seconds",
)  # fmt: skip


def outcome(path: Path) -> dict[str, int]:
    """Return how many tests passed, failed and were skipped, and the seconds they took."""
    suites = ElementTree.parse(path).getroot().iter("testsuite")
    total = dict.fromkeys(("tests", "failures", "errors", "skipped", "time"), 0.0)
    for suite in suites:
        for name in total:
            total[name] += float(suite.get(name, 0))
    failed = total["failures"] + total["errors"]
    passed = total["tests"] - failed - total["skipped"]
    counts = (passed, failed, total["skipped"], total["time"])
    return {k: round(v) for k, v in zip(COLUMNS[-4:], counts, strict=True)}


def installed(package: str) -> str:
    """Return the version of a package, empty where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def main() -> int:
    """Write the row in place of a former one of the same session and machine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("session")
    parser.add_argument("junit", type=Path)
    options = parser.parse_args()
    row = {
        "session": options.session,
        "system": platform.system(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{package: installed(package) for package in PACKAGES},
        **outcome(options.junit),
    }
    place = ("session", "system", "machine")
    others = [r for r in read_table("support") if any(r[k] != row[k] for k in place)]
    print(write_table("support", COLUMNS, [*others, row]))
    return 1 if row["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
