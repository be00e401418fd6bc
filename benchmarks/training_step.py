"""What a training step costs: compiled passes and operators against twins, the state's order.

Prints two tables and writes benchmarks/results/training_step.{csv,png}:

1. one whole training step (energy, forces on atoms and surrounding charges, loss, backward, Adam)
   in compiled passes; by autograd's graph with the compiled operators and split first layers;
   and by the graph of the same model with the torch twins of the edge operators, with
   concatenated inputs of the edge networks, with both, and with every operator in torch;
2. the same step in compiled passes for anisotropic states of order 0, 1, 2 and 3.

All variants take turns in one process, so that a drift of the machine's speed hits all alike.
"""

import argparse
import time

import numpy as np
import torch
from _output import write_picture, write_table

from gnn import AMP, Frame, System
from gnn.data import collate, prepare
from gnn.options import Network

WHOLE = Network(split=False)
VARIANTS: dict[str, dict] = {
    "passes": {},
    "compiled": {"graph": True},
    "torch edges": {"edges": "torch"},
    "not split": {"network": WHOLE},
    "torch edges, not split": {"edges": "torch", "network": WHOLE},
    "torch everything": {"backend": "torch", "network": WHOLE},
}


def molecule(rng: np.random.Generator, atoms: int, particles: int) -> Frame:
    """Return a compact cluster of atoms at bond-like distances in a shell of charges."""
    grid = 1.45 * (np.indices((4, 4, 4)).reshape(3, -1).T - 1.5)
    grid = grid[np.argsort(np.linalg.norm(grid + 0.1, axis=1))][:atoms]
    positions = grid + rng.uniform(-0.15, 0.15, grid.shape)
    directions = rng.standard_normal((particles, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    radii = rng.uniform(5.5**3, 12.0**3, particles) ** (1 / 3)
    charges = np.resize([-0.834, 0.417, 0.417], particles)
    numbers = rng.choice([1, 1, 6, 7, 8], atoms)
    system = System(numbers, positions, 0, directions * radii[:, None], charges)
    zeros = np.zeros_like
    return Frame(system, 0.0, zeros(positions), zeros(system.mm_positions), np.zeros(3))


def batch_of(model: AMP, size: int, atoms: int, particles: int):
    rng = np.random.default_rng(0)
    frames = [molecule(rng, atoms, particles) for _ in range(size)]
    return collate([prepare(frame, model.cutoff, local_charges=None) for frame in frames])


def step(model: AMP, batch, optimizer) -> None:
    optimizer.zero_grad()
    out = model(batch, forces=True, mm_forces=True, create_graph=True)
    loss = (out["energy"] - batch.energy).square().mean()
    loss = loss + (out["forces"] - batch.forces).square().mean()
    loss = loss + 100 * (out["mm_forces"] - batch.mm_forces).square().mean()
    loss.backward()
    optimizer.step()


def in_turns(tasks: dict, repeats: int) -> dict[str, np.ndarray]:
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for round_ in range(repeats + 3):
        for name, task in tasks.items():
            start = time.process_time()
            task()
            if round_ >= 3:
                times[name].append(time.process_time() - start)
    return {name: np.array(values) * 1e3 for name, values in times.items()}


def task_for(options: dict, *where: int):
    torch.manual_seed(0)
    model = AMP(**{k: v for k, v in options.items() if k not in ("edges", "graph")})
    if options.get("graph"):
        model._learning = lambda *_: None
    for message_step in model.steps:
        message_step.backend = options.get("edges", model.backend)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, fused=True)
    batch = batch_of(model, *where)
    return lambda: step(model, batch, optimizer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--atoms", type=int, default=20)
    parser.add_argument("--particles", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    where = arguments.batch, arguments.atoms, arguments.particles
    repeats = arguments.repeats
    fused = in_turns({k: task_for(o, *where) for k, o in VARIANTS.items()}, repeats)
    orders = in_turns({f"order {k}": task_for({"order": k}, *where) for k in range(4)}, repeats)
    rows = []
    for times, base in ((fused, "compiled"), (orders, "order 0")):
        for name, values in times.items():
            ratio = np.median(values / times[base])
            rows.append((name, values.min(), np.median(values), ratio))
    edges = len(batch_of(AMP(), *where).senders)
    print(
        f"training step: batch of {where[0]} molecules, {where[1]} atoms and {where[2]} charges "
        f"each, {edges} edges, float32, {arguments.threads} thread(s)"
    )
    print(f"{'variant':>24} {'min / ms':>9} {'median':>9} {'ratio':>7}")
    for name, low, median, ratio in rows:
        print(f"{name:>24} {low:9.2f} {median:9.2f} {ratio:7.2f}")
    print("ratio: to 'compiled', the graph with compiled operators, and to 'order 0'")
    table = [(n, f"{a:.3f}", f"{b:.3f}", f"{r:.3f}") for n, a, b, r in rows]
    write_table("training_step", ["variant", "min_ms", "median_ms", "ratio"], table)
    draw(rows)


def draw(rows) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=[5, 4])
    for axis, part, title in (
        (axes[0], rows[: len(VARIANTS)], "compiled against torch twins"),
        (axes[1], rows[len(VARIANTS) :], "order of the anisotropic state"),
    ):
        names, medians = [r[0].replace(" ", "\n") for r in part], [r[2] for r in part]
        bars = axis.bar(names, medians, color=["#2a6f97", *["#a9d6e5"] * (len(part) - 1)])
        axis.bar_label(bars, [f"{r[3]:.2f}×" for r in part], padding=2)
        axis.set(title=title, ylabel="training step / ms", ylim=(0, 1.15 * max(medians)))
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    write_picture("training_step", figure)


if __name__ == "__main__":
    main()
