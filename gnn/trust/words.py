"""What is said of systems that lie outside of what a model was trained on."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from gnn.data.elements import symbol
from gnn.data.images import farthest, surrounded
from gnn.data.systems import TOO_CLOSE, Frame, System
from gnn.trust.domain import Composition, Domain, bonded_as, composition_of

#: What may be done about a system outside of training: warn (once), say nothing, raise an error.
POLICIES = ("warn", "ignore", "raise")
#: Novelty up to which a system is within, slightly outside, and outside; beyond, far outside.
GRADES = (1.0, 3.0, 10.0)
_WORDS = ("within", "slightly outside", "outside", "far outside")
_SHOWN = 8  # compositions of which a line names each


def checked_policy(unknown: Any) -> str:
    """Return a policy, after a check that it is one."""
    if unknown not in POLICIES:
        raise ValueError(f"unknown: expected one of {', '.join(POLICIES)}, got {unknown!r}")
    return str(unknown)


def grade(novelty: float) -> int:
    """Return how far outside of training a novelty is: 0 within … 3 far outside."""
    return int(np.searchsorted(GRADES, novelty))


def sentence(item: System | Frame, domain: Domain, result: Mapping[str, Any]) -> str:
    """Return in words how a system lies outside of training; nothing of one that is within.

    Parameters
    ----------
    item
        The system, or a frame, whose name is used.
    domain
        Of the model.
    result
        Of `Potential.evaluate`: ``novelty`` and ``system_novelty`` are used.
    """
    if grade(result["system_novelty"]) == 0:
        return ""
    system = item.system if isinstance(item, Frame) else item
    composition = composition_of(system)
    parts = []
    if composition.charge not in domain.charges:
        parts.append(f"total charge {composition.charge:+d} e not in training")
    elif composition not in domain.compositions:
        parts.append("composition not in training")
    novelty = result["novelty"]
    atom = int(np.argmax(novelty))
    level = grade(novelty[atom])
    if level:
        near = _nearness(system, domain, atom)
        parts.append(f"atom {atom} {_WORDS[level]} training by {_times(novelty[atom])}{near}")
    if level == len(GRADES):
        parts[-1] += ": numbers are meaningless"
    return f"{_title(item, composition)}: {'; '.join(parts)}"


def tell(
    items: Sequence[System | Frame],
    domain: Domain,
    results: Sequence[Mapping[str, Any]],
    unknown: str,
    told: dict[Composition, int],
) -> None:
    """Warn of systems outside of training, or raise an error.

    Of each composition the worst is named, and that only once unless it becomes worse by a grade.

    Parameters
    ----------
    items, domain, results
        As in `sentence`, of several systems.
    unknown
        One of `POLICIES`.
    told
        Grade of what was said of each composition; changed in place.

    Raises
    ------
    ValueError
        If a system is outside and `unknown` is "raise".
    """
    if unknown == "ignore":
        return
    flagged: dict[Composition, list[int]] = {}
    for i, (item, result) in enumerate(zip(items, results, strict=True)):
        if grade(result["system_novelty"]):
            system = item.system if isinstance(item, Frame) else item
            flagged.setdefault(composition_of(system), []).append(i)
    for composition, indices in flagged.items():
        worst = max(indices, key=lambda i: results[i]["system_novelty"])
        said = sentence(items[worst], domain, results[worst])
        if len(items) > 1:
            others = f", the worst of {len(indices)}" if len(indices) > 1 else ""
            said += f" (structure {worst}{others})"
        if unknown == "raise":
            raise ValueError(said)
        level = grade(results[worst]["system_novelty"])
        if level > told.get(composition, 0):
            told[composition] = level
            warnings.warn(said, stacklevel=4)


def description(domain: Domain) -> list[str]:
    """Return lines that say what a model was trained on."""
    shown = sorted(domain.compositions.items(), key=lambda pair: -pair[1])
    names = [f"{one.formula} ({_signed(one.charge)}) {count}" for one, count in shown[:_SHOWN]]
    if len(shown) > _SHOWN:
        names.append(f"and {len(shown) - _SHOWN} more")
    lines = [
        f"trained on {domain.n_frames} frames at level {domain.level}",
        f"compositions: {', '.join(names)}",
    ]
    pairs = domain.extent.pairs
    known = domain.elements
    near = [
        f"{symbol(a)}–{symbol(b)} {pairs[a, b]:.2f}"
        for i, a in enumerate(known)
        for b in known[i:]
        if np.isfinite(pairs[a, b])
    ]
    lines.append(f"shortest distances / Å: {', '.join(near) or 'none'}")
    charges, field = domain.extent.charges, domain.extent.field
    around = [
        f"{symbol(z)} {charges[z]:.2f} Å, {field[z]:.1f} V/Å" for z in known if charges[z] < np.inf
    ]
    lines.append(f"nearest charges and largest fields: {'; '.join(around) or 'none'}")
    return lines


def _title(item: System | Frame, composition: Composition) -> str:
    name = item.name if isinstance(item, Frame) else ""
    formula, charge = composition.formula, _signed(composition.charge)
    return f"{name} ({formula}, {charge})" if name else f"{formula} ({charge})"


def _signed(charge: int) -> str:
    return f"{charge:+d}" if charge else "0"


def _times(novelty: float) -> str:
    return f"{novelty:.1f}x" if novelty < 10 else f"{min(novelty, 1e6):.0f}x"


def _nearness(system: System, domain: Domain, atom: int) -> str:
    """Return what the atom is too near to, where that alone takes it outside."""
    z, lattice = system.numbers, system.lattice
    here = system.positions[atom : atom + 1]
    places, images, origin = surrounded(here, system.positions, lattice, farthest(lattice))
    distances = np.linalg.norm(images - places, axis=1)
    distances[distances < TOO_CLOSE] = np.inf  # itself
    ratios = domain.shortest(z[atom], z[origin]) / distances
    nearest = int(np.argmax(ratios))
    if ratios[nearest] > 1:
        other = int(origin[nearest])
        trained = domain.extent.pairs[z[atom], z[other]]
        beside = f"trained from {trained:.2f} Å" if np.isfinite(trained) else "never trained on"
        return f" ({distances[nearest]:.2f} Å from atom {other}, {beside})"
    charged = system.mm_positions[system.mm_charges != 0]
    shortest = domain.extent.charges[z[atom]]
    if len(charged) and np.isfinite(shortest):
        places, images, _ = surrounded(here, charged, lattice, farthest(lattice))
        gap = float(cdist(places, images).min())
        if gap < shortest:
            return f" (a charge at {gap:.2f} Å, trained from {shortest:.2f} Å)"
    if domain.bonded is None or (bonded := bonded_as(system)[atom]) in domain.bonded:
        return ""
    shell = bonded[0]
    others = ", ".join(symbol(z) for z in shell[1:]) or "nothing"
    if shell in {known for known, _ in domain.bonded}:
        others += ", and these"
    return f" ({symbol(shell[0])} bonded to {others}, as none in training)"
