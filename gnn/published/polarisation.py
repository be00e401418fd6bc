"""Multipoles that surrounding charges induce on atoms, with a learned dependence on distance."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from gnn.operators.edges import anisotropic_state
from gnn.operators.fused import silu
from gnn.published import _polarisation_loops, fused
from gnn.published.layers import ORDER, BesselBasis
from gnn.published.networks import perceptron
from gnn.published.pairs import Pairs, ranges_of_atoms
from multipoles.compiled.jit import add_up, run_ranges

# a pair takes as long as so many of point charges
_COST = 100.0


class Polarisation(nn.Module):
    """Sums over charges near an atom, sum_m q_m c_l(R) Y_l(u) / R², for dipole and quadrupole.

    c_l is a network of Bessel functions of the distance, times their envelope; u points from the
    atom to the charge.

    Parameters
    ----------
    cutoff : float
        Largest distance in Å of a charge that induces.
    n_radial : int
        Number of Bessel functions.
    scaling : float
        Factor on the sums.
    """

    def __init__(self, cutoff: float, n_radial: int, scaling: float):
        super().__init__()
        self.cutoff, self.scaling = cutoff, scaling
        self.radial = BesselBasis(cutoff, n_radial)
        self.network = perceptron(n_radial, n_radial, 1, ORDER)

    def parameters_of_network(self) -> tuple[Tensor, ...]:
        """Return weight and bias of the hidden layer, and the weight of the output."""
        named = dict(self.network.named_parameters())
        return named["0.weight"], named["0.bias"], named["2.weight"]

    def functions(self, distances: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return R^4 and R^5 times what a unit charge at R adds to dipole and quadrupole.

        Of distances (…) in Å below the cutoff, (…, 2): per component of its vector, and of the
        square of that. Unlike the sums, these are smooth at zero.
        """
        inner, bias, outer = (p.detach().double().numpy() for p in self.parameters_of_network())
        x = distances[..., None] / self.cutoff
        fade = 1 + x**6 * (-28 + x * (48 - 21 * x))
        basis = fade / x * np.sin(x * self.radial.frequencies.double().numpy())
        hidden = basis @ inner.T + bias
        with np.errstate(over="ignore"):
            hidden = hidden / (1 + np.exp(-hidden))
        return self.scaling * self.cutoff * fade * (hidden @ outer.T)

    def forward(self, atoms: Tensor, particles: Tensor, charges: Tensor, pairs: Pairs) -> Tensor:
        """Return the sums (N, 10) at atoms (N, 3) for charges (M,) of particles (M, 3)."""
        multipoles = InducedMultipoles(self, pairs)
        inputs = atoms, particles, charges, *self.parameters_of_network()
        return fused.apply(multipoles, *inputs)


class InducedMultipoles:
    """The sums of `Polarisation`, fused: a `gnn.published.fused.Operator`.

    Maps positions of atoms (N, 3) and particles (M, 3), charges of these (M,) in e, and the
    network's three parameters to sums (N, 10). The compiled loop computes in float64 whatever the
    type of its inputs.

    Parameters
    ----------
    layer : Polarisation
        Gives cutoff, scaling and frequencies.
    pairs : Pairs
        Pairs of an atom and a particle: at least all within the cutoff.
    """

    def __init__(self, layer: Polarisation, pairs: Pairs):
        self.layer, self.pairs = layer, pairs

    def values(
        self, atoms: NDArray, particles: NDArray, charges: NDArray, *network: NDArray
    ) -> NDArray:
        """Return the sums."""
        sums = np.zeros((len(atoms), 10))
        hidden, n = network[0].shape
        shapes = (n, 2), (hidden, 3), (ORDER, 2), (2,)
        self._kept = tuple(np.empty((len(self.pairs.first), *shape)) for shape in shapes)
        arguments = self._arguments(atoms, particles, charges, network)
        run_ranges(lambda *part: _polarisation_loops.sums(*part, *arguments, sums), self._parts())
        return sums.astype(atoms.dtype)

    def gradients(
        self,
        weights: NDArray,
        atoms: NDArray,
        particles: NDArray,
        charges: NDArray,
        *network: NDArray,
    ) -> tuple[NDArray, ...]:
        """Return the gradients by all inputs."""
        arguments = self._arguments(atoms, particles, charges, network)
        by_atoms = np.zeros(atoms.shape)

        def task(begin: int, end: int) -> tuple[NDArray, ...]:
            by_particles = np.zeros((len(particles), 4))
            slopes = tuple(np.zeros(array.shape) for array in network)
            _polarisation_loops.gradients(
                begin, end, *arguments, weights, by_atoms, by_particles, slopes
            )
            return by_particles, *slopes

        parts = zip(*run_ranges(task, self._parts()), strict=True)
        by_particles, *slopes = (add_up(arrays) for arrays in parts)
        found = by_atoms, by_particles[:, :3], by_particles[:, 3], *slopes
        return tuple(array.astype(atoms.dtype) for array in found)

    def twin(
        self,
        atoms: Tensor,
        particles: Tensor,
        charges: Tensor,
        inner: Tensor,
        bias: Tensor,
        outer: Tensor,
    ) -> Tensor:
        """Return the sums in torch operations."""
        vectors = self.pairs.vectors(atoms, particles)
        distances = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        basis, fade = self.layer.radial(distances)
        weights = functional.linear(silu(functional.linear(basis, inner, bias)), outer)
        near = charges.index_select(0, self.pairs.second)[:, None]
        weights = weights * (fade * near / distances.square() * self.layer.scaling)
        weights = functional.pad(weights, (1, 0))[:, :, None]
        ends = self.pairs.first, len(atoms), ORDER
        return anisotropic_state(weights, vectors / distances, *ends)[:, :, 0]

    def _parts(self) -> list[tuple[int, int]]:
        return ranges_of_atoms(self.pairs.first.numpy(), _COST)

    def _arguments(
        self, atoms: NDArray, particles: NDArray, charges: NDArray, network: tuple
    ) -> tuple:
        layer, pairs = self.layer, self.pairs
        frequencies = layer.radial.frequencies.double().numpy()
        shift = np.empty((0, 3)) if pairs.shift is None else pairs.shift.double().numpy()
        ends = pairs.first.numpy(), pairs.second.numpy()
        constants = float(layer.cutoff), float(layer.scaling), frequencies
        return atoms, particles, charges, ends, shift, constants, network, self._kept
