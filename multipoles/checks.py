"""Checks of the arguments of the public functions: what was expected, what came, what to do.

Every function returns its argument in the one form that the loops take: contiguous float32 or
float64 arrays and int64 index arrays.
"""

import sys
from typing import Any

import numpy as np

from multipoles.indexing import MAX_TOTAL_ORDER, order_of

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def real(x: Any, name: str) -> np.ndarray:
    """Return `x` as a contiguous float32 or float64 array of finite values.

    Integers and sequences of numbers become float64.

    Parameters
    ----------
    x : array_like
        Numbers of any shape.
    name : str
        What the messages call it.

    Returns
    -------
    ndarray
        float32 if `x` is float32, else float64.

    Raises
    ------
    TypeError
        If the values are float16, complex, boolean or no numbers, or lie on a GPU.
    ValueError
        If a value is NaN or infinite, or a nested sequence is ragged.
    """
    array = _to_numpy(x, name)
    if array.dtype.kind in "iu":
        array = array.astype(np.float64)
    # foreign byte order, as some files hold it, is swapped: compiled loops cannot read it
    dtype = array.dtype.newbyteorder("=")
    if dtype not in _FLOATS:
        raise TypeError(
            f"{name}: expected float32, float64 or integers, got {array.dtype}; "
            f"convert it first, for instance with numpy.asarray({name}, dtype=float)"
        )
    array = np.ascontiguousarray(array, dtype=dtype).reshape(array.shape)
    finite(array, name)
    return array


def finite(array: np.ndarray, name: str) -> None:
    """Raise a ValueError that names the first value of `array` that is NaN or infinite."""
    good = np.isfinite(array)
    if good.all():
        return
    index = tuple(int(i) for i in np.argwhere(~good)[0])
    label = f"{name}[{', '.join(map(str, index))}]" if index else name
    bad = int(good.size - np.count_nonzero(good))
    others = f" (and {bad - 1} more)" if bad > 1 else ""
    raise ValueError(f"{label} is {array[index]}{others}; expected finite numbers only")


def points(x: Any, name: str, squares: bool = True) -> np.ndarray:
    """Return coordinates as a contiguous float array of shape (n, 3); n may be 0.

    Parameters
    ----------
    x : array_like, shape (n, 3)
        Coordinates.
    name : str
        What the messages call it.
    squares : bool
        Whether squares of distances must be numbers of the dtype; callers that scale set it False.

    Raises
    ------
    TypeError, ValueError
        See `real`; ValueError also for another shape, and coordinates whose squares overflow.
    """
    array = real(x, name)
    if array.ndim != 2 or array.shape[1] != 3:
        hint = f"; a single point is {name}[None, :]" if array.shape == (3,) else ""
        raise ValueError(f"{name}: expected shape (n, 3), got {array.shape}{hint}")
    # beyond this the square of a distance overflows
    largest = np.sqrt(np.finfo(array.dtype).max) / 4
    if squares and array.size and np.abs(array).max() > largest:
        raise ValueError(
            f"{name}: the greatest coordinate is {np.abs(array).max():.3g}; beyond {largest:.3g} "
            f"squares of distances overflow in {array.dtype}: use another unit of length"
        )
    return array


def moments(M: Any, n: int | None, name: str = "moments") -> tuple[np.ndarray, int, bool]:
    """Return packed moments with a channel axis, their order, and whether they had that axis.

    Parameters
    ----------
    M : array_like, shape (n, [channels,] n_components(order)), or (n,) for charges alone
        Packed moments.
    n : int or None
        How many sites there must be; None for any number, and then no charges alone: they could
        as well be the components of one site.
    name : str
        What the messages call it.

    Returns
    -------
    array : ndarray, shape (n, channels, n_components(order))
        Contiguous, float32 or float64.
    order : int
        Highest order.
    had_channels : bool
        Whether `M` came with a channel axis.

    Raises
    ------
    TypeError, ValueError
        See `real`; ValueError also for another shape, number of sites or packed length.
    """
    array = real(M, name)
    if array.ndim == 1 and array.shape == (n,):
        return array[:, None, None], 0, False
    if array.ndim not in (2, 3):
        raise ValueError(
            f"{name}: expected shape (n, [channels,] components), got {array.shape}"
            + _hint_of_one_axis(array, n, name)
        )
    if n is not None and array.shape[0] != n:
        raise ValueError(f"{name}: expected {n} sites, one per point, got shape {array.shape}")
    try:
        order = order_of(array.shape[-1])
    except ValueError as error:
        raise ValueError(
            f"{name}: the last axis of shape {array.shape} holds the packed components: {error}"
        ) from None
    had_channels = array.ndim == 3
    return (array if had_channels else array[:, None, :]), order, had_channels


def order(value: Any, name: str = "order", maximum: int | None = None, minimum: int = 0) -> int:
    """Return an order, or another whole number, as a plain int in `minimum` … `maximum`.

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is below `minimum` or above `maximum`.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < minimum or (maximum is not None and value > maximum):
        limits = f">= {minimum}" if maximum is None else f"in {minimum} … {maximum}"
        raise ValueError(f"{name}: expected an integer {limits}, got {value}")
    return int(value)


def check_total_order(source_order: int, order: int) -> None:
    """Raise a ValueError if a source and an output order are together too high for the tables."""
    if source_order + order > MAX_TOTAL_ORDER:
        raise ValueError(
            f"moments of order {source_order} and output of order {order}: their sum may be at "
            f"most {MAX_TOTAL_ORDER}"
        )


def on_device(array: Any) -> bool:
    """Return whether an array lies on a GPU; nothing of it is read."""
    if hasattr(array, "__cuda_ndarray__"):
        return True
    if hasattr(array, "__dlpack_device__"):
        # torch and NumPy have it for arrays of the CPU too; 2 is CUDA's number
        return int(array.__dlpack_device__()[0]) == 2
    try:
        return hasattr(array, "__cuda_array_interface__")
    except RuntimeError:  # the answer of some libraries for arrays that require gradients
        return True


def common_dtype(*arrays: Any) -> np.dtype:
    """Return float32 if every array given is float32, else float64; None is passed over."""
    given = [a for a in arrays if a is not None]
    if given and all(getattr(a, "dtype", None) == np.float32 for a in given):
        return np.dtype(np.float32)
    return np.dtype(np.float64)


def integers(x: Any, name: str) -> np.ndarray:
    """Return a contiguous int64 array, or raise a TypeError if `x` holds no integers."""
    array = _to_numpy(x, name)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.int64)


def batch_index(b: Any, n: int, name: str) -> np.ndarray | None:
    """Return the sorted system index of `n` points as int64, or None if `b` is None.

    Raises
    ------
    TypeError
        If it does not hold integers.
    ValueError
        If the length is not `n`, an index is negative, or they are not ascending.
    """
    if b is None:
        return None
    array = integers(b, name)
    if array.shape != (n,):
        raise ValueError(f"{name}: expected shape ({n},), one index per point, got {array.shape}")
    if n and array.min() < 0:
        i = int(np.argmax(array < 0))
        raise ValueError(f"{name}[{i}] is {array[i]}; expected indices >= 0")
    falls = np.flatnonzero(array[1:] < array[:-1])
    if len(falls):
        i = int(falls[0])
        raise ValueError(
            f"{name}: expected a sorted index, but {name}[{i}] = {array[i]} is followed by "
            f"{array[i + 1]}; sort the points by system first"
        )
    return array


def batches(
    target_batch: Any, source_batch: Any, n_targets: int, n_sources: int
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Return both system indices, or (None, None) if neither is given.

    Raises
    ------
    TypeError, ValueError
        See `batch_index`; ValueError also if just one of the two is given.
    """
    if (target_batch is None) != (source_batch is None):
        given, missing = (
            ("target_batch", "source_batch")
            if source_batch is None
            else ("source_batch", "target_batch")
        )
        raise ValueError(f"{given} is given but {missing} is not; give both or neither")
    targets = batch_index(target_batch, n_targets, "target_batch")
    sources = batch_index(source_batch, n_sources, "source_batch")
    if targets is None or sources is None:
        return None, None
    return targets, sources


def pair_list(pairs: Any, n_targets: int, n_sources: int) -> np.ndarray | None:
    """Return the pair list as int64, shape (n_pairs, 2): target, source; None stays None.

    Raises
    ------
    TypeError
        If it does not hold integers.
    ValueError
        If the shape is not (n_pairs, 2), or an index is out of range.
    """
    if pairs is None:
        return None
    array = _pairs(pairs, "pairs", "(target, source)")
    _in_range(array[:, 0], n_targets, "pairs", 0, "targets")
    _in_range(array[:, 1], n_sources, "pairs", 1, "sources")
    return array


def pair_scale(scale: Any, n: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return scaled pairs (i < j) and their factors; None stays None.

    Parameters
    ----------
    scale : tuple (pairs, factors) or None
        Pairs (P, 2) of different sites, each unordered pair at most once; factors (P,).
    n : int
        Number of sites.

    Returns
    -------
    pairs : ndarray, int64, shape (P, 2)
        Smaller index first.
    factors : ndarray, float64, shape (P,)

    Raises
    ------
    TypeError, ValueError
        If a part has another shape or type, an index is out of range, a site is paired with
        itself, or a pair comes twice.
    """
    if scale is None:
        return None
    if not isinstance(scale, tuple | list) or len(scale) != 2:
        raise TypeError(
            "pair_scale: expected a tuple (pairs of shape (P, 2), factors of shape (P,)), got "
            f"{type(scale).__name__}"
        )
    pairs = _pairs(scale[0], "pair_scale pairs", "(i, j)")
    factors = real(scale[1], "pair_scale factors").astype(np.float64, copy=False)
    if factors.shape != (len(pairs),):
        raise ValueError(
            f"pair_scale: expected one factor per pair, shape ({len(pairs)},), got {factors.shape}"
        )
    for column in (0, 1):
        _in_range(pairs[:, column], n, "pair_scale pairs", column, "sites")
    same = np.flatnonzero(pairs[:, 0] == pairs[:, 1])
    if len(same):
        raise ValueError(
            f"pair_scale pairs[{same[0]}] pairs site {pairs[same[0], 0]} with itself; leave it out"
        )
    pairs = np.sort(pairs, axis=1)
    keys = pairs[:, 0] * n + pairs[:, 1]
    unique, counts = np.unique(keys, return_counts=True)
    if len(unique) < len(keys):
        i, j = divmod(int(unique[np.argmax(counts > 1)]), n)
        raise ValueError(
            f"pair_scale: the pair ({i}, {j}) comes more than once; give each unordered pair once"
        )
    return pairs, factors


def _hint_of_one_axis(array: np.ndarray, n: int | None, name: str) -> str:
    if array.ndim != 1:
        return ""
    charges = "pack(charges=...)" if n is None else f"an array of shape ({n},)"
    return f"; charges alone are {charges}, the components of one site {name}[None, :]"


def _hides_values(x: Any) -> bool:
    """Return whether `x`, or a row of it, is a masked array that masks something."""
    if "numpy.ma" not in sys.modules:  # importing it takes longer than the check is worth
        return False
    if isinstance(x, list | tuple):
        return any(_hides_values(row) for row in x)
    return isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x)


def _to_numpy(x: Any, name: str) -> np.ndarray:
    if _hides_values(x):
        raise ValueError(
            f"{name}: expected numbers only, got a masked array with masked values: leave them "
            "out (compressed) or say what they are (filled)"
        )
    if on_device(x):
        raise TypeError(
            f"{name}: this array lies on a GPU, where this function does not run or its other "
            "arguments are not; nothing is moved silently: copy it to the CPU, or all to the GPU"
        )
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name}: expected a rectangular array of numbers: {error}") from None
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{name}: cannot be read as a NumPy array: {error}") from None


def _pairs(x: Any, name: str, columns: str) -> np.ndarray:
    array = integers(x, name)
    if array.size == 0 and array.ndim == 1:
        array = array.reshape(0, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        hint = "; transpose it" if array.ndim == 2 and array.shape[0] == 2 else ""
        raise ValueError(
            f"{name}: expected shape (n_pairs, 2) with columns {columns}, got {array.shape}{hint}"
        )
    return array


def _in_range(column: np.ndarray, n: int, name: str, place: int, what: str) -> None:
    bad = np.flatnonzero((column < 0) | (column >= n))
    if len(bad):
        row = int(bad[0])
        raise ValueError(
            f"{name}[{row}, {place}] is {column[row]}, but there are {n} {what}: expected an index "
            f"from 0 to {n - 1}"
        )
