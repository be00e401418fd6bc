"""What the arguments of a plan may be: checked, in the one form that it takes."""

from typing import Any

import numpy as np

from fmm.steps import Steps
from fmm.steps_cpu import HostSteps
from multipoles import checks
from multipoles.lattice.options import Lattice, lattice_of

_LEAST = 1e-14
# more than all points of any plan
_MANY = 2**48
_EACH = ("system", "channel")


def steps_of(sources: Any, targets: Any) -> Steps:
    """Return the steps of the place where the points lie."""
    for array in (sources, targets):
        if array is not None and checks.on_device(array):
            from fmm.cuda.steps import DeviceSteps

            return DeviceSteps(array)
    return HostSteps()


def same_place(steps: Steps, *arrays: Any) -> None:
    """Raise a TypeError if an array lies elsewhere than a plan's points."""
    for array in arrays:
        if array is not None and checks.on_device(array) != steps.device:
            places = {True: "a GPU", False: "the CPU"}
            raise TypeError(
                f"expected points on {places[steps.device]}, where those of the plan lie, got a "
                f"{type(array).__name__} on {places[not steps.device]}"
            )


def count(value: Any, name: str) -> int:
    """Return a whole number of at least one, or raise."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")
    return int(value)


def leaf_size(value: Any) -> int | None:
    """Return the most points in a leaf, None to let it be chosen, or raise."""
    return None if value is None else min(count(value, "leaf_size"), _MANY)


def tolerance(value: Any) -> float:
    """Return the tolerance as a float, or raise."""
    if isinstance(value, str | bytes | bool | np.bool_) or np.ndim(value) > 0:
        raise TypeError(f"tolerance: expected a number, got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"tolerance: expected a number, got {value!r}") from None
    if not _LEAST <= number < 1:
        raise ValueError(f"tolerance: expected a number from {_LEAST:g} to below 1, got {value!r}")
    return number


def each(value: Any, device: bool) -> tuple[str, ...]:
    """Return what the tolerance is kept for, or raise."""
    names = (value,) if isinstance(value, str) else tuple(value)
    for name in names:
        if name not in _EACH:
            raise ValueError(f"each: expected 'system', 'channel' or both, got {value!r}")
    if names and device:
        raise ValueError("each: expected none for points on a GPU: all targets count together")
    return names


def is_plain(periodic: Any, background: Any, surface: Any) -> bool:
    """Tell whether what belongs to a cell is as it is by default."""
    return periodic is True and background is True and surface == "conductor"


def lattice(
    cell: Any, periodic: Any, background: bool, surface: str, steps: Steps
) -> Lattice | None:
    """Return what repeats, None for points in free space, or raise."""
    if cell is None:
        if not is_plain(periodic, background, surface):
            raise ValueError(
                "periodic, background, surface: expected with a cell only, got no cell"
            )
        return None
    if steps.device:
        raise ValueError("cell: expected points on the CPU, got some on a GPU")
    return lattice_of(cell, periodic, None, background, surface, False)


def one_system(*batches: Any) -> None:
    """Refuse systems of a batch in a cell."""
    if any(batch is not None for batch in batches):
        raise ValueError(
            "expected one system in a cell, got a batch; multipoles.field takes a cell for each"
        )


def sites_only(has_targets: bool) -> None:
    """Refuse a plan with targets of its own, which has no energy."""
    if has_targets:
        raise ValueError(
            "expected a plan whose targets are its sources, got one with targets of its own"
        )


def targets_as_before(sources: Any, targets: Any, has_targets: bool) -> None:
    """Refuse new points with targets if a plan has none of its own, and without if it has."""
    if (targets is not None and targets is not sources) != has_targets:
        raise ValueError(
            "targets: expected "
            + ("those of the plan too" if has_targets else "none: the plan has none")
        )
