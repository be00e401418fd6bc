"""
Ionic crystals: Madelung constants, slabs, vibrations
=====================================================

A sum of 1/r over all ions of a crystal does not converge by itself: what is meant has to be said.
With a ``cell``, :func:`multipoles.field` and :func:`multipoles.energy` say it. This page sums
crystals, planes and chains, looks across a polar slab, and finds the vibrations of rock salt, whose
longest waves know what the crystal ends in.
"""

# %%
# Madelung constants
# ------------------
# The energy of a pair of ions in its crystal is :math:`-M/d`, where d is the distance of
# neighbours. For a chain of alternating charges, :math:`M = 2 \ln 2` is a school problem; the
# others have no closed form. A chain repeats in one direction, a chessboard in two.

import matplotlib.pyplot as plt
import numpy as np

import multipoles as mp

BLUE, RED, GREEN = "#0072b2", "#d55e00", "#009e73"
cube, fcc = np.eye(3), np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
chain, board = (True, False, False), (True, True, False)
crystals = {  # cell, place of the anion, distance of neighbours, what repeats, M
    "chain": (cube, [0.5, 0, 0], 0.5, chain, 2 * np.log(2)),
    "chessboard": (np.array([[1, 1, 0], [1, -1, 0], [0, 0, 1]]), [1, 0, 0], 1, board, 1.6155426267),
    "rock salt": (fcc, [0.5, 0, 0], 0.5, True, 1.7475645946),
    "caesium chloride": (cube, [0.5, 0.5, 0.5], 0.75**0.5, True, 1.7626747731),
    "zinc blende": (fcc, [0.25, 0.25, 0.25], 0.1875**0.5, True, 1.6380550534),
}
for name, (cell, anion, distance, repeats, known) in crystals.items():
    ions = np.array([[0, 0, 0], anion])
    found = -distance * mp.energy(ions, [1.0, -1.0], cell=cell, periodic=repeats)
    print(f"{name:<18}{found:.10f}")
    assert abs(found - known) < 2e-10

# %%
# Why such sums need care: adding the ions of rock salt shell by shell, out to a larger and larger
# radius, leads nowhere, since every shell adds a surface with a charge of its own. Neutral cubes do
# better. The line is the sum above.

n = 40
grid = np.stack(np.meshgrid(*[np.arange(-n, n + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
grid = grid[np.abs(grid).max(axis=1) > 0]
term = -((-1.0) ** grid.sum(axis=1)) / np.linalg.norm(grid, axis=1)
squares = (grid**2).sum(axis=1)
shells = np.cumsum(np.bincount(squares, term))[: n * n + 1]
# ions on faces, edges and corners of a cube count by what is inside
layers, reach = np.abs(grid).max(axis=1), np.arange(1, n + 1)
on = (np.abs(grid) == layers[:, None]).sum(axis=1)
inside = np.bincount(layers, term)
cubes = np.cumsum(inside)[:-1][reach - 1] + np.bincount(layers, term / 2.0**on)[reach]

figure, axis = plt.subplots(figsize=(7.5, 3.4), layout="constrained")
radii = np.sqrt(np.arange(n * n + 1))
axis.plot(radii[1:], shells[1:], ",", color=RED)
axis.plot([], [], "s", ms=4, color=RED, label="all ions within a sphere")
axis.plot(reach, cubes, "o", ms=3.5, color=BLUE, label="neutral cubes (Evjen)")
axis.axhline(1.7475645946, color="0.3", lw=0.8, label="mp.energy with a cell")
axis.set(xlim=(0, n), ylim=(-6, 9), xlabel="radius, or half the edge, over d", ylabel="M")
axis.legend(frameon=False, ncols=3, loc="upper center")
plt.show()
assert abs(cubes[-1] - 1.7475645946) < 1e-4

# %%
# Across a polar slab
# -------------------
# The same ions, stacked as planes of charges + − + − along z, are a stack of capacitors: the
# potential rises within each and stays on the other side. With ``periodic=(True, True, False)`` a
# slab stands alone, and the potential beyond it is constant on both sides; the step is
# :math:`4\pi` times the dipole per area. In a cell that repeats along z, too, the potential has to
# come back to where it began, so that an opposite field fills the empty space, however wide it is.

pairs, height = 3, 9.0
z = np.arange(2 * pairs) * 0.5 - (pairs - 0.5) / 2
ions = np.zeros((2 * pairs, 3))
ions[:, 2] = z
ions[1::2, :2] = 0.5  # as in caesium chloride
charges = np.tile([-1.0, 1.0], pairs)
cell = np.diag([1.0, 1.0, height])

heights = np.linspace(-height / 2, height / 2, 91)
m = 12
across = (np.stack(np.meshgrid(*[np.arange(m)] * 2), axis=-1).reshape(-1, 2) + 0.5) / m
probes = np.concatenate(
    [np.repeat(across, len(heights), axis=0), np.tile(heights, m * m)[:, None]], axis=1
)


def mean_potential(repeats):
    """Return the potential, averaged over planes."""
    phi = mp.field(probes, ions, charges, 0, cell=cell, periodic=repeats, tolerance=1e-6)
    return phi[:, 0].reshape(m * m, -1).mean(axis=0)


alone, repeated = mean_potential(board), mean_potential(True)
step = 4 * np.pi * (charges @ z)
assert np.allclose([alone[0], alone[-1]], [-step / 2, step / 2], atol=1e-3)

line = np.linspace(-2.6, 2.6, 221)
wide = np.linspace(-1, 1, 121)
x, y = np.meshgrid(wide, line)
plane = np.stack([x.ravel(), x.ravel(), y.ravel()], axis=1)  # the diagonal, through both ions
shown = mp.field(plane, ions, charges, 0, cell=cell, periodic=board, tolerance=1e-5)

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
image = axes[0].contourf(
    2**0.5 * x, y, shown.reshape(x.shape), np.linspace(-24, 24, 33), cmap="RdBu_r", extend="both"
)
figure.colorbar(image, label="potential")
axes[0].set(xlabel="along the diagonal", ylabel="z", title="Through ions of both signs")
axes[0].set_aspect("equal")
axes[1].plot(heights, alone, color=BLUE, label="alone: periodic in x and y")
axes[1].plot(heights, repeated, color=RED, label="periodic in x, y and z")
axes[1].axhline(step / 2, color="0.6", lw=0.8, ls="--", label="± 2π dipole per area")
axes[1].axhline(-step / 2, color="0.6", lw=0.8, ls="--")
axes[1].set(xlabel="z", title="Mean over planes", xlim=(-height / 2, height / 2), ylim=(-12, 17))
axes[1].legend(frameon=False, loc="upper left", fontsize=8.5)
plt.show()

# %%
# Vibrations of rock salt
# -----------------------
# Born and Mayer's crystal: whole charges, and a repulsion :math:`A \exp(-r/\rho)` of neighbours.
# Textbooks have ρ = 0.321 Å, from the measured compressibility; the strength follows from the
# condition that a crystal of d = 2.82 Å is under no pressure. What the charges add to the pressure
# is the trace of the virial over three times the volume, with the other sign: one call. Units: eV,
# Å, and Coulomb's constant in front of what ``multipoles`` gives.

k_e, d, rho = 14.399645, 2.82, 0.321
masses = np.array([22.98977, 35.453])
cell = 2 * d * fcc
volume = np.linalg.det(cell)
sites, charges = np.array([[0, 0, 0], [d, 0, 0]]), np.array([1.0, -1.0])
energy, _, _, virial = mp.energy_forces(sites, charges, cell=cell, virial=True)
tension = k_e * np.trace(virial) / 3 / volume  # dE/dV of the charges
# a pair of ions has 6 repulsions, and dr/dV = d/3V
slope = -tension * 3 * volume / (6 * d)  # of the repulsion at d
bend = -slope / rho
# V d²E/dV²
bulk = (4 * k_e * energy + 6 * (bend * d**2 - 2 * slope * d)) / (9 * volume)
print(f"bulk modulus {160.2177 * bulk:.1f} GPa (measured: 24.0)")
assert abs(160.2177 * bulk - 24.0) < 0.3

# %%
# An ion that is displaced by u is the ion where it was, and a dipole q u. So the force constants of
# a crystal are the field of dipoles. One call gives those of a supercell of 32 cells in a row: six
# channels, for the six displacements in the first cell, seen from every ion. Their sums with the
# phases of a wave are its dynamical matrix, without any cutoff, since the sums over images are
# those of waves that repeat with the supercell.


def force_constants(basis, n, **options):
    """Return the constants (n, ion, xyz, first cell's ion, xyz) of n cells along the last vector.

    What moves is the first cell and its images.
    """
    steps = np.arange(n)[:, None, None] * basis[2]
    supercell = basis * [[1], [1], [n]]
    dipoles = np.zeros((2, 6, 4))
    for ion in range(2):
        for axis in range(3):
            dipoles[ion, 3 * ion + axis, 1 + axis] = charges[ion]
    targets = (steps + sites).reshape(-1, 3)
    phi = mp.field(targets, sites, dipoles, order=1, cell=supercell, **options)
    found = k_e * phi.reshape(n, 2, 2, 3, 4)[..., 1:] * charges[None, :, None, None, None]
    constants = found.transpose(0, 1, 4, 2, 3).copy()
    # an ion displaced in the field of all others; zero in a cubic crystal, but for rounding
    hessian = mp.field(sites, sites, charges, order=2, cell=cell)[:, 4:]
    for ion in range(2):
        xx, xy, xz, yy, yz, zz = k_e * charges[ion] * hessian[ion]
        constants[0, ion, :, ion] += [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
    return constants


def frequencies(wave, coulomb):
    """Return the frequencies (1/cm) of a wave vector, ascending, from the charges' constants."""
    matrix = coulomb.astype(complex)
    for vector in d * np.concatenate([np.eye(3), -np.eye(3)]):
        along = np.outer(vector, vector) / d**2
        spring = bend * along + slope / d * (np.eye(3) - along)
        matrix[0, :, 0] += spring
        matrix[1, :, 1] += spring
        matrix[0, :, 1] -= spring * np.exp(1j * wave @ vector)
        matrix[1, :, 0] -= spring * np.exp(-1j * wave @ vector)
    root = np.sqrt(masses)[:, None]
    matrix = matrix / root[:, :, None, None] / root[None, None]
    squares = np.linalg.eigvalsh(matrix.reshape(6, 6))
    unit = np.sqrt(1.602176634e-19 / 1.66053907e-27) * 1e10 / (2 * np.pi * 2.99792458e10)
    return unit * np.sign(squares) * np.sqrt(np.abs(squares))


def branches(basis, n):
    """Return reduced wave numbers from 0 to the border of the zone, and their frequencies."""
    constants = force_constants(basis, n)
    reciprocal = 2 * np.pi * np.linalg.inv(basis)[:, 2]
    rows = []
    for number in range(n // 2 + 1):
        wave = number / n * reciprocal
        # positions in the first cell, of which phases of neighbours are taken
        shifts = np.exp(1j * sites @ wave)
        phases = np.exp(-2j * np.pi * number * np.arange(n) / n)
        matrix = np.einsum("n,niajb->iajb", phases, constants)
        matrix = matrix * (shifts.conj()[:, None] * shifts)[:, None, :, None]
        rows.append(frequencies(wave, matrix))
    return np.arange(n // 2 + 1) / (n // 2), np.array(rows)


n = 32
a, b, c = cell
to_x, along_x = branches(np.array([a, c - b, b]), n)
to_l, along_l = branches(np.array([a, b, c]), n)

# %%
# Two frequencies of one wave
# ---------------------------
# In the longest waves all cells move alike, sodium against chlorine: the crystal is polarised
# evenly, and its surface carries charges whose field acts back. A conductor around it takes that
# field away (``surface="conductor"``, the default): this is the transverse frequency. A wave that
# is long, but shorter than the crystal, along its own polarisation keeps all of the field
# :math:`-4\pi P`: the longitudinal one. A sphere in vacuum keeps a third of it
# (``surface="vacuum"``): Fröhlich's frequency, at which small spheres absorb. The squares differ by
# :math:`4\pi e^2/\mu V` and a third of it.

ball = force_constants(cell, 1, surface="vacuum")[0]
transverse = along_x[0, 3:]
longitudinal, sphere = along_x[1, 5], frequencies(np.zeros(3), ball)[3:]
reduced = masses.prod() / masses.sum()
unit = 1.602176634e-19 / 1.66053907e-27 * 1e20 / (2 * np.pi * 2.99792458e10) ** 2
split = 4 * np.pi * k_e / (reduced * volume) * unit
assert np.allclose(transverse, transverse[0]) and np.allclose(along_x[0, :3], 0, atol=1e-3)
assert np.allclose(sphere**2, transverse**2 + split / 3)
limit = np.sqrt(transverse[0] ** 2 + split)
assert abs(longitudinal - limit) < 0.01 * limit
print(f"transverse    {transverse[0]:6.1f} / cm   (measured: 164)")
print(f"sphere        {sphere[0]:6.1f} / cm")
print(f"longitudinal  {limit:6.1f} / cm   (measured: 264)")
print(f"dielectric constant {1 + split / transverse[0] ** 2:.2f}   (measured: 5.9)")

# sphinx_gallery_thumbnail_number = 3
figure, axis = plt.subplots(figsize=(8, 4.4), layout="constrained")
for place, rows in ((1 - to_x, along_x), (1 + to_l * 3**0.5 / 2, along_l)):
    # with the limit of the uppermost branch where it ends
    curves = np.concatenate([np.append(rows[0, :5], limit)[None], rows[1:]])
    axis.plot(place, curves, color=BLUE, lw=1.5)
for value, name, colour in (
    (limit, "longitudinal wave", BLUE),
    (sphere[0], "sphere in vacuum", GREEN),
    (transverse[0], "in a conductor", RED),
):
    axis.plot(1, value, "o", ms=7, color=colour, zorder=3)
    axis.annotate(name, (1, value), (8, 6), textcoords="offset points", fontsize=9, color=colour)
axis.axvline(1, color="0.8", lw=0.8, zorder=0)
axis.set_xticks([0, 1, 1 + 3**0.5 / 2], ["X", "Γ", "L"])
axis.set(xlim=(0, 1 + 3**0.5 / 2), ylim=(0, 350), ylabel="frequency, 1/cm", title="Rock salt")
plt.show()

# %%
# Rigid ions come near the transverse frequency and end far above the longitudinal one: in
# the real crystal electrons follow the field and screen it, by a dielectric constant of 2.3. Give
# the ions polarisabilities, and dipoles that are solved for as in
# :doc:`plot_induced_dipoles`, and the upper branch comes down.
