"""Multipoles that surrounding charges induce on atoms, with a learned dependence on distance."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from gnn.operators.edges import anisotropic_state
from gnn.published import _polarisation_loops, fused
from gnn.published.layers import ORDER, BesselBasis, perceptron
from gnn.published.pairs import Pairs


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

    def forward(self, atoms: Tensor, particles: Tensor, charges: Tensor, pairs: Pairs) -> Tensor:
        """Return the sums (N, 10) at atoms (N, 3) for charges (M,) of particles (M, 3)."""
        multipoles = InducedMultipoles(self, charges, pairs)
        inputs = atoms, particles, *self.parameters_of_network()
        if charges.requires_grad:
            return multipoles.twin(*inputs)
        return fused.apply(multipoles, *inputs)


class InducedMultipoles:
    """The sums of `Polarisation`, fused: a `gnn.published.fused.Operator`.

    Maps positions of atoms (N, 3) and particles (M, 3) and the network's three parameters to sums
    (N, 10). The compiled loop computes in float64 whatever the type of its inputs.

    Parameters
    ----------
    layer : Polarisation
        Gives cutoff, scaling and frequencies.
    charges : Tensor
        (M,) in e.
    pairs : Pairs
        Pairs of an atom and a particle: at least all within the cutoff.
    """

    def __init__(self, layer: Polarisation, charges: Tensor, pairs: Pairs):
        self.layer, self.charges, self.pairs = layer, charges, pairs

    def values(self, atoms: NDArray, particles: NDArray, *network: NDArray) -> NDArray:
        """Return the sums."""
        sums = np.zeros((len(atoms), 10))
        hidden, n = network[0].shape
        shapes = (n, 2), (hidden, 3), (ORDER, 2), (2,)
        self._kept = tuple(np.empty((len(self.pairs.first), *shape)) for shape in shapes)
        _polarisation_loops.sums(*self._arguments(atoms, particles, network), sums)
        return sums.astype(atoms.dtype)

    def gradients(
        self, weights: NDArray, atoms: NDArray, particles: NDArray, *network: NDArray
    ) -> tuple[NDArray, ...]:
        """Return the gradients by all inputs."""
        by_inputs = [np.zeros(array.shape) for array in (atoms, particles, *network)]
        arguments = self._arguments(atoms, particles, network)
        _polarisation_loops.gradients(
            *arguments, weights, tuple(by_inputs[:2]), tuple(by_inputs[2:])
        )
        return tuple(array.astype(atoms.dtype) for array in by_inputs)

    def twin(
        self, atoms: Tensor, particles: Tensor, inner: Tensor, bias: Tensor, outer: Tensor
    ) -> Tensor:
        """Return the sums in torch operations."""
        vectors = self.pairs.vectors(atoms, particles)
        distances = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        basis, fade = self.layer.radial(distances)
        weights = functional.linear(functional.silu(functional.linear(basis, inner, bias)), outer)
        charges = self.charges.index_select(0, self.pairs.second)[:, None]
        weights = weights * (fade * charges / distances.square() * self.layer.scaling)
        weights = functional.pad(weights, (1, 0))[:, :, None]
        ends = self.pairs.first, len(atoms), ORDER
        return anisotropic_state(weights, vectors / distances, *ends)[:, :, 0]

    def _arguments(self, atoms: NDArray, particles: NDArray, network: tuple) -> tuple:
        layer, pairs = self.layer, self.pairs
        frequencies = layer.radial.frequencies.double().numpy()
        shift = np.empty((0, 3)) if pairs.shift is None else pairs.shift.double().numpy()
        ends = pairs.first.numpy(), pairs.second.numpy()
        constants = float(layer.cutoff), float(layer.scaling), frequencies
        charges = self.charges.detach().numpy()
        return atoms, particles, charges, ends, shift, constants, network, self._kept
