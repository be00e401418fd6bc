"""Files written whole or not at all, and the folder of those that can be made again."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder of files that can be made or fetched again.

    ``anisole`` in ``$XDG_CACHE_HOME``, by default in ``~/.cache``. No absolute path where a user
    has no home.
    """
    # of a user without a home it stays "~", where `Path.expanduser` would raise
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "anisole"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary file of the same folder to be written, then move it into place.

    Where writing fails, or the process is killed, what was there before is as it was.

    Parameters
    ----------
    path
        Final place of the file; its folder is made when missing.

    Yields
    ------
    Path
        The temporary file, which has the same suffix.

    Raises
    ------
    OSError
        If the file cannot be written (full disk, read-only folder, …); nothing of it is left.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            # mkstemp makes files that only their owner can read; a data file follows the umask.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.errno is None:
            raise
        # named as the caller named it, not as the temporary file
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
