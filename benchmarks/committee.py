"""Committees: how many errors their spread holds, before and after it is scaled.

    python benchmarks/committee.py

Two committees of four learn from 200 of the shipped frames: small models from random weights, and
the model that ships, perturbed, on frames drawn for each member. The spread is scaled on frames of
the validation runs, as `anisole train --committee` does it, and the errors that it holds are
counted on frames of the test runs, which no member has seen. Prints a table; writes
benchmarks/results/committee.csv and .png. Committees that are there already are not trained again,
but with `--keep FOLDER`, which writes their checkpoints; a minute or two on a free core.
"""

import argparse
from pathlib import Path

import numpy as np
from _experiments import Table, settings, thinned, train
from _output import pyplot, write_picture
from scipy.stats import spearmanr

from gnn.data import load_shipped, split_shipped
from gnn.training.calibration import calibrate, reliability, spreads_and_errors
from gnn.training.checkpoint import SHIPPED, save_model
from gnn.training.committee import SPREADS, Committee
from gnn.training.members import resampled
from gnn.training.report.tables import TITLES

LEVELS = np.round(np.arange(0.05, 1.0, 0.05), 2)
ONE, TWO = 0.6827, 0.9545
STARTS = {"random": "from random weights", "shipped": "from the model that ships"}
SMALL = {
    "order": 1, "channels": 8, "features": 32, "network": {"hidden": 32, "edge_features": 16},
}  # fmt: skip
COLUMNS = ("factor", "correlation", "before", "after")
COLORS = ("#0072b2", "#d55e00", "#009e73", "#a0558a")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for random.pt and shipped.pt")
    arguments = parser.parse_args()
    counts = arguments.frames, 100, 100  # evenly spaced, of all molecules
    sets = [thinned(part, n) for part, n in zip(split_shipped(load_shipped()), counts, strict=True)]
    keys, fresh = ("start", "quantity", "expected"), arguments.fresh or arguments.keep is not None
    table = Table("committee", keys, COLUMNS, fresh)
    for start in STARTS:
        table.fill((start,), lambda s=start: rows(s, *sets, arguments.members, arguments.keep))
    draw(table)


def rows(start, training, validation, test, members, keep) -> list[dict[str, str]]:
    """Train a committee, scale its spread, and return the shares of test errors that it holds.

    With `keep`, a folder, its checkpoint is written, which says what it was trained on.
    """
    committee = Committee([member(start, seed, training, members) for seed in range(members)])
    before = committee.evaluate(test)
    for line in calibrate(committee, validation):
        print(line)
    if keep is not None:
        committee.set_domain(training, "B3LYP/6-31G*")
        keep.mkdir(parents=True, exist_ok=True)
        save_model(keep / f"{start}.pt", committee)
    after = committee.evaluate(test)
    found = []
    for name in SPREADS:
        (raw, error), (spread, _) = (spreads_and_errors(r, test, name) for r in (before, after))
        expected = sorted({*LEVELS, ONE, TWO})
        shares = (reliability(s, error, np.array(expected)) for s in (raw, spread))
        kept = {
            "factor": f"{committee.factors[name]:.4g}",
            "correlation": f"{spearmanr(raw, np.abs(error))[0]:.3f}",
        }
        for level, one, other in zip(expected, *shares, strict=True):
            shown = {"expected": f"{level:g}", "before": f"{one:.4f}", "after": f"{other:.4f}"}
            found.append({"quantity": name} | kept | shown)
    return found


def member(start, seed, training, members):
    """Return one trained member."""
    shipped = start == "shipped"
    config = settings(
        60 if shipped else 300,
        len(training),
        model=None if shipped else SMALL,
        training={"seed": seed} | ({"learning_rate": 1e-3} if shipped else {}),
        committee={"members": members},
        **({"start": str(SHIPPED)} if shipped else {}),
    )
    own = [training[i] for i in resampled(training, seed)] if config.bootstrap else training
    model, trainer = train(config, own)
    print(f"{start} {seed}: {trainer.step} steps, {trainer.elapsed:.0f} s", flush=True)
    return model


def draw(table: Table) -> None:
    """Draw observed against expected shares."""
    plt = pyplot()
    if plt is None:
        return
    figure, axes = plt.subplots(1, len(STARTS), figsize=(7.6, 3.8), sharey=True)
    for axis, (start, title) in zip(axes, STARTS.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", lw=1)
        for name, color in zip(SPREADS, COLORS, strict=True):
            own = [r for r in table.rows if (r["start"], r["quantity"]) == (start, name)]
            expected, before, after = (
                [float(row[key]) for row in own] for key in ("expected", "before", "after")
            )
            axis.plot(expected, before, ":", color=color, lw=1.2)
            label = f"{TITLES[name]} (× {float(own[0]['factor']):.2g})"
            axis.plot(expected, after, color=color, lw=1.6, label=label)
        axis.axvline(ONE, color="0.8", lw=0.8, zorder=0)
        axis.set(title=title, xlabel="expected share", xlim=(0, 1), ylim=(0, 1))
        axis.set_aspect("equal")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8, loc="upper left")
    axes[0].set_ylabel("observed share of test errors")
    figure.tight_layout()
    print(f"written: {write_picture('committee', figure)}")


if __name__ == "__main__":
    main()
