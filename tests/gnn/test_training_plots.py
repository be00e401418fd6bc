"""Pictures are written, whatever labels there are."""

import errno
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from tiny import methanol

from gnn import Frame
from gnn.training.report import plots
from gnn.training.report.log import COLUMNS
from gnn.training.report.metrics import compare, mean_baseline, without_surroundings

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield


def _assert_picture(path):
    content = path.read_bytes()
    assert content.startswith(PNG) and len(content) > 2000


def _comparison(frames, error=0.01):
    rng = np.random.default_rng(0)
    results = []
    for frame in frames:
        results.append(
            {
                name: np.asarray(getattr(frame, name))
                + error * rng.standard_normal(np.shape(getattr(frame, name)))
                for name in ("energy", "forces", "mm_forces", "dipole")
                if getattr(frame, name) is not None
            }
        )
    return compare(results, frames)


def _only(frame, *labels):
    return Frame(frame.system, **{name: getattr(frame, name) for name in labels}, name=frame.name)


SETS = {
    "all labels": lambda: methanol()[:6],
    "vacuum": lambda: [without_surroundings(f) for f in methanol()[:4]],
    "energies": lambda: [_only(f, "energy") for f in methanol()[:4]],
    "one frame": lambda: methanol()[:1],
    "dipoles": lambda: [_only(f, "dipole") for f in methanol()[:3]],
    "some lack some": lambda: [
        replace(_only(f, *labels), name=n)
        for f, n, labels in zip(
            methanol()[:4],
            "abbc",
            (("energy",), ("forces",), (), ("energy", "mm_forces")),
            strict=True,
        )
    ],
    "two molecules": lambda: [
        Frame(f.system, f.energy, f.forces, f.mm_forces, name=n)
        for f, n in zip(methanol()[:4], "aabb", strict=True)
    ],
}


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("error", [0.01, 0.0])
def test_parity_and_baselines(tmp_path, kind, error):
    frames = SETS[kind]()
    comparison = _comparison(frames, error)
    plots.parity(comparison, tmp_path / "new" / "parity.png", "title")
    _assert_picture(tmp_path / "new" / "parity.png")
    both = {"training mean": mean_baseline(frames, frames), "this model": comparison}
    plots.baselines(both, tmp_path / "baselines.png")
    _assert_picture(tmp_path / "baselines.png")


def test_baselines_with_a_molecule_that_training_never_saw(tmp_path):
    frames = methanol()[:4]
    other = [Frame(f.system, f.energy, f.forces, name="other") for f in frames]
    both = {"training mean": mean_baseline(other, frames), "this model": _comparison(frames)}
    plots.baselines(both, tmp_path / "baselines.png")
    _assert_picture(tmp_path / "baselines.png")


def _row(epoch, **values):
    row = dict.fromkeys(COLUMNS)
    return row | {"epoch": epoch, "seconds": 1.0 * epoch, "train_loss": 1.0 / epoch} | values


@pytest.mark.parametrize(
    "rows",
    [
        [_row(1), _row(2, validation_loss=0.5, validation_energy_rmse=9.0)],
        [_row(1), _row(2)],
        [_row(1, validation_loss=1.0, validation_forces_rmse=3.0)],
        [_row(1, train_loss=math.nan), _row(2, validation_loss=math.nan)],
        [_row(k, validation_loss=1.0, validation_forces_rmse=k % 2 or None) for k in (1, 2, 3)],
    ],
    ids=["usual", "no validation", "one row", "not finite", "gaps"],
)
def test_learning_curve(tmp_path, rows):
    plots.learning_curve(rows, tmp_path / "curve.png")
    _assert_picture(tmp_path / "curve.png")


def test_what_is_known_is_drawn_over_gaps(tmp_path, monkeypatch):
    """No point is lost beside rows that lack it, and one alone can be seen."""
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, _: drawn.append(figure))
    rows = [_row(k, validation_loss=1.0 / k) for k in range(1, 5)]
    for k in (0, 2):
        rows[k]["validation_forces_rmse"] = 5.0
    rows[3]["validation_energy_rmse"] = 7.0
    plots.learning_curve(rows, tmp_path / "curve.png")
    lines = {line.get_label(): line for line in drawn[0].axes[1].lines}
    assert list(lines["QM forces / meV/Å"].get_xdata()) == [1.0, 3.0]
    assert list(lines["energy / meV"].get_ydata()) == [7.0]
    assert lines["energy / meV"].get_marker() == "o"


def test_nothing_to_draw(tmp_path):
    comparison = compare([{"energy": 1.0}], [Frame(methanol()[0].system)])
    with pytest.raises(ValueError, match="no energies or forces to draw"):
        plots.parity(comparison, tmp_path / "parity.png")


def test_a_picture_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    figure = plots.pyplot().figure()

    def full(temporary):
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(OSError, match=r"a\.png"):
        plots.save_figure(figure, path)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.png"]
