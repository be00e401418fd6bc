"""Charges that are local: conserved by parts, smooth, and energies of far parts that add up."""

import warnings

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import multipoles as mp
from gnn import AMP, Frame, System, potential
from gnn.data import collate, prepare, prepared
from gnn.data.parts import parts_of
from gnn.layers.charges import LocalCharges
from gnn.layers.diffusion import diffused
from gnn.layers.long_range import LongRangeCoupling
from gnn.layers.message import Graph
from gnn.options import FORMER_DEFAULTS, LongRange, Network
from gnn.training.checkpoint import SHIPPED, load_model, model_state, save
from gnn.training.config import parse_config
from gnn.training.setup import build_model
from gnn.units import COULOMB
from multipoles import reference

_T = 1.02 / np.sqrt(3)
MONOMERS = {
    "NH4": (
        [7, 1, 1, 1, 1],
        _T * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]), 1,
    ),
    "Cl": ([17], np.zeros((1, 3)), -1),
    "H2O": ([8, 1, 1], np.array([[0, 0, 0.0], [0.757, 0, 0.586], [-0.757, 0, 0.586]]), 0),
    "acetate": (
        [6, 6, 8, 8, 1, 1, 1],
        np.array([
            [0, 0, 0], [1.54, 0, 0], [2.13, 1.1, 0], [2.13, -1.1, 0],
            [-0.4, 1.0, 0], [-0.4, -0.5, 0.87], [-0.4, -0.5, -0.87],
        ]), -1,
    ),
}  # fmt: skip


def monomer(name, shift=(0.0, 0, 0), **more):
    numbers, positions, charge = MONOMERS[name]
    turned = positions @ Rotation.from_euler("xyz", [0.3, 0.8, -0.4]).as_matrix().T
    return System(numbers, turned + shift, charge, **more)


def pair(*parts, **more):
    """One system of several."""
    numbers, positions = ([getattr(p, n) for p in parts] for n in ("numbers", "positions"))
    charges = dict(enumerate(p.charge for p in parts))
    return System(np.concatenate(numbers), np.concatenate(positions), charges=charges, **more)


def random_model(dtype=torch.float64, **options):
    torch.manual_seed(1)
    sizes = {"order": 2, "channels": 4, "features": 12, "network": Network(hidden=16)}
    options = sizes | {"backend": "torch"} | options  # nothing to compile
    model = AMP(**options).to(dtype)
    with torch.no_grad():  # biases and output layers off their neutral start
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.charge_baseline.fill_(0.7)
    return model


def random_graph(seed=0, n=9, size=4.0, cutoff=3.0):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.uniform(0, size, (n, 3)), requires_grad=True)
    distances = torch.cdist(x.detach(), x.detach())
    receivers, senders = torch.nonzero((distances > 0) & (distances < cutoff)).unbind(1)
    vectors = x[receivers] - x[senders]
    lengths = vectors.norm(dim=1, keepdim=True)
    fade = (1 - (lengths / cutoff)) ** 3
    features = torch.randn(len(senders), 5, dtype=torch.float64)
    return Graph(senders, receivers, vectors / lengths, fade, features, n)


# --- the layers -----------------------------------------------------------------------------------


def test_diffusion_conserves_and_keeps_what_is_even():
    graph = random_graph(size=9.0)
    ends = graph.fade, graph.senders, graph.receivers
    charges = torch.randn(9, 1, dtype=torch.float64)
    after = diffused(charges, *ends)
    reached = torch.eye(9, dtype=torch.bool)
    reached[graph.receivers, graph.senders] = True
    for _ in range(9):
        reached = (reached.float() @ reached.float()) > 0
    torch.testing.assert_close(
        reached.double() @ after, reached.double() @ charges, atol=1e-13, rtol=0
    )
    assert not torch.equal(after, charges)
    assert after.abs().max() <= charges.abs().max()
    even = torch.full((9, 1), 1 / 3, dtype=torch.float64)
    assert torch.equal(diffused(even, *ends), even)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("split", [True, False])
def test_transfers_conserve_charge(dtype, split):
    graph = random_graph()
    torch.manual_seed(0)
    layer = LocalCharges(6, 5, 8, split=split).to(dtype)
    graph.fade, graph.features = graph.fade.to(dtype), graph.features.to(dtype)
    start = torch.randn(9, dtype=dtype)
    charges = layer(torch.randn(9, 6, dtype=dtype), graph, start)
    assert charges.shape == (9,) and not torch.allclose(charges, start)
    tolerance = 1e-13 if dtype == torch.float64 else 1e-5
    assert abs(float((charges - start).sum())) < tolerance
    nothing = torch.zeros(0, dtype=torch.int64)
    alone = Graph(nothing, nothing, graph.directions[:0], graph.fade[:0], graph.features[:0], 1)
    one = torch.ones(1, dtype=dtype)
    assert torch.equal(layer(torch.randn(1, 6, dtype=dtype), alone, one), one)


def test_a_fresh_network_moves_little_charge():
    torch.manual_seed(0)
    model = AMP(backend="torch")
    charges = model.evaluate([monomer("NH4"), monomer("acetate")])
    for result, share in zip(charges, (1 / 5, -1 / 7), strict=True):
        assert abs(result["charges"] - share).max() < 0.5


# --- the model ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_part_keeps_its_charge(dtype):
    model = random_model(dtype)
    parts = monomer("NH4"), monomer("acetate", [9.0, 0, 0]), monomer("H2O", [0, 9.0, 0])
    (result,) = model.evaluate([pair(*parts)])
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    ends = np.cumsum([part.n_atoms for part in parts])[:-1]
    for part, charges in zip(parts, np.split(result["charges"], ends), strict=True):
        assert charges.sum() == pytest.approx(part.charge, abs=tolerance)
        assert part.n_atoms == 1 or np.ptp(charges) > 1e-3
    near = pair(monomer("NH4"), monomer("acetate", [3.5, 0, 0]))
    (result,) = model.evaluate([near])
    assert abs(result["charges"].sum()) < tolerance
    assert abs(result["charges"][:5].sum() - 1) > 1e-4  # in contact, charge moves


def test_a_single_part_sees_its_charge_per_atom_as_before():
    """With equal weights, local and shared charges give a single molecule one network energy."""
    local = random_model(electrostatics=None)
    shared = random_model(electrostatics=None, charges="shared")
    state = {k: v for k, v in local.state_dict().items() if not k.startswith("multipoles.charge")}
    shared.load_state_dict(state, strict=False)
    system = monomer("acetate")
    one, two = (model.evaluate([system])[0] for model in (local, shared))
    assert one["energy"] == pytest.approx(two["energy"], abs=1e-12)
    np.testing.assert_allclose(one["forces"], two["forces"], atol=1e-11)


def around(seed=3):
    rng = np.random.default_rng(seed)
    mm = rng.standard_normal((6, 3))
    mm *= 6.0 / np.linalg.norm(mm, axis=1, keepdims=True)
    return {"mm_positions": mm, "mm_charges": rng.uniform(-0.5, 0.5, 6)}


def coulomb(results, systems, through):
    """Energy in eV of the multipoles of two systems, through charges or all of them."""
    q, x = ([r["charges"] for r in results], [s.positions for s in systems])
    if through == "charges":
        distances = np.linalg.norm(x[0][:, None] - x[1], axis=2)
        return COULOMB * float((q[0][:, None] * q[1] / distances).sum())
    packed = [mp.pack(r["charges"], r["dipoles"], r["quadrupoles"]) for r in results]
    field = reference.field(x[0], x[1], packed[1], order=2)
    return COULOMB * float((packed[0] * field).sum())


@pytest.mark.parametrize("surrounded", [False, True])
@pytest.mark.parametrize(
    "names", [("H2O", "H2O"), ("NH4", "H2O"), ("NH4", "acetate"), ("Cl", "NH4")]
)
def test_far_parts_are_what_they_are_alone(names, surrounded):
    model = random_model()
    more = around() if surrounded else {}
    one, two = monomer(names[0], **more), monomer(names[1], [0, 0, 1000.0], **more)
    whole, first, second = model.evaluate([pair(one, two, **more), one, two])
    interaction = whole["energy"] - first["energy"] - second["energy"]
    charges = one.charge * two.charge
    if surrounded:
        # the surroundings act on both; what is left are multipoles that they induced
        assert interaction == pytest.approx(coulomb([first, second], [one, two], "all"), abs=1e-6)
        return
    monopoles = coulomb([first, second], [one, two], "charges")
    multipoles = coulomb([first, second], [one, two], "all")
    assert interaction == pytest.approx(multipoles, abs=1e-6)
    assert interaction == pytest.approx(monopoles, abs=2e-5)  # charge and dipole: 1000 Å are near
    assert interaction == pytest.approx(COULOMB * charges / 1000.0, abs=1e-3)
    np.testing.assert_allclose(whole["charges"][: one.n_atoms], first["charges"], atol=1e-12)


def test_shared_charges_leak():
    model = random_model(charges="shared")
    one, two = monomer("NH4"), monomer("acetate", [0, 0, 1000.0])
    with pytest.warns(UserWarning, match="leak"):
        whole, first, second = model.evaluate([pair(one, two), one, two])
    expected = coulomb([first, second], [one, two], "charges")
    assert abs(whole["energy"] - first["energy"] - second["energy"] - expected) > 1e-3


@pytest.mark.parametrize("names", [("NH4", "Cl"), ("NH4", "acetate"), ("H2O", "H2O")])
def test_smooth_on_the_way_in(names):
    """Energy, its first and second derivative are continuous where the first edge appears."""
    model = random_model(cutoff=4.0)
    one, two = monomer(names[0]), monomer(names[1])
    axis = np.array([0, 0, 1.0])
    z = one.positions[:, 2].max() - two.positions[:, 2].min()  # first guess of contact

    def gap(r):
        moved = two.positions + (z + r) * axis
        return np.linalg.norm(one.positions[:, None] - moved, axis=2).min()

    low, high = 0.0, 9.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if gap(middle) < 4.0 else (low, middle)
    h = 1e-3
    r = low + h * np.arange(-6, 7)
    systems = [
        pair(one, System(two.numbers, two.positions + (z + s) * axis, two.charge)) for s in r
    ]
    results = model.evaluate(systems)
    energies = np.array([result["energy"] for result in results])
    forces = np.array([result["forces"][one.n_atoms :, 2].sum() for result in results])
    slope = (energies[2:] - energies[:-2]) / (2 * h)
    np.testing.assert_allclose(-slope, forces[1:-1], atol=1e-5)
    second = np.diff(forces) / h
    assert np.abs(np.diff(second)).max() < 0.05 * h / 2e-3 * max(1.0, np.abs(second).max())
    for result in results:
        np.testing.assert_allclose(result["forces"].sum(0), 0, atol=1e-10)


def test_forces_are_the_gradient():
    model = random_model(order=1, steps=1, long_range=LongRange())
    system = pair(monomer("NH4"), monomer("H2O", [3.1, 0.4, 0]), monomer("Cl", [0, 4.2, 0]))
    (result,) = model.evaluate([system])
    direction = np.random.default_rng(2).standard_normal(system.positions.shape)
    step, e = 1e-4, []
    for k in (-2, -1, 1, 2):
        moved = System(system.numbers, system.positions + k * step * direction, 0)
        e.append(model.evaluate([moved.with_charges(system.charges)])[0]["energy"])
    slope = (e[0] - 8 * e[1] + 8 * e[2] - e[3]) / (12 * step)
    assert slope == pytest.approx(-(result["forces"] * direction).sum(), rel=1e-6)
    np.testing.assert_allclose(result["forces"].sum(0), 0, atol=1e-10)


def test_permutation_and_rotation():
    model = random_model()
    system = pair(monomer("NH4"), monomer("acetate", [4.0, 0, 1.0]), monomer("H2O", [0, 5.0, 0]))
    order = np.random.default_rng(0).permutation(system.n_atoms)
    turn = Rotation.from_quat(np.random.default_rng(1).normal(size=4)).as_matrix()
    other = System(system.numbers[order], system.positions[order] @ turn.T, 0)  # derived
    one, two = model.evaluate([system, other])
    assert two["energy"] == pytest.approx(one["energy"], abs=1e-10)
    np.testing.assert_allclose(two["charges"], one["charges"][order], atol=1e-11)
    np.testing.assert_allclose(two["forces"], one["forces"][order] @ turn.T, atol=1e-10)


def test_batches_of_mixed_systems_equal_singles():
    model = random_model()
    systems = [
        monomer("Cl"), pair(monomer("NH4"), monomer("Cl", [4.0, 0, 0])), monomer("acetate"),
        pair(monomer("H2O"), monomer("H2O", [3.0, 0, 0]), **around()), System([1], [[0, 0, 0]], 1),
    ]  # fmt: skip
    together = model.evaluate(systems)
    for system, result in zip(systems, together, strict=True):
        (alone,) = model.evaluate([system])
        for name, value in alone.items():
            np.testing.assert_allclose(result[name], value, atol=1e-11, err_msg=name)


def test_many_waters():
    model = random_model(torch.float32, order=1, steps=1, electrostatics=None)
    grid = np.stack(np.meshgrid(*[np.arange(5.0)] * 3), -1).reshape(-1, 3)[:100] * 3.1
    water = MONOMERS["H2O"][1]
    system = System([8, 1, 1] * 100, (grid[:, None] + water).reshape(-1, 3), 0)
    (result,) = model.evaluate([system])
    assert abs(result["charges"].sum()) < 1e-4 and np.isfinite(result["forces"]).all()


@pytest.mark.parametrize("backend", ["compiled", "torch"])
def test_single_atoms(backend):
    model = random_model(backend=backend)
    for number, charge in ((17, -1), (11, 1), (18, 0)):
        (result,) = model.evaluate([System([number], [[0, 0, 0]], charge)])
        assert result["charges"].tolist() == [charge]


# --- borders --------------------------------------------------------------------------------------


def test_a_batch_without_charges_is_refused():
    model = random_model()
    system = System([17, 11], [[0, 0, 0], [0, 0, 6.0]])
    assert model.evaluate([system])[0]["charges"].tolist() == [-1, 1]
    with pytest.raises(ValueError, match="local_charges=True"):
        model(collate([system], model.cutoff, torch.float64))
    unclear = System([8, 8], [[0, 0, 0], [0, 0, 6.0]])
    with pytest.raises(ValueError, match=r"system 0: charges: .*O \(atoms 0\)"):
        model.evaluate([unclear])
    given = System([8, 8], [[0, 0, 0], [0, 0, 6.0]], charges={0: 0, 1: 0})
    assert model.evaluate([given])[0]["charges"].tolist() == [0, 0]


def test_shared_charges_warn_once_of_several_parts():
    model = random_model(charges="shared")
    far = System([17, 11], [[0, 0, 0], [0, 0, 6.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.evaluate([monomer("acetate")])
    with pytest.warns(UserWarning, match="charges of far parts leak into each other"):
        model.evaluate([far])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.evaluate([far])
        random_model().evaluate([far])


def test_models_with_shared_charges_look_for_parts_once_for_each_list_of_atoms(monkeypatch):
    looked = []

    def counted(numbers, positions, lattice):
        looked.append(len(numbers))
        return parts_of(numbers, positions, lattice)

    for module in (potential, prepared):
        monkeypatch.setattr(module, "parts_of", counted)
    model = random_model(charges="shared")
    model.evaluate([monomer("acetate"), monomer("H2O"), monomer("acetate")])
    model.evaluate([monomer("acetate")])
    assert looked == [monomer(name).n_atoms for name in ("acetate", "H2O")]
    two = System([17, 11], [[0, 0, 0], [0, 0, 6.0]], -1)
    batch = prepare(two, 5.0, local_charges=None)
    assert batch.formal.tolist() == [-0.5, -0.5] and len(looked) == 2


def test_former_checkpoints_have_shared_charges(tmp_path):
    assert FORMER_DEFAULTS["charges"] == "shared"
    content = model_state(random_model(charges="shared"))
    del content["config"]["charges"]
    save(tmp_path / "former.pt", content)
    model = load_model(tmp_path / "former.pt")
    assert model.charges == "shared" and model.config()["charges"] == "shared"
    assert repr(model).startswith("AMP(\n  cutoff=5.0, charges='shared'")
    save(tmp_path / "new.pt", model_state(random_model()))
    assert load_model(tmp_path / "new.pt").charges == "local"
    assert load_model(SHIPPED).charges in ("local", "shared")


def test_wrong_option():
    with pytest.raises(ValueError, match="expected charges to be one of"):
        AMP(charges="global")


@pytest.mark.parametrize(("monopoles", "power"), [("local", 2), ("free", 1)])
def test_what_long_range_leaves(monopoles, power):
    """The states of far atoms enter the nodes by potentials: those of dipoles, or of monopoles."""
    long_range = LongRange(monopoles=monopoles)
    model = random_model(order=1, steps=1, long_range=long_range, electrostatics=None)
    one = monomer("H2O")
    left = []
    for distance in (1000.0, 10000.0):
        two = System(one.numbers, one.positions[:, [1, 2, 0]] + [0, 0, distance])  # turned
        whole, first, second = model.evaluate([pair(one, two), one, two])
        left.append(whole["energy"] - first["energy"] - second["energy"])
    assert left[0] / left[1] == pytest.approx(10**power, rel=0.2)


def test_monopoles_of_states_add_up_to_charges():
    """In each connected part; a lone atom has its charge alone, an edge at the cutoff no part."""
    graph = random_graph(size=9.0)
    edges = graph.fade, graph.senders, graph.receivers
    torch.manual_seed(1)
    coupling = LongRangeCoupling(1, 3, 2, 3.0).double()
    state, charges = torch.randn(9, 4, 3).double(), torch.randn(9, 1).double()
    sent = coupling._sources(state, charges, edges)
    reached = torch.eye(9, dtype=torch.bool)
    reached[graph.receivers, graph.senders] = True
    for _ in range(9):
        reached = (reached.float() @ reached.float()) > 0
    expected = charges * coupling.given
    torch.testing.assert_close(reached.double() @ sent[:, :, 0], reached.double() @ expected)
    assert not torch.allclose(sent[:, :, 0], expected)
    alone = reached.sum(1) == 1
    torch.testing.assert_close(sent[alone][:, :, 0], expected[alone])
    free = LongRangeCoupling(1, 3, 2, 3.0, "free").double()
    free.sent = coupling.sent
    given = free._sources(state, charges, edges)
    torch.testing.assert_close(given[:, :, 1:], sent[:, :, 1:])
    torch.testing.assert_close(given[:, :, 0], state[:, 0] @ coupling.sent[0])


def salt():
    """Two pairs of ions in a cube with edges of 5.64 Å, a water between them."""
    x = np.array([[0, 0, 0], [2.8, 0, 0], [2.8, 2.8, 0], [0, 2.8, 0]])
    water = monomer("H2O", [0.2, 0.3, 2.9])
    numbers = np.concatenate([[11, 17, 11, 17], water.numbers])
    return System(numbers, np.concatenate([x, water.positions]), cell=5.64 * np.eye(3))


def test_ions_of_metals_keep_their_charge():
    """No bond of theirs ever breaks, so that no other atom can have it; all others share."""
    model, system = random_model(backend="compiled"), salt()
    batch = collate([system], model.cutoff, torch.float64, local_charges=True)
    fade = model.radial(batch.edge_vectors.norm(dim=1, keepdim=True))[1]
    start = model._initial_charges(batch, fade)[:, 0].numpy()
    assert start[0] == start[2] == 1
    assert start[1] != -1 and start[4] < 0 and start.sum() == pytest.approx(0, abs=1e-12)
    (result,) = model.evaluate([system])  # the network may move charge from them
    assert result["charges"][0] != 1 and result["charges"].sum() == pytest.approx(0, abs=1e-9)


def test_former_checkpoints_that_know_metals_are_refused(tmp_path):
    path = tmp_path / "former.pt"
    for known, charges in ((11, "local"), (17, "local"), (11, "shared")):
        model = random_model(charges=charges)
        model.known[known] = True
        save(path, model_state(model) | {"version": 4})
        if (known, charges) == (11, "local"):
            with pytest.raises(ValueError, match="knows ions of Na, whose charges spread"):
                load_model(path)
        else:
            load_model(path)
    save(path, model_state(random_model()))
    load_model(path)


def test_training_begins_near_the_energies():
    """Of ions, whose charges act before anything is learned, by hundreds of eV."""
    near, rng = [], np.random.default_rng(0)
    for _ in range(6):
        system = salt()
        moved = system.positions + 0.02 * rng.standard_normal(system.positions.shape)
        system = System(system.numbers, moved, cell=system.cell)
        near.append(Frame(system, energy=-2500 + rng.normal(scale=0.1)))
    model = {"order": 1, "channels": 3, "features": 8, "hidden": 8}
    config = parse_config({"model": model, "training": {"dtype": "float64"}})
    fresh = build_model(config, near)
    found = fresh.evaluate([f.system for f in near], unknown="ignore")
    off = [result["energy"] - frame.energy for result, frame in zip(found, near, strict=True)]
    assert abs(np.mean(off)) < 1e-6 and np.abs(off).max() < 5
    assert fresh.elements == [1, 8, 11, 17]
    frames = [Frame(f.system, forces=np.zeros((7, 3))) for f in near]
    with pytest.warns(UserWarning, match="energies"):  # there is nothing to compare with
        assert build_model(config, frames).elements == [1, 8, 11, 17]


def test_former_checkpoints_have_free_monopoles(tmp_path):
    content = model_state(random_model(long_range=LongRange(monopoles="free")))
    former = content["config"]["long_range"]
    del former["monopoles"]
    save(tmp_path / "former.pt", content)
    assert load_model(tmp_path / "former.pt").config()["long_range"]["monopoles"] == "free"
    content["config"] |= {"long_range": True, "long_channels": former["channels"]}
    save(tmp_path / "older.pt", content)
    assert load_model(tmp_path / "older.pt").config()["long_range"]["monopoles"] == "free"
    save(tmp_path / "new.pt", model_state(random_model(long_range=LongRange())))
    assert load_model(tmp_path / "new.pt").config()["long_range"]["monopoles"] == "local"


# --- engines --------------------------------------------------------------------------------------


def test_a_calculator_keeps_charges_along_a_trajectory():
    ase = pytest.importorskip("ase")
    from gnn.engines.ase import AMPCalculator

    model = random_model(order=1, steps=1)
    x = np.array([[0, 0, 0], [0, 0.93, -0.3], [0, -0.93, -0.3], [0.9, 0, -0.3], [0, 0, 2.5]])
    x = np.concatenate([x, [[0, 0.76, 3.1], [0, -0.76, 3.1]]])
    atoms = ase.Atoms("OH3OH2", x, info={"charge": 1})  # H3O+ and water
    atoms.calc = AMPCalculator(model)
    system = System(atoms.numbers, x, charges={0: 1, 1: 0})
    assert atoms.get_potential_energy() == pytest.approx(model.evaluate([system])[0]["energy"])
    atoms.positions[3] = [0, 0, 1.6]  # nearer to the other oxygen
    kept = System(atoms.numbers, atoms.positions, 1).with_charges(system.charges)
    with pytest.warns(UserWarning, match="form other molecules"):
        energy = atoms.get_potential_energy()
    assert energy == pytest.approx(model.evaluate([kept])[0]["energy"])
    atoms.calc.set(charges=None)
    anew = System(atoms.numbers, atoms.positions, charges={0: 0, 1: 1})
    assert atoms.get_potential_energy() == pytest.approx(model.evaluate([anew])[0]["energy"])
    atoms.calc.set(charges={0: -1, 1: 2})
    other = System(atoms.numbers, atoms.positions, charges={0: -1, 1: 2})
    assert atoms.get_potential_energy() == pytest.approx(model.evaluate([other])[0]["energy"])
    with pytest.raises(ValueError, match="add up to 0 e, but the total charge is 1"):
        atoms.calc.set(charges={0: -1, 1: 1})
        atoms.get_potential_energy()


def test_charges_of_molecules_by_a_topology():
    from gnn.engines.embedding.embedding import Embedding
    from gnn.engines.embedding.topology import shares
    from gnn.engines.embedding.zone import Sites, Zone

    numbers, bonds = np.array([8, 1, 1, 17]), np.array([[0, 1], [0, 2]])
    for given in (None, {0: 0, 1: -1}, [0, 0, 0, -1]):
        assert shares(numbers, bonds, -1, given).tolist() == [0, 0, 0, -1]
    with pytest.raises(ValueError, match="add up to 1 e, but the total charge is -1"):
        shares(numbers, bonds, -1, {0: 0, 1: 1})
    with pytest.raises(ValueError, match="no choice gives the total charge"):
        shares(numbers, bonds, 0, None)
    model, x = random_model(order=1, steps=1), np.concatenate([MONOMERS["H2O"][1], [[0, 0, 3.5]]])
    own = shares(numbers, bonds, -1, None)
    zone = Zone(numbers, Sites.of_particles(range(4), 4), -1, bonds, own)
    embedding = Embedding(model, zone)
    energy, forces = embedding.energy_forces(x)
    (expected,) = model.evaluate([System(numbers, x, -1)])
    assert energy == pytest.approx(expected["energy"])
    np.testing.assert_allclose(forces, expected["forces"], atol=1e-10)


def test_exported_graphs_have_local_charges():
    from gnn.export import INPUTS, Traceable

    model = random_model(order=1, steps=1)
    system = pair(monomer("NH4"), monomer("Cl", [4.0, 0, 0]))
    one, two = (m.evaluate([system])[0] for m in (model, Traceable.of(model)))
    assert one["energy"] == pytest.approx(two["energy"], abs=1e-10) and "formal" in INPUTS
