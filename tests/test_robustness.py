"""Kernels and imports where disks are full, folders read-only, files damaged, processes many."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("multipoles", "fmm", "gnn")

# prints whether kernels were compiled or loaded, and the potential at three corners of a triangle
FIELD = """
import numpy as np, multipoles as mp
from multipoles.direct_cpu import charges_of_slots
corners = np.eye(3)
found = mp.field(corners, corners, mp.pack(charges=np.ones(3)), order=0).ravel()
np.testing.assert_allclose(found, 2**0.5, rtol=1e-12)
stats = charges_of_slots.stats
print(f"compiled {sum(stats.cache_misses.values())} loaded {sum(stats.cache_hits.values())}")
"""
COMPILED, LOADED = "compiled 1 loaded 0", "compiled 0 loaded 1"


def start(code, cache, cwd=ROOT, **settings):
    env = {k: v for k, v in os.environ.items() if k not in ("NUMBA_ENABLE_CUDASIM", "PYTHONPATH")}
    env |= {"NUMBA_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=cwd, env=env | settings.pop("env", {}), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings,
    )  # fmt: skip


def end(process):
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return out.strip(), errors


def run(code, cache, **settings):
    return end(start(code, cache, **settings))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Return a cache that holds the kernels of FIELD; tests work on copies."""
    cache = tmp_path_factory.mktemp("compiled")
    assert run(FIELD, cache) == (COMPILED, "")
    return cache


def kernel_files(cache):
    return sorted(Path(cache).rglob("*.nbc"))


def obey_permissions():
    """Let the superuser stop at read-only folders as others do; for use before exec."""
    import ctypes

    drop_from_bounding_set, dac_override = 24, 1
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(drop_from_bounding_set, dac_override, 0, 0, 0):
        raise OSError("cannot give up CAP_DAC_OVERRIDE")


@pytest.fixture
def read_only_install(tmp_path):
    """Return a copy of the packages in which nothing can be written; it is the home, too."""
    if not sys.platform.startswith("linux"):
        pytest.skip("rights are given up in the way of Linux")
    folder = tmp_path / "install"
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    yield folder
    for path in folders:
        path.chmod(0o755)


def run_without_rights(code, folder):
    check = f"import os\nassert not os.access({str(folder)!r}, os.W_OK)\n"
    env = {"HOME": str(folder), "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": "", "MPLCONFIGDIR": ""}
    return run(check + code, "", cwd=folder, preexec_fn=obey_permissions, env=env)


def test_a_read_only_install_without_a_home_imports_and_runs(read_only_install):
    code = "import multipoles, fmm, gnn\nfrom gnn.cli import main\nmain(['--help'])"
    out, errors = run_without_rights(code, read_only_install)
    assert "predict" in out and errors == "", "imports and the command are silent"
    code = FIELD + "import fmm; print(fmm.__file__)"
    out, errors = run_without_rights(code, read_only_install)
    assert out.splitlines() == [COMPILED, str(read_only_install / "fmm/__init__.py")]
    assert errors.count("RuntimeWarning") == 1 and "NUMBA_CACHE_DIR" in errors


def test_a_user_without_a_name_or_home_has_no_file_of_costs(tmp_path):
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root, to become a user that the machine does not know")
    code = "import os, fmm.cost as c; os.environ.pop('HOME', 0); os.setuid(61234); f = c._file(); "
    code += "c._keep(f, c.GPU['cuda float32']); print(f.is_absolute(), f.exists())"
    assert run(code, tmp_path, cwd=ROOT, env={"XDG_CACHE_HOME": ""}) == ("False False", "")


def test_a_full_disk_costs_a_warning(tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    out, errors = run(limit + FIELD, tmp_path)
    assert out == COMPILED
    assert errors.count("RuntimeWarning") == 1 and "free space" in errors
    assert not [p for p in tmp_path.rglob("*") if p.is_file()], "no leftovers"


@pytest.mark.parametrize(
    "damage",
    [*(pytest.param(d, marks=pytest.mark.slow) for d in ("empty", "garbage", "cut")), "one bit"],
)
def test_damaged_files_are_compiled_again(compiled, tmp_path, damage):
    cache = shutil.copytree(compiled, tmp_path / "cache")
    for path in kernel_files(cache):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        cases = {"empty": b"", "cut": content[: len(content) // 2], "garbage": b"\x80x" * 9999}
        path.write_bytes(cases.get(damage, content))
    assert run(FIELD, cache) == (COMPILED, "")
    assert run(FIELD, cache) == (LOADED, "")


def test_processes_that_start_at_once_share_a_cache(tmp_path):
    at_once = [start(FIELD, tmp_path) for _ in range(3)]
    assert [end(process)[1] for process in at_once] == [""] * 3
    assert run(FIELD, tmp_path) == (LOADED, "")
    assert len(list(tmp_path.rglob("*.nbc*"))) == len(kernel_files(tmp_path))


def test_another_processor_compiles_its_own(compiled, tmp_path):
    cache = shutil.copytree(compiled, tmp_path / "cache")
    before = kernel_files(cache)
    other = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}
    if "x86" not in os.uname().machine:
        other["NUMBA_CPU_NAME"] = "generic"
    assert run(FIELD, cache, env=other) == (COMPILED, "")
    assert set(before) < set(kernel_files(cache))
    assert run(FIELD, cache) == (LOADED, "")


def test_a_changed_helper_makes_kernels_expire(tmp_path):
    shutil.copytree(
        ROOT / "multipoles", tmp_path / "multipoles", ignore=shutil.ignore_patterns("__pycache__")
    )
    cache, source = tmp_path / "cache", tmp_path / "multipoles/pairwise.py"
    no_bytecode = {"PYTHONDONTWRITEBYTECODE": "1"}  # Python's own cache would be taken in
    assert run(FIELD, cache, cwd=tmp_path, env=no_bytecode) == (COMPILED, "")
    names, stat, text = kernel_files(cache), source.stat(), source.read_text()
    changed = text.replace("return x * x + y * y + z * z", "return x * x + y * y + y * y")
    assert changed != text
    source.write_text(changed)  # as long as before, and as old
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    process = start(FIELD, cache, cwd=tmp_path, env=no_bytecode)
    assert "Not equal to tolerance" in process.communicate()[1]
    assert not set(names) & set(kernel_files(cache)), "files of the old sources are removed"


def test_a_process_killed_while_writing_leaves_a_usable_cache(tmp_path):
    die = "import os\nos.replace = lambda *_: os.kill(os.getpid(), 9)\n"
    process = start(die + FIELD, tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert list(tmp_path.rglob("*.nbc.*")) and not kernel_files(tmp_path)
    assert run(FIELD, tmp_path) == (COMPILED, "")
    assert run(FIELD, tmp_path) == (LOADED, "")


THREADS = """
from threading import Barrier, Thread
import numpy as np, multipoles as mp
from multipoles.direct_cpu import charges_of_slots
corners, found, gate = np.eye(3), [], Barrier(4)
def work():
    gate.wait()
    found.append(mp.field(corners, corners, mp.pack(charges=np.ones(3)), order=0))
threads = [Thread(target=work) for _ in range(4)]
[t.start() for t in threads], [t.join() for t in threads]
assert len(found) == 4 and all(np.allclose(f, 2**0.5) for f in found)
print(sum(charges_of_slots.stats.cache_misses.values()))
"""


def test_threads_compile_a_kernel_once(tmp_path):
    assert run(THREADS, tmp_path) == ("1", "")


FORK = """
import os, threading, time, numpy as np, multipoles as mp
from numba.core.compiler_lock import global_compiler_lock
def compile_slowly():
    with global_compiler_lock:
        time.sleep(0.5)
thread = threading.Thread(target=compile_slowly); thread.start(); time.sleep(0.1)
child = os.fork()
if child == 0:
    corners = np.eye(3)
    found = mp.field(corners, corners, mp.pack(charges=np.ones(3)), order=0)
    os._exit(0 if np.allclose(found, 2**0.5) else 1)
for _ in range(100):
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid: print(status); break
    time.sleep(0.1)
else:
    os.kill(child, 9); print("hangs")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_a_thread_compiles_runs(tmp_path):
    assert run(FORK, tmp_path)[0] == "0"
