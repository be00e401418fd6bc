"""Weights that others publish: fetched once, kept in the user's cache, checked at every use."""

import hashlib
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from multipoles.files import atomic_write, cache_folder

#: Environment variable that names a mirror (https) or a folder with the files.
PLACE = "ANISOLE_MODELS"
TIMEOUT = 30.0  # s without a byte
LONGEST = 900.0  # s in all
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Weights:
    """A file of weights as its authors publish it.

    Parameters
    ----------
    model
        Name of the model, for messages.
    file
        Name of the file in the cache, in a mirror and in a folder.
    url
        Where its authors have it.
    sha256, size
        Digest and number of bytes: what else comes is refused.
    origin
        From whom it is and under which licence.
    """

    model: str
    file: str
    url: str
    sha256: str
    size: int
    origin: str

    @property
    def megabytes(self) -> str:
        """The size in words."""
        return f"{self.size / 1e6:.1f} MB"

    def wrong(self, content: bytes) -> str:
        """Say what is wrong with the content of a file; nothing where it is the one published."""
        if len(content) != self.size:
            more = "or more " if len(content) > self.size else ""
            return f"{len(content)} bytes {more}instead of {self.size}"
        digest = hashlib.sha256(content).hexdigest()
        return "" if digest == self.sha256 else f"SHA-256 {digest}, expected {self.sha256}"


def content_of(weights: Weights) -> bytes:
    """Return the content of a file of weights, fetched where it is not here yet.

    A folder named by ``ANISOLE_MODELS`` is all that is looked at; otherwise the cache
    (``$XDG_CACHE_HOME/anisole/models``, by default in ``~/.cache``), and then the mirror named
    there or the authors' address. What is returned has been checked by its digest, whatever
    others do to the file meanwhile.

    Raises
    ------
    OSError
        If it is nowhere, not the right one, or cannot be kept; the message says what to do.
    """
    place = os.environ.get(PLACE, "")
    if place and "://" not in place:
        return _in_folder(weights, place)
    path = cached_path(weights)
    content = _cached(weights, path)
    return _fetched(weights, path) if content is None else content


def cached_path(weights: Weights) -> Path:
    """Return where a file is kept."""
    folder = cache_folder()
    if not folder.is_absolute():
        raise OSError(
            f"{weights.model}: there is no folder to keep its weights in ({folder} is no absolute "
            f"path): set XDG_CACHE_HOME, or {PLACE} to a folder that holds {weights.file}"
        )
    return folder / "models" / weights.file


def where(weights: Weights) -> str:
    """Say where a file is, without fetching it."""
    place = os.environ.get(PLACE, "")
    try:
        if place and "://" not in place:
            _in_folder(weights, place)
            return f"{Path(place) / weights.file} ({PLACE})"
        path = cached_path(weights)
        content = _read(weights, path)
        if content is None:
            return f"not yet: the first use fetches it into {path}"
        wrong = weights.wrong(content)
    except OSError as error:
        return str(error)
    return f"{path} is damaged ({wrong}) and will be replaced" if wrong else f"{path}"


def _in_folder(weights: Weights, place: str) -> bytes:
    folder = Path(os.path.expanduser(place))
    path = folder / weights.file
    if not folder.is_dir():
        raise OSError(f"{PLACE} is {place!r}, which is neither a folder nor an https address")
    content = _read(weights, path)
    if content is None:
        raise OSError(
            f"{weights.model}: there is no {weights.file} in {folder} ({PLACE}): copy "
            f"{weights.url} there under that name"
        )
    if wrong := weights.wrong(content):
        raise OSError(f"{weights.model}: {path} ({PLACE}) is not the file published: {wrong}")
    return content


def _cached(weights: Weights, path: Path) -> bytes | None:
    """Return what is kept; remove what is not the file published."""
    content = _read(weights, path)
    wrong = "" if content is None else weights.wrong(content)
    if not wrong:
        return content
    _say(f"{weights.model}: {path} is damaged ({wrong}) and is removed")
    with suppress(OSError):  # what cannot be removed cannot be replaced either, which is said then
        path.unlink()
    return None


def _read(weights: Weights, path: Path) -> bytes | None:
    """Return what is in a file, up to a byte more than there should be; None if there is none."""
    try:
        if path.exists() and not path.is_file():  # a folder, or a pipe that would never end
            raise OSError(f"{weights.model}: {path} is no file: remove it")
        with path.open("rb") as file:
            return file.read(weights.size + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(f"{weights.model}: cannot read {path}: {error.strerror}") from error


def _fetched(weights: Weights, path: Path) -> bytes:
    """Fetch a file, and keep it once it has been checked."""
    url = _address(weights)
    _say(
        f"{weights.model}: fetching {weights.megabytes} from {urlsplit(url).netloc}, once, into "
        f"{path}: {weights.origin}"
    )
    try:
        with atomic_write(path) as temporary:
            content = _download(weights, url)
            temporary.write_bytes(content)
    except OSError as error:
        if error.errno is None:  # said in `_download`
            raise
        raise OSError(
            f"{weights.model}: cannot keep {weights.megabytes} in {path}: {error.strerror}; mend "
            f"that, or set XDG_CACHE_HOME to another folder"
        ) from error
    return content


def _address(weights: Weights) -> str:
    """Return the address of a file: its authors', or that in the mirror."""
    place = os.environ.get(PLACE, "")
    if not place:
        return weights.url
    try:
        parts = urlsplit(place)
        known = _is_safe(place) and "@" not in parts.netloc
    except ValueError:
        known = None
    if not known:
        shown = place.rpartition("@")[2]  # no password
        raise OSError(
            f"{PLACE}: expected a folder or an address such as https://host/path (http on this "
            f"machine only), without user and password, got {shown!r}"
        )
    return f"{place.rstrip('/')}/{weights.file}"


def _is_safe(url: str) -> bool:
    """Tell whether an address is one of https, or on this machine."""
    parts = urlsplit(url)
    here = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
    return here or (parts.scheme == "https" and bool(parts.hostname))


def _download(weights: Weights, url: str) -> bytes:
    """Return the content at an address, if it is that of the file published."""
    try:
        content = _received(weights, url)
        reason = weights.wrong(content) and f"what came is not the file: {weights.wrong(content)}"
    except HTTPError as error:
        phrases = {status.value: f" {status.phrase}" for status in HTTPStatus}
        reason = f"the server answered {error.code}{phrases.get(error.code, '')}"
        error.close()
    except (OSError, HTTPException, ValueError) as error:
        reason = _reason(error)
    if reason:
        raise OSError(
            f"{weights.model}: cannot fetch {url}: {reason}; if that stays so, set {PLACE} to a "
            f"mirror, or to a folder that holds the file under the name {weights.file}"
        )
    return content


def _received(weights: Weights, url: str) -> bytes:
    """Return what a server sends, up to a byte more than there should be."""
    started, content = time.monotonic(), bytearray()
    request = Request(url, headers={"User-Agent": "anisole"})
    with urlopen(request, timeout=TIMEOUT) as response, _bar(weights.size) as bar:
        if not _is_safe(response.url):
            raise ValueError("the server sent us on to an address that is not https")
        length = response.headers.get("Content-Length")
        if length is not None and length.strip() != str(weights.size):
            raise ValueError(f"the server has {length[:20]!a} bytes, expected {weights.size}")
        while len(content) <= weights.size and (part := response.read1(_CHUNK)):
            content += part
            bar.update(len(content), "")
            if time.monotonic() - started > LONGEST:
                raise TimeoutError
    if len(content) < weights.size:
        raise ValueError(f"the connection ended after {len(content)} of {weights.size} bytes")
    return bytes(content)


def _reason(error: BaseException) -> str:
    if isinstance(error, URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    if isinstance(error, TimeoutError):
        return f"the server is too slow (nothing for {TIMEOUT:g} s, or {LONGEST:g} s in all)"
    if isinstance(error, HTTPException):  # whose text a server wrote
        return f"what answers does not speak HTTP as it should ({type(error).__name__})"
    strerror = getattr(error, "strerror", None)
    return strerror or " ".join(str(error).split())[:200] or type(error).__name__


def _bar(size: int) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn

    from gnn.progress import Bar

    return Bar(Console(stderr=True), BarColumn(), DownloadColumn(), total=size, transient=True)


def _say(text: str) -> None:
    print(f"anisole: {text}", file=sys.stderr, flush=True)
