"""Kernels as machine code of the CPU, kept on disk for other processes; counts of what is done."""

import hashlib
import os
import pickle
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numba
from numba.core.registry import cpu_target
from source_state import kept

from emulator import copies, sizes
from multipoles.compiled import cuda_kernels

HERE = Path(__file__).resolve().parent


@dataclass
class Statistics:
    """What was done so far: kernels and seconds of compiling, launches and seconds of running."""

    compiled: int = 0
    compiling: float = 0.0
    launches: int = 0
    running: float = 0.0
    by_kernel: Counter = field(default_factory=Counter)


statistics = Statistics()


# --- machine code, kept for other processes -------------------------------------------------------


@dataclass
class Code:
    """A compiled kernel."""

    address: int
    poison: bytes
    keep: object


_codes = {}


def code_of(launch, dtype, kinds, checked):
    """Return a kernel for arguments of some types."""
    key = launch, dtype, kinds, checked
    if key not in _codes:
        begun = time.perf_counter()
        _codes[key] = _loaded(launch, dtype, kinds, checked) or _compiled(
            launch, dtype, kinds, checked
        )
        statistics.compiling += time.perf_counter() - begun
    return _codes[key]


def _compiled(launch, dtype, kinds, checked):
    made, poison = copies.entry(launch.function, dtype, kinds, checked)
    statistics.compiled += 1
    if (path := _file(launch, dtype, kinds, checked)) is not None:
        data = made._library.serialize_using_object_code(), made.native_name, poison
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(pickle.dumps(data))
        temporary.replace(path)
    return Code(made.address, poison, made)


def _loaded(launch, dtype, kinds, checked):
    path = _file(launch, dtype, kinds, checked)
    if path is None or not path.exists():
        return None
    data, name, poison = pickle.loads(path.read_bytes())
    found = cpu_target.target_context.codegen().unserialize_library(data)
    return Code(found.get_pointer_to_function(name), poison, found)


def _file(launch, dtype, kinds, checked):
    """Return the file of a kernel's machine code; None for one that is no part of the library."""
    if launch.origin[0].partition(".")[0] not in ("multipoles", "fmm", "gnn"):
        return None
    how = checked, sizes.of_device(), numba.__version__, _state()
    key = repr((launch.origin, dtype.name, kinds, how))
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    return kept(f"emulated-{_state()}") / name


def _state(kept=[]):  # noqa: B006
    """Return a name for the state of the library's sources and of these."""
    if not kept:
        digest = hashlib.sha256()
        root = Path(cuda_kernels.__file__).resolve().parents[2]
        folders = [root / "multipoles", root / "fmm", root / "gnn" / "operators", HERE]
        for folder in folders:
            for path in sorted(folder.rglob("*.py")):
                digest.update(path.read_bytes())
        kept.append(digest.hexdigest()[:16])
    return kept[0]
