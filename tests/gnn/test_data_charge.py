"""One rule for the total charge, whatever it is read from."""

import numpy as np
import pytest
import torch

from gnn.data import System, read_frames
from gnn.data.charge import find_charge
from gnn.data.values import total_charge

ATOMS = "O 0 0 0\nH 0 0 0.97\n"


@pytest.mark.parametrize(
    ("value", "charge"),
    [
        ("-1", -1), ("+1", 1), ("1-", -1), ("2+", 2), (" -1.0 ", -1), ("−1", -1), (b"-1", -1),
        (1.0, 1), (np.float32(-1), -1), (np.array(-1), -1), (np.array(["-1"]), -1),
        (np.str_("1"), 1), (torch.tensor(-1), -1), ([-1], -1), ("0", 0),
    ],
)  # fmt: skip
def test_a_charge_of_any_kind(value, charge):
    found = total_charge(value)
    assert found == charge and type(found) is int
    assert System([8], [[0, 0, 0]], value).charge == charge


@pytest.mark.parametrize(
    "value",
    [
        "-1 1", "--1", "-1-", "minus one", "", "None", "nan", "1e0", 0.5, np.nan, np.inf, -1e300,
        [0, 1], [], None, True, np.True_, {"q": 1}, 1j,
    ],
)  # fmt: skip
def test_what_is_no_charge(value):
    with pytest.raises((ValueError, TypeError), match=r"whole number|real numbers"):
        total_charge(value)


def read(path, comment, atoms=ATOMS, **options):
    path.write_text(f"2\n{comment}\n{atoms}")
    (frame,) = read_frames(path, **options)
    return frame.system.charge


COLUMN = "Properties=species:S:1:pos:R:3:{}:R:1 {}"
SHARED = "O 0 0 0 -1.3\nH 0 0 0.97 0.3001\n"
UNEVEN = "O 0 0 0 -0.9\nH 0 0 0.97 1.83\n"


@pytest.mark.parametrize(
    ("comment", "atoms", "keys"),
    [
        ("total_charge=-1", ATOMS, None),
        ("charge=-1", ATOMS, None),
        ("charge=1-", ATOMS, None),
        ("charge=-1 total_charge=-1.0", ATOMS, None),
        ("net_charge=-1", ATOMS, {"charge": "net_charge"}),
        (COLUMN.format("initial_charges", ""), SHARED, None),
        (COLUMN.format("charge", ""), SHARED, None),
        (COLUMN.format("mulliken_charges", "charge=-1"), SHARED, None),
        (COLUMN.format("mbis", ""), SHARED, {"charges": "mbis"}),
        (COLUMN.format("nuclear_charges", "charge=-1"), SHARED.replace("-1.3", "8"), None),
        (COLUMN.format("initial_charges", "charge=-1"), SHARED.replace("-1.3", "-.3001"), None),
    ],
)
def test_ways_in(tmp_path, recwarn, comment, atoms, keys):
    if "-.3001" in atoms:  # charges that are all zero say nothing
        atoms = "O 0 0 0 0\nH 0 0 0.97 0\n"
    assert read(tmp_path / "a.xyz", comment, atoms, keys=keys) == -1
    assert not recwarn.list


@pytest.mark.parametrize(
    ("comment", "atoms", "message"),
    [
        ("charge=-1 total_charge=0", ATOMS, "'total_charge' is 0; 'charge' is -1"),
        (COLUMN.format("charge", "charge=0"), SHARED, "'charge' is 0; 'charges' .* add up to -1"),
        (COLUMN.format("charge", ""), UNEVEN, r"charges of the atoms add up to 0\.93 e, no whole"),
        ("charge=None", ATOMS, "'charge': expected one whole number .* got 'None'"),
        ("charge", ATOMS, "got True, which is also how ase reads a key without a value"),
        ('charge="-1 1"', ATOMS, r"'charge': expected one whole number .* got array\(\[-1"),
        ("charge=nan", ATOMS, "'charge': expected one whole number"),
    ],
)
def test_contradictions_and_fractions_are_refused(tmp_path, comment, atoms, message):
    with pytest.raises((ValueError, TypeError), match=rf"a\.xyz, frame 0: .*{message}"):
        read(tmp_path / "a.xyz", comment, atoms)


@pytest.mark.parametrize(
    ("comment", "named"),
    [
        ("Charge=-1", r"'Charge' \(-1\)"),
        ("net_charge=-1", r"'net_charge' \(-1\)"),
        ("overall_charge=-1", r"'overall_charge' \(-1\)"),
        ("totalcharge=-1", r"'totalcharge' \(-1\)"),
        ("q=-1 charge=0", r"'q' \(-1\)"),
        ('charge_mult="-1 1"', r"'charge_mult' \(\[-1  1\]\)"),
        ("-1 1", r"'comment' \(-1 1\)"),
    ],
)
def test_other_names_are_named(tmp_path, comment, named):
    match = rf"a\.xyz: {named} looks like a total charge and is not used, the charge is 0"
    with pytest.warns(UserWarning, match=match):
        assert read(tmp_path / "a.xyz", comment) == 0


@pytest.mark.parametrize(
    "comment", ["0 1", "Charge=0", "charge=-1 net_charge=-1", 'MM_charges="[0.5]"', "12", ""]
)
def test_names_that_do_no_harm_are_not(tmp_path, recwarn, comment):
    if "MM" in comment:
        comment += ' MM_positions="[[0, 0, 9.0]]"'
    read(tmp_path / "a.xyz", comment)
    assert not recwarn.list


def test_a_warning_tells_how_many_frames(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("".join(f"2\nnet_charge={-(i > 2)}\n{ATOMS}" for i in range(8)))
    with pytest.warns(UserWarning, match=r"\(5 of 8 frames, first in frame 3\)") as found:
        read_frames(path)
    assert len(found) == 1


def test_a_column_that_is_nearly_stated_is_told(tmp_path):
    with pytest.warns(UserWarning, match=r"add up to 0\.93 e, but the total charge is 1"):
        assert read(tmp_path / "a.xyz", COLUMN.format("charge", "charge=1"), UNEVEN) == 1


def test_a_column_that_may_be_one_is_told(tmp_path):
    with pytest.warns(UserWarning, match=r"'ddec_q' of the atoms add up to -0\.9999 e, but"):
        assert read(tmp_path / "a.xyz", COLUMN.format("ddec_q", ""), SHARED) == 0


def test_a_rule_for_arrays_alone():
    assert find_charge({}, {})[0] == 0
    assert find_charge({"charge": None}, {"initial_charges": np.zeros(3)})[0] == 0
    assert find_charge({}, {"initial_charges": np.array([0.5, 0.5])})[0] == 1
    with pytest.raises(ValueError, match="add up to nan e"):
        find_charge({}, {"charges": np.array([np.nan, 0.5])})
