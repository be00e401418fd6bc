"""Valid files with some bytes changed: what may come out is the data, or an error that is meant.

Run as a program: ``python tests/gnn/fuzz_files.py SECONDS [SEED]``; or few of them by
``test_untrusted.py``. Mutations happen in processes of their own, which may crash.
"""

import multiprocessing
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path

import hostile
import numpy as np

MEANT = (ValueError, TypeError, OSError)
PATIENCE = 20.0  # s for one file
SPARE = 3 << 30  # bytes


def seeds(folder):
    """Write valid files, and return them with their kinds."""
    from gnn.data import Frame, System, write_frames

    rng = np.random.default_rng(0)
    water = [[0, 0, 0], [0, 0.8, 0.6], [0, -0.8, 0.6]]
    frames = [
        Frame(
            System([8, 1, 1], water, 0, rng.random((2, 3)) + 5, [0.5, -0.5]), 1.5,
            rng.random((3, 3)), rng.random((2, 3)), rng.random(3), k, "water", group="a", head="b",
        )
        for k in range(3)
    ]  # fmt: skip
    cell = [
        Frame(
            System([8, 1, 1], water, cell=np.eye(3) * 9, periodic=(True,) * 3), 1.5, name="w",
            stress=np.eye(3),
        )
    ]  # fmt: skip
    write_frames(folder / "a.h5", frames)
    write_frames(folder / "b.h5", cell)
    write_frames(folder / "a.xyz", frames)
    write_frames(folder / "b.xyz", cell)
    np.savez(folder / "a.npz", record='{"a": 1}', state=np.arange(9, dtype=np.uint8))
    (folder / "a.yaml").write_text(
        "data: {source: a.xyz, keys: &k {energy: e}}\nmodel: {order: 2, cutoff: 4.0}\n"
        "training: {epochs: 3, learning_rate: 1.0e-3}\n"
    )
    hostile.checkpoint(lambda content, path: None)(folder / "a.pt")
    kinds = {".h5": "hdf5", ".xyz": "xyz", ".npz": "npz", ".yaml": "yaml", ".pt": "torch"}
    return [(kinds[path.suffix], path) for path in sorted(folder.iterdir())]


def mutated(content, rng, text):
    """Return content with some bytes changed, removed, repeated or exchanged."""
    content = bytearray(content)
    numbers = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1)
    words = (b"nan", b"1e999", b"-1", b"[", b"]", b'"', b"=", b"&k", b"*k", b"\n", b":", b"9" * 30)
    # what says something stands at both ends of a file
    far = len(content) if rng.random() < 0.5 else min(len(content), 4096)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.randrange(far) if rng.random() < 0.7 else len(content) - 1 - rng.randrange(far)
        place = max(0, min(place, len(content) - 1))
        kind = rng.randrange(6)
        if kind == 0:
            content[place] = rng.randrange(256)
        elif kind == 1:
            content[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(numbers) % (1 << 8 * size)
            content[place : place + size] = number.to_bytes(size, "little")
        elif kind == 3:
            del content[place : place + rng.choice((1, 2, 8, 64, len(content)))]
        elif kind == 4:
            part = content[place : place + rng.choice((1, 8, 64))]
            content[place:place] = part * rng.choice((1, 2, 100))
        else:
            content[place:place] = rng.choice(words) if text else bytes(rng.choice((1, 8)))
        if not content:
            break
    return bytes(content)


def work(kind, path, first, place, say):
    """Read mutations of a file from a number on, and say of each what came."""
    import resource
    import signal

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    warnings.simplefilter("ignore")
    content, number = path.read_bytes(), first
    while True:
        rng = random.Random(f"{path.name} {number}")
        place.write_bytes(mutated(content, rng, kind in ("yaml", "xyz")))
        say.send((number, None))
        signal.alarm(int(PATIENCE))
        try:
            hostile.read(kind, place)
            found = "read"
        except MEANT as error:
            found = type(error).__name__
            if found == "TypeError":
                found += f": {str(error)[-100:]}"
        except BaseException as error:
            found = f"!{type(error).__name__}: {str(error)[:300]}"
        signal.alarm(0)
        say.send((number, found))
        number += 1


def fuzz(seconds, first=0, most=10**9):
    """Return how often what came out of each file, and what was not meant: (file, number, what)."""
    counts, wrong = {}, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "seeds").mkdir()
        files = seeds(folder / "seeds")
        for kind, path in files:
            hostile.read(kind, path)  # valid; and what it imports
            end, number = time.monotonic() + seconds / len(files), first
            while time.monotonic() < end and number < first + most:
                number = _watched(
                    kind, path, number, min(first + most, 10**9), end, folder, counts, wrong
                )
    return counts, wrong


def _watched(kind, path, number, stop, end, folder, counts, wrong):
    hear, say = multiprocessing.Pipe(False)
    place = folder / f"mutated{path.suffix}"
    child = multiprocessing.get_context("fork").Process(
        target=work, args=(kind, path, number, place, say), daemon=True
    )
    child.start()
    say.close()
    found = None
    while time.monotonic() < end and number < stop:
        try:
            number, found = hear.recv()
        except EOFError:
            child.join()
            wrong.append((path.name, number, f"!process ended with {child.exitcode}"))
            return number + 1
        if found is None:
            continue
        counts[path.name, found] = counts.get((path.name, found), 0) + 1
        if found.startswith("!"):
            wrong.append((path.name, number, found))
        number += 1
    child.kill()
    child.join()
    return number


if __name__ == "__main__":
    counts, wrong = fuzz(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    for key, count in sorted(counts.items()):
        print(*key, count)
    for told in wrong[:60]:
        print(*told)
    sys.exit(bool(wrong))
