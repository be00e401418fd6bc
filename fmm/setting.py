"""What is enough for some moments, and whether it will do for others, or on another tree."""

from dataclasses import dataclass, replace

import numpy as np

from fmm import choice
from fmm.error.evidence import Evidence
from fmm.steps import Strengths
from fmm.tree.geometry import Geometry

# by how much the share of the far field in the whole may differ and count as alike, in octaves
_ALIKE = 2.0


@dataclass(frozen=True)
class Setting:
    """What is enough for some moments."""

    geometry: Geometry
    degrees: tuple[int, ...] = ()
    """Of the levels; empty as long as they are not chosen."""
    single: bool = False
    """Whether expansions are float32."""
    narrow: bool = False
    """Whether near pairs are summed in float32."""
    signs: np.ndarray | None = None
    """By what the degrees were chosen, see `signs_of`."""
    raised: int = 0
    """By how much degrees are above what was expected."""
    lost: np.ndarray | None = None
    """Terms of the sum over the field: what cancels."""
    evidence: Evidence | None = None
    """What was seen of the error."""
    unmeasured: int = 0
    """How many more evaluations for moments like these need not be measured."""


def signs_of(strengths: Strengths, norms: np.ndarray) -> np.ndarray:
    """Return what tells moments whose far field asks for the same degrees.

    Parameters
    ----------
    strengths : Strengths
        Of the moments.
    norms : ndarray, shape (order + 1,)
        Root mean square of their field at each order.
    """
    shares = np.sqrt(strengths.mean)[:, None] / np.maximum(norms, np.finfo(float).tiny)
    return np.append(shares.ravel(), strengths.spread)


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether what is enough for moments of some signs should be for those of others."""
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.abs(np.log2(one / other))
    return bool(np.all((apart <= _ALIKE) | (one == other)))


def carried(
    settings: dict[tuple[int, int], Setting],
    before: Geometry,
    after: Geometry,
    alike: bool = False,
) -> dict[tuple[int, int], Setting]:
    """Return what was enough on one tree for another of the same kind.

    `alike` tells that points lie much as before; else the next evaluation is measured.
    """
    out = {}
    for orders, setting in settings.items():
        if not any(setting.degrees) or not after.has_far_field:
            continue
        geometry = after
        if setting.geometry is not before:
            geometry = after.with_leaves(setting.geometry.leaf_size, setting.geometry.least)
        if geometry.has_far_field:
            degrees = choice.for_levels(setting.degrees, len(geometry.edges))
            lost = None if setting.evidence is None else setting.lost
            unmeasured = setting.unmeasured if alike else 0
            out[orders] = replace(
                setting, geometry=geometry, degrees=degrees, lost=lost, unmeasured=unmeasured
            )
    return out
