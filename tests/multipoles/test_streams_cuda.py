"""Several streams: what one of them made, others wait for, on the device, before they read it."""

from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

pytest.importorskip("numba.cuda")

import fmm
from fmm.cuda import steps as steps_cuda
from fmm.cuda import transfers as transfers_cuda
from multipoles.compiled import cuda_kernels
from multipoles.compiled.cuda_kernels import SIMULATED, check_grid
from multipoles.cuda import device
from multipoles.cuda import interactions as interactions_cuda
from multipoles.cuda.device import CupySpace, NumbaSpace, TorchSpace
from multipoles.cuda.neighbours import DeviceNeighbours, DevicePairs

pytestmark = pytest.mark.cuda


class Stream:
    """Notes what waits for what; the simulator ignores it."""

    def __init__(self, number, log):
        self.number, self.log = number, log

    def synchronize(self):
        pass


class OnStream(NumbaSpace):
    _constants: ClassVar[dict] = {}  # not those of other tests

    def __init__(self, stream):
        self.stream = stream

    def mark(self):
        made_on = self.stream.number
        self.stream.log.append(("record", made_on))
        return SimpleNamespace(wait=lambda s: s.log.append(("wait", s.number, made_on)))


@pytest.fixture
def streams():
    log = []
    return [Stream(number, log) for number in (1, 2, 3)], log


def test_what_is_made_once_is_waited_for_by_others(streams):
    (one, two, three), log = streams
    kept = {}
    for stream in (one, one, two, two, three, one):
        assert OnStream(stream).once(kept, "key", lambda: "made") == "made"
    assert log == [("record", 1), ("wait", 2, 1), ("wait", 3, 1)]


def test_constants_and_neighbours_carry_events(streams):
    (one, two, _), log = streams
    a, b = OnStream(one), OnStream(two)
    batch = a.upload(np.array([0, 0, 1]))
    ends = a.upload(np.array([1, 0])), a.upload(np.array([0, 2]))
    pairs = DevicePairs(*ends, 2, 3, a.upload(np.array([0.5, 2.0])))
    for ask in (
        lambda space: space.constant("of the streams", lambda: np.arange(2)),
        DeviceNeighbours(3, 3, batch, batch).ranges,
        lambda space: pairs.rows(space, np.dtype(np.float64))[0],
    ):
        log.clear()
        first = ask(a)
        assert ("record", 1) in log and not [e for e in log if e[0] == "wait"]
        log.clear()
        assert ask(b) is first and set(log) == {("wait", 2, 1)}
        log.clear()
        assert ask(b) is first and not log


@pytest.mark.skipif(not SIMULATED, reason="streams are played in the simulator")
def test_a_plan_goes_on_on_the_stream_of_its_last_call(streams, monkeypatch):
    (one, two, three), log = streams
    current, used = [one], []

    def space_of(_):
        return OnStream(current[0])

    launch = cuda_kernels.Launch.__call__

    def noted(kernel, stream, *arguments):
        used.append(stream)
        launch(kernel, 0, *arguments)

    for module in (steps_cuda, interactions_cuda):
        monkeypatch.setattr(module, "space_of", space_of)
    monkeypatch.setattr(cuda_kernels.Launch, "__call__", noted)
    space = NumbaSpace()
    x = space.upload(np.random.default_rng(0).random((12, 3)))
    q = space.upload(np.ones((12, 1)))
    plan = fmm.FMM(x, tolerance=0.3, leaf_size=3)
    assert set(used) == {one}
    for where, handed in (
        (two, [("record", 1), ("wait", 2, 1)]),
        (two, []),
        (three, [("record", 2), ("wait", 3, 2)]),
    ):
        current[0] = where
        used.clear()
        log.clear()
        plan.field(q, 0)
        assert set(used) == {where}, "lazy geometry is made on the stream that asks for it"
        assert log[:2] == handed
    current[0] = one
    used.clear()
    log.clear()
    plan.rebuild(x)
    plan.report()
    assert set(used) == {one} and ("wait", 1, 3) in log


class Tensor:
    def __init__(self, asked_on):
        self.asked_on, self.recorded = asked_on, []

    def data_ptr(self):
        return 0

    def record_stream(self, stream):
        self.recorded.append(stream)


class FakeTorch:
    """The part of torch that spaces use."""

    float64 = "float64"

    def __init__(self):
        self.current = SimpleNamespace(cuda_stream=0)
        self.cuda = self

    def current_stream(self, device):
        return self.current

    def stream(self, stream):
        torch = self

        class Within:
            def __enter__(self):
                self.before, torch.current = torch.current, stream

            def __exit__(self, *_):
                torch.current = self.before

        return Within()

    def empty(self, shape, dtype, device):
        return Tensor(self.current)


def torch_space(torch):
    space = object.__new__(TorchSpace)
    space.torch, space.device, space._made = torch, "cuda:0", device.WeakSet()
    space._stream = torch.current
    space.stream = torch.current.cuda_stream
    space.mark = lambda: SimpleNamespace(wait=lambda stream: None)
    return space


def test_memory_of_torch_is_of_the_stream_that_uses_it(monkeypatch):
    monkeypatch.setattr(device, "DeviceArray", lambda *given: given[3], raising=False)
    torch = FakeTorch()
    space, home = torch_space(torch), torch.current
    torch.current = SimpleNamespace(cuda_stream=7)
    kept = space.empty((3,), np.float64)
    assert kept.asked_on is home and torch.current is not home
    other = torch_space(torch)
    space.move_to(other)
    assert kept.recorded == [torch.current], "torch would give the memory away too early"
    assert space.stream == 7 and space.empty((3,), np.float64).asked_on is torch.current


def test_spaces_of_cupy_move_too():
    spaces = [object.__new__(CupySpace) for _ in range(2)]
    for number, space in enumerate(spaces):
        space._stream, space.stream, space._left = SimpleNamespace(ptr=number), number, {}
        space.mark = lambda: SimpleNamespace(wait=lambda stream: None)
    left = spaces[0]._stream
    spaces[0].move_to(spaces[1])
    assert spaces[0]._stream is spaces[1]._stream and spaces[0].stream == 1
    assert spaces[0]._left == {0: left}


# --- sizes: nothing is launched -------------------------------------------------------------------


@pytest.mark.parametrize("grid", [2**31, (1, 2**16), (5, 1, 2**16), (2**40, 1)])
def test_grids_beyond_the_device_are_refused(grid):
    with pytest.raises(ValueError, match=r"expected a grid of at most \(2147483647, 65535, 65535"):
        check_grid(grid)


@pytest.mark.parametrize("grid", [2**31 - 1, (2**31 - 1, 65535, 65535), 0, (0, 5)])
def test_grids_up_to_the_limit_are_taken(grid):
    check_grid(grid)


def test_more_translations_than_32_bits_count_are_refused():
    transfers_cuda.check_pairs(2**31 - 1)
    with pytest.raises(ValueError, match=r"fewer than 2\^31 .* got 2147483648: give a larger leaf"):
        transfers_cuda.check_pairs(2**31)


def test_more_channels_than_a_grid_has_blocks_are_refused():
    import multipoles as mp

    space = NumbaSpace()
    x, m = space.upload(np.zeros((1, 3))), space.upload(np.zeros((1, 65536, 1)))
    with pytest.raises(ValueError, match="at most 65535 channels on a GPU, got 65536"):
        mp.field(x, x, m, 0)
