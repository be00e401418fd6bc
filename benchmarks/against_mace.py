"""Against another network: MACE on the shipped molecules in vacuum, at equal training time.

    python -m venv mace && mace/bin/pip install mace-torch
    python benchmarks/against_mace.py --mace-python mace/bin/python

Both learn energies and forces of the same frames (all four molecules in one model, without
surroundings) for the same processor time on one thread, one after the other, in float32, and are
tested on the same held-out molecular-dynamics runs. MACE: 2 layers, 32x0e + 32x1o, correlation 3,
l up to 3, cutoff 5 Å, energies of atoms by least squares, forces weighted 100, energies 1 and
1000 in the last quarter, Adam from 0.01, moving average. Ours: default settings, without dipoles
in the loss. Energies are compared after removing each molecule's mean error: float32 totals of
several thousand eV are no one's strength. Prints a table; writes
benchmarks/results/against_mace.{csv,png}.
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
from _experiments import FOUR, Table, first_frames, settings, train
from _output import pyplot, write_picture

from gnn.data import split_by_run

COLUMNS = ("energy_mae", "forces_rmse")


def arrays(part: str, frames, constants: dict[str, float]) -> dict[str, np.ndarray]:
    """Return frames as flat arrays, energies less a constant for each molecule."""
    return {
        f"{part}_ptr": np.cumsum([0, *(f.system.n_atoms for f in frames)]),
        f"{part}_numbers": np.concatenate([f.system.numbers for f in frames]),
        f"{part}_positions": np.concatenate([f.system.positions for f in frames]),
        f"{part}_forces": np.concatenate([f.forces for f in frames]),
        f"{part}_energy": np.array([f.energy - constants[f.name] for f in frames]),
    }


def mace(python: str, training, test, seconds: float) -> tuple[list[dict], dict]:
    # float32 cannot hold the totals: both programs get, or make, differences
    means = {n: np.mean([f.energy for f in training if f.name == n]) for n in FOUR}
    worker = Path(__file__).with_name("_mace_worker.py")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(source, **arrays("train", training, means), **arrays("test", test, means))
        subprocess.run([python, str(worker), str(source), str(target), str(seconds)], check=True)
        found = dict(np.load(target))
    ends = np.cumsum([f.system.n_atoms for f in test])[:-1]
    forces = np.split(found["forces"].astype(float), ends)
    results = [
        {"energy": float(e) + means[f.name], "forces": x}
        for e, x, f in zip(found["energy"], forces, test, strict=True)
    ]
    return results, {k: float(found[k]) for k in ("steps", "parameters", "single", "batch")}


def ours(training, test, seconds: float) -> tuple[list[dict], dict]:
    config = settings(10**8, len(training), training={"time_limit": seconds}, loss={"dipole": 0.0})
    # the clock of both programs is the processor's: others on the machine do not change the result
    with mock.patch("time.perf_counter", time.process_time):
        model, trainer = train(config, training)
    facts = {"steps": trainer.step, "parameters": sum(p.numel() for p in model.parameters())}
    for name, size in (("single", 1), ("batch", 32)):
        part, times = test[:size], []
        for _ in range(12):
            start = time.process_time()
            model.evaluate(part)
            times.append(time.process_time() - start)
        facts[name] = min(times) / len(part)
    return model.evaluate(test), facts


def rows(results, test):
    """Yield the errors of each molecule and of all, energies about each molecule's mean error."""
    misses = {n: [] for n in FOUR}
    for frame, result in zip(test, results, strict=True):
        misses[frame.name].append(result["energy"] - frame.energy)
    centred = {n: np.array(m) - np.mean(m) for n, m in misses.items()}
    for name in (*FOUR, "all"):
        pairs = [(r, f) for r, f in zip(results, test, strict=True) if name in (f.name, "all")]
        forces = np.concatenate([(r["forces"] - f.forces).ravel() for r, f in pairs])
        energy = np.concatenate([centred[n] for n in FOUR if name in (n, "all")])
        yield {
            "of": name,
            "energy_mae": round(1e3 * float(np.abs(energy).mean()), 3),
            "forces_rmse": round(1e3 * float(np.sqrt((forces**2).mean())), 3),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mace-python", required=True)
    parser.add_argument("--seconds", type=float, default=600.0)
    arguments = parser.parse_args()
    training, _, test = split_by_run(first_frames(vacuum=True))
    table = Table("against_mace", ("model", "of"), (*COLUMNS, "steps", "parameters", "step_ms",
                  "single_ms", "batch_ms"), True)  # fmt: skip
    for name in ("MACE", "ours"):

        def compute(name=name):
            if name == "MACE":
                results, facts = mace(arguments.mace_python, training, test, arguments.seconds)
            else:
                results, facts = ours(training, test, arguments.seconds)
            speed = {
                "steps": int(facts["steps"]),
                "parameters": int(facts["parameters"]),
                "step_ms": round(1e3 * arguments.seconds / facts["steps"], 2),
                "single_ms": round(1e3 * facts["single"], 3),
                "batch_ms": round(1e3 * facts["batch"], 3),
            }
            for row in rows(results, test):
                yield row | (speed if row["of"] == "all" else {})

        table.fill((name,), compute)
    report(table)


def report(table: Table) -> None:
    print("\nenergy MAE / meV, RMSE of forces / meV/Å on held-out runs")
    for model in ("MACE", "ours"):
        cells = []
        for name in (*FOUR, "all"):
            e, f = (table.value(c, model=model, of=name) for c in COLUMNS)
            cells.append(f"{name} {e:6.2f} {f:6.1f}")
        print(f"{model:>6}: " + "   ".join(cells))
    draw(table)


def draw(table: Table) -> None:
    if (plt := pyplot()) is None:
        return
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4))
    places, labels = np.arange(len(FOUR) + 1), [*FOUR, "all"]
    panels = (("energy_mae", "energy, MAE / meV"), ("forces_rmse", "forces, RMSE / meV/Å"))
    for i, (model, color) in enumerate((("MACE", "#9aa5b1"), ("ours", "#01497c"))):
        for axis, (column, title) in zip(axes, panels, strict=False):
            values = [table.value(column, model=model, of=n) for n in labels]
            bars = axis.bar(places + 0.4 * (i - 0.5), values, 0.38, color=color, label=model)
            axis.bar_label(bars, fmt="%.1f", fontsize=7)
            axis.set(title=title)
            axis.set_xticks(places, labels)
        what = ("step_ms", "single_ms", "batch_ms")
        values = [table.value(column, model=model, of="all") for column in what]
        bars = axes[2].bar(np.arange(3) + 0.4 * (i - 0.5), values, 0.38, color=color)
        axes[2].bar_label(bars, fmt="%.1f", fontsize=7)
    axes[2].set(title="time / ms", yscale="log")
    axes[2].set_xticks(
        range(3), ["training\nstep", "energy, forces\none frame", "per frame\nof 32"]
    )
    axes[0].legend(frameon=False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    write_picture("against_mace", figure)


if __name__ == "__main__":
    main()
