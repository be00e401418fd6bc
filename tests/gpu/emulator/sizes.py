"""Blocks of the sizes that a device has, where arrays are the simulator's."""

import ast
import importlib
import inspect
import pkgutil
import sys

from multipoles.compiled import cuda_kernels

_device_sizes = not cuda_kernels.SIMULATED
# where functions ask whether arrays are the simulator's, and where they ask for sizes of blocks
_OF_ARRAYS = {
    "multipoles.cuda.device", "fmm.cuda.steps", "gnn.operators.gpu", "gnn.operators._edge_cuda",
    "gnn.operators._field_cuda",
}  # fmt: skip
_OF_SIZES = {"fmm.cuda.expansions", "fmm.cuda.translations"}


def of_device():
    """Tell whether blocks have the sizes of a device."""
    return _device_sizes


def device_sizes():
    """Import all modules with kernels so that blocks have the sizes of a device.

    Arrays stay the simulator's. To be called before any of them is imported.
    """
    global _device_sizes
    if _device_sizes:
        return
    import fmm.cuda
    import gnn.operators
    import multipoles.cuda

    packages = multipoles.cuda, fmm.cuda, gnn.operators
    names = [
        found.name
        for package in packages
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    ]
    early = [
        name for name in names if name in sys.modules and hasattr(sys.modules[name], "THREADS")
    ]
    if early:
        raise RuntimeError(f"to be imported after emulator.device_sizes(): {early}")
    cuda_kernels.SIMULATED = False
    modules = [importlib.import_module(name) for name in names]
    cuda_kernels.SIMULATED = _device_sizes = True
    for module in modules:
        asks = hasattr(module, "SIMULATED") and _asks_in_functions(module)
        if module.__name__ in _OF_ARRAYS:
            module.SIMULATED = True
        elif asks and module.__name__ not in _OF_SIZES:
            raise RuntimeError(
                f"{module.__name__}: a function asks for SIMULATED; whether it means arrays or "
                f"sizes of blocks is to be said in {__file__}"
            )


def _asks_in_functions(module):
    tree = ast.parse(inspect.getsource(module))
    return any(
        isinstance(node, ast.Name) and node.id == "SIMULATED"
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    )
