"""The table of the versions that the tests have run with."""

from benchmark_tables import Table, read, registry


def support() -> Table:
    """Show versions and outcome of each session of nox."""
    packages = ("python", "numba", "numpy", "scipy", "torch", "h5py", "pydantic")
    rows = read("support")
    body = [
        [
            row["session"], f"{row['system']} {row['machine']}",
            *(row[name] or "–" for name in packages),
            row["passed"], row["failed"], row["skipped"],
        ]
        for row in rows
    ]  # fmt: skip
    return ["session", "system", *packages, "passed", "failed", "skipped"], body


TABLES = registry(("support", support, "nox -s oldest newest …"))
