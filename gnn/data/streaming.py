"""Frames that stay in their HDF5 files: read block by block when asked for.

What is held of every frame is a row of a small index (a few dozen bytes); of the arrays only the
blocks used last. So data larger than memory can be trained on. Frames are random access, but cheap
only near each other: `StreamedFrames.order` shuffles them so that they stay near.

Of several files each has its own blocks in memory, and a random order takes from all files evenly.
So whoever reads the frames of some files alone, of a common order, never touches the others.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gnn.data.common import LABELS, is_hdf5, wanted_names
from gnn.data.formats.hdf5 import stored_texts
from gnn.data.stores import Store, Stores
from gnn.data.systems import Frame


class Atoms(NamedTuple):
    """What is known of a system without reading its coordinates."""

    numbers: NDArray[np.int64]
    charge: int
    n_mm: int
    in_cell: bool = False


class Header(NamedTuple):
    """What is known of a frame without reading its arrays; None for an energy it lacks."""

    system: Atoms
    energy: float | None
    run: int
    name: str
    group: str
    head: str = ""


class StreamedFrames(Sequence[Any]):
    """A sequence of frames in HDF5 files that are read when they are asked for.

    Made by `stream_frames`. Slices are lists; `take` gives a part that is still in the file.

    Attributes
    ----------
    entries : ndarray
        Place of each frame: group, row, and 1 where it stands for the vacuum copy, (n, 3).
    """

    def __init__(self, store: Stores, entries: NDArray[np.int64], function: Any = None):
        self._store, self.entries, self._function = store, entries, function
        self._labels: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        group, row, vacuum = self.entries[index].tolist()
        return self._mapped(self._store.frame(bool(vacuum), group, row))

    def _mapped(self, frame: Frame) -> Any:
        return frame if self._function is None else self._function(frame)

    def take(self, indices: Any) -> "StreamedFrames":
        """Return some of the frames, in the order of the indices."""
        chosen = self.entries[np.asarray(indices, dtype=np.int64)]
        return StreamedFrames(self._store, chosen, self._function)

    def map(self, function: Callable[[Any], Any]) -> "StreamedFrames":
        """Return the sequence of ``function(frame)``, computed when asked for."""
        before = self._function
        both = function if before is None else lambda frame: function(before(frame))
        return StreamedFrames(self._store, self.entries, both)

    def with_vacuum(self) -> "StreamedFrames":
        """Return these frames, and then those with surroundings with their vacuum labels.

        Raises
        ------
        ValueError
            If a molecule has no vacuum labels in the file.
        """
        for number in np.unique(self.entries[:, 0]):
            if "vacuum" not in self._store.groups[number]:
                raise ValueError(
                    f"{self._store.paths[number]}, group {self._store.keys[number]!r}: has no "
                    "vacuum labels (group 'vacuum' is missing)"
                )
        in_field = self.has_fields  # which of them are is not known without reading
        around = np.array([in_field or header.system.n_mm > 0 for header in self.headers()])
        copies = self.entries[around]
        copies[:, 2] = 1
        both = np.concatenate([self.entries, copies])
        return StreamedFrames(self._store, both, self._function)

    def headers(self) -> Iterator[Header]:
        """Yield what the index knows of each frame."""
        store = self._store
        energies, runs = self._column("energy"), self._column("run")
        texts = self._texts("group"), self._texts("head")
        rows = zip(self.entries, energies, runs, *texts, strict=True)
        for (number, row, vacuum), energy, run, kind, head in rows:
            pointer = None if vacuum else store.pointers[number]
            n_mm = 0 if pointer is None else int(pointer[row + 1] - pointer[row])
            in_cell = "cell" in store.groups[number]
            atoms = Atoms(store.numbers[number], store.charges[number], n_mm, in_cell)
            known = None if np.isnan(energy) else float(energy)
            number_of_run = 0 if np.isnan(run) else int(run)
            yield Header(atoms, known, number_of_run, store.names[number], kind, head)

    def _texts(self, name: str) -> list[str]:
        """Return "group" or "head" of each frame."""
        store = self._store
        texts = {
            k: stored_texts(f"{path}, group {key!r}", group, len(group["positions"]), name)
            for k, (path, key, group) in enumerate(
                zip(store.paths, store.keys, store.groups, strict=True)
            )
        }
        return [texts[k][row] for k, row in self.entries[:, :2].tolist()]

    @property
    def has_fields(self) -> bool:
        """Whether any of the frames is in a uniform or another external field."""
        embedded = np.unique(self.entries[self.entries[:, 2] == 0, 0])
        groups = [self._store.groups[number] for number in embedded]
        return any(name in g for g in groups for name in ("uniform_field", "external_field"))

    def _column(self, name: str) -> NDArray[np.float64]:
        """Return a number of every frame, NaN where the file does not have it."""
        values = np.full(len(self), np.nan)
        for number, vacuum in np.unique(self.entries[:, ::2], axis=0):
            mine = (self.entries[:, ::2] == (number, vacuum)).all(1)
            group = self._store.groups[number]
            group = group["vacuum"] if vacuum and name != "run" else group
            if name in group:
                values[mine] = group[name][()][self.entries[mine, 1]]
        return values

    def labels(self) -> NDArray[np.bool_]:
        """Return which labels each frame has, (n, 5), in the order of `LABELS`.

        One frame is read of every group, with and without surroundings: the others are alike.
        """
        if self._labels is None:
            around = np.array([header.system.n_mm > 0 for header in self.headers()])
            kinds = np.column_stack([self.entries[:, ::2], around])
            _, first, which = np.unique(kinds, axis=0, return_index=True, return_inverse=True)
            places = self.entries[first].tolist()
            examples = [self._mapped(self._store.alone(bool(v), g, r)) for g, r, v in places]
            table = [[getattr(frame, name) is not None for name in LABELS] for frame in examples]
            self._labels = np.array(table)[which.ravel()]
        return self._labels

    def positions(self) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Yield the index of each frame and the positions of its atoms, in the order of the file.

        Nothing else is read.
        """
        size, places = self._store.block, self.entries[:, :2] // (1, self._store.block)
        order = np.lexsort(places.T[::-1])
        ends = np.flatnonzero(np.diff(places[order], axis=0).any(axis=1)) + 1
        for part in np.split(order, ends) if len(order) else ():
            number, block = places[part[0]].tolist()
            rows = self._store.groups[number]["positions"][block * size : (block + 1) * size]
            for i in part.tolist():
                yield i, rows[self.entries[i, 1] % size]

    @property
    def files(self) -> list[Path]:
        """The files, in their order."""
        return [store.path for store in self._store.stores]

    def file_of(self) -> NDArray[np.int64]:
        """Return the number of each frame's file, (n,)."""
        return self._store.file_of[self.entries[:, 0]]

    def order(self, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Return the frames in random order, in parts that fit into memory.

        Blocks are shuffled; then the frames of as many of them as are held are shuffled together.
        Where all frames of one file are held it is one permutation of them all. Of several files
        each is shuffled so, and all take turns: any stretch of the order has of each file its
        share of the frames, to within one.
        """
        if len(self._store.stores) == 1:
            return self._order_of(np.arange(len(self)), self._store.stores[0].held, rng)
        file_of = self.file_of()
        own = [np.flatnonzero(file_of == k) for k in range(len(self._store.stores))]
        turns = [(np.arange(len(part)) + rng.random()) / max(len(part), 1) for part in own]
        parts = [
            np.concatenate([part[:0], *self._order_of(part, store.held, rng)])
            for part, store in zip(own, self._store.stores, strict=True)
        ]
        return [np.concatenate(parts)[np.argsort(np.concatenate(turns), kind="stable")]]

    def _order_of(
        self, frames: NDArray[np.int64], held: int, rng: np.random.Generator
    ) -> list[NDArray[np.int64]]:
        """Return some frames of one file in random order, in parts of as many blocks as held."""
        entries = self.entries[frames]
        places = np.column_stack([entries[:, ::2], entries[:, 1] // self._store.block])
        _, which, sizes = np.unique(places, axis=0, return_inverse=True, return_counts=True)
        count = len(sizes)
        if count <= held:
            return [rng.permutation(frames)]
        members = np.split(np.argsort(which.ravel(), kind="stable"), np.cumsum(sizes)[:-1])
        blocks = rng.permutation(count)
        return [
            frames[rng.permutation(np.concatenate([members[b] for b in blocks[i : i + held]]))]
            for i in range(0, count, held)
        ]

    def fingerprint(self) -> int:
        """Return a checksum of the data: order of frames, energies and sizes of the stored arrays.

        The arrays are not read: their compressed sizes stand for them.
        """
        checksum = zlib.crc32(self.entries.tobytes())
        checksum = zlib.crc32(self._column("energy").tobytes(), checksum)

        def add(name: str, item: Any) -> None:
            nonlocal checksum
            if not hasattr(item, "shape"):
                return
            sizes = [item.id.get_storage_size()]
            if item.chunks is not None:
                sizes += [item.id.get_chunk_info(i).size for i in range(item.id.get_num_chunks())]
            checksum = zlib.crc32(f"{name} {item.shape} {sizes}".encode(), checksum)

        for number in np.unique(self.entries[:, 0]):
            self._store.groups[number].visititems(add)
        return checksum


def stream_frames(
    paths: str | Path | Sequence[str | Path],
    *,
    names: Sequence[str] | None = None,
    block: int = 256,
    held: int = 8,
) -> StreamedFrames:
    """Open HDF5 files of frames without reading them.

    Parameters
    ----------
    paths
        Written by `write_frames`; a file, or several.
    names
        Only frames of molecules with these names. None: all.
    block
        Frames that are read at once.
    held
        Blocks held in memory, and shuffled together; of several files shared evenly among them, at
        least one of each.

    Returns
    -------
    StreamedFrames
        In the order of the files.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not an HDF5 file of frames, `block` or `held` is less than one, or a molecule is
        in none of the files.
    """
    files = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    if not files:
        raise ValueError("expected at least one file to stream, got none")
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"no file {path} (looked in {path.resolve().parent})")
        if not is_hdf5(path):
            raise ValueError(
                f"{path}: only HDF5 files can be streamed; convert it with read_frames and "
                "write_frames"
            )
    if block < 1 or held < 1:
        raise ValueError(f"expected block and held of at least 1, got {block} and {held}")
    if len(files) == 1:
        stores = [Store(files[0], names, block, held)]
    else:  # a molecule may be in some of the files only
        each = max(1, held // len(files))
        stores = [Store(path, None, block, each) for path in files]
    joined = Stores(stores)
    entries = _entries(joined)
    if names is not None and len(files) > 1:
        wanted = wanted_names(", ".join(map(str, files)), names, joined.names)
        entries = entries[np.array([n in wanted for n in joined.names])[entries[:, 0]]]
    return StreamedFrames(joined, entries)


def _entries(store: Stores) -> NDArray[np.int64]:
    """Return group, row and 0 of each frame, in the order of each file, (n, 3)."""
    entries: list[NDArray[np.int64]] = []
    order: list[NDArray[np.int64]] = []
    before = 0
    for number, group in enumerate(store.groups):
        count = len(group["positions"])
        rows = np.arange(count)
        entries.append(np.column_stack([np.full(count, number), rows, np.zeros_like(rows)]))
        order.append(group["index"][()] if "index" in group else before + rows)
        before += count
    joined = np.concatenate(entries)
    return joined[np.lexsort([np.concatenate(order), store.file_of[joined[:, 0]]])]
