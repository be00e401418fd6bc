"""Launches on a device: machine code found once, arguments packed, the driver called.

Numba's own way to launch costs some 90 microseconds, of types looked up and arguments wrapped
anew; here an array carries its packed words (`multipoles.cuda.arrays`), and code is found by the
kinds of arguments. Code is kept on disk like that of the CPU (`multipoles.compiled.cache`), which
Numba does not do for functions made in functions: other processes load it and compile nothing.
"""

import hashlib
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from math import inf, prod
from time import perf_counter
from types import CodeType
from typing import Any

import numpy as np

from multipoles.compiled import driver
from multipoles.compiled.cache import cache_for
from multipoles.compiled.notice import spent

_integer, _single, _double = struct.Struct("=q"), struct.Struct("=f4x"), struct.Struct("=d")


def _packed_single(value: float) -> bytes:
    try:
        return _single.pack(value)
    except OverflowError:  # what is too large becomes infinite, as anywhere
        return _single.pack(inf if value > 0 else -inf)


_PACKED = {np.dtype(np.float32): _packed_single, np.dtype(np.float64): _double.pack}
_code: dict[Any, Any] = {}


@driver.passing
def launch(
    kernel: Any,
    stream: int,
    dtype: np.dtype,
    blocks: tuple[int, int, int],
    threads: tuple[int, int, int],
    arguments: tuple[Any, ...],
) -> None:
    """Launch a kernel on a stream of the current device, see `cuda_kernels.Launch`."""
    kinds: list[Any] = [kernel, dtype, driver.device(stream)]
    words: list[bytes] = []
    for argument in arguments:
        if hasattr(argument, "words"):
            kinds.append(argument.kind)
            words.append(argument.words)
        elif hasattr(argument, "__cuda_array_interface__"):
            kind, packed = _described(argument.__cuda_array_interface__)
            kinds.append(kind)
            words.append(packed)
        elif isinstance(argument, float | np.floating):
            kinds.append(float)
            words.append(_PACKED[dtype](argument))
        else:
            is_bool = isinstance(argument, bool | np.bool_)
            kinds.append(bool if is_bool else int)
            words.append(_integer.pack(bool(argument) if is_bool else argument))
    key = tuple(kinds)
    function = _code.get(key)
    if function is None:
        function = _code[key] = _loaded(kernel, dtype, key[2], key[3:])
    driver.launch(function, blocks, threads, stream, b"".join(words))


@lru_cache(maxsize=256)
def row_strides(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Return the distances of neighbours along each axis, in bytes, if rows follow one another."""
    strides = []
    for n in reversed(shape):
        strides.append(size)
        size *= n
    return tuple(reversed(strides))


def packed_array(pointer: int, shape: tuple[int, ...], item: int) -> bytes:
    """Return what a kernel is given: no owner, no parent, size, size of a number, pointer, shape.

    Rows follow one another.
    """
    strides = row_strides(shape, item)
    return struct.pack(
        f"={5 + 2 * len(shape)}q", 0, 0, prod(shape), item, pointer, *shape, *strides
    )


def _described(seen: dict[str, Any]) -> tuple[Any, bytes]:
    """Return kind and words of an array of others, whose rows follow one another."""
    dtype, shape = np.dtype(seen["typestr"]), seen["shape"]
    if seen.get("strides") is not None:
        raise ValueError("expected an array whose rows follow one another; copy it")
    return (dtype, len(shape)), packed_array(seen["data"][0] or 0, shape, dtype.itemsize)


def _loaded(kernel: Any, dtype: np.dtype, device: int, kinds: tuple[Any, ...]) -> Any:
    """Return a kernel for kinds of arguments, from the disk or compiled."""
    names = tuple(_name(kind, dtype) for kind in kinds)
    cache = cache_for(kernel.function)
    files = getattr(cache, "_cache_file", None)
    key = (
        "cuda", kernel.origin, _fingerprint(kernel.function), dtype.name, names,
        driver.capability(device), version("numba-cuda"),
    )  # fmt: skip
    found = files.load(key) if files is not None else None
    if found is not None:
        # what a newer toolkit has written an older driver refuses
        with suppress(driver.DriverError):
            return driver.load(*found)
    start = perf_counter()
    found = kernel.compiled(dtype, names)
    spent(perf_counter() - start)
    cache.keep(key, found)
    return driver.load(*found)


def _name(kind: Any, dtype: np.dtype) -> str:
    if isinstance(kind, tuple):
        return f"{kind[0].name}[{kind[1]}]"
    return {int: "int64", bool: "bool", float: dtype.name}[kind]


def _fingerprint(function: Callable[..., Any]) -> str:
    """Return a digest of a function and of all that it calls, as they are in this process.

    The state of our sources, which files of machine code are named by, does not tell about
    functions of users.
    """
    digest = hashlib.sha256()
    _tell(function, digest.update, set())
    return digest.hexdigest()[:32]


def _tell(value: Any, say: Callable[[bytes], Any], seen: set[int]) -> None:
    function = getattr(value, "py_func", getattr(value, "function", value))
    if not hasattr(function, "__code__"):
        if isinstance(value, np.ndarray):  # whose text leaves out numbers, and digits
            say(repr((value.dtype.str, value.shape)).encode() + value.tobytes())
            return
        known = isinstance(value, int | float | str | tuple | np.generic)
        say(repr(value if known else type(value).__qualname__).encode())
        return
    if id(function) in seen:
        return
    seen.add(id(function))
    say(repr((function.__defaults__, function.__kwdefaults__)).encode())
    for code in _codes(function.__code__):
        say(code.co_code)
        say(repr([c for c in code.co_consts if not isinstance(c, CodeType)]).encode())
        say(repr(code.co_names).encode())
        for name in code.co_names:
            if name in function.__globals__:
                _tell(function.__globals__[name], say, seen)
    for cell in function.__closure__ or ():
        _tell(cell.cell_contents, say, seen)


def _codes(code: CodeType) -> list[CodeType]:
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return [code, *(found for one in inner for found in _codes(one))]
