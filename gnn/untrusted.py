"""Files of strangers: read as data, never run, and within limits.

What a file unfolds to is compared with its size before memory is taken for it, so that a small file
cannot ask for terabytes. Whatever is wrong with a file is a ValueError that names it.
"""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

#: Bytes that any file may unfold to.
ROOM = 1 << 30
#: Times its own size that a larger file may unfold to.
RATIO = 100
#: Bytes of a file of settings.
MOST_TEXT = 1 << 20
#: Values in a file of settings, with what aliases repeat.
MOST_VALUES = 100_000


class Allowance:
    """The bytes that a file may unfold to, of which its parts take theirs.

    Parameters
    ----------
    path
        The file: `ROOM`, or `RATIO` times its size where that is more.
    """

    def __init__(self, path: Path):
        self.size = path.stat().st_size
        self.most = self.left = max(ROOM, RATIO * self.size)

    def take(self, where: str, size: int) -> None:
        """Take some bytes.

        Raises
        ------
        ValueError
            If more is asked for than is left.
        """
        if size > self.left:
            raise ValueError(
                f"{where} asks for {size:.3g} bytes of memory: a file of {self.size} bytes may "
                f"unfold to {self.most:.3g} in all, of which {self.left:.3g} are left. It is "
                "damaged, or made to fill the memory"
            )
        self.left -= size


@contextmanager
def damage_of(path: Path, kind: str) -> Iterator[None]:
    """Make one ValueError of all that a reader may raise for a damaged file.

    Parameters
    ----------
    path
        The file; an error that begins with its name is left as it is.
    kind
        What was expected, for the message: "a checkpoint of anisole".
    """
    try:
        yield
    except PermissionError:
        raise
    except Exception as error:  # readers raise errors of many types, OSError too
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} is not {kind}, or it is damaged ({reason})") from None


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds, in plain values.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is no YAML, larger than `MOST_TEXT`, or holds more than `MOST_VALUES` values.
    """
    import yaml

    size = path.stat().st_size
    if size > MOST_TEXT:
        raise ValueError(f"{path}: expected settings of up to {MOST_TEXT} bytes, got {size}")
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_count(path, node, _below_node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise ValueError(f"{path} is not valid YAML: nested too deeply, or in itself") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # numbers and dates, too
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def _check_count(path: Path, value: Any, below: Callable[[Any], Iterable[Any]]) -> None:
    """Refuse what holds more values, each counted wherever it is named, than a file can hold.

    A few references to references are few bytes; written out, in a message, they are endless.
    """
    known: dict[int, int] = {}

    def count(item: Any) -> int:
        if id(item) not in known:
            known[id(item)] = 1 + sum(map(count, below(item)))
        return known[id(item)]

    most, found = max(MOST_VALUES, path.stat().st_size), count(value)
    if found > most:
        raise ValueError(
            f"{path}: expected up to {most} values, got {found:.3g} with what references repeat"
        )


def _below_node(node: Any) -> Iterable[Any]:
    """Return the nodes of YAML in another."""
    if isinstance(node.value, str):
        return ()
    return chain.from_iterable(i if isinstance(i, tuple) else (i,) for i in node.value)


def _below(value: Any) -> Iterable[Any]:
    """Return the plain values in another."""
    if isinstance(value, dict):
        return chain(value.keys(), value.values())
    return value if isinstance(value, list | tuple | set) else ()


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON, or it is damaged ({error})") from None


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an archive of NumPy, which hold numbers or text.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is no such archive, holds objects of Python, or unfolds to more than its size allows.
    """
    check_archive(path)
    with damage_of(path, "an archive of arrays (.npz)"):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _check_array(f"{path}, {entry.filename}", archive, entry)
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}


def check_archive(path: Path) -> None:
    """Refuse a zip archive that is damaged or unfolds to more than its size allows.

    What is no archive is left alone.

    Raises
    ------
    ValueError
        If it does, or is damaged.
    """
    allowance = Allowance(path)
    with damage_of(path, "a zip archive"):
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                allowance.take(f"{path}, {entry.filename[:80]!r}", entry.file_size)
            if (name := archive.testzip()) is not None:  # torch does not look at the checksums
                raise ValueError(f"{path} is damaged: the checksum of {name[:80]!r} is another")


def _check_array(where: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Refuse an array whose header asks for another number of bytes than follow it."""
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"{where} has version {version} of the format, expected 1.0 or 2.0")
        shape, _, dtype = read(file)
        asked, there = dtype.itemsize, entry.file_size - file.tell()
    for length in shape:
        asked *= int(length)
    if dtype.hasobject:
        raise ValueError(f"{where} holds objects of Python, expected numbers or text")
    if asked != there or any(length < 0 for length in shape):
        raise ValueError(
            f"{where} has shape {str(shape)[:80]} and type {dtype}, which are {asked} bytes, but "
            f"holds {there}"
        )


def read_state(path: Path, kind: str, file: Any = None) -> Any:
    """Return what a file of torch holds, in tensors and plain values.

    Parameters
    ----------
    path
        The file, or what an open one is called.
    kind
        What was expected, for the message.
    file
        An open file of trusted size to be read in place of the path.

    Raises
    ------
    OSError
        If it may not be read.
    ValueError
        If it is damaged, holds objects of other kinds, or unfolds to more than its size allows.
    """
    import torch

    if file is None:
        check_archive(path)
    with damage_of(path, kind):
        if file is not None:
            return torch.load(file, map_location="cpu", weights_only=True)
        content = torch.load(path, map_location="cpu", weights_only=True)
        _check_count(path, content, _below)
        return content
