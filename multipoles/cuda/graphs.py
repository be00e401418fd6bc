"""Work of the device that is asked for again and again: noted once, then launched at one go.

The first time it is done as it comes; the second time in memory of its own, which shows how much
it takes; the third time it is noted (the driver's graphs), and from then on replayed: one call
instead of one for each kernel. Work that waits for the device, or takes memory that it did not
take before, cannot be noted; that is said once, and it is done as it comes for ever.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import prod
from typing import Any

import numpy as np

from multipoles.compiled import driver
from multipoles.cuda.arrays import DeviceArray
from multipoles.cuda.device import CannotBeNoted, Space

_ALIGNED = 512  # bytes, as the driver's own allocations


class Arena:
    """Memory for what work makes: a block serves again when the array in it is gone.

    All that uses it follows one another on one stream.

    Parameters
    ----------
    space : Space
        Makes the blocks.
    """

    def __init__(self, space: Space) -> None:
        self._space, self._free = space, dict[int, list[Any]]()
        self.is_full = False

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> DeviceArray:
        """Return an uninitialised array.

        Raises
        ------
        CannotBeNoted
            If the arena is full and has no such block.
        """
        size = prod(shape) * dtype.itemsize
        size = -(-size // _ALIGNED) * _ALIGNED
        free = self._free.setdefault(size, [])
        if not free and self.is_full:
            raise CannotBeNoted(f"it took {size} bytes more than the time before")
        block = free.pop() if free else self._space.new((size,), np.dtype(np.uint8))
        return DeviceArray(block.pointer, tuple(shape), dtype, _Lent(block, free))


class _Lent:
    """A block that goes back when nothing uses it any more."""

    __slots__ = ("_block", "_free")

    def __init__(self, block: Any, free: list[Any]) -> None:
        self._block, self._free = block, free

    def __del__(self) -> None:
        self._free.append(self._block)


class Repeated:
    """One piece of work, by the shapes of what it takes.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    work : callable
        Takes an array on the device; returns one, and what else belongs to it.
    """

    def __init__(self, space: Space, work: Callable[[Any], tuple[Any, Any]]) -> None:
        self._space, self._work = space, work
        self._next: Callable[[Any], tuple[Any, Any]] = self._first
        self._arena: Any = None
        self._given: Any = None
        self._out: Any = None
        self._rest: Any = None

    def __call__(self, given: Any) -> tuple[Any, Any]:
        """Do the work; return its array, the caller's own, and the rest."""
        return self._next(given)

    def _first(self, given: Any) -> tuple[Any, Any]:
        self._next = self._in_arena
        return self._work(given)

    def _in_arena(self, given: Any) -> tuple[Any, Any]:
        self._next = self._noted
        self._arena = Arena(self._space)
        self._given = self._space.empty(given.shape, given.dtype)
        self._take(given)
        with self._space.within(self._arena):
            out, rest = self._work(self._given)
        return self._copied(out), rest

    def _noted(self, given: Any) -> tuple[Any, Any]:
        self._arena.is_full = True
        stream = driver.new_stream(self._space.stream)
        try:
            with self._space.within(self._arena), self._captured(stream):
                self._out, self._rest = self._work(self._given)
        except (CannotBeNoted, driver.DriverError) as error:
            self._next = self._work
            self._arena = self._given = self._out = None
            warnings.warn(
                f"an evaluation on the GPU is launched kernel by kernel, not as one graph: {error}",
                RuntimeWarning, stacklevel=2,
            )  # fmt: skip
            return self._work(given)
        finally:
            driver.drop_stream(stream)
        self._next = self._replayed
        return self._replayed(given)

    @contextmanager
    def _captured(self, stream: int) -> Iterator[None]:
        """Note what is launched inside."""
        with self._space.noting(stream):
            driver.begin_capture(stream)
            try:
                yield
            except BaseException:
                # what was noted goes, if it was not spoilt
                with suppress(driver.DriverError):
                    driver.drop_graph(driver.end_capture(stream))
                raise
            self._graph = driver.Graph(driver.end_capture(stream))

    def _replayed(self, given: Any) -> tuple[Any, Any]:
        self._take(given)
        self._graph.launch(self._space.stream)
        return self._copied(self._out), self._rest

    def _take(self, given: Any) -> None:
        self._given.copy_to_device(given, stream=self._space.stream)

    def _copied(self, array: Any) -> Any:
        out = self._space.empty(array.shape, array.dtype)
        out.copy_to_device(array, stream=self._space.stream)
        return out
