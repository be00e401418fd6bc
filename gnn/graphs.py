"""Steps of a model, energy and derivatives, recorded as CUDA graphs and replayed.

A small system is a thousand small kernels: to launch them takes longer than to run them. Where the
same shape comes again and again, as in a simulation, the step is recorded once for fixed shapes
and replayed for other positions (`gnn.steps`). Where a step does not suit, cannot be recorded, or
meets the walls of the model, it is done in the ordinary way.
"""

import threading
import warnings
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnn.data.batching import Batch, is_even
from gnn.operators.derivatives import forward_mode
from gnn.outputs import Between
from gnn.steps import FLOATS, OF_PARTICLES, Step, padded

#: How often a shape has to come before it is recorded.
REPEATED = 3
_MOST = 8  # shapes that are kept
_SHAPES = 10_000  # that are counted
_OFTEN = 8  # steps in a row beyond the walls after which …
_REST = 64  # … so many are not tried


class Graphs:
    """The steps of a model that are kept; a copy of the model begins with none.

    Attributes
    ----------
    beyond : int
        How many evaluations were repeated in the ordinary way, since walls act in them.
    """

    def __init__(self) -> None:
        self._steps: OrderedDict[Any, Step] = OrderedDict()
        self._came: Counter[Any] = Counter()
        self._refused: set[Any] = set()
        self._lock = threading.Lock()
        self.beyond = 0

    def __deepcopy__(self, memo: Any) -> "Graphs":
        return Graphs()

    def __reduce__(self) -> tuple[type["Graphs"], tuple[()]]:
        return Graphs, ()

    @property
    def steps(self) -> list[Step]:
        """Those that are kept."""
        return list(self._steps.values())

    def __call__(
        self, model: Any, batch: Batch, asked: Mapping[str, bool], device: torch.device
    ) -> dict[str, Tensor] | None:
        """Return the results on the host, or None where the ordinary way has to be taken.

        Warns
        -----
        RuntimeWarning
            If a step cannot be recorded: says why, once for a shape.
        """
        if forward_mode() or not suits(model, batch, asked):
            return None
        key = _key(batch, asked, device)
        with self._lock:
            if len(self._came) > _SHAPES:  # of sets of many molecules
                self._came.clear()
            self._came[key] += 1
            if key in self._refused or self._came[key] < REPEATED:
                return None
            step = self._steps.get(key)
            if step is None or not step.is_current:
                step = self._steps[key] = Step(model, batch, asked, device)
            if step.is_listened_to:
                return None
            self._steps.move_to_end(key)
            while len(self._steps) > _MOST:
                self._steps.popitem(last=False)
            return self._tried(key, step, batch)

    def _tried(self, key: Any, step: Step, batch: Batch) -> dict[str, Tensor] | None:
        if step.rest:
            step.rest -= 1
            return None
        try:
            found = step(batch)
        except Exception as error:  # whatever it is, the ordinary way is there
            self._refused.add(key)
            del self._steps[key]
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            warnings.warn(
                f"a step of {type(step.model).__name__} cannot be recorded as a CUDA graph and is "
                f"computed kernel by kernel, which is slower ({what})",
                RuntimeWarning,
                stacklevel=5,
            )
            return None
        step.beyond = 0 if found is not None else step.beyond + 1
        self.beyond += found is None
        if step.beyond == _OFTEN:
            step.beyond, step.rest = 0, _REST
        return found


def suits(model: Any, batch: Batch, asked: Mapping[str, bool]) -> bool:
    """Return whether a step has fixed shapes and stays on the device."""
    if batch.cell is not None or asked.get("stress"):
        return False
    if not all(isinstance(of, Between) for of in batch.between):
        return False
    given = [values for name in FLOATS if (values := getattr(batch, name)) is not None]
    if batch.n_atoms == 0 or any(values.requires_grad for values in given):
        return False
    return bool(model.has_fixed_shapes)


def _key(batch: Batch, asked: Mapping[str, bool], device: torch.device) -> Any:
    shapes = tuple(
        None if (values := getattr(batch, name)) is None else tuple(_shape(name, values))
        for name in FLOATS
    )
    kind = batch.positions.dtype, is_even(batch), bool(batch.between), device
    return batch.n_systems, shapes, kind, tuple(sorted(asked.items()))


def _shape(name: str, values: Tensor) -> tuple[int, ...]:
    n = padded(len(values)) if name in OF_PARTICLES else len(values)
    return n, *values.shape[1:]


def copied(output: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return results on the host."""
    return {name: values.detach().cpu() for name, values in output.items()}
