"""Shared fixtures; kernels compiled for the tests are cached in a folder named by the sources."""

import hashlib
import os
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _sources_hash() -> str:
    digest = hashlib.sha256()
    for package in ("multipoles", "fmm", "gnn/operators"):  # where kernels live
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


# Numba's cache does not see a change in a helper of another file: a new folder per state of the
# sources keeps stale machine code out. Set before numba is imported anywhere.
os.environ.setdefault(
    "NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"anisole-numba-{_sources_hash()}")
)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with reference numbers that are not part of the distribution."""
    folder = Path(os.environ.get("ANISOLE_REFERENCE", ROOT.parent / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip("reference data not found (set ANISOLE_REFERENCE to its folder)")
    return folder
