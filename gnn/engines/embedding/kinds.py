"""Kinds of electrostatics between a zone and its surroundings, and which models can do which."""

from gnn.engines.embedding.zone import Surroundings
from gnn.potential import Potential
from gnn.published.amp_bms import AmpBms

#: Modes of the published model, by kind.
REACTION_FIELDS = {
    "reaction-field": "simulation",
    "reaction-field-published": "simulation-published",
}
ELECTROSTATICS = ("periodic", "cutoff", *REACTION_FIELDS)


def checked_electrostatics(kind: str | None, periodic: bool) -> str:
    """Return a kind of electrostatics, after a check; by default the one for a box, or for none.

    Raises
    ------
    ValueError
        If there is no such kind, or it needs a box.
    """
    if kind is None:
        return "periodic" if periodic else "cutoff"
    if kind not in ELECTROSTATICS:
        raise ValueError(f"electrostatics: expected one of {ELECTROSTATICS}, got {kind!r}")
    if kind == "periodic" and not periodic:
        raise ValueError(
            "electrostatics: 'periodic' needs a periodic box (box vectors, and PME in the force "
            "field), got none"
        )
    return kind


def prepared(model: Potential, kind: str, cutoff: float) -> Potential:
    """Return a model that computes a kind of electrostatics: the model itself, or a copy.

    Parameters
    ----------
    model : Potential
        What is to be used.
    kind
        One of `ELECTROSTATICS`.
    cutoff
        Of a reaction field, in Å.

    Raises
    ------
    ValueError
        If the model cannot do this.
    """
    if isinstance(model, AmpBms):
        mode = REACTION_FIELDS.get(kind, "training")
        if kind not in REACTION_FIELDS and model.mode == mode:
            return model
        changed = {"mode": mode, "cutoff_mm": cutoff} if kind in REACTION_FIELDS else {"mode": mode}
        other = AmpBms.from_config(model.config() | changed | {"box": None})
        other.load_state_dict(model.state_dict())
        other.domain, other.unknown = model.domain, model.unknown
        return other.to(model.dtype).eval().requires_grad_(False)
    if kind in REACTION_FIELDS:
        raise ValueError(
            f"electrostatics: {kind!r} is how simulations with AMP-BMS were published, got a model "
            f"of kind {type(model).__name__}: use 'periodic' or 'cutoff'"
        )
    return model


def in_reaction_field(
    model: Potential, around: Surroundings, cutoff: float, switch_width: float
) -> tuple[Surroundings, float]:
    """Return single charges, and a cutoff by which none fades that the model sees.

    Parameters
    ----------
    model : Potential
        From `prepared`.
    around : Surroundings
        The charges in groups.
    cutoff, switch_width
        Of the reaction field, and of the shell beyond in which charges fade, in Å.
    """
    polarising = float(model.config()["cutoff_polarisation"])
    return around.single(), max(cutoff, polarising) + switch_width
