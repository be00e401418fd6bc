"""HDF5 files of strangers: groups and datasets as h5py shows them, after a check of each.

A file of HDF5 can name others from which links and datasets take their data, declare arrays that it
does not hold, and compress a hundred gigabytes into one chunk. What is read here is numbers and
text that stand in the file itself, of a size that its own allows (`gnn.untrusted.Allowance`).
"""

import math
import mmap
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn.untrusted import ROOM, Allowance

#: Bytes of an attribute.
MOST_ATTRIBUTE = 1 << 20
# texts of variable length in an attribute, or read from a dataset at once
_TEXTS = 256
# filters of HDF5 that change no size: shuffle, Fletcher's checksum
_HARMLESS, _DEFLATE = (2, 3), 1
# bytes of a compressed chunk from which what it unfolds to is looked at: at most 1032 times as many
_LARGE = 1 << 20
# how a heap of texts begins, with its version
_HEAP = b"GCOL\x01\x00\x00\x00"


class Group:
    """A group: what it is asked for is checked, once.

    Parameters
    ----------
    group
        Of h5py.
    path
        The file, for messages.
    allowance
        Of the file.
    """

    def __init__(self, group: Any, path: Path, allowance: Allowance):
        self._group, self.path, self.allowance = group, path, allowance
        self.name = group.name
        self._known: dict[str, Group | Dataset] = {}

    def __iter__(self) -> Iterator[str]:
        with _damage(self.path, self.name):
            return iter(list(self._group))

    def keys(self) -> list[str]:
        """Return the names of what is in the group."""
        return list(self)

    def values(self) -> Iterator[Any]:
        """Yield what is in the group."""
        return (self[key] for key in self)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yield names and what they stand for."""
        return ((key, self[key]) for key in self)

    def __contains__(self, name: str) -> bool:
        with _damage(self.path, self.name):
            return bool(self._group.id.links.exists(name.encode()))

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            self._known[name] = self._checked(name)
        return self._known[name]

    @cached_property
    def attrs(self) -> dict[str, Any]:
        """Attributes, those of numbers and text."""
        return _attributes(self.path, self._group)

    def visititems(self, function: Callable[[str, Any], Any]) -> None:
        """Call a function with path and object of h5py for all that stands in the group itself."""
        self._group.visititems(function)

    def _checked(self, name: str) -> "Group | Dataset":
        import h5py

        where = f"{self.path}: {self.name.rstrip('/')}/{name}"
        with _damage(self.path, f"{self.name.rstrip('/')}/{name}"):
            if self._group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
                raise ValueError(
                    f"{where} is a link to another place or file, and links are not followed: "
                    "store what it stands for"
                )
            item = self._group[name]
            if isinstance(item, h5py.Group):
                return Group(item, self.path, self.allowance)
            if not isinstance(item, h5py.Dataset):
                raise ValueError(f"{where} is a type, expected a group or a dataset")
            return Dataset(item, self.path, self.allowance)


class File(Group):
    """An open file, whose content is that of its first group."""

    def __init__(self, file: Any, path: Path):
        super().__init__(file, path, Allowance(path))

    def __enter__(self) -> "File":
        return self

    def __exit__(self, *_: Any) -> None:
        self._group.close()


class Dataset:
    """A dataset of numbers or text that stands in the file itself.

    Parameters
    ----------
    dataset
        Of h5py.
    path, allowance
        Of the file.
    """

    def __init__(self, dataset: Any, path: Path, allowance: Allowance):
        self._dataset, self.path, self._allowance = dataset, path, allowance
        self.name, self.where = dataset.name, f"{path}: dataset {dataset.name!r}"
        self.dtype, self.shape, self.ndim = dataset.dtype, dataset.shape, dataset.ndim
        if self.shape is None:
            raise ValueError(f"{self.where} is empty")
        plan = dataset.id.get_create_plist()
        self._check_kind(plan)
        allowance.take(self.where, dataset.size * self.dtype.itemsize)
        if dataset.chunks is not None:
            self._check_chunks(plan)

    def __len__(self) -> int:
        return int(self._dataset.len())

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        with _damage(self.path, self.name):
            if self.dtype.kind != "O":
                return np.asarray(self._dataset[rows])
            first, last, _ = (slice(None) if rows == () else rows).indices(len(self))
            return self._texts(first, last)

    @cached_property
    def attrs(self) -> dict[str, Any]:
        """Attributes, those of numbers and text."""
        return _attributes(self.path, self._dataset)

    def _texts(self, first: int, last: int) -> NDArray[Any]:
        """Return texts, of which a file can name one many times."""
        parts, size = [np.empty(0, dtype=object)], 0
        for start in range(first, last, _TEXTS):
            parts.append(self._dataset[start : min(start + _TEXTS, last)])
            size += sum(map(len, parts[-1]))
            if size > self._allowance.most:
                raise ValueError(f"{self.where} holds texts of more than {size:.3g} bytes")
        return np.concatenate(parts)

    def _check_kind(self, plan: Any) -> None:
        import h5py

        text = self.dtype.kind == "O" and h5py.check_string_dtype(self.dtype) is not None
        if self.dtype.kind not in "biufS" and not (text and self.ndim == 1):
            raise ValueError(f"{self.where} is of type {self.dtype}, expected numbers or texts")
        if plan.get_layout() == h5py.h5d.VIRTUAL or plan.get_external_count():
            raise ValueError(
                f"{self.where} takes its data from elsewhere, which is not followed: store them"
            )

    def _check_chunks(self, plan: Any) -> None:
        """Refuse chunks that unfold to more than they should, while they are unfolded."""
        filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
        unfolding = [kind for kind in filters if kind not in _HARMLESS]
        if len(unfolding) > 1:
            raise ValueError(f"{self.where} is compressed twice (filters {filters})")
        expected = math.prod(self._dataset.chunks) * self.dtype.itemsize
        if expected > ROOM:
            raise ValueError(f"{self.where} has chunks of {expected} bytes, expected up to {ROOM}")
        large: list[Any] = []

        def look(chunk: Any) -> None:
            if chunk.size > _LARGE:
                large.append(chunk.chunk_offset)

        if _DEFLATE in unfolding and self._dataset.id.get_storage_size() > _LARGE:
            self._dataset.id.chunk_iter(look)
        for offset in large:
            mask, content = self._dataset.id.read_direct_chunk(offset)
            skipped = mask & (1 << filters.index(_DEFLATE))
            unfolded = zlib.decompressobj().decompress(b"" if skipped else content, expected + 5)
            if len(unfolded) > expected + 4:  # and a checksum
                raise ValueError(
                    f"{self.where}: the chunk at {offset} unfolds to more than its {expected} bytes"
                )


def check_heaps(path: Path) -> None:
    """Refuse a file whose texts are stored such that HDF5's library would look for them for ever.

    In a heap of texts it goes from object to object by their sizes, and stays at one without any.
    Files of more than `ROOM` bytes are not looked through.
    """
    if not 64 < path.stat().st_size <= ROOM:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = max(content.find(b"\x89HDF\r\n\x1a\n"), 0)
        width = content[start + (14 if content[start + 8] < 2 else 10)]  # of a size
        place = content.find(_HEAP)
        while place >= 0 and width in (2, 4, 8):
            if _is_endless(content, place, width):
                raise ValueError(f"{path}: the heap of texts at byte {place} is damaged")
            place = content.find(_HEAP, place + 1)


def _is_endless(content: Any, place: int, width: int) -> bool:
    """Tell whether an object of a heap has no size."""
    head = 8 + width
    end = min(place + int.from_bytes(content[place + 8 : place + head], "little"), len(content))
    place += (head + 7) // 8 * 8
    while place + head <= end:
        index = int.from_bytes(content[place : place + 2], "little")
        size = int.from_bytes(content[place + 8 : place + head], "little")
        if index == 0 and size == 0:
            return True
        place += size if index == 0 else (head + 7) // 8 * 8 + (size + 7) // 8 * 8
    return False


@contextmanager
def _damage(path: Path, name: str) -> Iterator[None]:
    """Make a ValueError of what h5py raises for a damaged file."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, TypeError, zlib.error, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: {name!r} cannot be read, or is damaged ({reason})") from None
    except MemoryError:
        raise ValueError(f"{path}: there is no memory for {name!r}") from None


def _attributes(path: Path, item: Any) -> dict[str, Any]:
    """Return the attributes of numbers and text; others are those of other programs."""
    import h5py

    found = {}
    with _damage(path, item.name):
        for name in item.attrs:
            attribute = h5py.h5a.open(item.id, name.encode())
            kind = attribute.dtype
            texts = kind.kind == "O" and h5py.check_string_dtype(kind) is not None
            count = math.prod(attribute.shape)
            size = count * kind.itemsize
            if size > MOST_ATTRIBUTE or (texts and count > _TEXTS):
                raise ValueError(
                    f"{path}: attribute {name!r} of {item.name!r} has {count} values in {size} "
                    f"bytes, expected up to {MOST_ATTRIBUTE} bytes, or {_TEXTS} texts"
                )
            if texts or kind.kind in "biufS":
                found[name] = item.attrs[name]
    return found
