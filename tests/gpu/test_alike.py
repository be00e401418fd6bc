"""Kernels that count pairs and kernels that list them round alike: else lists have holes."""

import os
import re
import subprocess
import sys

import pytest
from source_state import ROOT

pytest.importorskip("numba_cuda", reason="compiling needs numba-cuda (extra `cuda`)")
pytestmark = [pytest.mark.cuda, pytest.mark.slow]
COMPILE = """
import numpy as np
from gnn.operators import _fixed_pairs_cuda as fixed
from multipoles.cuda import neighbours as near

real, whole = f"{dtype}[1]", "int64[1]"
points, places = (real, real, whole, dtype, "int64"), (whole, whole, real, whole)
both = {
    "near": (
        (near._count_near(), (*points, whole)),
        (near._list_near(), (*points, whole, dtype, whole, *places)),
    ),
    "fixed": (
        (fixed.count_pairs(fixed.EDGES), (real, real, whole, whole, real, whole)),
        (fixed.write_pairs(fixed.EDGES), (real, real, whole, whole, real, whole, whole)),
    ),
}
for kernel, arguments in both[name]:
    print(kernel.ptx(np.dtype(dtype), arguments, capability), "END")
"""


def sums(text: str) -> set[str]:
    """Return how squares of distances are put together: each difference by where its source is."""
    made: dict[str, str] = {}
    for line in text.splitlines():
        found = re.match(r"\s+(ld\.global|sub|mul|fma|add)\S*\.f\d\d\s+(.*);", line)
        if not found:
            continue
        what, (to, *given) = found[1], found[2].split(", ")
        if what == "ld.global":
            made[to] = (re.search(r"\+(\d+)", given[0]) or [0, "0"])[1]
        elif what == "sub":
            made[to] = f"x{made[given[1]]}"
        else:
            made[to] = f"{what}({' '.join(made.get(one, '?') for one in given)})"
    compared = re.findall(r"\s+setp\S*\.f\d\d\s+\S+, (%\w+), %\w+;", text)
    return {made[one] for one in compared}


@pytest.mark.parametrize("name", ["near", "fixed"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0)])
def test_pairs_are_counted_and_listed_by_the_same_roundings(name, dtype, capability):
    given = f"name, dtype, capability = {name!r}, {dtype!r}, {capability!r}\n"
    run = subprocess.run(
        [sys.executable, "-c", given + COMPILE], capture_output=True, text=True,
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "0", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    counted, listed, _ = run.stdout.split("END")
    assert sums(counted) == sums(listed)
    # multiplied and added in one rounding, which the assembler cannot change any more
    assert len(sums(counted)) == 1 and "fma(x" in sums(counted).pop()
