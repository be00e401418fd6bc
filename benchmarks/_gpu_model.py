"""The model on the GPU: energies and forces of one and of many systems, and training steps."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from _gpu import Place, Row, relative

from gnn import AMP, System
from gnn.data import collate, prepare
from gnn.operators.gpu import emulated
from gnn.options import Network

# of a model whose kernels run in the simulator
TINY = {
    "order": 1, "channels": 2, "features": 4, "steps": 1,
    "network": Network(hidden=4, mixed=2, edge_features=3, n_radial=3),
}  # fmt: skip
DENSITY = 0.1  # surrounding particles per cubic ångström


def system(rng: np.random.Generator, atoms: int, particles: int) -> System:
    """Return a compact cluster of atoms at bond-like distances within a shell of charges."""
    edge = int(np.ceil(atoms ** (1 / 3)))
    grid = 1.45 * (np.indices((edge, edge, edge)).reshape(3, -1).T - (edge - 1) / 2)
    grid = grid[np.argsort(np.linalg.norm(grid + 0.1, axis=1))][:atoms]
    positions = grid + rng.uniform(-0.15, 0.15, grid.shape)
    directions = rng.standard_normal((particles, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    inner = np.linalg.norm(positions, axis=1).max() + 2.5
    outer = (inner**3 + particles / (DENSITY * 4 / 3 * np.pi)) ** (1 / 3)
    radii = rng.uniform(inner**3, outer**3, particles) ** (1 / 3)
    charges = np.resize([-0.834, 0.417, 0.417], particles)
    numbers = rng.choice([1, 1, 6, 7, 8], atoms)
    return System(numbers, positions, 0, directions * radii[:, None], charges)


def model_of(place: Place, **options) -> AMP:
    """Return a model of random weights, the same for the same architecture."""
    torch.manual_seed(0)
    return AMP(method="direct", **options, **(TINY if place.smoke else {}))


def there(place: Place, movable: Any) -> Any:
    """Return a model or a batch on the GPU; the simulator takes tensors of the CPU."""
    return movable if place.smoke else movable.to("cuda")


def evaluation(place: Place) -> Iterator[Row]:
    """Energy and forces on atoms and charges: one system, then 256 in a batch."""
    atoms, particles = (3, 4) if place.smoke else (60, 3000)
    rng = np.random.default_rng(0)
    for count, target in ((1, 4e-3), (2 if place.smoke else 256, None)):
        model = model_of(place)
        systems = [system(rng, atoms, particles) for _ in range(count)]
        host = collate([prepare(item, model.cutoff, local_charges=None) for item in systems])
        sample = collate(
            [prepare(item, model.cutoff, torch.float64, local_charges=None) for item in systems[:2]]
        )
        expected = model.double()(sample, forces=True, mm_forces=True)
        model, batch = there(place, model.float()), there(place, host)

        def task(model=model, batch=batch) -> Any:
            with emulated():
                return model(batch, forces=True, mm_forces=True)

        out = task()
        error = max(
            relative(
                out[name][: len(expected[name])].detach().double().cpu().numpy(),
                expected[name].detach().numpy(),
            )
            for name in ("forces", "mm_forces")
        )
        seconds = place.seconds(task)
        name = f"model, {atoms} atoms in {particles} charges: energy and forces"
        yield Row(
            name, count, "float32", seconds, target, count / seconds, "systems", error=error,
            bound=1e-3,
        )  # fmt: skip


def step(model: AMP, batch, optimizer) -> torch.Tensor:
    """Do a training step on energies and forces of zero."""
    optimizer.zero_grad()
    out = model(batch, forces=True, mm_forces=True, create_graph=True)
    loss = out["energy"].square().mean() + out["forces"].square().mean()
    loss = loss + 100 * out["mm_forces"].square().mean()
    loss.backward()
    optimizer.step()
    return loss.detach()


def training(place: Place) -> Iterator[Row]:
    """Time a training step of the model, and of its twin in plain torch on the same device."""
    count, atoms, particles = (2, 3, 3) if place.smoke else (64, 20, 300)
    rng = np.random.default_rng(0)
    systems = [system(rng, atoms, particles) for _ in range(count)]
    seconds, losses = {}, {}
    name = f"training step, {atoms} atoms in {particles} charges"
    for backend in ("torch", "compiled"):
        model = there(place, model_of(place, backend=backend))
        batch = there(
            place, collate([prepare(item, model.cutoff, local_charges=None) for item in systems])
        )
        # weights stay: all steps do the same
        optimizer = torch.optim.Adam(model.parameters(), lr=0.0)

        def task(model=model, batch=batch, optimizer=optimizer) -> torch.Tensor:
            with emulated():
                return step(model, batch, optimizer)

        losses[backend] = float(task())
        seconds[backend] = place.seconds(task)
    error = abs(losses["compiled"] / losses["torch"] - 1)
    yield Row(f"{name}, plain torch", count, "float32", seconds["torch"])
    yield Row(
        name, count, "float32", seconds["compiled"], seconds["torch"] / 3, error=error, bound=1e-3,
        remark=f"{seconds['torch'] / seconds['compiled']:.1f} times as fast as plain torch",
    )  # fmt: skip
