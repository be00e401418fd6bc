"""Systems, frames, batches, readers and writers, splits and the data shipped with the package."""

from gnn.data.batching import Batch, Label, collate
from gnn.data.formats.by_suffix import read_frames, write_frames
from gnn.data.neighbours import neighbour_pairs
from gnn.data.prepared import PreparedFrame, prepare
from gnn.data.shipped import load_shipped, shipped_path, split_shipped
from gnn.data.splits import split_by_run
from gnn.data.systems import Frame, System

__all__ = [
    "Batch",
    "Frame",
    "Label",
    "PreparedFrame",
    "System",
    "collate",
    "load_shipped",
    "neighbour_pairs",
    "prepare",
    "read_frames",
    "shipped_path",
    "split_by_run",
    "split_shipped",
    "write_frames",
]
