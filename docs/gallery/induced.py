"""Induced dipoles of polarisable atoms by conjugate gradients over a fast multipole method."""

from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg
from scipy.spatial import cKDTree

import fmm
import multipoles as mp

RANGE = 5.0  # Å: beyond, Thole's damping of water is below 1e-16


class Solution(NamedTuple):
    """Induced dipoles (n, 3) in e Å, the field E (n, 3) that induced them, and its history."""

    dipoles: np.ndarray
    field: np.ndarray
    residuals: list


class DampedField:
    """The field of moments with Thole's damping: 1/r everywhere, corrected over near pairs.

    A damped kernel is Coulomb beyond a few Å. So the fast multipole method sums 1/r over all
    pairs, and the difference is added for near ones, one kind of pair at a time: Thole's kernel
    depends on a / sqrt(alpha_i alpha_j).
    """

    def __init__(self, x, polarisabilities, thole, tolerance):
        self.x = x
        self.plan = fmm.FMM(x, tolerance=tolerance, source_order=2, order=1)
        pairs = cKDTree(x).query_pairs(RANGE, output_type="ndarray")
        widths = np.minimum(*thole[pairs.T]) / np.sqrt(polarisabilities[pairs].prod(axis=1))
        self.kinds = [
            (mp.Thole(float(width)), np.concatenate([kind, kind[:, ::-1]]))
            for width in np.unique(widths.round(12))
            for kind in [pairs[widths.round(12) == width]]
        ]

    def __call__(self, moments, molecule=None):
        """Return potential and gradient (n, 4); pairs within a molecule count where it is None."""
        phi = self.plan.field(moments, order=1)
        for kernel, pairs in self.kinds:
            if molecule is not None:
                inside = molecule[pairs[:, 0]] == molecule[pairs[:, 1]]
                phi -= self._near(moments, mp.Coulomb(), pairs[inside])
                pairs = pairs[~inside]
            phi += self._near(moments, kernel, pairs) - self._near(moments, mp.Coulomb(), pairs)
        return phi

    def _near(self, moments, kernel, pairs):
        return mp.field(self.x, self.x, moments, order=1, kernel=kernel, pairs=pairs)


def solve(x, moments, polarisabilities, thole, molecule, tolerance=1e-10):
    """Return the dipoles that permanent moments and each other induce.

    mu_i = alpha_i (E_i - sum_j T_ij mu_j) is a symmetric, positive linear system: A mu = E with
    A mu = mu / alpha + grad phi[mu]. One application of A is one field.
    """
    damped = DampedField(x, polarisabilities, thole, 0.1 * tolerance)
    field = -damped(moments, molecule)[:, 1:]
    alpha = np.repeat(polarisabilities, 3)

    def apply(mu):
        packed = mp.pack(np.zeros(len(x)), mu.reshape(-1, 3))
        return mu / alpha + damped(packed)[:, 1:].ravel()

    size = (3 * len(x), 3 * len(x))
    residuals = []

    def precondition(residual):
        residuals.append(float(np.linalg.norm(residual) / np.linalg.norm(field)))
        return alpha * residual

    operator, inverse = (LinearOperator(size, matvec=f, dtype=float) for f in (apply, precondition))
    start = alpha * field.ravel()
    mu, status = cg(operator, field.ravel(), x0=start, rtol=tolerance, M=inverse)
    if status:
        raise RuntimeError(f"conjugate gradients stopped after {status} iterations")
    return Solution(mu.reshape(-1, 3), field, residuals)
