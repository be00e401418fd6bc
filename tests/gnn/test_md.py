"""Molecular dynamics: what a run writes, and that a killed one goes on to the same result."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs the package openmm (extra 'engines')")

from gnn.cli import main
from gnn.engines.analysis import (
    energy_drift,
    radial_distribution,
    read_log,
    read_trajectory,
)
from gnn.engines.box import shipped_box
from gnn.engines.dynamics import Run
from gnn.engines.settings import Settings


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


@pytest.mark.parametrize("kind", ["xtc", "dcd"])
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


def test_what_is_refused(box, whole, tmp_path, capsys):
    def message(*arguments):
        assert main(list(arguments)) == 2
        return capsys.readouterr().err

    assert "holds a run already" in message(*command(box, whole, *STEPS))
    assert "begun with other settings: timestep was 0.5, now 1.0" in message(
        *command(box, whole, *STEPS, "--resume", "--timestep", 1)
    )
    assert "nothing to resume" in message(*command(box, tmp_path / "new", *STEPS, "--resume"))
    assert "got both" in message(*command(box, tmp_path / "both", *STEPS, "--smiles", "CO"))
    assert "no file" in message(
        "md", "--prmtop", "no.prmtop", "--coordinates", "no", "--steps", "9", "--output",
        str(tmp_path),
    )  # fmt: skip
    assert "no registered Platform" in message(
        *command(box, tmp_path / "p", *STEPS, "--platform", "Abacus")
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"steps": 0}, "steps >= 1"),
        ({"ensemble": "mve"}, "ensemble to be one of nvt, npt, nve"),
        ({"timestep": -1.0}, "timestep > 0"),
        ({"interval": 30, "checkpoint_interval": 100}, "multiple of interval"),
        ({"equilibration": -1.0}, "equilibration >= 0"),
    ],
)
def test_settings(wrong, words):
    with pytest.raises(ValueError, match=words):
        Settings(**({"steps": 10} | wrong))


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


def test_total_energy_is_kept_without_a_thermostat(box, tmp_path):
    steps = "--steps", 80, "--interval", 4, "--checkpoint-interval", 80
    options = "--ensemble", "nve", "--precision", "float64", "--platform", "Reference"
    assert main(command(box, tmp_path, *steps, *options)) == 0
    log = read_log(tmp_path / "log.csv")
    assert log["kinetic_kj_mol"][5:].std() > 1.0
    # CMMotionRemover acts in the first step
    assert np.ptp(log["total_kj_mol"][2:]) < 0.05 * np.ptp(log["kinetic_kj_mol"][2:])


@pytest.mark.slow
def test_a_box_made_from_smiles(tmp_path):
    from gnn.data.sampling import program

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
