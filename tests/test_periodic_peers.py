"""Periodic sums of other programs give ours, each where it is installed; and the search among them.

The programs are those of benchmarks/_peers.py, which measures their times.
"""

from pathlib import Path

import numpy as np
import pytest

import multipoles as mp
from multipoles.indexing import sum_index

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
PROGRAMS = ("Helpme", "OpenMM", "TorchPME", "TorchP3M", "Nvalchemi")


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _peers

    return _peers


@pytest.fixture
def worker(peers):
    import _periodic_worker

    return _periodic_worker


def problem(peers, n=400, order=0):
    rng = np.random.default_rng(0)
    edge = (n / 0.1) ** (1 / 3)
    x, M = edge * rng.random((n, 3)), rng.standard_normal((n, 1 if order == 0 else 10))
    M[:, 0] -= M[:, 0].mean()
    found = mp.energy_forces(x, M, cell=edge * np.eye(3))
    return peers.Problem(x, M, edge, np.arange(n), found[1]), found


def closer(of, radius):
    """Which points have which others nearest image within a radius."""
    apart = of.points[:, None] - of.points
    apart -= of.edge * np.rint(apart / of.edge)
    return ((apart**2).sum(axis=2) < radius**2) & ~np.eye(len(apart), dtype=bool)


def near_field(of, pairs, order, eta):
    """The field of erfc(eta r)/r from the nearest images of partners."""
    i, j = pairs.T
    x, own = of.points, np.stack([i, np.arange(len(i))], axis=1)
    images = x[j] + of.edge * np.rint((x[i] - x[j]) / of.edge)
    return mp.field(x, images, of.moments[j], order, kernel=mp.Erfc(eta), pairs=own)


def made(peers, name, of):
    try:
        return getattr(peers, name)(of)
    except ImportError as error:
        pytest.skip(f"needs a package of the extra 'bench': {error}")


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_forces_of_charges_are_those_of_other_programs(peers, name):
    """OpenMM computes in single precision, with splines of order 5."""
    of, _ = problem(peers)
    peer = made(peers, name, of)
    bound = 1e-4 if name == "OpenMM" else 1e-6
    peer.lay_out(peers.Setting(5.0, 0.8, 5 if name in ("OpenMM", "TorchP3M") else 6, 128))
    if name == "TorchPME":
        peer.lay_out(peers.Setting(5.0, 0.8, 7, 128))
    peer.find_pairs()
    before = peer.sums()
    peer.stir()
    assert of.error(before) < bound
    assert of.error(peer.sums()) < bound
    assert peer.version


@pytest.mark.slow
def test_multipoles_of_helpme_and_a_loop_over_pairs_are_ours(peers):
    of, (energy, _, gradients) = problem(peers, order=2)
    peer = made(peers, "HelpmeMultipoles", of)
    peer.lay_out(peers.Setting(5.0, 1.0, 12, 96))
    peer.find_pairs()
    assert of.error(peer.sums()) < 1e-7
    assert peer.energy == pytest.approx(energy, rel=1e-7)
    torques = mp.torques(of.moments, gradients)
    assert np.linalg.norm(peer.torques - torques) < 1e-7 * np.linalg.norm(torques)


@pytest.mark.slow
def test_cells_of_torch_pme_are_ours(peers):
    rng = np.random.default_rng(0)
    edge, batch = 6.0, np.repeat([0, 1], 20)
    x, q = edge * rng.random((40, 3)), np.tile([[1.0], [-1.0]], (20, 1))
    exact = mp.energy_forces(x, q, batch=batch, cell=np.tile(edge * np.eye(3), (2, 1, 1)))[1]
    of = peers.Problem(x, q, edge, np.arange(40), exact, cells=2)
    peer = made(peers, "TorchEwald", of)
    peer.lay_out(peers.Setting(6.0, 0.8, 0, 16))
    peer.find_pairs()
    assert of.error(peer.sums()) < 1e-6


@pytest.mark.slow
def test_the_loop_over_pairs_is_the_near_part_of_ewald_s_sum(peers):
    import _pair_loop as loop

    of, _ = problem(peers, 500, order=2)
    eta, radius, x, M = 0.6, 5.0, of.points, of.moments
    near = loop.neighbours(x, of.edge, radius)
    i = np.repeat(np.arange(len(x)), np.diff(near.first))
    pairs = np.stack([near.order[i], near.order[near.partners]], axis=1)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    assert len(both) == len(np.argwhere(closer(of, radius)))
    phi = near_field(of, both, 3, eta)
    table, S = loop.smooth_table(eta, radius, 5), M[near.order, 4:] / [1, 2, 2, 1, 2, 1]
    given = M[near.order, 0], M[near.order, 1:4], S, of.edge, radius, table
    energy, forces, _ = loop.quadrupole_sums(near.points, near.first, near.partners, *given)
    wanted = -np.einsum("ik,ika->ia", M, phi[:, sum_index(2, 1)[:, 1:]])[near.order]
    assert energy == pytest.approx(0.5 * (M * phi[:, :10]).sum(), rel=1e-10)
    assert np.abs(forces - wanted).max() < 1e-10 * np.abs(wanted).max()


class Fake:
    """A program whose error falls with the fourth power of the grid."""

    def __init__(self, problem):
        self.problem, self.tried = problem, []

    def grids(self, coarsest, finest):
        return list(range(coarsest, finest + 1))

    def lay_out(self, setting):
        self.setting = setting
        self.tried.append(setting.grid)

    def find_pairs(self):
        pass

    def sums(self):
        error = 10.0 * self.setting.grid**-4.0
        return self.problem.exact * (1 + error)


def test_the_search_finds_the_coarsest_grid_that_keeps_the_bound(peers, worker):
    of, _ = problem(peers)
    peer = Fake(of)
    setting, error = worker.coarsest(peer, 1e-4, 4.0, 5, None)
    assert setting.grid == int(np.ceil((10 / 1e-4) ** 0.25))
    assert error == of.error(of.exact * (1 + 10.0 * setting.grid**-4.0)) <= 1e-4
    assert len(peer.tried) < 10
    assert worker.coarsest(peer, 1e-9, 4.0, 5, None) is None


def test_splitting_leaves_to_far_pairs_their_share_of_the_error(peers, worker):
    of, _ = problem(peers, 2000)
    x, q, h = of.points, of.moments, of.edge * np.eye(3)
    for bound in (1e-4, 1e-6):
        eta = worker.splitting(of, bound, 6.0, 1.0)
        near = mp.field(x, x, q, 1, kernel=mp.Erfc(eta), cell=h, tolerance=1e-13)
        inside = near_field(of, np.argwhere(closer(of, 6.0)), 1, eta)
        left_out = np.linalg.norm(q * (near - inside)[:, 1:]) / np.linalg.norm(of.exact)
        assert 0.3 * bound < left_out < bound
