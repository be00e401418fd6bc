"""``anisole data info`` and ``convert``, and keys of one's own for extxyz files."""

import errno
import io
import os
import resource
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from gnn.cli import main
from gnn.data import Frame, System, load_shipped, read_frames, write_frames
from gnn.data.checking import info


@pytest.fixture(scope="module")
def frames():
    return load_shipped(["acoh"])[:40]


def test_summary_of_the_shipped_frames():
    summary = info.read_summary("shipped")
    assert not summary.flags  # they were checked
    values = summary.values
    charged = np.array([f.system.n_mm > 0 for f in summary.frames])
    for name, known in values.items():
        around = name in ("nearest_charge", "mm_force", "largest_mm_force")
        assert np.isfinite(known[charged] if around else known).all(), name
    assert values["net_force"].max() < 9e-3 and np.nanmin(values["nearest_charge"]) >= 1.0
    every = [f.name == "oac" for f in summary.frames]
    assert values["energy"][every].mean() == pytest.approx(0, abs=1e-9)
    acetate = [f.name == "oac" and f.group == "first" for f in summary.frames]
    assert -8 < values["embedding"][acetate].mean() < -5  # an anion in water
    assert values["n_mm"][acetate].min() == 393


def _changed(frame, **changes):
    known = {name: getattr(frame, name) for name in ("energy", "forces", "mm_forces", "dipole")}
    given = {
        "system": frame.system,
        "run": frame.run,
        "name": frame.name,
        "group": frame.group,
    } | known
    return Frame(**given | changes)


def test_wrong_frames_are_found(frames):
    wrong = list(frames)
    wrong[3] = _changed(frames[3], energy=frames[3].energy + 27.2)  # another program's unit
    wrong[5] = _changed(frames[5], forces=-frames[5].forces)
    wrong[7] = frames[2]
    old = frames[9].system
    near = old.mm_positions.copy()
    near[0] = old.positions[0] + [0.5, 0, 0]
    system = System(old.numbers, old.positions, old.charge, near, old.mm_charges)
    wrong[9] = _changed(frames[9], system=system)
    flags = info.summarise("x", wrong).flags
    found = {reason.split(" ")[0]: numbers for reason, numbers in flags.items()}
    assert found["energy"] == [3]
    assert found["net"] == [5]
    assert found["the"] == [7]
    assert found["a"] == [9]
    assert not info.summarise("x", frames).flags


def test_one_geometry_of_two_states_is_there_once():
    """As for ionisation energies and polarisabilities."""
    system = System([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    others = ({}, {"charge": 1}, {"uniform_field": [0, 0, 0.1]}, {"uniform_field": [0, 0, -0.1]})
    frames = [Frame(replace(system, **change), energy=-2079.0) for change in others]
    assert not info.summarise("x", frames).flags
    assert list(info.summarise("x", [*frames, frames[2]]).flags.values()) == [[4]]


def test_nothing_is_said_of_labels_that_are_not_there():
    alone = Frame(System([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]))
    assert info.tables(info.summarise("x", [alone]))[-1].startswith("No frame has a label")


def test_labels_are_counted_among_frames_that_could_have_them(frames, tmp_path, capsys):
    alone = [
        Frame(System(f.system.numbers, f.system.positions), f.energy, name=f.name)
        for f in frames[3:6]
    ]
    write_frames(tmp_path / "a.h5", [*frames[:3], *alone])
    assert main(["data", "info", str(tmp_path / "a.h5")]) == 0
    text = capsys.readouterr().out
    assert "forces (3 of 6)" in text and "mm_forces" in text and "mm_forces (" not in text


@pytest.mark.parametrize("width", [80, 110])
def test_no_name_or_number_of_a_summary_is_cut(frames, width):
    """Names may differ in their last letters only."""
    name = "acetic_acid_in_a_box_of_water/conformer_"
    long = [replace(f, name=f"{name}{i % 2}") for i, f in enumerate(frames)]
    console = Console(width=width, record=True, file=io.StringIO())
    for part in info.tables(info.summarise("x", long)):
        console.print(part)
    text = console.export_text()
    rows = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert "…" not in text
    assert all(f"box_of_water/conformer_{i}" in "".join(rows) for i in range(2))


def test_info_prints_and_draws(frames, tmp_path, capsys):
    path, picture = tmp_path / "some.extxyz", tmp_path / "some.png"
    bare = Frame(System([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), name="water")
    write_frames(path, [*frames[:3], bare, frames[0]])
    assert main(["data", "info", str(path), "--output", str(picture)]) == 0
    text = capsys.readouterr().out
    assert "5 frames" in text and "C2H4O2" in text and "H2O" in text
    sizes = [frame.system.n_mm for frame in frames[:3]]
    assert (
        f"{min(sizes)} to {max(sizes)}" in text
        and "energy, forces, mm_forces, dipole" in text
        and "none" in text
    )
    assert "look again: the same geometry as an earlier frame: frame 4" in text
    from PIL import Image

    pixels = np.asarray(Image.open(picture).convert("L"))
    assert pixels.shape[0] > 500 and (pixels < 250).mean() > 0.03


@pytest.mark.filterwarnings("ignore:.*none is read")
def test_keys_of_ones_own(frames, tmp_path, capsys):
    path = tmp_path / "own.extxyz"
    write_frames(path, frames[:2])
    text = path.read_text().replace("REF_energy", "dft_energy").replace("REF_forces", "dft_forces")
    path.write_text(text)
    keys = ["--keys", "energy=dft_energy", "forces=dft_forces"]
    out = tmp_path / "out.h5"
    assert main(["data", "convert", str(path), str(out), *keys]) == 0
    for old, new in zip(frames, read_frames(out), strict=False):
        assert new.energy == pytest.approx(old.energy) and new.forces is not None
    assert main(["data", "info", str(path), *keys]) == 0
    assert "energy, forces" in capsys.readouterr().out
    from gnn.training.config import parse_config
    from gnn.training.frames.sources import read

    named = {"source": str(path), "keys": {"energy": "dft_energy"}}
    assert read(parse_config({"data": named}).data, [str(path)])[0].energy is not None
    with pytest.raises(ValueError, match="for extxyz files only"):
        parse_config({"data": {"keys": {"energy": "dft_energy"}}})
    assert main(["data", "info", str(path), "--keys", "energy=other"]) == 2
    assert "no 'other' for energy" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["data", "info", str(path), "--keys", "energy=a", "--keys", "energy=b"])
    assert "energy is named twice, as a and b" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["data", "info", str(path), "--keys", "energy"])
    assert "expected NAME=KEY" in capsys.readouterr().err


def test_convert_refuses_its_own_input(frames, tmp_path, capsys):
    path = tmp_path / "a.h5"
    write_frames(path, frames[:1])
    assert main(["data", "convert", str(path), str(path)]) == 2
    assert "is the input" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".h5", ".extxyz"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_file_that_cannot_be_put_in_place(frames, tmp_path, monkeypatch, capsys, suffix, code):
    source, target = tmp_path / "a.h5", tmp_path / f"b{suffix}"
    write_frames(source, frames[:2])
    target.write_text("what was there")

    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", fail)
    assert main(["data", "convert", str(source), str(target)]) == 2
    message = capsys.readouterr().err
    assert str(target) in message and os.strerror(code) in message and "Traceback" not in message
    assert target.read_text() == "what was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", target.name]


def test_a_disk_that_fills_up(frames, tmp_path):
    source = tmp_path / "a.h5"
    targets = [tmp_path / "out" / f"b{suffix}" for suffix in (".h5", ".extxyz")]
    write_frames(source, frames)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    code = "import sys; from gnn.cli import main\n"
    code += "for target in sys.argv[2:]: print(main(['data', 'convert', sys.argv[1], target]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(source), *map(str, targets)],
        capture_output=True, text=True, preexec_fn=limit,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "2" and done.stdout.count("2\n") == 2, done.stderr
    for target in targets:
        assert f"File too large: '{target}'" in done.stderr
    assert "Traceback" not in done.stderr and not list(targets[0].parent.iterdir())


def test_every_frame_has_a_colour_whatever_its_name():
    water = System([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    hydrogen = System([1, 1], [[0, 0, 0], [0.74, 0, 0]])
    unnamed = [Frame(water), Frame(hydrogen), Frame(water)]
    assert info._coloured(unnamed) == {"–": [0, 1, 2]}
    many = [Frame(water, name=str(i), group=str(i % 2)) for i in range(12)]
    assert list(info._coloured(many)) == ["0", "1"]
    alone = [Frame(water, name=str(i), group=str(i)) for i in range(12)]
    assert info._coloured(alone) == {"–": [*range(12)]}
