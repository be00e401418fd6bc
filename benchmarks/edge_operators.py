"""Time the fused edge operators against their plain-torch twins, as force training uses them.

Molecules of 20 atoms in a batch of 16, about 12 neighbours each: values, gradients that are
differentiated again, and the gradients of a loss on both. Prints a table and writes
``benchmarks/results/edge_operators_order{K}_channels{C}.csv``.

    python benchmarks/edge_operators.py [--order 2] [--channels 16] [--threads 2]
"""

import argparse
import time

import numpy as np
import torch
from _output import write_table

from gnn.operators.edges import anisotropic_state, pair_invariants
from multipoles import indexing
from multipoles.compiled.jit import set_num_threads

ATOMS, SYSTEMS, CUTOFF = 20, 16, 4.2


def molecules(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return senders, receivers (sorted) and unit vectors of the batch's edges."""
    rng = np.random.default_rng(seed)
    ends, vectors = [], []
    for system in range(SYSTEMS):
        # points at least 1.4 Å apart in a ball: the density of a small organic molecule
        points: list[np.ndarray] = []
        while len(points) < ATOMS:
            point = rng.uniform(-3.6, 3.6, 3)
            free = all(np.linalg.norm(point - other) > 1.4 for other in points)
            if free and np.linalg.norm(point) < 3.6:
                points.append(point)
        x = np.array(points)
        r = x[:, None] - x[None]
        distance = np.linalg.norm(r, axis=-1)
        receiver, sender = np.nonzero((distance < CUTOFF) & (distance > 0))
        ends.append(np.stack([sender, receiver], 1) + system * ATOMS)
        vectors.append(r[receiver, sender] / distance[receiver, sender, None])
    edges = torch.from_numpy(np.concatenate(ends))
    directions = torch.from_numpy(np.concatenate(vectors)).float()
    return edges[:, 0].contiguous(), edges[:, 1].contiguous(), directions


def training_step(operator, values: torch.Tensor, directions: torch.Tensor) -> dict[str, float]:
    """Run one step and return the seconds that its three parts took."""
    values, directions = values.clone().requires_grad_(), directions.clone().requires_grad_()
    clock = [time.perf_counter()]
    found = operator(values, directions)
    clock.append(time.perf_counter())
    # a fixed cotangent that needs a gradient, as the rest of a network gives
    weights = torch.cos(found.detach()).requires_grad_()
    start = time.perf_counter()
    gradients = torch.autograd.grad(found, (values, directions), weights, create_graph=True)
    clock.append(clock[-1] + time.perf_counter() - start)
    cotangents = [torch.sin(g.detach()) for g in gradients]
    start = time.perf_counter()
    torch.autograd.grad(gradients, (values, directions, weights), cotangents)
    clock.append(clock[-1] + time.perf_counter() - start)
    parts = dict(zip(("forward", "backward", "second"), np.diff(clock), strict=True))
    return {**parts, "all": clock[-1] - clock[0]}


def measure(operator, values, directions, repeats: int) -> dict[str, list[float]]:
    """Return the times of every part over many steps, after warming up."""
    for _ in range(5):
        training_step(operator, values, directions)
    steps = [training_step(operator, values, directions) for _ in range(repeats)]
    return {part: [step[part] for step in steps] for part in steps[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--order", type=int, default=2)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    set_num_threads(options.threads)
    senders, receivers, directions = molecules()
    order, nodes, channels = options.order, ATOMS * SYSTEMS, options.channels
    torch.manual_seed(0)
    coefficients = torch.randn(len(receivers), order + 1, channels)
    state = torch.randn(nodes, indexing.n_components(order), channels)

    def operators(backend):
        return {
            "anisotropic_state": (
                lambda c, u: anisotropic_state(c, u, receivers, nodes, order, backend=backend),
                coefficients,
            ),
            "pair_invariants": (
                lambda s, u: pair_invariants(s, u, senders, receivers, order, backend=backend),
                state,
            ),
        }

    print(
        f"{nodes} nodes, {len(receivers)} edges ({len(receivers) / nodes:.1f} per node), "
        f"order {order}, {channels} channels, float32, {options.threads} threads"
    )
    print(f"{'operator':18} {'part':9} {'torch min/med ms':>18} {'fused min/med ms':>18}   ratio")
    rows = []
    for name in operators("torch"):
        timed = {
            m: measure(operators(m)[name][0], operators(m)[name][1], directions, options.repeats)
            for m in ("torch", "compiled")
        }
        for part in timed["torch"]:
            low, mid = ([1e3 * f(timed[m][part]) for m in timed] for f in (min, np.median))
            ratio = mid[0] / mid[1]
            rows.append([name, part, *low, *mid, low[0] / low[1], ratio])
            print(
                f"{name:18} {part:9} {low[0]:8.3f} /{mid[0]:8.3f} {low[1]:8.3f} /{mid[1]:8.3f}   "
                f"{low[0] / low[1]:.1f} / {ratio:.1f}"
            )
    write(rows, f"edge_operators_order{order}_channels{channels}")


def write(rows: list[list], name: str) -> None:
    """Write the table as CSV."""
    sides = ("torch_min_ms", "fused_min_ms", "torch_median_ms", "fused_median_ms")
    columns = ("operator", "part", *sides, "ratio_min", "ratio_median")
    write_table(name, columns, [[*row[:2], *(f"{x:.4f}" for x in row[2:])] for row in rows])


if __name__ == "__main__":
    main()
