"""Does direction pay, and what does it cost? States of order 0, 1, 2, 3 at equal parameters.

Trains one model for all shipped molecules per order and number of training frames, with the same
number of optimisation steps and nearly the same number of parameters (narrower layers for higher
orders), and tests on the held-out molecular-dynamics runs. Then times training steps of the four
models side by side. Prints a table; writes benchmarks/results/direction{,_time}.csv and .png. Runs
that are in the CSV already are not repeated; --fresh repeats them. About half an hour on one core.
"""

import argparse
import time
from functools import partial

import numpy as np
import torch
from _experiments import (
    ERRORS,
    Table,
    errors,
    first_frames,
    learning_curves,
    of_size,
    settings,
    thinned,
    train,
)
from _output import pyplot, write_picture

from gnn.data import collate, prepare, split_by_run
from gnn.training.config import LossConfig
from gnn.training.loss import weighted_loss
from gnn.training.setup import build_model

ORDERS = (0, 1, 2, 3)
COLORS = ("#9aa5b1", "#61a5c2", "#01497c", "#e07a5f")


def options(order: int, parameters: int) -> dict:
    return of_size(parameters, order=order)


def time_steps(training, parameters: int, repeats: int = 20) -> dict[int, float]:
    """Return milliseconds of a training step per order, taken in turns."""
    torch.set_num_threads(1)
    tasks = {}
    for order in ORDERS:
        model = build_model(settings(1, len(training), options(order, parameters)), training)
        batch = collate([prepare(f, model.cutoff) for f in thinned(training, 8)])
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
        tasks[order] = model, batch, optimizer
    times: dict[int, list[float]] = {order: [] for order in ORDERS}
    for _ in range(repeats):
        for order, (model, batch, optimizer) in tasks.items():
            start = time.perf_counter()
            output = model(batch, forces=True, mm_forces=True, create_graph=True)
            optimizer.zero_grad()
            weighted_loss(output, batch, LossConfig()).backward()
            optimizer.step()
            times[order].append(1e3 * (time.perf_counter() - start))
    return {order: float(np.min(values[3:])) for order, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--frames", type=int, nargs="+", default=[60, 180, 730])
    parser.add_argument("--parameters", type=int, default=120_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true")
    arguments = parser.parse_args()
    everything, _, test = split_by_run(first_frames())
    table = Table("direction", ("order", "frames", "steps", "seed"), ("parameters", *ERRORS),
                  arguments.fresh)  # fmt: skip
    for frames in arguments.frames:
        for order in ORDERS:
            key = order, frames, arguments.steps, arguments.seed

            def compute(order=order, frames=frames):
                training = thinned(everything, frames)
                chosen = options(order, arguments.parameters)
                config = settings(
                    arguments.steps, len(training), chosen, training={"seed": arguments.seed}
                )
                model, _ = train(config, training)
                size = sum(p.numel() for p in model.parameters())
                return [{"parameters": size} | errors(model.evaluate(test), test)]

            table.fill(key, compute)
    times = Table("direction_time", ("order",), ("step_ms", "ratio"), True)
    measured = time_steps(everything, arguments.parameters)
    for order, value in measured.items():
        row = {"step_ms": round(value, 2), "ratio": round(value / measured[0], 3)}
        times.fill((order,), lambda row=row: [row])
    report(table, measured, arguments)
    draw(table, measured, arguments)


def report(table: Table, times: dict[int, float], arguments) -> None:
    print(f"\nErrors on held-out runs after {arguments.steps} steps: energy MAE / meV, RMSE of QM "
          "and MM forces / meV/Å")  # fmt: skip
    print("frames  " + "".join(f"{f'order {order}':>22}" for order in ORDERS))
    for frames in arguments.frames:
        cells = []
        for order in ORDERS:
            where = {"order": order, "frames": frames, "steps": arguments.steps}
            names = ("energy_mae", "forces_rmse", "mm_forces_rmse")
            e, f, m = (table.value(name, **where) for name in names)
            cells.append(f"{e:8.1f} {f:6.1f} {m:6.2f}")
        print(f"{frames:6d}  " + "".join(cells))
    print("step/ms " + "".join(f"{times[o]:12.1f} ({times[o] / times[0]:.2f}×)" for o in ORDERS))


def draw(table: Table, times: dict[int, float], arguments) -> None:
    if (plt := pyplot()) is None:
        return
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.4))

    def values(order: int, column: str) -> list[float]:
        return [
            table.value(column, order=order, frames=n, steps=arguments.steps)
            for n in arguments.frames
        ]

    curves = {
        f"order {order}": (color, partial(values, order))
        for order, color in zip(ORDERS, COLORS, strict=True)
    }
    learning_curves(axes[:3], arguments.frames, curves)
    axes[0].legend(frameon=False)
    bars = axes[3].bar([f"order {o}" for o in ORDERS], list(times.values()), color=COLORS)
    axes[3].bar_label(bars, [f"{t / times[0]:.2f}×" for t in times.values()], padding=2)
    axes[3].set(title="training step / ms", ylim=(0, 1.15 * max(times.values())))
    axes[3].spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    write_picture("direction", figure)


if __name__ == "__main__":
    main()
