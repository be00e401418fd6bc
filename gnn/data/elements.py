"""Symbols of the elements."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

_SYMBOLS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se "
    "Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb "
    "Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu"
)
#: From hydrogen to plutonium, the heaviest element accepted.
SYMBOLS = _SYMBOLS.split()


def atomic_number(element: Any) -> int:
    """Return the atomic number of an element named by symbol or number, also as text.

    Raises
    ------
    ValueError
        If it names no element up to plutonium.
    """
    text = str(element).strip()
    if text.capitalize() in SYMBOLS:
        return SYMBOLS.index(text.capitalize()) + 1
    if not isinstance(element, bool) and text.isdecimal() and 1 <= int(text) <= len(SYMBOLS):
        return int(text)
    raise ValueError(
        f"expected the symbol or atomic number of an element up to Pu (94), got {element!r}"
    )


def symbol(number: int) -> str:
    """Return the symbol of an atomic number."""
    return SYMBOLS[number - 1]


def formula(numbers: Iterable[int]) -> str:
    """Return a composition, such as CH4O, with carbon and hydrogen first."""
    counts = Counter(symbol(z) for z in numbers)
    order = sorted(counts, key=lambda s: ({"C": 0, "H": 1}.get(s, 2), s))
    return "".join(s + (str(counts[s]) if counts[s] > 1 else "") for s in order)
