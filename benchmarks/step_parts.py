"""What a step of the box that ships costs beside its model: ms of each part, and the force field.

    python benchmarks/step_parts.py [--version NAME] [--blocks 40]

Methanol in 368 TIP3P waters, steps of 0.5 fs, one thread, with charges cut off and with all images.
Parts are timed within steps, where the force field has filled the caches with its own numbers: the
least mean of blocks of steps, in processor time. Steps with the model, with springs in its place,
and with the force field alone take turns. Rows of other versions in results/step_parts.csv stay.
Needs the extra ``engines``.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from _output import read_table, write_table

import multipoles as mp
from gnn import load_model
from gnn.engines.boxes.shipped import methanol_in_water
from gnn.engines.embedding.embedding import Embedding
from gnn.engines.embedding.groups import Groups
from gnn.engines.embedding.periodic import Around
from gnn.engines.openmm import QMMMForce, create_system

NAME = "step_parts"
COLUMNS = ("version", "electrostatics", "part", "ms")
N = 6
STEPS = 10  # of a block
PARTS: dict[str, tuple[Any, str]] = {
    "call from OpenMM": (QMMMForce, "__call__"),
    "energy and forces": (Embedding, "energy_forces"),
    "charges near": (Embedding, "placed"),
    "forces on groups": (Groups, "forces"),
    "field of all images": (Around, "field"),
    "own images": (Around, "of_images"),
    "reaction": (Around, "reaction"),
}
SPRING = 20.0  # eV/Å²


class Timers:
    """Processor time in ms of functions, and how deep calls are in them, by part."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that adds its time to a part."""

        def run(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                spent = 1e3 * (time.process_time() - start)
                self.spent[part] = self.spent.get(part, 0.0) + spent

        return run

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time all parts within."""
        kept = {part: getattr(owner, name) for part, (owner, name) in PARTS.items()}
        for part, (owner, name) in PARTS.items():
            setattr(owner, name, self.timed(part, kept[part]))
        try:
            yield
        finally:
            for part, (owner, name) in PARTS.items():
                setattr(owner, name, kept[part])


def springs(embedding: Embedding, first: Any) -> Callable[[Any], dict[str, torch.Tensor]]:
    """Return what takes the place of the model: springs between atoms, and constants."""
    output = embedding.evaluate(first)
    long = {k: v.detach() for k, v in output.items()}
    more = {k: torch.cat([long[k]] * 4) for k in ("mm_forces", "mm_potential")}

    def lengths(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        apart = x[:, None] - x
        return apart, np.sqrt((apart**2).sum(-1)) + np.eye(len(x))

    rest = lengths(first.positions.double().numpy())[1]
    moments = 0.1 * np.random.default_rng(0).standard_normal((N, 10))

    def evaluate(batch: Any) -> dict[str, torch.Tensor]:
        x = batch.positions.double().numpy()
        if batch.between:
            batch.between[0].arrays(x, moments)
        apart, length = lengths(x)
        forces = (-SPRING * ((length - rest) / length)[:, :, None] * apart).sum(1)
        charges = {k: v[: batch.n_mm] for k, v in more.items()}
        return long | charges | {"forces": torch.from_numpy(forces)}

    return evaluate


def context_of(system: Any, box: Any) -> Any:
    """Return integrator and context of one thread."""
    import openmm
    from openmm import unit

    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.5 * unit.femtosecond)
    integrator.setRandomNumberSeed(1)
    platform = openmm.Platform.getPlatformByName("CPU")
    properties = {"Threads": "1", "DeterministicForces": "true"}
    context = openmm.Context(system, integrator, platform, properties)
    context.setPeriodicBoxVectors(*(0.1 * box.vectors))
    context.setPositions(0.1 * box.positions)
    context.setVelocitiesToTemperature(300, 1)
    return integrator, context


def measured(kind: str, blocks: int) -> dict[str, float]:
    """Return ms of a step, and of its parts, of one kind of electrostatics.

    All in one context, with the model's force group or without: the same force field takes up to a
    tenth more or less in another context.
    """
    box, kept = methanol_in_water(), []
    system = create_system(
        box.topology, box.system, range(N), load_model(), electrostatics=kind, prepare=kept.append
    )
    (embedding,) = kept
    timers, batches, model = Timers(), [], embedding.evaluate
    embedding.evaluate = lambda batch: batches.append(batch) or model(batch)
    embedding.energy_forces(box.positions, box.vectors)
    instead = timers.timed("model", springs(embedding, batches[0]))
    ways = {
        "with the model": (timers.timed("model", model), {0, 1}),
        "with springs": (instead, {0, 1}),
        "force field": (instead, {0}),
    }
    integrator, context = context_of(system, box)
    integrator.step(50)
    start = context.getState(positions=True, velocities=True)
    least: dict[str, float] = {}
    for _ in range(blocks):
        for name, (embedding.evaluate, groups) in ways.items():
            integrator.setIntegrationForceGroups(groups)
            context.setState(start)
            integrator.step(1)  # lists of neighbours, and caches of this way
            timers.spent = {}
            with timers.watching():
                begun = time.process_time()
                integrator.step(STEPS)
                found = {"step": 1e3 * (time.process_time() - begun)} | timers.spent
            for part, spent in found.items():
                key = f"{name}: {part}"
                least[key] = min(least.get(key, np.inf), spent / STEPS)
    return least


def parts_of(least: dict[str, float]) -> dict[str, float]:
    """Return parts that add up to a step, as far as least times of different blocks do."""
    of = {k.removeprefix("with springs: "): v for k, v in least.items() if "springs" in k}
    own = of.get("own images", 0.0)
    parts = {part: of[part] for part in PARTS if part in of and of[part] < of["energy and forces"]}
    rest = of["energy and forces"] - of["model"] - sum(parts.values()) + own
    alone, step = least["force field: step"], least["with the model: step"]
    without = of["step"] - of["model"] + own
    return {
        "force field alone, a step": alone,
        **parts,
        "tensors, chain rule, checks": rest,
        "all around the model": sum(parts.values()) + rest,
        "call from OpenMM": of["call from OpenMM"] - of["energy and forces"],
        "a step but for the model": without,
        "model": least["with the model: model"] - own,
        "a step": step,
        "a step over the force field": step / alone,
        "a step but for the model, over the force field": without / alone,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--version", default="now", help="name of these rows")
    parser.add_argument("--blocks", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    mp.set_num_threads(1)
    rows = []
    for kind in ("cutoff", "periodic"):
        for part, value in parts_of(measured(kind, arguments.blocks)).items():
            rows.append((arguments.version, kind, part, f"{value:.3f}"))
            print(*(f"{column:<12}" for column in rows[-1][:2]), f"{part:<48}{value:8.3f}")
    others = [
        tuple(row.values()) for row in read_table(NAME) if row["version"] != arguments.version
    ]
    print(f"written: {write_table(NAME, COLUMNS, [*others, *rows])}")


if __name__ == "__main__":
    main()
