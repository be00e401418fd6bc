"""The publications' constants: kJ/mol, Å and e, with the digits their weights were trained with."""

#: Coulomb's constant in kJ/mol Å / e².
COULOMB = 1389.35457644382
#: Hartree in kJ/mol.
HARTREE = 627.509474 * 4.184
#: Bohr radius in Å.
BOHR = 0.5291772105638411
