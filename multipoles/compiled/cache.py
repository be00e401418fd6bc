"""Compiled kernels on disk: one file each, and never a reason to fail.

Numba's own cache keeps an index beside numbered files. Two processes that write at once may take
the same number, and the index then names machine code of other types, or of another processor that
shares the folder; a damaged file, a full disk or a lack of writable folders ends the program. Here
the name of a file tells all that its code depends on, a digest guards what is in it, and whatever
is wrong with a file, the kernel is compiled again.

What is in these files runs, and a digest is no signature: folders and files that others can write
are not used (`multipoles.ownership`), those that are missing are made for the user alone.
"""

import hashlib
import os
import pickle
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import llvmlite
import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, InTreeCacheLocator, NullCache
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

from multipoles.ownership import is_ours, make_private, who_else_writes

_DIGEST = 32  # bytes of SHA-256


def cache_for(function: Callable[..., Any]) -> Any:
    """Return the cache of a function's machine code; it keeps nothing where nothing can be kept."""
    try:
        return _KernelCache(function)
    except RuntimeError:  # Numba found no folder that can be written, and by nobody else
        return _NoCache()


def is_kept(dispatcher: Any) -> bool:
    """Tell whether machine code of a function is at hand, for whatever types."""
    files = getattr(dispatcher._cache, "_cache_file", None)
    return bool(dispatcher.overloads) or (isinstance(files, _Files) and files.any())


def note_time(dispatcher: Any, seconds: float) -> None:
    """Note beside the machine code of a function, which there may be none of, what was spent."""
    files = getattr(dispatcher._cache, "_cache_file", None)
    if isinstance(files, _Files):
        files.note_time(seconds)


def noted_time(dispatcher: Any) -> float:
    """Return all the seconds that processes have noted; zero where nothing can be kept."""
    files = getattr(dispatcher._cache, "_cache_file", None)
    return files.noted_time() if isinstance(files, _Files) else 0.0


def _is_safe(folder: Path) -> bool:
    """Tell whether code may be read from a folder, and warn where it may not."""
    who = who_else_writes(folder)
    if who:
        _warn(
            f"compiled kernels are code, and are neither read from {folder} nor kept there, since "
            f"{who}: take the right to write from others (chmod go-w), or set NUMBA_CACHE_DIR to a "
            "folder of your own; until then another folder is taken, or they are compiled again in "
            "every process",
            "unsafe",
        )
    return not who


def _guarded(locator: Any) -> Any:
    """Return one of Numba's choices of a folder, which declines where others can write."""

    class Guarded(locator):
        def ensure_cache_path(self) -> None:
            # beside the sources a folder is as these are, which others may have to read
            if not issubclass(locator, InTreeCacheLocator):
                make_private(Path(self.get_cache_path()))
            super().ensure_cache_path()

        @classmethod
        def from_function(cls, py_func: Any, py_file: Any) -> Any:
            found = super().from_function(py_func, py_file)
            safe = found is not None and _is_safe(Path(found.get_cache_path()))
            return found if safe else None

    return Guarded


class _Implementation(CompileResultCacheImpl):
    """Numba's, in folders that nobody else can write."""

    _locator_classes = [*map(_guarded, CompileResultCacheImpl._locator_classes)]  # noqa: RUF012


class _KernelCache(FunctionCache):
    """Numba's cache of a function, but for its folders, its files and for how it fails."""

    _impl_class = _Implementation

    def __init__(self, function: Callable[..., Any]):
        super().__init__(function)
        if not _is_safe(Path(self.cache_path)):  # of NUMBA_CACHE_LOCATOR_CLASSES
            raise RuntimeError
        self._cache_file = _Files(Path(self.cache_path), function)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        # Numba would import all that it can compile, for a quarter of a second: what is compiled
        # needs its runtime only
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)

    def save_overload(self, sig: Any, data: Any) -> None:
        self._keep(super().save_overload, sig, data)

    def keep(self, key: Any, data: Any) -> None:
        """Write what is not Numba's own: machine code of a GPU."""

        def save(key: Any, data: Any) -> None:
            self._impl.locator.ensure_cache_path()
            self._cache_file.save(key, data)

        self._keep(save, key, data)

    def _keep(self, save: Callable[[Any, Any], Any], key: Any, data: Any) -> None:
        try:
            save(key, data)
        except OSError as error:
            _warn(
                f"a compiled kernel could not be kept in {self.cache_path} ({error}): what is not "
                "kept is compiled again in every process; free space there, or set "
                "NUMBA_CACHE_DIR to a folder that can be written"
            )


class _NoCache(NullCache):
    def keep(self, key: Any, data: Any) -> None:
        self.save_overload(key, data)

    def save_overload(self, sig: Any, data: Any) -> None:
        _warn(
            "compiled kernels are not kept, so every process compiles them again: neither the "
            "folder of the package nor the user's cache folder can be written; set "
            "NUMBA_CACHE_DIR to a folder that can"
        )


_warned: set[str] = set()


def _warn(message: str, kind: str = "not kept") -> None:
    """Warn about the cache, once in a process for each kind."""
    if kind not in _warned:
        _warned.add(kind)
        warnings.warn(message, RuntimeWarning, stacklevel=2)


class _Files:
    """The files of one function: one for each signature and processor, of the sources as they are.

    Stands for Numba's ``IndexDataCacheFile``.
    """

    def __init__(self, folder: Path, function: Callable[..., Any]):
        code = function.__code__
        source = Path(code.co_filename)
        self._folder = folder
        self._line = code.co_firstlineno
        self._state = _state({_package(Path(__file__)), _package(source)})
        name = f"{source.stem}.{function.__qualname__}".replace("<", "").replace(">", "")
        self._name = f"{name}-{sys.implementation.cache_tag}-"

    def load(self, key: Any) -> Any:
        """Return what was saved under the key, or None where it is missing, damaged or foreign."""
        try:
            with self._path(key).open("rb") as file:
                if not is_ours(os.fstat(file.fileno())):
                    return None
                content = memoryview(file.read())
        except OSError:
            return None
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            return None
        found, data = pickle.loads(content[_DIGEST:])
        return data if found == key else None

    def save(self, key: Any, data: Any) -> None:
        """Write a file under a temporary name, then rename it: others see all of it or nothing."""
        content = dumps((key, data))
        path = self._path(key)
        temporary = path.with_name(f"{path.name}.{uuid4().hex[:16]}")
        try:
            temporary.touch(mode=0o644)  # what others could write would not be read again
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._remove_outdated()

    def any(self) -> bool:
        """Tell whether there is a file."""
        return next(self._folder.glob(f"{self._name}{self._state}-*.nbc"), None) is not None

    def note_time(self, seconds: float) -> None:
        """Add a line to a file of seconds; what cannot be written is lost."""
        with suppress(OSError):
            make_private(self._folder)
            with self._times.open("a", encoding="ascii") as stream:
                stream.write(f"{seconds:.3f}\n")

    def noted_time(self) -> float:
        """Return the sum of the lines; a damaged file counts as none."""
        try:
            return sum(map(float, self._times.read_text(encoding="ascii").split()))
        except (OSError, ValueError):
            return 0.0

    @property
    def _times(self) -> Path:
        return self._folder / f"{self._name}{self._state}-times.txt"

    def flush(self) -> None:
        """Remove all files of the function."""
        for path in self._folder.glob(f"{self._name}*"):
            path.unlink(missing_ok=True)

    def _path(self, key: Any) -> Path:
        # the text of Numba's types tells all about them; `load` compares the keys themselves
        digest = hashlib.sha256(repr((self._line, key)).encode()).hexdigest()[:16]
        return self._folder / f"{self._name}{self._state}-{digest}.nbc"

    def _remove_outdated(self) -> None:
        """Remove files of earlier sources, and what processes killed in those days left behind."""
        for path in self._folder.glob(f"{self._name}*"):
            if not path.name.startswith(f"{self._name}{self._state}"):
                with suppress(OSError):  # in use, or another process was faster
                    path.unlink()


def _package(source: Path) -> Path:
    """Return the folder of the outermost package that a file is in; its own if in none."""
    folder = source.parent
    while (folder.parent / "__init__.py").exists():
        folder = folder.parent
    return folder


def _state(folders: set[Path]) -> str:
    """Return a name for all that machine code is made of: compiler and sources.

    Kernels are made of helpers from several files, all of this package or of the function's own;
    whole packages, with what they have in folders.
    """
    made_of = [numba.__version__, llvmlite.__version__, *map(_contents, sorted(folders))]
    return hashlib.sha256(" ".join(made_of).encode()).hexdigest()[:16]


@lru_cache
def _contents(folder: Path) -> str:
    """Return a digest of a folder's sources as they were when its first kernel was imported."""
    digest = hashlib.sha256()
    is_package = (folder / "__init__.py").exists()
    for path in sorted(folder.rglob("*.py") if is_package else folder.glob("*.py")):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
