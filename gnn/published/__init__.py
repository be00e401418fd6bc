"""Published models in this package's terms, and readers of their weights."""

from gnn.published.amp_bms import AmpBms
from gnn.published.weights import load_amp_bms

__all__ = ["AmpBms", "load_amp_bms"]
