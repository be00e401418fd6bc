"""What to try for one set of moments: first what should cost least, then what may still help.

Errors that are too large ask for higher degrees; where these do not help, for more digits, for a
direct sum if it is affordable, or for larger leaves.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fmm import choice
from fmm.cost import Work
from fmm.layout import Layout
from fmm.setting import Setting
from fmm.tree.geometry import Geometry

# share of the tolerance that raised degrees aim at
_AIM = 0.6
# where expansions fail, a direct sum may take so many times their cost, or so many seconds of all
# threads
_PATIENCE, _AT_ONCE = 50.0, 1.0


@dataclass(frozen=True)
class Search:
    """The search for a setting that keeps the tolerance.

    Parameters
    ----------
    layout : Layout
        Points in their tree.
    work : Work
        What the evaluation asks for.
    may_be_narrow : bool
        Whether near pairs may be summed in float32.
    """

    layout: Layout
    work: Work
    may_be_narrow: bool

    def first(self) -> Setting:
        """Return what to begin with, where nothing is known; degrees are still to be chosen."""
        return Setting(self.layout.geometry, narrow=self.may_be_narrow)

    def expected_degrees(self, geometry: Geometry) -> tuple[int, ...]:
        """Return the degrees that the layout was made for."""
        return (self.layout.work.degree,) * len(geometry.edges)

    def cheapest(
        self,
        setting: Setting,
        weigh: Callable[[Geometry], np.ndarray],
        limits: np.ndarray,
        signs: np.ndarray,
    ) -> Setting:
        """Return the setting with the degrees, and perhaps the leaves, that should cost least.

        Parameters
        ----------
        setting : Setting
            What was tried before.
        weigh : callable
            Returns the weights of a geometry, see `fmm.setting.Strengths`.
        limits : ndarray, shape (order + 1,)
            Root mean square error that is allowed at each order.
        signs : ndarray
            Of the moments.
        """
        geometry = self.layout.geometry
        weights = weigh(geometry)
        degrees = choice.least_degrees(geometry, weights, limits, self.work)
        if self.layout.request.leaf_size is None:
            if max(degrees) > self.layout.work.degree + 4:
                geometry, degrees = choice.larger_leaves(
                    geometry, weights, limits, self.work, weigh
                )
            if choice.seconds(geometry, self.work, degrees) > self._direct_seconds:
                return Setting(geometry.direct(), narrow=setting.narrow)
        if max(degrees) > self.layout.steps.most_degree:
            return Setting(geometry.direct(), narrow=setting.narrow)
        single = self.work.single and geometry.fits_single(self.work.source_order, self.work.order)
        return Setting(geometry, degrees, single, setting.narrow, signs)

    def raised(self, setting: Setting, worst: float, helped: bool) -> Setting | None:
        """Return higher degrees, or None if there are none or they cost more than a direct sum.

        Parameters
        ----------
        setting : Setting
            What was tried.
        worst : float
            Its error, in units of what is allowed.
        helped : bool
            Whether the last degrees were better than those before.
        """
        if not np.isfinite(worst):
            return None
        more = max(1, int(np.ceil(2 * np.log2(worst / _AIM)))) if helped else 6
        more = min(more, self.layout.steps.most_degree - max(setting.degrees))
        if more <= 0:
            return None
        degrees = tuple(d + more if d else 0 for d in setting.degrees)
        # a caller who names a leaf size wants expansions, unless they are hopeless
        patience = 1.0 if self.layout.request.leaf_size is None else _PATIENCE
        expected = choice.seconds(setting.geometry, self.work, degrees)
        if expected > patience * self._direct_seconds:
            return None
        return replace(setting, degrees=degrees, raised=setting.raised + more)

    def instead(self, setting: Setting) -> Setting | None:
        """Return what to try when degrees do not help: more digits, or more of it directly."""
        if setting.single:
            return replace(setting, single=False, signs=None)
        if setting.narrow:
            return replace(setting, narrow=False)
        geometry, direct = setting.geometry, self._direct_seconds
        expected = choice.seconds(geometry, self.work, setting.degrees)
        if direct <= max(_PATIENCE * expected, _AT_ONCE * self.layout.steps.n_threads):
            return Setting(geometry.direct(), narrow=False)
        grown = geometry.with_leaves(8 * geometry.leaf_size)
        if grown.n_leaves < geometry.n_leaves and grown.has_far_field:
            degrees = choice.for_levels(setting.degrees, len(grown.edges))
            return Setting(grown, degrees, False, False, setting.signs, setting.raised)
        return None

    @property
    def _direct_seconds(self) -> float:
        return choice.direct_seconds(self.layout.geometry, self.work)
