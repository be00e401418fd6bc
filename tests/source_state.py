"""The sources that kernels come from, and a name for their state."""

import hashlib
import os
import stat
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def sources_hash() -> str:
    """Return a name for the state of all sources that have kernels."""
    digest = hashlib.sha256()
    for package in ("multipoles", "fmm", "gnn/operators"):  # where kernels live
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def kept(name: str) -> Path:
    """Return the place of what tests keep from one run to the next: kernels, libraries, launches.

    It is code, and anybody may make a folder of any name in /tmp: this one must be the user's own.
    """
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    folder = Path(tempfile.gettempdir(), f"anisole-{user}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if hasattr(os, "getuid"):
        own = found.st_uid == user and stat.S_ISDIR(found.st_mode)
        if not own or found.st_mode & 0o077:
            raise OSError(f"{folder} is not a folder of yours alone: remove it, or set TMPDIR")
    return folder / name
