"""Dispersion by libraries, and what is said where they are missing."""

import sys

import numpy as np
import pytest
import torch
from tiny import MODEL

from gnn import AMP, System
from gnn.data import collate
from gnn.export import Traceable
from gnn.layers.dispersion import dispersion_energy, parameters
from gnn.options import Dispersion
from gnn.units import BOHR, HARTREE

METHODS = {"d3bj": "dftd3", "d4": "dftd4"}
WATER = System([8, 1, 1], [[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
DIMER = System(
    [*WATER.numbers] * 2, [*WATER.positions, *(WATER.positions + np.array([0.3, 0, 3.1]))]
)
ION = System([7, 1, 1, 1, 1], [[0, 0, 0], *(0.6 * np.array(
    [[1.0, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]))], 1)  # fmt: skip


def _of(systems, method, dtype=torch.float64):
    batch = collate(systems, 5.0, dtype=dtype)
    positions = batch.positions.requires_grad_()
    given = positions, batch.numbers, batch.batch, batch.charge
    return dispersion_energy(*given, method, "b3lyp"), positions


@pytest.fixture(params=METHODS)
def method(request):
    pytest.importorskip(METHODS[request.param], reason=f"needs {METHODS[request.param]}")
    return request.param


def test_energies_of_water(method):
    """Of the libraries' own command lines (Hartree): one molecule, B3LYP."""
    expected = {"d3bj": -0.00057387, "d4": -0.00031005}[method]
    energy = _of([WATER, System([6], [[0, 0, 0]])], method)[0].detach()
    assert float(energy[0]) / HARTREE == pytest.approx(expected, abs=2e-8)
    assert float(energy[1]) == 0


def test_gradients_and_batches(method):
    energy, positions = _of([WATER, ION, DIMER], method)
    alone = torch.cat([_of([system], method)[0] for system in (WATER, ION, DIMER)])
    torch.testing.assert_close(energy, alone, rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(energy @ energy.new_tensor([1.0, 2.0, 3.0]), positions)
    for atom, axis, weight, system in ((0, 0, 1, WATER), (3, 2, 2, ION), (8, 2, 3, DIMER)):
        first = {WATER: 0, ION: 3, DIMER: 8}[system]
        pair = []
        for sign in (1, -1):
            x = system.positions.copy()
            x[atom - first, axis] += sign * 1e-3 * BOHR
            pair.append(float(_of([System(system.numbers, x, system.charge)], method)[0].detach()))
        slope = weight * (pair[0] - pair[1]) / (2e-3 * BOHR)
        assert float(gradient[atom, axis]) == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_it_attracts_and_falls_off_as_the_sixth_power(method):
    at = [System([6, 6], [[0, 0, 0], [0, 0, r]]) for r in (12.0, 24.0)]
    energy = _of(at, method)[0].detach().numpy()
    assert energy[0] < 0 and energy[0] / energy[1] == pytest.approx(64, rel=0.1)


def test_a_model_adds_it(method):
    torch.manual_seed(0)
    bare = AMP.from_config(MODEL).double()
    config = bare.config() | {"dispersion": {"method": method}}
    model = AMP.from_config(config).double()
    model.load_state_dict(bare.state_dict())
    assert model.config()["dispersion"] == {"method": method, "functional": "b3lyp"}
    assert bare.config()["dispersion"] is None
    one, two = (m.evaluate([DIMER, ION]) for m in (bare, model))
    energy, positions = _of([DIMER, ION], method)
    (gradient,) = torch.autograd.grad(energy.sum(), positions)
    added = [b["energy"] - a["energy"] for a, b in zip(one, two, strict=True)]
    np.testing.assert_allclose(added, energy.detach(), atol=1e-10)
    forces = np.concatenate([b["forces"] - a["forces"] for a, b in zip(one, two, strict=True)])
    np.testing.assert_allclose(forces, -gradient, atol=1e-10)
    batch = collate([DIMER], 5.0, torch.float64, local_charges=True)
    loss = model(batch, forces=True, create_graph=True)
    loss["forces"].square().sum().backward()  # training on forces: a fixed addition
    with pytest.raises(ValueError, match="dispersion is computed by a library"):
        Traceable.of(model)


def test_float32(method):
    energy, positions = _of([DIMER], method, torch.float32)
    (gradient,) = torch.autograd.grad(energy.sum(), positions)
    assert energy.dtype == gradient.dtype == torch.float32
    np.testing.assert_allclose(energy.detach(), _of([DIMER], method)[0].detach(), rtol=1e-5)


def test_an_unknown_functional_is_refused(method):
    with pytest.raises(ValueError, match=r"dispersion\.functional: .* has none for 'b4lyp'"):
        AMP.from_config({"dispersion": {"method": method, "functional": "b4lyp"}})


def test_a_missing_library_is_named(monkeypatch):
    parameters.cache_clear()
    monkeypatch.setitem(sys.modules, "dftd4", None)
    monkeypatch.setitem(sys.modules, "dftd4.interface", None)
    with pytest.raises(ModuleNotFoundError, match="needs the library dftd4: pip install dftd4"):
        AMP(dispersion=Dispersion("d4"))


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match=r"dispersion\.method to be one of"):
        Dispersion("d2")
    with pytest.raises(ValueError, match=r"dispersion\.functional as the name"):
        Dispersion("d4", "")
