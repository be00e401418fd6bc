"""The free energy of turning methanol's OH group in water, by umbrella sampling and MBAR.

    python benchmarks/umbrella.py [--steps 10000] [--folder runs/umbrella]

Twelve windows of the torsion H–C–O–H, 30 degrees apart, in the box that ships with the model that
ships: `anisole md --umbrella`, each window a replica. The methyl group has three equal hydrogens,
so the free energy must have three equal minima and three equal maxima. Goes on where it was
stopped. Writes the independent samples to benchmarks/results/umbrella_methanol.csv.
"""

import argparse
import csv
from pathlib import Path

from _output import RESULTS

from gnn.cli import main
from gnn.engines.runs.analysis import read_log
from gnn.engines.sampling.free_energy import independent

PLAN = """\
variables:
  phi: {torsion: [2, 0, 1, 5]}
umbrella:
  variable: phi
  centres: {from: -180, to: 150, count: 12}
  force_constant: 60
  pull: 0.5
"""


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--folder", type=Path, default=Path("runs/umbrella"))
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / "plan.yaml"
    plan.write_text(PLAN)
    resume = ["--resume"] * any(folder.glob("replica_*/checkpoint.npz"))
    options = {"--umbrella": plan, "--steps": arguments.steps, "--interval": 20, "--output": folder}
    options |= {"--checkpoint-interval": 500, "--platform": "CPU"}
    words = [str(word) for pair in options.items() for word in pair]
    assert main(["md", *words, *resume]) == 0
    assert main(["free-energy", str(folder)]) == 0
    rows = []
    for i in range(12):
        values = read_log(folder / f"replica_{i}" / "log.csv")["phi_deg"]
        centre = -180.0 + 30 * i
        kept = independent(values[len(values) // 10 :], centre, turns=True)
        rows += [(f"{centre:g}", f"{value:.2f}") for value in kept]
    with open(RESULTS / "umbrella_methanol.csv", "w", newline="") as file:
        csv.writer(file).writerows([("centre_deg", "phi_deg"), *rows])


if __name__ == "__main__":
    run()
