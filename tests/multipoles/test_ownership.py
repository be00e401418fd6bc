"""Machine code is read from and kept in folders that nobody else can write."""

import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from multipoles import ownership
from multipoles.ownership import make_private, who_else_writes

ROOT = Path(__file__).resolve().parents[2]
STRANGER = 12345

posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners are not checked on Windows")
as_root = pytest.mark.skipif(getattr(os, "getuid", lambda: 1)() != 0, reason="gives files away")

KERNEL = """
import sys
sys.path.insert(0, {root!r})
import warnings
warnings.simplefilter("always")
from multipoles.compiled.jit import jit
@jit
def twice(x):
    return 2 * x
print(twice(3), twice._cache.cache_path if hasattr(twice._cache, "cache_path") else "none")
"""


@pytest.fixture(autouse=True)
def _looked_at_anew():
    who_else_writes.cache_clear()


@posix
def test_a_folder_is_made_for_the_user_alone(tmp_path):
    before = os.umask(0)
    try:
        make_private(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*")} == {0o700}
    assert who_else_writes(tmp_path / "a" / "b") == ""


@posix
@pytest.mark.parametrize("place", ["open", "open/inner", "link", "link/inner", "open/missing"])
def test_a_folder_that_others_can_write_is_told(tmp_path, place):
    (tmp_path / "open" / "inner").mkdir(parents=True)
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to("open")
    assert who_else_writes(tmp_path / place) == f"{tmp_path / 'open'} is writable by everybody"


@posix
def test_folders_of_all_hold_private_ones(tmp_path):
    """As /tmp does: what is in it cannot be renamed by others, but they can add to it."""
    (tmp_path / "shared" / "own").mkdir(parents=True)
    (tmp_path / "shared").chmod(0o1777)
    assert who_else_writes(tmp_path / "shared" / "own") == ""
    assert "is writable by everybody" in who_else_writes(tmp_path / "shared")


@posix
@as_root
def test_folders_links_and_parents_of_others_are_told(tmp_path):
    for name in ("theirs/own", "own/theirs"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    for name in ("theirs", "own/theirs"):
        os.chown(tmp_path / name, STRANGER, STRANGER)
    (tmp_path / "good").mkdir()
    (tmp_path / "link").symlink_to("good")
    os.lchown(tmp_path / "link", STRANGER, STRANGER)
    for name, culprit in (("theirs/own", "theirs"), ("own/theirs", "own/theirs"), ("link", "link")):
        assert who_else_writes(tmp_path / name) == (
            f"{tmp_path / culprit} belongs to user {STRANGER}"
        )


@posix
@as_root
def test_groups_count_unless_they_are_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(0o770)
    assert who_else_writes(tmp_path / "a") == ""  # group root of user root
    os.chown(tmp_path / "a", 0, STRANGER)
    who_else_writes.cache_clear()
    assert who_else_writes(tmp_path / "a") == f"{tmp_path / 'a'} is writable by group {STRANGER}"
    # those who can change the sources of the package are trusted
    monkeypatch.setattr(ownership, "_trusted", lambda: ({0}, {STRANGER}))
    who_else_writes.cache_clear()
    assert who_else_writes(tmp_path / "a") == ""


def test_nothing_is_checked_where_owners_are_not_known(tmp_path, monkeypatch):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setattr(ownership, "_CHECKED", False)
    assert who_else_writes(tmp_path / "open") == "" and ownership.is_ours(tmp_path.stat())


def _run(cache, home, source):
    source.write_text(KERNEL.format(root=str(ROOT)))
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "HOME": str(home)}
    environment.pop("XDG_CACHE_HOME", None)
    return subprocess.run(
        [sys.executable, source], env=environment, capture_output=True, text=True, check=True
    )


class _Payload:
    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return (Path.touch, (Path(self.sentinel),))


@posix
@pytest.mark.slow
def test_code_of_others_never_runs(tmp_path):
    """A folder open to all is named in a warning, and what lies there is not loaded."""
    import hashlib

    source, sentinel = tmp_path / "kernel.py", tmp_path / "sentinel"
    run = _run(tmp_path / "cache", tmp_path / "home", source)
    place = Path(run.stdout.split()[1])
    assert tmp_path / "cache" in place.parents and run.stderr == ""
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    for path in place.glob("*.nbc"):  # with the right digest
        content = pickle.dumps(_Payload(sentinel))
        path.write_bytes(hashlib.sha256(content).digest() + content)
    (tmp_path / "cache").chmod(0o777)
    run = _run(tmp_path / "cache", tmp_path / "home", source)
    assert run.stdout.split()[0] == "6" and not sentinel.exists()
    assert tmp_path / "cache" not in Path(run.stdout.split()[1]).parents
    assert run.stderr.count("RuntimeWarning") == 1
    assert f"since {tmp_path / 'cache'} is writable by everybody" in run.stderr
    # a file that others could write, in a folder that is private now
    (tmp_path / "cache").chmod(0o700)
    for path in place.glob("*.nbc"):
        path.chmod(0o666)
    assert _run(tmp_path / "cache", tmp_path / "home", source).stderr == ""
    assert not sentinel.exists()
    # the proof that the payload works where it is trusted
    for path in place.glob("*.nbc"):
        path.write_bytes(hashlib.sha256(content).digest() + content)
    with pytest.raises(subprocess.CalledProcessError):
        _run(tmp_path / "cache", tmp_path / "home", source)
    assert sentinel.exists()
