"""Physical constants and units: the one place where gnn takes numbers from CODATA.

Everything in :mod:`gnn` is in eV, Å and e: energies in eV, forces in eV/Å, dipoles in e Å,
quadrupoles in e Å². Multiply a value by a constant of this module to bring it there
(``energy_ev = energy_hartree * HARTREE``), divide to go back.

Source: CODATA, as given by :mod:`scipy.constants`.
"""

from math import pi

from scipy import constants

#: Å in m.
_ANGSTROM = constants.angstrom

#: Coulomb's constant e²/(4 π ε0) in eV Å: energy of two unit charges 1 Å apart.
COULOMB: float = constants.elementary_charge / (4 * pi * constants.epsilon_0 * _ANGSTROM)

#: Hartree in eV.
HARTREE: float = constants.value("Hartree energy in eV")

#: Bohr radius in Å.
BOHR: float = constants.value("Bohr radius") / _ANGSTROM

#: kJ/mol in eV.
KJ_PER_MOL: float = constants.kilo / (constants.Avogadro * constants.elementary_charge)

#: kcal/mol (thermochemical calorie) in eV.
KCAL_PER_MOL: float = KJ_PER_MOL * constants.calorie

#: Gas constant in kJ/mol/K.
GAS_CONSTANT: float = constants.gas_constant / constants.kilo

#: Boltzmann's constant in J/K.
BOLTZMANN: float = constants.Boltzmann

#: g/ml in Da/nm³.
GRAM_PER_ML: float = constants.Avogadro / 1e21  # nm³ in a ml

#: nm in Å.
NANOMETER: float = constants.nano / _ANGSTROM

#: Debye (1e-18 statC cm) in e Å.
DEBYE: float = 1e-21 / constants.speed_of_light / constants.elementary_charge / _ANGSTROM
