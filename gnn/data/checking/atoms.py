"""Tabulated properties of atoms: radii, energies, force constants of bonds to hydrogen."""

import numpy as np
from numpy.typing import NDArray

#: Covalent radii in Å by atomic number (B. Cordero et al., Dalton Trans. 2008, 2832).
RADII: NDArray[np.float64] = np.array(
    [
        np.nan,
        0.31, 0.28, 1.28, 0.96, 0.84, 0.76, 0.71, 0.66, 0.57, 0.58, 1.66, 1.41, 1.21, 1.11, 1.07,
        1.05, 1.02, 1.06, 2.03, 1.76, 1.70, 1.60, 1.53, 1.39, 1.39, 1.32, 1.26, 1.24, 1.32, 1.22,
        1.22, 1.20, 1.19, 1.20, 1.20, 1.16, 2.20, 1.95, 1.90, 1.75, 1.64, 1.54, 1.47, 1.46, 1.42,
        1.39, 1.45, 1.44, 1.42, 1.39, 1.39, 1.38, 1.39, 1.40, 2.44, 2.15, 2.07, 2.04, 2.03, 2.01,
        1.99, 1.98, 1.98, 1.96, 1.94, 1.92, 1.92, 1.89, 1.90, 1.87, 1.87, 1.75, 1.70, 1.62, 1.51,
        1.44, 1.41, 1.36, 1.36, 1.32, 1.45, 1.46, 1.48, 1.40, 1.50, 1.50, 2.60, 2.21, 2.15, 2.06,
        2.00, 1.96, 1.90, 1.87,
    ]
)  # fmt: skip

#: Times the sum of covalent radii: a longer bond is none.
LONGEST = 1.3

#: Hartree-Fock energies of atoms in Hartree by atomic number (C. F. Bunge, J. A. Barrientos and
#: A. V. Bunge, At. Data Nucl. Data Tables 53, 113 (1993)); hydrogen as in a molecule.
ATOM_ENERGIES: NDArray[np.float64] = np.array(
    [
        np.nan,
        -0.6, -2.8617, -7.4327, -14.5730, -24.5291, -37.6886, -54.4009, -74.8094, -99.4093,
        -128.5471, -161.8589, -199.6146, -241.8767, -288.8544, -340.7188, -397.5049, -459.4821,
        -526.8175, -599.1648, -676.7582, -759.7357, -848.4060, -942.8843, -1043.3564, -1149.8663,
        -1262.4437, -1381.4146, -1506.8709, -1638.9637, -1777.8481, -1923.2610, -2075.3597,
        -2234.2387, -2399.8676, -2572.4413, -2752.0550,
    ]
)  # fmt: skip

#: Curvature in eV/Å² of bonds of hydrogen to an element, from the harmonic frequencies of H2, BH3,
#: CH4, NH3, H2O, HF, SiH4, PH3, H2S, HCl, HBr and HI; it varies by a few tens of per cent.
STRETCH = {
    1: 36.0, 5: 24.0, 6: 32.0, 7: 41.0, 8: 49.0, 9: 60.0, 14: 18.0, 15: 20.0, 16: 27.0, 17: 32.0,
    35: 26.0, 53: 20.0,
}  # fmt: skip
