"""Numbers that users give: arrays, atomic numbers, charges and runs, checked and copied."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Heaviest element accepted (plutonium).
MAX_ATOMIC_NUMBER = 94

_CHARGE_LIMIT = 1e6  # e; a larger number is no charge


def plain_array(value: Any) -> NDArray[Any]:
    """Return a NumPy array of an array, sequence or torch tensor (on any device)."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"expected a rectangular array of numbers, got {value!r}") from error
    if array.size and array.dtype.kind not in "iufb":
        raise TypeError(f"expected an array of real numbers, got dtype {array.dtype}")
    return array


def float_array(name: str, value: Any, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
    """Return a float64 copy, after checks of its shape (None: any length) and finiteness."""
    array = np.array(plain_array(value), dtype=np.float64)
    if array.size == 0 and 0 in (len(array), *shape):
        array = array.reshape(tuple(0 if length is None else length for length in shape))
    wanted = "(" + ", ".join("any" if length is None else str(length) for length in shape) + ")"
    if array.ndim != len(shape) or any(
        length not in (None, size) for length, size in zip(shape, array.shape, strict=True)
    ):
        raise ValueError(f"{name}: expected shape {wanted}, got {array.shape}")
    if not np.isfinite(array).all():
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(
            f"{name}: expected finite numbers, got {array[first]} at index {first}; "
            "remove this frame or repair its input"
        )
    return array


def atomic_numbers(value: Any) -> NDArray[np.int64]:
    """Return atomic numbers (n,) as int64, after a check that each is that of an element."""
    array = plain_array(value)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"numbers: expected shape (n,) with n >= 1, got {array.shape}")
    if not np.array_equal(array, np.round(array)):
        raise ValueError("numbers: expected whole atomic numbers, got fractions or NaN")
    wrong = np.flatnonzero((array < 1) | (array > MAX_ATOMIC_NUMBER))
    if wrong.size:
        raise ValueError(
            f"numbers: expected atomic numbers 1..{MAX_ATOMIC_NUMBER}, got {array[wrong[0]]} "
            f"for atom {wrong[0]}" + (" (a dummy atom?)" if array[wrong[0]] == 0 else "")
        )
    return array.astype(np.int64)


def total_charge(value: Any) -> int:
    """Return a charge in e as an int, after a check that it is one whole number.

    Parameters
    ----------
    value
        A number of any kind, an array of one, or text such as "-1", "+1" or "1-".

    Raises
    ------
    ValueError
        If it is another number, several, or other text.
    TypeError
        If it is no number: None, or true or false, which is how a key without a value is read.
    """
    number = (
        value.item() if isinstance(value, np.generic | np.ndarray) and value.size == 1 else value
    )
    if isinstance(number, bytes):
        number = number.decode(errors="replace")
    if isinstance(number, str):
        number = _charge_of_text(number)
        number = np.nan if number is None else number
    told = value.item() if isinstance(value, np.generic) else value
    refusal = f"charge: expected one whole number (total charge of the QM atoms in e), got {told!r}"
    array = None if number is None else plain_array(number)
    if array is None or array.dtype.kind == "b":
        no_value = "" if array is None else ", which is also how ase reads a key without a value"
        raise TypeError(refusal + no_value)
    if array.size != 1 or not abs(array.item()) < _CHARGE_LIMIT or float(array.item()) % 1:
        raise ValueError(refusal)
    return int(array.item())


def _charge_of_text(text: str) -> int | None:
    """Return the number of "-1", "+1", "1-" or "-1.0"; None for other text."""
    match = re.fullmatch(r"([+-]?)(\d+)(?:\.0*)?([+-]?)", text.strip().replace("−", "-"))
    if match is None or (match[1] and match[3]):
        return None
    return int((match[1] or match[3]) + match[2])


def run_number(value: Any) -> int:
    """Return the number of a run as an int, after a check that it is one whole number."""
    number = value.item() if getattr(value, "ndim", None) == 0 else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"run: expected a whole number, got {value!r}: number the runs")
    if not abs(number) < 2**63 or number % 1:  # excludes NaN, too
        raise ValueError(f"run: expected a whole number, got {value!r}")
    return int(number)
