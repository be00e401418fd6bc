"""Published models in this package's terms, and readers of their weights."""

from gnn.published.amp_bms import AmpBms
from gnn.published.amp_qmmm import AmpQmmm
from gnn.published.ana2b import Ana2b
from gnn.published.older_weights import read_amp_qmmm, read_ana2b
from gnn.published.weights import load_amp_bms

__all__ = ["AmpBms", "AmpQmmm", "Ana2b", "load_amp_bms", "read_amp_qmmm", "read_ana2b"]
