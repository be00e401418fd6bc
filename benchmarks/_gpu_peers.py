"""Other libraries' sums on the same points, of the same quantity: jzfmm, jaxFMM, KeOps, ALCHEMI.

    python benchmarks/_gpu_peers.py {"name": "KeOps", "n": 200000, "smoke": false}

prints rows as JSON, each when it is made. Each library has a process of its own: JAX would hold
memory, and none may end the run of the others. What is not installed is said and is no failure.
Charges at points go to potential and gradient at the same points, compared with sums in float64 on
the CPU; accuracies are raised step by step until the error is at most `BOUND`. Times are between
events of torch's stream; JAX has a stream of its own, so its times are the host's until the result
is there.
"""

import importlib.metadata
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from time import perf_counter
from typing import Any

import numpy as np
from _gpu_place import prepared

BOUND = 1e-4
SECONDS = 120  # for one library
ROW = "row: "  # begins the line of a row
# points of each library's sum; pairs of a direct sum are the square
SIZES = {"jzfmm": 10**6, "KeOps": 200_000, "nvalchemi-toolkit-ops": 10_000, "jaxFMM": 10**6}
TINY = {"jaxFMM": 2000}  # jaxFMM makes no plan without a far field
DISTRIBUTIONS = {"jaxFMM": "jaxfmm", "KeOps": "pykeops"}


def peers(place: Any) -> Iterator[Any]:
    """Measure what is installed."""
    from _gpu import Row

    for name, n in SIZES.items():
        n = TINY.get(name, 60) if place.smoke else n
        said, reason = run(json.dumps({"name": name, "n": n, "smoke": place.smoke}))
        for line in said.splitlines():
            if line.startswith(ROW):
                yield Row(**json.loads(line.removeprefix(ROW)))
        if reason:
            print(f"{name}: left out, {reason}", flush=True)


def run(asked: str) -> tuple[str, str]:
    """Return what a process of its own printed, and why it did not come to its end."""
    try:
        done = subprocess.run(
            [sys.executable, __file__, asked], capture_output=True, text=True, timeout=SECONDS,
            env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:  # its output is bytes, whatever was asked for
        return (late.stdout or b"").decode(), f"not done after {SECONDS} s"
    if not done.returncode:
        return done.stdout, ""
    return done.stdout, (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]


def measured(name: str, n: int, smoke: bool) -> Iterator[dict]:
    """Yield rows of one library."""
    from _gpu import Place, Row, sampled_error
    from _gpu_sums import charges

    try:
        version = importlib.metadata.version(DISTRIBUTIONS.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"it is not installed ({DISTRIBUTIONS.get(name, name)})")
    place = Place(smoke)
    x, q = charges(n)

    def error_of(got: Any) -> float:
        return sampled_error(place, got, x, x, q, 1)

    for what, seconds, error, remark in PEERS[name](place, x, q, error_of):
        direct, seconds = what == "direct sum", math.nan if smoke else seconds
        row = Row(
            f"{name} {version}, charges to gradients: {what}", n, "float32", seconds, None,
            (n * n if direct else n) / seconds, "pairs" if direct else "points", None, error,
            remark=remark,
        )  # fmt: skip
        yield asdict(row)


Found = Iterator[tuple[str, float, float, str]]


def waited(task: Callable[[], Any], repeats: int = 5) -> float:
    """Return the least of the host's times until a result of JAX is there."""
    import jax

    times = []
    for _ in range(repeats):
        start = perf_counter()
        jax.block_until_ready(task())
        times.append(perf_counter() - start)
    return min(times)


def jzfmm(place: Any, x: np.ndarray, q: np.ndarray, error_of: Callable) -> Found:
    """Gravity, whose potential has the other sign; its tree is part of each call, or given."""
    import jax
    import jzfmm
    from jztree.data import PosMass

    if jax.default_backend() != "gpu":
        raise RuntimeError("kernels of jzfmm need a GPU that JAX can use")
    method = jzfmm.fmm.fast_multipole_method
    part = PosMass(pos=jax.numpy.asarray(x), mass=jax.numpy.asarray(q[:, 0]))
    for degree, angle in ((5, 0.6), (6, 0.5), (7, 0.5), (7, 0.4)):
        config = jzfmm.FMMConfig(
            p=degree, opening=jzfmm.OpeningByAngle(theta=angle), alloc_fac_ilist=512.0,
            # so small that no pair feels it, so large that its own term can be taken off
            kernel=jzfmm.PlummerKernel(softening=1e-6),
        )  # fmt: skip

        def whole(config: Any = config) -> Any:
            return method.jit(part, config).values

        error = error_of(-np.asarray(whole()))
        if error <= BOUND:
            break
    remark = f"p = {degree}, theta = {angle}, the host's time"
    yield "plan and evaluation", waited(whole), error, remark
    sorted_part, tree = method.jit(part, config, result="partz_tree")
    yield (
        "evaluation",
        waited(lambda: method.jit(sorted_part, config, th=tree, result="locz").values),
        error, remark,
    )  # fmt: skip


def jaxfmm(place: Any, x: np.ndarray, q: np.ndarray, error_of: Callable) -> Found:
    """Kernel-independent engine: potential of 1/(4 pi r) and field, -grad, are a call each."""
    import jax

    # without it, jaxFMM promises 1.5e-3 at best; its near field stays in float32
    jax.config.update("jax_enable_x64", True)
    from jaxfmm import kifmm

    points, charges = jax.numpy.asarray(x), jax.numpy.asarray(q[:, 0])

    def planned(degree: int) -> Any:
        setup = kifmm.setup(points, p=degree)
        potential, field = (kifmm.compile_evaluator(setup, field=f) for f in (False, True))
        return lambda: (potential(charges), field(charges))

    for degree in (3,) if place.smoke else (5, 6):  # 4 gives 2e-4
        evaluate = planned(degree)
        potential, field = map(np.asarray, evaluate())
        error = error_of(4 * np.pi * np.concatenate([potential[:, None], -field], 1))
        if error <= BOUND:
            break
    remark = f"p = {degree}, two calls, the host's time"
    yield "evaluation", waited(evaluate), error, remark
    yield "plan and evaluation", waited(lambda: planned(degree)(), 1), error, remark


def keops(place: Any, x: np.ndarray, q: np.ndarray, error_of: Callable) -> Found:
    """Let KeOps make a kernel of a formula."""
    from pykeops.torch import LazyTensor

    there, charges = place.tensor(x), place.tensor(q)

    def task() -> Any:
        d = LazyTensor(there[:, None]) - LazyTensor(there[None])
        r2 = d.sqnorm2()
        inverse = r2.sign() * (r2 + (1 - r2.sign())).rsqrt()  # zero at zero
        part = LazyTensor(charges[None]) * inverse
        return part.concat((part * inverse.square()) * -d).sum(1)

    yield "direct sum", place.seconds(task), error_of(task()), ""


def nvalchemi(place: Any, x: np.ndarray, q: np.ndarray, error_of: Callable) -> Found:
    """Energies and forces of a matrix of neighbours that holds all others; in float64 inside."""
    import torch
    from nvalchemiops.torch.interactions.electrostatics import coulomb

    there, charges = place.tensor(x), place.tensor(q)
    n, device = len(x), there.device
    # row i: all numbers but i
    others = torch.arange(n - 1, dtype=torch.int32, device=device).repeat(n, 1)
    others += others >= torch.arange(n, device=device)[:, None]
    shifts = torch.zeros(n, n - 1, 3, dtype=torch.int32, device=device)
    cell = 10 * torch.eye(3, device=device)[None]

    def task() -> Any:
        energies, forces = coulomb.coulomb_energy_forces(
            there, charges[:, 0], cell, 10.0, 0.0, neighbor_matrix=others,
            neighbor_matrix_shifts=shifts, fill_value=n,
        )  # fmt: skip
        return torch.cat([2 * energies[:, None] / charges, -forces / charges], 1)

    remark = "pairs listed before, float64 inside"
    yield "direct sum", place.seconds(task), error_of(task()), remark


PEERS = {"jzfmm": jzfmm, "jaxFMM": jaxfmm, "KeOps": keops, "nvalchemi-toolkit-ops": nvalchemi}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    if prepared(asked["smoke"]) is None:
        sys.exit(1)
    for row in measured(**asked):
        print(f"{ROW}{json.dumps(row)}", flush=True)
