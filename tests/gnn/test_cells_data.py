"""Cells and stresses in files, in ASE, and in training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from cells import MODEL, changed, crystal, frame_of, random_model
from tiny import tiny_config

from gnn import AMP, System
from gnn.data import collate, read_frames, write_frames
from gnn.data.streaming import stream_frames
from gnn.training.frames.labels import label_lines
from gnn.training.loop import Trainer
from gnn.training.report.metrics import compare, without_surroundings
from gnn.training.report.predict import write_predictions

WHOLE, SLAB = True, (True, True, False)


def labelled():
    rng = np.random.default_rng(4)
    systems = [crystal(WHOLE), crystal(WHOLE, seed=1), crystal(SLAB), crystal(None), crystal(WHOLE)]
    frames = [frame_of(system, rng, stress=system.in_cell) for system in systems]
    return [*frames[:4], replace(frames[4], stress=None)]


def same(frame, other, digits=1e-12):
    one, two = frame.system, other.system
    assert one.periodic == two.periodic
    assert (one.cell is None) == (two.cell is None)
    if one.cell is not None:
        np.testing.assert_allclose(two.cell, one.cell, rtol=1e-12)
    np.testing.assert_allclose(two.positions, one.positions, atol=digits)
    assert (frame.stress is None) == (other.stress is None)
    if frame.stress is not None:
        np.testing.assert_allclose(other.stress, frame.stress, rtol=1e-12)


@pytest.mark.parametrize("suffix", [".h5", ".xyz"])
def test_files_keep_cells_and_stresses(tmp_path, suffix):
    frames = labelled()
    path = tmp_path / f"crystals{suffix}"
    write_frames(path, frames)
    digits = 1e-7 if suffix == ".xyz" else 1e-12
    for frame, other in zip(frames, read_frames(path), strict=True):
        same(frame, other, digits)
    if suffix == ".h5":
        streamed = stream_frames(path, block=2)
        for frame, other in zip(frames, streamed, strict=True):
            same(frame, other)
        assert [h.system.in_cell for h in streamed.headers()] == [True, True, True, False, True]
        assert streamed.labels()[:, -1].tolist() == [True, True, True, False, False]
        assert streamed.take([3, 0])[1].system.in_cell


def test_ase_reads_what_is_written_and_the_other_way(tmp_path):
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import read, write

    (frame, *_, slab) = labelled()[:3]
    path = tmp_path / "one.xyz"
    write_frames(path, [frame, slab])
    first, second = read(path, ":")
    np.testing.assert_allclose(first.cell.array, frame.system.cell)
    assert first.pbc.all() and second.pbc.tolist() == [True, True, False]
    atoms = Atoms("H2", [[0, 0, 0], [1, 0, 0]], cell=[4, 5, 6], pbc=True)
    atoms.cell[1, 0] = 1.0
    stress = np.array([1.0, 2, 3, 4, 5, 6]) * 1e-3
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, stress=stress)
    write(tmp_path / "theirs.xyz", atoms)
    (read_back,) = read_frames(tmp_path / "theirs.xyz")
    expected = 1e-3 * np.array([[1, 6, 5], [6, 2, 4], [5, 4, 3.0]])
    np.testing.assert_allclose(read_back.stress, expected)
    for key in ("virial", "REF_virial"):
        atoms.calc = None
        atoms.info = {key: -120.0 * expected}
        write(tmp_path / "virial.xyz", atoms)
        (read_back,) = read_frames(tmp_path / "virial.xyz")
        np.testing.assert_allclose(read_back.stress, expected, atol=1e-9)


def test_files_say_what_is_not_read(tmp_path):
    line = '1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 {}\nHe 0 0 0\n'
    path = tmp_path / "he.xyz"
    path.write_text(line.format('REF_energy=-1.0 REF_dipole="0 0 1"'))
    with pytest.warns(UserWarning, match="dipole is not read: in a cell"):
        (frame,) = read_frames(path)
    assert frame.system.periodic == (True, True, True) and frame.dipole is None
    path.write_text(line.format("REF_energy=-1.0 REF_stress=3.0"))
    with pytest.raises(ValueError, match="nine numbers, or six"):
        read_frames(path)
    path.write_text(line.format('pbc="F F F" REF_energy=-1.0 REF_stress="1 0 0 0 1 0 0 0 1"'))
    (frame,) = read_frames(path)
    assert frame.stress is None and not frame.system.in_cell
    path.write_text(line.format("").replace("4 0 0 0 4", "0 0 0 0 4"))
    with pytest.raises(ValueError, match="length zero"):
        read_frames(path)
    path.write_text(line.format('dft_stress="1 0 0 0 1 0 0 0 1" REF_energy=1.0'))
    with pytest.warns(UserWarning, match=r"none is read, though 'dft_stress'"):
        read_frames(path)
    (frame,) = read_frames(path, keys={"stress": "dft_stress"})
    assert np.array_equal(frame.stress, np.eye(3))
    both = 'REF_stress="0 0 0 0 0 0" virial="64 0 0 0 64 0 0 0 64" REF_energy=1.0'
    path.write_text(line.format(both))
    with pytest.warns(UserWarning, match=r"'virial' is of another, by up to 1 eV/Å³"):
        read_frames(path)


def test_hdf5_refuses_what_is_no_cell(tmp_path):
    import h5py

    path = tmp_path / "crystals.h5"
    write_frames(path, labelled()[:1])
    with h5py.File(path, "a") as file:
        (group,) = file.values()
        group.attrs["periodic"] = [2, 1, 1]
    with pytest.raises(ValueError, match="'periodic' should be three bools"):
        read_frames(path)
    with h5py.File(path, "a") as file:
        (group,) = file.values()
        del group.attrs["periodic"]
    assert read_frames(path)[0].system.periodic == (True, True, True)
    with h5py.File(path, "a") as file:
        (group,) = file.values()
        group["cell"][:] = 0.0
    with pytest.raises(ValueError, match="length zero"):
        read_frames(path)


# --- training -------------------------------------------------------------------------------------


def test_training_learns_a_stress(tmp_path):
    teacher = random_model()
    systems = [
        changed(crystal(WHOLE, seed=k), mm_positions=None, mm_charges=None) for k in range(8)
    ]
    results = teacher.evaluate(systems, stress=True)
    frames = [
        replace(frame_of(s, np.random.default_rng(0)), stress=r["stress"], energy=r["energy"],
                forces=r["forces"])
        for s, r in zip(systems, results, strict=True)
    ]  # fmt: skip
    torch.manual_seed(7)
    model = AMP(**MODEL | {"steps": 1})
    model.set_baseline(frames)
    config = tiny_config(loss={"stress": 10.0}, epochs=3, batch_size=4, validate_every=1)
    trainer = Trainer(model, config, frames[:6], frames[6:], tmp_path)
    trainer.run()
    rows = trainer.history
    assert all(np.isfinite(row["validation_stress_rmse"]) for row in rows)
    comparison = compare(model.evaluate(frames, stress=True), frames)
    assert comparison.errors("stress") is not None and comparison.count("stress") == (8, 8)
    assert without_surroundings(frames[0]).system.in_cell
    told = label_lines({"train": frames[:6]})[0]
    assert "stress in all frames" in told and "dipole in none" not in told


def test_predictions_of_cells_are_written(tmp_path):
    model, frames = random_model(), labelled()
    results = model.evaluate(frames, stress=True)
    write_predictions(tmp_path / "out.h5", frames, results)
    written = read_frames(tmp_path / "out.h5")
    np.testing.assert_allclose(written[2].stress, results[2]["stress"])
    assert written[3].dipole is not None and written[3].stress is None


def test_labels_of_a_mixed_batch():
    batch = collate(labelled(), 4.0, torch.float64)
    assert batch.labels["stress"].rows.tolist() == [0, 1, 2]
    assert batch.in_cell.tolist() == [True, True, True, False, True]
    assert batch.to(torch.float32).cell.dtype == torch.float32
    with pytest.raises(ValueError, match="only some systems"):
        _ = batch.stress


# --- ASE ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calculator():
    from gnn.engines.ase import AMPCalculator

    torch.manual_seed(1)
    return AMPCalculator(AMP(**MODEL).double())


def box(calculator):
    from ase import Atoms

    water = np.array([[0, 0, 0], [0.757, 0.586, 0], [-0.757, 0.586, 0]])
    cell = [[4.2, 0, 0], [0.3, 4.4, 0], [0, 0, 4.6]]
    return Atoms("OHH", water, cell=cell, pbc=True, calculator=calculator)


def test_the_calculator_has_stress_and_no_dipole(calculator):
    from ase.calculators.calculator import PropertyNotImplementedError

    atoms = box(calculator)
    stress = atoms.get_stress()
    (result,) = calculator.model.evaluate(
        [System(atoms.numbers, atoms.positions, cell=atoms.cell.array)], stress=True
    )
    np.testing.assert_allclose(stress, result["stress"].ravel()[[0, 4, 8, 5, 2, 1]])
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_dipole_moment()
    energy = atoms.get_potential_energy()
    atoms.set_cell(1.1 * atoms.cell)
    assert atoms.get_potential_energy() != energy
    atoms.pbc = (True, False, False)
    atoms.cell[1:] = 0.0
    assert np.isfinite(atoms.get_forces()).all()
    with pytest.raises(ValueError, match="no volume"):
        atoms.get_stress()
    atoms.pbc = False
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()
    assert atoms.get_dipole_moment().shape == (3,)


def test_a_cell_relaxes():
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    from gnn.engines.ase import AMPCalculator

    atoms = box(AMPCalculator(dtype="float64"))  # the model that ships
    energy, stress = atoms.get_potential_energy(), np.abs(atoms.get_stress()).max()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.02, steps=40)
    assert atoms.get_potential_energy() < energy
    assert np.abs(atoms.get_stress()).max() < 0.3 * stress


def test_dynamics_in_a_cell_conserves_energy(calculator):
    from ase import units
    from ase.md.verlet import VelocityVerlet

    atoms = box(calculator)
    atoms.set_velocities(0.02 * np.random.default_rng(0).normal(size=(3, 3)))
    dynamics = VelocityVerlet(atoms, 0.25 * units.fs)
    totals, potentials = [], []
    for _ in range(60):
        dynamics.run(1)
        potentials.append(atoms.get_potential_energy())
        totals.append(atoms.get_total_energy())
    assert np.ptp(totals) < 0.01 * np.ptp(potentials)


def test_a_barostat_conserves_its_energy():
    """Forces and stress are derivatives of one energy: the extended energy stays."""
    chain = pytest.importorskip("ase.md.nose_hoover_chain")
    from ase import units

    from gnn.engines.ase import AMPCalculator

    atoms = box(AMPCalculator(dtype="float64"))
    atoms.set_velocities(0.01 * np.random.default_rng(0).normal(size=(3, 3)))
    settings = {"tdamp": 50 * units.fs, "pdamp": 100 * units.fs, "pressure_au": 0.0}
    dynamics = chain.MTKNPT(atoms, 0.25 * units.fs, temperature_K=150, **settings)
    conserved, potentials = [], []
    for _ in range(40):
        dynamics.run(2)
        conserved.append(dynamics.get_conserved_energy())
        potentials.append(atoms.get_potential_energy())
    assert np.ptp(conserved) < 2e-3 * np.ptp(potentials)


def test_charge_is_kept_in_molecules_that_faces_cut(calculator):
    """Formal charges of parts are those of molecules that faces cut."""
    from gnn.engines.ase import AMPCalculator

    atoms = box(calculator)
    atoms.positions[1] += atoms.cell[0]
    atoms.calc = AMPCalculator(calculator.model, charge=1)
    assert atoms.get_charges().sum() == pytest.approx(1, abs=1e-9)
