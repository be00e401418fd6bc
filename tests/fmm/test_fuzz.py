"""Random problems: first that their judge can be trusted, then some of the problems themselves."""

import json
import os
from dataclasses import replace

import fuzz
import fuzz_cases
import fuzz_judge
import fuzz_table
import numpy as np
import oracles
import pytest

import multipoles as mp
from multipoles.indexing import multi_indices

GOOD = ("kept", "warned", "false alarm", "refused")
PLAIN = fuzz_cases.Settings(
    points="cube", targets="same", moments="random", history="fresh", kernel="Coulomb",
    dtype="float64", tolerance=1e-6, source_order=0, order=1, n_sources=30, n_targets=30,
    channels=1, systems=0, leaf_size=None, length=0, moment=0,
)  # fmt: skip


def _problem(seed=0, **settings):
    return fuzz_cases.build(replace(PLAIN, **settings), np.random.default_rng(seed))


def _verdict(problem, found, warning=None):
    """Return what is made of a field in natural units."""
    exact = fuzz_judge.field(problem)
    rng = np.random.default_rng(0)
    return fuzz._judged(problem, [found], exact, warning, rng)["verdict"]


# --- the judge ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["Coulomb", "Softened", "Erf"])
@pytest.mark.parametrize("source_order, order", [(0, 1), (2, 2), (4, 4)])
def test_three_sums_agree(kernel, source_order, order):
    problem = _problem(kernel=kernel, source_order=source_order, order=order, channels=2, systems=3)
    places, long = fuzz_judge.long_field(problem, np.random.default_rng(1))
    assert places.tolist() == list(range(30))
    twin = mp.reference.field(
        problem.at(), problem.sources, problem.moments, order, problem.kernel,
        target_batch=problem.target_batch, source_batch=problem.source_batch,
    )  # fmt: skip
    size = fuzz_judge.rms_by_order(long)
    for other in (fuzz_judge.field(problem), twin):
        assert (fuzz_judge.rms_by_order(other - long) < 3e-14 * size).all()


@pytest.mark.parametrize("order", [0, 2, 4])
def test_long_sums_are_those_of_clusters_of_charges(order):
    """A site's moments are charges that shrink to a point; both in long floats."""
    rng = np.random.default_rng(2)
    problem = _problem(source_order=order, n_sources=1, n_targets=5, targets="apart", order=0)
    problem.moments = rng.standard_normal(problem.moments.shape)
    problem.targets = problem.sources + fuzz_cases.POINTS["sphere"](5, rng)
    gap = fuzz_judge.LONG(2.0**-10)
    charges, positions = oracles.cluster(problem.moments[0, 0], multi_indices(order), gap)
    away = problem.targets.astype(fuzz_judge.LONG) - problem.sources
    r = np.sqrt(((away[:, None] - positions) ** 2).sum(axis=2))
    found = fuzz_judge.long_field(problem, rng)[1][:, 0, 0]
    np.testing.assert_allclose(
        found.astype(float), (charges / r).sum(axis=1).astype(float), rtol=1e-4
    )


def test_long_sums_have_digits_that_float64_has_not():
    """Two charges a hair apart: their field is that of a dipole, and of it all digits count."""
    problem = _problem(n_sources=2, n_targets=1, targets="apart", order=0)
    problem.sources = np.array([[0.0, 0.0, 0.0], [2.0**-30, 0.0, 0.0]])
    problem.targets = np.array([[1.0, 0.0, 0.0]])
    problem.moments = np.array([[[-1.0]], [[1.0]]])
    found = fuzz_judge.long_field(problem, np.random.default_rng(0))[1].item()
    exact = 2.0**-30 / (1 - 2.0**-30)
    assert abs(found - exact) < 1e-9 * exact
    assert abs(float(fuzz_judge.field(problem).item()) - exact) > 0


@pytest.mark.parametrize("kernel", ["Coulomb", "Softened", "Erf"])
def test_units_do_not_matter(kernel):
    problem = _problem(kernel=kernel, source_order=1, order=2, length=37, moment=-12)
    given = problem.given(problem.moments)
    places = problem.lengths(problem.sources)
    found = mp.field(places, places, given, 2, problem.given_kernel())
    natural = fuzz_judge.in_natural_units(problem, found)
    np.testing.assert_allclose(natural, fuzz_judge.field(problem), rtol=1e-11)
    assert np.abs(found / natural).max() < 1e-14


@pytest.mark.parametrize("kernel", ["Coulomb", "Softened", "Erf"])
def test_sizes_of_terms_are_those_of_single_sources(kernel):
    problem = _problem(
        kernel=kernel, source_order=2, order=2, n_sources=1, targets="among", n_targets=300
    )
    ratio = fuzz_judge.sizes(problem) / fuzz_judge.rms_by_order(fuzz_judge.field(problem))
    assert (ratio > 0.25).all()
    assert (ratio < 10).all()


# --- the verdict ----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    "factor, warning, expected",
    [
        (0.9, None, "kept"),
        (0.9, "missed", "false alarm"),
        (1.1, None, "missed"),
        (1.1, "missed", "warned"),
    ],
)
def test_planted_errors_are_found(order, factor, warning, expected):
    problem = _problem()
    found = fuzz_judge.field(problem)
    part = slice(0, 1) if order == 0 else slice(1, 4)
    found[..., part] *= 1 + factor * 1e-6
    assert _verdict(problem, found, warning) == expected


def test_an_error_at_one_target_counts_by_its_share():
    problem = _problem()
    found = fuzz_judge.field(problem)
    typical = fuzz_judge.rms_by_order(found)[0]
    found[7, 0, 0] += 0.9e-6 * typical * np.sqrt(30)
    assert _verdict(problem, found) == "kept"
    found[7, 0, 0] += 0.3e-6 * typical * np.sqrt(30)
    assert _verdict(problem, found) == "missed"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_found(value):
    problem = _problem()
    found = fuzz_judge.field(problem)
    found[3, 0, 2] = value
    assert _verdict(problem, found, "missed") == "non-finite"


def test_float32_may_round():
    problem = _problem(dtype="float32", tolerance=1e-9)
    found = fuzz_judge.field(problem).astype(np.float32)
    assert _verdict(problem, found) == "kept"
    assert _verdict(problem, found * np.float32(1 + 1e-5)) == "missed"
    assert _verdict(problem, found.astype(np.float64)) == "missed"


def _cancelling():
    """Return charges in pairs so close that float64 keeps few digits of their far field."""
    problem = _problem(n_sources=200, n_targets=50, targets="apart", tolerance=1e-12)
    step = np.full((100, 3), 2.0**-20)
    problem.sources[100:] = problem.sources[:100] + step
    problem.moments[100:] = -problem.moments[:100]
    return problem


def test_where_terms_cancel_long_sums_decide():
    problem = _cancelling()
    _, long = fuzz_judge.long_field(problem, np.random.default_rng(0))
    assert _verdict(problem, long.astype(np.float64)) == "kept"
    assert _verdict(problem, fuzz_judge.field(problem)) == "lost"
    assert _verdict(problem, fuzz_judge.field(problem), "missed") == "warned"
    assert _verdict(problem, long.astype(np.float64) * (1 + 1e-3)) == "missed"


def test_a_field_of_nothing_is_kept_by_what_is_rounding():
    problem = _problem(moments="traces", source_order=2)
    sizes = fuzz_judge.sizes(problem)
    found = np.zeros((30, 1, 4))
    assert _verdict(problem, found) == "kept"
    found[..., 0] = 1e-16 * sizes[0]
    assert _verdict(problem, found) == "kept"
    found[..., 0] = 1e-12 * sizes[0]
    assert _verdict(problem, found) == "missed"
    nothing = _problem(moments="zero")
    assert _verdict(nothing, np.zeros((30, 1, 4))) == "kept"
    assert _verdict(nothing, np.full((30, 1, 4), 1e-300)) == "missed"


def test_orders_that_a_dtype_cannot_hold_are_not_judged():
    problem = _problem(dtype="float32", order=4, length=-30)
    exact = fuzz_judge.field(problem)
    good = fuzz_judge.expressible(problem, exact, np.dtype(np.float32))
    assert good[0]
    assert not good[4]
    assert fuzz_judge.expressible(problem, exact, np.dtype(np.float64)).all()


def test_numpys_own_warnings_tell_nobody_anything():
    class Caught:
        category = RuntimeWarning

    Caught.message = "invalid value encountered in multiply"
    assert not fuzz._is_told(Caught)
    Caught.message = "the tolerance 1e-06 was missed: the relative error is 1e-3"
    assert fuzz._is_told(Caught)


# --- the cases ------------------------------------------------------------------------------------


def test_a_case_is_made_from_its_number_alone():
    def made(number):
        rng = fuzz_cases.generator(3, number)
        return fuzz_cases.build(fuzz_cases.draw(rng), rng)

    a, b, c = made(11), made(11), made(12)
    assert a.settings == b.settings != c.settings
    assert np.array_equal(a.sources, b.sources)
    assert np.array_equal(a.moments, b.moments)


def test_all_kinds_come_and_all_problems_can_be_made():
    seen = {name: set() for name in ("points", "targets", "moments", "history", "kernel", "dtype")}
    for number in range(400):
        rng = fuzz_cases.generator(1, number)
        settings = fuzz_cases.draw(rng)
        small = replace(
            settings, n_sources=min(settings.n_sources, 50), n_targets=min(settings.n_targets, 50)
        )
        problem = fuzz_cases.build(small, rng)
        assert len(problem.sources) == small.n_sources
        assert np.isfinite(problem.given(problem.moments)).all()
        assert np.isfinite(problem.lengths(problem.at())).all()
        for name, kinds in seen.items():
            kinds.add(settings.kinds[name])
    assert seen["points"] == set(fuzz_cases.POINTS)
    assert seen["targets"] == set(fuzz_cases.TARGETS)
    assert seen["moments"] == set(fuzz_cases.MOMENTS)
    assert seen["history"] == set(fuzz_cases.HISTORY)


def test_a_run_goes_on_where_it_ended(tmp_path, monkeypatch, capsys):
    out, called = tmp_path / "fuzz.jsonl", []

    def run_case(base, number):
        called.append(number)
        settings = fuzz_cases.draw(fuzz_cases.generator(base, number))
        line = {"case": number, "base": base, "kinds": settings.kinds, "verdict": "missed"}
        return line | {"settings": {"tolerance": 1e-6, "n_sources": 1}, "errors": [np.inf, 1.0]}

    monkeypatch.setattr(fuzz, "run_case", run_case)
    fuzz.run(0, 0, 3, out)
    out.write_text(out.read_text()[:-5])
    fuzz.run(0, 0, 5, out)
    assert called == [0, 1, 2, 2, 3, 4]
    assert [line["case"] for line in fuzz_table.read(out)] == [0, 1, 2, 3, 4]
    assert json.loads(out.read_text().splitlines()[0])["errors"] == ["inf", 1.0]
    assert "5 cases to look at" in fuzz_table.table(fuzz_table.read(out))
    # a process that died twice in a case does not try it again
    (tmp_path / "fuzz.jsonl.running").write_text("0 5\n0 5\n")
    fuzz.run(0, 5, 6, out)
    assert fuzz_table.read(out)[-1]["verdict"] == "crashed"


def _easy(number):
    """Return changes of a case by which it takes no kernels but those of charges, and is short."""
    settings = fuzz_cases.draw(fuzz_cases.generator(1, number))
    needs_orders = settings.moments in ("dipoles", "quadrupoles", "traces")
    return {
        "source_order": 0, "order": 1, "channels": 1, "kernel": "Coulomb", "dtype": "float64",
        "moments": "random" if needs_orders else settings.moments,
        "n_sources": min(settings.n_sources, 2000), "n_targets": min(settings.n_targets, 2000),
    }  # fmt: skip


@pytest.mark.parametrize(
    "numbers", [range(15), pytest.param(range(15, 40), marks=pytest.mark.slow)], ids=str
)
def test_no_silent_miss(numbers):
    lines = [fuzz.run_case(1, number, timed=False, **_easy(number)) for number in numbers]
    bad = [fuzz_table.summary(line) for line in lines if line["verdict"] not in GOOD]
    assert not bad, "\n".join(bad)


@pytest.mark.slow
def test_no_silent_miss_in_many(tmp_path):
    """So many cases as the environment asks for; 10,000 of them take hours."""
    out = tmp_path / "fuzz.jsonl"
    fuzz.run(0, 0, int(os.environ.get("ANISOLE_FUZZ_CASES", "200")), out)
    lines = fuzz_table.read(out)
    assert all(line["verdict"] in GOOD for line in lines), fuzz_table.table(lines)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1148, 2479, 2676, 5472, 5612, 5977, 6043, 6060])
def test_cases_that_were_not_kept(number):
    assert fuzz.run_case(0, number, timed=False)["verdict"] == "kept"
