"""Readers of weights as published, into the layers of this package."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from gnn.published.amp_bms import AmpBms
from gnn.untrusted import read_state

#: Elements whose embeddings the published AMP-BMS weights were trained for.
AMP_BMS_ELEMENTS = (1, 6, 7, 8, 9, 15, 16, 17, 35, 53)
# the publication's invariants in the order of AMP_BMS_TERMS
_AMP_BMS_ORDER = (0, 1, 3, 4, 2, 6, 5, 8, 7)


def load_amp_bms(
    path: str | Path | BinaryIO, *, pol_scaling: float = 0.35, **options: Any
) -> AmpBms:
    """Read the weights of AMP-BMS from the state dict that its authors publish.

    Parameters
    ----------
    path : path-like or binary file
        The file ``MIN_state_dict``, or an open one of its content.
    pol_scaling : float
        Factor on the induced multipoles: 0.35 as published, 1 as trained.
    options
        Further arguments of `AmpBms`: ``mode``, ``box``, ``eps``, ``cutoff_mm``.

    Returns
    -------
    AmpBms
        In float32 and evaluation mode, without a baseline: its energies are the published ones.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file does not hold these weights.
    """
    published = _read(path)
    model = AmpBms(pol_scaling=pol_scaling, **options)
    state = model.state_dict()
    try:
        own = _amp_bms_state(published)
        for key in state.keys() - own.keys() - _OWN:
            raise KeyError(key)
    except KeyError as error:
        raise ValueError(
            f"{path} does not hold the weights of AMP-BMS: {error.args[0]} is missing"
        ) from None
    for key, value in own.items():
        if state[key].shape != value.shape:
            raise ValueError(
                f"{path} does not hold the weights of AMP-BMS: {key} has shape "
                f"{tuple(value.shape)}, expected {tuple(state[key].shape)}"
            )
    model.load_state_dict(state | own)
    model.known[list(AMP_BMS_ELEMENTS)] = True
    return model.eval()


# buffers of ours that published weights do not hold
_OWN = {"baseline", "charge_baseline", "known"}


def _read(path: str | Path | BinaryIO) -> Mapping[str, Tensor]:
    if isinstance(path, str | Path) and not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}")
    kind = "a state dict of torch"
    if isinstance(path, str | Path):
        content = read_state(Path(path), kind)
    else:
        content = read_state(Path(str(path)), kind, path)
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} is not a state dict of torch: expected tensors by name")
    return content


def _amp_bms_state(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the published weights under this package's names, in its order of columns."""
    own = {
        "embedding.weight": published["node_embedding.embedding.weight"],
        "radial.frequencies": published["radial_embedding.frequencies"][0],
        "polarisation.radial.frequencies": published["radial_embedding_qmmm.frequencies"][0],
        "dispersion.free": published["D4.C6_0"][:, 0],
        "dispersion.radii": published["D4.sqrt_r4r2"][:, 0],
    }
    for ours, theirs in {
        "charge": "QM_monos",
        "response": "QM_coeffs",
        "polarisation.network": "B_coefficients",
        "atom_energy": "V.potential",
    }.items():
        own |= network_of(published, theirs, ours)
    features = own["embedding.weight"].shape[1]
    edges = network_of(published, "edge_embedding", "edges", first="edges.first")
    weight = edges["edges.first.weight"]
    radial = weight.shape[1] - 2 * features
    edges["edges.first.weight"] = torch.cat([weight[:, radial:], weight[:, :radial]], 1)
    own |= edges
    for step in range(2):
        own |= network_of(published, f"in_update_layers.{step}", f"steps.{step}.update")
        for name, theirs in (("coefficients", "eq"), ("message", "in")):
            ours = f"steps.{step}.{name}"
            network = network_of(
                published, f"{theirs}_message_layers.{step}", ours, f"{ours}.first"
            )
            weight = network[f"{ours}.first.weight"]
            end = weight.shape[1] - own["edges.rest.1.weight"].shape[0]
            network[f"{ours}.first.weight"] = terms_first(weight, 2 * features, end, _AMP_BMS_ORDER)
            own |= network
    return own


def network_of(
    published: Mapping[str, Tensor], theirs: str, ours: str, first: str | None = None
) -> dict[str, Tensor]:
    """Return a published network's weights under our names.

    With `first`, the network is an `EdgePerceptron` and `first` the name of its first layer.
    """
    state = {}
    prefix = f"{theirs}."
    for key, value in published.items():
        if key.startswith(prefix):
            layer, kind = key.removeprefix(prefix).split(".")
            if first is not None and layer == "0":
                state[f"{first}.{kind}"] = value
            elif first is not None:
                state[f"{ours}.rest.{int(layer) - 1}.{kind}"] = value
            else:
                state[f"{ours}.{layer}.{kind}"] = value
    if not state:
        raise KeyError(theirs)
    return state


def terms_first(weight: Tensor, start: int, end: int, order: Sequence[int]) -> Tensor:
    """Return a matrix with columns `start` to `end` sorted by invariant and then by channel.

    They are published by channel and then by invariant; `order` are the invariants to take.
    """
    middle = weight[:, start:end].unflatten(1, (-1, len(order))) if end > start else None
    if middle is None:
        return weight
    middle = middle[:, :, list(order)].transpose(1, 2).flatten(1)
    return torch.cat([weight[:, :start], middle, weight[:, end:]], 1)
