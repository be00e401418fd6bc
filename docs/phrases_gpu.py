"""Phrases of the page of the GPU that quote a figure; see `phrases`."""

from benchmark_tables import read, select


def gpu() -> list[str]:
    """Return launches and host time of a plan, as the emulator and the stub driver count them."""
    parts = {
        "plan": "a plan",
        "evaluation": "an evaluation, kernel by kernel",
        "evaluation, replayed": "an evaluation, replayed",
        "rebuilt and evaluated": "a plan rebuilt and evaluated",
        "plan, errors measured, evaluation": "a plan, and an evaluation that measures errors",
    }
    rows = []
    for step, words in parts.items():
        row = select(read("gpu_launches"), state="now", step=step)
        graphs = " and a graph" if row["graphs"] == "1" else ""
        rows.append(
            f"| {words} | {row['launches']}{graphs} | {row['copies']} | {row['waits']} | "
            f"{float(row['host_milliseconds']):.1f} ms |"
        )
    return rows
