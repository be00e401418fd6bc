"""On which device a model runs beside OpenMM, and in which thread.

OpenMM's `PythonForce` gives positions as arrays of NumPy and takes forces as such: both pass
through the host, whatever the platform. The model is best on the device of the platform, where it
takes turns with OpenMM. Where torch works in the thread that calls, it leaves a context of CUDA
behind that is not OpenMM's, which then fails with an invalid handle; so the model has a thread of
its own. Nothing waits for others in it: replicas that meet at one call do so outside.
"""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def device_of(context: Any) -> torch.device:
    """Return the device for a model beside an OpenMM context: that of the platform CUDA, or "cpu".

    Parameters
    ----------
    context : openmm.Context
        Its platform says on which device it is (property ``DeviceIndex``; of several, the first).

    Warns
    -----
    RuntimeWarning
        If OpenMM runs on a GPU that torch cannot use: says why.
    """
    platform = context.getPlatform()
    name = platform.getName()
    if name != "CUDA":
        return torch.device("cpu")
    text = platform.getPropertyValue(context, "DeviceIndex")
    index = int(text.split(",")[0] or 0)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index < count:
        return torch.device("cuda", index)
    why = (
        f"torch {torch.__version__} is made without CUDA"
        if torch.version.cuda is None
        else f"torch sees {count} devices"
    )
    warnings.warn(
        f"OpenMM runs on CUDA device {index}, and the model on the CPU: {why}",
        RuntimeWarning,
        stacklevel=2,
    )
    return torch.device("cpu")


def in_its_thread(device: torch.device, task: Callable[..., T], *arguments: Any) -> T:
    """Return what a task returns; of a device of CUDA, it runs in the thread of that device."""
    if device.type != "cuda":
        return task(*arguments)
    return _thread(device).submit(task, *arguments).result()


@cache
def _thread(device: torch.device) -> ThreadPoolExecutor:
    """Return the one thread in which models on a device run."""
    return ThreadPoolExecutor(1, f"model on {device}", torch.cuda.set_device, (device,))
