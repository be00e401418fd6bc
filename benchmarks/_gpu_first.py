"""The first call of a process: how long kernels take to compile, and to load once they are kept.

    python benchmarks/_gpu_first.py {"n": 1000000, "smoke": false}

prints seconds of a plan with its evaluation and of a direct sum, packages imported and kernels
found within, after torch is imported and holds the device; as JSON. `first` runs it twice.
"""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from time import perf_counter
from typing import Any

from _gpu_place import prepared

LIMIT = 2.0  # seconds that a second process may take


def first(place: Any) -> Iterator[Any]:
    """Call from a fresh process, and from one more that finds the kernels of the one before."""
    from _gpu import Row

    n = 60 if place.smoke else 10**6
    for which, target in (("a", None), ("a second", LIMIT)):
        said = fresh(n, place.smoke)
        yield Row(
            f"first call of {which} process", n, "float32",
            math.nan if place.smoke else said["seconds"], target, error=said["error"], bound=1e-3,
            remark=f"{said['compiled']} kernels compiled; before that, torch and device "
            f"{said['before']:.1f} s; of it, imports {said['imports']:.1f} s",
        )  # fmt: skip


def fresh(n: int, smoke: bool) -> dict:
    """Return what a process of its own says."""
    done = subprocess.run(
        [sys.executable, __file__, json.dumps({"n": n, "smoke": smoke})],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def measured(n: int, smoke: bool) -> dict:
    """Return seconds of this process's first calls, and the difference of their results."""
    start = perf_counter()
    if not smoke:
        import torch

        torch.zeros(1, device="cuda").cpu()
    before = perf_counter() - start
    start = perf_counter()
    import numpy as np
    from _gpu import Place, relative
    from _gpu_sums import charges

    import fmm
    import multipoles as mp
    from multipoles.compiled.cuda_kernels import Launch

    imports, compiled, kept = perf_counter() - start, [], Launch.compiled
    Launch.compiled = lambda self, *kinds: (compiled.append(self), kept(self, *kinds))[1]
    place, few = Place(smoke), min(n, 2000)
    x, q = charges(n)
    there, moments = place.put(x), place.put(q)
    found = fmm.FMM(there, tolerance=1e-3).field(moments, 1)
    some = place.put(x[:few])
    direct = place.take(mp.field(some, there, moments, 1))
    seconds = perf_counter() - start
    error = relative(place.take(found)[:few, 1:], np.asarray(direct)[:, 1:])
    return {
        "seconds": seconds, "imports": imports, "before": before, "compiled": len(compiled),
        "error": error,
    }  # fmt: skip


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    if prepared(asked["smoke"]) is None:
        sys.exit(1)
    print(json.dumps(measured(**asked)))
