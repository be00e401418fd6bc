"""Evaluations replayed as a graph give what they give kernel by kernel; run with the stub driver.

The emulator runs the kernels: those that are noted when their graph is launched, with the copies
and memsets between them, in order. Memory of the graph is filled with nonsense before each replay,
so that what a replay does not write anew shows.
"""

import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import emulator
from numba import cuda

import fmm
from multipoles.compiled import cuda_kernels, driver
from multipoles.cuda import graphs

noting: list = [None]
noted: dict = {}


def play() -> None:
    """Let what is launched on a stream that notes run when its graph is launched."""
    begin, graph, launch = driver.begin_capture, graphs.driver.Graph, cuda_kernels.Launch.__call__

    def begin_capture(stream):
        begin(stream)
        noting[0] = stream, []

    class Graph(graph):
        def __init__(self, found):
            super().__init__(found)
            self.work = noting[0][1]
            noting[0] = None

        def launch(self, stream):
            super().launch(stream)
            for task in self.work:
                task()

    def launched(kernel, stream, dtype, blocks, threads, *arguments):
        launch(kernel, stream, dtype, blocks, threads, *arguments)

        # addresses alone, as in a graph: arrays that were kept here would keep their memory
        given = [
            SimpleNamespace(__cuda_array_interface__=a.__cuda_array_interface__)
            if hasattr(a, "words")
            else a
            for a in arguments
        ]
        del arguments

        def task():
            emulator.run(kernel, dtype, blocks, threads, *given)

        later(stream, task if np.all(blocks) else lambda: None)

    def later(stream, task):
        if noting[0] is None:
            task()
        else:
            assert stream == noting[0][0], "work on another stream while one notes"
            noting[0][1].append(task)

    for name in ("clear", "copy_across"):
        kept = getattr(driver, name)

        def call(*arguments, kept=kept):
            later(arguments[-1], lambda: kept(*arguments))

        setattr(driver, name, call)
    driver.begin_capture, driver.Graph = begin_capture, Graph
    cuda_kernels.Launch.__call__ = launched


def spoil(repeated) -> None:
    """Fill the free memory of a graph's arena, and its result, with nonsense."""
    blocks = [block for free in repeated._arena._free.values() for block in free]
    for block in blocks:
        block.copy_to_device(np.full(block.shape, 0xEE, np.uint8))
    repeated._out.copy_to_device(np.full(repeated._out.shape, np.nan, repeated._out.dtype))


def main() -> None:
    play()
    warnings.simplefilter("error")
    rng = np.random.default_rng(0)
    x = cuda.to_device(rng.random((1500, 3), np.float32))
    plan = fmm.FMM(x, tolerance=1e-3, leaf_size=20)
    for order, columns in ((1, 1), (2, 4)):
        alone = fmm.FMM(x, tolerance=1e-3, leaf_size=20)
        for turn in range(5):
            m = cuda.to_device(rng.standard_normal((1500, columns), np.float32))
            for repeated in [r for _, r in plan._layout.replays.values() if r._out is not None]:
                spoil(repeated)
            found = plan.field(m, order).copy_to_host()
            alone._layout.replays.clear()
            right = alone.field(m, order).copy_to_host()
            if turn:  # the first has measured errors, and may have other degrees
                assert np.array_equal(found, right), (order, turn)
    assert [r._next.__name__ for _, r in plan._layout.replays.values()] == ["_replayed"] * 2
    together(rng)


def together(rng) -> None:
    """Threads that share a plan get what each gets alone, while work is noted, too."""
    x = cuda.to_device(rng.random((300, 3), np.float32))
    given = [cuda.to_device(rng.standard_normal((300, 1), np.float32)) for _ in range(8)]
    plan, alone = (fmm.FMM(x, tolerance=1e-3, leaf_size=20) for _ in range(2))
    for one in (plan, alone):
        one.field(given[0])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(plan.field, given))
    for m, field in zip(given, found, strict=True):
        alone._layout.replays.clear()
        assert np.array_equal(field.copy_to_host(), alone.field(m).copy_to_host())
    assert [r._next.__name__ for _, r in plan._layout.replays.values()] == ["_replayed"]


if __name__ == "__main__":
    main()
