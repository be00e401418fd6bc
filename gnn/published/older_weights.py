"""Readers of the weights of the older published models."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from gnn.published.amp_qmmm import AmpQmmm
from gnn.published.ana2b import Ana2b
from gnn.published.weights import network_of, terms_first

#: Order of ANA2B's one-hot elements: H C N O F S Cl.
ANA2B_ELEMENTS = (1, 6, 7, 8, 9, 16, 17)
_NORMS = 3
_Model = TypeVar("_Model", AmpQmmm, Ana2b)


def read_amp_qmmm(published: Mapping[str, Tensor]) -> AmpQmmm:
    """Return the model of a state dict of amp_qmmm, of the type of its weights.

    Kind and sizes are read from the shapes.

    Raises
    ------
    ValueError
        If weights are missing or of a wrong shape.
    """
    try:
        features, elements = published["embedding_nodes.weight"].shape
        kind = "precision" if "weights_qmmm.0.weight" in published else "minimal"
        width = len(published["QM_alpha.4.weight" if kind == "precision" else "QM_alpha.2.weight"])
        model = AmpQmmm(
            kind,
            channels=width // 2,
            steps=_steps(published),
            features=features,
            edge_features=len(published["embedding_edges.weight"]),
            elements=elements,
        ).to(published["embedding_nodes.weight"].dtype)
        own = _common(published, model)
        names = {
            "QMMM_potential": "atom_energy",
            "QMMM_density": "charge",
            "QM_alpha": "induction.response.polarisability",
            "B_coefficients": "induction.response.network",
        }
        if kind == "precision":
            names["weights_qmmm"] = "induction.gate"
            names["QM_alpha_esp"] = "induction_physical.polarisability"
            names["B_coefficients_esp"] = "induction_physical.network"
        for theirs, ours in names.items():
            own |= network_of(published, theirs, ours)
        own |= _edge_network(published, "QM_coefficients", "multipoles", model)
        own["embedding.weight"] = published["embedding_nodes.weight"].T
        own |= _species(published["embedding_edges.weight"], elements, range(elements), elements)
    except KeyError as error:
        raise ValueError(f"not the weights of amp_qmmm: {error.args[0]} is missing") from None
    return _filled(model, own, "amp_qmmm")


def read_ana2b(published: Mapping[str, np.ndarray]) -> Ana2b:
    """Return the model of ANA2B's AMPMulti from its variables by name, ``<layer>.<i>.kernel``.

    Raises
    ------
    ValueError
        If weights are missing or of a wrong shape.
    """
    try:
        weights = _as_torch(published)
        width, features = published["embedding_nodes.kernel"].shape
        elements = max(ANA2B_ELEMENTS) + 1
        model = Ana2b(
            features,
            published["embedding_edges.kernel"].shape[1],
            (len(weights["V.0.weight"][0]) - features) // _NORMS,
            _steps(weights),
            elements=elements,
        ).to(weights["V.0.weight"].dtype)
        own = _common(weights, model)
        own |= network_of(weights, "V", "atom_energy")
        first = "atom_energy.0.weight"
        own[first] = terms_first(own[first], features, own[first].shape[1], range(_NORMS))
        table = torch.as_tensor(published["embedding_nodes.kernel"])
        own["embedding.weight"] = table.new_zeros(elements, features)
        own["embedding.weight"][list(ANA2B_ELEMENTS)] = table
        edges = torch.as_tensor(published["embedding_edges.kernel"]).T
        own |= _species(edges, elements, ANA2B_ELEMENTS, width)
    except KeyError as error:
        raise ValueError(f"not the weights of ANA2B: {error.args[0]} is missing") from None
    model = _filled(model, own, "ANA2B")
    model.known[list(ANA2B_ELEMENTS)] = True
    return model


def _steps(published: Mapping[str, Tensor]) -> int:
    return 1 + max(int(k.split(".")[1]) for k in published if k.startswith("in_update_layers."))


def _common(published: Mapping[str, Tensor], model: AmpQmmm | Ana2b) -> dict[str, Tensor]:
    """Return the weights of the message-passing steps."""
    own: dict[str, Tensor] = {}
    features = model.embedding.embedding_dim
    for step in range(len(model.steps)):
        prefix = f"steps.{step}"
        for theirs, ours in (("eq_message", "coefficients"), ("in_message", "message")):
            own |= _edge_network(published, f"{theirs}_layers.{step}", f"{prefix}.{ours}", model)
        if f"edge_layers.{step}.0.weight" in published:
            gate = _edge_network(published, f"edge_layers.{step}", f"{prefix}.gate", model)
            last = max(key for key in gate if key.endswith("weight") and ".rest." in key)
            gate[last] = terms_first(gate[last].T, 0, len(gate[last]), range(len(model.terms))).T
            own |= gate
        own |= network_of(published, f"in_update_layers.{step}", f"{prefix}.update")
        first = f"{prefix}.update.0.weight"
        own[first] = terms_first(own[first], 2 * features, own[first].shape[1], range(_NORMS))
    return own


def _edge_network(
    published: Mapping[str, Tensor], theirs: str, ours: str, model: AmpQmmm | Ana2b
) -> dict[str, Tensor]:
    """Return a network of edges: published, the receiver comes before the sender."""
    own = network_of(published, theirs, ours, f"{ours}.first")
    n, first = model.embedding.embedding_dim, f"{ours}.first.weight"
    weight = own[first]
    weight = torch.cat([weight[:, n : 2 * n], weight[:, :n], weight[:, 2 * n :]], 1)
    end = weight.shape[1] - model.edges.radial.out_features
    own[first] = terms_first(weight, 2 * n, end, range(len(model.terms)))
    return own


def _species(weight: Tensor, elements: int, known: Iterable[int], width: int) -> dict[str, Tensor]:
    """Return the edge embedding of columns: radial, receiver's element, sender's element."""
    radial = weight.shape[1] - 2 * width
    own = {"edges.radial.weight": weight[:, :radial]}
    for name, start in (("receiver", radial), ("sender", radial + width)):
        table = weight.new_zeros(elements, len(weight))
        table[list(known)] = weight[:, start : start + width].T
        own[f"edges.{name}.weight"] = table
    return own


def _as_torch(published: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Return kernels as transposed weights, by the names of a sequence with activations."""
    found = {}
    for key, value in published.items():
        *layer, place, kind = key.split(".")
        if place.isdigit():
            tensor = torch.as_tensor(value)
            name = ".".join([*layer, str(2 * int(place))])
            found[f"{name}.weight" if kind == "kernel" else f"{name}.{kind}"] = (
                tensor.T if kind == "kernel" else tensor
            )
    return found


def _filled(model: _Model, own: dict[str, Tensor], name: str) -> _Model:
    """Return a model with these weights, and frequencies of Bessel functions of its own type."""
    for key, value in model.state_dict().items():
        if key.endswith("frequencies"):
            own[key] = torch.arange(1, len(value) + 1, dtype=torch.float64) * torch.pi
        elif key in ("baseline", "charge_baseline", "known"):
            own[key] = value
    try:
        model.load_state_dict(own)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"not the weights of {name}: {reason}") from None
    return model.eval()
