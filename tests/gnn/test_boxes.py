"""Boxes from files of several programs, zones by words, and what is said about both."""

import re
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs the package openmm (extra 'engines')")

import openmm
from openmm import app

from gnn.cli import main
from gnn.engines.boxes.box import read_box, write_box
from gnn.engines.boxes.forcefield import force_field
from gnn.engines.boxes.pdb import Preparation, pdb_box
from gnn.engines.boxes.reading import read
from gnn.engines.boxes.select import cut_bonds, select, universe
from gnn.engines.boxes.shipped import methanol_in_water, shipped_box
from gnn.engines.boxes.topology import from_json, to_json

HEAVY = """\
ATOM      2  CH3 ACE A   7       2.000   2.090   0.000  1.00  0.00           C
ATOM      5  C   ACE A   7       3.427   2.641  -0.000  1.00  0.00           C
ATOM      6  O   ACE A   7       4.391   1.877  -0.000  1.00  0.00           O
ATOM      7  N   ALA A   8       3.555   3.970  -0.000  1.00  0.00           N
ATOM      9  CA  ALA A   8       4.853   4.614  -0.000  1.00  0.00           C
ATOM     11  CB  ALA A   8       5.661   4.221  -1.232  1.00  0.00           C
ATOM     15  C   ALA A   8       4.713   6.129   0.000  1.00  0.00           C
ATOM     16  O   ALA A   8       3.601   6.653   0.000  1.00  0.00           O
ATOM     17  N   NME A   9       5.846   6.835   0.000  1.00  0.00           N
ATOM     19  C   NME A   9       5.846   8.284   0.000  1.00  0.00           C
"""
ION = "HETATM   40 MG    MG B 201      12.000  12.000  12.000  1.00  0.00          MG\n"
OXYGEN = "HETATM   41  O   HOH B 301      -3.000  12.000  12.000  1.00  0.00           O\n"
LIGAND = "HETATM   42  C1  XYZ C   1      12.000  -4.000  12.000  1.00  0.00           C\n"
CELL = "CRYST1   26.000   26.000   26.000  90.00  90.00  90.00 P 1           1\n"


def written(folder, text, name="box.pdb"):
    path = folder / name
    path.write_text(text + "END\n")
    return path


@pytest.fixture(scope="module")
def methanol():
    return methanol_in_water()


@pytest.fixture(scope="module")
def peptide(tmp_path_factory):
    """A box of capped alanine in four-site water, and what was said."""
    said = []
    path = written(tmp_path_factory.mktemp("peptide"), HEAVY + ION)
    how = Preparation(solvate="tip4pew", padding=4.6, ionic_strength=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return pdb_box(path, how, None, said.append), said


def energy(box, positions=None):
    context = openmm.Context(
        box.system,
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatformByName("CPU"),
        {"Threads": "1"},
    )
    context.setPeriodicBoxVectors(*(0.1 * box.vectors))
    context.setPositions(0.1 * (box.positions if positions is None else positions))
    return context.getState(energy=True).getPotentialEnergy()._value


# --- a folder -------------------------------------------------------------------------------------


def test_a_box_comes_back_from_its_folder(peptide, tmp_path):
    box, _ = peptide
    write_box(tmp_path, box)
    again = read_box(tmp_path)
    assert to_json(again.topology) == to_json(box.topology)
    assert [bond.order for bond in again.topology.bonds()] == [
        bond.order for bond in box.topology.bonds()
    ]
    serialize = openmm.XmlSerializer.serialize
    assert serialize(again.system) == serialize(box.system)
    np.testing.assert_array_equal(again.positions, box.positions)
    np.testing.assert_array_equal(again.vectors, box.vectors)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("system.xml", "<System", "system.xml is damaged"),
        ("topology.json", "{}", "topology.json is damaged .expected a topology of version 1"),
        ("topology.json", '{"version": 1, "chains": [1]}', "topology.json is damaged"),
        ("coordinates.npz", "PK", "coordinates.npz is damaged"),
        ("system.xml", None, "holds no box: no file system.xml"),
    ],
)
def test_folders_that_hold_no_box(methanol, tmp_path, name, text, words):
    write_box(tmp_path, methanol)
    if text is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(text)
    with pytest.raises((ValueError, OSError), match=words):
        read_box(tmp_path)


def test_topologies_keep_all_but_the_box():
    topology = app.Topology()
    chain = topology.addChain("Z")
    residue = topology.addResidue("LIG", chain, "57", "B")
    first = topology.addAtom("C1", app.Element.getBySymbol("C"), residue, "7")
    second = topology.addAtom("M", None, residue, "9")
    topology.addBond(first, second, app.Double, 2)
    again = from_json(to_json(topology))
    assert to_json(again) == to_json(topology)
    (bond,) = again.bonds()
    assert bond.type is app.Double and bond.order == 2
    assert next(again.residues()).insertionCode == "B"


# --- other programs' files ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Methanol in water as GROMACS and CHARMM have it."""
    parmed = pytest.importorskip("parmed", reason="needs the package parmed (extra 'data')")
    folder = tmp_path_factory.mktemp("converted")
    shipped_box(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = parmed.load_file(str(folder / "solute.prmtop"), str(folder / "solute.rst7"))
        for name in ("box.top", "box.gro", "box.psf", "box.pdb"):
            made.save(str(folder / name))
        parameters = parmed.charmm.CharmmParameterSet.from_structure(made)
        parameters.write(par=str(folder / "box.prm"), top=str(folder / "box.rtf"))
    return folder


def test_gromacs_and_amber_agree(converted, methanol):
    box = read(converted / "box.top", converted / "box.gro")
    assert box.system.getNumConstraints() == methanol.system.getNumConstraints()
    np.testing.assert_allclose(box.positions, methanol.positions, atol=0.006)
    expected = energy(methanol)
    assert energy(box, methanol.positions) == pytest.approx(expected, rel=3e-5)
    assert [r.name for r in box.topology.residues()][:2] == ["LIG", "HOH"]


def test_charmm_and_amber_agree(converted, methanol):
    files = [converted / "box.prm", converted / "box.rtf"]
    box = read(converted / "box.psf", converted / "box.pdb", parameters=files)
    for one in (box, methanol):
        for force in one.system.getForces():
            if isinstance(force, openmm.NonbondedForce):  # CHARMM has none
                force.setUseDispersionCorrection(False)
    expected = energy(methanol)
    assert energy(box, methanol.positions) == pytest.approx(expected, rel=3e-4)
    with pytest.raises(ValueError, match="needs files of parameters: --parameters"):
        read(converted / "box.psf", converted / "box.pdb")
    with pytest.raises(ValueError, match=r"box.psf with the parameters box.rtf: "):
        read(converted / "box.psf", converted / "box.pdb", parameters=files[1:])
    with pytest.raises(ValueError, match=r"expected coordinates as \.pdb, \.crd"):
        read(converted / "box.psf", converted / "box.top", parameters=files)


def test_files_that_do_not_go_together(converted, tmp_path):
    pdb = written(tmp_path, HEAVY)
    with pytest.raises(ValueError, match="is a topology and needs --coordinates"):
        read(converted / "box.top")
    with pytest.raises(ValueError, match="has coordinates of its own"):
        read(pdb, converted / "box.gro")
    with pytest.raises(ValueError, match="--solvate, --ionic-strength and --ph are for PDB"):
        read(converted / "box.top", converted / "box.gro", preparation=Preparation())
    with pytest.raises(ValueError, match=r"expected a structure .*or a topology of Amber"):
        read(converted / "box.rtf")
    with pytest.raises(FileNotFoundError, match="no file"):
        read(tmp_path / "none.pdb")
    short = tmp_path / "short.gro"
    lines = (converted / "box.gro").read_text().splitlines()
    short.write_text("\n".join([lines[0], "9", *lines[2:11], lines[-1]]) + "\n")
    with pytest.raises(ValueError, match=r"has 9 atoms, .* has 1110"):
        read(converted / "box.top", short)
    include = tmp_path / "box.top"
    include.write_text('#include "amber99sb.ff/forcefield.itp"\n')
    with pytest.raises(ValueError, match="GMXLIB name the folder"):
        read(include, converted / "box.gro")


# --- structures -----------------------------------------------------------------------------------


def test_what_is_added_is_said(peptide):
    box, said = peptide
    text = "\n".join(said)
    assert "+12 hydrogens, for pH 7 (0 were there)" in text
    assert re.search(r"a cubic box of \d+\.\d Å, 4.6 Å beyond the solute", text)
    found = re.search(r"added: (\d+) HOH, (?:(\d+) NA, )?(\d+) CL \(tip4pew water\)", text)
    waters, sodium, chloride = (int(n or 0) for n in found.groups())
    assert chloride == sodium + 2  # beside magnesium
    assert f"{waters} waters, {4 + sodium + chloride} other residues, net charge +0.00 e" in text
    assert box.topology.getNumAtoms() == 22 + 1 + 4 * waters + sodium + chloride
    residues = list(box.topology.residues())
    assert [(r.name, r.id, r.chain.id) for r in residues[:4]] == [
        ("ACE", "7", "A"), ("ALA", "8", "A"), ("NME", "9", "A"), ("MG", "201", "B"),
    ]  # fmt: skip


def test_heavy_atoms_that_are_missing(tmp_path):
    pytest.importorskip("pdbfixer", reason="needs the package pdbfixer (extra 'engines')")
    said = []
    lines = HEAVY.splitlines(keepends=True)
    path = written(tmp_path, CELL + "".join(line for line in lines if "CB  ALA" not in line))
    with pytest.warns(UserWarning, match=r"density of 0.01 g/ml: it is hardly filled"):
        box = pdb_box(path, Preparation(), None, said.append)
    assert "+1 heavy atoms: ALA 8 (CB)" in said[0] and "+12 hydrogens" in said[1]
    assert box.topology.getNumAtoms() == 22


def test_sites_of_water_are_added(tmp_path):
    said = []
    how = Preparation(forcefield=["amber14-all.xml", "amber14/opc.xml"])
    with pytest.warns(UserWarning, match="hardly filled"):
        box = pdb_box(written(tmp_path, CELL + HEAVY + OXYGEN), how, None, said.append)
    assert "+14 hydrogens" in said[0] and "+1 sites without mass" in said[1]
    assert box.topology.getNumAtoms() == 26 and "1 waters" in said[2]


@pytest.mark.parametrize(
    ("text", "how", "words"),
    [
        (HEAVY, {}, r"has no box \(CRYST1 record\): .* --solvate tip3p, .* --box A B C"),
        (CELL + HEAVY + LIGAND, {}, r"no template for 1 residues: XYZ \(1\); the first is XYZ 1 in "
         r"chain C \(C1\): a ligand needs parameters"),
        (CELL.replace("26.000", "14.000") + HEAVY, {}, "too small for the force field"),
        (CELL + HEAVY, {"forcefield": ["amber15.xml"]}, "no force field amber15.xml: expected the "
         "path of an XML file, or a name that OpenMM knows"),
        (CELL + HEAVY, {"solvate": "beer"}, "expected --solvate tip3p, .* got beer"),
        (CELL + HEAVY, {"ph": 15.0}, "--ph between 0 and 14, got 15"),
        (CELL + HEAVY + HEAVY.splitlines()[-1] + "\n", {}, "has 11 atoms, of which 10 were read"),
        ("", {}, "does not read as PDB|holds no atom"),
        (CELL + HEAVY.replace("   8.284", "  18.284"), {}, "bonds are shorter than .* 11.45 Å"),
    ],
)  # fmt: skip
def test_structures_that_make_no_box(tmp_path, text, how, words):
    with (
        warnings.catch_warnings(),
        pytest.raises((ValueError, OSError), match=words),
    ):
        warnings.simplefilter("ignore")
        pdb_box(written(tmp_path, text), Preparation(**how), None, lambda _: None)


def test_loops_without_coordinates(tmp_path):
    pytest.importorskip("pdbfixer", reason="needs the package pdbfixer (extra 'engines')")
    sequence = "SEQRES   1 A    5  ACE ALA GLY SER NME\n"
    text = sequence + HEAVY.replace("NME A   9", "NME A  11")
    with pytest.raises(ValueError, match=r"2 residues \(GLY SER\) are missing behind ALA 8 of"):
        pdb_box(written(tmp_path, CELL + text), Preparation(), None, lambda _: None)


def test_alternate_locations_and_models_are_said(tmp_path):
    from gnn.engines.boxes.pdb import _read

    line = HEAVY.splitlines()[5]
    both = f"{line[:16]}A{line[17:]}\n{line[:16]}B{line[17:30]}   5.700{line[38:]}\n"
    text = HEAVY.replace(line + "\n", both)
    said = []
    found = _read(
        written(tmp_path, f"MODEL        1\n{text}ENDMDL\nMODEL        2\n{text}ENDMDL\n"),
        said.append,
    )
    assert found.topology.getNumAtoms() == 10
    assert "1 alternate locations: the first" in said[0] and "2 models: the first" in said[1]
    with (tmp_path / "box.cif").open("w") as file:
        app.PDBxFile.writeFile(found.topology, found.positions, file, keepIds=True)
    again = _read(tmp_path / "box.cif", said.append)
    assert again.topology.getNumAtoms() == 10 and len(said) == 2


def test_a_missing_library_is_named(tmp_path, peptide, monkeypatch):
    box, _ = peptide
    monkeypatch.setitem(sys.modules, "MDAnalysis", None)
    with pytest.raises(ImportError, match="selections need the package MDAnalysis; numbers of"):
        select(box.topology, "protein", box.positions, box.vectors)
    assert select(box.topology, "0-3", box.positions, box.vectors) == [0, 1, 2, 3]
    monkeypatch.setitem(sys.modules, "pdbfixer", None)
    with pytest.raises(ImportError, match="completing structures needs the package pdbfixer"):
        pdb_box(written(tmp_path, CELL + HEAVY), Preparation(), None, lambda _: None)


@pytest.mark.parametrize(
    "code",
    [
        "<Script>open('{ran}', 'w')</Script>",
        "<InitializationScript>open('{ran}', 'w')</InitializationScript>",
        """<NonbondedForce useDispersionCorrection="open('{ran}', 'w')"/>""",
        "<Include file='other.xml'/>",
    ],
)
def test_code_in_a_force_field_is_not_run(tmp_path, code):
    path, ran = tmp_path / "field.xml", tmp_path / "ran"
    script = f"<ForceField><Script>open('{ran}', 'w')</Script></ForceField>"
    (tmp_path / "other.xml").write_text(script)
    path.write_text(f"<ForceField>{code.format(ran=ran)}</ForceField>")
    with pytest.raises(ValueError, match=r"\.xml holds code in Python"):
        force_field([str(path)])
    assert not ran.exists()


def test_force_fields_of_files(tmp_path):
    path = tmp_path / "mine.xml"
    path.write_text("<ForceField><AtomTypes></ForceField>")
    with pytest.raises(ValueError, match=r"mine.xml does not read as force field \(XML\)"):
        force_field([str(path)])


# --- zones ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resname ACE", range(6)),
        ("protein", range(22)),
        ("chainID A and resid 8", range(6, 16)),
        ("segid B and element Mg", [22]),
        ("name CA", [8]),
        ("bonded name CA", [6, 9, 10, 14]),
        ("0-5,9", [*range(6), 9]),
        ("3 1 - 2", [1, 2, 3]),
    ],
)  # fmt: skip
def test_selections(peptide, text, expected):
    pytest.importorskip("MDAnalysis", reason="needs the package MDAnalysis (extra 'engines')")
    box, _ = peptide
    assert select(box.topology, text, box.positions, box.vectors) == list(expected)


def test_selections_by_distance_know_the_box(peptide):
    pytest.importorskip("MDAnalysis", reason="needs the package MDAnalysis (extra 'engines')")
    box, _ = peptide
    text = "same residue as (resname HOH and around 3.5 resname NME)"
    near = select(box.topology, text, box.positions, box.vectors)
    assert 0 < len(near) < 150
    shifted = box.positions + np.array([9.0, 3.0, 1.0])
    shifted -= box.vectors[0, 0] * np.floor(shifted / box.vectors[0, 0])
    assert select(box.topology, text, shifted, box.vectors) == near


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "resname LIG",
            r"names none of the \d+ atoms: there are residues HOH \(\d+\), .* chains A",
        ),
        ("all", r"names all \d+ atoms of the box"),
        ("chain A", r"not understood \(Unknown selection token: 'chain'\); .* by chainID"),
        ("resname", "not understood"),
        ("around 3.2 resname NME", r"holds parts of \d+ waters \(first: HOH"),
        ("5-2", "small before large, got 5-2"),
        ("0-99999", r"numbers of atoms from 0 to \d+, .* got 0-99999"),
        ("1--2", "expected numbers of atoms such as 0-5,9, got '1--2'"),
    ],
)
def test_selections_that_are_none(peptide, text, words):
    pytest.importorskip("MDAnalysis", reason="needs the package MDAnalysis (extra 'engines')")
    box, _ = peptide
    with pytest.raises(ValueError, match=words):
        select(box.topology, text, box.positions, box.vectors)


def test_large_zones_warn(methanol):
    n = methanol.topology.getNumAtoms()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        select(methanol.topology, f"0-{n - 4}", methanol.positions, methanol.vectors)
    import gnn.engines.boxes.select as selecting

    before, selecting._MANY = selecting._MANY, 1000
    try:
        with pytest.warns(UserWarning, match=f"names {n - 3} atoms, 367 waters among them"):
            select(methanol.topology, f"0-{n - 4}", methanol.positions, methanol.vectors)
    finally:
        selecting._MANY = before


def test_cut_bonds_are_named(peptide):
    box, _ = peptide
    assert cut_bonds(box.topology, range(6)) == ["ACE7:C–ALA8:N"]
    assert cut_bonds(box.topology, range(22)) == []


def test_the_universe_is_that_of_the_topology(peptide):
    pytest.importorskip("MDAnalysis", reason="needs the package MDAnalysis (extra 'engines')")
    box, _ = peptide
    made = universe(box.topology, box.positions, box.vectors)
    assert made.atoms.names.tolist() == [atom.name for atom in box.topology.atoms()]
    assert made.residues.resids[:4].tolist() == [7, 8, 9, 201]
    assert len(made.bonds) == sum(1 for _ in box.topology.bonds())
    np.testing.assert_allclose(made.dimensions[:3], np.diag(box.vectors), rtol=1e-6)


# --- the command ----------------------------------------------------------------------------------


def complaint(capsys, *arguments):
    assert main([str(a) for a in arguments]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_run_of_a_structure(tmp_path, capsys):
    """From heavy atoms to a run that goes on, without the file being read again."""
    pytest.importorskip("MDAnalysis", reason="needs the package MDAnalysis (extra 'engines')")
    path = written(tmp_path, HEAVY)
    plain = "--equilibration", 0, "--platform", "CPU", "--threads", 1, "--classical"
    how = "--solvate", "tip3p", "--padding", 4.6, "--qm", "protein", "--output", tmp_path / "run"
    steps = "--interval", 1, "--checkpoint-interval", 1
    cell = written(tmp_path, CELL + HEAVY, "cell.pdb")
    line = complaint(capsys, "md", cell, *plain, "--steps", 1, "--output", tmp_path / "x")
    assert "what should the model compute? Say so: --qm" in line and "ACE (1)" in line
    run = ["md", path, *plain, *how, *steps]
    assert main([str(a) for a in (*run, "--steps", 1)]) == 0
    said = capsys.readouterr().out
    assert "the zone, protein: 22 atoms of ACE ALA NME" in said and "22 solute atoms" in said
    lines = (tmp_path / "run/topology.pdb").read_text().splitlines()
    atoms = [line for line in lines if line.startswith(("ATOM", "HETATM"))]
    assert {line[17:27] for line in atoms[:22]} == {"ACE A   7 ", "ALA A   8 ", "NME A   9 "}
    assert main([str(a) for a in (*run, "--steps", 2, "--resume")]) == 0
    again = ("md", *plain, "--output", tmp_path / "run", *steps, "--resume")
    assert main([str(a) for a in (*again, "--steps", 3)]) == 0
    assert "going on from step 2" in capsys.readouterr().out
    line = complaint(capsys, *again, "--steps", 3, "--qm", "resname ALA and not name H*")
    assert "begun with other settings: qm_atoms was [0, 1, 2," in line
    other = written(tmp_path, HEAVY + ION, "other.pdb")
    assert "begun with another file than" in complaint(capsys, *again, other, "--steps", 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("box.pdb", "--smiles", "CO"), "expected one box, got both BOX and --smiles"),
        (("--solvate", "tip3p"), "--solvate does not go with the box that ships"),
        (("--smiles", "CO", "--ph", 4), "--ph does not go with --smiles"),
        (("box.pdb", "--qm", "protein", "--box", 1, 2, 3), "three lengths in Å, got"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, capsys, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, HEAVY)
    assert words in complaint(capsys, "md", *options, "--steps", 1, "--output", tmp_path / "run")
