"""Train MACE for a given time; run by against_mace.py with the Python that has `mace-torch`.

python _mace_worker.py INPUT.npz OUTPUT.npz SECONDS
"""

import copy
import sys
import time

import ase
import numpy as np
import torch

# the release of e3nn that MACE asks for reads a file of its own that newer torch refuses
torch.serialization.add_safe_globals([slice])

from e3nn import o3  # noqa: E402
from mace import data, modules, tools  # noqa: E402
from mace.tools import torch_geometric  # noqa: E402

CUTOFF, BATCH, RATE = 5.0, 10, 0.01
STAGE_TWO = 0.75  # of the time: then the energy weighs more, as its documentation recommends


def dataset(content, part: str, table) -> list:
    keys = data.KeySpecification(
        info_keys={"energy": "REF_energy"}, arrays_keys={"forces": "REF_forces"}
    )
    items, ends = [], content[f"{part}_ptr"]
    for i, energy in enumerate(content[f"{part}_energy"]):
        own = slice(ends[i], ends[i + 1])
        atoms = ase.Atoms(content[f"{part}_numbers"][own], content[f"{part}_positions"][own])
        atoms.info["REF_energy"] = float(energy)
        atoms.arrays["REF_forces"] = content[f"{part}_forces"][own]
        config = data.config_from_atoms(atoms, key_specification=keys)
        items.append(data.AtomicData.from_config(config, z_table=table, cutoff=CUTOFF))
    return items


def build(content, table, loader):
    counts = np.array([
        [(content["train_numbers"][a:b] == z).sum() for z in table.zs]
        for a, b in zip(content["train_ptr"][:-1], content["train_ptr"][1:], strict=True)
    ])  # fmt: skip
    energies = np.linalg.lstsq(counts, content["train_energy"], rcond=None)[0]
    return modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        num_interactions=2,
        num_elements=len(table),
        hidden_irreps=o3.Irreps("32x0e + 32x1o"),
        MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=energies,
        avg_num_neighbors=modules.compute_avg_num_neighbors(loader),
        atomic_numbers=table.zs,
        correlation=3,
        radial_type="bessel",
        atomic_inter_scale=float(np.sqrt((content["train_forces"] ** 2).mean())),
        atomic_inter_shift=0.0,
    )


def train(model, loader, seconds: float):
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, amsgrad=True)
    average = copy.deepcopy(model)
    steps, start = 0, time.process_time()
    while True:
        for batch in loader:
            progress = (time.process_time() - start) / seconds
            if progress >= 1:
                return average, steps
            for group in optimizer.param_groups:
                group["lr"] = RATE * 0.01**progress
            weight = 1000.0 if progress > STAGE_TWO else 1.0
            output = model(batch.to_dict(), training=True, compute_force=True)
            atoms = batch.ptr[1:] - batch.ptr[:-1]
            miss = (output["energy"] - batch.energy) / atoms
            loss = weight * miss.square().mean()
            loss = loss + 100 * (output["forces"] - batch.forces).square().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            steps += 1
            decay = min(0.99, (1 + steps) / (10 + steps))
            with torch.no_grad():
                for mean, value in zip(average.parameters(), model.parameters(), strict=True):
                    mean.lerp_(value, 1 - decay)


def predict(model, items, batch_size: int):
    loader = torch_geometric.dataloader.DataLoader(items, batch_size, shuffle=False)
    energies, forces = [], []
    for batch in loader:
        output = model(batch.to_dict(), compute_force=True)
        energies.append(output["energy"].detach().numpy())
        forces.append(output["forces"].detach().numpy())
    return np.concatenate(energies), np.concatenate(forces)


def seconds_per_frame(model, items, batch_size: int) -> float:
    """Return the least time of several for one batch, over its size."""
    part = items[:batch_size]
    predict(model, part, batch_size)
    times = []
    for _ in range(10):
        start = time.process_time()
        predict(model, part, batch_size)
        times.append(time.process_time() - start)
    return min(times) / len(part)


def main() -> None:
    source, target, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # total energies need float64 until the atoms' own are taken away
    torch.set_default_dtype(torch.float32)
    content = dict(np.load(source))
    table = tools.AtomicNumberTable(sorted({int(z) for z in content["train_numbers"]}))
    training, test = (dataset(content, part, table) for part in ("train", "test"))
    loader = torch_geometric.dataloader.DataLoader(training, BATCH, shuffle=True, drop_last=True)
    model = build(content, table, loader)
    model, steps = train(model, loader, seconds)
    energies, forces = predict(model, test, 32)
    np.savez(
        target, energy=energies, forces=forces, steps=steps,
        parameters=sum(p.numel() for p in model.parameters()),
        single=seconds_per_frame(model, test, 1), batch=seconds_per_frame(model, test, 32),
    )  # fmt: skip


if __name__ == "__main__":
    main()
