"""The model of an engine: an object, the path of a checkpoint, or the one that ships."""

import copy
from pathlib import Path

import torch

from gnn.potential import Potential
from gnn.training.checkpoint import load_described


def ready_model(
    model: Potential | str | Path | None, dtype: torch.dtype | str | None = None
) -> Potential:
    """Return a copy of a model for inference, without gradients of its weights.

    Parameters
    ----------
    model : Potential, path of a checkpoint, or None
        None: the model that ships.
    dtype : torch.dtype or str, optional
        Floating-point type in which it computes, such as ``"float64"``. None: that of its weights.

    Raises
    ------
    TypeError
        If `model` or `dtype` is of another kind.
    OSError, ValueError
        If the checkpoint cannot be read.
    """
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and kind not in (torch.float32, torch.float64):
        raise TypeError(f"expected dtype to be 'float32' or 'float64', got {dtype!r}")
    if model is None or isinstance(model, str | Path):
        model = load_described(model)
    if not isinstance(model, Potential):
        raise TypeError(f"expected a model or the path of a checkpoint, got {type(model).__name__}")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    model = model if kind is None else model.to(kind)
    for own in model.models():  # nobody else has the copy
        own.frozen = True
    return model
