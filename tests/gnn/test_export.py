"""Exported models: torch alone loads the file and gives the same numbers."""

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import MODEL

from gnn import AMP, System
from gnn.cli import main
from gnn.data import collate
from gnn.export import INPUTS, OUTPUTS, Traceable, export_model
from gnn.potential import Potential
from gnn.training.checkpoint import save_model

# a process in which nothing but torch, numpy and the standard library can be imported
ALONE = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"numba", "llvmlite", "scipy", "multipoles", "fmm", "gnn"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
import json
import numpy as np
import torch

extra = {"metadata.json": ""}
program = torch.export.load(sys.argv[1], extra_files=extra).module()
about = json.loads(extra["metadata.json"])
results = []
for given in torch.load(sys.argv[2], weights_only=True):
    out = program(*(given[name] for name in about["inputs"]))
    results.append(dict(zip(about["outputs"], out)))
torch.save(results, sys.argv[3])
print(json.dumps(about))
"""


def _model(dtype=torch.float64, **options) -> AMP:
    torch.manual_seed(1)
    model = AMP.from_config(MODEL | options).to(dtype)
    with torch.no_grad():  # biases and output layers off their neutral start
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.baseline[torch.tensor([1, 6, 8])] = torch.tensor([-13.6, -1029.0, -2041.0]).double()
    model.charge_baseline.fill_(0.7)
    model.known[torch.tensor([1, 6, 8])] = True
    return model.eval()


def _system(seed, atoms, particles, charge=0, field=None, order=0) -> System:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)
    positions = 1.4 * grid[rng.permutation(27)[:atoms]] + rng.uniform(-0.2, 0.2, (atoms, 3)) + 5
    mm = positions.mean(0) + rng.choice([-1, 1], (particles, 3)) * rng.uniform(3, 6, (particles, 3))
    more = {}
    if order > 0:
        more["mm_dipoles"] = rng.normal(size=(particles, 3))
    if order > 1:
        square = rng.normal(size=(particles, 3, 3))
        more["mm_quadrupoles"] = square + square.swapaxes(1, 2)
    system = System(
        rng.choice([1, 6, 8], atoms),
        positions,
        charge,
        mm,
        rng.normal(size=particles),
        uniform_field=field,
        **more,
    )
    return system.with_charges(np.full(atoms, charge / atoms))  # no molecules of chemistry


def _cases(order=0) -> list[list[System]]:
    return [
        [_system(0, 9, 12, 1, order=order)],
        [_system(1, 5, 0)],
        [_system(2, 1, 6, -1, [0.1, -0.2, 0.3], order)],
        [_system(3, 1, 0, 1)],
        [_system(4, 2, 1, order=order)],
        [_system(5, 3, 2, 0, None, order), _system(6, 1, 0, 1), _system(7, 6, 7, -2, [1, 0, 2.0])],
    ]


def _inputs(systems, model, components) -> dict[str, torch.Tensor]:
    batch = collate(systems, model.cutoff, torch.float64)
    far = batch.origin.index_select(0, batch.batch), batch.origin.index_select(0, batch.mm_batch)
    moments = torch.nn.functional.pad(batch.mm_moments, (0, components - batch.mm_moments.shape[1]))
    given = {name: getattr(batch, name) for name in INPUTS}
    given |= {"positions": batch.positions + far[0], "mm_positions": batch.mm_positions + far[1]}
    return given | {"mm_moments": moments}


def _compare(results, systems, model, atol) -> None:
    expected = model.evaluate(systems)
    assert results.keys() == set(OUTPUTS)
    for name, value in results.items():
        parts = [np.atleast_1d(result[name]) for result in expected]
        joined = np.stack(parts) if name == "dipole" else np.concatenate(parts)
        assert value.dtype == torch.float64
        np.testing.assert_allclose(value.numpy(), joined, rtol=0, atol=atol, err_msg=name)


def _run_alone(path, cases, model, components=1):
    files = [str(path), str(path.with_suffix(".in")), str(path.with_suffix(".out"))]
    torch.save([_inputs(systems, model, components) for systems in cases], files[1])
    run = subprocess.run(
        [sys.executable, "-c", ALONE, *files], capture_output=True, text=True, cwd=path.parent,
        env=os.environ | {"PYTHONPATH": ""}, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return torch.load(files[2], weights_only=True), json.loads(run.stdout.splitlines()[-1])


def test_a_process_without_numba_gives_the_numbers_of_the_compiled_operators(tmp_path):
    # the smaller part of the graph; the slow tests have it all
    model = _model(surroundings={"smearing": []}, electrostatics=None)
    path = export_model(model, tmp_path / "model.pt2")
    results, about = _run_alone(path, _cases(), model)
    for systems, result in zip(_cases(), results, strict=True):
        _compare(result, systems, model, 1e-10)
    # what a loader needs
    assert about["inputs"] == list(INPUTS) and about["outputs"] == list(OUTPUTS)
    assert about["elements"] == [1, 6, 8] and about["baseline"]["6"] == -1029.0
    assert about["cutoff"] == model.cutoff and about["dtype"] == "float64"
    assert about["charge_baseline"] == pytest.approx(0.7) and about["units"]["energy"] == "eV"
    assert AMP.from_config(about["config"]).config() == model.config()


def test_what_cannot_be_exported_is_refused(tmp_path):
    model = _model()
    with pytest.raises(TypeError, match="expected an AMP model, got Potential"):
        export_model(Potential(), tmp_path / "m.pt2")
    with pytest.raises(ValueError, match="mm_order 0, 1 or 2, got 3"):
        export_model(model, tmp_path / "m.pt2", mm_order=3)
    with pytest.raises(ValueError, match=r"ends in \.pt2"):
        export_model(model, tmp_path / "m.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{}, {"order": 2, "steps": 2, "long_range": True}])
def test_traceable_twin_shares_parameters_and_numbers(options):
    model = _model(**options)
    twin = Traceable.of(model)
    assert next(twin.parameters()) is next(model.parameters())
    for systems in _cases(order=1):
        for one, two in zip(model.evaluate(systems), twin.evaluate(systems), strict=True):
            for name in one:
                np.testing.assert_allclose(two[name], one[name], rtol=0, atol=1e-10)
        single = Traceable.of(copy.deepcopy(model).float()).evaluate(systems)
        for one, two in zip(model.evaluate(systems), single, strict=True):
            np.testing.assert_allclose(two["forces"], one["forces"], rtol=1e-3, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, mm_order, dtype, atol",
    [
        ({"order": 3, "long_range": {}, "steps": 2}, 0, torch.float64, 1e-10),
        (
            {"order": 0, "surroundings": {"smearing": []}, "electrostatics": None},
            1,
            torch.float64,
            1e-10,
        ),
        (
            {"order": 2, "steps": 2, "surroundings": {"smearing": [1.2, 0.8]}},
            2,
            torch.float64,
            1e-10,
        ),
        ({}, 0, torch.float64, 1e-10),
        ({"surroundings": {"in_messages": False}}, 0, torch.float64, 1e-10),
        ({"surroundings": {"in_energy": False, "smearing": []}}, 0, torch.float64, 1e-10),
        ({"order": 2}, 0, torch.float32, 5e-4),
    ],
)
def test_every_option_is_exported(tmp_path, options, mm_order, dtype, atol):
    model = _model(dtype, **options)
    path = export_model(model, tmp_path / "model.pt2", mm_order=mm_order)
    cases = _cases(mm_order)
    results, about = _run_alone(path, cases, model, (1, 4, 10)[mm_order])
    assert about["mm_order"] == mm_order
    for result, systems in zip(results, cases, strict=True):
        _compare(result, systems, model, atol)


@pytest.mark.slow
def test_command_writes_the_file(tmp_path, capsys):
    model = _model(torch.float32)
    save_model(tmp_path / "model.pt", model)
    target = tmp_path / "model.pt2"
    assert main(["export", str(tmp_path / "model.pt"), "-o", str(target), "--float64"]) == 0
    assert "float64" in capsys.readouterr().out
    results, about = _run_alone(target, _cases(), model)
    assert about["dtype"] == "float64"
    for result, systems in zip(results, _cases(), strict=True):
        _compare(result, systems, model.double(), 1e-10)
