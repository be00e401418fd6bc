"""Molecular dynamics: what a run writes, and that a killed one goes on to the same result."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from unittest.mock import Mock

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs the package openmm (extra 'engines')")

from openmm import OpenMMException, app, unit
from openmm.app.internal.xtc_utils import read_xtc

from gnn import load_model
from gnn.cli import main
from gnn.engines.boxes.amber import amber_box, read_amber, start_of
from gnn.engines.boxes.box import whole as whole_molecules
from gnn.engines.boxes.box import write_box
from gnn.engines.boxes.shipped import methanol_in_water, shipped_box
from gnn.engines.embedding.embedding import Embedding
from gnn.engines.runs.analysis import (
    energy_drift,
    radial_distribution,
    read_log,
    read_trajectory,
)
from gnn.engines.runs.box import masses, warn_of_density
from gnn.engines.runs.dynamics import Run
from gnn.engines.runs.failure import longest_step
from gnn.engines.runs.settings import Settings
from gnn.engines.runs.trajectory import Trajectory
from gnn.training.checkpoint import save_model
from gnn.training.committee import perturb


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    folder = tmp_path_factory.mktemp("box")
    shipped_box(folder)
    return folder


def command(box, output, *options):
    files = "--prmtop", str(box / "solute.prmtop"), "--coordinates", str(box / "solute.rst7")
    plain = "--equilibration", "0", "--platform", "CPU", "--threads", "1", "--seed", "3"
    return ["md", *files, *plain, "--output", str(output), *map(str, options)]


STEPS = "--steps", 60, "--interval", 5, "--checkpoint-interval", 10


def without_speed(path):
    return {k: v for k, v in read_log(path).items() if k != "ns_per_day"}


def assert_same_run(one, other, trajectory="trajectory.xtc"):
    first, second = without_speed(one / "log.csv"), without_speed(other / "log.csv")
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert (one / trajectory).read_bytes() == (other / trajectory).read_bytes()


@pytest.fixture(scope="module")
def whole(box, tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(command(box, folder, *STEPS)) == 0
    return folder


def test_a_run_writes_all_that_it_says(whole, capsys):
    log = read_log(whole / "log.csv")
    np.testing.assert_array_equal(log["step"], np.arange(0, 61, 5))
    np.testing.assert_allclose(log["time_ps"], 0.0005 * log["step"])
    np.testing.assert_allclose(
        log["total_kj_mol"], log["potential_kj_mol"] + log["kinetic_kj_mol"], rtol=1e-8
    )
    assert np.all((log["temperature_k"] > 200) & (log["temperature_k"] < 400))
    assert np.all((log["density_g_ml"] > 0.9) & (log["density_g_ml"] < 1.1))
    frames, boxes = read_trajectory(whole / "trajectory.xtc")
    assert frames.shape == (13, 1110, 3) and boxes.shape == (13, 3)
    bond = np.linalg.norm(frames[:, 0] - frames[:, 1], axis=1)  # C–O of methanol
    assert np.all((bond > 1.2) & (bond < 1.7))
    assert (whole / "md.png").stat().st_size > 10_000
    assert "HETATM" in (whole / "topology.pdb").read_text()


def test_the_solute_is_no_water_in_files(whole):
    lines = (whole / "topology.pdb").read_text().splitlines()
    atoms = [line for line in lines if line.startswith("HETATM")]
    assert [line[12:16].strip() for line in atoms[:6]] == ["C1", "O1", "H1", "H2", "H3", "H4"]
    assert {line[17:20] for line in atoms[:6]} == {"LIG"}
    assert {line[17:20] for line in atoms[6:]} == {"HOH"}
    assert [line[76:78].strip() for line in atoms[:7]] == ["C", "O", "H", "H", "H", "H", "O"]
    bonds = [line.split()[1:] for line in lines if line.startswith("CONECT")]
    assert sum(len(row) - 1 for row in bonds) == 2 * 5
    assert lines[1].startswith("CRYST1   23.151   22.283   22.185")


def test_readers_of_trajectories_find_the_solute(whole):
    analysis = pytest.importorskip("MDAnalysis", reason="needs the package MDAnalysis")
    universe = analysis.Universe(str(whole / "topology.pdb"), str(whole / "trajectory.xtc"))
    solute = universe.select_atoms("not water")
    assert solute.indices.tolist() == list(range(6))
    assert universe.select_atoms("resname LIG") == solute
    assert len(universe.select_atoms("water")) == 3 * 368
    assert not len(universe.select_atoms("protein or nucleic"))
    assert len(solute.bonds) == 5
    assert "".join(solute.elements) == "COHHHH"
    assert len(universe.trajectory) == 13
    for frame in universe.trajectory:
        assert solute.bonds.values().max() < 1.8
        np.testing.assert_allclose(frame.dimensions[:3], [23.151, 22.283, 22.185], atol=1e-3)
    assert universe.trajectory.dt == pytest.approx(5 * 0.0005)


def test_another_reader_finds_the_same_bonds(whole):
    traj = pytest.importorskip("mdtraj", reason="needs the package mdtraj")
    found = traj.load(str(whole / "trajectory.xtc"), top=str(whole / "topology.pdb"))
    assert found.topology.select("not water").tolist() == list(range(6))
    assert found.topology.select("resname LIG").tolist() == list(range(6))
    assert found.topology.n_bonds == 5 + 2 * 368
    np.testing.assert_allclose(found.time[:3], [0, 0.0025, 0.005], atol=1e-6)


@pytest.mark.parametrize(
    ("label", "name"),
    [("SOL", "LIG"), ("ALA", "LIG"), ("DA", "LIG"), ("NA", "LIG"), ("", "LIG"), ("MOH", "MOH"),
     *(pytest.param(*names, marks=pytest.mark.slow)
       for names in [("WAT", "LIG"), ("TIP3", "LIG"), ("Cl-", "LIG"), ("UNL", "UNL")])],
)  # fmt: skip
def test_names_of_residues(box, tmp_path, label, name):
    text = (box / "solute.prmtop").read_text()
    assert text.count("LIG ") == 2
    (tmp_path / "named.prmtop").write_text(text.replace("LIG ", f"{label:4s}"))
    write_box(tmp_path, amber_box(tmp_path / "named.prmtop", box / "solute.rst7"))
    run = Run(tmp_path, Settings(steps=10))
    residues = list(run.topology.residues())
    assert residues[0].name == name and {r.name for r in residues[1:]} == {"HOH"}
    assert [a.name for a in residues[0].atoms()] == ["C1", "O1", "H1", "H2", "H3", "H4"]
    if label == "SOL":  # no water either where another residue is the model's
        with pytest.warns(UserWarning, match="zone is 1 of 368 waters"):
            run = Run(tmp_path, Settings(steps=10), qm_atoms=[24, 25, 26])
        names = [r.name for r in run.topology.residues()]
        assert names[0] == "UNL" and names[7] == "LIG" and names.count("HOH") == 367


@pytest.mark.parametrize("kind", ["xtc", "dcd"])
def test_frames_are_appended_without_reading_the_file(box, tmp_path, monkeypatch, kind):
    """Opening counts the frames that are there: once for a run, and not for every frame."""
    topology, start = read_amber(box / "solute.prmtop", box / "solute.rst7")
    opened = []
    reader = {"xtc": "XTCFile", "dcd": "DCDFile"}[kind]
    original = getattr(app, reader)
    monkeypatch.setattr(app, reader, lambda *a, **k: opened.append(1) or original(*a, **k))
    positions = start.getPositions(asNumpy=True)
    path = tmp_path / f"frames.{kind}"
    frames = Trajectory(path, topology.topology, 0.5, 10)
    for _ in range(40):
        frames.write(positions, start.boxVectors)
        if frames.frames == 25:
            size = frames.size
    assert len(opened) == 1 and frames.frames == 40
    whole = path.read_bytes()
    again = Trajectory(path, topology.topology, 0.5, 10)
    again.resume(size, 25)
    for _ in range(15):
        again.write(positions, start.boxVectors)
    again.close()
    assert len(opened) == 2 and path.read_bytes() == whole
    again.begin()
    assert not path.exists() and again.frames == 0


@pytest.mark.parametrize("kind", ["xtc", pytest.param("dcd", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_to_the_same_result(box, whole, tmp_path, kind):
    arguments = [*command(box, tmp_path / "run", *STEPS), "--trajectory", kind]
    log, checkpoint = tmp_path / "run/log.csv", tmp_path / "run/checkpoint.npz"
    process = subprocess.Popen([sys.executable, "-m", "gnn", *arguments], stdout=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:  # beyond a checkpoint, and not on one
        lines = log.read_text().count("\n") if log.is_file() else 0
        if checkpoint.is_file() and lines >= 5:
            break
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert 5 <= log.read_text().count("\n") < 14, "was it killed in the middle?"
    with open(log, "a") as file:
        file.write("17,0.1,half a li")  # what a kill may leave
    assert main([*arguments, "--resume"]) == 0
    if kind == "xtc":
        assert_same_run(whole, tmp_path / "run")
    else:
        again = tmp_path / "again"
        assert main([*command(box, again, *STEPS), "--trajectory", kind]) == 0
        first, second = ((f / "trajectory.dcd").read_bytes() for f in (again, tmp_path / "run"))
        assert first[:176] == second[:176]  # the second title, which follows, holds the date
        assert first[276:] == second[276:]


def test_a_finished_run_can_be_made_longer(box, whole, tmp_path):
    short = "--steps", 30, "--interval", 5, "--checkpoint-interval", 10
    assert main(command(box, tmp_path / "run", *short)) == 0
    assert main([*command(box, tmp_path / "run", *STEPS), "--resume"]) == 0
    assert_same_run(whole, tmp_path / "run")


def test_a_run_of_an_older_version_goes_on(box, whole, tmp_path):
    """Its folder has Amber files, and its checkpoint the number of a residue."""
    short = "--steps", 30, "--interval", 5, "--checkpoint-interval", 10
    assert main(command(box, tmp_path, *short)) == 0
    for name in ("system.xml", "topology.json", "coordinates.npz", "origin.json"):
        (tmp_path / name).unlink()
    for path in box.glob("solute.*"):
        shutil.copy(path, tmp_path)
    with np.load(tmp_path / "checkpoint.npz") as file:
        state, record = file["state"], json.loads(str(file["record"]))
    assert record["settings"].pop("qm_atoms") == list(range(6))
    record["settings"]["qm_residue"] = 0
    assert record["settings"].pop("model_weights")
    record["settings"]["model"] = str(load_model())
    np.savez(tmp_path / "checkpoint.npz", state=state, record=json.dumps(record))
    assert main([*command(box, tmp_path, *STEPS), "--resume"]) == 0
    assert_same_run(whole, tmp_path)


def test_frames_are_equally_far_apart(box, tmp_path):
    """Also where the run ends between two, and goes on from there."""
    options = "--interval", 4, "--checkpoint-interval", 4, "--classical"
    assert main(command(box, tmp_path, "--steps", 6, *options)) == 0
    assert read_log(tmp_path / "log.csv")["step"].tolist() == [0, 4, 6]
    assert len(read_trajectory(tmp_path / "trajectory.xtc")[0]) == 2
    assert main([*command(box, tmp_path, "--steps", 12, *options), "--resume"]) == 0
    assert read_log(tmp_path / "log.csv")["step"].tolist() == [0, 4, 6, 8, 12]
    _, _, times, steps = read_xtc(str(tmp_path / "trajectory.xtc").encode())
    assert steps.tolist() == [0, 4, 8, 12]
    np.testing.assert_allclose(times, [0, 0.002, 0.004, 0.006], atol=1e-7)


def test_what_is_refused(box, whole, tmp_path, capsys):
    def message(*arguments):
        assert main(list(arguments)) == 2
        return capsys.readouterr().err

    assert "holds a run already" in message(*command(box, whole, *STEPS))
    assert "begun with other settings: timestep was 0.5, now 1.0" in message(
        *command(box, whole, *STEPS, "--resume", "--timestep", 1)
    )
    model = load_model()
    perturb(model, 1e-3, 0)
    save_model(tmp_path / "other.pt", model)  # as large, and of the same kind
    other = *STEPS, "--resume", "--model", tmp_path / "other.pt"
    assert re.search("settings: model_weights was .*, now", message(*command(box, whole, *other)))
    assert "nothing to resume" in message(*command(box, tmp_path / "new", *STEPS, "--resume"))
    assert "got both" in message(*command(box, tmp_path / "both", *STEPS, "--smiles", "CO"))
    assert "no file" in message(
        "md", "--prmtop", "no.prmtop", "--coordinates", "no", "--steps", "9", "--output",
        str(tmp_path),
    )  # fmt: skip
    assert "no registered Platform" in message(
        *command(box, tmp_path / "p", *STEPS, "--platform", "Abacus")
    )


# --- wrong input ----------------------------------------------------------------------------------


def complaint(capsys, *arguments):
    """Return the one line that a command ends with."""
    assert main([str(a) for a in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("anisole: error: ")
    assert not any("Traceback" in line for line in lines)
    return lines[-1]


def edited(box, change):
    lines = (box / "solute.rst7").read_text().splitlines()
    return "\n".join(change(lines)) + "\n"


def velocities(lines):
    values = np.random.default_rng(0).normal(0, 0.3, 3330)
    rows = ["".join(f"{x:12.7f}" for x in values[k : k + 6]) for k in range(0, 3330, 6)]
    return [*lines[:2], *rows, lines[-1]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [lines[0], "   9", *lines[2:7]], "has 9 atoms, .* has 1110"),
        (lambda lines: lines[:-1], "has no box"),
        (lambda lines: [*lines[:2], "nan".rjust(12) + lines[2][12:], *lines[3:]], "are NaN"),
        (lambda lines: [*lines[:2], "*" * 12 + lines[2][12:], *lines[3:]], "does not read as"),
        (lambda lines: [*lines[:-1], "   0.0000000" * 3 + "  90.0000000" * 3], "volume|read as"),
        (lambda lines: [], "does not read as Amber coordinates"),
        (velocities, "not coordinates in Å"),
    ],
    ids=["count", "no box", "NaN", "stars", "flat", "empty", "velocities"],
)  # fmt: skip
def test_coordinates_that_are_none(box, tmp_path, capsys, change, words):
    file = tmp_path / "mine.rst7"
    file.write_text(edited(box, change))
    files = "--prmtop", box / "solute.prmtop", "--coordinates", file
    line = complaint(capsys, "md", *files, "--steps", 9, "--output", tmp_path / "run")
    assert str(file) in line and re.search(words, line)


def test_topologies_that_are_none(box, tmp_path, capsys):
    pdb = tmp_path / "box.pdb"
    pdb.write_text("ATOM      1  C1  LIG A   1      13.430  13.601  10.817\nEND\n")
    other = "--coordinates", box / "solute.rst7", "--steps", 9, "--output", tmp_path / "run"
    line = complaint(capsys, "md", "--prmtop", pdb, *other)
    assert f"{pdb} does not read as Amber topology (prmtop): it begins 'ATOM 1 C1 LIG" in line
    assert "read as Amber topology" in complaint(capsys, "md", "--prmtop", "/bin/ls", *other)
    assert "need each other" in complaint(capsys, "md", *other)


def test_a_box_too_small_is_found_before_anything_is_done(box, tmp_path, capsys):
    files = "--prmtop", box / "solute.prmtop", "--coordinates", box / "solute.rst7"
    line = complaint(
        capsys, "md", *files, "--steps", 9, "--cutoff", 20, "--output", tmp_path / "run"
    )
    assert "22.2 Å at its narrowest" in line and "a cutoff of at most 19.4 Å" in line
    assert not (tmp_path / "run/start.xml").exists()


def test_a_box_that_shrinks_stops_the_run(box, tmp_path, capsys, monkeypatch):
    """What is raised inside of OpenMM comes out as one line."""
    import gnn.engines.runs.dynamics as dynamics

    monkeypatch.setattr(dynamics, "check_box", lambda *_: 0.0)
    line = complaint(capsys, *command(box, tmp_path, *STEPS, "--cutoff", 20))
    assert "stopped at step 0, longest bond of" in line and "a cutoff of at most 19.4 Å" in line
    assert "step 0 is in" in line and (tmp_path / "failed.pdb").is_file()


def test_a_molecule_that_falls_apart(box, tmp_path, capsys):
    line = complaint(capsys, *command(box, tmp_path, *STEPS, "--timestep", 9))
    found = re.search(
        r"stopped at step (\d+), (\d+) K, longest bond of the molecule (\w+)–(\w+) \(atoms (\d+) "
        r"and (\d+)\) of ([\d.]+) Å: the molecule has fallen apart .*; step \1 is in (.*)$", line,
    )  # fmt: skip
    assert found and 1 <= int(found[1]) <= 10 and float(found[7]) > 1.4
    last = app.PDBFile(found[8])
    positions = np.array(last.positions.value_in_unit(unit.angstrom))
    apart = np.linalg.norm(positions[int(found[5])] - positions[int(found[6])])
    assert apart == pytest.approx(float(found[7]), abs=0.01)
    assert [a.residue.name for a in last.topology.atoms()][:6] == ["LIG"] * 6


def test_a_blow_up_leaves_the_last_good_frame(box, tmp_path, capsys):
    options = "--classical", "--timestep", 9
    line = complaint(capsys, *command(box, tmp_path, *STEPS, *options))
    assert "stopped at step" in line and "NaN" in line and "the frame recorded last is in" in line
    positions = np.array(app.PDBFile(str(tmp_path / "failed.pdb")).positions._value)
    assert np.isfinite(positions).all()
    np.testing.assert_allclose(np.linalg.norm(positions[0] - positions[1]), 0.14, atol=0.03)


def test_molecules_cut_at_the_walls_are_made_whole(box):
    """As programs write coordinates that put every atom into the box by itself."""
    prmtop, start = read_amber(box / "solute.prmtop", box / "solute.rst7")
    positions, vectors = start_of(start)
    edges = np.diag(vectors)
    centred = positions - positions[:6].mean(axis=0)  # the solute at a corner
    cut = centred - edges * np.floor(centred / edges)
    assert np.ptp(cut[:6], axis=0).max() > 15
    found = whole_molecules(prmtop.topology, cut, vectors)
    ends = np.array([(bond[0].index, bond[1].index) for bond in prmtop.topology.bonds()])
    for pair in (ends, np.array([[0, 5], [2, 5], [7, 8]])):
        distances = [
            np.linalg.norm(x[pair[:, 0]] - x[pair[:, 1]], axis=1) for x in (found, positions)
        ]
        np.testing.assert_allclose(*distances, atol=1e-9)
    np.testing.assert_allclose((found - cut) / edges, np.round((found - cut) / edges), atol=1e-9)
    assert whole_molecules(prmtop.topology, positions, vectors) is positions


def test_a_run_goes_on_with_the_files_that_it_had(box, whole, tmp_path, capsys):
    other = tmp_path / "other.rst7"
    other.write_text(edited(box, lambda lines: [*lines, ""]))
    arguments = command(box, whole, *STEPS, "--resume")
    arguments[arguments.index("--coordinates") + 1] = str(other)
    assert "begun with another file than" in complaint(capsys, *arguments)
    before = (whole / "log.csv").read_bytes()
    assert main(command(box, whole, *STEPS, "--resume")) == 0
    assert "60 of 60 steps are done" in capsys.readouterr().out
    assert (whole / "log.csv").read_bytes() == before


def test_residues_and_folders_that_are_none(box, tmp_path, capsys):
    line = complaint(capsys, *command(box, tmp_path / "a", *STEPS, "--qm-residue", 400))
    assert "from 0 to 368, got 400" in line
    (tmp_path / "file").write_text("x")
    line = complaint(capsys, *command(box, tmp_path / "file", *STEPS))
    assert str(tmp_path / "file") in line and "start.xml" not in line


def test_a_molecule_needs_its_package(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    line = complaint(capsys, "md", "--smiles", "CO", "--steps", 9, "--output", tmp_path)
    assert "rdkit" in line and '".[data]"' in line


def test_errors_of_openmm_come_in_one_line(box, tmp_path, capsys, monkeypatch):
    import gnn.commands.dynamics as command_of
    import gnn.engines.runs.box as box_of

    broken = Mock(side_effect=OpenMMException("Particle coordinate\nis NaN"))
    with monkeypatch.context() as patch:
        patch.setattr(box_of, "_settle", broken)
        line = complaint(capsys, *command(box, tmp_path / "a", *STEPS))
    assert "equilibration failed at step 0 of 1 fs (Particle coordinate is NaN)" in line
    monkeypatch.setattr(command_of, "prepare", broken)
    line = complaint(capsys, *command(box, tmp_path / "b", *STEPS))
    assert line == "anisole: error: Particle coordinate is NaN"


def test_an_interrupted_model_interrupts_the_run(box, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Embedding, "energy_forces", Mock(side_effect=KeyboardInterrupt))
    assert main(command(box, tmp_path, *STEPS)) == 130
    assert capsys.readouterr().err.strip().splitlines()[-1] == "anisole: interrupted"


# --- warnings -------------------------------------------------------------------------------------


def test_a_step_too_long_for_hydrogen(box, tmp_path):
    write_box(tmp_path, methanol_in_water())
    with pytest.warns(UserWarning, match=r"2 fs is too long: .* 8.9 fs .*--timestep 1.1"):
        Run(tmp_path, Settings(steps=10, timestep=2.0))._simulation()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Run(tmp_path, Settings(steps=10, timestep=1.0))._simulation()
    prmtop, _ = read_amber(box / "solute.prmtop", box / "solute.rst7")
    heavy = prmtop.createSystem(rigidWater=True, hydrogenMass=3 * unit.amu)
    limit, period = longest_step(prmtop.topology, heavy)
    assert limit == pytest.approx(period / 8) and 1.6 < limit < 1.7  # C–H: 6 and 3 Da
    assert longest_step(prmtop.topology, prmtop.createSystem(constraints=app.AllBonds)) is None


@pytest.mark.parametrize(
    ("densities", "words"),
    [
        (np.linspace(0.80, 0.95, 20), r"not settled: .* from 0\.8\d+ to 0\.9\d+ .*ation 30"),
        (np.full(20, 0.85), "density of 0.850 g/ml after 10 ps .* 0.97 to 1.00"),
        (np.full(20, 1.20), "density of 1.200"),
        (np.array([0.80]), "density of 0.800"),
        (np.full(20, 0.985), None),
        (0.98 + 0.01 * np.cos(np.arange(20)), None),
        (np.repeat([0.98, 1.005, 0.975], (10, 5, 5)), None),  # as a box of 11 nm³ wavers
    ],
)  # fmt: skip
def test_density_after_the_equilibration(box, densities, words):
    prmtop, _ = read_amber(box / "solute.prmtop", box / "solute.rst7")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_density(densities, prmtop.topology, Settings(steps=10))
    assert len(caught) == (words is not None)
    if words:
        assert re.search(words, str(caught[0].message))


def test_a_box_of_too_little_water_warns(box, tmp_path, capsys):
    """As tleap leaves it: a tenth wider than it should be, and no time to shrink."""

    _, start = read_amber(box / "solute.prmtop", box / "solute.rst7")
    positions, lengths = start_of(start)
    waters = positions[6:].reshape(-1, 3, 3)  # whole, beyond the walls too
    waters -= np.diag(lengths) * np.round((waters - waters[:, :1]) / np.diag(lengths))
    growth = np.array([26, 25, 25]) / np.diag(lengths) - 1
    waters += growth * waters[:, :1]
    positions[:6] += growth * positions[0]
    rows = [*positions.reshape(-1, 6), [26, 25, 25, 90, 90, 90]]
    lines = ["wide", "1110", *("".join(f"{x:12.7f}" for x in row) for row in rows)]
    shutil.copy(box / "solute.prmtop", tmp_path)
    (tmp_path / "solute.rst7").write_text("\n".join(lines) + "\n")
    short = "--steps", 5, "--interval", 5, "--checkpoint-interval", 5
    assert main([*command(tmp_path, tmp_path / "run", *short), "--classical"]) == 0
    found = " ".join(capsys.readouterr().err.split())
    assert "warning: the box has a density of 0.681 g/ml after 0 ps" in found


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"steps": 0}, "steps: should be >= 1, got 0"),
        ({"seed": -1}, "seed: should be >= 0, got -1"),
        ({"seed": 2**31}, "seed: should be < 2147483647, got 2147483648"),
        ({"threads": 0}, "threads: should be >= 1, got 0"),
        ({"cutoff": 1.0}, "cutoff: should be >= 1.5 Å, the width .* got 1.0"),
        ({"temperature": float("nan")}, "temperature: should be a finite number, got nan"),
        ({"equilibration": float("nan")}, "equilibration: should be a finite number, got nan"),
        ({"ensemble": "mve"}, "ensemble: should be 'nvt', 'npt' or 'nve', got 'mve'"),
        ({"timestep": -1.0}, "timestep: should be > 0, got -1.0"),
        ({"interval": 30, "checkpoint_interval": 100}, "^expected .* multiple of interval"),
        ({"equilibration": -1.0}, "equilibration: should be >= 0, got -1.0"),
        ({"step": 3}, "unknown key 'step'; did you mean 'steps'"),
        ({"steps": 0, "friction": 0}, "steps: .*; friction: "),
    ],
)
def test_settings(wrong, words):
    with pytest.raises(ValueError, match=words):
        Settings(**({"steps": 10} | wrong))


def test_steps_must_be_named():
    with pytest.raises(ValueError, match=r"^'steps' is missing$"):
        Settings()


def test_a_full_disk_leaves_the_last_checkpoint(box, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    arguments = command(box, folder, *STEPS)
    recorded = Run._record
    rows = []

    def fails(self, simulation, step, speed):
        rows.append(step)
        if step == 25:
            raise OSError(28, "No space left on device", str(folder / "log.csv"))
        recorded(self, simulation, step, speed)

    monkeypatch.setattr(Run, "_record", fails)
    assert main(arguments) == 2
    monkeypatch.undo()
    assert main([*arguments, "--resume"]) == 0
    np.testing.assert_array_equal(read_log(folder / "log.csv")["step"], np.arange(0, 61, 5))


@pytest.mark.slow
def test_total_energy_is_kept_without_a_thermostat(box, tmp_path):
    steps = "--steps", 36, "--interval", 3, "--checkpoint-interval", 36
    options = "--ensemble", "nve", "--precision", "float64", "--platform", "Reference"
    assert main(command(box, tmp_path, *steps, *options)) == 0
    log = read_log(tmp_path / "log.csv")
    assert log["kinetic_kj_mol"][5:].std() > 1.0
    # CMMotionRemover acts in the first step
    assert np.ptp(log["total_kj_mol"][2:]) < 0.05 * np.ptp(log["kinetic_kj_mol"][2:])


@pytest.mark.slow
def test_a_box_made_from_smiles(tmp_path):
    from gnn.data.making.topology import program

    pytest.importorskip("rdkit", reason="needs the package rdkit (extra 'data')")
    try:
        program("tleap")
    except RuntimeError as error:
        pytest.skip(str(error))
    options = "--padding", "10.5", "--equilibration", "1", "--interval", "5", "--output"
    arguments = ["md", "--smiles", "C[NH3+]", "--steps", "10", *options, str(tmp_path)]
    assert main([*arguments, "--checkpoint-interval", "10"]) == 0
    assert read_log(tmp_path / "log.csv")["step"].tolist() == [0, 5, 10]


@pytest.mark.slow
def test_drift_of_the_energy_in_five_picoseconds(box, tmp_path):
    """Target: 1e-2 kT per degree of freedom and nanosecond."""
    steps = "--steps", 10_000, "--interval", 20
    options = "--ensemble", "nve", "--precision", "float64", "--platform", "Reference"
    assert main(command(box, tmp_path, *steps, *options)) == 0
    run = Run(tmp_path, Settings(steps=10_000, ensemble="nve", platform="Reference"))
    run._simulation()
    log = read_log(tmp_path / "log.csv")
    drift, error = energy_drift(log, run.degrees_of_freedom, 300)
    assert abs(drift) + 2 * error < 1e-2


@pytest.mark.slow
def test_twenty_picoseconds_at_300_kelvin_are_stable(box, tmp_path):
    assert main(command(box, tmp_path, "--steps", 40_000, "--interval", 100)) == 0
    log = read_log(tmp_path / "log.csv")
    late = log["temperature_k"][len(log["step"]) // 4 :]
    assert abs(late.mean() - 300) < 5 and late.std() < 15
    frames, _ = read_trajectory(tmp_path / "trajectory.xtc")
    for pair, (low, high) in {(0, 1): (1.2, 1.7), (1, 5): (0.8, 1.25), (0, 2): (0.9, 1.35)}.items():
        bond = np.linalg.norm(frames[:, pair[0]] - frames[:, pair[1]], axis=1)
        assert np.all((bond > low) & (bond < high)), pair


# --- analysis -------------------------------------------------------------------------------------


def test_an_ideal_gas_has_no_structure():
    rng = np.random.default_rng(0)
    box = np.array([20.0, 22.0, 24.0])
    frames = rng.random((20, 400, 3)) * box
    found = radial_distribution(frames, [box] * 20, range(100), range(400), end=9.0, width=0.5)
    np.testing.assert_allclose(found.g[4:], 1.0, atol=0.05)
    assert found.radii[0] == pytest.approx(0.25)


def test_neighbours_are_counted_across_the_walls():
    box = np.array([10.0, 10.0, 10.0])
    frames = np.array([[[0.2, 5, 5], [9.7, 5, 5]]])
    found = radial_distribution(frames, [box], [0], [1], end=4.0, width=0.2)
    assert np.flatnonzero(found.g).tolist() == [2]  # 0.5 Å
    shell = 4 / 3 * np.pi * (0.6**3 - 0.4**3)
    assert found.g[2] == pytest.approx(1000 / shell)
    with pytest.raises(ValueError, match="half of the box"):
        radial_distribution(frames, [box], [0], [1], end=6.0)
    with pytest.raises(ValueError, match="both kinds"):
        radial_distribution(frames, [box], [0], [])


def test_drift_is_the_slope():
    time = np.linspace(0, 5, 101)
    kt = 8.31446261815324e-3 * 300 * 50
    noise = np.random.default_rng(0).standard_normal(101)
    log = {"time_ps": time, "total_kj_mol": -500 + 0.02 * kt * time * 1e-3 + 1e-6 * noise}
    drift, error = energy_drift(log, 50, 300)
    assert drift == pytest.approx(0.02, abs=4 * error)
    assert 0 < error < 1e-4


def test_heavy_hydrogens(box, tmp_path):
    write_box(tmp_path, methanol_in_water())
    plain = Run(tmp_path, Settings(steps=10))._simulation().system
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heavy = Run(tmp_path, Settings(steps=10, timestep=1.5, hydrogen_mass=3.0))._simulation()
    found, before = masses(heavy.system), masses(plain)
    np.testing.assert_allclose(found[2:6], 3.0)
    assert found[:6].sum() == pytest.approx(before[:6].sum())
    np.testing.assert_array_equal(found[6:], before[6:])
    with pytest.raises(ValueError, match=r"would leave 3.03 Da of atom 0 \(C1\): take less"):
        Run(tmp_path, Settings(steps=10, hydrogen_mass=4.0))._simulation()
    water = Run(tmp_path, Settings(steps=10, hydrogen_mass=2.0), qm_atoms=range(9))
    np.testing.assert_allclose(masses(water._simulation().system)[7:9], 2.0)
