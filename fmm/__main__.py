"""``python -m fmm``: check plans against direct sums, and time them."""

import argparse
import os
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fmm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("validate", help="compare plans with direct sums")
    check.add_argument("--n", type=int, default=100_000, help="number of points")
    check.add_argument(
        "--distribution", default="uniform", help="name, several with commas, or all"
    )
    check.add_argument("--tolerance", default="1e-6", help="number, or several with commas")
    check.add_argument("--source-order", type=int, default=0)
    check.add_argument("--order", type=int, default=1)
    check.add_argument("--channels", type=int, default=1)
    check.add_argument("--dtype", choices=["float32", "float64"], default="float64")
    check.add_argument("--threads", type=int, help="default: all cores")
    check.add_argument("--verbose", action="store_true", help="print what the plans chose")
    time = commands.add_parser("bench", help="time plans beside FMM3D (one thread)")
    time.add_argument("--n", type=int, default=100_000, help="number of points")
    time.add_argument("--quick", action="store_true", help="the table only, no plots")
    time.add_argument("--output", type=Path, help="folder for CSV files and the plot")
    options = parser.parse_args(arguments)
    return _validate(options) if options.command == "validate" else _bench(options)


def _validate(options: argparse.Namespace) -> int:
    import multipoles
    from fmm.distributions import DISTRIBUTIONS
    from fmm.validation import line, validate

    if options.threads:
        multipoles.set_num_threads(options.threads)
    names = list(DISTRIBUTIONS)
    if options.distribution != "all":
        names = options.distribution.split(",")
    unknown = [name for name in names if name not in DISTRIBUTIONS]
    if unknown:
        raise SystemExit(f"unknown distribution {unknown[0]}; there are {', '.join(DISTRIBUTIONS)}")
    orders = "  ".join(f"order {k}" for k in range(options.order + 1))
    print(f"{'':<13}{'points':>9} {'asked':>8}  {orders}")
    missed = 0
    for name in names:
        for tolerance in map(float, options.tolerance.split(",")):
            result = validate(
                name, options.n, tolerance, options.source_order, options.order,
                options.channels, options.dtype,
            )  # fmt: skip
            missed += not result.kept
            print(line(result), flush=True)
            if options.verbose:
                print(result.report, flush=True)
    print(f"{missed} missed" if missed else "all tolerances kept")
    return 1 if missed else 0


def _bench(options: argparse.Namespace) -> int:
    # FMM3D reads it when loaded
    os.environ["OMP_NUM_THREADS"] = "1"
    import multipoles
    from fmm import bench

    multipoles.set_num_threads(1)
    if bench.fmm3d() is None:
        print("fmm3dpy is not installed (pip install 'anisole[bench]'): no comparison")
    folder = options.output
    if folder is None:
        here = Path("benchmarks/results")
        folder = here if here.is_dir() else Path()
    lines = bench.table(options.n, lambda text: print(text, flush=True))
    bench.save_csv(folder / f"fmm_table_{options.n}.csv", lines)
    if not options.quick:
        show = lambda text: print(text, flush=True)  # noqa: E731
        sizes = bench.scaling([1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000], show)
        errors = bench.trade(100_000, show)
        bench.save_csv(folder / "fmm_scaling.csv", sizes)
        bench.save_csv(folder / "fmm_error_time.csv", errors)
        bench.draw(folder / "fmm.png", sizes, errors)
        print(f"wrote {folder / 'fmm.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
