"""Errors by hand, baselines, frames without names, labels or surroundings; tables."""

import csv

import numpy as np
import pytest
from tiny import methanol

from gnn import Frame, System
from gnn.training.report import tables
from gnn.training.report.metrics import (
    Comparison,
    Errors,
    blind_comparison,
    compare,
    frame_name,
    mean_baseline,
    without_surroundings,
)

WATER = System([8, 1, 1], [[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], 0, [[5.0, 0, 0]], [0.4])
ION = System([8, 1], [[0.0, 0, 0], [0.97, 0, 0]], -1)


def _frame(system=WATER, energy=0.0, name="", force=1.0, run=0):
    forces = np.full((system.n_atoms, 3), force)
    return Frame(
        system, energy, forces, np.full((system.n_mm, 3), -force), np.zeros(3), run=run, name=name
    )


def _result(frame, energy_error=0.0, force_error=0.0):
    return {
        "energy": frame.energy + energy_error,
        "forces": frame.forces + force_error,
        "mm_forces": (frame.mm_forces if frame.system.n_mm else np.zeros((0, 3))) + force_error,
        "dipole": frame.dipole + 0.1,
    }


def test_errors_by_hand():
    frames = [_frame(energy=e, name="w") for e in (1.0, 2.0, 6.0)]
    results = [_result(f, d, 0.5) for f, d in zip(frames, (0.1, -0.2, 0.3), strict=True)]
    comparison = compare(results, frames)
    energy = comparison.errors("energy")
    assert energy.mae == pytest.approx(1e3 * 0.6 / 3)
    assert energy.rmse == pytest.approx(1e3 * np.sqrt(0.14 / 3))
    assert energy.std == pytest.approx(1e3 * np.std([1.0, 2.0, 6.0]))
    assert energy.ratio == pytest.approx(energy.rmse / energy.std)
    forces = comparison.errors("forces")
    assert forces.mae == forces.rmse == pytest.approx(500.0)
    assert comparison.errors("dipole").rmse == pytest.approx(100.0)


def test_spread_of_energies_is_taken_within_molecules():
    frames = [_frame(energy=e, name="a") for e in (0.0, 2.0)]
    frames += [_frame(ION, energy=1000 + e, name="b") for e in (0.0, 4.0)]
    comparison = compare([_result(f) for f in frames], frames)
    assert comparison.errors("energy").std == pytest.approx(1e3 * np.sqrt((1 + 1 + 4 + 4) / 4))
    assert comparison.errors("energy", "b").std == pytest.approx(2e3)
    assert comparison.errors("energy", "nobody") is None


def test_ratio_without_spread_is_no_number():
    assert np.isnan(Errors(1.0, 1.0, 0.0).ratio)


def test_errors_per_molecule():
    frames = [_frame(name="a"), _frame(ION, name="b")]
    results = [_result(frames[0], 0.1), _result(frames[1], 0.3)]
    comparison = compare(results, frames)
    assert comparison.errors("energy", "a").mae == pytest.approx(100)
    assert comparison.errors("energy", "b").mae == pytest.approx(300)
    assert comparison.errors("energy").mae == pytest.approx(200)
    assert comparison.errors("mm_forces", "b") is None  # an ion in vacuum


def test_each_label_of_each_frame_is_compared():
    """Whatever the others have: errors are those of the frames with the label."""
    frames = [_frame(name="a"), Frame(WATER, energy=1.0, name="a"), Frame(ION, name="b")]
    frames.append(Frame(ION, forces=np.zeros((2, 3)), name="b"))
    full = [_result(_frame(f.system)) for f in frames]
    results = [r | {"energy": e, "forces": r["forces"] + d} for r, e, d in zip(
        full, (0.1, 1.3, 5.0, 5.0), (0.5, 9.0, 9.0, 1.5), strict=True)]  # fmt: skip
    comparison = compare(results, frames)
    assert comparison.errors("energy").mae == pytest.approx(1e3 * (0.1 + 0.3) / 2)
    assert comparison.errors("energy", "b") is None
    assert comparison.errors("forces", "a").rmse == pytest.approx(500)
    assert comparison.errors("forces", "b").rmse == pytest.approx(2500)
    expected = 1e3 * np.sqrt((9 * 0.5**2 + 6 * 2.5**2) / 15)  # by components, not by frames
    assert comparison.errors("forces").rmse == pytest.approx(expected)
    assert comparison.errors("mm_forces").mae == 0 and comparison.errors("dipole").mae > 0
    counts = {q: comparison.count(q) for q in ("energy", "forces", "mm_forces", "dipole")}
    assert counts == {"energy": (2, 4), "forces": (2, 4), "mm_forces": (1, 2), "dipole": (1, 4)}
    nothing = compare(results[:2], [Frame(WATER), Frame(WATER)])
    assert all(nothing.errors(q) is None for q in ("energy", "forces", "mm_forces", "dipole"))


def test_frames_in_vacuum_have_no_mm_errors():
    frames = [without_surroundings(_frame()) for _ in range(2)]
    comparison = compare([_result(f, 0.1) for f in frames], frames)
    assert comparison.errors("mm_forces") is None
    assert comparison.errors("energy").mae == pytest.approx(100)


def test_name_of_a_frame():
    assert frame_name(_frame(name="water")) == "water"
    assert frame_name(_frame()) != frame_name(_frame(ION))
    anion = Frame(System([8, 1, 1], WATER.positions, -1))
    assert frame_name(anion) != frame_name(_frame())  # the charge tells them apart


def test_mean_baseline():
    training = [_frame(energy=1.0), _frame(energy=3.0), _frame(ION, energy=50.0)]
    test = [_frame(energy=4.0, force=2.0), _frame(ION, energy=51.0, force=2.0)]
    comparison = mean_baseline(training, test)
    np.testing.assert_allclose(comparison.values("energy")[0], [2.0, 50.0])
    assert comparison.errors("energy").mae == pytest.approx(1500)
    assert comparison.errors("forces").rmse == pytest.approx(2000)  # it predicts none
    assert comparison.errors("mm_forces").rmse == pytest.approx(2000)


def test_mean_baseline_has_no_energy_of_a_molecule_it_never_saw():
    comparison = mean_baseline([_frame()], [_frame(ION, energy=51.0)])
    assert np.isnan(comparison.errors("energy").mae)


def test_without_surroundings_keeps_the_labels_and_the_rest():
    frame = methanol()[0]
    bare = without_surroundings(frame)
    assert bare.system.n_mm == 0 and bare.mm_forces is None
    assert (bare.energy, bare.run, bare.name) == (frame.energy, frame.run, frame.name)
    np.testing.assert_array_equal(bare.forces, frame.forces)
    np.testing.assert_array_equal(bare.dipole, frame.dipole)


def test_blind_comparison_is_made_with_the_true_frames():
    frames = [_frame(energy=1.0, force=2.0)]
    bare = [without_surroundings(frame) for frame in frames]
    comparison = blind_comparison([_result(bare[0], 0.1, 0.5)], frames)
    assert comparison.errors("energy").mae == pytest.approx(100)
    assert comparison.errors("forces").mae == pytest.approx(500)
    assert comparison.errors("mm_forces").mae == pytest.approx(2000)  # it predicts none


# --- tables ---------------------------------------------------------------------------------------


def _two_molecules() -> Comparison:
    frames = [_frame(energy=e, name=n) for e, n in ((1.0, "a"), (2.0, "a"))]
    frames += [_frame(ION, energy=7.0 + e, name="b", force=f) for e, f in ((0, 1.0), (1, 3.0))]
    return compare([_result(f, 0.1, 0.2) for f in frames], frames)


def test_error_rows():
    rows = tables.error_rows(_two_molecules())
    assert [(row["molecule"], row["frames"]) for row in rows] == [("a", 2), ("b", 2), ("all", 4)]
    assert rows[0]["energy_mae"] == pytest.approx(100) and "mm_forces_mae" not in rows[1]
    one = [_frame(name="a")]
    assert [r["molecule"] for r in tables.error_rows(compare([_result(one[0])], one))] == ["a"]


def test_csv_of_the_rows(tmp_path):
    rows = tables.error_rows(_two_molecules())
    tables.write_csv(tmp_path / "sub" / "errors.csv", rows)
    with open(tmp_path / "sub" / "errors.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["molecule"] for row in found] == ["a", "b", "all"]
    assert float(found[2]["forces_rmse"]) == pytest.approx(rows[2]["forces_rmse"])
    assert found[1]["mm_forces_mae"] == ""


def _text(table, width=110):
    from rich.console import Console

    console = Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_error_table_shows_every_molecule_and_a_dash_for_what_is_missing():
    text = _text(tables.error_table(_two_molecules(), "Errors"))
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "100.0" in lines["a"] and "–" in lines["b"] and "200.0" in lines["all"]


def test_baseline_table_without_an_energy_shows_a_dash_and_not_nan():
    own = _two_molecules()
    unknown = mean_baseline([_frame(name="x")], [_frame(ION, energy=51.0, name="b")])
    text = _text(tables.baseline_table({"training mean": unknown, "this model": own}, "Beside"))
    assert "training mean" in text and "nan" not in text


@pytest.mark.parametrize("width", [72, 80, 104, 110, 200])
def test_no_name_or_number_is_cut_on_a_narrow_console(width):
    many = [_frame(energy=1.0, name=n, force=1.0) for n in ("acetic acid", "[nh4+]", "x" * 70)]
    large = compare([_result(f, -1e4, 1e3) for f in many], many)
    baselines = {"training mean": _two_molecules(), "blind to surroundings": large, "this": large}
    text = _text(tables.error_table(large, "Errors"), width)
    text += _text(tables.baseline_table(baselines, "Beside"), width)
    assert "…" not in text and "10000000.0" in text and "1000000.0" in text
    for name in ("molecule", "frames", "energy", "QM forces", "MM forces", "dipole", "meV/Å",
                 "MAE", "RMSE", "/ std", "[nh4+]", "blind to surroundings"):  # fmt: skip
        assert name in text, name
    assert all(len(line) <= width for line in text.splitlines())


def test_frames_with_each_label_are_counted_where_not_all_have_it():
    frames = [_frame(name="a"), Frame(WATER, energy=1.0, name="a"), _frame(ION, name="b")]
    comparison = compare([_result(_frame(f.system, 1.0)) for f in frames], frames)
    rows = tables.error_rows(comparison)
    assert [row["forces_frames"] for row in rows] == [1, 1, 2]
    assert [row["mm_forces_frames"] for row in rows] == [1, 0, 1]
    assert "energy_frames" not in rows[0]
    text = _text(tables.error_table(comparison, "Errors")).split("Frames that have the label")[1]
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines()[1:] if line.strip()}
    assert lines["a"] == ["1", "of", "2", "1", "of", "2", "1", "of", "2"]
    assert lines["b"] == ["1", "of", "1", "–", "1", "of", "1"]  # nothing around it to be forced
    assert lines["all"] == ["2", "of", "3", "1", "of", "2", "2", "of", "3"]
    complete = _text(tables.error_table(_two_molecules(), "Errors"))
    assert "Frames that have" not in complete


def test_a_molecule_whose_mean_energy_is_unknown_is_named():
    training = [_frame(name="x"), Frame(ION, forces=np.zeros((2, 3)), name="b")]
    unknown = mean_baseline(training, [_frame(ION, energy=51.0, name="b"), _frame(name="x")])
    text = _text(tables.baseline_table({"training mean": unknown}, "Beside"))
    assert "training mean: no training frame has an energy of b" in text


def test_references_that_do_not_vary_have_no_ratio():
    frames = [_frame(energy=-3142.1, name="a", force=0.1) for _ in range(3)]
    comparison = compare([_result(f, 0.1, 0.2) for f in frames], frames)
    for name in ("energy", "forces"):
        assert comparison.errors(name).std == 0 and np.isnan(comparison.errors(name).ratio)
    text = _text(tables.error_table(comparison, "Errors"))
    assert "nan" not in text and "inf" not in text
    assert "nan" not in str(tables.verdicts(comparison))


def test_verdicts():
    frames = [_frame(energy=e, name="a", force=f) for e, f in ((0.0, -1.0), (1.0, 1.0))]
    good = compare([_result(f, 0.0095, 0.04) for f in frames], frames)
    assert [row[3] for row in tables.verdicts(good)] == [True, True, True]
    bad = compare([_result(f, 0.0105, 0.06) for f in frames], frames)
    assert [row[3] for row in tables.verdicts(bad)] == [False, False, False]
    between = compare([_result(f, 0.0, 0.2) for f in frames], frames)
    assert [row[3] for row in tables.verdicts(between)] == [True, False, False]
