"""Plans on thousands of random problems: is the tolerance kept, or said to be missed?

Case i is made from (base, i) alone. Results are appended to a file as lines of JSON, and a run that
is started again goes on after the last of them::

    python tests/fmm/fuzz.py --first 0 --last 10000 --out fuzz.jsonl
    python tests/fmm/fuzz.py --table fuzz.jsonl
    python tests/fmm/fuzz.py --case 1234

A case is *kept* if at every order the error, relative to the root mean square of the field over all
targets, is within the tolerance, or within the rounding of the result's dtype. If it is not, it was
*warned* of or is *missed*; *lost* is a miss that a direct sum in the same dtype would share: the
field is lost in rounding, and nobody says so. *non-finite* is a result that is not finite although
the field can be expressed; *refused* an error that says what was expected; *crashed* any other.
Apart from that a case may be *slow*: plan and field take longer than twice the direct sum, or ten
times longer than a cube of as many points, and 30 ms. All times are those of the processor.
"""

import argparse
import gc
import json
import os
import signal
import sys
import threading
import warnings
from contextlib import contextmanager
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from time import process_time

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
    from source_state import kept, sources_hash

    # one thread: what another program does beside then costs no time of the processor
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("NUMBA_CACHE_DIR", str(kept(f"numba-{sources_hash()}")))

import fuzz_cases
import fuzz_judge
import fuzz_table
import numpy as np

import fmm
import multipoles as mp

# relative errors of float32 that no tolerance forbids
_SINGLE = 2e-7
# of the judge's rounding by its reckoning: what it may be wrong by
_DOUBT = 0.5
_TWICE, _TEN_TIMES, _UNNOTICED = 2.0, 10.0, 0.03
# pairs whose terms are looked at in every case
_SAMPLE = 1e6
# seconds after which a case is given up
_PATIENCE = 120.0


def run_case(base: int, number: int, timed: bool = True, **changes) -> dict:
    """Return what became of a case, or of one with other settings: a line of the results."""
    rng = fuzz_cases.generator(base, number)
    settings = replace(fuzz_cases.draw(rng), **changes)
    problem = fuzz_cases.build(settings, rng)
    line = {"case": number, "base": base, "settings": asdict(settings), "kinds": settings.kinds}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _patience(_PATIENCE):
                found = _results(problem, line)
            exact = fuzz_judge.field(problem)
            line |= _judged(problem, found, exact, line["warning"], rng)
            return line | (_timed(problem, exact, line) if timed else {})
    except (ValueError, TypeError) as error:
        return line | {"verdict": "refused", "message": str(error)}
    except _TooLong:
        # compiling is part of it at the first case of a kind: nothing takes that long
        return {"verdict": "given up"} | line | {"slow": True}
    except Exception as error:
        return line | {"verdict": "crashed", "message": f"{type(error).__name__}: {error}"}


# --- what a plan says -----------------------------------------------------------------------------


def _results(problem, line) -> list[np.ndarray]:
    """Return the field of the case and of the same call again; note what was said of it."""
    settings = problem.settings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan = _plan_with_history(problem)
        moments = problem.given(problem.moments)
        before = len(caught)
        fields = [plan.field(moments, settings.order)]
        said = [str(w.message) for w in caught[before:] if _is_told(w)]
        report = plan.report()
        start = process_time()
        fields.append(plan.field(moments, settings.order))
        again = process_time() - start
    line["warning"] = said[0] if said else None
    line["reported"] = [float(e) for e in report.errors]
    line["degrees"] = list(report.degrees)
    line["seconds"] = {"again": again}
    if again > 2 * _UNNOTICED:
        start = process_time()
        plan.field(moments, settings.order)
        line["seconds"]["again"] = min(again, process_time() - start)
    return fields


def _is_told(caught) -> bool:
    """Whether a warning is meant for the user, and not NumPy's of an overflow on the way."""
    return issubclass(caught.category, RuntimeWarning) and "encountered in" not in str(
        caught.message
    )


def _plan(problem, targets, sources, *, swapped: bool = False) -> fmm.FMM:
    """Return a plan of points in natural units; swapped, the one whose adjoint is wanted."""
    settings = problem.settings
    orders, batches = (
        (settings.source_order, settings.order), (problem.source_batch, problem.target_batch),
    )  # fmt: skip
    if swapped:
        orders, batches = orders[::-1], batches[::-1]
        sources, targets = (sources, None) if targets is None else (targets, sources)
    return fmm.FMM(
        problem.lengths(sources), problem.lengths(targets), settings.tolerance, *orders,
        source_batch=batches[0], target_batch=batches[1], channels=settings.channels,
        leaf_size=settings.leaf_size, kernel=problem.given_kernel(),
    )  # fmt: skip


def _plan_with_history(problem) -> fmm.FMM:
    """Return the plan of the case after what happened to it before."""
    history, (old_targets, old_sources, other) = problem.settings.history, problem.before
    here = problem.targets, problem.sources
    places = problem.lengths(problem.sources), problem.lengths(problem.targets)
    if history == "transposed":
        return _plan(problem, *here, swapped=True).transpose()
    if history == "partner rebuilt":
        plan = _plan(problem, *here, swapped=True)
        old = problem.lengths(old_sources), problem.lengths(old_targets)
        plan.transpose().rebuild(*old)
        return plan.transpose()
    if history == "transposed, rebuilt":
        plan = _plan(problem, old_targets, old_sources, swapped=True).transpose()
        plan.rebuild(*places)
        return plan
    if history == "rebuilt, transposed":
        plan = _plan(problem, old_targets, old_sources, swapped=True)
        plan.transpose()
        plan.rebuild(*(places if problem.targets is None else places[::-1]))
        return plan.transpose()
    if history == "rebuilt":
        plan = _plan(problem, old_targets, old_sources)
        plan.field(problem.given(other), problem.settings.order)
        plan.rebuild(*places)
        return plan
    plan = _plan(problem, *here)
    for moments in _moments_before(problem, other):
        plan.field(problem.given(moments), problem.settings.order)
    return plan


def _moments_before(problem, other) -> list[np.ndarray]:
    """Return moments that the plan meets before those of the case."""
    history = problem.settings.history
    tiny = 2.0**-540 if other.dtype == np.float64 else 2.0**-130
    return {
        "twice": [problem.moments],
        "zeros first": [np.zeros_like(other)],
        "others first": [other],
        "tiny first": [(other * tiny).astype(other.dtype)],
        "one first": [other * (np.arange(len(other)) == len(other) // 2)[:, None, None]],
        "other orders first": [other[..., :1]],
    }.get(history, [])


# --- the verdict ----------------------------------------------------------------------------------


def _judged(problem, fields: list[np.ndarray], exact: np.ndarray, warning, rng) -> dict:
    """Return errors per order and the verdict."""
    dtype = fields[0].dtype
    natural = [fuzz_judge.in_natural_units(problem, found) for found in fields]
    good = fuzz_judge.expressible(problem, exact, dtype)
    seen = [_rounded_away(values, good) for values in natural]
    if not all(np.isfinite(values).all() for values in seen):
        return {"verdict": "non-finite", "dtype": dtype.name, "errors": []}
    errors, norms = errors_of(seen, exact)
    allowed = np.full(len(errors), max(problem.settings.tolerance, _least(dtype)))
    sizes = np.zeros(len(errors))
    judge = "float64"
    doubtful = _DOUBT * fuzz_judge.ROUNDING * np.finfo(np.float64).eps
    if (errors > 0.3 * allowed).any() or (
        doubtful * fuzz_judge.sizes(problem, _SAMPLE) > 0.1 * allowed * norms
    ).any():
        sizes = fuzz_judge.sizes(problem)
        doubt = doubtful * sizes
        apart = np.abs(_absolute(errors, norms) - allowed * norms)
        near = ((apart < doubt) | (norms < doubt)) & good
        if near.any():
            places, long = fuzz_judge.long_field(problem, rng)
            judge = f"long double at {len(places)} targets"
            errors, norms = errors_of([values[places] for values in seen], long)
            # what is left of terms that cancel to the last digit
            norms[norms <= 64 * np.finfo(fuzz_judge.LONG).eps * sizes] = 0.0
    rounding = fuzz_judge.ROUNDING * np.finfo(dtype).eps * sizes
    amounts = np.max([fuzz_judge.rms_by_order(values) for values in seen], axis=0)
    # a field of nothing: what comes must be rounding
    nothing = (norms == 0) & good
    errors[nothing] = np.where(amounts <= rounding, 0.0, np.inf)[nothing]
    over = (errors > allowed) & good
    lost = over & (_absolute(errors, norms) <= rounding)
    return {
        "verdict": _verdict(over, lost, warning, (errors > problem.settings.tolerance).any()),
        "dtype": dtype.name,
        "errors": [float(e) for e in np.where(good, errors, 0.0)],
        "rounding": [float(r / n) if n > 0 else 0.0 for r, n in zip(rounding, norms, strict=True)],
        "judge": judge,
        "not judged": [int(k) for k in np.flatnonzero(~good)],
    }


def _absolute(errors: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Return errors that are not relative any more; infinite ones are of a field of nothing."""
    return np.where(np.isfinite(errors), errors, 0.0) * norms + np.where(errors < np.inf, 0, np.inf)


def _rounded_away(values: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Return a field with zeros at the orders that its dtype cannot hold."""
    kept = np.repeat(good, [(k + 1) * (k + 2) // 2 for k in range(len(good))])
    return np.where(kept, values, 0.0)


def _least(dtype: np.dtype) -> float:
    return _SINGLE if dtype == np.float32 else 0.0


def _verdict(over: np.ndarray, lost: np.ndarray, warning: str | None, inexact: bool) -> str:
    if warning:
        return "warned" if inexact else "false alarm"
    if not over.any():
        return "kept"
    return "lost" if (lost == over).all() else "missed"


def errors_of(fields: list[np.ndarray], exact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest error of some fields per order, and the norms of the exact one.

    An error where the exact field is zero is infinite.
    """
    norms = fuzz_judge.rms_by_order(exact)
    differences = np.max([fuzz_judge.rms_by_order(found - exact) for found in fields], axis=0)
    relative = np.full(len(norms), np.inf)
    np.divide(differences, norms, out=relative, where=norms > 0)
    relative[differences == 0] = 0.0
    return relative, norms


# --- time -----------------------------------------------------------------------------------------


def _timed(problem, exact: np.ndarray, line: dict) -> dict:
    """Return the seconds of plan and field, of a direct sum and of a cube, and if that is slow.

    And the errors of the direct sum, which has the same coordinates and dtype.
    """
    settings = problem.settings
    seconds = dict(line["seconds"])
    given = problem.given(problem.moments)

    def plan_and_field() -> tuple[float, float]:
        start = process_time()
        plan = _plan(problem, problem.targets, problem.sources)
        middle = process_time()
        plan.field(given, settings.order)
        return middle - start, process_time() - middle

    def direct() -> np.ndarray:
        return mp.field(
            problem.lengths(problem.at()), problem.lengths(problem.sources), given, settings.order,
            problem.given_kernel(), target_batch=problem.target_batch,
            source_batch=problem.source_batch,
        )  # fmt: skip

    summed = fuzz_judge.in_natural_units(problem, direct())
    told = {"direct errors": [float(e) for e in errors_of([summed], exact)[0]]}
    with _patience(_PATIENCE / 4):
        seconds["plan"], seconds["first"] = plan_and_field()
    seconds["direct"] = _seconds(direct)
    seconds |= _like(problem, seconds)
    if _slow(settings, seconds) and seconds["first"] < 10:
        # other work on the machine is not the plan's fault
        for _ in range(2):
            times = plan_and_field()
            best = min((seconds["plan"], seconds["first"]), times, key=sum)
            seconds |= {"plan": best[0], "first": best[1]}
            seconds["direct"] = max(seconds["direct"], _seconds(direct))
    return told | {"seconds": seconds, "slow": _slow(settings, seconds)}


def _slow(settings, seconds: dict) -> bool:
    """Whether a case is slow; with leaves of the caller's own size the direct sum is no measure."""
    if settings.leaf_size is None and _is_slow(seconds, seconds["direct"], _TWICE):
        return True
    return "like" in seconds and _is_slow(seconds, seconds["like"], _TEN_TIMES)


def _is_slow(seconds: dict, other: float, factor: float) -> bool:
    own = seconds["plan"] + max(seconds["first"], seconds["again"])
    return own > factor * other + _UNNOTICED


def _seconds(function) -> float:
    start = process_time()
    function()
    return process_time() - start


def _like(problem, seconds: dict) -> dict:
    """Return the seconds that a cube of as many points takes, where they can matter."""
    if not _is_slow(seconds, 0.001, _TEN_TIMES) or not len(problem.sources):
        return {}
    settings, rng = problem.settings, np.random.default_rng(0)
    sources = rng.random(problem.sources.shape).astype(problem.sources.dtype)
    targets = problem.targets
    if targets is not None:
        targets = rng.random(targets.shape).astype(targets.dtype)
    moments = rng.standard_normal(problem.moments.shape).astype(problem.moments.dtype)

    def like() -> None:
        plan = fmm.FMM(
            sources, targets, settings.tolerance, settings.source_order, settings.order,
            source_batch=problem.source_batch, target_batch=problem.target_batch,
            channels=settings.channels, leaf_size=settings.leaf_size,
        )  # fmt: skip
        plan.field(moments)

    return {"like": max(_seconds(like), _seconds(like))}


class _TooLong(BaseException):
    """A case took too long; no error that a library may catch."""


@contextmanager
def _patience(seconds: float):
    """Raise _TooLong after so long, where the system and the thread allow."""
    if not hasattr(signal, "SIGPROF") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(*_):
        raise _TooLong

    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


# --- many cases -----------------------------------------------------------------------------------


def run(base: int, first: int, last: int, out: Path, only: str | None = None) -> None:
    """Run the cases first ... last - 1 that are not in the file yet, and append them to it."""
    done = {line["case"] for line in fuzz_table.read(out) if line["base"] == base}
    marker = out.with_name(out.name + ".running")
    if out.exists() and not out.read_text().endswith("\n"):
        # the last line was cut off
        out.write_text(out.read_text() + "\n")
    for number in range(first, last):
        settings = fuzz_cases.draw(fuzz_cases.generator(base, number))
        if number in done or (only and only not in settings.kinds.values()):
            continue
        tried = marker.read_text().count(f"{base} {number}\n") if marker.exists() else 0
        if tried >= 2:
            # the process died of it, twice
            line = {"case": number, "base": base, "settings": asdict(settings)}
            line |= {"kinds": settings.kinds, "verdict": "crashed", "message": "process ended"}
        else:
            marker.write_text((tried + 1) * f"{base} {number}\n")
            line = run_case(base, number)
        with out.open("a") as file:
            file.write(json.dumps(_plain(line)) + "\n")
        marker.unlink(missing_ok=True)
        if "transposed" in settings.history or "partner" in settings.history:
            # plans and their adjoints hold each other
            gc.collect()
        print(fuzz_table.summary(line), flush=True)


def _plain(value):
    """Return what JSON can hold: infinities and NaN as text."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def main() -> None:
    """Run cases, show one, or print the table of a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=int, default=0, help="seed of all cases")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--last", type=int, default=10_000, help="one more than the last case")
    parser.add_argument("--out", type=Path, help="file that results are appended to")
    parser.add_argument("--only", metavar="KIND", help="cases of one kind, such as 'outlier'")
    parser.add_argument("--case", type=int, metavar="N", help="run one case and print all of it")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a file")
    options = parser.parse_args()
    mp.set_num_threads(1)
    if options.case is not None:
        print(json.dumps(_plain(run_case(options.base, options.case)), indent=2))
    elif options.table:
        print(fuzz_table.table(fuzz_table.read(options.table)))
    elif options.out:
        run(options.base, options.first, options.last, options.out, options.only)
        print(fuzz_table.table(fuzz_table.read(options.out)))
    else:
        parser.error("give --out FILE, --case N or --table FILE")


if __name__ == "__main__":
    main()
