"""Tables of the documentation, from the files in benchmarks/results."""

import csv
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

Row = dict[str, str]
Table = tuple[Sequence[str], Iterable[Sequence[str]]]

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
MOLECULES = {
    "meoh": "methanol", "mam": "methylammonium", "oac": "acetate", "acoh": "acetic acid",
}  # fmt: skip
# of molecules whose names in files are not those of people
NAMES = MOLECULES | {
    "h2o": "water", "nh3": "ammonia", "nh4": "ammonium", "ch4": "methane",
    "h2s": "hydrogen sulfide", "nma": "N-methylacetamide", "nmethylformamide": "N-methylformamide",
}  # fmt: skip
KINDS = {"ion pair": "ion pair", "ion-dipole": "ion–dipole", "dipole-dipole": "dipole–dipole"}


# names of the files of results read so far, each with its rows
FILES: dict[str, list[Row]] = {}


def read(name: str) -> list[Row]:
    """Return the rows of a file of results, and note that it was read."""
    with (RESULTS / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
        return FILES.setdefault(name, list(csv.DictReader(stream)))


def short(value: float | str, digits: int = 2) -> str:
    """Return a number with so many significant digits, as people write it."""
    value = float(value)
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.replace('-', '−')}e−{abs(int(exponent))}"
    text = f"{value:,.{decimals}f}".replace(",", " ")
    return text.replace("-", "−")


def count(value: float | str) -> str:
    """Return a whole number with spaces between thousands."""
    return f"{int(float(value)):,}".replace(",", " ")


def gigabytes(value: str) -> str:
    """Return bytes as GB."""
    return f"{float(value) / 1e9:.1f} GB"


def marked(cells: list[tuple[str, ...]]) -> list[str]:
    """Join the numbers of each cell, the best of each kind in bold."""
    best = [min(map(float, kind)) for kind in zip(*cells, strict=True)]
    return [
        " / ".join(
            f"**{number}**" if float(number) == least else number
            for number, least in zip(cell, best, strict=True)
        )
        for cell in cells
    ]


def errors(row: Row) -> tuple[str, ...]:
    """Return errors of energy, QM forces and MM forces, rounded."""
    return tuple(
        f"{float(row[key]):.{decimals if float(row[key]) < 100 else 0}f}"
        for key, decimals in (("energy_mae", 1), ("forces_rmse", 0), ("mm_forces_rmse", 1))
    )


def select(rows: list[Row], **wanted: str) -> Row:
    """Return the first row with the given values."""
    return next(row for row in rows if all(row[key] == value for key, value in wanted.items()))


def values(rows: list[Row], column: str) -> list[str]:
    """Return the different values of a column, in the order of the file."""
    return list(dict.fromkeys(row[column] for row in rows))


# --- what the model's parts are worth -----------------------------------------------------------


def direction() -> Table:
    rows, time = read("direction"), read("direction_time")
    orders = values(rows, "order")
    body = [
        [frames, *marked([errors(select(rows, order=k, frames=frames)) for k in orders])]
        for frames in values(rows, "frames")
    ]
    steps = [f"{float(row['step_ms']):.1f} ms ({float(row['ratio']):.2f} ×)" for row in time]
    return ["training frames", *(f"order {k}" for k in orders)], [*body, ["training step", *steps]]


def surroundings() -> Table:
    rows = read("surroundings")
    ways = {
        "vacuum": "vacuum", "mechanical": "mechanical", "electrostatics": "electrostatics only",
        "messages": "field in messages only", "both": "both",
    }  # fmt: skip
    body = []
    for molecule in (*MOLECULES, "all"):
        of = "all" if molecule == "all" else molecule
        found = [row for row in rows if row["molecule"] == molecule and row["of"] == of]
        cells = marked([errors(select(found, way=way)) for way in ways])
        body.append([MOLECULES.get(molecule, "all, one model"), *cells])
    return ["", *ways.values()], body


DIMER_MODELS = ("local", "electrostatics", "long-range")


def dimers() -> Table:
    rows, models = read("dimers"), DIMER_MODELS
    body = [[label] for label in KINDS.values()]
    for where in ("within", "beyond"):
        for line, kind in zip(body, KINDS, strict=True):
            found = [select(rows, model=model, kind=kind, where=where) for model in models]
            line += marked([errors({**row, "mm_forces_rmse": "0"})[:2] for row in found])
    ranges = ("2.6–8 Å", "8–25 Å")
    return ["", *(f"{model}, {distance}" for distance in ranges for model in models)], body


def proton_transfer_path() -> Table:
    names = {
        "proton": "O–H, Å", "reference": "B3LYP/6-31G\\*", "given_to_first": "charge given to one",
        "given_to_second": "to the other", "charge_first": "charge of the one, e",
        "charge_proton": "proton", "charge_second": "the other",
    }  # fmt: skip
    body = []
    for row in read("proton_transfer_path"):
        energies = [f"{float(row[key]):.0f}" for key in list(names)[1:4]]
        charges = [f"{float(row[key]):.2f}" for key in list(names)[4:]]
        cells = [f"{float(row['proton']):.2f}", *energies, *charges]
        body.append(["0" if cell == "-0" else cell.replace("-", "−") for cell in cells])
    return list(names.values()), body


def dimers_scan() -> Table:
    theory = dict(zip(KINDS, ("−1", "−2", "−3"), strict=True))
    body = []
    for kind, label in KINDS.items():
        found = [exponent(far_apart(kind), column) for column in ("reference", *DIMER_MODELS)]
        body.append([label, theory[kind], *found])
    return ["", "theory", "RHF", *DIMER_MODELS], body


def far_apart(kind: str) -> list[Row]:
    """Return the rows of one kind of dimer at more than 8.5 Å."""
    return [r for r in read("dimers_scan") if r["kind"] == kind and float(r["distance"]) > 8.5]


def exponent(rows: list[Row], column: str) -> str:
    """Return the slope of the energy between first and last row in logarithms."""
    points = [(math.log(float(r["distance"])), abs(float(r[column]))) for r in rows]
    if any(energy < 1e-5 for _, energy in points):
        return "no interaction"
    x, y = [p[0] for p in points], [math.log(p[1]) for p in points]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    slope = above / sum((a - mean_x) ** 2 for a in x)
    return f"{slope:.2f}".replace("-", "−") if abs(slope) > 5e-3 else "0"


BOXES = ("local", "electrostatics", "long-range", "narrow")


def periodic_boxes() -> Table:
    rows = read("periodic_boxes")
    body = []
    for box, ions in dict.fromkeys((row["box"], row["ions"]) for row in rows):
        found = [select(rows, model=m, box=box, ions=ions) for m in (*BOXES, "spread")]
        cells = [[short(r[f"{q}_rmse"]) for q in ("energy", "forces", "stress")] for r in found]
        body.append([f"{box}, {ions}", *(" / ".join(cell) for cell in cells)])
    return ["", *BOXES, "spread of the labels"], body


def periodic_boxes_waves() -> Table:
    body = [
        [f"{row['box']}, {row['wave']}", *(f"{float(row[m]):.1f}" for m in ("reference", *BOXES))]
        for row in read("periodic_boxes_waves")
        if row["amplitude"] == "0.2"
    ]
    return ["", "AMOEBA", *BOXES], [[cell.replace("-", "−", 1) if cell[:1] == "-" else cell
                                     for cell in line] for line in body]  # fmt: skip


def against_mace() -> Table:
    rows = read("against_mace")
    names = {"MACE": "MACE", "ours": "anisole"}
    systems = (*MOLECULES, "all")
    best: dict[str, list[str]] = {}
    for of in systems:
        pair = [select(rows, model=m, of=of) for m in names]
        cells = marked(
            [(f"{float(r['energy_mae']):.1f}", f"{float(r['forces_rmse']):.1f}") for r in pair]
        )
        for name, cell in zip(names.values(), cells, strict=True):
            best.setdefault(name, []).append(cell)
    header = ["meV, meV/Å", *MOLECULES.values(), "all"]
    return header, [[name, *cells] for name, cells in best.items()]


def against_mace_speed() -> Table:
    rows = [row for row in read("against_mace") if row["of"] == "all"]
    header = ["", "parameters", "steps in 600 s", "training step", "one frame", "in a batch of 32"]
    body = [
        ["MACE" if r["model"] == "MACE" else "anisole", count(r["parameters"]), count(r["steps"])]
        + [f"{short(r[key])} ms" for key in ("step_ms", "single_ms", "batch_ms")]
        for r in rows
    ]
    return header, body


def finetune() -> Table:
    rows = read("finetune")
    frames = values(rows, "frames")
    columns = {n: marked([errors(select(rows, start=s, frames=n)) for s in values(rows, "start")])
               for n in frames}  # fmt: skip
    starts = values(rows, "start")
    body = [[start, *(columns[n][i] for n in frames)] for i, start in enumerate(starts)]
    return ["", *(f"{n} frames" for n in frames)], body


def smearing() -> Table:
    body = []
    for row in read("smearing"):
        way = row["smearing"]
        name = "point charges only" if way == "none" else f"smeared too, {way} / Å"
        body.append([name, row["on"], *errors(row)])
    return ["", "frames of", "energy MAE, meV", "QM forces", "MM forces"], body


def error_sources() -> Table:
    """Show which frames errors belong to, and what near charges change."""
    columns = {"energy_mae": "energy MAE, meV", "forces_rmse": "QM forces RMSE, meV/Å",
               "forces_percent": "of their spread", "mm_forces_rmse": "MM forces"}  # fmt: skip
    models = {"ships": "ships", "after": "*after*", "control": "*control*"}
    body = []
    for row in read("error_sources"):
        reach = row["molecule"] == "all"
        if row["model"] == "ships" or reach or row["frames are"] == "runs of their own":
            cells = [figure(row, key) + (" %" if "percent" in key else "") for key in columns]
            what = [named(row["molecule"]), row["frames are"], row["frames"]]
            body.append([models[row["model"]], *what, *cells])
    return ["model", "molecule", "frames", "number", *columns.values()], body


def error_sources_labels() -> Table:
    header = ["labels of", "with", "energy, meV", "scatter", "QM forces, meV/Å", "MM forces"]
    body = [
        [named(row["molecule"]), row["against"],
         *(short(row[key]) for key in ("energy_shift", "energy_scatter", "forces_rmse",
                                       "mm_forces_rmse"))]
        for row in read("error_sources_labels")
    ]  # fmt: skip
    return header, body


def schedule() -> Table:
    """Show errors of variants of the demonstration, and what their steps cost."""
    times = {row["variant"]: row["ratio"] for row in read("schedule_time")}
    body = []
    for row in read("schedule"):
        ratio = times.get(row["variant"], "")
        cost = f"{float(ratio):.2f}" if ratio else "–"
        head = [row["variant"], row["steps"], row["seed"], cost]
        body.append([*head, *errors(row)])
    header = ["", "steps of 8 frames", "seed", "time of a step", "energy MAE, meV"]
    return [*header, "QM forces RMSE, meV/Å", "MM forces"], body


def perturbation() -> Table:
    columns = ("energy_rmse", "forces_rmse", "spread_seen", "spread_unseen", "spread_stretched")
    body = [
        [row["noise"], *(f"{float(row[key]):.1f}" for key in columns)]
        for row in sorted(read("perturbation"), key=lambda row: float(row["noise"]))
    ]
    header = ["noise", "energy RMSE, meV", "forces RMSE, meV/Å", "spread of the same forces",
              "of other molecules'", "of stretched molecules'"]  # fmt: skip
    return header, body


def committee() -> Table:
    """How many test errors lie within one and two sigma, before and after scaling."""
    starts = {"random": "random weights", "shipped": "the model that ships"}
    titles = {"forces": "QM forces", "mm_forces": "MM forces"}
    rows = read("committee")
    body = []
    for row in rows:
        start, name = row["start"], row["quantity"]
        if row["expected"] != "0.6827":
            continue
        two = select(rows, start=start, quantity=name, expected="0.9545")
        shares = (100 * float(r[key]) for key in ("before", "after") for r in (row, two))
        body.append([
            starts[start], titles.get(name, name), f"{float(row['factor']):.2g}",
            *(f"{share:.0f} %" for share in shares), f"{float(row['correlation']):.2f}",
        ])  # fmt: skip
    header = ["members from", "", "factor", "unscaled: within 1 σ", "2 σ", "scaled: within 1 σ"]
    return [*header, "2 σ", "rank correlation"], body


def shipped_model_errors() -> Table:
    body = []
    for row in read("shipped_model_errors"):
        force = [
            f"{figure(row, f'{k}_rmse')} ({figure(row, f'{k}_ratio', 100)} %)"
            for k in ("forces", "mm_forces")
        ]
        energy, dipole = (figure(row, k) for k in ("energy_mae", "dipole_mae"))
        body.append([named(row["molecule"]), row["frames"], energy, *force, dipole])
    header = ["test runs", "frames", "energy MAE, meV", "QM forces RMSE, meV/Å"]
    return [*header, "MM forces RMSE, meV/Å", "dipole MAE, me Å"], body


def figure(row: Row, column: str, factor: float = 1.0) -> str:
    """Return a number with one digit behind the point, a dash where there is none."""
    value = factor * float(row.get(column) or "nan")
    return f"{value:.1f}" if math.isfinite(value) else "–"


def named(molecule: str) -> str:
    """Return the name of a molecule as people write it."""
    return NAMES.get(molecule, molecule.replace("_", " "))


def density_fitting() -> Table:
    columns = ("frames", "shift", "spread", "forces", "mm_forces", "ratio")
    body = [
        [f"{named(row['molecule'])}, "
         f"{'in water' if row['surroundings'] == 'water' else 'alone'}",
         *(row[name].replace("-", "−") or "–" for name in columns)]
        for row in read("density_fitting")
    ]  # fmt: skip
    header = ["", "frames", "mean shift of energies / meV", "standard deviation of shifts / meV",
              "forces, RMS / meV/Å", "on charges, RMS / meV/Å", "time, exact / fitted"]  # fmt: skip
    return header, body


def error_table(name: str, first: dict[str, str]) -> Table:
    """Return errors of energies, as they are and after a constant, and of forces."""
    columns = {
        "energy_mae": "energy MAE, meV", "energy_constant_mae": "after a constant",
        "forces_rmse": "QM forces RMSE, meV/Å", "mm_forces_rmse": "MM forces RMSE, meV/Å",
    }  # fmt: skip
    body = []
    for row in read(name):
        refused = f", {row['refused']} refused" if int(row["refused"]) else ""
        names = [named(row[key]) for key in first]
        cells = [figure(row, key) for key in columns]
        body.append([*names, f"{row['frames']}{refused}", *cells])
    return [*first.values(), "frames", *columns.values()], body


def shipped_model_kinds() -> Table:
    return error_table("shipped_model_kinds", {"kind": "kind of frame"})


def shipped_model_unseen() -> Table:
    return error_table("shipped_model_unseen", {"molecule": "molecule"})


def shipped_model_beside() -> Table:
    return error_table("shipped_model_beside", {"set": "frames of", "model": "model"})


def shipped_model_targets() -> Table:
    """Targets beside what was measured."""
    body = []
    for row in read("shipped_model_targets"):
        molecule, colon, what = row["what"].partition(": ")
        wanted = row["wanted"].replace("<=", "≤")
        measured = [figure(row, "measured"), row["reached"] or "–"]
        body.append([f"{named(molecule)}{colon}{what}", wanted, *measured])
    return ["", "target, meV or meV/Å", "measured", "reached"], body


def water_dimer() -> Table:
    columns = {"distance": "O–O, Å", "reference": "B3LYP/6-31G\\*", "model": "model",
               "difference": "difference"}  # fmt: skip
    rows = read("water_dimer")
    body = [[row[key].replace("-", "−") for key in columns] for row in rows]
    largest = max(abs(float(row["difference"])) for row in rows)
    return list(columns.values()), [*body, ["largest", "", "", f"{largest:.3f}"]]


def fmm_periodic() -> Table:
    """Show times of periodic sums beside their targets and the nearest others."""
    others: dict[tuple[str, float], str] = {}
    for row in sorted(others_periodic(), key=lambda row: float(row["ms_with_lists"])):
        times = f"{ms(row['ms'])} ({ms(row['ms_with_lists'])})"
        key = row["case"], float(row["bound"])
        others.setdefault(key, f"{row['program']}: {times}")
    body = []
    for row in read("fmm_periodic"):
        target = float(row["target"])
        method = {"fmm": "FMM", "mesh": "mesh", "ewald": "Ewald"}[row["method"]]
        other = others.get((row["case"], float(row["bound"])), "")
        reached = "yes" if float(row["seconds"]) <= target else "no"
        body.append([
            row["case"], method,
            short(row["bound"], 1), short(row["error"]), short(1e3 * float(row["again"])),
            short(1e3 * float(row["seconds"])), f"{1e3 * target:g}" if target else "–",
            reached if target else "–", other,
        ])  # fmt: skip
    header = ["energy and forces of", "by", "error of forces ≤", "measured", "ms",
              "… pairs anew, ms",
              "target, ms", "reached", "nearest other: ms (with its list of pairs)"]  # fmt: skip
    return header, body


def mesh_cost() -> Table:
    """Show time and memory of a mesh, and the share of its measurement."""
    body = [
        [
            f"{int(row['n']):,}".replace(",", " "), short(row["tolerance"], 1),
            short(1e3 * float(row["first"])), f"{float(row['first_share']):.0%}",
            short(1e3 * float(row["later"])), f"{float(row['later_share']):.0%}",
            short(float(row["memory"]) / 1e6), short(row["error"]),
        ]
        for row in read("mesh_cost")
    ]  # fmt: skip
    header = ["charges", "tolerance", "first, ms", "measuring", "later, ms", "measuring",
              "memory, MB", "bound of the error"]  # fmt: skip
    return header, body


def small_cells() -> Table:
    """Show times of many small systems in cells, beside their targets."""
    body = []
    for row in read("small_cells"):
        target, error = row["target_ms"], row["error"]
        reached = "–"
        if target:
            reached = "yes" if float(row["ms"]) <= float(target) else "no"
        body.append([row["what"], short(row["asked"]), short(error) if error else "–", row["ms"],
                     target or "–", reached])  # fmt: skip
    return ["", "asked", "error of forces", "ms", "target, ms", "reached"], body


def ms(text: str) -> str:
    """Return milliseconds: a tenth of what is short."""
    return format(float(text), ".1f" if float(text) < 100 else ".0f")


def others_periodic() -> list[Row]:
    """Return the times of other programs."""
    return [row for row in read("periodic_peers") if row["program"] != "ours"]


def periodic_peers() -> Table:
    """Show other programs' periodic sums, and ours beside them where they ran together."""
    body, before = [], None
    for row in others_periodic():
        key = row["case"], row["bound"]
        ours = row.get("ours_ms", ""), row.get("ours_ms_with_lists", "")
        times = row["ms"], row["ms_with_lists"]
        pairs = zip(times, ours, strict=True)
        ratios = [short(float(a) / float(b)) if b else "–" for a, b in pairs]
        first = [key[0], short(key[1], 1)] if key != before else ["", ""]
        mine = [ms(t) if t else "–" for t in ours] if key != before else ["", ""]
        named = f"{row['program']} {row.get('version', '')}".strip()
        body.append([*first, *mine, named, *map(ms, times), *ratios])
        before = key
    header = ["", "error of forces ≤", "ours, ms", "… pairs anew", "program", "ms",
              "… with its list of pairs", "times ours", "… with lists"]  # fmt: skip
    return header, body


def hot_runs() -> Table:
    """Show what became of every molecule, in two sets of columns so that the table stays short."""
    cells = [
        [
            named(row["molecule"]),
            "whole" if row["end"] == "whole" else f"{row['end']} at {row['time_ps']} ps",
            row["temperature"],
            f"{row['shortest']} ({row['pair']})",
            f"{float(row['novel']):g}",
        ]
        for row in read("hot_runs")
    ]
    header = ["molecule", "end", "mean K", "shortest, Å", "outside, %"]
    half = (len(cells) + 1) // 2
    right = [*cells[half:], *[[""] * len(header)] * (2 * half - len(cells))]
    body = [one + other for one, other in zip(cells[:half], right, strict=True)]
    return [*header, *header], body


def novelty() -> Table:
    columns = ("number", "force error", "novelty", "wrong", "flagged", "wrong and not flagged",
               "roc area", "committee: wrong", "committee: roc area of novelty",
               "committee: roc area of spread")  # fmt: skip
    body = [[row["frames"], *(row[name].replace("nan", "–") for name in columns)]
            for row in read("novelty")]  # fmt: skip
    header = ["frames", "number", "force error (median) / meV/Å", "novelty (median)", "wrong / %",
              "flagged / %", "wrong, not flagged / %", "area under ROC curve",
              "committee: wrong / %", "… area, by novelty", "… area, by spread"]  # fmt: skip
    return header, body


def novelty_examples() -> Table:
    rows = read("novelty_examples")
    return ["", "novelty", "what is said"], [
        [row["example"], short(row["novelty"]), row["said"] or "nothing"] for row in rows
    ]


def trust() -> Table:
    return ["", "without", "with what it knows of its training"], [
        [row["example"], row["before"], row["after"]] for row in read("trust")
    ]


def published_s66x8() -> Table:
    rows = read("published_s66x8")
    return ["distance / equilibrium", *(row["scale"] for row in rows)], [
        ["MAE, kJ/mol", *(f"{float(row['mae']):.2f}" for row in rows)]
    ]


def published_shipped() -> Table:
    rows = read("published_shipped")
    body = [
        [
            MOLECULES[row["molecule"]], row["pol_scaling"], f"{float(row['energy_mae']):.0f}",
            f"{float(row['forces_rmse']):.0f} ({float(row['forces_percent']):.0f} %)",
            f"{float(row['mm_forces_rmse']):.1f} ({float(row['mm_forces_percent']):.1f} %)",
        ]
        for molecule in MOLECULES for row in rows if row["molecule"] == molecule
    ]  # fmt: skip
    return ["", "factor", "energy MAE, meV", "QM forces, meV/Å", "MM forces, meV/Å"], body


# --- speed --------------------------------------------------------------------------------------


def direct_sum() -> Table:
    cases = {
        "charges": "charges → potential, gradient",
        "quadrupoles": "quadrupoles → forces, torques",
    }
    body = [
        [
            cases[row["case"]], row["dtype"], f"{row['loop']}", row["threads"],
            f"{float(row['rate']) / 1e9:.2f}",
            f"{float(row['ratio']):.2f} ×" if row["ratio"] else "1", short(row["error"]),
        ]
        for row in read("direct_sum")
    ]  # fmt: skip
    return ["sum", "type", "loop", "threads", "10⁹ pairs / s", "against plain Numba", "error"], body


def instruction_sets() -> Table:
    body = [
        [
            row["instructions"], f"{float(row['float64']) / 1e9:.2f}",
            f"{float(row['float32']) / 1e9:.2f}", short(1e3 * float(row["fmm_1e_3"])),
            short(1e3 * float(row["fmm_3e_7"]), 3), f"{float(row['blas']) / 1e9:.0f}",
        ]
        for row in read("instruction_sets")
    ]  # fmt: skip
    header = [
        "instructions", "charges in float64, 10⁹ pairs / s", "in float32",
        "FMM to 1e-3, ms", "to 3e-7, ms", "BLAS, 10⁹ products / s",
    ]  # fmt: skip
    return header, body


def direct_sum_orders() -> Table:
    body = [
        [
            f"`{row['kernel']}`", row["dtype"], row["source_order"], row["order"],
            f"{float(row['any_order']) / 1e6:.0f}", f"{float(row['written']) / 1e6:.0f}",
            f"{float(row['written']) / float(row['any_order']):.1f} ×",
        ]
        for row in read("direct_sum_orders")
    ]  # fmt: skip
    header = ["kernel", "type", "K", "D", "any order, million/s", "written, million/s", "gain"]
    return header, body


def fmm_bench() -> Table:
    rows = [row for row in read("fmm_bench") if row["part"] == "table"]
    body = []
    for case in values(rows, "case"):
        what, _, below = case.rpartition(", ")
        ours = select(rows, case=case, program="anisole")
        least = f"{float(below):.1e}".replace(".0", "").replace("-0", "-").replace("-", "−")
        cells = [what, least, short(ours["error"])]
        cells += [f"{float(ours[key]):.3f}" for key in ("seconds", "again")]
        for row in rows:
            if row["case"] == case and row["program"] == "fmm3dpy":
                ratio = float(row["seconds"]) / float(ours["seconds"])
                cells += [f"{float(row['seconds']):.2f}", short(row["error"]), f"{ratio:.0f} ×"]
        body.append(cells + ["–"] * (8 - len(cells)))
    header = ["sum", "error below", "reached", "seconds", "again"]
    return [*header, "FMM3D, seconds", "its error", "ratio"], body


def fmm_scaling() -> Table:
    rows = [row for row in read("fmm_scaling") if float(row["n"]) in (1e4, 1e5, 1e6, 1e7)]
    body = [
        [count(row["n"]), row["channels"], row["threads"], short(row["plan"]), short(row["first"]),
         short(row["again"]), gigabytes(row["memory"])]
        for row in sorted(rows, key=lambda r: (int(r["n"]), int(r["channels"])))
    ]  # fmt: skip
    return [
        "points",
        "channels",
        "threads",
        "plan, s",
        "first field, s",
        "again, s",
        "memory",
    ], body


def edge_operators() -> Table:
    body = []
    sizes = {tuple(map(int, re.findall(r"\d+", p.stem))): p.stem
             for p in RESULTS.glob("edge_operators_*.csv")}  # fmt: skip
    for (order, channels), name in sorted(sizes.items()):
        rows = read(name)
        for operator in values(rows, "operator"):
            found = [row for row in rows if row["operator"] == operator]
            times = [f"{short(r['fused_min_ms'])} ({float(r['ratio_min']):.0f} ×)" for r in found]
            size = f"order {order}, {channels} channels"
            body.append([size, operator.replace("_", " "), *times])
    return ["", "operator, ms", "values", "first derivatives", "second", "all"], body


def long_range() -> Table:
    rows = read("long_range")
    sizes = [n for n in values(rows, "n") if math.log10(float(n)).is_integer()]
    body = []
    for method in values(rows, "method"):
        cells = []
        for n in sizes:
            row = select(rows, n=n, method=method)
            guess = " †" if row["extrapolated"] == "True" else ""
            cells.append(f"{short(row['forward'])} / {short(row['both'])}{guess}")
        body.append([method, *cells])
    fmm = [select(rows, n=n, method="fmm 1e-3") for n in sizes]
    body.append(["memory, fmm 1e-3", *(gigabytes(row["memory"]) for row in fmm)])
    return ["seconds", *map(count, sizes)], body


def surroundings_scaling() -> Table:
    rows = read("surroundings_scaling")
    sizes = [n for n in values(rows, "n") if math.log10(float(n)).is_integer()]
    body = []
    for method in values(rows, "method"):
        found = [select(rows, n=n, method=method) for n in sizes]
        body.append([method, *(f"{short(r['again'])} s, {gigabytes(r['memory'])}" for r in found)])
    return ["", *map(count, sizes)], body


def native_race() -> Table:
    programs = ("anisole", "exafmm-t", "DMK", "FMM3D", "FMM3D (wheel)")
    units = {"times anisole": " ×", "s": " s", "GB": " GB"}
    lines: dict[str, dict[str, str]] = {}
    for row in read("native_race"):
        what = row["case"] if row["part"] == "time" else f"{row['part']}: {row['case']}"
        lines.setdefault(what, {})[row["program"]] = row["value"] + units[row["unit"]]
    body = [[what, *(found.get(p, "–") for p in programs)] for what, found in lines.items()]
    return ["", *programs], body


def single_runs() -> Table:
    rows = read("single_runs")
    return ["", "", "unit"], [[row["quantity"], row["value"], row["unit"]] for row in rows]


def vibrations() -> Table:
    keys = ("reference", "model", "intensity_reference", "intensity_model")
    body = [[row["mode"], *(row[key] for key in keys)] for row in read("vibrations")]
    level = "B3LYP/6-31G\\*"
    return [
        "mode", level, "shipped model", f"intensity, {level}", "intensity, model",
    ], body  # fmt: skip


def gpu_kernels() -> Table:
    architectures = ("sm_80", "sm_90", "sm_100")
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in read("gpu_kernels"):
        module = re.sub(r"^mp\.", "multipoles.", row["kernel"].rpartition(".")[0])
        module = re.sub(r"^operators\.", "gnn.operators.", module)
        groups.setdefault((module, row["dtype"]), []).append(row)
    body = []
    for (module, dtype), rows in sorted(groups.items()):
        spilled = max(int(row["spill_stores"] or 0) + int(row["spill_loads"] or 0) for row in rows)
        most = [
            str(max(int(r["registers"]) for r in rows if r["capability"] == capability))
            for capability in architectures
        ]
        variants = str(len(rows) // len(architectures))
        body.append([f"`{module}`", dtype, variants, *most, str(spilled)])
    head = ["module", "type", "kernels", "registers, sm_80", *architectures[1:], "bytes spilled"]
    return head, body


# instead of a command, for what was measured once and written down
BY_HAND = "measured by hand"


def replicas() -> Table:
    names = {"methanol": "methanol, shipped model", "alanine": "alanine dipeptide, AMP-BMS"}
    header = ["ms for a step of one replica, clock / processor", *names.values()]
    whats = (
        "force field alone", "model alone", "model in a batch", "a run alone", "1 circle",
        "2 circles",
    )  # fmt: skip
    body = []
    for what in whats:
        rows = [select(read("replicas"), system=system, what=what) for system in names]
        shown = f"{what} of {rows[0]['replicas']}" if int(rows[0]["replicas"]) > 1 else what
        times = (
            " / ".join(f"{float(row[of]):.1f}" for of in ("wall_ms", "processor_ms"))
            for row in rows
        )
        body.append([shown, *times])
    return header, body


Entry = tuple[str, Callable[[], Table], str]


def registry(*entries: Entry) -> dict[str, tuple[Callable[[], Table], str]]:
    """Return tables and the commands that measure them, by name; a script's is its name."""
    return {
        name: (function, command or f"python benchmarks/{name}.py")
        for name, function, command in entries
    }


TABLES = registry(
    ("direction", direction, ""),
    ("surroundings", surroundings, ""),
    ("dimers", dimers, ""),
    ("dimers_scan", dimers_scan, "python benchmarks/dimers.py"),
    ("proton_transfer_path", proton_transfer_path, "python benchmarks/proton_transfer.py"),
    ("periodic_boxes", periodic_boxes, ""),
    ("periodic_boxes_waves", periodic_boxes_waves, "python benchmarks/periodic_boxes.py"),
    ("against_mace", against_mace, ""),
    ("against_mace_speed", against_mace_speed, "python benchmarks/against_mace.py"),
    ("finetune", finetune, ""),
    ("replicas", replicas, ""),
    ("smearing", smearing, ""),
    ("error_sources", error_sources,
     "python benchmarks/error_sources.py --more more.h5 --runs 400 700 800 1000"),
    ("error_sources_labels", error_sources_labels,
     "python benchmarks/error_sources.py --labels"),
    ("schedule", schedule, ""),
    ("perturbation", perturbation, ""),
    ("committee", committee, ""),
    ("density_fitting", density_fitting, ""),
    ("shipped_model_errors", shipped_model_errors, "python benchmarks/shipped_model.py"),
    ("shipped_model_kinds", shipped_model_kinds, "python benchmarks/shipped_model.py"),
    ("shipped_model_unseen", shipped_model_unseen, "python benchmarks/shipped_model.py"),
    ("shipped_model_beside", shipped_model_beside, "python benchmarks/shipped_model.py"),
    ("shipped_model_targets", shipped_model_targets, "python benchmarks/shipped_model.py"),
    ("water_dimer", water_dimer, ""),
    ("hot_runs", hot_runs, ""),
    ("novelty", novelty, "python benchmarks/novelty.py --committee shipped.pt"),
    ("novelty_examples", novelty_examples, "python benchmarks/novelty.py"),
    ("trust", trust, "python benchmarks/trust.py"),
    ("published_s66x8", published_s66x8, "python benchmarks/published_accuracy.py"),
    ("published_shipped", published_shipped, "python benchmarks/published_accuracy.py"),
    ("direct_sum", direct_sum, ""),
    ("direct_sum_orders", direct_sum_orders, "python benchmarks/direct_sum.py"),
    ("instruction_sets", instruction_sets, "python benchmarks/instruction_sets.py"),
    ("fmm_bench", fmm_bench, "python -m fmm bench"),
    ("fmm_periodic", fmm_periodic, "python -m fmm bench --periodic"),
    ("mesh_cost", mesh_cost, ""),
    ("small_cells", small_cells, ""),
    ("periodic_peers", periodic_peers,
     "python benchmarks/periodic_peers.py"),
    ("fmm_scaling", fmm_scaling, ""),
    ("edge_operators", edge_operators, ""),
    ("long_range", long_range, ""),
    ("surroundings_scaling", surroundings_scaling, ""),
    ("gpu_kernels", gpu_kernels, ""),
    ("native_race", native_race, BY_HAND),
    ("single_runs", single_runs, BY_HAND),
    ("vibrations", vibrations, BY_HAND),
)  # fmt: skip
