"""Registers, shared memory, spills and instructions of every kernel for the GPU; needs no GPU.

    python benchmarks/gpu_kernels.py [--one] [--launches FILE] [TESTS ...]

Runs the tests of kernels in Numba's simulator to learn which kernels there are (or takes what such
a run wrote, ``pytest -m cuda --launches FILE``), compiles each for sm_80, sm_90 and sm_100, and has
the toolkit's assembler (ptxas, from the wheel nvidia-cuda-nvcc or from PATH) say what it uses.
Prints a table for sm_90; writes results/gpu_kernels.csv for all. With ``--one``, one launch stands
for those of a kernel and type of numbers: of float32 that with most to do. Instructions are counted
in the PTX, each once, however often a loop runs it. Local memory holds arrays that a loop indexes;
`spill` is what did not fit into registers. Warps are how many of at most 64 an SM holds for want of
registers.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from _output import write_table

ROOT = Path(__file__).resolve().parent.parent
WORKER = ROOT / "tests" / "ptx_worker.py"
sys.path.insert(0, str(WORKER.parent))
from ptx_worker import CAPABILITIES, one_of_each  # noqa: E402

REGISTERS_OF_SM = 65536
COLUMNS = (
    "kernel", "constants", "dtype", "arguments", "capability", "ptx_version", "registers", "warps",
    "shared", "stack", "spill_stores", "spill_loads", "fma", "rsqrt", "sqrt_div", "ld_global",
    "ld_shared", "ld_local", "f64", "error",
)  # fmt: skip


def run_tests(tests: list[str]) -> list[list]:
    """Return the launches of the tests, run in the simulator in a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "launches.json")
        command = [
            sys.executable, "-m", "pytest", "-m", "cuda and not gpu", f"--launches={path}",
            "--ignore", "tests/test_ptx.py", "-p", "no:cacheprovider", *tests,
        ]  # fmt: skip
        run = subprocess.run(command, cwd=ROOT, env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"})
        if run.returncode:
            print("some tests failed: what they did not launch is missing", file=sys.stderr)
        return json.loads(path.read_text())


def compiled(launches: list[list]) -> list[dict]:
    """Return one row per kernel and capability."""
    tasks = list(product(launches, CAPABILITIES))
    run = subprocess.run(
        [sys.executable, str(WORKER)], input=json.dumps(tasks), stdout=subprocess.PIPE,
        check=True, text=True, env=os.environ | {"NUMBA_ENABLE_CUDASIM": "0"},
    )  # fmt: skip
    return [row(*task, facts) for task, facts in zip(tasks, json.loads(run.stdout), strict=True)]


def row(launch: list, capability: tuple[int, int], facts: dict) -> dict:
    """Return the entries of a kernel in the table."""
    module, factory, constants, dtype, types = launch
    error = facts.get("error") or facts.get("assembler_error") or ""
    used = facts.get("registers")
    return facts | {
        "kernel": f"{module}.{factory}".replace("multipoles.", "mp.").replace("gnn.", ""),
        "constants": " ".join(map(str, constants)),
        "dtype": dtype,
        "arguments": " ".join(types),
        "capability": "sm_{}{}".format(*capability),
        "warps": min(64, REGISTERS_OF_SM // (32 * 8 * -(-used // 8))) if used else "",
        "error": " ".join(error.split()),
    }


def show(rows: list[dict]) -> None:
    """Print the table of one capability, those with most registers first, and the totals."""
    heads = ("registers", "warps", "shared", "stack", "spill_stores", "fma", "rsqrt", "ld_global",
             "ld_shared", "ld_local")  # fmt: skip
    short = ("regs", "warps", "smem", "local", "spill", "fma", "rsqrt", "ldg", "lds", "ldl")
    print(f"{'kernel':<58}{'dtype':<9}" + "".join(f"{name:>7}" for name in short))
    for r in sorted(rows, key=lambda r: (-(r.get("registers") or 0), r["kernel"])):
        name = f"{r['kernel']}({r['constants']})"
        values = "".join(f"{r.get(head, ''):>7}" for head in heads)
        print(f"{name:<58}{r['dtype']:<9}{values}" + (f"  {r['error'][:60]}" if r["error"] else ""))
    spilling = sum(bool(r.get("spill_stores")) for r in rows)
    double = sum(bool(r.get("f64")) for r in rows if r["dtype"] == "float32")
    failed = sum(bool(r["error"]) for r in rows)
    print(f"\n{len(rows)} kernels: {failed} refused, {spilling} spill registers, ", end="")
    print(f"{double} of float32 have instructions of float64")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", action="store_true", help="one launch of each kernel and dtype")
    parser.add_argument("--launches", type=Path, help="kernels that a run of the tests wrote")
    parser.add_argument("tests", nargs="*", default=["tests"], help="folders or files of tests")
    options = parser.parse_args()
    launches = (
        json.loads(options.launches.read_text()) if options.launches else run_tests(options.tests)
    )
    rows = compiled(one_of_each(launches) if options.one else launches)
    show([r for r in rows if r["capability"] == "sm_90"])
    print(f"written: {write_table('gpu_kernels', COLUMNS, rows)}")


if __name__ == "__main__":
    main()
