"""How long the first call takes: in a user's first script, and in every later process.

    python benchmarks/first_call.py [--repeats 3] [--before FOLDER]

Each number is the least of some fresh processes, on all threads.

- imports: `import numpy`, `import numba`, and `import multipoles, fmm` with these.
- the first call ever: kernels are compiled, into a folder that was empty.
- the first field of a process whose kernels were compiled before, beside a second one: plan and
  field of 100 000 charges.

`--before` names a folder with another version of the packages, for a column beside. Prints a
table; writes results/first_call.csv beside this file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from _output import write_table

_IMPORTS = """
import json, time
start = time.perf_counter()
import {modules}
print(json.dumps([time.perf_counter() - start]))
"""
_CALLS = """
import json, time
import numpy as np
import fmm, multipoles
rng = np.random.default_rng(0)
x, q = rng.random(({n}, 3)), rng.standard_normal(({n}, 1))
seconds = []
for _ in range(2):
    start = time.perf_counter()
    {call}
    seconds.append(time.perf_counter() - start)
print(json.dumps(seconds))
"""
_FMM = "fmm.field(x, x, q, order=1, tolerance={})"
_PLAN = "fmm.FMM(x, tolerance={}).field(q)"
_DIRECT = "multipoles.field(x, x, q, order=1)"
TOLERANCES = "1e-3", "3e-7", "1e-9"


def _run(script: str, package: Path, cache: str) -> list[float]:
    """Return the seconds that a script prints in a process of its own."""
    environment = os.environ | {
        "PYTHONPATH": str(package), "NUMBA_CACHE_DIR": cache, "MULTIPOLES_QUIET": "1",
    }  # fmt: skip
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["PYTHONPYCACHEPREFIX"] = f"{cache}/bytecode"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def measured(package: Path, repeats: int) -> dict[str, float]:
    """Return the seconds of every row."""
    rows: dict[str, float] = {}

    def least(name: str, seconds: float) -> None:
        rows[name] = min(rows.get(name, seconds), seconds)

    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            for modules in ("numpy", "numba", "multipoles, fmm"):
                script = _IMPORTS.format(modules=modules)
                _run(script, package, cache)  # writes bytecode
                least(f"import {modules}", _run(script, package, cache)[0])
            for name, call in (("fmm.field", _FMM.format("1e-6")), ("multipoles.field", _DIRECT)):
                with tempfile.TemporaryDirectory() as empty:
                    first = _run(_CALLS.format(n=10_000, call=call), package, empty)[0]
                    least(f"first call ever, {name}, 10 000 points", first)
            for tolerance in TOLERANCES:
                # a plan compiles, where a single sum may be direct as long as nothing is compiled
                _run(_CALLS.format(n=100_000, call=_PLAN.format(tolerance)), package, cache)
                script = _CALLS.format(n=100_000, call=_FMM.format(tolerance))
                first, second = _run(script, package, cache)
                least(f"first field of a process, 100 000 points at {tolerance}", first)
                least(f"second field, 100 000 points at {tolerance}", second)
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--before", type=Path, help="folder with another version of the packages")
    options = parser.parse_args()
    here = measured(Path(__file__).resolve().parents[1], options.repeats)
    before = measured(options.before.resolve(), options.repeats) if options.before else {}
    rows = []
    for name, seconds in here.items():
        was = f"{before[name]:.3f}" if name in before else ""
        rows.append({"what": name, "before": was, "seconds": f"{seconds:.3f}"})
        print(f"{name:58s} {was:>8s} {seconds:8.3f} s")
    write_table("first_call", ("what", "before", "seconds"), rows)


if __name__ == "__main__":
    main()
