"""Models in the programs of others: ASE and OpenMM."""
