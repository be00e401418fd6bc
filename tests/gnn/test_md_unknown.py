"""Runs that leave what the model knows, and labels for the frames that they save."""

import itertools

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs the package openmm (extra 'engines')")

from gnn import System, load_model
from gnn.cli import main
from gnn.data import Frame, collate, read_frames, write_frames
from gnn.engines.runs.unknown import LeftTraining, Watch
from gnn.trust.domain import Domain

STEPS = "--steps", 12, "--interval", 3, "--checkpoint-interval", 3
METHANOL = [6, 8, 1, 1, 1, 1]
PLACES = np.array(
    [[1.4, 0, 0], [0, 0, 0], [1.85, 0.39, -0.92], [1.78, -1.01, 0.08], [1.81, 0.58, 0.85],
     [-0.31, 0.92, 0]],
)  # fmt: skip


class Fake:
    """An embedding as far as the watch knows one."""

    def __init__(self):
        self.model = load_model()
        self.evaluate = lambda batch: self.model(batch, forces=True)


def watching(policy, folder, spacing=2, **more):
    said = []
    watch = Watch(policy, folder, 300.0, spacing, tell=said.append, **more)
    watch.begin(resume=False)
    embedding = Fake()
    watch.attach(embedding)

    def look(stretch, charge=0):
        places = PLACES.copy()
        places[5] *= stretch
        around = np.array([[-3.0, 1.0, 0.5], [5.0, 2.0, -1.0]])
        system = System(METHANOL, places + 7.0, charge, around + 7.0, [0.4, -0.4])
        batch = collate([system], embedding.model.cutoff, local_charges=True)
        watch(embedding.evaluate(batch))
        return system

    return watch, look, said


def test_frames_in_doubt_are_saved_as_the_model_saw_them(tmp_path):
    watch, look, said = watching("save", tmp_path)
    look(1.0)
    assert not watch.counts and not said and watch.summary() == ""
    system = look(2.2)
    for _ in range(3):
        look(2.2)
    look(1.0)
    assert watch.counts["novelty"] == 4 and watch.evaluations == 6
    frames = read_frames(tmp_path / "unknown.extxyz")
    assert len(frames) == 4  # a novel one of every two, and the two jumps of the energy
    groups = [frame.group for frame in frames]
    assert groups.count("unknown-novelty") == 2 and groups.count("unknown-energy") == 2
    np.testing.assert_array_equal(frames[0].system.numbers, METHANOL)
    np.testing.assert_allclose(frames[0].system.positions, system.positions, atol=1e-5)
    np.testing.assert_allclose(frames[0].system.mm_positions, system.mm_positions, atol=1e-5)
    np.testing.assert_allclose(frames[0].system.mm_charges, [0.4, -0.4], rtol=1e-6)
    assert [text.split(":")[0] for text in said] == ["after step 0"] * 2
    assert "training by" in said[0] and "the model's energy went from" in said[1]
    assert "novelty 4 of 6 evaluations" in watch.summary() and "4 frames in" in watch.summary()
    again, _, _ = watching("save", tmp_path)
    assert not (tmp_path / "unknown.extxyz").exists() and not again.counts


def test_a_charge_that_no_frame_had_is_unknown(tmp_path):
    watch, look, said = watching("warn", tmp_path)
    look(1.0, charge=3)
    assert watch.counts["novelty"] == 1 and "total charge +3 e not in training" in said[0]


def test_nothing_is_said_where_nothing_was_asked(tmp_path):
    watch, look, said = watching("ignore", tmp_path)
    look(2.2)
    assert watch.counts["novelty"] == 1 and not said and not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="one of ignore, warn, save, stop, got 'halt'"):
        Watch("halt", tmp_path, 300.0, 1)


def test_a_run_may_stop_there(tmp_path):
    watch, look, said = watching("stop", tmp_path)
    look(1.0)
    with pytest.raises(LeftTraining, match=r"training by .*--on-unknown stop.*unknown.extxyz"):
        look(2.2)
    assert watch.stopped and not said
    assert len(read_frames(tmp_path / "unknown.extxyz")) == 1


@pytest.mark.parametrize(("policy", "status"), [("stop", 1), ("save", 0)])
def test_the_command(tmp_path, monkeypatch, capsys, policy, status):
    calls, original = itertools.count(1), Domain.novelty

    def novelty(self, *arguments):
        found = original(self, *arguments)
        return found + 5.0 if next(calls) > 8 else found

    monkeypatch.setattr(Domain, "novelty", novelty)
    options = "--platform", "CPU", "--threads", "1", "--on-unknown", policy
    assert main([str(a) for a in ("md", *STEPS, *options, "--output", tmp_path)]) == status
    captured = capsys.readouterr()
    assert len(read_frames(tmp_path / "unknown.extxyz")) == (1 if policy == "stop" else 4)
    if policy == "stop":
        assert "the run stopped at step" in captured.err
        assert "is kept in" in captured.err and (tmp_path / "failed.pdb").is_file()
    else:
        assert captured.err.count("outside training") == 1
    assert "outside of what the model knows: novelty" in captured.out


def test_saved_frames_get_labels(tmp_path, capsys):
    pytest.importorskip("pyscf", reason="needs the package pyscf (extra 'data')")
    bonds = (0.74, 0.9, 1.1)
    systems = [System([1, 1], [[0, 0, 0], [0, 0, x]], 0, [[0, 0, 4.0]], [0.5]) for x in bonds]
    frames = [Frame(system, group="unknown-novelty", run=i) for i, system in enumerate(systems)]
    source, out = tmp_path / "unknown.extxyz", tmp_path / "unknown_labelled.h5"
    write_frames(source, frames[:2])
    level = "--level", "HF/STO-3G"
    assert main(["data", "label", str(source), *level]) == 0
    assert "2 frames at HF/STO-3G" in capsys.readouterr().out
    first = read_frames(out, require=["energy", "forces", "mm_forces"])
    assert [frame.group for frame in first] == ["unknown-novelty"] * 2
    write_frames(source, frames)
    assert main(["data", "label", str(source), *level]) == 0  # goes on
    assert capsys.readouterr().out.count("labelled before") == 2
    labelled = read_frames(out)
    assert len(labelled) == 3 and labelled[0].energy == first[0].energy
    assert main(["data", "label", str(source), "--level", "HF/6-31G"]) == 2
    assert "holds frames of level HF/STO-3G, not HF/6-31G" in capsys.readouterr().err
    write_frames(source, [Frame(System([1, 1], [[0, 0, 0], [0, 0, 0.7]], 1))])
    assert main(["data", "label", str(source), *level]) == 2
    assert "1 electrons (charge +1 e): expected an even number" in capsys.readouterr().err
