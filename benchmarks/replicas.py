"""Replicas that meet at one batched call of the model, beside runs one after the other.

    python benchmarks/replicas.py                      # methanol, the box and the model that ship
    python benchmarks/replicas.py --box BOX --model AMP_BMS --atoms 22 --name alanine

Steps of NVT dynamics with the settings of `anisole md`, on the cores that the process may use:
eight replicas in two circles and in one, a run alone, and the force field alone. For each the
shortest of several repeats, wall time and processor time of one step of one replica: on a busy
machine the second is the more honest. Beside them what a batch of eight costs the model for each.
Writes benchmarks/results/replicas.csv.
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _output import read_table, write_table

import multipoles
from gnn.data.joining import joined
from gnn.engines.boxes.amber import amber_box
from gnn.engines.boxes.box import write_box
from gnn.engines.boxes.shipped import methanol_in_water
from gnn.engines.embedding.together import Together
from gnn.engines.runs.dynamics import Run
from gnn.engines.runs.settings import Settings
from gnn.training.checkpoint import load_described

COLUMNS = ("system", "what", "replicas", "wall_ms", "processor_ms", "cores")


def simulations(arguments, folder: Path, count: int, classical: bool) -> tuple[list, list]:
    """Return simulations in the start geometry, and their embeddings."""
    model = None if classical else loaded(arguments.model)
    settings = {"classical": classical, "platform": "CPU", "threads": 1, "equilibration": 0}
    embeddings: list[Any] = []
    made = []
    for seed in range(count):
        run = Run(folder, Settings(steps=1, seed=seed, **settings), model,
                  range(arguments.atoms), say=lambda _: None)  # fmt: skip
        run.embedded = embeddings.append
        simulation = run._simulation(resume=False)
        simulation.context.setPositions(0.1 * run.box.positions)
        simulation.context.setVelocitiesToTemperature(300, seed + 1)
        made.append(simulation)
    return made, embeddings


def loaded(path: str | None) -> Any:
    if path is None or path.endswith(".pt"):
        return load_described(path)
    from gnn.published import load_amp_bms

    return load_amp_bms(path)


def side_by_side(made: list, steps: int) -> None:
    threads = [threading.Thread(target=one.step, args=(steps,)) for one in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def timed(function: Callable[[], Any], steps: int, repeats: int) -> tuple[float, float]:
    """Return the shortest wall and processor times of a step in ms."""
    function()
    best = [float("inf")] * 2
    for _ in range(repeats):
        before = time.perf_counter(), time.process_time()
        function()
        after = time.perf_counter(), time.process_time()
        spent = (1e3 * (b - a) / steps for a, b in zip(before, after, strict=True))
        best = [min(pair) for pair in zip(best, spent, strict=True)]
    return best[0], best[1]


def meet(embeddings: list, alone: list, number: int) -> None:
    """Let embeddings be evaluated in circles, or alone where `number` is 0."""
    for embedding, evaluate in zip(embeddings, alone, strict=True):
        embedding.evaluate = evaluate
    for i in range(number):
        own = embeddings[i::number]
        together = Together(len(own))
        for member, embedding in enumerate(own):
            together.attach(member, embedding)


def measure(arguments, folder: Path) -> list[tuple]:
    steps, repeats, count = arguments.steps, arguments.repeats, arguments.replicas
    cores = len(os.sched_getaffinity(0))
    classical, _ = simulations(arguments, folder, 1, True)
    made, embeddings = simulations(arguments, folder, count, False)
    alone = [embedding.evaluate for embedding in embeddings]
    batches: list[Any] = []
    embeddings[0].evaluate = lambda batch: batches.append(batch) or alone[0](batch)
    made[0].step(1)
    joint = joined(batches[-1:] * count)
    rows = [("force field alone", 1, timed(lambda: classical[0].step(steps), steps, repeats))]
    meet(embeddings, alone, 0)
    rows.append(("a run alone", 1, timed(lambda: made[0].step(steps), steps, repeats)))
    for number in (1, 2):
        meet(embeddings, alone, number)
        spent = timed(lambda: side_by_side(made, steps), steps * count, repeats)
        rows.append((f"{number} circle{'s' * (number > 1)}", count, spent))
    for name, batch, size in (("model alone", batches[-1], 1), ("model in a batch", joint, count)):
        spent = timed(lambda batch=batch: alone[0](batch), size, 3 * repeats)
        rows.append((name, size, spent))
    return [
        (arguments.name, what, size, f"{wall:.2f}", f"{spent:.2f}", cores)
        for what, size, (wall, spent) in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--box", type=Path, help="folder with solute.prmtop and solute.rst7")
    parser.add_argument("--model", help="checkpoint, or the published weights of AMP-BMS")
    parser.add_argument("--atoms", type=int, default=6, help="first atoms, which it computes")
    parser.add_argument("--name", default="methanol")
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    multipoles.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        box = (
            methanol_in_water()
            if arguments.box is None
            else amber_box(arguments.box / "solute.prmtop", arguments.box / "solute.rst7")
        )
        write_box(Path(folder), box)
        rows = measure(arguments, Path(folder))
    kept = [tuple(r.values()) for r in read_table("replicas") if r["system"] != arguments.name]
    write_table("replicas", COLUMNS, [*kept, *rows])
    for row in rows:
        print(*row)


if __name__ == "__main__":
    main()
