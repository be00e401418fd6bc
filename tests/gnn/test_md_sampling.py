"""Collective variables, biases and free energies, where the answer is known."""

import numpy as np
import pytest

openmm = pytest.importorskip("openmm", reason="needs the package openmm (extra 'engines')")

from openmm import app, unit

from gnn.engines.sampling.bias import Bias, harmonic
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
    for pair in zip(atoms[:-1], atoms[1:], strict=True):
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
    variable = variable_of(name, plan.variables[name], topology, periodic=True)
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
    bias = Bias(plan, topology)
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
    from gnn.engines.sampling.free_energy import umbrella_free_energy

    beta, rng = 1 / (GAS_CONSTANT * 300.0), np.random.default_rng(5)
    x = np.linspace(-180, 180, 7201)
    potential = 12 * np.cos(np.radians(2 * x)) + 4 * np.sin(np.radians(x))
    plan = UmbrellaPlan(variable="t", centres={"from": -180, "to": 160, "count": 18}, force_constant=60)
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
