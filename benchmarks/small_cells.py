"""Several small systems, each in a cell of its own: 64 cells of 96 random charges, in one call.

    python benchmarks/small_cells.py [--repeats 10]

Charges at 0.1/Å³ on one thread, in float64, everything found anew: energy and forces with NumPy;
with torch, energy and forces by autograd, and beside them the gradient of a loss of the forces, by
positions, as in training; the same where the cells are differentiated, too, for stress. Once for
the tolerance that just keeps a measured error of the forces of 1e-6, once for 1e-6 as it stands.
Times are those of the processor, so that other programs beside do not count. Prints a table; writes
results/small_cells.csv beside this file.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from _output import write_table
from torch import Tensor

import multipoles as mp
from fmm.bench_periodic import SmallSystems, loosest
from gnn.operators.field import multipole_field

BOUND = 1e-6
Row = dict[str, str]
COLUMNS = ("what", "asked", "error", "ms", "target_ms")


class InTorch:
    """The same sums in torch."""

    def __init__(self, systems: SmallSystems, tolerance: float) -> None:
        self.points = torch.from_numpy(systems.points).requires_grad_()
        self.charges = torch.from_numpy(systems.moments)
        self.batch = torch.from_numpy(systems.batch)
        self.cells = torch.from_numpy(systems.cells)
        self.wanted = torch.randn(len(self.points), 3, dtype=torch.float64)
        self.tolerance = tolerance

    def energy(self, points: Tensor, cells: Tensor) -> Tensor:
        """Return the energy of all systems."""
        phi = multipole_field(
            points, points, self.charges, 0, cell=cells, tolerance=self.tolerance,
            target_batch=self.batch, source_batch=self.batch,
        )  # fmt: skip
        return 0.5 * (self.charges * phi).sum()

    def forces(self, create_graph: bool = False) -> Tensor:
        """Return the forces on all charges."""
        energy = self.energy(self.points, self.cells)
        (slopes,) = torch.autograd.grad(energy, self.points, create_graph=create_graph)
        return -slopes

    def training(self) -> Tensor:
        """Return the gradient of a loss of the forces."""
        loss = (self.forces(create_graph=True) - self.wanted).square().sum()
        return torch.autograd.grad(loss, self.points)[0]

    def training_on_stress(self) -> Tensor:
        """Return the gradient of a loss of the forces and virials."""
        strain = torch.zeros(len(self.cells), 3, 3, dtype=torch.float64, requires_grad=True)
        turn = torch.eye(3, dtype=torch.float64) + strain
        strained = (self.points[:, None] @ turn[self.batch])[:, 0]
        energy = self.energy(strained, self.cells @ turn)
        given = self.points, strain
        slopes, virial = torch.autograd.grad(energy, given, create_graph=True)
        loss = (slopes + self.wanted).square().sum() + virial.square().sum()
        return torch.autograd.grad(loss, self.points)[0]


def least(run: Callable[[], Any], repeats: int) -> float:
    """Return the least processor time in ms of some runs after one that compiles."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def show(what: str, asked: float, error: float | None, ms: float, target: float | None) -> Row:
    """Print a line, and return it for the table."""
    aim = "" if target is None else f"≤ {target:g} {'met' if ms <= target else 'MISSED'}"
    told = "" if error is None else f"{error:.2e}"
    print(f"{what:<38}{asked:>9.1e}{told:>10}{ms:>9.1f}{aim:>15}", flush=True)
    return {"what": what, "asked": f"{asked:.3g}", "error": told, "ms": f"{ms:.1f}",
            "target_ms": "" if target is None else f"{target:g}"}  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    mp.set_num_threads(1)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    systems = SmallSystems()

    def by_numpy(asked: float) -> float:
        return systems.error(systems.sums(asked)[1])

    def by_torch(asked: float) -> float:
        return systems.error(InTorch(systems, asked).forces().numpy())

    print(f"{'':<38}{'asked':>9}{'error':>10}{'ms':>9}{'target':>15}")
    rows = []
    for measured in (True, False):
        asked = loosest(BOUND, by_numpy)[0] if measured else BOUND
        ms = least(lambda asked=asked: systems.sums(asked), repeats)
        rows.append(show("energy and forces, NumPy", asked, by_numpy(asked), ms, 30))
        asked = loosest(BOUND, by_torch)[0] if measured else BOUND
        in_torch, error = InTorch(systems, asked), by_torch(asked)
        for what, run, told, target in (
            ("energy and forces, torch", in_torch.forces, error, None),
            ("… and gradient of a loss of forces", in_torch.training, None, 90),
            ("… of forces and stress", in_torch.training_on_stress, None, None),
        ):
            rows.append(show(what, asked, told, least(run, repeats), target))
    print(f"written: {write_table('small_cells', COLUMNS, rows)}")


if __name__ == "__main__":
    main()
