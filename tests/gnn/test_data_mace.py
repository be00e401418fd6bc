"""Extended XYZ as users of MACE write it: heads, weights of labels, virials, isolated atoms."""

import warnings

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.io import write
from tiny import methanol

from gnn.cli import main
from gnn.data import read_frames, write_frames
from gnn.training.config import DataConfig, parse_config
from gnn.training.frames.load import load_data

ALONE = {1: -13.6, 6: -1029.0, 8: -2041.0}


def images(count=12, energy="REF_energy", forces="REF_forces", shift=0.0, **info):
    """Methanol, each frame at a place of its own, without a run."""
    made = []
    for k, frame in enumerate(methanol()[:count]):
        image = Atoms(frame.system.numbers, frame.system.positions + 0.01 * k)
        image.info = {energy: frame.energy + shift} | info
        image.arrays[forces] = frame.forces.copy()
        made.append(image)
    return made


def alone(shift=0.0, **info):
    """One isolated atom of each element."""
    atoms = [Atoms([z], np.zeros((1, 3))) for z in ALONE]
    for atom, energy in zip(atoms, ALONE.values(), strict=True):
        atom.info = {"REF_energy": energy + shift, "config_type": "IsolatedAtom"} | info
    return atoms


def saved(path, made):
    write(path, made, format="extxyz")
    return str(path)


def loaded(path, **options):
    return load_data(DataConfig(source=path, **options))


def test_two_levels_of_theory_are_not_mixed_unless_asked(tmp_path):
    made = [*alone(head="pbe"), *images(head="pbe"), *alone(-5.0, head="cc")]
    path = saved(tmp_path / "two.xyz", made + images(8, shift=-30.0, head="cc"))
    with pytest.raises(ValueError, match=r"2 heads.*pbe \(15 frames\), cc \(11 frames\).*--head"):
        loaded(path)
    found = loaded(path, head="cc")
    assert found.isolated.energies[1] == ALONE[1] - 5.0
    assert sum(map(len, found.splits)) == 8
    assert all(frame.head == "cc" for part in found.splits for frame in part)
    with pytest.raises(ValueError, match=r"no frame is of head 'ccc' .*found pbe \(15 frames\)"):
        loaded(path, head=["pbe", "ccc"])
    path = saved(tmp_path / "bare.xyz", made[3:15] + images(8, shift=-30.0, head="cc"))
    assert sum(map(len, loaded(path, head=["pbe", "cc"]).splits)) == 20


def test_frames_that_name_no_head_are_of_the_default_one(tmp_path):
    path = saved(tmp_path / "some.xyz", alone() + images() + images(8, head="cc"))
    with pytest.raises(ValueError, match=r"Default \(15 frames\), cc \(8 frames\)"):
        loaded(path)
    assert sum(map(len, loaded(path, head="Default").splits)) == 12
    path = saved(tmp_path / "atoms.xyz", alone() + images(head="cc"))
    for head in (None, "cc"):  # atoms without a head beside frames that all have one
        found = loaded(path, head=head)
        assert len(found.isolated.energies) == 3 and sum(map(len, found.splits)) == 12


def test_levels_in_several_files_are_seen(tmp_path):
    one = saved(tmp_path / "one.xyz", images(head="pbe"))
    two = saved(tmp_path / "two.xyz", images(8, head="cc"))
    with pytest.raises(ValueError, match="2 heads"):
        loaded([one, two])
    with pytest.raises(ValueError, match="2 heads"):
        load_data(DataConfig(train=one, valid=two))
    with pytest.raises(ValueError, match="holds no frame of head pbe"):
        load_data(DataConfig(train=one, valid=two, head="pbe"))


@pytest.mark.parametrize("name", ["kept.h5", "kept.xyz"])
def test_heads_are_kept_in_files(tmp_path, name):
    frames = read_frames(saved(tmp_path / "two.xyz", images(4, head="0") + images(4, head="cc é")))
    assert [frame.head for frame in frames] == ["0"] * 4 + ["cc é"] * 4
    write_frames(tmp_path / name, frames)
    assert [f.head for f in read_frames(tmp_path / name)] == [f.head for f in frames]
    stream = {"stream": True} if name.endswith("h5") else {}
    with pytest.raises(ValueError, match="2 heads"):
        loaded(str(tmp_path / name), **stream)
    assert sum(map(len, loaded(str(tmp_path / name), head="0", **stream).splits)) == 4


def test_another_key_can_name_the_level(tmp_path):
    path = saved(tmp_path / "level.xyz", images(4, theory="a") + images(4, theory="b"))
    assert {frame.head for frame in read_frames(path, keys={"head": "theory"})} == {"a", "b"}
    with pytest.raises(ValueError, match="no 'theories' for head"):
        read_frames(path, keys={"head": "theories"})


def test_labels_of_no_weight_are_not_read(tmp_path):
    made = images(4) + images(4, config_forces_weight=0.0) + images(4, config_weight=0)
    for image in made:
        image.info["config_type"] = "Default"
    made += [atom for atom in alone() if atom.info.update(config_energy_weight=0.0) is None]
    path = saved(tmp_path / "weights.xyz", made)
    with pytest.warns(UserWarning) as caught:
        frames = read_frames(path)
    told = "\n".join(str(one.message) for one in caught)
    assert "config_forces_weight=0 weighs is not read (4 of 15 frames" in told
    assert "config_weight=0 weighs is not read (4 of 15 frames" in told
    assert [frame.energy is not None for frame in frames] == [True] * 8 + [False] * 4 + [True] * 3
    assert [frame.forces is not None for frame in frames[:12]] == [True] * 4 + [False] * 8
    path = saved(tmp_path / "other.xyz", images(4, config_weight=1.0, config_energy_weight=2.5))
    with pytest.warns(UserWarning, match=r"config_energy_weight=2\.5 is not used"):
        assert all(frame.energy is not None for frame in read_frames(path))


@pytest.mark.parametrize("key", ["REF_virials", "virials", "virial", "REF_virial"])
def test_virials_are_read_under_each_name(tmp_path, key):
    virial = np.array([[3.0, 0.3, 0.0], [0.3, -2.0, 0.0], [0.0, 0.0, 1.0]])
    image = images(1, **{key: virial})[0]
    image.set_cell([10, 11, 12])
    image.pbc = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (frame,) = read_frames(saved(tmp_path / "box.xyz", [image]))
    np.testing.assert_allclose(frame.stress, -virial / 1320)


def test_spins_are_told(tmp_path):
    path = saved(tmp_path / "spin.xyz", images(3, spin=1) + images(3, spin=3))
    with pytest.warns(UserWarning, match=r"spin=3 is not used.*3 of 6 frames"):
        read_frames(path)


@pytest.mark.parametrize("spelled", ["Isolated Atom", "isolated_atom", "ISOLATED-ATOM"])
def test_isolated_atoms_in_any_spelling(tmp_path, spelled):
    atoms = alone()
    for atom in atoms:
        atom.info["config_type"] = spelled
    assert loaded(saved(tmp_path / "x.xyz", atoms + images())).isolated.frames == 3


def test_train_and_evaluate_without_editing_the_file(tmp_path, capsys):
    keys = {"energy": "energy_REF", "forces": "forces_REF"}
    made = images(**keys, head="pbe") + images(8, **keys, head="cc", shift=-30.0)
    path = saved(tmp_path / "theirs.xyz", made)
    content = {
        "data": {"source": path},
        "model": {"order": 1, "channels": 2, "features": 8},
        "training": {"epochs": 1, "batch_size": 4, "threads": 1},
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    theirs = ["--keys", *(f"{name}={key}" for name, key in keys.items())]
    call = ["train", str(tmp_path / "run.yaml"), *theirs]
    assert main(call) == 2
    assert "pbe (12 frames), cc (8 frames)" in capsys.readouterr().err
    assert main([*call, "--head", "pbe"]) == 0
    assert "split by frame: the frames name no runs" in capsys.readouterr().out
    test = ["evaluate", str(tmp_path / "run/best.pt"), path, *theirs, "--output", str(tmp_path)]
    assert main(test) == 2
    assert main([*test, "--head", "pbe"]) == 0
    assert main(test[:2]) == 0  # the test frames of its training: of the same head and keys


def test_weights_that_have_learned_get_a_slower_rate():
    assert parse_config({"start": "amp-bms"}).training.learning_rate == 5e-4
    config = parse_config({"start": "amp-bms", "training": {"learning_rate": 1e-3}})
    assert config.training.learning_rate == 1e-3
    assert parse_config({"training": {"epochs": 3}}).training.learning_rate == 2e-3


def test_info_tells_heads_apart(tmp_path, capsys):
    path = saved(tmp_path / "two.xyz", images(12, head="pbe") + images(12, head="cc", shift=-30.0))
    assert main(["data", "info", path]) == 0
    told = capsys.readouterr().out
    assert "head pbe" in told and "head cc" in told
