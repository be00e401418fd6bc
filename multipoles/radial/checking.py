"""Whether a kernel is what it says: its chain against numerical derivatives."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from multipoles import checks
from multipoles.indexing import MAX_TOTAL_ORDER
from multipoles.radial.base import KINDS, Kernel, kernel_object
from multipoles.radial.coulomb import Coulomb

_DISTANCES = tuple(np.geomspace(0.1, 20.0, 24).tolist())
# step of the numerical derivative, relative to the distance; its error falls with the eighth power
_STEP = 0.004
# central differences of order eight and six, for one to four steps
_EIGHTH = np.array([4 / 5, -1 / 5, 4 / 105, -1 / 280])
_SIXTH = np.array([3 / 4, -3 / 20, 1 / 60, 0])
# relative rounding error that a link may have
_ROUNDING = 1e-12
# relative difference up to which a kernel counts as 1/r
_POINT_LIKE = 1e-9
_MOST_SHOWN = 5
# a relative error, and how to say it
_Comparison = tuple[float, str]


def check_kernel(
    kernel: Kernel,
    r: Any = _DISTANCES,
    links: int = 6,
    f: Callable[[float], Any] | None = None,
    tolerance: float = 1e-6,
) -> float:
    """Compare the chain of a kernel with numerical derivatives, and with what it says of itself.

    Link n + 1 is compared with -1/r times the numerical derivative of link n, link 0 with `f`; from
    `Kernel.coulomb_beyond` on all links are compared with those of 1/r. The function of a user's
    kernel is run in Python too, where it must keep to the numbers that it is given.

    Parameters
    ----------
    kernel : Kernel
        One of ours or of yours.
    r : array_like
        Distances. Within two per cent of a cutoff derivatives cannot be judged.
    links : int
        Last link, 1 … 32.
    f : callable, optional
        The function itself, of one distance; results of mpmath may be returned.
    tolerance : float
        Largest relative error.

    Returns
    -------
    float
        The greatest relative error found, beyond what the numerical derivative is uncertain by.

    Raises
    ------
    TypeError
        If `kernel` is none, or Numba cannot compile it.
    ValueError
        If a link is wrong, or the function of a user's kernel fails; the message tells which, and
        where.
    """
    kernel = kernel_object(kernel)
    links = checks.order(links, "links", maximum=MAX_TOTAL_ORDER, minimum=1)
    distances = checks.real(r, "r").astype(np.float64).ravel()
    if not distances.size or distances.min() <= 0:
        raise ValueError("r: expected distances > 0")
    worst, wrong = 0.0, []
    for error, message in _comparisons(kernel, distances, links, f):
        worst = max(worst, error)
        if not error <= tolerance:
            wrong.append(message)
    if wrong:
        more = f"; and {len(wrong) - _MOST_SHOWN} more" if len(wrong) > _MOST_SHOWN else ""
        raise ValueError(f"{kernel}: {'; '.join(wrong[:_MOST_SHOWN])}{more}")
    return worst


def python_chain(kernel: Kernel, r2: np.ndarray, n_max: int) -> np.ndarray:
    """Return B_0 ... B_n_max of a user's kernel, its function run in Python.

    Parameters
    ----------
    kernel : Kernel
        With `Kernel.is_custom`.
    r2 : ndarray, shape (m,)
        Squares of distances, > 0.
    n_max : int
        Last link.

    Returns
    -------
    ndarray, shape (m, n_max + 1)
    """
    write, unit = KINDS[kernel.code].write_chain, kernel._unit
    function = getattr(write, "py_func", write)
    chain = np.empty((len(r2), n_max + 1))
    for row, square in zip(chain, r2.tolist(), strict=True):
        out = [np.nan] * (n_max + 1)
        try:
            function(square / unit**2, kernel.parameters, n_max, out)
        except IndexError:
            raise ValueError(
                f"{kernel}: with last = {n_max} write_chain reads more than its "
                f"{len(kernel.parameters)} parameters, or writes beyond out[{n_max}]"
            ) from None
        except Exception as error:
            raise ValueError(
                f"{kernel}: write_chain failed at r = {square**0.5:.4g} with last = {n_max}: "
                f"{error!r}"
            ) from error
        row[:] = out
    return chain * unit ** -(2.0 * np.arange(n_max + 1) + 1)


def _comparisons(
    kernel: Kernel, r: np.ndarray, links: int, f: Callable[[float], Any] | None
) -> Iterator[_Comparison]:
    """Yield the relative error of every link at every distance, and how to say it."""
    if kernel.is_custom:
        yield from _of_python(kernel, r, links)
    chain = kernel.chain(r, links)
    if f is not None:
        exact = np.array([float(f(distance)) for distance in r])
        yield from _rows(r, 0, chain[:, 0], exact, 0.0, "f is")
    steps = _STEP * np.concatenate([-np.arange(4, 0, -1), np.arange(1, 5)])
    around = kernel.chain(r[:, None] * (1 + steps), links - 1)
    slopes = (around[:, 4:] - around[:, 3::-1]) / (_STEP * r**2)[:, None, None]
    size = np.abs(around).max(axis=1) * (_ROUNDING / (_STEP * r**2))[:, None]
    for n in range(links):
        slope, coarse = slopes[:, :, n] @ _EIGHTH, slopes[:, :, n] @ _SIXTH
        # where a link jumps, at a cutoff, both are wrong by far more than they differ
        unsure = size[:, n] + 100 * np.abs(slope - coarse)
        what = f"-1/r times the derivative of link {n} is"
        yield from _rows(r, n + 1, chain[:, n + 1], -slope, unsure, what)
    start = kernel.coulomb_beyond(_POINT_LIKE, links)
    if start < np.inf:
        far = start * np.array([1.0, 1.5, 4.0]) if start else r
        bare, chain = Coulomb().chain(far, links), kernel.chain(far, links)
        for n in range(links + 1):
            unsure = 2 * _POINT_LIKE * bare[:, n]
            what = "1/r, which `coulomb_beyond` says it is, has"
            yield from _rows(far, n, chain[:, n], bare[:, n], unsure, what)


def _of_python(kernel: Kernel, r: np.ndarray, links: int) -> Iterator[_Comparison]:
    """Compare the compiled function with the same run in Python, for every last link."""
    longest = kernel.chain(r, links)
    for last in range(links + 1):
        chain = python_chain(kernel, r**2, last)
        for n in range(last + 1):
            what = f"with last = {last} in Python it is"
            yield from _rows(r, n, longest[:, n], chain[:, n], 0.0, what)


def _rows(
    r: np.ndarray, n: int, chain: np.ndarray, wanted: np.ndarray, unsure: Any, what: str
) -> Iterator[_Comparison]:
    """Yield the relative errors of one link, and how to say them."""
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = np.maximum(np.abs(chain - wanted) - unsure, 0.0) / np.abs(wanted)
    errors = np.where((chain == wanted) | (np.abs(chain - wanted) <= unsure), 0.0, errors)
    for i, error in enumerate(errors):
        message = f"at r = {r[i]:.4g} link {n} is {chain[i]:.6g}, but {what} {wanted[i]:.6g}"
        yield float(np.nan_to_num(error, nan=np.inf)), message
