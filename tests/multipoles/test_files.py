"""Files are written whole or not at all, whatever happens in the middle."""

import os
import signal
import subprocess
import sys

import pytest

from multipoles.files import atomic_write


def test_the_file_and_its_folder_are_made(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as temporary:
        assert temporary.suffix == ".txt" and temporary.parent == path.parent
        temporary.write_text("all")
        assert not path.exists()
    assert path.read_text() == "all" and os.listdir(path.parent) == ["a.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("failure", [ValueError("wrong"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_the_old_file(tmp_path, failure):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(failure)), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise failure
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_process_that_is_killed_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = f"""
import os
from multipoles.files import atomic_write
with atomic_write({str(path)!r}) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), {signal.SIGKILL:d})
"""
    run = subprocess.run([sys.executable, "-c", code], check=False)
    assert run.returncode == -signal.SIGKILL and path.read_text() == "old"


def test_an_error_names_the_file_as_the_caller_did(tmp_path):
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / "file" / "a.txt"
    with pytest.raises(OSError) as caught, atomic_write(path) as temporary:
        temporary.write_text("never")
    assert caught.value.filename == str(path)
