"""A topology of OpenMM as JSON: PDB files lose bonds, and number no more than 99,999 atoms."""

from typing import Any

_VERSION = 1


def to_json(topology: Any) -> dict[str, Any]:
    """Return chains, residues, atoms and bonds of an `openmm.app.Topology` as lists.

    Box vectors are not among them: they change in a run.
    """
    return {
        "version": _VERSION,
        "chains": [chain.id for chain in topology.chains()],
        "residues": [
            [residue.name, residue.id, residue.insertionCode, residue.chain.index]
            for residue in topology.residues()
        ],
        "atoms": [
            [
                atom.name,
                None if atom.element is None else atom.element.symbol,
                atom.id,
                atom.residue.index,
            ]
            for atom in topology.atoms()
        ],
        "bonds": [
            [bond[0].index, bond[1].index, None if bond.type is None else str(bond.type),
             bond.order]
            for bond in topology.bonds()
        ],
    }  # fmt: skip


def from_json(content: dict[str, Any]) -> Any:
    """Return the `openmm.app.Topology` of what `to_json` returned.

    Raises
    ------
    ValueError
        If it is of a newer version, or no topology.
    """
    from openmm import app

    if content.get("version") != _VERSION:
        raise ValueError(
            f"expected a topology of version {_VERSION}, got {content.get('version')!r}"
        )
    kinds = {kind: getattr(app, kind) for kind in ("Single", "Double", "Triple", "Aromatic")}
    kinds["Amide"] = app.Amide
    topology = app.Topology()
    try:
        chains = [topology.addChain(name) for name in content["chains"]]
        residues = [
            topology.addResidue(name, chains[chain], number, code)
            for name, number, code, chain in content["residues"]
        ]
        atoms = []
        for name, symbol, number, residue in content["atoms"]:
            element = None if symbol is None else app.Element.getBySymbol(symbol)
            atoms.append(topology.addAtom(name, element, residues[residue], number))
        for first, second, kind, order in content["bonds"]:
            topology.addBond(atoms[first], atoms[second], kinds.get(kind), order)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"not a topology: {type(error).__name__}: {error}") from None
    return topology
