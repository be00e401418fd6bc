"""Whether weights are what they were: what was laid out of them is good only then."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gnn.passes._weight_loops import WORD, differ

# where the classes are whose computations passes know
_KNOWN = "gnn.layers.", "gnn.published.", "torch.nn.modules."
_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip
_GLOBAL_HOOKS: list[dict[int, Any]] = [
    getattr(nn.modules.module, f"_global{name}") for name in _HOOKS
]


def all_known(model: nn.Module) -> bool:
    """Return whether no layer of a model is of a class of which passes know nothing."""
    layers = (module for layer in model.children() for module in layer.modules())
    return all(type(layer).__module__.startswith(_KNOWN) for layer in layers)


class Members:
    """What belongs to the modules of a model: to see another one at the place of one.

    Parameters
    ----------
    model : nn.Module
        The model.
    kinds : str
        Where modules keep it.
    """

    def __init__(self, model: nn.Module, *kinds: str):
        self._all: list[tuple[dict[str, Any], str, Any]] = [
            (members, name, member)
            for module in model.modules()
            for members in (getattr(module, kind) for kind in kinds)
            for name, member in members.items()
        ]

    def hold(self) -> bool:
        """Return whether all are still there."""
        return all(members.get(name) is member for members, name, member in self._all)


class Calls:
    """Whether the layers of a model are to be called, which passes do not do.

    They are where somebody listens to them, or gave one a ``forward`` of its own.

    Parameters
    ----------
    model : nn.Module
        Whose layers these are; it is called itself.
    """

    def __init__(self, model: nn.Module):
        layers = [module for layer in model.children() for module in layer.modules()]
        self._members = [vars(layer) for layer in layers]
        self._hooks = [own[name] for own in self._members for name in _HOOKS] + _GLOBAL_HOOKS

    def awaited(self) -> bool:
        """Return whether it is so now."""
        return any(self._hooks) or any("forward" in members for members in self._members)


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

        Of a model that says of itself that it is `frozen`, versions and places are enough, for as
        long as it does not learn: torch's fused optimisers count no versions.
        """
        seen = self._seen
        frozen = getattr(model, "frozen", False)
        if seen is None or not (seen.is_in_place() if frozen else seen.holds()):
            # the stamp first, so that no thread sees new weights with the stamp of old ones
            self.stamp, self._seen = object(), _Seen(model)
        return self.stamp

    def are_all(self) -> bool:
        """Return whether layers do, by all that is known, nothing but what their weights say.

        It is asked after a `look`.
        """
        seen = self._seen
        return seen is not None and seen.known and not seen.calls.awaited()

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
        self._members = Members(model, "_parameters", "_buffers", "_modules")
        self.known, self.calls = all_known(model), Calls(model)
        self._tensors = [*model.parameters(), *model.buffers()]
        self._layouts = [_layout(tensor) for tensor in self._tensors]
        self._versions = _versions(self._tensors)
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
        """Return whether nobody changed anything but by ways that torch does not count.

        It counts nothing of tensors that are made in inference mode, nor of what fused optimisers
        do to those that learn.
        """
        tensors = self._tensors
        if self._versions is None or any(tensor.requires_grad for tensor in tensors):
            return self.holds()
        return (
            self._members.hold()
            and _versions(tensors) == self._versions
            and all(map(_is_laid_out, tensors, self._layouts))
        )

    def holds(self) -> bool:
        """Return whether everything is what it was."""
        return (
            self._members.hold()
            and all(map(_is_laid_out, self._tensors, self._layouts))
            and all(torch.equal(other, before) for other, before in self._others)
            and all(end.tobytes() == before for end, before in self._ends)
            and not differ(self._addresses, self._words, self._copy)
        )


def _versions(tensors: Sequence[Tensor]) -> list[int] | None:
    """Return how often each was changed; None where torch does not count for all."""
    if any(tensor.is_inference() for tensor in tensors):
        return None
    return [tensor._version for tensor in tensors]


def _layout(tensor: Tensor) -> tuple[int, tuple[int, ...], Any]:
    return tensor.data_ptr(), tensor.stride(), tensor.dtype


def _is_laid_out(tensor: Tensor, layout: tuple[int, tuple[int, ...], Any]) -> bool:
    return _layout(tensor) == layout


def _bytes(tensor: Tensor) -> NDArray[np.uint8]:
    return tensor.detach().contiguous().numpy().reshape(-1).view(np.uint8)
