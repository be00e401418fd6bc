"""Where a model runs beside OpenMM."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gnn.engines import devices
from gnn.engines.devices import device_of, in_its_thread
from gnn.engines.embedding.embedding import Embedding
from gnn.engines.embedding.together import Together
from gnn.engines.embedding.zone import Sites, Zone


def context(name, index="0"):
    """Return what stands for a context on a platform."""
    platform = SimpleNamespace(
        getName=lambda: name, getPropertyValue=lambda context, key: {"DeviceIndex": index}[key]
    )
    return SimpleNamespace(getPlatform=lambda: platform)


def torch_sees(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.version, "cuda", "13.0")


@pytest.mark.parametrize("name", ["CPU", "Reference", "OpenCL"])
def test_beside_other_platforms_the_model_is_on_the_cpu(name, monkeypatch):
    torch_sees(monkeypatch, 2)
    assert device_of(context(name)) == torch.device("cpu")


@pytest.mark.parametrize(("text", "index"), [("0", 0), ("1", 1), ("1,0", 1), ("", 0)])
def test_the_model_is_on_the_device_of_the_platform(text, index, monkeypatch):
    torch_sees(monkeypatch, 2)
    assert device_of(context("CUDA", text)) == torch.device("cuda", index)


def test_a_torch_that_cannot_use_the_device_is_named(monkeypatch):
    torch_sees(monkeypatch, 1)
    with pytest.warns(RuntimeWarning, match="CUDA device 1, and the model on the CPU: torch sees"):
        assert device_of(context("CUDA", "1")).type == "cpu"
    torch_sees(monkeypatch, 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.warns(RuntimeWarning, match="is made without CUDA"):
        assert device_of(context("CUDA")).type == "cpu"


def test_a_model_on_a_device_has_a_thread_of_its_own(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(devices, "_thread", devices._thread.__wrapped__)
    here, cuda = threading.get_ident(), torch.device("cuda", 1)
    assert in_its_thread(torch.device("cpu"), threading.get_ident) == here
    assert in_its_thread(cuda, threading.get_ident) != here
    assert chosen == [cuda]

    def failing(text):
        raise ValueError(text)

    with pytest.raises(ValueError, match="as it was raised"):
        in_its_thread(cuda, failing, "as it was raised")


class OnDevice:
    """A model that says that it is on a device; counts in which threads it was asked."""

    elements, dtype, cutoff, charges = (), torch.float64, 5.0, None
    unknown, domain = "ignore", None
    baseline = SimpleNamespace(device=torch.device("cuda", 0))

    def __init__(self):
        self.threads = []

    def stepped(self, batch, **asked):
        self.threads.append(threading.get_ident())
        zeros = {"forces": batch.positions, "mm_forces": batch.mm_positions}
        found = {name: torch.zeros_like(values) for name, values in zeros.items()}
        return found | {
            "energy": torch.zeros(batch.n_systems), "mm_potential": torch.zeros(batch.n_mm),
        }  # fmt: skip


def test_replicas_meet_outside_of_the_thread_of_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    model, together = OnDevice(), Together(2)
    zone = Zone(np.array([1, 1]), Sites.of_particles(range(2), 2), 0)
    energies = []

    def replica(member):
        embedding = Embedding(model, zone)
        together.attach(member, embedding)
        energies.append(embedding.energy_forces(np.array([[0.0, 0, 0], [0.8, 0, 0]]))[0])
        together.leave(member)

    threads = [threading.Thread(target=replica, args=(k,), daemon=True) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert energies == [0.0, 0.0] and together.meetings == 1
    assert not set(model.threads) & {thread.ident for thread in threads}
