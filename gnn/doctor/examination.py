"""All checks of a model, one after the other, and what they come to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gnn.data.systems import Frame
from gnn.doctor import consistency, dynamics, labelled, scans, separation, smoothness
from gnn.doctor.findings import FAIL, NOTE, Finding
from gnn.doctor.inherited import as_inherited, is_published
from gnn.doctor.knowledge import anatomy, knowledge
from gnn.doctor.patient import Patient, admitted
from gnn.potential import Potential

#: Checks for holes, with the name of their scans in a report.
_SCANS = {
    "pairs of atoms": ("pairs", scans.pairs_alone),
    "pairs in molecules": ("pressed", scans.pairs_in_molecules),
    "crowded molecules": ("crowded", scans.crowded_molecules),
    "charges near atoms": ("charges", scans.charges_near_atoms),
}


@dataclass
class Report:
    """What an examination found.

    Attributes
    ----------
    name
        Of the model.
    knows, made
        What the model knows and how it is made, by subject.
    findings
        One of each check.
    pairs, pressed, crowded, charges, curves, runs, errors
        What was computed on the way, for the picture.
    """

    name: str
    knows: dict[str, str]
    made: dict[str, str]
    findings: list[Finding] = field(default_factory=list)
    pairs: list[scans.Scan] = field(default_factory=list)
    pressed: list[scans.Scan] = field(default_factory=list)
    crowded: list[scans.Scan] = field(default_factory=list)
    charges: list[scans.Scan] = field(default_factory=list)
    curves: list[separation.Curve] = field(default_factory=list)
    runs: list[dynamics.Run] = field(default_factory=list)
    errors: list[labelled.Errors] = field(default_factory=list)

    def count(self, verdict: str) -> int:
        """Return how many checks have a verdict."""
        return sum(finding.verdict == verdict for finding in self.findings)

    @property
    def healthy(self) -> bool:
        """Whether no check failed."""
        return not self.count(FAIL)

    def verdict(self) -> str:
        """Return the whole in a sentence."""
        failed = [f.check for f in self.findings if f.verdict == FAIL]
        noted = [f.check for f in self.findings if f.verdict == NOTE]
        also = f"; to be known: {', '.join(noted)}" if noted else ""
        if failed:
            return f"{len(failed)} of {len(self.findings)} checks failed: {', '.join(failed)}{also}"
        return f"all {len(self.findings)} checks passed{also}"


def examine(
    model: Potential,
    data: Sequence[Frame] = (),
    *,
    name: str = "model",
    full: bool = False,
    say: Callable[[str], None] | None = None,
) -> Report:
    """Examine a model.

    Parameters
    ----------
    model
        Any potential.
    data
        Frames to examine it on; with labels, errors are part of the report. Of none, molecules
        that ship with the package.
    name
        Of the model, for the report.
    full
        More molecules, directions and steps.
    say
        Is told what is done next.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        If the data hold an element that the model does not know.
    """
    patient = admitted(model, data, full)
    report = Report(name, knowledge(model), anatomy(model))
    for check, task in _tasks(patient, report, data):
        if say is not None:
            say(check)
        try:
            found = task()
        except Exception as error:  # what stops a check is what it found
            reason = " ".join(str(error).split()) or type(error).__name__
            found = [Finding(check, None, verdict=FAIL, remark=f"it stopped: {reason[:200]}")]
        report.findings += found
    if is_published(model):
        report.findings = [as_inherited(finding) for finding in report.findings]
    return report


def _tasks(
    patient: Patient, report: Report, data: Sequence[Frame]
) -> list[tuple[str, Callable[[], list[Finding]]]]:
    """Return the checks by name; what they compute goes into the report."""

    def kept(name: str, compute: Callable[..., Any], judge: Callable[..., Any], *given: Any) -> Any:
        def task() -> list[Finding]:
            setattr(report, name, compute(*given))
            found = judge(getattr(report, name))
            return found if isinstance(found, list) else [found]

        return task

    holes = {check: partial(scans.holes, check) for check in _SCANS}
    tasks = [
        (check, kept(name, scan, holes[check], patient)) for check, (name, scan) in _SCANS.items()
    ]
    tasks += [
        (
            "size consistency",
            kept("curves", separation.curves, separation.size_consistency, patient),
        ),
        ("energy in MD", kept("runs", dynamics.runs, dynamics.conservation, patient)),
        ("invariance, float64", lambda: [consistency.invariance(patient, "float64")]),
        ("invariance, float32", lambda: [consistency.invariance(patient, "float32")]),
        ("smooth at cutoffs", lambda: [smoothness.smoothness(patient)]),
        ("forces, finite differences", lambda: [consistency.gradient(patient)]),
        ("Newton's third law", lambda: [consistency.balance(patient)]),
    ]
    if data:
        frames, model = labelled.thinned(data, patient.full), patient.model
        tasks += [
            (
                "errors on DATA",
                kept("errors", labelled.errors, labelled.accuracy, model, frames),
            ),
            ("novelty of DATA", lambda: labelled.novelty(model, frames)),
        ]
    return tasks
