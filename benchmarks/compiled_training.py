"""A training step on forces in compiled passes, beside autograd's graph and torch's compiler.

Prints a table and writes benchmarks/results/compiled_training.csv. Batches are those of the demo:
frames of the shipped molecules drawn at random, so that no two have the same sizes. All ways give
one loss and one gradient, which is checked. Torch's compiler cannot differentiate twice, so
`gnn.export.traced_step` makes one graph of energy and forces first, with symbolic sizes; to compile
it takes minutes, so only ``--torch-compile`` does.

The limit is what a step's products of matrices take at the speed of a large one: each weight meets
its rows six times, forward and back, by values and by changes, and twice for its own gradient.
"""

import argparse
import time

import numpy as np
import torch
from _output import write_table

from gnn import AMP
from gnn.data import collate, load_shipped, prepare
from gnn.export import Traceable, pairs_of, step_inputs, traced_step

MOLECULES = ["meoh", "mam", "oac", "acoh"]  # of the demo
OUTPUTS = ("energy", "forces", "mm_forces")


def batches(model: AMP, size: int, count: int) -> list:
    """Return batches with the pairs of atoms and atoms, and of atoms and particles."""
    frames = load_shipped(MOLECULES)
    chosen = np.random.default_rng(0).permutation(len(frames))[: size * count]
    ready = [prepare(frames[i], model.cutoff) for i in chosen]
    made = [collate(ready[i : i + size]) for i in range(0, len(ready), size)]
    return [(b, (pairs_of(b.batch, b.batch), pairs_of(b.batch, b.mm_batch))) for b in made]


def flops(model: AMP, batch) -> float:
    """Return the operations of all products with weights in one step."""
    n, edges, features = batch.n_atoms, len(batch.senders), model.embedding.weight.shape[1]
    total = 0
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or name == "charge_embedding":
            continue
        of_edges = any(part in name for part in ("first", "rest", "mix"))
        of_nodes = 2 * features * module.out_features if name.endswith("first") else 0
        rest = module.weight.numel() - of_nodes
        total += of_nodes * n + rest * (edges if of_edges else n)
    return 12.0 * total


def peak() -> float:
    """Return operations a second of a large product on one thread."""
    matrix, least = torch.randn(768, 768), np.inf
    for _ in range(20):
        start = time.perf_counter()
        matrix @ matrix
        least = min(least, time.perf_counter() - start)
    return 2 * 768**3 / least


def eager(model: AMP, passes: bool = False):
    """Return what takes a batch to energy and forces through the model itself."""

    def run(batch, pairs):
        model._learning = model.in_passes if passes else (lambda *_: None)
        if isinstance(model, Traceable):
            model.atom_pairs, model.mm_pairs = pairs
        out = model(batch, forces=True, mm_forces=True, create_graph=True)
        return [out[name] for name in OUTPUTS]

    return run


def traced(graph, parameters):
    """Return the same through a traced graph, compiled or not."""
    return lambda batch, pairs: graph(parameters, *step_inputs(batch, pairs))[:3]


def step(run, parameters, batch, pairs) -> tuple[float, float]:
    """Take energy, forces, loss and backward pass; return the loss and its gradient's norm."""
    for parameter in parameters:
        parameter.grad = None
    outputs = run(batch, pairs)
    labels = [getattr(batch, name) for name in OUTPUTS]
    labels[0] = labels[0] - labels[0].mean()  # there is no baseline: keep the forces' share
    weights = (1e-6, 1.0, 100.0)
    terms = zip(weights, outputs, labels, strict=True)
    loss = sum(w * (a - b).square().mean() for w, a, b in terms)
    loss.backward()
    gradients = [p.grad for p in parameters if p.grad is not None]
    return loss.item(), float(torch.sqrt(sum(g.square().sum() for g in gradients)))


def measure(name: str, run, parameters, data, rounds: int, setup: float) -> tuple[dict, np.ndarray]:
    """Return a row of the table, and loss and gradient of every batch."""
    start = time.perf_counter()
    step(run, parameters, *data[0])
    first = time.perf_counter() - start + setup
    found = np.array([step(run, parameters, *item) for item in data])
    times = []
    for _ in range(rounds):
        for item in data:
            start = time.process_time()
            step(run, parameters, *item)
            times.append(1e3 * (time.process_time() - start))
    row = {"way": name, "step_ms": np.median(times), "least_ms": min(times), "first_s": first}
    print(f"{name:>28} {row['step_ms']:9.1f} {row['least_ms']:9.1f} {first:9.1f}", flush=True)
    return row, found


def main() -> None:
    """Measure all ways in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=8, help="systems in a batch")
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--torch-compile", action="store_true", help="takes minutes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = AMP()
    data = batches(model, arguments.size, arguments.batches)
    model.in_passes = model._learning
    twin, parameters = Traceable.of(model), tuple(model.parameters())
    print(f"{'':>28} {'step / ms':>9} {'least':>9} {'first / s':>9}")
    common = parameters, data, arguments.rounds
    results = [
        measure("operators in Numba", eager(model), *common, 0.0),
        measure("compiled passes", eager(model, passes=True), *common, 0.0),
        measure("eager torch", eager(twin), *common, 0.0),
    ]
    start = time.perf_counter()
    graph = traced_step(twin, *data[0])
    setup = time.perf_counter() - start
    results.append(measure("traced, not compiled", traced(graph, parameters), *common, setup))
    if arguments.torch_compile:
        compiled = torch.compile(graph, dynamic=True)
        results.append(measure("traced and compiled", traced(compiled, parameters), *common, setup))
    for row, found in results:
        np.testing.assert_allclose(found, results[0][1], rtol=2e-3, err_msg=row["way"])
    limit = 1e3 * np.mean([flops(model, batch) for batch, _ in data]) / peak()
    print(f"limit: {limit:.2f} ms")
    rows = [
        row
        | {"ratio": row["step_ms"] / results[0][0]["step_ms"], "limit_ms": limit}
        | {"reached": limit / row["least_ms"]}
        for row, _ in results
    ]
    columns = ("way", "step_ms", "least_ms", "first_s", "ratio", "limit_ms", "reached")
    for row in rows:
        row |= {name: f"{row[name]:.3g}" for name in columns[1:]}
    print(f"written: {write_table('compiled_training', columns, rows)}")


if __name__ == "__main__":
    main()
