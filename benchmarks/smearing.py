"""Charges inside the electron density: the surroundings' field with smearing and without.

Trains on acetate and methylammonium in water, each alone, with and without the smeared field, with
the same number of steps; the errors of the energy on training frames tell what the model cannot
express, those on held-out runs what it has learned. Prints a table; writes
benchmarks/results/smearing.csv. About eight minutes on one core.
"""

import argparse

from _experiments import ERRORS, Table, errors, first_frames, settings, train

from gnn.data import split_by_run

NAMES = {"oac": "acetate", "mam": "methylammonium"}
CHOICES = {"none": [], "1.2": [1.2]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true")
    arguments = parser.parse_args()
    frames = first_frames()
    table = Table("smearing", ("molecule", "smearing", "steps", "seed", "on"), ERRORS,
                  arguments.fresh)  # fmt: skip
    for name in NAMES:
        training, _, test = split_by_run([f for f in frames if f.name == name])
        for label, smearing in CHOICES.items():

            def compute(smearing=smearing, training=training, test=test):
                config = settings(
                    arguments.steps, len(training), {"surroundings": {"smearing": smearing}},
                    training={"seed": arguments.seed},
                )  # fmt: skip
                model, _ = train(config, training)
                for on, part in (("training", training), ("test", test)):
                    yield {"on": on} | errors(model.evaluate(part), part)

            table.fill((name, label, arguments.steps, arguments.seed), compute)
    print("\nenergy MAE / meV, RMSE of QM and MM forces / meV/Å")
    for name, title in NAMES.items():
        for label in CHOICES:
            for on in ("training", "test"):
                where = {"molecule": name, "smearing": label, "on": on, "steps": arguments.steps}
                columns = ("energy_mae", "forces_rmse", "mm_forces_rmse")
                e, f, m = (table.value(c, **where) for c in columns)
                print(
                    f"{title:>15}, smearing {label:>4}, {on:>8} frames {e:7.1f} {f:7.1f} {m:6.2f}"
                )


if __name__ == "__main__":
    main()
