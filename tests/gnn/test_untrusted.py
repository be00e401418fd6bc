"""Files of an enemy: an error that says what is wrong, in little time and memory, and no code."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import hostile
import pytest

SPARE = 1 << 30  # bytes
SECONDS = 5.0
CASES = [(kind, name) for kind, (_, cases) in hostile.KINDS.items() for name in cases]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return what came of each file, read in a process with little memory."""
    if sys.platform != "linux":
        pytest.skip("memory is limited by setrlimit and read from /proc")
    folder = tmp_path_factory.mktemp("hostile")
    for kind, (suffix, cases) in hostile.KINDS.items():
        (folder / kind).mkdir()
        for name, (make, _) in cases.items():
            path = folder / kind / f"{name}{suffix}"
            make(path)
            assert path.stat().st_size < 6e6, "small on disk"
    run = subprocess.run(
        [sys.executable, hostile.__file__, folder, str(SPARE)],
        cwd=Path(hostile.__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(hostile.__file__).parents[2])},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert not [*folder.rglob("*.ran")], "code was run"
    lines = map(json.loads, run.stdout.splitlines())
    return {tuple(told[:2]): told[2:] for told in lines}


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_what_is_wrong_is_said(found, kind, name):
    said = hostile.KINDS[kind][1][name][1]
    error, told, seconds = found[kind, name]
    assert error == ("ValueError" if said else "") and re.search(said, told), told
    assert seconds < SECONDS
    assert not said or f"{name}{hostile.KINDS[kind][0]}" in told, "the file is named"


@pytest.mark.slow
def test_random_damage_is_data_or_an_error_that_is_meant():
    import fuzz_files

    counts, wrong = fuzz_files.fuzz(60.0)
    assert sum(counts.values()) > 200 and not wrong
