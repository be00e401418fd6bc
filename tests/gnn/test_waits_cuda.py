"""What a step launches on a GPU, and what it waits for, told from tensors without numbers."""

import pytest
import torch

pytest.importorskip("numba.cuda")

from on_meta import watched
from published_cases import methanol, water

from gnn import AMP
from gnn.data import collate, prepare
from gnn.operators.gpu import recalled
from gnn.options import LongRange
from gnn.published import AmpBms
from gnn.published.amp_qmmm import AmpQmmm
from gnn.published.ana2b import Ana2b
from gnn.steps import Step

pytestmark = pytest.mark.cuda
META = torch.device("meta")
ASKED = {"forces": True, "mm_forces": True}
LISTS = ("edges", "smeared 0", "near charges", "near", "pairs of atoms")
# of each model: most kernels of a recorded step, and waits of an ordinary one
MODELS = {
    "amp": (lambda: AMP(method="direct"), 600, 4),
    "amp, long range": (lambda: AMP(method="direct", long_range=LongRange()), 815, 4),
    "bms": (lambda: AmpBms(mode="simulation"), 825, 3),
    "bms in training": (lambda: AmpBms(mode="training"), 755, 3),
    "minimal": (lambda: AmpQmmm("minimal"), 700, 3),
    "precision": (lambda: AmpQmmm("precision"), 1205, 3),
    "ana2b": (Ana2b, 675, 1),
}


def batch_of(model):
    systems = (water(12), methanol(12))
    return collate([prepare(one, model.cutoff, local_charges=None) for one in systems])


@pytest.fixture(params=MODELS)
def case(request):
    make, launches, waits = MODELS[request.param]
    torch.manual_seed(0)
    model = make()
    return model.to(META), batch_of(model), launches, waits


def test_a_recorded_step_never_waits(case):
    model, batch, launches, _ = case
    step = Step(model, batch, ASKED, META)
    step.room.sizes = dict.fromkeys(LISTS, 128)
    with watched():  # tables are copied once
        step._compute()
    with watched() as watch:
        step._compute()
    assert watch.copies == [] and watch.waits == 0
    assert watch.launches <= launches, watch.launches


def test_an_ordinary_step_waits_for_lengths_of_lists_and_walls_only(case):
    model, batch, _, waits = case
    there = batch.to(META)
    with watched(number=7):
        model(there, **ASKED)
    with watched(number=7) as watch:
        model(there, **ASKED)
    assert watch.copies == []
    assert watch.waits <= waits


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, launches", [("amp", 2030), ("bms", 2100), ("minimal", 2300), ("ana2b", 2200)]
)
def test_a_training_step_stays_on_the_device(name, launches):
    torch.manual_seed(0)
    model = MODELS[name][0]()
    there = batch_of(model).to(META)
    model = model.to(META)

    def step():
        out = model(there, **ASKED, create_graph=True)
        (out["energy"].sum() + out["forces"].square().sum()).backward()

    with watched(number=5):
        step()
    with watched(number=5) as watch:
        step()
    assert watch.copies == []
    assert watch.launches <= launches, watch.launches


def test_what_the_host_knows_of_charges_goes_with_a_batch():
    batch = batch_of(MODELS["amp"][0]())
    assert recalled(batch.to(META).formal, "even") is True
    batch.formal[0] += 1
    there = batch.to(META)
    assert recalled(there.formal, "even") is False
    there.formal.add_(0)  # nobody knows any more
    assert recalled(there.formal, "even") is None


def test_the_watch_sees_what_would_wait():
    x = torch.ones(3, device=META)
    for wait in (
        lambda: bool((x > 0).any()), lambda: x.numpy(), lambda: x[x > 0], lambda: x.tolist(),
        lambda: x.sum().item(), lambda: x.cpu(), lambda: torch.nonzero(x),
    ):  # fmt: skip
        with watched(), pytest.raises((RuntimeError, NotImplementedError, TypeError)):
            wait()
    with watched() as watch:
        torch.tensor([1.0, 2.0, 3.0], device=META) * x + x.new_tensor([1.0, 2.0, 3.0])
        x * torch.ones(3).to(META)
    assert watch.copies == ["tensor", "new_tensor", "_to_copy"]
    assert watch.launches == 4
