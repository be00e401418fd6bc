"""What the published AMP-BMS weights give: S66x8, and the shipped QM/MM frames without training.

    python benchmarks/published_accuracy.py --weights MIN_state_dict --s66x8 s66x8.npz

1. Interaction energies of the 66 dimers of S66x8 at 8 distances, each dimer one set of atoms
   without surroundings, in float64: errors by distance against the reference energies, and with
   --original FILE (arrays E_int, E_int_parts) the largest difference from the original program.
2. The shipped frames, of another level of theory (B3LYP/6-31G*), with the factor on induced
   multipoles as published (0.35) and as trained (1): energies up to a constant for each molecule,
   forces on the atoms and on the surrounding charges, RMSE also in percent of the reference's RMS.

Prints tables and writes benchmarks/results/published_{s66x8,shipped}.csv and
published_accuracy.png. Either part alone: leave out --s66x8, or give --skip-shipped. Minutes.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from _experiments import PANELS, first_set
from _output import pyplot, write_picture, write_table

from gnn import System
from gnn.data import collate
from gnn.published import AmpBms, load_amp_bms

PARTS = ("nodes", "coulomb_qm", "coulomb_mm", "dispersion", "repulsion")
SCALINGS = (0.35, 1.0)
NAMES = {"meoh": "methanol", "mam": "methylammonium", "oac": "acetate", "acoh": "acetic acid"}


def interactions(model: AmpBms, data) -> np.ndarray:
    """Return interaction energies and their parts in kJ/mol, (dimers, 6): total, then PARTS."""
    rows = []
    with torch.no_grad():
        for z, x, one, two in zip(data["Z"], data["coords"], data["n1"], data["n2"], strict=True):
            pieces = slice(0, one + two), slice(0, one), slice(one, one + two)
            systems = [System(z[piece], x[piece]) for piece in pieces]
            parts = model.parts(collate(systems, model.cutoff, model.dtype))
            energies = np.array([parts[name].numpy() for name in ("total", *PARTS)])
            rows.append(energies[:, 0] - energies[:, 1] - energies[:, 2])
    return np.array(rows)


def s66x8(model: AmpBms, path: Path, original: Path | None) -> list[dict]:
    data = np.load(path)
    found = interactions(model.double(), data)
    errors, scales = found[:, 0] - data["ref_energy"], data["scale"]
    print("\nS66x8, interaction energies in kJ/mol")
    print(f"{'distance':>10}{'MAE':>8}{'mean':>8}{'RMSE':>8}{'mean |ref|':>12}")
    rows = []
    for scale in (*np.unique(scales), "all"):
        chosen = np.full(len(scales), True) if scale == "all" else scales == scale
        e = errors[chosen]
        numbers = np.abs(e).mean(), e.mean(), np.sqrt((e**2).mean())
        size = np.abs(data["ref_energy"][chosen]).mean()
        print(f"{scale!s:>10}" + "".join(f"{n:8.2f}" for n in numbers) + f"{size:12.2f}")
        keys = ("mae", "mean", "rmse", "mean_reference")
        rows.append(
            {"scale": scale}
            | {k: round(float(n), 4) for k, n in zip(keys, (*numbers, size), strict=True)}
        )
    if original is not None:
        other = np.load(original)
        places = {name: i for i, name in enumerate(other["names"].tolist())}
        order = [places[name] for name in data["names"].tolist()]
        difference = np.abs(found[:, 0] - other["E_int"][order]).max()
        print(f"largest difference from the original program: {difference:.1e} kJ/mol")
    return rows


def shipped(weights: Path, every: int) -> list[dict]:
    frames = first_set()[::every]
    rows = []
    print(f"\nShipped frames ({len(frames)}), energy in meV, forces in meV/Å (% of RMS)")
    print(f"{'':>16}{'factor':>8}{'energy MAE':>12}{'QM RMSE':>18}{'MM RMSE':>18}")
    for scaling in SCALINGS:
        model = load_amp_bms(weights, pol_scaling=scaling)
        results = model.evaluate(frames)
        for name, title in NAMES.items():
            mine = [i for i, frame in enumerate(frames) if frame.name == name]
            energy = np.array([results[i]["energy"] - frames[i].energy for i in mine])
            row = {"molecule": name, "frames": len(mine), "pol_scaling": scaling}
            row["energy_mae"] = 1e3 * float(np.abs(energy - energy.mean()).mean())
            text = f"{title:>16}{scaling:8.2f}{row['energy_mae']:12.1f}"
            for kind in ("forces", "mm_forces"):
                given = np.concatenate([getattr(frames[i], kind) for i in mine])
                error = np.concatenate([results[i][kind] for i in mine]) - given
                rmse, size = (1e3 * np.sqrt((a**2).mean()) for a in (error, given))
                row[f"{kind}_rmse"], row[f"{kind}_percent"] = rmse, 100 * rmse / size
                text += f"{rmse:10.2f} ({100 * rmse / size:4.1f}%)"
            print(text, flush=True)
            rows.append({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
    return rows


def write(name: str, rows: list[dict]) -> None:
    shown = [{k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    write_table(f"published_{name}", list(rows[0]), shown)


def draw(dimers: list[dict], frames: list[dict]) -> None:
    if (plt := pyplot()) is None:
        return
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.4))
    by_scale = dimers[:-1]
    x = [row["scale"] for row in by_scale]
    axes[0].plot(x, [row["mean_reference"] for row in by_scale], "o-", color="#9aa5b1",
                 label="mean |reference|")  # fmt: skip
    axes[0].plot(x, [row["mae"] for row in by_scale], "o-", color="#01497c", label="MAE")
    axes[0].set(title="S66x8, kJ/mol", xlabel="distance / equilibrium", yscale="log")
    axes[0].legend(frameon=False)
    places = np.arange(len(NAMES))
    for axis, (column, title) in zip(axes[1:], PANELS, strict=True):
        for i, scaling in enumerate(SCALINGS):
            values = [row[column] for row in frames if row["pol_scaling"] == scaling]
            axis.bar(places + 0.36 * (i - 0.5), values, 0.34, color=("#e07a5f", "#01497c")[i],
                     label=f"induced multipoles × {scaling:g}")  # fmt: skip
        axis.set(title=title)
        axis.set_xticks(places, NAMES.values(), fontsize=7)
    axes[1].legend(frameon=False, fontsize=7)
    figure.tight_layout()
    write_picture("published_accuracy", figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE")
    parser.add_argument("--s66x8", type=Path, metavar="FILE", help="names, Z, coords, n1, n2, …")
    parser.add_argument("--original", type=Path, metavar="FILE", help="the original's energies")
    parser.add_argument("--skip-shipped", action="store_true")
    parser.add_argument("--every", type=int, default=1, help="take every n-th shipped frame")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dimers, frames = [], []
    if arguments.s66x8 is not None:
        model = load_amp_bms(arguments.weights)
        dimers = s66x8(model, arguments.s66x8, arguments.original)
        write("s66x8", dimers)
    if not arguments.skip_shipped:
        frames = shipped(arguments.weights, arguments.every)
        write("shipped", frames)
    if dimers and frames:
        draw(dimers, frames)


if __name__ == "__main__":
    main()
