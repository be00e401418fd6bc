"""The slow twin against physics known otherwise: it is what everything else is measured by."""

import numpy as np
import pytest
from oracles import charge_potential, cluster, random_rotation, stencil

from multipoles import moments as mo
from multipoles import reference
from multipoles.indexing import factorials, multi_indices, n_components, order_slice
from multipoles.radial import (
    Coulomb,
    Erf,
    Erfc,
    InversePower,
    ReactionField,
    Softened,
    Thole,
    Yukawa,
)

KERNELS = [
    Coulomb(),
    Yukawa(0.7),
    Erf(0.8),
    Erfc(0.8),
    Thole(0.39),
    ReactionField(40.0),
    ReactionField(12.0, eps=5.0, m=3, n=5),
    InversePower(6),
    InversePower(2.5),
    Softened(2.0),
    Softened(8.0, 12),
]
IDS = [repr(k) for k in KERNELS]
kernels = pytest.mark.parametrize("kernel", KERNELS, ids=IDS)


def exact_kernel(mp, kernel, s):
    """f as a function of s = r^2 in arbitrary precision, from its definition."""
    r, name = mp.sqrt(s), type(kernel).__name__
    if name == "Coulomb":
        return 1 / r
    if name == "Yukawa":
        return mp.exp(-mp.mpf(kernel.kappa) * r) / r
    if name == "Erf":
        return mp.erf(mp.mpf(kernel.alpha) * r) / r
    if name == "Erfc":
        return mp.erfc(mp.mpf(kernel.alpha) * r) / r
    if name == "InversePower":
        return r ** -mp.mpf(kernel.p)
    if name == "Thole":
        a, third = mp.mpf(kernel.a), mp.mpf(1) / 3
        return (1 - mp.exp(-a * r**3)) / r + a**third * mp.gammainc(2 * third, a * r**3)
    if name == "Softened":
        square = s / mp.mpf(kernel.cutoff) ** 2
        if abs(square) >= 1:
            return 1 / r
        terms = (mp.binomial(mp.mpf("-0.5"), j) * (square - 1) ** j for j in range(kernel.terms))
        return mp.fsum(terms) / kernel.cutoff
    c, eps, m, n = (mp.mpf(v) for v in (kernel.cutoff, kernel.eps, kernel.m, kernel.n))
    # the shift is the one for which f, f' and f'' vanish at the cutoff
    k = (eps - 1) / ((1 + 2 * eps) * c**3)
    rows = mp.matrix(
        [
            [m * c ** (m - 1), n * c ** (n - 1)],
            [m * (m - 1) * c ** (m - 2), n * (n - 1) * c ** (n - 2)],
        ]
    )
    a = mp.lu_solve(rows, mp.matrix([1 / c**2 - 2 * k * c, -2 / c**3 - 2 * k]))
    shift = 1 / c + k * c**2 + a[0] * c**m + a[1] * c**n
    return 1 / r + k * s + a[0] * r**m + a[1] * r**n - shift


def exact_series(mp, kernel, s, order):
    """Taylor coefficients in s; Thole's from its first derivative, which needs no integral."""
    if not isinstance(kernel, Thole):
        return np.array(
            [float(c) for c in mp.taylor(lambda u: exact_kernel(mp, kernel, u), s, order)]
        )
    a = mp.mpf(kernel.a)
    slope = mp.taylor(lambda u: -(1 - mp.exp(-a * u**1.5)) / (2 * u**1.5), s, order - 1)
    rest = [float(c / k) for k, c in enumerate(slope, start=1)]
    return np.array([float(exact_kernel(mp, kernel, s)), *rest])


@kernels
def test_series_in_s_to_many_digits(kernel):
    mp = pytest.importorskip("mpmath")
    radii = np.array([1e-3, 0.05, 0.4, 1.0, 1.5, 3.0, 9.0])
    got = reference.kernel_series(kernel, radii**2, 10)
    with mp.workdps(50):
        for column, r in enumerate(radii):
            wanted = exact_series(mp, kernel, mp.mpf(float(r**2)), 10)
            np.testing.assert_allclose(got[:, column], wanted, rtol=5e-13)


def test_reaction_field_is_smooth_at_the_cutoff_and_zero_beyond():
    kernel = ReactionField(9.0)
    inside = reference.derivatives([[0, 0, 9.0 - 1e-6]], 3, kernel)
    assert np.abs(inside[0, :10]).max() < 1e-8
    assert np.abs(inside[0, 10:]).max() > 1e-4
    assert (reference.derivatives([[0, 0, 9.0], [0, 7, 7]], 3, kernel) == 0).all()


def test_derivatives_of_1_over_r_by_hand():
    R = np.random.default_rng(30).normal(size=(6, 3))
    r = np.linalg.norm(R, axis=1)
    T = reference.derivatives(R, 3)
    np.testing.assert_allclose(T[:, 0], 1 / r)
    np.testing.assert_allclose(T[:, 1:4], -R / r[:, None] ** 3)
    second = 3 * np.einsum("ni,nj->nij", R, R) / r[:, None, None] ** 5
    second -= np.eye(3) / r[:, None, None] ** 3
    upper = [second[:, i, j] for i in range(3) for j in range(i, 3)]
    np.testing.assert_allclose(T[:, 4:10], np.transpose(upper), rtol=1e-12)
    xyz = -15 * R.prod(axis=1) / r**7
    np.testing.assert_allclose(T[:, 14], xyz, rtol=1e-12)
    xxz = R[:, 2] * (3 / r**5 - 15 * R[:, 0] ** 2 / r**7)
    np.testing.assert_allclose(T[:, 12], xxz, rtol=1e-12)


@pytest.mark.parametrize("order", [2, 4, 8, 10])
def test_laplace_equation_at_every_order(order):
    R = np.random.default_rng(31).normal(size=(5, 3))
    R /= np.linalg.norm(R, axis=1)[:, None]
    T = reference.derivatives(R, order)
    for column, gamma in enumerate(multi_indices(order - 2)):
        places = [
            int(np.flatnonzero((multi_indices(order) == gamma + step).all(axis=1))[0])
            for step in 2 * np.eye(3, dtype=int)
        ]
        size = np.abs(T[:, order_slice(int(gamma.sum()) + 2)]).max()
        assert np.abs(T[:, places].sum(axis=1)).max() < 1e-12 * size, column


@kernels
@pytest.mark.parametrize("order", [3, 6])
def test_derivatives_are_taylor_coefficients(kernel, order):
    # the error of the expansion falls with the power order + 1
    rng = np.random.default_rng(32)
    R, v = np.array([[1.1, -0.7, 0.9]]), rng.normal(size=(8, 3))
    v /= np.linalg.norm(v, axis=1)[:, None]
    T = reference.derivatives(R, order, kernel)[0]
    errors = []
    for step in (0.08, 0.04):
        terms = (step * v)[:, None, :] ** multi_indices(order)
        expanded = terms.prod(axis=2) @ (T / factorials(order))
        errors.append(abs(expanded - reference.derivatives(R + step * v, 0, kernel)[:, 0]).max())
    assert errors[1] < 1e-3 * abs(T[0])
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order + 1, abs=0.5)


@kernels
@pytest.mark.parametrize("rank", range(5))
def test_field_is_the_limit_of_shrinking_clusters(kernel, rank):
    x = np.array([[2.0, -1.0, 1.5], [-1.2, 2.2, 0.4]])
    alphas = multi_indices(rank)[order_slice(rank)]
    for component, alpha in enumerate(alphas, start=order_slice(rank).start):
        M = np.zeros((1, n_components(rank)))
        M[0, component] = 1.0
        phi = reference.field(x, np.zeros((1, 3)), M, 0, kernel)[:, 0]
        errors = []
        for spacing in (0.2, 0.1):
            q, d = stencil(alpha, spacing)
            near = charge_potential(x, q, d, lambda r: radial(kernel, r))
            errors.append(np.abs(near - phi).max())
        if rank == 0:
            assert errors[0] < 1e-14
            continue
        size = np.abs(reference.derivatives(x, rank, kernel)[:, order_slice(rank)]).max()
        assert errors[1] < 0.03 * size
        # falls as spacing^2, or as its fourth power where the Laplacian takes the first term away
        assert errors[0] / errors[1] > 3.2


def radial(kernel, r):
    flat = np.zeros((r.size, 3))
    flat[:, 2] = r.ravel()
    return reference.derivatives(flat, 0, kernel)[:, 0].reshape(r.shape)


def test_field_of_a_cluster_with_all_orders_and_its_derivatives():
    rng = np.random.default_rng(33)
    M = rng.normal(size=(1, 20))
    x = np.array([[2.5, -1.5, 2.0]])
    phi = reference.field(x, np.zeros((1, 3)), M, 2)[0]
    errors = []
    for spacing in (0.2, 0.1):
        q, d = cluster(M[0], multi_indices(3), spacing)
        near = reference.field(x, d, q[:, None], 2)[0]
        errors.append(np.abs(near - phi).max())
    assert errors[1] < 2e-2 * np.abs(phi).max()
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)


def sphere(n=24):
    """Points and weights of a product rule on the unit sphere, exact to degree 2n - 1."""
    z, w = np.polynomial.legendre.leggauss(n)
    phi = np.arange(2 * n) * np.pi / n
    rho = np.sqrt(1 - z**2)
    grid = np.stack(
        [np.outer(rho, np.cos(phi)), np.outer(rho, np.sin(phi)), np.outer(z, np.ones(2 * n))], -1
    )
    return grid.reshape(-1, 3), np.repeat(w * np.pi / n, 2 * n)


def test_gauss_law():
    rng = np.random.default_rng(34)
    normals, weights = sphere()
    radius = 3.0
    inside, outside = 0.4 * rng.uniform(-1, 1, (4, 3)), 9 + rng.uniform(-1, 1, (3, 3))
    M = rng.normal(size=(7, 20))
    phi = reference.field(radius * normals, np.concatenate([inside, outside]), M, 1)
    flux = -(weights * (normals * phi[:, 1:4]).sum(axis=1)).sum() * radius**2
    assert flux == pytest.approx(4 * np.pi * M[:4, 0].sum(), rel=1e-8)


@pytest.mark.parametrize(
    ("kernel", "enclosed"),
    [
        (Thole(0.39), lambda r: 1 - np.exp(-0.39 * r**3)),
        (Yukawa(0.5), lambda r: (1 + 0.5 * r) * np.exp(-0.5 * r)),
    ],
)
def test_gauss_law_of_smeared_charges(kernel, enclosed):
    normals, weights = sphere(4)
    for radius in (0.3, 1.0, 2.5):
        phi = reference.field(radius * normals, np.zeros((1, 3)), np.ones((1, 1)), 1, kernel)
        flux = -(weights * (normals * phi[:, 1:4]).sum(axis=1)).sum() * radius**2
        assert flux == pytest.approx(4 * np.pi * enclosed(radius), rel=1e-12)


@kernels
def test_rotation(kernel):
    rng = np.random.default_rng(35)
    R = random_rotation(rng)
    x, s, M = rng.normal(size=(4, 3)), rng.normal(size=(5, 3)), rng.normal(size=(5, 20))
    phi = reference.field(x, s, M, 3, kernel)
    turned = reference.field(x @ R.T, s @ R.T, mo.rotate(M, R), 3, kernel)
    # a field is a tensor of derivatives: it turns like raw moments
    wanted = mo.rotate(phi / factorials(3), R) * factorials(3)
    np.testing.assert_allclose(turned, wanted, atol=1e-11 * np.abs(phi).max())


def test_raising_the_target_index_is_the_next_derivative():
    rng = np.random.default_rng(36)
    x, s, M = 3 + rng.normal(size=(2, 3)), rng.normal(size=(3, 3)), rng.normal(size=(3, 10))
    h = 1e-3
    deep = reference.field(x, s, M, 2, Erf(0.6))
    for axis in range(3):
        step = h * np.eye(3)[axis]
        slope = (
            reference.field(x + step, s, M, 1, Erf(0.6))
            - reference.field(x - step, s, M, 1, Erf(0.6))
        ) / (2 * h)
        np.testing.assert_allclose(slope[:, 0], deep[:, 1 + axis], rtol=1e-5, atol=1e-7)


def test_pairs_batches_channels_and_coincident_points():
    rng = np.random.default_rng(37)
    x, M = rng.normal(size=(6, 3)), rng.normal(size=(6, 2, 10))
    phi = reference.field(x, x, M, 2)
    i, j = np.nonzero(~np.eye(6, dtype=bool))
    listed = reference.field(x, x, M, 2, pairs=np.stack([i, j], 1))
    np.testing.assert_allclose(listed, phi, rtol=1e-12)
    np.testing.assert_allclose(reference.field(x, x, M[:, 1], 2), phi[:, 1], rtol=1e-12)
    batch = np.array([0, 0, 1, 1, 1, 4])
    parts = reference.field(x, x, M, 2, target_batch=batch, source_batch=batch)
    for b in (0, 1, 4):
        own = batch == b
        wanted = reference.field(x[own], x[own], M[own], 2)
        np.testing.assert_allclose(parts[own], wanted, rtol=1e-12)
    assert (parts[5] == 0).all()
    twice = reference.field(x, x, M, 1, pairs=[[0, 1], [0, 1]])
    once = reference.field(x, x, M, 1, pairs=[[0, 1]])
    np.testing.assert_allclose(twice, 2 * once)


def test_chunks_do_not_matter(monkeypatch):
    rng = np.random.default_rng(38)
    x, s, M = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)), rng.normal(size=(5, 4))
    whole = reference.field(x, s, M, 1)
    monkeypatch.setattr(reference, "_CHUNK", 3)
    np.testing.assert_allclose(reference.field(x, s, M, 1), whole, rtol=1e-13)


@kernels
def test_forces_and_moment_gradients_are_slopes_of_the_energy(kernel):
    rng = np.random.default_rng(39)
    x, M = 2.5 * rng.normal(size=(5, 3)), rng.normal(size=(5, 2, 10))
    scale = (np.array([[0, 1], [3, 2]]), np.array([0.0, 0.4]))
    e, forces, gradients = reference.energy_forces(x, M, kernel, scale)
    assert e == pytest.approx(reference.energy(x, M, kernel, scale), rel=1e-13)
    h = 1e-3
    for site in range(5):
        for axis in range(3):
            steps = []
            for k in (-2, -1, 1, 2):
                moved = x.copy()
                moved[site, axis] += k * h
                steps.append(reference.energy(moved, M, kernel, scale))
            slope = (steps[0] - 8 * steps[1] + 8 * steps[2] - steps[3]) / (12 * h)
            assert forces[site, axis] == pytest.approx(
                -slope, rel=1e-5, abs=1e-8 * np.abs(forces).max()
            )
    # quadratic in the moments, so central differences are exact
    change = rng.normal(size=M.shape)
    up, down = (reference.energy(x, M + k * change, kernel, scale) for k in (1, -1))
    slope = (up - down) / 2
    assert (gradients * change).sum() == pytest.approx(slope, rel=1e-9)


def test_pair_scale_and_batch_in_the_energy():
    rng = np.random.default_rng(40)
    x, M = rng.normal(size=(4, 3)), rng.normal(size=(4, 10))
    i, j = np.triu_indices(4, 1)
    pairs = np.stack([j, i], 1)
    assert reference.energy(x, M, pair_scale=(pairs, np.zeros(6))) == 0.0
    alone = reference.energy(x[[1, 3]], M[[1, 3]])
    others = pairs[~((pairs == [3, 1]).all(axis=1))]
    only = reference.energy(x, M, pair_scale=(others, np.zeros(5)))
    assert only == pytest.approx(alone, rel=1e-12)
    split = reference.energy(x, M, batch=[0, 0, 1, 1])
    wanted = reference.energy(x[:2], M[:2]) + reference.energy(x[2:], M[2:])
    assert split == pytest.approx(wanted, rel=1e-12)


def test_one_and_no_particle():
    none = reference.field(np.ones((2, 3)), np.empty((0, 3)), np.empty((0, 4)), 1)
    assert none.shape == (2, 4) and (none == 0).all()
    assert reference.field(np.empty((0, 3)), np.ones((2, 3)), np.ones((2, 4)), 1).shape == (0, 4)
    e, forces, gradients = reference.energy_forces(np.ones((1, 3)), np.ones((1, 10)))
    assert e == 0.0 and (forces == 0).all() and (gradients == 0).all()
    assert reference.energy(np.empty((0, 3)), np.empty((0, 1))) == 0.0


def test_float32_input_gives_float64():
    x = np.eye(3, dtype=np.float32)
    assert reference.field(x, x, np.ones((3, 4), np.float32), 2).dtype == np.float64


def test_unknown_kernel_and_pairs_with_batches():
    x, M = np.eye(3), np.ones((3, 1))
    with pytest.raises(TypeError, match="kernel: expected one of Coulomb, Yukawa"):
        reference.field(x, x, M, 1, kernel="coulomb")
    with pytest.raises(ValueError, match="pairs or batches, not both"):
        reference.field(x, x, M, pairs=[[0, 1]], target_batch=[0] * 3, source_batch=[0] * 3)
