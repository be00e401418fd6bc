"""Signs and units: labels made wrong are doubted with numbers, and right ones never."""

import re
from dataclasses import replace

import numpy as np
import pytest

from gnn.data import Frame, System, load_shipped, write_frames
from gnn.data.checking.doubts import doubts
from gnn.data.checking.info import read_summary, tables
from gnn.units import BOHR, DEBYE, HARTREE, KCAL_PER_MOL, KJ_PER_MOL


@pytest.fixture(scope="module")
def embedded() -> list[Frame]:
    apart = ("hot@800", "torn@800", "beside@450")  # alone, far from rest
    return [frame for frame in load_shipped() if frame.group not in apart][::6]


@pytest.fixture(scope="module")
def vacuum() -> list[Frame]:
    frames = load_shipped(["acoh"], vacuum=True)
    return [frame for frame in frames if frame.group == "first"][:90]


def altered(frames, *, energy=1.0, forces=1.0, dipole=1.0, length=1.0, around=1.0, charge=1.0):
    """The same frames with labels, positions or charges multiplied."""
    found = []
    for f in frames:
        s = f.system
        particles = (s.mm_positions * around, s.mm_charges * charge) if s.n_mm else (None, None)
        system = System(s.numbers, s.positions * length, s.charge, *particles)
        labels = {
            "energy": None if f.energy is None else f.energy * energy,
            "forces": None if f.forces is None else f.forces * forces,
            "mm_forces": None if f.mm_forces is None else f.mm_forces * forces,
            "dipole": None if f.dipole is None else f.dipole * dipole,
        }
        found.append(Frame(system, **labels, run=f.run, name=f.name))
    return found


UNITS = {
    "forces of the wrong sign": {"forces": -1.0},
    "energies of the wrong sign": {"energy": -1.0},
    "energies in Hartree (times 27.2114)": {"energy": 1 / HARTREE},
    "energies in Rydberg (times 13.6057)": {"energy": 2 / HARTREE},
    "energies in kcal/mol (times 0.0433641)": {"energy": 1 / KCAL_PER_MOL},
    "energies in kJ/mol (times 0.0103643)": {"energy": 1 / KJ_PER_MOL},
    "forces in Hartree/bohr (times 51.4221)": {"forces": BOHR / HARTREE},
    "forces in Hartree/Å (times 27.2114)": {"forces": 1 / HARTREE},
    "forces in kcal/mol/Å (times 0.0433641)": {"forces": 1 / KCAL_PER_MOL},
    "forces in kJ/mol/nm (times 0.00103643)": {"forces": 10 / KJ_PER_MOL},
    "forces in eV/bohr (times 1.88973)": {"forces": BOHR},
    "energies in Hartree (times 27.2114) and forces in Hartree/bohr (times 51.4221)": {
        "energy": 1 / HARTREE, "forces": BOHR / HARTREE,
    },
    "energies in kcal/mol (times 0.0433641) and forces in kcal/mol/Å (times 0.0433641)": {
        "energy": 1 / KCAL_PER_MOL, "forces": 1 / KCAL_PER_MOL,
    },
    "forces in Hartree/bohr (times 51.4221) and forces of the wrong sign": {
        "forces": -BOHR / HARTREE,
    },
}  # fmt: skip


@pytest.mark.parametrize("words", UNITS)
def test_signs_and_units_of_energies_and_forces_are_named(words, vacuum):
    (found,) = doubts(altered(vacuum, **UNITS[words]))
    assert found.startswith(f"labels look like {words}: ")


@pytest.mark.parametrize("words", [words for words in UNITS if "eV/bohr" not in words])
def test_they_are_named_in_surroundings_that_change(words, embedded):
    (found,) = doubts(altered(embedded, **UNITS[words]))
    assert words in found.partition(": ")[0]


def test_a_doubt_has_numbers(vacuum):
    (found,) = doubts(altered(vacuum, forces=-1.0))
    assert "slope -1.01 ± 0.02 (expected 1) over 148 pairs of frames" in found
    assert "by 36.3 per Å (expected about -36 eV/Å) over 360 bonds" in found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"length": 1 / BOHR}, "positions look as if they were in bohr: the nearest neighbours"),
        ({"length": 0.1, "around": 0.1}, "positions look as if they were in nm"),
        ({"around": 1 / BOHR}, "positions of surrounding charges look as if they were in bohr"),
        ({"charge": 18.2223}, "surrounding charges look as if they were not in e: the largest is"),
        ({"charge": 1.602e-19}, "surrounding charges look as if they were not in e"),
        ({"dipole": 1 / DEBYE}, "dipoles look as if they were in Debye (times 0.208194 e Å)"),
        ({"dipole": -1.0}, "dipoles look like the wrong sign"),
    ],
)
def test_other_units_are_named(change, words, embedded):
    first = [frame for frame in embedded if frame.group == "first"]
    assert doubts(altered(first[:60], **change))[0].startswith(words)


def test_each_molecule_alone_is_enough(embedded):
    for name in ("meoh", "mam", "oac", "acoh"):
        own = [frame for frame in embedded if frame.name == name]
        assert doubts(own) == []
        for words in ("forces of the wrong sign", "energies in Hartree (times 27.2114)"):
            assert words in doubts(altered(own, **UNITS[words]))[0]


def test_dipoles_are_compared_with_the_atoms_charges():
    """And those of ions with where they are."""
    random = np.random.default_rng(0)
    x = random.normal(size=(8, 5, 3)) * 2
    charges = random.normal(size=(8, 5)) * 0.3
    charges -= charges.mean(1, keepdims=True)

    def frames(factor, q=0, known=True):
        q_atoms = charges + q / 5
        return [
            Frame(
                System([6, 7, 8, 9, 15], y + 30 * q, q), dipole=factor * c @ (y + 30 * q),
                charges=c if known else None,
            )
            for y, c in zip(x, q_atoms, strict=True)
        ]  # fmt: skip

    assert doubts(frames(1.0)) == doubts(frames(1.0, 1, False)) == []
    assert "in Debye" in doubts(frames(1 / DEBYE))[0]
    assert "in e bohr" in doubts(frames(1 / BOHR))[0]
    assert "wrong sign: they are -1 times those of the atoms' charges" in doubts(frames(-1.0))[0]
    assert "in Debye" in doubts(frames(1 / DEBYE, 1, False))[0]
    centred = [
        replace(f, dipole=f.dipole - f.system.positions.mean(0)) for f in frames(1.0, 1, False)
    ]
    assert "about another origin" in doubts(centred)[0]


# --- no false alarms ------------------------------------------------------------------------------


def test_shipped_frames_raise_no_doubt(embedded):
    assert doubts(embedded) == []
    assert doubts(load_shipped(vacuum=True)[::3]) == []


def test_labels_that_do_not_belong_together_are_told():
    """Energies of other frames, atoms in another order, and both signs in one file."""
    right = load_shipped(["meoh"], vacuum=True)[:150]
    others = right[75:] + right[:75]
    for wrong in (
        [replace(f, energy=other.energy) for f, other in zip(right, others, strict=True)],
        [replace(f, forces=np.roll(f.forces, 1, axis=0)) for f in right],
        [replace(f, forces=-f.forces) if i % 2 else f for i, f in enumerate(right)],
    ):
        (found,) = doubts(wrong)
        assert found.startswith("forces do not go with the energies")
        assert re.search(r"slope -?0\.[012]\d* ± 0\.\d+ \(expected 1\)", found)


LEVELS = {
    "shifted": lambda f, atoms: f.energy + 12345.6,
    "relative": lambda f, atoms: f.energy + {"meoh": 3148.5, "acoh": 6230.9}.get(f.name, 0.0),
    "atomization": lambda f, atoms: f.energy - 1.0068 * atoms,
    "valence only": lambda f, atoms: f.energy - 0.93 * atoms,
    "Hartree-Fock": lambda f, atoms: f.energy * 0.995,
    "none": lambda f, atoms: None,
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("count", [1, 7, 400])
def test_any_level_of_theory_passes(level, count, embedded):
    from gnn.data.checking.atoms import ATOM_ENERGIES

    frames = [
        replace(f, energy=LEVELS[level](f, ATOM_ENERGIES[f.system.numbers].sum() * HARTREE))
        for f in embedded[:count]
    ]
    assert doubts(frames) == []


def test_valence_energies_that_look_like_rydberg_pass():
    """Ethanol at a semi-empirical level: -11.39 Hartree is its all-electron energy in Rydberg."""
    x = [
        [0, 0, 0], [1.52, 0, 0], [2.0, 1.35, 0], [-0.4, 1, 0], [-0.4, -0.5, 0.9],
        [-0.4, -0.5, -0.9], [1.9, -0.5, 0.9], [1.9, -0.5, -0.9], [2.9, 1.3, 0],
    ]  # fmt: skip
    ethanol = System([6, 6, 8, 1, 1, 1, 1, 1, 1], x)
    assert doubts([Frame(ethanol, energy=-11.39 * HARTREE, forces=np.zeros((9, 3)))]) == []


def _relaxed(rng, n=40):
    """Minima of different molecules: bonds differ by chemistry, forces are rests of relaxation."""
    for _ in range(n):
        r, a = 0.96 + 0.01 * rng.normal(size=2), 1.82 + 0.05 * rng.normal()
        x = [[0, 0, 0], [r[0], 0, 0], [r[1] * np.cos(a), r[1] * np.sin(a), 0]]
        yield Frame(
            System([8, 1, 1], x), -2079.0 + 0.01 * rng.normal(), rng.normal(size=(3, 3)) / 1e3
        )


def test_odd_but_right_frames_pass():
    rng = np.random.default_rng(1)
    ions = ((1, 0, -13.6), (2, 0, -79.0), (11, 1, -4400.0), (17, -1, -12500.0))
    atoms = [
        Frame(System([z], [[0.0, 0, 0]], q), energy=e, forces=[[0, 0, 0]], dipole=[0, 0, 0])
        for z, q, e in ions
    ]

    def pairs(numbers, least, most, **labels):
        lengths = np.linspace(least, most, 30)
        return [Frame(System(numbers, [[0, 0, 0], [d, 0, 0]]), **labels) for d in lengths]

    argon = pairs([18, 18], 3.7, 4.2, energy=-0.01, forces=[[0.001, 0, 0], [-0.001, 0, 0]])
    hydride, salt = pairs([3, 1], 1.5, 1.7), pairs([11, 17], 2.3, 3.5)
    zeros = pairs([9, 1], 0.8, 1.1, energy=0.0, forces=np.zeros((2, 3)), dipole=[0, 0, 0])
    for frames in (atoms, argon, hydride, salt, zeros, list(_relaxed(rng)), [], atoms + argon):
        assert doubts(frames) == []


def _morse(count, seed, scale=1.0):
    """HF-like molecules in random orientation with a Morse bond; a scan without equilibrium."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        u = rng.normal(size=3)
        u /= np.linalg.norm(u)
        r = 0.92 + 0.06 * rng.normal()
        e = 6.0 * (1 - np.exp(-2.2 * (r - 0.92))) ** 2 - 30.0
        slope = 12.0 * (1 - np.exp(-2.2 * (r - 0.92))) * 2.2 * np.exp(-2.2 * (r - 0.92))
        yield Frame(
            System([9, 1], [[0, 0, 0], r * u]), e, scale * np.array([slope * u, -slope * u])
        )


def test_energies_of_any_origin_tell_by_their_differences():
    assert doubts(list(_morse(40, 0))) == []
    assert "forces of the wrong sign" in doubts(list(_morse(40, 0, -1.0)))[0]
    assert "forces in kcal/mol/Å" in doubts(list(_morse(40, 0, 1 / KCAL_PER_MOL)))[0]


def test_many_atoms_and_frames_are_looked_at_quickly():
    rng = np.random.default_rng(0)
    grid = 3.0 * np.stack(np.meshgrid(*[np.arange(12.0)] * 3), -1).reshape(-1, 3)
    frames = [Frame(System(np.full(1728, 18), grid + 0.1 * rng.normal(size=grid.shape)), -1.0,
                    rng.normal(size=grid.shape)) for _ in range(12)]  # fmt: skip
    assert doubts(frames) == []


# --- where they are told --------------------------------------------------------------------------


def test_info_and_convert_tell_them(tmp_path, vacuum, capsys):
    from gnn.cli import main

    write_frames(tmp_path / "wrong.h5", altered(vacuum, forces=-1.0))
    summary = read_summary(tmp_path / "wrong.h5")
    text = " ".join(map(str, tables(summary)))
    assert "doubt" in text and "forces of the wrong sign" in text and "No frame looks" not in text
    assert main(["data", "convert", str(tmp_path / "wrong.h5"), str(tmp_path / "b.extxyz")]) == 0
    assert "doubt: labels look like forces of the wrong sign" in capsys.readouterr().out
    write_frames(tmp_path / "right.h5", vacuum)
    assert read_summary(tmp_path / "right.h5").doubts == []
