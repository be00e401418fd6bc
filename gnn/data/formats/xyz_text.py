"""The text of extended XYZ files, where ase's reader would change it, fail or stop early."""

import io
import json
import re
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gnn.data.formats.names import Remarks
from gnn.data.values import MAX_ATOMIC_NUMBER

_CLOSING = {"'": "'", '"': '"', "{": "}", "[": "]"}
# a key without a value in front of another key, or a quoted text, which is to be left alone; one
# that begins within a word would be looked for at each of its letters
_EMPTY = re.compile(
    r"""((?<![^\s="'{}\[\]])[^\s="'{}\[\]]++\s*=(?:"")?\s+(?=[A-Za-z_][\w-]*\s*=))|"(?:\\.|[^"\\])*+(?:"|\\?\Z)""",
    re.DOTALL,
)
_HYDROGEN = {"D", "T"}  # isotopes, which are hydrogen in quantum chemistry
_MOST_COLUMNS = 10_000  # of an atom
_MOST_ENDS = 1000  # times that the end of a file is read, by a reader that counts on more lines


class Lines(io.TextIOWrapper):
    """The lines of a file, whose end is not read for ever: ase asks for as many as a file says."""

    def __init__(self, path: Path):
        super().__init__(path.open("rb"))
        self._ends = 0

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
        """Return the next line, a few times an empty one at the end.

        Raises
        ------
        ValueError
            If a frame has far fewer atoms than the file says.
        """
        line = super().readline(size)
        self._ends = 0 if line else self._ends + 1
        if self._ends > _MOST_ENDS:
            raise ValueError("the file ends within a frame, which has fewer atoms than it says")
        return line


def parse_comment(line: str, texts: Sequence[str], run: str) -> dict[str, Any]:
    """Return what a comment line says, as ase reads it, with texts and run as they stand there.

    Else a name 007 would become the number 7, and T would become true. A key without a value is
    left out; ase would take the next key for its value.
    """
    from ase.io.extxyz import key_val_str_to_dict

    if re.fullmatch(r"[+-]?\d+\s+\d+", line):  # charge and multiplicity
        return {"comment": line}
    if re.search(r"=(\"\")?\s", line):  # comment lines are long, and this is rare
        line = _EMPTY.sub(lambda match: "" if match[1] else match[0], line)
    _check_repeated(line)
    if found := re.search(r"Properties\s*=\s*\"?([^\s\"]+)", line):
        _check_columns(found[1])
    info: dict[str, Any] = key_val_str_to_dict(line)
    kept = dict.fromkeys(texts, str) | {run: str | np.integer}  # ase's parser is faster
    changed = [key for key, kind in kept.items() if not isinstance(info.get(key, ""), kind)]
    if changed:
        raw = _pairs(line)
        info |= {key: raw[key] for key in changed}
    return info


def _check_columns(properties: str) -> None:
    """Refuse more columns than lines of a file have."""
    widths = [int(width) for width in properties.split(":")[2::3]]
    if sum(widths) > _MOST_COLUMNS or min(widths, default=1) < 1:
        raise ValueError(
            f"Properties= names {sum(widths):.3g} columns of an atom, expected one or more each, "
            f"and up to {_MOST_COLUMNS}"
        )


def _check_repeated(line: str) -> None:
    """Refuse a key that is there twice with two values, of which ase would take the last."""
    keys = [(part.rsplit(None, 1) or [""])[-1] for part in line.split("=")[:-1]]
    if len(set(keys)) == len(keys):  # these are of quoted text, too
        return
    found: dict[str, str] = {}
    for key, value in _all_pairs(line):
        if found.setdefault(key, value) != value:
            raise ValueError(f"{key} is there twice, as {found[key]!r:.40} and {value!r:.40}")


def _pairs(line: str) -> dict[str, str]:
    """Return keys and values of a comment line as text."""
    return dict(_all_pairs(line))


def _all_pairs(line: str) -> list[tuple[str, str]]:
    """Return keys and values of a comment line as text, split as ase splits them."""
    pairs: list[list[list[str]]] = [[[]]]  # of each pair, the parts between signs "="
    closing, escaped = "", False
    for char in line.strip():
        if escaped:
            pairs[-1][-1].append(char)
            escaped = False
        elif char == "\\":
            escaped = True
        elif closing:
            if char == closing:
                closing = ""
            else:
                pairs[-1][-1].append(char)
        elif char in _CLOSING:
            closing = _CLOSING[char]
        elif char.isspace():
            if pairs[-1][-1]:
                pairs.append([[]])
        elif char == "=":
            if pairs[-1] == [[]] and len(pairs) > 1:  # behind a space
                del pairs[-1]
            pairs[-1].append([])
        else:
            pairs[-1][-1].append(char)
    return [
        ("".join(key), "=".join("".join(part) for part in parts)) for key, *parts in pairs if key
    ]


def safe_text(key: str, text: str) -> str:
    """Return a text such that ase writes and reads it unchanged: itself, or JSON."""
    from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict

    plain = re.fullmatch(r"[A-Za-z]([\w.+()/ -]*[\w.+()/-])?", text, re.ASCII)
    if plain and key_val_str_to_dict(key_val_dict_to_str({key: text})) == {key: text}:
        return text
    # ase protects quotes, but not the backslashes with which it does
    return "_JSON " + json.dumps(text).replace("\\", "\\\\")


def with_symbols(path: Path) -> tuple[io.StringIO, dict[str, str]]:
    """Return the text of a file with symbols of elements for its species, and what was changed.

    Atomic numbers are taken for what they are, D and T (isotopes) for hydrogen.

    Raises
    ------
    ValueError
        If a species is no element; names frame and atom.
    """
    from ase.data import atomic_numbers, chemical_symbols

    changed: dict[str, str] = {}

    def symbol(frame: int, atom: int, species: str) -> str:
        plain = species.capitalize()
        if plain in atomic_numbers:
            return species
        if species.isdecimal() and 1 <= int(species) <= MAX_ATOMIC_NUMBER:
            plain = chemical_symbols[int(species)]
        elif plain in _HYDROGEN:
            plain = "H"
        else:
            letters = (re.match("[A-Z][a-z]?", plain) or [""])[0]
            near = [part for part in (letters, letters[:1]) if part in atomic_numbers]
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(
                f"{path}, frame {frame}: cannot be read: species {species!r} of atom {atom} is no "
                f"element{hint}: expected symbols (O), atomic numbers (8), or D and T for hydrogen"
            )
        changed[species] = plain
        return plain

    lines: list[str] = []
    with path.open(encoding="utf-8") as file:
        for frame, header in enumerate(iter(file.readline, "")):
            if not header.strip():
                break
            comment = file.readline()
            column = _species_column(comment)
            lines += [header, comment]
            for atom, line in enumerate(islice(file, int(header))):
                words = line.split()
                if column is not None and column < len(words):
                    words[column] = symbol(frame, atom, words[column])
                lines.append(" ".join(words) + "\n")
    return io.StringIO("".join(lines)), changed


def _species_column(comment: str) -> int | None:
    """Return the place of the species among the columns; None where there are numbers instead."""
    described = _pairs(comment).get("Properties", "species:S:1:pos:R:3").split(":")
    place = 0
    for name, width in zip(described[::3], described[2::3], strict=False):
        if name in ("species", "symbols"):
            return place
        place += int(width)
    return None


def check_text(path: Path, sizes: Sequence[int], remarks: Remarks) -> None:
    """Check what ase leaves out of frames: columns, and text behind the last frame.

    Raises
    ------
    ValueError
        If there is text behind the frames, which end where ase met an empty line.
    """
    with path.open(encoding="utf-8") as file:
        for frame, size in enumerate(sizes):
            file.readline()
            described, comment = 4, file.readline()
            if found := re.search(r"Properties\s*=\s*\"?([^\s\"]+)", comment):
                described = sum(map(int, found[1].split(":")[2::3]))
            columns = len(file.readline().split()) if size else 0
            deque(islice(file, size - 1 if size else 0), maxlen=0)
            if columns > described:
                told = f"{columns} columns, of which Properties= describes {described}: no more is"
                remarks.add(frame, "columns", f"{told} read")
        last = sum(sizes) + 2 * len(sizes)
        for number, line in enumerate(file, last + 1):
            if line.strip():
                raise ValueError(
                    f"{path}: the frames end with line {last}, an empty line follows, and then "
                    f"more (line {number}: {line.strip()[:40]!r}): remove empty lines between "
                    "frames"
                )
