"""``python -m fmm``: check plans against direct sums, time them, compile kernels beforehand."""

import argparse
import itertools
import os
import subprocess
import sys
from pathlib import Path

# BLAS and OpenMP read these when they are loaded
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status: 1 if a tolerance was missed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    if options.command == "validate":
        return _validate(options)
    if options.command == "warmup":
        return _warmup(options)
    if any(os.environ.get(name) != value for name, value in _ONE_THREAD.items()):
        command = [sys.executable, "-m", "fmm", *arguments]
        return subprocess.call(command, env=os.environ | _ONE_THREAD)
    return _bench(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fmm", description="Fast multipole method on the CPU."
    )
    commands = parser.add_subparsers(dest="command")
    check = commands.add_parser("validate", help="compare plans with direct sums")
    check.add_argument("--n", type=int, default=100_000, help="number of points")
    check.add_argument("--distribution", default="uniform", help="a name, or several with commas")
    check.add_argument("--all", action="store_true", help="all distributions")
    check.add_argument("--tolerance", default="1e-6", help="a number, or several with commas")
    check.add_argument("--source-order", type=int, default=0, help="of the moments")
    check.add_argument("--order", type=int, default=1, help="of the field's highest derivatives")
    check.add_argument("--channels", type=int, default=1)
    check.add_argument("--dtype", choices=["float32", "float64"], default="float64")
    check.add_argument("--seed", type=int, default=0)
    check.add_argument("--threads", type=int, help="default: all cores")
    check.add_argument("--cell", help="in a cell: one edge, three, or nine numbers, with commas")
    check.add_argument("--periodic", default="xyz", help="which directions repeat: xyz, xy, x, …")
    check.add_argument(
        "--method", default="auto", help="in a cell: fmm, mesh or ewald, several with commas; auto"
    )
    check.add_argument("--verbose", action="store_true", help="print what the plans chose")
    time = commands.add_parser("bench", help="time plans beside fmm3dpy, on one thread")
    time.add_argument("--n", type=int, help="number of points of the table (100000; quick: 20000)")
    time.add_argument("--periodic", action="store_true", help="sums in a cell instead")
    time.add_argument("--quick", action="store_true", help="fewer points and repeats")
    time.add_argument("--csv", type=Path, help="where to write what was measured")
    time.add_argument("--plot", type=Path, help="where to write the picture")
    warm = commands.add_parser("warmup", help="compile kernels before they are needed")
    warm.add_argument("--source-order", default="0", help="of the moments; several with commas")
    warm.add_argument("--order", default="1", help="of the field; several with commas")
    warm.add_argument("--dtype", default="float64,float32", help="one, or several with commas")
    warm.add_argument("--device", default="cpu", help="cpu, or cuda for the kernels of a GPU")
    return parser


def _warmup(options: argparse.Namespace) -> int:
    from fmm.warmup import warmup

    try:
        warmup(
            [int(text) for text in options.source_order.split(",")],
            [int(text) for text in options.order.split(",")],
            options.dtype.split(","),
            lambda line: print(line, flush=True),
            options.device,
        )
    except (TypeError, ValueError) as error:
        print(f"python -m fmm warmup: {error}", file=sys.stderr)
        return 2
    return 0


def _validate(options: argparse.Namespace) -> int:
    import multipoles

    if options.cell is not None:
        return _validate_cell(options)
    from fmm.distributions import DISTRIBUTIONS
    from fmm.validation import details, header, line, validate

    names = options.distribution.split(",")
    if options.all or names == ["all"]:
        names = list(DISTRIBUTIONS)
    missed = 0
    try:
        if options.threads is not None:
            multipoles.set_num_threads(options.threads)
        tolerances = [float(text) for text in options.tolerance.split(",")]
        print("relative L2 error per output order, seconds, most memory so far")
        print(header(options.order))
        for name in names:
            for tolerance in tolerances:
                result = validate(
                    name, options.n, tolerance, options.source_order, options.order,
                    options.channels, options.dtype, options.seed,
                )  # fmt: skip
                missed += not result.kept
                print(line(result), flush=True)
                if options.verbose:
                    print(f"{result.report}\n{details(result)}\n", flush=True)
    except ValueError as error:
        print(f"python -m fmm validate: {error}", file=sys.stderr)
        return 2
    print(f"{missed} missed" if missed else "all tolerances kept")
    return 1 if missed else 0


def _validate_cell(options: argparse.Namespace) -> int:
    import multipoles
    from fmm import validation_cell as cells

    missed = 0
    names = "liquid" if options.distribution == "uniform" else options.distribution
    try:
        if options.threads is not None:
            multipoles.set_num_threads(options.threads)
        cell = cells.cell_of_text(options.cell)
        periodic = cells.periodic_of_text(options.periodic)
        print("relative L2 error per output order against Ewald sums, theirs against a slow twin")
        print(cells.header(options.order))
        kinds = itertools.product(
            names.split(","), map(float, options.tolerance.split(",")), options.method.split(",")
        )
        for name, tolerance, method in kinds:
            result = cells.validate_cell(
                options.n, tolerance, cell, periodic, options.source_order, options.order,
                name, method, options.seed,
            )  # fmt: skip
            missed += not result.kept
            print(cells.line(result), flush=True)
    except (TypeError, ValueError) as error:
        print(f"python -m fmm validate: {error}", file=sys.stderr)
        return 2
    print(f"{missed} missed" if missed else "all tolerances kept")
    return 1 if missed else 0


def _bench(options: argparse.Namespace) -> int:
    import multipoles
    from fmm import bench

    multipoles.set_num_threads(1)
    if options.periodic:
        from fmm import bench_periodic

        bench_periodic.main(options.quick, options.csv)
        return 0
    n = options.n or (20_000 if options.quick else 100_000)
    bench.main(n, options.quick, options.csv, options.plot)
    return 0


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # pipes under Windows have no →
        sys.stdout.reconfigure(errors="replace")
    sys.exit(main())
