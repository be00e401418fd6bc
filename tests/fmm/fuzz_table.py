"""The table of what became of random problems."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

VERDICTS = [
    "kept", "false alarm", "warned", "missed", "lost", "non-finite", "refused", "crashed",
    "given up",
]  # fmt: skip
# verdicts of which every case is listed
BAD = ["missed", "lost", "non-finite", "crashed", "given up"]


def read(path: Path) -> list[dict]:
    """Return the lines of a file of results; none if there is no such file.

    The last one may have been cut off and does not count.
    """
    lines = []
    if path.exists():
        for text in path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
    return lines


def ratio(line: dict) -> float:
    """Return the largest error in units of the tolerance, NaN if there is none."""
    errors = [float(e) for e in line.get("errors", [])]
    return max(errors) / line["settings"]["tolerance"] if errors else np.nan


def summary(line: dict) -> str:
    """Return a case as one line."""
    kinds, seconds = line["kinds"], line.get("seconds", {})
    words = [kinds[k] for k in ("points", "targets", "moments", "history", "kernel", "dtype")]
    own = seconds.get("plan", 0) + max(seconds.get("first", 0), seconds.get("again", 0))
    verdict = line["verdict"] + (" slow" if line.get("slow") else "")
    told = line.get("message", "")[:60]
    return (
        f"{line['case']:>6} {verdict:<12} error/tolerance {ratio(line):<8.2g} n "
        f"{line['settings']['n_sources']:>5} tolerance {line['settings']['tolerance']:.0e} "
        f"{own:6.2f} s, direct {seconds.get('direct', 0):5.2f} s  {', '.join(words)}, "
        f"{kinds['orders']} {told}"
    )


def table(lines: list[dict]) -> str:
    """Return counts of verdicts by kind, and the cases that are not as they should be."""
    if not lines:
        return "no cases"
    parts = [_heading(), _row("all", lines)]
    for name in lines[0]["kinds"]:
        groups = defaultdict(list)
        for line in lines:
            groups[line["kinds"][name]].append(line)
        parts += ["", name, *(_row(f"  {kind}", groups[kind]) for kind in sorted(groups))]
    bad = [line for line in lines if line["verdict"] in BAD or line.get("slow")]
    bad.sort(key=lambda line: (line["verdict"], -np.nan_to_num(ratio(line))))
    parts += ["", f"{len(bad)} cases to look at: python tests/fmm/fuzz.py --base B --case N"]
    parts += [f"base {line['base']} case{summary(line)}" for line in bad]
    refused = defaultdict(list)
    for line in lines:
        if line["verdict"] == "refused":
            refused[line["message"]].append(line["case"])
    parts += ["", *(f"refused {len(c)} (case {c[0]}): {m}" for m, c in sorted(refused.items()))]
    return "\n".join(parts)


def _heading() -> str:
    columns = "".join(f"{name:>12}" for name in [*VERDICTS, "slow", "median"])
    return f"{'':<22}{'cases':>7}{columns}"


def _row(name: str, lines: list[dict]) -> str:
    counts = [sum(line["verdict"] == verdict for line in lines) for verdict in VERDICTS]
    slow = sum(bool(line.get("slow")) for line in lines)
    # of what was expanded: direct sums have no error to speak of
    ratios = [ratio(line) for line in lines if any(line.get("degrees", []))]
    ratios = [r for r in ratios if r > 0]
    median = f"{np.median(ratios):.2g}" if ratios else "-"
    columns = "".join(f"{count or '.':>12}" for count in [*counts, slow, median])
    return f"{name:<22}{len(lines):>7}{columns}"
