"""The scripts that say how good the model that ships is: their figures, on small models."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import methanol, tiny_model

from gnn import System
from gnn.data import load_shipped
from gnn.training.config import load_config

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import hot_runs
import shipped_model
import water_dimer

BENCHMARKS = Path(shipped_model.__file__).parent


@pytest.fixture(scope="module")
def model():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many small steps: threads would wait for each other
    made = tiny_model()
    made.set_domain(methanol())
    yield made.requires_grad_(False)
    torch.set_num_threads(threads)


def named(name, group="water", error=0.0):
    frame = methanol()[0]
    return replace(frame, name=name, group=group, energy=frame.energy + error)


# --- shipped_model.py -----------------------------------------------------------------------------


def test_a_molecule_with_waters_counts_as_that_molecule():
    assert shipped_model.solute(named("nma+2h2o")) == "nma"
    groups = ("", "water", "water@600", "stretched", "zone2", "pair@450", "vacuum@450", "new")
    assert [shipped_model.kind(named("x", group)) for group in groups] == [
        "in water, 300 K", "in water, 300 K", "in water, hot", "in water, a bond stretched",
        "one or two waters in the zone", "a water beside it, vacuum", "vacuum", "new",
    ]  # fmt: skip


def test_the_constant_is_that_of_the_other_frames():
    errors = np.array([1.0, 2.0, 6.0, 5.0, np.nan])
    left = shipped_model.after_constant(errors, ["a", "a", "a", "b", "b"])
    assert np.allclose(left[:3], [1 - 4, 2 - 3.5, 6 - 1.5])
    assert np.isnan(left[3:]).all()  # one known frame alone has no constant


def test_a_refused_frame_is_left_open_and_counted(model):
    strange = replace(named("odd"), system=System([7], [[0.0, 0, 0]]), forces=None, mm_forces=None)
    frames = [named("a"), strange, named("a", error=0.1), named("b")]
    found = shipped_model.found(model, frames)
    assert [result is None for result in found.results] == [False, True, False, False]
    row = found.row(molecule="all")
    assert row["frames"] == 4 and row["refused"] == 1
    assert np.isclose(row["energy_constant_mae"], 100.0, rtol=1e-3)  # 0.1 eV between two frames
    rows = shipped_model.molecule_rows(found)
    assert [row["molecule"] for row in rows] == ["a", "b", "odd", "all"]
    assert "energy_mae" not in rows[2] and shipped_model.cell(rows[2].get("energy_mae")) == "–"
    kinds = shipped_model.kind_rows(found, found.part([]))
    assert [row["kind"] for row in kinds] == ["in water, 300 K", shipped_model.DYNAMICS]


def test_stretched_frames_stand_by_themselves(model):
    frames = [named("a"), named("a", "stretched"), named("a", "water@600")]
    found = shipped_model.found(model, frames)
    kinds = shipped_model.kind_rows(found, found.part([0]))
    assert [(row["kind"], row["frames"]) for row in kinds] == [
        ("in water, 300 K", 1), ("in water, a bond stretched", 1), ("in water, hot", 1),
        (shipped_model.WITHOUT, 1), (shipped_model.DYNAMICS, 2),
    ]  # fmt: skip


def test_the_former_model_gets_its_own_energies_back():
    shifts = shipped_model.read_shifts("meoh -0.00141, mam -0.00189")
    assert shifts == {"meoh": -0.00141, "mam": -0.00189}
    assert shipped_model.read_shifts("") == {}
    (frame,) = shipped_model.shifted_back([named("meoh", "first")], shifts)
    assert np.isclose(frame.energy, methanol()[0].energy + 0.00141, atol=1e-9, rtol=0)
    frames = [named("meoh", "first"), named("meoh", "stretched"), named("nma"), named("oac", "")]
    assert [f.name for f in shipped_model.old_frames(frames)] == ["meoh", "oac"]


def test_targets_stand_beside_figures():
    figures = {"energy_mae": 3.0, "energy_constant_mae": 2.0, "forces_rmse": 31.0}
    rows = [
        {"set": shipped_model.RUNS, "model": shipped_model.OURS, **figures},
        {"set": "meoh", "model": shipped_model.OURS, **figures},
        {"set": "meoh", "model": shipped_model.FORMER, **figures, "forces_rmse": 40.0},
    ]
    found = shipped_model.target_rows(rows)
    assert [row["reached"] for row in found] == ["yes", "no", "", "", "yes", "yes"]
    assert found[2]["measured"] is None  # no held-out molecules
    assert found[-1]["wanted"] == "no worse than 40.0"


def test_both_configurations_hold_out_the_same_molecules():
    one, two = (
        load_config(BENCHMARKS / f"{name}.yaml").data
        for name in ("shipped_model", "published_finetuned")
    )
    assert one == two and one.vacuum
    text = (BENCHMARKS / "molecules.yaml").read_text(encoding="utf-8")
    held_out = text.partition("held_out:")[2].partition("molecules:")[2]
    assert [line.split(":")[0].strip() for line in held_out.splitlines() if line.strip()] == (
        one.split.test_molecules
    )


# --- hot_runs.py ----------------------------------------------------------------------------------


def two():
    """Methanol and a water."""
    frames = [*load_shipped(["meoh"], vacuum=True)[:2]]
    water = System([8, 1, 1], [[0, 0, 0.117], [0, 0.757, -0.468], [0, -0.757, -0.468]])
    return hot_runs.starts(frames) | {"water": water}


def test_runs_start_from_the_lowest_frames():
    frames = [named("a", error=1.0), named("a"), named("a+h2o", error=-9.0), named("b")]
    found = hot_runs.starts(frames)
    assert list(found) == ["a", "b"] and found["a"] is frames[1].system
    assert list(hot_runs.starts(frames, ["b"])) == ["b"]
    with pytest.raises(SystemExit, match="no frames of c"):
        hot_runs.starts(frames, ["c"])


def test_forces_of_the_batch_are_those_of_each(model):
    systems = list(two().values())
    places = np.concatenate([system.positions for system in systems])
    forces, novelty = hot_runs.Forces(model, systems)(places + np.array([7.0, 8, 9]), asked=True)
    single = model.evaluate(systems, unknown="ignore")
    assert np.allclose(forces, np.concatenate([r["forces"] for r in single]), atol=1e-5)
    assert np.allclose(novelty, [r["novelty"].max() for r in single], rtol=1e-3)


def springs(run, strength=20.0):
    """Let springs between all atoms of a molecule hold it in place of a model."""
    i, j = run.first, run.second
    rest = np.linalg.norm(run.positions[j] - run.positions[i], axis=1, keepdims=True)

    def forces(positions, asked=False):
        found = np.zeros_like(positions)
        vectors = positions[j] - positions[i]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        pull = strength * (lengths - rest) * vectors / lengths
        np.add.at(found, i, pull)
        np.add.at(found, j, -pull)
        return found, np.zeros(len(run.names))

    forces.domain = None
    return forces


def test_the_mean_temperature_is_that_of_the_bath(model):
    run = hot_runs.HotRun(model, two(), temperature=600.0)
    run._forces = springs(run)
    run.advance(6000)
    assert run.moving.all()
    assert np.average(run.heat / run.looks, weights=[6, 3]) == pytest.approx(600, rel=0.15)
    assert [row["end"] for row in run.rows()] == ["whole", "whole"]
    assert run.rows()[1]["pair"] == "O–H" and 0.7 < float(run.rows()[1]["shortest"]) < 1.0
    assert run.rows()[0]["time_ps"] == "6.00" and run.rows()[0]["novel"] == ""


def test_a_run_that_goes_on_is_the_same(model, tmp_path):
    whole, first, second = (hot_runs.HotRun(model, two()) for _ in range(3))
    for run in (whole, first):
        run.advance(8)
    first.save(tmp_path / "state.npz")
    second.restore(tmp_path / "state.npz")
    whole.advance(4)
    second.advance(4)
    assert second.step == 12
    for name in hot_runs.STATE:
        assert np.array_equal(getattr(whole, name), getattr(second, name)), name
    assert whole.asked.tolist() == [1, 1]
    colder = hot_runs.HotRun(model, two(), temperature=300.0)
    for other in (colder, hot_runs.HotRun(tiny_model(seed=1), two())):
        with pytest.raises(SystemExit, match="of another model, molecules or settings"):
            other.restore(tmp_path / "state.npz")


def test_bonds_that_break_or_form_at_two_looks_end_a_molecule(model):
    run = hot_runs.HotRun(model, two())
    water = np.flatnonzero(run.system == 1)
    at = run.positions.copy()
    run.step = 10
    run.positions[water[1]] += [0, 1.0, 0]
    run.look()
    run.positions[:] = at
    run.look()  # back in time
    assert run.moving.all()
    run.positions[water[1]] += [0, 1.0, 0]
    run.look()
    run.step = 20
    run.look()
    assert run.ended.tolist() == [-1, 20] and run.rows()[1]["end"] == "O–H broken"
    assert run.rows()[1]["time_ps"] == "0.02"
    hydrogens = np.flatnonzero((run.system == 0) & (run.numbers == 1))
    run.positions[hydrogens[1]] = run.positions[hydrogens[0]] + [0.6, 0, 0]
    run.look()
    run.look()
    assert run.rows()[0]["end"] == "H–H formed" or run.rows()[0]["end"].endswith("broken")
    assert not run.moving.any()
    before = run.positions.copy()
    run.advance(5)  # nothing is left to move
    assert run.step == 20 and np.array_equal(run.positions, before)


def test_what_is_not_finite_ends_a_molecule_and_no_other(model):
    run = hot_runs.HotRun(model, two())
    run.positions[0] = np.nan
    run.look()
    assert run.rows()[0]["end"] == "not finite" and run.moving.tolist() == [False, True]
    run.advance(3)
    assert np.isfinite(run.positions[run.system == 1]).all() and run.step == 3
    assert run.asked.tolist() == [0, 1] and model.domain is not None


# --- water_dimer.py -------------------------------------------------------------------------------


def test_the_geometry_is_that_of_the_hydrogen_bond():
    system = water_dimer.dimer(2.9)
    x = system.positions
    assert np.isclose(water_dimer.distance(system), 2.9)
    for water in (x[:3], x[3:]):
        arms = water[1:] - water[0]
        assert np.allclose(np.linalg.norm(arms, axis=1), water_dimer.BOND)
        cosine = arms[0] @ arms[1] / water_dimer.BOND**2
        assert np.isclose(np.rad2deg(np.arccos(cosine)), water_dimer.ANGLE)
    assert np.allclose(x[4] * [1, 1, -1], x[5])  # symmetry Cs
    assert np.linalg.norm(x[1] - x[3]) < 2.0  # the hydrogen bond
    assert x[2, 1] > 0 > x[4, 1]  # free hydrogens on either side of the axis


def test_the_curve_is_relative_to_the_two_alone(model):
    frames = [
        replace(named("water"), system=one, energy=energy, forces=None, mm_forces=None)
        for one, energy in zip(water_dimer.alone(), (-10.0, -11.0), strict=True)
    ]
    far = replace(frames[0], name="dimer", system=water_dimer.dimer(5.0), energy=-21.0)
    distances, energies = water_dimer.reference([*frames, far])
    assert np.allclose(distances, [5.0]) and np.allclose(energies, [0.0])
    found = water_dimer.curve(model.to(torch.float64), np.array([4.0, 1000.0]))
    model.to(torch.float32)
    assert abs(found[1]) < 1e-4 < abs(found[0])
    (row,) = water_dimer.rows(distances, energies, np.array([0.5]))
    assert row == {
        "distance": "5.0", "reference": "0.000", "model": "0.500", "difference": "+0.500",
    }  # fmt: skip
