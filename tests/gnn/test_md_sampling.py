"""Collective variables, biases and free energies, where the answer is known."""

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs the package openmm (extra 'engines')")

import openmm
from openmm import app

from gnn.cli import main
from gnn.engines.runs.analysis import read_log
from gnn.engines.sampling.bias import Bias, harmonic, read_arrays
from gnn.engines.sampling.free_energy import (
    free_energy_of_run,
    umbrella_free_energy,
    warn_of_windows,
)
from gnn.engines.sampling.plan import BiasPlan, UmbrellaPlan, read_plan
from gnn.engines.sampling.variables import variable_of
from gnn.units import GAS_CONSTANT

VARIABLES = {
    "d": {"distance": [0, 1]},
    "a": {"angle": [0, 1, 2]},
    "t": {"torsion": [0, 1, 2, 3]},
    "x": {"difference": [[0, 1], [[2, 3], 1]]},
}
BOX = np.diag([20.0, 21.0, 22.0])


def chain(count=4):
    """A topology of bonded carbons, the last one heavier."""
    topology = app.Topology()
    residue = topology.addResidue("LIG", topology.addChain())
    elements = ["C"] * (count - 1) + ["S"]
    atoms = [
        topology.addAtom(f"{symbol}{i}", app.Element.getBySymbol(symbol), residue)
        for i, symbol in enumerate(elements)
    ]
    for pair in pairwise(atoms):
        topology.addBond(*pair)
    return topology


def system_of(topology, box=BOX):
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    if box is not None:
        system.setDefaultPeriodicBoxVectors(*(0.1 * box))
    return system


def energy(system, positions, groups=-1):
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(0.1 * positions)
    return context.getState(energy=True, groups=groups).getPotentialEnergy()._value


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_is_openmm_s(name):
    topology, rng = chain(), np.random.default_rng(3)
    plan = BiasPlan(variables=VARIABLES)
    variable = variable_of(name, plan.variables[name], topology, np.zeros((4, 3)), BOX)
    for _ in range(5):
        positions = rng.uniform(0, 20, (4, 3))
        system = system_of(topology)
        system.addForce(variable.force("x"))
        expected = energy(system, positions) / variable.scale
        assert variable.value(positions, BOX) == pytest.approx(expected, abs=1e-4)


def test_umbrella_and_walls_have_the_energies_they_should(tmp_path):
    topology, rng = chain(), np.random.default_rng(4)
    umbrella = {"variable": "t", "centres": [170.0, -30.0], "force_constant": 80.0}
    walls = [
        {"variable": "d", "lower": 5.0, "upper": 6.0, "force_constant": 7.0},
        {"variable": "a", "upper": 60.0, "force_constant": 90.0},
    ]
    plan = BiasPlan(variables=VARIABLES, umbrella=umbrella, walls=walls)
    bias = Bias(plan, topology, np.zeros((4, 3)), BOX)
    system = system_of(topology)
    bias.add_to(system, 300.0, tmp_path)
    for _ in range(5):
        positions = rng.uniform(0, 20, (4, 3))
        d, a, t = (bias[name].value(positions, BOX) for name in "dat")
        expected = harmonic(t, 170.0, 80.0, "degrees", True)
        expected += 3.5 * (max(0, 5 - d) ** 2 + max(0, d - 6) ** 2)
        expected += 45 * np.radians(max(0, a - 60)) ** 2
        assert energy(system, positions) == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_mbar_finds_the_free_energy_of_a_known_potential():
    """Windows are drawn exactly from a double well on a circle."""
    pytest.importorskip("pymbar", reason="needs the package pymbar")
    beta, rng = 1 / (GAS_CONSTANT * 300.0), np.random.default_rng(5)
    x = np.linspace(-180, 180, 7201)
    potential = 12 * np.cos(np.radians(2 * x)) + 4 * np.sin(np.radians(x))
    centres = {"from": -180, "to": 160, "count": 18}
    plan = UmbrellaPlan(variable="t", centres=centres, force_constant=60)
    windows = []
    for centre in plan.windows:
        bias = harmonic(x, centre, 60, "degrees", True)
        weights = np.exp(-beta * (potential + bias))
        windows.append(rng.choice(x, 300, p=weights / weights.sum()))
    found = umbrella_free_energy(windows, plan, 300.0, unit="degrees", turns=True, bins=24)
    inside = np.exp(-beta * potential[:-1]).reshape(24, -1).sum(axis=1)
    exact = -np.log(inside) / beta
    exact -= exact[np.argmin(found.values)]
    scaled = (found.values - exact)[found.errors > 0] / found.errors[found.errors > 0]
    assert np.sqrt(np.mean(scaled**2)) < 2 and np.abs(scaled).max() < 4
    assert np.abs(found.values - exact).max() < 2.0 and 0.01 < found.overlap < 0.5


def md(output, plan, *options):
    plain = "--platform", "CPU", "--threads", "1", "--classical", "--output", output
    words = [str(word) for word in ("md", *plain, "--bias", plan, *options)]
    return main(words)


TURN = """\
variables:
  turn: {torsion: ["resname LIG and name H1", 0, 1, 5]}
  bond: {distance: [0, 1]}
"""
META = TURN + "metadynamics:\n  variables: {turn: {width: 20}}\n  height: 2\n  interval: 4\n"
WINDOWS = (
    TURN
    + """\
umbrella: {variable: turn, centres: [-90, 30], force_constant: 60, pull: 0.02}
walls:
  - {variable: bond, upper: 1.6, force_constant: 500}
"""
)


def test_metadynamics_goes_on_where_it_was_stopped(tmp_path, capsys):
    plan = tmp_path / "plan.yaml"
    plan.write_text(META)
    steps = "--interval", 6, "--checkpoint-interval", 12
    assert md(tmp_path / "whole", plan, "--steps", 24, *steps) == 0
    assert md(tmp_path / "parts", plan, "--steps", 12, *steps) == 0
    assert md(tmp_path / "parts", plan, "--steps", 24, *steps, "--resume") == 0
    one, other = (read_log(tmp_path / name / "log.csv") for name in ("whole", "parts"))
    assert list(one)[-2:] == ["turn_deg", "bond_angstrom"]
    for name in one.keys() - {"ns_per_day"}:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    biases = [
        read_arrays(tmp_path / name / "checkpoint.npz")["bias"] for name in ("whole", "parts")
    ]
    np.testing.assert_array_equal(*biases)
    assert 2.0 < biases[0].max() <= 12.0  # six Gaussians
    capsys.readouterr()
    assert main(["free-energy", str(tmp_path / "whole")]) == 0
    assert "one run alone gives no error" in capsys.readouterr().out
    plan.write_text(META.replace("height: 2", "height: 3"))
    assert md(tmp_path / "parts", plan, "--steps", 30, *steps, "--resume") == 2
    assert "was begun with other settings: bias was" in capsys.readouterr().err


def test_umbrella_windows_are_replicas(tmp_path, capsys):
    pytest.importorskip("pymbar", reason="needs the package pymbar")
    plan = tmp_path / "plan.yaml"
    plan.write_text(WINDOWS)
    output = tmp_path / "run"
    assert md(output, plan, "--steps", 20, "--interval", 2, "--checkpoint-interval", 20) == 0
    for i, centre in enumerate((-90, 30)):
        values = read_log(output / f"replica_{i}" / "log.csv")["turn_deg"]
        assert abs(values[-1] - centre) < 45
    with pytest.warns(UserWarning, match="neighbouring windows overlap by"):
        found = free_energy_of_run(output)
        warn_of_windows(found)
    assert main(["free-energy", str(output), "--bins", "12"]) == 0
    rows = (output / "free_energy.csv").read_text().splitlines()
    assert rows[0] == "turn_deg,free_energy_kj_mol,error_kj_mol" and len(rows) == 13
    assert md(output, plan, "--steps", 30, "--temperatures", 300, 310) == 2
    assert "holds replicas already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("variables: {x: {torsion: [0, 1, 2]}}", "torsion: expected 4 points, got 3"),
        ("variables: {x: {distance: [0, 1], angle: [0, 1, 2]}}", "expected one of distance"),
        ("variables: {x: {distanc: [0, 1]}}", "distanc"),
        ("variables: {}", "variables"),
        ("- 1", "expected keys such as 'variables'"),
        ("variables: {x: [", "not valid YAML"),
        (TURN + "umbrella: {variable: y, centres: [1], force_constant: 1}", "one of the variables"),
        (TURN + "umbrella: {variable: turn, centres: [], force_constant: 1}", "one centre or more"),
        (TURN + "umbrella: {variable: turn, centres: [1], force_constant: -1}", "greater than 0"),
        (TURN + "walls: [{variable: turn, upper: 1, force_constant: 1}]", "has no ends"),
        (TURN + "walls: [{variable: bond, force_constant: 1}]", "lower or upper"),
        (TURN + "metadynamics: {variables: {bond: {width: 0.1}}}", "minimum and maximum"),
        (META + "umbrella: {variable: turn, centres: [1], force_constant: 1}", "got both"),
    ],
)
def test_wrong_files_are_told(tmp_path, text, said):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"plan.yaml.*{said}"):
        read_plan(path)


def test_points_that_make_no_sense_are_refused():
    topology = chain()
    for points, said in (
        ([0, 4], "different atoms from 0 to 3, got 4"),
        ([0, 0], "points 0 and 1 are the same"),
        ([0, [1, 1]], "different atoms"),
        (["name X*", 0], "different atoms from 0 to 3, got"),
        (["foo bar", 0], "is not understood"),
    ):
        plan = BiasPlan(variables={"x": {"distance": points}})
        if isinstance(points[0], str):
            pytest.importorskip("MDAnalysis", reason="needs the package MDAnalysis")
        with pytest.raises(ValueError, match=said.replace("*", r"\*")):
            variable_of("x", plan.variables["x"], topology, np.zeros((4, 3)), BOX)
    other = topology.addResidue("LIG", next(topology.chains()))
    topology.addAtom("Cl", app.Element.getBySymbol("Cl"), other)
    plan = BiasPlan(variables={"x": {"distance": [[0, 4], 2]}})
    with pytest.raises(ValueError, match="2 atoms of 2 molecules"):
        variable_of("x", plan.variables["x"], topology, np.zeros((5, 3)), BOX)
