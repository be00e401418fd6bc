"""Cut bonds: which may be cut, and the hydrogen atoms that stand in for what is beyond.

A bond between a QM atom Q1 and an MM atom M1 is cut; the zone gets a link atom, a hydrogen on the
line from Q1 to M1 at a fixed fraction of it, so that it adds no degrees of freedom (H. Senn and
W. Thiel, Angew. Chem. Int. Ed. 48, 1198 (2009), and what is cited there).
Neighbours of M1 other than Q1 are called M2.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SCHEMES = ("shift", "rcd", "delete")
#: Lengths in Å of single bonds of tetrahedral atoms, by sorted element symbols: means over crystal
#: structures (F. Allen et al., J. Chem. Soc. Perkin Trans. 2, S1 (1987)), to hydrogen from gas.
LENGTHS = {
    ("C", "C"): 1.53, ("C", "N"): 1.47, ("C", "O"): 1.43, ("C", "S"): 1.81, ("C", "P"): 1.80,
    ("C", "Si"): 1.86, ("C", "Se"): 1.95, ("N", "N"): 1.45, ("N", "O"): 1.46, ("N", "S"): 1.68,
    ("N", "P"): 1.68, ("O", "P"): 1.61, ("O", "S"): 1.58, ("O", "Si"): 1.63, ("O", "O"): 1.47,
    ("S", "S"): 2.05, ("P", "S"): 2.09, ("Si", "Si"): 2.36,
    ("C", "H"): 1.09, ("H", "N"): 1.01, ("H", "O"): 0.96, ("H", "S"): 1.34, ("H", "P"): 1.42,
    ("H", "Si"): 1.48, ("H", "Se"): 1.46,
}  # fmt: skip
_KNOWN = ("C", "N", "O", "Si", "P", "S", "Se")  # elements of the ends of bonds that may be cut
_TETRAHEDRAL = ("C", "N", "Si", "P")  # with four neighbours
#: From Q1, M2 is 2.6 Å away; charges this near must not fade.
REACH = 3.0


@dataclass(frozen=True)
class Link:
    """A bond that is cut.

    Attributes
    ----------
    inner, outer
        Numbers of the QM atom Q1 and of the MM atom M1.
    ratio
        Where on the bond the link atom is: (1 - ratio) x(Q1) + ratio x(M1).
    others
        Numbers of the MM atoms M2 that are bonded to M1.
    """

    inner: int
    outer: int
    ratio: float
    others: tuple[int, ...]


def neighbours_of(topology: Any) -> dict[int, set[int]]:
    """Return the atoms that are bonded to each atom with bonds, by number."""
    found: dict[int, set[int]] = {}
    for first, second in topology.bonds():
        found.setdefault(first.index, set()).add(second.index)
        found.setdefault(second.index, set()).add(first.index)
    return found


def links_of(
    topology: Any,
    qm: set[int],
    scheme: str | None = None,
    ratio: float | Mapping[tuple[str, str], float] | None = None,
) -> list[Link]:
    """Return the link atoms of a zone, none for whole molecules.

    Parameters
    ----------
    topology : openmm.app.Topology
        Of all atoms.
    qm
        Numbers of the QM atoms.
    scheme : {"shift", "rcd", "delete", "refuse"} or None
        "refuse": no bond may be cut. None: they may, and a warning names them.
    ratio
        See `gnn.engines.openmm.create_system`.

    Raises
    ------
    ValueError
        If a bond must not be cut: the message says why.
    TypeError
        If the ratio is of another kind.
    """
    if scheme not in (None, "refuse", *SCHEMES):
        raise ValueError(
            f"expected link_scheme to be one of {', '.join(SCHEMES)}, refuse, got {scheme!r}"
        )
    cut = {}
    for bond in topology.bonds():
        inner, outer = bond if bond[0].index in qm else bond[::-1]
        if inner.index in qm and outer.index not in qm:
            cut[inner.index, outer.index] = (inner, outer, bond)
    neighbours = neighbours_of(topology) if cut else {}
    atoms = list(topology.atoms()) if cut else []
    for inner, outer, bond in cut.values():
        if scheme == "refuse":
            raise ValueError(
                f"{_named(inner, outer)} would be cut: with link_scheme='refuse', qm_atoms must be "
                "whole molecules"
            )
        _check_bond(inner, outer, bond, atoms, neighbours)
    _check_places(cut, atoms, neighbours)
    found = [
        Link(i, j, _ratio(inner, outer, ratio), tuple(sorted(neighbours[j] - {i})))
        for (i, j), (inner, outer, _) in sorted(cut.items())
    ]
    if found and scheme is None:
        _announce(found, atoms)
    return found


def _announce(links: list[Link], atoms: list[Any]) -> None:
    """Warn of cut bonds that nobody asked for by name."""
    cuts = [
        f"{_named(atoms[link.inner], atoms[link.outer])}, hydrogen at {link.ratio:.3f} of it"
        for link in links[:8]
    ] + ([f"and {len(links) - 8} more"] if len(links) > 8 else [])
    warnings.warn(
        f"the zone is part of a molecule, so that {len(links)} "
        f"bond{'s get link atoms' if len(links) > 1 else ' gets a link atom'}: {'; '.join(cuts)}; "
        "charges there are shifted (pass link_scheme='shift' if so it shall be, 'refuse' if not)",
        stacklevel=5,
    )


def _named(inner: Any, outer: Any) -> str:
    def name(atom: Any) -> str:
        return f"{atom.index} ({atom.name} of {atom.residue.name} {atom.residue.id})"

    return f"the bond between QM atom {name(inner)} and atom {name(outer)}"


def _symbol(atom: Any) -> str:
    return "" if atom.element is None else str(atom.element.symbol)


# --- what may be cut ------------------------------------------------------------------------------


def _check_bond(
    inner: Any, outer: Any, bond: Any, atoms: list[Any], neighbours: dict[int, set[int]]
) -> None:
    """Refuse what is no single bond between two heavy atoms; warn of polar ones."""
    named, symbols = _named(inner, outer), (_symbol(inner), _symbol(outer))
    advice = "move the border of the zone to a single bond between carbon atoms"
    if "H" in symbols:
        raise ValueError(f"{named} must not be cut: it is one to hydrogen; {advice}")
    if not set(symbols) <= set(_KNOWN):
        what = symbols[0] if symbols[0] not in _KNOWN else symbols[1]
        raise ValueError(
            f"{named} must not be cut: there is no link atom for a bond of {what or 'no element'} "
            f"(known: {', '.join(_KNOWN)}); {advice}"
        )
    kind = _kind(bond)
    if kind not in ("", "single"):
        raise ValueError(f"{named} must not be cut: it is {kind}; {advice}")
    if _is_amide(inner, outer, atoms, neighbours):
        raise ValueError(
            f"{named} must not be cut: it is one of an amide (a peptide), in part double; "
            f"{advice}, CA–C or CA–CB of a protein"
        )
    single = _is_single(inner, outer, neighbours)
    if not (single or kind):
        raise ValueError(
            f"{named} must not be cut: neither end has four neighbours, so that it may be double, "
            f"aromatic or conjugated; {advice} (where the topology says that it is single, it is "
            "cut)"
        )
    if symbols != ("C", "C") or not single:
        warnings.warn(
            f"{named} is {'conjugated' if symbols == ('C', 'C') else 'polar'}: a link atom "
            "replaces it less well than one between tetrahedral carbon atoms",
            stacklevel=5,
        )


def _kind(bond: Any) -> str:
    """Return what a topology says of a bond: single or not; nothing where it says nothing."""
    kind = getattr(bond, "type", None)
    if kind is not None:
        name = str(kind).lower()
        return {"amide": "an amide's", "single": "single"}.get(name, name)
    order = getattr(bond, "order", None)
    if order is None:
        return ""
    return "single" if order == 1 else f"of order {order:g}"


def _is_single(inner: Any, outer: Any, neighbours: dict[int, set[int]]) -> bool:
    """Return whether the numbers of neighbours say that a bond is single.

    One end is tetrahedral, and the other is no terminal atom, as oxygen is in a phosphate; or both
    are O, S or Se with two neighbours, as in a disulfide.
    """
    counts = [len(neighbours[atom.index]) for atom in (inner, outer)]
    symbols = [_symbol(atom) for atom in (inner, outer)]
    ends = list(zip(symbols, counts, strict=True))
    if min(counts) < 2:  # where the MM atom is the only neighbour, the zone's atom is terminal
        return False
    return any(symbol in _TETRAHEDRAL and count == 4 for symbol, count in ends) or all(
        symbol in ("O", "S", "Se") and count == 2 for symbol, count in ends
    )


def _is_amide(inner: Any, outer: Any, atoms: list[Any], neighbours: dict[int, set[int]]) -> bool:
    """Return whether a bond joins N to a C with three neighbours, of which one is terminal O or S.

    So it is with urea, sulfur in place of oxygen, and carboxylic acid derivatives of N.
    """
    for carbon, nitrogen in ((inner, outer), (outer, inner)):
        if (_symbol(carbon), _symbol(nitrogen)) != ("C", "N"):
            continue
        around = neighbours[carbon.index]
        if len(around) == 3 and any(
            _symbol(atoms[k]) in ("O", "S") and len(neighbours[k]) == 1 for k in around
        ):
            return True
    return False


def _check_places(
    cut: Mapping[tuple[int, int], Any], atoms: list[Any], neighbours: dict[int, set[int]]
) -> None:
    """Refuse cuts that share an MM atom or lie side by side; warn of two at one QM atom."""
    outers: dict[int, int] = {}
    inners: set[int] = set()
    for inner, outer in cut:
        if outer in outers:
            raise ValueError(
                f"atom {outer} ({atoms[outer].name}) is bonded to two QM atoms, {outers[outer]} "
                f"and {inner}: its two link atoms would meet; take it into the zone"
            )
        outers[outer] = inner
        if inner in inners:
            warnings.warn(
                f"QM atom {inner} ({atoms[inner].name}) has several cut bonds, so that its link "
                "atoms are near one another",
                stacklevel=5,
            )
        inners.add(inner)
    for outer in outers:
        both = neighbours[outer] & outers.keys()
        if both:
            raise ValueError(
                f"atoms {outer} ({atoms[outer].name}) and {min(both)} ({atoms[min(both)].name}) "
                "are bonded, and both would lose their charge to cut bonds: there must be an atom "
                "between two such; take these into the zone, or fewer of their neighbours"
            )
        if len(neighbours[outer]) == 1:
            raise ValueError(
                f"atom {outer} ({atoms[outer].name}) has no neighbours besides QM atom "
                f"{outers[outer]}, to which its charge could move: take it into the zone"
            )


# --- where link atoms are -------------------------------------------------------------------------


def _ratio(inner: Any, outer: Any, given: Any) -> float:
    """Return the length of the bond from Q1 to hydrogen over that to M1."""
    pair = (_symbol(inner), _symbol(outer))
    if isinstance(given, Mapping):
        given = given.get(pair)
    if given is not None:
        if isinstance(given, bool | str) or not hasattr(given, "__float__"):
            raise TypeError(f"expected link_ratio to be a number or a dict, got {given!r}")
        if not 0.4 < float(given) < 1:
            raise ValueError(
                f"expected link_ratio (the length of the bond to hydrogen over that of the cut "
                f"bond) between 0.4 and 1, got {given}"
            )
        return float(given)
    length = LENGTHS.get(_sorted(pair))
    to_hydrogen = LENGTHS.get(_sorted((pair[0], "H")))
    if length is None or to_hydrogen is None:
        raise ValueError(
            f"{_named(inner, outer)} has no usual length here: pass "
            f"link_ratio={{{pair}: r({pair[0]}–H) / r({pair[0]}–{pair[1]})}}"
        )
    return to_hydrogen / length


def _sorted(pair: Iterable[str]) -> tuple[str, str]:
    first, second = sorted(pair)
    return first, second


def check_reach(links: list[Link], start: float) -> None:
    """Refuse charges that begin to fade (at `start`, Å) so near that those of the frontier do."""
    if links and start < REACH:
        raise ValueError(
            f"expected cutoff - switch_width >= {REACH:g} Å where bonds are cut (the charges at "
            f"the frontier must not fade), got {start:g}"
        )
