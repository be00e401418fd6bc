"""Extents of frames against loops over all pairs."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import methanol

from gnn import Frame, System
from gnn.data import load_shipped
from gnn.data.extent import Extent, extent_of, field_derivatives
from gnn.training.fit import _within
from gnn.training.parallel import Ranks
from gnn.training.sharing import Shares
from gnn.units import COULOMB


def _erf_gradient(r, damping):
    """Gradient of erf(a r) / r by central differences, with scipy's erf."""
    from scipy.special import erf

    def value(x):
        d = np.linalg.norm(x)
        return erf(damping * d) / d

    step = 1e-5 * np.eye(3)
    return np.array([(value(r + h) - value(r - h)) / 2e-5 for h in step])


def _slow(systems, damping):
    pairs, charges, field = np.full((95, 95), np.inf), np.full(95, np.inf), np.zeros((2, 95))
    for system in systems:
        for i, (z, x) in enumerate(zip(system.numbers, system.positions, strict=True)):
            for j, (other, y) in enumerate(zip(system.numbers, system.positions, strict=True)):
                if i != j:
                    pairs[z, other] = min(pairs[z, other], np.linalg.norm(x - y))
            gradient = np.zeros(3) if system.uniform_field is None else -system.uniform_field
            second = np.zeros((3, 3))
            if system.external_field is not None and system.external_field.shape[1] > 1:
                gradient = gradient + system.external_field[i, 1:4]
                second[np.triu_indices(3)] += system.external_field[i, 4:10]
                second = np.triu(second) + np.triu(second, 1).T
            for q, y in zip(system.mm_charges, system.mm_positions, strict=True):
                if q:
                    charges[z] = min(charges[z], np.linalg.norm(x - y))
                gradient = gradient + COULOMB * q * _erf_gradient(x - y, damping)
                steps = 1e-4 * np.eye(3)
                second += COULOMB * q * np.array(
                    [_erf_gradient(x - y + h, damping) - _erf_gradient(x - y - h, damping)
                     for h in steps]
                ) / 2e-4  # fmt: skip
            field[0, z] = max(field[0, z], np.linalg.norm(gradient))
            field[1, z] = max(field[1, z], np.linalg.norm(second))
    return pairs, charges, field


def _random_system(rng, n, m, **extra):
    points = rng.uniform(-4, 4, (n + m, 3))
    charges = rng.normal(size=m) * (rng.random(m) < 0.8)
    return System(rng.choice([1, 6, 8, 94], n), points[:n], 0, points[n:], charges, **extra)


@pytest.mark.parametrize("damping", [2.0, 0.7])
def test_extent_is_that_of_loops(damping):
    rng = np.random.default_rng(3)
    systems = [_random_system(rng, n, m) for n, m in ((1, 0), (2, 1), (5, 0), (7, 9), (1, 4))]
    systems.append(_random_system(rng, 4, 5, uniform_field=[0.1, 2.0, -0.3]))
    systems.append(_random_system(rng, 4, 0, external_field=rng.normal(size=(4, 10))))
    systems.append(_random_system(rng, 3, 0, external_field=rng.normal(size=(3, 1))))
    extent = extent_of(iter(systems), damping)
    pairs, charges, field = _slow(systems, damping)
    np.testing.assert_allclose(extent.pairs, pairs, rtol=1e-12)
    np.testing.assert_allclose(extent.charges, charges, rtol=1e-12)
    np.testing.assert_allclose(extent.field, field[0], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(extent.curvature, field[1], rtol=1e-5, atol=1e-12)
    assert (extent.pairs == extent.pairs.T).all()


def test_dipoles_and_quadrupoles_make_fields():
    dipole, quadrupole = [[0.0, 0.0, 0.4]], [np.diag([-0.1, -0.1, 0.2])]
    at = {"mm_positions": [[0.0, 0.0, 5.0]], "mm_charges": [0.0]}
    with_dipole = System([1], [[0.0, 0, 0]], 0, **at, mm_dipoles=dipole)
    with_both = System([1], [[0.0, 0, 0]], 0, **at, mm_dipoles=dipole, mm_quadrupoles=quadrupole)
    # the atom lies on the axis, at -5 Å: potential p z / |z|^3 + 3 Q_zz / |z|^3
    of_dipole, of_quadrupole = -2 * 0.4 / 5**3, 9 * 0.2 / 5**4
    for system, slope in ((with_dipole, of_dipole), (with_both, of_dipole + of_quadrupole)):
        np.testing.assert_allclose(
            field_derivatives(system)[0, :3], [0, 0, COULOMB * slope], atol=1e-12
        )
    assert np.isinf(extent_of([with_both]).charges).all()  # it has no charge


def test_of_nothing_and_of_one_atom():
    nothing = extent_of([])
    assert np.isinf(nothing.pairs).all() and np.isinf(nothing.charges).all()
    assert not nothing.field.any()
    single = extent_of([System([8], [[1e5, 0, 0]])])
    assert np.isinf(single.pairs).all() and not single.field.any()


def test_joined_is_the_extent_of_all():
    rng = np.random.default_rng(5)
    systems = [Frame(_random_system(rng, 5, 6)) for _ in range(6)]
    whole = extent_of(systems)
    joined = extent_of(systems[:2]).joined(extent_of(systems[2:])).joined(extent_of([]))
    for name in ("pairs", "charges", "field", "curvature"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


def test_shipped_frames():
    extent = extent_of(load_shipped(["meoh"])[:20])
    assert 0.85 < extent.pairs[1, 8] < 0.97 and np.isinf(extent.pairs[7, 8])
    assert 1.2 < extent.charges[8] < 2.0 and 0.5 < extent.field[8] < 10.0
    assert np.isinf(extent_of(load_shipped(["meoh"], vacuum=True)[:3]).charges).all()


def test_wrong_arrays_are_refused():
    good = extent_of([])
    with pytest.raises(ValueError, match=r"charges: expected numbers >= 0 of shape \(95,\)"):
        Extent(good.pairs, good.charges[:5], good.field)
    with pytest.raises(ValueError, match=r"field: expected numbers >= 0 .* and nan"):
        Extent(good.pairs, good.charges, np.full(95, np.nan))


def test_an_extent_holds_what_reaches_no_farther():
    frames = methanol()
    whole, part = extent_of(frames), extent_of(frames[:3])
    assert whole.holds(part) and whole.holds(whole) and not part.holds(whole)
    near = replace(frames[0].system, positions=0.9 * frames[0].system.positions)
    assert not whole.holds(extent_of([near]))
    charged = replace(frames[0].system, mm_charges=3 * frames[0].system.mm_charges)
    assert not whole.holds(extent_of([charged]))  # by its field alone


def test_validation_frames_beyond_the_extent_choose_nothing():
    frames, said = methanol(), []
    system = frames[0].system
    near = replace(frames[0], system=replace(system, positions=0.9 * system.positions))
    extent, shares = extent_of(frames), Shares(Ranks(), frames)
    assert _within([*frames[:3], near], extent, 2.0, said.append, shares) == frames[:3]
    assert said[0].startswith("1 of 4 validation frames reach beyond the training frames")
    for unchanged in (frames[:3], [near]):  # nothing to leave out, or nothing would be left
        assert _within(unchanged, extent, 2.0, said.append, shares) is unchanged
    assert len(said) == 1
