import numpy as np
import pytest
import torch

from gnn import units
from gnn.data.systems import Frame, System

WATER = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])


def water(**changes):
    arguments = {"numbers": [8, 1, 1], "positions": WATER} | changes
    return System(**arguments)


def test_units_agree_with_published_values():
    assert pytest.approx(14.3996454784, rel=1e-9) == units.COULOMB
    assert pytest.approx(27.211386246, rel=1e-10) == units.HARTREE
    assert pytest.approx(0.529177210544, rel=1e-9) == units.BOHR
    assert pytest.approx(1 / 23.060547830619, rel=1e-9) == units.KCAL_PER_MOL
    assert pytest.approx(1 / 96.485332123, rel=1e-9) == units.KJ_PER_MOL
    assert pytest.approx(0.2081943, rel=1e-6) == units.DEBYE
    assert pytest.approx(10) == units.NANOMETER
    # Two ways to one number: Hartree times Bohr is e²/(4 pi eps0).
    assert pytest.approx(units.COULOMB, rel=1e-9) == units.HARTREE * units.BOHR


def test_defaults_and_types():
    system = water()
    assert system.numbers.dtype == np.int64
    assert system.positions.dtype == np.float64
    assert system.mm_positions.shape == (0, 3)
    assert system.mm_charges.shape == (0,)
    assert (system.n_atoms, system.n_mm, system.charge) == (3, 0, 0)


def test_takes_torch_and_copies():
    positions = torch.tensor(WATER, dtype=torch.float32, requires_grad=True)
    system = water(numbers=torch.tensor([8, 1, 1]), positions=positions, charge=torch.tensor(-1))
    np.testing.assert_allclose(system.positions, WATER, atol=1e-7)
    assert system.charge == -1 and isinstance(system.charge, int)
    mine = WATER.copy()
    system = water(positions=mine)
    mine += 1
    np.testing.assert_array_equal(system.positions, WATER)


def test_one_atom_and_empty_mm_lists():
    system = System([18], [[1.0, 2.0, 3.0]], 0, [], [])
    assert system.mm_positions.shape == (0, 3)


NAN = WATER.copy()
NAN[1, 2] = np.nan
MM = {"mm_positions": [[3.0, 0, 0], [4.0, 0, 0]], "mm_charges": [0.1, 0.2]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": NAN}, r"positions: expected finite .* got nan at index \(1, 2\)"),
        ({"positions": WATER[:2]}, r"positions: expected shape \(3, 3\), got \(2, 3\)"),
        ({"positions": WATER[:, :2]}, r"expected shape \(3, 3\), got \(3, 2\)"),
        ({"positions": [[0, 0, 0], [1, 1], [2]]}, "rectangular"),
        ({"numbers": [8, 0, 1]}, r"1\.\.94, got 0 for atom 1"),
        ({"numbers": [8, 1, 95]}, "got 95 for atom 2"),
        ({"numbers": [8, 1.5, 1]}, "whole atomic numbers"),
        ({"numbers": []}, "n >= 1"),
        ({"charge": 0.5}, "whole number"),
        ({"charge": np.nan}, "whole number"),
        ({"charge": [0, 1]}, "whole number"),
        ({"mm_positions": [[3.0, 0, 0]]}, "given without mm_charges"),
        ({"mm_charges": [1.0]}, "given without mm_positions"),
        (MM | {"mm_charges": [0.1]}, r"mm_charges: expected shape \(2\), got \(1,\)"),
        (MM | {"mm_charges": [0.1, np.inf]}, "mm_charges: expected finite"),
        (MM | {"mm_positions": [[3.0, 0, 0], WATER[2]]}, "MM charge 1 lies on atom 2"),
        ({"positions": WATER[[0, 1, 0]]}, "atoms 0 and 2 are at one place"),
    ],
)
def test_wrong_input_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        water(**changes)


def test_wrong_types():
    with pytest.raises(TypeError, match="real numbers"):
        water(numbers=["O", "H", "H"])
    with pytest.raises(TypeError, match="expected a System"):
        Frame("water")
    with pytest.raises(TypeError, match="name"):
        Frame(water(), name=3)


def test_coincidence_is_found_in_large_systems():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(9.0)] * 3), -1).reshape(-1, 3)
    mm = grid + 0.5 + 0.1 * rng.random(grid.shape)
    numbers = np.full(len(grid), 6)
    System(numbers, grid, 0, mm, np.ones(len(mm)))
    mm[77] = grid[500] + 1e-5
    with pytest.raises(ValueError, match="MM charge 77 lies on atom 500"):
        System(numbers, grid, 0, mm, np.ones(len(mm)))
    grid[3] = grid[4]
    with pytest.raises(ValueError, match="atoms 3 and 4 are at one place"):
        System(numbers, grid)


def test_frame_checks_labels():
    system = water(**MM)
    frame = Frame(system, energy=np.float32(-3), forces=WATER, mm_forces=np.zeros((2, 3)))
    assert isinstance(frame.energy, float) and frame.dipole is None
    with pytest.raises(ValueError, match=r"forces: expected shape \(3, 3\), got \(2, 3\)"):
        Frame(system, forces=WATER[:2])
    with pytest.raises(ValueError, match=r"mm_forces: expected shape \(2, 3\)"):
        Frame(system, mm_forces=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="energy: expected finite"):
        Frame(system, energy=np.nan)
    with pytest.raises(ValueError, match="dipole"):
        Frame(system, dipole=[1.0, 2.0])


def test_forces_on_no_charges_are_known():
    # no charges: forces on them are no label, even where an empty array is given
    assert Frame(water(), forces=WATER).mm_forces is None
    assert Frame(water(), mm_forces=np.zeros((0, 3))).mm_forces is None
    with pytest.raises(ValueError, match=r"mm_forces: expected shape \(0, 3\)"):
        Frame(water(), mm_forces=np.zeros((2, 3)))
    assert Frame(water(**MM), forces=WATER).mm_forces is None
    assert Frame(water()).mm_forces is None


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_places_that_numbers_cannot_tell_apart_are_refused(kind):
    atoms = np.array([[0, 0, 0], [1.0, 0, 0]])
    far = {np.float32: 1e5, np.float64: 1e15}[kind]
    with pytest.raises(ValueError, match=rf"numbers of type {kind.__name__} are .* apart"):
        System([1, 1], (atoms + far).astype(kind))
    System([1, 1], (atoms + far / 1e4).astype(kind))


def test_what_is_beyond_a_model_is_named_with_charge_and_field():
    from gnn.trust.sanity import _extremes

    system = System([1, 1], [[0, 0, 0], [0, 0, 0.7]], 7, uniform_field=[0, 0, -1e6])
    assert "total charge is 7 e" in _extremes(system)
    assert "uniform field goes up to 1e+06 V/Å" in _extremes(system)
