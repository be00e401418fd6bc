"""What the model does beyond the trained extent: repulsion, and inputs that saturate.

Everything here is the identity, or zero, as long as no two atoms and no charge and atom are closer
than the shortest distance of their elements in training, no atom is more crowded than the most
crowded one (by three quarters of a bond), no field at an atom is larger than the largest, and
neither is what the network makes of all this; from there on it sets in with two continuous
derivatives.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gnn.data.batching import Batch
from gnn.data.checking.atoms import RADII
from gnn.data.extent import BOND_DECAY, Extent
from gnn.operators.borders import crowded, exceeding, too_strong
from gnn.operators.fused import bounded_rows, saturation, saturation_factors
from gnn.operators.gpu import at_host, on_gpu, table
from gnn.operators.room import Room
from gnn.units import BOHR, COULOMB
from multipoles.indexing import order_of, orders

# universal screening of nuclear repulsion (Ziegler, Biersack & Littmark 1985)
WEIGHTS = 0.1818, 0.5099, 0.2802, 0.02817
RATES = 3.2, 0.9423, 0.4028, 0.2016
_LENGTH = 0.8854 * BOHR
#: Å below the shortest distance at which the repulsion of nuclei acts in full.
_RAMP = 0.5
#: A surrounding charge repels atoms as a nucleus of this number would, times its magnitude in e.
_CHARGE_AS = 8
#: e; smaller charges repel less than in proportion, so that the derivative at zero exists.
_SMALL_CHARGE = 0.05
#: Å below the shortest distance, and order of bonds beyond the largest sum, at which what the
#: network says of an atom has fallen to 1/e: slower than repulsion grows.
_DEPTH, _CROWD = _RAMP, 1.0
_BOND = 30.0  # eV for each order of bonds that are too many
#: Order of bonds beyond the largest sum in training where they become too many: a bond that is
#: compressed by a fifth, as in a hot collision, adds one, and there the network knows better.
SPARE = 0.75
#: Times the largest output of a network in training is where outputs begin to saturate: of large
#: sets some frames are looked at only.
_SLACK = 1.25
_LEAST = 1e-3  # length of an output that is let through, where training had none
#: Å beyond covalent radii: where atoms repel that training never saw as close or never together.
CONTACT = 0.9
#: The same for charges and atoms, if charges were seen farther away only.
FAR_CONTACT = 1.7
#: V/Å and V/Å²; taken for the largest field at elements that training saw in no field.
FIELD, CURVATURE = 1.0, 2.0


def zbl(distances: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the screened repulsion of nuclei in eV, (P,), at distances > 0 in Å.

    Parameters
    ----------
    distances, first, second : Tensor
        (P,) distances, and charges of both nuclei.
    """
    rate = (first**0.23 + second**0.23) / _LENGTH
    x = -(rate * distances)[:, None] * table(RATES, distances)
    screening = torch.exp(x) @ table(WEIGHTS, distances)
    return COULOMB * first * second * screening / distances


def repulsion(distances: Tensor, shortest: Tensor, bare: Tensor, stiffness: float) -> Tensor:
    """Return the energy of pairs in eV, (P,): exactly zero from the shortest trained distance on.

    Parameters
    ----------
    distances, shortest : Tensor
        (P,) in Å.
    bare : Tensor
        (P,) repulsion of the nuclei in eV, which fades in over `_RAMP`.
    stiffness : float
        In eV/Å³, of a term that grows with the third power of what is missing to `shortest`.
    """
    missing = (shortest - distances).clamp(min=0)
    t = (missing / _RAMP).clamp(max=1)
    return bare * (t * t * t * (10 + t * (6 * t - 15))) + stiffness * missing * missing * missing


def clamped(distances: Tensor, shortest: Tensor, width: float) -> Tensor:
    """Return distances that stay above `shortest` less `width`, unchanged from `shortest` on."""
    below = shortest - width * torch.tanh((shortest - distances) / width)
    return torch.where(distances < shortest, below, distances)


class Seen(NamedTuple):
    """What the network sees behind its walls, if it has any.

    Attributes
    ----------
    distances : Tensor
        (E,) lengths of the edges in Å.
    fields : Tensor
        (N, F, 10) of the surroundings, see `gnn.layers.surroundings.SurroundingsField`.
    scale : Tensor or None
        (N,) what bounds the fields in messages; None is one.
    weight : Tensor or None
        (N,) how much counts what the network says of each atom; None is one.
    repulsion : Tensor or None
        (N,) energies of the walls in eV; None is zero.
    """

    distances: Tensor
    fields: Tensor
    scale: Tensor | None = None
    weight: Tensor | None = None
    repulsion: Tensor | None = None


class Border(nn.Module):
    """Where training ended: the trained extent, and the bounds of the model that follow from it.

    Before `set`, nothing lies beyond.

    Parameters
    ----------
    width, stiffness, saturation : float
        See `gnn.options.Walls`.
    outputs : int
        Number of outputs of networks that are bounded, see `AMP`.
    """

    pairs: Tensor
    charges: Tensor
    field: Tensor
    curvature: Tensor
    valence: Tensor
    outputs: Tensor
    radii: Tensor

    def __init__(self, width: float, stiffness: float, saturation: float, outputs: int = 0):
        super().__init__()
        self._noted: Tensor | None = None
        self.width, self.stiffness, self.saturation = width, stiffness, saturation
        size = len(RADII)
        self.register_buffer("pairs", torch.zeros(size, size))
        self.register_buffer("charges", torch.zeros(size))
        self.register_buffer("field", torch.full((size,), torch.inf))
        self.register_buffer("curvature", torch.full((size,), torch.inf))
        self.register_buffer("valence", torch.full((size,), torch.inf))
        self.register_buffer("outputs", torch.full((outputs, size), torch.inf))
        radii = torch.tensor(RADII).nan_to_num().to(torch.get_default_dtype())
        self.register_buffer("radii", radii, persistent=False)

    def set(self, extent: Extent, room: float = torch.inf) -> None:
        """Take an extent as the trained one; outputs in it are `room` times larger than before."""
        for name, values in vars(extent).items():
            getattr(self, name).copy_(torch.from_numpy(values))
        self.outputs.mul_(room)

    @property
    def extent(self) -> Extent | None:
        """The trained extent; None before `set`."""
        if not bool(self.pairs.any()):
            return None
        tables = (getattr(self, one.name) for one in fields(Extent))
        return Extent(*(table.double().cpu().numpy() for table in tables))

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        if prefix + "outputs" not in state:  # written by a version that bounded fewer
            state[prefix + "outputs"] = torch.full_like(self.outputs, torch.inf)
            state.pop(prefix + "changes", None)
        if prefix + "valence" not in state:
            state[prefix + "valence"] = torch.full_like(self.valence, torch.inf)
        super()._load_from_state_dict(state, prefix, *rest)

    def shortest(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the distances in Å at which atoms of these elements begin to repel, (P,)."""
        contact = self.radii[first] + self.radii[second] + CONTACT
        return torch.minimum(self.pairs[first, second], contact)

    def shortest_to_charges(self, numbers: Tensor) -> Tensor:
        """Return the distances in Å at which charges begin to repel atoms, (N,)."""
        trained, radii = self.charges[numbers], self.radii[numbers]
        seen = torch.minimum(trained, radii + FAR_CONTACT)
        return torch.where(trained.isinf(), radii + CONTACT, seen)

    def crossed(self, batch: Batch, lengths: Tensor, cutoff: float) -> bool:
        """Return whether any two atoms are too close, or an atom has too many neighbours."""
        tables = self.pairs, self.valence, self.radii
        edges = lengths.detach(), batch.senders, batch.receivers, batch.numbers
        if on_gpu(lengths):
            return bool(at_host(self.is_crossed(batch, lengths, cutoff).any()))
        arrays = (tensor.numpy() for tensor in (*edges, *tables))
        return bool(crowded(*arrays, SPARE, CONTACT, cutoff, BOND_DECAY))

    def is_crossed(self, batch: Batch, lengths: Tensor, cutoff: float) -> Tensor:
        """Return which edges are too short, and which atoms too crowded: bool (E + N,)."""
        first, second = (
            batch.numbers.index_select(0, end) for end in (batch.receivers, batch.senders)
        )
        apart, bonds = lengths.detach(), self.radii[first] + self.radii[second]
        shortest = torch.minimum(self.pairs[first, second], bonds + CONTACT)
        orders = torch.exp((bonds - apart) / BOND_DECAY)  # the envelope is left out
        if batch.present is not None:
            orders = orders * batch.present
        zeros = lengths.new_zeros(batch.n_atoms)
        valence = zeros.index_add(0, batch.receivers, orders)
        close = apart < shortest.clamp(max=cutoff)
        return torch.cat([close, valence > self.valence[batch.numbers] + SPARE])

    def pressed(
        self, batch: Batch, lengths: Tensor, fade: Tensor, cutoff: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the walls between atoms make of edges (E,) of lengths in Å.

        `fade` (E,) is their envelope. Lengths as the network sees them (E,); how much counts what
        it says of each atom (N,); and the repulsion of each atom in eV (N,).
        """
        first, second = (batch.numbers[end] for end in (batch.receivers, batch.senders))
        shortest = self.shortest(first, second).clamp(max=cutoff)
        bare = zbl(lengths, first.to(lengths.dtype), second.to(lengths.dtype))
        half = 0.5 * repulsion(lengths, shortest, bare, self.stiffness)
        missing = (shortest - lengths).clamp(min=0) / _DEPTH
        orders = fade * torch.exp((self.radii[first] + self.radii[second] - lengths) / BOND_DECAY)
        zeros = lengths.new_zeros(batch.n_atoms)
        per_edge = torch.stack([half, missing * missing * missing, orders], dim=1)
        sums = zeros[:, None].expand(-1, 3).index_add(0, batch.receivers, per_edge)
        energy, depth, valence = sums.unbind(1)
        largest = self.valence[batch.numbers] + SPARE
        crowd = (valence - largest).clamp(min=0)
        cubed = crowd * crowd * crowd
        energy = energy + _BOND * cubed / (1 + crowd * crowd)
        weight = torch.exp(-(depth + cubed / _CROWD**3))
        return clamped(lengths, shortest, self.width), weight, energy

    def pressed_by_charges(
        self, batch: Batch, atoms: Tensor, distances: Tensor, moments: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return distances (P,) of particles and atoms as seen, and the repulsion of atoms (N,).

        A particle of moments (P, n) repels as a charge of the size of them all does, in e Å^k,
        each times how much steeper than a charge's its potential is.
        """
        numbers = batch.numbers[atoms]
        shortest, first = self.shortest_to_charges(numbers), numbers.to(distances.dtype)
        bare = zbl(distances, first, torch.full_like(first, _CHARGE_AS))
        steeper = 1.0 + table(orders(order_of(moments.shape[1])), moments)
        squares = (steeper * moments).square().sum(1)
        strength = squares / (squares + _SMALL_CHARGE**2).sqrt()
        energies = strength * repulsion(distances, shortest, bare, self.stiffness)
        per_atom = energies.new_zeros(batch.n_atoms).index_add(0, atoms, energies)
        return clamped(distances, shortest, self.width), per_atom

    def exceeded(self, field: Tensor, numbers: Tensor) -> bool:
        """Return whether `scale` is anywhere not one."""
        if on_gpu(field):
            found, limits = _squares(field.detach()), self._largest(numbers)
            over = [a > b * b for a, b in zip(found, limits, strict=True)]
            return bool(at_host(torch.logical_or(*over).any()))
        arrays = (t.numpy() for t in (field.detach(), numbers, self.field, self.curvature))
        return bool(too_strong(*arrays, FIELD, CURVATURE))

    def scale(self, field: Tensor, numbers: Tensor) -> Tensor:
        """Return factors (N,) that bound the fields (N, F, 10) of the surroundings."""
        largest, curvature = self._largest(numbers)
        gradient, second = _squares(field)
        by_gradient = saturation(gradient, largest, self.saturation)
        return by_gradient * saturation(second, curvature, self.saturation)

    def compare(self, field: Tensor, numbers: Tensor, room: Room) -> None:
        """Note in a room how strong fields are that `scale` would bound."""
        found, limits = _squares(field.detach()), self._largest(numbers)
        for squares, largest in zip(found, limits, strict=True):
            room.compare(squares, largest.square())

    @contextmanager
    def calibrated(self) -> Iterator[None]:
        """Bound outputs from now on by the largest that `factors` sees in this context.

        Bounds that there are stay where they are narrower: outputs beyond saturated already.
        """
        self._noted = torch.full_like(self.outputs, -1.0)
        try:
            yield
            largest = (_SLACK * self._noted).clamp(min=_LEAST)
            largest = largest.masked_fill(self._noted < 0, torch.inf)
            self.outputs.copy_(torch.minimum(largest, self.outputs))
        finally:
            self._noted = None

    def factors(self, output: int, values: Tensor, numbers: Tensor) -> Tensor | None:
        """Return factors (N,) by which values (N, F) saturate that are longer than in training.

        `numbers` (N,) are the elements to which they belong. None: all factors are one.
        """
        self._note(output, values, numbers)
        largest = self.outputs[output]
        if not on_gpu(values) and not exceeding(
            values.detach().numpy(), numbers.numpy(), largest.numpy()
        ):
            return None
        return self.saturated(output, values, numbers)

    def saturated(self, output: int, values: Tensor, numbers: Tensor) -> Tensor:
        """Return the same without looking first whether any is too large."""
        return saturation_factors(values, self.outputs[output], numbers, self.saturation)

    def within(self, output: int, values: Tensor, numbers: Tensor) -> Tensor:
        """Return values (N, F) times their `factors`, without looking whether any is too large."""
        self._note(output, values, numbers)
        return bounded_rows(values, self.outputs[output], numbers, self.saturation)

    def _note(self, output: int, values: Tensor, numbers: Tensor) -> None:
        """Keep the largest lengths of values while bounds are calibrated."""
        if self._noted is not None:
            lengths = torch.linalg.vector_norm(values.detach(), dim=1)
            self._noted[output].scatter_reduce_(0, numbers, lengths, "amax")

    def _largest(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest gradients and second derivatives that the network may see as is."""
        field, curvature = self.field[numbers], self.curvature[numbers]
        curvature = curvature.masked_fill(curvature == 0, CURVATURE)
        return field.masked_fill(field == 0, FIELD), curvature


def _squares(field: Tensor) -> tuple[Tensor, Tensor]:
    """Return squared norms (N,) of gradient and second derivatives of the field (N, F, 10)."""
    squares = field[:, 0].square()
    twice = table((1.0, 2.0, 2.0, 1.0, 2.0, 1.0), squares)  # off the diagonal
    return squares[:, 1:4].sum(1), squares[:, 4:] @ twice
