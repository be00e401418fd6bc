"""Induced dipoles of polarisable atoms by conjugate gradients, in free space or in a box."""

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

    A damped kernel is Coulomb beyond a few Å. So a plan sums 1/r over all pairs, and over all
    images where the edges (3,) of a box are given, and the difference is added for near ones, one
    kind of pair at a time: Thole's kernel depends on a / sqrt(alpha_i alpha_j).
    """

    def __init__(
        self, x, polarisabilities, thole, tolerance, box=None, surface="conductor", order=1
    ):
        if box is not None and min(box) < 2 * RANGE:
            raise ValueError(f"expected edges of {2 * RANGE} Å at least, got {box}")
        cell = {} if box is None else {"cell": np.diag(box), "surface": surface}
        self.x, self.polarisabilities, self.box, self.order = x, polarisabilities, box, order
        self.plan = fmm.plan(x, None, tolerance, 2, order, **cell)
        tree = cKDTree(x) if box is None else cKDTree(x % box, boxsize=box)
        pairs = tree.query_pairs(RANGE, output_type="ndarray")
        widths = np.minimum(*thole[pairs.T]) / np.sqrt(polarisabilities[pairs].prod(axis=1))
        pairs, widths = np.concatenate([pairs, pairs[:, ::-1]]), np.tile(widths.round(12), 2)
        self.kinds = [
            (mp.Thole(float(width)), pairs[widths == width]) for width in np.unique(widths)
        ]

    def __call__(self, moments, molecule=None):
        """Return the packed field at every atom; pairs within a molecule count where it is None."""
        phi = self.plan.field(moments)
        for kernel, pairs in self.kinds:
            if molecule is not None:
                inside = molecule[pairs[:, 0]] == molecule[pairs[:, 1]]
                phi -= self._near(moments, mp.Coulomb(), pairs[inside])
                pairs = pairs[~inside]
            phi += self._near(moments, kernel, pairs) - self._near(moments, mp.Coulomb(), pairs)
        return phi

    def _near(self, moments, kernel, pairs):
        i, j = pairs.T
        sources = self.x[j]
        if self.box is not None:
            sources = sources + self.box * np.rint((self.x[i] - sources) / self.box)
        own = np.stack([i, np.arange(len(i))], axis=1)  # a source for each pair: the nearest image
        return mp.field(self.x, sources, moments[j], self.order, kernel=kernel, pairs=own)


def solve(x, moments, polarisabilities, thole, molecule, tolerance=1e-10, box=None):
    """Return the dipoles that permanent moments and each other induce, in a box if it is given."""
    damped = DampedField(x, polarisabilities, thole, 0.1 * tolerance, box)
    return respond(damped, -damped(moments, molecule)[:, 1:], tolerance)


def respond(damped, field, tolerance=1e-10):
    """Return the dipoles that a field E at every atom and each other induce.

    mu_i = alpha_i (E_i - sum_j T_ij mu_j) is a symmetric, positive linear system: A mu = E with
    A mu = mu / alpha + grad phi[mu]. One application of A is one field.
    """
    alpha = np.repeat(damped.polarisabilities, 3)

    def apply(mu):
        packed = mp.pack(np.zeros(len(field)), mu.reshape(-1, 3))
        return mu / alpha + damped(packed)[:, 1:].ravel()

    size = (field.size, field.size)
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
