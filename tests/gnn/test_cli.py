"""The command line, as a user meets it: what works, and one clear line where the input is wrong."""

import contextlib
import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from tiny import MODEL, methanol, tiny_model

from gnn import Frame, System, load_model
from gnn.cli import main
from gnn.data import read_frames, write_frames
from gnn.training import checkpoint, demo
from gnn.training.config import DataConfig, parse_config
from gnn.training.frames import load, sources
from gnn.training.report.metrics import mean_baseline

ROOT = Path(__file__).resolve().parents[2]
PLAIN_XYZ = "3\n\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"


def _python(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


UNDESCRIBED = "this checkpoint does not say what it was trained on"


def _error(capsys, *arguments):
    """The one line that a wrong call prints."""
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    lines = _said(captured.err)
    assert len(lines) == 1 and lines[0].startswith("anisole: error: "), captured.err
    assert "Traceback" not in captured.out
    return lines[0]


def _said(text):
    """The lines of a text, without what is said of the untrained models of these tests."""
    return [line for line in text.strip().splitlines() if UNDESCRIBED not in line]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "methanol.h5"
    write_frames(path, methanol())
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.pt"
    checkpoint.save_model(path, tiny_model())
    return path


def _config(tmp_path, source, /, **more):
    content = {
        "data": {"source": str(source)},
        "model": MODEL,
        "training": {"epochs": 2, "batch_size": 4, "threads": 1, "validate_every": 1},
        "output": str(tmp_path / "run"),
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(content | more))
    return path


# --- the frame ------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["import gnn.cli", "gnn.cli.main(['--help'])"])
def test_help_needs_no_torch(call):
    code = f"""
import sys, gnn.cli
try:
    {call}
except SystemExit as end:
    assert end.code == 0
heavy = {{"torch", "matplotlib", "h5py", "ase", "numba", "rich", "pydantic"}} & set(sys.modules)
assert not heavy, heavy
"""
    result = _python(code)
    assert result.returncode == 0, result.stderr


def test_help_names_every_command():
    result = _python("from gnn.cli import main; main(['--help'])")
    for command in ("demo", "train", "evaluate", "predict", "validate"):
        assert command in result.stdout


@pytest.mark.parametrize("arguments", [[], ["trian"], ["train"], ["predict", "a.pt", "b.xyz"]])
def test_wrong_call_is_explained(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: anisole" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-3", "nan", "soon"])
def test_wrong_time_is_explained(text, capsys):
    with pytest.raises(SystemExit):
        main(["demo", f"--time={text}"])
    assert f"expected a time > 0 in s, got '{text}'" in capsys.readouterr().err


def test_interrupt_is_no_traceback(monkeypatch, capsys, tmp_path, data):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("gnn.training.run.run_training", interrupted)
    assert main(["train", str(_config(tmp_path, data))]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["--debug", "train", str(tmp_path / "none.yaml")])
    with pytest.raises(FileNotFoundError):
        main(["train", str(tmp_path / "none.yaml"), "--debug"])


def test_warning_is_one_line_without_code(tmp_path, model, capsys):
    source = tmp_path / "cell.xyz"
    lattice = 'Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3 dipole="0 0 1"'
    source.write_text(PLAIN_XYZ.replace("\n\n", f"\n{lattice}\n"))
    assert main(["predict", str(model), str(source), "-o", str(tmp_path / "out.json")]) == 0
    error = capsys.readouterr().err
    assert error.count(UNDESCRIBED) == 1
    lines = _said(error)
    assert len(lines) == 1 and lines[0].startswith("anisole: warning: ")
    assert "the dipole is not read" in lines[0]


# --- demo -----------------------------------------------------------------------------------------


@pytest.fixture
def small_demo(monkeypatch):
    real = demo.demo_config

    def small(output, seconds, seed):
        content = real(output, seconds, seed).model_dump()
        content["model"] = MODEL
        content["training"] |= {"batch_size": 4, "warmup_steps": 10}
        content["data"]["groups"] = None  # the frames below are of no sort
        return parse_config(content)

    monkeypatch.setattr(demo, "demo_config", small)
    monkeypatch.setattr(sources, "load_shipped", lambda *_, **__: methanol())


def test_demo(tmp_path, small_demo, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "demo"
    status = main(["demo", "--time", "1"])
    out = capsys.readouterr().out
    assert status == 0
    assert ("✗" in out) == ("slow or busy" in out)  # a second is no fair trial
    assert "training mean" in out and "blind to surroundings" in out and "this model" in out
    assert "energy MAE" in out and "QM forces, RMSE / std" in out and "nan" not in out
    for name in ("parity.png", "baselines.png", "learning_curve.png", "best.pt", "errors.csv"):
        assert (folder / name).stat().st_size > 100, name
    assert not (folder / "blind").exists()
    load_model(folder / "best.pt").evaluate(methanol()[:1])
    # it runs again in its own folder
    (folder / "best.pt").unlink()
    assert main(["demo", "--time", "0.5"]) in (0, 1)
    assert (folder / "best.pt").exists()


def test_demo_that_misses_its_goals_fails(tmp_path, small_demo, capsys, monkeypatch):
    monkeypatch.setattr(demo, "STEPS", 1)
    status = main(["demo", "--output", str(tmp_path / "demo"), "--time", "1"])
    out = capsys.readouterr().out
    assert status == 1 and "✗" in out and "slow or busy" not in out


def test_demo_divides_its_time(tmp_path, small_demo, monkeypatch):
    limits = []

    def spy(config, console, *, blind, **options):
        limits.extend([config.training.time_limit, blind.training.time_limit])
        raise KeyboardInterrupt  # that is all

    monkeypatch.setattr(demo, "run_training", spy)
    main(["demo", "--output", str(tmp_path / "demo"), "--time", "1"])
    assert sum(limits) == pytest.approx(1.0) and min(limits) > 0


def test_demo_does_not_delete_a_training_run(tmp_path, small_demo, capsys):
    (tmp_path / "last.pt").write_bytes(b"precious")
    assert "holds a training run already" in _error(capsys, "demo", "--output", tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == b"precious"


def test_demo_does_not_delete_a_training_run_in_its_default_folder(
    tmp_path, small_demo, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    precious = tmp_path / "runs" / "demo" / "last.pt"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"precious")
    assert "holds a training run already" in _error(capsys, "demo")
    assert precious.read_bytes() == b"precious"


# --- train ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data):
    """A finished run, and what it printed; tests that go on with it take a copy."""
    folder = tmp_path_factory.mktemp("trained")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["train", str(_config(folder, data))]) == 0
    return folder / "run", printed.getvalue()


def test_train_end_to_end(trained):
    run, out = trained
    assert "meoh" in out and "6 atoms" in out and "blind to surroundings" in out
    names = {path.name for path in run.iterdir()}
    assert names == {
        "last.pt", "best.pt", "log.csv", "errors.csv", "baselines.csv",
        "learning_curve.png", "parity.png", "baselines.png", "blind",
    }  # fmt: skip
    with open(run / "baselines.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == [
        "training mean", "blind to surroundings", "this model",
    ]  # fmt: skip
    assert all(float(row["forces_rmse"]) > 0 for row in rows)


def test_train_without_the_blind_twin(tmp_path, data, capsys):
    assert main(["train", str(_config(tmp_path, data)), "--no-blind"]) == 0
    assert "blind to" not in capsys.readouterr().out
    assert not (tmp_path / "run" / "blind").exists()


def test_resuming_a_finished_run_trains_nothing_again(tmp_path, data, trained):
    config = _config(tmp_path, data)
    shutil.copytree(trained[0], tmp_path / "run")
    paths = [tmp_path / "run" / p for p in ("best.pt", "blind/best.pt", "errors.csv")]
    before = [path.read_bytes() for path in paths]
    logs = [(path.parent / "log.csv").read_bytes() for path in paths[:2]]
    assert main(["train", str(config), "--resume"]) == 0
    assert [path.read_bytes() for path in paths] == before
    assert [(path.parent / "log.csv").read_bytes() for path in paths[:2]] == logs


def test_train_in_vacuum(tmp_path, capsys):
    """No point charge anywhere: there are no forces on any, and nothing stumbles."""
    source = tmp_path / "vacuum.extxyz"
    write_frames(
        source,
        [
            Frame(
                System(f.system.numbers, f.system.positions), f.energy, f.forces,
                run=f.run, name=f.name,
            )
            for f in methanol()
        ],
    )  # fmt: skip
    assert main(["train", str(_config(tmp_path, source))]) == 0
    assert "nan" not in capsys.readouterr().out


def _ase_file(path, frames, **info):
    """Write frames as ASE users do."""
    from ase import Atoms
    from ase.io import write

    images = []
    for frame in frames:
        image = Atoms(frame.system.numbers, frame.system.positions)
        image.info |= {"REF_energy": frame.energy} | info
        image.arrays["REF_forces"] = frame.forces
        images.append(image)
    write(path, images)


def test_a_plain_file_in_ten_lines(tmp_path, monkeypatch, capsys):
    """No run, no name, no surroundings, isolated atoms: trained, evaluated, used."""
    monkeypatch.chdir(tmp_path)
    atoms = [Frame(System([z], [[0.0, 0, 0]]), e, np.zeros((1, 3)))
             for z, e in ((1, -13.6), (6, -1028.0), (8, -2041.0))]  # fmt: skip
    _ase_file("atoms.xyz", atoms, config_type="IsolatedAtom")
    _ase_file("md.xyz", methanol())
    Path("all.xyz").write_text(Path("atoms.xyz").read_text() + Path("md.xyz").read_text())
    config = _config(tmp_path, "all.xyz", output="run")
    assert main(["train", str(config)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "split by frame: the frames name no runs" in out
    assert "isolated atoms (3 frames, which are not trained on): H -13.600 eV" in out
    assert "17 frames to train, 2 to validate, 5 to test" in out
    assert "no blind twin: no training frame has surroundings" in out
    assert "blind to surroundings" not in out and "equal budgets" not in out
    assert not Path("run/blind").exists()
    with open("run/baselines.csv", newline="") as file:
        assert [row["model"] for row in csv.DictReader(file)] == ["training mean", "this model"]
    assert main(["evaluate", "run/best.pt"]) == 0
    assert main(["evaluate", "run/best.pt", "all.xyz"]) == 0
    assert "3 isolated atoms in all.xyz are left out" in capsys.readouterr().out
    assert main(["predict", "run/best.pt", "md.xyz", "-o", "out.xyz"]) == 0
    assert len(read_frames("out.xyz")) == 24


def test_more_time_from_the_command_line(tmp_path, data, trained, capsys):
    shutil.copytree(trained[0], tmp_path / "run")
    training = {"epochs": 4, "batch_size": 4, "threads": 1, "validate_every": 1}
    longer = _config(tmp_path, data, training=training)
    capsys.readouterr()
    assert main(["train", str(longer), "--resume"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for label in ("training", "blind twin"):
        assert f"{label}: training.epochs is 4 now, was 2" in out
        assert f"{label}: the learning rate follows the new length: at epoch 2" in out
    assert main(["train", str(longer), "--resume"]) == 0
    assert "nothing is left to train: 4 epochs are done" in capsys.readouterr().out


def test_baselines_learn_from_embedded_frames_only():
    data = DataConfig(molecules=["mam"], vacuum=True, groups=["first", "vacuum@450"])
    training, _, test = load.load_splits(data)
    seen = load.embedded(training, data)
    alone = sum(frame.system.n_mm == 0 for frame in seen)  # these have no second copy
    assert 0 < alone < 10 and len(training) == 2 * len(seen) - alone
    assert mean_baseline(seen, test).errors("energy").mae < 500  # with vacuum: over 2 eV


def test_train_on_energies_alone(tmp_path):
    source = tmp_path / "energies.h5"
    write_frames(source, [Frame(f.system, f.energy, run=f.run) for f in methanol()])
    assert main(["train", str(_config(tmp_path, source)), "--no-blind"]) == 0
    assert (tmp_path / "run" / "parity.png").exists()


def test_existing_run_is_not_overwritten(tmp_path, data, capsys):
    config = _config(tmp_path, data)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").write_bytes(b"precious")
    line = _error(capsys, "train", config)
    assert "holds a training run already" in line and "--resume" in line
    assert (tmp_path / "run" / "last.pt").read_bytes() == b"precious"


def test_resume_of_nothing(tmp_path, data, capsys):
    assert "nothing to resume in" in _error(
        capsys, "train", _config(tmp_path, data), "--resume", "--no-blind"
    )


def test_wrong_configurations(tmp_path, data, capsys):
    assert "no configuration at" in _error(capsys, "train", tmp_path / "none.yaml")
    config = _config(tmp_path, data, trainig={"epochs": 2})
    assert "did you mean 'training'" in _error(capsys, "train", config)
    config = _config(tmp_path, data, data={"source": str(tmp_path / "none.h5")})
    assert "no file" in _error(capsys, "train", config)
    config = _config(tmp_path, data, data={"source": str(data), "molecules": ["ethanol"]})
    assert "no molecule 'ethanol'; found meoh" in _error(capsys, "train", config)
    assert not (tmp_path / "run").exists()


def test_elements_that_only_the_test_frames_have(tmp_path, capsys):
    frames = methanol()[:8]
    ammonia = System([7, 1], [[0.0, 0, 0], [1.0, 0, 0]])
    frames.append(Frame(ammonia, -1500.0, np.zeros((2, 3)), run=999))
    source = tmp_path / "mixed.h5"
    write_frames(source, frames)
    runs = sorted({f.run for f in frames})
    split = {"train": [runs[0]], "validation": [runs[1]], "test": [999]}
    config = _config(tmp_path, source, data={"source": str(source), "split": split})
    line = _error(capsys, "train", config)
    assert "elements [7]" in line and "no training frame has" in line


# --- evaluate -------------------------------------------------------------------------------------


def test_evaluate_a_file(tmp_path, model, data, capsys):
    folder = tmp_path / "out"
    assert main(["evaluate", str(model), str(data), "--output", str(folder)]) == 0
    assert "meoh" in capsys.readouterr().out
    with open(folder / "errors.csv", newline="") as file:
        row = next(csv.DictReader(file))
    frames = methanol()
    results = load_model(model).evaluate(frames)
    errors = [r["energy"] - f.energy for r, f in zip(results, frames, strict=True)]
    assert row["molecule"] == "meoh" and row["frames"] == "24"
    assert float(row["energy_mae"]) == pytest.approx(1e3 * np.abs(errors).mean(), rel=1e-6)
    assert (folder / "parity.png").stat().st_size > 1000


def test_evaluate_takes_the_test_runs_of_the_training(tmp_path, data):
    runs = sorted({f.run for f in methanol()})
    split = {"train": runs[2:], "validation": [runs[1]], "test": [runs[0]]}  # not the default
    config = _config(tmp_path, data, data={"source": str(data), "split": split})
    assert main(["train", str(config), "--no-blind"]) == 0
    for name in ("best.pt", "last.pt"):
        out = tmp_path / name.removesuffix(".pt")
        assert main(["evaluate", str(tmp_path / "run" / name), "--output", str(out)]) == 0
        with open(out / "errors.csv", newline="") as file:
            assert next(csv.DictReader(file))["frames"] == "4"
    assert (tmp_path / "best/errors.csv").read_text() == (tmp_path / "run/errors.csv").read_text()


def test_evaluate_wrong_input(tmp_path, model, data, capsys):
    assert "no checkpoint at" in _error(capsys, "evaluate", tmp_path / "none.pt", data)
    assert "no file" in _error(capsys, "evaluate", model, tmp_path / "none.h5")
    other = tmp_path / "other.pt"
    other.write_text("not a model")
    assert "is not a checkpoint" in _error(capsys, "evaluate", other, data)
    unlabelled = tmp_path / "unlabelled.h5"
    write_frames(unlabelled, [Frame(f.system) for f in methanol()[:2]])
    line = _error(capsys, "evaluate", model, unlabelled)
    assert "frame 0 has no energy, forces" in line


def test_wrong_units(tmp_path, model, data, capsys):
    wrong = tmp_path / "hartree.h5"
    wrong.write_bytes(data.read_bytes())
    with h5py.File(wrong, "r+") as file:
        file.attrs["energy_unit"] = "hartree"
    line = _error(capsys, "evaluate", model, wrong)
    assert "energy_unit is 'hartree'" in line and "27.21" in line
    with h5py.File(wrong, "r+") as file:
        del file.attrs["energy_unit"]
        file.attrs["energie_unit"] = "eV"
    assert "attributes energy_unit are missing" in _error(capsys, "evaluate", model, wrong)


# --- predict --------------------------------------------------------------------------------------


def test_predict_to_json(tmp_path, model, data, capsys):
    out = tmp_path / "new" / "out.json"
    assert main(["predict", str(model), str(data), "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "0: energy -" in printed and "24 structures in all" in printed
    content = json.loads(out.read_text(encoding="utf-8"))
    assert content["units"] == {"energy": "eV", "length": "Å", "charge": "e"}
    expected = load_model(model).evaluate(methanol())
    assert len(content["structures"]) == len(expected) == 24
    for found, result, frame in zip(content["structures"], expected, methanol(), strict=True):
        assert found["numbers"] == frame.system.numbers.tolist()
        for key, value in result.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("suffix", [".h5", ".extxyz", ".xyz", ".HDF5"])
def test_predict_to_frames(tmp_path, model, data, suffix):
    out = tmp_path / f"out{suffix}"
    assert main(["predict", str(model), str(data), "--output", str(out)]) == 0
    expected = load_model(model).evaluate(methanol())
    for found, result, frame in zip(read_frames(out), expected, methanol(), strict=True):
        assert (found.name, found.run) == (frame.name, frame.run)
        np.testing.assert_allclose(found.system.mm_charges, frame.system.mm_charges)
        for key in ("energy", "forces", "mm_forces", "dipole"):
            np.testing.assert_allclose(getattr(found, key), result[key], atol=1e-5, err_msg=key)


def test_predict_does_not_overwrite_its_input(tmp_path, model, data, capsys):
    own = tmp_path / "frames.h5"
    own.write_bytes(data.read_bytes())
    assert "is the input" in _error(capsys, "predict", model, own, "-o", own)
    assert own.read_bytes() == data.read_bytes()


def test_evaluate_needs_data_where_the_checkpoint_records_none(tmp_path, model, capsys):
    bare = tmp_path / "bare.pt"
    checkpoint.save_model(bare, load_model(model))
    assert "does not record the data" in _error(capsys, "evaluate", bare)


def test_predict_from_plain_xyz(tmp_path, model, capsys):
    source = tmp_path / "water.xyz"
    source.write_text(PLAIN_XYZ)
    out = tmp_path / "out.json"
    assert main(["predict", str(model), str(source), "-o", str(out)]) == 0
    structure = json.loads(out.read_text(encoding="utf-8"))["structures"][0]
    assert structure["numbers"] == [8, 1, 1] and structure["mm_forces"] == []
    assert sum(structure["charges"]) == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(np.sum(structure["forces"], axis=0), 0, atol=1e-4)


def _extxyz(tmp_path, text):
    path = tmp_path / "in.xyz"
    path.write_text(text)
    return path


WRONG = {
    "element the model never saw": (PLAIN_XYZ.replace("O", "Fe"), r"knows nothing of \[26\]"),
    "no element": (PLAIN_XYZ.replace("O", "Qq"), "cannot be read"),
    "NaN": (PLAIN_XYZ.replace("0.93", "nan"), "expected finite numbers, got nan"),
    "charge on an atom": (
        PLAIN_XYZ.replace("\n\n", '\nMM_positions="[[9,9,9],[0.96,0,0]]" MM_charges="[1,1]"\n'),
        "MM charge 1 lies on atom 1",
    ),
    "two atoms at one place": (PLAIN_XYZ.replace("0.96", "0"), "atoms 0 and 1 are at one place"),
    "unit": (PLAIN_XYZ.replace("\n\n", "\nlength_unit=bohr\n"), "length_unit is 'bohr'.*0.529"),
    "charges without positions": (
        PLAIN_XYZ.replace("\n\n", '\nMM_charges="[1]"\n'),
        "mm_charges is given without mm_positions",
    ),
    "truncated": (PLAIN_XYZ[:20], "cannot be read"),
    "empty": ("", "cannot be read|no frames"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_predict_wrong_structures(tmp_path, model, capsys, kind):
    text, message = WRONG[kind]
    source = _extxyz(tmp_path, text)
    line = _error(capsys, "predict", model, source, "-o", tmp_path / "out.json")
    assert re.search(message, line), line
    assert not (tmp_path / "out.json").exists()


def test_predict_wrong_files(tmp_path, model, data, capsys):
    out = tmp_path / "out.json"
    assert "no file" in _error(capsys, "predict", model, tmp_path / "none.xyz", "-o", out)
    pdb = tmp_path / "in.pdb"
    pdb.write_text("ATOM")
    assert "suffix '.pdb'" in _error(capsys, "predict", model, pdb, "-o", out)
    assert "no checkpoint" in _error(capsys, "predict", tmp_path / "none.pt", data, "-o", out)


def test_unknown_output_suffix_is_refused_before_the_work(tmp_path, data, capsys):
    none = tmp_path / "none.pt"  # would be missed next
    line = _error(capsys, "predict", none, data, "-o", tmp_path / "out.txt")
    assert "suffix '.txt'" in line and ".json" in line


def test_predictions_that_are_not_finite_are_not_written(tmp_path, data, capsys):
    broken = tiny_model()
    with torch.no_grad():
        broken.embedding.weight.fill_(torch.nan)
    checkpoint.save_model(tmp_path / "broken.pt", broken)
    for name in ("out.json", "out.h5"):
        _error(capsys, "predict", tmp_path / "broken.pt", data, "-o", tmp_path / name)
        assert not (tmp_path / name).exists()
