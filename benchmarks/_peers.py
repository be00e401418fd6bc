"""Periodic sums of other programs behind one face: energy and forces of charges in a cube.

Each class is laid out for one setting, finds its pairs, and sums. Imports what it needs when it is
made, so that an interpreter needs only the program that it measures.
"""

import importlib
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np


class Setting(NamedTuple):
    """Radius of the near part, splitting eta, order of the interpolation, grid points an edge."""

    radius: float
    eta: float
    order: int
    grid: int


class Problem(NamedTuple):
    """Points (n, 3), packed moments (n, 1 or 10), the edge, and forces (m, 3) known at places.

    Points may be those of several cubes, one after the other, with as many in each.
    """

    points: np.ndarray
    moments: np.ndarray
    edge: float
    places: np.ndarray
    exact: np.ndarray
    cells: int = 1

    def error(self, forces: np.ndarray) -> float:
        """Return the relative L2 error of forces."""
        apart = forces[self.places] - self.exact
        return float(np.linalg.norm(apart) / np.linalg.norm(self.exact))


class Peer:
    """What all have in common."""

    package = ""
    radii = (4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.5, 12.0)

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def orders(self, bound: float) -> tuple[int, ...]:
        """Return the orders of the interpolation that are worth a try; none if it cannot."""
        raise NotImplementedError

    def grids(self, coarsest: int, finest: int) -> list[int]:
        """Return grids whose transforms are fast."""
        fast = {2**a * 3**b * 5**c for a in range(1, 10) for b in range(5) for c in range(3)}
        return sorted(n for n in fast if coarsest <= n <= finest)

    @property
    def version(self) -> str:
        """Version of the package that is measured."""
        return version(self.package)

    def lay_out(self, setting: Setting) -> None:
        """Take a setting; not timed."""
        self.setting = setting

    def stir(self) -> None:
        """Make lists of neighbours stale, where the program alone decides; not timed."""

    def find_pairs(self) -> None:
        """Find near pairs."""

    def sums(self) -> np.ndarray:
        """Return forces, having computed the energy as well."""
        raise NotImplementedError


class Helpme(Peer):
    """helPME (waves, B-splines of any order) and a compiled loop over near pairs."""

    def orders(self, bound: float) -> tuple[int, ...]:
        """Return the orders that are worth a try."""
        return {1e-4: (4, 5, 6), 1e-6: (6, 8, 10), 1e-9: (8, 10, 12, 14)}.get(bound, ())

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        import _pair_loop

        self.loop = _pair_loop
        try:
            self.lib: Any = importlib.import_module("helpmelib")
        except ImportError:
            self.lib = importlib.import_module("helpme_py")
        self.pme = self.lib.PMEInstanceD()

    @property
    def version(self) -> str:
        """The wheel has a version; what is built from sources is called native."""
        try:
            return "native" if self.lib.__name__ == "helpmelib" else version("helpme-py")
        except PackageNotFoundError:
            return "unknown"

    def lay_out(self, setting: Setting) -> None:
        """Set up, and tabulate what is smooth."""
        super().lay_out(setting)
        kind = getattr(self.pme, "LatticeType", None) or self.lib.LatticeType
        grid, edge = setting.grid, self.problem.edge
        self.pme.setup(1, setting.eta, setting.order, grid, grid, grid, 1.0, 1)
        self.pme.set_lattice_vectors(edge, edge, edge, 90.0, 90.0, 90.0, kind.XAligned)
        links = 1 if self.problem.moments.shape[1] == 1 else 5
        self.table = self.loop.smooth_table(setting.eta, setting.radius, links)

    def find_pairs(self) -> None:
        """Sort the points by cells, and list them."""
        near = self.loop.neighbours(self.problem.points, self.problem.edge, self.setting.radius)
        self.near, self.sorted = near, self.problem.moments[near.order]

    def _near(self) -> tuple[np.ndarray, ...]:
        return self.near.points, self.near.first, self.near.partners

    def sums(self) -> np.ndarray:
        """Return forces."""
        charges = np.ascontiguousarray(self.sorted[:, 0])
        rest = self.problem.edge, self.setting.radius, self.table
        self.energy, forces = self.loop.charge_sums(*self._near(), charges, *rest)
        self.energy += self.waves(forces)
        self.energy -= 0.5 * self.loop.smooth_link(self.setting.eta, 0) * charges @ charges
        return self._in_place(forces)

    def waves(self, forces: np.ndarray) -> float:
        """Add the forces of the waves, and return their energy."""
        matrix = self.lib.MatrixD
        given = matrix(self.sorted), matrix(self.near.points), matrix(forces)
        return self.pme.compute_EF_rec(0, *given)

    def _in_place(self, values: np.ndarray) -> np.ndarray:
        out = np.empty_like(values)
        out[self.near.order] = values
        return out


# powers of x, y and z in helpME's order; where a component lies that has one more of each
_POWERS = [(n - b - c, b, c) for n in range(4) for c in range(n + 1) for b in range(n + 1 - c)]
_RAISED = np.array(
    [
        [_POWERS.index((a + (k == 0), b + (k == 1), c + (k == 2))) for k in range(3)]
        for a, b, c in _POWERS[:10]
    ]
)


class HelpmeMultipoles(Helpme):
    """The same for charges, dipoles and quadrupoles: energy, forces and torques."""

    _order = np.array([0, 1, 2, 3, 4, 5, 7, 6, 8, 9])  # xx xy yy xz yz zz, there and back
    _doubled = np.array([1.0, 2.0, 2.0, 1.0, 2.0, 1.0])

    def orders(self, bound: float) -> tuple[int, ...]:
        """Return the orders that are worth a try."""
        return {1e-4: (6, 7, 8), 1e-6: (8, 10), 1e-9: (10, 12, 14)}.get(bound, ())

    def sums(self) -> np.ndarray:
        """Return forces."""
        moments, loop = self.sorted, self.loop
        S = moments[:, 4:] / self._doubled
        charges, dipoles = (np.ascontiguousarray(moments[:, k]) for k in (0, slice(1, 4)))
        rest = self.problem.edge, self.setting.radius, self.table
        self.energy, forces, gradients = loop.quadrupole_sums(
            *self._near(), charges, dipoles, S, *rest
        )
        # one field up to third derivatives costs less than forces and a field up to second ones
        fields, packed = np.zeros((len(S), 20)), np.ascontiguousarray(moments[:, self._order])
        matrix = self.lib.MatrixD
        x = matrix(self.near.points)
        self.pme.compute_P_rec(2, matrix(packed), x, x, 3, matrix(fields))
        self.energy += 0.5 * (packed * fields[:, :10]).sum()
        forces -= np.einsum("ik,ika->ia", packed, fields[:, _RAISED])
        gradients[:, :3] += fields[:, 1:4]
        gradients[:, 3:] += fields[:, self._order[4:]]
        self.energy -= self._own(charges, dipoles, S)
        self.torques = self._in_place(_torques(dipoles, S, gradients))
        return self._in_place(forces)

    def _own(self, q: np.ndarray, d: np.ndarray, S: np.ndarray) -> float:
        """Return the energy of moments in their own smooth field."""
        zero, one, two = (self.loop.smooth_link(self.setting.eta, n) for n in range(3))
        trace, squares = S[:, [0, 3, 5]].sum(axis=1), (S**2 * self._doubled).sum()
        links = zero * (q @ q) + one * ((d * d).sum() - 2 * q @ trace)
        return 0.5 * (links + two * (trace @ trace + 2 * squares))


def _torques(dipoles: np.ndarray, S: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    full = [[0, 1, 2], [1, 3, 4], [2, 4, 5]]
    product = np.einsum("nab,nbk->nak", gradients[:, 3:][:, full], S[:, full])
    turned = [product[:, a, b] - product[:, b, a] for a, b in ((1, 2), (2, 0), (0, 1))]
    return np.cross(gradients[:, :3], dipoles) + 2 * np.stack(turned, axis=1)


class OpenMM(Peer):
    """OpenMM's CPU platform: B-splines of order 5, single precision; it keeps its own lists."""

    package = "OpenMM"
    platform = "CPU"

    def orders(self, bound: float) -> tuple[int, ...]:
        """Return the orders that are worth a try."""
        return {1e-4: (5,)}.get(bound, ())

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.openmm = importlib.import_module("openmm")
        self.context: Any = None

    def lay_out(self, setting: Setting) -> None:
        """Make a context; lengths are nm."""
        super().lay_out(setting)
        mm, edge = self.openmm, 0.1 * self.problem.edge
        system, force = mm.System(), mm.NonbondedForce()
        system.setDefaultPeriodicBoxVectors(*np.diag([edge] * 3))
        for charge in self.problem.moments[:, 0]:
            system.addParticle(1.0)
            force.addParticle(float(charge), 1.0, 0.0)
        force.setNonbondedMethod(force.PME)
        force.setCutoffDistance(0.1 * setting.radius)
        force.setPMEParameters(10 * setting.eta, *[setting.grid] * 3)
        force.setUseDispersionCorrection(False)
        system.addForce(force)
        platform = mm.Platform.getPlatformByName(self.platform)
        properties = {"Threads": "1"} if self.platform == "CPU" else {}
        integrator = mm.VerletIntegrator(0.001)
        self.context = mm.Context(system, integrator, platform, properties)
        self.context.setPositions(0.1 * self.problem.points)
        self._stirred = 0

    def stir(self) -> None:
        """Move all points alike, by more than the skin of the lists."""
        self._stirred += 1
        shift = 0.3 * self.problem.edge * (self._stirred % 2)
        self.context.setPositions(0.1 * (self.problem.points + shift))

    def sums(self) -> np.ndarray:
        """Return forces."""
        state = self.context.getState(getEnergy=True, getForces=True)
        return state.getForces(asNumpy=True)._value / 13893.545764438198


class TorchPME(Peer):
    """torch-pme's mesh, forces by automatic differentiation; pairs by vesin."""

    package = "torch-pme"
    radii = (4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 14.0)
    calculator = "PMECalculator"

    def orders(self, bound: float) -> tuple[int, ...]:
        """Return the orders that are worth a try."""
        return {1e-4: (4, 5, 6, 7), 1e-6: (7,)}.get(bound, ())

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        import torch
        import torchpme
        import vesin

        torch.set_num_threads(1)
        self.torch, self.torchpme, self.vesin = torch, torchpme, vesin
        self.x = torch.from_numpy(problem.points).requires_grad_()
        self.q = torch.from_numpy(np.ascontiguousarray(problem.moments))
        self.cell = problem.edge * torch.eye(3, dtype=torch.float64)

    def grids(self, coarsest: int, finest: int) -> list[int]:
        """Return powers of two, which are all it has."""
        return [n for n in (16, 32, 64, 128, 256) if coarsest <= n < 2 * finest]

    def lay_out(self, setting: Setting) -> None:
        """Make a calculator."""
        super().lay_out(setting)
        potential = self.torchpme.CoulombPotential(smearing=0.5**0.5 / setting.eta)
        spacing = 2 * self.problem.edge / (setting.grid - 1.001)
        kind = getattr(self.torchpme, self.calculator)
        made = kind(potential, mesh_spacing=spacing, interpolation_nodes=setting.order)
        self.calculate = made.to(dtype=self.torch.float64)

    def find_pairs(self) -> None:
        """List pairs and their images."""
        found = self._list().compute(self.problem.points, self.cell.numpy(), True, "ijS")
        self.pairs = self._tensors(*found)

    def _list(self) -> Any:
        return self.vesin.NeighborList(cutoff=self.setting.radius, full_list=False)

    def _tensors(self, i: np.ndarray, j: np.ndarray, images: np.ndarray) -> tuple[Any, Any]:
        pairs = self.torch.from_numpy(np.stack([i, j], axis=1).astype(np.int64))
        return pairs, self.torch.from_numpy(images.astype(np.float64)) @ self.cell

    def _energy(self, x: Any, q: Any, pairs: Any, images: Any, **options: Any) -> Any:
        apart = x[pairs[:, 1]] - x[pairs[:, 0]] + images
        distances = self.torch.linalg.norm(apart, dim=1)
        return (q * self.calculate(q, self.cell, x, pairs, distances, **options)).sum()

    def sums(self) -> np.ndarray:
        """Return forces."""
        energy = self._energy(self.x, self.q, *self.pairs)
        (gradient,) = self.torch.autograd.grad(energy, self.x)
        return -gradient.numpy()


class TorchP3M(TorchPME):
    """torch-pme's other mesh."""

    calculator = "P3MCalculator"

    def orders(self, bound: float) -> tuple[int, ...]:
        """Return the orders that are worth a try."""
        return {1e-4: (4, 5), 1e-6: (5,)}.get(bound, ())


class TorchEwald(TorchPME):
    """torch-pme's sum over waves, one cell after the other: batches take it longer on a CPU.

    The grid stands for the number of waves along an edge.
    """

    radii = (4.0, 5.0, 6.0, 7.0, 8.0, 9.0)

    def orders(self, bound: float) -> tuple[int, ...]:
        """Return one order, of no meaning."""
        return (0,)

    def grids(self, coarsest: int, finest: int) -> list[int]:
        """Return whole numbers; it keeps half of the waves that its wavelength names."""
        return list(range(coarsest, 5 * coarsest))

    def lay_out(self, setting: Setting) -> None:
        """Make a calculator, and waves."""
        self.setting = setting
        potential = self.torchpme.CoulombPotential(smearing=0.5**0.5 / setting.eta)
        wavelength = self.problem.edge / (setting.grid - 1e-3)
        made = self.torchpme.EwaldCalculator(potential, lr_wavelength=wavelength)
        self.calculate = made.to(dtype=self.torch.float64)
        (self.waves,) = self.torchpme.lib.compute_batched_kvectors(wavelength, self.cell[None])

    def find_pairs(self) -> None:
        """List pairs and their images in each cell."""
        found, box = self._list(), self.cell.numpy()
        self.lists = []
        for points in np.split(self.problem.points, self.problem.cells):
            self.lists.append(self._tensors(*found.compute(points, box, True, "ijS")))

    def sums(self) -> np.ndarray:
        """Return forces."""
        parts = (tensor.chunk(self.problem.cells) for tensor in (self.x, self.q))
        energy = self.torch.zeros((), dtype=self.torch.float64)
        for x, q, pairs in zip(*parts, self.lists, strict=True):
            energy = energy + self._energy(x, q, *pairs, kvectors=self.waves)
        (gradient,) = self.torch.autograd.grad(energy, self.x)
        return -gradient.numpy()


class Nvalchemi(Peer):
    """nvalchemi-toolkit-ops on the CPU: energy, and forces that it gives along."""

    package = "nvalchemi-toolkit-ops"
    # splines of order 7 and 8 give wrong forces without a word

    def orders(self, bound: float) -> tuple[int, ...]:
        """Return the orders that are worth a try."""
        return {1e-4: (4, 5, 6), 1e-6: (6,)}.get(bound, ())

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        import torch
        from nvalchemiops.torch import neighbors
        from nvalchemiops.torch.interactions.electrostatics import pme

        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        self.list, self.sum = neighbors.neighbor_list, pme.particle_mesh_ewald
        self.x = torch.from_numpy(problem.points)
        self.q = torch.from_numpy(np.ascontiguousarray(problem.moments[:, 0]))
        self.cell = problem.edge * torch.eye(3, dtype=torch.float64)[None]
        self.periodic = torch.ones(1, 3, dtype=torch.bool)

    def find_pairs(self) -> None:
        """List pairs by cells."""
        radius = self.setting.radius
        self.pairs, self.first, self.images = self.list(
            self.x, radius, self.cell, self.periodic, return_neighbor_list=True
        )

    def sums(self) -> np.ndarray:
        """Return forces."""
        setting = self.setting
        _, forces = self.sum(
            self.x, self.q, self.cell, alpha=setting.eta, mesh_dimensions=(setting.grid,) * 3,
            spline_order=setting.order, neighbor_list=self.pairs, neighbor_ptr=self.first,
            neighbor_shifts=self.images, compute_forces=True,
        )  # fmt: skip
        return forces.detach().numpy()


#: Programs of one cell of charges, of multipoles, and of many cells, by the name of their rows.
CHARGES: dict[str, type[Peer]] = {
    "helpme and a compiled loop over pairs": Helpme,
    "OpenMM, CPU platform": OpenMM,
    "torch-pme, PME": TorchPME,
    "torch-pme, P3M": TorchP3M,
    "nvalchemi-toolkit-ops": Nvalchemi,
}
MULTIPOLES: dict[str, type[Peer]] = {"helpme and a compiled loop over pairs": HelpmeMultipoles}
CELLS: dict[str, type[Peer]] = {"torch-pme, Ewald": TorchEwald}
