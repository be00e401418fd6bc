"""``mpiexec -n 4 python -m fmm.distributed``: check sums over ranks, time them, predict them."""

import argparse
import contextlib
import os
import sys
from pathlib import Path

from fmm.distributed.ranks import Ranks


def main(arguments: list[str] | None = None, ranks: Ranks | None = None) -> int:
    """Run the command line on this rank; return the exit status, which is that of all ranks.

    1 if a tolerance was missed, 2 if the arguments are wrong. The first rank prints.
    """
    if ranks is None:
        from fmm.distributed.mpi import MpiRanks

        ranks = MpiRanks()
    parser = _parser()
    with contextlib.ExitStack() as stack:
        if ranks.rank > 0:
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        options = parser.parse_args(arguments)
        if options.command is None:
            parser.print_help()
            return 0
    commands = {"validate": _validate, "bench": _bench, "predict": _predict}
    try:
        return commands[options.command](options, ranks)
    except ValueError as error:
        _say(ranks, f"python -m fmm.distributed {options.command}: {error}", sys.stderr)
        return 2


def _say(ranks: Ranks, text: str, stream: object = None) -> None:
    """Print on the first rank."""
    if ranks.rank == 0:
        print(text, file=stream, flush=True)  # type: ignore[call-overload]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fmm.distributed", description="Fast multipole method over the ranks of MPI."
    )
    commands = parser.add_subparsers(dest="command")
    check = commands.add_parser("validate", help="compare with direct sums")
    check.add_argument("--n", type=int, default=20_000, help="points of all ranks together")
    check.add_argument("--tolerance", default="1e-6", help="a number, or several with commas")
    check.add_argument("--cases", default="all", help="names with commas; default: all")
    check.add_argument("--seed", type=int, default=0)
    check.add_argument("--threads", type=int, default=1, help="of each rank; default: 1")
    time = commands.add_parser("bench", help="seconds, messages and memory of each rank")
    time.add_argument("--n", type=int, default=200_000, help="points of all ranks together")
    time.add_argument("--weak", action="store_true", help="--n is the points of each rank")
    time.add_argument("--tolerance", type=float, default=1e-6)
    time.add_argument("--repeats", type=int, default=3)
    time.add_argument("--threads", type=int, default=1, help="of each rank; default: 1")
    time.add_argument("--json", type=Path, help="file to which the run is added, for a table")
    think = commands.add_parser("predict", help="what a run of evenly spread points would take")
    think.add_argument("--n", type=float, default=1e9, help="points of all ranks together")
    think.add_argument("--ranks", type=int, default=1000)
    think.add_argument("--tolerance", type=float, default=1e-6)
    think.add_argument("--latency", type=float, default=1.5, help="of a message, microseconds")
    think.add_argument("--bandwidth", type=float, default=12.0, help="of a rank, GB/s")
    return parser


def _set_threads(options: argparse.Namespace) -> None:
    import multipoles

    multipoles.set_num_threads(options.threads)


def _validate(options: argparse.Namespace, ranks: Ranks) -> int:
    from fmm.distributed.validation import chosen, header, line, validate

    names = chosen(options.cases)
    tolerances = [float(text) for text in options.tolerance.split(",")]
    if options.n < 1:
        raise ValueError(f"--n: expected at least one point, got {options.n}")
    _set_threads(options)
    _say(ranks, f"{ranks.size} rank{'s' * (ranks.size > 1)}: relative L2 error against direct sums")
    _say(ranks, header())
    failed = 0
    for name in names:
        for tolerance in tolerances:
            result = validate(ranks, name, options.n, tolerance, options.seed)
            failed += not result.kept
            _say(ranks, line(result))
    _say(ranks, f"{failed} FAILED" if failed else "all tolerances kept")
    return 1 if failed else 0


def _bench(options: argparse.Namespace, ranks: Ranks) -> int:
    from fmm.distributed import bench

    n = options.n * ranks.size if options.weak else options.n
    if n < ranks.size or options.repeats < 1:
        raise ValueError(
            f"--n, --repeats: expected at least one point of each of {ranks.size} ranks and one "
            f"repeat, got {options.n} and {options.repeats}"
        )
    _set_threads(options)
    row = bench.measure(ranks, n, options.tolerance, options.weak, options.repeats)
    if ranks.rank == 0:
        print(bench.details(row), flush=True)
        if options.json is not None:
            print(bench.table(bench.added(options.json, row)), flush=True)
    return 0


def _predict(options: argparse.Namespace, ranks: Ranks) -> int:
    from fmm.distributed import model

    network = model.Network(1e-6 * options.latency, 1e9 * options.bandwidth)
    found = model.predict(int(options.n), options.ranks, options.tolerance)
    _say(ranks, model.details(found, network))
    return 0


if __name__ == "__main__":
    sys.exit(main())
