"""Builds the stub driver, and runs Python with it in place of the driver of a GPU."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.append(str(ROOT / "tests"))

from source_state import kept  # noqa: E402


def compiler() -> str | None:
    """Return the C compiler, if there is one and the library can be loaded."""
    return shutil.which("gcc") if sys.platform == "linux" else None


def library() -> Path:
    """Return the folder with the stub's libcuda.so.1, built once for each state of its source."""
    source = HERE / "driver.c"
    name = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    folder = kept(f"stub-driver-{name}")
    if not (folder / "libcuda.so.1").exists():
        folder.mkdir(exist_ok=True)
        made = folder / f"libcuda.{os.getpid()}"
        command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(made), str(source)]
        subprocess.run(command, check=True)
        made.replace(folder / "libcuda.so.1")
    return folder


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a process whose kernels are compiled and go to the stub."""
    found = os.environ | {
        "NUMBA_ENABLE_CUDASIM": "0",
        "NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS": "0",
        "LD_LIBRARY_PATH": f"{library()}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE), os.environ.get("PYTHONPATH", ""))),
    }
    return found | more
