"""The first thing to try on one's own level of theory: `anisole train --from amp-bms`, 60 frames.

    python benchmarks/start_by_name.py [--from amp-bms]

Writes 60 of the frames that shipped first to a file and the held-out runs to another, calls the
command as a user would, and reads the errors that it wrote. Of the 60 frames a tenth is held out to
choose the weights. Prints a row; writes benchmarks/results/start_by_name.csv. Without a network,
let ANISOLE_MODELS name a folder with the published file.
"""

import argparse
import csv
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from _experiments import first_frames, thinned
from _output import write_table

from gnn.cli import main as anisole
from gnn.data import split_by_run, write_frames

COLUMNS = ("frames", "tested", "steps", "seconds", "energy_mae", "forces_rmse", "mm_forces_rmse")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="start", default="amp-bms", metavar="MODEL")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=200)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        row = measure(Path(folder), arguments)
    write_table("start_by_name", COLUMNS, [row])
    print(row)


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, str]:
    everything, _, test = split_by_run(first_frames())
    write_frames(folder / "mine.h5", thinned(everything, arguments.frames))
    write_frames(folder / "test.h5", test)
    config = {
        "data": {"train": str(folder / "mine.h5"), "test": str(folder / "test.h5")},
        "training": {"epochs": arguments.epochs, "threads": 1},
        "output": str(folder / "run"),
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    call = ["train", str(folder / "mine.yaml"), "--from", arguments.start, "--no-blind"]
    started = time.process_time()
    if anisole(call) != 0:
        raise SystemExit("the training failed")
    seconds = time.process_time() - started  # of one core, whatever else the machine does
    last = rows(folder / "run" / "log.csv")[-1]
    (of_all,) = (r for r in rows(folder / "run" / "errors.csv") if r["molecule"] == "all")
    return {
        "frames": str(arguments.frames),
        "tested": str(len(test)),
        "steps": last["step"],
        "seconds": f"{seconds:.0f}",
        **{name: f"{float(of_all[name]):.3f}" for name in COLUMNS[4:]},
    }


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


if __name__ == "__main__":
    main()
