"""What a check found: a figure, its limit, and a verdict."""

import math
from dataclasses import dataclass

OK, NOTE, FAIL = "ok", "NOTE", "FAIL"


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes
    ----------
    check
        Its name.
    figure
        The worst number that it found; None where it could not be made.
    unit
        Of `figure` and `limit`.
    limit
        What the figure may be at most; None where nothing is required.
    verdict
        "ok", "NOTE" (to be known by who uses the model) or "FAIL".
    remark
        Where the figure was found, or why there is none.
    """

    check: str
    figure: float | None
    unit: str = ""
    limit: float | None = None
    verdict: str = OK
    remark: str = ""


def judged(
    check: str, figure: float, unit: str, limit: float, remark: str = "", beyond: str = FAIL
) -> Finding:
    """Return the finding of a figure that should not exceed its limit; NaN exceeds any."""
    figure = math.inf if math.isnan(figure) else float(figure)
    return Finding(check, figure, unit, limit, OK if figure <= limit else beyond, remark)
