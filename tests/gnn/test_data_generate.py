"""The bookkeeping with stand-ins for dynamics and quantum chemistry; once for real."""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cheap_generation
import h5py
import numpy as np
import pytest

from gnn.cli import main
from gnn.data import System, read_frames, split_by_run, write_frames
from gnn.data.common import locked
from gnn.data.making import generate, sampling, topology
from gnn.data.making.kinds import Kind
from gnn.data.making.workers import Event


class InProcess:
    """Workers that work here, where things can be replaced; fails at a chosen label."""

    labelled, fail_at, error = 0, 0, KeyboardInterrupt

    def __init__(self, work, count, threads):
        self.work = work

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def events(self, tasks):
        while tasks:
            task = tasks.popleft()
            try:
                if task.index is not None:
                    type(self).labelled += 1
                    if self.labelled == self.fail_at:
                        raise self.error("told to fail")
                for item in self.work(task):
                    yield Event(task, "item", item)
                yield Event(task, "done")
            except Exception as error:
                yield Event(task, "failed", error)


@pytest.fixture
def fake(monkeypatch):
    class Fake(InProcess):
        pass

    cheap_generation.replace_the_costly(monkeypatch.setattr)
    monkeypatch.setattr(generate, "Workers", Fake)
    return Fake


def make(out, frames=6, runs=3, name="co", **changes):
    lines, progress = [], []
    recipe = generate.Recipe(smiles="[C-]#[O+]", name=name, charge=0, **changes)
    count = generate.generate(
        recipe, frames, out, runs=runs, say=lines.append, progress=lambda *a: progress.append(a)
    )
    return count, lines, progress


def test_frames_and_progress(fake, tmp_path):
    out = tmp_path / "d.h5"
    count, _, progress = make(out, frames=7)
    assert count == 7
    frames, vacuum = read_frames(out), read_frames(out, vacuum=True)
    assert [frame.run for frame in frames] == [100, 100, 100, 200, 200, 300, 300]
    assert vacuum[2].energy == pytest.approx(frames[2].energy + 1)
    assert {len(part) > 0 for part in split_by_run(frames)} == {True}
    assert [(done, total) for done, total, _ in progress] == [(i + 1, 7) for i in range(7)]
    assert progress[0][2].startswith("run 100 frame 1/3: ")


def test_interrupted_and_continued(fake, tmp_path):
    out = tmp_path / "d.h5"
    fake.fail_at = 4
    with pytest.raises(KeyboardInterrupt):
        make(out)
    assert len(read_frames(out)) == 3  # what was finished is in the file
    count, _, progress = make(out)
    assert (count, fake.labelled) == (6, 4 + 3)
    assert [(done, total) for done, total, _ in progress] == [(1, 3), (2, 3), (3, 3)]
    assert (make(out, frames=9)[0], fake.labelled) == (9, 4 + 3 + 3)


def test_a_frame_that_fails_is_left_out_and_tried_again(fake, tmp_path):
    out = tmp_path / "d.h5"
    fake.fail_at, fake.error = 2, RuntimeError
    count, lines, progress = make(out)
    assert count == 5 and any("told to fail" in line for line in lines)
    assert progress[-1][:2] == (5, 5)
    assert (make(out)[0], fake.labelled) == (6, 7)


def test_a_full_disk_ends_the_work_and_is_named(fake, tmp_path):
    fake.fail_at, fake.error = 2, OSError
    with pytest.raises(OSError, match="told to fail"):
        make(tmp_path / "d.h5")
    assert fake.labelled == 2


def test_dynamics_that_fail_end_the_work(fake, tmp_path, monkeypatch):
    def too_small(*_):
        raise RuntimeError("the box is too small")
        yield

    monkeypatch.setattr(generate, "run_dynamics", too_small)
    with pytest.raises(RuntimeError, match="too small"):
        make(tmp_path / "d.h5")
    assert not (tmp_path / "d.h5").exists()


def test_other_molecules_are_kept(fake, tmp_path):
    out = tmp_path / "d.h5"
    make(out)
    make(out, name="other")
    make(out, frames=9)
    assert len(read_frames(out, names=["other"])) == 6
    assert len(read_frames(out, names=["co"], vacuum=True)) == 9


def test_frames_are_kept_without_their_work_folder(fake, tmp_path):
    out = tmp_path / "d.h5"
    make(out)
    shutil.rmtree(tmp_path / "d.h5.work")
    assert make(out)[0] == 6  # the same frames again, none twice


def test_changed_settings_are_refused(fake, tmp_path):
    out = tmp_path / "d.h5"
    make(out)
    with pytest.raises(ValueError, match=r"other settings: padding 12.0, now 20.0"):
        make(out, padding=20.0)
    with pytest.raises(ValueError, match=r"other settings: mbis False, now True"):
        make(out, mbis=True)
    with pytest.raises(ValueError, match=r"other settings: kinds .*, now \[\['pair', 1.0\]\]"):
        make(out, kinds={"pair": 1.0})
    with pytest.raises(ValueError, match=r"holds frames at level B3LYP.* not HF/STO-3G"):
        make(out, name="other", level="HF/STO-3G")
    with pytest.raises(ValueError, match="at density fitting none, not def2-universal-jkfit"):
        make(out, name="other", density_fit=True)


def test_kinds_have_runs_names_and_groups_of_their_own(fake, tmp_path):
    out = tmp_path / "d.h5"
    kinds = {"water": 2, "stretched@450": 1, "zone1": 1, "pair": 2}
    assert make(out, frames=12, kinds=kinds)[0] == 12
    frames, vacuum = read_frames(out), read_frames(out, vacuum=True)
    found = {(frame.name, frame.group, frame.run % 100) for frame in frames}
    assert found == {
        ("co", "water", 0), ("co", "stretched@450", 1), ("co+h2o", "zone1", 2),
        ("co+h2o", "pair", 3),
    }  # fmt: skip
    assert {frame.run // 100 for frame in frames} == {1, 2, 3}
    for frame, alone in zip(frames, vacuum, strict=True):
        assert (frame.energy == alone.energy) == (frame.system.n_mm == 0)
    with h5py.File(out) as file:  # frames with charges and without them in one group
        assert set(file) == {"co", "co+h2o"} and file.attrs["density_fit"] == "none"
    before = {(frame.name, frame.run, frame.energy) for frame in frames}
    assert make(out, frames=24, kinds=kinds)[0] == 24
    assert before < {(frame.name, frame.run, frame.energy) for frame in read_frames(out)}


def test_forces_on_charges_are_rounded_in_the_file(fake, tmp_path):
    make(tmp_path / "d.h5")
    forces = np.concatenate([frame.mm_forces for frame in read_frames(tmp_path / "d.h5")])
    assert (forces * 2**13 % 1 == 0).all() and forces.any()
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="mm_force_step: expected a step >= 0"):
            write_frames(tmp_path / "e.h5", read_frames(tmp_path / "d.h5"), mm_force_step=wrong)


def test_wrong_arguments(fake, tmp_path):
    with pytest.raises(ValueError, match=r"ending in \.h5"):
        make(tmp_path / "d.npz")
    with pytest.raises(ValueError, match="1 <= runs <= frames"):
        make(tmp_path / "d.h5", frames=2)
    with pytest.raises(ValueError, match="name: expected letters"):
        make(tmp_path / "d.h5", name="../x")
    for wrong, words in (
        ({"padding": math.nan}, "padding: should be a finite number, got nan"),
        ({"grid_level": 10}, "grid_level: should be <= 9, got 10"),
        ({"kinds": {"ice": 1}}, "expected one of water, stretched, .*, got 'ice'"),
        ({"kinds": {"water@0": 1}}, "a temperature in K if it has its own"),
        ({"kinds": {"water": 0}}, "expected kinds of frames with shares > 0"),
        ({"kinds": {}}, "expected kinds of frames"),
        ({"dynamic": {}}, "unknown key 'dynamic'; did you mean 'dynamics'"),
    ):
        with pytest.raises(ValueError, match=words):
            make(tmp_path / "d.h5", **wrong)
    with pytest.raises(ValueError, match="threads: should be >= 1, got 0"):
        sampling.Dynamics(threads=0)
    with pytest.raises(ValueError, match="at least one process"):
        recipe = generate.Recipe(smiles="C", name="c", charge=0)
        generate.generate(recipe, 3, tmp_path / "d.h5", runs=3, processes=0)


def test_two_processes_in_one_folder_are_refused(fake, tmp_path):
    folder = tmp_path / "d.h5.work" / "co"
    # a lock is that of the opened file, so this process can be the second one, too
    first, second = (locked(folder / "lock", "taken") for _ in range(2))
    with first, pytest.raises(OSError, match="taken"), second:
        pass
    assert make(tmp_path / "d.h5")[0] == 6  # free again


def _start(out):
    return subprocess.Popen(
        [sys.executable, cheap_generation.__file__, str(out)],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_file(fake, tmp_path):
    whole, broken = tmp_path / "whole" / "d.h5", tmp_path / "broken" / "d.h5"
    labels = tmp_path / "broken" / "d.h5.work" / "co" / "labels"
    first = _start(broken)
    while len(list(labels.glob("run_*"))) < 3:
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert not broken.exists()
    leftover = labels / ".run_100_frame_00000-abcdefgh.npz"  # killed while it wrote
    leftover.write_bytes(b"half")
    (broken.parent / ".d-abcdefgh.h5").write_bytes(b"half")
    kept = {path: path.stat().st_mtime_ns for path in labels.glob("run_*")}
    assert 3 <= len(kept) < 16
    assert _start(broken).wait() == 0
    make(whole, frames=16, runs=4)
    assert len(read_frames(broken)) == 16
    assert broken.read_bytes() == whole.read_bytes()
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())  # none made anew
    assert not list(tmp_path.rglob(".*"))


def test_what_is_not_installed_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(topology, "program", _no_program)
    code = main(["data", "generate", "CO", "--out", str(tmp_path / "d.h5")])
    message = capsys.readouterr().err
    assert code == 2
    assert "antechamber (AmberTools)" in message and 'pip install ".[data]"' in message


def _no_program(name):
    raise RuntimeError(f"no {name}")


@pytest.mark.parametrize("command", ["generate", "md"])
def test_without_the_extra_one_line_names_all_that_is_missing(
    command, monkeypatch, capsys, tmp_path
):
    if command == "md":
        pytest.importorskip("openmm", reason="needs the package openmm (extra 'engines')")
    monkeypatch.setattr(topology, "program", _no_program)
    monkeypatch.setattr(topology, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    words = {
        "generate": ["data", "generate", "CO"],
        "md": ["md", "--smiles", "CO", "--steps", "1", "--classical"],
    }
    assert main(words[command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "rdkit, antechamber (AmberTools), parmchk2 (AmberTools), tleap (AmberTools)" in line
    assert 'pip install ".[data]", in a checkout' in line


@pytest.mark.parametrize(
    ("smiles", "words"),
    [
        ("", "expected a SMILES string such as CO or C[NH3+], got '': nothing"),
        (" \t", "nothing"),
        ("CO name", "holds blanks"),
        ("*CO", "holds a placeholder (*)"),
        ("C.C", "holds 2 molecules"),
        ("[Na+].[Cl-]", "holds 2 molecules"),
        ("[Na+]", "holds Na: GAFF2 knows H, C, N, O, F, P, S, Cl, Br and I only"),
        ("CB(O)[SiH3]", "holds B, Si: GAFF2 knows"),
        ("[Cl-]", "is a single atom, for which GAFF2 has no parameters"),
        ("[H][H]", "is hydrogen alone, for which GAFF2 has no parameters"),
        ("C" * 300, "has 902 atoms; AM1-BCC charges are made for up to 200"),
        ("[CH3]", "has unpaired electrons"),
        ("O=O", "has unpaired electrons"),
        ("notasmiles", "SMILES 'notasmiles' is not understood; expected one such as CO"),
        ("../../x", "SMILES '../../x' is not understood"),
        ("[CH99999]", "is not understood"),  # of which RDKit speaks in its own errors
        pytest.param("C" * 1_000_000, "has 1000000 letters; expected up to 4000", id="long"),
        ("[CH5]", "not understood (Explicit valence for atom # 0 C, 5, is greater than permitted)"),
    ],
)
def test_strange_smiles_are_refused_with_the_cause(smiles, words, capfd):
    pytest.importorskip("rdkit", reason="needs the package rdkit (extra 'data')")
    with pytest.raises(ValueError, match=re.escape(words)):
        topology.molecule(smiles)
    assert capfd.readouterr() == ("", "")


def test_smiles_that_are_no_strings_and_ones_that_are_right():
    pytest.importorskip("rdkit", reason="needs the package rdkit (extra 'data')")
    with pytest.raises(TypeError, match="expected a SMILES string, got 5"):
        topology.molecule(5)
    for smiles, atoms in {"O": 3, "[OH-]": 2, "[NH4+]": 5, "CI": 5, "[2H]OC": 6}.items():
        assert topology.molecule(smiles).GetNumAtoms() == atoms


def test_names_by_default_and_wrong_ones(fake, monkeypatch, capsys, tmp_path):
    pytest.importorskip("rdkit")
    monkeypatch.setattr(topology, "check_installed", lambda: None)
    monkeypatch.chdir(tmp_path)
    options = ["--frames", "3", "--runs", "3"]
    assert main(["data", "generate", "c1cc[nH]c1", "[C-]#[O+]", *options]) == 0
    text = capsys.readouterr().out
    assert "run 300 frame 1/1" in text and "force field of c1cc[nH]c1" in text
    assert {frame.name for frame in read_frames("C4H5N.h5")} == {"C4H5N"}
    assert main(["data", "info", "C4H5N.h5"]) == 0
    assert "smiles_C4H5N: c1cc[nH]c1" in capsys.readouterr().out
    assert {frame.name for frame in read_frames("CO.h5")} == {"CO"}
    assert main(["data", "generate", "CO", "O", "--name", "x", *options]) == 2
    assert "one --name for each" in capsys.readouterr().err
    assert main(["data", "generate", "CO", "OC", *options]) == 2
    assert "two molecules have one name" in capsys.readouterr().err
    for word, message in {"water:x": "a number behind the colon", "ice": "got 'ice'"}.items():
        assert main(["data", "generate", "CO", "--kinds", word]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_end_to_end(tmp_path):
    _needs_everything()
    out = tmp_path / "d.h5"
    options = "--frames 2 --runs 2 --level HF/STO-3G --equilibration 20 --interval 5 --mbis"
    options += " --warming 5 --density-fit"
    command = ["data", "generate", "CO", "--processes", "2", *options.split(), "--out", str(out)]
    assert main(command) == 0
    for frame, alone in zip(read_frames(out), read_frames(out, vacuum=True), strict=True):
        assert frame.system.n_mm > 100 and frame.system.n_mm % 3 == 0
        # Hartree-Fock has no integration grid: the forces add up to nothing, but for the rounding
        # of those on hundreds of charges to 2^-13 eV/Å.
        np.testing.assert_allclose(frame.forces.sum(0) + frame.mm_forces.sum(0), 0, atol=3e-3)
        assert -3100 < frame.energy < -3000 and abs(frame.energy - alone.energy) < 5
        for one in (frame, alone):
            dipole = one.charges @ one.system.positions + one.dipoles.sum(0)
            np.testing.assert_allclose(dipole, one.dipole, atol=1e-4)


def _needs_everything():
    try:
        topology.check_installed()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_dynamics_that_were_stopped_go_on_to_the_same_snapshots(tmp_path):
    _needs_everything()
    box = tmp_path / "box"
    settings = sampling.Dynamics(equilibration=1010, warming=10, interval=10)
    box.mkdir()
    topology.parametrise(topology.molecule("CO"), 0, 12.0, box)
    whole, broken = (shutil.copytree(box, tmp_path / name) for name in ("whole", "broken"))
    hot = Kind.named("stretched@450")
    assert list(sampling.run_dynamics(whole, hot, 101, 2, settings)) == [None, None, None, 0, 1]
    for stored in (None, None, None, 0):
        stopped = sampling.run_dynamics(broken, hot, 101, 2, settings)
        assert next(stopped) == stored
        stopped.close()
    list(sampling.run_dynamics(broken, hot, 101, 2, settings))
    for i in range(2):
        one, other = (sampling.load(sampling.snapshot_path(f, 101, i)) for f in (whole, broken))
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    # the equilibrated block is there; vacuum needs none
    for run, name in enumerate(("water", "vacuum@600"), 102):
        assert list(sampling.run_dynamics(whole, Kind.named(name), run, 1, settings)) == [None, 0]
    alone = sampling.load(sampling.snapshot_path(whole, 103, 0))
    assert len(alone["mm_charges"]) == 0 and len(alone["bonds"]) == 5


@pytest.mark.slow
def test_labels_reproduce_the_shipped_ones():
    pytest.importorskip("pyscf")
    from gnn.data import load_shipped
    from gnn.data.making.labelling import label_both

    system = load_shipped(["oac"])[7].system
    embedded, vacuum = label_both(system, "B3LYP/6-31G*")
    for found, known in (
        (embedded, load_shipped(["oac"])[7]),
        (vacuum, load_shipped(["oac"], vacuum=True)[7]),
    ):
        assert found.energy == pytest.approx(known.energy, abs=1e-4)
        for name in ("forces", "mm_forces", "dipole"):
            one, other = getattr(found, name), getattr(known, name)
            if other is None:  # no charges, no forces on them
                assert one is None and name == "mm_forces"
                continue
            np.testing.assert_allclose(one, other, atol=1e-4)
    fitted, _ = label_both(system, "B3LYP/6-31G*", density_fit=True)
    assert fitted.energy == pytest.approx(embedded.energy, abs=3e-3)
    np.testing.assert_allclose(fitted.forces, embedded.forces, atol=5e-3)
    np.testing.assert_allclose(fitted.mm_forces, embedded.mm_forces, atol=2e-4)


@pytest.mark.parametrize("density_fit", [False, True])
def test_forces_are_derivatives_of_the_energy(density_fit):
    lib = pytest.importorskip("pyscf.lib", reason="needs the package pyscf (extra 'data')")
    from gnn.data.making.labelling import label_both

    x = np.array([[0, 0, 0], [0.97, 0, 0], [-0.24, 0.93, 0]])
    q = np.array([[2.8, 0.1, 0.2], [-1.0, -2.0, 1.0]])

    def labelled(x, q):
        system = System([8, 1, 1], x, 0, q, [-0.8, 0.4])
        with lib.with_omp_threads(1):  # threads that wait for each other are slow on a busy machine
            return label_both(system, "HF/STO-3G", density_fit=density_fit)

    (embedded, vacuum), h = labelled(x, q), 1e-3
    assert embedded.energy != vacuum.energy
    step = np.zeros((3, 3))
    step[1, 0] = h
    more, less = labelled(x + step, q), labelled(x - step, q)
    for one, a, b in zip((embedded, vacuum), more, less, strict=True):
        assert one.forces[1, 0] == pytest.approx(-(a.energy - b.energy) / (2 * h), abs=1e-4)
    more, less = (labelled(x, q + step[:2])[0].energy for step in (step, -step))
    assert embedded.mm_forces[1, 0] == pytest.approx(-(more - less) / (2 * h), abs=1e-5)
    bare = System([8, 1, 1], x)
    one, other = label_both(bare, "HF/STO-3G", density_fit=density_fit)
    assert one.energy == other.energy == pytest.approx(vacuum.energy, abs=1e-7)
