"""Tensors without numbers in place of those of a GPU: what a step would launch, and wait for.

Tensors of torch's device "meta" have shapes and no numbers. Code that takes their numbers to the
host fails there, as it would wait on a GPU: ``.numpy()``, ``.item()``, ``bool(tensor)``,
``tensor[mask]``. Kernels of ours are counted and not run.
"""

from collections import Counter
from contextlib import ExitStack, contextmanager

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gnn.operators import _edge_cuda, _field_cuda, _fixed_pairs_cuda, _fused_cuda, gpu
from gnn.operators.gpu import standing_in
from multipoles import indexing

# operations that are no kernel
_VIEWS = {
    "view", "_unsafe_view", "expand", "select", "slice", "t", "transpose", "permute", "unsqueeze",
    "squeeze", "detach", "alias", "as_strided", "unbind", "split", "split_with_sizes", "empty",
    "_reshape_alias", "lift_fresh", "new_empty", "empty_like", "empty_strided", "unflatten",
    "new_empty_strided", "view_as", "tensor_split", "narrow", "movedim", "diagonal",
}  # fmt: skip


class Watch(TorchDispatchMode):
    """Counts kernels of torch and of ours, and refuses what makes the host wait."""

    def __init__(self):
        super().__init__()
        self.torch, self.ours, self.copies, self.waits = Counter(), Counter(), [], 0

    @property
    def launches(self):
        return sum(self.torch.values()) + sum(self.ours.values())

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.split("::")[1]
        tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if is_tensor(t)]
        out = function(*args, **(kwargs or {}))
        kinds = {t.device.type for t in tensors if t.dim() or t.device.type == "meta"}
        kinds |= {t.device.type for t in torch.utils._pytree.tree_leaves(out) if is_tensor(t)}
        if kinds == {"cpu", "meta"}:  # from the host to the device: waits unless pinned
            self.copies.append(name)
        if name not in _VIEWS and "meta" in kinds:
            self.torch[name] += 1
        return out


class Makes(TorchFunctionMode):
    """Notes tensors that are made of numbers of the host, which operations do not show."""

    def __init__(self, watch):
        super().__init__()
        self.watch = watch

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        makes = function in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)
        if makes and out.device.type == "meta":
            self.watch.copies.append(function.__name__)
        return out


def is_tensor(value):
    return isinstance(value, torch.Tensor)


class Neighbours:
    """Pairs of a sum that is not made."""

    def __init__(self, complete):
        self.is_complete = complete
        self.transposed = self


@contextmanager
def watched(number=0):
    """Let tensors on "meta" be those of a GPU; yields what counts.

    Where code of ours asks for a number of the device, and waits, it gets this one.
    """
    watch, patch = Watch(), pytest.MonkeyPatch()

    def launch(kernel, *arguments):
        watch.ours[kernel.origin[1]] += 1

    def field(self, targets, sources, moments, order):
        watch.ours["field"] += 1 + self.neighbours.is_complete
        shape = len(targets), moments.shape[1], indexing.n_components(order)
        return moments.new_empty(shape)

    def item(tensor):
        if tensor.device.type == "cpu":
            return tensor.item()
        watch.waits += 1
        return False if tensor.dtype == torch.bool else number

    with ExitStack() as stack:
        patch.setattr(gpu, "_item", item)
        stack.callback(patch.undo)
        patch.setattr(_edge_cuda, "_launch", launch)
        patch.setattr(_fused_cuda, "launch", launch)
        patch.setattr(_fixed_pairs_cuda, "_launch", launch)
        patch.setattr(_field_cuda.Direct, "field", field)
        patch.setattr(_field_cuda, "everybody", lambda n, m, x, s: Neighbours(x is None))
        patch.setattr(_field_cuda, "of_fixed", lambda *given: Neighbours(False))
        stack.enter_context(standing_in("meta"))
        stack.enter_context(watch)
        stack.enter_context(Makes(watch))
        yield watch
