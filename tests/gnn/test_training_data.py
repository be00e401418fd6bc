"""What a training is given: files, splits of them, isolated atoms, and what is said of all that."""

import warnings
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from tiny import methanol, tiny_config, tiny_model

from gnn import AMP, Frame, System
from gnn.cli import main
from gnn.data import read_frames, write_frames
from gnn.training import checkpoint
from gnn.training.config import parse_config
from gnn.training.frames.isolated import isolated_lines
from gnn.training.frames.load import (
    embedded,
    has_surroundings,
    load_data,
    load_test_frames,
    summary,
)
from gnn.training.setup import build_model

SUFFIXES = ("h5", "xyz")


def data(**section):
    return parse_config({"data": section}).data


def plain(group=""):
    """Methanol as other programs know it: no surroundings, no run, no name."""
    return [
        Frame(System(f.system.numbers, f.system.positions), f.energy, f.forces, group=group)
        for f in methanol()
    ]


def lonely(z, energy, charge=0, **more):
    return Frame(System([z], [[0.0, 0, 0]], charge), energy, group="IsolatedAtom", **more)


ATOMS = [lonely(1, -13.6), lonely(6, -1028.0), lonely(8, -2041.0)]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Plain frames in the working folder: a file of all, and three with a part each."""
    monkeypatch.chdir(tmp_path)
    frames = plain()
    parts = {"all": frames, "a": frames[:16], "b": frames[16:20], "c": frames[20:]}
    for name, part in parts.items():
        for suffix in SUFFIXES:
            write_frames(f"{name}.{suffix}", part)
    return tmp_path


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "stream"), [("all.xyz", 0), ("all.h5", 0), ("all.h5", 1)])
def test_one_file_without_runs_is_split_by_frame(files, source, stream):
    loaded = load_data(data(source=source, stream=bool(stream)))
    assert [len(part) for part in loaded.splits] == [17, 2, 5]
    assert loaded.lines[0].startswith("split by frame: the frames name no runs")
    assert "in vacuum: 17 frames to train" in summary(loaded.splits)[0]
    assert "MD run" not in summary(loaded.splits)[0]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("stream", [False, True])
def test_a_file_for_each_set(files, suffix, stream):
    if stream and suffix == "xyz":
        with pytest.raises(ValueError, match="only HDF5 files can be streamed"):
            load_data(data(train="a.xyz", stream=True))
        return
    section = {"train": f"a.{suffix}", "valid": f"b.{suffix}", "test": f"c.{suffix}"}
    loaded = load_data(data(**section, stream=stream))
    assert [len(part) for part in loaded.splits] == [16, 4, 4]
    assert loaded.lines == ["split by file: as the configuration names them"]
    also = {("validation" if k == "valid" else k): v for k, v in section.items()}
    assert data(**also) == data(**section)


@pytest.mark.parametrize("stream", [False, True])
def test_a_test_or_validation_file_may_be_absent(files, stream, tmp_path):
    loaded = load_data(data(train="a.h5", valid="b.h5", stream=stream))
    assert [len(part) for part in loaded.splits] == [16, 4, 0]
    assert "no frames to test on: errors are those on the validation frames" in loaded.lines[1]
    loaded = load_data(data(train="all.h5", stream=stream))
    assert [len(part) for part in loaded.splits] == [22, 2, 0]
    assert "held out 2 of 24 in stretches of neighbours" in loaded.lines[1]
    record = data(train="a.h5", valid="b.h5", stream=stream).model_dump()
    checkpoint.save_model(tmp_path / "model.pt", tiny_model(), data=record)
    assert len(load_test_frames(tmp_path / "model.pt")) == 4


def test_lists_patterns_and_the_home_folder(files, monkeypatch):
    monkeypatch.setenv("HOME", str(files))
    for source in (["a.xyz", "b.h5", "c.xyz"], "[abc].xyz", "~/?.xyz", ["~/a.h5", "[bc].h5"]):
        loaded = load_data(data(source=source))
        assert sum(map(len, loaded.splits)) == 24, source
    assert parse_config({"output": "~/run", "start": "~/x.pt"}).output == str(files / "run")


@pytest.mark.parametrize(
    ("section", "error", "message"),
    [
        ({"source": "none.xyz"}, FileNotFoundError, "no file none.xyz"),
        ({"source": "q*.xyz"}, FileNotFoundError, r"no file matches q\*\.xyz"),
        ({"train": "a.xyz", "valid": "none.xyz"}, FileNotFoundError, "no file none.xyz"),
        ({"source": ["a.xyz", "a.xyz"]}, ValueError, "a.xyz is named twice"),
        ({"source": ["a.h5", "b.xyz"], "stream": True}, ValueError, "only HDF5 files can be"),
        ({"source": "all.xyz", "molecules": ["water"]}, ValueError, "no molecule 'water'"),
        ({"source": ["a.xyz", "b.xyz"], "molecules": ["x"]}, ValueError, "no molecule 'x'"),
        ({"source": "a.xyz", "split": {"by": "run"}}, ValueError, r"1 molecular-dynamics run\(s\)"),
        ({"source": "a.xyz", "split": {"key": "kind"}}, ValueError, "16 of 16 frames have no such"),
        ({"source": "a.h5", "split": {"key": "group"}}, ValueError, "16 of 16 frames have no such"),
    ],
)
def test_wrong_files(files, section, error, message):
    with pytest.raises(error, match=message):
        load_data(data(**section))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"valid": "b.xyz"}, "valid: a file for each set needs 'train'"),
        ({"source": "a.xyz", "train": "b.xyz"}, "not by both"),
        ({"train": "a.xyz", "valid": "b.xyz", "validation": "c.xyz"}, "two names of one key"),
        ({"split": {"by": "config_type"}}, "a key of the file is named by 'key'"),
        ({"train": "a.xyz", "split": {"by": "frame"}}, "leave out 'split'"),
        ({"source": []}, "expected the path of a file"),
        ({"source": [""]}, "expected the path of a file"),
        ({"split": {"by": "key"}}, "by: key needs the name"),
        ({"split": {"by": "run", "key": "kind"}}, "two ways"),
        ({"source": "a.xyz", "keys": {"group": "x"}, "split": {"key": "y"}}, "group is 'x'"),
        ({"train": "a.h5", "keys": {"energy": "E"}}, "for extxyz files only"),
        ({"isolated_atoms": {"Xx": 1.0}}, "symbol or atomic number"),
        ({"isolated_atoms": {"H": 1.0, 1: 2.0}}, "named twice"),
        ({"isolated_atoms": {8: "much"}}, "energy of O should be a number in eV, got 'much'"),
        ({"isolated_atoms": {"H": None}}, "energy of H should be a number in eV, got None"),
        ({"isolated_atoms": {"H": True}}, "energy of H should be a number in eV, got True"),
        ({"source": "a.xyz", "molecules": []}, "molecules: .*at least 1 item"),
        ({"split": {"seed": -1}}, "split.seed: should be >= 0"),
        ({"isolated_atoms": [1, 2]}, "isolated_atoms"),
    ],
)
def test_wrong_sections(section, message):
    with pytest.raises(ValueError, match=message):
        data(**section)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_split_by_a_key_of_the_file(tmp_path, suffix):
    frames = [replace(f, group=("train", "valid", "test")[i % 3]) for i, f in enumerate(plain())]
    path = tmp_path / f"key.{suffix}"
    write_frames(path, frames)
    assert [f.group for f in read_frames(path)] == [f.group for f in frames]
    loaded = load_data(data(source=str(path), split={"key": "config_type"}))
    assert [len(part) for part in loaded.splits] == [8, 8, 8]
    assert "split by key: its values name the sets" in loaded.lines[0]
    if suffix == "xyz":
        path.write_text(path.read_text().replace("config_type=", "subset="))
        again = load_data(data(source=str(path), split={"key": "subset"}))
        assert [f.energy for f in again.splits[2]] == [f.energy for f in loaded.splits[2]]
    else:
        streamed = load_data(data(source=str(path), split={"key": "group"}, stream=True))
        assert [f.energy for f in streamed.splits[2]] == [f.energy for f in loaded.splits[2]]


@pytest.mark.filterwarnings("ignore:.*names of runs")
def test_a_run_that_has_a_name_is_one_run_in_all_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = "2\nProperties=species:S:1:pos:R:3 energy={} run={}\nAr 0 0 0\nAr 0 0 {}\n"
    for name, order in (("a.xyz", "xyx"), ("b.xyz", "yzwx")):
        first = 4 if name == "a.xyz" else 8
        text = "".join(line.format(i, run, i) for i, run in enumerate(order, first))
        (tmp_path / name).write_text(text)
    with pytest.warns(
        UserWarning, match=r"b\.xyz: names of runs are numbered: y = 2, z = 3, w = 4"
    ):
        splits = load_data(data(source=["a.xyz", "b.xyz"])).splits
    assert sorted(len({f.run for f in part}) for part in splits) == [1, 1, 2]
    assert sorted(f.run for part in splits for f in part) == [1, 1, 1, 2, 2, 3, 4]


def test_frames_without_any_label_are_in_no_set(tmp_path):
    frames = [replace(f, energy=None, forces=None) if i % 2 else f for i, f in enumerate(plain())]
    write_frames(tmp_path / "a.h5", frames)
    for stream in (False, True):
        loaded = load_data(data(source=str(tmp_path / "a.h5"), stream=stream))
        assert [len(part) for part in loaded.splits] == [9, 1, 2]
        assert loaded.lines[1] == "12 of 24 frames have no label and are left out"
        assert all(f.energy is not None for part in loaded.splits for f in part)


def test_runs_of_some_frames_only(tmp_path):
    path = tmp_path / "some.xyz"
    write_frames(path, [replace(f, run=1 + i // 6) for i, f in enumerate(plain())])
    lines = path.read_text().splitlines(keepends=True)
    lines[1:33] = [line.replace(" run=1", "") for line in lines[1:33]]
    path.write_text("".join(lines))
    with pytest.warns(UserWarning, match="4 of 24 frames name no run; they count as one, run 0"):
        assert load_data(data(source=str(path))).lines[0].startswith("split by run")


# --- what the sets share, and what they do not ----------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_frames_in_two_sets_are_counted(files, stream):
    """Three are trained on and one is held out to validate on; all four are tested on."""
    with pytest.warns(UserWarning, match="4 of 24 test frames have the geometry of a frame that"):
        load_data(data(train="c.h5", test="all.h5", stream=stream))


def test_copies_are_found_wherever_they_lie(files, tmp_path):
    moved = [
        Frame(System(f.system.numbers, f.system.positions + 5.0), f.energy) for f in plain()[:3]
    ]
    write_frames("moved.xyz", moved)
    with pytest.warns(UserWarning, match="3 of 3 validation frames"):
        load_data(data(train="a.xyz", valid="moved.xyz", test="c.xyz"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_data(data(train="a.xyz", valid="b.xyz", test="c.xyz"))
        load_data(data(vacuum=True, molecules=["acoh"]))  # one geometry, two surroundings


@pytest.mark.parametrize("stream", [False, True])
def test_copies_are_told_by_geometry_and_not_by_energy(files, tmp_path, stream):
    """Not all frames have an energy, energies may be equal, and one geometry has many fields."""
    bare = [replace(f, energy=None) for f in plain()]
    for name, part in (("train", bare[:16]), ("valid", bare[16:]), ("test", bare[13:20])):
        write_frames(f"{name}.h5", part)
    with pytest.warns(UserWarning, match="7 of 7 test frames have the geometry") as found:
        load_data(data(train="train.h5", valid="valid.h5", test="test.h5", stream=stream))
    assert len(found) == 1
    equal = [replace(f, energy=-3000.0) for f in plain()]
    field = replace(plain()[0].system, uniform_field=np.array([0.0, 0, 0.1]))
    write_frames("equal.h5", equal[:16])
    write_frames("other.h5", [*equal[16:], replace(equal[0], system=field)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_data(data(train="equal.h5", valid="other.h5", stream=stream))


@pytest.mark.parametrize("stream", [False, True])
def test_vacuum_copies_of_frames_that_are_there_twice(files, stream):
    frames = methanol()[:8]
    alone = [
        replace(f, system=System(f.system.numbers, f.system.positions), mm_forces=None, energy=e)
        for e, f in enumerate(frames, start=-3000)
    ]
    write_frames("twice.h5", frames * 2, vacuum=alone * 2)
    section = {"source": "twice.h5", "vacuum": True, "split": {"by": "frame"}, "stream": stream}
    with pytest.warns(UserWarning, match="have the geometry of a frame"):
        training = load_data(data(**section)).splits[0]
    half = len(training) // 2
    energies = {f.system.positions.tobytes(): f.energy for f in alone}
    for frame, copy in zip(training[:half], training[half:], strict=True):
        assert copy.system.n_mm == 0
        assert copy.energy == energies[frame.system.positions.tobytes()]


@pytest.mark.parametrize("stream", [False, True])
def test_frames_without_surroundings_get_no_vacuum_copies(files, stream):
    """They are vacuum frames already; the baselines learn from all but the copies."""
    frames = methanol()
    mixed = [
        frame if i % 2 else replace(alone, run=frame.run, name="meoh")
        for i, (frame, alone) in enumerate(zip(frames, plain(), strict=True))
    ]
    alone = [
        replace(frame, run=f.run, name="meoh") for f, frame in zip(mixed, plain(), strict=True)
    ]
    write_frames("mixed.h5", mixed, vacuum=alone)
    section = data(source="mixed.h5", vacuum=True, stream=stream)
    training = load_data(section).splits[0]
    around = [frame.system.n_mm > 0 for frame in training]
    seen = embedded(training, section)
    assert len(training) == len(seen) + sum(around) and 0 < sum(around) < len(seen)
    assert not any(around[len(seen) :])
    places = {frame.system.positions.tobytes() for frame in seen if frame.system.n_mm}
    assert places == {f.system.positions.tobytes() for f in list(training)[len(seen) :]}


@pytest.mark.parametrize("stream", [False, True])
def test_molecules_that_are_tested_on_alone(files, stream):
    frames = [
        replace(frame, name=name, run=100 * (1 + i // 8) + i % 2)
        for name in ("meoh", "other", "other+h2o", "another")
        for i, frame in enumerate(methanol())
    ]
    write_frames("named.h5", frames)
    section = {"by": "block", "train": [1], "validation": [2], "test": [3]}
    section["test_molecules"] = ["other"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[0-9]+ of .* have the geometry")
        warnings.filterwarnings("error", ".*of molecules that no training frame")
        loaded = load_data(data(source="named.h5", split=section, stream=stream))
    training, validation, test = ([(f.name, f.run // 100) for f in part] for part in loaded.splits)
    assert set(training) == {("meoh", 1), ("another", 1)}
    assert set(validation) == {("meoh", 2), ("another", 2)}
    assert {block for name, block in test if name in ("other", "other+h2o")} == {1, 2, 3}
    assert {(name, block) for name, block in test if "other" not in name[:5]} == {
        ("meoh", 3), ("another", 3),
    }  # fmt: skip
    assert len(training) + len(validation) + len(test) == len(frames)
    assert "tested on alone are all frames of other" in loaded.lines[0]
    with pytest.raises(ValueError, match="no molecule 'oth'; found another, meoh, other, other"):
        load_data(data(source="named.h5", split=section | {"test_molecules": ["oth"]}))


def test_molecules_and_elements_that_training_lacks(files):
    water = System([8, 1, 1], [[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    write_frames("water.xyz", [Frame(water, -2079.0)] * 2)
    with pytest.warns(UserWarning, match="2 of 2 validation frames are of molecules that no"):
        load_data(data(train="a.xyz", valid="water.xyz", test="c.xyz"))
    write_frames("ammonia.xyz", [Frame(System([7, 1], [[0.0, 0, 0], [1, 0, 0]]), -1500.0)])
    with pytest.raises(ValueError, match=r"hold elements \[7\].*leave these frames out"):
        load_data(data(train="a.xyz", valid="b.xyz", test="ammonia.xyz"))


def test_surroundings_of_any_kind_are_seen(tmp_path):
    assert not has_surroundings(plain()) and has_surroundings([*plain(), methanol()[0]])
    field = np.array([0.0, 0, 0.1])
    frames = [replace(f, system=replace(f.system, uniform_field=field)) for f in plain()[:5]]
    assert has_surroundings(frames)
    write_frames(tmp_path / "field.h5", frames)
    write_frames(tmp_path / "plain.h5", plain())
    for name, expected in (("field", True), ("plain", False)):
        streamed = load_data(data(source=str(tmp_path / f"{name}.h5"), stream=True)).splits[0]
        assert has_surroundings(streamed) is expected


# --- isolated atoms -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("stream", [False, True])
def test_isolated_atoms_set_the_baseline_and_are_trained_on_by_nobody(tmp_path, suffix, stream):
    if stream and suffix == "xyz":
        pytest.skip("only HDF5 files can be streamed")
    path = tmp_path / f"mace.{suffix}"
    write_frames(path, [*ATOMS, *plain("md300")])
    loaded = load_data(data(source=str(path), stream=stream))
    assert sum(map(len, loaded.splits)) == 24
    assert all(f.system.n_atoms == 6 for part in loaded.splits for f in part)
    assert loaded.isolated.energies == {1: -13.6, 6: -1028.0, 8: -2041.0}
    training = loaded.splits[0]
    model = build_model(tiny_config(), training, isolated=loaded.isolated.energies)
    assert isinstance(model, AMP)
    assert model.baseline[[1, 6, 8]].tolist() == [-13.6, -1028.0, -2041.0]
    assert model.baseline.count_nonzero() == 3 and model.charge_baseline == 0
    # what is left begins in the network: the mean energy of the bonds per atom
    left = np.mean([f.energy for f in training]) - (4 * -13.6 - 1028.0 - 2041.0)
    bias = model.atom_energy[-1].bias.item()
    assert bias == pytest.approx(left / 6, rel=1e-5)
    (line,) = isolated_lines(loaded.isolated, model.elements, None)
    assert "3 frames, which are not trained on" in line and "H -13.600 eV" in line


def test_isolated_atoms_of_the_configuration(files):
    section = data(source="all.xyz", isolated_atoms={"H": -13.6, 6: -1028, "8": -2041.0})
    loaded = load_data(section)
    assert loaded.isolated.energies == {1: -13.6, 6: -1028.0, 8: -2041.0}
    again = parse_config({"data": section.model_dump()}).data
    assert again == section


def test_elements_without_an_isolated_atom_are_fitted():
    frames = [
        *plain(),
        Frame(System([1, 1], [[0.0, 0, 0], [0.74, 0, 0]]), -31.8),
        Frame(System([6, 8], [[0.0, 0, 0], [1.13, 0, 0]]), -3083.0),
    ]
    model = tiny_model(frames)
    model.set_baseline(frames, {1: -13.6, 6: -1028.0})
    assert model.baseline[[1, 6]].tolist() == [-13.6, -1028.0]
    # CO and the mean of 24 frames of methanol, both with one O
    mean = np.mean([f.energy for f in plain()])
    rests = [-3083.0 + 1028.0, mean + 1028.0 + 4 * 13.6]
    assert model.baseline[8].item() == pytest.approx(np.average(rests, weights=[1, 24]))
    assert model.atom_energy[-1].bias.item() == 0
    (line,) = isolated_lines(load_isolated({1: -13.6, 6: -1028.0}), [1, 6, 8], None)
    assert "fitted: O, of which none is given" in line


def load_isolated(energies, frames=()):
    from gnn.training.frames.isolated import isolated_atoms

    return isolated_atoms(list(frames), energies)


def test_several_frames_of_an_element_agree_or_are_refused():
    both = load_isolated({1: -13.6}, [lonely(1, -13.6004), lonely(8, -2041.0)])
    assert both.energies[1] == pytest.approx(-13.6002)
    with pytest.raises(ValueError, match=r"frame 1: the isolated H atom.*in an earlier frame"):
        load_isolated({}, [lonely(1, -13.6), lonely(1, -13.1)])
    with pytest.raises(ValueError, match=r"-13\.100000 eV, but -13\.600000 eV in data\.isolated"):
        load_isolated({1: -13.6}, [lonely(1, -13.1)])


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (replace(plain()[0], group="isolated_atom"), "6 atoms, expected one"),
        (replace(ATOMS[0], energy=None), "no energy"),
        (
            replace(ATOMS[0], system=System([1], [[0.0, 0, 0]], 0, [[3.0, 0, 0]], [1.0])),
            "1 charges around it",
        ),
    ],
)
def test_frames_that_are_no_isolated_atoms(frame, reason):
    with pytest.raises(ValueError, match=f"frame 0 is marked as an isolated atom.*{reason}"):
        load_isolated({}, [frame])


def test_isolated_ions_are_left_out_and_said():
    found = load_isolated({}, [lonely(8, -2040.0, charge=-1), lonely(1, -13.6)])
    assert found.energies == {1: -13.6} and found.charged == 1
    assert "1 isolated atoms have a charge and are left out" in isolated_lines(found, [1], None)[0]


def test_isolated_atoms_do_not_count_beside_the_weights_of_a_checkpoint():
    (line,) = isolated_lines(load_isolated({1: -13.6}), [1], "start.pt")
    assert "not used" in line and "start.pt" in line


def test_vacuum_labels_are_not_asked_of_isolated_atoms(tmp_path):
    alone = [Frame(System(f.system.numbers, f.system.positions), f.energy) for f in methanol()]
    write_frames(tmp_path / "a.h5", methanol(), vacuum=alone)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        group = file.create_group("H")
        group.attrs["charge"] = 0
        group["numbers"], group["positions"] = [1], np.zeros((1, 1, 3))
        group["energy"], group["group"] = [-13.6], ["IsolatedAtom"]
    for stream in (False, True):
        loaded = load_data(data(source=str(tmp_path / "a.h5"), vacuum=True, stream=stream))
        assert loaded.isolated.energies == {1: -13.6} and len(loaded.splits[0]) == 24


def test_a_file_of_isolated_atoms_alone(tmp_path, capsys):
    write_frames(tmp_path / "atoms.xyz", ATOMS)
    with pytest.raises(ValueError, match="no frame but isolated atoms"):
        load_data(data(source=str(tmp_path / "atoms.xyz")))
    with pytest.raises(ValueError, match="no frame but isolated atoms"):
        load_data(data(train=str(tmp_path / "atoms.xyz")))
    write_frames(tmp_path / "all.xyz", plain())
    files = {"train": str(tmp_path / "all.xyz"), "valid": str(tmp_path / "atoms.xyz")}
    with pytest.raises(ValueError, match=r"data\.valid: .* holds no frame but isolated atoms"):
        load_data(data(**files))
    checkpoint.save_model(tmp_path / "model.pt", tiny_model())
    assert main(["evaluate", str(tmp_path / "model.pt"), str(tmp_path / "atoms.xyz")]) == 2
    assert "atoms.xyz holds no frame but isolated atoms" in capsys.readouterr().err


def test_single_atoms_that_are_not_marked_are_named(tmp_path):
    path = tmp_path / "single.xyz"
    write_frames(path, [replace(ATOMS[0], group=""), *plain()])
    with pytest.warns(UserWarning, match="1 of 25 frames are a single atom"):
        load_data(data(source=str(path)))


def test_isolated_atoms_of_another_unit_are_doubted():
    model = tiny_model()
    with pytest.warns(UserWarning, match=r"are -\d+\.\d eV per atom, where bonds make"):
        model.set_baseline(plain(), {1: -0.5, 6: -37.8, 8: -75.0})  # hartree


def test_the_key_of_a_split_does_not_hide_isolated_atoms(tmp_path):
    path = tmp_path / "key.xyz"
    write_frames(path, [*ATOMS, *plain("md300")])
    text = path.read_text().replace("config_type=md300", "config_type=md300 part=train")
    path.write_text(text)
    frames = read_frames(path, keys={"group": "part"})
    assert [f.group for f in frames[2:5]] == ["IsolatedAtom", "train", "train"]


def test_a_committee_of_isolated_atoms_leaves_nothing_open():
    """Their energies are known to all members."""
    config = tiny_config().model_copy(deep=True)
    config.committee.members = 2
    energies = {1: -13.6, 6: -1028.0, 8: -2041.0}
    models = []
    for seed in range(2):
        config.training.seed = seed
        models.append(build_model(config, plain(), isolated=energies))
    one, two = (model.baseline[[1, 6, 8]] for model in models)
    assert torch.allclose(one, two, atol=1e-9)
    assert models[0].charge_baseline != models[1].charge_baseline  # of which nothing is known


def test_many_molecules_are_not_all_listed():
    frames = [Frame(System([z], [[0.0, 0, 0]]), -1.0) for z in range(1, 61)]
    lines = summary((frames[:50], frames[50:55], frames[55:]))
    assert sum("atoms, charge" in line for line in lines) == 20
    assert lines[20] == "… 60 molecules in all: 50 / 5 / 5 frames to train / validate / test"
