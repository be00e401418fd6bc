"""The field of all other atoms' anisotropic states, and its contraction with an atom's own."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gnn.layers.diffusion import diffused
from multipoles import indexing

MAX_ORDER = 2
_FIRST_WEIGHTS = 0.3  # scale of those of a fresh coupling
#: Takes moments (N, channels, n_comp) on all atoms to their field there, of the same shape.
FieldOfAtoms = Callable[[Tensor], Tensor]


class LongRangeCoupling(nn.Module):
    """Contract the state of every atom with the field of all other atoms' states.

    Linear combinations of the state's channels, one set for each order, are the moments of a
    field, under a kernel that is Coulomb's at long range. The field does work on other
    combinations of the atom's own state, sum_beta W_beta Phi_beta for each order and channel;
    these energies, and the potentials, are invariant under rotation and enter the node's update.
    Lengths are in units of the cutoff, so that terms of all orders are of similar size.

    Monopoles that are local keep to what charges do: from each atom's, what it spreads over its
    edges is taken off, so that they add up to zero in each connected part of the graph; and the
    atoms' share of the given charges is added, times a weight for each channel. So molecules that
    are neutral have no field that falls as 1/r. Free monopoles are as the state has them.

    Parameters
    ----------
    order, channels : int
        Order (2 at most is used) and channels of the state.
    mixed : int
        Number of channels of the moments.
    cutoff : float
        Unit of length in Å.
    monopoles : {"local", "free"}
        Whether monopoles add up to the given charges, or to whatever they are.
    """

    scale: Tensor

    def __init__(
        self, order: int, channels: int, mixed: int, cutoff: float, monopoles: str = "local"
    ):
        super().__init__()
        self.order = min(order, MAX_ORDER)
        self.outputs = (self.order + 2) * mixed
        shape = self.order + 1, channels, mixed
        scale = _FIRST_WEIGHTS / channels**0.5
        self.sent = nn.Parameter(torch.randn(shape) * scale)
        self.received = nn.Parameter(torch.randn(shape) * scale)
        self.given: nn.Parameter | None = None  # weights of the given charges
        if monopoles == "local":
            self.given = nn.Parameter(torch.randn(mixed) * _FIRST_WEIGHTS)
        ranks = torch.tensor(indexing.orders(self.order))
        self.register_buffer("ranks", ranks, persistent=False)
        self.register_buffer("scale", float(cutoff) ** ranks, persistent=False)
        self.cutoff = cutoff

    def forward(
        self,
        state: Tensor,
        field_of: FieldOfAtoms,
        charges: Tensor,
        edges: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        """Return invariants (N, outputs) of states (N, n_comp, C).

        Of the atoms' given charges (N, 1), and of the edges' envelopes (E, 1), senders and
        receivers (E,).
        """
        field = field_of(self._sources(state, charges, edges))
        own = self._moments(state, self.received)
        work = own * field * self.cutoff  # field of rank l carries 1 / length^(l + 1)
        invariants = [field[:, :, 0] * self.cutoff]
        for rank in range(self.order + 1):
            invariants.append(work[:, :, indexing.order_slice(rank)].sum(2))
        return torch.cat(invariants, dim=1)

    def _sources(
        self, state: Tensor, charges: Tensor, edges: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Return the moments of the field, (N, mixed, n_comp)."""
        moments = self._moments(state, self.sent)
        if self.given is None:
            return moments
        free = moments[:, :, 0]
        local = free - diffused(free, *edges, steps=1) + charges * self.given
        return torch.cat([local[:, :, None], moments[:, :, 1:]], dim=2)

    def _moments(self, state: Tensor, weights: Tensor) -> Tensor:
        """Mix channels order by order: (N, n_comp, C) to moments (N, mixed, n_comp)."""
        parts = [
            state[:, indexing.order_slice(rank)] @ weights[rank] for rank in range(self.order + 1)
        ]
        return torch.cat(parts, dim=1).transpose(1, 2) * self.scale.to(state.dtype)
