"""A direct sum and a plan on the real host path, their kernels run by the worker; see worker.py.

python whole.py SOCKET
"""

import sys
import time
from multiprocessing.connection import Client

import numpy as np
from numba import cuda

import fmm
import multipoles as mp
from multipoles.compiled import cuda_kernels


def connected(path):
    for _ in range(600):
        try:
            return Client(path, "AF_UNIX")
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.2)
    raise TimeoutError(path)


def send_launches(worker):
    """Let the worker run what is launched, once the driver took it."""
    kept = cuda_kernels.Launch.__call__

    def launch(self, stream, dtype, blocks, threads, *arguments):
        if not np.all(blocks):
            return
        kept(self, stream, dtype, blocks, threads, *arguments)
        real = np.dtype(dtype).type
        sent = [
            (a.pointer, tuple(a.shape), a.dtype.str)
            if hasattr(a, "words")
            else (real(a) if isinstance(a, float | np.floating) else a)
            for a in arguments
        ]
        worker.send((self.origin, np.dtype(dtype).name, blocks, threads, sent))
        if failure := worker.recv():
            raise RuntimeError(f"{self.origin}: {failure}")

    cuda_kernels.Launch.__call__ = launch


def main():
    send_launches(connected(sys.argv[1]))
    rng = np.random.default_rng(0)
    x, q = rng.random((40, 3)), rng.standard_normal((40, 1))
    there, charges = (cuda.to_device(a.astype(np.float32)) for a in (x, q))
    right = mp.reference.field(x, x, q, 1)

    def check(found, bound):
        error = np.linalg.norm(found.copy_to_host() - right) / np.linalg.norm(right)
        assert error < bound, error

    check(mp.field(there, there, charges, 1), 1e-5)
    plan = fmm.FMM(there, tolerance=0.1, leaf_size=4)
    first = plan.field(charges, 1)
    check(first, 0.1)
    assert np.array_equal(first.copy_to_host(), plan.field(charges, 1).copy_to_host())
    plan.rebuild(there)
    check(plan.field(charges, 1), 0.1)
    print("levels", len(plan._layout.geometry.tree.level_starts) - 1)


if __name__ == "__main__":
    main()
