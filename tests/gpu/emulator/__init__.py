"""Runs kernels for the GPU on the CPU, at the sizes of blocks that a device has.

Kernels are compiled for the CPU (`copies`, `language`) and their blocks run one after another,
each thread a fiber (blocks.c). Against Numba's simulator, which makes a Python thread of each, this
is a thousand times faster, so that whole plans of 1e5 points can be run; besides it finds

* threads that wait for others that never come,
* shared and local memory that is read before anybody wrote it (NaN or nonsense),
* with `shuffled`, what depends on the order of threads or blocks,
* with `checked`, indices out of bounds and wide loads from addresses that do not allow them.

It does not find: races between threads whose order does not show, atomics in one place that rely
on other blocks running meanwhile, and whatever the device's own rounding or memory order makes.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # where folders of tests are known

from emulator.code import statistics
from emulator.launches import EmulationError, Options, run
from emulator.routes import installed, on_driver
from emulator.sizes import device_sizes

__all__ = [
    "EmulationError", "Options", "device_sizes", "installed", "on_driver", "run", "statistics",
]  # fmt: skip
