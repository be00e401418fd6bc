"""The least time that another program needs for an error of the forces; run by periodic_peers.py.

    python _periodic_worker.py PROBLEM.npz '{"program": …, "bound": …, "repeats": …, "hints": […]}'

Runs in an interpreter that has the program. Prints what was found as JSON in the last line.
"""

import json
import sys
from collections.abc import Callable, Iterator
from time import process_time
from typing import Any, NamedTuple

import numpy as np
from _peers import CELLS, CHARGES, MULTIPOLES, Peer, Problem, Setting

# of the error, what pairs beyond the radius may have
_SHARE = 0.6
# s, of the repeats of one setting
_LONGEST = 10.0
# how many settings are measured with care, and kept for more points
_BEST = 4


class Found(NamedTuple):
    """A setting that keeps the error, and the seconds with pairs found anew and without."""

    setting: Setting
    error: float
    anew: float
    again: float


def splitting(problem: Problem, bound: float, radius: float, more: float) -> float:
    """Return eta so that pairs beyond the radius are within their share of the bound.

    Kolafa and Perram (1992) for charges; derivatives of erfc bring a factor for each order of the
    moments. `more` times the exponent, where that estimate is too low.
    """
    n, columns = problem.moments.shape
    order = 0 if columns == 1 else 2
    strength = (problem.moments[:, -1] ** 2).mean()
    volume = problem.edge**3 * problem.cells
    scale = np.sqrt((problem.exact**2).sum(axis=1).mean())
    wanted = _SHARE * bound * scale / (2 * strength * np.sqrt(n / (radius * volume)))
    x2 = 1.0
    for _ in range(50):  # exp(-x2) (2 x2 / radius)^(2 order) = wanted
        x2 = max(-np.log(wanted) + 2 * order * np.log(2 * x2 / radius), 1.0)
    return float(np.sqrt(more * x2) / radius)


def coarsest(
    peer: Peer, bound: float, radius: float, order: int, spacing: float | None
) -> tuple[Setting, float] | None:
    """Return the setting of the coarsest grid that keeps the bound, and its error.

    `spacing` is that of fewer points, if it is known.
    """
    problem = peer.problem
    for more in (1.0, 1.1, 1.25):
        eta = splitting(problem, bound, radius, more)
        # points in a length 1/eta, and none closer than what makes sense at 0.1/Å³
        few, most = eta * problem.edge * 0.5, min(eta * 7, 1 / 0.3) * problem.edge
        if spacing:
            few, most = (factor * problem.edge / spacing for factor in (0.8, 1.3))
        settings = [Setting(radius, eta, order, n) for n in peer.grids(int(few), int(most))]
        low, high, found = 0, len(settings) - 1, None
        # the finest grid first: it shows whether the radius suffices
        trial = high
        while low <= high:
            peer.lay_out(settings[trial])
            peer.find_pairs()
            if (error := problem.error(peer.sums())) <= bound:
                found, high = (settings[trial], error), trial - 1
            elif found is None and trial == len(settings) - 1:
                break
            else:
                low = trial + 1
            trial = (low + high) // 2
        if found:
            return found
    return None


def seconds(peer: Peer, found: tuple[Setting, float], repeats: int) -> Found:
    """Return the least times of a setting."""
    peer.lay_out(found[0])
    peer.find_pairs()
    peer.sums()
    anew, again, end = [], [], process_time() + _LONGEST
    while len(anew) < 2 or (len(anew) < repeats and process_time() < end):
        peer.stir()
        start = process_time()
        peer.find_pairs()
        peer.sums()
        middle = process_time()
        peer.sums()
        anew.append(middle - start)
        again.append(process_time() - middle)
    return Found(*found, min(anew), min(again))


def search(peer: Peer, bound: float, hints: list[Any]) -> Iterator[Found]:
    """Try radii and orders, those of fewer points if they are known."""
    known = {(radius, order): spacing for radius, order, spacing in hints}
    radii = sorted({radius for radius, _ in known}) or peer.radii
    best = [np.inf, np.inf]
    worse = 0
    for radius in (r for r in radii if 3 * r <= peer.problem.edge or peer.problem.cells > 1):
        here = [np.inf, np.inf]
        for order in sorted({o for r, o in known if r == radius}) or peer.orders(bound):
            spacing = known.get((radius, order))
            if (found := coarsest(peer, bound, radius, order, spacing)) is None:
                continue
            one = seconds(peer, found, 2)
            here = [min(here[0], one.anew), min(here[1], one.again)]
            yield one
        worse = worse + 1 if all(h > 1.2 * b for h, b in zip(here, best, strict=True)) else 0
        best = [min(pair) for pair in zip(here, best, strict=True)]
        if worse == 2 and np.isfinite(best[0]):
            return


def measured(peer: Peer, bound: float, repeats: int, hints: list[Any]) -> dict[str, Any]:
    """Return the best settings with lists and without, timed with care."""
    found = list(search(peer, bound, hints))
    if not found:
        return {"missing": "no setting keeps the error"}
    keys: tuple[Callable[[Found], float], ...] = (lambda f: f.anew, lambda f: f.again)
    chosen = {one.setting: one for key in keys for one in sorted(found, key=key)[:_BEST]}
    timed = [seconds(peer, (one.setting, one.error), repeats) for one in chosen.values()]
    anew, again = (min(timed, key=key) for key in keys)
    hints = [(s.radius, s.order, peer.problem.edge / s.grid) for s in chosen]
    return {
        "version": peer.version, "error": anew.error, "anew": anew.anew, "again": again.again,
        "setting": anew.setting, "setting_again": again.setting, "hints": hints,
    }  # fmt: skip


def main() -> None:
    """Measure, and print what was found."""
    given = json.loads(sys.argv[2])
    with np.load(sys.argv[1]) as file:
        problem = Problem(**{name: file[name] for name in Problem._fields if name != "cells"})
        problem = problem._replace(edge=float(problem.edge), cells=int(file["cells"]))
    one_cell = CHARGES if problem.moments.shape[1] == 1 else MULTIPOLES
    programs = one_cell if problem.cells == 1 else CELLS
    try:
        peer = programs[given["program"]](problem)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}))
        return
    print(json.dumps(measured(peer, given["bound"], given["repeats"], given["hints"])))


if __name__ == "__main__":
    main()
