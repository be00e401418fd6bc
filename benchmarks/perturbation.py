"""Committees that start from one checkpoint: how much noise on their weights is worth its price.

    python benchmarks/perturbation.py

Members start from the model that ships, with noise on their weights relative to each tensor's
root mean square, and are fine-tuned on frames drawn with replacement. Without noise they differ
by these frames and their order alone. What it costs is the error on held-out runs; what it buys
is that members disagree more on what they have never seen (water, ammonia, formaldehyde; the
test molecules stretched by 30 %) than on what they have. Prints a table; writes
benchmarks/results/perturbation.csv. Rows that are there already are not repeated.
"""

import argparse

import numpy as np
from _experiments import Table, errors, first_set, settings, thinned, train

from gnn import Frame, System
from gnn.data import split_by_run
from gnn.training.checkpoint import SHIPPED
from gnn.training.committee import Committee
from gnn.training.members import resampled

OTHERS = {
    "water": ([8, 1, 1], [[0, 0, 0], [0.957, 0, 0], [-0.24, 0.927, 0]]),
    "ammonia": (
        [7, 1, 1, 1],
        [[0, 0, 0.1], [0.94, 0, -0.27], [-0.47, 0.81, -0.27], [-0.47, -0.81, -0.27]],
    ),
    "formaldehyde": (
        [6, 8, 1, 1],
        [[0, 0, 0], [1.2, 0, 0], [-0.58, 0.94, 0], [-0.58, -0.94, 0]],
    ),
}
COLUMNS = ("energy_rmse", "forces_rmse", "spread_seen", "spread_unseen", "spread_stretched")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.03, 0.1])
    parser.add_argument("--members", type=int, default=2)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--steps", type=int, default=225)
    parser.add_argument("--fresh", action="store_true")
    arguments = parser.parse_args()
    everything, _, test = split_by_run(first_set())
    training, test = thinned(everything, arguments.frames), thinned(test, 24)
    keys = ("noise", "members", "frames", "steps")
    table = Table("perturbation", keys, COLUMNS, arguments.fresh)
    for noise in arguments.noise:
        key = noise, arguments.members, arguments.frames, arguments.steps
        table.fill(key, lambda noise=noise: [row(noise, training, test, arguments)])


def row(noise, training, test, arguments) -> dict[str, float]:
    """Return errors and spreads of a committee."""
    members = []
    for seed in range(arguments.members):
        config = settings(
            arguments.steps,
            len(training),
            training={"learning_rate": 1e-3, "seed": seed},
            start=str(SHIPPED),
            committee={"members": arguments.members, "perturbation": noise},
        )
        own = [training[i] for i in resampled(training, seed)]
        members.append(train(config, own)[0])
    committee = Committee(members)
    results = committee.evaluate(test)
    found = errors(results, test)
    return {
        "energy_rmse": found["energy_rmse"],
        "forces_rmse": found["forces_rmse"],
        "spread_seen": spread(results),
        "spread_unseen": spread(committee.evaluate(others())),
        "spread_stretched": spread(committee.evaluate([stretched(f) for f in test])),
    }


def spread(results) -> float:
    """Return the root mean square of the forces' standard deviations in meV/Å."""
    values = np.concatenate([result["forces_std"].ravel() for result in results])
    return round(1e3 * float(np.sqrt(np.mean(values**2))), 2)


def others() -> list[System]:
    """Return molecules that the model never saw, each in four shapes."""
    rng = np.random.default_rng(0)
    return [
        System(numbers, np.array(positions) + 0.04 * rng.standard_normal((len(numbers), 3)))
        for numbers, positions in OTHERS.values()
        for _ in range(4)
    ]


def stretched(frame: Frame) -> System:
    """Return the atoms alone, all distances longer by 30 %."""
    system = frame.system
    centre = system.positions.mean(axis=0)
    return System(system.numbers, centre + 1.3 * (system.positions - centre), system.charge)


if __name__ == "__main__":
    main()
