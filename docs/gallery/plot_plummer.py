"""
Gravity: two star clusters collide
==================================

The kernel 1/r is that of gravity, too: a mass is a charge, and equal signs attract. A *Plummer
sphere* is a model of a star cluster whose potential is known in closed form. First its field is
checked, then two of them are thrown at each other.
"""

# %%
# A Plummer sphere
# ----------------
# Half of the mass lies within 1.3 scale lengths, and a star in 30 is further out than 8: points as
# uneven as this are what an adaptive tree is for. Units: G = mass = scale length = 1.

from time import process_time

import matplotlib.pyplot as plt
import numpy as np

import fmm
import multipoles as mp

mp.set_num_threads(1)
rng = np.random.default_rng(1)


def directions(n):
    """Return random unit vectors."""
    vectors = rng.standard_normal((n, 3))
    return vectors / np.linalg.norm(vectors, axis=1)[:, None]


def plummer(n):
    """Return positions and velocities of n stars in equilibrium (Aarseth, Henon, Wielen 1974)."""
    radius = 1 / np.sqrt(rng.uniform(0, 0.999, n) ** (-2 / 3) - 1)
    speed = np.empty(0)
    while len(speed) < n:  # rejection from q^2 (1 - q^2)^(7/2)
        q, y = rng.uniform(0, 1, 2 * n), rng.uniform(0, 0.1, 2 * n)
        speed = np.concatenate([speed, q[y < q**2 * (1 - q**2) ** 3.5]])
    escape = np.sqrt(2) * (1 + radius**2) ** -0.25
    return radius[:, None] * directions(n), (speed[:n] * escape)[:, None] * directions(n)


n = 100_000
x, v = plummer(n)
mass = mp.pack(charges=np.full(n, 1 / n))
plan = fmm.FMM(x, tolerance=1e-4)
phi = plan.field(mass, order=1)  # the first call compiles and chooses degrees

# %%
# Direct sums at 500 of the stars give the error, and the time that a sum over all would take.


def seconds(function):
    """Return a result and the processor time it took."""
    start = process_time()
    result = function()
    return result, process_time() - start


phi, elapsed = seconds(lambda: plan.field(mass, order=1))
some = rng.choice(n, 500, replace=False)
mp.field(x[some[:1]], x, mass, order=1)
direct, part = seconds(lambda: mp.field(x[some], x, mass, order=1))
error = np.linalg.norm(phi[some, 1:] - direct[:, 1:]) / np.linalg.norm(direct[:, 1:])
print(f"field in {elapsed:.2f} s, directly in {part * n / len(some):.1f} s; error {error:.1e}")
assert error < 1e-4
print(plan.report())

# %%
# The potential is :math:`-1/\sqrt{1 + r^2}`, the acceleration :math:`-r / (1 + r^2)^{3/2}`. What
# remains is the noise of a finite number of stars.

r = np.linalg.norm(x, axis=1)
inward = (phi[:, 1:] * x).sum(axis=1) / r
order = np.argsort(r)
figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
line = np.geomspace(0.05, 30, 200)
for axis, values, exact, name in (
    (axes[0], -phi[:, 0], -1 / np.sqrt(1 + line**2), "potential"),
    (axes[1], inward, -line / (1 + line**2) ** 1.5, "acceleration"),
):
    axis.plot(r[order][::50], values[order][::50], ".", ms=1.5, color="#0b6e8a", label="FMM")
    axis.plot(line, exact, color="#b4431d", lw=1, label="exact for infinitely many stars")
    axis.set(xscale="log", xlim=(0.05, 30), xlabel="r", title=name)
axes[1].set_ylim(-0.5, 0.1)
axes[0].legend(frameon=False)
kinetic = 0.5 * (v**2).sum() / n
potential = -0.5 * phi[:, 0].sum() / n
print(f"virial ratio -2T/V = {-2 * kinetic / potential:.3f} (1 in equilibrium)")
edges = np.geomspace(0.05, 30, 80)
axes[2].hist(r, edges, color="0.7", label="drawn")
inside = (1 + edges**-2) ** -1.5  # share of the mass within a radius
axes[2].stairs(n * np.diff(inside) / 0.999, edges, color="#b4431d", label="exact")
axes[2].set(xscale="log", xlim=(0.05, 30), xlabel="r", ylabel="stars", title=f"{n} stars")
axes[2].legend(frameon=False)
plt.show()

# %%
# A collision
# -----------
# Two clusters of 4000 stars approach on a grazing orbit. Close encounters of single stars are
# smoothed by :class:`multipoles.Softened`, which is exactly 1/r beyond its cutoff: only near pairs
# are summed with another kernel. In each step of the leapfrog integrator, ``rebuild`` updates the
# plan.

half = 4_000
n = 2 * half
(one, u), (two, w) = plummer(half), plummer(half)
offset, approach = np.array([3.0, 1.0, 0.0]), np.array([0.3, 0.0, 0.0])
x = np.concatenate([one - offset, two + offset])
v = np.concatenate([u + approach, w - approach])
mass = mp.pack(charges=np.full(n, 1 / half))
kernel = mp.Softened(0.1)
plan = fmm.FMM(x, tolerance=1e-3, kernel=kernel)

step, steps = 0.08, 250
frames, energies = {}, []
plan.rebuild(x)
phi = plan.field(mass, order=1)
start = process_time()
for k in range(steps + 1):
    if k % 50 == 0:
        frames[k] = x.copy()
    if k % 10 == 0:
        energies.append(0.5 * (v**2).sum() / half - 0.5 * phi[:, 0].sum() / half)
    v += 0.5 * step * phi[:, 1:]  # equal signs attract: the acceleration is up the potential
    x += step * v
    plan.rebuild(x)
    phi = plan.field(mass, order=1)
    v += 0.5 * step * phi[:, 1:]
elapsed = (process_time() - start) / (steps + 1)
mp.field(x[:1], x, mass, order=1, kernel=kernel)
_, slow = seconds(lambda: mp.field(x, x, mass, order=1, kernel=kernel))
drift = np.ptp(energies) / abs(energies[0])
print(f"{1e3 * elapsed:.0f} ms a step, tree and lists included; directly {1e3 * slow:.0f} ms")
print(f"energy kept within {drift:.1e}")
assert drift < 1e-2

# %%

# sphinx_gallery_thumbnail_number = 2
figure, axes = plt.subplots(2, 3, figsize=(12, 8), layout="constrained", facecolor="black")
for axis, (k, points) in zip(axes.flat, frames.items(), strict=False):
    for part, colour in ((points[:half], "#5cc1dd"), (points[half:], "#ffb27d")):
        axis.plot(part[:, 0], part[:, 1], ",", color=colour, alpha=0.6)
    axis.set(xlim=(-9, 9), ylim=(-7, 7), aspect="equal", xticks=[], yticks=[], facecolor="black")
    axis.set_title(f"t = {k * step:g}", color="white")
    for side in axis.spines.values():
        side.set_visible(False)
plt.show()
