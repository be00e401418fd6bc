"""Parts of a system: which atoms bonds hold together, and the charges that bonds tell."""

import sys

import numpy as np
import pytest
import torch

from gnn import Frame, System
from gnn.data import collate, prepare, read_frames, write_frames
from gnn.data.parts import bonds_of, derived_charges, parts_of
from gnn.data.streaming import stream_frames
from gnn.data.valence import charge_of, possible_charges

WATER = np.array([[0, 0, 0.0], [0.757, 0, 0.586], [-0.757, 0, 0.586]])
_T = 1.02 / np.sqrt(3)
AMMONIUM = _T * np.array([[0, 0, 0.0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])


def joined(*molecules, apart=6.0):
    """Numbers and positions of molecules in a row."""
    numbers = np.concatenate([np.array(z) for z, _ in molecules])
    positions = [np.array(x) + i * apart * np.eye(3)[0] for i, (_, x) in enumerate(molecules)]
    return numbers, np.concatenate(positions)


def water():
    return [8, 1, 1], WATER


def ammonium():
    return [7, 1, 1, 1, 1], AMMONIUM


def ion(number):
    return [number], np.zeros((1, 3))


# --- bonds ----------------------------------------------------------------------------------------


def test_parts_are_numbered_by_their_first_atoms():
    numbers, x = joined(water(), ammonium(), ion(17))
    order = np.array([8, 0, 3, 1, 2, 4, 5, 6, 7])
    assert parts_of(numbers, x).tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 2]
    assert parts_of(numbers[order], x[order]).tolist() == [0, 1, 2, 1, 1, 2, 2, 2, 2]
    assert parts_of(np.array([1]), np.zeros((1, 3))).tolist() == [0]


def test_a_hydrogen_belongs_to_its_nearest_atom():
    for place, parts in ((1.0, [0, 1, 0]), (1.19, [0, 1, 0]), (1.21, [0, 1, 1]), (1.4, [0, 1, 1])):
        x = np.array([[0, 0, 0], [0, 0, 2.4], [0, 0, place]])
        assert parts_of(np.array([8, 8, 1]), x).tolist() == parts
    stretched = WATER * [1.7, 1, 1.7]
    assert not parts_of(np.array([8, 1, 1]), stretched).any()
    assert len(bonds_of(np.array([1, 1]), np.array([[0, 0, 0], [0, 0, 0.74]]))) == 1
    assert len(bonds_of(np.array([1, 1]), np.array([[0, 0, 0], [0, 0, 1.2]]))) == 0


def test_metal_ions_and_noble_gases_have_no_bonds():
    for number in (3, 11, 20, 18):
        numbers, x = joined(water(), ion(number), apart=2.2)
        assert parts_of(numbers, x).tolist() == [0, 0, 0, 1]


# --- charges --------------------------------------------------------------------------------------

MOLECULES = {  # atomic numbers, bonds, charge
    "water": ((8, 1, 1), ((0, 1), (0, 2)), 0),
    "hydronium": ((8, 1, 1, 1), ((0, 1), (0, 2), (0, 3)), 1),
    "hydroxide": ((8, 1), ((0, 1),), -1),
    "hydrogen": ((1, 1), ((0, 1),), 0),
    "ammonium": ((7, 1, 1, 1, 1), ((0, 1), (0, 2), (0, 3), (0, 4)), 1),
    "methanethiolate": ((6, 16, 1, 1, 1), ((0, 1), (0, 2), (0, 3), (0, 4)), -1),
    "formate": ((6, 8, 8, 1), ((0, 1), (0, 2), (0, 3)), -1),
    "formic acid": ((6, 8, 8, 1, 1), ((0, 1), (0, 2), (0, 3), (2, 4)), 0),
    "nitrate": ((7, 8, 8, 8), ((0, 1), (0, 2), (0, 3)), -1),
    "nitromethane": (
        (6, 7, 8, 8, 1, 1, 1), ((0, 1), (1, 2), (1, 3), (0, 4), (0, 5), (0, 6)), 0,
    ),
    "sulfate": ((16, 8, 8, 8, 8), ((0, 1), (0, 2), (0, 3), (0, 4)), -2),
    "phosphate": ((15, 8, 8, 8, 8), ((0, 1), (0, 2), (0, 3), (0, 4)), -3),
    "dimethyl sulfoxide": (
        (6, 16, 6, 8, *[1] * 6),
        ((0, 1), (1, 2), (1, 3), *((0, k) for k in (4, 5, 6)), *((2, k) for k in (7, 8, 9))), 0,
    ),
    "guanidinium": (
        (6, 7, 7, 7, *[1] * 6),
        ((0, 1), (0, 2), (0, 3), *((1 + k // 2, 4 + k) for k in range(6))), 1,
    ),
    "imidazole": (
        (7, 6, 7, 6, 6, 1, 1, 1, 1),
        ((0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (0, 5), (1, 6), (3, 7), (4, 8)), 0,
    ),
    "imidazolium": (
        (7, 6, 7, 6, 6, 1, 1, 1, 1, 1),
        ((0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (0, 5), (1, 6), (3, 7), (4, 8), (2, 9)), 1,
    ),
    "borohydride": ((5, 1, 1, 1, 1), ((0, 1), (0, 2), (0, 3), (0, 4)), -1),
    "chloride": ((17,), (), -1),
    "calcium": ((20,), (), 2),
    "argon": ((18,), (), 0),
    "methyl": ((6, 1, 1, 1), ((0, 1), (0, 2), (0, 3)), None),
    "cyanide": ((6, 7), ((0, 1),), None),
    "hydrogen atom": ((1,), (), None),
    "oxygen atom": ((8,), (), None),
    "an iron compound": ((26, 6, 8), ((0, 1), (1, 2)), None),
    "hydrogen between two oxygens": ((8, 1, 8), ((0, 1), (1, 2)), None),
}  # fmt: skip


@pytest.mark.parametrize("name", MOLECULES)
def test_charges_that_valences_tell(name):
    numbers, bonds, charge = MOLECULES[name]
    assert charge_of(numbers, bonds) == charge


def test_charges_of_parts_are_spread_over_their_atoms():
    numbers, x = joined(water(), ammonium(), ion(17), ion(11))
    shares = derived_charges(numbers, x, 1)
    np.testing.assert_array_equal(shares, [0, 0, 0, *[0.2] * 5, -1, 1])
    assert derived_charges(*joined(water()), 7).tolist() == [7 / 3] * 3  # one part: what is stated


def test_one_uncertain_part_has_what_is_left():
    methyl = [6, 1, 1, 1], np.array([[0, 0, 0], [1.08, 0, 0], [0, 1.08, 0], [0, 0, 1.08]])
    for total in (-2, -1, 0):
        shares = derived_charges(*joined(methyl, ion(17)), total)
        np.testing.assert_allclose(shares, [(total + 1) / 4] * 4 + [-1])


CYANIDE = [6, 7], np.array([[0, 0, 0], [0, 0, 1.17]])


def test_what_is_not_told_is_refused_with_a_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    possible_charges.cache_clear()
    numbers, x = joined(CYANIDE, CYANIDE, water())
    with pytest.raises(ValueError, match=r"CN \(atoms 0, 1\).*RDKit is not installed.*charges=\{0"):
        derived_charges(numbers, x, -2)
    with pytest.raises(ValueError, match=r"no choice.*0: H2O \(atoms 0, 1, 2\), \+0 e.*Cl"):
        derived_charges(*joined(water(), ion(17)), 1)
    possible_charges.cache_clear()


def test_rdkit_is_asked_where_valences_are_not_sure():
    pytest.importorskip("rdkit")
    possible_charges.cache_clear()
    numbers, x = joined(CYANIDE, CYANIDE, water())
    assert derived_charges(numbers, x, -2).tolist() == [-0.5] * 4 + [0] * 3
    with pytest.raises(ValueError, match=r"several choices.*by RDKit"):
        derived_charges(numbers, x, 0)


def test_hundred_waters_with_an_ion():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(5.0)] * 3), -1).reshape(-1, 3)[:101] * 3.1
    numbers = np.concatenate([[8, 1, 1] * 100, [11]])
    x = np.concatenate([(grid[:100, None] + WATER).reshape(-1, 3), grid[100:]])
    x = x + 0.02 * rng.standard_normal(x.shape)
    assert parts_of(numbers, x).max() == 100
    np.testing.assert_array_equal(derived_charges(numbers, x, 1), [0] * 300 + [1])


# --- systems --------------------------------------------------------------------------------------


def test_charges_of_a_system():
    numbers, x = joined(ammonium(), ion(17), water())
    spread = [0.2] * 5 + [-1] + [0] * 3
    for given in ({0: 1, 1: -1, 2: 0}, [1, 0, 0, 0, 0, -1, 0, 0, 0], spread, torch.tensor(spread)):
        system = System(numbers, x, charges=given)
        assert system.charge == 0 and system.charges.tolist() == pytest.approx(spread)
    assert System(numbers, x, charges={0: 1, 1: -1, 2: 1}).charge == 1
    assert System(numbers, x).charges is None and System(numbers, x).charge == 0
    kept = System(numbers, x).with_charges(np.full(9, 0.0))
    assert kept.charges.tolist() == [0.0] * 9


def test_wrong_charges_of_a_system():
    numbers, x = joined(ammonium(), ion(17))
    with pytest.raises(ValueError, match=r"each part.*got \{0: 1\}.*1: Cl \(atoms 5\)"):
        System(numbers, x, charges={0: 1})
    with pytest.raises(ValueError, match="each part"):
        System(numbers, x, charges={1: 1, 2: -1})
    with pytest.raises(ValueError, match=r"whole for each part, got 0.5 e for part 0: H4N"):
        System(numbers, x, charges={0: 0.5, 1: -0.5})
    with pytest.raises(ValueError, match="add up to 0 e, but the total charge is 1"):
        System(numbers, x, 1, charges={0: 1, 1: -1})
    with pytest.raises(ValueError, match="add up to 0 e, but the total charge is 1"):
        System(numbers, x, 1).with_charges(np.zeros(6))
    with pytest.raises(ValueError, match=r"charges: expected shape \(6\)"):
        System(numbers, x, charges=[1, -1])
    with pytest.raises(ValueError, match="charges: expected finite"):
        System(numbers, x, charges=[np.nan] * 6)


def test_prepared_and_joined():
    numbers, x = joined(ammonium(), ion(17))
    derived, given = System(numbers, x), System(numbers, x, charges={0: 1, 1: -1})
    alone = System(*water(), -1)
    spread = torch.tensor([0.2] * 5 + [-1.0])
    assert prepare(derived, 5.0).formal is None
    assert torch.equal(prepare(given, 5.0).formal, spread)
    assert torch.equal(prepare(derived, 5.0, local_charges=True).formal, spread)
    assert collate([alone, derived], 5.0).formal is None
    batch = collate([alone, derived, given], 5.0, local_charges=True)
    assert batch.formal.tolist() == pytest.approx([-1 / 3] * 3 + 2 * spread.tolist())
    assert batch.to(torch.float64).formal.dtype == torch.float64
    with pytest.raises(ValueError, match="system 1: charges: the charges of the parts"):
        collate([alone, System(*joined(CYANIDE, CYANIDE), -1)], 5.0, local_charges=True)
    assert collate([System(*joined(CYANIDE, CYANIDE), -1)], 5.0).formal is None


@pytest.mark.parametrize("suffix", ["h5", "xyz"])
def test_files_keep_charges(tmp_path, suffix):
    numbers, x = joined(ammonium(), ion(17), water())
    system = System(numbers, x, charges={0: 1, 1: -1, 2: 0})
    thirds = system.with_charges([0, 0, 0, 0, 0, 0, 1 / 3, -2 / 3, 1 / 3])
    frames = [Frame(s, energy=1.0) for s in (system, thirds, System(numbers, x))]
    path = tmp_path / f"frames.{suffix}"
    write_frames(path, frames)
    for before, after in zip(frames, read_frames(path), strict=True):
        if before.system.charges is None:
            assert after.system.charges is None
        else:
            np.testing.assert_array_equal(before.system.charges, after.system.charges)
    if suffix == "h5":
        streamed = stream_frames(path)
        np.testing.assert_array_equal(streamed[1].system.charges, thirds.charges)


def test_whole_charges_in_files_of_others(tmp_path):
    _, x = joined(ammonium(), ion(17))
    path = tmp_path / "others.xyz"
    symbols = ["N", "H", "H", "H", "H", "Cl"]
    rows = zip(symbols, x, [1, 0, 0, 0, 0, -1], strict=True)
    lines = [f"{s} {a} {b} {c} {q}" for s, (a, b, c), q in rows]
    head = "Properties=species:S:1:pos:R:3:formal_charges:I:1 REF_energy=1.0"
    path.write_text("\n".join(["6", head, *lines, ""]))
    (frame,) = read_frames(path)
    np.testing.assert_allclose(frame.system.charges, [0.2] * 5 + [-1])
