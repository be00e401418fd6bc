"""Tables of what a model's steps cost, in training and in dynamics."""

from benchmark_tables import Table, read, registry, select, short


def training_step() -> Table:
    rows = read("training_step")
    body = [
        [r["variant"], f"{float(r['median_ms']):.0f}", f"{float(r['ratio']):.2f} ×"] for r in rows
    ]
    return ["variant", "ms", "ratio"], body


def model_arithmetic() -> Table:
    """Show energy and forces by graph and by passes beside what multiplications cost."""
    columns = ("graph_ms", "passes_ms", "times_faster", "batch_32_ms", "megaflop", "limit_ms")
    names = {"shipped": "the one that ships"}
    body = [
        [
            names.get(row["model"], row["model"]), f"{row['atoms']} + {row['charges']}",
            row["threads"], *(short(row[key]) if row[key] else "–" for key in columns),
            f"{100 * float(row['fraction']):.0f} %",
        ]
        for row in read("model_arithmetic")
    ]  # fmt: skip
    header = ["model", "atoms + charges", "threads", "by graph, ms", "in passes, ms",
              "times faster", "in a batch of 32, ms", "MFlop", "limit, ms", "reached"]  # fmt: skip
    return header, body


STEP = {
    "force field alone, a step": "force field alone, ms",
    "all around the model": "all around the model, ms",
    "model": "the model, ms",
    "a step": "a step, ms",
    "a step over the force field": "a step, times the force field alone",
}


def step_parts() -> Table:
    """Show parts of a step of dynamics before and after."""
    rows = read("step_parts")
    ways = [(kind, version) for kind in ("cutoff", "periodic") for version in ("before", "after")]
    names = {"before": "before", "after": "now"}
    body = [
        [name] + [
            f"{float(select(rows, electrostatics=kind, version=version, part=part)['ms']):.2f}"
            for kind, version in ways
        ]
        for part, name in STEP.items()
    ]  # fmt: skip
    return ["", *(f"{kind}, {names[version]}" for kind, version in ways)], body


def published_speed() -> Table:
    rows = read("published_speed")
    tasks = [key for key in rows[0] if "," in key]
    body = [[task, *(f"{float(row[task]):.1f}" for row in rows)] for task in tasks]
    return ["ms", *(f"{row['atoms']} + {row['charges']}" for row in rows)], body


def protein_step() -> Table:
    body = [
        [
            f"{row['atoms']} + {row['charges']}", row["threads"],
            *(f"{float(row[key]):.0f}" for key in ("caller", "others", "sum", "wall")),
            f"{float(row['gain']):.1f}",
        ]
        for row in read("protein_step")
    ]  # fmt: skip
    header = ["atoms + charges", "threads", "caller, ms", "all others, ms", "on free cores, ms",
              "by the clock, ms", "times as fast"]  # fmt: skip
    return header, body


def protein_step_parts() -> Table:
    rows = read("protein_step_parts")
    columns = [key for key in rows[0] if key not in ("atoms", "charges", "edges")]
    body = [[f"{row['atoms']} + {row['charges']}", *(row[key] for key in columns)] for row in rows]
    return ["atoms + charges", *columns], body


TABLES = registry(
    ("training_step", training_step, ""),
    ("model_arithmetic", model_arithmetic,
     "python benchmarks/model_arithmetic.py --threads 1 2"),
    ("step_parts", step_parts, ""),
    ("published_speed", published_speed, ""),
    ("protein_step", protein_step, ""),
    ("protein_step_parts", protein_step_parts, "python benchmarks/protein_step.py"),
)  # fmt: skip
