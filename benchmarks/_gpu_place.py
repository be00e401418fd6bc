"""Whether there is a GPU that works, before anything of it is imported; the simulator instead."""

import importlib.metadata
import os
import sys

PACKAGES = (
    "numpy", "numba", "llvmlite", "numba-cuda", "cuda-core", "cuda-bindings", "nvidia-nvvm",
    "nvidia-nvjitlink", "torch", "jax", "cupy-cuda13x",
)  # fmt: skip


def prepared(smoke: bool) -> str | None:
    """Return the name of the device, or None, having said why there is none that works.

    Parameters
    ----------
    smoke : bool
        Take the simulator. Must be called before `numba.cuda` is imported.
    """
    if smoke:
        os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
        if "numba" in sys.modules:  # it has read the environment
            sys.modules["numba"].config.reload_config()
        sys.setswitchinterval(1e-5)  # its threads wait for each other by turns
        return "simulator"
    if reason := why_not():
        print(f"No GPU can be used here: {reason}.", flush=True)
        return None
    import torch

    return torch.cuda.get_device_name()


def why_not() -> str | None:
    """Return why kernels and tensors cannot share a GPU here, if so."""
    try:
        import torch

        from multipoles.compiled.cuda_kernels import why_unusable
    except ImportError as missing:
        return f"{missing} (install the extras, in a checkout: pip install '.[cuda,gnn]')"
    if reason := why_unusable():
        return reason
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} has no CUDA that fits the driver"
    return None


def versions() -> str:
    """Return the versions of what takes part, in a line."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} is missing")
    return ", ".join((f"Python {sys.version.split()[0]}", *found))
