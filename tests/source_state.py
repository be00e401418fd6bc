"""The sources that kernels come from, and a name for their state."""

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def sources_hash() -> str:
    """Return a name for the state of all sources that have kernels."""
    digest = hashlib.sha256()
    for package in ("multipoles", "fmm", "gnn/operators"):  # where kernels live
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
