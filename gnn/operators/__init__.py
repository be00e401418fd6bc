"""Torch operators: the multipole field, and the edge operators of message passing."""

from gnn.operators.edges import anisotropic_state, pair_invariants, self_invariants
from gnn.operators.field import multipole_field

__all__ = ["anisotropic_state", "multipole_field", "pair_invariants", "self_invariants"]
