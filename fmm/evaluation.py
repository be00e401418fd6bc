"""One application of a plan: near field, far field, what their error is, and what follows from it.

What is found to be enough for some moments (degrees, precision, leaves, or a direct sum) is kept
for moments like these, and chosen anew for others.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fmm import choice
from fmm.cost import SINGLE, Work
from fmm.error import accuracy
from fmm.error.sampling import HIGH
from fmm.error.verdict import LAST, ROUNDED, Verdict, zeros
from fmm.report import Report
from multipoles.compiled.jit import get_num_threads
from multipoles.indexing import n_components, order_slice
from multipoles.radial import Coulomb, Kernel

# of the tolerance: what a degree is raised for
_AIM = 0.6
# times the expected cost, or seconds, that a direct sum may take where expansions cannot do it
_PATIENCE, _AT_ONCE = 50.0, 1.0
# of the tolerance: what rounding in the type of the points may take, in so many of its last digits
_SHARE, _DIGITS = 0.3, 4.0
# of the moments: what is left of traces by rounding
_TRACE = 1e-12
# by how much the share of the far field in the whole may differ and count as alike
_ALIKE = 2.0


@dataclass(frozen=True)
class Setting:
    """What is enough for some moments."""

    geometry: Any
    degrees: tuple[int, ...] = ()
    """Of the levels; empty as long as they are not chosen."""
    single: bool = False
    """Whether expansions are float32."""
    narrow: bool = False
    """Whether near pairs are summed in float32."""
    signs: np.ndarray | None = None
    """By what the degrees were chosen, see `_signs`."""
    raised: int = 0
    """By how much degrees are above what was expected."""
    lost: np.ndarray | None = None
    """Terms of the sum over the field."""


class Evaluation:
    """The field of one set of moments.

    Parameters
    ----------
    plan : FMM
        Points, and what was enough before.
    moments : array, shape (n_sources, channels, n_components(source_order))
        In the order of the plan's sources, in units in which numbers are ordinary.
    source_order, order : int
        Of moments and field.
    dtype : dtype
        Of the result.
    kernel : Kernel
        Radial kernel, in units of the plan's points.
    """

    def __init__(
        self, plan: Any, moments: Any, source_order: int, order: int, dtype: np.dtype,
        kernel: Kernel,
    ) -> None:  # fmt: skip
        self.plan, self.steps, self.moments, self.kernel = plan, plan._steps, moments, kernel
        self.source_order, self.order, self.dtype = source_order, order, dtype
        self.reach = plan._reach(source_order + order)
        # a result in float32 is not better than its digits
        single = dtype == np.float32
        self.tolerance = max(plan.tolerance, ROUNDED * single)
        self._last = LAST * single
        self.work = Work(
            0, source_order, order, moments.shape[1], plan.tolerance >= SINGLE,
            self.kernel.code != Coulomb.code, plan._choice.work.processor,
        )  # fmt: skip
        # a field of nothing tells nothing about others; nor does one of NaN, which GPUs let in
        self._is_void = self._is_lost = False
        # once for a set of moments
        self._is_chosen = False
        self._correction: np.ndarray | None = None
        if plan._exclusions is not None:
            points = plan._geometry.unsorted()
            self._correction = plan._exclusions.field(*points, moments, order, kernel)
        self.report = Report(
            tolerance=plan.tolerance, plan_seconds=plan._plan_seconds, source_order=source_order,
            order=order, channels=moments.shape[1],
        )  # fmt: skip

    def run(self, dtype: np.dtype) -> Any:
        """Return the field in the caller's order, as `dtype`."""
        plan, key = self.plan, (self.source_order, self.order)
        if not (self.steps.device or self.moments.any()):
            return self._nothing(dtype)
        setting = plan._settings.get(key)
        if self.steps.device and setting is not None:
            out = self._known(setting)
        else:
            setting = setting or Setting(plan._geometry, narrow=self._may_be_narrow)
            # what is not finite is judged here
            with np.errstate(over="ignore", invalid="ignore"):
                while isinstance(found := self._attempt(setting), Setting):
                    setting = found
            out, setting = found
            if not (self._is_void or self._is_lost):
                plan._settings[key] = setting
                used = {plan._geometry, *(s.geometry for s in plan._settings.values())}
                plan._far = {k: far for k, far in plan._far.items() if k[0] in used}
        self.geometry = setting.geometry
        with self.report.timed("order"):
            return self.steps.unorder(setting.geometry, out, dtype)

    def _nothing(self, dtype: np.dtype) -> np.ndarray:
        """Return the field of moments that are all zero."""
        self.geometry = self.plan._geometry
        self.report.measured(zeros(self.plan.tolerance, self.order), 0)
        shape = self.plan.n_targets, self.moments.shape[1], n_components(self.order)
        return np.zeros(shape, dtype)

    @property
    def _may_be_narrow(self) -> bool:
        narrow = self.dtype == np.float32 and self.plan.tolerance >= SINGLE
        return narrow and self._correction is None

    # --- one attempt: the field and what was enough for it, or what to try instead ----------------

    def _attempt(self, setting: Setting) -> Any:
        geometry = setting.geometry
        moments, near = self._near(setting)
        if not geometry.has_far_field:
            return self._checked(setting, moments, near)
        with self.report.timed("order"):
            harmonic = self._harmonic(moments)
        with self.report.timed("sample"):
            held = self.steps.held(geometry, moments, harmonic, self.source_order)
            probe = self._probe(setting, moments, near, held)
            norms = probe.norms()
            self._is_void, self._is_lost = not held.mean.any(), not np.isfinite(held.mean).all()
            if setting.narrow and self._needs_digits(probe, near, norms):
                return replace(setting, narrow=False)
            signs = _signs(held, probe.overall(norms))
            is_alike = setting.signs is not None and _alike(signs, setting.signs)
            is_known = is_alike and setting.lost is not None and setting.lost.shape == norms.shape
            terms = setting.lost * norms if is_known else probe.terms()
            if not (is_alike or self._is_chosen):
                chosen = self._chosen(setting, held, signs, probe, norms, terms)
                if chosen.geometry is not geometry:
                    return chosen
                setting = chosen
                if max(setting.degrees) >= HIGH:
                    probe.enlarge()
            elif setting.signs is None:
                setting = replace(setting, signs=signs)
        return self._converged(setting, near, harmonic, probe, terms)

    def _near(self, setting: Setting) -> tuple[Any, Any]:
        """Return moments in the order of the tree, and the near field."""
        steps, dtype = self.steps, np.dtype(np.float32 if setting.narrow else np.float64)
        with self.report.timed("order"):
            moments = steps.order(setting.geometry, self.moments, dtype)
        with self.report.timed("near field"):
            near = steps.near(setting.geometry, moments, self.order, self.kernel, self.reach)
            correction = self._corrected(setting.geometry)
            if correction is not None:
                near += correction
        return moments, near

    def _corrected(self, geometry: Any) -> np.ndarray | None:
        """Return what scaled pairs change, in the order of the tree; None without any."""
        found = self._correction
        return None if found is None else found[geometry.tree.target_order]

    def _probe(self, setting: Setting, moments: Any, near: Any, held: Any) -> Any:
        """Return targets drawn by where errors are expected."""
        geometry = setting.geometry
        degrees = setting.degrees or (self.plan._choice.work.degree,) * len(geometry.edges)

        def where(norms: np.ndarray) -> Any:
            return held.where(geometry, degrees, norms)

        return self.steps.probe(
            geometry, moments, near, self.order, self.kernel, self.reach,
            None if held is None else where, self.plan.each,
            (setting.signs is None or self._is_chosen) and max(degrees) >= HIGH,
            self._corrected(geometry),
        )  # fmt: skip

    def _needs_digits(self, probe: Any, near: Any, norms: np.ndarray) -> bool:
        """Return whether near fields in float32 are too large against the whole, or overflow."""
        lost = _DIGITS * ROUNDED * np.sqrt(probe.squares(near))
        return not np.all((lost <= _SHARE * self.tolerance * norms) & np.isfinite(norms))

    def _checked(self, setting: Setting, moments: Any, near: Any) -> Any:
        """Return a field that is all near, if it has digits enough."""
        with self.report.timed("sample"):
            probe = self._probe(setting, moments, near, None)
            norms = np.sqrt(probe.squares(near))
            self._is_void, self._is_lost = not norms.any(), not np.isfinite(norms).all()
            if setting.narrow and self._is_lost:
                return replace(setting, narrow=False)
            if setting.geometry is not self.plan._geometry:
                # expansions could not do it: with other moments they may
                held = self._held(setting, moments)
                signs = _signs(held, probe.overall(norms))
                is_other = setting.signs is not None and not _alike(signs, setting.signs)
                if is_other and not self._is_chosen:
                    return Setting(self.plan._geometry, narrow=self._may_be_narrow)
                setting = replace(setting, signs=signs)
            if setting.narrow:
                errors, bounds = probe.errors(near)
                sampled = probe.size
            else:
                errors, sampled = probe.crosscheck(near)
                bounds = errors
            terms = probe.terms()
            verdict = Verdict(errors, bounds, norms, terms, self.tolerance, self._last)
        if setting.narrow and not verdict.kept:
            return replace(setting, narrow=False)
        if verdict.message(sampled) and self._nothing_acts(self._harmonic(moments), verdict):
            verdict = zeros(self.tolerance, self.order)
        self.report.measured(verdict, sampled)
        return near, setting

    def _harmonic(self, moments: Any) -> Any:
        return self.steps.harmonic(moments, self.source_order)

    def _held(self, setting: Setting, moments: Any) -> Any:
        harmonic = self._harmonic(moments)
        return self.steps.held(setting.geometry, moments, harmonic, self.source_order)

    def _nothing_acts(self, harmonic: Any, verdict: Verdict) -> bool:
        """Return whether the moments are all trace, which has no field under 1/r, but rounding."""
        if self.kernel.code != Coulomb.code and not verdict.is_noise:
            return False
        if self.steps.device:
            held = self.steps.held(None, self.moments, harmonic, self.source_order)
            return not held.mean.any()
        for j in range(self.source_order + 1):
            given = np.abs(self.moments[..., order_slice(j)]).max()
            acts = np.abs(harmonic[..., j * j : (j + 1) ** 2]).max()
            if acts > _TRACE * given:
                return False
        return True

    # --- choices ----------------------------------------------------------------------------------

    def _chosen(self, setting: Setting, held: Any, signs, probe: Any, norms, terms) -> Setting:
        """Return the setting with the degrees, and perhaps the leaves, that cost least."""
        self._is_chosen = True
        if self._is_lost:
            degrees = (self.plan._choice.work.degree,) * len(setting.geometry.edges)
            return replace(setting, degrees=degrees)
        floor = Verdict(norms, norms, norms, terms, self.tolerance).rounding / self.tolerance
        norms = probe.overall(np.maximum(norms, floor))
        plan, geometry = self.plan, self.plan._geometry
        limits = accuracy.share(self.source_order + self.order) * self.tolerance * norms
        weights = held.weights(geometry)
        degrees = choice.least_degrees(geometry, weights, limits, self.work)
        if plan._choice.leaf_size is None:
            if max(degrees) > plan._choice.work.degree + 4:
                geometry, degrees = choice.larger_leaves(
                    geometry, weights, limits, self.work, held.weights
                )
            if choice.seconds(geometry, self.work, degrees) > self._direct_seconds:
                return Setting(geometry.direct(), narrow=setting.narrow)
        single = self.work.single and geometry.fits_single(self.source_order, self.order)
        return Setting(geometry, degrees, single, setting.narrow, signs)

    @property
    def _direct_seconds(self) -> float:
        return choice.direct_seconds(self.plan._geometry, self.work)

    # --- far field --------------------------------------------------------------------------------

    def _converged(self, setting: Setting, near: Any, harmonic: Any, probe: Any, terms) -> Any:
        """Return near and far field, of degrees that keep the tolerance at sampled targets."""
        last, in_vain = np.inf, 0
        while True:
            out = self._with_far(setting, near, harmonic)
            with self.report.timed("sample"):
                probe.degree = max(setting.degrees)
                verdict = self._verdict(probe, out, terms)
                if verdict.typical <= 1.0 < verdict.worst and not probe.enlarged:
                    probe.enlarge()
                    verdict = self._verdict(probe, out, terms)
            if verdict.kept or self._is_lost:
                break
            if self._nothing_acts(harmonic, verdict):
                break
            # rounding, not truncation, when a higher degree does not help; distant boxes, whose
            # degree is a fraction of it, may not notice the first time
            now = max(verdict.typical, verdict.worst / 2)
            in_vain += not now <= 0.8 * last
            raised = None if in_vain > 1 else self._raised(setting, now, now <= 0.8 * last)
            last = now
            if raised is None:
                other = self._instead(setting)
                if other is not None:
                    return other
                break
            setting = raised
        if verdict.message(probe.size) and self._nothing_acts(harmonic, verdict):
            verdict = zeros(self.tolerance, self.order)
        self._describe(setting)
        self.report.measured(verdict, probe.size)
        # degrees were raised for other moments: to be chosen anew
        idle = setting.raised and verdict.worst < 0.1
        norms = np.where(verdict.norms > 0, verdict.norms, np.inf)
        signs = None if idle else setting.signs
        return out, replace(setting, signs=signs, lost=terms / norms)

    def _with_far(self, setting: Setting, near: Any, harmonic: Any) -> Any:
        """Return near and far field together."""
        if not any(setting.degrees):
            return near
        plan, key = self.plan, (self.source_order, self.order)
        dtype = np.dtype(np.float32 if setting.single else np.float64)
        place = setting.geometry, setting.degrees, key, dtype
        if place not in plan._far:
            plan._far[place] = self.steps.far(setting.geometry, setting.degrees, *key, dtype)
        local = plan._far[place](harmonic, self.report.seconds)
        with self.report.timed("evaluate locals"):
            return self.steps.total(near, local, self.order)

    def _verdict(self, probe: Any, out: Any, terms: np.ndarray) -> Verdict:
        errors, bounds = probe.errors(out)
        norms = np.sqrt(probe.squares(out))
        return Verdict(errors, bounds, norms, terms, self.tolerance, self._last)

    def _raised(self, setting: Setting, worst: float, helped: bool) -> Setting | None:
        """Return higher degrees, or None if there are none or they cost more than a direct sum."""
        if not np.isfinite(worst):
            return None
        more = max(1, int(np.ceil(2 * np.log2(worst / _AIM)))) if helped else 6
        more = min(more, accuracy.MAX_DEGREE - max(setting.degrees))
        if more <= 0:
            return None
        degrees = tuple(d + more if d else 0 for d in setting.degrees)
        # who names a leaf size wants a tree, unless it is hopeless
        patience = 1.0 if self.plan._choice.leaf_size is None else _PATIENCE
        expected = choice.seconds(setting.geometry, self.work, degrees)
        if expected > patience * self._direct_seconds:
            return None
        return replace(setting, degrees=degrees, raised=setting.raised + more)

    def _instead(self, setting: Setting) -> Setting | None:
        """Return what to try when degrees do not help: more digits, or more of it directly."""
        if setting.single:
            return replace(setting, single=False, signs=None)
        if setting.narrow:
            return replace(setting, narrow=False)
        geometry, direct = setting.geometry, self._direct_seconds
        expected = choice.seconds(geometry, self.work, setting.degrees)
        if direct <= max(_PATIENCE * expected, _AT_ONCE * get_num_threads()):
            return Setting(geometry.direct(), narrow=False)
        grown = geometry.with_leaves(8 * geometry.leaf_size)
        if grown.n_leaves < geometry.n_leaves and grown.has_far_field:
            degrees = choice.for_levels(setting.degrees, len(grown.edges))
            return Setting(grown, degrees, False, False, setting.signs, setting.raised)
        return None

    def _known(self, setting: Setting) -> Any:
        """Return the field by what was enough before, unmeasured: nothing waits for the device."""
        moments, out = self._near(setting)
        if any(setting.degrees):
            out = self._with_far(setting, out, self.steps.harmonic(moments, self.source_order))
        self._describe(setting)
        return out

    def _describe(self, setting: Setting) -> None:
        if any(setting.degrees):
            self.report.degrees = setting.degrees
            self.report.precision = "float32" if setting.single else "float64"


def _signs(held: Any, norms: np.ndarray) -> np.ndarray:
    """Return what tells moments whose far field asks for the same degrees."""
    shares = np.sqrt(held.mean)[:, None] / np.maximum(norms, np.finfo(float).tiny)
    return np.append(shares.ravel(), held.spread)


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.abs(np.log2(one / other))
    return bool(np.all((apart <= _ALIKE) | (one == other)))
