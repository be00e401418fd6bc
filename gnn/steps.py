"""A step of a model, energy and derivatives, for one shape: recorded, replayed, or just done.

What changes goes in through one buffer and comes out through another. Edges and near pairs are
found on the device, in lists of fixed length (`Room`); whether these were long enough, and whether
anything lies beyond the walls of the model, comes back with the results.

An energy of the multipoles that the host adds, as that of a zone with its own images, parts the
step in two: up to the multipoles, and from the derivatives by them on.

Without a GPU the same step runs unrecorded, for tests.
"""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnn.data.batching import Batch, is_even
from gnn.operators.fixed_pairs import EDGES
from gnn.operators.room import Room
from gnn.outputs import Between
from gnn.passes.weights import Calls, Members

_WARM_UP = 3  # runs before recording: kernels are compiled, tables copied, workspaces made
_TRIES = 4  # recordings with ever more room for one step
_FARTHER = 1e3  # Å: where particles are that fill the room for others
_PLAIN = bool, int, float, str, type(None)  # options that a recording took for granted
_ALIGNED = 64  # numbers; blocks of a buffer begin at multiples of so many

FLOATS = (
    "positions", "charge", "mm_positions", "mm_moments", "uniform_field", "external_field",
    "formal",
)  # fmt: skip
_INTEGERS = "numbers", "batch", "mm_batch"
OF_PARTICLES = "mm_positions", "mm_moments", "mm_batch"
_FOUND_OF_PARTICLES = "mm_forces", "mm_potential"


def padded(count: int) -> int:
    """Return the room for so many particles: an eighth of a power of two more at most."""
    if count == 0:
        return 0
    unit = max(32, 1 << max(count.bit_length() - 4, 0))
    return -(-count // unit) * unit


class Buffer:
    """Tensors of one type in one block of memory, on the host and on the device.

    Parameters
    ----------
    given : dict of str to Tensor
        On the host; gives shapes and the type.
    device : torch.device
        Where the other block is.
    """

    def __init__(self, given: Mapping[str, Tensor], device: torch.device) -> None:
        self.places, size = {}, 0
        for name, tensor in given.items():
            self.places[name] = size, tuple(tensor.shape)
            size += -(-tensor.numel() // _ALIGNED) * _ALIGNED
        dtype = next(iter(given.values())).dtype
        pinned = device.type == "cuda"
        self.host = torch.zeros(size, dtype=dtype, pin_memory=pinned)
        self.there = torch.zeros(size, dtype=dtype, device=device)

    def of(self, block: Tensor, name: str) -> Tensor:
        """Return a tensor as a part of one of the two blocks."""
        start, shape = self.places[name]
        return block.as_strided(shape, _strides(shape), start)

    def send(self) -> None:
        """Copy the block of the host to the device, without waiting."""
        self.there.copy_(self.host, non_blocking=True)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1]
    for length in reversed(shape[1:]):
        strides.insert(0, strides[0] * max(length, 1))
    return tuple(strides[-len(shape) :]) if shape else ()


class Step:
    """Energy and derivatives for one shape.

    Parameters
    ----------
    model : gnn.potential.Potential
        Whose weights may change in place, but not move.
    batch : Batch
        On the host, of the shape.
    asked : dict of str to bool
        What `Potential.forward` is asked for.
    device : torch.device
        That of the model.
    """

    def __init__(
        self, model: Any, batch: Batch, asked: Mapping[str, bool], device: torch.device
    ) -> None:
        self.model, self.asked, self.device = model, dict(asked), device
        self.room, self.recorded = Room(is_even=is_even(batch)), False
        self.said: list[str] = []  # of lists that were too short
        self.beyond = self.rest = 0
        given = {name: _roomy(name, getattr(batch, name)) for name in (*FLOATS, *_INTEGERS)
                 if getattr(batch, name) is not None}  # fmt: skip
        self._floats, self._integers = (
            Buffer({n: t for n, t in given.items() if n in names}, device)
            for names in (FLOATS, _INTEGERS)
        )
        self._sent_integers = False
        inputs: dict[str, Any] = {
            name: buffer.of(buffer.there, name)
            for buffer in (self._floats, self._integers)
            for name in buffer.places
        }
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        self._batch = Batch(
            **inputs, origin=inputs["positions"].new_zeros(batch.n_systems, 3, dtype=torch.float64),
            senders=nothing, receivers=nothing, n_systems=batch.n_systems, room=self.room,
        )  # fmt: skip
        self._halts = bool(batch.between)
        if self._halts:
            self.room.answer = self._answer
            self._pull = Buffer({"pull": batch.positions.new_zeros(batch.n_atoms, 10)}, device)
        self._recording = False
        self._graph: Any = None
        self._second: Any = None  # what follows the host's answer
        self._pool: Any = None
        self._stream: Any = None
        self._kept, self._calls = _places(model), Calls(model)
        self._members = Members(model, "_parameters", "_buffers", "_modules")

    def __call__(self, batch: Batch) -> dict[str, Tensor] | None:
        """Return the results on the host; None if something lies beyond the walls.

        Raises
        ------
        RuntimeError
            If the step cannot be recorded; says why.
        """
        self._load(batch)
        for _ in range(_TRIES):
            self.replay()
            found = self._fetch(batch)
            lacking = self.room.lacking(self._counts)
            if not lacking:
                return None if self._doubted else found
            self.said += lacking
            self._graph = self._second = None
        raise RuntimeError(f"lists are too short again and again ({'; '.join(self.said[-2:])})")

    def replay(self) -> None:
        """Do the step for what is in the buffers; recorded where there is a device."""
        if self.device.type != "cuda":
            self._compute()
            return
        if self._graph is None:
            self._record()
        self._graph.replay()
        if self._halts:
            self._ask_host()
            self._second.replay()

    @property
    def is_current(self) -> bool:
        """Whether the layers are the same, the weights where they were, and options as they were.

        A recorded step knows nothing of what came at their place.
        """
        return self._kept == _places(self.model) and self._members.hold()

    @property
    def is_listened_to(self) -> bool:
        """Whether layers are to be called, which a replay does not do."""
        return self._calls.awaited()

    def _load(self, batch: Batch) -> None:
        """Copy a batch to the device, behind what the stream has to do."""
        self._given = batch
        floats, integers = self._floats, self._integers
        for name in floats.places:
            _fill(floats.of(floats.host, name), getattr(batch, name), name)
        floats.send()
        before = integers.host.clone()
        for name in integers.places:
            _fill(integers.of(integers.host, name), getattr(batch, name), name)
        if not self._sent_integers or not torch.equal(before, integers.host):
            integers.send()
            self._sent_integers = True

    def _compute(self) -> None:
        """Compute everything from the buffers; all shapes are fixed once the room is known."""
        room, batch = self.room, self._batch
        room.begin()
        x, index = batch.positions, (batch.batch, batch.batch)
        edges = room.pairs("edges", x, x, index, self.model.cutoff, EDGES)
        batch = replace(batch, receivers=edges.first, senders=edges.second, present=edges.present)
        with torch.no_grad():
            results = self.model.evaluated(batch, self.asked)
        own = {name: values.detach() for name, values in results.items() if name != "energy"}
        self._shapes = {name: tuple(values.shape) for name, values in own.items()}
        self._out = torch.cat([values.reshape(-1).to(x.dtype) for values in own.values()])
        notes = torch.stack([*room.found.values(), room.doubts(x).to(torch.int64)])
        self._wide = torch.cat([results["energy"].detach().double(), notes.double()])

    def _record(self) -> None:
        """Run the step a few times, and record it."""
        device = self.device
        with torch.cuda.device(device):
            # what is made once is made on the stream on which it is recorded
            self._stream = stream = self._stream or torch.cuda.Stream(device)
            now = torch.cuda.current_stream(device)
            stream.wait_stream(now)
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    self._compute()
            now.wait_stream(stream)
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            with _uncollected(), torch.cuda.stream(stream):
                self._capture()
            self.recorded = True

    def _capture(self) -> None:
        """Record the step on the current stream."""
        self._graph, self._second = torch.cuda.CUDAGraph(), None
        self._begin(self._graph)
        try:
            self._compute()
        except Exception:
            with suppress(Exception):  # that the recording is spoilt is known
                (self._second or self._graph).capture_end()
            raise
        finally:
            self._recording = False
        (self._second or self._graph).capture_end()

    def _begin(self, graph: Any) -> None:
        """Record from here on."""
        self._recording = True
        # other threads, as those of OpenMM, go on using the device
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")

    def _answer(self, moments: Tensor) -> Tensor:
        """Return the derivatives by multipoles (N, 10) of what the host adds: a place for them."""
        self._moments = moments
        if self._recording:  # the host comes in between two graphs
            self._graph.capture_end()
            self._second = torch.cuda.CUDAGraph()
            self._begin(self._second)
        else:
            self._ask_host()
        return self._pull.of(self._pull.there, "pull")

    def _ask_host(self) -> None:
        """Let the host add its energies: (B,), derivatives by positions, and by multipoles."""
        batch, pull = self._given, self._pull
        (moments,) = (m.double().numpy() for m in _to_host(self._moments))
        positions, index = batch.positions.double().numpy(), batch.batch.numpy()
        self._energies = torch.zeros(batch.n_systems, dtype=torch.float64)
        self._by_positions = torch.zeros(batch.n_atoms, 3, dtype=torch.float64)
        here = pull.of(pull.host, "pull")
        for number, of in enumerate(batch.between):
            assert isinstance(of, Between)  # see `suits`
            own = torch.from_numpy(index == number)
            x, m = (np.ascontiguousarray(array[index == number]) for array in (positions, moments))
            energy, by_x, by_m = of.arrays(x, m)
            self._energies[number] = energy
            self._by_positions[own] = torch.from_numpy(by_x)
            here[own] = torch.from_numpy(by_m).to(here.dtype)
        pull.send()

    def _fetch(self, batch: Batch) -> dict[str, Tensor]:
        """Return the results on the host, for which it waits."""
        wide, out = _to_host(self._wide, self._out)
        n = batch.n_systems
        counts = wide[n : n + len(self.room.found)].tolist()
        self._counts = {name: int(c) for name, c in zip(self.room.found, counts, strict=True)}
        self._doubted = bool(wide[n + len(counts) :].any())
        found, start = {"energy": wide[:n].clone()}, 0
        for name, shape in self._shapes.items():
            size = torch.Size(shape).numel()
            values = out[start : start + size].view(shape)
            found[name] = values[: batch.n_mm] if name in _FOUND_OF_PARTICLES else values
            start += size
        if self._halts:
            found["energy"] += self._energies
            found["energy_between"] = self._energies.to(batch.positions.dtype)
            if "forces" in found:
                found["forces"] = found["forces"] - self._by_positions.to(found["forces"].dtype)
        return found


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep what nobody refers to: to free memory of the device would spoil a recording."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _to_host(*blocks: Tensor) -> list[Tensor]:
    """Return copies on the host, for which it waits once."""
    if blocks[0].device.type != "cuda":
        return [block.clone() for block in blocks]
    copies = [torch.empty(block.shape, dtype=block.dtype, pin_memory=True) for block in blocks]
    for there, here in zip(blocks, copies, strict=True):
        here.copy_(there, non_blocking=True)
    torch.cuda.current_stream(blocks[0].device).synchronize()
    return copies


def _roomy(name: str, values: Tensor) -> Tensor:
    """Return an empty tensor for values, with room for more particles."""
    if name in OF_PARTICLES:
        return values.new_empty(padded(len(values)), *values.shape[1:])
    return values


def _fill(place: Tensor, values: Tensor, name: str) -> None:
    """Write values; particles that are not there are far away, without charge, of the last system.

    So their index stays sorted.
    """
    place[: len(values)] = values
    if len(values) < len(place):
        last = values[-1] if name == "mm_batch" else 0
        place[len(values) :] = _FARTHER if name == "mm_positions" else last


def _places(model: Any) -> tuple[Any, ...]:
    """Return where all weights and tables are, which a recorded step reads, and plain options."""
    tensors = (*model.parameters(), *model.buffers())
    options = (value for value in vars(model).values() if isinstance(value, _PLAIN))
    return *(tensor.data_ptr() for tensor in tensors), *options
