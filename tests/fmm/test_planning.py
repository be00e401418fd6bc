"""The cheapest plan: which kind is chosen, that all agree, and the command that checks them."""

import numpy as np
import pytest

import fmm
import multipoles as mp
from fmm import bench_periodic, validation_cell
from fmm.__main__ import main

CELL = np.array([[6.0, 0, 0], [2, 5.5, 0], [-1.5, 2, 6.2]])


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def liquid(rng, m=6):
    sites = np.stack(np.meshgrid(*[np.arange(m)] * 3, indexing="ij"), -1).reshape(-1, 3)
    return (sites + 0.2 * rng.uniform(-1, 1, sites.shape)) / m @ CELL


def test_kinds(rng):
    few, many = liquid(rng, 2), liquid(rng, 7)
    assert isinstance(fmm.plan(many), fmm.FMM)
    assert isinstance(fmm.plan(few, cell=CELL), fmm.Ewald)
    assert isinstance(fmm.plan(many, cell=CELL), fmm.Mesh)
    assert isinstance(fmm.plan(many, cell=CELL, kernel=mp.Yukawa(2.0)), fmm.Ewald)
    # what no mesh keeps
    assert isinstance(fmm.plan(many, None, 1e-13, 2, 3, cell=CELL), fmm.Ewald)
    for method, kind in (("mesh", fmm.Mesh), ("ewald", fmm.Ewald)):
        assert isinstance(fmm.plan(many, cell=CELL, method=method), kind)


@pytest.mark.parametrize("periodic", [True, (True, True, False)])
def test_kinds_agree(rng, periodic):
    x, moments = liquid(rng), rng.standard_normal((216, 4))
    given = {"cell": CELL, "periodic": periodic}
    one, other = (
        fmm.plan(x, None, 1e-8, 1, 2, method=method, **given) for method in ("mesh", "ewald")
    )
    for first, second in zip(
        one.energy_forces(moments, virial=True),
        other.energy_forces(moments, virial=True),
        strict=True,
    ):
        scale = np.abs(second).max()
        np.testing.assert_allclose(first, second, rtol=0, atol=1e-6 * scale)
    torques = other.torques(moments)
    np.testing.assert_allclose(one.torques(moments), torques, atol=1e-6 * np.abs(torques).max())
    assert one.energy(moments) == pytest.approx(other.energy(moments), rel=1e-6)
    moved = x + 0.1
    for plan in (one, other):
        plan.rebuild(moved, cell=CELL)
        found = plan.field(moments)
        exact = mp.field(moved, moved, moments, 2, cell=CELL, periodic=periodic)
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6 * np.abs(exact).max())
    assert "Ewald sum" in str(other.report()) and "216 sources" in str(other.report())


def test_an_ewald_plan_with_targets_and_its_adjoint(rng):
    x, targets = liquid(rng, 3), rng.random((5, 3))
    plan = fmm.Ewald(x, targets, 1e-10, 1, 1, cell=CELL)
    moments, weights = rng.standard_normal((27, 4)), rng.standard_normal((5, 4))
    one = np.vdot(weights, plan.field(moments))
    assert one == pytest.approx(np.vdot(moments, plan.transpose().field(weights)), rel=1e-8)
    with pytest.raises(ValueError, match="targets are its sources"):
        plan.energy(moments)
    with pytest.raises(ValueError, match="those of the plan too"):
        plan.rebuild(x)


def test_functions_take_a_cell(rng):
    x, moments = liquid(rng), rng.standard_normal((216, 4))
    exact = mp.field(x, x, moments, 1, cell=CELL)
    found = fmm.field(x, x, moments, 1, 1e-8, cell=CELL)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-7 * np.abs(exact).max())
    energy = mp.energy(x, moments, cell=CELL)
    assert fmm.energy(x, moments, tolerance=1e-8, cell=CELL) == pytest.approx(energy, rel=1e-6)
    ours = fmm.energy_forces(x, moments, tolerance=1e-8, cell=CELL, virial=True)
    theirs = mp.energy_forces(x, moments, cell=CELL, virial=True)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * np.abs(other).max())
    torques = mp.torques(moments, theirs[2])
    found = fmm.torques(x, moments, tolerance=1e-8, cell=CELL)
    np.testing.assert_allclose(found, torques, rtol=0, atol=1e-6 * np.abs(torques).max())
    batch = np.repeat([0, 1], 108)
    given = {"cell": CELL, "target_batch": batch, "source_batch": batch}
    exact = mp.field(x, x, moments, 1, **given)
    found = fmm.field(x, x, moments, 1, 1e-10, **given)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-8 * np.abs(exact).max())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "best"}, "method"),
        ({"method": "mesh"}, "without a cell"),
        ({"method": "fmm", "cell": np.diag([1.0, 1.0, 500.0])}, "150 at most"),
        ({"cell": np.ones((3, 3))}, "linearly"),
        ({"cell": CELL, "kernel": mp.InversePower(4)}, "kernel"),
        ({"cell": CELL, "tolerance": -1.0}, "tolerance"),
        ({"cell": CELL, "tolerance": 0.5, "method": "ewald"}, "tolerance"),
        ({"cell": CELL, "kernel": mp.Yukawa(1.0), "surface": "vacuum"}, "surface"),
    ],
)
def test_bad_plans(rng, options, match):
    with pytest.raises(ValueError, match=match):
        fmm.plan(liquid(rng, 2), **options)


def test_bad_calls(rng):
    x = liquid(rng, 2)
    q = np.ones(8)
    for options, match in (
        ({"periodic": (True, True, False)}, "cell: expected one"),
        ({"background": False}, "cell: expected one"),
        ({"cell": CELL, "pair_scale": ([[0, 9]], [0.0])}, "pair_scale"),
        ({"cell": CELL, "background": False}, "neutral"),
    ):
        with pytest.raises(ValueError, match=match):
            fmm.field(x, x, q, **options)
        with pytest.raises(ValueError, match=match):
            fmm.energy(x, q, **options)
    with pytest.raises(ValueError, match="virial"):
        fmm.energy_forces(x, q, virial=True)
    with pytest.raises(ValueError, match="batch"):
        fmm.energy(x, q, batch=np.zeros(8, int), cell=CELL)


def test_command_compares_sums_in_cells(capsys):
    given = ["validate", "--n", "343", "--tolerance", "1e-4,1e-6", "--order", "2"]
    assert main([*given, "--cell", "6,0,0,2,5.5,0,-1.5,2,6.2"]) == 0
    said = capsys.readouterr().out
    assert said.count("kept") == 3 and "Mesh" in said and "order 2" in said
    assert main([*given, "--cell", "3,4,5", "--periodic", "xy", "--distribution", "random"]) == 0
    assert main([*given, "--cell", "1,2"]) == 2
    assert main([*given, "--cell", "1", "--periodic", "ab"]) == 2
    assert main([*given, "--cell", "1", "--distribution", "sphere"]) == 2
    said = capsys.readouterr().err
    assert "nine numbers" in said and "letters" in said and "liquid, random or droplet" in said


def test_a_missed_tolerance_fails(monkeypatch, capsys):
    wrong = validation_cell.plan

    def spoilt(*given, **options):
        made = wrong(*given, **options)
        exact = made.field
        monkeypatch.setattr(made, "field", lambda moments: 1.01 * exact(moments), raising=False)
        return made

    monkeypatch.setattr(validation_cell, "plan", spoilt)
    assert main(["validate", "--n", "27", "--cell", "1", "--tolerance", "1e-4"]) == 1
    assert "MISSED" in capsys.readouterr().out


def test_times_of_periodic_sums(tmp_path, monkeypatch, capsys):
    rows = [bench_periodic.Row(500, 0, 1e-4, 10.0), bench_periodic.Row(500, 2, 1e-4, 1e-9)]
    monkeypatch.setattr(bench_periodic, "ROWS", rows)
    bench_periodic.main(quick=True, csv_path=tmp_path / "times.csv")
    said = capsys.readouterr().out
    assert "met" in said and "MISSED" in said and "64 cells" in said
    lines = (tmp_path / "times.csv").read_text().splitlines()
    assert len(lines) == 7 and lines[0].startswith("case,n,bound")
    errors = [float(line.split(",")[-6]) for line in lines[1:5]]
    assert max(errors) <= 1e-4
