"""What a model says of itself: what it was trained on, and how it is made."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gnn.data.elements import symbol
from gnn.data.extent import Extent
from gnn.potential import Potential

_MOST = 12  # entries of a list that are shown


def knowledge(model: Potential) -> dict[str, str]:
    """Return what a model knows, by subject, in words."""
    facts = {"elements": _listed([symbol(z) for z in model.elements]) or "not noted"}
    domain = model.domain
    if domain is None:
        facts["trained on"] = "not noted: it cannot tell what is new to it"
    else:
        named = [_composition(*c) for c in sorted(domain.compositions)]
        facts["trained on"] = f"{domain.n_frames} frames of {_listed(named)}"
        facts["total charges"] = _listed([f"{q:+d} e" if q else "0" for q in domain.charges])
        facts["level of theory"] = domain.level
    extent = extent_of_model(model)
    return facts | ({} if extent is None else _reach(extent, model.elements))


def extent_of_model(model: Potential) -> Extent | None:
    """Return how far the data of a model reached, if it knows."""
    extent: Extent | None = getattr(model, "extent", None)
    return extent if model.domain is None else model.domain.extent


def _reach(extent: Extent, elements: list[int]) -> dict[str, str]:
    pairs = [(a, b) for i, a in enumerate(elements) for b in elements[i:]]
    near = [
        f"{symbol(a)}–{symbol(b)} {extent.pairs[a, b]:.2f}"
        for a, b in sorted(pairs, key=lambda p: extent.pairs[p])
        if np.isfinite(extent.pairs[a, b])
    ]
    charges = [
        f"{symbol(z)} {extent.charges[z]:.2f}" for z in elements if np.isfinite(extent.charges[z])
    ]
    fields = [f"{symbol(z)} {extent.field[z]:.1f}" for z in elements if extent.field[z] > 0]
    return {
        "nearest atoms": _listed(near) + " Å" if near else "never two",
        "nearest charges": _listed(charges) + " Å" if charges else "never any",
        "largest fields": _listed(fields) + " V/Å" if fields else "never any",
    }


def anatomy(model: Potential) -> dict[str, str]:
    """Return how a model is made, by part, in words."""
    kind, config = type(model).__name__, model.config()
    size = sum(p.numel() for p in model.parameters())
    parts = {"model": f"{kind}, {size:,} parameters, {str(model.dtype).removeprefix('torch.')}"}
    if kind == "Committee":
        members = config["members"]
        parts["model"] = f"committee of {len(members)} {members[0]['kind']}, {size:,} parameters"
        kind, config = members[0]["kind"], members[0]["config"]
    if kind != "AMP":
        return parts | {"origin": f"published program ({kind}): its faults are named as inherited"}
    parts["network"] = (
        f"order {config['order']}, {config['steps']} steps, cutoff {config['cutoff']:g} Å"
    )
    parts["charges"] = {
        "local": "local: every molecule keeps the charge it was given",
        "shared": "shared by all atoms, however far apart",
    }[config.get("charges", "shared")]
    parts["walls"] = _walls(model, config)
    parts["electrostatics"] = "none" if config["electrostatics"] is None else "multipoles of atoms"
    return parts


def _walls(model: Potential, config: Mapping[str, Any]) -> str:
    if config.get("walls") is None:
        return "none: nothing holds atoms apart where data end"
    if getattr(model, "extent", None) is None:
        return "not set: it has not been told where its data end"
    return "where data end"


def _composition(formula: str, charge: int) -> str:
    return formula + (f" ({charge:+d})" if charge else "")


def _listed(words: list[str]) -> str:
    more = f" and {len(words) - _MOST} more" if len(words) > _MOST else ""
    return ", ".join(words[:_MOST]) + more
