"""What the published models are known for, and this package leaves as it was published."""

from gnn.potential import Potential

#: By check, why the published program fails it.
INHERITED = {
    "pairs of atoms": "the envelope of the radial functions is 1/r, NaN or a hole at short range",
    "pairs in molecules": "the envelope of the radial functions is 1/r, a hole at short range",
    "charges near atoms": "polarisation by 1/r, not damped",
    "size consistency": "charge is shared by all atoms, and the reaction field ends at 14 Å",
}
_PLACE = "gnn.published."


def is_published(model: Potential) -> bool:
    """Return whether a model, or every member of a committee, is a published one."""
    members = list(getattr(model, "members", ())) or [model]
    return all(type(member).__module__.startswith(_PLACE) for member in members)
