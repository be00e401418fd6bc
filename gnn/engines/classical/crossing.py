"""Bonded terms across cut bonds: which the force field keeps, and which the model replaces.

A term stays as long as the model does not describe what it describes: bonds with an MM atom;
angles with two MM atoms at least; torsions, proper and improper, with two MM atoms at least. So
the cut bond itself stays (it holds the two together), as do Q1-M1-M2 and Q2-Q1-M1-M2, while
Q2-Q1-M1 and Q3-Q2-Q1-M1 go: there the link atom stands for M1 (M. Field, P. Bash, M. Karplus,
J. Comput. Chem. 11, 700 (1990)). By analogy, a Urey-Bradley term goes where its angle does, and a
map of two torsions where one of them does.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations

Bonds = set[frozenset[int]]

_REACH = 3  # bonds between the ends of what a force field calls bonded (1-4 pairs)


class Crossing:
    """Tells the terms of a zone from those of a force field.

    Parameters
    ----------
    bonds
        Pairs of particles, of the whole topology.
    qm
        Numbers of the QM atoms.
    """

    def __init__(self, bonds: Iterable[Sequence[int]], qm: set[int]):
        self.qm = qm
        self._neighbours: dict[int, set[int]] = {}
        self.bonds: Bonds = set()  # with a QM atom
        for first, second in bonds:
            self._neighbours.setdefault(first, set()).add(second)
            self._neighbours.setdefault(second, set()).add(first)
            if first in qm or second in qm:
                self.bonds.add(frozenset((first, second)))

    def is_models(self, what: str, atoms: Sequence[int]) -> bool:
        """Return whether the model replaces a term.

        Raises
        ------
        ValueError
            If some of its atoms are QM and others not, without a cut bond between them.
        """
        inside = sum(atom in self.qm for atom in atoms)
        if inside in (0, len(atoms)):
            return inside > 0
        if not self._is_bonded(atoms):
            raise ValueError(
                f"{what} acts on QM atoms and others (atoms {', '.join(map(str, atoms))}) that no "
                "bonds of the topology join, and cannot be split: qm_atoms must be whole molecules "
                "or have their bonds in the topology, and a bias or restraint is added to the "
                "system that comes back"
            )
        if len(atoms) == 2:
            middle = self._between(*atoms)
            return not self._are_bonded(*atoms) and bool(middle) and middle <= self.qm
        if len(atoms) == 8:
            return any(sum(a in self.qm for a in four) >= 3 for four in (atoms[:4], atoms[4:]))
        return inside >= len(atoms) - 1

    def pairs(self) -> Bonds:
        """Return the pairs of a QM atom and another that are three bonds apart or less."""
        inner = {min(pair & self.qm) for pair in self.bonds if not pair <= self.qm}
        near = set().union(*(self._within(atom, _REACH - 1) for atom in inner)) & self.qm
        return {
            frozenset((atom, other))
            for atom in near
            for other in self._within(atom, _REACH) - self.qm
        }

    def cut(self) -> set[int]:
        """Return the MM atoms of cut bonds."""
        return {atom for pair in self.bonds for atom in pair - self.qm}

    def _are_bonded(self, first: int, second: int) -> bool:
        return second in self._neighbours.get(first, ())

    def _between(self, first: int, second: int) -> set[int]:
        return self._neighbours.get(first, set()) & self._neighbours.get(second, set())

    def _within(self, atom: int, steps: int) -> set[int]:
        reached = {atom}
        for _ in range(steps):
            reached |= {k for i in reached for k in self._neighbours.get(i, ())}
        return reached

    def _is_bonded(self, atoms: Sequence[int]) -> bool:
        """Return whether a term's atoms hang together, a pair within the reach of bonded terms."""
        if len(atoms) == 2:
            return atoms[1] in self._within(atoms[0], _REACH)
        different = set(atoms)
        joined = [
            {first, second}
            for first, second in combinations(sorted(different), 2)
            if self._are_bonded(first, second)
        ]
        reached = {atoms[0]}
        for _ in different:
            reached.update(*(pair for pair in joined if pair & reached))
        return reached == different
