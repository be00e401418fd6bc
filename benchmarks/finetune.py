"""Fine-tuning published weights beside training from scratch: learning curves.

    python benchmarks/finetune.py [--from amp-bms]

Starts from the published AMP-BMS model (another level of theory: only a constant per element and
charge is fitted first, which is the row of 0 steps), and from random weights of this package's
model, on the same frames of all shipped molecules and with the same number of steps, and tests on
the held-out molecular-dynamics runs. Prints a table; writes
benchmarks/results/finetune.{csv,png}. Runs that are in the CSV already are not repeated.
"""

import argparse

from _experiments import (
    ERRORS,
    Table,
    errors,
    first_frames,
    learning_curves,
    settings,
    thinned,
    train,
)
from _output import pyplot, write_picture

from gnn.data import split_by_run
from gnn.training.setup import build_model

STARTS = ("published, as it is", "published, fine-tuned", "from scratch")
COLORS = ("#9aa5b1", "#e07a5f", "#01497c")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="start", default="amp-bms", metavar="CHECKPOINT")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate of fine-tuning")
    parser.add_argument("--frames", type=int, nargs="+", default=[60, 180, 730])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true")
    arguments = parser.parse_args()
    everything, _, test = split_by_run(first_frames())
    table = Table("finetune", ("start", "frames", "steps", "seed"), ERRORS, arguments.fresh)

    def run(start: str, frames: int):
        training = thinned(everything, frames)
        own: dict = {"seed": arguments.seed}
        more = {} if start == STARTS[2] else {"start": arguments.start}
        if start == STARTS[1]:
            own |= {"learning_rate": arguments.rate}
        config = settings(arguments.steps, len(training), training=own, **more)
        untrained = start == STARTS[0]
        model = build_model(config, training) if untrained else train(config, training)[0]
        return [errors(model.evaluate(test), test)]

    for frames in arguments.frames:
        for start in STARTS:
            steps = 0 if start == STARTS[0] else arguments.steps
            table.fill((start, frames, steps, arguments.seed), lambda s=start, n=frames: run(s, n))
    report(table, arguments)
    draw(table, arguments)


def values(table: Table, column: str, start: str, arguments) -> list[float]:
    steps = 0 if start == STARTS[0] else arguments.steps
    return [
        table.value(column, start=start, frames=n, steps=steps, seed=arguments.seed)
        for n in arguments.frames
    ]


def report(table: Table, arguments) -> None:
    print("\nErrors on held-out runs: energy MAE / meV, RMSE of QM and MM forces / meV/Å")
    print("frames".rjust(24) + "".join(f"{n:>24}" for n in arguments.frames))
    columns = ("energy_mae", "forces_rmse", "mm_forces_rmse")
    for start in STARTS:
        found = zip(*(values(table, c, start, arguments) for c in columns), strict=True)
        cells = "".join(f"{e:10.1f} {f:7.1f} {m:5.2f}" for e, f, m in found)
        print(start.rjust(24) + cells)


def draw(table: Table, arguments) -> None:
    if (plt := pyplot()) is None:
        return
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4))
    curves = {
        start: (color, lambda column, start=start: values(table, column, start, arguments))
        for start, color in zip(STARTS, COLORS, strict=True)
    }
    learning_curves(axes, arguments.frames, curves)
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    write_picture("finetune", figure)


if __name__ == "__main__":
    main()
