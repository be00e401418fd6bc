"""The model on the GPU: energies and forces of one and of many systems, and training steps."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from _gpu import Place, Row, relative

from gnn import AMP, System
from gnn.data import collate, prepare
from gnn.operators.gpu import emulated
from gnn.options import Network
from gnn.potential import Potential
from gnn.published import AmpBms
from gnn.steps import Step

# of a model whose kernels run in the simulator
TINY = {
    "order": 1, "channels": 2, "features": 4, "steps": 1,
    "network": Network(hidden=4, mixed=2, edge_features=3, n_radial=3),
}  # fmt: skip
TINY_BMS = {
    "features": 4, "edge_features": 3, "channels": 2, "hidden": 4, "readout": 3, "n_radial": 2,
}  # fmt: skip
ASKED = {"forces": True, "mm_forces": True}
DENSITY = 0.1  # surrounding particles per cubic ångström


class Case(NamedTuple):
    """A model, and what it computes.

    Attributes
    ----------
    name : str
        Of the model.
    make : callable
        Returns it, in float64 on the host.
    atoms, particles, count : int
        Of each system, and the number of systems in the batch.
    target : float
        Seconds.
    spacing : float
        Of the atoms in Å.
    """

    name: str
    make: Callable[[], Potential]
    atoms: int
    particles: int
    count: int
    target: float
    spacing: float = 1.45


def system(rng: np.random.Generator, atoms: int, particles: int, spacing: float = 1.45) -> System:
    """Return a compact cluster of atoms, at bond-like distances, within a shell of charges."""
    edge = int(np.ceil(atoms ** (1 / 3)))
    grid = spacing * (np.indices((edge, edge, edge)).reshape(3, -1).T - (edge - 1) / 2)
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


def published(place: Place) -> AmpBms:
    """Return AMP-BMS as it simulates, with random weights and tables."""
    torch.manual_seed(0)
    model = AmpBms(mode="simulation", **(TINY_BMS if place.smoke else {}))
    model.dispersion.free.uniform_(10, 100)
    model.dispersion.radii.uniform_(2, 3)
    return model


def there(place: Place, movable: Any) -> Any:
    """Return a model or a batch on the GPU; the simulator takes tensors of the CPU."""
    return movable if place.smoke else movable.to("cuda")


def cases(place: Place) -> list[Case]:
    """Return the model for one system and for many, and AMP-BMS for a protein of its authors."""
    small, large = ((3, 4), (4, 5)) if place.smoke else ((60, 3000), (875, 12_960))

    def own() -> Potential:
        return model_of(place).double()

    return [
        Case("model", own, *small, 1, 2e-3),
        Case("model", own, *small, 2 if place.smoke else 256, 20e-3),
        # on an RTX 4090 its authors' program takes 13.5 ms
        Case("AMP-BMS", lambda: published(place).double(), *large, 1, 6e-3, 2.1),
    ]


def evaluation(place: Place) -> Iterator[Row]:
    """Energy and forces on atoms and charges: kernel by kernel, and as a recorded step."""
    for case in cases(place):
        rng = np.random.default_rng(0)
        items = [system(rng, case.atoms, case.particles, case.spacing) for _ in range(case.count)]
        model = case.make()
        host = collate([prepare(one, model.cutoff, local_charges=None) for one in items])
        few = [prepare(one, model.cutoff, torch.float64, local_charges=None) for one in items[:2]]
        expected = model(collate(few), **ASKED)
        model, batch = there(place, model.float()), there(place, host)
        name = f"{case.name}, {case.atoms} atoms in {case.particles} charges"

        def by_kernels(model=model, batch=batch) -> Any:
            with emulated():
                return model(batch, **ASKED)

        yield row_of(place, case, f"{name}: kernel by kernel", by_kernels, expected, None)
        step = Step(model, host, ASKED, batch.positions.device)

        def recorded(step=step, host=host) -> Any:
            with emulated():
                return step(host)

        yield row_of(place, case, f"{name}: recorded", recorded, expected, step)


def row_of(
    place: Place,
    case: Case,
    name: str,
    task: Callable[[], Any],
    expected: Mapping[str, torch.Tensor],
    step: Step | None,
) -> Row:
    """Return the row of a task; of a recorded step, from the host and back to it."""
    out = task()
    if out is None:
        raise RuntimeError("the step says that walls act, and there are none")
    error = max(
        relative(
            out[key][: len(expected[key])].detach().double().cpu().numpy(),
            expected[key].detach().numpy(),
        )
        for key in ("forces", "mm_forces")
    )
    seconds, remark = place.seconds(task), ""
    if step is not None and step.recorded:
        remark = f"{1e3 * place.seconds(step.replay):.3f} ms of it on the device"
    return Row(
        name, case.count, "float32", seconds, None if step is None else case.target,
        case.count / seconds, "systems", error=error, bound=1e-3, remark=remark,
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
        name, count, "float32", seconds["compiled"], seconds["torch"] / 4, error=error, bound=1e-3,
        remark=f"{seconds['torch'] / seconds['compiled']:.1f} times as fast as plain torch",
    )  # fmt: skip
