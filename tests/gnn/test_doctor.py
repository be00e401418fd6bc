"""The examination of a model: a sound one passes, and every fault that is built in is found."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from published_cases import small_model
from tiny import methanol, tiny_model
from torch import nn

from gnn import Frame, System
from gnn.cli import main
from gnn.commands import doctor as command
from gnn.data import write_frames
from gnn.doctor import consistency, dynamics, labelled, scans, separation, smoothness
from gnn.doctor.examination import examine
from gnn.doctor.findings import FAIL, NOTE, OK, judged
from gnn.doctor.inherited import as_inherited, is_published
from gnn.doctor.knowledge import anatomy
from gnn.doctor.page import page
from gnn.doctor.patient import admitted, surrounded
from gnn.potential import Potential
from gnn.training.checkpoint import save_model
from gnn.units import COULOMB


class Toy(Potential):
    """A repulsion of all atoms and charges, with faults to choose from."""

    cutoff = 5.0

    def __init__(self, fault=""):
        super().__init__()
        self.fault, self.strength = fault, nn.Parameter(torch.ones(()))
        self.known[[1, 6, 8]] = True

    def config(self):
        return {"cutoff": self.cutoff, "electrostatics": None}

    def _energy(self, batch):
        vectors = batch.edge_vectors
        r = torch.linalg.vector_norm(vectors, dim=1)
        per_edge = 0.5 * self.strength * torch.exp(-2 * (r - 1)) * self._fade(r)
        if self.fault == "hole":
            per_edge = per_edge - 2000 * torch.exp(-(((r - 0.45) / 0.02) ** 2))
        if self.fault == "crowd":  # attraction in proportion to the square of the neighbours
            near = r.new_zeros(batch.n_atoms).index_add(0, batch.receivers, torch.exp(-4 * r))
            per_edge = per_edge - 50 * near[batch.receivers] ** 2
        if self.fault == "nan":
            per_edge = per_edge + 0 * torch.log(r - 0.4)
        if self.fault == "direction":
            per_edge = per_edge + 0.01 * vectors[:, 0].abs() * self._fade(r)
        if self.fault == "forces":
            per_edge = per_edge + (0.1 * (r - 1) * self._fade(r)).detach()
        energy = per_edge.new_zeros(batch.n_systems)
        energy = energy.index_add(0, batch.batch[batch.receivers], per_edge)
        energy = energy.index_add(0, batch.mm_batch, self._of_charges(batch))
        if self.fault == "order":
            energy = energy + torch.stack(
                [batch.numbers[batch.batch == i][0] for i in range(batch.n_systems)]
            )
        if self.fault == "size":
            energy = energy + torch.bincount(batch.batch) ** 2
        zeros = batch.positions.new_zeros(batch.n_atoms, 3, 3)
        share = (batch.charge / torch.bincount(batch.batch))[batch.batch]
        return energy, {"charges": share, "dipoles": zeros[:, 0], "quadrupoles": zeros}

    def _fade(self, r):
        if self.fault == "jump":
            return torch.ones_like(r)
        x = (r / self.cutoff).clamp(max=1)
        return (1 - x**2) ** (2 if self.fault == "curvature" else 3)

    def _of_charges(self, batch):
        gaps = torch.linalg.vector_norm(batch.mm_positions[:, None] - batch.positions[None], dim=2)
        same = batch.mm_batch[:, None] == batch.batch[None]
        sign = -1 if self.fault == "charges" else 1
        energy = sign * (same * torch.exp(-2 * (gaps - 1))).sum(1) * batch.mm_charges.abs()
        if self.fault == "unbalanced":
            energy = energy + 0.01 * torch.linalg.vector_norm(batch.mm_positions, dim=1) ** 3
        return energy


WATER = [[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]]
CO = [[0, 0, 0], [0, 0, 1.13]]


@pytest.fixture(scope="module")
def frames():
    around = {"mm_positions": [[3.0, 0.5, 0], [-2.5, 1.0, 2.0]], "mm_charges": [-0.8, 0.4]}
    return [
        Frame(System([8, 1, 1], WATER, 0, **around), name="water"),
        Frame(System([6, 8], CO, 0), name="carbon monoxide"),
    ]


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Runs are a quarter as long as a user's, and scans take larger steps."""
    monkeypatch.setattr(dynamics, "_STEPS", 60)
    monkeypatch.setattr(scans, "_STEP", 0.04)


def patient(fault, frames):
    return admitted(Toy(fault).double(), frames)


CHECKS = {
    "pairs of atoms": lambda p: scans.holes("pairs of atoms", scans.pairs_alone(p)),
    "pairs in molecules": lambda p: scans.holes("pairs in molecules", scans.pairs_in_molecules(p)),
    "crowded molecules": lambda p: scans.holes("crowded molecules", scans.crowded_molecules(p)),
    "charges near atoms": lambda p: scans.holes("charges near atoms", scans.charges_near_atoms(p)),
    "size consistency": lambda p: separation.size_consistency(separation.curves(p)),
    "energy drift in MD": lambda p: dynamics.conservation(dynamics.runs(p))[0],
    "energy fluctuation in MD": lambda p: dynamics.conservation(dynamics.runs(p))[1],
    "invariance, float64": lambda p: consistency.invariance(p, "float64"),
    "invariance, float32": lambda p: consistency.invariance(p, "float32"),
    "smooth at cutoffs": smoothness.smoothness,
    "forces, finite differences": consistency.gradient,
    "Newton's third law": consistency.balance,
}


@pytest.mark.parametrize("check", CHECKS)
def test_a_sound_model_passes(check, frames):
    found = CHECKS[check](patient("", frames))
    assert (found.check, found.verdict) == (check, OK), found


@pytest.mark.parametrize(
    ("fault", "check", "remark"),
    [
        ("hole", "pairs of atoms", "at 0.4"),
        ("hole", "pairs in molecules", "carbon monoxide"),
        ("nan", "pairs of atoms", "not finite"),
        ("crowd", "crowded molecules", "compressed"),
        ("charges", "charges near atoms", "holes in"),
        ("size", "size consistency", "1000 Å"),
        ("forces", "energy fluctuation in MD", "fs"),
        ("forces", "forces, finite differences", ""),
        ("direction", "invariance, float64", "rotation"),
        ("direction", "invariance, float32", "rotation"),
        ("order", "invariance, float64", "permutation"),
        ("jump", "smooth at cutoffs", "energy"),
        ("curvature", "smooth at cutoffs", "curvature"),
        ("unbalanced", "Newton's third law", "net force"),
    ],
)
def test_a_fault_is_found(fault, check, remark, frames):
    found = CHECKS[check](patient(fault, frames))
    assert (found.check, found.verdict) == (check, FAIL), found
    assert remark in found.remark
    assert found.figure > found.limit


def test_holes_are_as_deep_as_they_are():
    r = np.array([1.4, 1.2, 1.0, 0.8, 0.6, 0.4])
    energies = np.array([-9.0, 0.0, 1.0, -2.0, 5.0, 4.5])
    scan = scans.Scan("", (1, 1), r, energies, 1.2)
    assert scan.hole() == (3.0, 0.8)  # what lies outside of the nearest distance is no hole
    broken = replace(scan, energies=np.where(r < 0.7, np.nan, energies))
    assert broken.hole() == (np.inf, 0.6)


def test_scans_begin_where_data_end_and_come_to_the_end(frames):
    found = scans.pairs_alone(patient("", frames))
    assert {scan.label for scan in found} == {"H–H", "H–C", "H–O", "C–C", "C–O", "O–O"}
    for scan in found:
        assert scan.distances[-1] == scans.LEAST
        assert (np.diff(scan.distances) < 0).all() and scan.nearest in scan.distances
    (oxide,) = (scan for scan in found if scan.label == "C–O")
    assert np.isclose(oxide.nearest, 1.13)


def test_what_hangs_on_an_atom_moves_with_it():
    chain = System([6, 6, 1], [[0, 0, 0], [1.5, 0, 0], [2.6, 0, 0]])
    pressed = scans._pressed(chain, 0, 1, 0.5)
    assert np.allclose(pressed.positions, [[0, 0, 0], [0.5, 0, 0], [1.6, 0, 0]])
    ring = System([6] * 3, 0.87 * np.array([[0, 1, 0], [0.866, -0.5, 0], [-0.866, -0.5, 0]]))
    moved = (scans._pressed(ring, 0, 1, 0.5).positions != ring.positions).any(1)
    assert moved.tolist() == [False, True, False]


def test_ions_far_apart_have_the_energy_of_their_charges():
    ions = [
        Frame(System([1, 1], [[0, 0, 0], [0, 0, 1.0]], 1), name="cation"),
        Frame(System([8, 1], [[0, 0, 0], [0, 0, 1.0]], -1), name="anion"),
    ]
    (curve,) = separation.curves(patient("", ions))
    assert curve.kind == "ion–ion"
    assert np.isclose(curve.expected[-1], -COULOMB / 1000, rtol=1e-5)
    found = separation.size_consistency([curve])  # the model has no electrostatics
    assert found.verdict == FAIL and np.isclose(found.figure, COULOMB / 1000, rtol=1e-3)


def test_dipoles_far_apart_are_those_of_charges():
    first, second = (1.0, np.array([0.3, -0.2, 0.1])), (-0.5, np.array([-0.1, 0.4, 0.2]))
    r = np.array([40.0])
    energy = separation._multipolar(first, second, r)
    small = 1e-4
    places, charges = [], []
    for centre, (charge, dipole) in ((0.0, first), (40.0, second)):
        size = np.linalg.norm(dipole)
        for sign in (1, -1):
            places.append(np.array([centre, 0, 0]) + sign * small * dipole / size / 2)
            charges.append(charge / 2 + sign * size / small)
    exact = COULOMB * sum(
        charges[i] * charges[j] / np.linalg.norm(places[i] - places[j])
        for i in (0, 1)
        for j in (2, 3)
    )
    assert np.isclose(energy[0], exact, rtol=1e-5)


def test_cutoffs_of_all_models_are_crossed():
    assert smoothness.cutoffs(small_model().config()) == [4.0, 8.0, 9.0, 14.0]
    member = {"kind": "AMP", "config": tiny_model().config()}
    assert smoothness.cutoffs({"members": [member, member]}) == [5.0]


def test_every_figure_that_is_no_number_exceeds_its_limit():
    assert judged("", float("nan"), "eV", 1.0).verdict == FAIL
    assert judged("", 1.0, "eV", 1.0).verdict == OK
    assert judged("", 2.0, "eV", 1.0, beyond=NOTE).verdict == NOTE


def test_charges_are_put_around_where_there_are_none(frames):
    system = surrounded(frames[1].system)
    gaps = np.linalg.norm(system.mm_positions[:, None] - system.positions[None], axis=2)
    assert system.n_mm == 6 and gaps.min() > 2.5
    assert surrounded(frames[0].system).n_mm == 2


# --- whole examinations ---------------------------------------------------------------------------


def test_a_random_amp_is_invariant_smooth_and_a_gradient():
    report = examine(tiny_model(), methanol()[:4])
    verdicts = {finding.check: finding.verdict for finding in report.findings}
    for check in (
        "invariance, float64", "invariance, float32", "smooth at cutoffs",
        "forces, finite differences", "Newton's third law", "energy fluctuation in MD",
    ):  # fmt: skip
        assert verdicts[check] == OK, report.findings
    (row,) = report.errors
    assert row.molecule == "meoh" and row.frames == 4


def test_what_is_published_is_inherited_and_no_failure():
    assert is_published(small_model()) and not is_published(Toy())
    hole = as_inherited(judged("pairs of atoms", np.inf, "eV", 1e-3, "C–I at 0.30 Å"))
    assert hole.verdict == NOTE and hole.remark.startswith("inherited: envelope 1/x")
    wrong = judged("forces, finite differences", 1.0, "eV/Å", 1e-5)
    assert as_inherited(wrong) is wrong  # of this no published program is known
    assert "published" in anatomy(small_model())["origin"]


@pytest.mark.slow
def test_a_published_model_is_examined():
    report = examine(small_model(), methanol()[:2])
    verdicts = {finding.check: finding.verdict for finding in report.findings}
    assert verdicts["forces, finite differences"] == OK
    assert verdicts["size consistency"] != FAIL


def test_a_check_that_stops_is_a_failure(frames, monkeypatch):
    def broken(_):
        raise RuntimeError("out of\nluck")

    monkeypatch.setattr(consistency, "balance", broken)
    report = examine(Toy(), frames)
    (found,) = (f for f in report.findings if f.figure is None and f.verdict == FAIL)
    assert found.remark == "it stopped: out of luck" and not report.healthy


def test_unknown_elements_are_refused():
    with pytest.raises(ValueError, match="the data hold N, of which the model knows nothing"):
        admitted(Toy(), [Frame(System([7], [[0, 0, 0]]))])


def test_a_model_of_other_elements_is_examined_on_pairs_of_them():
    model = Toy()
    model.known.zero_()
    model.known[[17, 35]] = True
    numbers = [frame.system.numbers.tolist() for frame in admitted(model, full=True).frames]
    assert numbers == [[17, 17], [17, 35], [35, 35]]


def test_errors_have_the_constant_taken_off(frames):
    model = Toy().double()
    data = []
    for k in range(3):
        system = replace(frames[0].system, positions=frames[0].system.positions * (1 + 0.01 * k))
        (result,) = model.evaluate([system])
        data.append(Frame(system, result["energy"] + 5, result["forces"] + 0.1, name="water"))
    (row,) = labelled.errors(model, data)
    assert np.isclose(row.constant, -5000) and row.energy < 1e-6
    assert np.isclose(row.forces, 100)
    energy, forces = labelled.accuracy([row])
    assert energy.verdict == OK and forces.unit == "%"
    assert labelled.errors(model, frames) == []


# --- the command ----------------------------------------------------------------------------------


def test_the_command_writes_page_picture_and_figures(tmp_path, capsys):
    model, data = tmp_path / "model.pt", tmp_path / "data.h5"
    save_model(model, tiny_model())
    write_frames(data, methanol()[:4])
    # random weights have holes
    assert main(["doctor", str(model), str(data), "--json", str(tmp_path / "found.json")]) == 1
    told = capsys.readouterr().out
    for words in ("What it knows", "H, C, O", "pairs of atoms", "≤", "FAIL", "Verdict:", "meoh"):
        assert words in told
    assert (tmp_path / "doctor.png").stat().st_size > 10_000
    found = json.loads((tmp_path / "found.json").read_text())
    assert not found["healthy"] and found["errors"][0]["molecule"] == "meoh"
    assert {f["verdict"] for f in found["findings"]} <= {OK, NOTE, FAIL}


def test_a_healthy_model_ends_with_zero(tmp_path, frames, monkeypatch, capsys):
    monkeypatch.setattr(command, "_load", lambda _: Toy())
    data, picture = tmp_path / "data.xyz", tmp_path / "sub" / "picture.svg"
    write_frames(data, [replace(frame, energy=0.0) for frame in frames])
    assert main(["doctor", "any.pt", str(data), "--picture", str(picture)]) == 0
    assert picture.exists() and "checks passed" in capsys.readouterr().out


def test_wrong_calls_end_with_two(tmp_path, capsys):
    other = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(1)}, other)
    for arguments, words in (
        (["nowhere.pt"], "no checkpoint at nowhere.pt"),
        ([str(other)], "is not a checkpoint of anisole"),
    ):
        assert main(["doctor", *arguments]) == 2
        assert words in capsys.readouterr().err


def test_the_page_holds_every_finding(frames):
    report = examine(Toy("hole"), frames, name="[toy]")
    from rich.console import Console

    console = Console(width=110, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for part in page(report):
        console.print(part)
    text = console.export_text()
    assert text.startswith("[toy]")
    for finding in report.findings:
        assert finding.check in text
    assert report.verdict().split(":")[0] in text
