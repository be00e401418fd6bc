"""NumPy's products of matrices on one thread: the products here are too small to share."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

_Calls = tuple[Callable[[], int], Callable[[int], None]]
# of the library in NumPy's wheels, and of OpenBLAS built otherwise
_NAMES = (
    "scipy_openblas_{}_num_threads64_",
    "scipy_openblas_{}_num_threads",
    "openblas_{}_num_threads64_",
    "openblas_{}_num_threads",
)


@cache
def _calls() -> _Calls | None:
    """Return what gets and sets the threads of the OpenBLAS that NumPy came with, if it did."""
    package = Path(np.__file__).parent
    folders = package.parent / "numpy.libs", package / ".dylibs"
    for path in (path for folder in folders for path in sorted(folder.glob("*openblas*"))):
        try:
            library = ctypes.CDLL(str(path))  # loaded already
        except OSError:
            continue
        for name in _NAMES:
            found = [getattr(library, name.format(verb), None) for verb in ("get", "set")]
            if None not in found:
                return found[0], found[1]  # type: ignore[return-value]
    return None


@contextmanager
def one_thread() -> Iterator[None]:
    """Let OpenBLAS use one thread inside; other libraries do as they like."""
    calls = _calls()
    before = 1 if calls is None else calls[0]()
    if calls is None or before == 1:
        yield
        return
    calls[1](1)
    try:
        yield
    finally:
        calls[1](before)
