"""What the published models are known for, and this package leaves as it was published."""

from dataclasses import replace

from gnn.doctor.findings import NOTE, OK, Finding
from gnn.potential import Potential

#: By check, why the published program fails it.
INHERITED = {
    "pairs of atoms": "envelope 1/x of the radial functions: huge or NaN at short range",
    "pairs in molecules": "envelope 1/x of the radial functions: huge or NaN at short range",
    "crowded molecules": "envelope 1/x of the radial functions: huge or NaN at short range",
    "charges near atoms": "polarisation by 1/r without damping",
    "size consistency": "charge shared by all atoms, no Coulomb energy beyond 14 Å",
    "smooth at cutoffs": "reaction field and dispersion end at their cutoffs",
}
_PLACE = "gnn.published."


def is_published(model: Potential) -> bool:
    """Return whether a model, or every member of a committee, is a published one."""
    members = list(getattr(model, "members", ())) or [model]
    return all(type(member).__module__.startswith(_PLACE) for member in members)


def as_inherited(finding: Finding) -> Finding:
    """Return what a published program is known for as something to be known, not as a failure."""
    reason = INHERITED.get(finding.check)
    if finding.verdict == OK or reason is None:
        return finding
    return replace(finding, verdict=NOTE, remark=f"inherited: {reason} ({finding.remark})")
