"""What a model knows: the novelty of atoms and systems, what is said, files, engines, commands."""

import json
import warnings
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.spatial.transform import Rotation
from tiny import methanol, tiny_config, tiny_model

from gnn import Frame, System, load_model, potential
from gnn.cli import main
from gnn.data import load_shipped, write_frames
from gnn.data.extent import extent_of
from gnn.data.shipped import UNSEEN
from gnn.data.splits import is_of
from gnn.training import fit, setup
from gnn.training.checkpoint import load, load_described, save, save_model
from gnn.training.committee import Committee
from gnn.training.frames.load import LoadedData
from gnn.trust.domain import UNSEEN_CHARGE, Composition, Domain
from gnn.trust.words import description, grade, sentence

CARBON, OXYGEN, H_OF_O = 0, 1, 5  # places in the shipped methanol


@pytest.fixture(scope="module")
def trained():
    model = tiny_model(dtype=torch.float64).eval()
    model.set_domain(methanol(), "B3LYP/6-31G*")
    return model


@pytest.fixture
def model(trained):
    """The model, as if nothing had been said yet."""
    trained._told.clear()
    return trained


def changed(**changes) -> System:
    return replace(methanol()[0].system, **changes)


def with_bond(length: float) -> System:
    """Methanol in its surroundings, with an O–H bond of a length in Å."""
    system = methanol()[0].system
    positions = system.positions.copy()
    bond = positions[H_OF_O] - positions[OXYGEN]
    positions[H_OF_O] = positions[OXYGEN] + bond * (length / np.linalg.norm(bond))
    return changed(positions=positions)


def with_charge(distance: float) -> System:
    """Methanol with one charge beyond the hydrogen of its oxygen."""
    positions = methanol()[0].system.positions
    bond = positions[H_OF_O] - positions[OXYGEN]
    place = positions[H_OF_O] + distance * bond / np.linalg.norm(bond)
    return changed(mm_positions=[place], mm_charges=[-0.8])


def novelty(model, *systems):
    return [r["system_novelty"] for r in model.evaluate(systems, unknown="ignore")]


# --- what the domain holds ------------------------------------------------------------------------


def test_the_domain_says_what_the_frames_were(model):
    domain, extent = model.domain, extent_of(methanol(), model.damping)
    assert domain.compositions == {Composition("CH4O", 0): 24}
    assert (domain.n_frames, domain.elements, domain.charges) == (24, [1, 6, 8], [0])
    assert (domain.level, domain.reach) == ("B3LYP/6-31G*", model.cutoff)
    for name in ("pairs", "charges", "field"):
        assert np.array_equal(getattr(domain.extent, name), getattr(extent, name))


def test_numbers_of_the_model_stay_the_same(model):
    without = tiny_model(dtype=torch.float64).eval()
    for one, other in zip(model.evaluate(methanol()), without.evaluate(methanol()), strict=True):
        assert one.keys() - other.keys() == {"novelty", "system_novelty"}
        assert all(np.array_equal(one[name], other[name]) for name in other)


def test_training_frames_are_within(model):
    assert np.mean(np.array(novelty(model, *methanol())) <= 1) > 0.95


def test_one_by_one_as_in_a_batch(model):
    systems = [with_bond(0.7), *(f.system for f in methanol()[:3]), System([8], [[0, 0, 0]])]
    together = model.evaluate(systems, unknown="ignore")
    for system, result in zip(systems, together, strict=True):
        (alone,) = model.evaluate([system], unknown="ignore")
        np.testing.assert_allclose(alone["novelty"], result["novelty"], rtol=1e-6)
        assert result["novelty"].shape == (system.n_atoms,)


def test_novelty_is_of_the_molecule_not_of_its_place(model):
    system = with_bond(0.8)
    turn = Rotation.from_euler("xyz", [0.4, 1.1, -2.0]).as_matrix()
    order = [3, 5, 1, 0, 4, 2]
    moved = replace(
        system,
        numbers=system.numbers[order],
        positions=(system.positions @ turn.T + 40.0)[order],
        mm_positions=system.mm_positions @ turn.T + 40.0,
    )
    first, second = model.evaluate([system, moved], unknown="ignore")
    np.testing.assert_allclose(second["novelty"], first["novelty"][order], rtol=1e-5)


# --- what is outside ------------------------------------------------------------------------------


def test_short_bonds_are_steeply_novel(model):
    shortest = model.domain.extent.pairs[1, 8]
    values = novelty(model, *(with_bond(f * shortest) for f in (0.9, 0.7, 0.5, 0.3, 0.1)))
    assert values[0] > 1.4
    assert (np.diff(values) > 0).all()
    assert values[-1] > 1e5


def test_near_charges_are_steeply_novel(model):
    nearest = model.domain.extent.charges[1]
    values = novelty(model, *(with_charge(f * nearest) for f in (0.9, 0.7, 0.5, 0.2)))
    assert values[0] > 1.2
    assert (np.diff(values) > 0).all()


def test_particles_without_charge_are_none(model):
    near, alone = with_charge(0.3), changed(mm_positions=None, mm_charges=None)
    assert novelty(model, replace(near, mm_charges=[0.0])) == pytest.approx(novelty(model, alone))


def test_strong_fields_are_novel(model):
    largest = model.domain.extent.field[[1, 6, 8]].min()
    alone = {"mm_positions": None, "mm_charges": None}
    values = novelty(model, *(changed(uniform_field=[f * largest, 0, 0], **alone) for f in (2, 20)))
    assert values[0] >= 1.59
    assert values[1] >= 15.9


def test_elements_that_were_never_side_by_side(model):
    """Oxygen meets oxygen nowhere in methanol: from the cutoff on inwards it is novel."""
    assert np.isinf(model.domain.extent.pairs[8, 8])
    values = novelty(
        model,
        *(System([8, 8], [[0, 0, 0], [r, 0, 0]], charges=np.zeros(2)) for r in (4.0, 2.0, 1.2)),
    )
    assert values[0] > 1
    assert (np.diff(values) > 0).all()


def test_charges_that_were_never_there(model):
    (value,) = novelty(model, changed(charge=7))
    assert value >= UNSEEN_CHARGE
    result = model.evaluate([changed(charge=1)], unknown="ignore")[0]
    assert "total charge +1 e not in training" in sentence(changed(charge=1), model.domain, result)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_input_gives_finite_novelty(dtype):
    model = tiny_model(dtype=dtype).eval()
    model.set_domain(methanol())
    atoms = System([1, 8], [[0, 0, 0], [2e-3, 0, 0]])
    far = System([1, 8], [[0, 0, 0], [1e3, 0, 0]], charges={0: 0, 1: 0})
    for result in model.evaluate([atoms, far], unknown="ignore", forces=False):
        assert np.isfinite(result["novelty"]).all()
    assert novelty(model, atoms)[0] > 1e3


def test_a_domain_of_frames_in_vacuum_and_of_single_atoms():
    frames = [Frame(System([z], [[0, 0, 0]]), energy=0.0) for z in (1, 8)]
    model = tiny_model(frames, dtype=torch.float64).eval()
    model.set_domain(frames)
    assert novelty(model, *(f.system for f in frames)) == pytest.approx([0, 0], abs=1)
    with pytest.raises(ValueError, match="at least one frame"):
        model.set_domain([])


# --- what is said ---------------------------------------------------------------------------------


def test_grades():
    assert [grade(x) for x in (0.0, 1.0, 1.1, 3.0, 4.0, 10.0, 11.0, 1e9)] == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        3,
    ]


def test_the_sentence_names_the_worst_atom_and_why(model):
    water = Frame(System([8, 1, 1], [[0, 0, 0], [0.3, 0, 0], [0, 0.96, 0]]), name="water")
    (result,) = model.evaluate([water], unknown="ignore")
    said = sentence(water, model.domain, result)
    shortest, atom = model.domain.extent.pairs[1, 8], int(np.argmax(result["novelty"]))
    assert said.startswith("water (H2O, 0): composition not in training; atom ")
    assert f"(0.30 Å from atom {1 - atom}, trained from {shortest:.2f} Å)" in said
    assert said.endswith(": numbers are meaningless")
    assert sentence(methanol()[0], model.domain, model.evaluate(methanol()[:1])[0]) == ""


def test_warned_once_for_each_composition_and_grade(model):
    short, shorter = with_bond(0.85), with_bond(0.3)
    with pytest.warns(UserWarning, match=r"CH4O \(0\): atom . .*outside training") as heard:
        model.evaluate([short, short])
    assert len(heard) == 1
    assert "the worst of 2" in str(heard[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.evaluate([short])
        model.evaluate(methanol()[:2])
    with pytest.warns(UserWarning, match="far outside"):
        model.evaluate([shorter])


def test_strict_raises_and_ignore_is_silent(model):
    for options in ({"strict": True}, {"unknown": "raise"}):
        with pytest.raises(ValueError, match="numbers are meaningless"):
            model.evaluate([methanol()[0], with_bond(0.3)], **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.evaluate([with_bond(0.3)], unknown="ignore")
        model.evaluate(methanol()[:1], strict=True)
    with pytest.raises(ValueError, match="unknown: expected one of warn, ignore, raise"):
        model.evaluate(methanol()[:1], unknown="maybe")


def test_unknown_elements_are_refused_all_the_same(model):
    with pytest.raises(ValueError, match="knows nothing of"):
        model.evaluate([System([9, 1], [[0, 0, 0], [0.92, 0, 0]])], unknown="ignore")


# --- checkpoints and committees -------------------------------------------------------------------


def test_checkpoints_keep_the_domain(model, tmp_path):
    path = tmp_path / "model.pt"
    save_model(path, model)
    back = load_model(path)
    assert isinstance(back.domain, Domain)
    assert description(back.domain) == description(model.domain)
    systems = [methanol()[0].system, with_bond(0.5), with_charge(1.0)]
    assert novelty(back, *systems) == novelty(model, *systems)


def test_a_checkpoint_without_a_domain_says_so(model, tmp_path):
    path = tmp_path / "old.pt"
    save_model(path, model)
    content = load(path)
    del content["domains"]
    save(path, content)
    with pytest.warns(UserWarning, match="does not say what it was trained on"):
        old = load_described(path)
    assert old.domain is None
    assert "novelty" not in old.evaluate([with_bond(0.3)], strict=True)[0]


def test_committees_speak_for_all_members(tmp_path):
    members = [tiny_model(seed=seed, dtype=torch.float64).eval() for seed in range(2)]
    committee = Committee(members)
    assert committee.domain is None
    assert "novelty" not in committee.evaluate(methanol()[:1])[0]
    committee.set_domain(methanol())
    save_model(tmp_path / "committee.pt", committee)
    back = load_model(tmp_path / "committee.pt")
    systems = [methanol()[0].system, with_bond(0.5)]
    each = [novelty(member, *systems) for member in members]
    assert novelty(back, *systems) == pytest.approx(np.mean(each, axis=0))
    with pytest.raises(ValueError, match="outside training"):
        back.evaluate(systems, strict=True)


@pytest.mark.parametrize("chosen", [None, [0, 1, 2, 3]])
def test_training_reads_the_extent_of_its_frames_once(chosen, tmp_path, monkeypatch):
    read = []

    def counted(frames, damping):
        frames = list(frames)
        read.append(len(frames))
        return extent_of(frames, damping)

    for module in (fit, setup, potential):
        monkeypatch.setattr(module, "extent_of", counted)
    data = LoadedData((methanol()[:8], methanol()[16:20], []))
    console = Console(file=StringIO())
    model, _ = fit.fit(tiny_config(tmp_path), data, console, tmp_path, chosen=chosen)
    assert [n for n in read if n > 1] == ([8] if chosen is None else [8, 4])
    # walls by all frames, the domain by its own; validation frames were looked at one by one
    expected = extent_of(methanol()[: 4 if chosen else 8])
    assert np.array_equal(model.domain.extent.pairs, expected.pairs)
    assert model.domain.n_frames == (4 if chosen else 8)


# --- engines and commands -------------------------------------------------------------------------


def test_ase_calculator(model):
    from ase import Atoms

    from gnn.engines.ase import AMPCalculator

    short = with_bond(0.3)
    atoms = Atoms(numbers=short.numbers, positions=short.positions)
    with pytest.raises(ValueError, match="numbers are meaningless"):
        AMPCalculator(model, strict=True).get_potential_energy(atoms)
    calculator = AMPCalculator(model)
    with pytest.warns(UserWarning, match="numbers are meaningless"):
        calculator.get_potential_energy(atoms)
    assert calculator.results["novelty"].shape == (6,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.positions[0, 0] += 1e-3
        calculator.get_potential_energy(atoms)
        AMPCalculator(model, unknown="ignore").get_potential_energy(atoms)
    with pytest.raises(ValueError, match="unknown: expected"):
        AMPCalculator(model, unknown="no")


def test_embedding_of_molecular_dynamics(model):
    from gnn.engines.embedding.embedding import Embedding
    from gnn.engines.embedding.zone import Sites, Zone

    short = with_bond(0.3)
    sites = Sites.of_particles(range(len(short.numbers)), len(short.numbers))
    embedding = Embedding(model, Zone(short.numbers, sites, 0))
    with pytest.warns(UserWarning, match=r"CH4O \(0\).*numbers are meaningless"):
        embedding.energy_forces(short.positions)
    model.unknown = "raise"
    try:
        with pytest.raises(ValueError, match="numbers are meaningless"):
            embedding.energy_forces(short.positions)
    finally:
        del model.unknown


def test_commands(model, tmp_path, capsys):
    path, structures, frames = (str(tmp_path / n) for n in ("m.pt", "in.h5", "train.h5"))
    output = str(tmp_path / "out.json")
    bare = tiny_model(dtype=torch.float64)
    save_model(path, bare)
    write_frames(structures, [Frame(with_bond(0.3), name="broken")])
    write_frames(frames, methanol(), attributes={"level": "B3LYP/6-31G*"})
    assert main(["domain", path]) == 2
    assert main(["predict", path, structures, "-o", output]) == 0
    assert "does not say what it was trained on" in capsys.readouterr().err
    assert main(["domain", path, frames]) == 0
    told = capsys.readouterr().out
    assert "trained on 24 frames at level B3LYP/6-31G*" in told
    assert "CH4O (0) 24" in told
    assert "H–O" in told
    assert main(["predict", path, structures, "-o", output]) == 0
    assert "warning: broken (CH4O, 0): atom" in capsys.readouterr().err
    with open(output, encoding="utf-8") as file:
        assert json.load(file)["structures"][0]["system_novelty"] > 10
    assert main(["predict", path, structures, "-o", output, "--on-unknown", "ignore"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert main(["predict", path, structures, "-o", output, "--on-unknown", "stop"]) == 2
    assert "numbers are meaningless" in capsys.readouterr().err


# --- the model that ships -------------------------------------------------------------------------


def test_the_model_that_ships_knows_water_and_says_that_it_knows_no_peroxide():
    water = System([8, 1, 1], [[0, 0, 0], [0.757, 0.586, 0], [-0.757, 0.586, 0]])
    peroxide = System(
        [8, 8, 1, 1], [[0.73, 0, 0], [-0.73, 0, 0], [0.9, 0.9, 0.3], [-0.9, 0.9, -0.3]]
    )
    model = load_model()
    known, foreign = model.evaluate([water, peroxide], unknown="ignore")
    assert known["system_novelty"] < 1 and abs(known["energy"] + 2079.1) < 0.1  # B3LYP/6-31G*
    assert foreign["system_novelty"] > 1


def test_bonds_that_no_training_frame_has_are_named():
    model = load_model()
    ethanol = load_shipped(["ethanol"], vacuum=True)[0]
    with pytest.raises(
        ValueError, match=r"slightly outside training by 1.5x \(C bonded to .* as none in training"
    ):
        model.evaluate([ethanol], strict=True)
    model.domain = replace(model.domain, bonded=None)  # a checkpoint of an earlier version
    model.evaluate([ethanol], unknown="ignore")


@pytest.mark.slow
def test_calibration_of_the_model_that_ships(monkeypatch):
    """Held-out frames at 300 K are within, but for one in a hundred; no foreign molecule is."""
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import novelty as benchmark

    from gnn.data import split_shipped

    model = load_model()
    test = split_shipped(load_shipped())[2]
    cold = [frame for frame in test if frame.group in ("first", "water")]  # 300 K
    assert np.mean(np.array(novelty(model, *cold)) > 1) < 0.01
    unseen = [frame for frame in load_shipped() if is_of(frame.name, UNSEEN)]
    assert np.mean(np.array(novelty(model, *unseen)) > 1) == 1
    known = "trained on", "methylammonium + acetate", "methanol + acetate"
    for name, system in benchmark.examples().items():
        try:
            flagged = novelty(model, system)[0] > 1
        except ValueError:  # an energy that no atoms have is refused
            flagged = True
        is_known = name == "water" or any(part in name for part in known)
        assert flagged != is_known, name
