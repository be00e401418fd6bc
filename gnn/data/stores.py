"""Open HDF5 files of frames: what is known of them, and the blocks that were read last."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn.data.formats.hdf5 import (
    check_lengths,
    group_header,
    named_groups,
    open_hdf5,
    read_group,
)
from gnn.data.systems import Frame


class _Rows:
    """Some rows of a group of the file, with the interface of the group.

    Datasets per frame begin at `first`; those per point charge where `mm_ptr` says.
    """

    def __init__(self, group: Any, first: int, count: int, pointer: NDArray[np.int64] | None):
        self.group, self.attrs = group, group.attrs
        self.frames = slice(first, first + count)
        self.pointer = pointer

    def __contains__(self, name: str) -> bool:
        return name in self.group

    def keys(self) -> Any:
        return self.group.keys()

    def __getitem__(self, name: str) -> Any:
        item = self.group[name]
        if hasattr(item, "keys"):
            return _Rows(item, self.frames.start, self.frames.stop - self.frames.start, None)
        if name == "numbers":
            return item
        if name == "mm_ptr":
            own = self.pointer[self.frames.start : self.frames.stop + 1]  # type: ignore[index]
            return _Part(item, None, own - own[0])
        rows = self.frames
        if name.startswith("mm_") and self.pointer is not None:
            rows = slice(*(int(self.pointer[i]) for i in (rows.start, rows.stop)))
        return _Part(item, rows)


class _Part:
    """Some rows of a dataset, with the interface of the dataset."""

    def __init__(self, dataset: Any, rows: slice | None, values: Any = None):
        self.dataset, self.rows, self.values = dataset, rows, values
        self.attrs, self.ndim = dataset.attrs, dataset.ndim
        length = len(values) if rows is None else rows.stop - rows.start
        self.shape = (length, *dataset.shape[1:])

    def __getitem__(self, _: tuple[()]) -> NDArray[Any]:
        return self.values if self.rows is None else self.dataset[self.rows]


class Store:
    """An open file: its groups, their small datasets, and the blocks of frames used last."""

    def __init__(self, path: Path, names: Sequence[str] | None, block: int, held: int):
        self.path, self.block, self.held = path, block, held
        self.file = open_hdf5(path)
        molecules = named_groups(path, self.file, names)
        self.keys, self.names = list(molecules), list(molecules.values())
        self.groups = [self.file[key] for key in self.keys]
        headers = [group_header(f"{path}, group {key!r}", self.file[key]) for key in self.keys]
        for key, group in zip(self.keys, self.groups, strict=True):
            check_lengths(f"{path}, group {key!r}", group)
        self.numbers = [numbers for numbers, _ in headers]
        self.charges = [charge for _, charge in headers]
        self.pointers = [g["mm_ptr"][()] if "mm_ptr" in g else None for g in self.groups]
        self.blocks: OrderedDict[tuple[bool, int, int], list[Frame]] = OrderedDict()
        self.reads = 0

    def frame(self, vacuum: bool, group: int, row: int) -> Frame:
        """Return a frame, with whose block the others of its block are read."""
        key = vacuum, group, row // self.block
        if key not in self.blocks:
            while len(self.blocks) >= self.held:
                self.blocks.popitem(last=False)
            self.blocks[key] = self._read(*key)
        self.blocks.move_to_end(key)
        return self.blocks[key][row % self.block]

    def _read(self, vacuum: bool, number: int, block: int) -> list[Frame]:
        self.reads += 1
        first = block * self.block
        count = min(self.block, len(self.groups[number]["positions"]) - first)
        return self.rows(vacuum, number, first, count)

    def rows(self, vacuum: bool, number: int, first: int, count: int) -> list[Frame]:
        """Read some frames of a group."""
        group = self.groups[number]
        rows = _Rows(group, first, count, self.pointers[number])
        where = f"{self.path}, group {self.keys[number]!r}, from frame {first}"
        return read_group(where, rows, self.names[number], vacuum)[0]


class Stores:
    """Several open files, with the interface of one: their groups one after the other."""

    def __init__(self, stores: Sequence[Store]):
        self.stores, self.block = stores, stores[0].block
        self.keys = [key for store in stores for key in store.keys]
        self.names = [name for store in stores for name in store.names]
        self.paths = [store.path for store in stores for _ in store.keys]
        self.groups = [group for store in stores for group in store.groups]
        self.numbers = [numbers for store in stores for numbers in store.numbers]
        self.charges = [charge for store in stores for charge in store.charges]
        self.pointers = [pointer for store in stores for pointer in store.pointers]
        counts = [len(store.keys) for store in stores]
        self.file_of = np.repeat(np.arange(len(stores)), counts)
        self._first = np.cumsum([0, *counts])

    def frame(self, vacuum: bool, group: int, row: int) -> Frame:
        """Return a frame, with whose block the others of its block are read."""
        file = self.file_of[group]
        return self.stores[file].frame(vacuum, group - int(self._first[file]), row)

    def alone(self, vacuum: bool, group: int, row: int) -> Frame:
        """Read one frame without its block."""
        file = self.file_of[group]
        return self.stores[file].rows(vacuum, group - int(self._first[file]), row, 1)[0]
