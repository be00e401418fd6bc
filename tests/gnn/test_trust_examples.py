"""The benchmark of trust: every example gives a row, whatever a model does with it."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from tiny import methanol, tiny_model

from gnn import System

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import trust


@pytest.fixture(scope="module")
def model():
    made = tiny_model()
    made.set_domain(methanol())
    return made


def test_an_example_becomes_a_row_and_what_is_said_stands_beside_it(model):
    (row,) = trust.rows(trust.without_knowledge(model), model, "H2")
    assert row["example"] == "H2"
    assert row["before"].endswith(" eV") and row["after"].endswith(" eV")
    assert "H2" in row["said"]  # that it is not in the training data


def test_an_error_is_a_result(model):
    cell, said = trust.answered(model, trust.ions)  # nitrogen is unknown
    assert cell == "refused" and said.startswith("ValueError: ") and "[7]" in said

    def broken(_):
        warnings.warn("beware", RuntimeWarning, stacklevel=1)
        raise OverflowError("too large\nand more")

    assert trust.answered(model, broken) == ("refused", "OverflowError: too large; beware")


def test_former_models_know_nothing(model):
    former = trust.without_knowledge(model)
    assert former.domain is None and former.border is None
    assert model.domain is not None


def test_a_model_learns_where_the_shipped_frames_end(model):
    known = trust.with_knowledge(trust.without_knowledge(model), methanol())
    assert known.domain.n_frames == len(methanol())
    assert np.isclose(known.extent.pairs[6, 8], known.domain.extent.pairs[6, 8])


@pytest.mark.parametrize(
    "name", ["methanol, O–H 0.97 to 0.3 Å", "charge -0.834 e at 0.8 Å of H(O)"]
)
def test_scans_of_methanol_have_numbers(model, name):
    cell, _ = trust.answered(model, trust.EXAMPLES[name])
    assert "eV" in cell


def test_geometries_are_those_that_are_named():
    methanol_alone = trust.solute("meoh")
    carbon, oxygen, hydrogen = trust.hydroxyl(methanol_alone)
    pressed = trust.with_bond(methanol_alone, oxygen, [hydrogen], 0.3)
    assert np.isclose(np.linalg.norm(pressed.positions[hydrogen] - pressed.positions[oxygen]), 0.3)
    moved = trust.with_bond(methanol_alone, carbon, [oxygen, hydrogen], 0.7)
    line = moved.positions[oxygen] - moved.positions[hydrogen]
    assert np.allclose(line, methanol_alone.positions[oxygen] - methanol_alone.positions[hydrogen])
    both = trust.pair_at(methanol_alone, trust.solute("oac"), 1000.0)
    assert both.charge == -1 and trust.nearest(both.positions[6:]) > 0.9
    assert np.linalg.norm(trust.FORMIC_DIMER.positions[4] - trust.FORMIC_DIMER.positions[7]) > 1.6
    assert np.isclose(trust.nearest(trust.WATER.positions), 0.957, atol=2e-3)


def test_a_run_that_breaks_says_where(model):
    cell = trust.smallest_of_run(trust.without_knowledge(model), trust.WATER, 300.0, 3)
    assert "nearest atoms" in cell


def test_a_charge_is_a_whole_number(model):
    cell, _ = trust.answered(model, trust.charged_methanol)
    assert cell.endswith("eV") or cell == "refused"
    assert isinstance(trust.pair_at(trust.WATER, trust.WATER, 3.0), System)


def test_the_row_of_committees_reads_what_was_measured(monkeypatch):
    found = {"start": "shipped", "quantity": "forces", "expected": "0.6827",
             "before": "0.31", "after": "0.68", "factor": "2.2"}  # fmt: skip
    monkeypatch.setattr(trust, "read_table", lambda _: [found])
    row = trust.committee_row()
    assert row["after"] == "one sigma holds 68 % of force errors" and "2.2" in row["said"]
    monkeypatch.setattr(trust, "read_table", lambda _: [])
    assert trust.committee_row()["said"] == "run benchmarks/committee.py"
