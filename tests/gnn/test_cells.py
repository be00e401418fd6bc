"""Systems in cells: exact derivatives, one meaning of many cells, batches, free space."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from cells import MODEL, changed, crystal, energies, frame_of, random_model

from gnn import AMP, System
from gnn.data import collate
from gnn.data.extent import extent_of, valences
from gnn.data.neighbours import neighbour_pairs, neighbours_in_cell
from gnn.data.parts import bonds_of, parts_of
from gnn.export import step_inputs
from gnn.options import Dispersion, LongRange
from gnn.published import AmpBms
from gnn.training.committee import Committee
from gnn.training.config import LossConfig
from gnn.training.loss import weighted_loss
from gnn.trust.domain import bonded_as
from multipoles.lattice.cell import cell_of

WHOLE, SLAB, WIRE = True, (True, True, False), (False, True, False)
FREE = {"long_range": LongRange(monopoles="free")}
REPEATS = pytest.mark.parametrize("periodic", [WHOLE, SLAB, WIRE])


@pytest.fixture(scope="module")
def model():
    return random_model()


def numeric(function, array, step=2e-4):
    """Return derivatives of a function of an array, by central differences of fourth order."""
    found = np.zeros_like(array)
    for place in np.ndindex(array.shape):
        moved = np.zeros_like(array)
        moved[place] = step
        near, far = (function(array + k * moved) - function(array - k * moved) for k in (1, 2))
        found[place] = (8 * near - far) / (12 * step)
    return found


def close(found, expected, rtol, least=0.0):
    np.testing.assert_allclose(found, expected, atol=rtol * max(np.abs(expected).max(), least))


# --- edges --------------------------------------------------------------------------------------


@REPEATS
def test_edges_are_those_of_all_images(periodic):
    rng = np.random.default_rng(0)
    cell = 3.5 * np.eye(3) + rng.normal(size=(3, 3))
    x = 15 * rng.normal(size=(6, 3))
    senders, receivers, shifts = neighbours_in_cell(x, 5.5, cell_of(cell, periodic))
    found = x[receivers] - x[senders] - shifts @ cell
    lengths = np.linalg.norm(found, axis=1)
    assert (lengths > 0).all() and (lengths < 5.5).all()
    repeats = (periodic,) * 3 if isinstance(periodic, bool) else periodic
    steps = product(*(range(-30, 31) if yes else (0,) for yes in repeats))
    images = np.array(list(steps)) @ cell
    expected = 0
    for i, j in product(range(6), repeat=2):
        gaps = np.linalg.norm(x[i] - x[j] - images, axis=1)
        expected += np.count_nonzero((gaps < 5.5) & (gaps > 1e-9))
    assert len(receivers) == expected
    assert (np.diff(receivers) >= 0).all()
    assert (senders == receivers).any()  # atoms and their own images


def test_edges_of_a_wide_cell_are_those_of_free_space():
    x = np.random.default_rng(1).uniform(0, 6, (40, 3))
    senders, receivers, shifts = neighbours_in_cell(x, 4.0, cell_of(30 * np.eye(3)))
    expected = neighbour_pairs(x, 4.0)
    # points may lie in different images of the cell, but no face is between them
    assert np.array_equal(senders, expected[0]) and np.array_equal(receivers, expected[1])
    assert not shifts.any()


def test_bonds_and_parts_reach_through_faces():
    water = np.array([[0, 0, 0.0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    numbers = np.array([8, 1, 1, 8, 1, 1])
    cell = np.diag([6.0, 6.0, 6.0])
    whole = np.concatenate([water, water + 3.0])
    torn = whole + np.array([[0, 0, 0], [6, 0, 0], [0, -6, 0], [0, 0, 0], [0, 0, 6], [0, 0, 0]])
    lattice = cell_of(cell)
    for x in (whole, torn):
        assert parts_of(numbers, x, lattice).tolist() == [0, 0, 0, 1, 1, 1]
    assert parts_of(numbers, torn).max() > 1
    system = System(numbers, torn, cell=cell, charges={0: 1, 1: -1})
    np.testing.assert_allclose(system.charges, [1 / 3] * 3 + [-1 / 3] * 3)
    diamond = 3.57 * np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    carbon = np.array([[0, 0, 0], [0.25, 0.25, 0.25]]) * 3.57
    assert bonds_of(np.array([6, 6]), carbon, cell_of(diamond)).tolist() == [[0, 1]] * 4
    chain = cell_of(np.diag([1.4, 9, 9]), (True, False, False))
    assert bonds_of(np.array([6]), np.zeros((1, 3)), chain).tolist() == [[0, 0]]


# --- derivatives --------------------------------------------------------------------------------


@REPEATS
@pytest.mark.parametrize("charge", [0, 1])
def test_forces_and_stress_are_derivatives_of_the_energy(model, periodic, charge):
    system = crystal(periodic, charge)
    (result,) = model.evaluate([system], stress=True)
    energy = energies(model)
    for name, forces in (("positions", "forces"), ("mm_positions", "mm_forces")):
        moved = numeric(lambda x, n=name: energy(changed(system, **{n: x})), getattr(system, name))
        close(result[forces], -moved, 1e-7, 0.1)

    def strained(strain):
        turn = np.eye(3) + 0.5 * (strain + strain.T)
        names = ("positions", "mm_positions", "cell")
        return energy(changed(system, **{n: getattr(system, n) @ turn for n in names}))

    expected = numeric(strained, np.zeros((3, 3))) / abs(np.linalg.det(system.cell))
    close(result["stress"], expected, 1e-6, 1e-4)
    assert np.array_equal(result["stress"], result["stress"].T)
    assert "dipole" not in result


def derivatives_are_exact(model, system):
    (result,) = model.evaluate([system], stress=True, unknown="ignore")
    energy = energies(model)
    moved = numeric(lambda x: energy(changed(system, positions=x)), system.positions)
    close(result["forces"], -moved, 1e-6, 0.1)
    moved = numeric(lambda x: energy(changed(system, mm_positions=x)), system.mm_positions)
    close(result["mm_forces"], -moved, 1e-6, 0.1)

    def stretched(sizes):
        turn = np.eye(3) + np.diag(sizes)
        names = ("positions", "mm_positions", "cell")
        return energy(changed(system, **{n: getattr(system, n) @ turn for n in names}))

    expected = numeric(stretched, np.zeros(3)) / abs(np.linalg.det(system.cell))
    close(np.diag(result["stress"]), expected, 1e-6, 1e-3)
    return result


@pytest.mark.parametrize("periodic", [WHOLE, SLAB])
def test_surrounding_multipoles_are_not_turned_by_a_strain(model, periodic):
    rng = np.random.default_rng(2)
    matrix = 0.005 * rng.normal(size=(2, 3, 3))
    multipoles = {
        "mm_dipoles": 0.02 * rng.normal(size=(2, 3)),
        "mm_quadrupoles": matrix + matrix.swapaxes(1, 2),
    }
    derivatives_are_exact(model, changed(crystal(periodic), **multipoles))


def test_walls_act_through_faces(model):
    """Atoms and charges closer than in training, some of them through the faces of the cell."""
    bounded = AMP.from_config(model.config()).double()
    bounded.load_state_dict(model.state_dict())
    wide = crystal(WHOLE)
    bounded.set_extent(extent_of([changed(wide, cell=1.4 * wide.cell)]), 2.0)
    system = changed(wide, mm_positions=wide.positions[:2] + np.array([1.3, -0.4, 0.5]))
    result = derivatives_are_exact(bounded, system)
    free = model.evaluate([system])[0]
    assert not np.allclose(result["forces"], free["forces"], rtol=1e-3)
    torn = changed(system, positions=system.positions + system.cell[[0, 1, 2, 0]])
    close(bounded.evaluate([torn])[0]["forces"], result["forces"], 1e-9)


def test_committees_have_the_mean_stress(model):
    members = [model, random_model(1)]
    system = crystal(WHOLE)
    (joined,) = Committee(members).evaluate([system], stress=True)
    stresses = [member.evaluate([system], stress=True)[0]["stress"] for member in members]
    np.testing.assert_allclose(joined["stress"], np.mean(stresses, axis=0))
    assert "dipole" not in joined


def test_the_loss_on_forces_and_stress_has_exact_gradients(model):
    """Of a batch of a crystal, a slab and a molecule, by weights: the double backward."""
    rng = np.random.default_rng(3)
    systems = [crystal(WHOLE), crystal(SLAB), crystal(None)]
    frames = [frame_of(s, rng, stress=s.in_cell) for s in systems]
    batch = collate(frames, model.cutoff, torch.float64)
    weights = LossConfig()

    def loss():
        out = model(batch, forces=True, mm_forces=True, stress=True, create_graph=True)
        return weighted_loss(out, batch, weights)

    model.zero_grad()
    loss().backward()
    chosen = [p for p in model.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(p.grad).all()) for p in chosen)
    directions = [torch.randn_like(p) for p in chosen]
    slope = sum(float((d * p.grad).sum()) for d, p in zip(directions, chosen, strict=True))

    def moved(size):
        with torch.no_grad():
            for p, d in zip(chosen, directions, strict=True):
                p.add_(size * d)
        value = loss().item()
        with torch.no_grad():
            for p, d in zip(chosen, directions, strict=True):
                p.sub_(size * d)
        return value

    step = 1e-6
    near, far = (moved(k * step) - moved(-k * step) for k in (1, 2))
    assert slope == pytest.approx((8 * near - far) / (12 * step), rel=1e-6)
    model.zero_grad()


# --- one meaning --------------------------------------------------------------------------------


def compare(model, one, two, copies=1, rtol=1e-9):
    """Check that two systems have energies, forces and stresses of one crystal."""
    first, second = model.evaluate([one, two], stress=True)
    assert second["energy"] == pytest.approx(copies * first["energy"], rel=rtol)
    for name in ("forces", "mm_forces"):
        close(second[name], np.tile(first[name], (copies, 1)), rtol)
    close(second["stress"], first["stress"], rtol)


def supercell(system, factors):
    """Return so many copies of a system along each row of its cell."""
    shifts = np.array(list(product(*map(range, factors)))) @ system.cell
    copies = len(shifts)

    def copied(x):
        return (shifts[:, None] + x).reshape(-1, 3)

    return System(
        np.tile(system.numbers, copies),
        copied(system.positions),
        copies * system.charge,
        copied(system.mm_positions),
        np.tile(system.mm_charges, copies),
        cell=system.cell * np.array(factors)[:, None],
        periodic=system.periodic,
    ).with_charges(np.tile(system.charges, copies))


@REPEATS
def test_supercells_are_copies(model, periodic):
    system = crystal(periodic)
    factors = [2 if yes else 1 for yes in system.periodic]
    compare(model, system, supercell(system, factors), np.prod(factors))


@REPEATS
@pytest.mark.parametrize("charge", [0, 1])
def test_a_cell_whose_states_are_charged_is_half_of_two(periodic, charge):
    """Sums of states need not be neutral: their background is that of the lattice, not of a cell.

    So is that of a charged cell.
    """
    sums, model = [], random_model(**FREE)
    model.steps[0].long_range.register_forward_hook(
        lambda layer, given, _: sums.append(layer._moments(given[0], layer.sent)[:, :, 0].sum(0))
    )
    system = crystal(periodic, charge)
    for row in np.flatnonzero(system.periodic):
        joined = supercell(system, [2 if axis == row else 1 for axis in range(3)])
        sums.clear()
        compare(model, system, joined, 2)
        assert sums[0].abs().max() > 0.1


@REPEATS
def test_images_and_cells_may_be_chosen_freely(model, periodic):
    system = crystal(periodic)
    rng = np.random.default_rng(5)
    repeats = np.array(system.periodic)
    steps = rng.integers(-9, 10, (system.n_atoms + system.n_mm, 3)) * repeats
    moved = steps @ system.cell + rng.normal(size=3)
    n = system.n_atoms
    other = changed(
        system,
        positions=system.positions + moved[:n],
        mm_positions=system.mm_positions + moved[n:],
    )
    compare(model, system, other, rtol=1e-8)
    turn = np.array([[1, 2, 0], [0, 1, 0], [-1, 1, 1]]) * np.outer(repeats, repeats)
    np.fill_diagonal(turn, 1)
    compare(model, system, changed(system, cell=turn @ system.cell))


def test_rows_that_do_not_repeat_have_no_meaning(model):
    system = crystal(SLAB)
    one, two = model.evaluate([system, changed(system, cell=system.cell * [[1], [1], [0]])])
    assert one["energy"] == two["energy"]
    assert np.array_equal(one["forces"], two["forces"])


@pytest.mark.parametrize(("options", "power"), [({"long_range": None}, 3), ({}, 3), (FREE, 1)])
def test_a_wide_cell_is_nearly_free_space(options, power):
    """Images of a neutral molecule act as dipoles do; free monopoles are not neutral."""
    model = random_model(**options)
    neutral = changed(crystal(None), mm_positions=None, mm_charges=None)
    boxed = [changed(neutral, cell=w * np.eye(3), periodic=True) for w in (40.0, 80.0)]
    results = model.evaluate([neutral, *boxed])
    alone, near, far = (result["energy"] for result in results)
    assert 0 < abs(far - alone) < 3e-3 * abs(alone)
    assert (near - alone) / (far - alone) == pytest.approx(2**power, rel=0.05)
    close(results[2]["forces"], results[0]["forces"], 1e-4 if power == 3 else 0.1)


def test_batches_mix_cells_and_free_space(model):
    systems = [
        crystal(None), crystal(WHOLE), crystal(SLAB, 1), crystal(None, 1, n_mm=0),
        crystal(WIRE, n_mm=0), changed(crystal(WHOLE), cell=1.2 * crystal(WHOLE).cell),
    ]  # fmt: skip
    joined = model.evaluate(systems, stress=True)
    for together, system in zip(joined, systems, strict=True):
        (alone,) = model.evaluate([system], stress=system.in_cell)
        assert together.keys() == alone.keys()
        assert ("stress" in alone, "dipole" in alone) == (system.in_cell, not system.in_cell)
        for name, value in alone.items():
            np.testing.assert_allclose(together[name], value, rtol=1e-9, atol=1e-9)


def test_float32_is_near_float64(model):
    single = AMP.from_config(model.config())
    single.load_state_dict(model.state_dict())
    system = crystal(WHOLE)
    far = changed(system, positions=system.positions + 300 * system.cell[:1])
    (exact,), (near,) = (m.evaluate([s], stress=True) for m, s in ((model, system), (single, far)))
    for name in ("energy", "forces", "mm_forces", "stress"):
        close(near[name], exact[name], 1e-4, 1.0)


# --- the border of training -----------------------------------------------------------------------


def test_what_is_known_is_known_through_faces():
    """A pair, a charge or a bond through a face counts as one within the cell."""
    system = crystal(WHOLE)
    shift = np.array([[1, 0, 0], [0, -1, 0], [0, 0, 2], [0, 0, 0]]) @ system.cell
    torn = changed(system, positions=system.positions + shift)
    one, two = extent_of([system]), extent_of([torn])
    for name, values in vars(one).items():
        np.testing.assert_allclose(values, getattr(two, name), rtol=1e-9, err_msg=name)
    assert bonded_as(system) == bonded_as(torn)
    atoms = np.concatenate([system.positions + n * system.cell[0] for n in (-1, 0, 1)])
    line = System(np.tile(system.numbers, 3), atoms)  # of which the middle has both neighbours
    wire = System(system.numbers, system.positions, cell=system.cell, periodic=(True, False, False))
    sums = valences(line)[4:8]
    np.testing.assert_allclose(valences(wire), sums, rtol=1e-3)


def test_novelty_in_a_cell_is_that_of_the_supercell(model):
    twin = AMP.from_config(model.config()).double()
    twin.load_state_dict(model.state_dict())
    rng = np.random.default_rng(0)
    systems = [crystal(WHOLE, seed=k) for k in range(12)]
    twin.set_domain([frame_of(s, rng) for s in systems])
    squeezed = changed(systems[0], cell=0.75 * systems[0].cell)
    moved = changed(squeezed, positions=squeezed.positions + squeezed.cell[:1])
    one, two = twin.evaluate([squeezed, moved], unknown="ignore")
    np.testing.assert_allclose(one["novelty"], two["novelty"], rtol=1e-6)
    assert one["system_novelty"] > 1
    with pytest.raises(ValueError, match="Å from atom"):
        near = changed(systems[0], cell=systems[0].cell * [[0.3], [1], [1]])
        twin.evaluate([near], strict=True)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cell": np.zeros((3, 3))}, "length zero"),
        ({"cell": np.ones((3, 3))}, "linearly dependent"),
        ({"cell": np.full((3, 3), np.nan)}, "finite"),
        ({"cell": [4.0, 4.0, 4.0]}, r"expected shape \(3, 3\)"),
        ({"cell": 9 * np.eye(3), "periodic": (False,) * 3}, "at least one direction"),
        ({"periodic": True}, "there is no cell"),
        ({"cell": 9 * np.eye(3), "uniform_field": [0, 0, 0.1]}, "uniform_field.*repeats"),
        ({"cell": np.diag([9, 9, 2.0])}, "atoms 0 and 1 are at one place.*opposite faces"),
        (
            {"cell": 9 * np.eye(3), "mm_positions": [[9.0, 0, -9.0]], "mm_charges": [1.0]},
            "MM charge 0 lies on atom 0",
        ),
    ],
)
def test_systems_refuse(given, message):
    with pytest.raises(ValueError, match=message):
        System([1, 1], [[0, 0, 0], [0, 0, 2.0]], **given)


def test_wrong_kinds_are_refused():
    with pytest.raises(TypeError, match="periodic: expected a bool or three bools"):
        System([1], np.zeros((1, 3)), cell=np.eye(3), periodic="yes")
    with pytest.raises(TypeError, match="cell"):
        System([1], np.zeros((1, 3)), cell="big")


def test_labels_refuse():
    free, boxed = System([1], np.zeros((1, 3))), System([1], np.zeros((1, 3)), cell=9 * np.eye(3))
    frame = frame_of(boxed, np.random.default_rng(0))
    with pytest.raises(ValueError, match="stress: expected a system with a cell"):
        replace(frame, system=free, stress=np.eye(3))
    with pytest.raises(ValueError, match="stress: expected a symmetric"):
        replace(frame, stress=np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1.0]]))
    with pytest.raises(ValueError, match=r"stress: expected shape \(3, 3\)"):
        replace(frame, stress=np.zeros(6))
    with pytest.raises(ValueError, match="dipole: that of a system in a cell"):
        replace(frame, dipole=np.zeros(3))


def test_models_refuse(model):
    system, flat = crystal(WHOLE), crystal(SLAB)
    with pytest.raises(ValueError, match="no volume"):
        model.evaluate([changed(flat, cell=flat.cell * [[1], [1], [0]])], stress=True)
    batch = collate([crystal(None)], model.cutoff, torch.float64)
    with pytest.raises(ValueError, match="free space only"):
        model(batch, stress=True)
    field = np.ones((system.n_atoms, 4))
    with pytest.raises(ValueError, match="external field does not say"):
        model.evaluate([changed(system, external_field=field)], stress=True)
    torch_twin = AMP(**MODEL | {"backend": "torch"}).double()
    with pytest.raises(ValueError, match="method 'auto'"):
        torch_twin.evaluate([system])
    with pytest.raises(ValueError, match=r"traced step.*in a cell"):
        step_inputs(collate([system], 4.0), (None, None))
    with pytest.raises(ValueError, match="AmpBms computes systems in free space"):
        AmpBms().evaluate([system])


def test_dispersion_is_refused():
    pytest.importorskip("dftd3")
    model = AMP(**MODEL | {"dispersion": Dispersion(functional="b3lyp")}).double()
    with pytest.raises(ValueError, match="dispersion of a model is computed in free space"):
        model.evaluate([crystal(WHOLE)])


def test_a_field_across_a_slab_is_allowed(model):
    system = crystal(SLAB, field=True)
    (result,) = model.evaluate([system])
    energy = energies(model)
    moved = numeric(lambda x: energy(changed(system, positions=x)), system.positions)
    close(result["forces"], -moved, 1e-7, 0.1)


def test_long_range_states_are_part_of_it(model):
    """The model of these tests has all that sums over images."""
    assert model.config()["long_range"] == vars(LongRange())
    assert model.qm_kernel is not None and model.smeared_kernels and model.border is not None
