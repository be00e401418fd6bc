"""Files that others wrote: labels under other names, species, units, HDF5 layouts, recipes."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from gnn.cli import main
from gnn.data import Frame, System, read_frames, write_frames
from gnn.data.common import ATOMIC_LABELS, LABELS
from gnn.data.streaming import stream_frames
from gnn.data.systems import OPTIONAL_FIELDS
from gnn.units import BOHR, HARTREE

ase = pytest.importorskip("ase", reason="needs the package ase (extra 'engines')")
from ase.build import molecule as build  # noqa: E402
from ase.calculators.singlepoint import SinglePointCalculator  # noqa: E402
from ase.io import write  # noqa: E402

FORCES = np.array([[0.0, 0, 0.5], [0, 0, -0.5]])
LAYOUTS = {"spice": "SPICE", "qm7x": "QM7-X", "mace": "MACE"}


def molecule(info=None, arrays=None, **results):
    atoms = ase.Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], info=info or {})
    for name, values in (arrays or {}).items():
        atoms.set_array(name, np.asarray(values))
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def read(folder, *images, **options):
    write(folder / "a.xyz", list(images), format="extxyz")
    return read_frames(folder / "a.xyz", **options)


# --- labels ---------------------------------------------------------------------------------------


def test_results_of_ase_are_labels(tmp_path, recwarn):
    known = {"energy": -75.0, "forces": FORCES, "dipole": [0, 0, 0.4], "charges": [-0.4, 0.4]}
    (frame,) = read(tmp_path, molecule(**known), require=("energy", "forces", "dipole"))
    for name, value in known.items():
        np.testing.assert_allclose(getattr(frame, name), value)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("image", "energy", "message"),
    [
        (
            molecule({"REF_energy": -76.0}, energy=-75.5),
            -76.0,
            "energy: 'REF_energy' is read; 'energy' is another, by up to 0.5",
        ),
        (molecule(free_energy=-75.0), -75.0, "the energy is read from 'free_energy'"),
        (
            molecule(energy=-75.0, free_energy=-75.1),
            -75.0,
            "'free_energy' is another, by up to 0.1",
        ),
        (molecule(energy=-75.0, stress=np.zeros(6)), -75.0, "not used .*: stress"),
        (molecule(energy=-75.0, magmoms=[0, 1.0]), -75.0, "not used .*: magmoms"),
        (
            molecule(arrays={"REF_forces": FORCES}, energy=-75.0),
            -75.0,
            "energy is read from 'energy', forces from 'REF_forces'",
        ),
    ],
)
def test_what_is_read_where_there_is_more_than_one(tmp_path, image, energy, message):
    with pytest.warns(UserWarning, match=message) as found:
        (frame,) = read(tmp_path, image)
    assert frame.energy == energy and len(found) == 1


def test_labels_of_several_origins_are_told(tmp_path):
    images = [molecule({"REF_energy": -75.0}), molecule(energy=-75.0), molecule(energy=-75.1)]
    told = "energy is read from 'REF_energy' in 1, 'energy' in 2 frames"
    with pytest.warns(UserWarning, match=told) as found:
        assert [frame.energy for frame in read(tmp_path, *images)] == [-75.0, -75.0, -75.1]
    assert len(found) == 1


def test_equal_labels_of_two_names_are_no_matter(tmp_path, recwarn):
    image = molecule({"REF_energy": -75.0}, {"REF_forces": FORCES}, energy=-75.0, forces=FORCES)
    assert read(tmp_path, image)[0].energy == -75.0
    assert not recwarn.list


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (molecule({"dft_energy": -75.0}), "energy: none is read, though 'dft_energy' is there"),
        (molecule({"Energy": -75.0}), "'Energy' is there.*--keys energy=Energy"),
        (molecule({"E": -75.0, "E_mp2": -75.1}), "'E', 'E_mp2' is there"),
        (molecule({"Etot": "-75.0 Hartree"}), "'Etot' is there: if it is in eV"),
        (molecule(arrays={"forces_ref": FORCES}), "keys: {forces: forces_ref} in a configuration"),
        (molecule(arrays={"DFT_force": FORCES}), "forces: none is read, though 'DFT_force'"),
        (molecule(arrays={"dft_gradient": FORCES}), "'dft_gradient' looks like a gradient"),
        (molecule({"forces_flat": FORCES.ravel()}), "'forces_flat' is there"),
        (molecule({"dft_dipole": [0, 0, 1.0]}), "dipole: none is read, though 'dft_dipole'"),
        (molecule({"virial": np.eye(3)}), "not used .*: virial"),
        (molecule({"units": "atomic"}), "units=atomic is not used: everything is read in eV"),
    ],
)
def test_what_lies_under_other_names_is_named(tmp_path, image, message):
    with pytest.warns(UserWarning, match=message) as found:
        (frame,) = read(tmp_path, image)
    assert frame.energy is None and frame.forces is None and frame.dipole is None
    assert len(found) == 1


def test_what_is_there_or_no_label_is_not_named(tmp_path, recwarn):
    info = {"REF_energy": -75.0, "dispersion_energy": -0.1, "config_type": "a", "step": 3}
    arrays = {"REF_forces": FORCES, "momenta": FORCES, "dft_gradient": -FORCES}
    assert read(tmp_path, molecule(info, arrays))[0].energy == -75.0
    assert not recwarn.list


def test_a_gradient_is_no_force(tmp_path):
    with pytest.raises(ValueError, match="'dft_gradient' looks like a gradient"):
        read(tmp_path, molecule(arrays={"g": FORCES}), keys={"forces": "dft_gradient"})


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        ("energy_units=Hartree", r"energy_unit is 'Hartree'.* 27\.2113"),
        ("Length_Unit=bohr", "length_unit is 'bohr'"),
        ("units=hartree", r"units is 'hartree'.*convert the values with gnn.units.HARTREE"),
        ("force_unit=kcal/mol/Angstrom", "force_unit is .*gnn.units.KCAL_PER"),
    ],
)
def test_other_units_are_refused_under_other_names(tmp_path, unit, message):
    path = tmp_path / "a.xyz"
    path.write_text(f"1\n{unit} energy=-75\nO 0 0 0\n")
    with pytest.raises(ValueError, match=rf"a\.xyz, frame 0: {message}"):
        read_frames(path)


def test_a_key_without_a_value_is_no_label(tmp_path):
    """As ase writes None; it reads the key as true, which is not 1 eV."""
    for key in ("energy", "REF_energy"):
        (tmp_path / "a.xyz").write_text(f'1\n{key} dipole="0 0 1"\nO 0 0 0\n')
        with pytest.warns(UserWarning, match=f"'{key}' has no value"):
            (frame,) = read_frames(tmp_path / "a.xyz")
        assert frame.energy is None and frame.dipole is not None
    (tmp_path / "a.xyz").write_text("1\nREF_energy=F\nO 0 0 0\n")
    with pytest.raises(ValueError, match="'REF_energy' should hold numbers"):
        read_frames(tmp_path / "a.xyz")


@pytest.mark.filterwarnings("ignore:.*looks like a total charge")
def test_charges_around_the_atoms_under_other_names(tmp_path):
    info = {"mm_positions": [[9.0, 9, 9]], "PC_charges": [0.5], "REF_energy": -75.0}
    told = "mm_positions, PC_charges looks like .*the keys are MM_positions, MM_charges, MM_forces"
    with pytest.warns(UserWarning, match=told):
        assert read(tmp_path, molecule(info))[0].system.n_mm == 0


@pytest.mark.parametrize("key", ["charge", "energy", "name"])
def test_a_key_that_is_there_twice(tmp_path, key):
    (tmp_path / "a.xyz").write_text(f'1\n{key}=0 note="{key}=2" {key}=-1\nO 0 0 0\n')
    with pytest.raises(ValueError, match=f"{key} is there twice, as '0' and '-1'"):
        read_frames(tmp_path / "a.xyz")
    (tmp_path / "a.xyz").write_text(f'1\n{key}=0 note="{key}=2 " {key}=0\nO 0 0 0\n')
    assert len(read_frames(tmp_path / "a.xyz")) == 1


def test_columns_that_no_one_describes_are_told(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("1\n\nO 0 0 0 0.1 0.2 0.3\n1\nenergy=-75\nO 0 0 0\n")
    with pytest.warns(UserWarning, match=r"7 columns, of which Properties= describes 4.*frame 0"):
        assert read_frames(path)[0].forces is None


def test_a_key_that_is_named_may_be_absent_in_some_frames(tmp_path):
    """As where few frames have forces, and isolated atoms and frames in vacuum have fewer keys."""
    around = {"MM_positions": "[[4, 0, 0]]", "MM_charges": "[0.4]", "pc": "[[0, 0, 0.1]]"}
    images = [
        molecule({"e": -75.0, **around}, {"f": FORCES}),
        molecule({"e": -75.1}),
        ase.Atoms("H", info={"e": -13.6, "config_type": "IsolatedAtom"}),
    ]
    keys = {"energy": "e", "forces": "f", "mm_forces": "pc"}
    with pytest.warns(UserWarning, match=r"no 'f' for forces \(frame 1\)") as found:
        frames = read(tmp_path, *images, keys=keys, require=("energy", "mm_forces"))
    assert len(found) == 1
    assert [frame.energy for frame in frames] == [-75.0, -75.1, -13.6]
    assert [frame.forces is None for frame in frames] == [False, True, True]
    assert [frame.mm_forces is None for frame in frames] == [False, True, True]
    with pytest.raises(ValueError, match="frame 1: no 'f' for forces"):
        read(tmp_path, *images, keys=keys, require=("forces",))
    for quantity in ("dipole", "mm_positions"):
        with pytest.raises(ValueError, match=f"frame 0: no 'other' for {quantity}; found in"):
            read(tmp_path, images[1], keys={quantity: "other"})


# --- species and text -----------------------------------------------------------------------------


def species(path, *names, comment=""):
    lines = "".join(f"{name} 0 0 {i}\n" for i, name in enumerate(names))
    path.write_text(f"1\n\nO 0 0 0\n{len(names)}\n{comment}\n{lines}")
    return read_frames(path)[1].system.numbers.tolist()


@pytest.mark.parametrize("names", [("8", "1"), ("O", "D"), ("o", "T"), ("08", "h")])
def test_species_that_are_clear(tmp_path, names, recwarn):
    assert species(tmp_path / "a.xyz", *names) == [8, 1]
    told = " ".join(str(warning.message) for warning in recwarn)
    for name in set(names) - {"O", "o", "h"}:
        assert f"'{name}' as " in told


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("O1", r"species 'O1' of atom 1 is no element \(did you mean O\?\): expected symbols"),
        ("H_w", r"'H_w' of atom 1 .*did you mean H\?"),
        ("HW1", r"'HW1' of atom 1 .*did you mean H\?"),
        ("99", "species '99' of atom 1 is no element"),
        ("?", "species '\\?' of atom 1 is no element"),
        ("X", r"1\.\.94, got 0 for atom 1 \(a dummy atom\?\)"),
        ("Am", r"1\.\.94, got 95 for atom 1"),
    ],
)
def test_species_that_are_not(tmp_path, name, message):
    with pytest.raises(ValueError, match=rf"a\.xyz, frame 1: .*{message}"):
        species(tmp_path / "a.xyz", "O", name)


def test_species_in_another_column(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("2\nProperties=pos:R:3:species:S:1\n0 0 0 8\n0 0 1 D\n")
    with pytest.warns(UserWarning, match="species are read so: '8' as O, 'D' as H"):
        assert read_frames(path)[0].system.numbers.tolist() == [8, 1]
    path.write_text("1\nProperties=atomic_numbers:I:1:pos:R:3\n8 0 0 0\n")
    with pytest.raises(ValueError, match=r"no species: .* found numbers, positions, atomic_num"):
        read_frames(path)


def test_frames_behind_an_empty_line_are_not_lost(tmp_path):
    path = tmp_path / "a.xyz"
    frame = "2\n\nO 0 0 0\nH 0 0 0.97\n"
    path.write_text(frame * 2 + "\n\n")
    assert len(read_frames(path)) == 2
    path.write_text(frame + "\n" + frame)
    with pytest.raises(ValueError, match=r"end with line 4, an empty line .*line 6: '2'"):
        read_frames(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz", "", "holds no frames"),
        ("a.xyz", "\n1\n\nO 0 0 0\n", r"no frames \(its first line is empty\)"),
        ("a.xyz", "3\n\nO 0 0 0\n", "cannot be read as extended XYZ: .*2 atoms|has 1 atoms"),
        ("a.h5", "3\n\nO 0 0 0\n", "not an HDF5 file, or damaged"),
        ("a.h5", "", "not an HDF5 file, or damaged"),
        ("a.npz", "", r"suffix '\.npz'; expected \.h5"),
        ("a.xyz.gz", "", r"suffix '\.gz'; .*unpack it first"),
        ("folder.h5", None, "expected a file, got a folder"),
        ("folder.xyz", None, "expected a file, got a folder"),
    ],
)
def test_what_is_no_file_of_frames(tmp_path, name, content, message):
    path = tmp_path / name
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_frames(path)
    assert str(path) in str(error.value)


# --- HDF5 -----------------------------------------------------------------------------------------


def spice(file):
    for key, charge in (("a", -1), ("b", 0)):
        group = file.create_group(key)
        group["atomic_numbers"] = [8, 1]
        group["conformations"] = np.array([[[0, 0, 0], [0, 0, 1.8]], [[0, 0, 0], [0, 0, 1.9]]])
        group["dft_total_energy"] = [-75.0, -75.1]
        group["dft_total_gradient"] = np.array([-FORCES, FORCES])
        group["mbis_charges"] = np.array([[[charge - 0.3], [0.3001]]] * 2)


def qm7x(file):
    for key in ("1/Geom-m1-i1-c1-opt", "1/Geom-m1-i1-c1-d1", "2/Geom-m2-i1-c1-opt"):
        group = file.create_group(key)
        group["atNUM"], group["atXYZ"] = [8, 1], [[0, 0, 0], [0, 0, 0.97]]
        group["ePBE0+MBD"], group["totFOR"] = [-2050.0], FORCES


def mace(file):
    for i in range(2):
        group = file.create_group(f"config_batch_0/config_{i}")
        group["atomic_numbers"], group["positions"] = [8, 1], [[0, 0, 0], [0, 0, 0.97]]
        group["properties/energy"] = -2050.0
        group["properties/forces"] = "None" if i else FORCES
        group["properties/total_charge"] = -1.0


MAKERS = {"spice": spice, "qm7x": qm7x, "mace": mace}


def make(path, maker):
    with h5py.File(path, "w") as file:
        maker(file)
    return path


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("reader", [read_frames, stream_frames])
def test_layouts_of_others_are_recognised(tmp_path, kind, reader):
    path = make(tmp_path / "theirs.h5", MAKERS[kind])
    message = f"looks like .*{LAYOUTS[kind]}.*missing are 'numbers'.*Files of others"
    with pytest.raises(ValueError, match=message):
        reader(path)
    with h5py.File(path, "a") as file:  # to say units does not make it ours
        file.attrs.update(energy_unit="eV", length_unit="Å", charge_unit="e")
    with pytest.raises(ValueError, match=message):
        reader(path)


@pytest.fixture(scope="module")
def recipes():
    """Return the functions of the page on data."""
    page = Path(__file__).resolve().parents[2] / "docs" / "data.md"
    part = page.read_text(encoding="utf-8").split("### Files of others")[1].split("\n## ")[0]
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```$", part, re.MULTILINE | re.DOTALL):
        exec(block, names)
    return names


def test_the_recipes(tmp_path, recipes):
    expected = {
        "spice": ([-75 * HARTREE, -75.1 * HARTREE] * 2, [0, 0, 1, 1], [-1, -1, 0, 0]),
        "qm7x": ([-2050.0] * 3, [0, 0, 1], [0, 0, 0]),
        "mace": ([-2050.0] * 2, [0, 0], [-1, -1]),
    }
    for kind, (energies, runs, charges) in expected.items():
        made = recipes[f"from_{kind}"](make(tmp_path / f"{kind}.hdf5", MAKERS[kind]))
        write_frames(tmp_path / f"{kind}.h5", made)
        frames = read_frames(tmp_path / f"{kind}.h5", require=["energy"])
        np.testing.assert_allclose([frame.energy for frame in frames], energies)
        assert [frame.run for frame in frames] == runs
        assert [frame.system.charge for frame in frames] == charges
        scale = HARTREE / BOHR if kind == "spice" else 1.0
        np.testing.assert_allclose(frames[0].forces, FORCES * scale)
        length = frames[0].system.positions[1, 2]
        assert length == pytest.approx(1.8 * BOHR if kind == "spice" else 0.97)
    assert frames[1].forces is None  # of MACE, which writes None


def ours(**changes):
    def maker(file):
        file.attrs.update(energy_unit="eV", length_unit="Å", charge_unit="e")
        group = file.create_group("water")
        known = {"numbers": [8, 1], "positions": np.array([[[0, 0, 0], [0, 0, 0.97]]] * 2)}
        for name, value in (known | changes).items():
            if name.startswith("is_"):
                group.attrs[name.removeprefix("is_")] = value
            else:
                group[name] = value

    return maker


@pytest.mark.parametrize("reader", [read_frames, stream_frames])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "attribute 'charge' .* missing; found attributes none, datasets numbers, positions"),
        ({"is_q": -1, "charge": [-1, -1]}, "found attributes q, datasets charge, numbers"),
        ({"is_charge": "-1 1"}, "'charge': expected one whole number"),
        ({"is_charge": [0, -1]}, "'charge': expected one whole number"),
        ({"is_charge": np.nan}, "'charge': expected one whole number"),
        ({"is_charge": -1, "is_total_charge": 0}, "'total_charge' is 0; 'charge' is -1"),
        ({"is_charge": 0, "charges": [[-1.2, 0.2]] * 2}, "'charges' of the atoms add up to -1"),
        ({"is_charge": 0, "run": [0.0, 2.7]}, "run: expected a whole number"),
        ({"is_charge": 0, "run": ["run_A", "run_B"]}, "run: expected a whole number.*number the"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*datasets that are not known")
def test_charges_and_runs_of_hdf5(tmp_path, reader, changes, message):
    path = make(tmp_path / "a.h5", ours(**changes))
    with pytest.raises((ValueError, TypeError), match=f"group 'water'.*{message}"):
        list(reader(path))


@pytest.mark.parametrize("reader", [read_frames, stream_frames])
def test_datasets_of_another_length_are_refused_before_they_are_streamed(tmp_path, reader):
    system = System([8, 1], [[0, 0, 0], [0, 0, 0.97]], -1, [[4.0, 0, 0]], [0.4])
    frames = [Frame(system, energy=-2050.0, mm_forces=[[0, 0, 0.1]], run=run) for run in range(4)]
    for name, values in (("run", [0, 1]), ("energy", np.zeros(6)), ("mm_forces", np.ones((9, 3)))):
        write_frames(tmp_path / "a.h5", frames)
        with h5py.File(tmp_path / "a.h5", "a") as file:
            (group,) = file.values()
            del group[name]
            group[name] = values
        with pytest.raises(ValueError, match=f"dataset '{name}' has shape .*, expected"):
            reader(tmp_path / "a.h5")


@pytest.mark.parametrize("reader", [read_frames, stream_frames])
@pytest.mark.parametrize("place", ["/", "data/C2H2/rxn1"])
def test_a_layout_that_is_not_known_is_told_before_its_units(tmp_path, reader, place):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.require_group(place)
        group["z"], group["R"] = [8, 1], np.zeros((5, 2, 3))
    with pytest.raises(ValueError, match=f"expected 'numbers'.*found in group '/?{place}': R, z"):
        reader(tmp_path / "a.h5")


@pytest.mark.parametrize("reader", [read_frames, stream_frames])
def test_charges_as_text_and_names_that_are_not_known(tmp_path, reader):
    path = make(tmp_path / "a.h5", ours(is_charge="1-", dft_energy=[1.0, 2.0], run=[3.0, 4.0]))
    with pytest.warns(UserWarning, match="not known and not read: 'dft_energy'.*labels are energy"):
        frames = list(reader(path))
    assert [(frame.system.charge, frame.run) for frame in frames] == [(-1, 3), (-1, 4)]
    with h5py.File(path, "a") as file:
        del file["water/dft_energy"]
        file["water"].attrs["net_charge"] = 0
        file["water/charges"] = [[-1.2, 0.2], [-0.9, 0.2]]
    with pytest.warns(UserWarning) as found:
        list(reader(path))
    told = [str(warning.message) for warning in found]
    assert "'net_charge' (0) looks like a total charge" in told[0]
    assert reader is stream_frames or "add up to -0.7 e, but the total charge is -1" in told[1]
    with h5py.File(path, "a") as file:
        file["water/positions"].attrs["units"] = "bohr"
    with (
        pytest.warns(UserWarning, match="net_charge"),
        pytest.raises(ValueError, match="'positions' has unit 'bohr', expected 'Å'"),
    ):
        list(reader(path))


# --- convert, predict -----------------------------------------------------------------------------


def full_frame(extended, labels=True):
    rng = np.random.default_rng(3)
    n, m = 3, 2
    symmetric = rng.random((n, 3, 3)) + 0.0
    fields = {
        "mm_dipoles": rng.random((m, 3)), "mm_quadrupoles": np.tile(np.eye(3), (m, 1, 1)),
        "uniform_field": rng.random(3), "external_field": rng.random((n, 4)),
    }  # fmt: skip
    system = System(
        [8, 1, 1], 3 * rng.random((n, 3)), -1, 9 + rng.random((m, 3)), [0.4, -0.3],
        **(fields if extended else {}),
    )  # fmt: skip
    if not labels:
        return Frame(system, run=2, name="T")
    return Frame(
        system, -75.5, rng.random((n, 3)), rng.random((m, 3)), rng.random(3), 7, "007",
        [-0.6, -0.5, 0.1], rng.random((n, 3)), symmetric + symmetric.swapaxes(1, 2),
    )  # fmt: skip


@pytest.mark.parametrize("target", [".h5", ".extxyz"])
@pytest.mark.parametrize("source", [".h5", ".extxyz"])
def test_convert_keeps_everything(tmp_path, source, target, capsys):
    extended = source == target == ".h5"
    frames = [full_frame(extended), full_frame(extended, labels=False)]
    start, end = tmp_path / f"a{source}", tmp_path / f"b{target}"
    write_frames(start, frames)
    assert main(["data", "convert", str(start), str(end)]) == 0
    told = "2 frames; energy 1, forces 1, mm_forces 1, dipole 1, charges 1, dipoles 1, quadrupoles"
    output = capsys.readouterr()
    assert told in output.out and not output.err
    for old, new in zip(frames, read_frames(end), strict=True):
        assert (old.name, old.run, old.system.charge) == (new.name, new.run, new.system.charge)
        pairs = [(old, new, (*LABELS, *ATOMIC_LABELS))]
        names = ("numbers", "positions", "mm_positions", "mm_charges", *OPTIONAL_FIELDS)
        for before, after, kinds in [*pairs, (old.system, new.system, names)]:
            for name in kinds:
                x, y = getattr(before, name), getattr(after, name)
                assert (x is None) == (y is None), name
                if x is not None:
                    np.testing.assert_allclose(x, y, atol=1e-8, err_msg=name)


def test_convert_keeps_vacuum_labels_or_says_that_it_cannot(tmp_path, capsys):
    frame = full_frame(False)
    alone = Frame(System(frame.system.numbers, frame.system.positions, -1), -74.0)
    start, end = tmp_path / "a.h5", tmp_path / "b.h5"
    write_frames(start, [frame, frame], vacuum=[alone, alone], attributes={"level": "HF"})
    assert main(["data", "convert", str(start), str(end)]) == 0
    assert not capsys.readouterr().err
    assert [found.energy for found in read_frames(end, vacuum=True)] == [-74.0, -74.0]
    with h5py.File(end) as file:
        assert file.attrs["level"] == "HF"
    assert main(["data", "convert", str(start), str(tmp_path / "b.xyz")]) == 0
    lost = "extxyz has no place for vacuum labels of 1 of 1 groups and remarks (level): left out"
    assert lost in capsys.readouterr().err


def test_convert_refuses_to_write_nothing(tmp_path, capsys):
    start, end = tmp_path / "a.xyz", tmp_path / "b.h5"
    write(start, molecule({"dft_energy": -75.0}), format="extxyz")
    assert main(["data", "convert", str(start), str(end)]) == 2
    error = capsys.readouterr().err
    assert "none of the 1 frames has a label" in error and "--without-labels" in error
    assert "though 'dft_energy' is there" in error and not end.exists()
    assert main(["data", "convert", str(start), str(end), "--without-labels"]) == 0
    assert "(1 frames; no labels)" in capsys.readouterr().out
    assert main(["data", "convert", str(start), str(end), "--keys", "energy=dft_energy"]) == 0
    assert "(1 frames; energy 1)" in capsys.readouterr().out
    start.write_text("")
    assert main(["data", "convert", str(start), str(end)]) == 2
    assert "holds no frames" in capsys.readouterr().err


def test_info_names_what_is_not_read(tmp_path, capsys):
    path = tmp_path / "a.xyz"
    images = [molecule({"dft_energy": -75.0}), molecule({"net_charge": -1}, energy=-75.0)]
    write(path, images, format="extxyz")
    assert main(["data", "info", str(path)]) == 0
    error = capsys.readouterr().err
    assert "though 'dft_energy' is there" in error and "(frame 0)" in error
    assert "'net_charge' (-1) looks like a total charge" in error and "(frame 1)" in error


def test_predict_of_such_a_file(tmp_path):
    """Acetate as ase writes it, by its initial charges an anion."""
    acetate = build("CH3COOH")
    del acetate[3]  # the proton
    acetate.set_initial_charges([0, -0.6, -0.6, 0.2, 0, 0, 0])
    labelled = acetate.copy()
    labelled.calc = SinglePointCalculator(labelled, energy=-6218.0, forces=np.zeros((7, 3)))
    path, out = tmp_path / "acetate.xyz", tmp_path / "out.json"
    write(path, [acetate, labelled], format="extxyz")
    assert main(["predict", str(path), "-o", str(out)]) == 0
    found = json.loads(out.read_text())["structures"]
    assert [sum(s["charges"]) for s in found] == pytest.approx([-1, -1], abs=1e-5)
    assert found[0]["energy"] == pytest.approx(-6217.157, abs=0.1)  # B3LYP/6-31G*
