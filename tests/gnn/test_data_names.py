"""Names, runs and charges come back from every format as they were given."""

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gnn.data import Frame, System, read_frames, write_frames

POSITIONS = [[0.0, 0, 0], [0, 0, 0.97]]
HARD = [
    "T", "F", "True", "007", "1e5", "NaN", "inf", "1.0", "", "a b", " a ", 'a "b" c', "it's",
    "a=b", "a=", "=", "é", "水", "{a}", "[1, 2]", "1 2 3", "T F", "a\\b", "a\nb", "\t", "_JSON 1",
    "Lattice", "name=x", "a,b", "None", "-1", "\x85", "x" * 300, "a/b", ".", "..", "null", "\\",
]  # fmt: skip


def frame(name, run=0, charge=0, group=""):
    system = System([8, 1], POSITIONS, charge)
    return Frame(system, energy=-10.25, name=name, run=run, group=group)


@pytest.mark.parametrize("suffix", [".extxyz", ".h5"])
def test_hard_names_together(tmp_path, suffix, recwarn):
    frames = [frame(name, i, i % 3 - 1, name[::-1]) for i, name in enumerate(HARD)]
    write_frames(tmp_path / f"a{suffix}", frames)
    again = read_frames(tmp_path / f"a{suffix}")
    assert [f.name for f in again] == HARD
    assert [f.group for f in again] == [name[::-1] for name in HARD]
    assert [(f.run, f.system.charge) for f in again] == [(f.run, f.system.charge) for f in frames]
    assert {f.energy for f in again} == {-10.25}
    assert [f.name for f in read_frames(tmp_path / f"a{suffix}", names=["007"])] == ["007"]
    assert not recwarn.list


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    st.integers(-(2**62), 2**62),
    st.integers(-9, 9),
)
@example("\r", 10**17 + 1, 0)
def test_any_name_run_and_charge(tmp_path, name, run, charge):
    for suffix in (".extxyz", ".h5"):
        path = tmp_path / f"a{suffix}"
        write_frames(path, [frame(name, run, charge), frame("between"), frame(name, run, charge)])
        for back in read_frames(path)[::2]:
            assert (back.name, back.run, back.system.charge) == (name, run, charge)


XYZ = "2\n{}\nO 0 0 0\nH 0 0 0.97\n"


@pytest.mark.parametrize(
    ("comment", "name"),
    [
        ("name=007", "007"), ("name=T energy=-1", "T"), ("name=1e5", "1e5"), ("name=NaN", "NaN"),
        ("name= energy=-1", ""), ('name="" energy=-1', ""), ("name", ""), ("name=", ""),
        ('name="1 2"', "1 2"), ("name = 3.0 energy=-1", "3.0"), ("water", ""),
    ],
)  # fmt: skip
def test_names_written_by_others(tmp_path, comment, name):
    (tmp_path / "a.xyz").write_text(XYZ.format(comment))
    (found,) = read_frames(tmp_path / "a.xyz")
    assert found.name == name
    assert found.energy == (-1 if "energy" in comment else None)


def runs(path, *given):
    path.write_text("".join(XYZ.format("" if run is None else f"run={run}") for run in given))
    return [found.run for found in read_frames(path)]


@pytest.mark.filterwarnings("ignore:.*name no run")
def test_runs_that_have_names_are_numbered_in_order(tmp_path):
    path = tmp_path / "a.xyz"
    with pytest.warns(UserWarning, match="names of runs are numbered: run_A1 = 8, T = 9"):
        assert runs(path, "run_A1", 7, "T", None, "run_A1", "007", "2.0") == [8, 7, 9, 0, 8, 7, 2]


@pytest.mark.parametrize("run", ["2.7", "nan", "inf", "1e30", "-0.5"])
def test_runs_that_are_no_whole_numbers_are_refused(tmp_path, run):
    with pytest.raises(ValueError, match=r"a\.xyz, frame 1: run: expected a whole number"):
        runs(tmp_path / "a.xyz", 1, run)


@pytest.mark.parametrize(
    ("run", "error"),
    [(2.7, ValueError), (np.nan, ValueError), ("run_A1", TypeError), (None, TypeError),
     (True, TypeError), (2**63, ValueError), ([1], TypeError)],
)  # fmt: skip
def test_runs_of_frames(run, error):
    with pytest.raises(error, match="run: expected a whole number"):
        frame("a", run)
    for good in (3, 3.0, np.int32(3), np.float64(3), np.array(3)):
        assert frame("a", good).run == 3


def test_a_key_that_is_named_must_be_there(tmp_path):
    (tmp_path / "a.xyz").write_text(XYZ.format("config=bulk traj=4"))
    (found,) = read_frames(tmp_path / "a.xyz", keys={"name": "config", "run": "traj"})
    assert (found.name, found.run) == ("bulk", 4)
    for quantity in ("name", "run", "charge"):
        with pytest.raises(ValueError, match=f"no 'other' for {quantity}"):
            read_frames(tmp_path / "a.xyz", keys={quantity: "other"})


def test_the_null_character_is_refused():
    with pytest.raises(ValueError, match="null character"):
        frame("a\0b")
