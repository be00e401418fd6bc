"""The script's bookkeeping with stand-ins for dynamics and quantum chemistry; once for real."""

import subprocess
import sys

import numpy as np
import pytest

from gnn.data import Frame, System, generate, read_frames, sampling, split_by_run
from gnn.data.labelling import NotConverged
from gnn.data.sampling import stored_snapshots


class Fake:
    """Dynamics and labels that cost nothing, and a count of the labels computed."""

    def __init__(self):
        self.labelled = 0
        self.fail_at = None
        self.error = KeyboardInterrupt

    def snapshots(self, folder, run, count, settings):
        path = folder / f"run_{run}.npz"
        known = stored_snapshots(path)
        for i in range(len(known), count):
            rng = np.random.default_rng([run, i])
            known.append(
                {
                    "numbers": np.array([6, 8]),
                    "positions": rng.random((2, 3)).astype(np.float32),
                    "mm_positions": (5 + rng.random((3, 3))).astype(np.float32),
                    "mm_charges": np.array([-0.8, 0.4, 0.4], dtype=np.float32),
                }
            )
        np.savez(path, **{f"{k}_{i}": v for i, shot in enumerate(known) for k, v in shot.items()})
        return known[:count]

    def label_both(self, system, level, grid_level):
        self.labelled += 1
        if self.labelled == self.fail_at:
            raise self.error("told to fail")
        energy = float(system.positions.sum())
        alone = System(system.numbers, system.positions, system.charge)
        zeros = np.zeros((2, 3))
        return (
            Frame(system, energy, zeros, np.zeros((3, 3)), np.ones(3)),
            Frame(alone, energy + 1, zeros, None, np.zeros(3)),
        )


@pytest.fixture
def fake(monkeypatch):
    fake = Fake()
    for name in ("check_installed", "level_of", "molecule", "parametrise"):
        monkeypatch.setattr(generate, name, lambda *arguments: None)
    monkeypatch.setattr(generate, "snapshots", fake.snapshots)
    monkeypatch.setattr(generate, "label_both", fake.label_both)
    return fake


def make(out, frames=6, runs=3, name="co", **changes):
    lines = []
    recipe = generate.Recipe("[C-]#[O+]", name, 0, **changes)
    count = generate.generate(recipe, frames, out, runs=runs, say=lines.append)
    return count, lines


def test_frames_and_progress(fake, tmp_path):
    out = tmp_path / "d.h5"
    count, lines = make(out, frames=7)
    assert count == 7
    frames, vacuum = read_frames(out), read_frames(out, vacuum=True)
    assert [frame.run for frame in frames] == [100, 100, 100, 200, 200, 300, 300]
    assert vacuum[2].energy == pytest.approx(frames[2].energy + 1)
    assert {len(part) > 0 for part in split_by_run(frames)} == {True}
    assert sum("s a frame" in line and "min left" in line for line in lines) == 7


def test_interrupted_and_continued(fake, tmp_path):
    out = tmp_path / "d.h5"
    fake.fail_at = 4
    with pytest.raises(KeyboardInterrupt):
        make(out)
    assert len(read_frames(out)) == 3  # what was finished is in the file
    count, _ = make(out)
    assert (count, fake.labelled) == (6, 4 + 3)
    count, _ = make(out, frames=9)
    assert (count, fake.labelled) == (9, 4 + 3 + 3)


def test_not_converged_is_left_out_and_tried_again(fake, tmp_path):
    out = tmp_path / "d.h5"
    fake.fail_at, fake.error = 2, NotConverged
    count, lines = make(out)
    assert count == 5 and any("told to fail" in line for line in lines)
    count, _ = make(out)
    assert (count, fake.labelled) == (6, 7)


def test_other_molecules_are_kept(fake, tmp_path):
    out = tmp_path / "d.h5"
    make(out)
    make(out, name="other")
    make(out, frames=9)
    assert len(read_frames(out, names=["other"])) == 6
    assert len(read_frames(out, names=["co"], vacuum=True)) == 9


def test_frames_are_kept_without_their_work_folder(fake, tmp_path):
    import shutil

    out = tmp_path / "d.h5"
    make(out)
    shutil.rmtree(tmp_path / "d.h5.work")
    assert make(out)[0] == 6  # the same frames again, none twice


def test_changed_settings_are_refused(fake, tmp_path):
    out = tmp_path / "d.h5"
    make(out)
    with pytest.raises(ValueError, match=r"other settings: padding 12.0, now 20.0"):
        make(out, padding=20.0)
    with pytest.raises(ValueError, match=r"holds frames at level B3LYP.* not HF/STO-3G"):
        make(out, name="other", level="HF/STO-3G")


def test_wrong_arguments(fake, tmp_path):
    with pytest.raises(ValueError, match=r"ending in \.h5"):
        make(tmp_path / "d.npz")
    with pytest.raises(ValueError, match="1 <= runs <= frames"):
        make(tmp_path / "d.h5", frames=2)
    with pytest.raises(ValueError, match="name: expected letters"):
        make(tmp_path / "d.h5", name="../x")


def test_what_is_not_installed_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sampling, "program", _no_program)
    code = generate.main(["CO", "--name", "meoh", "--out", str(tmp_path / "d.h5")])
    message = capsys.readouterr().err
    assert code == 1
    assert "antechamber (AmberTools)" in message and 'pip install "anisole[data]"' in message


def _no_program(name):
    raise RuntimeError(f"no {name}")


def test_help_needs_nothing_installed():
    done = subprocess.run(
        [sys.executable, "-m", "gnn.data.generate", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "--level" in done.stdout and not done.stderr


@pytest.mark.slow
def test_end_to_end(tmp_path):
    try:
        sampling.check_installed()
    except RuntimeError as error:
        pytest.skip(str(error))
    out = tmp_path / "d.h5"
    command = "CO --name meoh --frames 2 --runs 2 --level HF/STO-3G --equilibration 20 --interval 5"
    assert generate.main([*command.split(), "--out", str(out)]) == 0
    for frame, alone in zip(read_frames(out), read_frames(out, vacuum=True), strict=True):
        assert frame.system.n_mm > 100 and frame.system.n_mm % 3 == 0
        # Hartree-Fock has no integration grid: the forces add up to nothing.
        np.testing.assert_allclose(frame.forces.sum(0) + frame.mm_forces.sum(0), 0, atol=1e-5)
        assert -3100 < frame.energy < -3000 and abs(frame.energy - alone.energy) < 5


@pytest.mark.slow
def test_labels_reproduce_the_shipped_ones():
    pytest.importorskip("pyscf")
    from gnn.data import load_shipped
    from gnn.data.labelling import label_both

    embedded, vacuum = label_both(load_shipped(["oac"])[7].system, "B3LYP/6-31G*")
    for found, known in (
        (embedded, load_shipped(["oac"])[7]),
        (vacuum, load_shipped(["oac"], vacuum=True)[7]),
    ):
        assert found.energy == pytest.approx(known.energy, abs=1e-4)
        for name in ("forces", "mm_forces", "dipole"):
            np.testing.assert_allclose(getattr(found, name), getattr(known, name), atol=1e-4)
