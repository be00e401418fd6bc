"""Compiles kernels to assembly for GPUs that need not be there, and reports what became of them.

    python tests/ptx_worker.py [FOLDER] < tasks.json > facts.json

Tasks are pairs of a launch and a compute capability. Launches are lists: module, factory, arguments
of the factory, type of numbers, types of arguments (see
`multipoles.compiled.cuda_kernels.launched`). Facts are one mapping per task, in order. They are
kept in the folder, if one is given, for the next time: it must be another for other sources.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

PROCESSES = 2
CAPABILITIES = ((8, 0), (9, 0), (10, 0))
# instructions counted in the text, each once, however often a loop runs them
COUNTED = {
    "f64": r"\.f64\b",
    "fma": r"\bfma\.",
    "rsqrt": r"\brsqrt\.",
    "sqrt_div": r"\b(?:sqrt|div\.(?:rn|full|approx))\.",
    "ld_global": r"\bld\.global",
    "ld_shared": r"\bld\.shared",
    "ld_local": r"\bld\.local",
}
USED = {
    "registers": r"Used (\d+) registers",
    "shared": r"(\d+) bytes smem",
    "stack": r"(\d+) bytes stack frame",
    "spill_stores": r"(\d+) bytes spill stores",
    "spill_loads": r"(\d+) bytes spill loads",
}


def launches() -> list[list]:
    """Return the library's kernels that the simulator ran in this process."""
    door = sys.modules.get("multipoles.compiled.cuda_kernels")
    found = door.launched if door else ()
    packages = {"multipoles", "fmm", "gnn"}
    return sorted(([*one] for one in found if one[0].partition(".")[0] in packages), key=repr)


def one_of_each(found: list[list]) -> list[list]:
    """Return one launch for every kernel and type of numbers: of float32 that with most to do."""
    best: dict[tuple, list] = {}
    for launch in found:
        key = launch[0], launch[1], launch[3]
        kept = best.setdefault(key, launch)
        most = max if launch[3] == "float32" else min
        best[key] = most(kept, launch, key=lambda one: one[2])
    return list(best.values())


@cache
def ptxas() -> str | None:
    """Return the assembler of the toolkit's wheel, or the one on the path."""
    nvidia = importlib.util.find_spec("nvidia")
    for folder in (nvidia and nvidia.submodule_search_locations) or ():
        for path in Path(folder).glob("cu*/bin/ptxas*"):
            return str(path)
    return shutil.which("ptxas")


def facts(launch: list, capability: tuple[int, int]) -> dict:
    """Return counts of instructions, and registers and spills if there is an assembler.

    `error` holds what went wrong in compiling, `assembler_error` what the assembler refused.
    """
    module, name, arguments, dtype, types = launch
    try:
        kernel = getattr(importlib.import_module(module), name)(*arguments)
        text = kernel.ptx(dtype, tuple(types), tuple(capability))
    except Exception as error:  # whatever it is, the report says it of this kernel
        return {"error": f"{type(error).__name__}: {error}"[-2000:]}
    found: dict = {key: len(re.findall(pattern, text)) for key, pattern in COUNTED.items()}
    version = re.search(r"^\.version (\S+)", text, re.MULTILINE)
    found["ptx_version"] = version.group(1) if version else "?"
    found |= {"shared_aligned": _alignment(text), "shared_widest": _widest(text)}
    found["busiest"] = _busiest(text)
    return found | _assembled(text, "sm_{}{}".format(*capability))


def _alignment(text: str) -> int:
    """Return the bytes that all shared arrays start at multiples of."""
    return min(map(int, re.findall(r"\.shared\s+\.align (\d+)", text)), default=0)


def _widest(text: str) -> int:
    """Return the bytes of the widest access to shared memory that takes several numbers at once."""
    found = re.findall(r"\b(?:ld|st)\.(?:volatile\.)?shared\.v(\d)\.[a-z](\d+)", text)
    return max((int(n) * int(bits) // 8 for n, bits in found), default=0)


def _busiest(text: str) -> tuple[int, int]:
    """Return instructions and multiply-adds of the stretch between jumps that has most of these."""
    stretches = re.split(r"^\$?\w+:|\bbra\b[^;]*;", text, flags=re.MULTILINE)
    counts = (
        (len(re.findall(r"^\s+(?!\.).*;", part, re.MULTILINE)), len(re.findall(r"\bfma\.", part)))
        for part in stretches
    )
    # the jump that ended it
    instructions, fma = max(counts, key=lambda pair: pair[1])
    return instructions + 1, fma


def _assembled(text: str, architecture: str) -> dict:
    if (program := ptxas()) is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(text)
        run = subprocess.run(
            [program, f"-arch={architecture}", "-v", str(source), "-o", os.devnull],
            capture_output=True, text=True,
        )  # fmt: skip
    if run.returncode:
        return {"assembler_error": (run.stderr or run.stdout)[:500]}
    found = {key: re.search(pattern, run.stderr) for key, pattern in USED.items()}
    return {key: int(match.group(1)) if match else 0 for key, match in found.items()}


def _remembered(folder: str, launch: list, capability: tuple[int, int]) -> dict:
    """Return the facts, from the last time if the compiler is the same."""
    versions = [importlib.metadata.version(name) for name in ("numba-cuda", "numba", "numpy")]
    key = json.dumps([launch, capability, versions, ptxas(), Path(__file__).read_text()])
    path = Path(folder, hashlib.sha256(key.encode()).hexdigest()[:32] + ".json")
    if path.exists():
        return json.loads(path.read_text())
    found = facts(launch, capability)
    if not found.keys() & {"error", "assembler_error"}:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(found))
        temporary.replace(path)
    return found


def as_numpy_2_5() -> None:
    """Take away what numba-cuda names and NumPy 2.5 has no more: kernels must compile all the same.

    Of NumPy 2.5.5 and numba-cuda 0.30.4 that is one name.
    """
    import numpy as np

    if hasattr(np, "row_stack"):
        del np.row_stack  # noqa: NPY201
        np.__all__.remove("row_stack")


def main() -> None:
    """Read launches and write facts."""
    find = partial(_remembered, sys.argv[1]) if len(sys.argv) > 1 else facts
    tasks = [(launch, tuple(capability)) for launch, capability in json.load(sys.stdin)]
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    with ProcessPoolExecutor(PROCESSES, initializer=as_numpy_2_5) as pool:
        json.dump(list(pool.map(find, *zip(*tasks, strict=True), chunksize=2)), sys.stdout)


if __name__ == "__main__":
    main()
