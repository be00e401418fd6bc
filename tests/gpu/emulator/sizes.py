"""Blocks of the sizes that a device has, where arrays are the simulator's."""

import ast
import importlib
import inspect
import pkgutil
import sys

from multipoles.compiled import cuda_kernels

_device_sizes = not cuda_kernels.SIMULATED


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
        asked = _asked(module)
        if len(asked) > 1:
            raise RuntimeError(
                f"{module.__name__}: functions ask for SIMULATED to choose integers, and for other "
                "ends: the emulator cannot give both answers; make the integers constants"
            )
        if "arrays" in asked:
            module.SIMULATED = True


def _asked(module):
    """Return what the functions of a module ask for: integers (sizes of blocks) or all else."""
    tree = ast.parse(inspect.getsource(module))
    bodies = [f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)]
    choices = [
        name
        for body in bodies
        for node in ast.walk(body)
        if isinstance(node, ast.IfExp) and isinstance(getattr(node.body, "value", None), int)
        for name in _names(node.test)
    ]
    found = {name: "sizes" for name in choices}
    return {found.get(name, "arrays") for body in bodies for name in _names(body)}


def _names(tree):
    return [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == "SIMULATED"]
