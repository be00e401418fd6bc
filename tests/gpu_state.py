"""Whether there is a GPU here, and what keeps these tests from using it."""

import os
import subprocess
from pathlib import Path


def gpu_present() -> bool:
    """Return whether a GPU shows, whether or not anything can use it."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return True
    try:  # Windows, and Linux within it
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0
    except OSError:
        return False


def obstacle() -> tuple[str, str] | None:
    """Return what to do with tests that need a GPU, "skip" or "fail", and why; None to run them.

    They fail where there is a GPU that Numba cannot use: a driver too old, or no toolkit.
    """
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return "skip", "needs a GPU: kernels run in the simulator"
    try:
        from multipoles.compiled.cuda_kernels import why_unusable

        reason = why_unusable()
    except ImportError as missing:
        reason = f"numba-cuda cannot be imported (extra `cuda`): {missing}"
    if reason is None:
        return None
    return "fail" if gpu_present() else "skip", f"needs a GPU: {reason}"
