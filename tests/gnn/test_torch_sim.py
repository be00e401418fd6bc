"""Our models in torch-sim: batches give what single evaluations give, and keep their energy."""

import numpy as np
import pytest
import torch

from gnn import load_model

ts = pytest.importorskip("torch_sim", reason="needs the package torch-sim-atomistic")
from ase.build import molecule  # noqa: E402

from gnn.engines.torch_sim import BatchedModel  # noqa: E402


@pytest.fixture(scope="module")
def model():
    return BatchedModel(dtype="float64")


def state_of(atoms):
    return ts.io.atoms_to_state(atoms, torch.device("cpu"), torch.float64)


def test_a_batch_is_its_systems(model):
    atoms = [molecule("CH3OH"), molecule("H2O"), molecule("CH4")]
    found = model(state_of(atoms))
    at = 0
    for k, one in enumerate(atoms):
        from gnn import System

        (wanted,) = load_model().double().evaluate([System(one.numbers, one.positions)])
        assert found["energy"][k] == pytest.approx(wanted["energy"])
        np.testing.assert_allclose(found["forces"][at : at + len(one)], wanted["forces"], atol=1e-9)
        at += len(one)


def test_a_cell_and_its_stress():
    from gnn import System

    atoms = molecule("H2O", cell=[5.0, 6.0, 7.0], pbc=True)
    atoms.cell[1, 0] = 1.0
    found = BatchedModel(dtype="float64", compute_stress=True)(state_of([atoms]))
    given = System(atoms.numbers, atoms.positions, cell=atoms.cell.array)
    (wanted,) = load_model().double().evaluate([given], stress=True)
    assert found["energy"][0] == pytest.approx(wanted["energy"])
    np.testing.assert_allclose(found["stress"][0], wanted["stress"], atol=1e-12)
    with pytest.raises(ValueError, match="have no stress"):
        BatchedModel(compute_stress=True)(state_of([molecule("H2O")]))


def test_dynamics_keep_the_energy(model):
    state = state_of([molecule("CH3OH"), molecule("H2O")])
    from torch_sim.integrators import nve

    begin, step = nve(model=model, dt=torch.tensor(0.0001 * 98.2269), kT=torch.tensor(0.02))
    state = begin(state)
    total = []
    for _ in range(20):
        state = step(state)
        kinetic = 0.5 * (state.momenta**2 / state.masses[:, None]).sum()
        total.append(float(state.energy.sum() + kinetic))
    assert np.ptp(total) < 3e-4
