"""Make QM/MM reference data: dynamics, labels, multipoles of the atoms."""
