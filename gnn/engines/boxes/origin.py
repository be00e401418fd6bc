"""What a box was made of: files by their digest, and the zone; a run that goes on is held to it."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gnn.untrusted import read_json
from multipoles.files import atomic_write

#: File of a folder that says what its box was made of.
ORIGIN = "origin.json"


def write_origin(folder: Path, files: Sequence[Path], zone: str, atoms: Sequence[int]) -> None:
    """Note the files of a box, and the zone in words and as numbers of atoms."""
    content = {
        "files": {str(path): _digest(path) for path in files},
        "zone": zone,
        "atoms": list(map(int, atoms)),
    }
    with atomic_write(folder / ORIGIN) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def read_origin(folder: Path) -> dict[str, Any]:
    """Return ``files``, ``zone`` and ``atoms`` of a folder's box; nothing where none are noted."""
    path = folder / ORIGIN
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = read_json(path)
        return {key: content[key] for key in ("files", "zone", "atoms")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None


def check_files(folder: Path, files: Sequence[Path]) -> None:
    """Refuse files of which the box of a folder was not made.

    Raises
    ------
    OSError
        If a file is not there.
    ValueError
        If the box was made of others.
    """
    known = set(read_origin(folder).get("files", {}).values())
    for path in files:
        if _digest(path) not in known:
            raise ValueError(f"{folder} was begun with another file than {path}")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
