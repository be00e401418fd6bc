"""Settings that check themselves, and what is wrong with them in one line.

Whatever a user sets, in a file, on the command line or in Python, is a class of pydantic fields:
files of sections are `Section`, settings that are made in Python `Checked`.
"""

import difflib
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

_BRANCHES = ("float", "list[int]", "list[str]", "str")  # how pydantic names alternatives
_BOUNDS = {
    "greater_than": ("gt", ">"),
    "greater_than_equal": ("ge", ">="),
    "less_than": ("lt", "<"),
    "less_than_equal": ("le", "<="),
}
Model = type[BaseModel]
Hint = Callable[[list[str]], str]


class Section(BaseModel):
    """A section of a configuration file; unknown keys and numbers that are not finite are wrong."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_means_default(cls, values: Any) -> Any:
        """Take a key with nothing behind it (None in YAML) as not given."""
        if not isinstance(values, dict):
            return values
        return {k: v for k, v in values.items() if v is not None or k not in cls.model_fields}


class Checked(BaseModel):
    """Settings that do not change; wrong ones are a ValueError of one line."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def __init__(self, **values: Any):
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ValueError(explain(error, type(self))) from None


def explain(error: ValidationError, model: Model, hint: Hint | None = None) -> str:
    """Return in one line what is wrong, once for each place.

    Parameters
    ----------
    error
        From a check of `model`.
    model
        What was checked.
    hint
        Returns what to say behind an unknown key, from its place; by default the nearest known key.
    """
    hint = hint or (lambda place: suggestion(place[-1], keys_of(model, place[:-1])))
    wrong: dict[str, list[str]] = {}
    given: dict[str, Any] = {}
    lines = []  # what is said in full
    for problem in error.errors():
        place = [str(part) for part in problem["loc"] if part not in _BRANCHES]
        where = ".".join(place)
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key '{where}'" + hint(place))
        elif problem["type"] == "missing":
            lines.append(f"'{where}' is missing")
        elif problem["type"] == "value_error":  # from a validator, which names what was given
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {message}" if where else message)
        else:
            wrong.setdefault(where, []).append(_message(problem, model, place))
            given[where] = problem["input"]
    lines += [
        f"{where}: {' or '.join(dict.fromkeys(m))}, got {given[where]!r}"
        for where, m in wrong.items()
    ]
    return "; ".join(lines)


def _message(problem: Any, model: Model, place: list[str]) -> str:
    kind = problem["type"]
    if kind == "model_type":
        return f"should be a section with keys ({', '.join(keys_of(model, place))})"
    if kind in _BOUNDS:
        name, sign = _BOUNDS[kind]
        return f"should be {sign} {problem['ctx'][name]:.10g}"
    return str(problem["msg"]).removeprefix("Input ").split(", unable")[0]


def keys_of(model: Model, place: Sequence[str]) -> list[str]:
    """Return the keys of the section at a place."""
    section: Any = model
    for part in place:
        section = section.model_fields[part].annotation
    return list(section.model_fields)


def suggestion(key: str, known: Sequence[str]) -> str:
    """Return a text that names the known key nearest to an unknown one, or all of them."""
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known keys: {', '.join(known)}"
