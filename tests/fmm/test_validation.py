"""The commands `python -m fmm validate` and `bench`: what they print, return and write."""

import csv
import subprocess
import sys

import numpy as np
import pytest

import fmm
import multipoles as mp
from fmm import __main__ as command
from fmm import bench, distributions, validation

N = 1500


@pytest.fixture
def wrong_field(monkeypatch):
    """Make plans add a thousandth of the field's size to the last output order, at one target."""
    right = fmm.FMM.field

    def wrong(self, moments, order=None):
        found = right(self, moments, order)
        last = found[..., -1]
        last[0] += 1e-3 * np.linalg.norm(found)
        return found

    monkeypatch.setattr(fmm.FMM, "field", wrong)


@pytest.mark.parametrize("name", list(distributions.DISTRIBUTIONS))
@pytest.mark.parametrize("n", [1, 2, 9, 1000])
def test_shapes_of_distributions(name, n):
    targets, sources = distributions.cloud(name, n, np.random.default_rng(0))
    for points in (sources, sources if targets is None else targets):
        assert points.shape == (n, 3) and points.dtype == np.float64
        assert np.all(np.isfinite(points))
        assert len(np.unique(points, axis=0)) == n
    again = distributions.cloud(name, n, np.random.default_rng(0))
    np.testing.assert_array_equal(again[1], sources)


def _sources(name, n=20_000):
    return distributions.cloud(name, n, np.random.default_rng(1))[1]


def test_distributions_are_what_they_say():
    radius = np.linalg.norm(_sources("sphere"), axis=1)
    np.testing.assert_allclose(radius, 1.0)
    radius = np.linalg.norm(_sources("plummer"), axis=1)
    # mass within r: (1 + 1/r^2)^(-3/2); half of it within 1.305
    assert np.median(radius) == pytest.approx(1.305, rel=0.03)
    assert 20 < radius.max() <= 50 and np.count_nonzero(radius > 49.9) < 10
    assert np.linalg.matrix_rank(_sources("line")) == 1
    two = _sources("two-clusters")
    assert np.ptp(two[:10_000], axis=0).min() > 0.9 and np.ptp(two[10_000:], axis=0).max() < 0.011
    assert all(len(np.unique(column)) <= 28 for column in _sources("lattice").T)


@pytest.mark.parametrize("name", ["far-apart", "nested", "touching"])
def test_targets_that_are_not_sources(name):
    targets, sources = distributions.cloud(name, 20_000, np.random.default_rng(2))
    low, high = sources.min(0), sources.max(0)
    inside = np.all((targets > low) & (targets < high), axis=1)
    if name == "nested":
        assert np.all(inside)
        assert np.ptp(targets, axis=0).max() < 0.11
        return
    assert not np.any(inside)
    gap = np.max(np.maximum(targets.min(0) - high, low - targets.max(0)))
    assert (gap > 30) if name == "far-apart" else (abs(gap) < 1e-3)


def test_moments_of_mixed_sign():
    moments = distributions.random_moments(5000, 2, np.random.default_rng(3), channels=2)
    assert moments.shape == (5000, 2, 10)
    assert abs(moments.mean()) < 0.02 and moments.std() == pytest.approx(1.0, abs=0.02)


def test_unknown_distribution_and_no_points():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"expected one of uniform, .* got 'cube'"):
        distributions.cloud("cube", 10, rng)
    with pytest.raises(ValueError, match="at least one point, got 0"):
        distributions.cloud("uniform", 0, rng)


def test_error_is_over_the_norm_at_all_targets():
    rng = np.random.default_rng(4)
    exact = rng.standard_normal((500, 2, 4))
    exact[7] *= 1000  # near pairs make most of the norm
    found = exact + 1e-4 * rng.standard_normal(exact.shape)
    expected = [
        np.linalg.norm((found - exact)[..., part]) / np.linalg.norm(found[..., part])
        for part in (slice(0, 1), slice(1, 4))
    ]
    everywhere = np.arange(500)
    np.testing.assert_allclose(validation.errors(found, exact, everywhere), expected)
    # a sample without the largest has the same error, of the same norm
    sample = everywhere[100:400]
    np.testing.assert_allclose(validation.errors(found, exact[sample], sample), expected, rtol=0.2)
    nothing = np.zeros((3, 1))
    assert validation.errors(nothing, nothing, np.arange(3)) == 0
    assert validation.errors(nothing, nothing + 1, np.arange(3)) == np.inf


def test_typical_error_is_the_targets_own():
    exact = np.array([[1.0], [-10.0], [1000.0]])
    found = exact * (1 + np.array([[1e-3], [-1e-2], [1e-6]]))
    np.testing.assert_allclose(validation.typical(found, exact), [1e-3])


def test_few_targets_are_all_sampled():
    rng = np.random.default_rng(5)
    np.testing.assert_array_equal(validation.sampled(4000, rng), np.arange(4000))
    places = validation.sampled(10_000, rng)
    assert len(places) >= 1000 and len(np.unique(places)) == len(places)


@pytest.mark.parametrize("name", list(distributions.DISTRIBUTIONS))
def test_validate_command(name, capsys):
    arguments = ["--n", str(N), "--distribution", name, "--tolerance", "1e-4"]
    assert command.main(["validate", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "order 0" in lines[1] and "order 1" in lines[1] and "order 2" not in lines[1]
    words = lines[2].split()
    assert words[:3] == [name, str(N), "1e-04"]
    assert all(0 <= float(word) <= 1e-4 for word in words[3:5])
    assert words[5] in ("kept", "wasteful")
    assert lines[-1] == "all tolerances kept"


def test_validate_several_at_once(capsys):
    arguments = (
        "validate --n 40 --all --tolerance 1e-3,1e-9 --source-order 2 --channels 2 --verbose"
    )
    assert command.main(arguments.split()) == 0
    out = capsys.readouterr().out
    for name in distributions.DISTRIBUTIONS:
        assert sum(line.startswith(name) for line in out.splitlines()) == 2
    assert out.count("targets' own relative errors") == 2 * len(distributions.DISTRIBUTIONS)


@pytest.mark.usefixtures("wrong_field")
def test_validate_fails_when_the_tolerance_is_missed(capsys):
    arguments = ["validate", "--n", "300", "--tolerance", "1e-6,0.5", "--order", "1"]
    assert command.main(arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "MISSED" in lines[2] and "kept" in lines[3]
    assert float(lines[2].split()[3]) < 1e-10 < 1e-4 < float(lines[2].split()[4]) < 1e-2
    assert lines[-1] == "1 missed"


def test_validate_fails_on_nan(monkeypatch, capsys):
    right = fmm.FMM.field

    def nan(self, moments, order=None):
        found = right(self, moments, order)
        found[0, 0] = np.nan
        return found

    monkeypatch.setattr(fmm.FMM, "field", nan)
    assert command.main(["validate", "--n", "300"]) == 1
    assert "MISSED" in capsys.readouterr().out


def test_wasteful_is_told():
    right = validation.validate("uniform", 3000, 1e-4)
    assert right.kept and not right.wasteful and right.report.degree > 0
    right.errors = right.errors * 0.01
    assert right.kept and right.wasteful and "wasteful" in validation.line(right)
    right.report.degrees = ()  # all was summed directly
    assert not right.wasteful


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--distribution", "cube"], "expected one of uniform"),
        (["--n", "0"], "at least one point"),
        (["--tolerance", "2"], "tolerance: expected a number"),
        (["--tolerance", "few"], "few"),
        (["--n", "30", "--order", "99"], "order"),
        (["--n", "30", "--threads", "0"], "thread"),
    ],
)
def test_wrong_arguments_of_validate(arguments, words, capsys):
    assert command.main(["validate", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_module_prints_help():
    done = subprocess.run([sys.executable, "-m", "fmm"], capture_output=True, text=True, check=True)
    assert "validate" in done.stdout and "bench" in done.stdout


def test_bench_command_has_one_thread(monkeypatch):
    """It starts again where BLAS could take more threads, and only then."""
    started = []
    monkeypatch.setattr(command.subprocess, "call", lambda c, env: started.append((c, env)) or 7)
    monkeypatch.setattr(bench, "main", lambda *options: started.append(options))
    monkeypatch.setattr(mp, "set_num_threads", lambda n: started.append(n))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "8")
    assert command.main(["bench", "--quick"]) == 7
    [(arguments, environment)] = started
    assert arguments[1:] == ["-m", "fmm", "bench", "--quick"]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    started.clear()
    assert command.main(["bench", "--quick", "--csv", "a.csv"]) == 0
    assert started[0] == 1 and started[1][:2] == (20_000, True) and started[1][2].name == "a.csv"


@pytest.mark.parametrize("source_order", [0, 1])
def test_peer_computes_the_same(source_order):
    pytest.importorskip("fmm3dpy")
    problem = bench.Problem("uniform", 300, source_order)
    exact = problem.direct()
    np.testing.assert_allclose(problem.peer(1e-12), exact, atol=1e-9 * np.abs(exact).max())
    assert problem.error(problem.ours(1e-10), slice(None)) < 1e-10
    assert problem.error(1.001 * exact, slice(1, 2)) == pytest.approx(1e-3, rel=0.01)


def test_measured_row_keeps_its_bound(monkeypatch):
    row = bench.ROWS[0]
    ours, peer = bench.measure(row, N, repeats=1)
    assert ours.error <= row.bound and ours.seconds > 0 and ours.again > 0
    assert peer is None or (peer.program, peer.asked) == ("fmm3dpy", 1e-3)
    never = lambda self, field, judged: 1.0  # noqa: E731
    monkeypatch.setattr(bench.Problem, "error", never)
    with pytest.raises(RuntimeError, match="no tolerance keeps"):
        bench.measure(row, 100, repeats=1)


def test_bench_writes_what_it_measured(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    twice = bench.ROWS[4]._replace(name="once more", multiple=3.0)
    monkeypatch.setattr(bench, "ROWS", (bench.ROWS[4], twice))
    # as where fmm3dpy is not installed
    found = bench.optional
    monkeypatch.setattr(bench, "optional", lambda name: None if name == "fmm3dpy" else found(name))
    bench.main(5000, True, tmp_path / "all.csv", tmp_path / "all.png")
    out = capsys.readouterr().out
    assert "fmm3dpy is not installed" in out and "x ≤ 3 " in out
    with (tmp_path / "all.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["part"] for row in rows} == {"table", "size", "tolerance"}
    assert {row["program"] for row in rows} == {"anisole", "direct"}
    assert all(float(row["seconds"]) > 0 for row in rows)
    errors = [float(row["error"]) for row in rows if row["part"] == "tolerance"]
    assert errors[-1] < 1e-10 < errors[0] < 1e-2
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 2
