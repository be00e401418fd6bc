"""Methanol in water, the box that ships, as OpenMM reads it from Amber's files."""

from gnn.engines.boxes.shipped import shipped_box


def in_water(folder):
    """Return topology and coordinates, the topology with the box."""
    from openmm import app

    shipped_box(folder)
    prmtop = app.AmberPrmtopFile(str(folder / "solute.prmtop"))
    start = app.AmberInpcrdFile(str(folder / "solute.rst7"))
    prmtop.topology.setPeriodicBoxVectors(start.boxVectors)
    return prmtop, start
