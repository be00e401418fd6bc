"""Physical multipoles of the atoms, read from the network's state, and their energy."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gnn.layers.bounds import Bounds, within
from gnn.layers.networks import dense
from gnn.operators.edges_torch import by_order
from gnn.operators.gpu import table

# places of xx, xy, xz, yy, yz, zz in a matrix, and of a matrix' components among these
_UPPER, _WHOLE = (0, 1, 2, 4, 5, 8), (0, 1, 2, 1, 3, 4, 2, 4, 5)


class PhysicalMultipoles(NamedTuple):
    """Charges (N,) in e, dipoles (N, 3) in e Å, quadrupoles (N, 3, 3) in e Å².

    Quadrupoles are traceless, Q = 1/2 sum q (r r - r² I / 3): the energy in a potential phi is
    Q : grad grad phi.
    """

    charges: Tensor
    dipoles: Tensor
    quadrupoles: Tensor

    def packed(self) -> Tensor:
        """Return packed moments, (N, 10)."""
        places = table(_UPPER, self.charges, torch.int64)
        upper = self.quadrupoles.flatten(1).index_select(1, places)
        quadrupoles = upper * table((1.0, 2.0, 2.0, 1.0, 2.0, 1.0), upper)
        return torch.cat([self.charges[:, None], self.dipoles, quadrupoles], dim=1)

    def faded(self, weight: Tensor) -> "PhysicalMultipoles":
        """Return dipoles and quadrupoles times weights (N,); no charge is lost."""
        return PhysicalMultipoles(
            self.charges, self.dipoles * weight[:, None], self.quadrupoles * weight[:, None, None]
        )


class MultipoleReadout(nn.Module):
    """Read charges, dipoles and quadrupoles from node features and anisotropic state.

    Dipoles and quadrupoles are combinations of the state's channels, with coefficients computed
    from the node's features; since the state contains multipoles that the surroundings induce,
    they are polarisable.

    Parameters
    ----------
    order, channels, features, hidden : int
        Order and channels of the state; widths of node features and hidden layers.
    charge : LocalCharges, SharedCharges or FreeCharges
        What reads the charges (see `gnn.layers.charges`).
    """

    def __init__(self, order: int, channels: int, features: int, hidden: int, charge: nn.Module):
        super().__init__()
        self.order = min(order, 2)
        self.charge = charge
        self.weights = dense(features, hidden, self.order * channels) if self.order else None
        self.scale = 1 / channels**0.5

    def forward(
        self, nodes: Tensor, state: Tensor, *given: Any, bounds: Bounds | None = None
    ) -> PhysicalMultipoles:
        """Return the multipoles of all atoms; dipoles (1) and quadrupoles (2) within `bounds`.

        `given` is what `charge` takes beside the nodes.
        """
        charges = self.charge(nodes, *given)
        dipoles = state.new_zeros(nodes.shape[0], 3)
        quadrupoles = state.new_zeros(nodes.shape[0], 3, 3)
        if self.weights is not None:
            weights = self.weights(nodes).view(nodes.shape[0], self.order, -1) * self.scale
            of_ranks, ranks = weights[:, None].unbind(2), by_order(state, 1)
            dipoles = within(bounds, 1, (ranks[1] * of_ranks[0]).sum(2))
            if self.order > 1:
                packed = (ranks[2] * of_ranks[1]).sum(2)
                quadrupoles = within(bounds, 2, full_quadrupoles(packed))
        return PhysicalMultipoles(charges, dipoles, quadrupoles)


def full_quadrupoles(packed: Tensor) -> Tensor:
    """Return 3 x 3 tensors (N, 3, 3) of packed components (N, 6), whose off-diagonals are sums."""
    halved = packed * table((1.0, 0.5, 0.5, 1.0, 0.5, 1.0), packed)
    return halved.index_select(1, table(_WHOLE, packed, torch.int64)).view(-1, 3, 3)


def energy_in_field(moments: Tensor, field: Tensor) -> Tensor:
    """Return sum_beta W_beta Phi_beta of every atom, (N,); both arguments (N, n_comp)."""
    if moments.shape != field.shape:
        raise ValueError(
            f"expected moments and field of one shape, got {tuple(moments.shape)} and "
            f"{tuple(field.shape)}"
        )
    return (moments * field).sum(1)
