"""Who else can write in a folder: what is read from there as code must be nobody else's.

Trusted are this user, the administrator, and whoever can change the sources of this package, who
need no other way to run code here. Windows keeps a user's folders from others by lists that Python
does not show: nothing is checked there.
"""

import os
import stat
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

_CHECKED = hasattr(os, "getuid")


def make_private(folder: Path) -> None:
    """Make a folder, and those it is in, for this user alone; what is there stays as it is."""
    for place in reversed((folder, *folder.parents)):
        if not place.is_dir():
            place.mkdir(mode=0o700, exist_ok=True)


@lru_cache(maxsize=512)
def who_else_writes(folder: Path) -> str:
    """Say who else can change what is read from a folder, and where; nothing where nobody can.

    Parameters
    ----------
    folder : Path
        It is looked at with all folders and links that lead there. In a folder on the way others
        may make files where they cannot rename those of its owners (``/tmp``).

    Returns
    -------
    str
        Such as ``/data is writable by everybody``; empty on Windows.
    """
    if not _CHECKED:
        return ""
    place = Path(os.path.abspath(folder))
    goals = {place, Path(os.path.realpath(place))}
    for part in _way(place):
        try:
            status = part.lstat()
        except OSError:  # not there yet: made by this user, in a folder that is looked at
            continue
        if who := _stranger(status, on_the_way=part not in goals):
            return f"{part} {who}"
    return ""


def is_ours(status: os.stat_result) -> bool:
    """Tell whether a file can be written by nobody but those who are trusted."""
    return not (_CHECKED and _stranger(status))


def _way(place: Path) -> Iterator[Path]:
    """Yield a place, where links lead, and all folders on the way, each once."""
    ahead, seen = [place, Path(os.path.realpath(place))], set()
    while ahead:
        goal = ahead.pop()
        for part in (goal, *goal.parents):
            if part in seen:
                continue
            seen.add(part)
            yield part
            if part.is_symlink():
                ahead.append(Path(os.path.abspath(part.parent / os.readlink(part))))


def _stranger(status: os.stat_result, on_the_way: bool = False) -> str:
    """Say in words who can write what has this status, and is no friend."""
    users, groups = _trusted()
    if status.st_uid not in users:
        return f"belongs to {_user(status.st_uid)}"
    mode = status.st_mode
    if stat.S_ISLNK(mode) or (on_the_way and mode & stat.S_ISVTX):
        return ""
    if mode & stat.S_IWOTH:
        return "is writable by everybody"
    if mode & stat.S_IWGRP and status.st_gid not in groups and not _is_private(status.st_gid):
        return f"is writable by group {status.st_gid}"
    return ""


@cache
def _trusted() -> tuple[frozenset[int], frozenset[int]]:
    """Return users and groups that can change the sources of this package."""
    users, groups = {os.getuid(), 0}, set()
    here = Path(__file__).resolve()
    for part in (here, *here.parents):
        try:
            status = part.stat()
        except OSError:  # in an archive
            continue
        users.add(status.st_uid)
        if status.st_mode & stat.S_IWGRP and not status.st_mode & stat.S_ISVTX:
            groups.add(status.st_gid)
    return frozenset(users), frozenset(groups)


@cache
def _is_private(group: int) -> bool:
    """Tell whether a group is that of this user alone, as many systems make one for each."""
    import grp
    import pwd

    try:
        name, entry = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(group)
    except KeyError:
        return False
    return entry.gr_name == name and set(entry.gr_mem) <= {name}


def _user(number: int) -> str:
    import pwd

    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"
