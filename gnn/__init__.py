"""Anisotropic message passing in torch: operators, the AMP model, data, training.

Everything here speaks eV, Å and e. The multipole sums come from `multipoles`, through operators
that autograd differentiates to any order.
"""

from typing import TYPE_CHECKING, Any

from gnn import companions  # noqa: F401  # before anything of multipoles and fmm is imported

if TYPE_CHECKING:
    from gnn.data.systems import Frame, System
    from gnn.model import AMP
    from gnn.training.checkpoint import load_model

__all__ = ["AMP", "Frame", "System", "load_model"]

_PLACES = {
    "AMP": "gnn.model",
    "Frame": "gnn.data.systems",
    "System": "gnn.data.systems",
    "load_model": "gnn.training.checkpoint",
}


def __getattr__(name: str) -> Any:
    """Import torch and the model only when they are asked for."""
    if name in _PLACES:
        from importlib import import_module

        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'gnn' has no attribute {name!r}")
