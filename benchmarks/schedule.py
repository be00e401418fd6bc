"""How best to spend the steps of the demonstration: schedule, loss, and shape of the network.

    python benchmarks/schedule.py                       # go on where the last call ended
    python benchmarks/schedule.py --only "order 3"      # one variant
    python benchmarks/schedule.py --times               # what a step of each costs

Each variant is the configuration of `anisole demo`, as it was before, with something changed. It is
trained for a number of steps, not of seconds, and tested on the runs that the demonstration tests
on, with one seed: differences of a tenth mean little. A step is timed on its own, all variants in
turns, since machines differ and training is interrupted. Two minutes of one core for each run of
4000 steps. Writes benchmarks/results/schedule{,_time}.csv.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

import torch
import yaml
from _experiments import ERRORS, FOUR, Table, errors, thinned, train

from gnn.training.config import Config, parse_config
from gnn.training.frames.load import load_splits
from gnn.training.loop import Trainer
from gnn.training.setup import build_model

#: Sections of demo.yaml as they were before this benchmark.
BEFORE = {"model": {"order": 2}, "training": {"optimizer": "adamw"}}
#: Changes to that.
VARIANTS: dict[str, dict[str, Any]] = {
    "as it was": {},
    "rate 4e-3": {"training": {"learning_rate": 4e-3}},
    "batch 4": {"training": {"batch_size": 4}},
    "with vacuum": {"data": {"vacuum": True}},
    "energies 10": {"loss": {"energy": 10.0}},
    "order 3": {"model": {"order": 3}},
    "order 3, batch 4": {"model": {"order": 3}, "training": {"batch_size": 4}},
    "Muon": {"training": {"optimizer": "muon"}},
    "Muon, order 3": {"model": {"order": 3}, "training": {"optimizer": "muon"}},
    "Muon, rate 4e-3, order 3": {
        "model": {"order": 3},
        "training": {"optimizer": "muon", "learning_rate": 4e-3},
    },
}
#: Runs besides those of all variants: how errors fall with steps.
MORE = [("as it was", 4000), ("Muon, order 3", 1000)]
OWN = tuple(f"forces_rmse_{name}" for name in FOUR)
_TIMED = 10  # steps at a time
KEYS, COLUMNS = ("variant", "steps", "seed"), ("parameters", *ERRORS, *OWN)


def configured(changes: dict[str, Any], seed: int = 0) -> Config:
    """Return the demonstration's configuration with changes, without its clock."""
    content = yaml.safe_load(files("gnn.training").joinpath("demo.yaml").read_text())
    del content["training"]["time_limit"]
    for settings in (BEFORE, changes):
        for section, values in settings.items():
            content.setdefault(section, {}).update(values)
    content["training"] |= {"seed": seed, "validate_every": 100_000}
    return parse_config(content, "demo.yaml")


def of_length(config: Config, steps: int, frames: int) -> Config:
    """Return a configuration of about so many steps of eight frames.

    With batches of another size as many frames are seen.
    """
    content = config.model_dump(exclude_unset=True)
    content["training"]["epochs"] = max(1, round(8 * steps / frames))
    return parse_config(content)


def run(changes: dict[str, Any], steps: int, seed: int) -> dict[str, Any]:
    """Train and return errors on the test runs in meV and meV/Å."""
    config = configured(changes, seed)
    training, _, test = load_splits(config.data)
    model, _ = train(of_length(config, steps, len(training)), training)
    results = model.evaluate(test)
    own = {f"forces_rmse_{name}": errors(results, test, name)["forces_rmse"] for name in FOUR}
    size = sum(p.numel() for p in model.parameters())
    return {"parameters": size} | errors(results, test) | own


def stepper(changes: dict[str, Any]) -> Callable[[], Any]:
    """Return what takes a few training steps."""
    config = configured(changes)
    training = load_splits(config.data)[0]
    chosen = thinned(training, _TIMED * config.training.batch_size)
    trainer = Trainer(build_model(config, training), config, chosen)
    return lambda: trainer.run(max_epochs=1)


def time_steps(repeats: int) -> dict[str, float]:
    """Return milliseconds of processor time of a step of each variant, taken in turns."""
    torch.set_num_threads(1)
    ways = {name: stepper(changes) for name, changes in VARIANTS.items()}
    best = dict.fromkeys(ways, float("inf"))
    for turn in range(1 + repeats):
        for name, way in ways.items():
            start = time.process_time()
            way()
            taken = 1e3 * (time.process_time() - start) / _TIMED
            best[name] = min(best[name], taken) if turn else best[name]
    return best


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Print the errors, and those of acetate and acetic acid by themselves."""
    shown = ("energy_mae", "forces_rmse", "mm_forces_rmse", *OWN)
    print(f"{'':>22} {'steps':>6} {'seed':>4} " + " ".join(f"{name[-11:]:>11}" for name in shown))
    for row in rows:
        numbers = " ".join(f"{float(row[name]):11.2f}" for name in shown)
        print(f"{row['variant']:>22} {row['steps']:>6} {row['seed']:>4} {numbers}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="VARIANT", choices=VARIANTS)
    parser.add_argument("--times", action="store_true", help="time steps instead of training")
    parser.add_argument("--repeats", type=int, default=5, help="of the timing")
    parser.add_argument("--fresh", action="store_true")
    arguments = parser.parse_args()
    if arguments.times:
        times = Table("schedule_time", ("variant",), ("step_ms", "ratio"), fresh=True)
        measured = time_steps(arguments.repeats)
        for name, taken in measured.items():
            ratio = taken / next(iter(measured.values()))
            row = {"step_ms": round(taken, 2), "ratio": round(ratio, 3)}
            times.fill((name,), lambda row=row: [row])
        return
    table = Table("schedule", KEYS, COLUMNS, arguments.fresh)
    wanted = [*((name, arguments.steps) for name in VARIANTS), *MORE]
    if arguments.only:
        wanted = [(name, arguments.steps) for name in arguments.only]
    for name, steps in wanted:

        def compute(changes=VARIANTS[name], steps=steps) -> list[dict[str, Any]]:
            return [run(changes, steps, arguments.seed)]

        table.fill((name, steps, arguments.seed), compute)
    report(table.rows)


if __name__ == "__main__":
    main()
