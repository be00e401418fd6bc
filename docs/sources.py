"""Figures by name, from the files in benchmarks/results and what else holds them."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from benchmark_tables import Row, read, select

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def path_of(page: str) -> Path:
    """Return the file of a page."""
    return ROOT / "README.md" if page == "README" else DOCS / f"{page}.md"


def number(row: Row, column: str) -> float:
    """Return one number of a row."""
    return float(row[column])


def power(value: float) -> str:
    """Return a number as -8·10⁻⁴, with a minus sign as people print it."""
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa.replace('-', '−')}·10{str(int(exponent)).translate(SUPERSCRIPT)}"


def listed(values: Iterable[float], form: str, between: str = " / ") -> str:
    """Return numbers in one format, joined."""
    return between.join(format(value, form) for value in values)


def run(quantity: str) -> str:
    """Return a figure of a single run as it was written down."""
    return select(read("single_runs"), quantity=quantity)["value"]


def runs(of: str) -> dict[str, str]:
    """Return the figures of the single runs of one thing, as they were written down."""
    found = {row["quantity"].partition(": ")[::2]: row["value"] for row in read("single_runs")}
    return {quantity: value for (thing, quantity), value in found.items() if thing == of}


def race(case: str, program: str, part: str = "time") -> str:
    """Return a figure of the race between native builds as it was written down."""
    return select(read("native_race"), part=part, case=case, program=program)["value"]


def dynamics(quantity: str) -> float:
    """Return a figure of molecular dynamics of methanol in water."""
    return number(select(read("md_methanol"), quantity=quantity), "value")


def step_of(kind: str) -> dict[str, float]:
    """Return ms of the parts of a step of dynamics by this version, with one electrostatics."""
    return {
        row["part"]: number(row, "ms")
        for row in read("step_parts")
        if (row["version"], row["electrostatics"]) == ("after", kind)
    }


def bench(case: str, program: str = "anisole", column: str = "seconds") -> float:
    """Return a figure of the fast multipole method, 100 000 points."""
    rows = read("fmm_bench")
    return number(select(rows, part="table", case=case, program=program), column)


def points(n: int, asked: str, program: str = "anisole") -> float:
    """Return the seconds of so many charges in a cube."""
    rows = read("fmm_bench")
    return number(select(rows, part="size", n=str(n), asked=asked, program=program), "seconds")


THREE = [f"charges → gradient, {bound}" for bound in ("0.001", "3e-07", "1e-09")]
RACED = [f"1e5 charges, {bound}" for bound in ("1e-3", "3e-7", "1e-9")]


@cache
def labels() -> dict[str, list[float]]:
    """Return net forces of the shipped frames, and mean energies in water by charge."""
    from gnn.data import load_shipped

    of: dict[str, list[float]] = {"net": [], "ions": [], "neutral": []}
    gains: dict[tuple[str, str], list[float]] = {}
    for frame, alone in zip(load_shipped(), load_shipped(vacuum=True), strict=True):
        sums = frame.forces.sum(axis=0)
        if frame.system.n_mm:
            sums = sums + frame.mm_forces.sum(axis=0)
            sort = "ions" if frame.system.charge else "neutral"
            own = gains.setdefault((sort, frame.name), [])
            own.append(alone.energy - frame.energy)
        of["net"].append(float(abs(sums).max()))
    for (sort, name), own in gains.items():
        if "+" not in name:  # alone in the water
            of[sort].append(sum(own) / len(own))
    return of


def training_minutes() -> str:
    """Return how long the model that ships was trained."""
    return run("shipped model: time of its training")


def domain_size() -> int:
    """Return the size in kB of what the model that ships says about its training."""
    import torch

    (domain,) = torch.load(ROOT / "gnn" / "data" / "model.pt", weights_only=True)["domains"]
    parts = [domain, *domain["densities"]]
    tensors = [v for part in parts for v in part.values() if isinstance(v, torch.Tensor)]
    return round(sum(v.nbytes for v in tensors) / 1e3)
