"""Models by name: where their weights may come from, and what must never be loaded or kept."""

import errno
import hashlib
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from published_cases import WEIGHTS, small_model

import gnn
from gnn.cli import main
from gnn.published import by_name, download
from gnn.published.by_name import KNOWN, KnownModel
from gnn.published.download import Weights, content_of
from gnn.training import checkpoint

CONTENT = bytes(range(256)) * 400
FILE = "tiny_weights"


class _Server(BaseHTTPRequestHandler):
    """Answers as the first part of the path says."""

    def do_GET(self):
        self.server.asked.append(self.path)
        getattr(self, self.path.split("/")[1])()

    def _send(self, content, length=None, code=200):
        self.send_response(code)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def good(self):
        self._send(CONTENT, len(CONTENT))

    def unsized(self):
        self._send(CONTENT)

    def half(self):
        self._send(CONTENT[: len(CONTENT) // 2], len(CONTENT))

    def half_unsized(self):
        self._send(CONTENT[: len(CONTENT) // 2])

    def page(self):
        self._send(b"<html>log in</html>", 19)

    def wrong(self):
        self._send(CONTENT[::-1], len(CONTENT))

    def endless(self):
        try:
            self._send(CONTENT + CONTENT)
            while True:
                self.wfile.write(CONTENT)
        except OSError:
            pass

    def missing(self):
        self.send_error(404)

    def broken(self):
        self.send_error(500)

    def loop(self):
        self.send_response(302)
        self.send_header("Location", self.path)
        self.end_headers()

    def away(self):
        """Send on to this very machine, under a name that is not known to be its own."""
        self.send_response(302)
        place = self.path.replace("/away/", "/good/")
        self.send_header("Location", f"http://0.0.0.0:{self.server.server_port}{place}")
        self.end_headers()

    def no_http(self):
        self.wfile.write(b"\x00\x01\x02\r\n\r\n")

    def silent(self):
        time.sleep(1.0)

    def drip(self):
        try:
            self._send(b"", len(CONTENT))
            for k in range(20):
                self.wfile.write(CONTENT[k : k + 1])
                time.sleep(0.1)
        except OSError:
            pass

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    server.daemon_threads = True
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The folder of the cache, empty."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(download.PLACE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "anisole" / "models"


@pytest.fixture
def tiny(server, monkeypatch, cache):
    """A known model whose weights a local server has."""
    digest = hashlib.sha256(CONTENT).hexdigest()
    address = f"http://127.0.0.1:{server.server_port}"
    server.asked.clear()
    weights = Weights("tiny", FILE, f"{address}/good/{FILE}", digest, len(CONTENT), "by nobody")
    model = KnownModel(
        "tiny", "a model", (1, 8), "none", "nothing", "MIT", "none", weights,
        lambda file: small_model() if file.read() == CONTENT else None,
    )  # fmt: skip
    monkeypatch.setitem(KNOWN, "tiny", model)
    return model


def _at(weights: Weights, how: str) -> Weights:
    return replace(weights, url=weights.url.replace("/good/", f"/{how}/"))


def _files(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("*"))


# --- what is fetched ------------------------------------------------------------------------------


def test_it_is_fetched_once_and_says_from_whom(tiny, server, cache, capsys):
    assert gnn.load_model("tiny").elements == small_model().elements
    told = capsys.readouterr().err
    for part in ("tiny", "0.1 MB", "127.0.0.1", "by nobody", str(cache / FILE)):
        assert part in told
    assert (cache / FILE).read_bytes() == CONTENT and _files(cache) == [FILE]
    assert content_of(tiny.weights) == CONTENT
    assert len(server.asked) == 1 and not capsys.readouterr().err


def test_without_a_length_it_is_fetched_too(tiny, cache):
    assert content_of(_at(tiny.weights, "unsized")) == CONTENT


@pytest.mark.parametrize(
    "how, reason",
    [
        ("half", "51200 of 102400"),
        ("half_unsized", "51200 of 102400"),
        ("page", "the server has '19' bytes, expected 102400"),
        ("wrong", "what came is not the file: SHA-256"),
        ("endless", "bytes or more instead of 102400"),
        ("missing", "answered 404 Not Found"),
        ("broken", "answered 500 Internal Server Error"),
        ("loop", "answered 302"),
        ("away", "an address that is not https"),
        ("no_http", "does not speak HTTP"),
        ("silent", "too slow"),
        ("drip", "too slow"),
    ],
)
def test_what_is_wrong_is_neither_loaded_nor_kept(tiny, cache, monkeypatch, how, reason):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    monkeypatch.setattr(download, "LONGEST", 0.6)
    with pytest.raises(OSError, match=reason) as caught:
        content_of(_at(tiny.weights, how))
    told = str(caught.value)
    assert told.startswith("tiny: cannot fetch http://127.0.0.1") and "ANISOLE_MODELS" in told
    assert "\n" not in told and _files(cache) == []


def test_offline(tiny, cache):
    weights = replace(tiny.weights, url="http://127.0.0.1:9/nobody")
    with pytest.raises(OSError, match=r"cannot fetch .*: Connection refused; .*ANISOLE_MODELS"):
        content_of(weights)
    assert _files(cache) == []


def test_a_damaged_copy_is_replaced_or_removed(tiny, cache, capsys):
    for damaged in (CONTENT[:-1], CONTENT[::-1], b"", CONTENT + b"more"):
        cache.mkdir(parents=True, exist_ok=True)
        (cache / FILE).write_bytes(damaged)
        assert "is damaged" in "\n".join(tiny.describe())
        assert content_of(tiny.weights) == CONTENT and (cache / FILE).read_bytes() == CONTENT
        assert "is damaged" in capsys.readouterr().err
        (cache / FILE).write_bytes(damaged)
        with pytest.raises(OSError, match="404"):
            content_of(_at(tiny.weights, "missing"))
        assert _files(cache) == []


def test_a_full_disk(tiny, cache, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"cannot keep 0\.1 MB in .*: No space left .*XDG_CACHE_HOME"):
        content_of(tiny.weights)
    assert _files(cache) == []


def test_a_cache_that_cannot_be_written(tiny, cache, server, monkeypatch):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"tiny: cannot keep .*XDG_CACHE_HOME"):
        content_of(tiny.weights)
    assert not server.asked  # nothing is fetched that could not be kept
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    with pytest.raises(OSError, match="is no absolute path"):
        content_of(tiny.weights)
    assert not Path("relative").exists()


def test_a_folder_or_a_link_in_its_place(tiny, cache, tmp_path):
    (cache / FILE).mkdir(parents=True)
    with pytest.raises(OSError, match="is no file: remove it"):
        content_of(tiny.weights)
    (cache / FILE).rmdir()
    other = tmp_path / "precious"
    other.write_bytes(b"not to be overwritten")
    (cache / FILE).symlink_to(other)
    assert content_of(tiny.weights) == CONTENT
    assert not (cache / FILE).is_symlink() and other.read_bytes() == b"not to be overwritten"


def test_many_at_once(tiny, cache):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: content_of(tiny.weights), range(8)))
    assert all(content == CONTENT for content in found) and _files(cache) == [FILE]


# --- mirrors and folders --------------------------------------------------------------------------


def test_a_mirror(tiny, server, cache, monkeypatch):
    monkeypatch.setenv(download.PLACE, f"http://127.0.0.1:{server.server_port}/good/mirror/")
    assert content_of(tiny.weights) == CONTENT
    assert server.asked == [f"/good/mirror/{FILE}"] and _files(cache) == [FILE]


@pytest.mark.parametrize(
    "place",
    ["file:///tmp", "ftp://host/x", "http://", "http://host/x", "https://", "https://me:pw@host/x"],
)
def test_what_is_no_mirror(tiny, cache, monkeypatch, place):
    monkeypatch.setenv(download.PLACE, place)
    with pytest.raises(OSError, match="expected a folder or an address") as caught:
        content_of(tiny.weights)
    assert "pw" not in str(caught.value)


def test_a_folder_is_all_that_is_looked_at(tiny, server, cache, monkeypatch, tmp_path):
    folder = tmp_path / "weights"
    monkeypatch.setenv(download.PLACE, str(folder))
    with pytest.raises(OSError, match="neither a folder nor"):
        content_of(tiny.weights)
    folder.mkdir()
    with pytest.raises(OSError, match=f"there is no {FILE} in .* copy http"):
        content_of(tiny.weights)
    (folder / FILE).write_bytes(CONTENT[::-1])
    with pytest.raises(OSError, match="is not the file published: SHA-256"):
        content_of(tiny.weights)
    assert (folder / FILE).exists()  # it is the user's
    (folder / FILE).write_bytes(CONTENT)
    assert content_of(tiny.weights) == CONTENT
    assert str(folder) in "\n".join(tiny.describe())
    assert not server.asked and not cache.exists()


# --- names ----------------------------------------------------------------------------------------


def test_a_name_is_no_path_unless_there_is_a_file(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("tinny", "../tiny", "tiny/", "models/tiny"):
        with pytest.raises(FileNotFoundError, match=r"known: shipped, amp-bms"):
            gnn.load_model(name)
    Path("tiny").write_text("mine")
    with pytest.raises(ValueError, match="tiny is not a checkpoint"):
        gnn.load_model("tiny")
    assert by_name.find(Path("amp-bms")) is None and by_name.find(None) is None


def test_the_shipped_model_has_a_name_and_is_what_it_says():
    model, known = gnn.load_model("shipped"), KNOWN["shipped"]
    assert tuple(model.elements) == known.elements and model.domain.level == known.level
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint.load_described("shipped")


def test_what_is_known_of_its_training_is_told(tiny):
    with pytest.warns(UserWarning, match="does not tell what it was trained on") as caught:
        checkpoint.load_described("tiny")
    assert "anisole domain" not in str(caught[0].message)


def test_commands(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["models"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name}: " in listed for name in KNOWN) and "not yet" in listed
    assert main(["models", "tiny"]) == 0
    assert f"here             {tmp_path}" in capsys.readouterr().out
    assert main(["models", "nobody"]) == 2
    assert "known are shipped, amp-bms, tiny" in capsys.readouterr().err
    for command in (["evaluate", "tiny"], ["domain", "tiny"]):
        assert main(command) == 2
    told = capsys.readouterr().err
    assert "does not record the data" in told and "does not tell what it was trained on" in told
    for name in ("tiny", "shipped"):
        assert main(["domain", name, "frames.h5"]) == 2
        assert "give a checkpoint of your own" in capsys.readouterr().err
    assert main(["domain", "shipped"]) == 0


def test_published_weights_by_their_name(shared_dir, monkeypatch, tmp_path, capsys):
    if not (shared_dir / "reference" / WEIGHTS).is_file():
        pytest.skip("the published weights are not here")
    monkeypatch.setenv(download.PLACE, str(shared_dir / "reference"))
    model = gnn.load_model("amp-bms")
    assert tuple(model.elements) == KNOWN["amp-bms"].elements and model.domain is None
    path = tmp_path / "amp_bms.pt"
    assert main(["import-weights", "amp-bms", "-o", str(path)]) == 0
    again = checkpoint.load_model(path)
    for (name, one), other in zip(
        model.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert one.equal(other), name
