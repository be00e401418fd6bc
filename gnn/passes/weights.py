"""Whether weights are what they were: what was laid out of them is good only then."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gnn.passes._weight_loops import WORD, differ


def hooks_of(model: nn.Module) -> list[dict[int, Any]]:
    """Return where the hooks of a model's layers are kept: passes do not call the layers."""
    return [
        hooks
        for layer in model.children()
        for module in layer.modules()
        for hooks in (
            module._forward_hooks, module._forward_pre_hooks, module._backward_hooks,
            module._backward_pre_hooks,
        )
    ]  # fmt: skip


class Weights:
    """Notices when a parameter or a buffer of a model has changed, in whatever way.

    Versions do not tell of changes to ``.data`` or through NumPy, so each look reads all memory:
    some 30 microseconds for two megabytes.

    Attributes
    ----------
    stamp : object
        Another one whenever something was found changed.
    """

    def __init__(self) -> None:
        self.stamp = object()
        self._seen: _Seen | None = None
        # one tuple, so that threads never see what was made of one stamp with another
        self._made: tuple[object, Any] = None, None

    def look(self, model: nn.Module) -> object:
        """Compare everything with what it was; return the stamp.

        Of a model that says of itself that it is `frozen`, versions and places are enough.
        """
        seen = self._seen
        frozen = getattr(model, "frozen", False)
        if seen is None or not (seen.is_in_place() if frozen else seen.holds()):
            self._seen, self.stamp = _Seen(model), object()
        return self.stamp

    def kept(self, make: Callable[[], Any]) -> Any:
        """Return what `make` made of the weights when they were first seen like this."""
        stamp = self.stamp
        of, made = self._made
        if of is not stamp:
            made = make()
            self._made = stamp, made
        return made

    def __reduce__(self) -> tuple[type["Weights"], tuple[()]]:
        return Weights, ()  # a copy looks for itself


class _Seen:
    """What the tensors of a model were, and where."""

    def __init__(self, model: nn.Module):
        # where modules keep what belongs to them: to see another one at the place of one
        self._members: list[tuple[dict[str, Any], str, Any]] = [
            (members, name, member)
            for module in model.modules()
            for members in (module._parameters, module._buffers, module._modules)
            for name, member in members.items()
        ]
        self._tensors = [*model.parameters(), *model.buffers()]
        self._layouts = [_layout(tensor) for tensor in self._tensors]
        self._versions = [tensor._version for tensor in self._tensors]
        # the loop reads whole words of what is contiguous
        whole = [tensor for tensor in self._tensors if tensor.is_contiguous()]
        self._others = [(t, t.detach().clone()) for t in self._tensors if not t.is_contiguous()]
        arrays = [_bytes(tensor) for tensor in whole]
        self._addresses = np.array([tensor.data_ptr() for tensor in whole], np.int64)
        self._words = np.array([len(array) // WORD for array in arrays], np.int64)
        words = [array[: len(array) // WORD * WORD].view(np.uint64) for array in arrays]
        self._copy = np.concatenate([np.empty(0, np.uint64), *words])
        ends = (array[len(array) // WORD * WORD :] for array in arrays)
        self._ends = [(end, end.tobytes()) for end in ends if len(end)]

    def is_in_place(self) -> bool:
        """Return whether nobody changed anything but by ways that torch does not count."""
        tensors = self._tensors
        return [t._version for t in tensors] == self._versions and all(
            map(_is_laid_out, tensors, self._layouts)
        )

    def holds(self) -> bool:
        """Return whether everything is what it was."""
        return (
            all(members.get(name) is member for members, name, member in self._members)
            and all(map(_is_laid_out, self._tensors, self._layouts))
            and all(torch.equal(other, before) for other, before in self._others)
            and all(end.tobytes() == before for end, before in self._ends)
            and not differ(self._addresses, self._words, self._copy)
        )


def _layout(tensor: Tensor) -> tuple[int, tuple[int, ...], Any]:
    return tensor.data_ptr(), tensor.stride(), tensor.dtype


def _is_laid_out(tensor: Tensor, layout: tuple[int, tuple[int, ...], Any]) -> bool:
    return _layout(tensor) == layout


def _bytes(tensor: Tensor) -> NDArray[np.uint8]:
    return tensor.detach().contiguous().numpy().reshape(-1).view(np.uint8)
