"""What energy and all forces of one frame cost, beside what their multiplications cost.

    python benchmarks/model_arithmetic.py [--weights MIN_state_dict] [--threads 1 2]

One frame in float32: energy, forces on atoms and charges, derivative by charges. Methanol of the
shipped data by the model that ships, larger clusters by a model of its sizes, and with --weights
the published AMP-BMS. Each row has the model as autograd's graph ("before"), its compiled passes,
the same frame in a batch of 32 where it is small, and the limit: floating-point operations of all
dense layers, of edges and of pairs with charges, counted, over the speed of the fastest product of
matrices that this run could measure. Ways take turns; minima of wall time, so that nothing else
should run. Writes benchmarks/results/model_arithmetic.csv.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _output import write_table
from published_speed import made, read

import multipoles as mp
from gnn import AMP, load_model
from gnn.data import collate, load_shipped
from gnn.operators import _dense, edge_arrays, edge_math, network
from gnn.options import Network
from gnn.published import load_amp_bms
from multipoles import indexing
from multipoles.compiled.emit import Counted
from multipoles.compiled.jit import jit

ASKED = {"forces": True, "mm_forces": True, "mm_potential": True}
COLUMNS = (
    "model", "atoms", "charges", "edges", "threads", "graph_ms", "passes_ms", "times_faster",
    "batch_32_ms", "alone_over_batch", "megaflop", "limit_ms", "fraction",
)  # fmt: skip
#: Operations of a pair of an atom and a charge, forward and back, as the loops are written.
PAIR = 49 + 97


class Count:
    """Counts what passes through the loops of dense layers and of edges."""

    def __init__(self) -> None:
        self.operations = 0.0
        self._kept: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> "Count":
        self._wrap(network, "values", lambda net, inputs, *_, **__: len(inputs[0]) * net.work)
        self._wrap(
            network, "gradients", lambda net, kept, w, asked, rows, *_, **__: rows * net.work
        )
        self._wrap(edge_arrays, "run_pair_values", self._pairs(edge_math.pair_values, 3))
        self._wrap(edge_arrays, "run_pair", self._pairs(edge_math.pair_gradients, 5))
        return self

    def __exit__(self, *_: Any) -> None:
        for module, name, function in self._kept:
            setattr(module, name, function)

    def _wrap(self, module: Any, name: str, products: Any) -> None:
        function = getattr(module, name)
        self._kept.append((module, name, function))

        def counted(*arguments: Any, **options: Any) -> Any:
            self.operations += 2 * products(*arguments, **options)
            return function(*arguments, **options)

        setattr(module, name, counted)

    @staticmethod
    def _pairs(plain: Any, inputs: int) -> Any:
        """Return products of all edges and channels of invariants of pairs, or of their slopes."""

        def products(*arguments: Any) -> float:
            first = arguments[0] if inputs == 3 else arguments[1][0]
            ends, order = (arguments[2], arguments[4]) if inputs == 3 else arguments[2::2]
            number = Counted()
            n, terms = indexing.n_components(order), len(edge_math.invariant_terms(order))
            sizes = (n, n, 3) if inputs == 3 else (n, n, 3, terms, n)
            plain.plain(order, *([number] * size for size in sizes))
            return number.products * len(ends[0]) * first.shape[2]

        return products


@jit
def _products(x, matrix, y, times, rows, inputs, vectors, lanes):
    for _ in range(times):
        _dense.multiply(
            x, np.int64(0), inputs, rows, inputs, matrix, np.int64(0), vectors, y, np.int64(0),
            vectors * lanes,
        )  # fmt: skip


def peak(threads: int) -> float:
    """Return operations a second of a product of matrices in the nearest cache."""
    lanes, rows, inputs, vectors = 16, 48, 96, 6
    x, y = np.zeros(rows * inputs, np.float32), np.zeros(rows * vectors * lanes, np.float32)
    matrix = np.zeros(inputs * vectors * lanes, np.float32)
    times = 200

    def task() -> None:
        _products(x, matrix, y, times, rows, inputs, vectors, lanes)

    task()
    return threads * 2.0 * rows * inputs * vectors * lanes * times / least([task], 50)[0] * 1e3


def least(tasks: list, repeats: int) -> list[float]:
    """Return the least milliseconds of each task; they take turns."""
    times = [[] for _ in tasks]
    for task in tasks:
        for _ in range(3):
            task()
    for _ in range(repeats):
        for task, own in zip(tasks, times, strict=True):
            start = time.perf_counter()
            task()
            own.append(time.perf_counter() - start)
    return [1e3 * min(own) for own in times]


def by_graph(model: Any) -> Any:
    """Return a call of a model that takes autograd's graph."""

    def call(batch: Any) -> None:
        model._compiled = lambda *_: None
        try:
            model(batch, **ASKED)
        finally:
            del model._compiled

    return call


def measure(name: str, model: Any, system: Any, threads: int, speed: float, repeats: int) -> dict:
    """Return a row of the table."""
    local = None if getattr(model, "charges", None) != "local" else name == "shipped" or None
    batch = collate([system], model.cutoff, torch.float32, local_charges=local)
    graph = by_graph(model)
    tasks = [lambda: model(batch, **ASKED), lambda: graph(batch)]
    small = batch.n_atoms <= 30
    if small:
        many = collate([system] * 32, model.cutoff, torch.float32, local_charges=local)
        tasks.append(lambda: model(many, **ASKED))
    found = least(tasks, repeats)
    with Count() as count:
        model(batch, **ASKED)
    operations = count.operations + PAIR * batch.n_atoms * batch.n_mm
    row = {
        "model": name, "atoms": batch.n_atoms, "charges": batch.n_mm,
        "edges": len(batch.senders), "threads": threads, "graph_ms": found[1],
        "passes_ms": found[0], "times_faster": found[1] / found[0],
        "megaflop": operations / 1e6, "limit_ms": 1e3 * operations / speed,
    }  # fmt: skip
    if small:
        row |= {"batch_32_ms": found[2] / 32, "alone_over_batch": 32 * found[0] / found[2]}
    return row | {"fraction": row["limit_ms"] / row["passes_ms"]}


def cases(weights: str | None) -> list[tuple[str, Any, Any]]:
    """Return name, model and system of each row."""
    shipped = load_model()
    frames = (f for f in load_shipped(["meoh"]) if 390 < len(f.system.mm_positions) < 430)
    torch.manual_seed(0)
    like = AMP(order=3, features=96, network=Network(hidden=96)).eval()
    found = [("shipped", shipped, next(frames).system)]
    sizes = ((22, 999), (60, 3000), (200, 3000))
    found += [("of its sizes", like, made(*size)) for size in sizes]
    if weights:
        files = [Path(weights).parent / f"timing_system_{n}_{m}.npz" for n, m in sizes]
        systems = [
            read(file) if file.exists() else made(*size)
            for file, size in zip(files, sizes, strict=True)
        ]
        published = load_amp_bms(weights)
        found += [("AMP-BMS", published, system) for system in systems]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", help="of AMP-BMS")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=40)
    arguments = parser.parse_args()
    rows = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        mp.set_num_threads(threads)
        speed = peak(threads)
        print(f"{threads} thread(s), products of matrices: {speed / 1e9:.0f} GFlop/s")
        print(f"{'':>14} {'atoms':>5} {'charges':>7} {'edges':>6} {'graph':>7} {'passes':>7} "
              f"{'faster':>6} {'in 32':>6} {'MFlop':>7} {'limit':>7} {'reached':>7}")  # fmt: skip
        for name, model, system in cases(arguments.weights):
            model.requires_grad_(False)
            with torch.no_grad():
                row = measure(name, model, system, threads, speed, arguments.repeats)
            rows.append(row)
            print(f"{name:>14} {row['atoms']:5} {row['charges']:7} {row['edges']:6} "
                  f"{row['graph_ms']:7.2f} {row['passes_ms']:7.2f} {row['times_faster']:6.1f} "
                  f"{row.get('batch_32_ms', float('nan')):6.2f} {row['megaflop']:7.1f} "
                  f"{row['limit_ms']:7.2f} {100 * row['fraction']:6.0f}%", flush=True)  # fmt: skip
    table = [{k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    print(f"ms; written: {write_table('model_arithmetic', COLUMNS, table)}")


if __name__ == "__main__":
    main()
