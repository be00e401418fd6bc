import os

import h5py
import numpy as np
import pytest

from gnn.data import Frame, System, read_frames, write_frames
from gnn.data.common import ATOMIC_LABELS
from gnn.data.systems import OPTIONAL_FIELDS


def make_frame(n=4, m=5, seed=0, labels=("energy", "forces", "mm_forces", "dipole"), **rest):
    rng = np.random.default_rng(seed)
    system = System(
        np.arange(1, n + 1),
        5 * rng.random((n, 3)),
        rest.pop("charge", 0),
        10 + 5 * rng.random((m, 3)),
        rng.normal(size=m),
    )
    values = {
        "energy": -3000 + rng.random(),
        "forces": rng.normal(size=(n, 3)),
        "mm_forces": rng.normal(size=(m, 3)),
        "dipole": rng.normal(size=3),
    }
    return Frame(system, **{key: values[key] for key in labels}, **rest)


def assert_same(a, b, atol=0.0):
    assert (a.name, a.run, a.system.charge) == (b.name, b.run, b.system.charge)
    for name in ("numbers", "positions", "mm_positions", "mm_charges"):
        np.testing.assert_allclose(getattr(a.system, name), getattr(b.system, name), 0, atol)
    for name in ("energy", "forces", "mm_forces", "dipole"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        if x is not None:
            np.testing.assert_allclose(x, y, 0, atol)


MIXED = [
    make_frame(seed=1, name="a", run=100),
    make_frame(n=1, m=0, seed=2, name="b", charge=1),
    make_frame(seed=3, name="a", run=201, charge=0, m=7),
    make_frame(seed=4, name="a", charge=-1, labels=("energy",)),
    make_frame(n=2, seed=5, labels=()),
    make_frame(seed=6, name="a", run=100, m=0),
    make_frame(n=3, seed=7, name="x/y", labels=("energy", "forces")),
]


@pytest.mark.parametrize("suffix", [".h5", ".hdf5", ".xyz", ".extxyz"])
def test_round_trip_of_a_mixture(tmp_path, suffix):
    path = tmp_path / ("frames" + suffix)
    write_frames(path, MIXED)
    back = read_frames(path)
    assert len(back) == len(MIXED)
    for a, b in zip(MIXED, back, strict=True):
        assert_same(a, b, 0.0 if suffix.startswith(".h") else 1e-8)
    assert os.listdir(tmp_path) == [path.name]  # no temporary file stays


@pytest.mark.parametrize("n", [1, 2, 3, 9])
@pytest.mark.parametrize("m", [0, 1, 2, 3, 4, 9])
def test_extxyz_keeps_arrays_of_every_length(tmp_path, n, m):
    frame = make_frame(n, m, seed=m, name="with space", run=7)
    write_frames(tmp_path / "a.xyz", [frame, frame])
    back = read_frames(tmp_path / "a.xyz")
    assert_same(frame, back[1], 1e-8)
    np.testing.assert_array_equal(back[0].system.mm_positions, frame.system.mm_positions)
    assert back[0].energy == frame.energy


def test_hdf5_float32(tmp_path):
    frames = [make_frame(seed=i, m=200, name="a") for i in range(20)]
    write_frames(tmp_path / "a.h5", frames, dtype=np.float32)
    write_frames(tmp_path / "b.h5", frames)
    assert (tmp_path / "a.h5").stat().st_size < 0.7 * (tmp_path / "b.h5").stat().st_size
    back = read_frames(tmp_path / "a.h5")
    assert_same(frames[3], back[3], 2e-6)
    assert back[3].energy == frames[3].energy
    with pytest.raises(ValueError, match="expected float32 or float64"):
        write_frames(tmp_path / "a.h5", frames, dtype=np.float16)


def test_vacuum_labels(tmp_path):
    frames = [make_frame(seed=i, name="ab"[i % 2]) for i in range(5)]
    alone = [
        Frame(
            System(frame.system.numbers, frame.system.positions),
            energy=float(i),
            forces=frame.forces,
            name=frame.name,
        )
        for i, frame in enumerate(frames)
    ]
    path = tmp_path / "a.h5"
    write_frames(path, frames, vacuum=alone, attributes={"level": "HF/STO-3G"})
    for a, b in zip(alone, read_frames(path, vacuum=True), strict=True):
        assert_same(a, b)
    for a, b in zip(frames, read_frames(path), strict=True):
        assert_same(a, b)
    assert [f.energy for f in read_frames(path, names=["b"], vacuum=True)] == [1.0, 3.0]
    with h5py.File(path) as file:
        assert file.attrs["level"] == "HF/STO-3G"
    with pytest.raises(ValueError, match="one frame for each of the 5"):
        write_frames(path, frames, vacuum=alone[:2])
    with pytest.raises(ValueError, match="other atoms or positions"):
        write_frames(path, frames, vacuum=alone[::-1])
    with pytest.raises(ValueError, match="5 point charges, expected 0"):
        write_frames(path, frames, vacuum=frames)
    with pytest.raises(ValueError, match="HDF5 files only"):
        write_frames(tmp_path / "a.xyz", frames, vacuum=alone)
    write_frames(tmp_path / "c.h5", frames)
    with pytest.raises(ValueError, match="no vacuum labels"):
        read_frames(tmp_path / "c.h5", vacuum=True)


def write_by_hand(path, **units):
    """The least a user has to write."""
    attributes = {"energy_unit": "eV", "length_unit": "angstrom", "charge_unit": "e"} | units
    with h5py.File(path, "w") as file:
        file.attrs.update({key: value for key, value in attributes.items() if value is not None})
        group = file.create_group("water")
        group.attrs["charge"] = 0
        group["numbers"] = [8, 1, 1]
        group["positions"] = np.array([[[0, 0, 0], [0.96, 0, 0], [0, 0.96, 0]]] * 2)
        group["energy"] = [-2000.0, -2001.0]


def edit(path, change):
    with h5py.File(path, "a") as file:
        change(file)


def test_hdf5_written_by_hand(tmp_path):
    path = tmp_path / "water.h5"
    write_by_hand(path)
    first, second = read_frames(path, require=["energy"])
    assert (first.name, first.run, second.energy, first.forces) == ("water", 0, -2001.0, None)


def delete(key):
    def change(file):
        del file["water"][key]

    return change


def put(key, value):
    def change(file):
        file["water"][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (delete("numbers"), "dataset 'numbers' is missing; found energy, positions"),
        (put("forces", np.zeros((2, 2, 3))), r"'forces' has shape \(2, 2, 3\), expected \(2, 3, 3"),
        (put("mm_positions", np.zeros((4, 3))), "'mm_ptr' is missing"),
        (put("dipole", np.full((2, 3), np.nan)), "group 'water', frame 0: dipole: expected finite"),
        (lambda f: f["water"].attrs.pop("charge"), "attribute 'charge'"),
        (lambda f: f["water/energy"].attrs.update(unit="Ha"), "unit 'Ha', expected 'eV'"),
        (lambda f: f.attrs.update(version=9), "newer"),
        (lambda f: f.pop("water"), "one group for each molecule, found nothing"),
    ],
)
def test_wrong_hdf5_is_named(tmp_path, change, message):
    path = tmp_path / "water.h5"
    write_by_hand(path)
    edit(path, change)
    with pytest.raises(ValueError, match=message) as caught:
        read_frames(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("pointer", [[1, 2, 4], [0, 3, 2]])
def test_wrong_pointer(tmp_path, pointer):
    path = tmp_path / "water.h5"
    write_by_hand(path)
    edit(path, put("mm_ptr", pointer))
    with pytest.raises(ValueError, match="mm_ptr must begin at 0"):
        read_frames(path)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"energy_unit": "kcal/mol"}, r"energies and forces by 0\.04336410\d* \(gnn.units.KCAL"),
        ({"energy_unit": "Hartree"}, r"by 27\.2113862\d* \(gnn\.units\.HARTREE"),
        ({"length_unit": "bohr"}, r"positions and dipoles .* by 0\.529177"),
        ({"length_unit": "nm"}, r"by 10 \(gnn.units.NANOMETER"),
        ({"energy_unit": "foo"}, "multiply energies and forces by the value of one foo in eV"),
        ({"charge_unit": "C"}, "charge_unit is 'C'"),
        ({"charge_unit": None}, r"attributes charge_unit are missing .*file\.attrs\['charge_unit"),
    ],
)
def test_other_units_are_refused(tmp_path, units, message):
    path = tmp_path / "water.h5"
    write_by_hand(path, **units)
    with pytest.raises(ValueError, match=message):
        read_frames(path)


def test_require_names_what_was_found(tmp_path):
    path = tmp_path / "a.h5"
    write_frames(path, [make_frame(labels=("energy",))])
    with pytest.raises(ValueError, match=r"has no forces, dipole \(labels found: energy"):
        read_frames(path, require=("energy", "forces", "dipole"))
    with pytest.raises(ValueError, match="unknown label 'force'"):
        read_frames(path, require=["force"])
    path = tmp_path / "a.xyz"
    write_frames(path, [make_frame(labels=("energy",))])
    with pytest.raises(ValueError, match="no 'REF_forces' for forces; found in the comment line: "):
        read_frames(path, require=["forces"])
    with pytest.raises(ValueError, match="unknown label 'force'"):
        read_frames(path, require=["force"])


XYZ = """2
Properties=species:S:1:pos:R:3:dft_forces:R:3 dft_energy=-31.5 pbc="F F F" {extra}
H 0.0 0.0 0.0 0.1 0.0 0.0
H 0.0 0.0 0.74 -0.1 0.0 0.0
"""


@pytest.mark.filterwarnings("ignore:.*none is read")
def test_extxyz_of_other_programs(tmp_path):
    path = tmp_path / "h2.xyz"
    path.write_text(XYZ.format(extra=""))
    (frame,) = read_frames(path, keys={"energy": "dft_energy", "forces": "dft_forces"})
    assert frame.energy == -31.5 and frame.forces[1, 0] == -0.1 and frame.system.charge == 0
    assert read_frames(path)[0].energy is None
    with pytest.raises(ValueError, match=r"no 'E' for energy; found in the comment line: dft_en"):
        read_frames(path, keys={"energy": "E"})
    with pytest.raises(ValueError, match="unknown quantity 'energies'"):
        read_frames(path, keys={"energies": "E"})
    with pytest.raises(ValueError, match="HDF5 files only"):
        read_frames(path, vacuum=True)


def test_extxyz_labels_that_ase_takes_for_results(tmp_path):
    path = tmp_path / "h2.xyz"
    path.write_text(XYZ.replace("dft_", "").format(extra='dipole="0 0 1"'))
    keys = {key: key for key in ("energy", "forces", "dipole")}
    (frame,) = read_frames(path, keys=keys)
    assert frame.energy == -31.5 and frame.forces[0, 0] == 0.1 and frame.dipole[2] == 1


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("energy_unit=Hartree", "frame 0: energy_unit is 'Hartree'"),
        ("MM_charges=0.4", "mm_charges is given without mm_positions"),
        ('MM_positions="1 2" MM_charges=0.4', "'MM_positions' should hold numbers of shape"),
        ("total_charge=0.5", "whole number"),
    ],
)
def test_wrong_extxyz_is_named(tmp_path, extra, message):
    path = tmp_path / "h2.xyz"
    path.write_text(XYZ.format(extra=extra))
    with pytest.raises(ValueError, match=message) as caught:
        read_frames(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.filterwarnings("ignore:.*none is read")
def test_extxyz_with_flat_charges(tmp_path):
    path = tmp_path / "h2.xyz"
    path.write_text(XYZ.format(extra='MM_positions="3 0 0 0 4 0" MM_charges="0.5 -0.5"'))
    (frame,) = read_frames(path)
    np.testing.assert_array_equal(frame.system.mm_positions, [[3, 0, 0], [0, 4, 0]])


@pytest.mark.filterwarnings("ignore:.*none is read")
@pytest.mark.parametrize("suffix", [".h5", ".xyz"])
def test_names(tmp_path, suffix):
    path = tmp_path / ("a" + suffix)
    write_frames(path, MIXED[:4])
    assert len(read_frames(path, names="a")) == 3
    with pytest.raises(ValueError, match="no molecule 'c'; found a, b"):
        read_frames(path, names=["a", "c"])


def test_missing_and_unknown_files(tmp_path):
    for suffix in (".h5", ".xyz"):
        with pytest.raises(FileNotFoundError, match=r"no file .*nothing"):
            read_frames(tmp_path / ("nothing" + suffix))
        (tmp_path / ("bad" + suffix)).write_text("hello")
        with pytest.raises(ValueError, match="bad"):
            read_frames(tmp_path / ("bad" + suffix))
    with pytest.raises(ValueError, match=r"suffix '.npz'; expected .h5, .hdf5, .xyz, .extxyz"):
        read_frames(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="at least one frame"):
        write_frames(tmp_path / "a.h5", [])
    with pytest.raises(TypeError, match="expected Frame objects, got System"):
        write_frames(tmp_path / "a.h5", [MIXED[0].system])


@pytest.mark.parametrize("suffix", [".h5", ".xyz"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, suffix):
    path = tmp_path / "sub" / f"a{suffix}"
    write_frames(path, MIXED[:1])
    before = path.read_bytes()

    def fail(temporary, *_):
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("gnn.data.formats.hdf5_writer.write_hdf5", fail)
    monkeypatch.setattr("gnn.data.formats.extxyz.write_extxyz", fail)
    with pytest.raises(KeyboardInterrupt):
        write_frames(path, MIXED[:1])
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_extxyz_takes_the_usual_key_of_the_charge(tmp_path):
    path = tmp_path / "hydroxide.xyz"
    path.write_text("2\ncharge=-1\nO 0 0 0\nH 0 0 0.97\n")
    assert read_frames(path)[0].system.charge == -1


def _in_fields(rng, n_mm=2):
    symmetric = rng.standard_normal((n_mm, 3, 3))
    return System(
        [8, 1], rng.standard_normal((2, 3)), 0, 5 + rng.standard_normal((n_mm, 3)), [0.4] * n_mm,
        mm_dipoles=rng.standard_normal((n_mm, 3)),
        mm_quadrupoles=symmetric + symmetric.swapaxes(1, 2),
        uniform_field=rng.standard_normal(3), external_field=rng.standard_normal((2, 10)),
    )  # fmt: skip


def test_multipoles_and_fields_survive_hdf5_and_are_not_lost_in_extxyz(tmp_path):
    rng = np.random.default_rng(0)
    plain = System([8, 1], [[0.0, 0, 0], [1, 0, 0]], 0, [[5.0, 0, 0]], [0.3])
    frames = [Frame(s, energy=1.0) for s in (_in_fields(rng), plain, _in_fields(rng, 3))]
    write_frames(tmp_path / "fields.h5", frames)
    for old, new in zip(frames, read_frames(tmp_path / "fields.h5"), strict=True):
        for name in ("mm_charges", *OPTIONAL_FIELDS):
            given, found = getattr(old.system, name), getattr(new.system, name)
            assert (given is None) == (found is None), name
            if given is not None:
                np.testing.assert_array_equal(given, found, name)
    with pytest.raises(ValueError, match=r"extxyz has no place for mm_dipoles.*write HDF5"):
        write_frames(tmp_path / "fields.xyz", frames)


@pytest.mark.parametrize("suffix", [".h5", ".extxyz"])
@pytest.mark.filterwarnings("ignore:.*add up to")
def test_multipoles_of_atoms_come_back(tmp_path, suffix):
    rng = np.random.default_rng(0)
    frames = []
    for n in (1, 3):
        quadrupoles = rng.random((n, 3, 3))
        system = System([8] * n, 5 * rng.random((n, 3)))
        given = rng.random(n), rng.random((n, 3)), quadrupoles + quadrupoles.swapaxes(1, 2)
        frames.append(Frame(system, 1.0, None, None, None, 0, "x", *given))
    frames.append(Frame(System([8], [[0, 0, 0]]), 1.0, name="x"))  # none of this one
    path = tmp_path / f"multipoles{suffix}"
    write_frames(path, frames)
    again = read_frames(path)
    assert again[2].charges is None and again[2].quadrupoles is None
    for old, new in zip(frames[:2], again, strict=False):
        for name in ATOMIC_LABELS:
            np.testing.assert_allclose(getattr(new, name), getattr(old, name), atol=1e-8)
