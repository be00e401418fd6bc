"""Settings that may change when a run is continued: its length, and what is harmless."""

import os
from typing import Any

from gnn.model import AMP
from gnn.options import from_config, to_config
from gnn.training.config import Config

#: Settings that say how long a run lasts; a run may be given more, or less.
LENGTH = ("epochs", "time_limit", "patience")
#: Settings that do not touch the weights, or only in rounding (`device`).
HARMLESS = (
    "tensorboard", "threads", "checkpoint_every", "checkpoint_seconds", "collective_timeout",
    "validate_every", "device",
)  # fmt: skip
_FILES = ("source", "train", "valid", "test")


def agree(old: dict[str, Any], new: Config, path: Any) -> list[str]:
    """Compare the configuration of a run with that of its continuation.

    Parameters
    ----------
    old
        What ``last.pt`` holds.
    new
        What is to be done now.
    path
        Of the checkpoint, for messages.

    Returns
    -------
    list of str
        Lines that say what has changed and is applied.

    Raises
    ------
    ValueError
        If something else has changed; all of it is named, with both values.
    """
    before, now = Config.model_validate(old).model_dump(), new.model_dump()
    for config in (before, now):
        config["model"] = to_config(AMP.argument_defaults() | from_config(config["model"]))
    sections = ["data", "model", "loss", "training"]
    if now["committee"]["members"] > 1 and before["committee"]["members"] > 1:
        sections.append("committee")
        now["committee"]["members"] = before["committee"]["members"]  # more or fewer are fine
    refused: list[tuple[str, str, Any, Any]] = []
    applied: list[tuple[str, str, Any, Any]] = []
    for section in sections:
        for key, was, value in _changes(section, before[section], now[section]):
            free = section == "training" and key in LENGTH + HARMLESS
            (applied if free else refused).append((section, key, was, value))
    began = before["start"]
    if new.start is not None and began is not None and not _same_file(new.start, began):
        refused.append(("start", "start", began, new.start))
    if refused:
        told = "; ".join(
            f"section '{section}': {key} is {value}, was {was}"
            for section, key, was, value in refused
        )
        raise ValueError(
            f"{path} was written with another configuration ({told}); resume with the same, or "
            "start in a new folder"
        )
    return [f"training.{key} is {value} now, was {was}" for _, key, was, value in applied]


def _same_file(one: str, other: str) -> bool:
    first, second = (os.path.abspath(os.path.expanduser(path)) for path in (one, other))
    return first == second


def _same_files(one: Any, other: Any) -> bool:
    """Tell whether paths, or lists of them, name the same files in other words."""
    first, second = ([given] if isinstance(given, str) else given for given in (one, other))
    if first is None or second is None or len(first) != len(second):
        return False
    return all(_same_file(a, b) for a, b in zip(first, second, strict=True))


def _changes(section: str, old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return key, old and new value of what differs, a section within the section key by key."""
    changes: list[tuple[str, Any, Any]] = []
    for key in {**old, **new}:
        was, value = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(value, dict):
            changes += [(f"{key}.{k}", a, b) for k, a, b in _changes(key, was, value)]
        # runs were once the only way, and the frames themselves are compared
        elif section == "split" and (was, value) in ((None, "run"), ("run", None)):
            continue
        elif was != value and not (key in _FILES and _same_files(was, value)):
            changes.append((key, was, value))
    return changes
