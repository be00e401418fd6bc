"""Replicas: batches that meet are what each is alone, and one that ends keeps nobody waiting."""

import threading
import time

import numpy as np
import pytest
import torch

pytest.importorskip("openmm", reason="needs the package openmm (extra 'engines')")

from gnn import load_model
from gnn.cli import main
from gnn.data import System, collate
from gnn.data.joining import joined, parted
from gnn.engines.embedding.together import Together
from gnn.engines.runs.analysis import read_log
from gnn.engines.sampling.replicas import circles
from gnn.training.committee import Committee, perturb

METHANOL = [6, 8, 1, 1, 1, 1]
PLACES = np.array(
    [[1.4, 0, 0], [0, 0, 0], [1.85, 0.39, -0.92], [1.78, -1.01, 0.08], [1.81, 0.58, 0.85],
     [-0.31, 0.92, 0]],
)  # fmt: skip
STEPS = "--steps", 12, "--interval", 3, "--checkpoint-interval", 6


def batches(count, seed=1):
    """Return batches of one system each, with different numbers of charges around it."""
    rng = np.random.default_rng(seed)
    model = load_model().double()
    systems = []
    for i in range(count):
        around = rng.normal(size=(3 * i, 3))
        around *= 5 / np.linalg.norm(around, axis=1, keepdims=True).clip(1e-9)
        places = PLACES + 0.03 * rng.normal(size=PLACES.shape)
        systems.append(System(METHANOL, places, 0, around, rng.normal(size=3 * i) * 0.4))
    made = [collate([s], model.cutoff, torch.float64, local_charges=True) for s in systems]
    return model, made


def ask(model, batch):
    return model(batch, forces=True, mm_forces=True, mm_potential=True)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(
            one[name].detach(), other[name].detach(), rtol=1e-11, atol=1e-11, err_msg=name
        )


@pytest.mark.parametrize("committee", [False, True])
def test_joined_batches_give_what_each_gives_alone(committee):
    model, made = batches(3)
    if committee:
        other = load_model().double()
        perturb(other, 0.02, seed=1)
        model = Committee([model, other])
    parts = parted(ask(model, joined(made)), made)
    for part, batch in zip(parts, made, strict=True):
        assert_same(part, ask(model, batch))


def test_energies_between_atoms_stay_with_their_system():
    """As in periodic electrostatics: a field for one, and an energy of its moments."""
    model, made = batches(3)
    field = 0.1 * torch.randn(6, 20, generator=torch.Generator().manual_seed(1)).double()
    made[1].external_field = field
    made[1].between = (lambda x, m: (x.sum(1) * m[:, 0]).sum(),)
    found = {"forces": True, "mm_forces": True, "mm_potential": True, "field_response": True}
    parts = parted(model(joined(made), **found), made)
    for part, batch in zip(parts, made, strict=True):
        alone = model(batch, **found)
        width = alone["field_response"].shape[1]
        part["field_response"] = part["field_response"][:, :width]
        if not batch.between:
            assert not part.pop("energy_between").any()
        assert_same(part, alone)


def test_batches_that_do_not_go_together_are_refused():
    _, (first, second) = batches(2)
    with pytest.raises(ValueError, match=r"one type, got \['torch.float32', 'torch.float64'\]"):
        joined([first, second.to(torch.float32)])
    cell = first.to()
    cell.cell = torch.eye(3)[None].double()
    with pytest.raises(ValueError, match="some are in cells, others not"):
        joined([cell, second])
    with pytest.raises(ValueError, match="at least one"):
        joined([])
    with pytest.raises(ValueError, match="energy: expected 2 rows, got 3"):
        parted({"energy": torch.zeros(3)}, [first, second])


class Fake:
    """An embedding as far as the rendezvous knows one."""

    def __init__(self, evaluate):
        self.evaluate = evaluate


def meet(model, made, jobs, evaluate=None):
    """Let threads do jobs with their `evaluate`; return what each returned or raised."""
    together, found = Together(len(made)), {}
    evaluate = evaluate or (lambda batch: ask(model, batch))

    def one(i):
        fake = Fake(evaluate)
        together.attach(i, fake)
        try:
            found[i] = jobs[i](fake.evaluate, made[i])
        except BaseException as error:
            found[i] = error
        finally:
            together.leave(i)

    threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(len(made))]
    for thread in threads:
        thread.start()
    return together, threads, found


def ended(threads):
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads), "a deadlock"


def test_members_meet_and_may_leave_early():
    model, made = batches(3)

    def calls(count):
        return lambda evaluate, batch: [evaluate(batch) for _ in range(count)][-1]

    together, threads, found = meet(model, made, [calls(1), calls(3), calls(5)])
    ended(threads)
    assert together.meetings == 5
    for i, batch in enumerate(made):
        assert_same(found[i], ask(model, batch))


def test_one_that_fails_fails_alone():
    model, made = batches(3)

    def evaluate(batch):
        if (batch.n_mm + 1) in (4, 10):  # the second alone, and all together
            raise ValueError("no such thing")
        return ask(model, batch)

    jobs = [lambda evaluate, batch: [evaluate(batch), evaluate(batch)][1]] * 3
    _, threads, found = meet(model, made, jobs, evaluate)
    ended(threads)
    assert isinstance(found[1], ValueError) and str(found[1]) == "no such thing"
    for i in (0, 2):
        assert_same(found[i], ask(model, made[i]))


def test_all_stop_where_they_wait():
    model, made = batches(2)
    wait = threading.Event()
    jobs = [lambda evaluate, batch: evaluate(batch), lambda *_: wait.wait(30)]
    together, threads, found = meet(model, made, jobs)
    time.sleep(0.05)
    together.stop()
    threads[0].join(30)
    assert isinstance(found[0], KeyboardInterrupt)
    wait.set()
    ended(threads)


def test_circles():
    assert [circles(n, 4) for n in (1, 4, 7, 8, 16)] == [1, 1, 1, 2, 2]
    assert circles(64, 16) == 8 and circles(64, 1) == 1


# --- the command ----------------------------------------------------------------------------------


def md(output, *options):
    plain = "--platform", "CPU", "--threads", "1", "--precision", "float64", "--output", output
    return main([str(word) for word in ("md", *plain, *options)])


def assert_logs_agree(one, other, rtol=1e-7):
    first, second = read_log(one / "log.csv"), read_log(other / "log.csv")
    for name in first.keys() - {"ns_per_day"}:
        np.testing.assert_allclose(first[name], second[name], rtol=rtol, atol=1e-3, err_msg=name)


def test_replicas_are_runs_of_their_own(tmp_path, capsys):
    """Each is the run with its seed and temperature alone; what was stopped goes on."""
    told = "--temperatures", 280, 320
    assert md(tmp_path / "both", *STEPS, *told) == 0
    for i, kelvin in enumerate(told[1:]):
        alone = tmp_path / f"alone_{i}"
        assert md(alone, *STEPS, "--temperature", kelvin, "--seed", i) == 0
        assert_logs_agree(tmp_path / "both" / f"replica_{i}", alone)
    short = tmp_path / "short"
    assert md(short, "--steps", 6, *STEPS[2:], *told) == 0
    assert md(short, *STEPS, *told) == 2
    assert "holds replicas already" in capsys.readouterr().err
    (short / "replica_1" / "checkpoint.npz").unlink()  # as if it had been stopped before
    assert md(short, *STEPS, *told, "--resume") == 0
    for i in (0, 1):
        assert_logs_agree(tmp_path / "both" / f"replica_{i}", short / f"replica_{i}")
    assert md(tmp_path / "none", *STEPS, *told, "--replicas", 3) == 2
    assert "got 3 --replicas, 2 --temperatures" in capsys.readouterr().err


def test_a_replica_that_fails_lets_the_others_finish(tmp_path, monkeypatch, capsys):
    from gnn.engines.runs.dynamics import Run

    original = Run._record

    def record(self, simulation, step, speed):
        if step == 6 and self.folder.name == "replica_0":
            raise FloatingPointError("the energy is nan kJ/mol")
        original(self, simulation, step, speed)

    monkeypatch.setattr(Run, "_record", record)
    assert md(tmp_path, *STEPS, "--replicas", 2) == 2
    assert "replica 0: the run stopped at step 6" in capsys.readouterr().err
    assert read_log(tmp_path / "replica_1" / "log.csv")["step"][-1] == 12
    assert (tmp_path / "replica_0" / "failed.pdb").is_file()


def test_an_interrupt_ends_all_replicas(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(threading.Thread, "join", _interrupted_once())
    assert md(tmp_path, "--steps", 100000, *STEPS[2:], "--replicas", 2) == 130
    assert "interrupted" in capsys.readouterr().err


def _interrupted_once():
    original, calls = threading.Thread.join, []

    def join(self, timeout=None):
        original(self, timeout)
        if self.name.startswith("replica") and not calls:
            calls.append(1)
            raise KeyboardInterrupt

    return join
