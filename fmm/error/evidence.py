"""What earlier evaluations of much the same field showed of its error.

Where moments are alike and points have hardly moved, as from step to step of dynamics, errors are
too: a few new targets and those of the last evaluations together say as much as many new ones.
"""

from typing import NamedTuple

import numpy as np

from fmm.error.indicators import Boxed, Where

#: Evaluations whose draws count together, and how often all is drawn anew.
_KEPT, _OFTEN = 4, 16
#: Where the new mean square error is so many times that of before, only the new one counts.
_SUDDEN = 3.0


class Evidence(NamedTuple):
    """Errors at targets of the last evaluations."""

    batches: tuple[np.ndarray, ...]
    """Square errors of the draws of each evaluation over the mean square of the field, (draws,
    order + 1, channels), weighted so that their mean is that over all targets."""
    errors: np.ndarray
    """Where errors are expected, see `Where`."""
    age: int = 0
    """Evaluations since all was drawn anew."""

    def serves(self, order: int, channels: int) -> bool:
        """Return whether it may be used, for fields of an order and channels that count alone."""
        return self.age < _OFTEN and self.batches[0].shape[1:] == (order + 1, channels)

    def where(self, geometry: Boxed, degrees: tuple[int, ...]) -> Where | None:
        """Return where errors are expected: as before, leaf by leaf along the curve.

        None if there are other leaves.
        """
        leaves = geometry.target_leaves
        if len(leaves) != len(self.errors):
            return None
        leaves = leaves[np.argsort(geometry.tree.target_range[leaves, 0])]
        return Where(leaves, self.errors, max(degrees))

    def with_new(self, new: np.ndarray) -> np.ndarray:
        """Return square errors of new draws and of those before; of new ones only if these jump."""
        before = np.concatenate(self.batches)
        if np.any(new.mean(axis=0) > _SUDDEN * before.mean(axis=0)):
            return new
        return np.concatenate([before, new])

    def followed_by(self, new: np.ndarray, errors: np.ndarray) -> "Evidence":
        """Return the evidence after another evaluation."""
        return Evidence((*self.batches, new)[-_KEPT:], errors, self.age + 1)
