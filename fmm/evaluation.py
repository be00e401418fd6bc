"""One application of a plan: near field, far field, what their error is, and what follows from it.

What is found to be enough for some moments (degrees, precision, leaves, or a direct sum) is kept
for moments like these, and chosen anew for others.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from fmm.cost import SINGLE, Work
from fmm.error import accuracy
from fmm.error.evidence import Evidence
from fmm.error.indicators import Where
from fmm.error.sampling import HIGH, Probe
from fmm.error.verdict import LAST, ROUNDED, Verdict, zeros
from fmm.layout import Layout
from fmm.near import SHARE, has_parts, is_narrow, rounding
from fmm.report import PERMUTATION, Report
from fmm.search import Search
from fmm.setting import Setting, alike, signs_of
from fmm.steps import Array, Harmonic, Strengths
from fmm.tree.geometry import Geometry
from multipoles.indexing import n_components
from multipoles.radial import Coulomb


class Evaluation:
    """The field of one set of moments.

    Parameters
    ----------
    layout : Layout
        Points, and what was enough before.
    moments : array, shape (n_sources, channels, n_components(source_order))
        In the order of the plan's sources, in units in which numbers are ordinary.
    source_order, order : int
        Of moments and field.
    dtype : dtype
        Of the result.
    report : Report
        Where to note what is chosen, how long it takes, and the error.

    Attributes
    ----------
    geometry : Geometry
        The tree that was used, once the field is there.
    """

    def __init__(
        self, layout: Layout, moments: Array, source_order: int, order: int, dtype: np.dtype,
        report: Report,
    ) -> None:  # fmt: skip
        self.layout, self.steps, self.moments, self.report = layout, layout.steps, moments, report
        self.source_order, self.order, self.dtype = source_order, order, dtype
        self.geometry, request = layout.geometry, layout.request
        self.reach = layout.reach(source_order + order)
        # no result in float32 is more accurate than its rounding
        single = dtype == np.float32
        self.tolerance = max(request.tolerance, ROUNDED * single)
        self._last = LAST * single
        # moments that are zero, or not finite (not checked on a GPU), say nothing about others
        self._is_void = self._is_lost = False
        # degrees are chosen once for a set of moments
        self._is_chosen = False
        self._correction: np.ndarray | None = None
        self._smooth: np.ndarray | None = None  # what is not harmonic, see `Steps.not_harmonic`
        if request.exclusions is not None:
            points = layout.geometry.unsorted()
            given = *points, moments, order, layout.kernel, self.steps.cell
            self._correction = request.exclusions.field(*given)
        work = Work(
            0, source_order, order, moments.shape[1], request.tolerance >= SINGLE,
            layout.kernel.code != Coulomb.code, layout.work.processor,
            is_narrow(request.tolerance, source_order, order), layout.work.times,
        )  # fmt: skip
        may_be_narrow = work.narrow and self._correction is None
        if not single:
            parts = has_parts(source_order, order, work.damped) and not self.steps.device
            may_be_narrow &= parts and layout.geometry.has_far_field
        self._search = Search(layout, work, bool(may_be_narrow))

    def run(self, dtype: np.dtype) -> Array:
        """Return the field in the caller's order, as `dtype`."""
        layout, orders = self.layout, (self.source_order, self.order)
        if self.steps.are_zero(self.moments):
            return self._nothing(dtype)
        setting = layout.settings.get(orders)
        if self.steps.device and setting is not None:
            out = self._known(setting)
        else:
            out, setting = self._found(setting or self._search.first())
            if not (self._is_void or self._is_lost):
                self._keep(setting)
        self.geometry = setting.geometry
        with self.report.timed(PERMUTATION):
            return self.steps.from_tree(setting.geometry, out, dtype)

    def _nothing(self, dtype: np.dtype) -> np.ndarray:
        """Return the field of moments that are all zero."""
        self.report.measured(zeros(self.layout.request.tolerance, self.order), 0)
        shape = self.layout.n_targets, self.moments.shape[1], n_components(self.order)
        return np.zeros(shape, dtype)

    def _found(self, setting: Setting) -> tuple[Array, Setting]:
        """Return the field, in the order of the tree, and what was enough for it."""
        # what is not finite is judged here
        with np.errstate(over="ignore", invalid="ignore"):
            while isinstance(result := self._attempt(setting), Setting):
                setting = result
        return result

    def _keep(self, setting: Setting) -> None:
        """Keep what was enough, and far fields on trees that are still in use."""
        layout = self.layout
        layout.settings[self.source_order, self.order] = setting
        used = {layout.geometry, *(s.geometry for s in layout.settings.values())}
        for key in [key for key in layout.far_fields if key[0] not in used]:
            del layout.far_fields[key]

    # --- one attempt: the field and what was enough for it, or what to try instead ----------------

    def _attempt(self, setting: Setting) -> tuple[Array, Setting] | Setting:
        geometry = setting.geometry
        moments, near = self._near(setting)
        if near is None:
            return replace(setting, narrow=False)
        if not geometry.has_far_field:
            return self._checked(setting, moments, near)
        with self.report.timed(PERMUTATION):
            harmonic = self._harmonic(moments)
            self._smooth = self.steps.not_harmonic(geometry, moments, self.order)
        if self.steps.unmeasured and setting.signs is not None:
            known = self._as_before(setting, moments, near, harmonic)
            if known is not None:
                return known
        with self.report.timed("sample"):
            strengths = self.steps.strengths(moments, harmonic, self.source_order)
            past = self._past(setting, moments.shape[1])
            probe = self._probe(setting, moments, near, strengths, past)
            norms = probe.norms()
            signs = signs_of(strengths, probe.overall(norms))
            is_alike = setting.signs is not None and alike(signs, setting.signs)
            if past is not None and not is_alike:
                probe = self._probe(setting, moments, near, strengths)
                norms = probe.norms()
                signs = signs_of(strengths, probe.overall(norms))
            self._is_void = not strengths.mean.any()
            self._is_lost = not np.isfinite(strengths.mean).all()
            if setting.narrow and self._needs_digits(probe, near, norms):
                return replace(setting, narrow=False)
            lost = setting.lost if is_alike and (past or not setting.evidence) else None
            is_known = lost is not None and lost.shape == norms.shape
            terms = lost * norms if is_known else probe.terms()
            if not (is_alike or self._is_chosen):
                chosen = self._chosen(setting, strengths, signs, probe, norms, terms)
                if chosen.geometry is not geometry:
                    return chosen
                setting = chosen
                if max(setting.degrees) >= HIGH:
                    probe.enlarge()
            elif setting.signs is None:
                setting = replace(setting, signs=signs)
        return self._converged(setting, near, harmonic, probe, terms)

    def _as_before(
        self, setting: Setting, moments: Array, near: Array, harmonic: Harmonic
    ) -> tuple[Array, Setting] | None:
        """Return a field that needs little or no measuring.

        None if moments differ from those of before, or the tolerance seems to be missed.
        """
        out = self._with_far(setting, near, harmonic)
        with self.report.timed("sample"):
            strengths = self.steps.strengths(moments, harmonic, self.source_order)
            signs = signs_of(strengths, self.steps.root_mean_squares(out, self.order))
            if setting.signs is None or not alike(signs, setting.signs):
                return None
            if setting.unmeasured:
                setting = replace(setting, unmeasured=setting.unmeasured - 1)
            else:
                measured = self._measured(setting, moments, near, out, strengths)
                if measured is None:
                    return None
                setting = measured
        self._describe(setting)
        return out, setting

    def _measured(
        self, setting: Setting, moments: Array, near: Array, out: Array, strengths: Strengths
    ) -> Setting | None:
        """Return what was enough, with what few targets tell; None if they tell of a miss."""
        past = self._past(setting, moments.shape[1])
        if past is None or setting.lost is None:
            return None
        probe = self._probe(setting, moments, near, strengths, past)
        norms = np.sqrt(probe.squares(out))
        if setting.lost.shape != norms.shape:
            return None
        probe.degree = max(setting.degrees)
        verdict = self._verdict(probe, out, setting.lost * norms)
        if not verdict.kept:
            return None
        self.report.measured(verdict, probe.size)
        return replace(setting, evidence=probe.evidence(out), unmeasured=self.steps.unmeasured)

    def _near(self, setting: Setting) -> tuple[Array, Array | None]:
        """Return moments in the order of the tree, and the near field, see `Steps.near`."""
        steps, dtype = self.steps, np.dtype(np.float32 if setting.narrow else np.float64)
        points = np.result_type(dtype, self.dtype)
        with self.report.timed(PERMUTATION):
            moments = steps.to_tree(setting.geometry, self.moments, dtype)
        with self.report.timed("near field"):
            near = steps.near(
                setting.geometry, moments, self.order, self.layout.kernel, self.reach, points
            )
            correction = self._corrected(setting.geometry)
            if correction is not None:
                near += correction
        return moments, near

    def _corrected(self, geometry: Geometry) -> np.ndarray | None:
        """Return what scaled pairs change, in the order of the tree; None without any."""
        if self._correction is None:
            return None
        permuted: np.ndarray = self.steps.to_targets(geometry, self._correction)
        return permuted

    def _past(self, setting: Setting, channels: int) -> Evidence | None:
        """Return what earlier evaluations showed, if it counts."""
        past, alone = setting.evidence, "channel" in self.layout.request.each
        if past is None or setting.signs is None:
            return None
        return past if past.serves(self.order, channels if alone else 1) else None

    def _probe(
        self,
        setting: Setting,
        moments: Array,
        near: Array,
        strengths: Strengths | None,
        past: Evidence | None = None,
    ) -> Probe:
        """Return targets drawn by where errors are expected; evenly, if no strengths are given."""
        geometry = setting.geometry
        degrees = setting.degrees or self._search.expected_degrees(geometry)
        where: Callable[[np.ndarray], Where] | None = None
        if strengths is not None:
            known = past and self.steps.if_all(past.where(geometry, degrees))
            where = partial(strengths.where, geometry, degrees)
            where = (lambda _: known) if known else where
        return self.steps.probe(
            geometry, moments, near, self.order, self.layout.kernel, self.reach, where,
            self.layout.request.each,
            (setting.signs is None or self._is_chosen) and max(degrees) >= HIGH,
            self._corrected(geometry), past,
        )  # fmt: skip

    def _needs_digits(self, probe: Probe, near: Array, norms: np.ndarray) -> bool:
        """Return whether near fields in float32 are too large against the whole, or overflow."""
        rounded = [rounding(self.source_order + k) for k in range(self.order + 1)]
        lost = np.array(rounded)[:, None] * np.sqrt(probe.squares(near))
        return not np.all((lost <= SHARE * self.tolerance * norms) & np.isfinite(norms))

    def _checked(
        self, setting: Setting, moments: Array, near: Array
    ) -> tuple[Array, Setting] | Setting:
        """Return a field that is all near, if it has digits enough."""
        with self.report.timed("sample"):
            probe = self._probe(setting, moments, near, None)
            norms = np.sqrt(probe.squares(near))
            self._is_void, self._is_lost = not norms.any(), not np.isfinite(norms).all()
            if setting.narrow and self._is_lost:
                return replace(setting, narrow=False)
            if setting.geometry is not self.layout.geometry:
                # a direct sum, since expansions failed: for other moments they may do
                harmonic = self._harmonic(moments)
                strengths = self.steps.strengths(moments, harmonic, self.source_order)
                signs = signs_of(strengths, probe.overall(norms))
                is_other = setting.signs is not None and not alike(signs, setting.signs)
                if is_other and not self._is_chosen:
                    return self._search.first()
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

    def _harmonic(self, moments: Array) -> Harmonic:
        return self.steps.harmonic(moments, self.source_order)

    def _nothing_acts(self, harmonic: Harmonic, verdict: Verdict) -> bool:
        """Return whether the moments are all trace, which has no field under 1/r, but rounding."""
        if self.layout.kernel.code != Coulomb.code and not verdict.is_noise:
            return False
        return not self.steps.acts(self.moments, harmonic, self.source_order)

    def _chosen(
        self, setting: Setting, strengths: Strengths, signs: np.ndarray, probe: Probe,
        norms: np.ndarray, terms: np.ndarray,
    ) -> Setting:  # fmt: skip
        """Return the setting with the degrees, and perhaps the leaves, that should cost least."""
        self._is_chosen = True
        if self._is_lost:
            return replace(setting, degrees=self._search.expected_degrees(setting.geometry))
        floor = Verdict(norms, norms, norms, terms, self.tolerance).rounding / self.tolerance
        norms = probe.overall(np.maximum(norms, floor))
        limits = accuracy.share(self.source_order + self.order) * self.tolerance * norms
        return self._search.cheapest(setting, strengths.weights, limits, signs)

    # --- far field --------------------------------------------------------------------------------

    def _converged(
        self, setting: Setting, near: Array, harmonic: Harmonic, probe: Probe, terms: np.ndarray
    ) -> tuple[Array, Setting] | Setting:
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
            # if higher degrees do not help twice, rounding limits the result, not truncation; once
            # may be chance, for distant boxes have a fraction of the degree, rounded
            now = max(verdict.typical, verdict.worst / 2)
            in_vain += not now <= 0.8 * last
            helped = now <= 0.8 * last
            raised = None if in_vain > 1 else self._search.raised(setting, now, helped)
            last = now
            if raised is None:
                other = self._search.instead(setting)
                if other is not None:
                    return other
                break
            setting = raised
            probe.forget()
        if verdict.message(probe.size) and self._nothing_acts(harmonic, verdict):
            verdict = zeros(self.tolerance, self.order)
        self._describe(setting)
        self.report.measured(verdict, probe.size)
        # degrees that were raised for earlier moments and too high for these are chosen anew
        idle = setting.raised and verdict.worst < 0.1 and not self.steps.unmeasured
        norms = np.where(verdict.norms > 0, verdict.norms, np.inf)
        signs = None if idle else setting.signs
        may_last = verdict.kept and not self.steps.device
        evidence = probe.evidence(out) if may_last else None
        return out, replace(
            setting, signs=signs, lost=terms / norms, evidence=evidence, unmeasured=0
        )

    def _with_far(self, setting: Setting, near: Array, harmonic: Harmonic) -> Array:
        """Return near and far field together."""
        if not any(setting.degrees):
            return near if self._smooth is None else near + self._smooth
        far_fields, dtype = self.layout.far_fields, np.dtype("f4" if setting.single else "f8")
        key = setting.geometry, setting.degrees, self.source_order, self.order, dtype
        if key not in far_fields:
            far_fields[key] = self.steps.far(*key)
        local = far_fields[key](harmonic, self.report.seconds)
        with self.report.timed("evaluate locals"):
            out = self.steps.total(near, local, self.order)
            return out if self._smooth is None else out + self._smooth

    def _verdict(self, probe: Probe, out: Array, terms: np.ndarray) -> Verdict:
        errors, bounds = probe.errors(out)
        norms = np.sqrt(probe.squares(out))
        return Verdict(errors, bounds, norms, terms, self.tolerance, self._last)

    def _known(self, setting: Setting) -> Array:
        """Return the field by what was enough before, unmeasured: nothing waits for the device."""
        moments, out = self._near(setting)
        if any(setting.degrees):
            out = self._with_far(setting, out, self._harmonic(moments))
        self._describe(setting)
        return out

    def _describe(self, setting: Setting) -> None:
        if any(setting.degrees):
            self.report.degrees = setting.degrees
            self.report.precision = "float32" if setting.single else "float64"
