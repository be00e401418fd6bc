"""All that surrounds the atoms: multipoles, uniform and external fields, and the response."""

import numpy as np
import pytest
import torch

import multipoles as mp
from gnn import AMP, System
from gnn.units import COULOMB

NUMBERS = np.array([8, 1, 1, 6])
POSITIONS = np.array([[0.0, 0, 0], [0.9, 0.3, 0], [-0.4, 0.9, 0.1], [0.2, -1.1, 0.8]])


def _model(dtype=torch.float64, **options):
    torch.manual_seed(3)
    options = {"surroundings": {"smearing": [1.0]}, "long_range": {}} | options
    model = AMP.from_config(
        {"channels": 5, "features": 12, "network": {"hidden": 16}} | options
    ).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def _system(charge=1, positions=POSITIONS, **surroundings):
    return System(NUMBERS, positions, charge, **surroundings)


def _particles(rng, count=6):
    directions = rng.standard_normal((count, 3))
    points = 6 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    q = rng.standard_normal((count, 3, 3))
    q = q + q.swapaxes(1, 2)
    q -= np.eye(3) * np.trace(q, axis1=1, axis2=2)[:, None, None] / 3
    return {
        "mm_positions": points,
        "mm_charges": rng.uniform(-0.8, 0.8, count),
        "mm_dipoles": 0.3 * rng.standard_normal((count, 3)),
        "mm_quadrupoles": 0.2 * q,
    }


def _slope(model, make, steps=(-2, -1, 1, 2), width=1e-3):
    e = [r["energy"] for r in model.evaluate([make(k * width) for k in steps])]
    return (e[0] - 8 * e[1] + 8 * e[2] - e[3]) / (12 * width)


@pytest.mark.parametrize(
    "options", [{}, {"order": 0}, {"surroundings": {"smearing": [1.0], "in_energy": False}}]
)
def test_the_dipole_is_minus_the_derivative_by_a_uniform_field(options):
    model, rng = _model(**options), np.random.default_rng(0)
    field = np.array([0.05, -0.08, 0.03])
    charges = _particles(rng)
    origin = np.array([3.0, -2.0, 1.0])  # of matter for an ion
    shifted = POSITIONS + origin
    charges["mm_positions"] = charges["mm_positions"] + origin
    # without electrostatics a constant potential does nothing, not even to an ion
    charge = int(model.surroundings.in_energy)
    base = _system(charge, positions=shifted, uniform_field=field, **charges)
    dipole = model.evaluate([base])[0]["dipole"]
    for axis in range(3):
        direction = np.eye(3)[axis]
        slope = _slope(
            model,
            lambda h, d=direction: _system(
                charge, positions=shifted, uniform_field=field + h * d, **charges
            ),
        )
        assert -slope == pytest.approx(dipole[axis], rel=1e-6, abs=1e-8)


def test_a_uniform_field_equals_that_of_distant_charges():
    """Two opposite charges far away make a uniform field; the model must not tell them apart."""
    model, distance, strength = _model(), 4000.0, 0.06
    charge = strength * distance**2 / (2 * COULOMB)
    plates = {
        "mm_positions": [[0, 0, -distance], [0, 0, distance]],
        "mm_charges": [charge, -charge],
    }
    made, given = model.evaluate([_system(**plates), _system(uniform_field=[0, 0, strength])])
    assert made["energy"] == pytest.approx(given["energy"], abs=1e-6)
    for name in ("forces", "charges", "dipole"):
        np.testing.assert_allclose(made[name], given[name], rtol=0, atol=2e-6)


def test_multipoles_around_equal_clusters_of_charges():
    """A tight cluster of charges and its multipoles to the quadrupole are one and the same."""
    rng, model = np.random.default_rng(1), _model()
    small = 0.003 * rng.standard_normal((8, 3))
    charges = rng.standard_normal(8)
    centre = np.array([0.0, 5.0, 2.0])
    quadrupole = 0.5 * np.einsum("i,ij,ik", charges, small, small)
    site = {
        "mm_positions": [centre],
        "mm_charges": [charges.sum()],
        "mm_dipoles": [charges @ small],
        "mm_quadrupoles": [quadrupole],
    }
    one, many = model.evaluate(
        [_system(**site), _system(mm_positions=centre + small, mm_charges=charges)]
    )
    bare = model.evaluate([_system(mm_positions=[centre], mm_charges=[charges.sum()])])[0]
    assert abs(bare["energy"] - many["energy"]) > 1e-4  # the multipoles matter
    assert one["energy"] == pytest.approx(many["energy"], abs=2e-6)
    np.testing.assert_allclose(one["forces"], many["forces"], atol=1e-5)
    np.testing.assert_allclose(one["mm_forces"][0], many["mm_forces"].sum(0), atol=1e-5)


def test_forces_in_all_kinds_of_surroundings_are_the_gradient():
    rng, model = np.random.default_rng(2), _model()
    around = _particles(rng) | {
        "uniform_field": [0.02, 0.05, -0.04],
        "external_field": 0.05 * rng.standard_normal((4, 20)),
    }
    result = model.evaluate([_system(**around)])[0]
    assert {"forces", "mm_forces"} <= result.keys()
    direction = rng.standard_normal(around["mm_positions"].shape)
    slope = _slope(
        model,
        lambda h: _system(**around | {"mm_positions": around["mm_positions"] + h * direction}),
    )
    assert slope == pytest.approx(-(result["mm_forces"] * direction).sum(), rel=1e-6)


def test_an_external_field_acts_like_the_particles_that_make_it():
    """Given with its third derivatives, it gives the energy and the forces of its sources."""
    rng = np.random.default_rng(4)
    # the field's own smearing is short-ranged: sources far enough away have none
    model, points = _model(), 30 * rng.standard_normal((5, 3)) + [0, 0, 60]
    charges = 20 * rng.standard_normal(5)
    moments = COULOMB * charges[:, None]
    field = mp.field(POSITIONS, points, moments, 3, kernel=mp.Coulomb())
    made, given = model.evaluate(
        [_system(mm_positions=points, mm_charges=charges), _system(external_field=field)]
    )
    assert made["energy"] == pytest.approx(given["energy"], abs=1e-9)
    np.testing.assert_allclose(made["forces"], given["forces"], atol=1e-8)
    # a potential alone is constant around every atom: its work on charges, and no force of it
    only = model.evaluate([_system(external_field=field[:, :1])])[0]
    assert abs(only["energy"] - given["energy"]) > 1e-6


def test_a_batch_of_different_surroundings_equals_single_systems():
    rng, model = np.random.default_rng(5), _model()
    systems = [
        _system(**_particles(rng)),
        _system(mm_positions=[[4.0, 4, 4]], mm_charges=[0.4]),
        _system(external_field=rng.standard_normal((4, 4))),
        _system(charge=0, uniform_field=[0.1, 0, 0], external_field=np.ones((4, 1))),
        _system(),
    ]
    for system, result in zip(systems, model.evaluate(systems), strict=True):
        alone = model.evaluate([system])[0]
        for name in alone:
            np.testing.assert_allclose(result[name], alone[name], rtol=0, atol=1e-10)


def test_smeared_fields_are_short_ranged_and_pass_by_a_constant_potential():
    model = _model(surroundings={"smearing": [0.8, 1.5]})
    far = {"mm_positions": [[0, 0, 40.0]], "mm_charges": [1.0]}
    with_smearing = model.evaluate([_system(**far)])[0]["energy"]
    with torch.no_grad():
        for readout in model.penetration:
            for parameter in readout.parameters():
                parameter.mul_(3.0)
    assert model.evaluate([_system(**far)])[0]["energy"] == pytest.approx(with_smearing, abs=1e-12)
    near = {"mm_positions": [[0, 0, 2.0]], "mm_charges": [1.0]}
    before = _model(surroundings={"smearing": [0.8, 1.5]}).evaluate([_system(**near)])[0]["energy"]
    assert abs(model.evaluate([_system(**near)])[0]["energy"] - before) > 1e-4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"uniform_field": [1.0, 2.0]}, "uniform_field: expected shape"),
        ({"uniform_field": [1.0, 2.0, np.nan]}, "uniform_field: expected finite"),
        ({"external_field": np.zeros((4, 3))}, "1, 4, 10 or 20 components"),
        ({"external_field": np.zeros((3, 4))}, "external_field: expected shape"),
        ({"mm_dipoles": np.zeros((2, 3))}, "mm_dipoles: expected shape"),
        (
            {
                "mm_positions": [[5.0, 0, 0]],
                "mm_charges": [0.0],
                "mm_quadrupoles": [[[0.0, 1, 0], [0, 0, 0], [0, 0, 0]]],
            },
            "symmetric",
        ),
    ],
)
def test_wrong_surroundings(wrong, message):
    with pytest.raises(ValueError, match=message):
        _system(**wrong)
