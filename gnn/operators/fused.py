"""Chains of small operations that are one kernel each on a GPU, with two derivatives.

Elsewhere, and under transforms of `torch.func`, they are the few operations of torch that they
stand for: `twin` of each `Chain`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from gnn.operators.derivatives import aliases, each_of_batch, forward_mode, gradients, transformed
from gnn.operators.gpu import on_gpu

Tensors = Sequence[Tensor]
_plain: ContextVar[bool] = ContextVar("plain", default=False)


@contextmanager
def in_plain_torch(plain: bool = True) -> Iterator[None]:
    """Let chains be operations of torch on a GPU too."""
    token = _plain.set(plain)
    try:
        yield
    finally:
        _plain.reset(token)


class Chain(Protocol):
    """What is computed of some tensors, and its derivatives."""

    def twin(self, *inputs: Any, **_: Any) -> tuple[Tensor, ...]:
        """Return the same in plain torch."""

    def values(self, *inputs: Any, **_: Any) -> tuple[Tensor, ...]:
        """Return the outputs."""

    def gradients(self, inputs: Tensors, grads: Tensors) -> tuple[Tensor, ...]:
        """Return the gradients by the inputs."""

    def second(self, inputs: Tensors, grads: Tensors, along: Tensors) -> tuple[Tensor, ...]:
        """Return the gradients, by inputs and incoming gradients, of gradients times `along`."""


def applied(chain: Chain, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return what a chain computes: by kernels of our own for tensors on a GPU, else by its twin.

    The outputs are differentiable to any order.
    """
    return _Values.apply(chain, *inputs) if is_fused(inputs[0]) else chain.twin(*inputs)


def is_fused(tensor: Tensor) -> bool:
    """Return whether chains of a tensor are kernels of our own."""
    ours = on_gpu(tensor) and tensor.dtype in (torch.float32, torch.float64)
    return ours and not _plain.get() and not forward_mode()


class _Values(Function):
    @staticmethod
    def forward(ctx, chain, *inputs):
        ctx.save_for_backward(*inputs)
        ctx.chain = chain
        return chain.values(*inputs)

    @staticmethod
    @each_of_batch
    def backward(ctx, *grads):
        inputs = ctx.saved_tensors
        if transformed():
            found = _by_twin(ctx.chain, inputs, grads)
        else:
            found = _Gradients.apply(ctx.chain, len(inputs), *inputs, *grads)
        return None, *found


class _Gradients(Function):
    @staticmethod
    def forward(ctx, chain, n_inputs, *tensors):
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.chain, ctx.n_inputs = chain, n_inputs
        return chain.gradients(tensors[:n_inputs], tensors[n_inputs:])

    @staticmethod
    @each_of_batch
    def backward(ctx, *along):
        tensors, n = ctx.saved_tensors, ctx.n_inputs
        if all(one is None for one in along):
            return (None,) * (2 + len(tensors))
        inputs, grads = tensors[:n], tensors[n:]
        along = [
            torch.zeros_like(x) if v is None else v for x, v in zip(inputs, along, strict=True)
        ]
        if transformed():
            found = _by_twin(ctx.chain, inputs, grads, along)
        else:
            found = _Second.apply(ctx.chain, n, *tensors, *along)
        return None, None, *found


class _Second(Function):
    @staticmethod
    def forward(ctx, chain, n_inputs, *tensors):
        ctx.save_for_backward(*tensors)
        ctx.chain, ctx.n_inputs = chain, n_inputs
        return chain.second(*_parted(tensors, n_inputs))

    @staticmethod
    @each_of_batch
    def backward(ctx, *cotangents):
        further = torch.is_grad_enabled()
        with torch.enable_grad():
            used = aliases(ctx.saved_tensors)
            found = _by_twin(ctx.chain, *_parted(used, ctx.n_inputs), aliased=True)
            return None, None, *gradients(found, used, cotangents, further)


def _parted(tensors: Tensors, n: int) -> tuple[Tensors, Tensors, Tensors]:
    """Return inputs, incoming gradients, and cotangents of the gradients."""
    return tensors[:n], tensors[n : len(tensors) - n], tensors[len(tensors) - n :]


def _by_twin(
    chain: Chain,
    inputs: Tensors,
    grads: Tensors,
    along: Tensors | None = None,
    aliased: bool = False,
) -> list[Tensor]:
    """Return first or, along cotangents of these, second derivatives through the twin."""
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        used = [*inputs, *grads] if aliased else aliases([*inputs, *grads])
        mine, incoming = used[: len(inputs)], used[len(inputs) :]
        later = further or along is not None
        found = gradients(chain.twin(*mine), mine, incoming, later)
        return found if along is None else gradients(found, used, along, further)


def gpu() -> Any:
    """Return the module of the GPU's kernels, which imports numba.cuda."""
    from gnn.operators import _fused_cuda

    return _fused_cuda


def _empty(*like: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in like)


# --- activations ----------------------------------------------------------------------------------


class _Silu:
    """x / (1 + exp(-x))."""

    def twin(self, x):
        return (functional.silu(x),)

    values = twin

    def gradients(self, inputs, grads):
        return (torch.ops.aten.silu_backward(grads[0], inputs[0]),)

    def second(self, inputs, grads, along):
        outs = _empty(*inputs, *grads)
        (x,) = inputs
        gpu().launch(gpu().silu_second(), x, x.numel(), x, *grads, *along, *outs)
        return outs


def silu(x: Tensor) -> Tensor:
    """Return x / (1 + exp(-x)) of any shape; what torch does, but for derivatives on a GPU."""
    return applied(_Silu(), x)[0]


class _EdgeSilu:
    """silu(own + the first half of nodes[senders] + the second half of nodes[receivers])."""

    def __init__(self, senders, receivers):
        self.ends = senders, receivers

    def twin(self, own, nodes):
        halves = zip(nodes.tensor_split(2, 1), self.ends, strict=True)
        return (functional.silu(sum((x.index_select(0, end) for x, end in halves), own)),)

    def values(self, *inputs):
        outs = _empty(inputs[0])
        self._launch(gpu().edge_silu_values(), *inputs, outs=outs)
        return outs

    def gradients(self, inputs, grads):
        outs = _empty(inputs[0])
        self._launch(gpu().edge_silu_gradients(), *inputs, *grads, outs=outs)
        return *outs, gpu().sums_at_ends(*outs, *self.ends, len(inputs[1]))

    def second(self, inputs, grads, along):
        by_z, by_grads = outs = _empty(inputs[0], *grads)
        self._launch(gpu().edge_silu_second(), *inputs, *grads, *along, outs=outs)
        return by_z, gpu().sums_at_ends(by_z, *self.ends, len(inputs[1])), by_grads

    def _launch(self, kernel, *tensors, outs):
        own = tensors[0]
        gpu().launch(kernel, own, own.numel(), *tensors, *self.ends, own.shape[1], *outs)


def edge_silu(own: Tensor, nodes: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
    """Return silu(own + nodes[senders, :k] + nodes[receivers, k:]), (E, k).

    Parameters
    ----------
    own : Tensor
        (E, k) of the edges.
    nodes : Tensor
        (N, 2 k), what each node gives as sender and as receiver.
    senders, receivers : Tensor
        (E,) int64; receivers are sorted.
    """
    return applied(_EdgeSilu(senders, receivers), own, nodes)[0]


def of_ends(weight: Tensor, features: int) -> Tensor:
    """Return the part of a layer's weights that nodes meet, for `edge_silu`, (2 k, features).

    Of weights (k, 2 features) of the features of sender and receiver.
    """
    return weight.unflatten(1, (2, features)).transpose(0, 1).flatten(0, 1)


# --- rows that saturate ---------------------------------------------------------------------------


def saturation(squares: Tensor, largest: Tensor, factor: float) -> Tensor:
    """Return by what to multiply vectors so that their lengths stay below `factor` times `largest`.

    Parameters
    ----------
    squares : Tensor
        (N,) squared lengths.
    largest : Tensor
        (N,) lengths up to which the result is exactly one.
    factor : float
        More than one.
    """
    beyond = squares > largest * largest
    ones = torch.ones_like(squares)
    length, border = torch.where(beyond, squares, ones).sqrt(), torch.where(beyond, largest, ones)
    room = (factor - 1) * border
    bounded = border + room * torch.tanh((length - border) / room)
    return torch.where(beyond, bounded / length, ones)


class _Saturating:
    """Rows, and what bounds their lengths."""

    def __init__(self, table, kinds, factor):
        self.given = table, kinds, factor

    def _launch(self, kernel, *tensors, outs, count=None):
        rows = tensors[0]
        count = rows.numel() if count is None else count
        gpu().launch(kernel, rows, count, *tensors, *self.given, rows.shape[1], *outs)
        return outs


def lengths_and_largest(rows: Tensor, table: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lengths of rows (N, k), and ``table[kinds]``, without derivatives."""
    rows = rows.detach()
    if not is_fused(rows):
        return torch.linalg.vector_norm(rows, dim=1), table.index_select(0, kinds)
    outs = rows.new_empty(len(rows)), rows.new_empty(len(rows))
    gpu().launch(gpu().row_lengths(), rows, len(rows), rows, table, kinds, rows.shape[1], *outs)
    return outs


class _Factors(_Saturating):
    """The factors by which rows saturate."""

    def twin(self, rows):
        table, kinds, factor = self.given
        return (saturation(rows.square().sum(1), table[kinds], factor),)

    def values(self, rows):
        outs = (rows.new_empty(len(rows)),)
        return self._launch(gpu().factor_values(), rows, outs=outs, count=len(rows))

    def gradients(self, inputs, grads):
        return self._launch(gpu().factor_gradients(), *inputs, *grads, outs=_empty(*inputs))

    def second(self, inputs, grads, along):
        outs = _empty(*inputs, *grads)
        return self._launch(gpu().factor_second(), *inputs, *grads, *along, outs=outs)


class _Bounded(_Saturating):
    """Rows times the factors by which they saturate."""

    def twin(self, rows):
        table, kinds, factor = self.given
        return (rows * saturation(rows.square().sum(1), table[kinds], factor)[:, None],)

    def values(self, rows):
        return self._launch(gpu().bounded_values(), rows, outs=_empty(rows))

    def gradients(self, inputs, grads):
        return self._launch(gpu().bounded_gradients(), *inputs, *grads, outs=_empty(*inputs))

    def second(self, inputs, grads, along):
        outs = _empty(*inputs, *grads)
        return self._launch(gpu().bounded_second(), *inputs, *grads, *along, outs=outs)


def saturation_factors(rows: Tensor, table: Tensor, kinds: Tensor, factor: float) -> Tensor:
    """Return by what to multiply rows (N, k) to have `bounded_rows`, (N,)."""
    return applied(_Factors(table, kinds, factor), rows)[0]


def bounded_rows(rows: Tensor, table: Tensor, kinds: Tensor, factor: float) -> Tensor:
    """Return rows (N, k) whose lengths stay below `factor` times ``table[kinds]``.

    Parameters
    ----------
    rows : Tensor
        (N, k); those no longer than ``table[kinds]`` stay as they are.
    table : Tensor
        (n,) lengths, constants.
    kinds : Tensor
        (N,) int64 places in the table.
    factor : float
        More than one.
    """
    return applied(_Bounded(table, kinds, factor), rows)[0]


# --- geometry of edges ----------------------------------------------------------------------------


def envelope(distances: Tensor, cutoff: float) -> Tensor:
    """Return a polynomial that falls from 1 to 0 at the cutoff, with two vanishing derivatives.

    ``1 - 28 x^6 + 48 x^7 - 21 x^8`` with x = r / cutoff (Gasteiger et al. 2020, eq. 8 with p = 6,
    without its 1/x, so that it stays bounded at short range), and zero beyond the cutoff. At the
    cutoff it goes to zero as (1 - x)^3: energies built from it are twice continuously
    differentiable.
    """
    x = distances / cutoff
    x2 = x * x
    x6 = x2 * x2 * x2
    value = 1 + x6 * (-28 + x * (48 - 21 * x))
    return value * (x < 1)


def bessel(
    distances: Tensor, frequencies: Tensor, cutoff: float, scale: float, divided: bool = False
) -> tuple[Tensor, Tensor]:
    """Return Bessel functions ``scale f / r sin(frequency r)`` and what fades edges.

    Parameters
    ----------
    distances : Tensor
        (E, 1) in Å.
    frequencies : Tensor
        (n,) in 1/Å, constants.
    cutoff : float
        Where the envelope f ends, in Å.
    scale : float
        Of the functions.
    divided : bool
        Edges fade by ``scale f / r`` in place of f.

    Returns
    -------
    basis, fade : Tensor
        (E, n) and (E, 1).
    """
    fade = envelope(distances, cutoff)
    height = fade * scale / distances
    return torch.sin(distances * frequencies) * height, height if divided else fade


class _Geometry:
    """Lengths, directions, envelopes and Bessel functions of edges."""

    def __init__(self, frequencies, cutoff, scale, divided):
        self.given = frequencies, float(cutoff), float(scale)
        self.divided = int(divided)

    def twin(self, vectors):
        frequencies, cutoff, scale = self.given
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        distances = lengths[:, None]
        basis, fade = bessel(distances, frequencies, cutoff, scale, self.divided)
        return lengths, vectors / distances, fade, basis

    def values(self, vectors):
        count, n = len(vectors), len(self.given[0])
        shapes = (count,), (count, 3), (count, 1), (count, n)
        outs = tuple(vectors.new_empty(shape) for shape in shapes)
        return self._launch(gpu().geometry_values(self.divided), vectors, outs=outs)

    def gradients(self, inputs, grads):
        kernel = gpu().geometry_gradients(self.divided)
        return self._launch(kernel, *inputs, *grads, outs=_empty(*inputs))

    def second(self, inputs, grads, along):
        kernel = gpu().geometry_second(self.divided)
        return self._launch(kernel, *inputs, *grads, *along, outs=_empty(*inputs, *grads))

    def _launch(self, kernel, *tensors, outs):
        gpu().launch(kernel, tensors[0], len(tensors[0]), *tensors, *self.given, *outs)
        return outs


def edge_geometry(
    vectors: Tensor, frequencies: Tensor, cutoff: float, scale: float, divided: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what edges are to a network: lengths, directions, envelopes and Bessel functions.

    Parameters
    ----------
    vectors : Tensor
        (E, 3) in Å.
    frequencies, cutoff, scale, divided
        See `bessel`.

    Returns
    -------
    lengths, directions, fade, basis : Tensor
        (E,), (E, 3), (E, 1) and (E, n).
    """
    chain = _Geometry(frequencies, cutoff, scale, divided)
    lengths, directions, fade, basis = applied(chain, vectors)
    return lengths, directions, fade, basis
